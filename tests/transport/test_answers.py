"""The heads of answers, and chunked bodies, however they come from the socket."""

from __future__ import annotations

import http.client
import io
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync.transport.answers import ChunkDecoder, Response

PAYLOADS = st.lists(st.binary(min_size=1, max_size=40), max_size=20)
TRAILERS = st.sampled_from([b"", b"X-Sum: 1\r\n", b"A: b\r\nC: d\r\n"])
EXTENSIONS = st.sampled_from([b"", b";name=value"])


def encode(payloads: list[bytes], trailer: bytes, extension: bytes) -> bytes:
    chunks = b"".join(b"%X%s\r\n%s\r\n" % (len(data), extension, data) for data in payloads)
    return chunks + b"0\r\n" + trailer + b"\r\n"


@given(PAYLOADS, TRAILERS, EXTENSIONS, st.lists(st.integers(1, 60)))
def test_the_payload_does_not_depend_on_how_the_bytes_came(
    payloads: list[bytes], trailer: bytes, extension: bytes, sizes: list[int]
) -> None:
    body = encode(payloads, trailer, extension)
    decoder = ChunkDecoder()
    seen = b""
    for size in [*sizes, *([1] * len(body))]:
        if not body:
            break
        assert not decoder.ended
        seen += decoder.feed(body[:size])
        body = body[size:]
    assert decoder.ended
    assert seen == b"".join(payloads)


@given(PAYLOADS, st.integers(0, 400))
def test_what_came_is_handed_out_at_once(payloads: list[bytes], cut: int) -> None:
    body = encode(payloads, b"", b"")
    decoder = ChunkDecoder()
    seen = decoder.feed(body[:cut])
    assert b"".join(payloads).startswith(seen)
    # Nothing is held back but size lines and the ends of chunks.
    assert len(body[:cut]) - len(seen) <= 7 * (len(payloads) + 2)


@pytest.mark.parametrize("body", [b"zz\r\n", b"-5\r\nhello\r\n", b"\r\nhello", b"9" * 5000])
def test_what_is_no_chunked_body_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        ChunkDecoder().feed(body)


class _Sent:
    """A connection that has received some bytes, and then was closed."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._received))


def read_head(
    kind: type[http.client.HTTPResponse], received: bytes, method: str = "GET"
) -> http.client.HTTPResponse:
    response = kind(_Sent(received), method=method)  # type: ignore[arg-type]  # all that is used
    response.begin()
    return response


NAMES = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
VALUES = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]), max_size=30
)
FRAMING = st.sampled_from(
    [
        [],
        [("Content-Length", "5")],
        [("content-length", "0")],
        [("Content-Length", "-5")],
        [("Content-Length", "five")],
        [("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "Chunked"), ("Content-Length", "5")],
        [("Transfer-Encoding", "gzip")],
        [("Connection", "close"), ("Content-Length", "5")],
        [("Connection", "Keep-Alive"), ("Content-Length", "5")],
    ]
)


@given(
    st.sampled_from(["HTTP/1.1", "HTTP/1.0"]),
    st.sampled_from(["200 OK", "200", "204 No Content", "304 Not Modified", "404 Not  here "]),
    st.sampled_from(["GET", "HEAD"]),
    st.lists(st.tuples(NAMES.map("X-{}".format), VALUES), max_size=8),
    FRAMING,
    st.sampled_from(["\r\n", "\n"]),
    st.booleans(),
)
def test_a_head_is_read_as_the_standard_library_reads_it(
    version: str,
    status: str,
    method: str,
    pairs: list[tuple[str, str]],
    framing: list[tuple[str, str]],
    newline: str,
    is_late: bool,
) -> None:
    lines = [f"{version} {status}", *(f"{name}: {value}" for name, value in [*pairs, *framing])]
    head = newline.join([*lines, "", ""])
    if is_late:
        head = f"HTTP/1.1 100 Continue{newline}{newline}{head}"
    ours, theirs = (
        read_head(kind, head.encode("latin-1") + b"hello", method)
        for kind in (Response, http.client.HTTPResponse)
    )
    for name in ("version", "status", "reason", "chunked", "length", "will_close"):
        assert getattr(ours, name) == getattr(theirs, name), name
    # The mail parser takes more for white space than HTTP does.
    told = [(name, value.strip()) for name, value in theirs.headers.items()]
    assert [(name, value.strip()) for name, value in ours.headers.items()] == told
    if not ours.chunked:
        assert ours.read() == theirs.read()


OPTIONS = st.sampled_from(
    ["close", "keep-alive", "Upgrade", "closed", "x-close", "keep-alive-x", ""]
)


@given(st.sampled_from(["1.0", "1.1"]), st.lists(st.lists(OPTIONS, max_size=3), max_size=3))
def test_a_connection_is_kept_as_the_options_say_together(
    version: str, headers: list[list[str]]
) -> None:
    lines = [f"Connection: {' ,'.join(options).title()}\r\n" for options in headers]
    head = f"HTTP/{version} 200 OK\r\n{''.join(lines)}Content-Length: 0\r\n\r\n"
    told = {option for options in headers for option in options}
    keeps = "close" not in told and (version == "1.1" or "keep-alive" in told)
    assert read_head(Response, head.encode()).will_close == (not keeps)


@pytest.mark.parametrize("interim", [0, 1, 32])
def test_heads_before_the_one_of_the_answer_are_passed_over(interim: int) -> None:
    head = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n" * interim
    response = read_head(Response, head + b"HTTP/1.1 404 No\r\n\r\n")
    assert (response.status, response.length) == (404, None)


@pytest.mark.parametrize(
    ("coding", "is_chunked"),
    [("chunked", True), ("gzip, Chunked", True), ("chunked, gzip", False), ("identity", False)],
)
def test_a_body_is_in_chunks_if_that_is_its_last_coding(coding: str, is_chunked: bool) -> None:
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\nContent-Length: 5\r\n\r\n"
    assert read_head(Response, head.encode()).chunked is is_chunked


@given(st.integers(0, 60))
def test_a_head_that_breaks_off_is_none(size: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n"
    with pytest.raises((http.client.IncompleteRead, http.client.RemoteDisconnected)):
        read_head(Response, head[:size])


@pytest.mark.parametrize(
    "head",
    [
        b"<html>\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 No\r\n\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2**16 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33 + b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_what_is_no_head_is_refused(head: bytes) -> None:
    with pytest.raises(http.client.HTTPException):
        read_head(Response, head)


def test_a_header_may_go_on_in_the_next_line() -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Long: one\r\n  two\r\n\tthree\r\nContent-Length: 0\r\n\r\n"
    response = read_head(Response, head)
    assert response.headers["X-Long"] == "one two three"
    assert response.length == 0
