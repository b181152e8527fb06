"""How jobs are shown: as a row, as a description, as what was just started."""

from __future__ import annotations

from collections.abc import Iterator

from neuro_sync.models.jobs import JobDescription, JobStatusItem

from .output import Column, Field, ago, duration, moment, size, visible
from .shell_words import command_line, operand

COLORS = {
    "pending": "cyan",
    "suspended": "cyan",
    "running": "blue",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
}
PLAIN_RULE = (
    "Terminal is attached to the remote job, so you receive the job's output.\n"
    "Use Ctrl-C to detach (it will NOT terminate the job), "
    "or restart the job with `--detach` option."
)
TTY_RULE = (
    "Terminal is attached to the remote job, and each key goes there, Ctrl-C too.\n"
    "Use Ctrl-P Ctrl-Q to detach (it will NOT terminate the job)."
)


def key(job: JobDescription) -> str:
    """Return what a person would type for a job."""
    return job.name or job.id


def columns(you: str) -> tuple[Column[JobDescription], ...]:
    """Return the columns of a listing; what is yours is marked so."""
    return (
        Column("ID", lambda job: job.id),
        Column("NAME", lambda job: job.name),
        Column("STATUS", lambda job: job.status, lambda job: COLORS.get(job.status.value)),
        Column("WHEN", lambda job: ago(job.history.changed_at)),
        Column("IMAGE", lambda job: job.container.image),
        Column("OWNER", lambda job: "<you>" if job.owner == you else job.owner),
        Column("CLUSTER", lambda job: job.cluster_name),
        Column("DESCRIPTION", lambda job: job.description),
    )


def fields(job: JobDescription) -> Iterator[Field]:
    """Return all that a user may want to know of a job."""
    container, history = job.container, job.history
    yield "Job", job.id
    yield "Name", job.name
    yield "Tags", ", ".join(job.tags)
    yield "Description", job.description
    yield "Owner", job.owner
    yield "Cluster", job.cluster_name
    yield "Organization", job.org_name
    yield "Project", job.project_name
    yield "Status", f"{job.status} ({job.reason})" if job.reason else job.status
    yield "Image", container.image
    yield "Entrypoint", container.entrypoint
    yield "Command", container.command
    yield "Working dir", container.working_dir
    yield "Preset", job.preset_name
    yield "Resources", tuple(_resources(job))
    yield "Priority", job.priority if job.priority.value != "normal" else None
    yield "Preemptible", job.is_preemptible
    yield "Restart policy", job.restart_policy if job.restart_policy.value != "never" else None
    yield "Restarts", history.restarts or None
    yield "Life span", duration(job.life_span) if job.life_span else None
    yield "TTY", container.tty or None
    yield "Volumes", tuple(volumes(job))
    yield "Environment", tuple(environment(job))
    yield "Internal Hostname", job.internal_hostname
    yield "Http URL", job.http_url
    if container.http is not None:
        yield "Http port", container.http.port
        yield "Http authentication", container.http.requires_auth
    yield "Created", moment(history.created_at)
    if any(step.status.is_running for step in history.transitions):
        yield "Started", moment(history.started_at)
    yield "Finished", moment(history.finished_at)
    yield "Exit code", history.exit_code
    yield "Details", history.description


def _resources(job: JobDescription) -> Iterator[str]:
    resources = job.container.resources
    yield f"Memory: {size(resources.memory)}"
    yield f"CPU: {resources.cpu}"
    if resources.gpu:
        yield f"GPU: {resources.gpu} x {resources.gpu_model or 'any'}"
    if resources.shm:
        yield "Additional: Extended SHM space"


def volumes(job: JobDescription) -> Iterator[str]:
    """Return what a job mounts, as `--volume` takes it."""
    container = job.container
    for volume in container.volumes:
        yield f"{volume.storage_uri}:{volume.container_path}:{'ro' if volume.read_only else 'rw'}"
    for disk in container.disk_volumes:
        yield f"{disk.disk_uri}:{disk.container_path}:{'ro' if disk.read_only else 'rw'}"
    for secret in container.secret_files:
        yield f"{secret.secret_uri}:{secret.container_path}"


def environment(job: JobDescription) -> Iterator[str]:
    """Return a job's variables, as `--env` takes them."""
    for name, value in job.container.env.items():
        yield f"{name}={value}"
    for name, uri in job.container.secret_env.items():
        yield f"{name}={uri}"


def started(job: JobDescription) -> Iterator[str]:
    """Return what is said of a job that was just started."""
    yield f"Job ID: {job.id}"
    yield f"Status: {job.status}"
    if job.name:
        yield f"Name: {job.name}"
    if job.http_url:
        yield f"Http URL: {job.http_url}"
    yield "Shortcuts:"
    yield f"  {_command('status', job)} # check job status"
    yield f"  {_command('logs', job)} # monitor job stdout"
    yield f"  {_command('top', job)} # display real-time job telemetry"
    yield f"  {_command('exec', job, 'bash')} # execute bash shell to the job"
    yield f"  {_command('kill', job)} # kill job"


def _command(name: str, job: JobDescription, *more: str) -> str:
    """Return a command about a job, ready to be copied."""
    return command_line("neuro", name, *operand(key(job)), *more)


def step(item: JobStatusItem) -> str:
    """Return a step of a job's life in a line."""
    return visible(f"Status: {item.status} {item.reason}".rstrip())


def end(job: JobDescription) -> str:
    """Return how a job that did not succeed ended, and why."""
    code = job.history.exit_code
    told = f" with exit code {code}" if code is not None else ""
    why = f": {job.reason}" if job.reason else ""
    return visible(f"Job {key(job)} {job.status}{told}{why}")


def detached(job: JobDescription) -> str:
    """Return what a user who left a job may want to do next."""
    return (
        f"Detached; the job goes on.\n"
        f"  {_command('attach', job)} # attach again\n"
        f"  {_command('kill', job)} # kill job"
    )
