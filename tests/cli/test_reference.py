"""The examples of the reference, as a new user types them, and what they show.

What differs each time is written in capitals: an id, a time, a port.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuro_sync import Container, Resources, Session
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import local_user
from tests.sandbox import bubblewrap  # noqa: F401  # a fixture

from .conftest import Neuro, Open, Process

USER = local_user()


@pytest.fixture
def platform() -> Iterator[LocalPlatform]:
    """A platform on which nobody else starts jobs."""
    with LocalPlatform(ephemeral=True, grace=0.5) as running:
        yield running


def transcript(text: str) -> str:
    """Return what was shown, with the same words for what differs each time."""
    for pattern, word in (
        (r"job-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "JOB-ID"),
        (r"\d+ (second|minute)s? ago", "WHEN"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+", "TIME"),
        (r"platform--\S+", "NAMESPACE"),
        (r"127\.0\.0\.1:\d{5}", "127.0.0.1:PORT"),
        (r"\b\d+\.\dG\b", "SIZE"),
        (r"(?m) +$", ""),
        (r" {2,}(?=\S)(?<!^  )", "  "),
    ):
        text = re.sub(pattern, word, text)
    return text.replace(USER, "USER")


def started(name: str) -> str:
    return f"""\
Job ID: JOB-ID
Status: pending
Name: {name}
Http URL: http://127.0.0.1:PORT
Shortcuts:
  neuro status {name} # check job status
  neuro logs {name} # monitor job stdout
  neuro top {name} # display real-time job telemetry
  neuro exec {name} bash # execute bash shell to the job
  neuro kill {name} # kill job
Status: pending Creating
Status: running
"""


RULE = """\
Terminal is attached to the remote job, so you receive the job's output.
Use Ctrl-C to detach (it will NOT terminate the job), or restart the job with `--detach` option.
"""


def test_a_short_job_without_volumes(neuro: Neuro) -> None:
    ended = neuro("run --preset cpu-small --name job230 ubuntu echo Hello, World!")
    assert transcript(ended.output) == started("job230") + RULE + "Hello, World!\n"
    assert ended.stdout == "Hello, World!\n"
    assert ended.exit_code == 0


def test_a_job_is_found_while_it_runs_and_is_ended(
    neuro: Neuro, neuro_process: Process, neuro_terminal: Open
) -> None:
    for name in ("job390", "job363"):
        line = f"run --preset cpu-small --name {name} --detach ubuntu:latest sleep infinity"
        assert transcript(neuro(line).output) == started(name)

    assert transcript(neuro("ps").output) == (
        "ID  NAME  STATUS  WHEN  IMAGE  OWNER  CLUSTER  DESCRIPTION\n"
        "JOB-ID  job363  running  WHEN  ubuntu:latest  <you>  local\n"
        "JOB-ID  job390  running  WHEN  ubuntu:latest  <you>  local\n"
    )
    assert transcript(neuro("ps -s pending").output) == (
        "ID  NAME  STATUS  WHEN  IMAGE  OWNER  CLUSTER  DESCRIPTION\n"
    )
    assert transcript(neuro("job status job363").output) == (
        "Job: JOB-ID\n"
        "Name: job363\n"
        "Owner: USER\n"
        "Cluster: local\n"
        "Organization: local\n"
        "Project: USER\n"
        "Status: running\n"
        "Image: ubuntu:latest\n"
        "Command: sleep infinity\n"
        "Preset: cpu-small\n"
        "Resources:\n"
        "  Memory: SIZE\n"
        "  CPU: 1.0\n"
        "  Additional: Extended SHM space\n"
        "Preemptible: False\n"
        "Life span: 1d\n"
        "Internal Hostname: JOB-ID.NAMESPACE\n"
        "Http URL: http://127.0.0.1:PORT\n"
        "Http port: 80\n"
        "Http authentication: True\n"
        "Created: TIME\n"
        "Started: TIME\n"
    )

    assert neuro_process("job exec job363 ls /usr").stdout.split() == sorted(
        path.name for path in Path("/usr").iterdir() if not path.name.startswith(".")
    )
    shell = neuro_terminal("job exec job363 /bin/bash")
    shell.type(b'echo "Hello, World!"; exit\r')
    shell.wait_for(b"\rHello, World!")
    assert shell.wait() == 0

    assert transcript(neuro("job kill job363").output) == "JOB-ID\n"
    assert transcript(neuro("kill job390").output) == "JOB-ID\n"
    assert transcript(neuro("ps").output).count("\n") == 1


def test_a_job_that_waits_for_room_is_pending(neuro: Neuro, session: Session) -> None:
    cores = os.cpu_count() or 1
    everything = Container(
        image="any", command="sleep infinity", resources=Resources(cpu=cores, memory_mb=16)
    )
    blocking = session.jobs.wait(session.jobs.run(everything), until="running")
    neuro("run --name job390 --detach --no-wait-start ubuntu:latest sleep infinity")
    assert transcript(neuro("ps -s pending").output) == (
        "ID  NAME  STATUS  WHEN  IMAGE  OWNER  CLUSTER  DESCRIPTION\n"
        "JOB-ID  job390  pending  WHEN  ubuntu:latest  <you>  local\n"
    )
    session.jobs.kill(blocking)
    session.jobs.wait("job390", until="running")
    assert neuro("ps -s pending").output.count("\n") == 1


@pytest.mark.usefixtures("bubblewrap")
def test_a_long_job_with_a_volume(neuro: Neuro, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('Epoch 1:14%| 1380/10000')")
    neuro("mkdir -p storage:nero-assistant/ModelCode")
    neuro(f"cp {tmp_path}/train.py storage:nero-assistant/ModelCode/")
    ended = neuro(
        "run --name job303 --volume storage:nero-assistant/ModelCode/:/code:rw "
        "--preset cpu-small neuromation/base python /code/train.py"
    )
    assert transcript(ended.output) == started("job303") + RULE + "Epoch 1:14%| 1380/10000\n"
    described = transcript(neuro("status job303").output)
    assert "Volumes: storage://local/local/USER/nero-assistant/ModelCode/:/code:rw\n" in described


def test_the_log_of_a_job(neuro: Neuro) -> None:
    neuro("run --name job363 --detach ubuntu", "--", "sh", "-c", "echo Running the job; echo Done.")
    assert neuro("job logs job363").output == "Running the job\nDone.\n"


def test_a_web_server_without_login(neuro: Neuro, session: Session) -> None:
    ended = neuro(
        "run --name filebrowser-demo --preset cpu-small --http 8085 --no-http-auth --detach "
        "filebrowser/filebrowser -- sleep infinity"
    )
    assert "Http URL: http://127.0.0.1:PORT\n" in transcript(ended.output)
    job = session.jobs.status("filebrowser-demo")
    assert job.container.http is not None
    assert (job.container.http.port, job.container.http.requires_auth) == (8085, False)


def test_arguments_for_the_image_are_not_taken_for_options(neuro: Neuro, session: Session) -> None:
    neuro("run -n demo --detach filebrowser/filebrowser --noauth --port 8085")
    job = session.jobs.status("demo")
    assert job.container.command == "--noauth --port 8085"


def test_the_configuration(neuro: Neuro, platform: LocalPlatform) -> None:
    shown = transcript(neuro("config show").output)
    assert shown.startswith(
        "User Configuration (LOCAL):\n"
        "  User Name: USER\n"
        "  Current Cluster: local  (from the platform's first)\n"
        "  Current Org: local  (from the platform's first)\n"
        "  Current Project: USER  (from the platform's first)\n"
        "  API URL: http://127.0.0.1:PORT/api/v1  (from the variable NEURO_SYNC_URL)\n"
        "  Token: ***  (from the variable NEURO_SYNC_TOKEN)\n"
    )
    assert "  Resource Presets:\n  Name  CPU  Memory  Preemptible  GPU\n" in shown
    assert "  cpu-small  1.0  SIZE  No\n" in shown
    assert platform.token not in shown
