"""The base of all models, and the types for what the wire writes its own way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    StrictBool,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema
from typing_extensions import Self

from neuro_sync.errors import ProtocolError

T = TypeVar("T")
M = TypeVar("M", bound="Model")

DISCREET: ConfigDict = ConfigDict(hide_input_in_errors=True)
"""For models of which an error may not show the input: values of variables are often secrets."""

ANSWER: dict[str, str] = {"written by": "the platform"}
"""The validation context of a platform's answer; `written` looks for it."""

WIRE: dict[str, str] = {"read by": "the other side"}
"""The context of what is read or written for the wire, which knows some values as text only."""


class Model(BaseModel):
    """What travels. An unknown field is a user's typo, so it is refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        # Built when first used: a program that asks for one status builds one model, not thirty.
        # For the same reason the texts under the fields are not read at run time.
        defer_build=True,
        # The values of a listing differ; looking each up in a cache costs more than it saves.
        cache_strings="keys",
        # JSON itself has no such numbers; null would not be read back.
        ser_json_inf_nan="strings",
    )

    stand_ins: ClassVar[Mapping[str, object]] = MappingProxyType({})
    """For an answer: the values of required fields that are missing, by their wire names."""
    lossy_lists: ClassVar[frozenset[str]] = frozenset()
    """For an answer: the wire names of lists from which an unreadable item is left out."""

    @classmethod
    def from_answer(cls, body: bytes | str) -> Self:
        """Read a platform's answer, passing over what a newer platform added to it.

        What is null counts as left out, unless the field knows what a null means. So does a value
        that cannot be read, where the field has a default; see `_repair`.

        Raises:
            ProtocolError: The answer lacks what every platform sends, or is no JSON.
        """
        try:
            return cls.model_validate_json(body, extra="ignore", context=ANSWER)
        except ValidationError as error:
            return _repair(cls._from_value, body, error, cls.__name__, cls)

    @classmethod
    def _from_value(cls, value: object) -> Self:
        """Read an answer that was JSON."""
        return cls.model_validate_json(json.dumps(value), extra="ignore", context=ANSWER)

    @classmethod
    def list_from_answer(cls, body: bytes | str) -> list[Self]:
        """Read a platform's answer that is a list of these; raises as `from_answer` does."""
        return read_answer(_list_of(cls), body, f"list of {cls.__name__}")

    @classmethod
    def from_request(cls, body: bytes) -> Self:
        """Read what a client sent: wire names only, and nothing unknown.

        Raises:
            ValidationError: As pydantic tells it.
        """
        return cls.model_validate_json(body, by_name=False, by_alias=True, context=WIRE)


def read_answer(adapter: TypeAdapter[T], body: bytes | str, what: str) -> T:
    """Read a platform's answer that is `what`; raises as `Model.from_answer` does."""

    def read(text: bytes | str) -> T:
        return adapter.validate_json(text, extra="ignore", context=ANSWER)

    try:
        return read(body)
    except ValidationError as error:
        return _repair(lambda value: read(json.dumps(value)), body, error, what, Model)


REPAIRS = 8
"""Times that an answer is read again: as often as a value can lie within another one."""
_DROPPED: Any = object()
"""In place of a value that is left out."""


def _repair(
    read: Callable[[Any], T],
    body: bytes | str,
    error: ValidationError,
    what: str,
    model: type[Model],
) -> T:
    """Read an answer without what cannot be read of it, so that one field costs no listing.

    Only answers that were refused as they are come here, so that it may take its time.
    """
    try:
        value = _without(json.loads(body), None)
        for _ in range(REPAIRS):
            try:
                return read(value)
            except ValidationError as odd:
                for item in _causes(odd):
                    _mend(value, item["loc"], item["type"], model)
                value = _without(value, _DROPPED)
    except (ValueError, LookupError, RecursionError):
        pass
    raise ProtocolError(f"the platform's answer is no {what}: {explain(error)}") from error


def _mend(answer: Any, location: tuple[int | str, ...], kind: str, model: type[Model]) -> None:
    """Convert a value that cannot be read, or leave it out.

    Raises:
        LookupError: The answer is of no use without it.
    """
    path: list[Any] = [answer]
    for key in location:
        # Where a field has several types, what follows in a location is none of the answer's keys.
        if not _has(path[-1], key):
            break
        path.append(path[-1][key])
    depth, place = len(path) - 1, path[-1]
    if place is _DROPPED:
        return
    if kind == "missing" and depth == len(location) - 1 and location[-1] in model.stand_ins:
        place[location[-1]] = model.stand_ins[str(location[-1])]
        return
    if not depth:
        raise LookupError(location)
    holder, mended = path[-2], _converted(kind, place)
    is_lossy = depth > 1 and location[depth - 2] in model.lossy_lists
    if mended is _DROPPED and isinstance(holder, list) and not is_lossy:
        raise LookupError(location)
    holder[location[depth - 1]] = mended


def _has(place: object, key: int | str) -> bool:
    if isinstance(place, list):
        return isinstance(key, int) and key < len(place)
    return isinstance(place, dict) and key in place


def _converted(kind: str, value: Any) -> Any:
    """Return a value of another type as one that can be read; `_DROPPED` if it means nothing."""
    match kind, value:
        case "int_from_float" | "int_parsing", float() | str():
            with suppress(ValueError, OverflowError):
                return int(float(value))
        case "timezone_aware", str():
            return f"{value}Z"
        case "string_type", int() | float():
            return json.dumps(value)
        case "bool_type", int() | str():
            return {"1": True, "true": True, "0": False, "false": False}.get(
                str(value).lower(), _DROPPED
            )
    return _DROPPED


def _without(value: Any, unwanted: object) -> Any:
    """Return an answer without the fields that are null, or without what was left out."""
    if isinstance(value, dict):
        return {
            key: _without(item, unwanted) for key, item in value.items() if item is not unwanted
        }
    if isinstance(value, list):
        # A null in a list may mean something.
        return [
            _without(item, unwanted) for item in value if item is not unwanted or unwanted is None
        ]
    return value


@cache
def _list_of(model: type[M]) -> TypeAdapter[list[M]]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]  # a variable, and it works


def written(check: Callable[[T], T]) -> AfterValidator:
    """Hold a rule for what users write, not for what a platform answers.

    A job that a platform accepted years ago, by other rules, must not break a listing of today.
    """

    def validate(value: T, info: ValidationInfo) -> T:
        return value if info.context is ANSWER else check(value)

    return AfterValidator(validate)


def at_least(limit: float) -> AfterValidator:
    """The same as ``Field(ge=limit)``, for what users write."""

    def check(value: float) -> float:
        if not value >= limit:  # nor is it no number
            raise PydanticKnownError("greater_than_equal", {"ge": limit})
        if value == math.inf:
            raise PydanticKnownError("finite_number")
        return value

    return written(check)


def _a_number(value: object) -> object:
    if isinstance(value, bool | bytes | bytearray):
        raise ValueError("should be a number")
    return value


NUMBER = BeforeValidator(_a_number)
"""Refuses flags, which are numbers for Python, and bytes, which are numbers for pydantic."""


def explain(error: ValidationError) -> str:
    """Say which field has which bad value, and what it should be; secrets are not repeated."""
    return "; ".join(map(_explain_one, _causes(error)))


def _causes(error: ValidationError) -> list[dict[str, Any]]:
    """Return the errors without those of fields that depend on another one's value."""
    items = (dict(item) for item in error.errors(include_url=False))
    return [item for item in items if item["type"] != "default_factory_not_called"]


CONFIDENTIAL = frozenset({"env", "value"})
"""Fields whose content is not repeated in an error."""


def _explain_one(item: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{name!r} is required"
    if item["type"] == "extra_forbidden":
        return f"there is no field {name!r}"
    if item["type"] == "string_unicode":
        message = "should be UTF-8"
    if item["type"] == "tuple_type":
        return f"{name}: should be a list, not {type(item['input']).__name__}"
    if isinstance(item["input"], str | int | float) and not CONFIDENTIAL & {*item["loc"]}:
        return f"{name} = {item['input']!r}: {message}" if name else message
    return f"{name}: {message}" if name else message


class _NullIsEmpty:
    """Reads ``null``, and whatever else is no string, as the empty string.

    It is built of core schemas alone, since a validator in Python would run for every field
    of every job of a listing.
    """

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default="", on_error="default")


Text = Annotated[str, _NullIsEmpty()]
"""A text that the wire sends as ``null`` when there is none."""

Flag = StrictBool
"""A yes or no; ``1`` and ``"true"`` are refused, as the platform does."""
