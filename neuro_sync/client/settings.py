"""What a user and a project have settled in files: ``user.toml`` and ``.neuro.toml``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from neuro_sync.errors import ConfigError
from neuro_sync.models.base import Model
from neuro_sync.models.durations import parse_duration

USER_FILE = "user.toml"
PROJECT_FILES = (".neuro.toml", ".apolo.toml")
"""Looked for in the current folder and its parents; in one folder the first one counts."""
ALIAS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
LIFE_SPAN_WANTED = "should look like 1d2h3m4s, or 0 for no limit"
NAMES = ("cluster-name", "org-name", "project-name")
"""What only a project may settle."""


def _life_span(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(LIFE_SPAN_WANTED)
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError(LIFE_SPAN_WANTED) from None


LifeSpan = Annotated[
    float, BeforeValidator(_life_span), PlainSerializer(lambda seconds: f"{seconds:.0f}s", str)
]

WANTED = {
    "string_type": "should be a text",
    "tuple_type": "should be a list",
    "dict_type": "should be a section",
    "model_type": "should be a section",
}
"""What to say in words of the file, not of Python."""


class _Section(Model):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=lambda name: name.replace("_", "-"), strict=True
    )


class JobSettings(_Section):
    """The section ``[job]``."""

    life_span: LifeSpan | None = None
    """How long a job may run unless told otherwise, in seconds; 0 sets no limit."""
    ps_format: str | None = None
    top_format: str | None = None
    cluster_name: str | None = None
    org_name: str | None = None
    project_name: str | None = None


class StorageSettings(_Section):
    """The section ``[storage]``."""

    cp_exclude: tuple[str, ...] = Field(default=(), strict=False)
    cp_exclude_from_files: tuple[str, ...] = Field(default=(), strict=False)


class DiskSettings(_Section):
    """The section ``[disk]``."""

    life_span: LifeSpan | None = None
    """After how long without use a disk goes, in seconds; 0 sets no limit."""


class Settings(_Section):
    """Both files together; where both settle the same, the project's counts."""

    job: JobSettings = Field(default_factory=JobSettings.model_construct)
    storage: StorageSettings = Field(default_factory=StorageSettings.model_construct)
    disk: DiskSettings = Field(default_factory=DiskSettings.model_construct)
    alias: Mapping[str, Mapping[str, Any]] = Field(default={})
    """The user's own commands by name, each as its table has it."""
    _project_file: Path | None = PrivateAttr(default=None)

    @property
    def project_file(self) -> Path | None:
        """Where the project's file is, if there is one."""
        return self._project_file

    @field_validator("alias")
    @classmethod
    def _name_as_commands(cls, aliases: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in aliases:
            if not ALIAS_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a command: letters, digits and dashes")
        return aliases


def read_settings(folder: Path | None, start: Path | None = None) -> Settings:
    """Read the user's file of a config folder, and the project's from a folder upwards.

    Raises:
        ConfigError: One of them is no TOML, or has what does not belong there; the text names
            the file and the key.
    """
    merged: dict[str, Any] = {}
    if folder is not None and os.path.isfile(user_file := folder / USER_FILE):
        merged = _read(user_file)
        settled = merged.get("job", {})
        for name in NAMES:
            if name in settled:
                raise ConfigError(
                    f"{user_file}: job.{name} is settled by each project, in its {PROJECT_FILES[0]}"
                )
    project_file = _find_project_file(start)
    if project_file is not None:
        merged = _merge(merged, _read(project_file))
    # Most have no such file: then the checks are not even built.
    settings = _checked(merged, "the settings") if merged else Settings.model_construct()
    settings._project_file = project_file  # noqa: SLF001  # ours
    return settings


def _find_project_file(start: Path | None) -> Path | None:
    try:
        here = start or Path.cwd()
    except OSError:  # the current folder is gone
        return None
    for folder in (here, *here.parents):
        for name in PROJECT_FILES:
            # Not by Path, which raises for a folder that we may not look into.
            if os.path.isfile(folder / name):
                return folder / name
    return None


def _read(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content = tomllib.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    _checked(content, str(file))
    return content


def _checked(content: dict[str, Any], where: str) -> Settings:
    try:
        return Settings.model_validate(content, by_alias=True, by_name=False)
    except ValidationError as error:
        wrong = "; ".join(_explain(item) for item in error.errors())
        raise ConfigError(f"{where}: {wrong}") from error


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        section = Settings.model_fields.get(item["loc"][0]) if len(item["loc"]) > 1 else None
        return (
            f"there is no {'key' if section else 'section'} {key!r}; there are: {_known(section)}"
        )
    wanted = WANTED.get(item["type"]) or str(item["msg"]).removeprefix("Value error, ")
    return f"{key} = {item['input']!r}: {wanted}"


def _known(section: Any) -> str:
    fields = section.annotation.model_fields if section else Settings.model_fields
    return ", ".join(name.replace("_", "-") for name in fields)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
