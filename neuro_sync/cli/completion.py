"""The command that lets a shell complete what is typed, and what bash needs besides."""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from . import output

VARIABLE = "_NEURO_COMPLETE"
"""Set by the shell's script; then the program completes instead of doing anything."""
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
    """Print what a shell has to run once.

    Put it into its start-up file.

    \b
    Examples:
      neuro completion generate bash >> ~/.bashrc
      neuro completion generate zsh >> ~/.zshrc
      neuro completion generate fish > ~/.config/fish/completions/neuro.fish
    """
    kind = get_completion_class(shell)
    if kind is not None:  # as for all of the choices
        output.script(kind(context.find_root().command, {}, "neuro", VARIABLE).source())


@add_completion_class
class Bash(BashComplete):
    """Completion for bash, to which a colon ends a word; to us ``storage:a`` is one."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' kind value
    COMPREPLY=()
    while IFS=',' read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env NEURO_LINE="${COMP_LINE:0:COMP_POINT}" NEURO_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
    # What goes on, a folder or an address, is no whole word yet.
    [[ ${COMPREPLY[0]} == *[/:] ]] && compopt -o nospace
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["NEURO_LINE"]
        words = split_arg_string(line)
        self._typed = words.pop() if words and not line[-1].isspace() else ""
        return words[1:], self._typed

    def format_completion(self, item: CompletionItem) -> str:
        # bash replaces only what comes after the last colon.
        kept = self._typed.rfind(":") + 1 if ":" in os.environ.get("NEURO_BREAKS", "") else 0
        return f"{item.type},{item.value[kept:]}"
