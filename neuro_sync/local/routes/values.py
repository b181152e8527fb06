"""How query parameters are written on the wire."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from datetime import datetime, timezone

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.models.frames import LARGEST_SIDE

LARGEST_NUMBER = 2**63 - 1
"""No number of a query is larger; the database and the file system know no more."""
MOST_VALUES = 500
"""Values of a parameter that may be given more than once."""
MOST_DIGITS = len(str(LARGEST_NUMBER))
SHOWN = 100
"""Characters of a refused value that its refusal repeats."""


def flag(value: str) -> bool:
    """Read a yes or no, as it comes in any case."""
    known = {"1": True, "true": True, "0": False, "false": False}.get(value.lower())
    if known is None:
        raise IllegalArgumentError(f'Required "0", "1", "false" or "true", not {shown(value)}')
    return known


def stream_flag(name: str, value: str | None, *, default: bool) -> bool:
    """Read a yes or no of a job's channels, which have a refusal of their own."""
    if value is None:
        return default
    try:
        return flag(value)
    except IllegalArgumentError:
        raise IllegalArgumentError(
            f'"{name}" request parameter can be "true"/"1" or "false"/"0"'
        ) from None


def instant(value: str | None) -> datetime | None:
    """Read an ISO time; one without a zone is UTC."""
    if value is None:
        return None
    try:
        # Python 3.10 knows neither "Z" nor nine digits.
        plain = re.sub(r"(\.\d{6})\d+", r"\1", value).replace("Z", "+00:00")
        moment = datetime.fromisoformat(plain)
    except ValueError:
        raise IllegalArgumentError(
            f"Unable to parse date string {shown(value)}; '+' is written %2B in a query"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def whole_number(name: str, value: str, *, least: int = 0, most: int = LARGEST_NUMBER) -> int:
    """Read a whole number; one of too many digits is not even converted."""
    is_number = value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS
    if not is_number or not least <= int(value) <= most:
        raise IllegalArgumentError(
            f"{name!r} should be a whole number from {least} to {most}, not {shown(value)}"
        )
    return int(value)


def check_count(values: Sequence[str]) -> None:
    """Refuse a parameter that is given too often."""
    if len(values) > MOST_VALUES:
        raise IllegalArgumentError(
            f"a parameter has at most {MOST_VALUES} values, and one has {len(values)}"
        )


def shown(text: str) -> str:
    """Return a text as a refusal quotes it: of a long one the beginning, and how long it is."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}... ({len(text)} characters)"


def signal_number(value: str) -> int:
    """Read a signal: ``9``, ``KILL`` or ``SIGKILL``."""
    try:
        if value.isascii() and value.isdigit():
            return signal.Signals(int(value))
        return signal.Signals["SIG" + value.upper().removeprefix("SIG")]
    except (ValueError, KeyError):
        raise IllegalArgumentError(f"there is no signal {shown(value)}") from None


def name_of(value: str, pattern: str, shortest: int, longest: int) -> str:
    """Refuse a name that nothing can have."""
    if len(value) < shortest:
        raise IllegalArgumentError(f"String is shorter than {shortest} characters: {shown(value)}")
    if len(value) > longest:
        raise IllegalArgumentError(f"String is longer than {longest} characters: {shown(value)}")
    if not re.fullmatch(pattern, value):
        raise IllegalArgumentError(f"does not match pattern {pattern}: {shown(value)}")
    return value


def characters(name: str, value: str) -> int:
    """Read the width or the height of a terminal."""
    return whole_number(name, value, most=LARGEST_SIDE)
