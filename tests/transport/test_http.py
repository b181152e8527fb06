"""Requests: what is repeated, what is not, and what a failure is told as."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
import requests
import responses

from neuro_sync import (
    APIError,
    AuthenticationError,
    AuthorizationError,
    ConnectionFailed,
    IllegalArgumentError,
    NeuroError,
    RequestTimeout,
    ResourceNotFound,
    ServerError,
    ServerNotAvailable,
    StreamInterrupted,
    TooManyRequests,
)
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry

URL = "http://platform.test/api/v1/jobs"
CANARY = "canary-token-4711"
LATER = {"Retry-After": "7"}
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


class Skipping(Clock):
    """A clock that does not wait, and remembers for how long it was asked to."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock() -> Skipping:
    return Skipping()


@pytest.fixture
def transport(clock: Skipping) -> Iterator[HttpTransport]:
    opened = HttpTransport(CANARY, clock=clock)
    yield opened
    opened.close()


@responses.activate
def test_no_request_leaves_without_token_and_timeouts(transport: HttpTransport) -> None:
    responses.get(URL, json={})
    transport.request("GET", URL, retry=Retry.ALWAYS)
    call = responses.calls[0].request
    assert call.headers["Authorization"] == f"Bearer {CANARY}"
    assert call.headers["User-Agent"].startswith("neuro-sync/")
    assert call.req_kwargs["timeout"] == (10.0, 60.0)  # type: ignore[attr-defined]  # of responses


@responses.activate
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_what_may_be_repeated_is_tried_again(
    transport: HttpTransport, clock: Skipping, method: str
) -> None:
    responses.add(method, URL, status=503)
    responses.add(method, URL, body=requests.ConnectionError("reset"))
    responses.add(method, URL, status=502, headers={"Retry-After": "7"})
    responses.add(method, URL, json={"ok": True})
    assert transport.request(method, URL, retry=Retry.ALWAYS).json() == {"ok": True}
    assert len(clock.slept) == 3
    assert clock.slept[2] == 7


@responses.activate
def test_a_platform_that_stays_away_is_given_up(transport: HttpTransport) -> None:
    responses.get(URL, status=503, json={"error": "busy"})
    with pytest.raises(ServerNotAvailable, match="busy"):
        transport.request("GET", URL, retry=Retry.ALWAYS)
    assert len(responses.calls) == 4


@responses.activate
@pytest.mark.parametrize("retry", Retry)
def test_too_many_requests_are_an_error_of_their_own(
    transport: HttpTransport, clock: Skipping, retry: Retry
) -> None:
    responses.post(URL, status=429, json={"error": "slow down"}, headers=LATER)
    with pytest.raises(TooManyRequests, match="slow down") as refused:
        transport.request("POST", URL, retry=retry)
    assert not isinstance(refused.value, IllegalArgumentError)
    assert (refused.value.status, refused.value.retry_after) == (429, 7)
    assert clock.slept == ([] if retry is Retry.NEVER else [7, 7, 7])


@responses.activate
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "9" * 400}, math.inf),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:09 GMT", "Date": DATE}, 9),
        ({"Retry-After": "Wed, 21 Oct 2015 07:00:00 GMT", "Date": DATE}, 0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_a_refusal_tells_when_to_ask_again(
    transport: HttpTransport, headers: dict[str, str], seconds: float | None
) -> None:
    responses.post(URL, status=503, headers=headers)
    with pytest.raises(ServerNotAvailable) as refused:
        transport.request("POST", URL, retry=Retry.NEVER)
    assert refused.value.retry_after == seconds


@responses.activate
@pytest.mark.parametrize("header", ["X-Request-ID", "x-request-id", "X-Correlation-Id", "CF-RAY"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500, 503, 599])
def test_a_refusal_tells_what_the_platform_calls_the_request(
    transport: HttpTransport, header: str, status: int
) -> None:
    responses.post(URL, status=status, json={"error": "no"}, headers={header: "req-4711"})
    with pytest.raises(APIError, match=r"^no \(\d+ for POST .*, request req-4711\)$") as refused:
        transport.request("POST", URL, retry=Retry.NEVER)
    assert (refused.value.request_id, refused.value.text) == ("req-4711", "no")


@responses.activate
@pytest.mark.parametrize("name", ["", "  ", "a\x1b[2Jb", "a\x85b", "x" * 129, CANARY])
def test_what_is_no_name_of_a_request_is_not_shown(transport: HttpTransport, name: str) -> None:
    responses.post(URL, status=500, json={"error": "no"}, headers={"X-Request-ID": name})
    with pytest.raises(ServerError) as refused:
        transport.request("POST", URL, retry=Retry.NEVER)
    assert refused.value.request_id in (None, "***")
    assert CANARY not in str(refused.value)


@responses.activate
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "POST"])
@pytest.mark.parametrize("failure", [503, 502, requests.ConnectionError("reset")])
def test_what_may_not_be_repeated_is_sent_once(
    transport: HttpTransport, failure: int | Exception, method: str
) -> None:
    if isinstance(failure, int):
        responses.add(method, URL, status=failure)
    else:
        responses.add(method, URL, body=failure)
    with pytest.raises(NeuroError):
        transport.request(method, URL, retry=Retry.NEVER)
    assert len(responses.calls) == 1


@responses.activate
def test_a_removal_that_was_carried_out_before_its_answer_was_lost_succeeds(
    transport: HttpTransport,
) -> None:
    responses.delete(URL, body=requests.ConnectionError("reset"))
    responses.delete(URL, status=404, json={"error": "no such thing"})
    assert not transport.request("DELETE", URL, retry=Retry.REMOVAL).content


@responses.activate
@pytest.mark.parametrize("retry", [Retry.REMOVAL, Retry.ALWAYS])
def test_what_was_never_there_cannot_be_removed(transport: HttpTransport, retry: Retry) -> None:
    if retry is Retry.ALWAYS:
        responses.delete(URL, status=503)
    responses.delete(URL, status=404, json={"error": "no such thing"})
    with pytest.raises(ResourceNotFound, match="no such thing"):
        transport.request("DELETE", URL, retry=retry)


@responses.activate
def test_a_failed_post_says_that_it_may_have_been_carried_out(transport: HttpTransport) -> None:
    responses.post(URL, body=requests.ConnectionError("reset"))
    with pytest.raises(ConnectionFailed, match="may have been carried out"):
        transport.request("POST", URL, retry=Retry.NEVER, body={})


def test_a_refused_connection_is_told_without_doubt(transport: HttpTransport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionFailed, match="nobody answers there") as failed:
        transport.request("POST", f"http://127.0.0.1:{port}/jobs", retry=Retry.NEVER, body={})
    assert "carried out" not in str(failed.value)
    assert isinstance(failed.value, ConnectionError)
    assert isinstance(failed.value.__cause__, requests.ConnectionError)


def test_a_silent_platform_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/jobs"
        transport = HttpTransport(CANARY, timeout=(1.0, 0.05))
        with pytest.raises(RequestTimeout) as failed:
            transport.request("POST", url, retry=Retry.NEVER, body={})
        assert isinstance(failed.value, TimeoutError)
        transport.close()


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Yield the address of one who says this, and nothing after it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    connection.recv(65536)
                    connection.sendall(answer)

        kept: list[socket.socket] = []
        threading.Thread(target=talk, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/jobs"
        listener.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


silent = pytest.mark.parametrize("is_silent", [False, True])


@silent
def test_a_stream_whose_head_does_not_come_is_a_timeout(clock: Skipping, is_silent: bool) -> None:
    transport = HttpTransport(CANARY, timeout=(1.0, 0.05), clock=clock)
    with answering(b"") as url, pytest.raises(RequestTimeout):
        transport.stream(url, retry=Retry.ALWAYS, is_silent=is_silent)
    transport.close()


@silent
@pytest.mark.parametrize("ends", ["", "Connection: close\r\n"])
def test_only_a_stream_that_may_be_silent_outlasts_the_timeout(is_silent: bool, ends: str) -> None:
    transport = HttpTransport(CANARY, timeout=(1.0, 0.05))
    head = f"HTTP/1.1 200 OK\r\n{ends}Content-Length: 10\r\n\r\nhello"
    with answering(head.encode()) as url:
        stream = transport.stream(url, retry=Retry.ALWAYS, is_silent=is_silent)
        assert next(stream) == b"hello"
        if is_silent:
            threading.Timer(0.2, stream.close).start()
            assert list(stream) == []
        else:
            with pytest.raises(StreamInterrupted):
                next(stream)
    transport.close()


def test_a_body_that_stops_coming_is_a_timeout() -> None:
    transport = HttpTransport(CANARY, timeout=(1.0, 0.05))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
    with answering(head) as url, pytest.raises(RequestTimeout):
        transport.request("POST", url, retry=Retry.NEVER, body={})
    transport.close()


@pytest.mark.parametrize(
    ("told", "date", "seconds"),
    [
        ("7", "", 7),
        ("Wed, 21 Oct 2015 07:28:05 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", 5),
        ("Wed, 21 Oct 2015 07:27:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:05 GMT", "", None),
        ("soon", "", None),
    ],
)
@responses.activate
def test_it_is_asked_again_when_the_platform_wants_to_be(
    transport: HttpTransport, clock: Skipping, told: str, date: str, seconds: float | None
) -> None:
    headers = {"Retry-After": told, **({"Date": date} if date else {})}
    responses.get(URL, status=503, headers=headers)
    responses.get(URL, json={})
    assert transport.request("GET", URL, retry=Retry.ALWAYS).status_code == 200
    (slept,) = clock.slept
    assert slept == seconds if seconds else slept < 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, IllegalArgumentError),
        (401, AuthenticationError),
        (403, AuthorizationError),
        (403, PermissionError),
        (404, ResourceNotFound),
        (409, IllegalArgumentError),
        (422, IllegalArgumentError),
        (500, ServerError),
        (501, NotImplementedError),
        (503, ServerNotAvailable),
        (599, ServerError),
    ],
)
@responses.activate
def test_a_refusal_is_the_error_of_its_status(
    transport: HttpTransport, status: int, kind: type[Exception]
) -> None:
    responses.post(URL, status=status, json={"error": "the reason"})
    with pytest.raises(kind) as refused:
        transport.request("POST", URL, retry=Retry.NEVER, body={})
    error = refused.value
    assert isinstance(error, APIError)
    assert (error.status, error.method, error.path) == (status, "POST", "/api/v1/jobs")
    assert error.text == "the reason"
    assert isinstance(error, ValueError) == (status in (400, 404, 409, 422))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"error": "plain"}', "plain"),
        ('{"error": "{\\"error\\": \\"no such job x\\"}"}', "no such job x"),
        ('{"msg": "Cannot connect"}', "Cannot connect"),
        ('{"code": "unique", "description": "exists"}', "exists"),
        ("401: Unauthorized", "401: Unauthorized"),
        ('["odd"]', '["odd"]'),
        (
            '{"missing": [{"uri": "job://c/o/p", "action": "write"}]}',
            "not permitted; it takes write on job://c/o/p",
        ),
    ],
)
@responses.activate
def test_each_shape_of_error_body_is_read(transport: HttpTransport, body: str, text: str) -> None:
    responses.post(URL, status=403, body=body)
    with pytest.raises(AuthorizationError) as refused:
        transport.request("POST", URL, retry=Retry.NEVER, body={})
    assert refused.value.text == text


@responses.activate
def test_a_redirection_is_not_followed_with_a_token(transport: HttpTransport) -> None:
    responses.get(URL, status=302, headers={"Location": "https://elsewhere.test/"})
    with pytest.raises(APIError, match=r"https://elsewhere\.test/"):
        transport.request("GET", URL, retry=Retry.ALWAYS)
    assert len(responses.calls) == 1


@responses.activate
def test_the_token_appears_nowhere(
    transport: HttpTransport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = [repr(transport)]
    failures = (requests.ConnectionError("reset"), requests.Timeout("slow"))
    for failure in failures:
        responses.post(URL, body=failure)
    responses.post(URL, status=401, body="401: Unauthorized")
    for _ in range(3):
        with pytest.raises(NeuroError) as failed:
            transport.request("POST", URL, retry=Retry.NEVER, body={})
        error: BaseException | None = failed.value
        while error is not None:
            seen += [str(error), repr(error)]
            error = error.__cause__
    assert CANARY not in "".join(seen) + caplog.text


def test_a_closed_transport_says_so(transport: HttpTransport) -> None:
    transport.close()
    with pytest.raises(NeuroError, match="closed"):
        transport.request("GET", URL, retry=Retry.ALWAYS)


@pytest.fixture
def echo() -> Iterator[str]:
    """Serve an address that answers each request with the number of its connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket, number: int) -> None:
        with connection:
            while connection.recv(65536):
                body = b"%d" % number
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
                connection.sendall(head + body)

    def accept() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            number += 1
            threading.Thread(target=talk, args=(connection, number), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_connections_are_kept(transport: HttpTransport, echo: str) -> None:
    answers = {transport.request("GET", echo, retry=Retry.ALWAYS).content for _ in range(5)}
    assert answers == {b"1"}


def test_a_child_of_fork_has_connections_of_its_own(transport: HttpTransport, echo: str) -> None:
    def in_child(work: Callable[[], bytes]) -> bytes:
        read, write = os.pipe()
        if os.fork() == 0:
            try:
                os.write(write, work())
            finally:
                os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            return pipe.read()

    first = transport.request("GET", echo, retry=Retry.ALWAYS).content
    assert in_child(lambda: transport.request("GET", echo, retry=Retry.ALWAYS).content) not in (
        b"",
        first,
    )
    assert transport.request("GET", echo, retry=Retry.ALWAYS).content == first


HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: some\r\nContent-Length: 1234\r\n\r\n"
)


def test_an_answer_that_breaks_off_within_its_headers_is_no_answer(clock: Skipping) -> None:
    """Not even where half of the length would pass for all of it, at any byte."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for end in range(len(HEAD)):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(HEAD[:end])

    serving = threading.Thread(target=serve)
    serving.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    for _ in range(len(HEAD)):
        transport = HttpTransport(CANARY, clock=clock)
        with pytest.raises(ConnectionFailed):
            transport.stream(url, retry=Retry.ALWAYS, attempts=1)
        transport.close()
    serving.join()
    listener.close()


PAUSE_S = 0.4
PATIENT = (0.2, 5.0)
"""Less than the pause to connect, more than it to send."""


@contextmanager
def receiving(*pauses: float, piece: int = 2**16) -> Iterator[tuple[str, list[int]]]:
    """Receive uploads with a pause before each piece, then all the rest; yield their sizes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        sizes: list[int] = []

        def receive() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=take, args=(connection,), daemon=True).start()

        def take(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while request := connection.recv(2**16):
                    head, _, body = request.partition(b"\r\n\r\n")
                    found = re.search(rb"Content-Length: (\d+)", head)
                    assert found
                    size = len(body)
                    for pause in pauses:
                        time.sleep(pause)
                        size += len(connection.recv(piece, socket.MSG_WAITALL))
                    while size < int(found[1]) and (data := connection.recv(2**20)):
                        size += len(data)
                    sizes.append(size)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=receive, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/storage/x", sizes


class InPieces:
    """A body of three pieces."""

    size = 3 * 2**22

    def __iter__(self) -> Iterator[memoryview]:
        return iter([memoryview(bytes(2**22))] * 3)


@pytest.mark.parametrize("content", [bytes(2**24), InPieces()], ids=["whole", "in pieces"])
def test_a_platform_that_pauses_while_it_receives_is_waited_for(
    content: bytes | InPieces,
) -> None:
    size = len(content) if isinstance(content, bytes) else content.size
    with (
        receiving(PAUSE_S, PAUSE_S) as (url, sizes),
        closing(HttpTransport(CANARY, timeout=PATIENT)) as transport,
    ):
        for _ in range(2):  # on a new connection, and on one that was used before
            transport.request("PUT", url, retry=Retry.NEVER, content=content)
    assert sizes == [size, size]


def test_a_slow_upload_may_take_longer_than_a_pause() -> None:
    timeout = (0.5, 0.5)
    with (
        receiving(*[0.1] * 10, piece=2**20) as (url, sizes),
        closing(HttpTransport(CANARY, timeout=timeout)) as transport,
    ):
        transport.request("PUT", url, retry=Retry.NEVER, content=bytes(2**24))
    assert sizes == [2**24]


def test_a_platform_that_stops_receiving_is_a_timeout(clock: Skipping) -> None:
    with (
        receiving(3) as (url, sizes),
        closing(HttpTransport(CANARY, timeout=(5.0, 0.2), clock=clock)) as transport,
    ):
        begin = time.monotonic()
        with pytest.raises(RequestTimeout):
            transport.request("PUT", url, retry=Retry.ALWAYS, content=bytes(2**24))
        assert 0.7 < time.monotonic() - begin < 2.5  # four attempts
    assert not sizes


THREADS_OF_A_CHILD = """
import os, sys, threading
from neuro_sync.transport.connections import Adapter, Connections

connections = Connections(None, None, None, trust_env=False)
for _ in range(100):
    child = os.fork()
    if not child:
        sys.setswitchinterval(1e-6)
        start, kinds = threading.Barrier(8), []

        def use():
            start.wait()
            session, _ = connections.to("http://platform.test")
            kinds.append(type(session.get_adapter("http://platform.test")))

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(kinds != [Adapter] * 8)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_threads_of_a_child_find_its_connections_whole() -> None:
    subprocess.run([sys.executable, "-c", THREADS_OF_A_CHILD], check=True, timeout=60)
