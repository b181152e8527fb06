r"""The one place that prints.

Results go to standard output, what is told to a person besides goes to standard error. What users
and platforms named is text and nothing else: there is no markup, and characters that would change
what a terminal shows are written out, such as ``\x1b``. `_print` does so with all text; only the
output of a job itself, and a value that goes to a file or a program, is passed on as it is.
"""

from __future__ import annotations

import json as json_module
import os
import re
import shlex
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from shutil import get_terminal_size
from types import FrameType
from typing import TYPE_CHECKING, Generic, TypeVar

import click

from neuro_sync.version import __version__

from .invocation import Invocation

if TYPE_CHECKING:
    from neuro_sync.models.base import Model

Item = TypeVar("Item", bound="Model")

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of Unicode: controls, those of the direction of writing and of no width, what is no
text at all, and the ends of lines and paragraphs."""
BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks that show nothing."""
LATER_JAMO = frozenset(map(chr, (*range(0x1160, 0x1200), *range(0xD7B0, 0xD800))))
"""Parts of a Korean syllable that are drawn into its first part."""
NOT_ASCII = re.compile(r"[^\x00-\x7e]")
RUNNERS = {
    "process": "process: runs a job's command here, and only records its image",
    "docker": "docker: a job is a container of its image, at {engine}",
}
GAP = "  "
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
WORDS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True)
class Column(Generic[Item]):
    """A column of a table: its heading, and what it says of an item."""

    title: str
    text: Callable[[Item], object]
    color: Callable[[Item], str | None] = lambda _: None


ENDING = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
]
"""Signals that end a program, besides that of Ctrl-C."""

Field = tuple[str, object]
"""A name, and a value or a tuple of lines; one without a value is left out."""


class Drawn(str):
    """A line made here, with its colours: names in it are written out already."""

    __slots__ = ()


def result(text: str) -> None:
    """Print a line of what was asked for."""
    _print(text, "\t")


def script(text: str) -> None:
    """Print what a shell is to run."""
    _print(text, "\n")


def note(text: str) -> None:
    """Tell a person something that is no result; `--quiet` silences it."""
    if not is_quiet():
        _print(text, "\n", err=True)


def error(text: str) -> None:
    """Print what went wrong, and what to do about it, where that is possible."""
    try:
        _print(Drawn(click.style("Error: ", fg="red") + visible(text, "\n")), err=True)
    except OSError:
        # The exit code tells, unless Python fails to write at its end what it could not write here.
        with suppress(OSError), open(os.devnull, "w") as null:
            os.dup2(null.fileno(), sys.stderr.fileno())


def is_quiet() -> bool:
    """Tell whether ids and results are all that is wanted."""
    return _invocation().quiet


def value(data: bytes) -> None:
    """Print bytes as they are; on a terminal as text, with a newline behind it."""
    if sys.stdout.isatty():
        _print(data.decode(errors="surrogateescape"), "\n\t")
        return
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def private_file(path: Path, data: bytes) -> None:
    """Write a file that nobody but its owner may read."""
    path.unlink(missing_ok=True)  # its rights would stay as they are
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def raw(text: str) -> None:
    """Pass on what a job wrote, at once and as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def finding(what: str, found: str, remedy: str) -> None:
    """Print what a check found, and what to do if it is not well."""
    sign = click.style("! ", fg="red") if remedy else click.style("+ ", fg="green")
    shown = visible(found, "\n").replace("\n", "\n  ")  # no line of it looks like a finding
    _print(Drawn(f"{sign}{what}: {shown}"))
    if remedy:
        _print(f"  -> {remedy}")


def row(cells: Iterable[str]) -> None:
    """Print a row of a table that has no end yet."""
    _print("\t".join(visible(cell) for cell in cells), "\t")


def confirm(question: str) -> None:
    """Ask whether to go on.

    Raises:
        click.Abort: The answer is no.
    """
    click.confirm(visible(question), abort=True)


def choose(question: str, names: Iterable[str]) -> str:
    """Ask for one of several names."""
    shown = {visible(name): name for name in sorted(names)}
    chosen: str = click.prompt(visible(question), type=click.Choice([*shown]))
    return shown[chosen]


@contextmanager
def cursor_restored() -> Iterator[None]:
    """Let a drawing on the terminal be undone when the program is told to end, too."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {
        number: signal.signal(number, end)
        for number in ENDING
        if signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def json(value: object) -> None:
    """Print a value as one line of JSON."""
    _print(_ascii(json_module.dumps(value)))


def listing(
    items: Iterable[Item],
    columns: Sequence[Column[Item]],
    *,
    id: Callable[[Item], str],
    as_json: bool = False,
    wide: bool = False,
) -> None:
    """Print many: their ids if quiet, an array of JSON, or a table."""
    if is_quiet():
        for item in items:
            result(id(item))
    elif as_json:
        _array(item.model_dump_json() for item in items)
    else:
        table(items, columns, wide=wide)


def array(values: Iterable[object]) -> None:
    """Print values as an array of JSON."""
    _array(map(json_module.dumps, values))


def lines(texts: Iterable[str], *, as_json: bool = False) -> None:
    """Print texts, a line each, or an array of JSON."""
    if as_json and not is_quiet():
        array(texts)
    else:
        for text in texts:
            result(text)


def _array(documents: Iterable[str]) -> None:
    """Print an array as it comes, an element a line, so that thousands need no memory."""
    lead = "["
    for document in documents:
        _print(f"{lead}{_ascii(document)}", "\n", nl=False)
        lead = ",\n"
    _print("[]" if lead == "[" else "]")


def _ascii(document: str) -> str:
    """Return a document of JSON in ASCII; it is parsed to the very same values."""

    def escape(match: re.Match[str]) -> str:
        return r"\u007f" if match[0] == "\x7f" else json_module.dumps(match[0])[1:-1]

    return NOT_ASCII.sub(escape, document)


def table(
    items: Iterable[Item],
    columns: Sequence[Column[Item]],
    *,
    wide: bool = False,
    titled: bool = True,
) -> None:
    """Print a table; on a terminal its last column is cut where the line ends, unless `wide`."""
    room = None if wide or not sys.stdout.isatty() else get_terminal_size().columns
    for line in grid(items, columns, room, titled=titled):
        _print(line)


def grid(
    items: Iterable[Item],
    columns: Sequence[Column[Item]],
    room: int | None = None,
    *,
    titled: bool = True,
) -> Iterator[Drawn]:
    """Yield the lines of a table; `room` is how long one may be, if that matters."""
    rows = list(items)
    cells = [[_cell(column.text(row)) for column in columns] for row in rows]
    titles = [column.title if titled else "" for column in columns]
    widths = [max(map(_width, column)) for column in zip(titles, *cells, strict=True)]
    if titled:
        yield Drawn(click.style(_line(titles, widths, room), bold=True))
    for row, texts in zip(rows, cells, strict=True):
        yield Drawn(_line(texts, widths, room, [column.color(row) for column in columns]))


def _line(
    texts: Sequence[str],
    widths: Sequence[int],
    room: int | None,
    colors: Sequence[str | None] | None = None,
) -> str:
    *others, last = texts
    if room is not None:
        left = room - sum(widths[:-1]) - len(GAP) * len(others)
        last = _cut(last, max(left, len("DESCRIPTION")))
    cells = [text + " " * (w - _width(text)) for text, w in zip(others, widths, strict=False)]
    cells.append(last)
    if colors:
        cells = [
            click.style(cell, fg=color) if color else cell
            for cell, color in zip(cells, colors, strict=True)
        ]
    return GAP.join(cells).rstrip()


def details(item: Model, fields: Iterable[Field], *, id: str, as_json: bool = False) -> None:
    """Print one: its id if quiet, an object of JSON, or a line for each field."""
    if is_quiet():
        result(id)
    elif as_json:
        _print(_ascii(item.model_dump_json()))
    else:
        print_fields(fields)


def print_fields(fields: Iterable[Field]) -> None:
    """Print a line for each field that has a value."""
    for line in field_lines(fields):
        _print(line)


def field_lines(fields: Iterable[Field]) -> Iterator[Drawn]:
    """Yield a line for each field that has a value; more lines of a value are indented."""
    for name, value in fields:
        if value is None or value in ("", ()):
            continue
        head = click.style(f"{name}:", bold=True)
        first, *others = [*_value_lines(value)]
        if others:
            yield Drawn(head)
            yield from (Drawn(f"  {line}") for line in (first, *others))
        else:
            yield Drawn(f"{head} {first}")


def _value_lines(value: object) -> Iterator[str]:
    if isinstance(value, tuple):
        yield from map(visible, value)
    else:
        yield from visible(str(value), "\n").rstrip("\n").split("\n")


def _print(text: str, kept: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text whose control characters are written out, but for those that are kept."""
    click.echo(visible(text, kept), err=err, nl=nl)


def visible(text: str, kept: str = "") -> str:
    """Return a text whose hidden characters are written out, but for those that are kept."""
    if isinstance(text, Drawn) or (text.isascii() and text.isprintable()):
        return text
    return "".join(
        mark.encode("unicode_escape").decode() if mark not in kept and is_hidden(mark) else mark
        for mark in text
    )


@lru_cache(maxsize=4096)
def is_hidden(mark: str) -> bool:
    """Return whether a character shows nothing, or changes how others are shown."""
    return unicodedata.category(mark) in HIDDEN or mark in BLANK


def moment(when: datetime | None) -> str:
    """Return a time: in the user's own zone, or for machines with `--iso`."""
    if when is None:
        return ""
    if _invocation().iso:
        return when.astimezone(timezone.utc).isoformat()
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def ago(when: datetime | None) -> str:
    """Return how long ago something was, as a person would say it; a time with `--iso`."""
    if when is None or _invocation().iso:
        return moment(when)
    seconds = max(int((datetime.now(timezone.utc) - when).total_seconds()), 0)
    size, word = next((unit for unit in WORDS if seconds >= unit[0]), WORDS[-1])
    count = seconds // size
    return f"{count} {word}{'' if count == 1 else 's'} ago"


def duration(seconds: float) -> str:
    """Return a duration such as ``1d12h``, in the form that the options take."""
    left = round(seconds)
    text = ""
    for size, letter in UNITS:
        count, left = divmod(left, size)
        text += f"{count}{letter}" if count else ""
    return text or "0s"


def size(bytes_: int | None) -> str:
    """Return a size such as ``2.0G``, by powers of 1024."""
    amount = float(bytes_ or 0)
    for unit in ("B", "K", "M", "G", "T"):
        if amount < 1024 or unit == "T":
            break
        amount /= 1024
    return f"{amount:.0f}{unit}" if unit == "B" else f"{amount:.1f}{unit}"


def banner(url: str, folder: str, *, kept: bool, runtime: str, engine: str | None) -> None:
    """Say what was started, where, and how to use it."""
    runner = RUNNERS[runtime].format(engine=engine)
    found = f"  Docker   found at {engine}; --runtime docker runs images\n"
    kept_or_not = "kept; delete the folder to forget it" if kept else "deleted at the end"
    is_usual = folder == os.path.abspath(".neuro-local")
    here = "neuro --local ps, or Session.local(), in the same folder"
    there = f"Session.local(state={folder!r})"
    state = "" if is_usual else f" --state {shlex.quote(folder)}"
    _print(
        f"Neuro local platform {__version__}\n"
        f"  API      {url}\n"
        f"  Runner   {runner}\n"
        f"{found if engine and runtime == 'process' else ''}"
        f"  State    {folder} ({kept_or_not})\n"
        f"  Use it   {here if is_usual else there}\n"
        f'           eval "$(neuro local env{state})" for all programs of a shell\n'
        "Ctrl-C stops the platform and its jobs.",
        "\n",
    )


def _invocation() -> Invocation:
    context = click.get_current_context(silent=True)
    return Invocation.of(context) if context else Invocation()


def _cell(value: object) -> str:
    return "" if value is None else visible(str(value))


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


@lru_cache(maxsize=4096)
def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me") or character in LATER_JAMO:
        return 0
    return 1 + (unicodedata.east_asian_width(character) in "WF")


def _cut(text: str, room: int) -> str:
    if _width(text) <= room:
        return text
    length = taken = 0
    while (taken := taken + _character_width(text[length])) < room:
        length += 1
    return text[:length] + "…"
