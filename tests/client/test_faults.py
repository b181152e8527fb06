"""The client behind a proxy that cuts, hangs and lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuro_sync import (
    ConnectionFailed,
    JobDescription,
    RequestTimeout,
    ResourceNotFound,
    ServerNotAvailable,
    Session,
    StreamInterrupted,
)
from neuro_sync.local.server import LocalPlatform
from neuro_sync.testing import Fault, FaultProxy
from neuro_sync.transport.clock import Clock

Start = Callable[[str], JobDescription]
LOG = "GET /api/v1/monitoring/jobs/"


class Impatient(Clock):
    """A clock that does not pause between two tries."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.001))


@pytest.fixture(scope="module")
def proxy(platform: LocalPlatform) -> Iterator[FaultProxy]:
    with FaultProxy(platform.port) as running:
        yield running


@pytest.fixture
def far(platform: LocalPlatform, proxy: FaultProxy) -> Iterator[Session]:
    """A session whose every byte goes through the proxy."""
    with Session(proxy.url, platform.token, clock=Impatient()) as session:
        yield session


@pytest.fixture(scope="module")
def finished(platform: LocalPlatform) -> JobDescription:
    """A job that wrote 300 lines of which many came at the same moment."""
    with Session(platform.url, platform.token) as session:
        job = session.jobs.start(image="any", preset_name="cpu-small", command="seq 300")
        return session.jobs.wait(job)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.builds(Fault, cut_after=st.integers(0, 12_000)),
            st.builds(Fault, garbage_after=st.integers(0, 160)),  # later, nobody could tell
        ),
        max_size=3,
    )
)
def test_a_followed_log_equals_its_source_wherever_it_is_cut(
    proxy: FaultProxy, far: Session, finished: JobDescription, faults: list[Fault]
) -> None:
    # One fewer than a log may need to be opened.
    proxy.plan(LOG, *faults)
    assert list(far.jobs.logs(finished)) == [str(number) for number in range(1, 301)]


def test_bytes_that_are_cut_raise_instead_of_ending(
    proxy: FaultProxy, far: Session, finished: JobDescription
) -> None:
    proxy.plan(LOG, Fault(cut_after=600))
    with pytest.raises(StreamInterrupted), far.jobs.monitor(finished) as pieces:
        b"".join(pieces)


def test_a_running_log_is_taken_up_again_after_each_cut(
    proxy: FaultProxy, far: Session, start: Start
) -> None:
    job = start("sh -c 'for i in $(seq 60); do echo line $i; sleep 0.005; done'")
    proxy.plan(LOG, *(Fault(cut_after=400 + 50 * number) for number in range(12)))
    assert list(far.jobs.logs(job)) == [f"line {number}" for number in range(1, 61)]


def test_a_connection_that_hangs_does_not_hang_the_caller(
    proxy: FaultProxy, far: Session, finished: JobDescription
) -> None:
    fault = Fault(hang_after=5000)
    proxy.plan(LOG, fault)
    impatient = far.with_options(timeout=(5, 1))
    assert list(impatient.jobs.logs(finished)) == [str(number) for number in range(1, 301)]
    assert fault.hit.is_set()


def test_a_start_whose_answer_is_lost_leaves_one_job_and_says_so(
    proxy: FaultProxy, far: Session, session: Session
) -> None:
    far.presets  # noqa: B018  # so that the next request is the start
    for number, fault in enumerate(
        (Fault(cut_after=0), Fault(cut_after=40), Fault(garbage_after=0))
    ):
        name = f"lost-{number}"
        proxy.plan("POST /api/v1/jobs", fault)
        with pytest.raises(ConnectionFailed) as lost:
            far.jobs.start(image="any", preset_name="cpu-small", command="true", name=name)
        assert fault.hit.is_set()
        assert "may have been carried out" in str(lost.value)
        assert f"list(name='{name}')" in str(lost.value)
        assert len(list(session.jobs.list(name=name))) == 1


@pytest.mark.parametrize("fault", [Fault(cut_after=0), Fault(cut_after=40), Fault(garbage_after=0)])
def test_a_life_span_whose_answer_is_lost_is_extended_once(
    proxy: FaultProxy, far: Session, session: Session, start: Start, fault: Fault
) -> None:
    job = start("sleep 60")
    session.jobs.bump_life_span(job, 3600)
    proxy.plan("PUT /api/v1/jobs/", fault)
    with pytest.raises(ConnectionFailed, match="may have been carried out"):
        far.jobs.bump_life_span(job, 3600)
    assert fault.hit.is_set()
    assert session.jobs.status(job).life_span == 7200
    session.jobs.kill(job)


def test_a_removal_whose_answer_is_lost_succeeds(
    proxy: FaultProxy, far: Session, session: Session
) -> None:
    session.secrets.add("lost", b"value")
    proxy.plan("DELETE /api/v1/secrets/", Fault(cut_after=0))
    far.secrets.rm("lost")
    with pytest.raises(ResourceNotFound):
        far.secrets.rm("lost")
    disk = session.disks.create(2**20)
    proxy.plan("DELETE /api/v1/disk", Fault(cut_after=0), Fault(cut_after=40))
    far.disks.rm(disk.id)
    with pytest.raises(ResourceNotFound):
        session.disks.get(disk.id)


def test_a_secret_whose_answer_is_lost_is_written_again(
    proxy: FaultProxy, far: Session, session: Session
) -> None:
    proxy.plan("POST /api/v1/secrets", lost := Fault(cut_after=0))
    far.secrets.add("twice", b"value")
    assert lost.hit.is_set()
    assert session.secrets.get("twice") == b"value"


def test_a_question_whose_answer_is_lost_is_asked_again(
    proxy: FaultProxy, far: Session, finished: JobDescription
) -> None:
    proxy.plan("GET /api/v1/jobs/", Fault(cut_after=0), Fault(cut_after=100))
    assert far.jobs.status(finished).id == finished.id


def test_a_platform_that_is_busy_is_asked_later(
    proxy: FaultProxy, far: Session, finished: JobDescription
) -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 4\r\n\r\n"
    busy = Fault(answer=head + b"busy")
    proxy.plan("GET /api/v1/jobs/", busy)
    assert far.jobs.status(finished).id == finished.id
    proxy.plan("POST /api/v1/jobs", busy)
    far.presets  # noqa: B018  # so that the next request is the start
    with pytest.raises(ServerNotAvailable, match="busy"):
        far.jobs.start(image="any", preset_name="cpu-small", command="true")


def test_an_answer_that_comes_late_is_waited_for(
    proxy: FaultProxy, far: Session, finished: JobDescription
) -> None:
    late = Fault(delay=0.3)
    proxy.plan("GET /api/v1/jobs/", late)
    assert far.jobs.status(finished).id == finished.id
    assert late.hit.is_set()


def test_an_upgrade_that_is_refused_says_why(
    proxy: FaultProxy, far: Session, finished: JobDescription
) -> None:
    reason = b'{"error": "too many terminals are open"}'
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"
    head += b"X-Request-ID: req-4711\r\nRetry-After: 7\r\nX-Error: "
    proxy.plan("GET /api/v1/monitoring/jobs/", Fault(answer=head + reason + b"\r\n\r\n"))
    with pytest.raises(ServerNotAvailable, match="too many terminals are open") as refused:
        far.jobs.exec(finished, "true")
    assert (refused.value.request_id, refused.value.retry_after) == ("req-4711", 7)


def test_a_list_that_hangs_raises(
    proxy: FaultProxy, platform: LocalPlatform, finished: JobDescription
) -> None:
    with Session(proxy.url, platform.token, timeout=(5.0, 0.2), clock=Impatient()) as session:
        session.presets  # noqa: B018  # so that the next request is the list
        proxy.plan("GET /api/v1/jobs?", Fault(hang_after=500))
        with pytest.raises(StreamInterrupted, match="timed out"):
            list(session.jobs.list())
        proxy.plan("GET /api/v1/jobs?", *[Fault(hang_after=0)] * 4)
        with pytest.raises(RequestTimeout):
            session.jobs.list()
        proxy.plan(LOG, *[Fault(hang_after=0)] * 4)
        with pytest.raises(RequestTimeout):
            session.jobs.monitor(finished)


def test_a_list_that_is_cut_raises_instead_of_ending(
    proxy: FaultProxy, far: Session, finished: JobDescription
) -> None:
    far.presets  # noqa: B018  # so that the next request is the list
    proxy.plan("GET /api/v1/jobs?", Fault(cut_after=500))
    with pytest.raises(StreamInterrupted):
        list(far.jobs.list())
