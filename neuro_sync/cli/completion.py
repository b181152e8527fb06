"""The command that lets a shell complete what is typed."""

from __future__ import annotations

import click

from . import output

SHELLS = ("bash", "zsh", "fish")


@click.group()
def completion() -> None:
    """Let your shell complete commands, jobs, presets and paths.

    Example: eval "$(neuro completion generate bash)"
    """


@completion.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def generate(context: click.Context, shell: str) -> None:
    """Print what a shell has to run once; put it into its start-up file.

    \b
    Examples:
      neuro completion generate bash >> ~/.bashrc
      neuro completion generate zsh >> ~/.zshrc
      neuro completion generate fish > ~/.config/fish/completions/neuro.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  # one of the choices
    script = kind(context.find_root().command, {}, "neuro", "_NEURO_COMPLETE").source()
    output.script(script)
