"""The storage of the local platform, as bytes on the wire; and that nothing leads out of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from neuro_sync import Action, Permission, Session, StorageNotFound
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.storage import Entry, OpenedFile, Parts, StorageFolder, parts_of

NDJSON = {"Accept": "application/x-ndjson"}


class Wire:
    """Requests to a folder of its own, without anything of this package's client."""

    def __init__(self, platform: LocalPlatform, project: str) -> None:
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"Bearer {platform.token}"
        self.path = f"/local/{project}/{uuid4().hex}"
        self.url = f"{platform.url}/storage{self.path}"
        self.folder = Path(f"{platform.folder}/storage{self.path}")
        self.folder.mkdir(parents=True)

    def __call__(
        self, method: str, path: str = "", op: str | None = None, **options: Any
    ) -> requests.Response:
        query = {} if op is None else {"op": op}
        query.update(options.pop("params", {}))
        return self._http.request(method, f"{self.url}/{path}", params=query, timeout=20, **options)

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def wire(platform: LocalPlatform, session: Session) -> Iterator[Wire]:
    opened = Wire(platform, session.project_name)
    yield opened
    opened.close()


def told(answer: requests.Response) -> tuple[int, Any]:
    """Return the status and the body of a refusal."""
    is_json = answer.headers["Content-Type"].startswith("application/json")
    return answer.status_code, answer.json() if is_json else answer.text


def test_the_config_tells_where_it_is(platform: LocalPlatform) -> None:
    headers = {"Authorization": f"Bearer {platform.token}"}
    config = requests.get(f"{platform.url}/config", headers=headers, timeout=20).json()
    assert config["clusters"][0]["storage_url"] == f"{platform.url}/storage"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"])
def test_every_operation_takes_the_token(platform: LocalPlatform, method: str) -> None:
    answer = requests.request(method, f"{platform.url}/storage/local/x", timeout=20)
    assert answer.status_code == 401


def test_the_operation_is_named_in_any_case_or_by_itself(wire: Wire) -> None:
    for query in ({"op": "LISTSTATUS"}, {"op": "liststatus"}, {"liststatus": ""}):
        assert wire("GET", params=query).json() == {"FileStatuses": {"FileStatus": []}}


@pytest.mark.parametrize(
    ("method", "query", "text"),
    [
        ("GET", {"op": "OPEN", "liststatus": ""}, "Ambiguous operations: OPEN, LISTSTATUS"),
        ("GET", {"op": "CREATE"}, "Illegal operation: CREATE"),
        ("PUT", {"op": "copy"}, "'COPY' is not a valid StorageOperation"),
        ("POST", {}, "No destination"),
    ],
)
def test_operations_that_are_none_are_refused(
    wire: Wire, method: str, query: dict[str, str], text: str
) -> None:
    assert told(wire(method, params=query)) == (400, {"error": text})


def test_a_websocket_is_answered_with_what_to_do_instead(wire: Wire) -> None:
    status, body = told(wire("GET", op="WEBSOCKET"))
    assert status == 501
    assert "OPEN, CREATE and WRITE" in body["error"]


def test_a_file_is_sent_with_what_it_is(wire: Wire) -> None:
    (wire.folder / "file").write_bytes(b"0123456789")
    os.utime(wire.folder / "file", (1_000_000_000, 1_000_000_000))
    answer = wire("GET", "file")
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    expected = {
        "Content-Length": "10",
        "Last-Modified": "Sun, 09 Sep 2001 01:46:40 GMT",
        "X-File-Type": "FILE",
        "X-File-Permission": "read",
        "X-File-Length": "10",
        "Accept-Range": "bytes",
    }
    assert expected == {name: answer.headers[name] for name in expected}
    assert "Date" in answer.headers
    head = wire("HEAD", "file")
    assert (head.status_code, head.content) == (200, b"")
    assert expected == {name: head.headers[name] for name in expected}
    assert wire("HEAD", "missing").status_code == 404


@pytest.mark.parametrize(
    ("header", "content", "told_range"),
    [
        ("bytes=0-", b"0123456789", "bytes 0-9/10"),
        ("bytes=3-5", b"345", "bytes 3-5/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
    ],
)
def test_a_range_is_sent(wire: Wire, header: str, content: bytes, told_range: str) -> None:
    (wire.folder / "file").write_bytes(b"0123456789")
    answer = wire("GET", "file", headers={"Range": header})
    assert (answer.status_code, answer.content) == (206, content)
    assert answer.headers["Content-Range"] == told_range
    assert answer.headers["X-File-Length"] == "10"


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=4-3", "bytes=0-1,3-4", "lines=0-1"])
def test_a_range_that_is_not_there_is_416(wire: Wire, header: str) -> None:
    (wire.folder / "file").write_bytes(b"0123456789")
    answer = wire("GET", "file", headers={"Range": header})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */10")
    (wire.folder / "empty").touch()
    assert wire("GET", "empty", headers={"Range": "bytes=0-"}).status_code == 416


def test_a_folder_cannot_be_read_and_leaves_the_connection_in_step(wire: Wire) -> None:
    refusal = (400, {"error": "Is a directory", "errno": "EISDIR"})
    assert told(wire("GET")) == refusal
    assert told(wire("GET")) == refusal
    head = wire("HEAD")
    assert (head.status_code, head.headers["X-File-Type"]) == (200, "DIRECTORY")


def test_what_is_missing_is_told_as_each_operation_does(wire: Wire) -> None:
    plain = (404, "404: Not Found")
    assert told(wire("GET", "no")) == plain
    assert told(wire("GET", "no", op="GETFILESTATUS")) == plain
    assert told(wire("GET", "no", op="GETDISKUSAGE")) == plain
    assert told(wire("GET", "no", op="LISTSTATUS")) == plain
    named = {"error": "Not found", "errno": "ENOENT"}
    assert told(wire("GET", "no", op="LISTSTATUS", headers=NDJSON)) == (404, named)
    assert told(wire("DELETE", "no")) == plain
    target = {"destination": "there"}
    assert told(wire("POST", "no", params=target)) == plain
    headers = {"Content-Range": "bytes 0-0/*"}
    assert told(wire("PATCH", "no", data=b"x", headers=headers)) == plain
    assert not (wire.folder / "no").exists()


def test_what_lies_below_a_file_is_no_folder(wire: Wire) -> None:
    (wire.folder / "file").write_bytes(b"x")
    for op in ("OPEN", "GETFILESTATUS", "LISTSTATUS"):
        status, body = told(wire("GET", "file/below", op=op))
        assert (status, body["errno"]) == (400, "ENOTDIR")
    assert told(wire("GET", "file", op="LISTSTATUS")) == (
        400,
        {"error": "Not a directory", "errno": "ENOTDIR"},
    )
    for path, number in (("file/below", "EEXIST"), ("file/below/more", "ENOTDIR")):
        status, body = told(wire("PUT", path, data=b"x"))
        assert (status, body["errno"]) == (400, number)
    assert told(wire("PUT", "file", op="MKDIRS")) == (
        400,
        {"error": "File exists", "errno": "EEXIST"},
    )
    assert told(wire("PUT", "file/below/more", op="MKDIRS")) == (
        400,
        {"error": "Predecessor is not a directory", "errno": "ENOTDIR"},
    )


def test_a_file_is_made_with_the_folders_above_it_and_replaced(wire: Wire) -> None:
    answer = wire("PUT", "a/b/file", data=b"first and longer")
    assert (answer.status_code, answer.text) == (201, "201: Created")
    (wire.folder / "a/b/file").chmod(0o755)
    assert wire("PUT", "a/b/file", data=iter([b"sec", b"ond"])).status_code == 201
    assert (wire.folder / "a/b/file").read_bytes() == b"second"
    assert (wire.folder / "a/b/file").stat().st_mode & 0o777 == 0o755
    assert told(wire("PUT", "a/b", data=b"x")) == (
        400,
        {"error": "Destination is a directory", "errno": "EISDIR"},
    )
    status, body = told(wire("PUT", "n" * 256, data=b"x"))
    assert (status, body["errno"]) == (400, "ENAMETOOLONG")
    status, body = told(wire("PUT", "nul%00byte", data=b"x"))
    assert (status, "null" in body["error"]) == (400, True)


def test_a_part_is_written_and_nothing_is_cut_off(wire: Wire) -> None:
    (wire.folder / "file").write_bytes(b"0123456789")

    def write(header: str, data: bytes) -> tuple[int, bytes]:
        answer = wire("PATCH", "file", data=data, headers={"Content-Range": header})
        return answer.status_code, (wire.folder / "file").read_bytes()

    assert write("bytes 2-4/*", b"abc") == (200, b"01abc56789")
    assert write("bytes 2-3/10", b"ABCDEF") == (200, b"01ABc56789")
    assert write("bytes 5-9/*", b"x") == (200, b"01ABcx6789")
    assert write("bytes 12-13/*", b"yz") == (200, b"01ABcx6789\0\0yz")
    for header in ("bytes 3-2/*", "bytes 3-/*", "3-4", "bytes a-b/*"):
        assert write(header, b"!") == (400, b"01ABcx6789\0\0yz")
    assert write(f"bytes {2**70}-{2**70}/*", b"!")[0] == 400


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "Required header Content-Range"),
        (
            {"Content-Range": "bytes 0-0/*", "Content-Type": "text/plain"},
            "Content-Type should be application/octet-stream",
        ),
        ({"Content-Range": "bytes 0-0/*", "If-Match": "*"}, "Unsupported header If-Match"),
    ],
)
def test_a_part_needs_its_headers(wire: Wire, headers: dict[str, str], text: str) -> None:
    (wire.folder / "file").write_bytes(b"x")
    assert told(wire("PATCH", "file", data=b"y", headers=headers)) == (400, {"error": text})


def test_a_tree_is_removed_from_the_inside_out(wire: Wire) -> None:
    for path in ("t/a/1", "t/a/b/2", "t/3"):
        (wire.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (wire.folder / path).touch()
    assert told(wire("DELETE", "t", params={"recursive": "false"})) == (
        400,
        {"error": "Target is a directory", "errno": "EISDIR"},
    )
    answer = wire("DELETE", "t", headers=NDJSON)
    assert answer.status_code == 200
    assert answer.content.endswith(b"\r\n")
    lines = [json.loads(line) for line in answer.content.splitlines()]
    order = [line["path"].removeprefix(wire.path) for line in lines]
    assert sorted(order) == sorted(["/t/a/1", "/t/a/b/2", "/t/a/b", "/t/a", "/t/3", "/t"])
    for inner, outer in (("/t/a/b/2", "/t/a/b"), ("/t/a/b", "/t/a"), ("/t/a/1", "/t/a")):
        assert order.index(inner) < order.index(outer)
    assert lines[-1] == {"path": f"{wire.path}/t", "is_dir": True}
    (wire.folder / "file").touch()
    answer = wire("DELETE", "file")
    assert (answer.status_code, answer.content) == (204, b"")
    assert list(wire.folder.iterdir()) == []


def test_a_wide_and_a_deep_tree_are_removed(wire: Wire) -> None:
    for number in range(1100):
        (wire.folder / "wide" / str(number)).mkdir(parents=True)
        (wire.folder / "wide" / f"{number}.txt").touch()
    (wire.folder / "wide" / "/".join("d" * 80)).mkdir(parents=True)
    assert wire("DELETE", "wide").status_code == 204
    assert not (wire.folder / "wide").exists()


def dig(folder: Path, depth: int, name: str = "d") -> None:
    """Make folders within each other, as a job can: deeper than any path may say."""
    above = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=above)
        below = os.open(name, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=above))
    os.close(above)


@pytest.mark.parametrize("headers", [{}, NDJSON])
@pytest.mark.parametrize(("depth", "name"), [(5000, "d"), (200, "d" * 255)])
def test_a_tree_that_is_deeper_than_any_path_is_removed(
    wire: Wire, headers: dict[str, str], depth: int, name: str
) -> None:
    (wire.folder / "tree/aside").mkdir(parents=True)
    dig(wire.folder / "tree", depth, name)
    answer = wire("DELETE", "tree", headers=headers)
    assert answer.status_code == (200 if headers else 204)
    assert list(wire.folder.iterdir()) == []
    if headers:
        reported = [json.loads(line)["path"] for line in answer.content.splitlines()]
        assert reported[-1] == f"{wire.path}/tree"
        assert {f"{wire.path}/tree/aside", f"{wire.path}/tree/{name}"} <= set(reported)


def test_what_is_made_at_the_longest_path_is_removed_and_a_longer_path_is_refused(
    wire: Wire,
) -> None:
    left = 4095 - len(wire.path.lstrip("/")) - 1
    path = "/".join("d" * ((left + 1) // 2))
    path += "d" * (left - len(path))
    assert wire("PUT", path, op="MKDIRS").status_code == 201
    for method, op in (("PUT", "MKDIRS"), ("PUT", None), ("GET", "LISTSTATUS"), ("DELETE", None)):
        refused = wire(method, f"{path}/d", op=op)
        assert refused.status_code == 400
        assert refused.json()["errno"] == "ENAMETOOLONG"
    moved = wire("POST", path, params={"destination": f"/{'d/' * 3000}"})
    assert moved.json()["errno"] == "ENAMETOOLONG"
    assert wire("DELETE", "d").status_code == 204
    assert list(wire.folder.iterdir()) == []


def test_trees_that_were_moved_into_each_other_are_removed(wire: Wire) -> None:
    path = "/".join("d" * 1000)
    assert wire("PUT", f"0/{path}", op="MKDIRS").status_code == 201
    for number in range(1, 5):
        assert wire("PUT", f"{number}/{path}", op="MKDIRS").status_code == 201
        inside = f"{wire.path}/{number}/{path}/in"
        moved = wire("POST", str(number - 1), params={"destination": inside})
        assert moved.status_code == 204, moved.text
    assert wire("DELETE", "4").status_code == 204
    assert list(wire.folder.iterdir()) == []


def test_what_moves_replaces_only_what_it_may(wire: Wire) -> None:
    def move(source: str, destination: str) -> tuple[int, Any]:
        answer = wire("POST", source, params={"destination": destination})
        return (204, None) if answer.status_code == 204 else told(answer)

    for name in ("one", "two", "full/inner"):
        (wire.folder / name).parent.mkdir(exist_ok=True)
        (wire.folder / name).write_text(name)
    (wire.folder / "empty").mkdir()
    assert move("one", "two") == (204, None)
    assert (wire.folder / "two").read_text() == "one"
    assert move("two", f"{wire.path}/full/a+b%#") == (204, None)
    assert (wire.folder / "full/a+b%#").read_text() == "one"
    assert move("full/inner", "../empty/inner") == (204, None)
    assert move("empty/inner", f"{wire.path}/full") == (
        400,
        {"error": "Destination is a directory", "errno": "EISDIR"},
    )
    assert move("empty", "full/a+b%#")[1]["errno"] == "ENOTDIR"
    assert move("empty", "full") == (
        400,
        {"error": "Incorrect destination", "errno": "ENOTEMPTY"},
    )
    assert move("full", "full/inside") == (
        400,
        {"error": "Incorrect destination", "errno": "EINVAL"},
    )
    assert move("full", "missing/inside") == (404, "404: Not Found")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.binary(min_size=1, max_size=60).filter(
        lambda name: name.strip(b".") != b"" and not set(name) & set(b"/\0")
    )
)
def test_any_bytes_may_be_a_name(wire: Wire, name: bytes) -> None:
    path = quote(name)
    assert wire("PUT", path, data=name).status_code == 201
    assert Path(os.fsdecode(os.fsencode(wire.folder) + b"/" + name)).read_bytes() == name
    listed = wire("GET", op="LISTSTATUS", headers=NDJSON).content.splitlines()
    names = [json.loads(line)["FileStatus"]["path"] for line in listed]
    assert os.fsdecode(name) in names
    moved = {"destination": name + b"!"}
    assert wire("POST", path, params=moved).status_code in (204, 400)  # 400: now too long
    assert wire("DELETE", quote(name + b"!")).status_code == 204


# Nothing leads out


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b"])))
def test_a_path_never_climbs_above_the_root(steps: list[str]) -> None:
    parts = parts_of("/".join(steps))
    assert set(parts) <= {"a", "b"}
    expected = os.path.normpath("/" + "/".join(steps)).strip("/")
    assert "/".join(parts) == expected


ESCAPES = [
    "../../../../../../etc/passwd",
    "..%2F..%2F..%2F..%2F..%2F..%2F..%2Fetc/passwd",
    "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    ".%2e/.%2e/.%2e/.%2e/.%2e/.%2e/etc/passwd",
    "//etc/passwd",
    "%2Fetc%2Fpasswd",
    "a/..%2f..%2f..%2f..%2f..%2f../token",
    "../../../../token",
    "..%5c..%5c..%5ctoken",
    "%c0%ae%c0%ae/%c0%ae%c0%ae/token",
]


@pytest.mark.parametrize("path", ESCAPES)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_no_path_leads_out(
    platform: LocalPlatform, wire: Wire, tmp_path: Path, path: str, method: str
) -> None:
    """By a raw socket: clients take dots out of a path before they send it."""
    token = (platform.folder / "token").read_text()
    port = int(platform.url.split(":")[2].split("/")[0])
    request = (
        f"{method} /api/v1/storage{wire.path}/{path}?destination=/x HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {platform.token}\r\n"
        "Content-Length: 4\r\nConnection: close\r\n\r\nevil"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request.encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert b"root:" not in answer
    assert token.encode() not in answer
    assert (platform.folder / "token").read_text() == token
    assert "evil" not in Path("/etc/passwd").read_text()
    assert {entry.name for entry in platform.folder.iterdir()} >= {"token", "storage"}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder outside of the storage."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    return outside


CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "OPEN", {}),
    ("GET", "LISTSTATUS", {}),
    ("GET", "LISTSTATUS", {"headers": NDJSON}),
    ("GET", "GETDISKUSAGE", {}),
    ("HEAD", "", {}),
    ("PUT", "CREATE", {"data": b"evil"}),
    ("PUT", "MKDIRS", {}),
    ("PATCH", "WRITE", {"data": b"evil", "headers": {"Content-Range": "bytes 0-3/*"}}),
    ("POST", "RENAME", {"params": {"destination": "taken"}}),
    ("DELETE", "DELETE", {}),
]


@pytest.mark.parametrize(("method", "op", "options"), CALLS)
@pytest.mark.parametrize("path", ["folder/secret", "folder/new", "folder/new/more"])
def test_a_link_is_never_passed(
    wire: Wire, secret: Path, method: str, op: str, options: dict[str, Any], path: str
) -> None:
    (wire.folder / "folder").symlink_to(secret)
    answer = wire(method, path, op=op or None, **options)
    assert answer.status_code == 404
    assert [entry.name for entry in secret.iterdir()] == ["secret"]
    assert (secret / "secret").read_text() == "secret"


def test_a_link_itself_is_told_of_but_not_followed(wire: Wire, secret: Path) -> None:
    (wire.folder / "link").symlink_to(secret / "secret")
    (wire.folder / "dangling").symlink_to("nowhere")
    assert wire("GET", "link").status_code == 404
    listed = wire("GET", op="LISTSTATUS").json()["FileStatuses"]["FileStatus"]
    assert {item["path"]: (item["type"], item["length"]) for item in listed} == {
        "link": ("SYMLINK", 1),
        "dangling": ("SYMLINK", 1),
    }
    for name in ("link", "dangling"):
        assert told(wire("PUT", name, data=b"evil"))[1]["errno"] == "ENOENT"
        assert wire("PUT", name, op="MKDIRS").status_code == 404
        headers = {"Content-Range": "bytes 0-3/*"}
        assert wire("PATCH", name, data=b"evil", headers=headers).status_code == 404
        assert wire("POST", name, params={"destination": f"{name}-moved"}).status_code == 204
        assert (wire.folder / f"{name}-moved").is_symlink()
        assert wire("DELETE", f"{name}-moved").status_code == 204
    assert (secret / "secret").read_text() == "secret"


def test_a_tree_with_links_is_removed_and_what_they_point_to_stays(
    wire: Wire, secret: Path
) -> None:
    (wire.folder / "tree").mkdir()
    (wire.folder / "tree/link").symlink_to(secret)
    assert wire("DELETE", "tree").status_code == 204
    assert (secret / "secret").read_text() == "secret"


def test_a_folder_that_becomes_a_link_lets_nobody_out(wire: Wire, secret: Path) -> None:
    """As a job could do it, while requests come: between two looks, or between look and use."""
    done = threading.Event()

    def flip() -> None:
        place, aside = wire.folder / "place", wire.folder / "aside"
        while not done.is_set():
            with suppress(OSError):  # an upload was quicker, here or in what was put aside
                place.mkdir(exist_ok=True)
                place.rename(aside)
                place.symlink_to(secret)
            for folder in (place, aside):
                if folder.is_symlink():
                    folder.unlink()
                shutil.rmtree(folder, ignore_errors=True)

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            assert wire("GET", "place/secret").text != "secret"
            wire("PUT", "place/secret", data=b"evil")
            wire("DELETE", "place/secret")
    finally:
        done.set()
        flipping.join()
    assert (secret / "secret").read_text() == "secret"
    assert [entry.name for entry in secret.iterdir()] == ["secret"]


def test_pipes_and_devices_are_not_opened(wire: Wire) -> None:
    os.mkfifo(wire.folder / "pipe")
    assert wire("GET", "pipe").status_code == 404
    headers = {"Content-Range": "bytes 0-3/*"}
    assert wire("PATCH", "pipe", data=b"data", headers=headers).status_code == 404
    assert told(wire("PUT", "pipe", data=b"data"))[1]["errno"] == "ENOENT"
    status = wire("GET", "pipe", op="GETFILESTATUS").json()["FileStatus"]
    assert status["type"] == "UNKNOWN"


# What is not whole


def test_an_upload_that_is_cut_leaves_what_was_there(platform: LocalPlatform, wire: Wire) -> None:
    (wire.folder / "file").write_bytes(b"whole")
    port = int(platform.url.split(":")[2].split("/")[0])
    for name in ("file", "new"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = (
                f"PUT /api/v1/storage{wire.path}/{name} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Authorization: Bearer {platform.token}\r\nContent-Length: 9000000\r\n\r\n"
            )
            connection.sendall(head.encode() + bytes(4_000_000))
    uploads = platform.folder / "uploads"
    until(lambda: not list(uploads.iterdir()))
    assert (wire.folder / "file").read_bytes() == b"whole"
    assert not (wire.folder / "new").exists()


def test_uploads_that_were_never_ended_are_cleared_away(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path / "state") as platform:
        (platform.folder / "uploads" / "left").write_bytes(b"half")
    with LocalPlatform(tmp_path / "state") as platform:
        assert list((platform.folder / "uploads").iterdir()) == []


def test_a_small_file_comes_in_one_piece_with_its_head(wire: Wire, platform: LocalPlatform) -> None:
    (wire.folder / "small").write_bytes(b"x" * 1024)
    with raw_requests(platform, wire, "small") as connection:
        received = connection.recv(2**16)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"x" * 1024


def test_requests_that_come_at_once_are_answered_in_their_order(
    wire: Wire, platform: LocalPlatform
) -> None:
    files = {name: os.urandom(size) for name, size in (("a", 3_000_000), ("b", 10), ("c", 999_999))}
    for name, content in files.items():
        (wire.folder / name).write_bytes(content)
    order = "abcabcca"
    with raw_requests(platform, wire, *order) as connection, connection.makefile("rb") as answers:
        for name in order:
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(line.split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
            assert answers.read(int(headers[b"content-length"])) == files[name]


def raw_requests(platform: LocalPlatform, wire: Wire, *names: str) -> socket.socket:
    """Ask for files, all at once on one connection."""
    connection = socket.create_connection(("127.0.0.1", platform.port), timeout=20)
    who = f"Host: 127.0.0.1:{platform.port}\r\nAuthorization: Bearer {platform.token}\r\n"
    paths = [f"/api/v1/storage{wire.path}/{name}" for name in names]
    connection.sendall("".join(f"GET {path} HTTP/1.1\r\n{who}\r\n" for path in paths).encode())
    return connection


@pytest.mark.parametrize("size", [2**26, 2**15])
def test_a_file_that_becomes_shorter_while_it_is_sent_is_cut_off(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    with open(wire.folder / "file", "wb") as file:
        file.truncate(size)
    read = StorageFolder.read

    def read_and_shorten(self: StorageFolder, parts: Parts) -> OpenedFile:
        opened = read(self, parts)
        os.truncate(wire.folder / "file", 1000)
        return opened

    monkeypatch.setattr(StorageFolder, "read", read_and_shorten)
    with pytest.raises(requests.RequestException, match="1000 bytes read"):
        wire("GET", "file")
    monkeypatch.undo()
    assert wire("GET", "file").content == bytes(1000)


def test_others_are_answered_while_a_file_is_sent(wire: Wire) -> None:
    with open(wire.folder / "large", "wb") as file:
        file.truncate(2**33)
    (wire.folder / "small").write_bytes(b"small")
    answers = [wire("GET", "large", stream=True) for _ in range(5)]
    assert wire("GET", "small").content == b"small"
    for answer in answers:
        assert answer.raw.read(1_000_000) == bytes(1_000_000)
        answer.close()


def test_a_reader_that_leaves_is_noticed(platform: LocalPlatform, wire: Wire) -> None:
    with open(wire.folder / "large", "wb") as file:
        file.truncate(2**33)
    answer = wire("GET", "large", stream=True)
    descriptors = f"{wire.folder.name}/large"
    assert is_open(descriptors)
    answer.close()
    until(lambda: not is_open(descriptors))


def is_open(path: str) -> bool:
    """Whether this process, which the platform is in, has a file open."""
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.endswith(path):
            return True
    return False


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_listing_starts_before_the_folder_was_read(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = threading.Event()

    def entries(_: StorageFolder, parts: Parts) -> Iterator[Entry]:
        for number in range(2000):
            if number == 1000:
                assert going_on.wait(30)
            yield Entry(str(number), "FILE", 1, 1)

    monkeypatch.setattr(StorageFolder, "entries", entries)
    answer = wire("GET", op="LISTSTATUS", headers=NDJSON, stream=True)
    lines = answer.iter_lines()
    assert json.loads(next(lines))["FileStatus"]["path"] == "0"
    going_on.set()
    assert len(list(filter(None, lines))) == 1999


def test_a_failure_within_a_listing_is_its_last_line(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entries(_: StorageFolder, parts: Parts) -> Iterator[Entry]:
        for number in range(100):
            yield Entry(str(number), "FILE", 1, 1)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(StorageFolder, "entries", entries)
    lines = wire("GET", op="LISTSTATUS", headers=NDJSON).content.split(b"\r\n")
    assert json.loads(lines[-1]) == {"error": "Input/output error", "errno": "EIO"}


# Users


def test_of_anothers_files_one_sees_what_was_shared(platform: LocalPlatform) -> None:
    names = [f"{name}{uuid4().hex[:6]}" for name in ("owner", "guest")]
    owner, guest = (Session(platform.url, platform.add_user(name)) for name in names)
    with owner, guest:
        assert list(guest.storage.list()) == []  # one's own project is there from the start
        for name in ("shared/file", "hidden/file"):
            owner.storage.mkdir(f"storage:{name.split('/')[0]}")
            owner.storage.create(f"storage:{name}", b"content")
        theirs = f"storage:/{names[0]}"
        for uri in (theirs, f"{theirs}/shared", f"{theirs}/shared/file", f"{theirs}/no"):
            with pytest.raises(StorageNotFound):
                guest.storage.stat(uri)
            with pytest.raises(StorageNotFound):
                guest.storage.create(uri, b"evil")
        shared = owner.storage.stat("storage:shared").uri
        owner.users.share(names[1], Permission(uri=shared, action=Action.READ))
        assert [status.name for status in guest.storage.list(theirs)] == ["shared"]
        (found,) = guest.storage.list(shared)
        assert found.permission is Action.READ
        assert b"".join(guest.storage.open(found.uri)) == b"content"
        for refused in (
            lambda: guest.storage.rm(found.uri),
            lambda: guest.storage.mv(found.uri, "storage:mine"),
            lambda: guest.storage.mv("storage:mine", found.uri),
            lambda: guest.storage.create(found.uri, b"evil"),
            lambda: guest.storage.write(found.uri, b"evil", 0),
            lambda: guest.storage.list(f"{theirs}/hidden"),
            lambda: guest.storage.open(f"{theirs}/hidden/file"),
        ):
            with pytest.raises(StorageNotFound):
                refused()
        assert b"".join(owner.storage.open("storage:shared/file")) == b"content"


# For jobs


def test_the_folder_of_an_address_is_made_and_holds_what_was_uploaded(
    wire: Wire, session: Session, platform: LocalPlatform
) -> None:
    storage = StorageFolder(platform.folder / "storage", platform.folder / "uploads")
    root = f"storage://local{wire.path}"
    made = storage.path(URL(f"{root}/new/folder"))
    assert made == wire.folder / "new" / "folder"
    assert made.is_dir()
    session.storage.create(f"{root}/file%23", b"content")
    assert storage.path(URL(f"{root}/file%23")).read_bytes() == b"content"


def test_the_folder_of_an_address_is_never_behind_a_link(
    wire: Wire, secret: Path, platform: LocalPlatform
) -> None:
    storage = StorageFolder(platform.folder / "storage", platform.folder / "uploads")
    (wire.folder / "link").symlink_to(secret)
    for path in ("link", "link/below"):
        with pytest.raises(FileNotFoundError):
            storage.path(URL(f"storage://local{wire.path}/{path}"))
    assert storage.path(URL(f"storage://local{wire.path}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc")) != (
        Path("/etc")
    )
