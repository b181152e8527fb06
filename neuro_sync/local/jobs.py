"""The service behind the routes: what is asked for becomes jobs, what happens their history."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from neuro_sync.errors import (
    AuthorizationError,
    IllegalArgumentError,
    NeuroError,
    NotSupported,
    ResourceNotFound,
    ServerError,
)
from neuro_sync.models.base import ANSWER
from neuro_sync.models.config import Preset
from neuro_sync.models.jobs import (
    LONGEST_LIFE_SPAN_MINUTES,
    Container,
    HTTPPort,
    JobOptions,
    JobPriority,
    JobRestartPolicy,
    JobRun,
    JobStart,
    JobStatus,
    JobTelemetry,
    Resources,
    Workload,
)
from neuro_sync.models.users import Action

from . import lifecycle, timeline
from .access import Caller, user_of
from .clock import Clock, Timer, wall_time
from .durable_files import make_folder
from .executors import Work, submit
from .lifecycle import Cancelled, CouldNotRun, Event, Failed, Rules, Vanished
from .logs import JobLog, Pulse
from .machine import cheapest, room_of
from .mounts import Missing, Mounts
from .permissions import Resource
from .runtimes.base import Launch, Runtime
from .schedule import Decisions, Job, Phase, Schedule
from .sites import Sites
from .store import JobChange, JobFilter, JobRow, Store

logger = logging.getLogger(__name__)

LONGEST_END = 20.0
"""Seconds that jobs may take to end with the platform; a process can be stuck in the kernel."""
SAMPLE_PERIOD = 1.0
RETRY = 1.0
"""Seconds until what could not be written down is tried again."""
KEEP_ALIVE = 10.0
"""Seconds of silence after which a stream shows that it is still there."""
LONGEST_TIMER = 10 * 365 * 86400
"""Seconds; no event loop counts further than it has to."""
PRIORITIES = {JobPriority.LOW: 1, JobPriority.NORMAL: 2, JobPriority.HIGH: 3}


@dataclass(frozen=True)
class Tenant:
    """Where on a platform something belongs."""

    cluster: str
    org: str
    project: str


class JobService:
    """Accepts jobs, has a runtime run them, and remembers how they went.

    What happens is told to the schedule; what that decides is first recorded and then carried out,
    so that a platform that was killed at any moment can go on from what it finds. All of it happens
    on one event loop, so that nothing here needs a lock.
    """

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        schedule: Schedule,
        mounts: Mounts,
        sites: Sites,
        presets: tuple[Preset, ...],
        home: Tenant,
        clock: Clock,
        *,
        registry_hosts: Collection[str] = (),
    ) -> None:
        self._store = store
        self._sites = sites
        self._runtime = runtime
        self._schedule = schedule
        self._mounts = mounts
        self._presets = {preset.name: preset for preset in presets}
        self._home = home
        self._clock = clock
        self._registry_hosts = registry_hosts
        self._timer: Timer | None = None
        self._numbers = itertools.count()
        self._to_launch: deque[Job] = deque()
        self._logs: dict[str, JobLog] = {}
        """Of the jobs that may still write."""
        self._changes = Pulse()
        self._unrecorded = Decisions()
        """What was decided and could not be written down, and so is not done yet."""
        self._is_closing = False
        self._damaged: set[str] = set()
        """Ids of unfinished jobs of which too little is known to go on with them."""

    async def open(self, folder: Path, *, only_to_end: bool = False) -> None:
        """Begin to run jobs, and take up those of an earlier platform on the same folder.

        Or `only_to_end` them: then nothing is launched.
        """
        self._folder = folder / "jobs"
        make_folder(self._folder)
        await self._runtime.open(folder, self._on_event)
        now = self._clock.now()
        rows = []
        for row in self._store.not_over():
            try:
                job = self._job(row)
            except (ValueError, LookupError):
                logger.exception("%s is left out: what platform.db says of it is damaged", row.id)
                self._damaged.add(row.id)
                continue
            rows.append((row, job))
            self._open_log(row.id).create()
            self._schedule.restore(job, now)
            if row.answer is None:
                self._reopen_site(row)
        self._mounts.release_others([*(row.id for row, _ in rows), *self._damaged])
        if only_to_end:
            self._end_all()
        for row, job in rows:
            if row.phase in (Phase.LIVE, Phase.ENDING):
                with self._reporting(row.id):
                    is_ending = only_to_end or row.phase == Phase.ENDING
                    # A run that has begun has got what it needs, which may be gone by now.
                    launch = self._launch(row, is_new=not is_ending and not _has_begun(job))
                    self._runtime.adopt(launch, is_ending=is_ending)
        if not only_to_end:
            self._carry_out(self._schedule.resume(now))

    async def close(self) -> None:
        """End all jobs and wait for them; then nothing of the platform is left running."""
        self._is_closing = True
        self._end_all()
        ends = [log.until_ended() for log in self._logs.values()]
        try:
            await asyncio.wait_for(asyncio.gather(*ends), LONGEST_END)
        except asyncio.TimeoutError:
            logger.warning("some jobs did not end; they are left to it")
        if self._timer is not None:
            self._timer.cancel()
        await self._sites.close_all()
        await self._runtime.close()

    def _end_all(self) -> None:
        """Cancel all jobs, and launch none any more."""
        reason = "The local platform was stopped."
        stopped = Cancelled(self._clock.now(), "PlatformStopped", reason)
        self._carry_out(self._schedule.close(stopped))

    def start(self, spec: JobStart | JobRun, caller: Caller) -> JobRow:
        """Accept a job and have it started.

        The checks are those of the hosted platform; a body that is malformed was refused before.
        """
        tenant = self._tenant(spec, caller)
        container, options = self._resolve(spec)
        _check_addresses(container, tenant.cluster)
        if options.pass_config:
            raise NotSupported(
                "pass_config: this local platform gives jobs no login of their own; leave it out"
            )
        if options.energy_schedule_name is not None and not options.scheduler_enabled:
            raise IllegalArgumentError("energy_schedule_name requires scheduler_enabled")
        if options.scheduler_enabled and options.schedule_timeout is not None:
            raise IllegalArgumentError("schedule_timeout is not allowed for scheduled jobs")
        caller.require_all(_needs(container, tenant, self._registry_hosts))
        if not options.wait_for_jobs_quota:
            self._check_quota(caller.user)
        if spec.name is not None:
            self._check_name(spec.name, tenant.project)
        if options.privileged and not self._runtime.allows_privileged:
            raise IllegalArgumentError(f"Cluster {tenant.cluster} does not allow privileged jobs")
        self._check_room(container.resources)
        self._runtime.check(container)
        job_id = f"job-{uuid.uuid4()}"
        now = self._clock.now()
        life = timeline.note(lifecycle.created(now), self._clock)
        price = self._price(container, options.preset_name)
        description = _describe(job_id, caller.name, tenant, container, options, price)
        if container.http is not None:
            description["http_url"] = self._open_site(job_id, container.http)
        row = JobRow(
            id=job_id,
            name=spec.name,
            owner=caller.name,
            cluster_name=tenant.cluster,
            org_name=tenant.org,
            project_name=tenant.project,
            status=life[-1].status.value,
            created_at=life[0].shown_at,
            description=description,
            transitions=timeline.record(life, self._clock),
            phase=Phase.WAITING.value,
            waits_for_seat=options.wait_for_jobs_quota,
        )
        try:
            # The change below is synced, and this with it; there is none if the quota is used up.
            self._store.add(row, tuple(sorted(set(spec.tags))), sync=row.waits_for_seat)
        except ServerError:
            self._sites.close(job_id)
            raise
        job = self._job(row)
        decisions = self._schedule.add(job, now)
        # After the answer: a job is pending when its user learns of it.
        asyncio.get_running_loop().call_soon(self._create_log, job_id, self._open_log(job_id))
        self._carry_out(decisions, is_new=True)
        if job_id in self._unrecorded.changed:
            self._store.sync()
        life = timeline.note(job.life, self._clock)
        return replace(row, transitions=timeline.record(life, self._clock))

    def kill(self, id_or_name: str, caller: Caller) -> None:
        """Cancel a job at once; what it runs ends a moment later. One that is over stays.

        Raises:
            ServerError: It could not be written down, so it is done later.
        """
        now = self._clock.now()
        job = self.find(id_or_name, caller, Action.WRITE)
        self._carry_out(self._schedule.report(job.id, Cancelled(now, "UserRequested"), now))
        if job.id in self._unrecorded.changed:
            raise ServerError(
                f"{job.id} will be cancelled as soon as {self._store.path} can be written; "
                "look after its disk"
            )

    def find(self, id_or_name: str, caller: Caller, action: Action) -> JobRow:
        """Return a job by id, or the caller's newest one of a name, to do something with it.

        Raises:
            IllegalArgumentError: There is none.
            AuthorizationError: There is, but the caller may not do that.
        """
        job = self._get(id_or_name, caller.name)
        caller.require(action, *job.resources)
        return job

    def running(self, id_or_name: str, caller: Caller) -> JobRow:
        """Return a job that runs now, to take part in what goes on inside.

        Raises:
            ResourceNotFound: It does not run yet, or no more.
        """
        job = self.find(id_or_name, caller, Action.WRITE)
        if job.status != JobStatus.RUNNING.value:
            raise ResourceNotFound(f"Job '{job.id}' is not running.")
        return job

    @property
    def total_running_jobs(self) -> int | None:
        """How many unfinished jobs each user may have, those of the user's roles included."""
        return self._schedule.quota

    @property
    def runtime(self) -> Runtime:
        """What runs the jobs; channels into one that runs are opened there."""
        return self._runtime

    def log(self, job: JobRow) -> JobLog:
        """Return the job's log; it goes on over all runs of the job.

        Raises:
            ResourceNotFound: Somebody has deleted it.
        """
        log = self._logs.get(job.id) or self._ended_log(job.id)
        if log.exists:
            return log
        if (log.ended and job.run) or job.status == JobStatus.RUNNING.value:
            raise ResourceNotFound(
                f"the log of {job.id} is gone: somebody has deleted {self._folder / job.id}"
            )
        log.create()
        return log

    async def telemetry(self, job_id: str) -> AsyncGenerator[JobTelemetry | None, None]:
        """Yield what a job uses each second while it runs; None when there is nothing to tell."""
        meter = self._runtime.meter(job_id)
        while True:
            change = self._changes.watch()
            status = JobStatus(self._row(job_id).status)
            if status.is_finished:
                change.cancel()
                return
            if status.is_running:
                meter = meter or self._runtime.meter(job_id)
                sample = await submit(Work.TELEMETRY, meter.sample) if meter else None
                if sample is not None:
                    yield sample
                else:
                    meter = None  # the job may be restarted
                await asyncio.wait({change}, timeout=SAMPLE_PERIOD)
            else:
                meter = None
                done, _ = await asyncio.wait({change}, timeout=KEEP_ALIVE)
                if not done:
                    yield None
            change.cancel()

    def capacity(self) -> dict[str, int]:
        """Return how many jobs of each preset would start at once, beside those that run."""
        free = self._schedule.free
        return {name: free.times(room_of(preset)) for name, preset in self._presets.items()}

    def change_life_span(self, job: JobRow, *, minutes: int, add: bool) -> None:
        """Set the minutes a job may run, or add to them; it counts from its start."""
        if job.answer is not None:
            return
        if add:
            minutes += job.description.get("max_run_time_minutes") or 0
            if minutes > LONGEST_LIFE_SPAN_MINUTES:
                raise IllegalArgumentError(
                    f"value is greater than {LONGEST_LIFE_SPAN_MINUTES}: it would be {minutes}"
                )
        self._store.describe(job.id, {**job.description, "max_run_time_minutes": minutes})
        now = self._clock.now()
        self._carry_out(self._schedule.set_life_span(job.id, _seconds(minutes), now))

    def tags(self, owner: str) -> list[str]:
        """Return all tags an owner ever used, those of the newest job first."""
        return self._store.tags(owner)

    def list(self, wanted: JobFilter, caller: Caller) -> Iterator[str]:
        """Yield the answer of each job that the caller may read, as `answer` gives it."""
        readable = caller.grants.readable("job")
        for job in self._store.answers(replace(wanted, readable=readable)):
            if isinstance(job, str):
                yield job
            elif job.id not in self._damaged:
                yield self.answer(job)

    def answer(self, job: JobRow) -> str:
        """Return what the wire tells of a job now, as JSON without a newline."""
        if job.answer is not None:
            return job.answer
        life = timeline.read(job.transitions, self._clock)
        return _answer(job.description, life, self._clock.now())

    def _open_site(self, job_id: str, http: HTTPPort, port: int = 0) -> str:
        return self._sites.open(job_id, http.port, requires_auth=http.requires_auth, port=port)

    def _reopen_site(self, job: JobRow) -> None:
        """Listen for an earlier platform's job, where it did if that is possible."""
        url = job.description.get("http_url")
        if url is not None:
            http = HTTPPort.model_validate(job.description["container"]["http"])
            url = self._open_site(job.id, http, urlsplit(url).port or 0)
            self._store.describe(job.id, {**job.description, "http_url": url})

    def _on_event(self, job_id: str, event: Event) -> None:
        now = self._clock.now()
        # It has happened, whatever the wall clock showed.
        event = replace(event, at=min(self._clock.at(event.at), now))
        self._carry_out(self._schedule.report(job_id, event, now))

    def _on_timer(self) -> None:
        self._timer = None
        self._carry_out(self._schedule.tick(self._clock.now()))

    def _carry_out(self, decisions: Decisions, *, is_new: bool = False) -> None:
        """Write down what was decided, and do it; what a new job brings is launched a bit later.

        What cannot be written, since the disk is full, stays to be done, with what is decided
        meanwhile, until it can.
        """
        decisions = self._unrecorded.then(decisions)
        self._unrecorded = Decisions()
        if decisions.changed:
            # Before anything is done: what is done twice is worse than what is not done yet.
            changes = [self._change(job) for job in decisions.changed.values()]
            # A power loss may take with it what is only news of a run: it ends the run as well.
            acts = is_new or decisions.launch or decisions.kill
            sync = bool(acts) or any(change.answer for change in changes)
            try:
                self._store.change(changes, sync=sync)
            except ServerError as error:
                logger.error("%d jobs wait: %s", len(decisions.changed), error)
                if not self._is_closing:  # then the next platform finds out how they ended
                    self._unrecorded = decisions
                    asyncio.get_running_loop().call_later(RETRY, self._try_again)
                    return
            self._changes.beat()
        for job in decisions.changed.values():
            if job.status.is_finished:
                self._sites.close(job.id)
            if job.phase is Phase.OVER:
                self._logs.pop(job.id).end()
                self._release(job.id)
        for job in decisions.kill:
            self._runtime.kill(job.id)
        was_idle = not self._to_launch
        self._to_launch.extend(decisions.launch)
        if was_idle and self._to_launch:
            if is_new:
                asyncio.get_running_loop().call_soon(self._launch_next)
            else:
                self._launch_next()
        self._set_timer()

    def _release(self, job_id: str) -> None:
        try:
            self._mounts.release(job_id)
        except ServerError as error:
            logger.error("%s still counts as a user of its disks: %s", job_id, error)
            if not self._is_closing:  # then the next platform does it
                asyncio.get_running_loop().call_later(RETRY, self._release, job_id)

    def _try_again(self) -> None:
        if self._unrecorded.changed:
            self._carry_out(Decisions())

    def _launch_next(self) -> None:
        """Launch one job, and leave the others until everybody else had a turn."""
        job = self._to_launch[0]
        try:
            if job.phase is Phase.LIVE:
                with self._reporting(job.id):
                    self._runtime.launch(self._launch(self._row(job.id), is_new=True))
            else:  # it was told to end before it came to that
                self._report_later(job.id, Vanished(wall_time()))
        finally:
            self._to_launch.popleft()
            if self._to_launch:
                asyncio.get_running_loop().call_soon(self._launch_next)

    @contextmanager
    def _reporting(self, job_id: str) -> Iterator[None]:
        """Let a job fail that cannot be launched."""
        try:
            yield
        except Missing as error:
            why = "The job could not be started."
            self._report_later(job_id, Failed(wall_time(), str(error), why))
        except IllegalArgumentError as error:
            self._report_later(job_id, CouldNotRun(wall_time(), 125, str(error)))
        except (OSError, NeuroError) as error:
            logger.exception("job %s could not be started", job_id)
            self._report_later(job_id, CouldNotRun(wall_time(), 125, str(error)))

    def _report_later(self, job_id: str, event: Event) -> None:
        asyncio.get_running_loop().call_soon(self._on_event, job_id, event)

    def _set_timer(self) -> None:
        """Come back when the schedule wants to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = self._schedule.next_wake
        if wake is not None:
            left = (wake - self._clock.now()).total_seconds()
            self._timer = self._clock.call_later(min(max(left, 0), LONGEST_TIMER), self._on_timer)

    def _change(self, job: Job) -> JobChange:
        life = timeline.note(job.life, self._clock)
        job.life, last = life, life[-1]
        answer = None
        if job.status.is_finished:
            answer = _answer(self._row(job.id).description, life, last.transition_time)
        logger.info("job %s: %s %s", job.id, last.status, last.reason)
        return JobChange(
            job.id,
            job.status.value,
            timeline.record(life, self._clock),
            answer,
            job.phase.value,
            job.run,
        )

    def _job(self, row: JobRow) -> Job:
        """Return what the schedule is to know of a job."""
        described = row.description
        minutes = described.get("max_run_time_minutes")
        return Job(
            id=row.id,
            number=next(self._numbers),
            owner=user_of(row.owner),
            room=room_of(Resources.model_validate(described["container"]["resources"])),
            life=timeline.read(row.transitions, self._clock),
            rules=Rules(
                JobRestartPolicy(described["restart_policy"]),
                described["scheduler_enabled"],
                described["preemptible_node"],
            ),
            priority=PRIORITIES[JobPriority(described["priority"])],
            waits_for_seat=row.waits_for_seat,
            schedule_timeout=described.get("schedule_timeout"),
            life_span=None if minutes is None else _seconds(minutes),
            phase=Phase(row.phase),
            run=row.run,
        )

    def _launch(self, job: JobRow, *, is_new: bool) -> Launch:
        """Return all that a runtime has to know for a job's present run.

        Only for a new one the values of secrets and what is mounted are looked up.
        """
        # As it was accepted; to check it again takes time, and the rules may be others by now.
        container = Container.model_validate(job.description["container"], context=ANSWER)
        launch = Launch(
            job.id,
            job.owner,
            container,
            log=self._logs[job.id],
            run=job.run,
            privileged=job.description["privileged"],
        )
        if not is_new:
            return launch
        return replace(
            launch,
            environment=self._mounts.environment(container),
            mounts=self._mounts.of(job.id, container),
        )

    def _create_log(self, job_id: str, log: JobLog) -> None:
        try:
            log.create()
        except OSError as error:  # the disk is full; whoever runs the job or reads it tries again
            logger.error("job %s has no log yet: %s", job_id, error)

    def _open_log(self, job_id: str) -> JobLog:
        log = self._logs[job_id] = JobLog(self._folder / job_id)
        return log

    def _ended_log(self, job_id: str) -> JobLog:
        log = JobLog(self._folder / job_id)
        log.end()
        return log

    def _row(self, job_id: str) -> JobRow:
        return self._get(job_id, "")

    def _get(self, id_or_name: str, owner: str) -> JobRow:
        job = self._store.get(id_or_name, owner)
        if job is None:
            raise IllegalArgumentError(f"no such job {id_or_name}")
        if job.id in self._damaged:
            raise ServerError(f"what platform.db says of {job.id} is damaged")
        return job

    def _tenant(self, options: JobOptions, caller: Caller) -> Tenant:
        home = self._home
        if options.cluster_name not in (None, home.cluster):
            raise AuthorizationError("User is not allowed to submit jobs to the specified cluster")
        if options.org_name not in (None, home.org):
            raise AuthorizationError(
                "User is not allowed to submit jobs to the specified cluster "
                "as a member of given organization"
            )
        return Tenant(home.cluster, home.org, options.project_name or caller.user)

    def _resolve(self, spec: JobStart | JobRun) -> tuple[Container, JobOptions]:
        """Return the container and the options, with what the preset says filled in."""
        if isinstance(spec, JobRun):
            return spec.container, spec
        preset = next(iter(self._presets.values()))
        if spec.preset_name is not None:
            found = self._presets.get(spec.preset_name)
            if found is None:
                # The first words are the hosted platform's, and clients look for them.
                raise IllegalArgumentError(
                    f"Preset was not found: {spec.preset_name!r}; "
                    f"there are {', '.join(self._presets)}"
                )
            preset = found
        resources = Resources(
            cpu=preset.cpu,
            memory=preset.memory,
            shm=spec.resources.shm,
            gpu=preset.gpu,
            gpu_model=preset.gpu_model,
        )
        fields = {name: getattr(spec, name) for name in Workload.model_fields}
        # Checked as parts of the spec.
        container = Container.model_validate({**fields, "resources": resources}, context=ANSWER)
        flags = {
            "preset_name": preset.name,
            "scheduler_enabled": preset.scheduler_enabled,
            "preemptible_node": preset.preemptible_node,
        }
        return container, spec.model_copy(update=flags)

    def _check_quota(self, user: str) -> None:
        quota = self.total_running_jobs
        if quota is not None and self._schedule.unfinished[user] >= quota:
            raise IllegalArgumentError(f"Jobs limit quota exceeded for user {user!r}")

    def _check_room(self, resources: Resources) -> None:
        """Refuse what would wait for ever."""
        has, wants = self._schedule.room, room_of(resources)
        others = [
            name
            for name, count in (
                ("AMD GPUs", resources.amd_gpu),
                ("Intel GPUs", resources.intel_gpu),
                ("slices of GPUs", resources.nvidia_migs),
                ("TPUs", resources.tpu_type),
            )
            if count
        ]
        if others:
            raise IllegalArgumentError(f"this machine has no {' and no '.join(others)}")
        if not has.holds(wants):
            raise IllegalArgumentError(
                f"the job wants {wants}, and this machine has only {has} for all jobs together"
            )

    def _price(self, container: Container, preset_name: str | None) -> Decimal:
        preset = self._presets.get(preset_name or "")
        if preset is not None:
            return preset.credits_per_hour
        return cheapest(self._presets.values(), room_of(container.resources))

    def _check_name(self, name: str, project: str) -> None:
        if name.startswith("job-"):
            raise IllegalArgumentError(
                "Failed to create job: job name cannot start with 'job-' prefix."
            )
        user = self._store.unfinished_with_name(name, project)
        if user is not None:
            raise IllegalArgumentError(
                f"Failed to create job: job with name {name!r} and project {project!r} "
                f"already exists: {user!r}"
            )


def _has_begun(job: Job) -> bool:
    """Return whether a job's present run is known to have started."""
    return job.status is JobStatus.RUNNING and job.life[-1].reason != lifecycle.RESTARTING


def _seconds(minutes: int) -> float:
    return min(minutes * 60, LONGEST_TIMER)


def _needs(
    container: Container, tenant: Tenant, registry_hosts: Collection[str]
) -> Iterator[tuple[Action, Resource]]:
    """Yield the permissions that it takes to start a job."""
    yield Action.WRITE, Resource("job", tenant.cluster, tenant.org, tenant.project)
    host, _, name = container.image.as_docker_url().partition("/")
    if host in registry_hosts:
        *folders, last = name.partition("@")[0].split("/")
        yield Action.READ, Resource("image", tenant.cluster, *folders, last.partition(":")[0])
    for file in container.secret_files:
        yield Action.READ, Resource.parse(str(file.secret_uri))
    for secret in container.secret_env.values():
        yield Action.READ, Resource.parse(str(secret))
    for volume in container.volumes:
        action = Action.READ if volume.read_only else Action.WRITE
        yield action, Resource.parse(str(volume.storage_uri))
    for disk in container.disk_volumes:
        yield Action.READ if disk.read_only else Action.WRITE, Resource.parse(str(disk.disk_uri))


def _check_addresses(container: Container, cluster: str) -> None:
    """Refuse addresses that name another cluster, or none."""
    uris = [volume.storage_uri for volume in container.volumes]
    uris += [file.secret_uri for file in container.secret_files]
    uris += [volume.disk_uri for volume in container.disk_volumes]
    uris += container.secret_env.values()
    for uri in uris:
        if uri.host != cluster:
            raise IllegalArgumentError(f"Invalid URI cluster: {uri.host or ''!r} != {cluster!r}")


def _describe(
    job_id: str,
    owner: str,
    tenant: Tenant,
    container: Container,
    options: JobOptions,
    price: Decimal,
) -> dict[str, Any]:
    """Return what the wire tells of a job that never changes."""
    pair = f"{tenant.org}--{tenant.project}"
    short_hash = hashlib.sha256((tenant.org + tenant.project).encode()).hexdigest()[:10]
    namespace = f"platform--{pair}--{hashlib.sha256(pair.encode()).hexdigest()[:24]}"
    description: dict[str, Any] = {
        "id": job_id,
        "owner": owner,
        "cluster_name": tenant.cluster,
        "org_name": tenant.org,
        "project_name": tenant.project,
        "org_project_hash": short_hash,
        "namespace": namespace,
        "uri": f"job://{tenant.cluster}/{tenant.org}/{tenant.project}/{job_id}",
        "container": _describe_container(container),
        "scheduler_enabled": options.scheduler_enabled,
        "is_preemptible": options.scheduler_enabled,
        "preemptible_node": options.preemptible_node,
        "is_preemptible_node_required": options.preemptible_node,
        "pass_config": options.pass_config,
        "privileged": options.privileged,
        "restart_policy": options.restart_policy.value,
        "priority": options.priority.value,
        "materialized": True,
        "being_dropped": False,
        "logs_removed": False,
        "price_credits_per_hour": f"{price:f}",
        "internal_hostname": f"{job_id}.{namespace}",
    }
    optional = {
        "name": options.name,
        "preset_name": options.preset_name,
        "description": options.description,
        "tags": sorted(set(options.tags)) or None,
        "schedule_timeout": options.schedule_timeout,
        "max_run_time_minutes": options.max_run_time_minutes,
        "internal_hostname_named": options.name and f"{options.name}--{short_hash}.{namespace}",
    }
    return description | {name: value for name, value in optional.items() if value is not None}


def _describe_container(container: Container) -> dict[str, Any]:
    described = container.model_dump(mode="json", exclude_none=True)
    kept = ("image", "env", "volumes", "resources")
    described = {name: value for name, value in described.items() if value or name in kept}
    if container.http is not None:
        described["http"].setdefault("health_check_path", "/")
    return described


def _answer(description: Mapping[str, Any], life: tuple[timeline.Step, ...], now: datetime) -> str:
    """Return what the wire tells of a job at one moment of the platform's time."""
    shown = timeline.as_shown(life)
    run_time = lifecycle.run_time(life, now)
    summary = lifecycle.history(shown, now).model_copy(update={"run_time_seconds": run_time})
    history = summary.model_dump(mode="json", exclude_none=True, exclude={"transitions"})
    statuses = [item.model_dump(mode="json", exclude_none=True) for item in shown]
    for item in (history, *statuses):
        for field in ("reason", "description"):
            item[field] = item[field] or None
    price = Decimal(description["price_credits_per_hour"])
    answer = {
        **description,
        "status": summary.status.value,
        "statuses": statuses,
        "history": history,
        "total_price_credits": f"{lifecycle.price(price, summary.run_time_seconds):f}",
    }
    return json.dumps(answer, separators=(",", ":"))
