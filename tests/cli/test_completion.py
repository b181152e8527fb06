"""What the Tab key inserts: whatever is offered reaches the program as one argument."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from neuro_sync import Session
from neuro_sync.cli.main import neuro as command
from neuro_sync.cli.output import visible
from neuro_sync.cli.shell_words import command_line, escaped, read
from neuro_sync.models.uris import quoted_name
from tests.conftest import OtherPlatform
from tests.processes import eventually
from tests.programs import require_programs
from tests.scripted_platform import answer, job, scripted_platform
from tests.terminals import Terminal

pytestmark = pytest.mark.skipif(OtherPlatform.VARIABLE in os.environ, reason="needs a pty")

SHELLS = ("bash", "zsh", "fish")
START = {
    "bash": ["bash", "--norc", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
PREPARE = {
    "bash": "PS1=; bind 'set enable-bracketed-paste off'; ",
    "zsh": "PS1=; unsetopt zle_bracketed_paste; autoload -U compinit; compinit -u -D; ",
    "fish": "function fish_prompt; end; function fish_greeting; end; ",
}
HOSTILE = (
    ";touch P;$(touch P)`touch P`&touch P|tee P>P<P # ",
    'it\'s "quoted" \\and\\\\ more\\',
    "~*?[a]{b,c}!!!$HOME=ls^a:b%1, two  spaces!",
    "größe\u00a0\u3000Ж!\"'",
)
BYTES = "\x1b[2J\udcff"
HIDDEN = ("\x1b[31m", "a\nb", "\r", "\x9b2J", "\u202e", "\u200b", "\x7f")


class Shell:
    """An interactive shell in an empty folder; the program `neuro` records its arguments."""

    def __init__(self, name: str, folder: Path) -> None:
        require_programs(name)
        self.name = name
        self.folder = folder / "here"
        self.folder.mkdir()
        self._arguments = folder / "arguments"
        self._asked, self._answer = folder / "asked", folder / "answer"
        for pipe in (self._asked, self._answer):
            os.mkfifo(pipe)
        program = folder / "neuro"
        text = (
            '#!/bin/sh\nif [ -n "$_NEURO_COMPLETE" ]; then\n'
            f"  env -0 >{self._asked}; exec cat {self._answer}\nfi\n"
            f"printf '%s\\0' \"$@\" >{folder}/new; mv {folder}/new {self._arguments}\n"
        )
        # By another process, as in `put_program`.
        subprocess.run(
            ["sh", "-c", 'cat >"$0"; chmod +x "$0"', program], input=text.encode(), check=True
        )
        self._server = threading.Thread(target=self._complete, daemon=True)
        self._server.start()
        self._terminal = Terminal(START[name])
        script = folder / "script"
        script.write_text(CliRunner().invoke(command, ["completion", "generate", name]).output)
        self.type(f"cd {self.folder}; {PREPARE[name]}source {script}; echo re''ady\r")
        self._terminal.wait_for(b"ready\r\n")

    def type(self, text: str) -> None:
        self._terminal.type(text.encode())

    def arguments(self, typed: str) -> list[str]:
        """Type a line and Enter; return the arguments that the program got."""
        self._arguments.unlink(missing_ok=True)
        self.type(f"{typed}\r")
        eventually(self._arguments.exists, repr(typed))
        return os.fsdecode(self._arguments.read_bytes()).split("\0")[:-1]

    def _complete(self) -> None:
        """Complete in this process, which takes no time to start."""
        while asked := self._asked.read_bytes():
            pairs = (pair.partition("=") for pair in os.fsdecode(asked).split("\0"))
            variables = {name: value for name, _, value in pairs if name}
            answer = CliRunner().invoke(command, [], prog_name="neuro", env=variables)
            self._answer.write_bytes(answer.stdout_bytes)

    def export(self, name: str, value: str) -> None:
        """Set a variable in the environment of the program."""
        self.type(
            f"set -gx {name} {value}\r" if self.name == "fish" else f"export {name}={value}\r"
        )

    @property
    def shown(self) -> bytes:
        return self._terminal.rest()

    def close(self) -> None:
        self._terminal.close()
        os.close(os.open(self._asked, os.O_RDWR))  # without a word: the end
        self._server.join(1)


@pytest.fixture(params=SHELLS)
def shell(
    request: pytest.FixtureRequest,
    login: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shell]:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    opened = Shell(request.param, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def folder(login: object, session: Session, tmp_path: Path) -> str:
    """A folder of the storage."""
    uri = f"storage:{tmp_path.name}"
    session.storage.mkdir(uri)
    return uri


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_hostile_file_name_is_inserted_as_one_argument(
    shell: Shell, session: Session, folder: str, quote: str
) -> None:
    paths = [
        f"{folder}/{number}{quoted_name(name)}" for number, name in enumerate((*HOSTILE, BYTES))
    ]
    for path in paths:
        session.storage.create(path, b"")
    for number, path in enumerate(paths):
        assert shell.arguments(f"neuro rm {quote}{folder}/{number}\t") == ["rm", path]
        assert list(shell.folder.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash"], indirect=True)
def test_what_names_have_in_common_is_inserted_whole(
    shell: Shell, session: Session, folder: str
) -> None:
    for name in ("a;$(touch P) b", "a;$(touch P);c", "b c", "b;c", "b,"):
        session.storage.create(f"{folder}/{name}", b"")
    assert shell.arguments(f"neuro ls {folder}/a\t\t\\;\t") == ["ls", f"{folder}/a;$(touch P);c"]
    # Quoted, these have a backslash in common, or a quote.
    assert shell.arguments(f"neuro ls {folder}/b\t\t\x15neuro ls {folder}/b,") == [
        "ls",
        f"{folder}/b,",
    ]
    assert list(shell.folder.iterdir()) == []


def test_names_of_jobs_and_presets_are_arguments_too(
    shell: Shell,
) -> None:
    with scripted_platform() as platform:
        config = platform.config()
        names = [f"n{number}{name}" for number, name in enumerate((*HOSTILE, *HIDDEN))]
        names += ["-f", "--volume=/:/host"]
        presets = [{"name": name, "cpu": 1.0, "memory": 2**30} for name in names]
        config["clusters"][0]["resource_presets"] = presets  # type: ignore[index]
        platform.script["GET /api/v1/config"] = answer(config)
        platform.script["GET /api/v1/jobs"] = answer(
            {"jobs": [job() | {"id": f"job-{name}", "name": name} for name in names]}
        )
        shell.export("NEURO_SYNC_URL", platform.url)
        shell.export("NEURO_SYNC_TOKEN", platform.token)
        for number, name in enumerate(HOSTILE):
            assert shell.arguments(f"neuro kill n{number}\t") == ["kill", f"n{number}{name}"]
        given = shell.arguments("neuro run --preset n0\t image")
        assert given == ["run", "--preset", f"n0{HOSTILE[0]}", "image"]
        given = shell.arguments("neuro run --preset=n1\t image")
        assert given == ["run", f"--preset=n1{HOSTILE[1]}", "image"]
        # Of those that cannot be shown as they are nothing is seen.
        assert shell.arguments("neuro kill n\t\t\x15neuro kill n4\t") == ["kill", "n4"]
        assert b"n4\x1b[31m" not in shell.shown
    assert list(shell.folder.iterdir()) == []


def test_files_of_this_machine_are_arguments_and_no_options(shell: Shell) -> None:
    names = [f"f{number}{name}" for number, name in enumerate((*HOSTILE, BYTES))]
    for name in names:
        (shell.folder / name).touch()
    for number, name in enumerate(names):
        assert shell.arguments(f"neuro cp f{number}\t there") == ["cp", name, "there"]
    assert sorted(os.listdir(shell.folder)) == sorted(names)
    for path in shell.folder.iterdir():
        path.unlink()
    (shell.folder / "--config-path=x").touch()
    assert shell.arguments("neuro cp \t\t\x15neuro cp \t")[-1] != "--config-path=x"


def arguments_of(shell: str, words: list[str]) -> list[bytes]:
    """Return what a program gets of words that are written as they are for a shell."""
    lines = "\n".join(f"printf '%s\\0' {word}" for word in words)
    command = [*require_programs(shell), "-c", lines]
    ended = subprocess.run(
        command, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}, timeout=60
    )
    return ended.stdout.split(b"\0")[:-1]


SHOWN = st.lists(
    st.text(st.sampled_from("ab;|&<>()$`\\\"' !#*?[]{}~=:%^,-é\u3000"), min_size=1).filter(
        lambda text: visible(text) == text
    ),
    min_size=50,
    max_size=50,
)
ANY = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.just("\udcff")),
    min_size=50,
    max_size=50,
)


@given(SHOWN)
@settings(max_examples=10)
def test_bash_reads_the_very_text_that_was_escaped(names: list[str]) -> None:
    for quote in ("", "'", '"'):
        words = [quote + escaped(name, quote) + quote for name in names]
        assert arguments_of("bash", words) == [*map(os.fsencode, names)]
        assert [read(word).words[-1] for word in words] == names


@pytest.mark.parametrize("shell_name", ["bash", "zsh"])
@given(names=ANY)
@settings(max_examples=10)
def test_a_command_line_to_copy_has_the_very_words_and_can_be_shown(
    shell_name: str, names: list[str]
) -> None:
    words = [command_line(name) for name in names]
    assert arguments_of(shell_name, words) == [*map(os.fsencode, names)]
    assert [visible(word) for word in words] == words


def test_scripts_of_earlier_versions_get_names_quoted_too(session: Session, folder: str) -> None:
    session.storage.create(f"{folder}/a b;$(touch P)", b"")
    for quote in ("", "'", '"'):
        variables = {
            "_NEURO_COMPLETE": "bash_complete",
            "NEURO_LINE": f"neuro ls {quote}{folder}/a",
            "NEURO_BREAKS": " \t\n\"'><=;|&(:",
        }
        answer = CliRunner().invoke(command, [], prog_name="neuro", env=variables).stdout
        kind, _, inserted = answer.rstrip("\n").partition(",")
        kept = quote or "storage:"
        assert kind == "plain"
        assert arguments_of("bash", [kept + inserted]) == [f"{folder}/a b;$(touch P)".encode()]
