"""Chunked bodies, however they come from the socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync.transport.chunks import ChunkDecoder

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
