"""Logs: every line once and in order, whatever happens in between."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuro_sync import IllegalArgumentError, JobDescription, Session, StreamInterrupted
from neuro_sync.client.logs import LogLines, LogRequest
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.stream import Stream

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


class FakeStream:
    """Pieces of a log, then its end, or a cut."""

    opened_before = "9"

    def __init__(self, data: bytes, *, cut: bool) -> None:
        self._pieces = iter([data] if data else [])
        self._cut = cut

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if self._cut:
            raise StreamInterrupted("cut")

    def close(self) -> None:
        pass


class NoTime(Clock):
    def sleep(self, seconds: float) -> None:
        pass


def stamped(second: int, text: str) -> str:
    return f"2026-01-01T00:00:{second:02}.000000000Z {text}\n"


# Many lines of one moment, and some of others: time alone does not tell a position.
SOURCE = [stamped(number // 5, f"line {number}") for number in range(20)]
LENGTH = len("".join(SOURCE))


@settings(deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(0, LENGTH), st.booleans()), max_size=3),
    digits=st.sampled_from([6, 9]),
)
def test_a_log_that_breaks_anywhere_is_taken_up_again_without_loss(
    cuts: list[tuple[int, bool]], digits: int
) -> None:
    ends = iter(cuts)
    unfinished = iter([False] * len(cuts))

    def open_stream(since: str | None) -> Stream:
        # An archive tells the same times with six digits where the live log has nine.
        later = "".join(line for line in SOURCE if line[:19] >= (since or "")[:19])
        if digits == 6:
            later = later.replace("000000000Z", "000000Z")
        length, cut = next(ends, (LENGTH, False))
        return FakeStream(later.encode()[:length], cut=cut)  # type: ignore[return-value]

    lines = LogLines(open_stream, lambda: next(unfinished, True), LogRequest(), NoTime())
    assert list(lines) == [f"line {number}" for number in range(20)]


def test_a_log_that_never_resumes_is_not_taken_for_its_end() -> None:
    def open_stream(since: str | None) -> Stream:
        return FakeStream(stamped(1, "only").encode(), cut=True)  # type: ignore[return-value]

    lines = LogLines(open_stream, lambda: False, LogRequest(), NoTime())
    assert next(lines) == "only"
    with pytest.raises(StreamInterrupted, match="the job is not over"):
        next(lines)


def test_the_end_of_a_log_can_be_asked_for(session: Session, start: Start) -> None:
    job = session.jobs.wait(start("seq 100"))
    assert list(session.jobs.logs(job, tail=3)) == ["98", "99", "100"]
    assert list(session.jobs.logs(job, tail=0)) == []
    assert len(list(session.jobs.logs(job, tail=1000))) == 100
    with pytest.raises(IllegalArgumentError, match="tail = -1"):
        session.jobs.logs(job, tail=-1)


def test_lines_of_the_second_of_the_call_are_there_already() -> None:
    class Slowly(FakeStream):
        opened_before = "2026-01-01T00:00:04+00:00"

        def __iter__(self) -> Iterator[bytes]:
            for number in range(50):
                yield stamped(3, f"line {number}").encode()
            for number in range(50, 60):
                yield stamped(4, f"line {number}").encode()

    def last(tail: int, *, follow: bool) -> list[str]:
        stream = Slowly(b"", cut=False)
        wanted = LogRequest(tail=tail, follow=follow)
        return list(LogLines(lambda _: stream, lambda: True, wanted, NoTime()))  # type: ignore[arg-type,return-value]

    assert last(2, follow=False) == ["line 49", "line 50"]
    assert last(2, follow=True) == [f"line {number}" for number in range(49, 60)]


def test_a_tail_goes_on_with_what_comes(session: Session, start: Start, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = start(f"sh -c 'seq 50; while [ ! -e {go} ]; do sleep 0.02; done; echo last'")
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
    with session.jobs.logs(job) as lines:
        assert next(lines) == "10%\r20%"
        go.touch()
        assert list(lines) == ["ä done", "last"]


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


def test_a_line_is_whole_without_an_empty_one_when_only_its_newline_was_late(
    session: Session, start: Start, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    job = start(f"sh -c 'printf late; while [ ! -e {go} ]; do sleep 0.02; done; echo; echo end'")
    with session.jobs.logs(job) as lines:
        assert next(lines) == "late"
        go.touch()
        assert list(lines) == ["end"]


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


def test_a_connection_that_hangs_after_the_job_is_over_is_no_reason_to_wait() -> None:
    released = threading.Event()

    class Hanging(FakeStream):
        def __iter__(self) -> Iterator[bytes]:
            yield stamped(1, "only").encode()
            released.wait(20)

        def close(self) -> None:
            released.set()

    def open_stream(since: str | None) -> Stream:
        return Hanging(b"", cut=False)  # type: ignore[return-value]

    begin = time.monotonic()
    with LogLines(open_stream, lambda: True, LogRequest(), NoTime()) as lines:
        assert list(lines) == ["only"]
    assert time.monotonic() - begin < 10
