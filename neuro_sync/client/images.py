"""Images: those in the platform's registry, and their way to and from the engine here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import parse_header_links

from neuro_sync.errors import ProtocolError, ResourceNotFound
from neuro_sync.models.images import (
    LATEST,
    MANIFEST_TYPES,
    AbstractDockerImageProgress,
    Catalog,
    ImageProgressPull,
    ImageProgressPush,
    LocalImage,
    Manifest,
    RemoteImage,
    Tag,
    TagList,
)
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry

from .config import Config, Section
from .parse import Parser

if TYPE_CHECKING:
    from .engine import Engine

PAGE = 1000
"""Repositories or tags asked for at once."""
MAX_PAGES = 1000
"""Pages of a list that are read at most."""
MAX_BARREN_PAGES = 100
"""Pages in a row with no new name; a registry may filter what it lists after it has cut pages."""


class Images(Section):
    """The images section of a session, ``session.images``.

    Where an image of the platform is asked for, its address is enough: ``image:name:tag``.
    """

    def __init__(self, transport: HttpTransport, config: Config) -> None:
        self._transport = transport
        self._config = config
        self._parse = Parser(config)

    def tags(self, image: RemoteImage | str) -> list[RemoteImage]:
        """Return an image once for each of its tags, in the registry's order.

        Raises:
            ResourceNotFound: There is no such image.

        Endpoint: GET {registry}/v2/{repository}/tags/list
        """
        remote = self._parse.platform_image(image)
        path = f"{_repository(remote)}/tags/list"
        image = remote.model_copy(update={"tag": None})
        tags = self._names(remote.cluster_name, path, TagList, image)
        return [remote.model_copy(update={"tag": tag}) for tag in tags]

    def tag_info(self, remote: RemoteImage | str) -> Tag:
        """Return a tag with the size of its image; raises as `size` does."""
        image = self._parse.platform_image(remote)
        return Tag(name=image.tag or LATEST, size=self.size(image))

    def size(self, remote: RemoteImage | str) -> int:
        """Return how many bytes the layers of an image have, as they are stored.

        Of an image for several kinds of machine, the one for Linux on amd64 is meant, or the
        first one.

        Raises:
            ResourceNotFound: There is no such image or tag.
        """
        image = self._parse.platform_image(remote)
        manifest = self._manifest(image, image.tag or LATEST)
        if manifest.layers is None:
            chosen = manifest.for_machine()
            if chosen is None:
                raise ProtocolError(f"{image} consists of no layers and of no other images")
            manifest = self._manifest(image, chosen.digest)
        return sum(layer.size for layer in manifest.layers or ())

    def digest(self, remote: RemoteImage | str) -> str:
        """Return the digest of an image, ``sha256:...``, which names exactly it for ever.

        Raises:
            ResourceNotFound: There is no such image or tag.

        Endpoint: HEAD {registry}/v2/{repository}/manifests/{tag}
        """
        image = self._parse.platform_image(remote)
        path = f"{_repository(image)}/manifests/{image.tag or LATEST}"
        answer = self._ask("HEAD", self._url(image.cluster_name, path), image)
        digest = answer.headers.get("Docker-Content-Digest")
        if not digest:
            raise ProtocolError(f"the registry tells no digest of {image}")
        return digest

    def rm(self, remote: RemoteImage | str, digest: str | None = None) -> None:
        """Remove an image, and with it each tag that it has, not only the one given.

        `digest` is that of `digest(remote)`, unless it is given.

        Raises:
            ResourceNotFound: There is no such image.

        Endpoint: DELETE {registry}/v2/{repository}/manifests/{digest}
        """
        image = self._parse.platform_image(remote)
        path = f"{_repository(image)}/manifests/{digest or self.digest(image)}"
        self._ask("DELETE", self._url(image.cluster_name, path), image, retry=Retry.REMOVAL)

    def push(
        self,
        local: LocalImage | str,
        remote: RemoteImage | str | None = None,
        *,
        progress: AbstractDockerImageProgress | None = None,
    ) -> RemoteImage:
        """Copy an image of the engine on this machine to the platform, and return its new name.

        Without `remote` name and tag stay as they are, in the current project.

        Raises:
            ResourceNotFound: The engine has no such image.
            AuthorizationError: The image may not be written.
            EngineFailed: The engine could not do it.
            ConfigError: There is no engine; the text lists where it was looked for.
        """
        source = self._local(local)
        target = self._parse.platform_image(remote or f"image:{source}")
        progress = progress or AbstractDockerImageProgress()
        with self._engine(target) as engine:
            progress.push(ImageProgressPush(src=source, dst=target))
            for step in engine.push(source, target):
                progress.step(step)
        return target

    def pull(
        self,
        remote: RemoteImage | str,
        local: LocalImage | str | None = None,
        *,
        progress: AbstractDockerImageProgress | None = None,
    ) -> LocalImage:
        """Copy an image of the platform to the engine on this machine, and return its new name.

        Without `local` it is the same name and tag, without the registry and the project.

        Raises:
            ResourceNotFound: There is no such image.
            AuthorizationError: The image may not be read.
            EngineFailed: The engine could not do it.
            ConfigError: There is no engine; the text lists where it was looked for.
        """
        source = self._parse.platform_image(remote)
        target = self._local(local or f"{source.name}:{source.tag or LATEST}")
        progress = progress or AbstractDockerImageProgress()
        with self._engine(source) as engine:
            progress.pull(ImageProgressPull(src=source, dst=target))
            for step in engine.pull(source, target):
                progress.step(step)
        return target

    def _engine(self, image: RemoteImage) -> Engine:
        from .engine import Engine  # with the engine's own SDK, which few sessions need

        registry = self._config.cluster(image.cluster_name).registry_url
        self._transport.current_address(registry)  # raises for one that is not encrypted
        return Engine(str(image.registry), self._transport.tokens.token())

    def _local(self, image: LocalImage | str) -> LocalImage:
        return self._parse.local_image(image) if isinstance(image, str) else image

    def _manifest(self, image: RemoteImage, reference: str) -> Manifest:
        path = f"{_repository(image)}/manifests/{reference}"
        answer = self._ask("GET", self._url(image.cluster_name, path), image)
        return Manifest.from_answer(answer.content)

    def _url(self, cluster_name: str | None, path: str) -> str:
        registry = urlsplit(self._config.cluster(cluster_name).registry_url)
        return f"{registry.scheme}://{registry.netloc}/v2/{path}"

    def _names(
        self,
        cluster_name: str | None,
        path: str,
        kind: type[Catalog | TagList],
        image: RemoteImage | None = None,
    ) -> Iterable[str]:
        """Return the names of a list, each once, page by page as the registry links them.

        Raises:
            ProtocolError: The list leads to another host, or has no end.
        """
        url = first = f"{self._url(cluster_name, path)}?n={PAGE}"
        names: dict[str, None] = {}
        seen = {first}
        barren = 0
        while True:
            answer = self._ask("GET", url, image)
            before = len(names)
            names.update(dict.fromkeys(kind.from_answer(answer.content).names))
            barren = 0 if len(names) > before else barren + 1
            links = parse_header_links(answer.headers.get("Link", ""))
            following = next((link["url"] for link in links if link.get("rel") == "next"), None)
            if not following:
                return names
            try:
                url = urljoin(url, following)
                is_here = urlsplit(url)[:2] == urlsplit(first)[:2]
            except ValueError as error:
                text = f"the registry continues a list at no address: {following!r}"
                raise ProtocolError(text) from error
            if not is_here:
                # The token would go there.
                raise ProtocolError(f"the registry continues a list on another host: {url}")
            if url in seen:
                raise ProtocolError(f"the registry continues a list with what was read: {url}")
            seen.add(url)
            if barren == MAX_BARREN_PAGES or len(seen) > MAX_PAGES:
                what = f"{barren} pages without a new name" if barren else f"{MAX_PAGES} pages"
                raise ProtocolError(f"the registry continues a list after {what}: {url}")

    def _ask(
        self,
        method: str,
        url: str,
        image: RemoteImage | None,
        *,
        retry: Retry = Retry.ALWAYS,
    ) -> requests.Response:
        """Ask the registry; what it says of an image that it has not does not name it."""
        try:
            return self._transport.request(
                method,
                url,
                retry=retry,
                accept=", ".join(MANIFEST_TYPES),
                login=self._config.username,
            )
        except ResourceNotFound as error:
            if image is None:
                raise
            raise ResourceNotFound(
                f"there is no {image}, or it is not yours to see",
                method=error.method,
                path=error.path,
                request_id=error.request_id,
                payload=error.payload,
            ) from error

    def list(self, cluster_name: str | None = None) -> list[RemoteImage]:
        """Return the images of the platform that the caller may see, without their tags.

        Endpoint: GET {registry}/v2/_catalog
        """
        cluster = self._config.cluster(cluster_name)
        names = self._names(cluster.name, "_catalog", Catalog)
        found = (self._parse.own_image(f"{cluster.registry}/{name}") for name in names)
        return [image for image in found if image is not None]


def _repository(image: RemoteImage) -> str:
    return "/".join(part for part in (image.org_name, image.project_name, image.name) if part)
