"""Small requests of which several are under way at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import pytest

from neuro_sync.client.transfers import is_file
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.overlap import WIDTH, Answer, Call, Overlap
from neuro_sync.transport.retry import Retry

FOLDER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-File-Type: DIRECTORY\r\n\r\n"
STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"


class _Platform(ThreadingHTTPServer):
    """Answers by the path; ``/together`` once as many have asked as may be under way."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.together = threading.Barrier(WIDTH)
        self.connections = 0
        self.open = 0
        self.asked: list[str] = []
        # Of the two figures, which every connection's thread changes.
        self.counting = threading.Condition()

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that the client has cut."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Platform

    def handle(self) -> None:
        with self.server.counting:
            self.server.connections += 1
            self.server.open += 1
        try:
            super().handle()
        except ConnectionError:
            pass
        finally:
            with self.server.counting:
                self.server.open -= 1
                self.server.counting.notify_all()

    def do_GET(self) -> None:
        with self.server.counting:
            self.server.asked.append(self.path)
            self.server.counting.notify_all()
        body = self.path.encode() + self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "together" in self.path:
            self.server.together.wait(20)
        if "vanish" in self.path:
            self.close_connection = True
            return
        if "folder" in self.path:  # what the hosted storage says of one: two answers
            self.wfile.write(FOLDER + STRAY)
            return
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("Token", self.headers["Authorization"])
        if "close" in self.path:
            self.send_header("Connection", "X, Close")
        if "chunk" in self.path:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n" % (len(body), body) + b"0\r\n\r\n" * ("cut" not in self.path)
        elif "endless" not in self.path:
            self.send_header("Content-Length", str(len(body) + ("cut" in self.path)))
        self.end_headers()
        self.wfile.write(body)
        if "cut" in self.path or "endless" in self.path:
            self.close_connection = True

    do_PUT = do_GET  # noqa: N815  # the library's own name

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Platform]:
    with _Platform() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def overlap(server: _Platform) -> Iterator[Overlap]:
    with opened(server.url) as running:
        yield running


@contextmanager
def opened(url: str) -> Iterator[Overlap]:
    transport = HttpTransport("secret", timeout=(20.0, 20.0))
    found = transport.overlap(url)
    assert found is not None
    with found:
        yield found
    transport.close()


def gets(server: _Platform, *paths: str) -> Iterator[tuple[str, Call]]:
    return ((path, Call("GET", f"{server.url}{path}")) for path in paths)


def test_as_many_as_may_are_under_way_together(server: _Platform, overlap: Overlap) -> None:
    paths = [f"/together/{number}" for number in range(2 * WIDTH)]
    answers = dict(overlap.answers(gets(server, *paths)))
    assert [answer.content.decode() for answer in answers.values() if answer] == paths
    assert server.connections == WIDTH


def test_no_more_is_asked_for_than_is_under_way(server: _Platform, overlap: Overlap) -> None:
    asked = 0

    def calls() -> Iterator[tuple[int, Call]]:
        nonlocal asked
        for number in range(100):
            asked += 1
            yield number, Call("GET", f"{server.url}/{number}")

    answers = overlap.answers(calls())
    assert asked == 0
    assert next(answers)[0] == 0
    assert asked == WIDTH
    leave(answers)
    assert asked == WIDTH


def leave(answers: Iterator[tuple[int, Answer | None]]) -> None:
    """End before the last answer, as a copy does that is given up."""
    cast("Generator[tuple[int, Answer | None], None, None]", answers).close()


def test_the_token_and_the_content_are_sent(server: _Platform, overlap: Overlap) -> None:
    content = b"x" * 5000
    call = Call("PUT", f"{server.url}/put", [("op", "CREATE")], content)
    ((_, answer),) = overlap.answers([(0, call)])
    assert answer is not None
    assert answer.content == b"/put?op=CREATE" + content
    assert answer.headers["token"] == "Bearer secret"


@pytest.mark.parametrize("kind", ["vanish", "missing", "cut", "cut-chunk"])
def test_what_is_no_success_is_none_and_disturbs_no_other(
    server: _Platform, overlap: Overlap, kind: str
) -> None:
    paths = [f"/{kind if number % 3 == 1 else 'good'}/{number}" for number in range(40)]
    answers = list(overlap.answers(gets(server, *paths)))
    assert [path for path, _ in answers] == paths
    for path, answer in answers:
        assert (answer.content.decode() if answer else None) == (path if "good" in path else None)
    assert sorted(server.asked) == sorted(paths)  # each of them once


def test_a_connection_whose_answer_is_not_accepted_is_not_used_again(
    server: _Platform, overlap: Overlap
) -> None:
    paths = [f"/{'folder' if number % 3 == 1 else 'good'}/{number}" for number in range(90)]
    calls = ((path, Call("GET", f"{server.url}{path}", accepts=is_file)) for path in paths)
    for path, answer in overlap.answers(calls):
        assert (answer.content.decode() if answer else None) == (path if "good" in path else None)


@pytest.mark.parametrize("kind", ["close", "endless"])
def test_a_connection_that_the_platform_closes_is_opened_again(
    server: _Platform, overlap: Overlap, kind: str
) -> None:
    paths = [f"/{kind}/{number}" for number in range(30)]
    answers = list(overlap.answers(gets(server, *paths)))
    assert [answer.content.decode() for _, answer in answers if answer] == paths
    assert server.connections == 30


def test_an_answer_may_come_in_chunks(server: _Platform, overlap: Overlap) -> None:
    paths = [f"/chunk/{number}" for number in range(2 * WIDTH)]
    answers = list(overlap.answers(gets(server, *paths)))
    assert [answer.content.decode() for _, answer in answers if answer] == paths
    assert server.connections == WIDTH


def test_where_nobody_answers_all_is_none() -> None:
    with _Platform() as gone:
        url = gone.url
    calls = [(number, Call("GET", f"{url}/{number}")) for number in range(20)]
    with opened(url) as overlap:
        assert list(overlap.answers(calls)) == [(number, None) for number in range(20)]


def test_connections_are_used_again_by_the_next_calls(server: _Platform, overlap: Overlap) -> None:
    for turn in range(5):
        paths = [f"/{turn}/{number}" for number in range(2 * WIDTH)]
        assert all(answer for _, answer in overlap.answers(gets(server, *paths)))
    assert server.connections == WIDTH


@pytest.mark.parametrize("expected", [1, 3, WIDTH, 100])
def test_connections_that_take_long_are_opened_together_and_no_more_than_needed(
    server: _Platform, monkeypatch: pytest.MonkeyPatch, expected: int
) -> None:
    monkeypatch.setattr("neuro_sync.transport.overlap.LONG", -1.0)
    paths = [f"/{number}" for number in range(expected)]
    with opened(server.url) as overlap:
        answers = list(overlap.answers(gets(server, *paths), expected))
        assert [answer.content.decode() for _, answer in answers if answer] == paths
    with server.counting:
        assert server.counting.wait_for(lambda: not server.open, 20)
    assert server.connections == min(expected, WIDTH)


def test_an_idle_connection_of_the_session_is_the_first_one_and_idle_afterwards(
    server: _Platform,
) -> None:
    with closing(HttpTransport("secret", timeout=(20.0, 20.0))) as transport:
        transport.request("GET", f"{server.url}/before", retry=Retry.ALWAYS)
        for turn in range(3):
            overlap = transport.overlap(server.url)
            assert overlap is not None
            with overlap:
                paths = [f"/{turn}/{number}" for number in range(5)]
                assert all(answer for _, answer in overlap.answers(gets(server, *paths), 5))
            for number in range(5):
                transport.request("GET", f"{server.url}/after/{number}", retry=Retry.ALWAYS)
        assert server.connections == 5
    with server.counting:
        assert server.counting.wait_for(lambda: not server.open, 20)


def test_a_reader_that_waits_is_freed_by_closing(server: _Platform, overlap: Overlap) -> None:
    answers: list[object] = []
    reader = threading.Thread(
        target=lambda: answers.extend(overlap.answers(gets(server, "/together"), 1))
    )
    reader.start()
    with server.counting:
        assert server.counting.wait_for(lambda: server.asked, 20)
    overlap.close()
    reader.join(10)
    assert answers == [("/together", None)]
    server.together.abort()


def test_connections_whose_answers_are_left_are_closed(server: _Platform, overlap: Overlap) -> None:
    calls = ((number, Call("GET", f"{server.url}/{number}")) for number in range(20))
    answers = overlap.answers(calls)
    next(answers)
    leave(answers)
    overlap.close()
    with server.counting:
        # The connection whose answer was read is the session's again.
        assert server.counting.wait_for(lambda: server.connections and server.open == 1, 20)
