"""A job once more: with `rerun`, and with the command that was made of it."""

from __future__ import annotations

import pytest

from neuro_sync import Container, HTTPPort, JobDescription, Resources, Session

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
