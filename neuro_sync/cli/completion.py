"""The command that lets a shell complete what is typed, and how each shell is answered.

What is offered was mostly named by a platform or by other users. It reaches the program as one
argument, whatever it is; a shell that inserted it as it is would run ``$(...)`` in it. bash gets it
quoted for what is typed already, zsh and fish quote it themselves. Names that no shell can show as
they are, and names that would be options, are not offered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

from . import output
from .shell_words import Line, escaped, read

VARIABLE = "_NEURO_COMPLETE"
"""Set by the shell's script; then the program completes instead of doing anything."""
SHELLS = ("bash", "zsh", "fish")
UNFINISHED = ("/", "storage:")
"""How a word ends that goes on: a folder, or the scheme of an address."""


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


class _Offers(ShellComplete):
    """Offers whole words that are safe to insert."""

    def get_completion_args(self) -> tuple[list[str], str]:
        text = os.environ.get("NEURO_LINE")
        if text is None:  # the script is of an earlier version, in somebody's start-up file
            args, incomplete = super().get_completion_args()
            self.line = Line([self.prog_name, *args, incomplete])
        else:
            self.line = read(text, fish=self.name == "fish")
        return self.line.words[1:-1], self.line.words[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        if self.line.is_file:
            return [CompletionItem(incomplete, type="file")]
        option, equals, _ = incomplete.partition("=")
        is_option = incomplete.startswith("-") and "--" not in args
        lead = option + equals if is_option and equals else ""
        return [
            CompletionItem(lead + item.value, item.type, item.help)
            for item in super().get_completions(args, incomplete)
            if item.type != "plain"
            or (_is_safe(item.value) and (is_option or not item.value.startswith("-")))
        ]


def _is_safe(name: str) -> bool:
    return output.visible(name) == name


@add_completion_class
class Bash(_Offers, BashComplete):
    """Completion for bash, which inserts what it gets as it is.

    It replaces only what comes after a quote or a character of COMP_WORDBREAKS, such as the colon;
    to us ``storage:a`` is one word.
    """

    source_template = """\
%(complete_func)s() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            open,*) compopt -o nospace; COMPREPLY+=("${line#*,}") ;;
            plain,*) COMPREPLY+=("${line#*,}") ;;
        esac
    done < <(env NEURO_LINE="${COMP_LINE:0:COMP_POINT}" NEURO_WORD="$2" \\
        NEURO_BREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def complete(self) -> str:
        """Return the lines that the script of the shell reads, one for each completion."""
        items = self.get_completions(*self.get_completion_args())
        others = [f"{item.type}," for item in items if item.type != "plain"]
        names = [item.value for item in items if item.type == "plain"]
        return "\n".join([*others, *self._inserted(names)])

    def _inserted(self, names: Sequence[str]) -> Iterator[str]:
        """Return the names as bash inserts them instead of what it replaces."""
        line = os.environ["NEURO_LINE"]
        kept_line = line[: len(line) - len(_replaced(line, self.line))]
        before = read(kept_line)
        kept = before.words[-1]
        names = [name for name in names if name.startswith(kept)]
        # Else bash and we do not agree about which quote is open.
        is_clear = before.quote == (kept_line[-1:] if kept_line[-1:] in ("'", '"') else "")
        if not names or not is_clear:
            return
        common = _common(names)
        # Where bash found the common part itself, it could end within a quote.
        if len(names) > 1 and len(common) > len(self.line.words[-1]):
            yield f"open,{_closed(common[len(kept) :], before.quote)}"
            return
        inserted = [_closed(name[len(kept) :], before.quote) for name in names]
        if len(names) > 1 and _common(inserted, str.lower) != escaped(
            common[len(kept) :], before.quote
        ):
            # So that they have nothing in common, and bash only lists them.
            inserted[0] = _written_otherwise(names[0][len(kept) :], before.quote)
        goes_on = len(names) == 1 and names[0].endswith(UNFINISHED)
        yield from (f"{'open' if goes_on else 'plain'},{text}" for text in inserted)


def _replaced(line: str, read_line: Line) -> str:
    """Return the end of a line that bash replaces."""
    word = os.environ.get("NEURO_WORD")
    if word is not None and line.endswith(word):
        return word
    # The script is of an earlier version, in somebody's start-up file.
    breaks = read_line.quote or (":" if ":" in os.environ.get("NEURO_BREAKS", "") else " ")
    end = line.rpartition(breaks)[2]
    return end.rpartition(" ")[2] if not read_line.quote else end


def _closed(text: str, quote: str) -> str:
    """Quote a text; where a quote is open, bash would close it only if none is at the end."""
    return escaped(text, quote) + quote


def _written_otherwise(text: str, quote: str) -> str:
    if quote:
        return quote + escaped(text) + quote + quote
    return f"'{escaped(text, chr(39))}'"


def _common(texts: Sequence[str], key: Callable[[str], str] = str) -> str:
    """Return what texts begin with; with `str.lower`, as bash may find it if case is ignored."""
    keys = [[*map(key, text)] for text in texts]
    least, most = min(keys), max(keys)
    differs = (at for at, mark in enumerate(least) if most[at : at + 1] != [mark])
    return texts[0][: next(differs, len(least))]


@add_completion_class
class Zsh(_Offers, ZshComplete):
    """Completion for zsh, which quotes what it inserts."""

    source_template = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local kind value help
    local -a response described whole open
    (( $+commands[%(prog_name)s] )) || return 1
    response=("${(@f)$(env NEURO_LINE="${words[1,CURRENT-1]} $IPREFIX$QIPREFIX$PREFIX" \\
        %(complete_var)s=zsh_complete %(prog_name)s)}")
    for kind value help in "${(@)response}"; do
        case $kind in
            dir) _path_files -/ ;;
            # A name that begins with a dash would be an option.
            file) _path_files -F '-*' ;;
            open) open+=("$value") ;;
            plain) [[ $help == _ ]] && whole+=("$value") || described+=("$value:$help") ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#open )) && compadd -U -S '' -V unsorted -a open
    (( $#whole )) && compadd -U -V unsorted -a whole
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

    def format_completion(self, item: CompletionItem) -> str:
        if item.type == "plain" and item.value.endswith(UNFINISHED) and "NEURO_LINE" in os.environ:
            return f"open\n{item.value}\n_"
        return super().format_completion(item)


@add_completion_class
class Fish(_Offers, FishComplete):
    """Completion for fish, which quotes what it inserts."""

    source_template = """\
function %(complete_func)s
    for line in (env NEURO_LINE=(commandline -cp | string collect) \\
            %(complete_var)s=fish_complete %(prog_name)s)
        set -l found (string split --max 1 , -- $line)
        switch $found[1]
            case dir
                __fish_complete_directories $found[2]
            case file
                __fish_complete_path $found[2]
            case plain
                echo -- $found[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""
