"""What a child of a fork inherits goes on in its parent, however the child ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PARENT = """
import os, socket, sys, time
from neuro_sync import Session
from neuro_sync.local.server import LocalPlatform

START = {"image": "any", "preset_name": "cpu-small"}
SERVE = (
    "import socket; s = socket.create_server(('127.0.0.1', 0));"
    "print(s.getsockname()[1], flush=True)\\n"
    "while True: s.accept()[0].sendall(b'served')"
)

def served(forward):
    with socket.create_connection(("127.0.0.1", forward.local_port)) as connection:
        return connection.recv(6)

owner = Session.local(ephemeral=True)
platform = LocalPlatform(ephemeral=True, cores=100, grace=0.5).start()
session = Session(platform.url, platform.token)
server = session.jobs.start(command=["python3", "-c", SERVE], **START)
port = int(next(session.jobs.logs(server)))
job = session.jobs.start(command="sh -c 'while :; do echo x; sleep 0.05; done'", **START)
lines, view = session.jobs.logs(job), session.with_options(timeout=(5, 30))
monitored, listed = session.jobs.monitor(job), session.jobs.list()
next(lines), next(monitored), next(listed)
stream = session.jobs.exec(job, "cat", stdin=True)
forward = session.jobs.port_forward(server, 0, port)
assert served(forward) == b"served"
"""
GOES_ON = """
for _ in range(3):
    assert next(lines) == "x"
assert next(monitored)
stream.write_in(b"a\\n")
assert stream.read_out().data == b"a\\n"
assert served(forward) == b"served"
two = session.jobs.start(command="echo two", **START)
assert list(session.jobs.logs(two)) == ["two"]
session.jobs.wait(two)
owner.jobs.tags()
print("goes on", flush=True)
"""
ENDS = {
    "sys.exit": "sys.exit(0)",
    "exception": "raise RuntimeError",
    "with": "\n    with session, lines, monitored, listed, stream, forward: sys.exit(0)",
    "close": "\n    for one in (lines, monitored, listed, stream, forward): one.close()"
    "\n    for one in (view, session, owner, platform): one.close()\n    sys.exit(0)",
    "use": "assert session.jobs.status(job).id == job.id; sys.exit(0)",
    "dropped": "\n    del lines, monitored, listed, stream, forward, session, view, owner"
    "\n    sys.exit(0)",
}


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_forked_child_that_ends_leaves_to_its_parent_all_that_is_open(end: str) -> None:
    done = run(f"{PARENT}child = os.fork()\nif child == 0: {end}\nos.waitpid(child, 0)\n{GOES_ON}")
    assert done.stdout == "goes on\n", done.stderr


def test_a_forked_child_that_lives_on_keeps_nothing_from_ending(tmp_path: Path) -> None:
    code = """
child = os.fork()
if child == 0:
    time.sleep(60)
try:
    once = session.jobs.exec(job, "cat", stdin=True)
    stream.close_stdin()
    assert stream.wait(timeout=10) == 0
    forward.close()
    try:
        served(forward)
    except ConnectionRefusedError:
        pass
    platform.close()
    for _ in range(2):  # the folder is free again
        with Session.local(state=sys.argv[1]) as session:
            child_2 = os.fork()
            if child_2 == 0:
                time.sleep(60)
            session.jobs.wait(session.jobs.start(command="true", **START))
        os.kill(child_2, 9)
    print("ended")
finally:
    os.kill(child, 9)
"""
    done = run(PARENT + code, str(tmp_path))
    assert done.stdout == "ended\n", done.stderr
