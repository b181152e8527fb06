"""Jobs: start them, follow them, know how they ended."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, get_args, overload

from pydantic import TypeAdapter
from yarl import URL

from neuro_sync.errors import (
    APIError,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    IllegalArgumentError,
    JobFailed,
    NDJSONError,
    NeuroError,
    NotSupported,
    ProtocolError,
    ResourceNotFound,
    ServerError,
    WaitTimeout,
)
from neuro_sync.models import frames
from neuro_sync.models.base import Model, read_answer
from neuro_sync.models.durations import Duration, deadline, in_seconds
from neuro_sync.models.images import (
    LATEST,
    AbstractDockerImageProgress,
    ImageCommitFinished,
    ImageCommitStarted,
    ImageEvent,
    ImageProgressPush,
    ImageProgressSave,
    LocalImage,
    RemoteImage,
)
from neuro_sync.models.jobs import (
    LONGEST_LIFE_SPAN_MINUTES,
    Container,
    DiskVolume,
    ExecInspect,
    HTTPPort,
    JobDescription,
    JobOptions,
    JobPriority,
    JobRestartPolicy,
    JobRun,
    JobStart,
    JobStatus,
    JobTelemetry,
    LifeSpanChange,
    SecretFile,
    SharedMemory,
    Volume,
    command_line,
)
from neuro_sync.models.uris import complete
from neuro_sync.models.words import split_words
from neuro_sync.monotonic import monotonic
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.deadlines import call_deadline
from neuro_sync.transport.encoding import segment
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.retry import Retry
from neuro_sync.transport.stream import NDJSON, Records, Stream, read_models

from .arguments import BadValuesRefused, at_most, characters, several, strings, whole_number
from .config import Config, Section
from .logs import LogLines, LogRequest, LogSource
from .parse import Parser

if TYPE_CHECKING:
    # What a program needs that looks into its jobs; one that only starts them begins sooner.
    from neuro_sync.transport.websocket import WebSocket

    from .channels import CommandResult, PreparedCommands, StdStream
    from .forward import PortForward
    from .telemetry import TelemetrySource

JOB_ID = re.compile(r"job-[0-9a-z]{8}(-[0-9a-z]{4}){3}-[0-9a-z]{12}")

HEAD_START = 0.02
"""Seconds from the start of a job until it is asked for: sooner, not even `true` is over."""
FIRST_POLL = 0.05
SLOWEST_POLL = 2.0
PATIENCE = 300.0
"""Seconds for which a wait puts up with a platform that is not to be reached."""
TAIL_LINES = 20
SHOWN_COMMAND = 200
"""Characters of a command that an error shows."""
COMMON_HEAD_LIMIT = 8000
"""Bytes of a request's head, nearly: the most that many servers and proxies take."""
HEAD_TOO_LARGE = frozenset(
    {HTTPStatus.REQUEST_URI_TOO_LONG, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE}
)
SHORTER = "write it to a file that the job can read, or pass it as the input of a shorter command"
LIFE_SPAN = "max_run_time_minutes"

Job = str | URL | JobDescription
"""Which job: its id, its name, its ``job:`` address, or what was known of it before."""
JOB_TYPES: tuple[type[Job], ...] = (str, URL, JobDescription)
Until = Literal["finished", "running"]
OnUpdate = Callable[[JobDescription], object]
"""Is told what a job is like now."""

_CAPACITY = TypeAdapter(dict[str, int], config={"defer_build": True})


class _Located(NamedTuple):
    """A job, and the cluster that it is on; None is the current one."""

    id: str
    cluster_name: str | None
    description: JobDescription | None = None
    """What is known of it, if it had to be asked for."""


class Jobs(Section):
    """The jobs section of a session, ``session.jobs``."""

    def __init__(self, transport: HttpTransport, config: Config, clock: Clock) -> None:
        self._transport = transport
        self._config = config
        self._clock = clock
        self._parse = Parser(config)

    @cached_property
    def _commands(self) -> PreparedCommands:
        from .channels import PreparedCommands

        return PreparedCommands()

    @cached_property
    def _telemetry(self) -> TelemetrySource:
        from .telemetry import TelemetrySource

        return TelemetrySource(self._transport)

    def start(
        self,
        *,
        image: RemoteImage | str,
        preset_name: str,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
        entrypoint: str | Sequence[str] | None = None,
        command: str | Sequence[str] | None = None,
        working_dir: str | None = None,
        http: HTTPPort | None = None,
        env: Mapping[str, str] | None = None,
        volumes: Sequence[Volume] = (),
        secret_env: Mapping[str, URL] | None = None,
        secret_files: Sequence[SecretFile] = (),
        disk_volumes: Sequence[DiskVolume] = (),
        tty: bool = False,
        shm: bool = False,
        name: str | None = None,
        tags: str | Sequence[str] = (),
        description: str | None = None,
        pass_config: bool = False,
        wait_for_jobs_quota: bool = False,
        schedule_timeout: Duration | None = None,
        restart_policy: JobRestartPolicy = JobRestartPolicy.NEVER,
        life_span: Duration | None = None,
        privileged: bool = False,
        priority: JobPriority | None = None,
        energy_schedule_name: str | None = None,
    ) -> JobDescription:
        """Start a job with a preset's resources and return at once; it is mostly pending then.

        `command` and `entrypoint` are lists of words, or lines that are split by shell rules; no
        shell runs them, so write ``sh -c '...'`` for pipes. Addresses such as ``storage:data`` and
        ``image:name:tag`` are completed with the job's cluster, organisation and project.
        `life_span` is counted in whole minutes, rounded up.

        Raises:
            IllegalArgumentError: A value was refused, there is no such preset, or a quota is used
                up. Nothing was started.
            ConnectionFailed: The platform was not reached, or did not answer. It is not asked
                again, so at most one job was started; the text says whether that may be so.

        Endpoint: POST /jobs?from_preset
        """
        # To build the models takes 20 ms the first time, and so does part of connecting.
        self._transport.connect_ahead(self._api("jobs"))
        cluster_name = self._config.cluster(cluster_name).name
        org_name = org_name or self._config.org_name
        project_name = project_name or self._config.project_name
        if isinstance(image, str) and image.startswith("image:"):
            image = self._parse.remote_image(
                image, cluster_name=cluster_name, org_name=org_name, project_name=project_name
            )
        with BadValuesRefused():
            spec = JobStart(
                image=image,
                preset_name=preset_name,
                cluster_name=cluster_name,
                org_name=org_name,
                project_name=project_name,
                entrypoint=entrypoint,
                command=command,
                working_dir=working_dir,
                http=http,
                env={} if env is None else env,
                volumes=volumes,
                secret_env={} if secret_env is None else secret_env,
                secret_files=secret_files,
                disk_volumes=disk_volumes,
                tty=tty,
                resources=SharedMemory(shm=shm),
                name=name,
                tags=tags,
                description=description,
                pass_config=pass_config,
                wait_for_jobs_quota=wait_for_jobs_quota,
                schedule_timeout=_seconds(schedule_timeout, "schedule_timeout"),
                restart_policy=restart_policy,
                max_run_time_minutes=_minutes(life_span, "life_span"),
                privileged=privileged,
                energy_schedule_name=energy_schedule_name,
                **({"priority": priority} if priority else {}),
            )
        body = spec.to_request()
        self._complete_addresses(body, spec)
        return self._submit("jobs?from_preset", body, name)

    def run(
        self,
        container: Container,
        *,
        name: str | None = None,
        tags: str | Sequence[str] = (),
        description: str | None = None,
        scheduler_enabled: bool = False,
        is_preemptible: bool = False,
        preemptible_node: bool = False,
        pass_config: bool = False,
        wait_for_jobs_quota: bool = False,
        schedule_timeout: Duration | None = None,
        restart_policy: JobRestartPolicy = JobRestartPolicy.NEVER,
        life_span: Duration | None = None,
        priority: JobPriority | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> JobDescription:
        """Start a job with resources of its own; `start`, with a preset, is the usual way.

        `is_preemptible` is the older name of `scheduler_enabled`.

        Raises:
            IllegalArgumentError: A value was refused, or a quota is used up. Nothing was started.
            ConnectionFailed: As for `start`.

        Endpoint: POST /jobs
        """
        self._transport.connect_ahead(self._api("jobs"))
        with BadValuesRefused():
            spec = JobRun(
                container=container,
                name=name,
                tags=tags,
                description=description,
                scheduler_enabled=scheduler_enabled or is_preemptible,
                preemptible_node=preemptible_node,
                pass_config=pass_config,
                wait_for_jobs_quota=wait_for_jobs_quota,
                schedule_timeout=_seconds(schedule_timeout, "schedule_timeout"),
                restart_policy=restart_policy,
                max_run_time_minutes=_minutes(life_span, "life_span"),
                cluster_name=self._config.cluster_name,
                org_name=org_name or self._config.org_name,
                project_name=project_name or self._config.project_name,
                **({"priority": priority} if priority else {}),
            )
        body = spec.to_request()
        self._complete_addresses(body["container"], spec)
        return self._submit("jobs", body, name)

    def _submit(self, endpoint: str, body: dict[str, Any], name: str | None) -> JobDescription:
        JobDescription.model_rebuild()  # the first time, while the connection is being made
        try:
            answer = self._transport.request(
                "POST", self._api(endpoint), retry=Retry.NEVER, body=body
            )
        except ConnectionFailed as error:
            search = f"list(name={name!r})" if name else "list(reverse=True, limit=10)"
            error.args = (f"{error}. Look with jobs.{search} before you start it again",)
            raise
        except APIError as error:
            if error.status < 500:  # there may be no such preset or project any more
                self._config.doubt()
            raise
        return self._parse.recognize(JobDescription.from_answer(answer.content))

    def _complete_addresses(self, workload: dict[str, Any], options: JobOptions) -> None:
        """Turn short addresses into full ones, in place; a platform refuses short ones."""
        where: Any = {
            "cluster": options.cluster_name,
            "org": options.org_name,
            "project": options.project_name,
        }
        for mounts, field in (
            ("volumes", "src_storage_uri"),
            ("secret_volumes", "src_secret_uri"),
            ("disk_volumes", "src_disk_uri"),
        ):
            for mount in workload.get(mounts, ()):
                mount[field] = str(complete(URL(mount[field]), **where))
        for variable, uri in workload.get("secret_env", {}).items():
            workload["secret_env"][variable] = str(complete(URL(uri), **where))

    def status(self, id: Job) -> JobDescription:
        """Return what is known of a job now.

        Raises:
            IllegalArgumentError: There is no such job; that is what the platform answers with.

        Endpoint: GET /jobs/{id}
        """
        answer = self._transport.request(
            "GET", self._api("jobs", self._key(id)), retry=Retry.ALWAYS
        )
        return self._parse.recognize(JobDescription.from_answer(answer.content))

    def kill(self, id: Job) -> None:
        """End a job. One that is over already stays as it is.

        Endpoint: DELETE /jobs/{id}
        """
        self._transport.request("DELETE", self._api("jobs", self._key(id)), retry=Retry.ALWAYS)

    def bump_life_span(self, id: Job, additional_life_span: Duration) -> None:
        """Let a job run longer, by seconds that are rounded up to whole minutes.

        Raises:
            ConnectionFailed: The platform was not reached, or did not answer. It is not asked
                again, so the time is added at most once; `status` shows the life span.

        Endpoint: PUT /jobs/{id}/max_run_time_minutes
        """
        minutes = _minutes(additional_life_span, "additional_life_span")
        if minutes is None:
            raise IllegalArgumentError(
                f"additional_life_span = {additional_life_span!r}: should be a time that ends"
            )
        with BadValuesRefused():
            change = LifeSpanChange(additional_max_run_time_minutes=minutes)
        body = change.model_dump(exclude_none=True)
        url = self._api("jobs", self._key(id), LIFE_SPAN)
        self._transport.request("PUT", url, retry=Retry.NEVER, body=body)

    def tags(self) -> tuple[str, ...]:
        """Return the tags of the caller's jobs, those of the newest job first, each once.

        Platforms of today have no such call, so all jobs of the current cluster are read.
        """
        found: dict[str, None] = {}
        for job in self.list(owners=[self._config.username], reverse=True):
            found.update(dict.fromkeys(job.tags))
        return tuple(found)

    def top(self, id: Job, *, cluster_name: str | None = None) -> Records[JobTelemetry]:
        """Return what a job uses, a sample each second from when it runs until it is over.

        A job that is over already has none. It may be closed from another thread.

        Endpoint: GET {monitoring}/{id}/top, as JSON lines or a websocket
        """
        job = self._locate(id, cluster_name)
        url = self._config.cluster(job.cluster_name).monitoring_url
        return self._telemetry.open(url, job.id)

    def get_capacity(self, *, cluster_name: str | None = None) -> Mapping[str, int]:
        """Return how many jobs of each preset could be started now; roughly, and only for now.

        Endpoint: GET {monitoring}/capacity
        """
        url = self._config.cluster(cluster_name).monitoring_url
        answer = self._transport.request("GET", f"{url}/capacity", retry=Retry.ALWAYS)
        return read_answer(_CAPACITY, answer.content, "number for each preset")

    @overload
    def wait(  # type: ignore[overload-overlap]  # a text is one job, not its letters
        self,
        id: Job,
        *,
        until: Until = "finished",
        timeout: Duration | None = None,
        check: bool = False,
        on_update: OnUpdate | None = None,
    ) -> JobDescription: ...

    @overload
    def wait(
        self,
        id: Iterable[Job],
        *,
        until: Until = "finished",
        timeout: Duration | None = None,
        check: bool = False,
        on_update: OnUpdate | None = None,
    ) -> tuple[JobDescription, ...]: ...

    def wait(
        self,
        id: Job | Iterable[Job],
        *,
        until: Until = "finished",
        timeout: Duration | None = None,
        check: bool = False,
        on_update: OnUpdate | None = None,
    ) -> JobDescription | tuple[JobDescription, ...]:
        """Wait until a job is over, and return what it was like then; of several, all of them.

        With ``until="running"`` a job that runs is enough; one that is over counts too. `timeout`
        bounds the whole call, however slowly the platform answers; 0 asks once. Without one it
        lasts as long as the jobs. A platform that is not to be reached is asked again for five
        minutes. A description of a job that is over is returned as it is, without a question.
        `on_update` is called with each description that comes meanwhile, the same state or a new
        one.

        Raises:
            WaitTimeout: The deadline passed; the error has what was known last, if anything. The
                job goes on.
            JobFailed: With ``check=True``, when a job did not succeed; the error has the first
                such job and the last lines of its log.
        """
        if until not in get_args(Until):
            raise IllegalArgumentError(f"until = {until!r}: it is 'running' or 'finished'")
        one = isinstance(id, JOB_TYPES)
        ids: tuple[Job, ...] = several("id", id, JOB_TYPES)
        begin = self._clock.now()
        end = deadline(timeout, begin)
        tell: OnUpdate = on_update or (lambda _: None)
        if any(isinstance(job, JobDescription) and job.status is JobStatus.PENDING for job in ids):
            self._clock.sleep(max(min(HEAD_START, end - self._clock.now()), 0.0))
        jobs = []
        for job in ids:
            # One question is asked in any case.
            jobs.append(self._first_status(job, until, math.inf if end <= begin else end))
            tell(jobs[-1])
        heard = self._clock.now()
        failure: NeuroError | None = None
        delay = FIRST_POLL
        while waiting := [place for place, job in enumerate(jobs) if not _reached(job, until)]:
            left = end - self._clock.now()
            if left <= 0:
                late = jobs[waiting[0]]
                raise WaitTimeout(f"{late} was not {until} in time", late) from failure
            self._clock.sleep(min(delay, left))
            delay = min(delay * 1.5, SLOWEST_POLL)
            try:
                for place in waiting:
                    with call_deadline(end, self._clock.now):
                        jobs[place] = self.status(jobs[place])
                    tell(jobs[place])
                heard, failure = self._clock.now(), None
            except (ConnectionFailed, ServerError) as error:
                if self._clock.now() - heard > PATIENCE:
                    raise
                failure = error
        if check:
            for job in jobs:
                if job.status.is_finished and job.status is not JobStatus.SUCCEEDED:
                    self._raise_failed(job, end)
        return jobs[0] if one else tuple(jobs)

    def _first_status(self, job: Job, until: Until, end: float) -> JobDescription:
        known = job if isinstance(job, JobDescription) else None
        if known is not None and known.status.is_finished:
            return known  # it stays as it is
        try:
            with call_deadline(end, self._clock.now):
                return self.status(job)
        except (ConnectionFailed, ServerError) as error:
            if self._clock.now() < end:
                raise
            raise WaitTimeout(f"{job} was not {until} in time: {error}", known) from error

    def _raise_failed(self, job: JobDescription, end: float) -> NoReturn:
        try:
            with call_deadline(end, self._clock.now), self.logs(job, tail=TAIL_LINES) as lines:
                tail = self._read_until(end, lines)
        except NeuroError as error:
            tail = (f"(the log could not be read: {error})",)
        story = [str(job), job.reason]
        if job.history.description not in "\n".join(tail):  # often it is the end of the log
            story.append(job.history.description)
        text = ": ".join(part for part in story if part)
        raise JobFailed("\n".join([text, *tail]), job, tail)

    def _read_until(self, end: float, lines: LogLines) -> tuple[str, ...]:
        """Return the lines of a log that come before the deadline."""
        if end == math.inf:
            return tuple(lines)
        closer = threading.Timer(max(end - self._clock.now(), 0.0), lines.close)
        closer.start()
        try:
            return tuple(lines)
        finally:
            closer.cancel()

    def monitor(
        self,
        id: Job,
        *,
        cluster_name: str | None = None,
        since: datetime | None = None,
        timestamps: bool = False,
        separator: str | None = None,
    ) -> Stream:
        """Return a job's log from its beginning, then as it is written, as pieces of bytes.

        The pieces break anywhere. The end of the stream is not always the end of the job;
        `logs` is the one that takes a broken stream up again. `since` without a zone is local
        time. `separator` is a line that the platform may put between its archive and the live
        part; an empty one suppresses it.

        Raises:
            IllegalArgumentError: There is no such job.
            StreamInterrupted: While it is read: the connection broke.

        Endpoint: GET {monitoring}/{id}/log
        """
        return self._open_log(id, cluster_name, _instant(since), timestamps, separator)

    def logs(
        self,
        id: Job,
        *,
        since: datetime | None = None,
        timestamps: bool = False,
        tail: int | None = None,
        follow: bool = True,
    ) -> LogLines:
        """Return a job's log as lines, from its beginning until the job is over.

        Each line is whole and comes once, also when connections break in between. With
        `timestamps` a line begins with its time in UTC and a space. With `tail` it begins with
        the last so many lines of what is there. Without `follow` it ends with what is there: with
        the log of a job that is over; else at the first line that is newer than the call, or once
        the platform has sent its archive and is silent for a second.

        Raises:
            IllegalArgumentError: There is no such job.
            StreamInterrupted: While it is read: the platform cannot be reached any more. Or it has
                sent neither the rest of the log nor its end for the session's read timeout,
                although the job is over or only what is there was asked for.

        Endpoint: GET {monitoring}/{id}/log
        """
        tail = at_most("tail", tail)
        job_id, cluster_name, job = self._locate(id)
        source = LogSource(
            lambda moment, separator, notes: self._open_log(
                job_id, cluster_name, _instant(moment), True, separator, notes=notes
            ),
            lambda: self.status(job_id),
            self._transport.read_timeout,
        )
        wanted = LogRequest(_aware(since), timestamps, tail, follow)
        return LogLines(source, wanted, self._clock, job)

    def attach(
        self,
        id: Job,
        *,
        tty: bool = False,
        stdin: bool = False,
        stdout: bool = False,
        stderr: bool = False,
        cluster_name: str | None = None,
    ) -> StdStream:
        """Connect with the input and output of a running job, from now on.

        With neither `stdout` nor `stderr` both are received. A job that was started with a
        terminal is attached with it, and one without is not, whatever `tty` says.

        Raises:
            ResourceNotFound: The job is not running.

        Endpoint: GET {monitoring}/{id}/attach, a websocket
        """
        from .channels import StdStream

        job = id if isinstance(id, JobDescription) else self.status(id)
        tty = job.container.tty
        query = _channels(tty=tty, stdin=stdin, stdout=stdout, stderr=stderr)
        websocket = self._open_channel(job, "attach", query, cluster_name)
        return StdStream(websocket, f"attach to {job.id}", tty=tty, stdin=stdin)

    def exec(
        self,
        id: Job,
        cmd: str | Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        stdout: bool = False,
        stderr: bool = False,
        cluster_name: str | None = None,
    ) -> StdStream:
        """Run a command inside a running job, and return its input and output.

        A string is split by shell rules and run by no shell; write ``sh -c '...'`` for pipes.
        With neither `stdout` nor `stderr` both are received; with `tty` both come as `stdout`.

        Raises:
            ResourceNotFound: The job is not running.
            IllegalArgumentError: There is no such job or no command, or the command has a quote
                that is not closed, or it is longer than the platform takes: 256 KiB on the local
                one, 8 KiB on others.
            ConnectionFailed: The platform was not reached, or did not answer. The command is not
                sent again, but it may have been carried out.

        Endpoint: GET {monitoring}/{id}/exec, a websocket
        """
        from .channels import StdStream

        with BadValuesRefused():
            command = command_line(cmd)
        query = [("cmd", command)]
        query += _channels(tty=tty, stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            websocket = self._open_channel(id, "exec", query, cluster_name)
        except APIError as error:
            _check_length(command, error)
            if isinstance(error, ResourceNotFound | ServerError):
                _check_words(command, error)
            raise
        except ConnectionFailed as error:
            if len(command) > COMMON_HEAD_LIMIT:
                hint = f"the command of {len(command)} characters may be too long for the platform"
                error.args = (f"{error}; {hint} or a proxy before it, so {SHORTER}",)
            raise
        return StdStream(websocket, f"{command!r}", tty=tty, stdin=stdin)

    def _open_channel(
        self,
        id: Job,
        channel: str,
        query: Sequence[tuple[str, str]] = (),
        cluster_name: str | None = None,
    ) -> WebSocket:
        from neuro_sync.transport.websocket import WebSocket

        url = f"{self._monitoring_url(id, cluster_name)}/{channel}"
        offered = (frames.CHANNELS_WITH_EOF, frames.CHANNELS)

        def connect() -> WebSocket:
            return WebSocket(self._transport, url, query=query, subprotocols=offered).open()

        try:
            return connect()
        except NeuroError:
            if self._transport.current_address(url) == url:
                raise
            return connect()  # the service has moved, and was not reached at its old address

    def _monitoring_url(self, id: Job, cluster_name: str | None = None) -> str:
        return self._url_of(self._locate(id, cluster_name))

    def _url_of(self, job: _Located) -> str:
        return f"{self._config.cluster(job.cluster_name).monitoring_url}/{job.id}"

    @overload
    def run_command(
        self,
        id: Job,
        cmd: str | Sequence[str],
        *,
        input: bytes | str | None = None,
        timeout: Duration | None = None,
        eof_timeout: Duration | None = frames.EOF_TIMEOUT_S,
        check: bool = False,
        text: Literal[False] = False,
        cluster_name: str | None = None,
    ) -> CommandResult[bytes]: ...

    @overload
    def run_command(
        self,
        id: Job,
        cmd: str | Sequence[str],
        *,
        input: bytes | str | None = None,
        timeout: Duration | None = None,
        eof_timeout: Duration | None = frames.EOF_TIMEOUT_S,
        check: bool = False,
        text: Literal[True],
        cluster_name: str | None = None,
    ) -> CommandResult[str]: ...

    def run_command(
        self,
        id: Job,
        cmd: str | Sequence[str],
        *,
        input: bytes | str | None = None,
        timeout: Duration | None = None,
        eof_timeout: Duration | None = frames.EOF_TIMEOUT_S,
        check: bool = False,
        text: bool = False,
        cluster_name: str | None = None,
    ) -> CommandResult[bytes] | CommandResult[str]:
        """Run a command inside a running job, and wait for its end, as ``subprocess.run`` does.

        `input` is all that the command reads. With `text` its output is decoded as UTF-8.

        The hosted platform cannot send a command where its input ends. The command gets the
        input all the same, and has to end by itself, as ``head -n 1`` does. It is given up when
        nothing happens for `eof_timeout` seconds after the input; ``None`` sets no limit.

        Raises:
            CommandFailed: With ``check=True``, when it did not end with 0.
            CommandTimeout: It was not over within `timeout` from the call on; the error has its
                output so far. It may go on inside the job.
            StreamInterrupted: The connection ended before there was an exit code.
            InputNotEnded: Nothing happened for `eof_timeout` seconds after the input, and the
                platform cannot send its end. The error has the output so far.
            ResourceNotFound: The job is not running.
            IllegalArgumentError: There is no such job or no command, or the command has a quote
                that is not closed.

        Endpoint: GET {monitoring}/{id}/exec, a websocket
        """
        end = deadline(timeout, monotonic())
        from .channels import CLOSING_PATIENCE_S

        silence = _seconds(eof_timeout, "eof_timeout")
        data = input.encode() if isinstance(input, str) else input
        # Without input there is nothing whose end would have to be sent.
        try:
            with call_deadline(end):
                stream = self.exec(id, cmd, stdin=bool(data), cluster_name=cluster_name)
        except (ConnectionFailed, ServerError) as error:
            if monotonic() < end:
                raise
            raise CommandTimeout(f"{cmd!r} was not over in time: {error}") from error
        try:
            left = end - monotonic()
            result = stream.communicate(data or None, timeout=left, eof_timeout=silence)
        finally:
            stream.close(patience_s=min(CLOSING_PATIENCE_S, max(end - monotonic(), 0.0)))
        if check and result.exit_code != 0:
            tail = (result.stderr or result.stdout).decode(errors="replace").strip()
            why = stream.exit_message or tail[-2000:]
            raise CommandFailed(
                f"{cmd!r} ended with {result.exit_code}" + (f": {why}" if why else ""),
                result.exit_code,
                result.stdout.decode(errors="replace") if text else result.stdout,
                result.stderr.decode(errors="replace") if text else result.stderr,
            )
        return result.decoded() if text else result

    def exec_create(self, id: Job, cmd: str | Sequence[str], *, tty: bool = False) -> str:
        """Prepare a command for `exec_start` and return an id for it; `exec` does both at once.

        Platforms of 2020 kept such commands; now this object does. Nothing runs yet.

        Raises:
            IllegalArgumentError: There is no such job.
        """
        with BadValuesRefused():
            command = command_line(cmd)
        return self._commands.add(self._id_of(id), command, tty=tty)

    def exec_start(self, id: Job, exec_id: str) -> StdStream:
        """Run a command that was prepared; raises as `exec` does.

        Endpoint: GET {monitoring}/{id}/exec, a websocket
        """
        prepared = self._commands.get(self._id_of(id), exec_id)
        return prepared.start(lambda: self.exec(id, prepared.command, tty=prepared.tty, stdin=True))

    def exec_inspect(self, id: Job, exec_id: str) -> ExecInspect:
        """Return whether a prepared command runs, or how it ended.

        Raises:
            ResourceNotFound: It was not prepared here.
        """
        return self._commands.get(self._id_of(id), exec_id).inspect()

    def exec_resize(self, id: Job, exec_id: str, *, w: int, h: int) -> None:
        """Tell a prepared command that runs the size of its terminal.

        Raises:
            StreamClosed: It does not run.
        """
        self._commands.get(self._id_of(id), exec_id).resize(h, w)

    def resize(self, id: Job, *, w: int, h: int) -> None:
        """Tell a job the size of its terminal.

        Raises:
            NotSupported: The platform has no such call any more; `StdStream.resize` does it.
            ResourceNotFound: The job is not running.

        Endpoint: POST {monitoring}/{id}/resize
        """
        size = {name: characters(name, value) for name, value in (("w", w), ("h", h))}
        url = f"{self._monitoring_url(id)}/resize"
        try:
            query = [(name, str(value)) for name, value in size.items()]
            self._transport.request("POST", url, retry=Retry.ALWAYS, query=query)
        except ResourceNotFound as error:
            if error.payload is not None:  # the call is there, the job is not
                raise
            raise NotSupported(
                "this platform cannot resize a job's terminal from outside; "
                "call resize(h, w) of the stream that jobs.attach() returns"
            ) from error

    def send_signal(
        self, id: Job, signal: str | int = "SIGKILL", *, cluster_name: str | None = None
    ) -> None:
        """Send a signal to the main process of a running job; `kill` is what ends a job.

        Raises:
            NotSupported: It is not SIGKILL, and the platform would send SIGKILL instead. Nothing
                was sent.
            ResourceNotFound: The job is not running.

        Endpoint: POST {monitoring}/{id}/kill
        """
        is_kill = str(signal).upper() in ("9", "KILL", "SIGKILL")
        if not is_kill and not self._config.is_local:
            name = str(signal).upper().removeprefix("SIG")
            raise NotSupported(
                f"this platform would send SIGKILL instead of {signal}; "
                f'use jobs.exec(id, "kill -{name} 1")'
            )
        url = f"{self._monitoring_url(id, cluster_name)}/kill"
        query = [] if is_kill else [("signal", str(signal))]
        self._transport.request("POST", url, retry=Retry.NEVER, query=query)

    def save(
        self,
        id: Job,
        image: RemoteImage | str,
        *,
        progress: AbstractDockerImageProgress | None = None,
        cluster_name: str | None = None,
    ) -> None:
        """Make an image of a running job as it is now, and push it to the platform's registry.

        It may take minutes.

        Raises:
            IllegalArgumentError: There is no such job, or the image is not of the platform.
            AuthorizationError: The image may not be written.
            NDJSONError: It failed; the text says why, for instance that the job is not running.

        Endpoint: POST {monitoring}/{id}/save
        """
        target = self._parse.platform_image(image, cluster_name=cluster_name)
        tag = target.tag or LATEST
        target = target.model_copy(update={"tag": tag})
        job = self._locate(id, cluster_name)
        job_id = job.id
        progress = progress or AbstractDockerImageProgress()
        with self._transport.stream(
            f"{self._url_of(job)}/save",
            retry=Retry.NEVER,
            method="POST",
            body={"container": {"image": target.as_docker_url()}},
            accept=NDJSON,
            is_silent=True,
        ) as stream:
            events = _save_events(stream)
            progress.save(ImageProgressSave(job=job_id, dst=target))
            _expect(events, "CommitStarted")
            progress.commit_started(ImageCommitStarted(job_id=job_id, target_image=target))
            _expect(events, "CommitFinished")
            progress.commit_finished(ImageCommitFinished(job_id=job_id))
            source = LocalImage(name=f"{target.project_name}/{target.name}", tag=tag)
            progress.push(ImageProgressPush(src=source, dst=target))
            for step in filter(None, (event.step(tag) for event in events)):
                progress.step(step)

    def port_forward(
        self,
        id: Job,
        local_port: int,
        job_port: int,
        *,
        no_key_check: bool = False,  # noqa: ARG002  # of the days of SSH; old code gives it
        cluster_name: str | None = None,
    ) -> PortForward:
        """Make a port of a job a port of this machine, until the object returned is closed.

        `local_port` 0 picks a free one, `PortForward.local_port`. A job that is not running, or
        does not listen, is known only when something connects; that is logged.

        Raises:
            ConfigError: The local port cannot be used.
            IllegalArgumentError: There is no such job.

        Endpoint: GET {monitoring}/{id}/port_forward/{port}, a websocket for each connection
        """
        from neuro_sync.transport.websocket import WebSocket

        from .forward import LAST_PORT, PortForward

        whole_number("job_port", job_port, least=1, most=LAST_PORT)
        job = self._locate(id, cluster_name)
        url = f"{self._url_of(job)}/port_forward/{job_port}"
        return PortForward(
            lambda: WebSocket(self._transport, url),
            local_port,
            f"port {job_port} of {job.id}",
        )

    def _open_log(
        self,
        id: Job,
        cluster_name: str | None,
        since: str | None,
        timestamps: bool,
        separator: str | None,
        *,
        notes: bool = False,
    ) -> Stream:
        query = [("timestamps", "true")] if timestamps else []
        query += [("debug", "true")] if notes else []
        if since is not None:
            query.append(("since", since))
        if separator is not None:
            query.append(("separator", separator))
        url = f"{self._monitoring_url(id, cluster_name)}/log"
        return self._transport.stream(url, retry=Retry.ALWAYS, query=query, is_silent=True)

    def _id_of(self, id: Job) -> str:
        return self._locate(id).id

    def _locate(self, id: Job, cluster_name: str | None = None) -> _Located:
        """Return the id itself, which is all that the monitoring service knows jobs by."""
        if not isinstance(id, JobDescription):
            found = self._read(id)
            if JOB_ID.fullmatch(found.id):
                return _Located(found.id, cluster_name or found.cluster_name)
            id = self.status(found.id)
        return _Located(id.id, cluster_name or id.cluster_name, id)

    def _key(self, id: Job) -> str:
        """Return the part of a path that names the job."""
        return id.id if isinstance(id, JobDescription) else self._read(id).id

    def _read(self, id: str | URL) -> _Located:
        """Return the id or name that is given, and the cluster if it is an address."""
        text = str(id)
        if not text:
            raise IllegalArgumentError("which job? its id or name is empty")
        return self._find(text) if text.startswith("job:") else _Located(segment(text), None)

    def _find(self, address: str) -> _Located:
        """Return the id of the job at an address, which may end with its name."""
        uri = self._parse.str_to_uri(address, allowed_schemes=("job",))
        *tenant, key = uri.parts[1:] or ("",)
        if not key:
            raise IllegalArgumentError(f"{address!r} ends with no job's id or name")
        if JOB_ID.fullmatch(key):
            return _Located(key, uri.host)
        project = tenant.pop() if tenant else None
        found = self.list(
            name=key,
            cluster_name=uri.host,
            org_names=tenant,
            project_names=(project,) if project else (),
            reverse=True,
            limit=1,
        )
        with found:
            for job in found:
                return _Located(job.id, job.cluster_name or uri.host)
        raise IllegalArgumentError(f"no such job {address}")

    def _api(self, *parts: str) -> str:
        return f"{self._config.api_url}/{'/'.join(parts)}"

    def list(
        self,
        *,
        statuses: JobStatus | str | Iterable[JobStatus | str] = (),
        name: str | None = None,
        tags: str | Iterable[str] = (),
        owners: str | Iterable[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        reverse: bool = False,
        limit: int | None = None,
        cluster_name: str | None = None,
        org_names: str | Iterable[str] = (),
        project_names: str | Iterable[str] = (),
    ) -> Records[JobDescription]:
        """Return the jobs that the caller may see, oldest first, each read as it is asked for.

        Filters of one kind are alternatives, but a job must carry all of `tags`; one string may be
        given alone. `since` and
        `until` compare the time of creation, themselves included; without a zone they are local
        time. With `reverse` the newest come first, so that ``reverse=True, limit=10`` are the
        ten newest. Jobs that the platform is removing are left out.

        Raises:
            NDJSONError: While it is read: the platform failed in the middle of the list.

        Endpoint: GET /jobs
        """
        limit = at_most("limit", limit, least=1)
        # As text, so that the platform's error names a status that there is not.
        query = [("status", str(status)) for status in strings("statuses", statuses)]
        query += [("name", name)] if name else []
        query += [("tag", tag) for tag in strings("tags", tags)]
        query += [("owner", owner) for owner in strings("owners", owners)]
        query += [("since", str(_instant(since)))] if since else []
        query += [("until", str(_instant(until)))] if until else []
        query.append(("cluster_name", cluster_name or self._config.cluster_name))
        orgs = strings("org_names", org_names) or (self._config.org_name,)
        query += [("org_name", org) for org in orgs if org]
        projects = strings("project_names", project_names)
        query += [("project_name", project) for project in projects]
        query += [("reverse", "1")] if reverse else []
        query += [("limit", str(limit))] if limit is not None else []
        # A platform lists jobs under removal too, unless it is asked not to.
        query += [("being_dropped", "False"), ("logs_removed", "False")]
        stream = self._transport.stream(
            self._api("jobs"), retry=Retry.ALWAYS, query=query, accept=NDJSON
        )
        return Records(stream, map(self._parse.recognize, _read_jobs(stream)))


def _save_events(stream: Stream) -> Iterator[ImageEvent]:
    for event in read_models(stream, ImageEvent):
        if event.failure:
            raise NDJSONError(event.failure)
        yield event


def _expect(events: Iterator[ImageEvent], status: str) -> None:
    """Take the next event, which the protocol fixes."""
    event = next(events, None)
    if event is None or event.status != status:
        told = "nothing" if event is None else repr(event.status)
        raise ProtocolError(f"the platform told {told} of a job that is saved, not {status!r}")


def _read_jobs(stream: Stream) -> Iterator[JobDescription]:
    if stream.content_type == NDJSON:
        return read_models(stream, JobDescription)
    # A platform of 2020 answers with one document.
    return iter(_OldList.from_answer(b"".join(stream)).jobs)


class _OldList(Model):
    stand_ins = JobDescription.stand_ins
    lossy_lists = JobDescription.lossy_lists

    jobs: tuple[JobDescription, ...]


def _channels(*, tty: bool, stdin: bool, stdout: bool, stderr: bool) -> list[tuple[str, str]]:
    """Say which channels to open; without any output a stream would be over at once."""
    if tty:  # then all output comes as stdout, and a platform refuses to be asked for both
        stdout, stderr = True, False
    elif not stdout and not stderr:
        stdout = stderr = True
    flags = {"tty": tty, "stdin": stdin, "stdout": stdout, "stderr": stderr}
    query = [(name, str(int(flag))) for name, flag in flags.items()]
    if tty and (size := _terminal_size()) is not None:
        query += [("w", str(size.columns)), ("h", str(size.lines))]
    return query


def _terminal_size() -> os.terminal_size | None:
    """Return the size of this process's terminal, which a command's own one has from its start.

    A platform that does not know it passes over it, and is told by `StdStream.interact`.
    """
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except (AttributeError, ValueError, OSError):  # no terminal, or a notebook's
        return None
    return size if size.columns and size.lines else None


def _check_words(command: str, refusal: APIError) -> None:
    """Check that a command can be split into words, after a platform has refused it.

    For one that cannot, a container's engine is at fault as the platform sees it, so that the
    answer is the same as for a job that is not running.

    Raises:
        IllegalArgumentError: It cannot.
    """
    shown = repr(command if len(command) <= SHOWN_COMMAND else f"{command[:SHOWN_COMMAND]}...")
    try:
        if split_words(command):
            return
        text = f"the command {shown} is blank; name a program"
    except ValueError as error:
        text = (
            f"the command {shown} cannot be split into words: {error}; "
            "close the quote, escape it by a backslash, or give the words as a list"
        )
    raise IllegalArgumentError(
        text, status=refusal.status, method=refusal.method, path=refusal.path
    ) from refusal


def _check_length(command: str, refusal: APIError) -> None:
    """Check that a platform has not refused a command for its length.

    Raises:
        IllegalArgumentError: It has.
    """
    is_mute = refusal.status == HTTPStatus.BAD_REQUEST and refusal.payload is None
    if refusal.status in HEAD_TOO_LARGE or (is_mute and len(command) > COMMON_HEAD_LIMIT):
        raise IllegalArgumentError(
            f"the command of {len(command)} characters is too long for this platform "
            f"({refusal.text[:SHOWN_COMMAND]}); {SHORTER}",
            status=refusal.status,
            method=refusal.method,
            path=refusal.path,
            request_id=refusal.request_id,
        ) from refusal


def _reached(job: JobDescription, until: Until) -> bool:
    return job.status.is_finished or (until == "running" and job.status.is_running)


def _seconds(duration: Duration | None, name: str) -> float | None:
    return None if duration is None else in_seconds(duration, name)


def _minutes(duration: Duration | None, name: str) -> int | None:
    """Return whole minutes, rounded up: a job may not be stopped before its time.

    A time that is longer than any job runs is no limit.
    """
    seconds = math.inf if duration is None else in_seconds(duration, name)
    if seconds <= 0:
        raise IllegalArgumentError(f"{name} = {duration!r}: should be more than 0 seconds")
    minutes = seconds / 60
    return None if minutes > LONGEST_LIFE_SPAN_MINUTES else math.ceil(minutes)


def _aware(moment: datetime | None) -> datetime | None:
    """Return a time in UTC; a naive one is local time."""
    return None if moment is None else moment.astimezone(timezone.utc)


def _instant(moment: datetime | None) -> str | None:
    """Write a time as the wire wants it: UTC, with its offset; a naive one is local time."""
    aware = _aware(moment)
    return None if aware is None else aware.isoformat()
