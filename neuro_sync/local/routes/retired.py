"""Calls that the hosted platform had until 2021, for programs that still make them."""

from __future__ import annotations

import shlex
import uuid
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response, WebSocket
from starlette.requests import HTTPConnection

from neuro_sync.errors import Conflict, IllegalArgumentError, ResourceNotFound
from neuro_sync.local.access import Asking
from neuro_sync.local.answers import JSON
from neuro_sync.local.runtimes.base import Channel
from neuro_sync.models.base import Model
from neuro_sync.models.frames import STDERR, STDOUT
from neuro_sync.models.jobs import ExecInspect
from neuro_sync.models.users import Action

from .bodies import body_of, described
from .channels import arguments, converse_raw
from .monitoring import Service
from .values import characters
from .websockets import refuse_plain_requests

router = APIRouter(prefix="/monitoring/jobs")

REMEMBERED = 1000
"""Commands; of more the oldest are forgotten."""
REMEMBERED_CHARACTERS = 2**22
"""Characters of all of them together; one alone has at most a quarter."""

refuse_plain_requests(router, "/{id}/{exec_id}/exec_start")


class ExecCreate(Model):
    """A command that is to be run inside a job."""

    command: str
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


@dataclass
class Exec:
    """A command that was created; it runs once somebody starts it."""

    job_id: str
    spec: ExecCreate
    arguments: list[str]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    was_started: bool = False
    channel: Channel | None = None
    exit_code: int | None = None

    def exited(self, exit_code: int) -> None:
        self.exit_code = exit_code

    def inspect(self) -> ExecInspect:
        entrypoint, *rest = self.arguments
        return ExecInspect(
            id=self.id,
            job_id=self.job_id,
            running=self.channel is not None and self.exit_code is None,
            exit_code=self.exit_code,
            tty=self.spec.tty,
            entrypoint=entrypoint,
            command=shlex.join(rest),
        )


class Execs:
    """The commands that were created since the platform was started."""

    def __init__(self) -> None:
        self._by_id: dict[str, Exec] = {}
        self._characters = 0
        """Of all commands together."""

    def add(self, command: Exec) -> None:
        self._by_id[command.id] = command
        self._characters += len(command.spec.command)
        while len(self._by_id) > REMEMBERED or self._characters > REMEMBERED_CHARACTERS:
            oldest = self._by_id.pop(next(iter(self._by_id)))
            self._characters -= len(oldest.spec.command)

    def find(self, job_id: str, id: str) -> Exec:
        command = self._by_id.get(id)
        if command is None or command.job_id != job_id:
            raise ResourceNotFound(f"Exec '{id}' not found")
        return command


def _execs(connection: HTTPConnection) -> Execs:
    execs: Execs = connection.app.state.execs
    return execs


@router.post("/{id}/exec_create", openapi_extra=described(ExecCreate.model_json_schema()))
async def exec_create(id: str, request: Request, jobs: Service, caller: Asking) -> dict[str, str]:
    """Note a command that `exec_start` will run."""
    spec = await body_of(ExecCreate, request)
    if not spec.command.strip():
        raise IllegalArgumentError("Command is required")
    if "\0" in spec.command:
        raise IllegalArgumentError("invalid command format: it has a NUL character")
    job = jobs.running(id, caller)
    command = Exec(job.id, spec, arguments(job.id, spec.command))
    _execs(request).add(command)
    return {"job_id": job.id, "exec_id": command.id}


@router.get("/{id}/{exec_id}/exec_inspect")
async def exec_inspect(
    id: str, exec_id: str, request: Request, jobs: Service, caller: Asking
) -> Response:
    """Tell whether a command runs, and how it ended."""
    job = jobs.find(id, caller, Action.READ)
    command = _execs(request).find(job.id, exec_id)
    return Response(command.inspect().model_dump_json(), media_type=JSON)


@router.post("/{id}/{exec_id}/exec_resize")
async def exec_resize(
    id: str,
    exec_id: str,
    request: Request,
    jobs: Service,
    caller: Asking,
    w: str = "",
    h: str = "",
) -> None:
    """Set the size of a running command's terminal, in characters."""
    width, height = characters("w", w), characters("h", h)
    job = jobs.find(id, caller, Action.WRITE)
    command = _execs(request).find(job.id, exec_id)
    if command.channel is None:
        raise ResourceNotFound(f"Exec '{exec_id}' is not running.")
    command.channel.resize(height=height, width=width)


@router.websocket("/{id}/{exec_id}/exec_start")
async def exec_start(
    id: str, exec_id: str, websocket: WebSocket, jobs: Service, caller: Asking
) -> None:
    """Run a command that was created, once; it ends when its client leaves."""
    job = jobs.running(id, caller)
    command = _execs(websocket).find(job.id, exec_id)
    if command.was_started:
        raise Conflict(f"Exec '{exec_id}' was started already")
    spec = command.spec
    command.was_started = True
    channel = await jobs.runtime.exec(job.id, command.arguments, tty=spec.tty)
    command.channel = channel
    try:
        if not spec.stdin and not spec.tty:
            await channel.end_input()
        await websocket.accept()
        wanted = ((STDOUT, spec.stdout), (STDERR, spec.stderr))
        await converse_raw(
            websocket,
            channel,
            tuple(stream for stream, is_wanted in wanted if is_wanted),
            takes_input=spec.stdin,
            on_exit=command.exited,
        )
    finally:
        command.channel = None
        channel.close()


@router.post("/{id}/resize")
async def resize(id: str, jobs: Service, caller: Asking, w: str = "80", h: str = "25") -> None:
    """Set the size of a job's own terminal, in characters."""
    width, height = characters("w", w), characters("h", h)
    job = jobs.running(id, caller)
    channel = await jobs.runtime.attach(job.id)
    channel.resize(height=height, width=width)
    channel.close()
