"""The official asyncio client, unmodified, shares jobs between users of the local platform."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import apolo_sdk
import pytest
from apolo_sdk import Action, Client, Factory, Permission
from yarl import URL

from neuro_sync import JobDescription, Session
from neuro_sync.local.server import LocalPlatform

T = TypeVar("T")
DEADLINE = 30.0
"""Seconds until a test gives up on what should take a moment."""


class Official:
    """A user of the official client, with a login of their own."""

    def __init__(self, folder: Path, platform: LocalPlatform, name: str) -> None:
        self.name = name
        self._folder = folder
        self.token = platform.add_user(name)
        asyncio.run(Factory(folder).login_with_token(self.token, url=URL(platform.url)))

    def does(self, scenario: Callable[[Client], Awaitable[T]]) -> T:
        async def with_client() -> T:
            async with await Factory(self._folder).get() as client:
                return await asyncio.wait_for(scenario(client), DEADLINE)

        return asyncio.run(with_client())


@pytest.fixture(scope="module")
def town() -> Iterator[LocalPlatform]:
    with LocalPlatform(ephemeral=True, grace=0.5) as platform:
        yield platform


@pytest.fixture(scope="module")
def alice(town: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Official:
    return Official(tmp_path_factory.mktemp("alice") / "config", town, "alice")


@pytest.fixture(scope="module")
def bob(town: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Official:
    return Official(tmp_path_factory.mktemp("bob") / "config", town, "bob")


@pytest.fixture
def job(town: LocalPlatform, alice: Official) -> Iterator[JobDescription]:
    with Session(town.url, alice.token) as session:
        started = session.jobs.start(
            image="any", preset_name="cpu-small", command="sh -c 'echo alas; sleep 600'"
        )
        yield session.jobs.wait(started, until="running")
        session.jobs.kill(started)


async def listed(client: Client) -> list[str]:
    async with client.jobs.list() as jobs:
        return [job.id async for job in jobs]


def test_a_user_logs_in_to_a_project_of_their_own(alice: Official) -> None:
    async def who(client: Client) -> tuple[str, str, str | None]:
        config = client.config
        return config.username, config.cluster_name, config.project_name

    assert alice.does(who) == ("alice", "local", "alice")


def test_a_shared_job_is_in_the_others_list_until_it_is_revoked(
    alice: Official, bob: Official, job: JobDescription
) -> None:
    uri = URL(str(job.uri))

    async def share(client: Client) -> Permission:
        return await client.users.share("bob", Permission(uri, Action.READ))

    async def shares(client: Client) -> list[tuple[str, Permission]]:
        return [(item.user, item.permission) for item in await client.users.get_shares("alice")]

    async def revoke(client: Client) -> None:
        await client.users.revoke("bob", uri)

    async def look(client: Client) -> tuple[str, bytes]:
        seen = await client.jobs.status(job.id)
        async with client.jobs.monitor(job.id) as pieces:
            async for piece in pieces:
                return seen.owner, piece
        raise AssertionError("the log has a line")

    async def kill(client: Client) -> None:
        await client.jobs.kill(job.id)

    assert bob.does(listed) == []
    with pytest.raises(apolo_sdk.AuthorizationError, match="missing"):
        bob.does(look)
    assert alice.does(share) == Permission(uri, Action.READ)
    assert bob.does(listed) == [job.id]
    assert bob.does(look) == ("alice", b"alas\n")
    with pytest.raises(apolo_sdk.AuthorizationError, match="write"):
        bob.does(kill)
    assert alice.does(shares) == [("bob", Permission(uri, Action.READ))]
    alice.does(revoke)
    assert bob.does(listed) == []
    assert alice.does(shares) == []
    with pytest.raises(ValueError, match="Operation has no effect"):
        alice.does(revoke)


def test_permissions_are_listed(alice: Official) -> None:
    async def acl(client: Client) -> list[list[Permission]]:
        uri = URL("storage://local/local/alice/data")
        users = client.users
        return [
            list(found)
            for found in (
                await users.get_acl("alice"),
                await users.get_acl("alice", "job"),
                await users.get_acl("alice", uri=uri),
            )
        ]

    everything, of_jobs, of_data = alice.does(acl)
    assert of_jobs == [Permission(URL("job://local/local/alice"), Action.MANAGE)]
    assert of_data == [Permission(URL("storage://local/local/alice/data"), Action.MANAGE)]
    assert set(of_jobs) < set(everything)


def test_roles_are_made_shared_to_and_removed(
    alice: Official, bob: Official, job: JobDescription
) -> None:
    role = "alice/roles/readers"

    async def make(client: Client) -> list[str]:
        await client.users.add(role)
        await client.users.share(role, Permission(URL(str(job.uri)), Action.READ))
        await client.users.share("bob", Permission(URL(f"role://{role}"), Action.READ))
        return list(await client.users.get_subroles("alice"))

    async def remove(client: Client) -> None:
        await client.users.remove(role)

    assert alice.does(make) == [role]
    assert bob.does(listed) == [job.id]
    alice.does(remove)
    assert bob.does(listed) == []


def test_unknown_users_and_other_peoples_things_are_refused(
    alice: Official, bob: Official, job: JobDescription
) -> None:
    async def with_nobody(client: Client) -> None:
        uri = URL("job://local/local/alice")
        await client.users.share("nobody", Permission(uri, Action.READ))

    async def with_oneself(client: Client) -> None:
        await client.users.share("bob", Permission(URL(str(job.uri)), Action.READ))

    async def of_another(client: Client) -> None:
        await client.users.get_acl("alice")

    with pytest.raises(apolo_sdk.ResourceNotFound, match='user "nobody" was not found'):
        alice.does(with_nobody)
    for refused in (with_oneself, of_another):
        with pytest.raises(apolo_sdk.AuthorizationError, match="missing"):
            bob.does(refused)


def test_a_quota_without_limits_is_told(alice: Official) -> None:
    async def quotas(client: Client) -> tuple[apolo_sdk.Quota, apolo_sdk.Quota | None]:
        return await client.users.get_quota(), await client.users.get_org_quota()

    assert alice.does(quotas) == (apolo_sdk.Quota(), apolo_sdk.Quota())
