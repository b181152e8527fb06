"""The official asyncio client, unmodified, uses the local platform as if it were the hosted one."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import apolo_sdk
import pytest
from apolo_sdk import Client, Container, Factory, HTTPPort, JobStatus, RemoteImage, Resources
from yarl import URL

from neuro_sync.local.server import LocalPlatform

T = TypeVar("T")

DEADLINE = 30.0
"""Seconds until a test gives up on what should take a moment; a busy machine needs some."""
IMAGE = RemoteImage.new_external_image("ubuntu", tag="latest")
FOREVER = "sleep 600"


class Drive(Protocol):
    def __call__(self, scenario: Callable[[Client], Awaitable[T]]) -> T:
        """Run a scenario with a client that is logged in."""


@pytest.fixture(scope="session")
def login(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved login."""
    folder = tmp_path_factory.mktemp("apolo") / "config"
    asyncio.run(Factory(folder).login_with_token(platform.token, url=URL(platform.url)))
    return folder


@pytest.fixture
def drive(login: Path) -> Drive:
    def drive_client(scenario: Callable[[Client], Awaitable[T]]) -> T:
        async def with_client() -> T:
            async with await Factory(login).get() as client:
                return await asyncio.wait_for(scenario(client), DEADLINE)

        return asyncio.run(with_client())

    return drive_client


@pytest.fixture
def label() -> str:
    """A job name and tag that no other test uses."""
    return f"peer-{uuid4().hex[:12]}"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: a job that reads it waits until the test writes to it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


async def start(client: Client, command: str, **options: Any) -> Any:
    return await client.jobs.start(image=IMAGE, preset_name="cpu-small", command=command, **options)


async def until(client: Client, job: Any, reached: Callable[[Any], bool]) -> Any:
    """Return the job as soon as it is as it should be; `drive` has the deadline."""
    while not reached(job):
        await asyncio.sleep(0.01)
        job = await client.jobs.status(job.id)
    return job


async def finished(client: Client, job: Any) -> Any:
    return await until(client, job, lambda now: now.status.is_finished)


async def running(client: Client, job: Any) -> Any:
    return await until(client, job, lambda now: now.status.is_running)


async def listed(client: Client, **filters: Any) -> list[str]:
    async with client.jobs.list(**filters) as jobs:
        return [job.id async for job in jobs]


async def open_gate(gate: Path) -> None:
    """Let the job behind it go on; it reads the line ``second``."""
    await asyncio.to_thread(gate.write_text, "second\n")


async def log_of(client: Client, job_id: str, **options: Any) -> bytes:
    async with client.jobs.monitor(job_id, **options) as pieces:
        return b"".join([piece async for piece in pieces])


# Logging in


def test_a_login_finds_the_home_cluster_and_its_presets(
    drive: Drive, platform: LocalPlatform
) -> None:
    async def scenario(client: Client) -> None:
        assert client.cluster_name == "local"
        assert client.config.org_name == "local"
        assert client.config.project_name == client.username
        assert client.config.api_url == URL(platform.url)
        small = client.config.presets["cpu-small"]
        assert small.cpu == 1.0
        assert small.memory >= 2**20

    drive(scenario)


def test_a_saved_login_is_refreshed_from_the_platform(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        presets = client.config.presets
        await client.config.fetch()
        assert client.config.cluster_name == "local"
        assert client.config.presets == presets

    drive(scenario)


def test_a_login_with_an_unknown_token_is_refused_and_not_saved(
    platform: LocalPlatform, tmp_path: Path
) -> None:
    factory = Factory(tmp_path / "config")
    with pytest.raises(apolo_sdk.AuthError):
        asyncio.run(factory.login_with_token("unknown", url=URL(platform.url)))
    assert not factory.is_config_present


def test_a_token_that_is_no_longer_known_raises_at_the_first_call(
    platform: LocalPlatform, tmp_path: Path
) -> None:
    async def scenario() -> None:
        factory = Factory(tmp_path / "config")
        await factory.login_with_token(platform.token, url=URL(platform.url))
        async with await factory.get() as client:
            # What a login to an earlier platform at the same address amounts to.
            stale = client.config._config_data.auth_token.create_non_expiring("stale")
            object.__setattr__(client.config._config_data, "auth_token", stale)
            with pytest.raises(apolo_sdk.AuthenticationError, match="401: Unauthorized"):
                await client.jobs.status("any")

    asyncio.run(scenario())


# Starting


def test_a_started_job_is_described_as_it_was_asked_for(
    drive: Drive, label: str, tmp_path: Path
) -> None:
    async def scenario(client: Client) -> None:
        job = await start(
            client,
            FOREVER,
            name=label,
            tags=["kind:b", label, "kind:a"],
            description="a description",
            env={"EPOCHS": "3", "EMPTY": ""},
            life_span=120,
            working_dir=str(tmp_path),
            http=HTTPPort(8080, requires_auth=False),
            shm=True,
            schedule_timeout=5,
            priority=apolo_sdk.JobPriority.NORMAL,
        )
        assert re.fullmatch(r"job-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", job.id)
        assert job.owner == job.project_name == client.username
        assert (job.cluster_name, job.org_name) == ("local", "local")
        assert job.uri == URL(f"job://local/local/{client.username}/{job.id}")
        assert job.name == label
        assert job.tags == sorted(["kind:b", label, "kind:a"])
        assert job.description == "a description"
        assert job.preset_name == "cpu-small"
        assert job.life_span == 120.0
        assert job.schedule_timeout == 5.0
        assert job.restart_policy is apolo_sdk.JobRestartPolicy.NEVER
        assert job.priority is apolo_sdk.JobPriority.NORMAL
        assert not job.scheduler_enabled
        assert not job.preemptible_node
        assert not job.pass_config
        assert not job.privileged
        assert (job.http_url.scheme, job.http_url.host) == ("http", "127.0.0.1")
        assert job.internal_hostname == f"{job.id}.{job.namespace}"
        assert job.internal_hostname_named is not None
        assert job.total_price_credits == 0
        assert job.price_credits_per_hour == client.config.presets["cpu-small"].credits_per_hour
        container = job.container
        assert container.image == IMAGE
        assert container.command == FOREVER
        assert container.entrypoint is None
        assert container.env == {"EPOCHS": "3", "EMPTY": ""}
        assert container.working_dir == str(tmp_path)
        assert container.http == HTTPPort(8080, requires_auth=False)
        assert container.resources.cpu == 1.0
        assert container.resources.memory == client.config.presets["cpu-small"].memory
        assert container.resources.shm
        assert not container.tty
        await client.jobs.kill(job.id)

    drive(scenario)


def test_a_job_without_options_has_none(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await finished(client, await start(client, "true"))
        assert job.name is None
        assert job.tags == ()
        assert job.description is None
        assert job.life_span is None
        assert job.schedule_timeout is None
        assert job.http_url == URL()
        assert job.container.http is None
        assert job.container.working_dir is None
        assert job.container.env == {}
        assert not job.container.resources.shm

    drive(scenario)


def test_a_job_is_pending_when_its_user_learns_of_it(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, "true")
        assert job.status is JobStatus.PENDING
        assert job.history.reason == "Creating"
        assert job.history.created_at == job.history.changed_at
        assert job.history.started_at is None
        assert job.history.finished_at is None
        assert job.history.exit_code is None
        assert [item.status for item in job.history.transitions] == [JobStatus.PENDING]

    drive(scenario)


def test_a_job_runs_in_its_working_folder_with_its_environment(
    drive: Drive, tmp_path: Path
) -> None:
    async def scenario(client: Client) -> bytes:
        job = await start(
            client,
            """-c 'echo "$PWD $GREETING"'""",
            entrypoint="sh",
            env={"GREETING": "hello, 'world'"},
            working_dir=str(tmp_path),
        )
        return await log_of(client, job.id)

    assert drive(scenario) == f"{tmp_path} hello, 'world'\n".encode()


def test_a_job_with_resources_of_its_own_is_run(drive: Drive, label: str) -> None:
    async def scenario(client: Client) -> None:
        asked = Container(
            image=IMAGE,
            resources=Resources(memory=2**28, cpu=0.5),
            command="echo with resources",
            env={"A": "b"},
        )
        job = await client.jobs.run(asked, name=label, tags=[label], life_span=3600)
        assert job.container == asked
        assert job.preset_name is None
        assert job.life_span == 3600.0
        assert await log_of(client, job.id) == b"with resources\n"
        assert (await finished(client, job)).status is JobStatus.SUCCEEDED

    drive(scenario)


# Status and history


@pytest.mark.parametrize(
    ("command", "status", "exit_code", "reason"),
    [
        ("true", JobStatus.SUCCEEDED, 0, None),
        ("sh -c 'exit 3'", JobStatus.FAILED, 3, "Error"),
        ("sh -c 'kill -9 $$'", JobStatus.FAILED, 137, "Error"),
        ("there-is-no-such-program", JobStatus.FAILED, 127, "ContainerCannotRun"),
    ],
)
def test_a_finished_job_tells_how_it_ended(
    drive: Drive, command: str, status: JobStatus, exit_code: int, reason: str | None
) -> None:
    async def scenario(client: Client) -> None:
        job = await finished(client, await start(client, command))
        assert job.status is job.history.status is status
        assert job.history.exit_code == exit_code
        assert job.history.reason == reason
        assert job.history.transitions[-1].exit_code == exit_code

    drive(scenario)


def test_a_failed_job_is_described_by_the_end_of_its_output(drive: Drive) -> None:
    async def scenario(client: Client) -> Any:
        command = "sh -c 'echo out; echo the reason >&2; exit 1'"
        return await finished(client, await start(client, command))

    assert drive(scenario).history.description.endswith("the reason")


def test_the_history_of_a_job_adds_up(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        history = (await finished(client, await start(client, "true"))).history
        steps = history.transitions
        assert [step.status for step in steps] == [
            JobStatus.PENDING,
            JobStatus.RUNNING,
            JobStatus.SUCCEEDED,
        ]
        times = [step.transition_time for step in steps]
        assert times == [history.created_at, history.started_at, history.finished_at]
        assert times == sorted(times)
        assert history.changed_at == history.finished_at
        assert history.run_time_seconds == pytest.approx((times[2] - times[1]).total_seconds())
        assert history.restarts == 0

    drive(scenario)


def test_a_running_job_has_started_and_not_finished(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await running(client, await start(client, FOREVER))
        assert job.history.started_at == job.history.changed_at
        assert job.history.finished_at is None
        assert job.history.exit_code is None
        assert job.history.reason is None
        later = await until(
            client, job, lambda now: now.history.run_time_seconds > job.history.run_time_seconds
        )
        assert later.history.started_at == job.history.started_at
        await client.jobs.kill(job.id)

    drive(scenario)


def test_times_are_in_utc(drive: Drive) -> None:
    async def scenario(client: Client) -> Any:
        return (await start(client, "true")).history.created_at

    created_at = drive(scenario)
    assert created_at.utcoffset() == timedelta()
    assert abs(datetime.now(timezone.utc) - created_at) < timedelta(seconds=DEADLINE)


def test_a_name_means_the_newest_job_that_had_it(drive: Drive, label: str) -> None:
    async def scenario(client: Client) -> None:
        first = await finished(client, await start(client, "true", name=label))
        second = await start(client, "true", name=label)
        assert first.id != second.id
        assert (await client.jobs.status(label)).id == second.id

    drive(scenario)


# Listing


def test_a_list_is_filtered_by_status(drive: Drive, label: str) -> None:
    async def scenario(client: Client) -> None:
        good = await start(client, "true", tags=[label])
        bad = await start(client, "false", tags=[label])
        still = await start(client, FOREVER, tags=[label])
        await finished(client, good)
        await finished(client, bad)
        await running(client, still)
        for statuses, expected in (
            ({JobStatus.SUCCEEDED}, [good.id]),
            ({JobStatus.FAILED}, [bad.id]),
            ({JobStatus.SUCCEEDED, JobStatus.FAILED}, [good.id, bad.id]),
            (JobStatus.active_items(), [still.id]),
            (JobStatus.items(), [good.id, bad.id, still.id]),
            ({JobStatus.CANCELLED}, []),
        ):
            assert await listed(client, tags=[label], statuses=statuses) == expected
        await client.jobs.kill(still.id)

    drive(scenario)


def test_a_list_is_filtered_by_name_tags_owner_and_place(drive: Drive, label: str) -> None:
    async def scenario(client: Client) -> None:
        me = client.username
        one = await start(client, "true", name=label, tags=[label, "one"])
        two = await start(client, "true", tags=[label, "two"])
        both = [one.id, two.id]
        for filters, expected in (
            ({"tags": [label]}, both),
            ({"tags": [label, "one"]}, [one.id]),
            ({"tags": ["one", "two", label]}, []),
            ({"name": label}, [one.id]),
            ({"name": "nobody-has-it", "tags": [label]}, []),
            ({"tags": [label], "owners": [me]}, both),
            ({"tags": [label], "owners": [me, "somebody"]}, both),
            ({"tags": [label], "owners": ["somebody"]}, []),
            ({"tags": [label], "project_names": [me]}, both),
            ({"tags": [label], "project_names": ["another"]}, []),
            ({"tags": [label], "org_names": ["another"]}, []),
            ({"tags": [label], "cluster_name": "another"}, []),
        ):
            assert await listed(client, **filters) == expected, filters

    drive(scenario)


def test_a_list_is_filtered_by_the_time_of_creation_both_ends_included(
    drive: Drive, label: str
) -> None:
    async def scenario(client: Client) -> None:
        jobs = [await start(client, "true", tags=[label]) for _ in range(3)]
        ids = [job.id for job in jobs]
        times = [job.history.created_at for job in jobs]
        # Without a zone the client means this machine's local time.
        local = times[1].astimezone().replace(tzinfo=None)
        for filters, expected in (
            ({"since": times[1]}, ids[1:]),
            ({"until": times[1]}, ids[:2]),
            ({"since": times[1], "until": times[1]}, ids[1:2]),
            ({"since": local}, ids[1:]),
            ({"until": times[0] - timedelta(microseconds=1)}, []),
            ({"since": times[2] + timedelta(microseconds=1)}, []),
        ):
            assert await listed(client, tags=[label], **filters) == expected, filters

    drive(scenario)


def test_a_list_is_in_the_order_of_creation_or_in_reverse_and_can_be_cut(
    drive: Drive, label: str
) -> None:
    async def scenario(client: Client) -> None:
        ids = [(await start(client, "true", tags=[label])).id for _ in range(4)]
        assert await listed(client, tags=[label]) == ids
        assert await listed(client, tags=[label], reverse=True) == ids[::-1]
        assert await listed(client, tags=[label], limit=3) == ids[:3]
        assert await listed(client, tags=[label], limit=3, reverse=True) == ids[:0:-1]
        assert await listed(client, tags=[label], limit=9) == ids

    drive(scenario)


def test_a_listed_job_is_the_job_that_status_describes(drive: Drive, label: str) -> None:
    async def scenario(client: Client) -> None:
        job = await start(
            client, "true", name=label, tags=[label], description="one", env={"A": "b"}
        )
        job = await finished(client, job)
        async with client.jobs.list(tags=[label]) as jobs:
            assert [found async for found in jobs] == [job]

    drive(scenario)


# Logs


def test_the_log_of_a_finished_job_is_both_of_its_streams(drive: Drive) -> None:
    async def scenario(client: Client) -> bytes:
        command = "sh -c 'echo out; echo err >&2'"
        job = await finished(client, await start(client, command))
        return await log_of(client, job.id)

    assert sorted(drive(scenario).splitlines()) == [b"err", b"out"]


def test_a_log_is_bytes_and_comes_unchanged(drive: Drive) -> None:
    async def scenario(client: Client) -> bytes:
        program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
        return await log_of(client, (await start(client, f'python -c "{program}"')).id)

    assert drive(scenario) == bytes(range(256)) * 1000


def test_a_last_line_without_a_newline_is_no_less_a_part_of_the_log(drive: Drive) -> None:
    async def scenario(client: Client) -> bytes:
        return await log_of(client, (await start(client, r"printf 'one\ntwo'")).id)

    assert drive(scenario) == b"one\ntwo"


def test_a_job_that_writes_nothing_has_an_empty_log(drive: Drive) -> None:
    async def scenario(client: Client) -> bytes:
        return await log_of(client, (await start(client, "true")).id)

    assert drive(scenario) == b""


def test_a_running_job_is_followed_until_it_ends(drive: Drive, gate: Path) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, f"sh -c 'echo first; read line < {gate}; echo then $line'")
        log = b""
        async with client.jobs.monitor(job.id) as pieces:
            async for piece in pieces:
                log += piece
                if log == b"first\n":
                    assert (await running(client, job)).status.is_running
                    await open_gate(gate)
        assert log == b"first\nthen second\n"
        assert (await finished(client, job)).status is JobStatus.SUCCEEDED

    drive(scenario)


def test_several_followers_see_the_same(drive: Drive, gate: Path) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, f"sh -c 'echo first; read line < {gate}; echo then $line'")
        followers = [asyncio.ensure_future(log_of(client, job.id)) for _ in range(3)]
        await running(client, job)
        await open_gate(gate)
        assert await asyncio.gather(*followers) == [b"first\nthen second\n"] * 3

    drive(scenario)


def test_a_follower_may_leave_and_the_job_goes_on(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, f"sh -c 'echo first; exec {FOREVER}'")
        async with client.jobs.monitor(job.id) as pieces:
            assert await anext(aiter(pieces)) == b"first\n"
        assert (await client.jobs.status(job.id)).status is JobStatus.RUNNING
        await client.jobs.kill(job.id)

    drive(scenario)


def test_each_line_of_a_log_can_have_its_time(drive: Drive, gate: Path) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, f"sh -c 'echo first; read line < {gate}; echo then $line'")
        async with client.jobs.monitor(job.id) as pieces:
            await anext(aiter(pieces))  # only now is the second line written
        await open_gate(gate)
        lines = (await log_of(client, job.id, timestamps=True)).decode().splitlines()
        stamps, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
        assert texts == ("first", "then second")
        for stamp in stamps:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp)
        history = (await finished(client, job)).history
        first, second = (datetime.fromisoformat(stamp[:26] + "+00:00") for stamp in stamps)
        assert history.created_at <= first < second <= history.finished_at

    drive(scenario)


def test_a_log_can_begin_at_a_time_which_is_included(drive: Drive, gate: Path) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, f"sh -c 'echo first; read line < {gate}; echo then $line'")
        async with client.jobs.monitor(job.id) as pieces:
            await anext(aiter(pieces))  # only now is the second line written
        await open_gate(gate)
        stamped = (await log_of(client, job.id, timestamps=True)).decode().splitlines()
        second = datetime.fromisoformat(stamped[1][:26] + "+00:00")
        local = second.astimezone().replace(tzinfo=None)
        later = second + timedelta(hours=1)
        assert await log_of(client, job.id, since=second) == b"then second\n"
        assert await log_of(client, job.id, since=local) == b"then second\n"
        assert await log_of(client, job.id, since=second - timedelta(hours=1)) == (
            b"first\nthen second\n"
        )
        assert await log_of(client, job.id, since=later) == b""
        assert await log_of(client, job.id, since=second, timestamps=True) == (
            stamped[1].encode() + b"\n"
        )

    drive(scenario)


def test_a_log_has_no_separator_since_nothing_is_archived(drive: Drive) -> None:
    async def scenario(client: Client) -> bytes:
        job = await finished(client, await start(client, "echo line"))
        return await log_of(client, job.id, separator="=== separator ===", debug=False)

    assert drive(scenario) == b"line\n"


# Killing


def test_a_killed_job_is_cancelled_at_once_and_its_followers_end(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, f"sh -c 'echo first; exec {FOREVER}'")
        log = b""
        async with client.jobs.monitor(job.id) as pieces:
            async for piece in pieces:
                log += piece
                await client.jobs.kill(job.id)
                killed = await client.jobs.status(job.id)
        assert log == b"first\n"
        assert killed.status is JobStatus.CANCELLED
        assert killed.history.reason == "UserRequested"
        assert killed.history.exit_code is None
        assert killed.history.finished_at is not None
        assert await client.jobs.status(job.id) == killed

    drive(scenario)


def test_a_pending_job_can_be_killed(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await start(client, FOREVER)
        await client.jobs.kill(job.id)
        assert (await client.jobs.status(job.id)).status is JobStatus.CANCELLED
        assert await log_of(client, job.id) == b""

    drive(scenario)


def test_a_job_can_be_killed_by_its_name_and_the_name_is_free_again(
    drive: Drive, label: str
) -> None:
    async def scenario(client: Client) -> None:
        first = await start(client, FOREVER, name=label)
        await client.jobs.kill(label)
        assert (await client.jobs.status(first.id)).status is JobStatus.CANCELLED
        second = await start(client, "true", name=label)
        assert second.id != first.id

    drive(scenario)


def test_killing_a_job_that_is_over_changes_nothing(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        job = await finished(client, await start(client, "false"))
        await client.jobs.kill(job.id)
        assert await client.jobs.status(job.id) == job

    drive(scenario)


# Refusals


def test_an_unknown_job_is_refused_by_every_call(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        unknown = f"job-{uuid4()}"
        for call in (client.jobs.status, client.jobs.kill):
            with pytest.raises(apolo_sdk.IllegalArgumentError) as refusal:
                await call(unknown)
            assert str(refusal.value) == f"no such job {unknown}"
            assert refusal.value.payload == {"error": f"no such job {unknown}"}
        with pytest.raises(apolo_sdk.IllegalArgumentError, match=f"no such job {unknown}"):
            await log_of(client, unknown)

    drive(scenario)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"preset_name": "huge"}, apolo_sdk.IllegalArgumentError, "Preset was not found"),
        ({"name": "ab"}, apolo_sdk.IllegalArgumentError, "String is shorter than 3 characters"),
        ({"name": "a" * 41}, apolo_sdk.IllegalArgumentError, "longer than 40 characters"),
        ({"name": "Upper"}, apolo_sdk.IllegalArgumentError, "does not match pattern"),
        ({"name": "job-1"}, apolo_sdk.IllegalArgumentError, "cannot start with 'job-' prefix"),
        ({"tags": ["a b"]}, apolo_sdk.IllegalArgumentError, "does not match pattern"),
        ({"tags": list("abcdefghijklmnopq")}, apolo_sdk.IllegalArgumentError, "greater than 16"),
        # The client rounds down to whole minutes.
        ({"life_span": 59}, apolo_sdk.IllegalArgumentError, "value is less than 1"),
        ({"schedule_timeout": 0.5}, apolo_sdk.IllegalArgumentError, "value is less than 1"),
        ({"command": "echo 'open"}, apolo_sdk.IllegalArgumentError, "invalid command format"),
        ({"working_dir": "relative"}, apolo_sdk.IllegalArgumentError, "does not match pattern"),
        ({"http": HTTPPort(65536)}, apolo_sdk.IllegalArgumentError, "greater than 65535"),
        ({"privileged": True}, apolo_sdk.IllegalArgumentError, "does not allow privileged jobs"),
        ({"cluster_name": "another"}, apolo_sdk.AuthorizationError, "not allowed to submit jobs"),
        ({"org_name": "another"}, apolo_sdk.AuthorizationError, "member of given organization"),
        ({"project_name": "another"}, apolo_sdk.AuthorizationError, "job://local/local/another"),
    ],
)
def test_what_the_platform_cannot_start_is_refused_and_not_listed(
    drive: Drive, label: str, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async def scenario(client: Client) -> None:
        asked = {"command": "true", "preset_name": "cpu-small", "tags": [label], **options}
        with pytest.raises(error, match=re.escape(text)):
            await client.jobs.start(image=IMAGE, **asked)
        assert await listed(client, tags=[label]) == []

    drive(scenario)


def test_a_name_is_taken_while_its_job_is_not_over(drive: Drive, label: str) -> None:
    async def scenario(client: Client) -> None:
        first = await start(client, FOREVER, name=label)
        with pytest.raises(apolo_sdk.IllegalArgumentError) as refusal:
            await start(client, "true", name=label)
        assert str(refusal.value) == (
            f"Failed to create job: job with name {label!r} and project {client.username!r} "
            f"already exists: {first.id!r}"
        )
        await client.jobs.kill(first.id)

    drive(scenario)


def test_a_list_by_a_name_that_nothing_can_have_is_refused(drive: Drive) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(apolo_sdk.IllegalArgumentError, match="does not match pattern"):
            await listed(client, name="No-Name")

    drive(scenario)
