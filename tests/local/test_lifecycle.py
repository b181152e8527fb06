"""The rules of a job's life, driven by events at random."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import JobStatus
from neuro_sync.local import lifecycle
from neuro_sync.local.lifecycle import (
    Cancelled,
    CouldNotRun,
    Event,
    Exited,
    Rules,
    Started,
    Vanished,
)

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
TIMES = st.integers(-10, 100_000).map(lambda seconds: START + timedelta(seconds=seconds))
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Started, TIMES),
    st.builds(Exited, TIMES, st.integers(0, 255)),
    st.builds(CouldNotRun, TIMES, st.sampled_from([126, 127]), st.text()),
    st.builds(Vanished, TIMES),
    st.builds(Cancelled, TIMES, st.sampled_from(["UserRequested", "LifeSpanEnded"])),
)


@given(st.lists(EVENTS), TIMES)
def test_whatever_happens_the_story_stays_one(events: list[Event], now: datetime) -> None:
    life = lifecycle.created(START)
    for event in events:
        before = life
        life = lifecycle.advance(life, event, Rules())
        assert life[: len(before)] == before  # nothing that was told is changed
        if before[-1].status.is_finished:
            assert life is before
    times = [item.transition_time for item in life]
    assert times == sorted(times)
    assert sum(item.status.is_finished for item in life) <= 1
    summary = lifecycle.history(life, now)
    assert summary.status is life[-1].status
    assert summary.run_time_seconds >= 0
    assert (summary.finished_at is None) == (not summary.status.is_finished)
    assert (summary.exit_code is None) or summary.status.is_finished


def test_a_job_runs_for_as_long_as_it_was_running() -> None:
    life = lifecycle.created(START)
    life = lifecycle.advance(life, Started(START + timedelta(seconds=5)), Rules())
    assert lifecycle.run_time(life, START + timedelta(seconds=7)) == 2
    life = lifecycle.advance(life, Exited(START + timedelta(seconds=8), 0), Rules())
    assert lifecycle.run_time(life, START + timedelta(days=1)) == 3


def test_a_job_that_never_ran_started_when_it_ended() -> None:
    end = START + timedelta(seconds=3)
    life = lifecycle.advance(lifecycle.created(START), CouldNotRun(end, 127, "why"), Rules())
    summary = lifecycle.history(life, end)
    assert summary.status is JobStatus.FAILED
    assert summary.started_at == summary.finished_at == end
