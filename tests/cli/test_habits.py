"""How all commands behave: what is a result, what is text, what a machine can read."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import JobDescription, Session
from neuro_sync.cli import output
from neuro_sync.cli.jobs import command_of
from neuro_sync.cli.main import neuro as root
from neuro_sync.cli.parameters import DurationType, MomentType
from neuro_sync.local.server import LocalPlatform
from tests.programs import require_programs
from tests.terminals import Terminal

from .conftest import NEURO, Neuro, Process

Start = Callable[[str], JobDescription]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands(root))


@pytest.mark.parametrize("line", COMMANDS)
def test_every_help_has_an_example_of_the_command(line: str) -> None:
    command = COMMANDS[line]
    text = (command.help or "").partition("Example")[2]
    examples = [part for part in text.split("\n") if "neuro " in part]
    assert examples, f"neuro {line} --help shows no example"
    if not isinstance(command, click.Group):
        names = [name for name, other in COMMANDS.items() if other is command]
        assert any(f"neuro {name}" in text for name in names), f"{line}: {text}"


GROUPS = ["", *(line for line, command in COMMANDS.items() if isinstance(command, click.Group))]


@pytest.mark.parametrize("line", GROUPS)
def test_a_list_of_commands_is_a_line_each_in_80_columns(neuro: Neuro, line: str) -> None:
    shown = neuro(f"{line} --help").stdout.splitlines()
    listed = [text for text in shown if re.match(r"  [a-z]", text) and "neuro " not in text]
    assert not [text for text in shown if text.endswith("...") and not text.startswith("Usage")]
    assert max(map(len, shown)) <= 80
    group = COMMANDS[line] if line else root
    assert isinstance(group, click.Group)
    names = group.list_commands(click.Context(group))
    assert {text.split()[0] for text in listed} >= set(names)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), None),
        (("ls",), "ls"),
        (("--", "ls"), "ls"),
        (("echo", "Hello,", "World!"), "echo Hello, 'World!'"),
        (("--", "python", "-c", "print(1)"), "python -c 'print(1)'"),
        (("python -m http.server",), "python -m http.server"),
        (("sh", "-c", "a | b; c"), "sh -c 'a | b; c'"),
        (("--noauth", "--port", "8085"), "--noauth --port 8085"),
        (("--", "--", "x"), "-- x"),
    ],
)
def test_what_follows_the_image_is_the_command(
    words: tuple[str, ...], expected: str | None
) -> None:
    assert command_of(words) == expected


def test_options_before_the_image_are_ours_and_after_it_the_commands(
    neuro: Neuro, session: Session
) -> None:
    neuro("run -n ours --detach ubuntu cat --name theirs -n 5 --help")
    job = session.jobs.status("ours")
    assert job.container.command == "cat --name theirs -n 5 --help"


@pytest.mark.parametrize(
    "line",
    ["ps", "ps --all", "status JOB", "config show", "config get-clusters", "acl ls"],
)
def test_json_parses_and_quiet_is_ids_only(neuro: Neuro, start: Start, line: str) -> None:
    job = start("sleep 60")
    line = line.replace("JOB", job.id)
    shown = neuro(f"{line} --json").stdout
    value = json.loads(shown)
    if line in ("ps", "ps --all"):
        ids = [item["id"] for item in value]
        assert job.id in ids
        assert neuro(f"-q {line}").stdout.splitlines() == ids
    elif line == "status JOB":
        assert value["id"] == job.id
        assert neuro(f"-q {line}").stdout == f"{job.id}\n"
    neuro(f"kill {job.id}")


def test_an_empty_listing_is_json_too(neuro: Neuro) -> None:
    assert neuro("ps --name no-such-name --json").stdout == "[]\n"


def test_quiet_run_prints_the_id_or_the_jobs_output_and_nothing_else(neuro: Neuro) -> None:
    assert neuro("-q run any echo out").output == "out\n"
    assert re.fullmatch(r"job-\S+\n", neuro("-q run --detach any true").output)


def test_attached_run_keeps_standard_output_for_the_job(neuro: Neuro) -> None:
    ended = neuro("run any echo out")
    assert ended.stdout == "out\n"
    assert "Job ID: job-" in ended.stderr


HOSTILE = "[bold]x[/bold] :+1: *a* _b_ `c` \x1b[31mred\x1b[0m \r\x07\u202egnp.exe 名前"


def test_what_users_write_is_text_and_nothing_else(neuro: Neuro, session: Session) -> None:
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command="true",
        description=HOSTILE,
        env={"SECRET": HOSTILE},
        tags=("[red]", ":+1:"),
    )
    shown = r"[bold]x[/bold] :+1: *a* _b_ `c` \x1b[31mred\x1b[0m \r\x07\u202egnp.exe 名前"
    for ended in (neuro("ps --all --wide"), neuro(f"status {job.id}")):
        assert shown in ended.stdout
        assert "\x1b" not in ended.stdout
        assert "\r" not in ended.stdout
    assert json.loads(neuro(f"status {job.id} --json").stdout)["description"] == HOSTILE


@given(st.text())
def test_no_text_moves_the_cursor(text: str) -> None:
    assert not any(map(output.is_hidden, output.visible(text)))


def test_there_is_no_colour_off_a_terminal_unless_asked_for(neuro: Neuro, start: Start) -> None:
    job = start("true")
    assert "\x1b" not in neuro("ps --all").output
    assert "\x1b[" in neuro("--color yes ps --all").output
    assert "\x1b" not in neuro(f"--color no status {job.id}").output


def test_the_log_of_a_job_passes_as_it_is(neuro: Neuro) -> None:
    written = r"printf 'one\r10%%\r100%%\n\033[31mred\033[0m\n\n\nno newline'"
    assert neuro("-q run any -- sh -c", written).stdout == (
        "one\r10%\r100%\n\x1b[31mred\x1b[0m\n\n\nno newline"
    )


def test_an_unfinished_line_is_shown_before_it_is_finished(
    login: object, session: Session, start: Start
) -> None:
    job = start("sh -c 'printf 10%%; sleep 0.6; printf 20%%; sleep 0.6; echo; echo end'")
    ended = subprocess.run(
        [*NEURO, "logs", job.id], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "10%20%\nend\n"


def test_times_are_local_for_people_and_iso_for_machines(neuro: Neuro, start: Start) -> None:
    job = start("true")
    created = job.history.created_at
    assert created is not None
    local = created.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    assert f"Created: {local}\n" in neuro(f"status {job.id}").stdout
    for option in ("--iso", "--iso-datetime-format"):
        shown = neuro(f"{option} status {job.id}").stdout
        assert f"Created: {created.astimezone(timezone.utc).isoformat()}\n" in shown
    assert " ago " in neuro("ps --all").stdout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1d2h3m4s", 93784),
        ("2d3h20min", 184800),
        ("90s", 90),
        ("1h", 3600),
        ("10 minutes", 600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert DurationType().convert(text, None, None) == seconds


@given(st.integers(1, 10**7))
def test_a_duration_that_is_shown_can_be_typed(seconds: int) -> None:
    assert DurationType().convert(output.duration(seconds), None, None) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1h2", "-1h", "1.5h", "1x", "soon"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="should look like 1d2h3m4s"):
        DurationType().convert(text, None, None)


def test_moments() -> None:
    read = MomentType().convert
    assert read("2026-03-01T12:00:00Z", None, None) == datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    assert read("2026-03-01T12:00", None, None).tzinfo is not None
    two_hours = datetime.now(timezone.utc) - read("2h", None, None)
    assert two_hours - timedelta(hours=2) < timedelta(seconds=30)
    with pytest.raises(click.BadParameter):
        read("yesterday", None, None)


def test_the_trace_tells_the_requests_and_never_the_token(
    neuro_process: Process, platform: LocalPlatform, start: Start
) -> None:
    ended = neuro_process(f"--trace status {start('true').id}")
    assert re.search(r"DEBUG GET /api/v1/jobs/job-\S+: 200", ended.stderr)
    assert platform.token not in ended.stderr + ended.stdout


def test_local_means_the_platform_that_runs_here_and_starts_none(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, neuro: Neuro
) -> None:
    monkeypatch.setenv("NEURO_LOCAL_STATE", str(tmp_path))
    ended = neuro("--local ps")
    assert ended.exit_code == 77
    assert f"no local platform runs on {tmp_path}; start one with: neuro local up" in ended.stderr
    with LocalPlatform(str(tmp_path)) as platform:
        ended = neuro("--local config show")
        assert platform.url in ended.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(neuro: Neuro, shell: str) -> None:
    script = neuro(f"completion generate {shell}").stdout
    assert f"_NEURO_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("neuro sta", "status"),
        ("neuro status compl", "completed"),
        ("neuro job kill compl", "completed"),
        ("neuro run --preset cpu-s", "cpu-small"),
        ("neuro ps --status run", "running"),
        ("neuro completion generate b", "bash"),
    ],
)
def test_bash_completes_what_is_typed(
    login: object, session: Session, tmp_path: Path, line: str, offered: str
) -> None:
    job = session.jobs.start(
        image="any", preset_name="cpu-small", name="completed", command="sleep 60"
    )
    assert offered in bash_completions(line, tmp_path)
    session.jobs.kill(job)


def put_program(path: Path) -> None:
    """Write a program that is this command."""
    script = f'#!/bin/sh\nexec {shlex.join(NEURO)} "$@"\n'
    # By another process: a child that a platform in this one forks meanwhile would hold the file
    # open for writing, and what is open so cannot be run.
    subprocess.run(
        ["sh", "-c", 'cat > "$0"; chmod +x "$0"', path], input=script.encode(), check=True
    )


def bash_completions(line: str, folder: Path) -> list[str]:
    """Return what a real bash offers at the end of a line."""
    require_programs("bash")
    put_program(folder / "neuro")
    script = (
        'PATH=$1:$PATH; eval "$(neuro completion generate bash)"; compopt() { :; }\n'
        'COMP_LINE=$2; COMP_POINT=${#2}; _neuro_completion neuro "$3"\n'
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    word = re.split("[ :]", line)[-1]  # which bash replaces
    command = ["bash", "-c", script, "bash", str(folder), line, word]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""
    return ended.stdout.splitlines()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_answered_in_their_own_way(
    neuro_process: Process, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("_NEURO_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "neuro run --preset cpu-s")
    monkeypatch.setenv("COMP_CWORD", "3" if shell == "zsh" else "cpu-s")
    assert "cpu-small" in neuro_process("").stdout


def put_into_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(folder / "neuro")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        (b"neuro sta", b"neuro status"),
        (b"neuro run --preset cpu-lar", b"neuro run --preset cpu-large"),
        (b"neuro ls storage:zsh-", b"neuro ls storage:zsh-folder/"),
    ],
)
def test_zsh_completes_what_is_typed(
    neuro: Neuro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, completed: bytes
) -> None:
    require_programs("zsh")
    put_into_path(tmp_path, monkeypatch)
    monkeypatch.setenv("ZDOTDIR", str(tmp_path))
    (tmp_path / ".zshrc").write_text(
        "PS1=; unsetopt zle_bracketed_paste; autoload -U compinit; compinit -u -D\n"
        'eval "$(neuro completion generate zsh)"; print ready\n'
        "show() { zle -I; print -r -- [$BUFFER]; }; zle -N show; bindkey '^X' show\n"
    )
    neuro("mkdir -p storage:zsh-folder/inside")
    terminal = Terminal(["zsh", "-i", "-o", "no_global_rcs"])
    try:
        terminal.wait_for(b"ready")
        terminal.type(line + b"\t\x18")
        terminal.wait_for(b"[" + completed)
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("neuro sta", "status"),
        ("neuro run --preset cpu-lar", "cpu-large"),
        ("neuro ls storage:fish-", "storage:fish-folder/"),
    ],
)
def test_fish_completes_what_is_typed(
    neuro: Neuro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, offered: str
) -> None:
    require_programs("fish")
    put_into_path(tmp_path, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    neuro("mkdir -p storage:fish-folder/inside")
    script = f"neuro completion generate fish | source; complete -C '{line}'"
    ended = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert offered in [text.partition("\t")[0] for text in ended.stdout.splitlines()]


def test_completion_without_a_platform_offers_nothing_and_says_nothing(
    neuro_process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURO_SYNC_URL", "http://127.0.0.1:9/api/v1")
    monkeypatch.setenv("_NEURO_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", "neuro status a")
    monkeypatch.setenv("COMP_CWORD", "2")
    completed = neuro_process("")
    assert (completed.stdout.strip(), completed.stderr) == ("", "")


HEAVY = ("rich", "fastapi", "uvicorn", "websockets", "docker", "sqlite3", "asyncio", "psutil")


@pytest.mark.parametrize("line", ["--help", "run --help", "status JOB", "ps", "logs JOB"])
def test_a_command_loads_only_what_it_needs(login: object, start: Start, line: str) -> None:
    code = (
        "import sys\n"
        "from neuro_sync.cli.main import neuro\n"
        "try: neuro(sys.argv[1:], prog_name='neuro')\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    words = line.replace("JOB", start("true").id).split()
    ended = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    loaded = set(ended.stderr.split())
    assert not loaded & set(HEAVY)
    if "--help" in line:
        assert not loaded & {"requests", "urllib3", "websocket"}
    if not line.startswith("--"):  # the list of all commands tells what each does
        assert not loaded & {"neuro_sync.cli.local", "neuro_sync.cli.config"}


def test_the_help_opens_no_connection() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a socket')\n"
        "socket.socket.__init__ = refuse\n"
        "from neuro_sync.cli.main import neuro\n"
        "neuro(['--help'], prog_name='neuro')"
    )
    command = [sys.executable, "-c", code]
    assert b"Usage: neuro" in subprocess.run(command, capture_output=True, check=True).stdout


NOT_UTF8 = os.fsdecode(b"caf\xe9")
EXAMPLES = {
    "size": "1G",
    "ports": "0:80",
    "duration": "1h",
    "uri": "storage:x",
    "permission": "read",
    "source": "storage:x",
    "sources": "storage:x",
    "destination": "x",
}
ON_A_PLATFORM = [
    line
    for line, command in COMMANDS.items()
    if not isinstance(command, click.Group)
    and line.split()[0] not in ("local", "config", "login", "logout", "doctor", "completion")
]


@pytest.mark.parametrize("line", ON_A_PLATFORM)
def test_no_argument_that_is_not_utf8_is_a_traceback(
    neuro: Neuro, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = COMMANDS[line].params
    arguments = [parameter for parameter in parameters if isinstance(parameter, click.Argument)]
    texts = [p for p in parameters if not (isinstance(p, click.Option) and (p.is_flag or p.count))]
    for odd in texts:
        words = [
            NOT_UTF8 if argument is odd else EXAMPLES.get(str(argument.name), "x")
            for argument in arguments
            if argument.required or argument is odd
        ]
        options = [odd.opts[0], NOT_UTF8] if isinstance(odd, click.Option) else []
        ended = neuro(line, *options, *words)
        assert "surrogate" not in ended.output
        assert "unicode" not in ended.output
        if ended.exit_code:
            assert "Error: " in ended.output


def test_the_bytes_of_an_argument_are_the_value_of_a_secret(neuro: Neuro) -> None:
    assert neuro("secret add bytes", NOT_UTF8).exit_code == 0
    assert neuro("secret get bytes").stdout_bytes == b"caf\xe9"
    neuro("secret rm bytes")
