"""One session, any number of threads, and the children of a fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuro_sync import JobDescription, Session
from neuro_sync.local.server import LocalPlatform

Start = Callable[[str], JobDescription]
THREADS = 8
ROUNDS = 125


def test_eight_threads_share_a_session_for_10000_calls_without_crosstalk(
    session: Session, start: Start
) -> None:
    jobs = [start(f"sh -c 'echo thread {number}; sleep 600'") for number in range(THREADS)]
    for job in jobs:
        session.jobs.wait(job, until="running")

    def work(number: int) -> int:
        """Make ten calls a round: eight questions, a log and a command."""
        job, calls = jobs[number], 0
        for round_number in range(ROUNDS):
            for _ in range(8):
                assert session.jobs.status(job.id).id == job.id
            with session.jobs.logs(job) as lines:
                assert next(lines) == f"thread {number}"
            code = (number * ROUNDS + round_number) % 256
            done = session.jobs.run_command(job, ["sh", "-c", f"echo {code}; exit {code}"])
            assert (done.exit_code, done.stdout) == (code, f"{code}\n".encode())
            calls += 10
        return calls

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(work, range(THREADS))) == 10_000
    for job in jobs:
        session.jobs.kill(job)


def test_threads_live_only_while_something_is_open(session: Session, start: Start) -> None:
    job = session.jobs.wait(start("sleep 60"), until="running")
    before = threading.active_count()
    with session.jobs.logs(job), session.jobs.exec(job, "sleep 60"):
        assert threading.active_count() > before
    assert threading.active_count() == before
    session.jobs.kill(job)


FORKS = """
import os, sys
from neuro_sync import Session

url, token, job_id = sys.argv[1:]
session = Session(url, token)
assert session.jobs.status(job_id).id == job_id  # there is a connection before the fork

def hundred():
    return all(session.jobs.status(job_id).id == job_id for _ in range(100))

children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        os._exit(0 if hundred() else 1)
    children.append(child)
assert hundred()
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""


def test_four_children_of_a_fork_and_their_parent_each_get_their_own_answers(
    platform: LocalPlatform, start: Start
) -> None:
    job = start("true")
    arguments = [platform.url, platform.token, job.id]
    subprocess.run([sys.executable, "-c", FORKS, *arguments], check=True, timeout=60)


APPLICATION = """
import json, os
from urllib.parse import parse_qs
from neuro_sync import Session

session = Session()
session.cluster_name  # the connection is made before gunicorn forks

def application(environ, respond):
    job_id = parse_qs(environ["QUERY_STRING"])["job"][0]
    with session.jobs.logs(job_id) as lines:
        first = next(lines)
    done = session.jobs.run_command(job_id, ["echo", "ran"], text=True)
    answer = {
        "id": session.jobs.status(job_id).id,
        "line": first,
        "output": done.stdout,
        "process": os.getpid(),
    }
    respond("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""


@contextmanager
def gunicorn(folder: Path, platform: LocalPlatform, worker: list[str]) -> Iterator[str]:
    """Serve the application with two workers, loaded before they are forked."""
    (folder / "application.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", *worker]
    command += ["--bind", "127.0.0.1:0", "--chdir", str(folder), "application:application"]
    known = {"NEURO_SYNC_URL": platform.url, "NEURO_SYNC_TOKEN": platform.token}
    with subprocess.Popen(
        command, env={**os.environ, **known}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        url = next(
            line.split("at: ")[1].split()[0] for line in process.stderr if "Listening at: " in line
        )
        # Shown if the test fails: an application's error is only told there.
        rest = threading.Thread(target=lambda: sys.stderr.write(process.stderr.read()))  # type: ignore[union-attr]
        rest.start()
        try:
            yield url
        finally:
            process.terminate()
            process.wait(20)
            rest.join()


@pytest.mark.parametrize(
    "worker", [["--worker-class", "sync"], ["--worker-class", "gthread", "--threads", "4"]]
)
def test_a_session_made_before_gunicorn_forks_serves_all_workers(
    platform: LocalPlatform, session: Session, start: Start, tmp_path: Path, worker: list[str]
) -> None:
    jobs = [start(f"sh -c 'echo job {number}; sleep 600'") for number in range(4)]
    for job in jobs:
        session.jobs.wait(job, until="running")
    with gunicorn(tmp_path, platform, worker) as url, ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> int:
            job = jobs[number % 4]
            with urllib.request.urlopen(f"{url}/?job={job.id}", timeout=30) as reply:
                answer = json.load(reply)
            assert answer["id"] == job.id
            assert answer["line"] == f"job {number % 4}"
            assert answer["output"] == "ran\n"
            return int(answer["process"])

        assert len(set(pool.map(ask, range(80)))) == 2
    for job in jobs:
        session.jobs.kill(job)
