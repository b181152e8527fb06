"""Where an answer ends: whichever way HTTP has for that, and what a cut is taken for."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuro_sync import (
    ConnectionFailed,
    NeuroError,
    ProtocolError,
    ResourceNotFound,
    Session,
    StorageError,
    StreamInterrupted,
)
from neuro_sync.transport.clock import Clock
from tests.relays import SocksProxy
from tests.scripted_platform import Cut, Request, ScriptedPlatform, answer, scripted_platform

JOB: dict[str, Any] = {
    "id": "job-4c8ccc8b-7d4c-4f4f-8d4c-4f4f8d4c4f4f",
    "owner": "alice",
    "cluster_name": "default",
    "status": "running",
    "history": {"status": "running"},
    "container": {"image": "ubuntu", "resources": {"cpu": 1.0, "memory_mb": 64}},
}


class Impatient(Clock):
    """A clock that does not pause between two tries."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.001))


@pytest.fixture
def server() -> Iterator[ScriptedPlatform]:
    with scripted_platform() as running:
        yield running


@pytest.fixture
def session(server: ScriptedPlatform) -> Iterator[Session]:
    with Session(server.url, server.token, timeout=(5.0, 5.0), clock=Impatient()) as opened:
        opened.presets  # noqa: B018  # so that the next request is the call's own
        yield opened


def chunked(body: bytes, size: int = 7, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    return chunks + b"0\r\n" + trailer + b"\r\n"


def framings(body: bytes, *headers: str) -> dict[str, bytes]:
    """Return an answer in all the ways in which HTTP tells where it ends."""
    packed = gzip.compress(body)
    ok = "200 OK"
    in_chunks = ("Transfer-Encoding: chunked",)
    ends = {
        "nothing said": (),
        "close": ("Connection: close",),
        "one of a list": ("Connection: X, Close ,Upgrade",),
        "in a second header": ("Connection: Upgrade", "connection: CLOSE"),
    }
    found = {name: answer(body, ok, *headers, *lines, length=False) for name, lines in ends.items()}
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    length = f"Content-Length: {len(body)}"
    return found | {
        "HTTP/1.0": answer(body, ok, *headers, length=False).replace(b"1.1", b"1.0", 1),
        "length": answer(body, ok, *headers),
        "length and close": answer(body, ok, *headers, "Connection: X, close"),
        "length twice": answer(body, ok, *headers, length),
        "lengths joined": answer(body, ok, *headers, f"{length}, {len(body)}", length=False),
        "chunked": answer(chunked(body), ok, *headers, *in_chunks, length=False),
        "chunked, more": answer(
            chunked(body, 3, b';a="b c"', b"X-Sum: 1\r\n"), ok, *headers, *in_chunks, length=False
        ),
        "chunked and close": answer(
            chunked(body), ok, *headers, *in_chunks, "Connection: close", length=False
        ),
        "hints first": hints + answer(body, ok, *headers),
        "gzip": answer(packed, ok, *headers, "Content-Encoding: gzip"),
        "gzip in chunks": answer(
            chunked(packed), ok, *headers, *in_chunks, "Content-Encoding: gzip", length=False
        ),
        "gzip to the end": answer(packed, ok, *headers, "Content-Encoding: gzip", length=False),
    }


BODY = b"what is in a file, " * 9
FRAMINGS = tuple(framings(b""))
every_framing = pytest.mark.parametrize("framing", FRAMINGS)


@every_framing
def test_an_answer_is_read_however_it_ends(
    server: ScriptedPlatform, session: Session, framing: str
) -> None:
    server.script["GET /api/v1/jobs/"] = framings(json.dumps(JOB).encode())[framing]
    lines = b"".join(json.dumps(JOB | {"name": f"job-{n}"}).encode() + b"\n" for n in range(3))
    ndjson = "Content-Type: application/x-ndjson"
    server.script["GET /api/v1/jobs?"] = framings(lines, ndjson)[framing]
    for _ in range(2):  # on a connection that was used before, too
        assert session.jobs.status(JOB["id"]).id == JOB["id"]
        assert [job.name for job in session.jobs.list()] == ["job-0", "job-1", "job-2"]


@pytest.mark.parametrize("length", ["", "Content-Length: 0", "Content-Length: 532"])
@pytest.mark.parametrize("connection", ["", "Connection: close", "Connection: keep-alive"])
def test_an_answer_to_head_ends_with_its_head(
    server: ScriptedPlatform, session: Session, length: str, connection: str
) -> None:
    more = tuple(line for line in (length, connection) if line)
    found = answer(b"", "200 OK", *more, "Docker-Content-Digest: sha256:1", length=False)
    there = "HEAD /v2/acme/vision/image/manifests/there"
    server.script[there] = found
    server.script["HEAD /"] = answer(b"", "404 Not Found", *more, length=False)
    for _ in range(2):
        assert session.images.digest("image:image:there") == "sha256:1"
        for call in (session.images.digest, session.images.rm):
            with pytest.raises(ResourceNotFound, match="there is no image://default/acme/vision/"):
                call("image:image:missing")


def file_status(size: int) -> bytes:
    status = {"path": "/a", "type": "FILE", "length": size, "modificationTime": 1, "permission": ""}
    return answer({"FileStatus": status})


@every_framing
def test_a_file_is_read_however_its_answer_ends(
    server: ScriptedPlatform, session: Session, framing: str, tmp_path: Path
) -> None:
    file = "/api/v1/storage/acme/vision/a?op="
    server.script[f"GET {file}OPEN"] = framings(BODY)[framing]
    server.script[f"GET {file}GETFILESTATUS"] = file_status(len(BODY))
    with session.storage.open("storage:a") as content:
        assert b"".join(content) == BODY
        assert content.stop == content.position == len(BODY)
    session.storage.download_file("storage:a", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


@every_framing
def test_small_files_are_downloaded_however_their_answers_end(
    server: ScriptedPlatform, session: Session, framing: str, tmp_path: Path
) -> None:
    folder = "/api/v1/storage/acme/vision/tree"
    names = [f"file-{number}" for number in range(5)]
    statuses = [
        {"path": name, "type": "FILE", "length": len(BODY), "modificationTime": 1} for name in names
    ]
    server.script[f"GET {folder}?op=LISTSTATUS"] = answer(
        {"FileStatuses": {"FileStatus": statuses}}, "200 OK", "Content-Type: application/json"
    )
    server.script[f"GET {folder}/file-"] = framings(BODY)[framing]
    session.storage.download_dir("storage:tree", tmp_path / "tree")
    copied = {path.name: path.read_bytes() for path in (tmp_path / "tree").iterdir()}
    assert copied == dict.fromkeys(names, BODY)
    assert len(server.requests) == 2 + len(names)  # /config, the listing, each file once


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    framing=st.sampled_from([name for name in FRAMINGS if "hints" not in name]),
    cut=st.floats(0, 1),
    is_told=st.booleans(),
)
def test_a_file_whose_connection_is_cut_is_whole_or_an_error(
    server: ScriptedPlatform, session: Session, framing: str, cut: float, is_told: bool
) -> None:
    """The second answer is a range of the same file, as the storage service gives it."""
    whole = framings(BODY, *([f"X-File-Length: {len(BODY)}"] if is_told else []))[framing]
    head = whole.index(b"\r\n\r\n") + 4
    kept = head + int((len(whole) - head) * cut)

    def opened(request: Request) -> bytes:
        asked = request.headers.get("range")
        if asked is None:
            return Cut(whole[:kept])
        start = int(asked.removeprefix("bytes=").partition("-")[0])
        where = f"Content-Range: bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        return answer(BODY[start:], "206 Partial Content", where, "Connection: close")

    file = "/api/v1/storage/acme/vision/a?op="
    server.script[f"GET {file}OPEN"] = opened
    server.script[f"GET {file}GETFILESTATUS"] = file_status(len(BODY))
    assert b"".join(session.storage.open("storage:a")) == BODY


@every_framing
def test_a_file_of_another_size_than_was_announced_is_an_error(
    server: ScriptedPlatform, session: Session, framing: str, tmp_path: Path
) -> None:
    file = "/api/v1/storage/acme/vision/a?op="
    server.script[f"GET {file}OPEN"] = framings(BODY)[framing]
    for size in (1, len(BODY) - 1, len(BODY) + 1, 2**20):
        server.script[f"GET {file}GETFILESTATUS"] = file_status(size)
        with pytest.raises((StorageError, ProtocolError, StreamInterrupted)):
            session.storage.download_file("storage:a", tmp_path / "file")
        assert not (tmp_path / "file").exists()


def test_an_answer_that_goes_on_after_its_range_is_an_error(
    server: ScriptedPlatform, session: Session
) -> None:
    server.script["GET /api/v1/storage/"] = answer(
        chunked(BODY),
        "206 Partial Content",
        "Content-Range: bytes 5-9/1000",
        "Transfer-Encoding: chunked",
        length=False,
    )
    with pytest.raises(ProtocolError, match="should end at byte 10"):
        b"".join(session.storage.open("storage:a", 5, 5))


@pytest.mark.parametrize("framing", ["length", "length and close", "chunked", "chunked and close"])
@pytest.mark.parametrize("missing", [5, 6, 40])
def test_a_body_that_is_cut_is_no_answer(
    server: ScriptedPlatform, session: Session, framing: str, missing: int
) -> None:
    whole = framings(json.dumps(JOB).encode() + b" " * 100, "Connection: close")[framing]
    server.script["GET /api/v1/jobs/"] = Cut(whole[:-missing])
    with pytest.raises(ConnectionFailed):
        session.jobs.status(JOB["id"])


@pytest.mark.parametrize(
    "odd",
    [
        b"HTTP/1.1 102 Processing\r\n\r\n" * 40,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        b"HTTP/1.1 200 \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
    ],
)
def test_a_head_that_is_none_is_an_error_of_ours(
    server: ScriptedPlatform, session: Session, odd: bytes
) -> None:
    server.script["GET /api/v1/jobs/"] = odd
    with pytest.raises(NeuroError):
        session.jobs.status(JOB["id"])


def test_the_same_holds_through_a_socks_proxy(server: ScriptedPlatform) -> None:
    pytest.importorskip("socks")
    body = json.dumps(JOB).encode()
    with (
        SocksProxy() as proxy,
        Session(
            server.url, server.token, proxies={"all": proxy.address}, clock=Impatient()
        ) as session,
    ):
        server.script["GET /api/v1/jobs/"] = framings(body)["nothing said"]
        assert session.jobs.status(JOB["id"]).id == JOB["id"]
        server.script["GET /api/v1/monitoring/"] = framings(b"one\n", "Connection: close")[
            "chunked"
        ]
        with session.jobs.monitor(JOB["id"]) as log:
            assert b"".join(log) == b"one\n"
        for end in (20, 40, 60):
            server.script["GET /api/v1/jobs/"] = Cut(answer(body)[:end])
            with pytest.raises(ConnectionFailed):
                session.jobs.status(JOB["id"])
        assert proxy.connected
