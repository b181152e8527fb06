"""Write ``docs/commands.md`` from the commands themselves: ``python docs/commands.py``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from neuro_sync.cli.main import COMMANDS, neuro

PAGE = Path(__file__).with_name("commands.md")
HEAD = """\
# The `neuro` command

<!-- Written by docs/commands.py from the commands; do not edit. -->

`neuro` does what [the SDK](sdk.md) does, against the hosted platform or a local one, and asks the
same places which one is meant. Results go to standard output, what is told besides to standard
error. `--json` prints what a program can read, `-q` before the command prints ids only; there are
no colours and no progress bars unless a terminal shows them.

What platforms and other users named cannot change what a terminal shows: control characters,
characters without width and those that turn the direction of writing are written out, such as
`\\x1b` or `\\u202e`. JSON is ASCII, and is parsed to the very same values. The output of a job
passes as it is, by `run`, `logs`, `attach` and `exec`; so does a secret by `secret get`, unless a
terminal shows it.
Command lines that are printed to be copied are quoted for bash, zsh and ksh.

Where a JOB is wanted, its id, its name and its address `job:NAME` will do. `apolo-cli` installs a
`neuro` too; where both are installed, `python -m neuro_sync` is always this one.

| exit code | meaning |
|---|---|
| 0 | done; also: detached from a job that goes on |
| of the job | `run`, `attach`, `wait`, `port-forward`: the job is over, and has a code |
| of the command | `exec` |
| 64 | the command line is wrong |
| 65 | a value is refused |
| 69 | `doctor` found something to mend |
| 70 | the platform failed |
| 72 | there is no such thing |
| 74 | the network failed, or a file could not be read or written |
| 76 | the Docker engine failed |
| 77 | there is no login, or no permission |
| 124 | a deadline passed |
| 125 | the platform failed to run the job |
| 130 | the job was killed, or the command was interrupted |
"""


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, *_options(neuro), *_sections()]) + "\n"


def _options(command: click.Command) -> Iterator[str]:
    rows = [
        (name.replace("|", "\\|"), text.replace("|", "\\|"))
        for parameter in command.get_params(click.Context(command))
        if (record := parameter.get_help_record(click.Context(command)))
        for name, text in [record]
        if text and not name.endswith("--help")
    ]
    if not rows:
        return
    yield "| option | |"
    yield "|---|---|"
    yield from (f"| `{name}` | {text} |" for name, text in rows)
    yield ""


def _sections() -> Iterator[str]:
    context = click.Context(neuro)
    short = {_command(neuro, name): name for name in neuro.list_commands(context)}
    # The last heading lists what the shorter names above it are taken from.
    for name in [*COMMANDS.values()][-1]:
        yield from _section(_command(neuro, name), f"neuro {name}", 2, short)


def _command(group: click.Group, name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    if found is None:
        raise LookupError(name)
    return found


def _section(
    command: click.Command, line: str, level: int, short: dict[click.Command, str]
) -> Iterator[str]:
    yield f"{'#' * level} {line}"
    yield ""
    own = short.get(command)
    if own and f"neuro {own}" != line:
        yield f"Also `neuro {own}`."
        yield ""
    context = click.Context(command, info_name=line)
    if isinstance(command, click.Group):
        yield from _text(command)
        for name in command.list_commands(context):
            yield from _section(_command(command, name), f"{line} {name}", level + 1, short)
        return
    yield f"    {' '.join([line, *command.collect_usage_pieces(context)])}"
    yield ""
    yield from _text(command)
    yield from _options(command)


def _text(command: click.Command) -> Iterator[str]:
    """Yield the help, its examples as a block of code."""
    text, examples = re.split(r"Examples?:", inspect.cleandoc(command.help or ""), maxsplit=1)
    yield text.replace("\b", "").strip()
    yield ""
    yield "```sh"
    yield from (example.strip() for example in examples.strip().split("\n"))
    yield "```"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page())
