"""The service behind the routes: what is asked for becomes jobs, what happens their history."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import uuid
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from neuro_sync.errors import (
    AuthorizationError,
    IllegalArgumentError,
    NeuroError,
    NotSupported,
    ResourceNotFound,
)
from neuro_sync.models.config import Preset
from neuro_sync.models.jobs import (
    Container,
    HTTPPort,
    JobOptions,
    JobRestartPolicy,
    JobRun,
    JobStart,
    JobStatus,
    JobStatusItem,
    JobTelemetry,
    Resources,
    Workload,
)
from neuro_sync.models.users import Action

from . import lifecycle, machine
from .access import Caller
from .lifecycle import Cancelled, Event, Transitions
from .logs import JobLog, Pulse
from .permissions import Resource
from .runtimes.base import Launch, Runtime
from .sites import Sites
from .store import JobFilter, JobRow, Store

logger = logging.getLogger(__name__)

_LIFE = TypeAdapter(tuple[JobStatusItem, ...])
LONGEST_END = 20.0
"""Seconds that jobs may take to end with the platform; a process can be stuck in the kernel."""
SAMPLE_PERIOD = 1.0
KEEP_ALIVE = 10.0
"""Seconds of silence after which a stream shows that it is still there."""
LONGEST_TIMER = 10 * 365 * 86400
"""Seconds; no event loop counts further than it has to."""


@dataclass(frozen=True)
class Tenant:
    """Where on a platform something belongs."""

    cluster: str
    org: str
    project: str


class JobService:
    """Accepts jobs, has a runtime run them, and remembers how they went.

    All of it happens on one event loop, so that nothing here needs a lock.
    """

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        sites: Sites,
        presets: tuple[Preset, ...],
        home: Tenant,
        *,
        registry_hosts: Collection[str] = (),
    ) -> None:
        self._store = store
        self._sites = sites
        self._runtime = runtime
        self._presets = {preset.name: preset for preset in presets}
        self._home = home
        self._registry_hosts = registry_hosts
        self._closing = False
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._changes = Pulse()

    async def open(self, folder: Path) -> None:
        """Begin to run jobs, and take up those of an earlier platform on the same folder."""
        await self._runtime.open(folder, self._on_event)
        for job in self._store.list(JobFilter(statuses=_UNFINISHED)):
            self._reopen_site(job)
            self._runtime.adopt(_launch(job))
            self._watch_life_span(self._row(job.id))

    async def close(self) -> None:
        """End all jobs and wait for them; then nothing of the platform is left running."""
        self._closing = True
        reason = Cancelled(_now(), "PlatformStopped", "The local platform was stopped.")
        running = [job.id for job in self._store.list(JobFilter(statuses=_UNFINISHED))]
        for job_id in running:
            self._on_event(job_id, reason)
            self._runtime.kill(job_id)
        ends = [self._runtime.log(job_id).until_ended() for job_id in running]
        try:
            await asyncio.wait_for(asyncio.gather(*ends), LONGEST_END)
        except asyncio.TimeoutError:
            logger.warning("some jobs did not end; their supervisors are left to it")
        for timer in self._deadlines.values():
            timer.cancel()
        await self._sites.close_all()
        await self._runtime.close()

    def start(self, spec: JobStart | JobRun, caller: Caller) -> JobRow:
        """Accept a job and have it started.

        The checks are those of the hosted platform; a body that is malformed was refused before.
        """
        tenant = self._tenant(spec, caller)
        container, options = self._resolve(spec)
        _check_addresses(container, tenant.cluster)
        if options.restart_policy is not JobRestartPolicy.NEVER:
            raise NotSupported(
                f"restart_policy {options.restart_policy.value!r}: this local platform "
                "does not restart jobs; leave it at 'never'"
            )
        if options.pass_config:
            raise NotSupported(
                "pass_config: this local platform gives jobs no login of their own; leave it out"
            )
        if options.energy_schedule_name is not None and not options.scheduler_enabled:
            raise IllegalArgumentError("energy_schedule_name requires scheduler_enabled")
        if options.scheduler_enabled and options.schedule_timeout is not None:
            raise IllegalArgumentError("schedule_timeout is not allowed for scheduled jobs")
        caller.require_all(_needs(container, tenant, self._registry_hosts))
        if spec.name is not None:
            self._check_name(spec.name, tenant.project)
        if options.privileged:
            raise IllegalArgumentError(f"Cluster {tenant.cluster} does not allow privileged jobs")
        self._runtime.check(container)
        job_id = f"job-{uuid.uuid4()}"
        now = _now()
        life = lifecycle.created(now)
        description = _describe(job_id, caller.name, tenant, container, options)
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
            created_at=now,
            description=description,
            transitions=_LIFE.dump_json(life).decode(),
        )
        self._store.add(row, tuple(sorted(set(spec.tags))))
        # After the answer: a job is pending when its user learns of it.
        asyncio.get_running_loop().call_soon(self._launch, row)
        return row

    def _launch(self, row: JobRow) -> None:
        if self._row(row.id).status != JobStatus.PENDING.value:
            return  # cancelled before it came to that
        try:
            self._runtime.launch(_launch(row))
        except (OSError, NeuroError) as error:
            logger.exception("job %s could not be started", row.id)
            self._on_event(row.id, lifecycle.CouldNotRun(_now(), 125, str(error)))

    def kill(self, id_or_name: str, caller: Caller) -> None:
        """Cancel a job at once; what it runs ends a moment later. One that is over stays."""
        job = self.find(id_or_name, caller, Action.WRITE)
        if job.answer is None:
            self._end(job.id, "UserRequested")

    def _end(self, job_id: str, reason: str) -> None:
        self._on_event(job_id, Cancelled(_now(), reason))
        self._runtime.kill(job_id)

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
    def runtime(self) -> Runtime:
        """What runs the jobs; channels into one that runs are opened there."""
        return self._runtime

    def log(self, job: JobRow) -> JobLog:
        return self._runtime.log(job.id)

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
                sample = await asyncio.to_thread(meter.sample) if meter else None
                if sample is not None:
                    yield sample
                await asyncio.wait({change}, timeout=SAMPLE_PERIOD)
            else:
                meter = None
                done, _ = await asyncio.wait({change}, timeout=KEEP_ALIVE)
                if not done:
                    yield None
            change.cancel()

    def capacity(self) -> dict[str, int]:
        """Return how many jobs of each preset this machine would hold at once, beside the others.

        Jobs start whether or not there is room: this only tells what there is.
        """
        jobs = self._store.list(JobFilter(statuses=_UNFINISHED))
        taken = [job.description["container"]["resources"] for job in jobs]
        cpu = machine.cores() - sum(resources["cpu"] for resources in taken)
        memory = machine.memory() - sum(resources["memory"] for resources in taken)
        return {
            name: max(int(min(cpu // preset.cpu, memory // (preset.memory or 1))), 0)
            for name, preset in self._presets.items()
        }

    def change_life_span(self, job: JobRow, *, minutes: int, add: bool) -> None:
        """Set the minutes a job may run, or add to them; it counts from its start."""
        if add:
            minutes += job.description.get("max_run_time_minutes") or 0
        description = {**job.description, "max_run_time_minutes": minutes}
        if job.answer is None:
            self._store.describe(job.id, description)
            self._watch_life_span(self._row(job.id))

    def tags(self, owner: str) -> list[str]:
        """Return all tags an owner ever used, those of the newest job first."""
        return self._store.tags(owner)

    def list(self, wanted: JobFilter, caller: Caller) -> Iterator[str]:
        """Yield the answer of each job that the caller may read, as `answer` gives it."""
        readable = caller.grants.readable("job")
        for job in self._store.answers(replace(wanted, readable=readable)):
            yield job if isinstance(job, str) else self.answer(job)

    def answer(self, job: JobRow) -> str:
        """Return what the wire tells of a job now, as JSON without a newline."""
        return job.answer or _answer(job.description, _LIFE.validate_json(job.transitions), _now())

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
        job = self._row(job_id)
        life = _LIFE.validate_json(job.transitions)
        after = lifecycle.advance(life, event)
        if after is life:
            return
        status = after[-1].status
        at = after[-1].transition_time
        self._store.change(
            job_id,
            status=status.value,
            transitions=_LIFE.dump_json(after).decode(),
            answer=_answer(job.description, after, at) if status.is_finished else None,
        )
        logger.info("job %s: %s %s", job_id, status, after[-1].reason)
        self._changes.beat()
        if status.is_finished:
            self._sites.close(job_id)
        if status.is_finished and job_id in self._deadlines:
            self._deadlines.pop(job_id).cancel()
        elif status.is_running:
            self._watch_life_span(self._row(job_id))

    def _watch_life_span(self, job: JobRow) -> None:
        """End a running job when its time is up."""
        minutes = job.description.get("max_run_time_minutes")
        if minutes is None or job.status != JobStatus.RUNNING.value:
            return
        life: Transitions = _LIFE.validate_json(job.transitions)
        left = min(minutes * 60, LONGEST_TIMER) - lifecycle.run_time(life, _now())
        if job.id in self._deadlines:
            self._deadlines.pop(job.id).cancel()
        self._deadlines[job.id] = asyncio.get_running_loop().call_later(
            max(left, 0), self._end, job.id, "LifeSpanEnded"
        )

    def _row(self, job_id: str) -> JobRow:
        return self._get(job_id, "")

    def _get(self, id_or_name: str, owner: str) -> JobRow:
        job = self._store.get(id_or_name, owner)
        if job is None:
            raise IllegalArgumentError(f"no such job {id_or_name}")
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
        return Tenant(home.cluster, home.org, options.project_name or caller.name.partition("/")[0])

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
        container = Container(
            **{name: getattr(spec, name) for name in Workload.model_fields},
            resources=Resources(
                cpu=preset.cpu,
                memory=preset.memory,
                shm=spec.resources.shm,
                gpu=preset.gpu,
                gpu_model=preset.gpu_model,
            ),
        )
        flags = {
            "preset_name": preset.name,
            "scheduler_enabled": preset.scheduler_enabled,
            "preemptible_node": preset.preemptible_node,
        }
        return container, spec.model_copy(update=flags)

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


_UNFINISHED = tuple(status.value for status in JobStatus.active_items())


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _launch(job: JobRow) -> Launch:
    container = Container.model_validate(job.description["container"])
    return Launch(job.id, container, environment=container.env)


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
    job_id: str, owner: str, tenant: Tenant, container: Container, options: JobOptions
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
        "total_price_credits": "0",
        "price_credits_per_hour": "0",
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


def _answer(description: Mapping[str, Any], life: Transitions, now: datetime) -> str:
    """Put together what the wire tells of a job at one moment."""
    summary = lifecycle.history(life, now)
    history = summary.model_dump(mode="json", exclude_none=True)
    statuses = [item.model_dump(mode="json", exclude_none=True) for item in life]
    for item in (history, *statuses):
        for field in ("reason", "description"):
            item[field] = item[field] or None
    answer = {
        **description,
        "status": summary.status.value,
        "statuses": statuses,
        "history": history,
    }
    return json.dumps(answer, separators=(",", ":"))
