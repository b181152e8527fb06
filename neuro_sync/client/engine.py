"""The container engine on this machine: it carries images to the platform's registry and back."""

from __future__ import annotations

import re
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
from neuro_sync.models.images import LATEST, ImageEvent, ImageProgressStep, LocalImage, RemoteImage
from neuro_sync.secret_text import SecretText, drop_frames

try:
    import docker

    from neuro_sync.engine import connect, find_endpoint
except ImportError as _error:
    raise ConfigError(
        f"pushing and pulling images takes {_error.name}: pip install 'neuro-sync[docker]'"
    ) from _error

SILENCE = 20 * 60
"""Seconds without a word from the engine after which a push or a pull is given up."""

DENIED = re.compile(r"\b403\b|(?<!permission )\bdenied\b|\bunauthorized\b", re.IGNORECASE)
MISSING = re.compile(
    r"not found|no such image|not known to registry|\b(manifest|name) unknown", re.IGNORECASE
)
"""What engines say of a registry that refuses an image, and of one that has not got it."""


class Engine(Closing):
    """The engine that the ``docker`` command would use here, and a login to one registry."""

    def __init__(self, registry: str, token: SecretText) -> None:
        """Connect with the engine.

        Raises:
            ConfigError: There is none, or it does not answer.
        """
        self._api = connect(find_endpoint(), timeout=SILENCE)
        self._login = {
            "username": "token",
            "password": token.reveal(),
            "serveraddress": registry,
        }

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
        told = ImageEvent.model_validate(event, extra="ignore")
        if told.failure:
            raise _refusal(told.failure, image)
        step = told.step(image.tag or LATEST)
        if step is not None:
            yield step


@contextmanager
def _told(image: LocalImage | RemoteImage) -> Iterator[None]:
    """Raise the engine's refusals as errors of ours."""
    try:
        yield
    except docker.errors.APIError as error:
        drop_frames(error)
        text = error.explanation or str(error)
        raise _refusal(text, image, error.status_code or 500) from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        drop_frames(error)
        raise EngineFailed(f"the container engine broke off: {error}") from error


def _refusal(text: str, image: LocalImage | RemoteImage, status: int = 500) -> NeuroError:
    """Tell a refusal of the registry, which the engine has in its own words, from others."""
    if status == 403 or DENIED.search(text):
        return AuthorizationError(f"{image} may not be used so: {text}")
    if status == 404 or MISSING.search(text):
        where = "the container engine here" if isinstance(image, LocalImage) else "the registry"
        return ResourceNotFound(f"{where} has no image {str(image)!r}: {text}")
    return EngineFailed(f"the container engine failed with {str(image)!r}: {text}")
