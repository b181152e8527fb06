"""What the options before the command say, and the session they mean."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from neuro_sync.client.session import Session

P = ParamSpec("P")
Result = TypeVar("Result")

OTHER_NAMES = "neuro_sync.other_names"
"""Where a context keeps the cluster, the organisation and the project that a command is to use."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 60.0
TOKEN = re.compile(r"[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")
"""Three parts of base64 with dots between: a token of the platform, wherever it turns up."""


@dataclass(frozen=True)
class Invocation:
    """The options before the command."""

    quiet: bool = False
    verbose: int = 0
    trace: bool = False
    show_traceback: bool = False
    iso: bool = False
    local: bool = False
    config_path: str | None = None
    network_timeout: float | None = None

    @classmethod
    def of(cls, context: click.Context) -> Invocation:
        """Read them from the outermost command; they are there even while a line is completed."""
        given = context.find_root().params
        return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})

    def open_session(self, *, patience: float | None = None) -> Session:
        """Open the session of a command; `patience` is a shorter network timeout, in seconds."""
        from neuro_sync.client.session import Session

        seconds = self.network_timeout if patience is None else patience
        timeout = (CONNECT_TIMEOUT, READ_TIMEOUT) if seconds is None else (seconds, seconds)
        if self.local:
            return Session.local(start=False, timeout=timeout)
        return Session(path=self.config_path, timeout=timeout)

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Let the library's own log be seen for as long as the command lasts, as far as wanted."""
        levels = (logging.WARNING, logging.INFO, logging.DEBUG)
        level = logging.DEBUG if self.trace else levels[min(self.verbose, 2)]
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        handler.addFilter(_make_printable)
        logger = logging.getLogger("neuro_sync")
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR if self.quiet else level)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before)


def _make_printable(record: logging.LogRecord) -> bool:
    """Hide tokens, and write out what would change what a terminal shows."""
    from .output import visible

    record.msg, record.args = visible(TOKEN.sub("<token>", record.getMessage()), "\n"), None
    return True


def pass_session(
    command: Callable[Concatenate[Session, P], Result],
) -> Callable[P, Result]:
    """Give a command the session to talk through; it is closed after the command."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        context = click.get_current_context()
        with Invocation.of(context).open_session() as session:
            names = context.meta.get(OTHER_NAMES)
            return command(session.with_options(**names) if names else session, *args, **kwargs)

    return call
