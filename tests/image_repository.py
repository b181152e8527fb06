"""Images in a platform's registry, put there by hand over its HTTP API: no engine takes part."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from neuro_sync.local.server import LocalPlatform
from neuro_sync.transport.tokens import user_of

DOCKER = "application/vnd.docker."
OCI = "application/vnd.oci.image."
CONFIG = f"{DOCKER}container.image.v1+json"
IMAGE_TYPES = (f"{DOCKER}distribution.manifest.v2+json", f"{OCI}manifest.v1+json")
INDEX_TYPES = (f"{DOCKER}distribution.manifest.list.v2+json", f"{OCI}index.v1+json")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Repository:
    """One repository, as one user sees it."""

    platform: LocalPlatform
    name: str
    """Within the user's own project, unless it begins with a slash: ``/ORG/PROJECT/NAME``."""
    token: str = ""

    def __post_init__(self) -> None:
        self.token = self.token or self.platform.token
        if not self.name.startswith("/"):
            self.name = f"/local/{user_of(self.token)}/{self.name}"
        parts = urlsplit(self.platform.url)
        self.url = f"{parts.scheme}://{parts.netloc}/v2{self.name}"

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        url = path if path.startswith("http") else f"{self.url}/{path}"
        return requests.request(method, url, auth=("anybody", self.token), timeout=30, **options)

    def put_blob(self, data: bytes) -> dict[str, Any]:
        """Upload some bytes in the two steps that engines take, and return what names them."""
        begun = self.ask("POST", "blobs/uploads/")
        assert begun.status_code == 202, begun.text
        sent = self.ask("PATCH", urljoin(self.url, begun.headers["Location"]), data=iter([data]))
        assert sent.status_code == 202, sent.text
        url = urljoin(self.url, sent.headers["Location"])
        done = self.ask("PUT", f"{url}&digest={digest_of(data)}")
        assert done.status_code == 201, done.text
        return {"digest": digest_of(data), "size": len(data)}

    def put_image(self, tag: str, *layers: bytes, kind: str = IMAGE_TYPES[0]) -> str:
        """Put an image of these layers under a tag, and return its digest."""
        if kind.startswith(DOCKER):
            config_type, layer_type = CONFIG, f"{DOCKER}image.rootfs.diff.tar.gzip"
        else:
            config_type, layer_type = f"{OCI}config.v1+json", f"{OCI}layer.v1.tar+gzip"
        config = {"mediaType": config_type, **self.put_blob(b"{}")}
        described = [{"mediaType": layer_type, **self.put_blob(layer)} for layer in layers]
        return self.put_manifest(tag, kind, config=config, layers=described)

    def put_index(self, tag: str, kind: str, *entries: dict[str, Any]) -> str:
        """Put a list of images under a tag, and return its digest."""
        return self.put_manifest(tag, kind, manifests=list(entries))

    def entry(self, digest: str, kind: str, os: str, architecture: str) -> dict[str, Any]:
        """Return what a list says of an image that is there."""
        size = int(
            self.ask("HEAD", f"manifests/{digest}", headers={"Accept": kind}).headers[
                "Content-Length"
            ]
        )
        return {
            "mediaType": kind,
            "digest": digest,
            "size": size,
            "platform": {"os": os, "architecture": architecture},
        }

    def put_manifest(self, tag: str, kind: str, **content: Any) -> str:
        data = json.dumps({"schemaVersion": 2, "mediaType": kind, **content}).encode()
        answer = self.ask("PUT", f"manifests/{tag}", data=data, headers={"Content-Type": kind})
        assert answer.status_code == 201, answer.text
        assert answer.headers["Docker-Content-Digest"] == digest_of(data)
        return digest_of(data)
