"""Durations, in all the ways in which people write them."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import IllegalArgumentError
from neuro_sync.models.durations import deadline, in_seconds, parse_duration


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (1.5, 1.5),
        (90, 90),
        (-1, -1),
        (Decimal("0.5"), 0.5),
        (timedelta(minutes=2), 120),
        (timedelta.max, timedelta.max.total_seconds()),
        ("1d2h3m4s", 93784),
        ("2d 3h 20min", 184800),
        ("1 hour", 3600),
        ("0", 0),
        (math.inf, math.inf),
        (10**400, math.inf),
        (-(10**400), -math.inf),
        ("9" * 5000 + "d", math.inf),
    ],
)
def test_a_duration_is_so_many_seconds(duration: Any, seconds: float) -> None:
    assert in_seconds(duration, "timeout") == seconds


@pytest.mark.parametrize(
    "duration",
    [math.nan, True, "", "x", "5", "1.5h", "-1h", "1h ago", "\u0661h", None, b"5", (0, 0), [], 1j],
)
def test_what_is_no_duration_is_refused_by_its_name(duration: Any) -> None:
    with pytest.raises(IllegalArgumentError, match=r"^patience = .*: should "):
        in_seconds(duration, "patience")


@given(*[st.integers(0, 10**6)] * 4)
def test_a_text_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    assert parse_duration(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def test_no_timeout_is_no_deadline() -> None:
    assert deadline(None, 5) == math.inf
    assert deadline("1m", 5) == 65
