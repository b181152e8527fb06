"""Every public class of the package, and values of those that stand for values."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from yarl import URL

import neuro_sync
from neuro_sync import JobDescription, errors, testing
from neuro_sync.models import images, uris

M = TypeVar("M", bound=BaseModel)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATHS = st.from_regex(r"/[a-z]{1,5}(/[a-z]{1,5})?", fullmatch=True)
WORDS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)

MOMENTS = st.integers(0, 10**15).map(
    lambda past: datetime(2026, 1, 1, tzinfo=timezone.utc) - timedelta(microseconds=past)
)

BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "alias": st.just({}),
    "container_path": PATHS,
    "working_dir": st.none() | PATHS,
    "command": st.none() | WORDS,
    "entrypoint": st.none() | WORDS,
    "env": st.dictionaries(WORDS, TEXT, max_size=2),
    "description": st.none() | WORDS,
    "preset_name": st.none() | WORDS,
    "gpu_model": st.none() | WORDS,
    "amd_gpu_model": st.none() | WORDS,
    "intel_gpu_model": st.none() | WORDS,
    "cpu": st.floats(1, 1e6),
    "location": st.none() | WORDS.map("storage:{}".format),
    "folder": st.none() | WORDS.map("storage:{}".format),
    "life_span": st.none() | st.integers(0, 10**6).map("{}s".format),
    "priority": st.sampled_from([*neuro_sync.JobPriority][:3]),
    "restart_policy": st.sampled_from([*neuro_sync.JobRestartPolicy][:3]),
    "action": st.sampled_from([*neuro_sync.Action][-3:]),
    "health_check_path": st.none() | PATHS,
}
"""Of fields for which a rule holds that their types do not show."""


class Failure(Exception):
    """An error that equals one of the same text."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failure) and self.args == other.args

    __hash__ = None  # type: ignore[assignment]  # it is compared only


PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    NoneType: st.none(),
    bool: st.booleans(),
    int: st.integers(0, 2**53),
    float: st.floats(0, 1e9, allow_nan=False),
    str: TEXT,
    bytes: st.binary(min_size=1, max_size=20),
    datetime: MOMENTS,
    AwareDatetime: MOMENTS,
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    URL: WORDS.map(lambda word: URL(f"storage:{word}")),
    Path: WORDS.map(Path),
    object: st.none() | TEXT,
    Exception: TEXT.map(Failure),
    Any: st.none() | TEXT,
    JobDescription: st.deferred(lambda: models(JobDescription)),
}


def public_classes() -> list[type]:
    """Return what is public in the package and in its modules for users."""
    modules: list[ModuleType] = [neuro_sync, errors, testing]
    for part in ("models", "client"):
        package = import_module(f"neuro_sync.{part}")
        modules += [
            import_module(f"{package.__name__}.{module.name}")
            for module in pkgutil.iter_modules(package.__path__)
        ]
    found = {item for module in modules for item in _public(module)}
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


def _public(module: ModuleType) -> Iterator[type]:
    for name in getattr(module, "__all__", dir(module)):
        item = getattr(module, name)
        is_ours = getattr(item, "__module__", "").startswith("neuro_sync")
        if isinstance(item, type) and is_ours and not name.startswith("_"):
            yield item


def models(kind: type[M]) -> st.SearchStrategy[M]:
    """Return a strategy for a model, from the types of its fields."""
    fields = {
        name: BY_NAME[name]
        if name in BY_NAME
        else _narrowed(field.annotation, field.metadata)
        if field.is_required()
        else st.just(field.get_default(call_default_factory=True, validated_data={}))
        | _narrowed(field.annotation, field.metadata)
        for name, field in kind.model_fields.items()
    }
    return st.fixed_dictionaries(fields).map(lambda values: _built(kind, values)).filter(bool)


def _built(kind: type[M], values: dict[str, Any]) -> Any:
    try:
        return kind(**values)
    except ValidationError:
        return None  # of a rule that holds for several fields together


def values(kind: type) -> st.SearchStrategy[Any]:
    """Return a strategy for a class that stands for values."""
    if kind is images.RemoteImage:
        return IMAGES
    if issubclass(kind, BaseModel):
        return models(kind)
    if issubclass(kind, Enum):
        return st.sampled_from([*kind])
    names = {"JobDescription": JobDescription, "URL": URL}
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, localns=names, include_extras=True)
        wanted = [field.name for field in dataclasses.fields(kind) if field.init]
    elif issubclass(kind, tuple):
        hints, wanted = get_type_hints(kind, localns=names), [*kind._fields]  # type: ignore[attr-defined]  # named
    elif "__init__" not in _ours(kind):
        return st.builds(kind, TEXT)  # a text, as all built-in errors
    else:
        hints = get_type_hints(kind.__init__, localns=names)
        wanted = [*inspect.signature(kind).parameters]
    return st.builds(kind, **{name: _of(hints[name]) for name in wanted})


def _ours(kind: type) -> set[str]:
    return {
        name for base in kind.__mro__ if base.__module__.startswith("neuro") for name in vars(base)
    }


def _of(hint: Any) -> st.SearchStrategy[Any]:
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        return _narrowed(inner, metadata)
    if hint in PLAIN:
        return PLAIN[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return st.one_of([_of(each) for each in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (tuple, Sequence):
        return st.lists(_of(arguments[0]), max_size=2).map(tuple)
    if origin is Mapping or origin is dict or hasattr(origin, "keys"):
        return st.dictionaries(_of(arguments[0]), _of(arguments[1]), max_size=2)
    if isinstance(hint, TypeVar):
        return st.one_of([_of(each) for each in hint.__constraints__])
    if isinstance(origin or hint, type):
        return values(origin or hint)
    if hint is images.ImageReference:
        return IMAGES
    return st.nothing()


_NAMES = st.lists(
    st.sampled_from(("a", "ubuntu", "my-app", "x__y", "a.b", "9")), min_size=1, max_size=3
).map("/".join)
_TAGS = st.none() | st.sampled_from(("latest", "v1.2_3-x", "A"))
_REGISTRIES = st.sampled_from(("registry.test", "localhost:5000", "127.0.0.1:80"))
# Most texts are no references, so that it would take long to find some.
IMAGES = st.builds(
    images.RemoteImage.new_external_image, _NAMES, st.none() | _REGISTRIES, tag=_TAGS
) | st.builds(
    images.RemoteImage.new_platform_image,
    _NAMES,
    _REGISTRIES,
    cluster_name=st.just("cluster"),
    org_name=st.none() | st.just("org"),
    project_name=st.just("project"),
    tag=_TAGS,
)


def _narrowed(hint: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy that keeps to what is said beside a type."""
    metadata = [
        each
        for item in metadata
        for each in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    least = max((item.ge for item in metadata if hasattr(item, "ge")), default=0)
    most = min((item.lt for item in metadata if hasattr(item, "lt")), default=2**31)
    shortest = max((item.min_length for item in metadata if hasattr(item, "min_length")), default=0)
    for item in metadata:
        if pattern := getattr(item, "pattern", None):
            texts: st.SearchStrategy[str] = st.from_regex(pattern, fullmatch=True)
            return texts.filter(lambda text: shortest <= len(text) <= 40)
        if isinstance(item, uris._Address):  # what there is to know of it
            scheme = item._scheme
            return st.sampled_from([f"{scheme}:a", f"{scheme}://cluster/org/project/a%20b"])
    if metadata and hint is int:
        return st.integers(least, most - 1)
    if metadata and hint is float:
        return st.floats(least, most - 1)
    return _of(hint)
