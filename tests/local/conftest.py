"""What tests of a job's channels share: a plain websocket, and jobs that run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest
import websocket

from neuro_sync import JobDescription, Session
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import Address
from neuro_sync.models import frames

DEADLINE = 30.0
"""Seconds until a test gives up on what should take a moment."""


@dataclass
class Heard:
    """What came over a channel until its end."""

    messages: list[bytes] = field(default_factory=list)
    close_code: int | None = None

    def of(self, channel: int) -> bytes:
        return b"".join(message[1:] for message in self.messages if message[0] == channel)

    @property
    def stdout(self) -> bytes:
        return self.of(frames.STDOUT)

    @property
    def stderr(self) -> bytes:
        return self.of(frames.STDERR)

    @property
    def statuses(self) -> list[dict[str, Any]]:
        return [json.loads(message[1:]) for message in self.messages if message[0] == frames.STATUS]


class Channel:
    """A websocket to a job, without anything of this package's client."""

    def __init__(self, websocket: websocket.WebSocket) -> None:
        self.websocket = websocket

    def send(self, message: bytes) -> None:
        self.websocket.send_binary(message)

    def message(self) -> bytes:
        kind, data = self.websocket.recv_data()
        assert kind == websocket.ABNF.OPCODE_BINARY, (kind, data)
        return bytes(data)

    def until(self, wanted: bytes) -> bytes:
        """Read until something was printed, and return all that was."""
        seen = b""
        while wanted not in seen:
            seen += self.message()[1:]
        return seen

    def rest(self) -> Heard:
        """Read until the platform closes."""
        heard = Heard()
        while True:
            try:
                kind, data = self.websocket.recv_data()
            except websocket.WebSocketConnectionClosedException:
                return heard
            if kind == websocket.ABNF.OPCODE_CLOSE:
                heard.close_code = int.from_bytes(data[:2], "big")
                return heard
            heard.messages.append(bytes(data))

    def leave(self) -> None:
        self.websocket.close()

    def cut(self) -> None:
        """Leave without a word."""
        if self.websocket.sock is not None:
            self.websocket.sock.close()


@dataclass
class Dial:
    """Opens channels to the jobs of a platform."""

    platform: LocalPlatform | Address
    opened: list[websocket.WebSocket] = field(default_factory=list)

    def __call__(
        self,
        job: JobDescription | str,
        path: str,
        *,
        offer: tuple[str, ...] = (frames.CHANNELS_WITH_EOF,),
        **query: Any,
    ) -> Channel:
        id = job if isinstance(job, str) else job.id
        url = f"{self.platform.url.replace('http', 'ws', 1)}/monitoring/jobs/{id}/{path}"
        connection = websocket.create_connection(
            f"{url}?{urlencode(query)}",
            header={"Authorization": f"Bearer {self.platform.token}"},
            subprotocols=list(offer),
            timeout=DEADLINE,
        )
        self.opened.append(connection)
        return Channel(connection)

    def to(self, platform: Address | LocalPlatform) -> Dial:
        """Return the same for another platform."""
        return Dial(platform, self.opened)

    def refused(
        self, job: JobDescription | str, path: str, **query: Any
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of a handshake that is refused."""
        with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
            self(job, path, **query)
        error = refusal.value
        assert error.resp_headers is not None
        body = json.loads(error.resp_headers["x-error"])
        assert error.resp_body is None or json.loads(error.resp_body) == body
        return error.status_code, body


@pytest.fixture
def dial(platform: LocalPlatform) -> Iterator[Dial]:
    dialer = Dial(platform)
    yield dialer
    for connection in dialer.opened:
        Channel(connection).cut()


Run = Callable[..., JobDescription]


@pytest.fixture
def run(session: Session) -> Iterator[Run]:
    """Start a command and return when it runs; it is killed after the test."""
    started: list[JobDescription] = []

    def run_command(command: str, **options: Any) -> JobDescription:
        job = session.jobs.start(image="any", preset_name="cpu-small", command=command, **options)
        started.append(job)
        deadline = time.monotonic() + DEADLINE
        while not (now := session.jobs.status(job)).status.is_running:
            assert not now.status.is_finished, now
            assert time.monotonic() < deadline, now
            time.sleep(0.005)
        return job

    yield run_command
    for job in started:
        session.jobs.kill(job)


@pytest.fixture(autouse=True)
def _no_failure_within_the_platform(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    failures = [record for record in caplog.get_records("call") if record.levelname == "ERROR"]
    assert not failures, failures
