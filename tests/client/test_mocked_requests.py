"""With a mock in place of requests, nothing goes past it: no file, no token, no connection."""

from __future__ import annotations

import functools
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
import responses
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from neuro_sync import ConnectionFailed, Session
from neuro_sync.local.server import LocalPlatform
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.interception import find_interceptor

JOB = "job-00000000-0000-0000-0000-000000000000"
LARGE = b"x" * 2**17
FILES = {"a": b"first", "b": b"second", "large": LARGE}


class Hurried(Clock):
    """A clock that does not wait before another try."""

    def sleep(self, seconds: float) -> None:
        pass


@pytest.fixture
def mocked(platform: LocalPlatform) -> Iterator[Session]:
    """A session that knows its platform, and has a connection to it."""
    with Session(platform.url, platform.token, clock=Hurried()) as session:
        session.config.fetch()
        yield session


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The addresses that anything was connected to."""
    found: list[object] = []
    connect = socket.socket.connect

    def record(self: socket.socket, address: Any) -> None:
        found.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", record)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def raise_refused(*_: object, **__: object) -> Any:
    raise requests.ConnectionError("mocked")


class RefusingAdapter(HTTPAdapter):
    send = raise_refused


class RefusingConnection(HTTPConnection):
    def connect(self) -> None:
        raise ConnectionRefusedError("mocked")


@contextmanager
def mounted(session: Session) -> Iterator[None]:
    """Mount an adapter on the session that it sends with."""
    inner = session._transport._connections._session  # there is no other way
    before = dict(inner.adapters)
    inner.mount("http://", RefusingAdapter())
    try:
        yield
    finally:
        inner.adapters = before


def patched(target: str, new: Any) -> Callable[[Session], AbstractContextManager[object]]:
    return lambda _: mock.patch(target, new)


@functools.wraps(HTTPAdapter.send)
def raise_refused_as_a_wrapper(*_: object, **__: object) -> Any:
    raise requests.ConnectionError("mocked")


MOCKS: dict[str, Callable[[Session], AbstractContextManager[object]]] = {
    "responses": lambda _: responses.RequestsMock(),
    "adapter's send": patched("requests.adapters.HTTPAdapter.send", raise_refused),
    "session's send": patched("requests.Session.send", raise_refused),
    "session's request": patched("requests.Session.request", raise_refused),
    "get_adapter": patched("requests.Session.get_adapter", lambda *_: RefusingAdapter()),
    "urlopen": patched("urllib3.connectionpool.HTTPConnectionPool.urlopen", raise_refused),
    "pool": patched("requests.adapters.HTTPAdapter.get_connection_with_tls_context", raise_refused),
    "connection class": patched(
        "urllib3.connectionpool.HTTPConnectionPool.ConnectionCls", RefusingConnection
    ),
    "session class": patched(
        "requests.Session", mock.MagicMock(side_effect=requests.ConnectionError)
    ),
    "mounted adapter": mounted,
}
CALLS: dict[str, Callable[[Session, Path], object]] = {
    "config.fetch": lambda session, _: session.config.fetch(),
    "storage.stat": lambda session, _: session.storage.stat("storage:x"),
    "storage.list": lambda session, _: list(session.storage.list("storage:")),
    "storage.glob": lambda session, _: list(session.storage.glob("storage:*")),
    "storage.mkdir": lambda session, _: session.storage.mkdir("storage:x"),
    "storage.create": lambda session, _: session.storage.create("storage:x", b"y"),
    "storage.create large": lambda session, _: session.storage.create("storage:x", LARGE),
    "storage.write": lambda session, _: session.storage.write("storage:x", b"y", 1),
    "storage.open": lambda session, _: b"".join(session.storage.open("storage:x")),
    "storage.rm": lambda session, _: session.storage.rm("storage:x"),
    "storage.mv": lambda session, _: session.storage.mv("storage:x", "storage:y"),
    "storage.disk_usage": lambda session, _: session.storage.disk_usage(),
    "upload_file": lambda session, tree: session.storage.upload_file(tree / "a", "storage:x"),
    "upload_file large": lambda session, tree: session.storage.upload_file(
        tree / "large", "storage:x"
    ),
    "upload_dir": lambda session, tree: session.storage.upload_dir(tree, "storage:x"),
    "download_file": lambda session, tree: session.storage.download_file("storage:x", tree / "a"),
    "download_dir": lambda session, tree: session.storage.download_dir("storage:x", tree),
    "jobs.start": lambda session, _: session.jobs.start(
        image="any", preset_name="cpu-small", command="true"
    ),
    "jobs.list": lambda session, _: list(session.jobs.list()),
    "jobs.status": lambda session, _: session.jobs.status(JOB),
    "jobs.kill": lambda session, _: session.jobs.kill(JOB),
    "jobs.wait": lambda session, _: session.jobs.wait(JOB, timeout=1),
    "jobs.monitor": lambda session, _: list(session.jobs.monitor(JOB)),
    "jobs.logs": lambda session, _: list(session.jobs.logs(JOB)),
    "jobs.top": lambda session, _: list(session.jobs.top(JOB)),
    "jobs.exec": lambda session, _: session.jobs.exec(JOB, "true"),
    "jobs.attach": lambda session, _: session.jobs.attach(JOB),
    "jobs.run_command": lambda session, _: session.jobs.run_command(JOB, "true"),
    "jobs.get_capacity": lambda session, _: session.jobs.get_capacity(),
    "jobs.tags": lambda session, _: session.jobs.tags(),
    "images.list": lambda session, _: session.images.list(),
    "images.tags": lambda session, _: session.images.tags("image:x"),
    "images.size": lambda session, _: session.images.size("image:x"),
    "images.rm": lambda session, _: session.images.rm("image:x"),
    "secrets.add": lambda session, _: session.secrets.add("x", b"y"),
    "secrets.get": lambda session, _: session.secrets.get("x"),
    "secrets.list": lambda session, _: list(session.secrets.list()),
    "disks.list": lambda session, _: list(session.disks.list()),
    "disks.create": lambda session, _: session.disks.create(2**30),
    "users.get_acl": lambda session, _: session.users.get_acl("alice"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_with_an_empty_mock_no_call_opens_a_connection(
    mocked: Session,
    connected: list[object],
    tree: Path,
    call: Callable[[Session, Path], object],
) -> None:
    with responses.RequestsMock(), pytest.raises(ConnectionError) as failed:
        call(mocked, tree)
    assert isinstance(failed.value, ConnectionFailed)
    assert connected == []
    assert {path.name: path.read_bytes() for path in tree.iterdir()} == FILES


@pytest.mark.parametrize("kind", MOCKS.values(), ids=MOCKS)
@pytest.mark.parametrize("name", ["upload_dir", "download_dir", "jobs.start", "jobs.exec"])
def test_whatever_is_replaced_nothing_goes_past_it(
    mocked: Session,
    connected: list[object],
    tree: Path,
    kind: Callable[[Session], AbstractContextManager[object]],
    name: str,
) -> None:
    mocked.storage.mkdir("storage:x", parents=True, exist_ok=True)
    connected.clear()
    with kind(mocked), pytest.raises(ConnectionFailed):
        CALLS[name](mocked, tree)
    assert connected == []
    assert find_interceptor() is None
    mocked.storage.upload_dir(tree, "storage:x")  # as before


def test_a_copy_of_a_folder_asks_the_mock_for_each_file(
    mocked: Session, platform: LocalPlatform, connected: list[object], tree: Path, tmp_path: Path
) -> None:
    listing = [
        {"FileStatus": {"path": name, "length": len(content), "type": "FILE"} | STATUS}
        for name, content in FILES.items()
    ]
    lines = "".join(f"{json.dumps(line)}\n" for line in listing)
    uploaded: dict[str, bytes] = {}

    def answer(request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        assert request.headers["Authorization"] == f"Bearer {platform.token}"
        path, _, query = str(request.path_url).partition("?")
        name = path.rpartition("/")[2]
        if "LISTSTATUS" in query:
            return 200, {"Content-Type": "application/x-ndjson"}, lines.encode()
        if "GETFILESTATUS" in query:
            return 200, {}, json.dumps({"FileStatus": {"path": name, **FOLDER}}).encode()
        if "OPEN" in query:
            return 200, {"Content-Length": str(len(FILES[name]))}, FILES[name]
        if "CREATE" in query:
            assert isinstance(request.body, bytes)
            uploaded[name] = request.body
        return 201, {}, b""

    with responses.RequestsMock() as requests_mock:
        for method in ("GET", "PUT"):
            address = f"{platform.url.rpartition('/api')[0]}/"
            requests_mock.add_callback(method, pattern(address), callback=answer, content_type=None)
        mocked.storage.download_dir("storage:x", tmp_path / "back")
        mocked.storage.upload_dir(tree, "storage:x")
    assert uploaded == FILES
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == FILES
    assert connected == []


FOLDER = {"length": 0, "type": "DIRECTORY", "modificationTime": 1, "permission": "write"}
STATUS = {"modificationTime": 1, "permission": "write"}


def pattern(start: str) -> Any:
    return re.compile(f"{re.escape(start)}.*")


def test_a_mock_reads_the_body_of_a_secret_as_plain_bytes(
    mocked: Session, platform: LocalPlatform
) -> None:
    with responses.RequestsMock() as requests_mock:
        requests_mock.add(
            responses.POST,
            pattern(platform.url.rpartition("/api")[0]),
            match=[
                responses.matchers.json_params_matcher({"value": "dg=="}, strict_match=False),
                responses.matchers.header_matcher({"Authorization": f"Bearer {platform.token}"}),
            ],
            status=201,
        )
        mocked.secrets.add("key", b"v")


def test_an_instrumentation_sees_each_request_and_stops_none(
    mocked: Session, start: Callable[[str], Any], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenTelemetry does it: a wrapper that says what it wraps."""
    seen: list[str] = []
    send = requests.Session.send

    @functools.wraps(send)
    def traced(self: requests.Session, request: Any, **options: Any) -> requests.Response:
        seen.append(f"{request.method} {request.path_url.rpartition('/')[2]}")
        assert "Bearer" not in repr(request.headers)
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", traced)
    mocked.storage.upload_dir(tree, "storage:instrumented")
    assert {f"PUT {name}?op=CREATE" for name in FILES} <= set(seen)
    job = start("sleep 60")
    mocked.jobs.wait(job, until="running")
    assert mocked.jobs.run_command(job, "echo here").stdout == b"here\n"
    mocked.jobs.kill(job)


def test_a_wrapper_that_calls_nothing_is_not_passed(
    mocked: Session, connected: list[object], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mocked.storage.mkdir("storage:x", parents=True, exist_ok=True)
    connected.clear()
    monkeypatch.setattr(HTTPAdapter, "send", raise_refused_as_a_wrapper)
    with pytest.raises(ConnectionFailed):
        mocked.storage.upload_dir(tree, "storage:x")
    assert connected == []


def test_a_session_with_a_cache_changes_nothing(
    mocked: Session, platform: LocalPlatform, start: Callable[[str], Any]
) -> None:
    """As `requests_cache.install_cache` does it."""

    class CachedSession(requests.Session):
        def request(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("a status that was cached would be wrong")

    job = start("sleep 60")
    with (
        mock.patch("requests.Session", CachedSession),
        mock.patch("requests.sessions.Session", CachedSession),
        Session(platform.url, platform.token) as made_now,
    ):
        for session in (mocked, made_now):
            session.jobs.wait(job, until="running")
            assert session.jobs.run_command(job, "echo here").stdout == b"here\n"
    mocked.jobs.kill(job)


def test_a_mock_that_was_there_first_is_noticed(platform: LocalPlatform, tmp_path: Path) -> None:
    program = f"""
import requests, responses, socket
with responses.RequestsMock():
    import neuro_sync
    from neuro_sync.transport.interception import find_interceptor
    print(find_interceptor().name)
    with neuro_sync.Session({platform.url!r}, {platform.token!r}) as session:
        try:
            session.storage.upload_dir({str(tmp_path)!r}, "storage:x")
        except ConnectionError as error:
            print("refused")
print(find_interceptor())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.splitlines() == ["HTTPAdapter.send", "refused", "None"]
