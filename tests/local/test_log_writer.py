"""A log that a platform writes is right, wherever the platform was killed while it wrote."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync.local.logs import STAMP, LogWriter

PIECES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=9)), max_size=6)


def append(folder: Path, pieces: list[tuple[int, bytes]]) -> int:
    writer = LogWriter(folder)
    writer.append((stream, 10**18, data) for stream, data in pieces)
    writer.close()
    return writer.size


@given(st.lists(st.tuples(PIECES, st.floats(0, 1), st.integers(0, STAMP.size - 1)), max_size=4))
def test_the_bytes_of_each_stream_are_counted_after_kills(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[list[tuple[int, bytes]], float, int]],
) -> None:
    folder = tmp_path_factory.mktemp("log")
    written: Counter[int] = Counter()
    for pieces, share, half in batches:
        before = append(folder, [])
        append(folder, pieces)
        # The times came first, and of the bytes only some.
        left = int(share * sum(len(data) for _, data in pieces))
        with open(folder / "log", "ab") as log:
            log.truncate(before + left)
        with open(folder / "log.times", "ab") as times:
            times.write(bytes(half))
        for stream, data in pieces:
            written[stream] += min(len(data), left)
            left -= min(len(data), left)
    writer = LogWriter(folder)
    assert +writer.count(0) == +written
    writer.close()
