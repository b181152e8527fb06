"""How often a line may be repeated in the log of a platform."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from neuro_sync.local import repeats

logger = logging.getLogger("neuro_sync.local.sites")


def test_a_line_is_repeated_a_few_times_and_then_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "neuro_sync")
    monkeypatch.setattr(repeats, "WINDOW_S", 0.5)
    with repeats.limit_repeats():
        for number in range(repeats.LINES + 5):
            logger.warning("job %d does this", number)
            logger.info("job %d is fine", number)
        logger.warning("another line: %s", "%s")
        time.sleep(0.6)
        logger.warning("job %d does this", 100)
        logger.warning("another line: %s", "%s")
    # A platform of another test may write lines of its own.
    records = [record for record in caplog.records if record.name == logger.name]
    warnings = [record.getMessage() for record in records if record.levelname == "WARNING"]
    assert warnings == [
        *(f"job {number} does this" for number in range(repeats.LINES)),
        "another line: %s",
        "job 100 does this (5 more like this one were left out)",
        "another line: %s",
    ]
    assert len(records) - len(warnings) == repeats.LINES + 5


def test_lines_of_the_program_around_a_platform_are_not_limited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared = logging.getLogger("asyncio")

    def warn() -> None:
        for _ in range(20):
            shared.warning("socket.send() raised exception.")

    with repeats.limit_repeats():
        warn()
        assert len(caplog.records) == repeats.LINES
        thread = threading.Thread(target=warn)
        thread.start()
        thread.join()
        assert len(caplog.records) == repeats.LINES + 20
    warn()
    assert len(caplog.records) == repeats.LINES + 40
