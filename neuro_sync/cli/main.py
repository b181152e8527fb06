"""The command group; errors become a message and an exit code here, once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import click

from neuro_sync.errors import NeuroError
from neuro_sync.version import __version__

from . import exit_codes, output
from .invocation import Invocation

GROUPS = "All commands by what they are about"
COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Jobs": {
        "run": "jobs.run",
        "ps": "jobs.ps",
        "status": "jobs.status",
        "logs": "jobs.logs",
        "top": "jobs.top",
        "exec": "jobs.exec",
        "attach": "jobs.attach",
        "wait": "jobs.wait",
        "kill": "jobs.kill",
        "rerun": "jobs.rerun",
        "save": "jobs.save",
        "port-forward": "jobs.port_forward",
    },
    "Files and images": {
        "cp": "storage.cp",
        "ls": "storage.ls",
        "mkdir": "storage.mkdir",
        "mv": "storage.mv",
        "rm": "storage.rm",
        "images": "images.ls",
        "push": "images.push",
        "pull": "images.pull",
    },
    "Login and sharing": {
        "login": "config.login",
        "logout": "config.logout",
        "share": "users.grant",
    },
    GROUPS: {
        "job": "jobs.job",
        "storage": "storage.storage",
        "image": "images.image",
        "secret": "secrets.secret",
        "disk": "disks.disk",
        "config": "config.config",
        "acl": "users.acl",
        "local": "local.local",
        "completion": "completion.completion",
        "doctor": "doctor.doctor",
    },
}
"""Where each command is defined, by the heading under which the help lists it."""


class Failure(click.ClickException):
    """An error as the user sees it: what, and what next; and an exit code by its kind."""

    def __init__(self, error: NeuroError) -> None:
        super().__init__(exit_codes.story(error))
        code = exit_codes.of_error(error)
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: Any = None) -> None:  # noqa: ARG002  # click's signature
        output.error(self.message)


class LocalFailure(click.ClickException):
    """A file of this machine that cannot be read or written."""

    exit_code = exit_codes.INPUT_OUTPUT

    def __init__(self, error: OSError) -> None:
        super().__init__(exit_codes.story(error))

    def show(self, file: Any = None) -> None:  # noqa: ARG002  # click's signature
        output.error(self.message)


class Interrupted(click.ClickException):
    """Ctrl-C, where the command has nothing to say about it."""

    exit_code = exit_codes.INTERRUPTED

    def __init__(self) -> None:
        super().__init__("interrupted")

    def show(self, file: Any = None) -> None:
        """Say nothing: the user knows."""


class Commands(click.Group):
    """A group whose commands are imported when they are used, and may raise any error of ours."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return [name for section in COMMANDS.values() for name in section]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        cmd_name: str,
    ) -> click.Command | None:
        for section in COMMANDS.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name].partition(".")
                found = getattr(import_module(f"{__package__}.{module}"), attribute)
                assert isinstance(found, click.Command)  # noqa: S101  # what the table lists
                return found
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            meant = self._meant(ctx, args[0], args[1:])
            if meant:
                ctx.fail(f"No such command {args[0]!r}; there is `{meant}`.")
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: click.Context, typed: str, more: Sequence[str]) -> str | None:
        """Return what was meant: a command of a group, one that is spelled alike, or a help."""
        from difflib import get_close_matches

        if typed == "help":
            return " ".join(["neuro", *more[:1], "--help"])
        for name in COMMANDS[GROUPS]:
            group = self.get_command(ctx, name)
            if isinstance(group, click.Group) and typed in group.commands:
                return f"neuro {name} {typed}"
        alike = get_close_matches(typed, self.list_commands(ctx), 1)
        return f"neuro {alike[0]}" if alike else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for heading, section in COMMANDS.items():
            with formatter.section(heading):
                rows = []
                for name in section:
                    command = self.get_command(ctx, name)
                    if command is not None:
                        rows.append((name.ljust(width), command.get_short_help_str(64)))
                formatter.write_dl(rows)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if "_NEURO_COMPLETE" in os.environ:
            from . import completion  # noqa: F401  # which teaches click the ways of bash
        # On Windows click would expand the patterns in all arguments: those of options, and of
        # commands for jobs. `cp` does so with its own.
        kwargs.setdefault("windows_expand_args", False)
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _told_by_exit_code():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _told_by_exit_code(Invocation.of(ctx)):
            return super().invoke(ctx)


@contextmanager
def _told_by_exit_code(invocation: Invocation | None = None) -> Iterator[None]:
    try:
        yield
    except NeuroError as error:
        _fail(error, invocation)
    except click.UsageError as error:
        error.exit_code = exit_codes.USAGE  # type: ignore[misc]  # click reads it from there
        error.message = output.visible(error.message, "\n")  # type: ignore[misc]  # likewise
        raise
    except (KeyboardInterrupt, click.Abort):
        raise Interrupted from None
    except BrokenPipeError:  # whoever reads our output has seen enough
        raise
    except OSError as error:
        raise LocalFailure(error) from error


def _fail(error: NeuroError, invocation: Invocation | None) -> NoReturn:
    if invocation and invocation.show_traceback:
        import traceback

        output.note("".join(traceback.format_exception(error)))
    raise Failure(error) from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("-q", "--quiet", is_flag=True, help="Print ids and results only.")
@click.option("-v", "--verbose", count=True, help="Tell what goes on; twice for more.")
@click.option(
    "--color",
    type=click.Choice(["yes", "no", "auto"]),
    default="auto",
    show_default=True,
    help="Colours; auto has them on a terminal only, unless NO_COLOR is set.",
)
@click.option("--local", is_flag=True, help="Talk to the local platform that runs in this folder.")
@click.option(
    "--config-path", "--neuromation-config", metavar="FOLDER", help="Where your login is saved."
)
@click.option("--network-timeout", type=float, metavar="SECONDS", help="Of each network call.")
@click.option("--trace", is_flag=True, help="Show the requests; never the token.")
@click.option("--show-traceback", is_flag=True, help="Show where in the program an error arose.")
@click.option(
    "--iso/--no-iso",
    "--iso-datetime-format/--no-iso-datetime-format",
    "iso",
    help="Write times for machines: ISO 8601, in UTC.",
)
@click.version_option(__version__, prog_name="neuro")
@click.pass_context
def neuro(context: click.Context, /, color: str, **_: object) -> None:
    """Run compute jobs, on the hosted platform or on this machine.

    \b
    Example:
      neuro run --preset cpu-small --name test ubuntu echo Hello, World!
    """
    context.with_resource(Invocation.of(context).logging())
    plain = color == "no" or (color == "auto" and bool(os.environ.get("NO_COLOR")))
    context.color = True if color == "yes" else False if plain else None
