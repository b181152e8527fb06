"""storage:, image:, disk: and secret: addresses, and those that only permissions know.

The full form is ``<scheme>://<cluster>/<org>/<project>/<path>``. The short one, ``storage:a/b``,
means the session's current cluster, organisation and project, and is completed by `complete`.
In an address a name is quoted as in any URL; ``#``, ``?`` and ``%`` have to be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path, PurePath, PureWindowsPath
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, unquote, unquote_to_bytes

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema
from yarl import URL

from .base import ANSWER

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")
"""Of at least two letters: one is a drive, as in ``C:\\data``."""
DRIVE = re.compile(r"[A-Za-z]:")
UNQUOTED = "/@:!$&'()*+,;=~"
"""What yarl does not quote in a path, besides letters, digits, ``-``, ``.`` and ``_``."""


class AsGiven:
    """Takes an address that we have made ourselves without a check; writes it as text."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        # Addresses know pydantic only since yarl 1.23.
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.to_string_ser_schema(when_used="json-unless-none")
        )

    @staticmethod
    def _read(value: object) -> object:
        return URL(value, encoded=True) if isinstance(value, str) else value


class _Address:
    """Reads an address of one scheme from text or a ``yarl.URL``; writes it as text."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._read, serialization=core_schema.to_string_ser_schema()
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "examples": [f"{self._scheme}:name"]}

    def _read(self, value: object, info: ValidationInfo) -> URL:
        if not isinstance(value, str | URL):
            raise ValueError(f"an address is text such as '{self._scheme}:name'")
        try:
            return parse_address(str(value), self._scheme)
        except ValueError:
            if info.context is ANSWER:  # accepted once, by other rules
                return URL(str(value), encoded=True)
            raise


StorageURI = Annotated[URL, _Address("storage")]
SecretURI = Annotated[URL, _Address("secret")]
DiskURI = Annotated[URL, _Address("disk")]


class _AnyAddress(_Address):
    """Reads an address of any scheme; from a platform's answer whatever it says."""

    def __init__(self) -> None:
        super().__init__("job")

    def _read(self, value: object, info: ValidationInfo) -> URL:
        if info.context is ANSWER:
            return URL(str(value), encoded=True)
        return parse_resource(str(value))


ResourceURI = Annotated[URL, _AnyAddress()]
"""What a permission may be about."""

TENANT_SCHEMES = ("storage", "image", "job", "blob", "secret", "disk", "flow")
"""Of what lies in a project, so that short addresses have a meaning."""
OTHER_SCHEMES = ("role", "user", "cluster", "token")


def parse_resource(text: str) -> URL:
    """Check the address of anything that a permission may be about, short or full.

    A scheme alone, such as ``role:``, means all that there is of it, where nothing completes it.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme.lower() not in TENANT_SCHEMES + OTHER_SCHEMES:
        known = ", ".join(f"{name}:" for name in TENANT_SCHEMES + OTHER_SCHEMES)
        raise ValueError(f"{text!r} should begin with one of {known}")
    if not rest and scheme.lower() in OTHER_SCHEMES:
        return URL.build(scheme=scheme.lower())
    return parse_address(text, scheme.lower())


def parse_address(text: str, scheme: str) -> URL:
    """Check an address of what a job is given, short or full; it may not lead upwards."""
    given, colon, rest = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} has no scheme; write '{scheme}:{text}'")
    if given.lower() != scheme:
        raise ValueError(f"Invalid URI scheme: {given!r} != {scheme!r} in {text!r}")
    if ".." in _unquote(rest).split("/"):
        raise ValueError(f"Invalid path: {rest!r} leads upwards, with '..'")
    return parse_uri(text)


def parse_uri(text: str, allowed_schemes: Collection[str] = ()) -> URL:
    """Check an address of any scheme, short or full, against the rules that hold for all."""
    given, colon, rest = text.partition(":")
    like = _listed(allowed_schemes) if allowed_schemes else "'storage:'"
    if DRIVE.match(text):
        raise ValueError(
            f"{text!r} is a path of this machine; an address begins with a scheme such as {like}"
        )
    if not colon or not SCHEME.fullmatch(given):
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
    if not host and scheme not in TENANT_SCHEMES:
        raise ValueError(f"{text!r} should be absolute; write '{scheme}://{path.lstrip('/')}'")
    try:
        # Not URL(text): it takes the digits of "storage:5" for a port. What is unquoted here,
        # build() quotes again.
        uri = build(scheme, host, _unquote(path))
        if not host.isascii():
            # Written for the network, some letters become what no host has.
            URL.build(scheme=scheme, host=uri.raw_host or "")
        return uri
    except UnicodeError as error:  # told in the words of a codec
        raise ValueError(f"{text!r} is no address: {host!r} is no name of a cluster") from error
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: {error}") from error


def build(scheme: str, host: str, path: str) -> URL:
    """Return an address of a path as it is, with any character that a file's name may have.

    Bytes that are no UTF-8 stand in it as Python's file functions return them.
    """
    try:
        path.encode()
    except UnicodeEncodeError:  # yarl would leave them out, without a word
        quoted = quote(path, safe=UNQUOTED, errors="surrogateescape")
        uri = URL.build(scheme=scheme, host=host, path=quoted, encoded=True)
        return URL(str(uri)) if host else uri  # which collapses dots, as the one below does
    return URL.build(scheme=scheme, host=host, path=path)


def quoted_name(name: str) -> str:
    """Return a file's name as it is written in the text of an address."""
    return "".join(
        quote(mark, safe="", errors="surrogateescape")
        if mark in "#?%" or not mark.isprintable() or (mark == "~" and not at)
        else mark
        for at, mark in enumerate(name)
    )


def path_of(uri: URL) -> str:
    """Return the path of an address as `build` was given it; ``uri.path`` keeps ``%FF`` quoted."""
    return _unquote(uri.raw_path)


def _unquote(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def complete(uri: URL, *, cluster: str, org: str | None, project: str) -> URL:
    """Return the full form of an address.

    ``storage:a`` lies in the current project, ``storage:/other/a`` in the current organisation;
    an address with a host is full already.
    """
    if uri.host:
        return uri
    tenant = [org] if org else []
    path = path_of(uri)
    if path.startswith("/"):
        parts = [*tenant, path[1:]]
    else:
        parts = [*tenant, project, *([path] if path else ())]
    return build(uri.scheme, cluster, "/" + "/".join(parts))


def shorten(uri: URL, *, cluster: str, org: str | None, project: str) -> URL:
    """Return the short form of a full address where it has one, without slashes at the end."""
    home = complete(URL.build(scheme=uri.scheme), cluster=cluster, org=org, project=project)
    path = path_of(uri).rstrip("/")
    if uri.host == cluster and f"{path}/".startswith(f"{home.path}/"):
        rest = path[len(home.path) + 1 :]
        # These two mean something else at the beginning of a short address.
        if not rest.startswith(("/", "~")):
            return build(uri.scheme, "", rest)
    return build(uri.scheme, uri.host or "", path)


def _split(rest: str) -> tuple[str, str]:
    """Split what follows the scheme into host and path; ``///a`` is a path, not a host."""
    if not rest.startswith("//"):
        return "", rest
    slashes = len(rest) - len(rest.lstrip("/"))
    if slashes > 2:
        return "", "/" + rest.lstrip("/")
    host, slash, path = rest[2:].partition("/")
    return host, slash + path


def file_parts(path: PurePath) -> tuple[str, str]:
    """Return the host and the path that a local file has in an address.

    On Windows a share such as ``\\\\HOST\\SHARE`` has a host, and a drive comes after a slash.
    """
    text = path.as_posix()
    if isinstance(path, PureWindowsPath):
        if text.startswith("//"):
            host, slash, rest = text[2:].partition("/")
            return host, slash + rest
        if path.is_absolute():
            return "", f"/{text}"
    return "", text


def file_path(text: str) -> Path:
    """Read a ``file:`` address.

    Raises:
        ValueError: It names another machine, or a home folder, or has more than a path.
    """
    return Path(file_path_text(text, on_windows=os.name == "nt"))


def file_path_text(text: str, *, on_windows: bool) -> str:
    """Return the path in a ``file:`` address; on Windows with a drive, or a share of a host.

    Raises:
        ValueError: As for `file_path`.
    """
    path = text.partition(":")[2]
    share = ""
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        if on_windows and DRIVE.fullmatch(host):  # file://C:/a, as it is often written
            slash = host + slash
        elif on_windows and host:
            share = f"//{host}"
        elif host:
            raise ValueError(f"{text!r} names the machine {host!r}; write 'file:///PATH'")
        path = slash + rest
    for mark, quoted in (("#", "%23"), ("?", "%3F")):
        if mark in path:
            raise ValueError(
                f"{text!r} is no file's address; within a name, {mark!r} is written {quoted!r}"
            )
    if path.startswith("~"):
        raise ValueError(f"{text!r}: '~' is no home folder here; write the path")
    path = os.fsdecode(unquote_to_bytes(path))
    if on_windows and DRIVE.match(path.lstrip("/")):
        path = path.lstrip("/")
    return share + path


def _listed(schemes: Collection[str]) -> str:
    return ", ".join(f"'{scheme}:'" for scheme in schemes)
