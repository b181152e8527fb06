"""Secrets: values that jobs get, and that nobody else is told."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationInfo
from yarl import URL

from neuro_sync.secret_text import SecretBytes

from .base import ANSWER, DISCREET, Model, written
from .jobs import TenantName
from .uris import build

KEY_PATTERN = r"^[A-Za-z0-9_.-]+$"
LARGEST_VALUE = 2**20
"""Characters of a value as it travels, in base64: three quarters as many bytes."""


def _key(key: str) -> str:
    if key == "." or key.startswith("..") or key.lower() == "---neuro---":
        raise ValueError(f"does not match pattern: {key!r} is no key of a secret; choose another")
    return key


def _bytes(value: object, info: ValidationInfo) -> object:
    if info.mode != "json":
        if isinstance(value, SecretBytes):
            value = value.reveal()
        if not isinstance(value, bytes):
            raise ValueError("a value is bytes; encode a text")
        return value
    if not isinstance(value, str):
        raise ValueError("value is not a string")
    is_answer = info.context is ANSWER
    if not value and not is_answer:
        raise ValueError("blank value is not allowed")
    if len(value) > LARGEST_VALUE and not is_answer:
        raise ValueError(f"String is longer than {LARGEST_VALUE} characters")
    try:
        return b64decode(value, validate=True)
    except ValueError as error:
        raise ValueError(f"{error}; a value is base64") from None


def _filled(value: bytes) -> bytes:
    if not value:
        raise ValueError("blank value is not allowed")
    if len(value) > LARGEST_VALUE // 4 * 3:
        raise ValueError(f"it is larger than {LARGEST_VALUE // 4 * 3} bytes")
    return value


SecretKey = Annotated[str, Field(min_length=1, max_length=253, pattern=KEY_PATTERN), written(_key)]
SecretValue = Annotated[
    bytes,
    # Never shown: neither in a repr, nor in what is wrong with it.
    Field(repr=False),
    BeforeValidator(_bytes),
    written(_filled),
    PlainSerializer(lambda value: b64encode(value).decode(), str, when_used="json"),
]


class Secret(Model):
    """What may be told of a secret: all but its value."""

    key: str
    owner: str = ""
    """The project's name."""
    cluster_name: str = ""
    """It is not on the wire; the client knows whom it asked."""
    org_name: str | None = None
    project_name: str = ""

    @property
    def uri(self) -> URL:
        """What a job's `secret_env` and `SecretFile` name it by."""
        tenant = (self.org_name, self.project_name, self.key)
        return build("secret", self.cluster_name, "/" + "/".join(part for part in tenant if part))


class NewSecret(Model):
    """The body of ``POST {secrets}``."""

    model_config: ClassVar[ConfigDict] = DISCREET

    key: SecretKey
    value: SecretValue
    org_name: TenantName
    project_name: TenantName


class OpenedSecret(Secret):
    """A secret with its value."""

    model_config: ClassVar[ConfigDict] = DISCREET
    stand_ins: ClassVar[Mapping[str, object]] = {"key": ""}

    value: SecretValue
