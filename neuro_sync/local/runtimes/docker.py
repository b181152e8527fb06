"""Jobs as containers of this machine's engine, which outlive the platform.

The platform takes part in a container's output from before its first byte, so that the log has it
at once and byte for byte. The engine keeps the same output for itself. When the platform, or the
engine, was away meanwhile, the log goes on from the engine's copy: of each stream as many bytes
are passed over as the log has of it, so that nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import secrets
import signal
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    aclosing,
    asynccontextmanager,
    suppress,
)
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest, LogConfig, Mount
from docker.utils import parse_repository_tag

from neuro_sync.engine import find_endpoint
from neuro_sync.errors import ConfigError, IllegalArgumentError, ResourceNotFound
from neuro_sync.local.clock import wall_time
from neuro_sync.local.durable_files import replace_file
from neuro_sync.local.lifecycle import (
    CouldNotRun,
    Event,
    Exited,
    Failed,
    Started,
    Vanished,
    Waiting,
)
from neuro_sync.local.logs import JobLog, LogWriter
from neuro_sync.models import frames
from neuro_sync.models.jobs import MIB, Container, Message
from neuro_sync.monotonic import monotonic

from .base import USUAL_SIZE, Launch, Report, check_target, mount_points
from .containers import PIECE, ContainerMeter, EngineChannel, Resize, connection_through
from .engine import (
    Answer,
    Engine,
    EngineRefused,
    EngineUnavailable,
    Frames,
    Login,
    WholeLines,
    plain_words,
    why_not_pulled,
    why_not_run,
)
from .mount_guard import MountGuard

logger = logging.getLogger(__name__)

JOB_LABEL = "org.neuro-sync.job"
RUN_LABEL = "org.neuro-sync.run"
STATE_LABEL = "org.neuro-sync.state"
EXEC_VARIABLE = "NEURO_SYNC_EXEC"
"""In the environment of a command's processes, so that they can be found again."""
LAST_OUTPUT = 3.0
"""Seconds that the last output of a container may take after its end."""
LONGEST_PAUSE = 5.0
"""Seconds between two looks whether the engine is back."""
PULL_NEWS = 0.5
"""Seconds between two reports of a pull's progress."""
DIAL_TIMEOUT = 5.0
REFUSAL = 0.5
"""Seconds in which a connection from inside a container is refused, if it is."""
NEVER_BEGUN = "It was killed before it was started."
NOT_STARTED = "The job could not be started."
STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z ")

# The processes of a command, by what it was given, are told to end; then they are made to.
END_COMMAND = """
end() { for file in /proc/[0-9]*/environ; do
  if grep -qs "$2" "$file"; then pid=${file#/proc/}; kill "-$1" "${pid%/environ}"; fi
done; }
end HUP "$1"; sleep "$2"; end KILL "$1"
"""


class DockerRuntime:
    """Runs each job in a container of its own, as the platform's own user."""

    name = "docker"
    allows_privileged = True
    warning = ""

    def __init__(
        self,
        *,
        grace: float = 3.0,
        durable: bool = True,
        registry_hosts: Collection[str],
        lend_token: Callable[[str], AbstractContextManager[str]],
    ) -> None:
        """Say how long a job that is killed may take to end, in seconds.

        With `durable` a job's log is on the disk before the job's end is reported. `registry_hosts`
        are those of the platform's own images, and `lend_token` makes a token of a user, by which
        they are pulled.
        """
        self.grace = grace
        self._durable = durable
        self._registry_hosts = registry_hosts
        self._lend_token = lend_token
        self._jobs: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, folder: Path, report: Report) -> None:
        self._folder = folder
        self._report = report
        try:
            self._engine = await asyncio.to_thread(Engine, find_endpoint())
            info = await self._engine.call(self._engine.api.info)
        except EngineUnavailable as error:
            raise ConfigError(error.text) from error
        self._cores = float(info["NCPU"])
        self._state = _identity(folder)
        self._guard = MountGuard(self._engine, folder, f"{STATE_LABEL}={self._state}")
        with suppress(EngineUnavailable):
            await self._guard.open()
        self._spawn(self._remove_leftovers())

    def check(self, container: Container) -> None:
        """Take almost everything: what a container cannot be, the engine tells."""
        for target in mount_points(container):
            check_target(target)

    def launch(self, launch: Launch) -> None:
        run = _Run(launch.run, launch.log.size)
        run.write(self._folder / "jobs" / launch.job_id)
        self._begin(launch, run)

    def adopt(self, launch: Launch, *, is_ending: bool = False) -> None:
        run = _Run.read(self._folder / "jobs" / launch.job_id)
        if run is not None and run.number == launch.run:
            self._begin(launch, run, is_adopted=True)
        elif is_ending:
            never_begun = Vanished(wall_time(), NEVER_BEGUN)
            asyncio.get_running_loop().call_soon(self._report, launch.job_id, never_begun)
        else:
            self.launch(launch)  # the earlier platform did not come to it
        if is_ending:
            self.kill(launch.job_id)

    def _begin(self, launch: Launch, run: _Run, *, is_adopted: bool = False) -> None:
        folder = self._folder / "jobs" / launch.job_id
        job = _Job(folder, launch.log, run, launch.container.tty, is_adopted)
        self._jobs[launch.job_id] = job
        job.task = self._spawn(self._live(launch, job))

    def kill(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job is not None and not job.ended.is_set():
            job.killed.set()
            self._spawn(self._end(job))

    def meter(self, job_id: str) -> ContainerMeter | None:
        job = self._jobs.get(job_id)
        if job is None or not job.is_running:
            return None
        return ContainerMeter(self._engine, job.container, job.started_at)

    def signal(self, job_id: str, number: int) -> None:
        job = self._running(job_id)
        if number == signal.SIGKILL:
            job.was_made_to_end = True
        self._spawn(self._send(job, number))

    async def exec(
        self, job_id: str, arguments: Sequence[str], *, tty: bool, size: frames.Resize = USUAL_SIZE
    ) -> EngineChannel:
        job = self._running(job_id)
        mark = secrets.token_hex(8)
        api = self._engine.api
        async with AsyncExitStack() as using:
            await using.enter_async_context(self._guard.use(job.container))
            try:
                created = await self._engine.call(
                    api.exec_create,
                    job.container,
                    [*arguments],
                    stdin=True,
                    tty=tty,
                    environment={
                        EXEC_VARIABLE: mark,
                        **({"TERM": "xterm-256color"} if tty else {}),
                    },
                )
                command = str(created["Id"])
                body: dict[str, Any] = {"Detach": False, "Tty": tty}
                if tty:  # an engine before version 23 does not know it
                    body["ConsoleSize"] = [size.height, size.width]
                streams = await self._engine.hijack(f"/exec/{command}/start", body=body)
            except EngineRefused as error:
                raise _not_running(job_id) from error
            self._spawn(self._until_begun(command, using.pop_all()))

        async def outcome() -> frames.Exited | None:
            while not job.ended.is_set():
                found = await self._engine.call(api.exec_inspect, command)
                if not found["Running"] and found["ExitCode"] is not None:
                    return frames.Exited(found["ExitCode"])
                await asyncio.sleep(0.02)
            return None

        return EngineChannel(
            streams,
            tty=tty,
            can_end_input=True,
            outcome=outcome,
            resize=self._resizer(api.exec_resize, command),
            abandon=lambda: self._spawn(self._end_command(job, mark)),
        )

    async def _until_begun(self, command: str, using: AsyncExitStack) -> None:
        """Keep a container in use until a command in it has begun; none can in a paused one."""
        async with using:
            with suppress(EngineRefused, EngineUnavailable):
                while True:
                    found = await self._engine.call(self._engine.api.exec_inspect, command)
                    if found["Pid"] or found["ExitCode"] is not None:
                        return
                    await asyncio.sleep(0.02)

    async def attach(self, job_id: str, *, replay: bool = False) -> EngineChannel:
        job = self._running(job_id)
        async with self._guard.use(job.container):
            streams = await self._attach(job, stdin=1, logs=int(replay))

        async def outcome() -> frames.Exited | None:
            await job.ended.wait()
            # The job's own code is told by its status; here the protocol has a zero.
            return None if job.was_made_to_end or job.killed.is_set() else frames.Exited(0)

        api = self._engine.api
        return EngineChannel(
            streams,
            tty=job.tty,
            # The engine would close it whenever the first user leaves, or never: it is never.
            can_end_input=job.tty,
            outcome=outcome,
            resize=self._resizer(api.resize, job.container),
        )

    async def dial(
        self, job_id: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        job = self._running(job_id)
        networks = (await self._inspect(job))["NetworkSettings"]["Networks"].values()
        address = next((network["IPAddress"] for network in networks if network["IPAddress"]), "")
        if address:
            try:
                connecting = asyncio.open_connection(address, port)
                return await asyncio.wait_for(connecting, DIAL_TIMEOUT)
            except ConnectionRefusedError as error:  # told in asyncio's own words
                raise _refused() from error
            except (OSError, asyncio.TimeoutError):
                logger.info("%s is not to be reached from here; trying from inside", address)
        return await self._dial_inside(job_id, address or "127.0.0.1", port)

    async def _dial_inside(
        self, job_id: str, address: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect with the image's own netcat, where the engine's network is not this machine's."""
        channel = await self.exec(job_id, ["nc", address, str(port)], tty=False)
        output = channel.output()
        first = asyncio.ensure_future(anext(output, None))
        await asyncio.wait({first}, timeout=REFUSAL)
        if not first.done() or isinstance(first.result(), Message):
            return await connection_through(channel, output, first)
        ended = first.result()
        channel.close()
        if isinstance(ended, frames.Exited) and ended.exit_code in (126, 127):
            why = f"the container's address {address!r} cannot be reached, and it has no nc"
            raise OSError(errno.ENETUNREACH, why)
        raise _refused()

    async def save(
        self, job_id: str, image: str, password: str
    ) -> AsyncGenerator[Mapping[str, object], None]:
        job = self._running(job_id)
        yield {"status": "CommitStarted", "details": {"container": job.container, "image": image}}
        name, tag = parse_repository_tag(image)
        query = {"container": job.container, "repo": name, "tag": tag or "latest"}
        try:
            async with self._guard.use(job.container):
                with await self._engine.open("POST", "/commit", query) as answer:
                    async for _ in answer.pieces():
                        pass
            yield {"status": "CommitFinished"}
            async with aclosing(self._engine.push(image, Login("token", password))) as steps:
                async for step in steps:
                    yield step
        except (EngineRefused, EngineUnavailable, EOFError, OSError) as error:
            text = plain_words(str(error))
            yield {"error": text, "errorDetail": {"message": text}}

    async def close(self) -> None:
        """Stop reporting; what is over or was killed is still seen to its end."""
        ending = {
            job.task
            for job in self._jobs.values()
            if job.task and (job.ended.is_set() or job.killed.is_set())
        }
        if ending:
            await asyncio.wait(ending, timeout=self.grace + LONGEST_PAUSE)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._jobs.clear()
        self._engine.close()

    def _spawn(self, activity: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(activity)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a container could not be looked after", exc_info=error)

    def _running(self, job_id: str) -> _Job:
        job = self._jobs.get(job_id)
        if job is None or not job.is_running:
            raise _not_running(job_id)
        return job

    # A job's way

    async def _live(self, launch: Launch, job: _Job) -> None:
        """See a run through: its container, its output, its end."""
        writer = LogWriter(job.folder)
        try:
            event = await self._run(launch, job, writer)
            if self._durable:
                await asyncio.to_thread(writer.sync)
        except _Killed:
            event = Vanished(wall_time(), NEVER_BEGUN)
        finally:
            writer.close()
        job.ended.set()
        job.log.pulse.beat()
        self._report(launch.job_id, event)
        if job.container:
            await self._remove(job.container)
        if self._jobs.get(launch.job_id) is job:
            del self._jobs[launch.job_id]

    async def _run(self, launch: Launch, job: _Job, writer: LogWriter) -> Event:
        output: Answer | None = None
        try:
            output = await self._until_started(launch, job)
            found = await self._persist(job, self._inspect)
            job.started_at = _instant(found["State"]["StartedAt"])
            job.is_running = True
            if not job.run.was_started:
                job.run = replace(job.run, was_started=True)
                job.run.write(job.folder)
            self._report(launch.job_id, Started(job.started_at))
            state = await self._copy(job, writer, output)
        except _CouldNotRun as refusal:
            return refusal.event
        except EngineRefused as error:
            return Vanished(wall_time(), f"Its container is gone: {plain_words(error.text)}")
        finally:
            job.is_running = False
            if output is not None:
                output.close()
        code = int(state["ExitCode"])
        at = _instant(state["FinishedAt"])
        if state["OOMKilled"] and code:
            limit = (launch.container.resources.memory or 0) // MIB
            why = f"It was ended because it used more than its {limit} MiB of memory."
            return Exited(at, code, why, reason="OOMKilled")
        return Exited(at, code, job.log.tail() if code else "")

    async def _until_started(self, launch: Launch, job: _Job) -> Answer | None:
        """Return a container's output from its first byte on; None if it was started before."""
        pause = 0.1
        while True:
            try:
                job.container = await self._find(launch.job_id, job)
                if not job.container and job.run.was_started:
                    raise EngineRefused(404, "somebody removed it")
                if not job.container and not job.killed.is_set():
                    job.container = await self._create(launch, job)
                is_new = (
                    not job.container or (await self._inspect(job))["State"]["Status"] == "created"
                )
                if is_new and job.killed.is_set():
                    raise _Killed
                return await self._start(launch, job) if is_new else None
            except EngineUnavailable as error:
                logger.warning("job %s: %s", launch.job_id, error)
                self._report(
                    launch.job_id,
                    Waiting(wall_time(), error.text, "It starts when the engine answers."),
                )
                await self._pause(job, pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _find(self, job_id: str, job: _Job) -> str:
        """Return the container of this run, if it was created already."""
        labels = [
            f"{STATE_LABEL}={self._state}",
            f"{JOB_LABEL}={job_id}",
            f"{RUN_LABEL}={job.run.number}",
        ]
        found = await self._engine.call(
            self._engine.api.containers, all=True, filters={"label": labels}
        )
        return str(found[0]["Id"]) if found else ""

    async def _create(self, launch: Launch, job: _Job) -> str:
        # A name in the platform's own registry may stand for another image than the last time, or
        # for one that the job's owner may not read any more.
        if not self._is_own(launch.container.image.as_docker_url()):
            with suppress(_NoImage):
                return await self._create_once(launch, job)
        await self._pull(launch, job)
        try:
            return await self._create_once(launch, job)
        except _NoImage as error:  # somebody removed it
            raise _CouldNotRun.for_image(str(launch.container.image), str(error)) from error

    def _is_own(self, image: str) -> bool:
        return image.partition("/")[0] in self._registry_hosts

    async def _create_once(self, launch: Launch, job: _Job) -> str:
        options = self._options(launch, job)
        try:
            created = await self._engine.call(self._engine.api.create_container, **options)
        except EngineRefused as error:
            if error.status == 404 and "image" in error.text.lower():
                raise _NoImage(error.text) from error
            raise _CouldNotRun.by_engine(error.text) from error
        if job.killed.is_set():
            await self._remove(created["Id"])
            raise _Killed
        return str(created["Id"])

    def _options(self, launch: Launch, job: _Job) -> dict[str, Any]:
        container, resources = launch.container, launch.container.resources
        environment = dict(launch.environment)
        user = None
        if not launch.privileged:
            # What it writes into a folder of this machine belongs to who asked for it.
            user = f"{os.getuid()}:{os.getgid()}"
            if os.getuid() != 0:
                # A user whom the image does not know has `/` for a home, where nobody may write.
                environment.setdefault("HOME", "/tmp")  # noqa: S108  # the container's own
        if container.tty:
            environment.setdefault("TERM", "xterm-256color")
        gpus = (
            [DeviceRequest(count=resources.gpu, capabilities=[["gpu"]])] if resources.gpu else None
        )
        host_config = self._engine.api.create_host_config(
            nano_cpus=int(min(resources.cpu, self._cores) * 10**9),
            mem_limit=resources.memory,
            memswap_limit=resources.memory,
            shm_size=resources.memory if resources.shm else None,
            privileged=launch.privileged,
            mounts=[
                Mount(mount.target, str(mount.source), type="bind", read_only=mount.read_only)
                for mount in launch.mounts
            ],
            device_requests=gpus or None,
            # The usual one keeps text only; this one keeps bytes, and all of them.
            log_config=LogConfig(
                type="local", config={"max-size": "1000000g", "max-file": "1", "compress": "false"}
            ),
        )
        return {
            "image": container.image.as_docker_url(),
            "entrypoint": container.entrypoint,
            "command": container.command,
            "working_dir": container.working_dir,
            "environment": environment,
            "tty": container.tty,
            "stdin_open": True,
            "detach": True,  # else its input ends when the first one who attached leaves
            "user": user,
            "name": f"{launch.job_id}-{job.run.number}",
            "labels": {
                STATE_LABEL: self._state,
                JOB_LABEL: launch.job_id,
                RUN_LABEL: str(job.run.number),
                **self._guard.labels(launch.mounts),
            },
            "host_config": host_config,
        }

    async def _pull(self, launch: Launch, job: _Job) -> None:
        """Fetch a job's image, and tell how far it is."""
        pull = asyncio.ensure_future(self._pull_image(launch))
        killed = asyncio.ensure_future(job.killed.wait())
        try:
            await asyncio.wait({pull, killed}, return_when=asyncio.FIRST_COMPLETED)
            if not pull.done():
                raise _Killed
            pull.result()
        finally:
            pull.cancel()
            killed.cancel()
            await asyncio.gather(pull, killed, return_exceptions=True)

    async def _pull_image(self, launch: Launch) -> None:
        image = launch.container.image.as_docker_url()
        self._report(launch.job_id, Waiting(wall_time(), "Pulling", f"Pulling image {image!r}"))
        layers: dict[str, str] = {}
        told = monotonic()
        try:
            async with self._pulling(image, launch.owner) as news:
                async for item in news:
                    layers[item.get("id", "")] = item.get("status", "")
                    if monotonic() - told >= PULL_NEWS:
                        told = monotonic()
                        done = sum(status == "Pull complete" for status in layers.values())
                        words = f"Pulling image {image!r}: {done} of {len(layers)} layers"
                        self._report(launch.job_id, Waiting(wall_time(), "Pulling", words))
        except EngineRefused as error:
            raise _CouldNotRun.for_image(image, error.text) from error
        except (OSError, EOFError) as error:
            raise EngineUnavailable(f"the engine broke off a pull: {error}") from error

    @asynccontextmanager
    async def _pulling(
        self, image: str, owner: str
    ) -> AsyncIterator[AsyncIterator[Mapping[str, Any]]]:
        """Have an image fetched, one of the platform's own by a token of the job's owner."""
        with ExitStack() as lent:
            login = None
            if self._is_own(image):
                login = Login("token", lent.enter_context(self._lend_token(owner)))
            async with aclosing(self._engine.pull(image, login)) as news:
                yield news

    async def _start(self, launch: Launch, job: _Job) -> Answer:
        # Before the start, so that not one byte is missed.
        output = await self._attach(job)
        try:
            async with self._guard.hold(launch.mounts):
                await self._engine.call(self._engine.api.start, job.container)
        except IllegalArgumentError as error:
            output.close()
            raise _CouldNotRun(CouldNotRun(wall_time(), 125, error.text)) from error
        except EngineRefused as error:
            output.close()
            raise _CouldNotRun.by_engine(error.text) from error
        except BaseException:
            output.close()
            raise
        return output

    async def _attach(self, job: _Job, **more: int) -> Answer:
        query = {"stream": 1, "stdout": 1, "stderr": 1, **more}
        return await self._engine.hijack(f"/containers/{job.container}/attach", query)

    async def _copy(self, job: _Job, writer: LogWriter, output: Answer | None) -> Mapping[str, Any]:
        """Copy a container's output to the log, and return the container's state at its end."""
        is_whole = output is not None
        pause = 0.1
        while True:
            try:
                if output is not None:
                    copying = self._copy_streams(job, writer, output)
                else:
                    copying = self._copy_kept(job, writer, follow=True)
                is_whole = await self._until_over(job, copying) and is_whole
                state: Mapping[str, Any] = (await self._inspect(job))["State"]
                if not state["Running"]:
                    if not is_whole:
                        await self._copy_kept(job, writer, follow=False)
                    return state
            except (EngineUnavailable, OSError, EOFError) as error:
                logger.warning("container %s: %s", job.container[:12], error)
                await self._pause(job, pause, and_go_on=True)
                pause = min(2 * pause, LONGEST_PAUSE)
            output, is_whole = None, False

    async def _until_over(self, job: _Job, copying: Coroutine[Any, Any, None]) -> bool:
        """Run what copies until the container has ended; False if its last output may lack.

        An engine may keep a connection open after the end of what it is about.
        """
        copy = asyncio.ensure_future(copying)
        end = asyncio.ensure_future(self._wait(job))
        try:
            await asyncio.wait({copy, end}, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                end.result()
                await asyncio.wait({copy}, timeout=LAST_OUTPUT)
                if not copy.done():
                    return False
            copy.result()
            await end
            return True
        finally:
            for task in (copy, end):
                task.cancel()
            await asyncio.gather(copy, end, return_exceptions=True)

    async def _wait(self, job: _Job) -> None:
        path = f"/containers/{job.container}/wait"
        with await self._engine.open("POST", path, {"condition": "not-running"}) as answer:
            async for _ in answer.pieces():
                pass

    async def _copy_streams(self, job: _Job, writer: LogWriter, output: Answer) -> None:
        """Copy what comes, at once."""
        demultiplexer, lines = Frames(), WholeLines()
        is_over = False
        with output:
            while not is_over:
                try:
                    data = await asyncio.wait_for(output.reader.read(PIECE), lines.patience)
                except asyncio.TimeoutError:
                    found = lines.rest()
                else:
                    is_over = not data
                    if is_over:
                        found = lines.rest()
                    elif job.tty:
                        found = iter([(1, data)])
                    else:
                        found = lines.feed(demultiplexer.feed(data))
                now = time.time_ns()
                writer.append((stream, now, part) for stream, part in found)
                job.log.pulse.beat()

    async def _copy_kept(self, job: _Job, writer: LogWriter, *, follow: bool) -> None:
        """Copy what the engine has kept, but for what the log has of this run already."""
        known = writer.count(job.run.begin)
        demultiplexer = Frames()
        # With a terminal there are no frames, so that nothing would tell times from lines.
        query = {"stdout": 1, "stderr": 1, "timestamps": int(not job.tty), "follow": int(follow)}
        path = f"/containers/{job.container}/logs"
        with await self._engine.open("GET", path, query) as answer:
            async with aclosing(answer.pieces()) as pieces:
                async for data in pieces:
                    if job.tty:
                        found = [(1, time.time_ns(), data)]
                    else:
                        found = [(s, *_stamped(part)) for s, part in demultiplexer.feed(data)]
                    news = []
                    for stream, at, part in found:
                        skipped = min(known[stream], len(part))
                        known[stream] -= skipped
                        if skipped < len(part):
                            news.append((stream, at, part[skipped:]))
                    if news:
                        writer.append(news)
                        job.log.pulse.beat()

    # The engine's part

    async def _inspect(self, job: _Job) -> dict[str, Any]:
        return await self._engine.call(self._engine.api.inspect_container, job.container)

    async def _persist(self, job: _Job, ask: Any) -> Any:
        """Ask the engine until it answers."""
        while True:
            try:
                return await ask(job)
            except EngineUnavailable as error:
                logger.warning("container %s: %s", job.container[:12], error)
                await self._pause(job, 1.0, and_go_on=True)

    async def _pause(self, job: _Job, seconds: float, *, and_go_on: bool = False) -> None:
        """Wait a little; a job that was killed before it had a container is waited for no more."""
        if and_go_on or job.is_adopted:
            await asyncio.sleep(seconds)
            return
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(job.killed.wait(), seconds)
        if job.killed.is_set() and not job.container:
            raise _Killed

    async def _end(self, job: _Job) -> None:
        """Ask a container to end, and make it a little later."""
        assert job.task is not None  # noqa: S101  # it is set before anybody can kill it
        for is_forced in (False, True):
            if job.container:
                number = signal.SIGKILL if is_forced else await self._stop_signal(job)
                await self._send(job, number)
            done, _ = await asyncio.wait({job.task}, timeout=self.grace)
            if done:
                return
        # The engine may have been away when it was told.
        pause = 0.5
        while not job.ended.is_set():
            if job.container:
                await self._send(job, signal.SIGKILL)
            await asyncio.wait({job.task}, timeout=pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _stop_signal(self, job: _Job) -> int | str:
        """Return the signal that asks a container to end, as its image names it."""
        with suppress(EngineRefused, EngineUnavailable):
            return (await self._inspect(job))["Config"].get("StopSignal") or signal.SIGTERM
        return signal.SIGTERM

    async def _send(self, job: _Job, number: int | str) -> None:
        try:
            async with self._guard.use(job.container):
                await self._engine.call(self._engine.api.kill, job.container, number)
        except (EngineRefused, EngineUnavailable) as error:  # it has ended, mostly
            logger.info("container %s: signal %s: %s", job.container[:12], number, error)

    def _resizer(self, method: Any, id: str) -> Resize:
        """Return what sets a terminal's size; a command that is being started has none yet."""
        in_turn = asyncio.Lock()  # the last one asked for has to be the last one set

        async def set_size(height: int, width: int) -> None:
            async with in_turn:
                for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
                    try:
                        await self._engine.call(method, id, height=height, width=width)
                    except EngineRefused:
                        await asyncio.sleep(pause)
                    except EngineUnavailable:
                        return
                    else:
                        return

        return lambda *, height, width: self._spawn(set_size(height % 2**16, width % 2**16))

    async def _end_command(self, job: _Job, mark: str) -> None:
        """End a command whose user has gone: an engine lets it run on."""
        api = self._engine.api
        script = ["sh", "-c", END_COMMAND, "sh", f"{EXEC_VARIABLE}={mark}", str(self.grace)]
        with suppress(EngineRefused, EngineUnavailable):
            async with self._guard.use(job.container):
                created = await self._engine.call(api.exec_create, job.container, script)
                await self._engine.call(api.exec_start, created["Id"], detach=True)

    async def _remove(self, container: str) -> None:
        try:
            await self._engine.call(
                self._engine.api.remove_container, container, v=True, force=True
            )
        except EngineRefused as error:
            if error.status not in (404, 409):  # it is gone, or somebody else is removing it
                logger.warning("container %s: %s", container[:12], error)
        except EngineUnavailable as error:
            # The next platform on this folder removes it.
            logger.warning("container %s is left behind: %s", container[:12], error)

    async def _remove_leftovers(self) -> None:
        """Remove the containers of jobs that are over; an earlier platform did not come to it."""
        filters = {"label": f"{STATE_LABEL}={self._state}"}
        with suppress(EngineUnavailable):
            found = await self._engine.call(self._engine.api.containers, all=True, filters=filters)
            for container in found:
                labels = container["Labels"]
                job = self._jobs.get(labels[JOB_LABEL])
                if job is None or str(job.run.number) != labels[RUN_LABEL]:
                    await self._remove(container["Id"])


@dataclass(frozen=True)
class _Run:
    """One container of a job; a job that is restarted has one after the other."""

    number: int
    begin: int
    """Where in the job's log its output begins."""
    was_started: bool = False
    """Whether it ran; what ran is not run again."""

    @classmethod
    def read(cls, folder: Path) -> _Run | None:
        try:
            return cls(**json.loads((folder / "run").read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):  # a power loss may have emptied it
            return None

    def write(self, folder: Path) -> None:
        replace_file(folder / "run", json.dumps(asdict(self)).encode())


@dataclass(eq=False)
class _Job:
    """What the platform holds of a job until its container is gone."""

    folder: Path
    log: JobLog
    run: _Run
    tty: bool
    is_adopted: bool
    """Whether an earlier platform may have created its container."""
    container: str = ""
    """The engine's id of it, once it is created."""
    is_running: bool = False
    started_at: datetime = field(default_factory=wall_time)
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the platform was told to end it."""
    was_made_to_end: bool = False
    """Whether somebody sent it SIGKILL."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether all its output has come."""
    task: asyncio.Task[None] | None = None


class _NoImage(Exception):
    """The engine does not have an image."""


class _Killed(Exception):
    """The job was killed before there was anything to kill."""


class _CouldNotRun(Exception):
    """A job's container cannot be started."""

    def __init__(self, event: CouldNotRun | Failed) -> None:
        self.event = event

    @classmethod
    def for_image(cls, image: str, text: str) -> _CouldNotRun:
        return cls(Failed(wall_time(), "Collected", why_not_pulled(image, text)))

    @classmethod
    def by_engine(cls, text: str) -> _CouldNotRun:
        code, why = why_not_run(text)
        if code is None:  # the protocol tells such things in the reason itself
            return cls(Failed(wall_time(), why, NOT_STARTED))
        return cls(CouldNotRun(wall_time(), code, why))


def _identity(folder: Path) -> str:
    """Return what marks this state folder's containers; the engine has others, too."""
    file = folder / "containers"
    if not file.exists() or not file.read_bytes().strip(b"\0 \n"):  # a power loss emptied it
        replace_file(file, secrets.token_hex(16).encode())
    return file.read_text().strip()


def _stamped(part: bytes) -> tuple[int, bytes]:
    """Split a piece of the engine's log into its time (ns) and its bytes."""
    stamp = STAMP.match(part)
    if stamp is None:
        return time.time_ns(), part
    seconds = datetime.fromisoformat(stamp[1].decode()).replace(tzinfo=timezone.utc).timestamp()
    fraction = int((stamp[2] or b"0").ljust(9, b"0"))
    return int(seconds) * 10**9 + fraction, part[stamp.end() :]


def _instant(text: str) -> datetime:
    """Read the engine's time, which has more digits than Python's."""
    nanoseconds, _ = _stamped(text.encode() + b" ")
    return datetime.fromtimestamp(nanoseconds / 10**9, timezone.utc)


def _refused() -> ConnectionRefusedError:
    return ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _not_running(job_id: str) -> ResourceNotFound:
    return ResourceNotFound(f"Job '{job_id}' is not running.")
