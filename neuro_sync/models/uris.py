"""storage:, image:, disk: and secret: addresses, and those that only permissions know.

The full form is ``<scheme>://<cluster>/<org>/<project>/<path>``. The short one, ``storage:a/b``,
means the session's current cluster, organisation and project, and is completed by `complete`.
In an address a name is quoted as in any URL; ``#``, ``?`` and ``%`` have to be.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema
from yarl import URL

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue

CLUSTER_SCHEMES = frozenset({"storage", "image", "job", "secret", "disk", "blob", "flow"})
"""The schemes of what lies on a cluster; an address of another one has to be whole."""
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


class _Address:
    """Reads an address of one scheme from text or a ``yarl.URL``; writes it as text."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.to_string_ser_schema()
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "examples": [f"{self._scheme}:name"]}

    def _read(self, value: object) -> URL:
        if not isinstance(value, str | URL):
            raise ValueError(f"an address is text such as '{self._scheme}:name'")
        return parse_address(str(value), self._scheme)


StorageURI = Annotated[URL, _Address("storage")]
SecretURI = Annotated[URL, _Address("secret")]
DiskURI = Annotated[URL, _Address("disk")]


def parse_address(text: str, scheme: str) -> URL:
    """Check an address of what a job is given, short or full; it may not lead upwards."""
    given, colon, rest = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} has no scheme; write '{scheme}:{text}'")
    if given.lower() != scheme:
        raise ValueError(f"Invalid URI scheme: {given!r} != {scheme!r} in {text!r}")
    if ".." in unquote(rest).split("/"):
        raise ValueError(f"Invalid path: {rest!r} leads upwards, with '..'")
    return parse_uri(text)


def parse_uri(text: str, allowed_schemes: Collection[str] = ()) -> URL:
    """Check an address of any scheme, short or full, against the rules that hold for all."""
    given, colon, rest = text.partition(":")
    if not colon or not SCHEME.fullmatch(given):
        like = _listed(allowed_schemes) if allowed_schemes else "'storage:'"
        raise ValueError(f"{text!r} has no scheme; write {like} before it")
    scheme = given.lower()
    if allowed_schemes and scheme not in allowed_schemes:
        are = "is" if len(allowed_schemes) == 1 else "are"
        raise ValueError(
            f"Invalid scheme '{scheme}:' in {text!r}; only {_listed(allowed_schemes)} {are} allowed"
        )
    host, path = _split(rest)
    user, at, host = host.rpartition("@")
    if ":" in user:
        # The text is not repeated: it holds a password.
        raise ValueError(f"a {scheme}: address has no password; leave out all before '@{host}'")
    if at:
        raise ValueError(f"{text!r} has a user, {user!r}, which such an address never has")
    for mark, name, quoted in (("#", "fragment", "%23"), ("?", "query", "%3F")):
        if mark in rest:
            raise ValueError(
                f"{text!r} has a {name}; within a name, '{mark}' is written '{quoted}'"
            )
    if (host or path).startswith("~"):
        raise ValueError(f"{text!r}: '~' is no home folder here; write the path")
    host, colon, port = host.partition(":")
    if colon:
        raise ValueError(f"{text!r} has a port, {port!r}, which such an address never has")
    if not host and scheme not in CLUSTER_SCHEMES:
        raise ValueError(f"{text!r} is no whole address; write '{scheme}://{path.lstrip('/')}'")
    try:
        # Not URL(text): it takes the digits of "storage:5" for a port. What is unquoted here is
        # quoted again.
        return URL.build(scheme=scheme, host=host, path=unquote(path))
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: {error}") from error


def complete(uri: URL, *, cluster: str, org: str | None, project: str) -> URL:
    """Return the full form of an address.

    ``storage:a`` lies in the current project, ``storage:/other/a`` in the current organisation;
    an address with a host is full already.
    """
    if uri.host:
        return uri
    tenant = [org] if org else []
    if uri.path.startswith("/"):
        path = uri.path[1:]
        parts = [*tenant, path]
    else:
        path = uri.path
        parts = [*tenant, project, *([path] if path else ())]
    return URL.build(scheme=uri.scheme, host=cluster, path="/" + "/".join(parts))


def shorten(uri: URL, *, cluster: str, org: str | None, project: str) -> URL:
    """Return the short form of a full address where it has one, without slashes at the end."""
    home = complete(URL.build(scheme=uri.scheme), cluster=cluster, org=org, project=project)
    path = uri.path.rstrip("/")
    if uri.host == cluster and f"{path}/".startswith(f"{home.path}/"):
        rest = path[len(home.path) + 1 :]
        # These two mean something else at the beginning of a short address.
        if not rest.startswith(("/", "~")):
            return URL.build(scheme=uri.scheme, path=rest)
    return URL.build(scheme=uri.scheme, host=uri.host or "", path=path)


def _split(rest: str) -> tuple[str, str]:
    """Split what follows the scheme into host and path; ``///a`` is a path, not a host."""
    if not rest.startswith("//"):
        return "", rest
    slashes = len(rest) - len(rest.lstrip("/"))
    if slashes > 2:
        return "", "/" + rest.lstrip("/")
    host, slash, path = rest[2:].partition("/")
    return host, slash + path


def _listed(schemes: Collection[str]) -> str:
    return ", ".join(f"'{scheme}:'" for scheme in schemes)
