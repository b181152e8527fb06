"""The wall clock may be set at any time: durations, life spans and logs do not mind."""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import Session
from neuro_sync.local import lifecycle, timeline
from neuro_sync.local.clock import SystemClock, wall_time
from neuro_sync.local.lifecycle import Exited, Rules, Started
from neuro_sync.local.logs import JobLog, LogWriter
from neuro_sync.local.server import LocalPlatform

EPOCH = datetime.fromtimestamp(0, timezone.utc)
SMALL: Any = {"image": "any", "preset_name": "cpu-small"}


class WallClock:
    """A wall clock that a test sets."""

    def __init__(self, ahead: float = 0) -> None:
        self.ahead = ahead

    def __call__(self) -> datetime:
        return wall_time() + timedelta(seconds=self.ahead)


jumps = st.floats(-1e6, 1e6)


@given(jumps, jumps)
def test_the_clock_goes_on_steadily_and_shows_what_the_wall_clock_shows(
    before: float, after: float
) -> None:
    wall = WallClock(before)
    clock = SystemClock(wall)
    first = clock.now()
    wall.ahead = after
    second = clock.now()
    assert timedelta() <= second - first < timedelta(seconds=5)
    assert abs(clock.shown(second) - wall()) < timedelta(seconds=5)
    assert abs(clock.at(wall()) - second) < timedelta(seconds=5)


@given(st.lists(st.tuples(st.floats(0, 1e5), jumps), min_size=2, max_size=6), jumps)
def test_how_long_everything_took_survives_a_restart_whatever_the_wall_clock_showed(
    steps: list[tuple[float, float]], later: float
) -> None:
    wall = WallClock()
    clock = SystemClock(wall)
    life: tuple[timeline.Step, ...] = ()
    at = clock.now() - timedelta(days=10)
    for seconds, ahead in steps:
        wall.ahead = ahead
        at += timedelta(seconds=seconds)
        life = timeline.note([*life, lifecycle.created(at)[0]], clock)
    text = timeline.record(life, clock)
    # The next platform of this boot, on a clock that was set meanwhile, and one of a later boot.
    same, other = SystemClock(WallClock(later)), SystemClock(WallClock(later))
    other.boot = "another"
    for clock in (same, other):
        restored = timeline.read(text, clock)
        assert [step.shown_at for step in restored] == [step.shown_at for step in life]
        assert restored[-1].transition_time <= clock.now()
        for (a, b), (seconds, _) in zip(pairwise(restored), steps[1:], strict=True):
            took = (b.transition_time - a.transition_time).total_seconds()
            assert took == pytest.approx(seconds, abs=0.001)
    age = (same.now() - timeline.read(text, same)[-1].transition_time).total_seconds()
    assert age == pytest.approx((SystemClock().now() - life[-1].transition_time).total_seconds(), 1)


def test_a_life_that_an_older_version_recorded_is_read() -> None:
    life = lifecycle.created(wall_time() - timedelta(hours=2))
    life = lifecycle.advance(life, Started(life[0].transition_time), Rules())
    life = lifecycle.advance(life, Exited(wall_time() - timedelta(hours=1), 0), Rules())
    text = "[" + ",".join(item.model_dump_json() for item in life) + "]"
    restored = timeline.read(text, SystemClock())
    assert lifecycle.run_time(restored, wall_time()) == pytest.approx(3600, abs=1)
    assert timeline.as_shown(restored) == life


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_job_does_not_notice_that_the_wall_clock_is_set(jump: int) -> None:
    wall = WallClock()
    with (
        LocalPlatform(ephemeral=True, clock=SystemClock(wall)) as platform,
        Session(platform.url, platform.token) as session,
    ):
        limited = session.jobs.start(command="sleep 600", life_span=600, **SMALL)
        before = session.jobs.wait(limited, until="running")
        wall.ahead = jump
        after = session.jobs.status(limited)
        assert after.status.is_running
        assert after.history.created_at == before.history.created_at
        assert 0 <= after.history.run_time_seconds < 60
        session.jobs.kill(limited)
        ended = session.jobs.wait(limited)
        assert ended.reason == "UserRequested"
        assert 0 < ended.history.run_time_seconds < 60
        assert ended.history.finished_at is not None
        assert abs(ended.history.finished_at - wall()) < timedelta(seconds=60)


def write_log(folder: Path, times: list[int]) -> list[bytes]:
    """Write a line for each time (s), and return them."""
    folder.mkdir(exist_ok=True)
    for name in ("log", "log.times"):
        (folder / name).unlink(missing_ok=True)
    lines = [f"line {number}\n".encode() for number in range(len(times))]
    offset, records = 0, b""
    for line, at in zip(lines, times, strict=True):
        records += (1 << 56 | offset).to_bytes(8, "big") + (at * 10**9).to_bytes(8, "big")
        offset += len(line)
    (folder / "log").write_bytes(b"".join(lines))
    (folder / "log.times").write_bytes(records)
    return lines


def read_log(folder: Path, since: datetime | None = None) -> bytes:
    async def read() -> bytes:
        log = JobLog(folder)
        log.end()
        return b"".join([piece async for piece in log.follow(since=since)])

    return asyncio.run(read())


@pytest.mark.parametrize("back", [2, 3600])
def test_the_end_of_a_log_is_found_although_the_clock_went_back_after_most_of_it(
    platform: LocalPlatform, session: Session, back: int
) -> None:
    if platform.runtime == "docker":
        pytest.skip("the times of its lines are the engine's")
    job = session.jobs.start(command="sh -c 'seq 100; exec sleep 600'", **SMALL)
    with session.jobs.logs(job) as lines:
        for _ in range(100):
            next(lines)
    (times,) = platform.folder.glob(f"**/{job.id}/log.times")
    records = times.read_bytes()
    later = b"".join(
        records[at : at + 8]
        + (int.from_bytes(records[at + 8 : at + 16], "big") + back * 10**9).to_bytes(8, "big")
        for at in range(0, len(records), 16)
    )
    times.write_bytes(later)
    whole = [str(number) for number in range(1, 101)]
    assert list(session.jobs.logs(job, tail=5, follow=False)) == whole[-5:]
    assert list(session.jobs.logs(job, follow=False)) == whole
    session.jobs.kill(job)


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 50))
def test_a_log_since_a_time_loses_no_line_although_the_clock_went_back(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], since: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "log"
    lines = write_log(folder, times)
    first = next((index for index, at in enumerate(times) if at >= since), len(times))
    assert read_log(folder, EPOCH + timedelta(seconds=since)) == b"".join(lines[first:])
    assert read_log(folder) == b"".join(lines)


def test_a_long_log_is_looked_through_to_its_end(tmp_path: Path) -> None:
    lines = write_log(tmp_path, [*range(60_000, 0, -1), 70_000])
    assert read_log(tmp_path, EPOCH + timedelta(seconds=60_001)) == lines[-1]
    assert read_log(tmp_path, EPOCH + timedelta(seconds=70_001)) == b""


def test_the_times_of_a_container_may_go_back_with_the_clock_but_not_for_a_crossing(
    tmp_path: Path,
) -> None:
    writer = LogWriter(tmp_path)
    times = [10**13, 10**13 - 4 * 10**6, 10**13 - 3600 * 10**9, 10**13 - 3599 * 10**9]
    writer.append((1, at, b"x\n") for at in times)
    writer.close()
    records = (tmp_path / "log.times").read_bytes()
    kept = [int.from_bytes(records[at + 8 : at + 16], "big") for at in range(0, len(records), 16)]
    assert kept == [times[0], times[0], times[2], times[3]]


def test_moments_are_shown_in_their_order_however_long_it_takes_to_read_two_clocks() -> None:
    delays = itertools.cycle([0.0, 0.004, 0.001, 0.0])
    clock = SystemClock(lambda: wall_time() + timedelta(seconds=next(delays)))
    moments = [clock.now() for _ in range(8)]
    shown = [clock.shown(moment) for moment in moments]
    assert shown == sorted(shown)
