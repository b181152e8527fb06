"""Docker images, as jobs name them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Self

from .base import ANSWER, Model

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue


class RemoteImage(Model):
    """A Docker image: of the platform's own registry, or of any other."""

    name: str
    """The repository; of an image that is not the platform's, with its registry's host."""
    tag: str | None = None
    registry: str | None = None
    """The host and port of the platform's registry; ``None`` for any other image."""
    cluster_name: str | None = None
    org_name: str | None = None
    project_name: str | None = None

    @classmethod
    def new_external_image(cls, name: str, *, tag: str | None = None) -> Self:
        """Name an image that any Docker engine can pull, such as ``ubuntu``."""
        return cls(name=name, tag=tag)

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
                f"{reference!r} is an address on the platform; give its Docker reference, "
                "REGISTRY/ORG/PROJECT/NAME:TAG"
            )
        if "@" in reference:  # a digest is as exact as an image can be named
            return cls(name=reference)
        head, slash, last = reference.rpartition("/")
        name, colon, tag = last.partition(":")
        if not name or (colon and not tag) or ":" in tag:
            raise ValueError(f"{reference!r} is no image; write NAME or NAME:TAG")
        return cls(name=head + slash + name, tag=tag or "latest")

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


@lru_cache(maxsize=1024)
def _read_reference(reference: str) -> RemoteImage:
    """Read a reference once: thousands of jobs share a handful of images."""
    return RemoteImage.from_reference(reference)


class _Reference:
    """A `RemoteImage` in Python, a Docker reference on the wire."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                RemoteImage.as_docker_url, return_schema=core_schema.str_schema()
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "examples": ["ubuntu:latest"]}

    @staticmethod
    def _read(value: object, info: ValidationInfo) -> RemoteImage:
        if isinstance(value, RemoteImage):
            return value
        if not isinstance(value, str):
            raise ValueError("an image is text such as 'ubuntu:latest'")
        try:
            return _read_reference(value)
        except ValueError:
            if info.context is ANSWER:
                return RemoteImage(name="INVALID-IMAGE-NAME")
            raise


ImageReference = Annotated[RemoteImage, _Reference()]
