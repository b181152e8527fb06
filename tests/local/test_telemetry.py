"""``top`` and ``capacity`` over the wire."""

from __future__ import annotations

import json
from collections.abc import Callable

import requests
from websocket import create_connection

from neuro_sync import JobDescription, Session
from neuro_sync.local.server import LocalPlatform

Start = Callable[[str], JobDescription]
BUSY = "sh -c 'while :; do :; done'"


def headers(platform: LocalPlatform) -> dict[str, str]:
    return {"Authorization": f"Bearer {platform.token}"}


def test_a_running_job_is_measured(platform: LocalPlatform, session: Session, start: Start) -> None:
    job = session.jobs.wait(start(BUSY), until="running")
    url = f"{platform.url}/monitoring/jobs/{job.id}/top".replace("http:", "ws:")
    websocket = create_connection(
        url, header=headers(platform), suppress_origin=True, subprotocols=["top.apolo.us"]
    )
    samples = [json.loads(websocket.recv()) for _ in range(2)]
    assert samples[1]["memory_bytes"] > 100_000
    assert samples[0]["memory"] == samples[0]["memory_bytes"] // 2**20
    assert 0.01 < samples[1]["cpu"] < 2.5
    assert samples[1]["timestamp"] > samples[0]["timestamp"]
    session.jobs.kill(job)
    code, reason = 0, b""
    while code != 8:  # the close frame
        code, reason = websocket.recv_data()
    assert int.from_bytes(reason[:2], "big") == 1000
    websocket.shutdown()  # type: ignore[no-untyped-call]  # the library has no types here


def test_json_lines_are_sent_to_who_accepts_them(
    platform: LocalPlatform, session: Session, start: Start
) -> None:
    job = session.jobs.wait(start(BUSY), until="running")
    url = f"{platform.url}/monitoring/jobs/{job.id}/top"
    accept = {**headers(platform), "Accept": "application/x-ndjson"}
    with requests.get(url, headers=accept, stream=True, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        lines = answer.iter_lines()
        assert json.loads(next(lines))["memory_bytes"] > 0
        session.jobs.kill(job)
        assert all(json.loads(line) for line in lines)  # and it ends


def test_a_job_that_is_over_has_nothing_to_tell(
    platform: LocalPlatform, session: Session, start: Start
) -> None:
    job = session.jobs.wait(start("true"))
    url = f"{platform.url}/monitoring/jobs/{job.id}/top"
    accept = {**headers(platform), "Accept": "application/x-ndjson"}
    answer = requests.get(url, headers=accept, timeout=10)
    assert (answer.status_code, answer.text) == (200, "")
    websocket = create_connection(
        url.replace("http:", "ws:"), header=headers(platform), suppress_origin=True
    )
    assert websocket.recv_data() == (8, b"\x03\xe8")
    websocket.shutdown()  # type: ignore[no-untyped-call]  # the library has no types here


def test_who_accepts_no_json_lines_is_told_to_upgrade(
    platform: LocalPlatform, session: Session, start: Start
) -> None:
    job = session.jobs.wait(start("true"))
    url = f"{platform.url}/monitoring/jobs/{job.id}/top"
    answer = requests.get(url, headers=headers(platform), timeout=10)
    assert answer.status_code == 400
    assert answer.text.startswith("No WebSocket UPGRADE hdr")


def test_running_jobs_take_capacity() -> None:
    with (
        LocalPlatform(ephemeral=True, grace=0.2, cores=4, memory=2**40) as platform,
        Session(platform.url, platform.token) as session,
    ):
        url = f"{platform.url}/monitoring/jobs/capacity"
        before = requests.get(url, headers=headers(platform), timeout=10).json()
        session.jobs.start(image="any", preset_name="cpu-small", command="sleep 60")
        after = requests.get(url, headers=headers(platform), timeout=10).json()
        assert (before["cpu-small"], after["cpu-small"]) == (4, 3)
        old = url.replace("capacity", "available")
        assert requests.post(old, json={}, headers=headers(platform), timeout=10).json() == after
