"""What a user does inside a running job: ``exec``, ``attach`` and signals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import APIRouter, Response, WebSocket

from neuro_sync.errors import IllegalArgumentError, ResourceNotFound
from neuro_sync.local.access import SUBPROTOCOL_PREFIX, Asking
from neuro_sync.local.arguments import check_words
from neuro_sync.local.runtimes.base import USUAL_SIZE, Channel
from neuro_sync.models import frames
from neuro_sync.models.frames import BadFrame, EndOfInput, Exited, Input, Resize
from neuro_sync.models.words import split_words

from .monitoring import Service
from .values import characters, signal_number, stream_flag
from .websockets import refuse_plain_requests, until_one_ends

router = APIRouter(prefix="/monitoring/jobs")

EXEC_PROTOCOLS = (frames.CHANNELS_WITH_EOF, frames.CHANNELS)
ATTACH_PROTOCOLS = (frames.CHANNELS, "attach.apolo.us")
UNSUPPORTED_DATA = 1003

for path in ("/{id}/exec", "/{id}/attach"):
    refuse_plain_requests(router, path)


@dataclass(frozen=True)
class Streams:
    """Which streams a client asked for."""

    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool

    @classmethod
    def from_query(cls, websocket: WebSocket) -> Streams:
        defaults = {"tty": False, "stdin": False, "stdout": True, "stderr": True}
        query = websocket.query_params
        return cls(
            **{
                name: stream_flag(name, query.get(name), default=default)
                for name, default in defaults.items()
            }
        )

    def check(self) -> None:
        """Refuse what the hosted platform refuses."""
        if not (self.stdin or self.stdout or self.stderr):
            raise IllegalArgumentError("Required at least one of stdin, stdout or stderr")
        if self.tty and self.stdout and self.stderr:
            raise IllegalArgumentError("Stdout and stderr cannot be multiplexed in tty mode")
        if self.tty and self.stderr:
            raise ResourceNotFound("a terminal has one output: ask for stdout=1 and stderr=0")

    @property
    def outputs(self) -> tuple[int, ...]:
        wanted = ((frames.STDOUT, self.stdout), (frames.STDERR, self.stderr))
        return tuple(channel for channel, is_wanted in wanted if is_wanted)


def terminal_size(websocket: WebSocket) -> Resize | None:
    """Return the size of the client's terminal, which the hosted platform does not ask for."""
    width, height = (websocket.query_params.get(name) for name in ("w", "h"))
    if width is None or height is None:
        return None
    return Resize(height=characters("h", height), width=characters("w", width))


@router.websocket("/{id}/exec")
async def exec(id: str, websocket: WebSocket, jobs: Service, caller: Asking, cmd: str = "") -> None:
    """Run a command inside a job; it ends when its client leaves."""
    streams = Streams.from_query(websocket)
    if not cmd.strip():
        raise IllegalArgumentError("Command is required")
    streams.check()
    if "\0" in cmd:
        raise IllegalArgumentError("invalid command format: it has a NUL character")
    job = jobs.running(id, caller)
    words = arguments(job.id, cmd)
    channel = await jobs.runtime.exec(
        job.id, words, tty=streams.tty, size=terminal_size(websocket) or USUAL_SIZE
    )
    try:
        if not streams.stdin and not streams.tty:
            await channel.end_input()
        await websocket.accept(subprotocol=_known(websocket, EXEC_PROTOCOLS))
        await _converse(websocket, channel, streams.outputs, takes_input=streams.stdin)
    finally:
        channel.close()


def arguments(job_id: str, command: str) -> list[str]:
    """Split a command by a shell's rules of quoting; no shell is involved."""
    try:
        words = split_words(command)
    except ValueError as error:
        # Not 400: with the hosted platform it is the container's engine that refuses it.
        raise ResourceNotFound(f"Exec container '{job_id}' client error: {error}") from error
    check_words("command", words)
    return words


@router.websocket("/{id}/attach")
async def attach(
    id: str, websocket: WebSocket, jobs: Service, caller: Asking, logs: str | None = None
) -> None:
    """Take part in the conversation of a job's own process; leaving changes nothing.

    Whoever offers no subprotocol speaks the retired framing of 2020.
    """
    is_retired = not _offered(websocket)
    streams = Streams.from_query(websocket)
    replay = stream_flag("logs", logs, default=True) and is_retired
    if not is_retired:
        streams.check()
    job = jobs.running(id, caller)
    if job.description["container"].get("tty") and streams.stderr and not is_retired:
        raise ResourceNotFound(
            f"Container '{job.id}' client error: it has a terminal, "
            "so attach with tty=1, stdout=1 and stderr=0"
        )
    size = terminal_size(websocket)
    channel = await jobs.runtime.attach(job.id, replay=replay)
    try:
        if size is not None:
            channel.resize(height=size.height, width=size.width)
        protocols = (frames.CHANNELS_WITH_EOF,) if channel.can_end_input else ()
        subprotocol = _known(websocket, (*protocols, *ATTACH_PROTOCOLS))
        await websocket.accept(subprotocol=subprotocol)
        if is_retired:
            await converse_raw(websocket, channel, streams.outputs, takes_input=streams.stdin)
        else:
            # A job's input is always open, so the flag for it changes nothing.
            await _converse(websocket, channel, streams.outputs, takes_input=True)
    finally:
        channel.close()


@router.post("/{id}/kill", status_code=204)
async def kill(id: str, jobs: Service, caller: Asking, signal: str = "SIGKILL") -> Response:
    """Send a signal to a job's first process, by number or by name; the job fails if it ends it."""
    number = signal_number(signal)
    jobs.runtime.signal(jobs.running(id, caller).id, number)
    return Response(status_code=204)


def _offered(websocket: WebSocket) -> list[str]:
    offers: list[str] = websocket.scope["subprotocols"]
    return [offer for offer in offers if offer and not offer.startswith(SUBPROTOCOL_PREFIX)]


def _known(websocket: WebSocket, protocols: tuple[str, ...]) -> str | None:
    return next((offer for offer in _offered(websocket) if offer in protocols), None)


async def _converse(
    websocket: WebSocket, channel: Channel, outputs: tuple[int, ...], *, takes_input: bool
) -> None:
    """Speak in `frames`, until the process ends or the client leaves."""

    async def deliver() -> None:
        if outputs:
            await websocket.send_bytes(frames.output(outputs[0], b""))
        async with aclosing(channel.output()) as output:
            async for item in output:
                if isinstance(item, Exited):
                    await websocket.send_bytes(frames.exited(item.exit_code, item.message))
                elif item.fileno in outputs:
                    await websocket.send_bytes(frames.output(item.fileno, item.data))
        await websocket.close(1000)

    async def obey() -> None:
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            if message.get("bytes") is None:
                await websocket.close(1000)  # a text is no part of this protocol
                return
            try:
                request = frames.from_client(message["bytes"])
            except BadFrame as error:
                # A reason has at most 123 bytes.
                reason = str(error).encode("ascii", "backslashreplace")[:123].decode()
                await websocket.close(UNSUPPORTED_DATA, reason)
                return
            match request:
                case Resize(height, width):
                    channel.resize(height=height, width=width)
                case Input(data) if takes_input:
                    await channel.write(data)
                case EndOfInput() if takes_input:
                    await channel.end_input()

    await until_one_ends(deliver(), obey())


async def converse_raw(
    websocket: WebSocket,
    channel: Channel,
    outputs: tuple[int, ...],
    *,
    takes_input: bool,
    on_exit: Callable[[int], None] = lambda _: None,
) -> None:
    """Speak as in 2020: input comes as it is, and the end of the process is only a close.

    The exit code is told to `on_exit` alone, before the close.
    """

    async def deliver() -> None:
        async with aclosing(channel.output()) as output:
            async for item in output:
                if isinstance(item, Exited):
                    on_exit(item.exit_code)
                elif item.fileno in outputs:
                    await websocket.send_bytes(frames.output(item.fileno, item.data))
        await websocket.close(1000)

    async def obey() -> None:
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            if message.get("bytes") is None:
                await websocket.close(1000)
                return
            if takes_input:
                await channel.write(message["bytes"])

    await until_one_ends(deliver(), obey())
