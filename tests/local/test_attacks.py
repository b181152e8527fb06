"""What somebody with bad intentions may send: refused on every route, and nobody else suffers."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import quote

import psutil
import pytest
import requests
from websocket import WebSocketBadStatusException, create_connection

from neuro_sync import Session
from neuro_sync.local import http
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import local_user

from .routes import app_of, routes_of

OPEN = ("/ping", "/api/v1/ping", "/api/v1/config")
"""What answers without a token; of the last one test_access.py tells how little that is."""
FOREIGN = [
    {"Host": "evil.example:{port}"},
    {"Host": "127.0.0.1.evil.example:{port}"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
]
STREAMS = ("/api/v1/storage/", "/v2/")
"""Whose bodies are files of any size."""


@pytest.fixture(scope="module")
def target() -> Iterator[LocalPlatform]:
    """A platform of its own, where whatever slips through disturbs nobody."""
    with LocalPlatform(ephemeral=True, grace=0.2, cores=1, memory=2**33) as platform:
        yield platform


def calls(platform: LocalPlatform, filling: str = "x") -> list[tuple[str, str]]:
    """Return method and path of all that can be asked, with something in the place of each name."""
    found = sorted(routes_of(app_of(platform).routes))
    assert len(found) > 70
    return [(method, re.sub(r"\{[^}]*\}", filling, path)) for method, path in found]


def ask(
    platform: LocalPlatform, method: str, path: str, headers: dict[str, str]
) -> tuple[int, dict[str, str]]:
    """Return status and headers of the answer to a request or a handshake."""
    root = f"http://127.0.0.1:{platform.port}"
    if method != "WS":
        with requests.request(method, root + path, headers=headers, timeout=10, stream=True) as got:
            return got.status_code, {name.lower(): value for name, value in got.headers.items()}
    host, origin = headers.get("Host"), headers.get("Origin")
    others = {name: value for name, value in headers.items() if name == "Authorization"}
    try:
        create_connection(
            root.replace("http", "ws") + path,
            header=others,
            host=host,
            origin=origin,
            suppress_origin=origin is None,
            timeout=10,
        ).close()
    except WebSocketBadStatusException as refusal:
        return refusal.status_code, dict(refusal.resp_headers or {})
    return 101, {}


def test_every_route_takes_a_token(target: LocalPlatform) -> None:
    for method, path in calls(target):
        if path in OPEN:
            continue
        assert ask(target, method, path, {})[0] == 401, (method, path)
        # The registry takes another scheme, and says so.
        wrong = 400 if path.startswith("/v2/") else 401
        headers = {"Authorization": "Bearer " + "x" * len(target.token)}
        assert ask(target, method, path, headers)[0] == wrong, (method, path)


@pytest.mark.parametrize("header", FOREIGN, ids=lambda header: str(*header.values()))
def test_every_route_refuses_pages_of_others(target: LocalPlatform, header: dict[str, str]) -> None:
    headers = {name: value.format(port=target.port) for name, value in header.items()}
    for method, path in calls(target):
        for token in ({"Authorization": f"Bearer {target.token}"}, {}):
            status, _ = ask(target, method, path, {**headers, **token})
            assert status == 403, (method, path)


@pytest.mark.parametrize(
    "fields",
    [
        ["Host: evil.example"],
        ["Host: 127.0.0.1:{port}"],
        ["HOST: localhost:{port}"],
        ["Authorization: Bearer wrong"],
        ["Origin: http://127.0.0.1:{port}", "Origin: http://evil.example"],
        ["Content-Length: 0", "Content-Length: 5"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Content-Type: application/json", "Content-Type: text/plain"],
    ],
    ids=lambda fields: fields[-1],
)
@pytest.mark.parametrize("before", [True, False])
def test_every_route_refuses_two_headers_of_which_one_decides(
    target: LocalPlatform, fields: list[str], before: bool
) -> None:
    handshake = [
        *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    more = [field.format(port=target.port) for field in fields]
    for method, path in calls(target):
        lines = head(target, method.replace("WS", "GET"), path).decode().split("\r\n")[:-2]
        request, *usual = lines + (handshake if method == "WS" else [])
        usual = [*more, *usual] if before else [*usual, *more]
        with connection(target) as opened:
            opened.sendall("\r\n".join([request, *usual, "", ""]).encode())
            status = opened.recv(MIB).split(b" ")[1]
        assert status == b"400", (method, path)


INJECTION = "abc\r\nx-injected: yes\r\n\r\n\x1b[2J\x9b2J\N{RIGHT-TO-LEFT OVERRIDE}"


def test_no_name_gets_into_the_headers_or_breaks_the_log(
    target: LocalPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "neuro_sync")
    name = quote(INJECTION, safe="")
    authorization = {"Authorization": f"Bearer {target.token}"}
    for method, path in calls(target, name):
        for query in ("", f"?op={name}&name={name}&org_name={name}&project_name={name}&uri={name}"):
            status, headers = ask(target, method, path + query, authorization)
            assert status < 500 or status == 501, (method, path)
            assert "x-injected" not in headers
    told = [record.getMessage() for record in caplog.records]
    assert any("injected" in line for line in told)
    assert [line for line in told if not line.isprintable()] == []


def test_a_file_name_with_line_breaks_stays_a_file_name(target: LocalPlatform) -> None:
    name = "a\r\nx-injected: yes"
    with Session(target.url, target.token) as session:
        uri = f"storage:{quote(name, safe='')}"
        session.storage.create(uri, b"inside")
        assert b"".join(session.storage.open(uri)) == b"inside"
        assert session.storage.stat(uri).name == name
        path = f"/api/v1/storage/local/{local_user()}/{quote(name)}"
    _, headers = ask(target, "GET", path, {"Authorization": f"Bearer {target.token}"})
    assert "x-injected" not in headers


# Too much of something

MIB = 2**20


@contextmanager
def connection(platform: LocalPlatform) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", platform.port), timeout=20) as opened:
        yield opened


def head(platform: LocalPlatform, method: str, path: str, *fields: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{platform.port}", *fields]
    return "\r\n".join([*lines, f"Authorization: Bearer {platform.token}", "", ""]).encode()


def status_of(opened: socket.socket) -> int:
    answer = b""
    while b"\r\n" not in answer:
        piece = opened.recv(4096)
        assert piece, "closed without an answer"
        answer += piece
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/jobs"),
        ("POST", "/api/v1/jobs?from_preset"),
        ("PUT", "/api/v1/jobs/x/max_run_time_minutes"),
        ("POST", "/api/v1/secrets"),
        ("POST", "/api/v1/disk"),
        ("POST", "/api/v1/users"),
        ("POST", "/api/v1/users/x/permissions"),
        ("PUT", "/api/v1/users/x/permissions"),
        ("POST", "/api/v1/monitoring/jobs/x/exec_create"),
    ],
)
def test_a_body_of_100_mb_is_refused_before_it_comes(
    target: LocalPlatform, method: str, path: str
) -> None:
    with connection(target) as opened:
        opened.sendall(head(target, method, path, f"Content-Length: {100 * MIB}"))
        assert status_of(opened) == 413


def test_a_body_of_100_mb_that_does_not_say_so_takes_no_memory(target: LocalPlatform) -> None:
    chunk = b"100000\r\n" + b"[" * MIB + b"\r\n"
    process = psutil.Process()
    before = largest = process.memory_info().rss
    answers = set()
    for method, path in calls(target):
        if method in ("WS", "GET") or path.startswith(STREAMS):
            continue
        with connection(target) as opened:
            opened.sendall(head(target, method, path, "Transfer-Encoding: chunked"))
            with suppress(ConnectionError):
                for _ in range(100):
                    opened.sendall(chunk)
                    largest = max(largest, process.memory_info().rss)
                opened.sendall(b"0\r\n\r\n")
            status = status_of(opened)
        assert status < 500 or status == 501, (method, path)
        answers.add(status)
    assert 413 in answers
    assert largest - before < 32 * MIB


@pytest.mark.parametrize("body", ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000])
def test_a_body_that_is_nested_without_end_is_refused(target: LocalPlatform, body: str) -> None:
    for method, path in calls(target):
        if method in ("POST", "PUT") and not path.startswith(STREAMS):
            answer = requests.request(
                method,
                f"http://127.0.0.1:{target.port}{path}",
                data=body,
                headers={"Authorization": f"Bearer {target.token}"},
                timeout=10,
            )
            assert answer.status_code < 500 or answer.status_code == 501, (path, answer.text)


def test_who_sends_half_a_request_holds_up_nobody_and_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 1.0)
    with (
        LocalPlatform(ephemeral=True, grace=0.2, cores=1, memory=2**33) as platform,
        Session(platform.url, platform.token) as session,
        ExitStack() as stack,
    ):
        whole = head(platform, "POST", "/api/v1/jobs", "Content-Length: 1000")
        halves = [b"", b"GET /api", whole[:-2]]
        silent = []
        for number in range(300):
            opened = stack.enter_context(connection(platform))
            opened.sendall(halves[number % 3])
            silent.append(opened)
        for _ in range(10):
            opened = stack.enter_context(connection(platform))
            opened.sendall(whole + b"{")  # its head has come; the rest may take long
        longest = 0.0
        for _ in range(50):
            began = time.monotonic()
            assert list(session.jobs.list()) == []
            longest = max(longest, time.monotonic() - began)
        assert longest < 1.0
        began = time.monotonic()
        assert {opened.recv(1) for opened in silent} == {b""}
        assert time.monotonic() - began < 10.0


def test_a_second_request_of_a_connection_has_to_come_in_time_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.5)
    with LocalPlatform(ephemeral=True, cores=1) as platform, connection(platform) as opened:
        opened.sendall(head(platform, "GET", "/ping"))
        assert status_of(opened) == 200
        opened.sendall(b"GET /ping HTTP/1.1\r\n")
        assert opened.recv(4096) == b""


def test_a_head_without_end_is_refused(target: LocalPlatform) -> None:
    with connection(target) as opened:
        opened.sendall(b"GET /ping HTTP/1.1\r\n")
        with suppress(ConnectionError):
            for _ in range(1000):
                opened.sendall(b"x-filler: " + b"x" * 2000 + b"\r\n")
        assert status_of(opened) == 431


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.mark.parametrize("fields", [(), UPGRADE], ids=["plain", "websocket"])
@pytest.mark.parametrize("where", ["target", "header", "many headers"])
@pytest.mark.parametrize(
    ("size", "is_refused"), [(http.LARGEST_HEAD, False), (http.LARGEST_HEAD + 1, True)]
)
@pytest.mark.parametrize("piece", [2**30, 100_003, http.LARGEST_HEAD - 1])
def test_all_routes_have_the_same_limit_of_a_head(
    target: LocalPlatform,
    fields: tuple[str, ...],
    where: str,
    size: int,
    is_refused: bool,
    piece: int,
) -> None:
    path = "/api/v1/monitoring/jobs/job-x/exec?cmd="
    rest = size - len(head(target, "GET", path, *fields))
    if where == "target":
        path += "x" * rest
    elif where == "header":
        fields += ("x-filler: " + "x" * (rest - 12),)
    else:
        fields += ("x-f: " + "x" * 93,) * (rest // 100 - 1)
        fields += ("x-f: " + "x" * (rest % 100 + 93),)
    request = head(target, "GET", path, *fields)
    assert len(request) == size
    with connection(target) as opened:
        for begin in range(0, size, piece):
            opened.sendall(request[begin : begin + piece])
            time.sleep(0.02)
        assert status_of(opened) == (431 if is_refused else 400)  # there is no such job


def test_a_body_after_a_head_in_two_pieces_is_no_part_of_the_head(target: LocalPlatform) -> None:
    body = b"x" * http.LARGEST_HEAD
    path = "/api/v1/storage/local/root/straddled?op=CREATE"
    request = head(target, "PUT", path, f"Content-Length: {len(body)}")
    for cut in range(1, 5):
        with connection(target) as opened:
            opened.sendall(request[:-cut])
            time.sleep(0.02)
            opened.sendall(request[-cut:] + body)
            assert status_of(opened) in (200, 201, 404)


@pytest.mark.parametrize(
    ("method", "field", "status"),
    [("PUT", "x: y", 405), ("GET", "Content-Length: 5", 400), ("GET", "bad name: y", 400)],
)
def test_a_handshake_that_is_none_is_answered(
    target: LocalPlatform, method: str, field: str, status: int
) -> None:
    path = "/api/v1/monitoring/jobs/job-x/exec?cmd=true"
    with connection(target) as opened:
        opened.sendall(head(target, method, path, *UPGRADE, field))
        assert status_of(opened) == status


def test_one_connection_too_many_is_told_so_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        LocalPlatform(ephemeral=True, grace=0.2, cores=1, memory=2**33) as platform,
        Session(platform.url, platform.token) as session,
    ):
        job = session.jobs.start(
            image="any", preset_name="cpu-small", command="sh -c 'echo hello; sleep 600'"
        )
        session.jobs.wait(job, until="running")
        url = f"{platform.url.replace('http', 'ws')}/monitoring/jobs/{job.id}/log_ws"
        authorization = {"Authorization": f"Bearer {platform.token}"}
        monkeypatch.setattr(http, "MOST_CONNECTIONS", 40)
        with ExitStack() as stack:
            followers = []
            status = 101
            while status == 101:
                try:
                    follower = create_connection(url, header=authorization, timeout=10)
                except WebSocketBadStatusException as refusal:
                    status = refusal.status_code
                else:
                    stack.callback(follower.close)
                    followers.append(follower)
                assert len(followers) <= 40
            assert status == 503
            assert len(followers) >= 30
            assert {follower.recv() for follower in followers} == {b"hello\n"}
            assert session.jobs.status(job.id).status.is_running  # over a connection it has
        deadline = time.monotonic() + 10
        while True:
            try:
                create_connection(url, header=authorization, timeout=10).close()
                break
            except WebSocketBadStatusException:
                assert time.monotonic() < deadline
        session.jobs.kill(job)
