"""Programs that replace parts of the standard library: frozen clocks, green threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest
from freezegun import freeze_time

from neuro_sync import CommandTimeout, JobDescription, Session, WaitTimeout
from neuro_sync.local.server import LocalPlatform

Start = Callable[[str], JobDescription]

PYTHON = [sys.executable, "-W", "ignore", "-c"]
GREEN = """
import os, sys

def patch():
    if sys.argv[1] == "gevent":
        from gevent import monkey
        monkey.patch_all()
    else:
        import eventlet
        eventlet.monkey_patch()

if sys.argv[2] == "before":
    patch()
from neuro_sync import Session
session = Session(*sys.argv[3:])
session.username  # it has a connection, and has started threads
if sys.argv[2] == "after":  # as in a worker of a web server whose application was loaded before
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    patch()
import socket, threading, time

START = {"image": "any", "preset_name": "cpu-small"}
ticks = [0]

def tick():
    while True:
        time.sleep(0.02)
        ticks[0] += 1

threading.Thread(target=tick, daemon=True).start()
with session:
    job = session.jobs.start(command="sh -c 'echo begun; exec sleep 60'", **START)
    lines = session.jobs.logs(job)
    assert next(lines) == "begun"
    lines.close()
    for _ in range(5):
        assert session.jobs.run_command(job, "cat", input=b"x", timeout=20).stdout == b"x"
    with session.jobs.exec(job, "cat", stdin=True) as stream:
        stream.write_in(b"a\\n")
        assert stream.read_out(timeout=20).data == b"a\\n"
    with session.jobs.port_forward(job, 0, 9) as forward:
        with socket.create_connection(("127.0.0.1", forward.local_port)) as connection:
            assert connection.recv(1) == b""
    session.storage.create("storage:green", b"x")
    assert list(session.storage.list("storage:"))
    ticks[0] = 0
    session.jobs.run_command(job, "sleep 1", timeout=20)
    assert ticks[0] > 10, "the other threads stood still"
    session.jobs.kill(job)
print("works")
"""


@pytest.mark.parametrize("patched", ["before", "after"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_exec_and_streams_work_with_green_threads(
    library: str, patched: str, platform: LocalPlatform
) -> None:
    if find_spec(library) is None:  # to import it here would change this process
        pytest.skip(f"{library} is not installed")
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            GREEN,
            library,
            patched,
            platform.url,
            platform.token,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "works\n", done.stderr


def test_a_timeout_passes_while_the_clock_is_frozen(session: Session, start: Start) -> None:
    job = session.jobs.wait(start("sleep 60"), until="running")
    with freeze_time("2026-01-01"):
        with pytest.raises(WaitTimeout):
            session.jobs.wait(job, timeout=0.5)
        with pytest.raises(CommandTimeout):
            session.jobs.run_command(job, "sleep 60", timeout=0.5)
        # The platform's own timers pass as well, although it is part of this program.
        with Session.local(ephemeral=True) as local:
            stopped = local.jobs.start(
                image="any", preset_name="cpu-small", command="sleep 60", life_span=60
            )
            assert local.jobs.wait(stopped, until="running").history.run_time_seconds < 30
    session.jobs.kill(job)
