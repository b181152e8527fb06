"""Which program of this machine is at the other end of a connection to the loopback address.

Only Linux tells; elsewhere, and of programs that this process may not look at, nothing is known.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from .state import start_of

Address = tuple[str, int]

# From linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")
_ANY_STATE = 2**32 - 1
_NO_COOKIE = b"\xff" * 8
_ANSWER_SIZE = 72
"""Bytes of ``struct inet_diag_msg``, which ends with the user and the number of the socket."""


@dataclass(frozen=True)
class Program:
    """A process, never mistaken for a later one of the same number."""

    uid: int
    pid: int | None = None
    """None if this process may not look at it; then all programs of its user are the same."""
    started: float | None = None

    def is_at(self, peer: Address, own: Address) -> bool:
        """Return whether the process has the other end of a connection from `peer` to `own`."""
        found = _socket_of(peer, own)
        if found is None or found.uid != self.uid:
            return False
        if self.pid is None:
            return True
        return _has_socket(self.pid, found.inode) and start_of(self.pid) == self.started


def program_at(peer: Address, own: Address) -> Program | None:
    """Return the process at the other end of a connection from `peer` to `own`, if it is known.

    It looks through all processes, so it is not to be called on an event loop.
    """
    found = _socket_of(peer, own)
    if found is None:
        return None
    for pid in _processes():
        if _has_socket(pid, found.inode):
            return Program(found.uid, pid, start_of(pid))
    return Program(found.uid)


@dataclass(frozen=True)
class _Socket:
    inode: int
    uid: int


def _socket_of(local: Address, remote: Address) -> _Socket | None:
    """Return the socket of a TCP connection over IPv4 that has an address as its own."""
    if sys.platform != "linux":
        return None
    ends = struct.pack("=4s12x4s12x", *(socket.inet_aton(host) for host, _ in (local, remote)))
    socket_id = struct.pack("!HH", local[1], remote[1]) + ends + struct.pack("=I", 0) + _NO_COOKIE
    body = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, _ANY_STATE) + socket_id
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(1.0)
            kernel.send(head + body)
            answer = kernel.recv(4096)
    except OSError:  # a container or a sandbox that does not allow it
        return None
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None  # there is no such connection any more
    message = answer[_HEADER.size : _HEADER.size + _ANSWER_SIZE]
    uid, inode = struct.unpack_from("=II", message, _ANSWER_SIZE - 8)
    return _Socket(inode, uid) if inode else None  # none has been closed by its owner


def _processes() -> Iterable[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _has_socket(pid: int, inode: int) -> bool:
    folder = f"/proc/{pid}/fd"
    wanted = f"socket:[{inode}]"
    with suppress(OSError):  # it is somebody else's, or has ended
        for name in os.listdir(folder):
            with suppress(OSError):
                if os.readlink(f"{folder}/{name}") == wanted:
                    return True
    return False
