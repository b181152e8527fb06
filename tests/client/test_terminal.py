"""A real terminal around `interact`: what is typed and shown, and how the terminal is left."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import JobDescription, NotSupported, Session
from neuro_sync.client.terminal import DetachKeys
from neuro_sync.local.server import LocalPlatform
from tests.terminals import Terminal

SHELL = "env PS1='# ' sh"
"""Its prompt is the same for root and for others."""
PROGRAM = """
import sys, threading, signal
import neuro_sync
url, token, job, command, extra = sys.argv[1:]
with neuro_sync.Session(url, token) as session:
    with session.jobs.exec(job, command, tty=True, stdin=True) as stream:
        exec(extra)
        try:
            print("ENDED", stream.interact(), flush=True)
        except BaseException as error:
            print("RAISED", type(error).__name__, flush=True)
            raise
"""


Open = Callable[..., Terminal]


@pytest.fixture
def open_terminal(
    platform: LocalPlatform, session: Session, start: Callable[[str], JobDescription]
) -> Iterator[Open]:
    job = start("sh -c 'echo ready; exec sleep 60'")
    with session.jobs.logs(job) as lines:
        next(lines)
    opened: list[Terminal] = []

    def open_one(command: str = SHELL, extra: str = "") -> Terminal:
        where = [platform.url, platform.token, job.id]
        program = [sys.executable, "-W", "error", "-c", PROGRAM, *where, command, extra]
        opened.append(Terminal(program))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()
    session.jobs.kill(job)


def test_what_is_typed_is_run_and_the_exit_code_is_told(open_terminal: Open) -> None:
    terminal = open_terminal()
    terminal.wait_for(b"# ")
    assert not terminal.is_restored  # each key goes through as it is typed
    terminal.type(b"stty size; exit 7\r")
    terminal.wait_for(b"ENDED 7")
    assert b"31 99" in terminal.shown
    assert terminal.wait() == 0
    assert terminal.is_restored


def test_a_new_size_of_the_terminal_is_passed_on(open_terminal: Open) -> None:
    terminal = open_terminal(
        "sh -c 'trap \"stty size\" WINCH; echo on; while :; do sleep .02; done'"
    )
    terminal.wait_for(b"on")
    terminal.resize(44, 123)
    terminal.program.send_signal(signal.SIGWINCH)
    terminal.wait_for(b"44 123")
    terminal.type(b"\x10\x11")
    terminal.wait_for(b"ENDED None")
    assert terminal.wait() == 0
    assert terminal.is_restored


def test_sizes_that_change_while_something_is_typed_hold_nothing_up(open_terminal: Open) -> None:
    terminal = open_terminal()
    terminal.wait_for(b"# ")
    for number in range(1000):
        terminal.type(b":")
        terminal.resize(40 + number % 2, 100)
        terminal.program.send_signal(signal.SIGWINCH)
    # The last size may come after what is typed next.
    terminal.type(b"\runtil stty size | grep 41; do sleep .02; done; exit 7\r")
    terminal.wait_for(b"ENDED 7")
    assert b"41 100" in terminal.shown
    assert terminal.wait() == 0


def test_ctrl_p_ctrl_q_leaves_and_ctrl_c_is_for_the_command(open_terminal: Open) -> None:
    terminal = open_terminal(
        "sh -c 'trap \"echo got it\" INT; echo on; while :; do sleep .02; done'"
    )
    terminal.wait_for(b"on")
    terminal.type(b"\x03")
    terminal.wait_for(b"got it")
    terminal.type(b"\x10\x11")
    terminal.wait_for(b"ENDED None")
    assert terminal.wait() == 0
    assert terminal.is_restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_program_that_is_killed_restores_the_terminal(
    open_terminal: Open, number: signal.Signals
) -> None:
    terminal = open_terminal()
    terminal.wait_for(b"# ")
    terminal.program.send_signal(number)
    assert terminal.wait() == -number
    assert terminal.is_restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_the_program_passes_over_changes_nothing(
    open_terminal: Open, number: signal.Signals
) -> None:
    # As nohup and a shell's background have it.
    terminal = open_terminal(extra=f"signal.signal({number:d}, signal.SIG_IGN)")
    terminal.wait_for(b"# ")
    terminal.program.send_signal(number)
    terminal.type(b"echo st''ill\r")
    terminal.wait_for(b"still")
    assert not terminal.is_restored
    terminal.type(b"exit 7\r")
    terminal.wait_for(b"ENDED 7")
    assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("extra", "raised"),
    [
        ("", b"KeyboardInterrupt"),
        ("signal.signal(signal.SIGINT, lambda *_: 1 / 0)", b"ZeroDivisionError"),
    ],
)
def test_an_exception_restores_the_terminal(open_terminal: Open, extra: str, raised: bytes) -> None:
    terminal = open_terminal(extra=extra)
    terminal.wait_for(b"# ")
    terminal.program.send_signal(signal.SIGINT)
    terminal.wait_for(b"RAISED " + raised)
    assert terminal.wait() != 0
    assert terminal.is_restored


def test_a_connection_that_breaks_restores_the_terminal(open_terminal: Open) -> None:
    extra = "threading.Timer(0.2, lambda: stream._websocket._shut()).start()"
    terminal = open_terminal(extra=extra)
    terminal.wait_for(b"RAISED StreamInterrupted")
    assert terminal.wait() != 0
    assert terminal.is_restored


@given(st.lists(st.binary(max_size=6).map(lambda data: data.replace(b"\x11", b"q"))))
def test_keys_that_do_not_detach_all_go_through(typed: list[bytes]) -> None:
    keys = DetachKeys()
    passed = [keys.feed(piece) for piece in [*typed, b"end"]]
    assert not any(detached for _, detached in passed)
    assert b"".join(data for data, _ in passed) == b"".join(typed) + b"end"


@pytest.mark.parametrize("pieces", [[b"ab\x10\x11cd"], [b"ab", b"\x10", b"\x11"]])
def test_the_keys_are_found_however_they_come(pieces: list[bytes]) -> None:
    keys = DetachKeys()
    passed = [keys.feed(piece) for piece in pieces]
    assert b"".join(data for data, _ in passed) == b"ab"
    assert passed[-1][1]


MANY_FILES = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
import neuro_sync
url, token, job = sys.argv[1:]
with neuro_sync.Session(url, token) as session:
    sys.exit(session.jobs.exec(job, "sh -c 'read x; echo $x; exit 3'", stdin=True).interact())
"""


def test_a_process_with_more_than_1024_open_files_may_interact(
    platform: LocalPlatform, session: Session, start: Callable[[str], JobDescription]
) -> None:
    job = session.jobs.wait(start("sleep 60"), until="running")
    program = [sys.executable, "-W", "error", "-c", MANY_FILES, platform.url, platform.token]
    done = subprocess.run(
        [*program, job.id], input=b"hi\n", capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"hi\n", b"")
    session.jobs.kill(job)


class NotebookStream(io.TextIOBase):
    """A stream as a notebook has them: it is shown elsewhere than its descriptor leads."""

    def fileno(self) -> int:
        return 1


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize(
    "stream",
    [NotebookStream(), io.StringIO("typed"), io.TextIOWrapper(io.BytesIO()), None, "closed"],
    ids=["notebook", "text", "bytes", "none", "closed"],
)
def test_without_files_to_connect_an_error_names_what_works(
    session: Session,
    start: Callable[[str], JobDescription],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stream: object,
) -> None:
    if stream == "closed":
        stream = open(os.devnull)  # noqa: SIM115  # closed on the next line
        stream.close()
    job = session.jobs.wait(start("sleep 60"), until="running")
    with open(os.devnull, "r+") as null, session.jobs.exec(job, "echo out") as command:
        for other in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, other, null)
        monkeypatch.setattr(sys, name, stream)
        with pytest.raises(NotSupported, match=f"sys.{name} is no open file.*run_command"):
            command.interact()
        monkeypatch.undo()
        assert command.communicate().stdout == b"out\n"  # it is as it was
    session.jobs.kill(job)
