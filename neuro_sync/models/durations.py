"""Durations, as people write them: seconds, a ``timedelta``, or text such as ``1h30m``."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from decimal import Decimal
from numbers import Real
from typing import Any

from neuro_sync.errors import IllegalArgumentError

Duration = float | timedelta | str
"""Seconds, a ``timedelta``, or text such as ``1d2h3m4s``; infinity is no limit."""

_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PART = re.compile(r"([0-9]+)\s*(d|h|m|s)(?:ays?|ours?|in(?:ute)?s?|ecs?|econds?)?\s*")
_TEXT = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> float:
    """Return the seconds of a text such as ``1d2h3m4s`` or ``2d3h20min``; ``0`` is none.

    Raises:
        ValueError: It is no such text.
    """
    if text == "0":
        return 0.0
    if not _TEXT.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; it should look like 1d2h3m4s")
    return sum(float(count) * _UNITS_S[unit] for count, unit in _PART.findall(text))


def in_seconds(duration: Duration, name: str) -> float:
    """Return the seconds of a duration; `name` is what the caller calls it.

    Raises:
        IllegalArgumentError: It is no duration.
    """
    why = "should be seconds, a timedelta, or text such as '1h30m'"
    try:
        if isinstance(duration, str):
            return parse_duration(duration)
        if isinstance(duration, timedelta):
            return duration.total_seconds()
        if isinstance(duration, Real | Decimal) and not isinstance(duration, bool):
            seconds = _as_float(duration)
            if not math.isnan(seconds):
                return seconds
    except ValueError:
        why = "should look like 1d2h3m4s"
    raise IllegalArgumentError(f"{name} = {duration!r}: {why}")


def _as_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number beyond any float
        return math.inf if number > 0 else -math.inf


def deadline(timeout: Duration | None, now: float, name: str = "timeout") -> float:
    """Return when a wait that begins `now` ends; without a timeout, never.

    Raises:
        IllegalArgumentError: It is no duration.
    """
    return math.inf if timeout is None else now + in_seconds(timeout, name)
