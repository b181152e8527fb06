"""Logs: every line once and in order, whatever happens in between."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from neuro_sync import IllegalArgumentError, JobDescription, Session

Start = Callable[[str], JobDescription]
LINES = "sh -c 'for i in 1 2 3 4; do echo line $i; sleep 0.05; done'"


def test_a_line_arrives_before_the_job_is_over(session: Session, start: Start) -> None:
    job = start("sh -c 'echo first; sleep 60'")
    with session.jobs.logs(job) as lines:
        assert next(lines) == "first"
        assert not session.jobs.status(job).status.is_finished
    session.jobs.kill(job)


def test_killing_a_job_ends_its_followers(session: Session, start: Start) -> None:
    job = start("sh -c 'echo first; sleep 60'")
    with session.jobs.logs(job) as lines:
        assert next(lines) == "first"
        session.jobs.kill(job)
        assert list(lines) == []


def test_the_log_of_a_finished_job_is_whole(session: Session, start: Start) -> None:
    job = session.jobs.wait(start(LINES))
    expected = [f"line {number}" for number in range(1, 5)]
    assert list(session.jobs.logs(job)) == expected
    assert b"".join(session.jobs.monitor(job)).decode().splitlines() == expected


def test_a_job_that_says_nothing_has_an_empty_log(session: Session, start: Start) -> None:
    job = start("true")
    assert list(session.jobs.logs(job)) == []
    assert list(session.jobs.monitor(job)) == []


def test_bytes_come_as_they_were_written(session: Session, start: Start) -> None:
    job = start(r"printf '\303\244\r50%%\r\000\377 no newline'")
    assert b"".join(session.jobs.monitor(job)) == b"\xc3\xa4\r50%\r\x00\xff no newline"
    assert list(session.jobs.logs(job)) == ["ä\r50%\r\0\ufffd no newline"]


STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9})Z line \d")


def test_lines_can_bear_their_time_and_be_asked_for_from_a_time_on(
    session: Session, start: Start
) -> None:
    job = session.jobs.wait(start(LINES))
    lines = list(session.jobs.logs(job, timestamps=True))
    assert b"".join(session.jobs.monitor(job, timestamps=True)).decode().split("\n")[:-1] == lines
    times = []
    for line in lines:
        match = STAMPED.fullmatch(line)
        assert match
        times.append(datetime.fromisoformat(match[1][:26]).replace(tzinfo=timezone.utc))
    assert times == sorted(times)
    for moment in times:
        # On a busy machine two lines may have come at the same moment.
        expected = [f"line {number}" for number, at in enumerate(times, 1) if at >= moment]
        after = [f"line {number}" for number, at in enumerate(times, 1) if at > moment]
        assert list(session.jobs.logs(job, since=moment)) == expected
        assert list(session.jobs.logs(job, since=moment.astimezone())) == expected
        assert list(session.jobs.logs(job, since=moment + timedelta(microseconds=1))) == after


def test_a_time_that_has_not_come_yet_gives_an_empty_log(session: Session, start: Start) -> None:
    job = session.jobs.wait(start(LINES))
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    assert list(session.jobs.logs(job, since=later)) == []


def test_a_large_log_is_whole(session: Session, start: Start) -> None:
    job = start("sh -c 'seq 300000'")
    with session.jobs.logs(job) as lines:
        assert sum(1 for _ in lines) == 300000
    text = "".join(f"{number}\n" for number in range(1, 300001)).encode()
    assert b"".join(session.jobs.monitor(job)) == text


def test_another_thread_may_close_a_log(session: Session, start: Start) -> None:
    job = start("sleep 60")
    lines = session.jobs.logs(job)
    reader = threading.Thread(target=lambda: list(lines))
    reader.start()
    lines.close()
    reader.join(1)
    assert not reader.is_alive()
    session.jobs.kill(job)


def test_the_end_of_a_log_can_be_asked_for(session: Session, start: Start) -> None:
    job = session.jobs.wait(start("seq 100"))
    assert list(session.jobs.logs(job, tail=3)) == ["98", "99", "100"]
    assert list(session.jobs.logs(job, tail=0)) == []
    assert len(list(session.jobs.logs(job, tail=1000))) == 100
    with pytest.raises(IllegalArgumentError, match="tail = -1"):
        session.jobs.logs(job, tail=-1)


def test_a_tail_goes_on_with_what_comes(session: Session, start: Start, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = start(f"sh -c 'seq 50; while [ ! -e {go} ]; do sleep 0.02; done; echo last'")
    with session.jobs.logs(job) as lines:
        assert [next(lines) for _ in range(50)][-1] == "50"
    with session.jobs.logs(job, tail=2) as lines:
        assert next(lines) == "49"
        assert next(lines) == "50"
        go.touch()
        assert list(lines) == ["last"]


def test_a_log_that_is_not_followed_ends_while_the_job_is_silent(
    session: Session, start: Start
) -> None:
    job = start("sh -c 'seq 5; sleep 60'")
    with session.jobs.logs(job) as lines:
        assert [next(lines) for _ in range(5)] == list("12345")
    assert list(session.jobs.logs(job, follow=False)) == list("12345")
    session.jobs.kill(job)


def test_a_log_that_is_not_followed_ends_while_the_job_chatters(
    session: Session, start: Start
) -> None:
    job = start("sh -c 'while :; do echo chatter; sleep 0.01; done'")
    begin = time.monotonic()
    assert "chatter" in list(session.jobs.logs(job, follow=False))
    assert time.monotonic() - begin < 10
    session.jobs.kill(job)


def test_a_progress_bar_is_seen_before_its_line_is_whole(
    session: Session, start: Start, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.02; done"
    job = start(f"""sh -c 'printf "10%%\\r20%%\\303"; {wait}; printf "\\244 done\\nlast"'""")
    with session.jobs.logs(job) as log:
        pieces = log.pieces()
        assert next(pieces) == "10%\r20%"
        go.touch()
        assert "".join(pieces) == "ä done\nlast"


def test_pieces_put_together_are_what_the_job_wrote(
    session: Session, start: Start, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.02; done"
    job = start(f"""sh -c 'printf "one\\n\\n10%%"; {wait}; printf "\\n20%%\\r\\nno newline"'""")
    with session.jobs.logs(job) as log:
        pieces = log.pieces()
        assert [next(pieces) for _ in range(3)] == ["one\n", "\n", "10%"]
        go.touch()
        assert "".join(pieces) == "\n20%\r\nno newline"
    assert "".join(session.jobs.logs(job).pieces()) == "one\n\n10%\n20%\r\nno newline"
    assert list(session.jobs.logs(job)) == ["one", "", "10%", "20%\r", "no newline"]


def test_lines_are_whole_however_long_they_take(
    session: Session, start: Start, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    job = start(f"sh -c 'printf late; while [ ! -e {go} ]; do sleep 0.02; done; echo r; echo end'")
    with session.jobs.logs(job) as lines:
        threading.Timer(0.6, go.touch).start()
        assert list(lines) == ["later", "end"]


def test_a_loop_that_is_left_gives_its_connection_and_its_thread_back(
    session: Session, start: Start
) -> None:
    job = start("sh -c 'echo first; sleep 60'")
    before = threading.active_count()
    for _ in range(80):  # more than there are connections
        for line in session.jobs.logs(job):
            assert line == "first"
            break
    assert threading.active_count() <= before + 1
    assert session.jobs.status(job).id == job.id
    session.jobs.kill(job)
