"""One login serves both: the official clients, unmodified, and this package."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from apolo_sdk import Client, Factory
from yarl import URL

import neuro_sync
from neuro_sync import Session
from neuro_sync.client.saved_login import LoginStore
from neuro_sync.local.server import LocalPlatform
from tests.oauth_server import OAuthServer, TokenDoor

T = TypeVar("T")

DEADLINE = 30.0
PAST = 1.0


def theirs(folder: Path, scenario: Callable[[Client], Awaitable[T]]) -> T:
    """Run a scenario with the official client, by the login of a folder."""

    async def with_client() -> T:
        async with await Factory(folder).get() as client:
            return await asyncio.wait_for(scenario(client), DEADLINE)

    return asyncio.run(with_client())


async def who_and_where(client: Client) -> tuple[str, str, str | None, str | None]:
    await client.jobs.get_capacity()
    config = client.config
    return client.username, config.cluster_name, config.org_name, config.project_name


def ours(folder: Path) -> tuple[str, str, str | None, str | None]:
    with Session(path=folder) as session:
        session.jobs.get_capacity()
        return session.username, session.cluster_name, session.org_name, session.project_name


def expire(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "db")) as database, database:
        database.execute("UPDATE main SET expiration_time = ?", (PAST,))


def token_in(folder: Path) -> str:
    return LoginStore(folder).read().token.reveal()


@pytest.fixture
def folder(home: Path) -> Path:
    return home / ".neuro"


async def browse(oauth: OAuthServer, address: URL) -> None:
    await asyncio.to_thread(oauth.browse, address)


def log_in_theirs(folder: Path, oauth: OAuthServer, url: str) -> None:
    """Log in by the official client's own browser flow."""
    login = Factory(folder).login(lambda address: browse(oauth, address), url=URL(url))
    asyncio.run(login)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_the_official_client_uses_a_login_by_token_of_ours(
    folder: Path, platform: LocalPlatform
) -> None:
    neuro_sync.login_with_token(platform.token, url=platform.url)
    assert theirs(folder, who_and_where) == ours(folder)


def test_we_use_a_login_by_token_of_the_official_client(
    folder: Path, platform: LocalPlatform
) -> None:
    asyncio.run(Factory(folder).login_with_token(platform.token, url=URL(platform.url)))
    assert ours(folder) == theirs(folder, who_and_where)


def test_the_official_client_uses_and_renews_a_login_by_browser_of_ours(
    folder: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    neuro_sync.login(oauth.browse, url=door.url)
    first = token_in(folder)
    assert theirs(folder, who_and_where) == ours(folder)
    assert oauth.refreshes == 0
    expire(folder)
    theirs(folder, who_and_where)
    assert oauth.refreshes == 1
    assert token_in(folder) != first
    ours(folder)
    assert oauth.refreshes == 1


def test_we_use_and_renew_a_login_by_browser_of_the_official_client(
    folder: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    oauth.callback_ports = [free_port()]
    log_in_theirs(folder, oauth, door.url)
    first = token_in(folder)
    assert ours(folder) == theirs(folder, who_and_where)
    assert oauth.refreshes == 0
    expire(folder)
    ours(folder)
    assert oauth.refreshes == 1
    assert token_in(folder) != first
    theirs(folder, who_and_where)
    assert oauth.refreshes == 1


def test_what_one_client_switches_to_is_current_for_the_other(
    folder: Path, platform: LocalPlatform
) -> None:
    neuro_sync.login_with_token(platform.token, url=platform.url)
    with Session() as session:
        session.config.switch_cluster("local")
        session.config.switch_org("local")
        session.config.switch_project(session.project_name)
        session.config.fetch()
    before = ours(folder)
    assert theirs(folder, who_and_where) == before

    async def switch(client: Client) -> None:
        await client.config.fetch()
        await client.config.switch_cluster("local")
        await client.config.switch_project(str(client.config.project_name))

    theirs(folder, switch)
    assert ours(folder) == before


def test_who_logs_out_here_is_logged_out_there(folder: Path, platform: LocalPlatform) -> None:
    neuro_sync.login_with_token(platform.token, url=platform.url)
    assert Factory(folder).is_config_present
    neuro_sync.logout()
    assert not Factory(folder).is_config_present


Command = Callable[..., str]


@pytest.fixture
def apolo(home: Path) -> Command:
    """Run the official command, with the home folder of the test, and return what it prints."""

    def run(*arguments: str, **variables: str) -> str:
        options = ("-q", "--disable-pypi-version-check", "--skip-stats")
        command = [str(Path(sys.executable).with_name("apolo")), *options, *arguments]
        environment = {"HOME": str(home), "PATH": os.environ["PATH"], **variables}
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return run


def test_the_official_command_uses_a_login_of_ours(apolo: Command, platform: LocalPlatform) -> None:
    neuro_sync.login_with_token(platform.token, url=platform.url)
    with Session() as session:
        job = session.jobs.start(
            image="any", preset_name="cpu-small", command="true", tags=["from-our-side"]
        )
        session.jobs.wait(job)
    assert job.id in apolo("job", "ls", "--all", "--tag", "from-our-side")
    shown = apolo("config", "show")
    assert platform.url in shown
    assert "cpu-small" in shown


def test_we_use_a_login_of_the_official_command(
    apolo: Command, home: Path, platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(home / "config")
    apolo("config", "login-with-token", platform.token, platform.url, APOLO_CONFIG=folder)
    monkeypatch.setenv("APOLO_CONFIG", folder)
    with Session() as session:
        assert session.project_name == session.username
        assert session.config.sources["token"] == f"the saved login {folder}/db"
