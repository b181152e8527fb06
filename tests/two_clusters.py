"""A platform of two clusters, as far as ``GET /config`` goes; counts how often it is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from neuro_sync.local.state import make_token

SERVICES = ("storage", "users", "monitoring", "secrets", "disks", "buckets")


class TwoClusters(ThreadingHTTPServer):
    """Clusters ``default`` and ``gpu``, orgs ``acme`` and ``other-org``, project ``vision``."""

    token = make_token("alice")
    asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/v1"

    def config(self) -> dict[str, Any]:
        login = {"client_id": "x", "audience": self.url}
        for key in ("auth_url", "token_url", "logout_url", "headless_callback_url"):
            login[key] = self.url
        return login | {
            "authorized": True,
            "admin_url": self.url,
            "vcluster_url": self.url,
            "orgs": [{"name": "acme", "role": "user"}],
            "projects": [
                {
                    "name": "vision",
                    "cluster_name": "default",
                    "org_name": "acme",
                    "role": "writer",
                }
            ],
            "clusters": [
                _cluster("default", "default.example.org"),
                _cluster("gpu", "gpu.example.org:8443"),
            ],
        }


def _cluster(name: str, host: str) -> dict[str, Any]:
    urls = {f"{service}_url": f"https://{host}/api/v1/{service}" for service in SERVICES}
    return urls | {
        "name": name,
        "orgs": ["acme", "other-org"],
        "registry_url": f"https://registry.{host}",
        "resource_pool_types": [],
        "resource_presets": [],
    }


class _Config(BaseHTTPRequestHandler):
    server: TwoClusters

    def do_GET(self) -> None:
        self.server.asked += 1
        body = json.dumps(self.server.config()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


@contextmanager
def two_clusters(kind: type[TwoClusters] = TwoClusters) -> Iterator[TwoClusters]:
    with kind(("127.0.0.1", 0), _Config) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
