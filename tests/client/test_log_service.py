"""Logs of the hosted platform: a slow archive that rounds times, and a live log out of order."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuro_sync import JobFailed, StreamInterrupted
from neuro_sync.transport.stream import Stream
from tests.log_service import JOB_ID, NS, Cut, LogService, Written, served

EXAMPLES = int(os.environ.get("NEURO_TEST_EXAMPLES", "40"))
BEGIN = int(datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()) * NS
TEXTS = (b"a", b"a", b"b", b"", b"\xff\xfe", "ä€😀".encode(), b"10%\r20%", b"ab")


def shown(text: bytes) -> str:
    return text.decode(errors="replace")


@st.composite
def logs(draw: st.DrawFn, *, ordered: bool = False) -> list[tuple[int, bytes]]:
    """Draw the times and texts of lines as they are written."""
    steps = st.sampled_from([0, 0, 1, 400, 999, 1000, 10**7, 3 * 10**8, 2 * NS])
    times = []
    now = BEGIN + draw(st.integers(0, 2 * NS))
    for step in draw(st.lists(steps, max_size=50)):
        now += step
        times.append(now)
    if not ordered:
        # Two streams of one container, and a clock that is set back.
        offsets = draw(
            st.lists(st.integers(0, 2 * 10**8), min_size=len(times), max_size=len(times))
        )
        times = [time - offset for time, offset in zip(times, offsets, strict=True)]
        back = draw(st.integers(0, len(times)))
        jump = draw(st.sampled_from([0, 2 * NS]))
        times = times[:back] + [time - jump for time in times[back:]]
    texts = draw(st.lists(st.sampled_from(TEXTS), min_size=len(times), max_size=len(times)))
    return list(zip(times, texts, strict=True))


@st.composite
def connections(draw: st.DrawFn, lines: list[tuple[int, bytes]]) -> list[Written]:
    """Draw what each connection sends; no line is missing that is older than its border."""
    talks = []
    written = 0
    for _ in range(draw(st.integers(0, 4))):
        written = draw(st.integers(written, len(lines)))
        later = [time for time, _ in lines[written:]] or [lines[-1][0] if lines else BEGIN]
        talks.append(
            Written(
                lines,
                written,
                border=min(later) // NS - draw(st.integers(0, 6)),
                cut_after=draw(st.integers(0, 3000)),
                ends_cleanly=draw(st.booleans()),
                piece=draw(st.sampled_from([1, 7, 100, 2**16])),
                page=draw(st.sampled_from([1, 3, 5000])),
            )
        )
    border = draw(st.sampled_from([None, min([BEGIN, *(time for time, _ in lines)]) // NS]))
    return [*talks, Written(lines, border=border)]


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_each_line_comes_once_whatever_archive_and_connections_do(data: st.DataObject) -> None:
    lines = data.draw(logs())
    talks = data.draw(connections(lines))
    with served(*talks) as (session, _), session.jobs.logs(JOB_ID) as log:
        got = [*log]
    assert Counter(got) == Counter(shown(text) for _, text in lines)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_lines_and_pieces_keep_their_order_where_time_does(data: st.DataObject) -> None:
    lines = data.draw(logs(ordered=True))
    talks = data.draw(connections(lines))
    as_pieces = data.draw(st.booleans())
    with served(*talks) as (session, _), session.jobs.logs(JOB_ID) as log:
        text = "".join(log.pieces()) if as_pieces else "".join(f"{line}\n" for line in log)
    assert text == "".join(f"{shown(text)}\n" for _, text in lines)


def text(count: int, step: int = NS // 1000) -> list[tuple[int, bytes]]:
    return [(BEGIN + number * step, b"line %d" % number) for number in range(count)]


def names(lines: list[tuple[int, bytes]]) -> list[str]:
    return [shown(line) for _, line in lines]


def test_no_line_is_lost_when_the_clock_goes_back_by_an_hour() -> None:
    lines = text(200)
    lines = lines[:100] + [(time - 3600 * NS, line) for time, line in lines[100:]]
    live = BEGIN // NS - 3700
    with (
        served(Written(lines, 150, border=live, cut_after=6000), Written(lines, border=live)) as (
            session,
            _,
        ),
        session.jobs.logs(JOB_ID) as log,
    ):
        assert list(log) == names(lines)


def test_a_large_log_whose_clock_went_back_is_not_resumed_with_lines_twice() -> None:
    """What is remembered of a log is limited; beyond that it is an error, never a wrong log."""
    filler = b"x" * 2**16
    lines = [(BEGIN + number * NS // 1000, filler) for number in range(200)]
    lines += [(time - 3600 * NS, b"back") for time, _ in lines[:10]]
    live = BEGIN // NS - 3700
    first = Written(lines, border=live, cut_after=200 * (2**16 + 32) + 100)
    with (
        served(first, Written(lines, border=live)) as (session, _),
        session.jobs.logs(JOB_ID) as log,
    ):
        for _ in range(202):
            next(log)
        with pytest.raises(StreamInterrupted, match="clock of the job's machine has gone back"):
            next(log)


def test_a_large_log_is_resumed_without_reading_all_of_it_again() -> None:
    filler = b"x" * 2**16
    lines = [(BEGIN + number * NS // 1000, b"%03d %s" % (number, filler)) for number in range(300)]
    live = BEGIN // NS - 1
    first = Written(lines, border=live, cut_after=250 * (2**16 + 36))
    with (
        served(first, Written(lines, border=live)) as (session, service),
        session.jobs.logs(JOB_ID) as log,
    ):
        assert [int(line.split()[0]) for line in log] == list(range(300))
    resumed = datetime.fromisoformat(service.queries[1]["since"])
    assert resumed > datetime.fromtimestamp(BEGIN / NS + 0.1, timezone.utc)


@pytest.mark.parametrize("page", [5000, 25])
def test_a_silent_archive_is_not_the_end(page: int) -> None:
    lines = text(100)
    slow = Written(lines, archive_delay=0.6, page=page)
    with served(slow) as (session, _):
        assert list(session.jobs.logs(JOB_ID)) == names(lines)
        assert list(session.jobs.logs(JOB_ID, tail=3)) == names(lines)[-3:]
        assert list(session.jobs.logs(JOB_ID, follow=False)) == names(lines)


def test_what_a_running_job_has_written_is_there_once_its_slow_archive_has_come() -> None:
    lines = text(100)
    slow = Written(lines, border=2 * BEGIN // NS, archive_delay=1.2, page=50, hold=True)
    with served(slow, final_status="running") as (session, _):
        assert list(session.jobs.logs(JOB_ID, follow=False)) == names(lines)
        assert list(session.jobs.logs(JOB_ID, follow=False, tail=3)) == names(lines)[-3:]
        with session.jobs.logs(JOB_ID, tail=3) as log:
            assert [next(log) for _ in range(3)] == names(lines)[-3:]


def test_a_platform_that_does_not_say_where_its_archive_ends_is_given_more_time() -> None:
    def talk(service: LogService, query: dict[str, str]) -> Iterator[bytes]:
        yield from Written(text(3))(service, query)
        service.closed.wait(1.5)
        yield from Written(text(6)[3:])(service, query)
        service.closed.wait(30)

    with served(talk, final_status="running") as (session, _):
        assert list(session.jobs.logs(JOB_ID, follow=False)) == names(text(6))


def test_a_pending_job_has_no_log_yet() -> None:
    def silent(service: LogService, query: dict[str, str]) -> Iterator[bytes]:
        service.closed.wait(30)
        yield b""

    with served(silent, final_status="pending") as (session, _):
        begin = time.monotonic()
        assert list(session.jobs.logs(JOB_ID, follow=False)) == []
        assert time.monotonic() - begin < 10


def test_a_log_that_is_not_followed_ends_where_the_platform_ends_it() -> None:
    with served(Written(text(3)), final_status="running") as (session, service):
        assert list(session.jobs.logs(JOB_ID, follow=False)) == names(text(3))
        assert len(service.queries) == 1


@pytest.mark.parametrize("status", ["succeeded", "running"])
def test_an_archive_that_stays_silent_is_an_error(status: str) -> None:
    silent = Written(text(3), archive_delay=30)
    with served(silent, final_status=status, silence=0.5) as (session, service):
        service.status = status
        for tail in (None, 1):
            with pytest.raises(StreamInterrupted, match="neither the rest of its log nor its end"):
                list(session.jobs.logs(JOB_ID, follow=False, tail=tail))


def test_a_log_that_never_ends_after_its_job_is_an_error() -> None:
    def stuck(service: LogService, query: dict[str, str]) -> Iterator[bytes]:
        yield from Written(text(3))(service, query)
        service.closed.wait(30)

    with served(stuck, silence=1) as (session, _), session.jobs.logs(JOB_ID) as log:
        assert [next(log) for _ in range(3)] == names(text(3))
        with pytest.raises(StreamInterrupted, match="the job is over, but for 1 s"):
            next(log)


def test_the_error_of_a_failed_job_has_the_last_lines_of_a_slow_archive() -> None:
    slow = Written(text(100), archive_delay=1.2)
    with served(slow, final_status="failed") as (session, service):
        service.status = "failed"
        with pytest.raises(JobFailed) as failed:
            session.jobs.wait(JOB_ID, check=True)
        assert failed.value.log_tail == tuple(names(text(100))[-20:])


def test_lines_that_reach_the_archive_after_the_end_of_the_job_are_read() -> None:
    lines = text(3)
    talks = (Written(lines, 1), Written(lines, 2), Written(lines), Written(lines))
    with served(*talks) as (session, service):
        service.status, service.finished_at = "succeeded", datetime.now(timezone.utc)
        assert list(session.jobs.logs(JOB_ID)) == names(lines)
        assert len(service.queries) == 4


def test_the_log_of_a_job_that_ended_long_ago_takes_two_requests() -> None:
    with served(Written(text(3))) as (session, service):
        assert list(session.jobs.logs(JOB_ID)) == names(text(3))
        assert (len(service.queries), service.asked) == (1, 1)
        # Of a job that is known to be over nothing has to be asked.
        job = session.jobs.status(JOB_ID)
        assert list(session.jobs.logs(job)) == names(text(3))
        assert (len(service.queries), service.asked) == (2, 2)


def test_a_connection_that_hangs_after_the_end_of_the_job_is_replaced() -> None:
    lines = text(3)

    def hanging(service: LogService, query: dict[str, str]) -> Iterator[bytes]:
        yield from Written(lines, 1)(service, query)
        service.status = "succeeded"
        service.closed.wait(30)

    with served(hanging, Written(lines), silence=2) as (session, service):
        service.finished_at = datetime.now(timezone.utc) + timedelta(seconds=5)
        assert list(session.jobs.logs(JOB_ID)) == names(lines)


def test_a_service_that_is_away_for_a_moment_costs_no_line() -> None:
    lines = text(20)
    with (
        served(Written(lines, cut_after=200), Written(lines)) as (session, service),
        session.jobs.logs(JOB_ID) as log,
    ):
        first = next(log)
        service.refusals = [503, 502]
        assert [first, *log] == names(lines)


def test_a_log_that_breaks_off_without_a_new_line_is_given_up() -> None:
    def broken(service: LogService, query: dict[str, str]) -> Iterator[bytes]:
        yield from Written(text(1))(service, query)
        raise Cut

    with (
        served(broken, final_status="running") as (session, _),
        session.jobs.logs(JOB_ID) as log,
    ):
        assert next(log) == "line 0"
        with pytest.raises(StreamInterrupted, match="the job is not over"):
            next(log)


def test_a_crash_of_the_reading_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: Stream) -> bytes:
        raise ZeroDivisionError("within the reader")

    monkeypatch.setattr(Stream, "__next__", crash)
    with (
        served(Written(text(3))) as (session, _),
        session.jobs.logs(JOB_ID) as log,
        pytest.raises(ZeroDivisionError),
    ):
        next(log)


def test_the_border_of_archive_and_live_log_repeats_no_line() -> None:
    """An archive of records has a line or two on both sides of the separator."""
    lines = text(10)

    def both(service: LogService, query: dict[str, str]) -> Iterator[bytes]:
        yield from Written(lines, 6)(service, query)
        yield query["separator"].encode() + b"\n"
        yield from Written(lines[4:], border=0)(service, query | {"separator": ""})

    with served(both) as (session, _):
        assert list(session.jobs.logs(JOB_ID)) == names(lines)


def test_what_is_sent_although_it_is_older_than_the_time_asked_for_is_left_out() -> None:
    lines = text(10, step=NS // 10)

    def by_second(service: LogService, query: dict[str, str]) -> Iterator[bytes]:
        return Written(lines, border=0)(service, query | {"since": "2020-01-01T00:00:00+00:00"})

    with served(by_second) as (session, _):
        since = datetime.fromtimestamp(BEGIN / NS + 0.55, timezone.utc)
        assert list(session.jobs.logs(JOB_ID, since=since)) == names(lines)[6:]
