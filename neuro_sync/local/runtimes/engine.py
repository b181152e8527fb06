"""How to talk to a container engine, and what its troubles mean in words.

Short calls go through the engine's own SDK, in a few threads of their own, since it blocks. What
is followed for long (logs, the streams of a container, its end, the progress of a pull) goes over
asyncio connections, so that any number of them costs no thread.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import docker
import requests
from docker.auth import encode_header, get_config_header, resolve_repository_name
from docker.utils import parse_repository_tag
from typing_extensions import ParamSpec, Self

from neuro_sync.engine import Endpoint, connect, probe, why_unreachable
from neuro_sync.errors import ServerNotAvailable
from neuro_sync.monotonic import monotonic

CALL_TIMEOUT = 60
"""Seconds that the engine may take for a short call."""
THREADS = 8
PIECE = 2**16
LINE_TIME = 0.05
"""Seconds that a stream may take to end a line before the other one breaks into it."""
IMPATIENCE = 2.0
"""Seconds for which nothing waits for a line any more, once one has taken too long."""
FRAME = struct.Struct(">BxxxL")
"""What stands before each piece of a container's output: its stream, and how long it is."""

NOTHING: Mapping[str, object] = {}
NO_HEADERS: Mapping[str, str] = {}

P = ParamSpec("P")
T = TypeVar("T")


class EngineUnavailable(ServerNotAvailable):
    """The engine does not answer, or does not let us in. The text says why, and what to do."""


class EngineRefused(Exception):
    """The engine was reached and said no, in its own words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Login:
    """Who one is at a registry."""

    user: str
    password: str = field(repr=False)


class Engine:
    """An engine that answers. What is ``async`` is called on the event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect; this blocks for a moment.

        Raises:
            ConfigError: Nobody listens there, or we are not let in.
        """
        self.endpoint = endpoint
        self.api = connect(endpoint, CALL_TIMEOUT)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="neuro-docker")

    async def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of `api` in a thread.

        Raises:
            EngineRefused: The engine said no.
            EngineUnavailable: It was not reached.
        """
        call = partial(self.call_now, method, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def call_now(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the same in the calling thread."""
        # The SDK forgets to close a socket that it could not connect.
        if failure := probe(self.endpoint):
            raise EngineUnavailable(why_unreachable(self.endpoint, failure)) from failure
        try:
            return method(*args, **kwargs)
        except docker.errors.APIError as error:
            text = error.explanation or str(error)
            raise EngineRefused(error.status_code or 500, text) from error
        except (requests.RequestException, docker.errors.DockerException, OSError) as error:
            raise EngineUnavailable(why_unreachable(self.endpoint, error)) from error

    async def hijack(
        self, path: str, query: Mapping[str, object] = NOTHING, body: object = None
    ) -> Answer:
        """Send a request that turns its connection into a container's streams."""
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"Upgrade": "tcp", "Connection": "Upgrade", "Content-Type": "application/json"}
        return await self.open("POST", path, query, headers, data)

    async def pull(
        self, image: str, login: Login | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Have the engine fetch an image, and yield what it says of it.

        Without a login it is the one that the ``docker`` command would use.
        """
        name, tag = parse_repository_tag(image)
        query = {"fromImage": name, "tag": tag or "latest"}
        async for item in self._transfer("/images/create", image, query, login):
            yield item

    async def push(self, image: str, login: Login) -> AsyncGenerator[dict[str, Any], None]:
        """Have the engine bring an image to its registry, and yield what it says of it."""
        name, tag = parse_repository_tag(image)
        query = {"tag": tag or "latest"}
        async for item in self._transfer(f"/images/{name}/push", image, query, login):
            yield item

    async def _transfer(
        self, path: str, image: str, query: Mapping[str, object], login: Login | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        registry, _ = resolve_repository_name(image)
        if login is None:
            known = await self.call(get_config_header, self.api, registry)
        else:
            known = encode_header(
                {"username": login.user, "password": login.password, "serveraddress": registry}
            )
        headers = {"X-Registry-Auth": known.decode()} if known else {}
        with await self.open("POST", path, query, headers) as answer:
            async with aclosing(answer.objects()) as objects:
                async for item in objects:
                    if "error" in item:
                        raise EngineRefused(500, str(item["error"]))
                    yield item

    async def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] = NOTHING,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes = b"",
    ) -> Answer:
        """Send a request whose answer is read bit by bit.

        Raises:
            EngineRefused: The engine said no.
            EngineUnavailable: It was not reached, or went away before it answered.
        """
        try:
            reader, writer = await self._connect()
        except OSError as error:
            raise EngineUnavailable(why_unreachable(self.endpoint, error)) from error
        target = f"/v{self.api.api_version}{path}?{urlencode(query)}"
        lines = [f"{method} {target} HTTP/1.1", "Host: docker", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        answer = Answer(reader, writer)
        try:
            writer.write("\r\n".join((*lines, "\r\n")).encode() + body)
            await answer.read_head()
            if answer.status >= 400:
                text = b"".join([piece async for piece in answer.pieces()]).decode(errors="replace")
                raise EngineRefused(answer.status, _message(text))
        except (OSError, EOFError) as error:
            answer.close()
            raise EngineUnavailable(why_unreachable(self.endpoint, error)) from error
        except BaseException:
            answer.close()
            raise
        return answer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path = self.endpoint.socket_path
        if path is not None:
            return await asyncio.open_unix_connection(path)
        address = urlsplit(self.endpoint.url)
        tls = self.endpoint.tls
        context: ssl.SSLContext | None = None
        if tls is not None or address.scheme == "https":
            context = ssl.create_default_context(cafile=getattr(tls, "ca_cert", None) or None)
            if tls is not None and tls.cert:
                context.load_cert_chain(*tls.cert)
            if tls is not None and not tls.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
        return await asyncio.open_connection(address.hostname, address.port or 2375, ssl=context)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.api.close()


class Answer:
    """What the engine sends for one request; after an upgrade, a conversation."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self._is_chunked = False
        self._left: int | None = None
        """How many bytes of the body are still to come; None is until the end."""

    async def read_head(self) -> None:
        self.status = int((await self._line()).split(None, 2)[1])
        while line := await self._line():
            name, _, value = line.partition(b":")
            match name.lower():
                case b"transfer-encoding":
                    self._is_chunked = b"chunked" in value
                case b"content-length":
                    self._left = int(value)

    async def _line(self) -> bytes:
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the engine closed the connection")
        return line.rstrip()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes.

        Raises:
            EOFError: The connection ended before the body did.
        """
        if not self._is_chunked:
            while self._left != 0:
                data = await self.reader.read(min(self._left or PIECE, PIECE))
                if not data:
                    if self._left is not None:
                        raise EOFError("the engine closed the connection")
                    return
                if self._left is not None:
                    self._left -= len(data)
                yield data
            return
        while size := int(await self._line(), 16):
            while size:
                data = await self.reader.read(min(size, PIECE))
                if not data:
                    raise EOFError("the engine closed the connection")
                size -= len(data)
                yield data
            await self._line()
        await self._line()

    async def objects(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the body's JSON objects, one a line."""
        pending = b""
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                *lines, pending = (pending + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
        if pending.strip():
            yield json.loads(pending)

    def close(self) -> None:
        self.writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Frames:
    """Takes a container's output apart: pieces in, whole frames out, each with its stream."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        data = self._pending + data
        at = 0
        while len(data) - at >= FRAME.size:
            stream, size = FRAME.unpack_from(data, at)
            end = at + FRAME.size + size
            if end > len(data):
                break
            yield stream, data[at + FRAME.size : end]
            at = end
        self._pending = data[at:]


class WholeLines:
    """Puts pieces of two streams into an order in which neither breaks into a line of the other.

    What has to wait for the end of a line is held back, at most for a moment.
    """

    def __init__(self) -> None:
        self._in_line: int | None = None
        """The stream that has begun a line and not ended it."""
        self._held: list[bytes] = []
        """What came of the other one meanwhile."""
        self._held_stream = 0
        self._until = 0.0
        self._impatient_until = 0.0

    @property
    def patience(self) -> float | None:
        """The seconds after which `rest` is to be asked for; None if nothing is held back."""
        return max(self._until - monotonic(), 0) if self._held else None

    def feed(self, pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        """Take pieces, each with its stream, and yield what need not wait."""
        for stream, data in pieces:
            if self._in_line not in (None, stream) and self._is_patient():
                if not self._held:
                    self._until = monotonic() + LINE_TIME
                self._held_stream = stream
                self._held.append(data)
                continue
            yield self._pass(stream, data)
            if self._in_line is None:
                yield from self.rest()

    def rest(self) -> Iterator[tuple[int, bytes]]:
        """Yield what was held back."""
        held, self._held = b"".join(self._held), []
        if held:
            if self._in_line is not None:
                # Who writes no lines is not to be slowed down piece by piece.
                self._impatient_until = monotonic() + IMPATIENCE
            yield self._pass(self._held_stream, held)

    def _is_patient(self) -> bool:
        return bool(self._held) or monotonic() >= self._impatient_until

    def _pass(self, stream: int, data: bytes) -> tuple[int, bytes]:
        self._in_line = None if data.endswith(b"\n") else stream
        return stream, data


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()


_NOISE = re.compile(
    r"^(failed to create (shim )?task(: for container)?|OCI runtime (create|exec) failed|"
    r"(runc|crun)( (create|exec) failed)?|exec failed|unable to start container process|"
    r"container_linux\.go:\d+|starting container process caused): ?"
)


def plain_words(text: str) -> str:
    """Take out of an engine's message what only its authors understand."""
    while (shorter := _NOISE.sub("", text)) != text:
        text = shorter
    return text.strip().removesuffix(": unknown")


def why_not_run(text: str) -> tuple[int | None, str]:
    """Return the exit code and the reason of a program that an engine could not run.

    They are those of shells: 127 for a program that is not there, 126 for one that cannot be run.
    Without a code it was not the program that was in the way.
    """
    words = plain_words(text)
    mount = re.search(r'error mounting ".*?" to rootfs at "(.*?)":', words)
    if mount is not None:
        # The engine's own words are about folders of this machine.
        clash = "not a directory: " in words
        of = "one of the two is a file and the other a folder; " if clash else ""
        return None, (
            f"nothing can be mounted at {mount[1]!r} of this image: {of}"
            "choose a path of its own, such as '/data'"
        )
    program = re.search(r'exec: "(.*?)":', words)
    if program is None:
        return None, words
    name = program[1]
    if "permission denied" in words:
        return 126, f"{name!r} cannot be run: Permission denied"
    if "not found in" in words or "no such file" in words:
        return 127, f"there is no program {name!r}"
    return 126, f"{name!r} cannot be run: {words.rpartition(': ')[2]}"


def why_not_pulled(image: str, text: str) -> str:
    """Say why an image could not be fetched, beginning with the hosted platform's words."""
    words = plain_words(text)
    lowered = words.lower()
    if "manifest unknown" in lowered or "not found" in lowered:
        why = "there is no such image"
    elif "access denied" in lowered or "unauthorized" in lowered or "denied" in lowered:
        why = "there is no such image, or it is private; log in with `docker login`"
    elif "http 403" in lowered:
        why = "its registry does not let the job's owner read it"
    elif "no such host" in lowered or "dial tcp" in lowered or "lookup" in lowered:
        why = f"its registry cannot be reached ({words})"
    else:
        why = words
    return f"Image {image!r} can not be pulled: {why}"
