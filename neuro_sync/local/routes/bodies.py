"""Bodies of requests: none of them fills the memory or keeps the platform busy.

Each list, text and number has a limit, which is checked before anything is made of it. A large
body is read in another thread, so that others are answered meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import ValidationError

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.local.answers import bad_request
from neuro_sync.local.executors import Work, submit
from neuro_sync.models.base import Model

from .values import LARGEST_NUMBER, MOST_DIGITS, SHOWN

T = TypeVar("T")
M = TypeVar("M", bound=Model)

LARGEST_BODY = 2**20
"""Bytes."""
SMALL_BODY = 2**14
"""Bytes of a body that is read at once; another thread would take longer to begin."""
DEEPEST = 16
"""Lists and objects within each other."""
MOST_ITEMS = 1000
"""Items of a list, or fields of an object, for which `ITEM_LIMITS` has no other number."""
ITEM_LIMITS = {
    "volumes": 256,
    "secret_volumes": 256,
    "disk_volumes": 256,
    "env": 10_000,
    "secret_env": 1000,
}
MAPPINGS = frozenset({"env", "secret_env"})
"""Objects that have fields of any name."""
LONGEST_ADDRESS = 3 * 4096
"""Characters of an address, in which three may stand for each byte of a path."""
LONGEST_TEXT = 2**17
"""Characters of a text for which `TEXT_LIMITS` has no other number."""
TEXT_LIMITS = {
    # What the kernel takes of them is checked when they have been split into words.
    "command": 2**20,
    "entrypoint": 2**20,
    "env": 2**21,
    "dst_path": 4095,
    "src_storage_uri": LONGEST_ADDRESS,
    "src_secret_uri": LONGEST_ADDRESS,
    "src_disk_uri": LONGEST_ADDRESS,
    "secret_env": LONGEST_ADDRESS,
    "working_dir": 4095,
    "image": 4096,
    "value": LARGEST_BODY,  # of a secret, which has a rule of its own
}


SLASH_LIMITS = {
    "dst_path": 64,
    "src_storage_uri": 128,
    "src_secret_uri": 128,
    "src_disk_uri": 128,
    "secret_env": 128,
}
"""Slashes of a path or an address."""


async def read_body(request: Request, largest: int = LARGEST_BODY) -> bytes:
    """Return a request's body, of so many bytes at most.

    Raises:
        IllegalArgumentError: It is larger; one that says so beforehand is not even waited for.
    """
    announced = request.headers.get("content-length", "")
    body = bytearray()
    if not (announced.isdigit() and int(announced) > largest):
        async for piece in request.stream():
            body += piece
            if len(body) > largest:
                break
        else:
            return bytes(body)
    raise IllegalArgumentError(f"Maximum request body size {largest} exceeded", status=413)


async def read_json(request: Request, read: Callable[[Any], T], largest: int = LARGEST_BODY) -> T:
    """Return what is read of a body that is JSON, after its limits were checked.

    Raises:
        IllegalArgumentError: It is too large, is no JSON, or exceeds a limit.
    """
    body = await read_body(request, largest)
    if len(body) > SMALL_BODY:
        return await submit(Work.PARSING, _read, body, read)
    return _read(body, read)


async def body_of(model: type[M], request: Request) -> M:
    """Read a body that is a model.

    Raises:
        IllegalArgumentError: It is too large, or not what it should be.
    """
    return await read_json(request, lambda value: validated(model, value))


def validated(model: type[M], value: Any) -> M:
    """Return a model of what was read of a body."""
    try:
        return model.from_request(json.dumps(value).encode())
    except ValidationError as error:
        # Not chained: the original may show what was sent, the value of a secret.
        raise bad_request(error) from None


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what the description of a route says of the body that it reads itself."""
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def _read(body: bytes, read: Callable[[Any], T]) -> T:
    try:
        value = json.loads(body, parse_int=_integer, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise IllegalArgumentError(str(error)) from None
    _check(value, "", "", DEEPEST)
    return read(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


@dataclass(frozen=True)
class _LongNumber:
    """A number of too many digits to be worth the conversion."""

    digits: int


def _integer(text: str) -> int | _LongNumber:
    digits = text.removeprefix("-")
    number = int(text) if len(digits) <= MOST_DIGITS else None
    return _LongNumber(len(digits)) if number is None or abs(number) > LARGEST_NUMBER else number


def _check(value: Any, path: str, name: str, levels: int) -> None:
    """Check the limits of a value and of all within it; `name` is that of the nearest field.

    Raises:
        IllegalArgumentError: One is exceeded; the error names the field, the limit and the size.
    """
    where = path[:SHOWN] or "the body"
    if isinstance(value, str):
        _check_size(len(value), TEXT_LIMITS.get(name, LONGEST_TEXT), where, "characters")
        if name in SLASH_LIMITS:
            _check_size(value.count("/"), SLASH_LIMITS[name], where, "slashes")
    elif isinstance(value, _LongNumber):
        raise IllegalArgumentError(
            f"{where}: value is greater than {LARGEST_NUMBER}: it has {value.digits} digits"
        )
    elif isinstance(value, float):
        if abs(value) == float("inf"):
            raise IllegalArgumentError(f"{where}: value is greater than any number may be")
    elif isinstance(value, list | dict):
        if not levels:
            raise IllegalArgumentError(f"{where}: there are more than {DEEPEST} levels in the body")
        kind = "items" if isinstance(value, list) else "fields"
        _check_size(len(value), ITEM_LIMITS.get(name, MOST_ITEMS), where, kind)
        prefix = f"{path}." if path else ""
        if isinstance(value, list):
            for place, item in enumerate(value):
                inner = "" if isinstance(item, dict) else name
                _check(item, f"{prefix}{place}", inner, levels - 1)
        else:
            for key, item in value.items():
                _check(key, f"a name in {where}", "", levels)
                _check(item, f"{prefix}{key}", name if name in MAPPINGS else key, levels - 1)


def _check_size(size: int, most: int, where: str, unit: str) -> None:
    if size <= most:
        return
    if unit == "items":
        raise IllegalArgumentError(f"{where}: list length is greater than {most}: it is {size}")
    if unit == "characters":
        raise IllegalArgumentError(
            f"{where}: String is longer than {most} characters: it has {size}"
        )
    raise IllegalArgumentError(f"{where}: there are more than {most} {unit}: there are {size}")
