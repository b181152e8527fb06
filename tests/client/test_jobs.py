"""Start, follow, wait, list, kill: the client against a platform that really runs jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from yarl import URL

from neuro_sync import (
    ConnectionFailed,
    Container,
    IllegalArgumentError,
    JobDescription,
    JobFailed,
    JobStatus,
    NotSupported,
    Resources,
    Session,
    WaitTimeout,
)
from tests.scripted_platform import Request, answer, scripted_platform
from tests.two_clusters import two_clusters

Start = Callable[[str], JobDescription]


def test_a_job_is_pending_then_runs_then_has_an_exit_code(session: Session, start: Start) -> None:
    job = start("true")
    assert job.status is JobStatus.PENDING
    assert job.history.reason == "Creating"
    ended = session.jobs.wait(job)
    assert ended.status is JobStatus.SUCCEEDED
    assert ended.history.exit_code == 0
    steps = [item.status for item in ended.history.transitions]
    assert steps == [JobStatus.PENDING, JobStatus.RUNNING, JobStatus.SUCCEEDED]
    created, started = ended.history.created_at, ended.history.started_at
    finished = ended.history.finished_at
    assert created is not None
    assert started is not None
    assert finished is not None
    assert created <= started <= finished
    assert ended.history.run_time_seconds > 0


def test_a_job_keeps_what_was_said_of_it(session: Session) -> None:
    job = session.jobs.start(
        image="python:3.12",
        preset_name="cpu-small",
        command="sh -c 'echo $GREETING'",
        env={"GREETING": "hello there"},
        name="says-hello",
        tags=["b", "a"],
        description="greets",
        life_span=timedelta(seconds=90),
        shm=True,
    )
    assert (job.name, job.tags, job.description) == ("says-hello", ("a", "b"), "greets")
    assert job.life_span == 120  # whole minutes, never less than asked for
    assert job.preset_name == "cpu-small"
    assert str(job.container.image) == "python:3.12"
    assert job.container.env == {"GREETING": "hello there"}
    assert job.container.resources.cpu == session.presets["cpu-small"].cpu
    assert job.container.resources.shm
    assert job.owner == session.username
    assert str(job.uri).endswith(f"/{session.project_name}/{job.id}")
    assert list(session.jobs.logs("says-hello")) == ["hello there"]
    assert session.jobs.wait("says-hello").id == job.id


def test_an_image_of_the_platform_is_named_by_its_address(session: Session) -> None:
    image = session.parse.remote_image("image:team/resnet:v1")
    here = f"{session.cluster_name}/{session.org_name}/{session.project_name}"
    assert str(image) == f"image://{here}/team/resnet:v1"
    for given in ("image:team/resnet:v1", str(image), image, image.as_docker_url()):
        job = session.jobs.start(image=given, preset_name="cpu-small", command="true", tags=["own"])
        assert job.container.image == image
        assert session.jobs.status(job).container.image == image
    assert {found.container.image for found in session.jobs.list(tags=["own"])} == {image}
    with pytest.raises(IllegalArgumentError, match=r"Invalid remote image 'image:A': invalid name"):
        session.jobs.start(image="image:A", preset_name="cpu-small")


def test_an_image_of_another_registry_stays_as_it_was_given(session: Session) -> None:
    for reference in ("cr.example.com/proj/img:1", "localhost:5000/a@sha256:00"):
        job = session.jobs.start(image=reference, preset_name="cpu-small", command="true")
        assert str(session.jobs.status(job).container.image) == reference


def test_a_container_says_how_an_address_becomes_an_image() -> None:
    with pytest.raises(ValueError, match=r"give session\.parse\.remote_image\('image:a'\)"):
        Container(image="image:a", resources=Resources(memory_mb=100, cpu=0.5))


def test_run_takes_resources_instead_of_a_preset(session: Session) -> None:
    container = Container(
        image="ubuntu", command="echo ran", resources=Resources(memory_mb=100, cpu=0.5)
    )
    job = session.jobs.run(container, tags=["direct"], is_preemptible=True)
    assert job.container.resources.memory_mb == 100
    assert job.scheduler_enabled
    assert job.preset_name is None
    assert list(session.jobs.logs(job)) == ["ran"]


def test_a_command_may_be_a_list_of_words(session: Session) -> None:
    words = ["it's", "two words", "$HOME", '"', "\\", "*", "", "ü"]
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command=["printf", r"%s\n", *words]
    )
    assert list(session.jobs.logs(job)) == words
    container = Container(
        image="any",
        entrypoint=["printf", r"%s\n"],
        command=words,
        resources=Resources(memory_mb=100, cpu=0.5),
    )
    assert list(session.jobs.logs(session.jobs.run(container))) == words


@pytest.mark.parametrize(("command", "code"), [("false", 1), ("sh -c 'exit 42'", 42)])
def test_a_job_that_fails_tells_its_exit_code(
    session: Session, start: Start, command: str, code: int
) -> None:
    job = session.jobs.wait(start(command))
    assert job.status is JobStatus.FAILED
    assert job.reason == "Error"
    assert job.history.exit_code == code


def test_a_job_ended_by_a_signal_has_the_code_of_a_shell(session: Session, start: Start) -> None:
    job = session.jobs.wait(start("sh -c 'kill -9 $$'"))
    assert (job.status, job.history.exit_code) == (JobStatus.FAILED, 137)


def test_a_program_that_is_not_there_fails_the_job_with_words(
    session: Session, start: Start
) -> None:
    with pytest.raises(JobFailed, match="there is no program 'no-such-program'") as failed:
        session.jobs.wait(start("no-such-program --help"), check=True)
    assert failed.value.exit_code == 127
    assert failed.value.job.reason == "ContainerCannotRun"


def test_a_failure_that_was_waited_for_shows_the_last_lines(session: Session, start: Start) -> None:
    job = start("sh -c 'for i in $(seq 30); do echo line $i; done; exit 3'")
    with pytest.raises(JobFailed) as failed:
        session.jobs.wait(job, check=True)
    assert failed.value.exit_code == 3
    assert failed.value.log_tail == tuple(f"line {number}" for number in range(11, 31))
    assert "line 30" in str(failed.value)
    assert "Error" in str(failed.value)


def test_waiting_ends_at_its_deadline_and_leaves_the_job_alone(
    session: Session, start: Start
) -> None:
    job = start("sleep 60")
    with pytest.raises(WaitTimeout) as late:
        session.jobs.wait(job, timeout=0.1)
    assert isinstance(late.value, TimeoutError)
    assert late.value.job
    assert late.value.job.id == job.id
    assert not session.jobs.status(job).status.is_finished
    session.jobs.kill(job)


def test_a_killed_job_is_cancelled_at_once(session: Session, start: Start) -> None:
    job = start("sleep 60")
    session.jobs.kill(job.id)
    ended = session.jobs.status(job.id)
    assert ended.status is JobStatus.CANCELLED
    assert ended.reason == "UserRequested"
    session.jobs.kill(job.id)  # once more does nothing
    assert session.jobs.status(job.id) == ended
    assert list(session.jobs.logs(job)) == []


def test_killing_a_job_that_is_over_leaves_it_as_it_was(session: Session, start: Start) -> None:
    job = session.jobs.wait(start("true"))
    session.jobs.kill(job)
    assert session.jobs.status(job).status is JobStatus.SUCCEEDED


def test_a_life_span_ends_a_job(session: Session, start: Start) -> None:
    job = session.jobs.start(image="any", preset_name="cpu-small", command="true", life_span=60)
    assert job.life_span == 60  # that it ends a job is tested with the service's own clock
    session.jobs.wait(job)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"preset_name": "gpu-huge"}, "'gpu-huge'; there are cpu-small, cpu-large"),
    ({"name": "Train"}, "name = 'Train'"),
    ({"name": "job-1"}, "job name cannot start with 'job-'"),
    ({"command": "it's"}, "No closing quotation"),
    ({"command": []}, "blank value"),
    ({"command": ["head", "-n", 5]}, "each word has to be a string: 5"),
    ({"command": None}, "needs a command"),
    ({"image": ""}, "image"),
    ({"tags": ["a b"]}, "tags.0 = 'a b'"),
    ({"life_span": -5}, "life_span = -5"),
    ({"working_dir": "here"}, "working_dir = 'here'"),
    ({"project_name": "elsewhere"}, "job://local/local/elsewhere"),
    ({"org_name": "elsewhere"}, "given organization"),
    ({"privileged": True}, "does not allow privileged jobs"),
]


@pytest.mark.parametrize(("changes", "named"), BAD)
def test_bad_input_names_the_value_and_starts_nothing(
    session: Session, changes: dict[str, Any], named: str
) -> None:
    marker = f"bad-{abs(hash(named))}"
    good = {"image": "any", "preset_name": "cpu-small", "command": "true", "tags": [marker]}
    with pytest.raises((IllegalArgumentError, PermissionError)) as refused:
        session.jobs.start(**{**good, **changes})
    assert named in str(refused.value)
    assert list(session.jobs.list(tags=[marker])) == []


def test_an_unknown_argument_is_no_silent_default(session: Session) -> None:
    with pytest.raises(TypeError, match="comand"):
        session.jobs.start(image="any", preset_name="cpu-small", comand="true")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "changes",
    [
        {"pass_config": True},
    ],
)
def test_what_the_local_platform_cannot_do_is_refused_with_a_remedy(
    session: Session, changes: dict[str, Any]
) -> None:
    with pytest.raises(NotSupported, match="leave it"):
        session.jobs.start(image="any", preset_name="cpu-small", command="true", **changes)


def test_a_name_is_used_by_one_unfinished_job_at_a_time(session: Session) -> None:
    def start_named() -> JobDescription:
        return session.jobs.start(
            image="any", preset_name="cpu-small", command="sleep 60", name="the-only-one"
        )

    first = start_named()
    with pytest.raises(IllegalArgumentError, match=f"already exists: '{first.id}'"):
        start_named()
    session.jobs.kill("the-only-one")
    second = start_named()
    assert session.jobs.status("the-only-one").id == second.id  # the newest of the name
    session.jobs.kill(second)


@pytest.mark.parametrize("call", ["status", "kill", "logs", "monitor", "wait"])
def test_an_unknown_job_is_told_at_the_call(session: Session, call: str) -> None:
    for unknown in ("no-such-job", "job-00000000-0000-0000-0000-000000000000"):
        with pytest.raises(IllegalArgumentError, match=f"no such job {unknown}"):
            getattr(session.jobs, call)(unknown)


def test_an_empty_job_id_is_not_sent(session: Session) -> None:
    with pytest.raises(IllegalArgumentError, match="empty"):
        session.jobs.kill("")


def test_lists_can_be_filtered_in_every_way(session: Session) -> None:
    before = datetime.now(timezone.utc)
    jobs = [
        session.jobs.start(
            image="any",
            preset_name="cpu-small",
            command="true" if number else "false",
            name=f"listed-{number}",
            tags=["listed", f"number:{number}"],
        )
        for number in range(4)
    ]
    for job in jobs:
        session.jobs.wait(job)

    def listed(**filters: Any) -> list[str]:
        with session.jobs.list(**{"tags": ["listed"], **filters}) as found:
            return [job.id for job in found]

    ids = [job.id for job in jobs]
    assert listed() == ids
    assert listed(reverse=True) == ids[::-1]
    assert listed(limit=2) == ids[:2]
    assert listed(reverse=True, limit=1) == ids[3:]
    assert listed(name="listed-2") == ids[2:3]
    assert listed(tags=["listed", "number:3"]) == ids[3:]
    assert listed(tags=["number:3", "number:2"]) == []
    assert listed(statuses=[JobStatus.FAILED]) == ids[:1]
    assert listed(statuses={JobStatus.FAILED, JobStatus.SUCCEEDED}) == ids
    assert listed(owners=[session.username]) == ids
    assert listed(owners=["somebody-else"]) == []
    assert listed(since=before) == ids
    assert listed(since=datetime.now() + timedelta(hours=1)) == []  # noqa: DTZ005  # local time
    assert listed(until=before) == []
    assert listed(since=jobs[1].history.created_at, until=jobs[2].history.created_at) == ids[1:3]
    assert listed(cluster_name="another") == []
    assert listed(project_names=["another"]) == []
    assert listed(project_names=[session.project_name], org_names=["local"]) == ids


def test_a_status_that_there_is_not_is_named(session: Session) -> None:
    with pytest.raises(IllegalArgumentError, match="'runing' is not a valid JobStatus"):
        session.jobs.list(statuses=["runing"])


def test_a_wait_for_what_never_comes_is_refused(session: Session) -> None:
    with pytest.raises(IllegalArgumentError, match="'done': it is 'running' or 'finished'"):
        session.jobs.wait("any-job", until="done")  # type: ignore[call-overload]  # a typo


def test_a_list_is_opened_at_the_call(session: Session) -> None:
    with pytest.raises(IllegalArgumentError, match="limit = 0: should be 1 or more"):
        session.jobs.list(limit=0)
    with pytest.raises(IllegalArgumentError, match="'Not A Name'"):
        session.jobs.list(name="Not A Name")


def test_jobs_that_the_platform_is_removing_are_not_listed() -> None:
    """The hosted service has jobs whose record outlives them, and lists them unless told not to."""
    resources = {"cpu": 1.0, "memory_mb": 64}
    rest = {
        "owner": "alice",
        "cluster_name": "default",
        "status": "failed",
        "history": {"status": "failed"},
        "container": {"image": "ubuntu", "resources": resources},
    }
    flags = {"kept": "", "dropped": "being_dropped", "without-logs": "logs_removed"}

    def jobs(request: Request) -> bytes:
        query = dict(parse_qsl(urlsplit(request.target).query))
        found = [id for id, flag in flags.items() if query.get(flag, "true").lower() != "false"]
        lines = [json.dumps({"id": id, **rest}) + "\n" for id in found]
        return answer("".join(lines).encode(), "200 OK", "Content-Type: application/x-ndjson")

    with scripted_platform() as server, Session(server.url, server.token) as session:
        server.script["GET /api/v1/jobs?"] = jobs
        assert [job.id for job in session.jobs.list()] == ["kept"]


def test_lists_that_nobody_reads_to_the_end_cost_no_connection(session: Session) -> None:
    for _ in range(100):
        next(iter(session.jobs.list(limit=2)), None)
    assert session.jobs.list(limit=1) is not None


def check_short_job(session: Session, number: int) -> None:
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command=f"sh -c 'echo out {number}; echo err {number} >&2; exit {number % 7}'",
    )
    with session.jobs.logs(job) as lines:
        assert sorted(lines) == [f"err {number}", f"out {number}"]
    ended = session.jobs.wait(job)
    assert ended.history.exit_code == number % 7


def test_200_short_jobs_are_followed_to_their_end_one_after_the_other(session: Session) -> None:
    for number in range(200):
        check_short_job(session, number)


def test_200_short_jobs_are_followed_to_their_end_eight_at_a_time(session: Session) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: check_short_job(session, number), range(200)))


def test_the_address_of_a_job_names_its_cluster() -> None:
    job_id = "job-00000000-0000-0000-0000-000000000000"
    with two_clusters() as platform, Session(platform.url, platform.token) as session:
        for call in (
            lambda job: session.jobs.exec(job, "true"),
            session.jobs.send_signal,
            session.jobs.monitor,
            lambda job: next(session.jobs.top(job)),
        ):
            for address in (f"job://gpu/acme/vision/{job_id}", URL(f"job://gpu/vision/{job_id}")):
                with pytest.raises(ConnectionFailed, match=r"gpu\.example\.org"):
                    call(address)
