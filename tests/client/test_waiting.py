"""Waiting: for one job or many, through bad weather, and never longer than asked for."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
import responses

from neuro_sync import (
    BadGateway,
    ConnectionFailed,
    JobDescription,
    JobFailed,
    JobStatus,
    Session,
    WaitTimeout,
)
from neuro_sync.local.state import make_token
from neuro_sync.transport.clock import Clock

Start = Callable[[str], JobDescription]
URL = "http://platform.test/api/v1"


class QuickClock(Clock):
    """A clock that is moved by sleeping."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


def answer(status: str, id: str = "job-1") -> str:
    return json.dumps(
        {
            "id": id,
            "owner": "alice",
            "cluster_name": "default",
            "status": status,
            "history": {"status": status},
            "container": {"image": "ubuntu", "resources": {"cpu": 1, "memory_mb": 100}},
        }
    )


def tell(*statuses: str) -> None:
    """Answer with one status after the other; the last one for ever."""
    for status in statuses:
        responses.get(f"{URL}/jobs/job-1", body=answer(status))


@responses.activate
@pytest.mark.parametrize("end", sorted(JobStatus.finished_items()))
def test_every_final_status_ends_a_wait(clock: QuickClock, end: JobStatus) -> None:
    tell("pending", "suspended", "running", "hibernating", end.value)
    with Session(URL, make_token("alice"), clock=clock) as session:
        assert session.jobs.wait("job-1").status is end


@responses.activate
def test_a_wait_has_no_limit_of_its_own(clock: QuickClock) -> None:
    tell(*["running"] * 1000, "succeeded")
    with Session(URL, make_token("alice"), clock=clock) as session:
        assert session.jobs.wait("job-1").status is JobStatus.SUCCEEDED
    assert clock.time > 1000


@responses.activate
def test_a_wait_survives_a_platform_that_fails_a_third_of_the_time(clock: QuickClock) -> None:
    weather = random.Random(7)

    def respond(_: object) -> tuple[int, dict[str, str], str]:
        if weather.random() < 0.3:
            return 503, {}, "busy"
        status = "succeeded" if clock.time > 3 * 3600 else "running"
        return 200, {}, answer(status)

    responses.add_callback("GET", f"{URL}/jobs/job-1", callback=respond)
    with Session(URL, make_token("alice"), clock=clock) as session:
        assert session.jobs.wait("job-1").status is JobStatus.SUCCEEDED


@responses.activate
def test_a_platform_that_stays_away_ends_a_wait_after_five_minutes(clock: QuickClock) -> None:
    tell("running")
    responses.get(f"{URL}/jobs/job-1", status=502)
    with Session(URL, make_token("alice"), clock=clock) as session, pytest.raises(BadGateway):
        session.jobs.wait("job-1")
    assert 300 < clock.time < 320


@responses.activate
def test_a_deadline_holds_while_the_platform_is_away(clock: QuickClock) -> None:
    tell("running")
    responses.get(f"{URL}/jobs/job-1", body=ConnectionFailed("away"))
    with (
        Session(URL, make_token("alice"), clock=clock) as session,
        pytest.raises(WaitTimeout) as late,
    ):
        session.jobs.wait("job-1", timeout=60)
    assert late.value.job
    assert late.value.job.status is JobStatus.RUNNING
    assert 60 <= clock.time < 70


def test_several_jobs_are_waited_for_in_their_order(session: Session, start: Start) -> None:
    jobs = [start("sh -c 'sleep 0.2'"), start("true"), start("sh -c 'exit 3'")]
    ended = session.jobs.wait(jobs)
    assert [job.id for job in ended] == [job.id for job in jobs]
    assert [job.history.exit_code for job in ended] == [0, 0, 3]
    with pytest.raises(JobFailed) as failed:
        session.jobs.wait([job.id for job in jobs], check=True)
    assert failed.value.job.id == jobs[2].id
    assert session.jobs.wait([]) == ()


def test_a_wait_may_end_when_the_job_runs(session: Session, start: Start) -> None:
    job = start("sleep 60")
    assert session.jobs.wait(job, until="running").status is JobStatus.RUNNING
    session.jobs.kill(job)
    assert session.jobs.wait(job, until="running").status is JobStatus.CANCELLED


def test_a_life_span_can_be_lengthened(session: Session) -> None:
    job = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 60", life_span=60)
    session.jobs.bump_life_span(job, 90)
    assert session.jobs.status(job).life_span == 180
    with pytest.raises(ValueError, match="additional_life_span = -60: should be more than 0"):
        session.jobs.bump_life_span(job, -60)
    session.jobs.kill(job)


def test_tags_are_those_of_the_newest_job_first(session: Session) -> None:
    for tags in (["tag-old", "tag-both"], ["tag-new", "tag-both"]):
        session.jobs.start(image="any", preset_name="cpu-small", command="true", tags=tags)
    ours = [tag for tag in session.jobs.tags() if tag.startswith("tag-")]
    assert ours == ["tag-both", "tag-new", "tag-old"]


def test_capacity_is_told_for_each_preset(session: Session) -> None:
    capacity = session.jobs.get_capacity()
    assert list(capacity) == list(session.presets)
    assert all(count >= 0 for count in capacity.values())


def test_each_state_on_the_way_is_told_to_who_listens(session: Session, start: Start) -> None:
    heard: list[JobDescription] = []
    job = start("sleep 0.2")
    ended = session.jobs.wait(job, on_update=heard.append)
    assert [told.id for told in heard] == [job.id] * len(heard)
    assert heard[-1] == ended
    states = list(dict.fromkeys(told.status for told in heard))
    assert states[-2:] == [JobStatus.RUNNING, JobStatus.SUCCEEDED]
