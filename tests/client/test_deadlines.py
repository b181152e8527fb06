"""A `timeout=` bounds the whole call, whatever the platform does with its time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from neuro_sync import (
    CommandTimeout,
    ConnectionFailed,
    JobDescription,
    JobFailed,
    Session,
    WaitTimeout,
)
from neuro_sync.transport.deadlines import bounded, call_deadline, seconds_left
from tests.scripted_platform import (
    JOB_ID,
    Dripped,
    Reply,
    Request,
    ScriptedPlatform,
    answer,
    job,
)
from tests.scripted_platform import scripted_platform as scripted
from tests.scripted_websocket import UPGRADE, answered

TIMEOUT_S = 0.5
LATEST_S = TIMEOUT_S + 0.8
JOBS = "GET /api/v1/jobs"
LOG = f"GET /api/v1/monitoring/{JOB_ID}/log"
EXEC = f"GET /api/v1/monitoring/{JOB_ID}/exec"
ADDRESS = "job:train"
CONFIG = "GET /api/v1/config"


def silent(_: Request) -> bytes:
    time.sleep(1.5)
    return b""


def dripping_body(_: Request) -> bytes:
    time.sleep(TIMEOUT_S / 2)
    return Dripped(answer(job()))


SLOW: dict[str, Reply] = {
    "silence": silent,
    "an answer that drips": Dripped(answer(job())),
    "an answer that begins late and drips": dripping_body,
    "a chunked answer that drips": Dripped(
        answer(b"1\r\n{\r\n" * 50, "200 OK", "Transfer-Encoding: chunked", length=False)
    ),
    "a refusal that drips": Dripped(answer(b"no" * 99, "400 Bad Request")),
    "a redirection that drips": Dripped(answer(b"no" * 99, "302 Found", "Location: /")),
    "a platform that is busy": answer(b"busy", "503 Service Unavailable", "Retry-After: 1"),
    "a platform that is busy for long": answer(b"busy", "502 Bad Gateway", "Retry-After: 29"),
    "too many requests": answer(b"busy", "429 Too Many Requests", "Retry-After: 5"),
}


@pytest.fixture
def platform() -> Iterator[ScriptedPlatform]:
    with scripted() as running:
        running.script[f"{JOBS}/{JOB_ID}"] = answer(job())
        yield running


@pytest.fixture
def session(platform: ScriptedPlatform) -> Iterator[Session]:
    with Session(platform.url, platform.token) as opened:
        yield opened


@contextmanager
def in_time() -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert TIMEOUT_S - 0.05 < time.monotonic() - begin < LATEST_S


@pytest.mark.parametrize(
    ("path", "wanted"), [(f"{JOBS}/{JOB_ID}", JOB_ID), (f"{JOBS}?", ADDRESS), (CONFIG, ADDRESS)]
)
@pytest.mark.parametrize("kind", SLOW)
def test_a_wait_ends_in_time(
    platform: ScriptedPlatform, session: Session, kind: str, path: str, wanted: str
) -> None:
    platform.script[path] = SLOW[kind]
    with in_time(), pytest.raises(WaitTimeout) as late:
        session.jobs.wait(wanted, timeout=TIMEOUT_S)
    assert late.value.job is None


@pytest.mark.parametrize("kind", SLOW)
def test_a_wait_in_which_the_platform_becomes_slow_tells_what_was_known(
    platform: ScriptedPlatform, session: Session, kind: str
) -> None:
    def become_slow(_: JobDescription) -> None:
        platform.script[f"{JOBS}/{JOB_ID}"] = SLOW[kind]

    with in_time(), pytest.raises(WaitTimeout) as late:
        session.jobs.wait([JOB_ID], timeout=TIMEOUT_S, on_update=become_slow)
    assert late.value.job
    assert late.value.job.status.is_running


def test_a_wait_for_a_platform_that_accepts_no_connection_ends_in_time() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        others = [socket.socket() for _ in range(3)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/api/v1"
        with (
            Session(url, ScriptedPlatform.token) as session,
            in_time(),
            pytest.raises(WaitTimeout),
        ):
            session.jobs.wait(JOB_ID, timeout=TIMEOUT_S)
        for other in others:
            other.close()


def test_a_wait_ends_in_time_while_another_thread_asks_for_the_configuration(
    platform: ScriptedPlatform, session: Session
) -> None:
    platform.script[CONFIG] = silent
    other = threading.Thread(target=lambda: session.presets)
    other.start()
    while not platform.requests:
        time.sleep(0.01)
    with in_time(), pytest.raises(WaitTimeout):
        session.jobs.wait(ADDRESS, timeout=TIMEOUT_S)
    platform.script[CONFIG] = answer(platform.config())
    other.join()


def test_a_wait_without_time_asks_once(platform: ScriptedPlatform, session: Session) -> None:
    with pytest.raises(WaitTimeout):
        session.jobs.wait(JOB_ID, timeout=0)
    platform.script[f"{JOBS}/{JOB_ID}"] = answer(job("succeeded"))
    assert session.jobs.wait(JOB_ID, timeout=0).status.is_finished


def test_a_platform_that_is_not_there_is_told_before_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1"
    with Session(url, ScriptedPlatform.token) as session, pytest.raises(ConnectionFailed):
        session.jobs.wait(JOB_ID, timeout=60)


@pytest.mark.parametrize(
    "log",
    [
        silent,
        Dripped(answer(b"a line\n" * 99)),
        Dripped(answer(b"2\r\na\n\r\n" * 99, "200 OK", "Transfer-Encoding: chunked", length=False)),
        answer(b"busy", "503 Service Unavailable", "Retry-After: 5"),
    ],
)
def test_a_wait_reads_the_log_of_a_failed_job_in_time(
    platform: ScriptedPlatform, session: Session, log: Reply
) -> None:
    platform.script[f"{JOBS}/{JOB_ID}"] = answer(job("failed"))
    platform.script[LOG] = log
    with in_time(), pytest.raises(JobFailed):
        session.jobs.wait(JOB_ID, timeout=TIMEOUT_S, check=True)


@pytest.mark.parametrize("path", [EXEC, CONFIG])
@pytest.mark.parametrize(
    "reply",
    [
        silent,
        Dripped(UPGRADE),
        Dripped(answer(b"no" * 99, "503 Service Unavailable")),
        Dripped(answer(b"no" * 99, "400 Bad Request")),
    ],
)
def test_a_command_ends_in_time_while_it_is_being_started(
    platform: ScriptedPlatform, session: Session, path: str, reply: Reply
) -> None:
    platform.script[path] = reply
    with in_time(), pytest.raises(CommandTimeout):
        session.jobs.run_command(JOB_ID, "true", timeout=TIMEOUT_S)


@contextmanager
def silent_monitoring(platform: ScriptedPlatform) -> Iterator[None]:
    """Have the platform agree to each websocket, and say nothing after that."""
    over = threading.Event()

    def wait(_: socket.socket) -> None:
        over.wait(5)

    with answered(UPGRADE, wait) as url:
        config = platform.config()
        config["clusters"][0]["monitoring_url"] = url  # type: ignore[index]  # a list
        platform.script[CONFIG] = answer(config)
        yield
        over.set()


@pytest.mark.parametrize("size", [0, 2**24])
def test_a_command_on_a_silent_connection_ends_in_time(
    platform: ScriptedPlatform, session: Session, size: int
) -> None:
    with silent_monitoring(platform), in_time(), pytest.raises(CommandTimeout):
        session.jobs.run_command(JOB_ID, "cat", input=bytes(size), timeout=TIMEOUT_S)


def test_the_time_of_a_command_begins_with_the_call(
    platform: ScriptedPlatform, session: Session
) -> None:
    def slow(_: Request) -> bytes:
        time.sleep(TIMEOUT_S - 0.1)
        return answer(job())

    platform.script[f"{JOBS}/train"] = slow
    with silent_monitoring(platform), in_time(), pytest.raises(CommandTimeout):
        session.jobs.run_command("train", "cat", timeout=TIMEOUT_S)


def test_a_connection_is_as_patient_as_before_after_a_deadline(
    platform: ScriptedPlatform, session: Session
) -> None:
    def late(_: Request) -> bytes:
        time.sleep(TIMEOUT_S)
        return answer(job("succeeded"))

    def become_late(_: JobDescription) -> None:
        platform.script[f"{JOBS}/{JOB_ID}"] = late

    with pytest.raises(WaitTimeout):
        session.jobs.wait(JOB_ID, timeout=0.2)
    become_late(session.jobs.status(JOB_ID))
    assert session.jobs.status(JOB_ID).status.is_finished


def test_a_deadline_within_another_one_ends_with_its_block() -> None:
    with call_deadline(time.monotonic() + 60):
        with call_deadline(float("inf")):
            assert bounded(None) is None
        assert 0 < seconds_left() <= 60
        assert bounded(5) == 5
    assert seconds_left() == float("inf")
