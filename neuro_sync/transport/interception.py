"""Whether something stands between our requests and the network: a mock, or an instrumentation.

`responses`, `requests-mock`, vcrpy, `unittest.mock` and the like replace functions or classes of
requests and urllib3. What this package sends past those functions, to be faster, a mock does not
see: a test would reach the real platform with the real token. So each shortcut asks here first.

A function counts as the library's own by the module whose globals it runs in, not by what it was
when this module was imported, since a mock may have been in place by then.
"""

from __future__ import annotations

import http.client
import inspect
import operator
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import FunctionType
from typing import Any, NamedTuple

import requests
import requests.adapters
import requests.sessions
import urllib3.connection
import urllib3.connectionpool
import urllib3.poolmanager

# Also where `requests.Session` is a mock, or a session with a cache, while this is imported.
SESSION: Any = requests.sessions.SessionRedirectMixin.__subclasses__()[0]
"""The library's own class of sessions."""

FUNCTIONS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (SESSION, ("request", "send", "get_adapter")),
    (
        requests.adapters.HTTPAdapter,
        ("send", "get_connection_with_tls_context", "init_poolmanager", "proxy_manager_for"),
    ),
    (
        urllib3.poolmanager.PoolManager,
        ("urlopen", "connection_from_host", "connection_from_context", "connection_from_pool_key"),
    ),
    (
        urllib3.connectionpool.HTTPConnectionPool,
        ("urlopen", "_make_request", "_get_conn", "_new_conn", "_put_conn"),
    ),
    (http.client.HTTPConnection, ("send",)),
)
"""What a request passes through and our shortcuts do not; what they call may be replaced."""

CLASSES = (
    (requests, "Session"),
    (requests.sessions, "Session"),
    (requests.sessions, "HTTPAdapter"),
    (requests.adapters, "HTTPAdapter"),
    (requests.adapters, "PoolManager"),
    (urllib3, "PoolManager"),
    (urllib3, "HTTPConnectionPool"),
    (urllib3, "HTTPSConnectionPool"),
    (urllib3.poolmanager, "HTTPConnectionPool"),
    (urllib3.poolmanager, "HTTPSConnectionPool"),
    (urllib3.connectionpool, "HTTPConnectionPool"),
    (urllib3.connectionpool, "HTTPSConnectionPool"),
    (urllib3.connectionpool, "HTTPConnection"),
    (urllib3.connectionpool, "HTTPSConnection"),
    (urllib3.connectionpool.HTTPConnectionPool, "ConnectionCls"),
    (urllib3.connectionpool.HTTPSConnectionPool, "ConnectionCls"),
    (urllib3.connection, "HTTPConnection"),
    (urllib3.connection, "HTTPSConnection"),
    (http.client, "HTTPConnection"),
    (http.client, "HTTPSConnection"),
)
"""Classes from which ours are derived, or which are looked up by name for each request."""

LIBRARIES = ("requests.", "urllib3.", "http.client")


class Interceptor(NamedTuple):
    """Something that is not the library's own."""

    name: str
    """Of what it replaces."""
    is_mock: bool
    """Whether it is no wrapper that names the library's own as what it wraps."""
    is_replaced_for_all: bool = True
    """Whether it is so for each session of `requests`, not for one."""


_checked: list[tuple[Any, ...]] = []
"""Who holds what is looked at, by which name, and what it was when all was the libraries' own."""


def find_interceptor() -> Interceptor | None:
    """Return a mock, else an instrumentation; None if all is the libraries' own."""
    if _checked:  # asked before each request, so the comparison is one of C code
        holders, names, values = _checked
        with suppress(KeyError):
            if all(map(operator.is_, map(operator.getitem, holders, names), values)):
                return None
    found = _find()
    if found is None:
        places = [(vars(holder), name, vars(holder)[name]) for holder, name in _places()]
        _checked[:] = zip(*places, strict=True)
    return found


def _places() -> Iterator[tuple[Any, str]]:
    yield from CLASSES
    for owner, names in FUNCTIONS:
        for name in names:
            yield owner, name


def _find() -> Interceptor | None:
    found: Interceptor | None = None
    for holder, name in CLASSES:
        kind = vars(holder).get(name)
        if isinstance(kind, type) and (_is_theirs(kind) or issubclass(kind, SESSION)):
            continue  # what derives from the session, such as one with a cache, is nothing to us
        return Interceptor(name, is_mock=True)
    for owner, names in FUNCTIONS:
        own = vars(sys.modules[owner.__module__])
        for name in names:
            function = vars(owner).get(name)
            if type(function) is FunctionType and function.__globals__ is own:
                continue
            found = Interceptor(f"{owner.__name__}.{name}", _is_mock(function, own))
            if found.is_mock:
                return found
    return found


SESSION_METHODS = frozenset({"request", "send", "get_adapter"})


def is_changed(session: object) -> bool:
    """Return whether one session is no plain one, whatever holds for all of them."""
    is_session = isinstance(session, SESSION)
    return not is_session or not SESSION_METHODS.isdisjoint(vars(session))


def is_replaced(session: Any, name: str) -> bool:
    """Return whether a session's method is not the library's own: of it alone, or of all."""
    function = getattr(type(session), name, None)
    own = vars(requests.sessions)
    is_own = type(function) is FunctionType and function.__globals__ is own
    return not is_own or name in vars(session)


def _is_theirs(kind: type) -> bool:
    return f"{kind.__module__}.".startswith(LIBRARIES)


def _is_mock(function: Any, own: dict[str, Any]) -> bool:
    try:
        unwrapped = inspect.unwrap(function)
    except ValueError:  # it wraps itself
        return True
    return type(unwrapped) is not FunctionType or unwrapped.__globals__ is not own
