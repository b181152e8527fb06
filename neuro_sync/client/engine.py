"""The container engine on this machine: it carries images to the platform's registry and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests

from neuro_sync.closing import Closing
from neuro_sync.errors import (
    AuthorizationError,
    ConfigError,
    EngineFailed,
    NeuroError,
    ResourceNotFound,
)
from neuro_sync.models.images import LATEST, ImageProgressStep, LocalImage, RemoteImage

try:
    import docker

    from neuro_sync.engine import connect, find_endpoint
except ImportError as error:
    raise ConfigError(
        f"pushing and pulling images takes {error.name}: pip install 'neuro-sync[docker]'"
    ) from error

SILENCE = 20 * 60
"""Seconds without a word from the engine after which a push or a pull is given up."""


class Engine(Closing):
    """The engine that the ``docker`` command would use here, and a login to one registry."""

    def __init__(self, registry: str, token: str) -> None:
        """Connect with the engine.

        Raises:
            ConfigError: There is none, or it does not answer.
        """
        self._login = {"username": "token", "password": token, "serveraddress": registry}
        self._api = connect(find_endpoint(), timeout=SILENCE)

    def push(self, source: LocalImage, target: RemoteImage) -> Iterator[ImageProgressStep]:
        """Yield what happens to the layers, until all of them are in the registry."""
        name, tag = _reference(target)
        with self._named(name, tag), _told(source):
            self._api.tag(str(source), name, tag)
            events = self._api.push(
                name, tag=tag, stream=True, decode=True, auth_config=self._login
            )
            yield from _steps(events, target)

    def pull(self, source: RemoteImage, target: LocalImage) -> Iterator[ImageProgressStep]:
        """Yield what happens to the layers, until all of them are here."""
        name, tag = _reference(source)
        with self._named(name, tag), _told(source):
            events = self._api.pull(
                name, tag=tag, stream=True, decode=True, auth_config=self._login
            )
            yield from _steps(events, source)
            self._api.tag(f"{name}:{tag}", target.name, target.tag or LATEST)

    @contextmanager
    def _named(self, name: str, tag: str) -> Iterator[None]:
        """Let a name be given to an image for the while; one that was there before stays."""
        reference = f"{name}:{tag}"
        was_there = any(reference in (image["RepoTags"] or ()) for image in self._api.images(name))
        try:
            yield
        finally:
            if not was_there:
                with suppress(docker.errors.DockerException, requests.RequestException):
                    self._api.remove_image(reference, noprune=True)

    def close(self) -> None:
        self._api.close()


def _reference(image: RemoteImage) -> tuple[str, str]:
    """Return the Docker reference of an image, its name and its tag apart."""
    return image.model_copy(update={"tag": None}).as_docker_url(), image.tag or LATEST


def _steps(events: Iterable[dict[str, Any]], image: RemoteImage) -> Iterator[ImageProgressStep]:
    for event in events:
        if "error" in event:
            detail = event.get("errorDetail") or {}
            raise _refusal(str(detail.get("message") or event["error"]), image)
        step = read_step(event, image.tag or LATEST)
        if step is not None:
            yield step


def read_step(event: dict[str, Any], tag: str) -> ImageProgressStep | None:
    """Read one of the engine's messages about a push or a pull; None if it is of no layer."""
    layer, status = str(event.get("id") or ""), str(event.get("status") or "")
    if not layer or layer == tag:  # the latter is a headline
        return None
    detail = event.get("progressDetail") or {}
    words = (f"{layer}: {status}", str(event.get("progress") or ""))
    return ImageProgressStep(
        message=" ".join(filter(None, words)),
        layer_id=layer,
        status=status,
        current=detail.get("current"),
        total=detail.get("total"),
    )


@contextmanager
def _told(image: LocalImage | RemoteImage) -> Iterator[None]:
    """Raise the engine's refusals as errors of ours."""
    try:
        yield
    except docker.errors.APIError as error:
        text = error.explanation or str(error)
        raise _refusal(text, image, error.status_code or 500) from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise EngineFailed(f"the container engine broke off: {error}") from error


def _refusal(text: str, image: LocalImage | RemoteImage, status: int = 500) -> NeuroError:
    """Tell a refusal of the registry, which the engine has in its own words, from others."""
    words = text.lower()
    if status == 403 or "403" in words or "denied" in words or "unauthorized" in words:
        return AuthorizationError(f"{image} may not be used so: {text}")
    if status == 404 or "not found" in words or "unknown" in words:
        where = "the container engine here" if isinstance(image, LocalImage) else "the registry"
        return ResourceNotFound(f"{where} has no image {str(image)!r}: {text}")
    return EngineFailed(f"the container engine failed with {str(image)!r}: {text}")
