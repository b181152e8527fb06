"""A platform that answers by a script, byte for byte as a real service or a proxy may."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from neuro_sync.local.state import make_token

SERVICES = ("storage", "users", "monitoring", "secrets", "disks", "buckets")


JOB_ID = "job-00000000-0000-0000-0000-000000000000"


class Request(NamedTuple):
    """A request as it came."""

    method: str
    target: str
    """Path and query."""
    headers: Mapping[str, str]
    """By lower-case names."""


class Cut(bytes):
    """An answer after which the connection is closed, whatever it says."""


class Dripped(bytes):
    """An answer that comes byte by byte."""


DRIP_INTERVAL_S = 0.05

Reply = bytes | Callable[[Request], bytes]


def answer(
    body: bytes | object = b"", status: str = "200 OK", *headers: str, length: bool = True
) -> bytes:
    """Return an answer; what is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sized = (f"Content-Length: {len(content)}",) if length else ()
    lines = [f"HTTP/1.1 {status}", *headers, *sized, "", ""]
    return "\r\n".join(lines).encode() + content


def job(status: str = "running") -> dict[str, object]:
    """Describe a job as a platform does."""
    history = {"status": status, "created_at": "2026-01-01T00:00:00+00:00"}
    if status == "failed":
        history["finished_at"] = "2026-01-01T00:00:01+00:00"
    return {
        "id": JOB_ID,
        "owner": "alice",
        "cluster_name": "default",
        "status": status,
        "history": history,
        "container": {"image": "ubuntu", "resources": {"cpu": 1, "memory": 2**20}},
    }


class ScriptedPlatform(socketserver.ThreadingTCPServer):
    """Answers requests by the longest key of `script` that their method and target begin with.

    A connection is closed after an answer that has no length, is not chunked, or says so.
    """

    daemon_threads = True
    allow_reuse_address = True
    token = make_token("alice")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/api/v1"
        self.script: dict[str, Reply] = {"": answer(b"", "404 Not Found")}
        self.requests: list[Request] = []
        self.script["GET /api/v1/config"] = answer(self.config())

    def config(self) -> dict[str, object]:
        """Return a description of a platform whose services are all here."""
        cluster: dict[str, object] = {f"{name}_url": f"{self.url}/{name}" for name in SERVICES}
        cluster |= {"name": "default", "orgs": ["acme"], "registry_url": self.url[:-7]}
        cluster["resource_presets"] = [{"name": "cpu-small", "cpu": 1.0, "memory": 2**30}]
        project = {"name": "vision", "cluster_name": "default", "org_name": "acme"}
        return {"authorized": True, "clusters": [cluster], "projects": [project]}

    def reply(self, request: Request) -> bytes:
        self.requests.append(request)
        asked = f"{request.method} {request.target}"
        reply = self.script[max((key for key in self.script if asked.startswith(key)), key=len)]
        return reply if isinstance(reply, bytes) else reply(request)


class _Connection(socketserver.StreamRequestHandler):
    server: ScriptedPlatform

    def handle(self) -> None:
        with suppress(OSError):
            while line := self.rfile.readline():
                method, target, _ = line.decode("latin-1").split(" ")
                headers: dict[str, str] = {}
                while pair := self.rfile.readline().decode("latin-1").strip():
                    name, _, value = pair.partition(":")
                    headers[name.lower()] = value.strip()
                self.rfile.read(int(headers.get("content-length", 0)))
                reply = self.server.reply(Request(method, target, headers))
                if isinstance(reply, Dripped):
                    for byte in reply:
                        self.wfile.write(bytes([byte]))
                        time.sleep(DRIP_INTERVAL_S)
                else:
                    self.wfile.write(reply)
                head = reply.partition(b"\r\n\r\n")[0].lower()
                is_delimited = b"content-length:" in head or b"chunked" in head
                if not is_delimited or b"close" in head or isinstance(reply, Cut):
                    return


@contextmanager
def scripted_platform() -> Iterator[ScriptedPlatform]:
    """Run a platform whose script the test fills in."""
    with ScriptedPlatform() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
