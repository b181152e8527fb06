"""Messages of exec and attach, bytes to values and back.

Each is one binary websocket message: a channel number, then its payload. An empty payload on a
data channel means nothing, neither an end nor a byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from .jobs import Message

CHANNELS = "v2.channels.neu.ro"
"""The subprotocol of these messages."""
CHANNELS_WITH_EOF = "v2-eof.channels.neuro-sync"
"""The same with `EndOfInput`, which the hosted platform does not know."""

EOF_TIMEOUT_S = 15.0
"""Seconds of silence after which a command is given up that cannot be told of `EndOfInput`."""

STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


LARGEST_SIDE = 2**16 - 1
"""Characters in a row or a column of a terminal; the kernel knows no more."""


@dataclass(frozen=True)
class Exited:
    """The last message of the server: the command is over."""

    exit_code: int
    message: str = ""
    """Why it could not be run, if it was not."""


@dataclass(frozen=True)
class Input:
    """Bytes for the command's standard input."""

    data: bytes


@dataclass(frozen=True)
class Resize:
    """The size of the user's terminal, in characters."""

    height: int
    width: int


@dataclass(frozen=True)
class EndOfInput:
    """There is no more input."""


class BadFrame(ValueError):
    """Bytes that are no message of this protocol."""


def from_server(frame: bytes) -> Message | Exited:
    """Read what a server sent.

    Raises:
        BadFrame: It is none of the known messages.
    """
    if not frame:
        raise BadFrame("an empty message")
    channel, payload = frame[0], frame[1:]
    if channel == STDOUT:
        return Message(fileno=1, data=payload)
    if channel == STDERR:
        return Message(fileno=2, data=payload)
    if channel == STATUS:
        fields = _fields(payload)
        return Exited(_number(fields, "exit_code"), str(fields.get("message", "")))
    raise BadFrame(f"channel {channel} is not one of the server's")


def from_client(frame: bytes) -> Input | Resize | EndOfInput:
    """Read what a client sent.

    Raises:
        BadFrame: It is none of the known messages.
    """
    if not frame:
        raise BadFrame("an empty message")
    channel, payload = frame[0], frame[1:]
    if channel == STDIN:
        return Input(payload)
    if channel == RESIZE:
        fields = {name.lower(): value for name, value in _fields(payload).items()}
        return Resize(_characters(fields, "height"), _characters(fields, "width"))
    if channel == CLOSE and payload == bytes([STDIN]):
        return EndOfInput()
    raise BadFrame(f"channel {channel} is not one of the client's")


def output(channel: int, data: bytes) -> bytes:
    """Write output; `channel` is `STDOUT` or `STDERR`."""
    return bytes([channel]) + data


def exited(exit_code: int, message: str = "") -> bytes:
    """Write the final status."""
    fields: dict[str, object] = {"exit_code": exit_code}
    if message:
        fields["message"] = message
    return bytes([STATUS]) + json.dumps(fields).encode()


def stdin(data: bytes) -> bytes:
    """Write input."""
    return bytes([STDIN]) + data


def resize(*, height: int, width: int) -> bytes:
    """Write the size of a terminal, in characters."""
    return bytes([RESIZE]) + json.dumps({"height": height, "width": width}).encode()


def end_of_input() -> bytes:
    """Write that there is no more input; only for a server that speaks `CHANNELS_WITH_EOF`."""
    return bytes([CLOSE, STDIN])


def _fields(payload: bytes) -> dict[str, object]:
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"no JSON: {payload[:100]!r}") from error
    if not isinstance(fields, dict):
        raise BadFrame(f"no JSON object: {payload[:100]!r}")
    return fields


def _characters(fields: dict[str, object], name: str) -> int:
    number = _number(fields, name)
    if not 0 <= number <= LARGEST_SIDE:
        raise BadFrame(f"no terminal has a {name} of {number} characters")
    return number


def _number(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadFrame(f"{name} is no whole number, but of type {type(value).__name__}")
    return value
