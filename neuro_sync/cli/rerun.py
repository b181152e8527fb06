"""A job once more: as arguments of the call that starts it, and as a command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from neuro_sync.models.words import split_words

from . import job_views, shell_words
from .output import duration

if TYPE_CHECKING:
    from neuro_sync.client.session import Session
    from neuro_sync.models.jobs import JobDescription


def start_again(session: Session, job: JobDescription) -> JobDescription:
    """Start a job with all that another one was started with."""
    if job.preset_name is None:
        return session.jobs.run(
            job.container,
            name=job.name,
            tags=job.tags,
            description=job.description,
            scheduler_enabled=job.scheduler_enabled,
            preemptible_node=job.preemptible_node,
            pass_config=job.pass_config,
            schedule_timeout=job.schedule_timeout,
            restart_policy=job.restart_policy,
            life_span=job.life_span,
            priority=job.priority,
            org_name=job.org_name,
            project_name=job.project_name,
        )
    container = job.container
    return session.jobs.start(
        image=container.image,
        preset_name=job.preset_name,
        cluster_name=job.cluster_name,
        org_name=job.org_name,
        project_name=job.project_name,
        entrypoint=container.entrypoint,
        command=container.command,
        working_dir=container.working_dir,
        http=container.http,
        env=container.env,
        volumes=container.volumes,
        secret_env=container.secret_env,
        secret_files=container.secret_files,
        disk_volumes=container.disk_volumes,
        tty=container.tty,
        shm=container.resources.shm,
        name=job.name,
        tags=job.tags,
        description=job.description,
        pass_config=job.pass_config,
        schedule_timeout=job.schedule_timeout,
        restart_policy=job.restart_policy,
        life_span=job.life_span,
        privileged=job.privileged,
        priority=job.priority,
        energy_schedule_name=job.energy_schedule_name,
    )


def command_line(job: JobDescription) -> str:
    """Return the command that starts such a job again, ready for a shell."""
    return shell_words.command_line("neuro", "run", *_options(job))


def _options(job: JobDescription) -> Iterator[str]:
    container = job.container
    texts = {
        "preset": job.preset_name,
        "name": job.name,
        "description": job.description,
        "entrypoint": container.entrypoint,
        "workdir": container.working_dir,
        "http-port": container.http and str(container.http.port),
        "life-span": duration(job.life_span) if job.life_span else "0",
        "schedule-timeout": job.schedule_timeout and duration(job.schedule_timeout),
        "restart": None if job.restart_policy.value == "never" else str(job.restart_policy),
        "priority": None if job.priority.value == "normal" else str(job.priority),
        "cluster": job.cluster_name,
        "org": job.org_name,
        "project": job.project_name,
    }
    flags = {
        "no-http-auth": container.http is not None and not container.http.requires_auth,
        "no-extshm": not container.resources.shm,
        "tty": container.tty,
        "pass-config": job.pass_config,
        "privileged": job.privileged,
    }
    yield from (f"--{name}={text}" for name, text in texts.items() if text)
    yield from (f"--{name}" for name, wanted in flags.items() if wanted)
    yield from (f"--tag={tag}" for tag in job.tags)
    yield from (f"--env={variable}" for variable in job_views.environment(job))
    yield from (f"--volume={volume}" for volume in job_views.volumes(job))
    yield from shell_words.operand(str(container.image))
    if container.command:
        yield "--"
        words = split_words(container.command)
        # A single word is taken for the whole line, just as it is.
        yield from words if shlex.join(words) == container.command else [container.command]
