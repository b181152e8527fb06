"""One tree of errors. A class that answers an HTTP status knows which, and is the matching
builtin too, so that ``except PermissionError`` or ``except TimeoutError`` work as well.

The local platform raises the same classes that its client raises.
"""

from __future__ import annotations

import copy
import errno
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import unquote

from typing_extensions import Self

if TYPE_CHECKING:
    from yarl import URL

    from .models.jobs import JobDescription

LISTED_FAILURES = 5
"""How many files the text of a `CopyIncomplete` names."""


E = TypeVar("E", bound="NeuroError")

OS_ERROR_FIELDS = ("errno", "strerror", "filename", "filename2")
"""Attributes of an `OSError` that its ``__dict__`` does not have."""

REQUEST_ID_HEADERS = ("X-Request-ID", "X-Correlation-ID", "CF-Ray")
"""Headers in which a platform, or a proxy in front of it, names a request; the first one counts."""
SERVICE_HEADER = "X-Service-Version"
"""The header in which every service of a platform names itself."""
LONGEST_REQUEST_ID = 128
"""Characters."""


class NeuroError(Exception):
    """The root of every error that this package raises on purpose.

    All of them can be pickled and copied. A pickled error keeps the errors that it is chained to;
    those of other libraries, which may hold a request with its token, become their text.
    """

    def __reduce__(self) -> tuple[Callable[..., NeuroError], tuple[object, ...]]:
        return _unpickle, (type(self), self.args, _attributes(self), *_pickled_links(self))

    def __copy__(self) -> Self:
        return _with_links_of(self, _rebuild(type(self), self.args, _attributes(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        args, attributes = copy.deepcopy((self.args, _attributes(self)), memo)
        return _with_links_of(self, _rebuild(type(self), args, attributes))


class ConfigError(NeuroError, RuntimeError):
    """It is not settled which platform to talk to, or as whom."""


class ProtocolError(NeuroError, ValueError):
    """The platform answered something that cannot be read."""


class NDJSONError(ProtocolError):
    """A stream of JSON lines ended with the platform's own error line."""


class ConnectionFailed(NeuroError, ConnectionError):
    """The platform was not reached, or the connection broke before the answer was whole."""


class RequestTimeout(ConnectionFailed, TimeoutError):
    """The platform did not answer within the session's timeout."""


class StreamInterrupted(ConnectionFailed):
    """A stream was cut, and taking it up again failed. The job may well go on."""


class FileChanged(StreamInterrupted):
    """A file of the storage changed while it was read. Nothing is wrong with the connection."""


class StreamClosed(NeuroError, BrokenPipeError):
    """The stream was over, or was closed here. What it received before stays readable."""


class CommandFailed(NeuroError, RuntimeError):
    """A command that was run with ``check=True`` did not end with 0."""

    def __init__(
        self, message: str, exit_code: int, stdout: bytes | str, stderr: bytes | str
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class CommandTimeout(NeuroError, TimeoutError):
    """A command was not over in time. It may well go on inside the job."""

    def __init__(self, message: str, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(message)
        self.stdout = stdout
        """What it had written until then, of what was not read otherwise."""
        self.stderr = stderr


class WaitTimeout(NeuroError, TimeoutError):
    """The deadline of a wait passed. The job was left alone."""

    def __init__(self, message: str, job: JobDescription | None) -> None:
        super().__init__(message)
        self.job = job
        """What was known of the job last; None if the platform told nothing of it in time."""


class JobFailed(NeuroError, RuntimeError):
    """A job that was waited for with ``check=True`` did not succeed."""

    def __init__(self, message: str, job: JobDescription, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.job = job
        self.log_tail = log_tail
        """The last lines of its log, oldest first."""

    @property
    def exit_code(self) -> int | None:
        return self.job.history.exit_code


class CopyFailure(NamedTuple):
    """A file or folder that could not be copied, and why."""

    src: URL
    dst: URL
    error: Exception

    @property
    def message(self) -> str:
        """The source and the reason in one line."""
        name = unquote(self.src.raw_path, errors="surrogateescape")
        where = name if self.src.scheme == "file" else str(self.src)
        reason = getattr(self.error, "text", None) or getattr(self.error, "strerror", None)
        text = f"{where}: {reason or self.error}"
        # A name may have a line break, or bytes that are no text.
        return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


class CopyIncomplete(NeuroError, OSError):
    """Some files of a folder could not be copied; all others were."""

    def __init__(self, failures: Sequence[CopyFailure]) -> None:
        self.failures: tuple[CopyFailure, ...] = tuple(failures)
        """What is missing; a folder stands for all that is in it."""
        shown = "; ".join(failure.message for failure in self.failures[:LISTED_FAILURES])
        more = len(self.failures) - LISTED_FAILURES
        super().__init__(
            f"{_files(len(self.failures))} could not be copied: {shown}"
            + (f"; and {more} more" if more > 0 else "")
        )

    def __reduce__(self) -> tuple[type[CopyIncomplete], tuple[tuple[CopyFailure, ...]]]:
        return type(self), (self.failures,)


def _files(count: int) -> str:
    return "1 file or folder" if count == 1 else f"{count} files or folders"


class EngineFailed(NeuroError, RuntimeError):
    """The container engine on this machine could not do it; the text is the engine's."""


class APIError(NeuroError):
    """The platform was reached and said no."""

    status: int = 500
    """The HTTP status; the class has the usual one, an error that came by wire its own."""

    service: str = ""
    """Who refused it, by the header ``X-Service-Version``, which every service of a platform sends.

    Empty if something in place of the service answered.
    """

    default_text: ClassVar[str] = "the platform refused the request"

    def __init__(
        self,
        text: str = "",
        *,
        status: int | None = None,
        method: str | None = None,
        path: str | None = None,
        payload: object = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.text: str = text or self.default_text
        """What the platform said, without our additions."""
        self.method = method
        self.path = path
        self.payload = payload
        """The parsed JSON body, where there was one."""
        self.request_id = request_id
        """What the platform calls the request in its own log, where it names it."""
        self.retry_after = retry_after
        """Seconds after which the platform wants to be asked again, where it says so."""
        if status is not None:
            self.status = status
        details = []
        if method:
            details.append(f"{self.status} for {method} {path}")
        if request_id:
            details.append(f"request {request_id}")
        super().__init__(f"{self.text} ({', '.join(details)})" if details else self.text)

    def body(self) -> dict[str, object]:
        """Return the JSON body by which a platform reports this error."""
        return {"error": self.text}


class IllegalArgumentError(APIError, ValueError):
    """A value was refused: bad input, a quota, a name in use, or an unknown job."""

    status = 400


class ClientError(APIError):
    """The request itself was wrong for this platform."""

    status = 405


class AuthError(ClientError):
    """The platform does not let this caller do that."""

    status = 401


class AuthenticationError(AuthError):
    """There was no token, or the platform does not accept it."""

    status = 401


class AuthorizationError(AuthError, PermissionError):
    """The token is good, but its user may not do this; `missing` lists what it would take."""

    status = 403

    @property
    def missing(self) -> tuple[dict[str, str], ...]:
        """The permissions that are lacking, each with its ``uri`` and ``action``."""
        if isinstance(self.payload, dict):
            return tuple(self.payload.get("missing", ()))
        return ()

    def body(self) -> dict[str, object]:
        return {"missing": list(self.missing)} if self.missing else super().body()


class ResourceNotFound(APIError, ValueError):
    """There is no such thing; of a job's channels also: the job is not running."""

    status = 404


class StorageError(IllegalArgumentError, OSError):
    """A file operation failed on the platform's storage; `errno` says why, as of a local file."""

    def __init__(
        self,
        text: str = "",
        *,
        status: int | None = None,
        method: str | None = None,
        path: str | None = None,
        payload: object = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(
            text,
            status=status,
            method=method,
            path=path,
            payload=payload,
            request_id=request_id,
            retry_after=retry_after,
        )
        name = payload.get("errno") if isinstance(payload, dict) else None
        # A number that has no name comes as such.
        self.errno: int | None = name if isinstance(name, int) else getattr(errno, str(name), None)

    def body(self) -> dict[str, object]:
        if self.errno is None:
            return super().body()
        return {**super().body(), "errno": errno.errorcode.get(self.errno, self.errno)}


class StorageNotFound(StorageError, ResourceNotFound, FileNotFoundError):
    """There is no such file or folder, or the caller may not know of it."""

    status = 404


class StorageExists(StorageError, FileExistsError):
    """There is something already."""


class StorageIsDirectory(StorageError, IsADirectoryError):
    """What should be a file is a folder."""


class StorageNotDirectory(StorageError, NotADirectoryError):
    """What should be a folder, or lies on the way, is a file."""


class Conflict(IllegalArgumentError):
    """Somebody else changed the same thing at the same time."""

    status = 409


class ServerError(APIError):
    """The platform failed; nothing was wrong with the request."""

    status = 500


class NotSupported(ServerError, NotImplementedError):
    """This platform lacks the call; the text says what to call instead."""

    status = 501


class InputNotEnded(CommandTimeout, NotSupported):
    """A command got its input and went silent: it may wait for an end that cannot be sent.

    The hosted platform has no message for the end of input, except with a terminal.
    """


class BadGateway(ServerError):
    """The platform's front door did not reach the service behind it."""

    status = 502


class ServerNotAvailable(ServerError):
    """The platform is overloaded or being restarted."""

    status = 503


class InsufficientStorage(ServerError):
    """The disk of the platform is full; the text names it."""

    status = 507


class TooManyRequests(ServerNotAvailable):
    """The platform takes no more requests of this caller for now."""

    status = 429


_BY_STATUS: dict[int, type[APIError]] = {
    error.status: error
    for error in (
        IllegalArgumentError,
        AuthenticationError,
        AuthorizationError,
        ResourceNotFound,
        ClientError,
        Conflict,
        NotSupported,
        BadGateway,
        ServerNotAvailable,
        InsufficientStorage,
        TooManyRequests,
    )
}

_BY_ERRNO: dict[str, type[StorageError]] = {
    "EEXIST": StorageExists,
    "EISDIR": StorageIsDirectory,
    "ENOTDIR": StorageNotDirectory,
}


def storage_error(name: str, status: int = 400) -> type[StorageError]:
    """Return the class for the name of an ``errno``, such as ``EISDIR``."""
    return StorageNotFound if status == 404 else _BY_ERRNO.get(name, StorageError)


def error_class(status: int) -> type[APIError]:
    """Return the class for an HTTP status of 400 or more."""
    return _BY_STATUS.get(status) or (ServerError if status >= 500 else IllegalArgumentError)


def error_from_answer(
    status: int,
    body: bytes | str,
    *,
    method: str,
    path: str,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> APIError:
    """Read a refusal, whichever of the protocol's shapes of error body it came in.

    The text is the value of ``error``, or what a registry lists; JSON within it, as the monitoring
    service relays it, is opened too. A 403 that only lists missing permissions is told in words.
    """
    headers = {key.lower(): value for key, value in headers.items()}
    raw = body.decode(errors="replace") if isinstance(body, bytes) else body
    payload = _json_object(raw)
    # Port forwarding says in words what failed, and adds its own error's repr as `error`.
    text = payload.get("msg") or payload.get("error") or payload.get("description")
    text = text or _told_by_registry(payload.get("errors"))
    if isinstance(text, str):
        inner = _json_object(text)
        text = inner.get("error", text)
    missing = payload.get("missing")
    if not text and isinstance(missing, list):
        needs = (f"{item.get('action')} on {item.get('uri')}" for item in missing)
        text = "not permitted; it takes " + ", ".join(needs)
    name = payload.get("errno")
    kind = error_class(status) if name is None else storage_error(str(name), status)
    error = kind(
        str(text or raw.strip()),
        status=status,
        method=method,
        path=path,
        payload=payload or None,
        request_id=_request_id(headers),
        retry_after=_retry_after(headers),
    )
    error.service = headers.get(SERVICE_HEADER.lower(), "")
    return error


def _request_id(headers: Mapping[str, str]) -> str | None:
    """Return the id of a request from the headers of its answer, whose names are lower-case."""
    found = (headers.get(name.lower(), "").strip() for name in REQUEST_ID_HEADERS)
    # It is shown to people: what could end a line or move a cursor is no id.
    return next(
        (text for text in found if text.isprintable() and 0 < len(text) <= LONGEST_REQUEST_ID),
        None,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``Retry-After``, which is a number or a date."""
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return float(text)
    if not text:
        return None
    from email.utils import parsedate_to_datetime  # `import neuro_sync` is to stay quick

    try:
        # Both by the clock of whoever answered.
        left = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError):
        return None
    return max(left / timedelta(seconds=1), 0.0)


def _told_by_registry(errors: object) -> str:
    """Return the messages of a registry's list of errors."""
    if not isinstance(errors, list):
        return ""
    items = (item for item in errors if isinstance(item, dict))
    return "; ".join(str(item.get("message") or item.get("code") or item) for item in items)


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _attributes(error: NeuroError) -> dict[str, Any]:
    """Return all that an error has besides its arguments and the errors it is chained to."""
    found = dict(vars(error))
    if isinstance(error, OSError):
        fields = {name: getattr(error, name, None) for name in OS_ERROR_FIELDS}
        found.update((name, value) for name, value in fields.items() if value is not None)
    return found


def _rebuild(kind: type[E], args: tuple[Any, ...], attributes: Mapping[str, Any]) -> E:
    """Return an error as it was; no constructor takes its own arguments back from ``args``."""
    # Not kind.__new__, which is the wrong one where an OSError is a ValueError as well.
    base = OSError if issubclass(kind, OSError) else Exception
    error: E = base.__new__(kind, *args)
    error.args = args
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def _with_links_of(original: BaseException, error: E) -> E:
    error.__cause__ = original.__cause__
    error.__context__ = original.__context__
    error.__suppress_context__ = original.__suppress_context__
    return error


def _pickled_links(error: BaseException) -> tuple[bytes | None, bytes | None, bool]:
    """Return the cause and the context of an error, each pickled, and which of them is shown."""
    context = None if error.__context__ is error.__cause__ else error.__context__
    return _pickled(error.__cause__), _pickled(context), error.__suppress_context__


def _pickled(error: BaseException | None) -> bytes | None:
    """Pickle an error of a chain with its own links, or its text if it cannot be kept."""
    if error is None:
        return None
    if isinstance(error, NeuroError) or type(error).__module__ == "builtins":
        links = None if isinstance(error, NeuroError) else _pickled_links(error)
        with suppress(Exception):  # whatever its attributes raise
            pickled = pickle.dumps((error, links))
            if str(_unpickled(pickled)) == str(error):
                return pickled
    kind = type(error)
    stand_in = NeuroError(f"{kind.__module__}.{kind.__qualname__}: {error}")
    return pickle.dumps((stand_in, _pickled_links(error)))


def _unpickled(pickled: bytes | None) -> BaseException | None:
    if pickled is None:
        return None
    error: BaseException
    error, links = pickle.loads(pickled)  # noqa: S301  # a part of what is being unpickled
    if links is not None:
        _link(error, *links)
    return error


def _link(
    error: BaseException, cause: bytes | None, context: bytes | None, suppress_context: bool
) -> None:
    error.__cause__ = _unpickled(cause)
    error.__context__ = error.__cause__ if context is None else _unpickled(context)
    error.__suppress_context__ = suppress_context


def _unpickle(
    kind: type[E],
    args: tuple[Any, ...],
    attributes: Mapping[str, Any],
    cause: bytes | None = None,
    context: bytes | None = None,
    suppress_context: bool = False,
) -> E:
    error = _rebuild(kind, args, attributes)
    _link(error, cause, context, suppress_context)
    return error
