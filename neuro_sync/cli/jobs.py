"""The commands about jobs: ``neuro job NAME``, the usual ones of them ``neuro NAME`` too."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from neuro_sync.errors import IllegalArgumentError, NeuroError
from neuro_sync.models.frames import EOF_TIMEOUT_S
from neuro_sync.models.jobs import HTTPPort, JobPriority, JobRestartPolicy, JobStatus

from . import exit_codes, job_views, output, watching
from .invocation import pass_session
from .parameters import DURATION, JOB, MOMENT, PORTS, PRESET, as_json, where

if TYPE_CHECKING:
    from neuro_sync.client.session import Session
    from neuro_sync.models.jobs import JobDescription

DEFAULT_PRESET = "cpu-small"
DEFAULT_LIFE_SPAN = 86400.0
"""Seconds; so that a job that was forgotten does not cost for ever."""
STATUSES = [status.value for status in JobStatus if status is not JobStatus.UNKNOWN]
COMMAND_LINE = {"allow_interspersed_args": False}
"""What comes after the first argument belongs to the command inside the job, options too."""


eof_timeout_option = click.option(
    "--eof-timeout",
    type=DURATION,
    default=EOF_TIMEOUT_S,
    metavar="3m4s",
    help="How long it may be silent after its piped input, on a platform that cannot send the end "
    f"of it; 0 is for ever.  [default: {EOF_TIMEOUT_S:g}s]",
)


def _no_option(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Refuse an option where a text belongs: elsewhere ``-d`` is short for ``--detach``."""
    options = {option for parameter in context.command.params for option in parameter.opts}
    if value in options:
        raise click.BadParameter(
            f"{value!r} is an option; -d is --description, and --detach has no short form"
        )
    return value


@click.group()
def job() -> None:
    """Start, follow and end jobs.

    Example: neuro job status test
    """


@job.command(context_settings=COMMAND_LINE)
@click.option(
    "-s", "--preset", type=PRESET, help=f"CPU, memory, GPUs.  [default: {DEFAULT_PRESET}]"
)
@click.option("-n", "--name", metavar="NAME", help="To call the job by, instead of its id.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="To find it by; repeatable.")
@click.option("-d", "--description", callback=_no_option, metavar="TEXT", help="What it is for.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="A variable; repeatable.")
@click.option("--env-file", multiple=True, metavar="PATH", help="Variables, a line each.")
@click.option(
    "-v",
    "--volume",
    "volumes",
    multiple=True,
    metavar="MOUNT",
    help="storage:PATH:/MOUNT[:ro], disk:NAME:/MOUNT, secret:KEY:/FILE; repeatable.",
)
@click.option("--entrypoint", metavar="COMMAND", help="Instead of the image's own.")
@click.option("-w", "--workdir", metavar="PATH", help="The folder in which it starts.")
@click.option(
    "--http-port",
    "--http",
    "--port",
    "http_port",
    type=click.IntRange(0, 65535),
    default=80,
    show_default=True,
    help="Where a web server inside listens.",
)
@click.option(
    "--http-auth/--no-http-auth", default=True, help="Whether its visitors log in.  [default: yes]"
)
@click.option("-t/-T", "--tty/--no-tty", help="Whether it has a terminal, yours.  [default: no]")
@click.option("--detach", is_flag=True, help="Do not stay for its output and its end.")
@click.option(
    "--wait-start/--no-wait-start",
    default=True,
    help="With --detach: whether to stay until it runs.  [default: yes]",
)
@click.option(
    "--life-span",
    type=DURATION,
    metavar="1d2h3m4s",
    help="When it is ended; 0 is never.  [default: that of user.toml, or 1d]",
)
@click.option("--schedule-timeout", type=DURATION, metavar="3m4s", help="How long it may wait.")
@click.option(
    "--restart",
    type=click.Choice(["never", "on-failure", "always"]),
    default="never",
    show_default=True,
    help="Whether it is run again after its end.",
)
@click.option(
    "--port-forward",
    "ports",
    type=PORTS,
    multiple=True,
    metavar="LOCAL:REMOTE",
    help="Make a port of it one of this machine; repeatable.",
)
@click.option("--browse", is_flag=True, help="Open its web address when it runs.")
@click.option("--extshm/--no-extshm", "-x/-X", default=True, help="Whether /dev/shm is large.")
@click.option(
    "--share", "users", multiple=True, metavar="USER", help="Let them change it; repeatable."
)
@click.option(
    "--priority", type=click.Choice(["low", "normal", "high"]), help="Which of many starts first."
)
@click.option("--privileged", is_flag=True, help="Where the cluster allows it.")
@click.option("--pass-config", is_flag=True, help="Let the job use the platform as you.")
@click.option("--wait-for-seat", is_flag=True, help="Wait while your quota is used up.")
@where
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@pass_session
def run(
    session: Session,
    /,
    detach: bool,
    wait_start: bool,
    browse: bool,
    ports: tuple[tuple[int, int], ...],
    users: tuple[str, ...],
    **given: Any,
) -> None:
    """Start a job, show its output, take its exit code.

    All that follows IMAGE is the job's command; a `--` in between may help the eye. One word with
    spaces in it is split by shell rules. No shell runs it: write sh -c '...' for pipes.

    Ctrl-C detaches, and the job goes on. The exit code is the job's own; 125 if the platform failed
    to run it, 130 if it was killed.

    \b
    Examples:
      neuro run --preset cpu-small --name test ubuntu echo Hello, World!
      neuro run -v storage:code:/code:ro pytorch/pytorch -- python /code/train.py --epochs 3
      neuro run -t ubuntu bash
    """
    _check_together(detach=detach, wait_start=wait_start, browse=browse, ports=ports)
    job = session.jobs.start(**_start_arguments(session, **given))
    _tell_started(job, is_result=detach)
    _share(session, job, users)
    with watching.detachable(job):
        if wait_start or not detach:
            job = watching.until_it_runs(session, job)
        if browse:
            _open_browser(job)
        if detach:
            if job.status.is_finished:
                watching.finish(job)
            return
        output.note(job_views.TTY_RULE if job.container.tty else job_views.PLAIN_RULE)
        with watching.forwarded(session, job, ports):
            if not job.container.tty:
                job = watching.show_log(session, job)
            elif watching.attach(session, job, EOF_TIMEOUT_S):
                watching.leave(job)
        watching.finish(job if job.status.is_finished else session.jobs.wait(job))


def _check_together(
    *, detach: bool, wait_start: bool, browse: bool, ports: tuple[tuple[int, int], ...]
) -> None:
    """Refuse what would be passed over in silence."""
    if detach and ports:
        raise click.UsageError(
            "--port-forward lasts as long as the command: leave out --detach, "
            "or run `neuro port-forward` when the job runs"
        )
    if browse and not wait_start:
        raise click.UsageError("--browse waits for the job: leave out --no-wait-start")


def _share(session: Session, job: JobDescription, users: tuple[str, ...]) -> None:
    from neuro_sync.models.users import Action, Permission

    try:
        for user in users:
            session.users.share(user, Permission(uri=job.uri, action=Action.WRITE))
    except NeuroError:
        output.note(job_views.detached(job))  # it is there, whoever may see it
        raise


def _start_arguments(
    session: Session,
    *,
    image: str,
    command: tuple[str, ...],
    preset: str | None,
    volumes: tuple[str, ...],
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    http_port: int,
    http_auth: bool,
    life_span: float | None,
    restart: str,
    priority: str | None,
    workdir: str | None,
    extshm: bool,
    wait_for_seat: bool,
    **same: Any,
) -> dict[str, Any]:
    """Return what `Jobs.start` is called with; many options are called alike there."""
    mounts = session.parse.volumes(volumes)
    variables = session.parse.envs(env, env_file)
    return {
        "image": session.parse.remote_image(image),
        "command": command_of(command),
        "preset_name": preset or _default_preset(session),
        "volumes": mounts.volumes,
        "secret_files": mounts.secret_files,
        "disk_volumes": mounts.disk_volumes,
        "env": variables.env,
        "secret_env": variables.secret_env,
        "http": HTTPPort(port=http_port, requires_auth=http_auth),
        "life_span": _life_span(session, life_span),
        "restart_policy": JobRestartPolicy(restart),
        "priority": JobPriority(priority) if priority else None,
        "working_dir": workdir,
        "shm": extshm,
        "wait_for_jobs_quota": wait_for_seat,
        **same,
    }


def command_of(words: tuple[str, ...]) -> str | None:
    """Return a command as the platform takes it; a single word is a whole command line."""
    words = words[1:] if words[:1] == ("--",) else words
    if len(words) == 1:
        return words[0]
    return shlex.join(words) if words else None


def _default_preset(session: Session) -> str:
    presets = session.presets
    return DEFAULT_PRESET if DEFAULT_PRESET in presets else next(iter(presets), DEFAULT_PRESET)


def _life_span(session: Session, given: float | None) -> float | None:
    settled = session.config.settings.job.life_span
    wanted = next(span for span in (given, settled, DEFAULT_LIFE_SPAN) if span is not None)
    return wanted or None  # 0 sets no limit


def _tell_started(job: JobDescription, *, is_result: bool) -> None:
    if output.is_quiet():
        if is_result:
            output.result(job.id)
        return
    for line in job_views.started(job):
        # Else standard output is the job's alone.
        (output.result if is_result else output.note)(output.visible(line))


@job.command()
@click.option("-a", "--all", "any_status", is_flag=True, help="Those that are over, too.")
@click.option(
    "-s", "--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Repeatable."
)
@click.option("-n", "--name", metavar="NAME")
@click.option("-o", "--owner", "owners", multiple=True, metavar="USER", help="ME is you.")
@click.option("-t", "--tag", "tags", multiple=True, metavar="TAG", help="All of them, if several.")
@click.option("-d", "--description", metavar="TEXT", help="Just this one.")
@click.option("--since", type=MOMENT, metavar="TIME", help="Started since; 2h, or ISO 8601.")
@click.option("--until", type=MOMENT, metavar="TIME", help="Started before.")
@click.option("-p", "--project", "projects", multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--org", "orgs", multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--cluster", "cluster_name", metavar="NAME", help="Another than the current one.")
@click.option("--recent-first/--recent-last", default=True, help="[default: recent first]")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="At most so many.")
@click.option("-w", "--wide", is_flag=True, help="Do not cut what is wider than the terminal.")
@as_json
@pass_session
def ps(
    session: Session,
    /,
    any_status: bool,
    statuses: tuple[str, ...],
    description: str | None,
    owners: tuple[str, ...],
    projects: tuple[str, ...],
    orgs: tuple[str, ...],
    recent_first: bool,
    wide: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """List the jobs that are not over, or all.

    \b
    Examples:
      neuro ps -s pending
      neuro ps --all --owner ME --since 1d --json
    """
    wanted = {JobStatus(status) for status in statuses}
    jobs = session.jobs.list(
        statuses=wanted or (() if any_status else JobStatus.active_items()),
        owners=[session.username if owner == "ME" else owner for owner in owners],
        project_names=projects,
        org_names=orgs,
        reverse=recent_first,
        **filters,
    )
    with jobs:
        output.listing(
            (job for job in jobs if description in (None, job.description)),
            job_views.columns(session.username),
            id=lambda job: job.id,
            as_json=as_json,
            wide=wide,
        )


job.add_command(ps, "ls")


@job.command()
@click.argument("job", type=JOB)
@as_json
@pass_session
def status(session: Session, job: str, as_json: bool) -> None:
    """Describe a job.

    Example: neuro status test
    """
    found = session.jobs.status(job)
    output.details(found, job_views.fields(found), id=found.id, as_json=as_json)


@job.command()
@click.option("--since", type=MOMENT, metavar="TIME", help="From then on; 2h, or ISO 8601.")
@click.option("--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Begin with the last N lines.")
@click.option("--follow/--no-follow", "-f", default=True, help="Whether to wait for more.")
@click.argument("job", type=JOB)
@pass_session
def logs(session: Session, /, job: str, follow: bool, **wanted: Any) -> None:
    """Print a job's output until it is over.

    Example: neuro logs test --tail 100 --no-follow
    """
    found = session.jobs.status(job)
    with session.jobs.logs(found, follow=follow, **wanted) as log:
        for piece in log.pieces():
            output.raw(piece)
        ended = log.job
    if follow:
        watching.tell_end(ended or session.jobs.wait(found))


@job.command()
@click.option("--timeout", type=DURATION, metavar="3m4s", help="Stop after so long.")
@click.argument("jobs", nargs=-1, type=JOB)
@as_json
@pass_session
def top(session: Session, jobs: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Show what jobs use, as it changes.

    All running ones of yours are shown, unless some are named, until they are over.

    Example: neuro top test
    """
    from neuro_sync.models.durations import deadline
    from neuro_sync.monotonic import monotonic
    from neuro_sync.transport.deadlines import call_deadline

    from . import telemetry

    end = deadline(timeout, monotonic())
    with call_deadline(end):
        watched = [session.jobs.status(job) for job in jobs] if jobs else _running(session)
    if not watched:
        output.note("No job of yours is running.")
        return
    telemetry.watch(session, watched, end=end, as_json=as_json)


def _running(session: Session) -> list[JobDescription]:
    with session.jobs.list(statuses=[JobStatus.RUNNING], owners=[session.username]) as found:
        return list(found)


@job.command(context_settings=COMMAND_LINE)
@click.option(
    "-t/-T", "--tty/--no-tty", default=None, help="With a terminal; if you have one, by default."
)
@eof_timeout_option
@click.argument("job", type=JOB)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
@pass_session
def exec(
    session: Session,
    context: click.Context,
    job: str,
    command: tuple[str, ...],
    tty: bool | None,
    eof_timeout: float,
) -> None:
    """Run a command inside a running job.

    It ends with the exit code of the command. Ctrl-P Ctrl-Q leaves one that has a terminal.

    \b
    Examples:
      neuro exec test ls
      neuro exec test -- python -c 'print(1)'
      neuro exec test /bin/bash
    """
    if tty is None:
        tty = sys.stdin.isatty() and sys.stdout.isatty()
    stdin = tty or watching.has_input()
    stream = session.jobs.exec(job, command_of(command) or "", tty=tty, stdin=stdin)
    context.exit(watching.command_ended(session, job, stream, eof_timeout or None) or 0)


@job.command()
@click.option(
    "--port-forward",
    "ports",
    type=PORTS,
    multiple=True,
    metavar="LOCAL:REMOTE",
    help="Make a port of it one of this machine; repeatable.",
)
@eof_timeout_option
@click.argument("job", type=JOB)
@pass_session
def attach(
    session: Session, job: str, ports: tuple[tuple[int, int], ...], eof_timeout: float
) -> None:
    """Connect your terminal with a job.

    It ends with the exit code of the job. Ctrl-P Ctrl-Q leaves a job that has a terminal, Ctrl-C
    one that has none; the job goes on.

    Example: neuro attach test
    """
    found = session.jobs.status(job)
    with watching.detachable(found):
        found = watching.until_it_runs(session, found)
        output.note(job_views.TTY_RULE if found.container.tty else job_views.PLAIN_RULE)
        with watching.forwarded(session, found, ports):
            if watching.attach(session, found, eof_timeout or None):
                watching.leave(found)
        watching.finish(session.jobs.wait(found))


@job.command()
@click.option("--timeout", type=DURATION, metavar="3m4s", help="Give up after so long, with 124.")
@click.option("--all/--any", "for_all", default=True, help="For all, or for one.  [default: all]")
@click.argument("jobs", nargs=-1, required=True, type=JOB)
@as_json
@click.pass_context
@pass_session
def wait(
    session: Session,
    context: click.Context,
    jobs: tuple[str, ...],
    timeout: float | None,
    for_all: bool,
    as_json: bool,
) -> None:
    """Wait until jobs are over.

    The exit code is 0 if all succeeded, else that of the first that did not. With --any, it ends
    with the first job that is over, and prints its id. With --json it prints the jobs that are
    over.

    \b
    Examples:
      neuro wait train-1 train-2 --timeout 2h
      neuro wait --any train-1 train-2
    """
    if for_all:
        ended = session.jobs.wait(jobs, timeout=timeout)
    else:
        ended = (watching.first_to_end(session, jobs, timeout),)
    if as_json:
        output.listing(ended, (), id=lambda job: job.id, as_json=True)
    elif not for_all:
        output.result(ended[0].id)
    for found in ended:
        watching.tell_end(found)
    context.exit(next(filter(None, map(exit_codes.of_job, ended)), 0))


@job.command()
@click.argument("jobs", nargs=-1, required=True, type=JOB)
@pass_session
def kill(session: Session, jobs: tuple[str, ...]) -> None:
    """End jobs, and print their ids. One that is over already stays as it is.

    Example: neuro kill test
    """

    def kill_one(job: str) -> None:
        found = session.jobs.status(job)
        session.jobs.kill(found)
        output.result(found.id)

    exit_codes.for_each(jobs, kill_one)


@job.command()
@click.argument("job", type=JOB)
@click.argument("image")
@pass_session
def save(session: Session, job: str, image: str) -> None:
    """Make an image of a running job as it is now.

    It takes an address on the platform for the image, and may take minutes.

    Example: neuro save test image:test:v1
    """
    from .layers import LayerProgress

    remote = session.parse.platform_image(image)
    with LayerProgress() as told:
        session.jobs.save(job, remote, progress=told)
    output.result(str(remote))


@job.command()
@click.argument("job", type=JOB)
@pass_session
def rerun(session: Session, job: str) -> None:
    """Start a job once more, as it was started.

    Example: neuro rerun test
    """
    from .rerun import start_again

    _tell_started(start_again(session, session.jobs.status(job)), is_result=True)


@job.command("generate-run-command")
@click.argument("job", type=JOB)
@pass_session
def generate_run_command(session: Session, job: str) -> None:
    """Print the command that starts such a job again.

    Example: neuro job generate-run-command test
    """
    from .rerun import command_line

    output.result(command_line(session.jobs.status(job)))


@job.command("port-forward")
@click.argument("job", type=JOB)
@click.argument("ports", nargs=-1, required=True, type=PORTS, metavar="LOCAL:REMOTE...")
@pass_session
def port_forward(session: Session, job: str, ports: tuple[tuple[int, int], ...]) -> None:
    """Make ports of a job ports of this machine.

    It lasts until the job is over, or you press Ctrl-C. A local port of 0 is any free one.

    Example: neuro port-forward test 8888:80
    """
    found = session.jobs.status(job)
    with watching.detachable(found), watching.forwarded(session, found, ports):
        watching.finish(session.jobs.wait(found))


@job.command()
@click.argument("job", type=JOB)
@pass_session
def browse(session: Session, job: str) -> None:
    """Open the web address of a job.

    Example: neuro job browse test
    """
    _open_browser(watching.until_it_runs(session, session.jobs.status(job)))


def _open_browser(job: JobDescription) -> None:
    import webbrowser

    url = job.http_url
    if url.scheme not in ("http", "https"):
        raise IllegalArgumentError(
            f"{job_views.key(job)} has no web address; start it with --http-port"
        )
    output.note(f"Opening {url}")
    webbrowser.open(str(url))


@job.command("bump-life-span")
@click.argument("job", type=JOB)
@click.argument("duration", type=DURATION, metavar="1d2h3m4s")
@pass_session
def bump_life_span(session: Session, job: str, duration: float) -> None:
    """Let a job run longer than it was to.

    Example: neuro job bump-life-span test 2h30m
    """
    session.jobs.bump_life_span(job, duration)
