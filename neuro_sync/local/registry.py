"""The registry of images: Debian's ``docker-registry``, started when it is first asked.

It listens on a socket file that only this user can open, in a folder of its own which no job in a
sandbox sees, and answers only to a password that is made for each start. So nobody gets past the
platform's token. Its images are in the state folder.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import h11

from neuro_sync.errors import BadGateway, NotSupported, ServerNotAvailable

from .durable_files import replace_file

logger = logging.getLogger(__name__)

PROGRAM = "docker-registry"
START_TIMEOUT = 20.0
PIPE_TIMEOUT = 3.0
END_TIMEOUT = 10.0
SILENCE = 60.0
"""Seconds that the registry may take to begin an answer; the end of a large push takes some."""
PIECE = 2**18
USER = "platform"
ROUNDS = 4
"""Of bcrypt, its least: a request takes a millisecond."""
NOT_OURS = frozenset({b"host", b"authorization", b"connection", b"cookie", b"expect"})
"""What of a request is for the platform alone; the registry gets a password of its own."""
NOT_THEIRS = frozenset({b"connection", b"date", b"transfer-encoding", b"keep-alive"})

# Its parent: it takes the registry down when the platform closes the pipe, is killed, or says so by
# SIGTERM, and then removes the socket. Arguments: program, configuration, folder of the socket.
GUARD = """
trap : TERM
"$0" serve "$1" & registry=$!
read -r end
kill "$registry" 2>/dev/null
wait "$registry"
rm -f "$2/socket"
rmdir "$2"
"""

Headers = Sequence[tuple[bytes, bytes]]


@dataclass
class Answer:
    """What the registry answered: its body is read by whoever takes it, and has to be closed."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: AsyncGenerator[bytes, None]


class Registry:
    """The registry process of a platform. All of it happens on one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "registry"
        self._guard: subprocess.Popen[bytes] | None = None
        self._path = ""
        self._login = b""
        self._closed = False
        # So that requests that come at the same time start one.
        self._starting = asyncio.Lock()

    async def ask(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: AsyncIterable[bytes] | None = None,
    ) -> Answer:
        """Send a request, and return the answer as soon as it begins.

        Neither body is ever held as a whole.

        Raises:
            NotSupported: There is no such program on this machine; the text says how to get it.
            ServerNotAvailable: It does not start.
            BadGateway: It broke off.
        """
        exchange = _Exchange(await self._connect(), self._login)
        try:
            return await exchange.run(method, target, headers, body)
        except (OSError, EOFError, h11.ProtocolError, asyncio.TimeoutError) as error:
            exchange.close()
            raise BadGateway(f"the registry of this local platform broke off: {error}") from error
        except BaseException:
            exchange.close()
            raise

    async def _connect(self) -> socket.socket:
        async with self._starting:
            if self._guard is not None:
                with suppress(OSError):
                    return await _dial(self._path)
                await self._end()  # it has died
            if self._closed:
                raise ServerNotAvailable("this local platform is being stopped")
            return await self._start()

    async def _start(self) -> socket.socket:
        program = shutil.which(PROGRAM)
        if program is None:
            raise NotSupported(
                "this local platform has no registry of images, since there is no "
                f"{PROGRAM} on this machine: apt install docker-registry"
            )
        self._guard = await asyncio.to_thread(self._launch, program)
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        while asyncio.get_running_loop().time() < deadline:
            with suppress(OSError):
                return await _dial(self._path)
            await asyncio.sleep(0.01)
        await self._end()
        raise ServerNotAvailable(
            f"the registry of this local platform does not start; see {self._folder / 'log'}"
        )

    def _launch(self, program: str) -> subprocess.Popen[bytes]:
        # Not in the state folder: the path of a socket may have no more than 107 bytes.
        place = tempfile.mkdtemp(prefix="neuro-registry-")
        self._path = f"{place}/socket"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        password = secrets.token_hex(16)
        # Random enough, so that guessing is not made slow, nor each request.
        digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt(ROUNDS)).decode()
        self._login = b"Basic " + base64.b64encode(f"{USER}:{password}".encode())
        replace_file(self._folder / "htpasswd", f"{USER}:{digest}\n".encode())
        configuration = self._folder / "config.yml"
        replace_file(configuration, json.dumps(self._configuration()).encode())  # JSON is YAML
        with open(self._folder / "log", "wb") as log:
            return subprocess.Popen(
                ["/bin/sh", "-c", GUARD, program, str(configuration), place],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                # Any variable REGISTRY_... would override what is configured here.
                env={"PATH": os.defpath},
                start_new_session=True,
            )

    def _configuration(self) -> dict[str, object]:
        return {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self._folder / "data")},
                "delete": {"enabled": True},
            },
            "auth": {"htpasswd": {"realm": "registry", "path": str(self._folder / "htpasswd")}},
            "http": {
                "net": "unix",
                "addr": self._path,
                "relativeurls": True,
                "secret": secrets.token_hex(32),
            },
        }

    async def close(self) -> None:
        """End the registry for good, and wait until it has gone."""
        async with self._starting:
            self._closed = True
            await self._end()

    async def _end(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None  # noqa: S101  # it was asked for
        guard.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(guard.wait, PIPE_TIMEOUT)
        try:
            guard.terminate()  # if the pipe is still open, in a child of a fork
            await asyncio.to_thread(guard.wait, END_TIMEOUT)
        except subprocess.TimeoutExpired:
            logger.warning("the registry did not end; it is ended by force")
            os.killpg(guard.pid, signal.SIGKILL)
            await asyncio.to_thread(guard.wait)
            shutil.rmtree(Path(self._path).parent, ignore_errors=True)


async def _dial(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


class _Exchange:
    """One request and its answer, on a connection of their own.

    It is a plain socket, not a stream of asyncio's: that forgets what it has received as soon as
    sending fails, and a registry that refuses a body closes before it has read it.
    """

    def __init__(self, connection: socket.socket, login: bytes) -> None:
        self._connection = connection
        self._login = login
        self._protocol = h11.Connection(h11.CLIENT)
        self._loop = asyncio.get_running_loop()

    async def run(
        self, method: str, target: str, headers: Headers, body: AsyncIterable[bytes] | None
    ) -> Answer:
        passed = [(name, value) for name, value in headers if name.lower() not in NOT_OURS]
        ours = [
            (b"host", b"registry"),
            (b"connection", b"close"),
            (b"authorization", self._login),
        ]
        request = h11.Request(method=method, target=target, headers=[*ours, *passed])
        await self._send(request)
        answering = asyncio.create_task(self._response())
        try:
            with suppress(ConnectionError):  # then there is an answer, or none will come
                await self._send_body(body or _nothing(), answering)
            response = await asyncio.wait_for(answering, SILENCE)
        finally:
            answering.cancel()
            await asyncio.wait({answering})
        answered = [(name, value) for name, value in response.headers if name not in NOT_THEIRS]
        return Answer(response.status_code, answered, self._pieces())

    async def _send(self, event: h11.Event) -> None:
        await self._loop.sock_sendall(self._connection, self._protocol.send(event) or b"")

    async def _send_body(
        self, body: AsyncIterable[bytes], answering: asyncio.Task[h11.Response]
    ) -> None:
        async for piece in body:
            if answering.done():
                return
            await self._send(h11.Data(data=piece))
        await self._send(h11.EndOfMessage())

    async def _response(self) -> h11.Response:
        event = await self._event()
        while isinstance(event, h11.InformationalResponse):
            event = await self._event()
        assert isinstance(event, h11.Response)  # noqa: S101  # nothing else can come first
        return event

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            while isinstance(event := await self._event(), h11.Data):
                yield bytes(event.data)
        finally:
            self.close()

    async def _event(self) -> h11.Event:
        while True:
            event = self._protocol.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # PAUSED comes to servers only
            self._protocol.receive_data(await self._loop.sock_recv(self._connection, PIECE))

    def close(self) -> None:
        self._connection.close()


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""


async def whole(answer: Answer) -> bytes:
    """Read a body that is known to be small."""
    async with aclosing(answer.body) as pieces:
        return b"".join([piece async for piece in pieces])
