"""Names that the platform's files may have, and files on Windows may not."""

from __future__ import annotations

import os
import re

from neuro_sync.errors import StorageError

FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
DEVICE = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])[ ]*(\..*)?", re.IGNORECASE | re.DOTALL
)
"""A device, in whatever folder; an extension changes nothing."""


def check_local_name(name: str) -> None:
    """Check that a file or folder of this machine can have a name.

    Raises:
        StorageError: It cannot.
    """
    reason = objection(name) if os.name == "nt" else None
    if reason is not None:
        text = f"Windows has no files named {name!r}: {reason}. Download it under another name"
        raise StorageError(text, payload={"errno": "EINVAL"})


def objection(name: str) -> str | None:
    """Return why Windows does not take a name, or would take it for another one; None if it does.

    With a colon in it, Windows writes a hidden part of another file; a dot at the end is left out.
    """
    found = FORBIDDEN.search(name)
    if found:
        return f"{found[0]!r} is not allowed in names"
    if name.endswith((".", " ")):
        return f"names do not end with {name[-1]!r}"
    if DEVICE.fullmatch(name):
        return "that is a device"
    return None
