"""Docker images, as jobs name them."""

from __future__ import annotations

import re
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializationInfo,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Self

from .base import ANSWER, WIRE, Model, Text

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue

LATEST = "latest"
LONGEST_TAG = 128

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\]"
_REGISTRY = re.compile(rf"(?:{_HOST})(?::[0-9]+)?")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class TagOption(Enum):
    """What becomes of the tag when the text of a platform's image is read."""

    ALLOW = 1
    """It is kept; none stays none."""
    DENY = 2
    """One is refused: the whole repository is meant."""
    DEFAULT = 3
    """It is kept; none means ``latest``."""


class LocalImage(Model):
    """A Docker image of the engine on this machine."""

    name: str
    tag: str | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}" if self.tag else self.name


class RemoteImage(Model):
    """A Docker image: of the platform's own registry, or of any other."""

    name: str
    """The repository; of an image that is not the platform's, with its registry's host."""
    tag: str | None = None
    registry: str | None = None
    """The host and port of the platform's registry; mostly ``None`` for any other image."""
    cluster_name: str | None = None
    org_name: str | None = None
    project_name: str | None = None

    @model_validator(mode="after")
    def _whole_or_external(self) -> Self:
        owners = (self.cluster_name, self.project_name)
        if any(owners) and not (all(owners) and self.registry):
            raise ValueError(
                f"the image {self.name!r} of a platform takes a registry, a cluster_name and a "
                "project_name; any other image takes neither of the last two"
            )
        return self

    @classmethod
    def new_external_image(
        cls, name: str, registry: str | None = None, *, tag: str | None = None
    ) -> Self:
        """Name an image that any Docker engine can pull, such as ``ubuntu``."""
        return cls(name=name, tag=tag, registry=registry)

    @classmethod
    def new_platform_image(
        cls,
        name: str,
        registry: str,
        *,
        cluster_name: str,
        org_name: str | None,
        project_name: str,
        tag: str | None = None,
    ) -> Self:
        """Name an image of a platform; `registry` is the host and port of its registry."""
        return cls(
            name=name,
            tag=tag,
            registry=registry,
            cluster_name=cluster_name,
            org_name=org_name,
            project_name=project_name,
        )

    @classmethod
    def from_reference(cls, reference: str) -> Self:
        """Read a Docker reference; without tag and digest it means ``latest``.

        Raises:
            ValueError: The text is no reference.
        """
        if not reference.strip() or any(character.isspace() for character in reference):
            raise ValueError(f"blank value is not allowed for an image: {reference!r}")
        if reference.startswith("image:"):
            raise ValueError(
                f"{reference!r} is an address on the platform, which only a session can complete; "
                f"give session.parse.remote_image({reference!r})"
            )
        if reference.startswith("-"):
            raise ValueError(f"an image cannot begin with a dash, which {reference!r} does")
        try:
            name, at, digest = reference.partition("@")
            if at and not _DIGEST.fullmatch(digest):
                raise ValueError(f"invalid digest {digest!r}; write NAME@sha256:HEX")
            name, tag = split_tag(name)
            check_name(split_registry(name)[1])
        except ValueError as error:
            raise ValueError(f"{reference!r} is no image: {error}") from error
        # A digest is as exact as an image can be named.
        return cls(name=reference) if at else cls(name=name, tag=tag or LATEST)

    def as_docker_url(self) -> str:
        """Return the reference by which a Docker engine pulls it."""
        owners = (self.registry, self.org_name, self.project_name) if self.registry else ()
        path = "/".join(part for part in (*owners, self.name) if part)
        return f"{path}:{self.tag}" if self.tag else path

    def __str__(self) -> str:
        if not self.cluster_name:
            return self.as_docker_url()
        owners = (self.cluster_name, self.org_name, self.project_name)
        path = "/".join(part for part in (*owners, self.name) if part)
        return f"image://{path}:{self.tag}" if self.tag else f"image://{path}"


class Tag(Model):
    """A tag of one of the platform's images."""

    name: str
    size: int | None = None
    """Bytes of its layers, as they are stored; ``None`` where the platform does not tell."""


class ImageProgressPush(Model):
    """A push begins."""

    src: LocalImage
    dst: RemoteImage


class ImageProgressPull(Model):
    """A pull begins."""

    src: RemoteImage
    dst: LocalImage


class ImageProgressStep(Model):
    """What happens to one layer."""

    message: str
    """For people: the layer, its status, and a bar where there is one."""
    layer_id: str
    status: str
    """In the engine's words, such as ``Pushing`` or ``Download complete``."""
    current: float | None = None
    """Bytes done; ``None`` where the engine does not tell."""
    total: float | None = None


class ImageProgressSave(Model):
    """A running job begins to become an image."""

    job: str
    """Its id."""
    dst: RemoteImage


class ImageCommitStarted(Model):
    """The platform begins to copy what the job has changed; that may take minutes."""

    job_id: str
    target_image: RemoteImage


class ImageCommitFinished(Model):
    """The image is there, and is pushed next."""

    job_id: str


class AbstractDockerImageProgress:
    """Is told how a push, a pull or the saving of a job goes; override what you want to hear."""

    def push(self, data: ImageProgressPush) -> None:
        """A push begins."""

    def pull(self, data: ImageProgressPull) -> None:
        """A pull begins."""

    def step(self, data: ImageProgressStep) -> None:
        """Something happened to a layer."""

    def save(self, data: ImageProgressSave) -> None:
        """A job begins to be saved."""

    def commit_started(self, data: ImageCommitStarted) -> None:
        """Its image begins to be made."""

    def commit_finished(self, data: ImageCommitFinished) -> None:
        """Its image was made; what follows is a push."""


class LayerAmount(Model):
    """How much of a layer is done, in bytes."""

    current: float | None = None
    total: float | None = None


class Failure(Model):
    """Why an engine gave up."""

    message: Text = ""


class ImageEvent(Model):
    """What an engine says of an image under way; a platform that saves a job passes it on."""

    status: Text = ""
    layer_id: Annotated[Text, Field(alias="id")] = ""
    progress: Text = ""
    amount: Annotated[LayerAmount | None, Field(alias="progressDetail")] = None
    error: Text = ""
    detail: Annotated[Failure | None, Field(alias="errorDetail")] = None

    @property
    def failure(self) -> str:
        """Why it was given up; empty as long as it goes on."""
        return (self.detail and self.detail.message) or self.error

    def step(self, tag: str) -> ImageProgressStep | None:
        """Return what happened to a layer of the image with a tag; None if it is about none."""
        if self.layer_id in ("", tag):  # the latter is a headline
            return None
        return ImageProgressStep(
            message=f"{self.layer_id}: {self.status} {self.progress}".rstrip(),
            layer_id=self.layer_id,
            status=self.status,
            current=self.amount and self.amount.current,
            total=self.amount and self.amount.total,
        )


class Catalog(Model):
    """The repositories of a registry, or a page of them."""

    repositories: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.repositories or ()


class TagList(Model):
    """The tags of a repository, or a page of them."""

    tags: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.tags or ()


class Layer(Model):
    """A layer of an image, as a manifest lists it."""

    size: int


class Platform(Model):
    """The machine that an image is for."""

    os: str = ""
    architecture: str = ""


class ManifestReference(Model):
    """A manifest in a list of manifests."""

    digest: str
    platform: Platform = Field(default_factory=Platform)


class Manifest(Model):
    """What an image consists of: its layers, or the images for several kinds of machine."""

    layers: tuple[Layer, ...] | None = None
    manifests: tuple[ManifestReference, ...] = ()

    def for_machine(self) -> ManifestReference | None:
        """Return the image for the machines of a platform, which are Linux on amd64."""
        usable = [one for one in self.manifests if one.platform.os != "unknown"]
        for one in usable:
            if one.platform.os == "linux" and one.platform.architecture == "amd64":
                return one
        return usable[0] if usable else None


MANIFEST_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)
"""A registry answers 404 for a manifest of a kind that was not asked for."""


def split_tag(text: str) -> tuple[str, str | None]:
    """Split an image's name from its tag; the colon before a registry's port is none of a tag.

    Raises:
        ValueError: One of them is empty, or the tag is not as Docker has them.
    """
    name, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        name, colon, tag = text, "", ""
    if not name or (colon and not tag):
        raise ValueError("the name or the tag is empty; write NAME or NAME:TAG")
    if len(tag) > LONGEST_TAG:
        raise ValueError(f"the tag has {len(tag)} characters; at most {LONGEST_TAG} are allowed")
    if tag and not _TAG.fullmatch(tag):
        raise ValueError(
            f"invalid tag {tag!r}; a tag is letters, digits, underscores, periods and dashes, "
            "neither a period nor a dash first"
        )
    return name, tag or None


def split_registry(name: str) -> tuple[str | None, str]:
    """Split a registry's host from the name of an image, by Docker's rule for telling them."""
    host, slash, path = name.partition("/")
    looks_so = "." in host or ":" in host or host == "localhost"
    if slash and looks_so and _REGISTRY.fullmatch(host):
        return host, path
    return None, name


def check_name(name: str) -> None:
    """Hold a name, without its registry, against Docker's rule.

    Raises:
        ValueError: It is not as Docker has them.
    """
    if "@" in name:
        raise ValueError("a digest is not allowed here; name the image by a tag")
    if ":" in name:
        raise ValueError(f"a colon within the name {name!r}; write NAME or NAME:TAG")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"invalid name {name!r}; its parts, between slashes, are lower-case letters and "
            "digits, with a period, one or two underscores or any number of dashes between them"
        )


@lru_cache(maxsize=1024)
def _read_reference(reference: str) -> RemoteImage:
    """Read a reference once: thousands of jobs share a handful of images."""
    return RemoteImage.from_reference(reference)


class _Reference:
    """A `RemoteImage` in Python, a Docker reference on the wire.

    Elsewhere an image is written as a reference only if that tells all of it.
    """

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                self._write, info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "examples": ["ubuntu:latest"]}

    @staticmethod
    def _read(value: object, info: ValidationInfo) -> RemoteImage:
        if isinstance(value, RemoteImage):
            if info.context is not ANSWER:
                _read_reference(value.as_docker_url())
            return value
        if isinstance(value, dict) and info.context is not WIRE:
            return RemoteImage.model_validate(value)
        if not isinstance(value, str):
            raise ValueError("an image is text such as 'ubuntu:latest'")
        try:
            return _read_reference(value)
        except ValueError:
            if info.context is ANSWER:
                return RemoteImage(name="INVALID-IMAGE-NAME")
            raise

    @staticmethod
    def _write(image: RemoteImage, info: SerializationInfo) -> str | dict[str, str | None]:
        reference = image.as_docker_url()
        with suppress(ValueError):
            if info.context is WIRE or _read_reference(reference) == image:
                return reference
        return image.model_dump(exclude_none=True)


ImageReference = Annotated[RemoteImage, _Reference()]
