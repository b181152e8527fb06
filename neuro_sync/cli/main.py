"""The command group; errors become a message and an exit code here, once."""

from __future__ import annotations

from typing import Any

import click

from neuro_sync.errors import (
    AuthError,
    ConfigError,
    ConnectionFailed,
    IllegalArgumentError,
    NeuroError,
    ResourceNotFound,
)
from neuro_sync.version import __version__

from .local import local

EXIT_CODES: tuple[tuple[type[NeuroError], int], ...] = (
    (ConfigError, 77),
    (AuthError, 77),
    (ResourceNotFound, 72),
    (IllegalArgumentError, 65),
    (ConnectionFailed, 74),
    (NeuroError, 70),
)


class Failure(click.ClickException):
    """An error as the user sees it: one line, and an exit code by its kind."""

    def __init__(self, error: NeuroError) -> None:
        super().__init__(str(error))
        code = next(code for kind, code in EXIT_CODES if isinstance(error, kind))
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance


class Commands(click.Group):
    """A group whose commands may raise any error of ours."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NeuroError as error:
            raise Failure(error) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="neuro")
def neuro() -> None:
    """Run compute jobs, on the hosted platform or on this machine."""


neuro.add_command(local)
