"""How query parameters are written on the wire."""

from __future__ import annotations

import re
import signal
from datetime import datetime, timezone

from neuro_sync.errors import IllegalArgumentError


def flag(value: str) -> bool:
    """Read a yes or no, as it comes in any case."""
    known = {"1": True, "true": True, "0": False, "false": False}.get(value.lower())
    if known is None:
        raise IllegalArgumentError(f'Required "0", "1", "false" or "true", not {value!r}')
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
            f"Unable to parse date string {value!r}; '+' is written %2B in a query"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def signal_number(value: str) -> int:
    """Read a signal: ``9``, ``KILL`` or ``SIGKILL``."""
    try:
        if value.isascii() and value.isdigit():
            return signal.Signals(int(value))
        return signal.Signals["SIG" + value.upper().removeprefix("SIG")]
    except (ValueError, KeyError):
        raise IllegalArgumentError(f"there is no signal {value!r}") from None


def name_of(value: str, pattern: str, shortest: int, longest: int) -> str:
    """Refuse a name that nothing can have."""
    if len(value) < shortest:
        raise IllegalArgumentError(f"String is shorter than {shortest} characters: {value!r}")
    if len(value) > longest:
        raise IllegalArgumentError(f"String is longer than {longest} characters: {value!r}")
    if not re.fullmatch(pattern, value):
        raise IllegalArgumentError(f"does not match pattern {pattern}: {value!r}")
    return value


def characters(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) >= 2**16:
        raise IllegalArgumentError(f"{name!r} should be a number of characters, not {value!r}")
    return int(value)
