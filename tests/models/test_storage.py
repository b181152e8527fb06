"""What is said of files, as values."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from neuro_sync import FileStatus, FileStatusType, ProtocolError
from neuro_sync.models.storage import ByteRange, ListedFile, child
from neuro_sync.models.uris import parse_address, path_of

FILE = {"path": "a", "length": 3, "type": "FILE", "modificationTime": 5, "permission": "write"}
NAMES = (
    (st.binary(min_size=1) | st.text(min_size=1).map(lambda text: text.encode(errors="ignore")))
    .map(os.fsdecode)
    .filter(lambda name: name not in ("", ".", "..") and not set(name) & set("/\0"))
)


@given(st.binary(max_size=40), st.integers(0, 50), st.integers(0, 50))
def test_a_range_means_what_slicing_means(content: bytes, first: int, last: int) -> None:
    expected = content[first : last + 1]
    if expected:
        found = ByteRange.from_header(f"bytes={first}-{last}", len(content))
        assert content[found.start : found.stop] == expected
    else:
        with pytest.raises(ValueError, match="bytes"):
            ByteRange.from_header(f"bytes={first}-{last}", len(content))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 10)),
        ("bytes=0-", (0, 10)),
        ("bytes=4-", (4, 10)),
        ("bytes=4-99", (4, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
    ],
)
def test_a_range_is_clipped_to_the_file(header: str | None, expected: tuple[int, int]) -> None:
    assert ByteRange.from_header(header, 10) == expected


@pytest.mark.parametrize(
    "header",
    ["bytes=10-", "bytes=5-4", "bytes=-0", "bytes=1-2,4-5", "lines=1-2", "bytes=", "bytes=a-b"],
)
def test_what_is_no_range_of_the_file_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="bytes"):
        ByteRange.from_header(header, 10)


def test_whatever_a_newer_platform_says_is_read() -> None:
    newer = {**FILE, "type": "SNAPSHOT", "permission": "annotate", "checksum": "00"}
    status = ListedFile.from_answer(json.dumps({"FileStatus": newer})).status
    assert status.type is FileStatusType.UNKNOWN
    assert not status.is_file()
    assert not status.is_dir()


def test_an_answer_that_lacks_something_is_told() -> None:
    with pytest.raises(ProtocolError, match="length"):
        ListedFile.from_answer(b'{"FileStatus": {"path": "a", "type": "FILE"}}')


@given(NAMES)
def test_any_name_is_read_and_addressed(name: str) -> None:
    folder = URL("storage://cluster/org/project")
    line = json.dumps({"FileStatus": {**FILE, "path": name}})
    status: FileStatus = ListedFile.from_answer(line).status.within(str(folder))
    assert status.path == status.name == name
    assert path_of(status.uri) == f"/org/project/{name}"
    assert parse_address(str(status.uri), "storage") == status.uri
    assert status.uri == child(folder, name)
