"""What a caller got wrong, told alike by all sections."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Mapping
from typing import SupportsIndex, TypeVar

from pydantic import ValidationError

from neuro_sync.errors import IllegalArgumentError, NeuroError
from neuro_sync.models.base import explain
from neuro_sync.models.frames import LARGEST_SIDE

T = TypeVar("T")


class BadValuesRefused:
    """Tells a bad value of a call as the `IllegalArgumentError` that a platform would answer."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValidationError):
            raise IllegalArgumentError(explain(error)) from error
        if isinstance(error, ValueError) and not isinstance(error, NeuroError):
            raise IllegalArgumentError(str(error)) from error


def several(name: str, value: T | Iterable[T], kinds: tuple[type[T], ...]) -> tuple[T, ...]:
    """Return the items of an argument that takes several; one alone is not taken apart.

    Raises:
        IllegalArgumentError: It is something else.
    """
    if isinstance(value, kinds):
        return (value,)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping):
        found = tuple(value)
        if all(isinstance(item, kinds) for item in found):
            return found
    wanted = " or ".join(kind.__name__ for kind in kinds)
    raise IllegalArgumentError(f"{name} = {value!r}: should be one {wanted}, or a list of them")


def strings(name: str, value: str | Iterable[str]) -> tuple[str, ...]:
    """Return the strings of an argument that takes several; raises as `several` does."""
    return several(name, value, (str,))


def whole_number(
    name: str, value: SupportsIndex, *, least: int = 0, most: int = sys.maxsize
) -> int:
    """Return a whole number within limits.

    Raises:
        IllegalArgumentError: It is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise IllegalArgumentError(f"{name} = {value!r}: should be a whole number")
    if not least <= number <= most:
        limits = f"{least} or more" if most == sys.maxsize else f"from {least} to {most}"
        raise IllegalArgumentError(f"{name} = {value!r}: should be {limits}")
    return number


def at_most(name: str, value: float | None, *, least: int = 0) -> int | None:
    """Return how many are wanted; None, or a number that nothing reaches, is all of them.

    Raises:
        IllegalArgumentError: It is no such number.
    """
    if value is None or value == math.inf or (isinstance(value, int) and value > sys.maxsize):
        return None
    return whole_number(name, value, least=least)  # type: ignore[arg-type]  # that is what it checks


def characters(name: str, value: int) -> int:
    """Return one side of a terminal's size, in characters.

    Raises:
        IllegalArgumentError: No terminal has it.
    """
    return whole_number(name, value, most=LARGEST_SIDE)
