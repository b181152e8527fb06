"""A job once more: with `rerun`, and with the command that was made of it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from neuro_sync import Container, HTTPPort, JobDescription, RemoteImage, Resources, Session
from neuro_sync.cli import job_views, output
from neuro_sync.cli.rerun import command_line
from tests.programs import require_programs
from tests.scripted_platform import job

from .conftest import Neuro

LINES = [
    "run any true",
    "run --name again --tag a --tag b:c -d 'a [b] text' any -- sh -c 'echo $X | cat; exit 3'",
    "run -e X=1 -e 'Y=a b' --workdir /tmp --entrypoint 'sh -c' any 'echo $X'",
    "run --life-span 2h30m --schedule-timeout 5m --http 8080 --no-http-auth -X any sleep 0",
    "run --priority high -t any -- printf '%s' \"it's\"",
]


def what_runs(job: JobDescription) -> object:
    """Return all of a job that is the same in the next one like it."""
    return job.model_dump(
        include={
            "name",
            "tags",
            "description",
            "preset_name",
            "container",
            "priority",
            "schedule_timeout",
            "max_run_time_minutes",
            "restart_policy",
        }
    )


@pytest.mark.parametrize("line", LINES)
def test_a_rerun_and_the_generated_command_start_the_same_again(
    neuro: Neuro, session: Session, line: str
) -> None:
    def wait_for(output: str) -> JobDescription:
        return session.jobs.wait(output.strip())

    first = wait_for(neuro(f"-q {line.replace('run ', 'run --detach --no-wait-start ')}").stdout)
    second = wait_for(neuro(f"-q rerun {first.id}").stdout)
    generated = neuro(f"job generate-run-command {first.id}").stdout
    assert generated.startswith("neuro run --preset=cpu-small")
    again = generated.strip().replace("neuro run", "-q run --detach --no-wait-start", 1)
    third = wait_for(neuro(again).stdout)
    assert len({first.id, second.id, third.id}) == 3
    assert what_runs(first) == what_runs(second) == what_runs(third)


ODD = "it's\n\t$(touch P)`touch P`; !! \x1b[31m\u202e=x -y"


def test_a_generated_command_that_is_pasted_does_what_it_says(
    neuro: Neuro, session: Session, tmp_path: Path
) -> None:
    (bash,) = require_programs("bash")
    options = ["-d", ODD, "-e", f"A={ODD}", "-e", "B==python", "--tag", "--volume=/:/host"]
    started = neuro("-q run --detach --no-wait-start", *options, "any", "true").stdout
    first = session.jobs.status(started.strip())
    line = neuro(f"job generate-run-command {first.id}").stdout
    assert line.count("\n") == 1
    assert not any(map(output.is_hidden, line.strip()))
    script = f"neuro() {{ printf '%s\\0' \"$@\"; }}; {line}"
    pasted = subprocess.run([bash, "-c", script], capture_output=True, check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    run, *words = pasted.stdout.decode().split("\0")[:-1]
    assert run == "run"
    again = session.jobs.status(neuro("-q run --detach --no-wait-start", *words).stdout.strip())
    assert what_runs(again) == what_runs(first)


@pytest.mark.parametrize("name", ["--volume=/:/host", "-f", "$(touch P)", "a; touch P", "=python"])
def test_what_is_printed_to_be_copied_names_the_job_and_no_option(name: str) -> None:
    found = JobDescription.model_validate(job() | {"name": name})
    for line in (*job_views.started(found), *job_views.detached(found).splitlines()):
        command = line.partition(" #")[0].strip()
        if not command.startswith("neuro "):
            continue
        _, _, *words = shlex.split(command)
        assert name in words
        assert not name.startswith("-") or words[words.index(name) - 1] == "--"
        assert not any(mark in command.replace(f"'{name}'", "") for mark in "$;")


def test_an_image_that_would_be_an_option_is_printed_as_an_image() -> None:
    description = job()
    description["container"] |= {"command": "true"}  # type: ignore[operator]
    found = JobDescription.model_validate(description)
    object.__setattr__(found.container, "image", RemoteImage(name="--volume=/:/host"))
    assert command_line(found).endswith(" -- --volume=/:/host -- true")


def test_a_job_without_a_preset_runs_again_with_its_resources(
    neuro: Neuro, session: Session
) -> None:
    resources = Resources(cpu=0.5, memory_mb=64)
    container = Container(
        image="any", command="true", resources=resources, http=HTTPPort(port=8080)
    )
    first = session.jobs.run(container)
    second = session.jobs.status(neuro(f"-q rerun {first.id}").stdout.strip())
    assert second.container.resources == first.container.resources
    assert second.container.http == first.container.http
