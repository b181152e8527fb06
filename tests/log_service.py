"""A monitoring service that follows a script, and answers the way the hosted platform's does.

It has an archive, sorted by time and rounded to microseconds, in front of a live log in the order
of writing with nanoseconds. Its head comes at once, whatever the archive takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import itemgetter
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from neuro_sync import Session
from neuro_sync.local.state import make_token
from neuro_sync.transport.clock import Clock

JOB_ID = "job-00000000-0000-0000-0000-000000000000"
LIVE_NOTE = b"=== Live logs from since=now ===\n"
NS = 10**9
LONG_AGO = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Cut(Exception):
    """Ends a connection as a broken line does."""


Talk = Callable[["LogService", dict[str, str]], Iterator[bytes]]
"""Yields the pieces of a log for a query; its end is the end of the log, a `Cut` breaks it off."""


class LogService(ThreadingHTTPServer):
    """One job, and a log that is told by `talks`, one for each connection, the last one again."""

    daemon_threads = True

    def __init__(self, *talks: Talk, final_status: str = "succeeded") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.talks = list(talks)
        self.status = "running"
        self.final_status = final_status
        """The status from the last connection on."""
        self.finished_at = LONG_AGO
        self.queries: list[dict[str, str]] = []
        """Of all connections to the log."""
        self.asked = 0
        """How often for the job's status."""
        self.refusals: list[int] = []
        """Statuses to refuse the next connections with."""
        self.closed = Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/v1"

    def config(self) -> dict[str, Any]:
        services = ("storage", "users", "monitoring", "secrets", "disks", "buckets")
        cluster: dict[str, Any] = {f"{name}_url": f"{self.url}/{name}" for name in services}
        cluster |= {
            "name": "default",
            "orgs": ["acme"],
            "registry_url": self.url,
            "resource_pool_types": [],
            "resource_presets": [],
        }
        return {"authorized": True, "admin_url": self.url, "clusters": [cluster]}

    def job(self) -> dict[str, Any]:
        self.asked += 1
        is_over = self.status in ("succeeded", "failed", "cancelled")
        history = {"status": self.status, "created_at": LONG_AGO.isoformat()}
        if is_over:
            history["finished_at"] = self.finished_at.isoformat()
        resources = {"cpu": 1, "memory": 2**20}
        return {
            "id": JOB_ID,
            "owner": "alice",
            "cluster_name": "default",
            "status": self.status,
            "history": history,
            "container": {"image": "ubuntu", "resources": resources},
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LogService

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path.endswith("/config"):
            self._answer(200, self.server.config())
        elif address.path.endswith(f"/jobs/{JOB_ID}"):
            self._answer(200, self.server.job())
        elif self.server.refusals:
            self._answer(self.server.refusals.pop(0), {"error": "not now"})
        else:
            self._send_log(dict(parse_qsl(address.query)))

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_log(self, query: dict[str, str]) -> None:
        number = len(self.server.queries)
        self.server.queries.append(query)
        last = len(self.server.talks) - 1
        if number >= last:
            self.server.status = self.server.final_status
        talk = self.server.talks[min(number, last)]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in filter(None, talk(self.server, query)):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except (Cut, ConnectionError):
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


class Unhurried(Clock):
    """A clock whose pauses take next to no time."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.001))


@contextmanager
def served(
    *talks: Talk, silence: float = 60.0, **options: Any
) -> Iterator[tuple[Session, LogService]]:
    """Serve a log by a script, and yield a session that gives up after so much silence."""
    with LogService(*talks, **options) as service:
        thread = Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            with Session(
                service.url, make_token("alice"), timeout=(5, silence), clock=Unhurried()
            ) as session:
                yield session, service
        finally:
            service.closed.set()
            service.shutdown()
            thread.join(5)


@dataclass
class Written:
    """What a job writes: the time of each line in nanoseconds, and its text."""

    lines: list[tuple[int, bytes]]
    written: int | None = None
    """How many lines there are by now; None for all."""
    border: int | None = None
    """The second up to which lines come from the archive; None for all of them."""
    cut_after: int | None = None
    """The bytes after which the connection breaks."""
    ends_cleanly: bool = False
    """Whether the cut looks like an end."""
    piece: int = 2**16
    """Bytes of a chunk."""
    page: int = 5000
    """Lines of the archive that are asked for at a time."""
    archive_delay: float = 0.0
    """Seconds that the archive takes for each page."""
    hold: bool = False
    """Whether the live log stays open at the end, since the job runs."""

    def __call__(self, service: LogService, query: dict[str, str]) -> Iterator[bytes]:
        left = self.cut_after
        for data in self._blocks(service, query):
            for begin in range(0, len(data), self.piece):
                piece = data[begin : begin + self.piece]
                if left is not None and len(piece) >= left:
                    yield piece[:left]
                    if self.ends_cleanly:
                        return
                    raise Cut
                left = None if left is None else left - len(piece)
                yield piece
        if self.hold:
            service.closed.wait(30)
        if left is not None and not self.ends_cleanly:
            raise Cut

    def _blocks(self, service: LogService, query: dict[str, str]) -> Iterator[bytes]:
        lines = self.lines[: self.written]
        since = _nanoseconds(query["since"]) if "since" in query else 0
        stamped = query.get("timestamps") == "true"
        border = 2**63 if self.border is None else self.border * NS
        archived = sorted((line for line in lines if since <= line[0] < border), key=itemgetter(0))
        if since >= border:
            border, archived = since, []
        for begin in range(0, max(len(archived), 1), self.page):
            # Its head has come by now; then it is silent while it waits for the archive.
            service.closed.wait(self.archive_delay)
            page = archived[begin : begin + self.page]
            yield b"".join(_archived(time, text, stamped=stamped) for time, text in page)
        if self.border is None and not self.hold:
            return
        if query.get("debug") == "true":
            yield LIVE_NOTE
        second = border // NS * NS
        live = [line for line in lines if line[0] >= second]
        if archived and live and query.get("separator"):
            yield query["separator"].encode() + b"\n"
        yield b"".join(_live(time, text, stamped=stamped) for time, text in live)


def _archived(time: int, text: bytes, *, stamped: bool) -> bytes:
    moment = datetime.fromtimestamp(time / NS, timezone.utc)
    stamp = f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z " if stamped else ""
    return stamp.encode() + text.decode(errors="replace").encode() + b"\n"


def _live(time: int, text: bytes, *, stamped: bool) -> bytes:
    second, fraction = divmod(time, NS)
    moment = datetime.fromtimestamp(second, timezone.utc)
    stamp = f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09}Z " if stamped else ""
    return stamp.encode() + text + b"\n"


def _nanoseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1) * 1000
