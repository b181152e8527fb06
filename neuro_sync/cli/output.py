"""The one place that prints."""

from __future__ import annotations

import click

from neuro_sync.version import __version__


def banner(url: str, folder: str, *, kept: bool) -> None:
    """Say what was started, where, and how to use it."""
    kept_or_not = "kept; delete the folder to forget it" if kept else "deleted at the end"
    click.echo(
        f"Neuro local platform {__version__}\n"
        f"  API      {url}\n"
        "  Runner   process: a job's command runs on this machine, its image is only recorded\n"
        f"  State    {folder} ({kept_or_not})\n"
        "  Use it   Session.local() in the same folder\n"
        "Ctrl-C stops the platform and its jobs."
    )


def result(text: str) -> None:
    """Print a line of what was asked for."""
    click.echo(text)


def note(text: str) -> None:
    """Tell a person something that is no result."""
    click.echo(text, err=True)
