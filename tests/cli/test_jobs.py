"""The commands about jobs: what each option does, and what none of them passes over."""

from __future__ import annotations

import http.client
import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from neuro_sync import HTTPPort, JobDescription, JobStatus, Session
from neuro_sync.cli.jobs import run
from neuro_sync.cli.main import neuro as neuro_command
from neuro_sync.local.accounts import accounts_of
from neuro_sync.local.server import LocalPlatform
from tests.docker_engine import IMAGE
from tests.programs import require_programs
from tests.scripted_platform import JOB_ID, Request, answer, job, scripted_platform

from .conftest import NEURO, Neuro, Open, Process

Start = Callable[[str], JobDescription]
PORT = re.compile(r"Port 80 of the job is http://127\.0\.0\.1:(\d+)")

ARRIVES: dict[str, tuple[str, object]] = {
    "--preset cpu-large": ("preset_name", "cpu-large"),
    "--name arrived": ("name", "arrived"),
    "--tag a --tag b": ("tags", ("a", "b")),
    "--description 'what for'": ("description", "what for"),
    "--env A=1 --env B=": ("container.env", {"A": "1", "B": ""}),
    "--env-file FILE": ("container.env", {"FROM": "file"}),
    "--entrypoint 'sh -c'": ("container.entrypoint", "sh -c"),
    "--workdir /tmp": ("container.working_dir", "/tmp"),  # never written to
    "--http-port 8085": ("container.http.port", 8085),
    "--no-http-auth": ("container.http.requires_auth", False),
    "--tty": ("container.tty", True),
    "--life-span 2h": ("life_span", 7200.0),
    "--schedule-timeout 5m": ("schedule_timeout", 300.0),
    "--restart on-failure": ("restart_policy.value", "on-failure"),
    "--no-extshm": ("container.resources.shm", False),
    "--priority high": ("priority.value", "high"),
    "--project PROJECT": ("project_name", "PROJECT"),
    "--org local": ("org_name", "local"),
    "--cluster local": ("cluster_name", "local"),
}
REFUSED = {
    "--volume storage:a:b": "Mount path must be absolute",
    "--privileged": "does not allow privileged jobs",
    "--pass-config": "pass_config: ",
    "--project no-such": "job://local/local/no-such",
    "--org no-such": "organization",
    "--cluster no-such": "'no-such'",
}
ELSEWHERE = {"--detach", "--wait-start", "--port-forward", "--browse", "--share", "--wait-for-seat"}


def test_no_option_of_run_is_left_out_here() -> None:
    shown = {line.split()[0] for line in (*ARRIVES, *REFUSED)} | ELSEWHERE
    options = [o for o in run.params if isinstance(o, click.Option)]
    assert [o.name for o in options if not shown & {*o.opts, *o.secondary_opts}] == []


@pytest.mark.parametrize("line", ARRIVES)
def test_each_option_of_run_arrives(
    neuro: Neuro, session: Session, tmp_path: Path, line: str
) -> None:
    (tmp_path / "file").write_text("FROM=file\n")
    place, expected = ARRIVES[line]
    if expected == "PROJECT":
        expected = session.username
    line = line.replace("FILE", str(tmp_path / "file")).replace("PROJECT", session.username)
    ended = neuro(f"-q run --detach --no-wait-start {line} any true")
    assert ended.exit_code == 0, ended.output
    job = session.jobs.status(ended.stdout.strip())
    value = attrgetter(place)(job)
    assert dict(value) == expected if isinstance(expected, dict) else value == expected


@pytest.mark.parametrize("line", REFUSED)
def test_what_this_platform_does_not_have_is_refused(neuro: Neuro, line: str) -> None:
    ended = neuro(f"run --detach {line} any true")
    assert ended.exit_code in (65, 70, 77)
    assert REFUSED[line] in ended.stderr


def test_a_job_waits_for_a_seat_if_that_is_said(
    neuro: Neuro, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalPlatform(ephemeral=True, grace=0.5, cores=8, total_running_jobs=1) as platform:
        monkeypatch.setenv("NEURO_SYNC_URL", platform.url)
        monkeypatch.setenv("NEURO_SYNC_TOKEN", platform.token)
        assert neuro("run --detach any sleep 60").exit_code == 0
        line = "run --detach --no-wait-start any true"
        assert neuro(line).exit_code == 65
        assert neuro(line.replace("any", "--wait-for-seat any")).exit_code == 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("run --detach --port-forward 0:80 any true", "--port-forward lasts as long"),
        ("run --browse --no-wait-start any true", "--browse waits for the job"),
        ("run -d --name any true", "'--name' is an option; -d is --description"),
    ],
)
def test_what_would_be_passed_over_is_refused(neuro: Neuro, line: str, told: str) -> None:
    ended = neuro(line)
    assert (ended.exit_code, told in ended.stderr) == (64, True), ended.output


def test_a_job_that_could_not_be_shared_goes_on_and_that_is_said(
    neuro: Neuro, session: Session
) -> None:
    ended = neuro("run --name unshared --share nobody-here any sleep 60")
    assert ended.exit_code == 72
    assert "neuro kill unshared" in ended.stderr
    assert "nobody-here" in ended.stderr
    session.jobs.kill("unshared")


def test_without_waiting_the_command_ends_before_the_job_runs(neuro: Neuro) -> None:
    assert "Status: running" not in neuro("run --detach --no-wait-start any true").output
    assert "Status: running" in neuro("run --detach any sleep 1").output


@pytest.fixture
def web(session: Session) -> JobDescription:
    """A job with a web address; nothing listens there."""
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="sleep 60", http=HTTPPort(port=8080)
    )
    return session.jobs.wait(job, until="running")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the browser was told to open."""
    urls: list[str] = []
    monkeypatch.setattr("webbrowser.open", urls.append)
    return urls


def test_browse_opens_the_jobs_address(
    neuro: Neuro, session: Session, web: JobDescription, opened: list[str]
) -> None:
    assert neuro(f"job browse {web.id}").exit_code == 0
    ended = neuro("-q run --detach --browse any sleep 60")
    job = session.jobs.status(ended.stdout.strip())
    assert opened == [str(web.http_url), str(job.http_url)]
    for each in (web, job):
        session.jobs.kill(each)


def test_a_job_without_a_web_address_says_how_to_get_one(
    neuro: Neuro, start: Start, session: Session
) -> None:
    job = start("sleep 60")
    ended = neuro(f"job browse {job.id}")
    assert ended.exit_code == 65
    assert "has no web address; start it with --http-port" in ended.stderr
    session.jobs.kill(job)


SERVER = (
    "import http.server as h, socketserver as s\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.end_headers(); self.wfile.write(b'served')\n"
    "x = s.TCPServer(('127.0.0.1', 0), H)\n"
    "print(x.server_address[1], flush=True); x.serve_forever()"
)


@pytest.mark.parametrize("line", ["port-forward JOB 0:PORT", "attach --port-forward 0:PORT JOB"])
def test_a_port_of_a_job_is_one_of_this_machine_until_ctrl_c(
    login: object, session: Session, line: str
) -> None:
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command=shlex.join(["python3", "-c", SERVER]),
    )
    with session.jobs.logs(job) as log:
        port = next(iter(log))
    words = line.replace("JOB", job.id).replace("PORT", port).split()
    with subprocess.Popen([*NEURO, *words], stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        told = ""
        while " of the job is http://127.0.0.1:" not in told:
            told = command.stderr.readline()
            assert told
        here = http.client.HTTPConnection("127.0.0.1", int(told.rpartition(":")[2]), timeout=20)
        here.request("GET", "/")
        assert here.getresponse().read() == b"served"
        here.close()
        command.send_signal(signal.SIGINT)
        assert "Detached; the job goes on." in command.stderr.read()
    assert command.returncode == 0
    assert session.jobs.status(job).status is JobStatus.RUNNING
    session.jobs.kill(job)


def test_run_forwards_a_port_while_it_shows_the_output(neuro_process: Process) -> None:
    ended = neuro_process("run --port-forward 0:80 any echo out")
    assert (ended.returncode, ended.stdout) == (0, "out\n")
    assert PORT.search(ended.stderr)


def test_wait_for_any_ends_with_the_first_and_names_it(
    neuro: Neuro, start: Start, session: Session
) -> None:
    long, short = start("sleep 60"), start("sh -c 'exit 4'")
    ended = neuro(f"wait --any {long.id} {short.id}")
    assert (ended.exit_code, ended.stdout) == (4, f"{short.id}\n")
    ended = neuro(f"wait --any --json {long.id} {short.id}")
    assert [job["id"] for job in json.loads(ended.stdout)] == [short.id]
    assert neuro(f"wait --any --timeout 0s {long.id}").exit_code == 124
    assert neuro(f"wait --all --timeout 0s {long.id} {short.id}").exit_code == 124
    session.jobs.kill(long)


def test_top_without_a_job_says_so_and_draws_nothing(
    neuro_terminal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalPlatform(ephemeral=True, grace=0.5) as platform:
        monkeypatch.setenv("NEURO_SYNC_URL", platform.url)
        monkeypatch.setenv("NEURO_SYNC_TOKEN", platform.token)
        terminal = neuro_terminal("top")
        assert terminal.wait() == 0
        assert terminal.rest() == b"No job of yours is running.\r\n"


def test_save_makes_an_image_that_the_platform_has(
    neuro: Neuro, docker_platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_programs("docker-registry")
    monkeypatch.setenv("NEURO_SYNC_URL", docker_platform.url)
    monkeypatch.setenv("NEURO_SYNC_TOKEN", docker_platform.token)
    job = neuro(f"-q run --detach {IMAGE} sleep 60").stdout.strip()
    ended = neuro(f"-q save {job} image:saved-by-command:v1")
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.endswith("/saved-by-command:v1\n")
    assert ended.stdout in neuro("-q image tags image:saved-by-command").stdout
    assert neuro("-q kill", job).exit_code == 0


@pytest.fixture
def twins(
    neuro: Neuro, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Session, JobDescription, JobDescription]]:
    """Two jobs of one name, the first in another project than the current one."""
    with (
        LocalPlatform(ephemeral=True) as platform,
        Session(platform.url, platform.token) as session,
    ):
        monkeypatch.setenv("NEURO_SYNC_URL", platform.url)
        monkeypatch.setenv("NEURO_SYNC_TOKEN", platform.token)
        own = session.project_name
        with accounts_of(platform.folder) as accounts:
            accounts.add_project("zoo")
            accounts.set_member("zoo", session.username, "writer")
        there, here = (
            session.jobs.start(
                image="x",
                preset_name="cpu-small",
                name="twin",
                command="sh -c 'echo in $PROJECT; sleep 60'",
                env={"PROJECT": project},
                project_name=project,
            )
            for project in ("zoo", own)
        )
        yield session, there, here


def test_the_address_of_a_job_names_its_project(
    neuro: Neuro,
    neuro_process: Process,
    twins: tuple[Session, JobDescription, JobDescription],
) -> None:
    session, *jobs = twins
    other, own = (session.jobs.wait(job, until="running") for job in jobs)
    full = f"job://{session.cluster_name}/{session.org_name}/zoo/twin"
    for address in ("job:/zoo/twin", full, f"job:/zoo/{other.id}"):
        assert neuro(f"-q status {address}").output == f"{other.id}\n"
        assert neuro(f"logs --no-follow {address}").output == "in zoo\n"
        assert neuro_process(f"exec -T {address} echo there").stdout == "there\n"
        assert "PROJECT=zoo" in neuro(f"job generate-run-command {address}").output
        assert neuro(f"job bump-life-span {address} 1h").exit_code == 0
        assert neuro(f"wait --timeout 1s {address}").exit_code == 124
        assert "no such job" not in neuro(f"share {address} nobody read").stderr
    assert neuro("-q status job:twin").output == f"{own.id}\n"
    for missing in ("job:/nowhere/twin", "job:/zoo/no-such"):
        ended = neuro(f"kill {missing}")
        assert ended.exit_code == 72
        assert f"no such job {missing}" in ended.stderr
    assert neuro("kill job:/zoo/twin").output == f"{other.id}\n"
    assert session.jobs.wait(other, timeout=30).status is JobStatus.CANCELLED
    assert session.jobs.status(own).status is JobStatus.RUNNING


@pytest.mark.parametrize("slow", ["GET /api/v1/jobs/", "GET /api/v1/monitoring/"])
def test_a_show_of_what_jobs_use_ends_in_time_on_a_slow_platform(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    def silent(_: Request) -> bytes:
        time.sleep(2)
        return b""

    with scripted_platform() as platform:
        monkeypatch.setenv("NEURO_SYNC_URL", platform.url)
        monkeypatch.setenv("NEURO_SYNC_TOKEN", platform.token)
        platform.script["GET /api/v1/jobs/"] = answer(job())
        platform.script[slow] = silent
        begin = time.monotonic()
        CliRunner().invoke(neuro_command, ["top", "--timeout", "1s", JOB_ID])
        assert 0.9 < time.monotonic() - begin < 1.8
