"""Where a job listens: a process shares the machine's network with everything else on it."""

from __future__ import annotations

from contextlib import suppress

import psutil

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # read, not bound
"""Where to connect to who listens on every address."""


def addresses(pid: int, port: int) -> list[str]:
    """Return the addresses at which the processes below one listen on a TCP port.

    The address counts as well: somebody else may listen on the same port of another one.
    """
    found: list[str] = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            # One that ends meanwhile, or has become another user's, is passed over.
            with suppress(psutil.Error):
                found += [
                    WILDCARDS.get(connection.laddr.ip, connection.laddr.ip)
                    for connection in process.net_connections("tcp")
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
                ]
    return [*dict.fromkeys(found)]
