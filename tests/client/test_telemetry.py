"""``jobs.top``: JSON lines from platforms that have them, a websocket from the others."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from neuro_sync import APIError, IllegalArgumentError, JobDescription, Session
from neuro_sync.client.telemetry import TelemetrySource, lacks_json_lines
from neuro_sync.local.server import LocalPlatform
from neuro_sync.transport.http import HttpTransport

Start = Callable[[str], JobDescription]
BUSY = "sh -c 'while :; do :; done'"


def test_a_running_job_tells_what_it_uses_until_it_is_over(session: Session, start: Start) -> None:
    job = start(BUSY)
    with session.jobs.top(job) as samples:
        first = next(samples)
        assert first.memory > 0
        assert first.gpu_memory is None
        second = next(samples)
        assert second.timestamp > first.timestamp
        assert 0 < second.cpu < 2.5
        session.jobs.kill(job)
        assert len(list(samples)) <= 1


def test_a_job_that_is_over_has_no_samples(session: Session, start: Start) -> None:
    job = session.jobs.wait(start("true"))
    assert list(session.jobs.top(job)) == []


def test_an_unknown_job_is_told_at_the_call(session: Session) -> None:
    with pytest.raises(IllegalArgumentError, match="no such job"):
        session.jobs.top("job-00000000-0000-0000-0000-000000000000")


def test_another_thread_may_close_it(session: Session, start: Start) -> None:
    job = start("sleep 60")
    samples = session.jobs.top(job)
    next(samples)
    reader = threading.Thread(target=lambda: list(samples))
    reader.start()
    samples.close()
    reader.join(1)
    assert not reader.is_alive()
    session.jobs.kill(job)


class WebsocketOnly(HttpTransport):
    """Sends no request for JSON lines, and remembers how often it was asked to."""

    asked = 0

    def stream(self, *_: object, **__: object) -> object:  # type: ignore[override]
        self.asked += 1
        text = "No WebSocket UPGRADE hdr: None"
        raise IllegalArgumentError(text, status=400)


def test_a_platform_that_speaks_websocket_only_is_asked_once_for_lines(
    platform: LocalPlatform, session: Session, start: Start
) -> None:
    job = session.jobs.wait(start(BUSY), until="running")
    transport = WebsocketOnly(platform.token)
    source = TelemetrySource(transport)
    url = f"{platform.url}/monitoring/jobs"
    for _ in range(2):
        with source.open(url, job.id) as samples:
            assert next(samples).memory_bytes > 0
    assert transport.asked == 1
    session.jobs.kill(job)
    transport.close()


@pytest.mark.parametrize(
    ("status", "payload", "lacks"),
    [
        (400, None, True),
        (404, None, True),
        (405, None, True),
        (426, None, True),
        (501, None, True),
        (400, {"error": "no such job"}, False),
        (403, {"missing": []}, False),
        (404, {"error": "x"}, False),
        (401, None, False),
        (500, None, False),
        (503, None, False),
    ],
)
def test_a_refusal_for_a_reason_is_no_lack(status: int, payload: object, lacks: bool) -> None:
    assert lacks_json_lines(APIError("text", status=status, payload=payload)) is lacks
