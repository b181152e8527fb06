"""The answer to ``GET /config`` that is saved with a login: used while nothing contradicts it."""

from __future__ import annotations

import os
import pickle
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import neuro_sync
from neuro_sync import (
    AuthenticationError,
    ConfigError,
    ConnectionFailed,
    NeuroError,
    ServerNotAvailable,
    Session,
    StorageNotFound,
)
from neuro_sync.client.platform import MAX_AGE_S
from neuro_sync.client.saved_login import LoginStore, SavedAnswer
from neuro_sync.local.server import LocalPlatform
from neuro_sync.secret_text import SecretText
from neuro_sync.transport.clock import Clock
from tests.relays import FrontDoor
from tests.two_clusters import TwoClusters, two_clusters


class Later(Clock):
    """A clock that is ahead by some seconds, and on which nobody waits."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def sleep(self, seconds: float) -> None:
        pass

    def date(self) -> float:
        return super().date() + self._seconds


class Growing(TwoClusters):
    """A platform on which things appear, disappear and are renamed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.changed: dict[str, Any] = {}

    def config(self) -> dict[str, Any]:
        return super().config() | self.changed

    def add_cluster(self, name: str) -> None:
        clusters = self.config()["clusters"]
        self.changed["clusters"] = [*clusters, clusters[0] | {"name": name}]

    def add_preset(self, name: str) -> None:
        first, *others = self.config()["clusters"]
        preset = {"name": name, "cpu": 1, "memory": 2**30}
        presets = [*first["resource_presets"], preset]
        self.changed["clusters"] = [first | {"resource_presets": presets}, *others]

    def set_projects(self, *names: str) -> None:
        here = {"cluster_name": "default", "org_name": "acme", "role": "user"}
        self.changed["projects"] = [here | {"name": name} for name in names]


@pytest.fixture
def growing(home: Path) -> Iterator[Growing]:  # where the login is saved
    """A platform that somebody has logged in to."""
    with two_clusters(Growing) as server:
        assert isinstance(server, Growing)
        neuro_sync.login_with_token(server.token, url=server.url)
        server.asked = 0
        yield server


@pytest.fixture
def store(home: Path) -> LoginStore:
    return LoginStore(home / ".neuro")


def test_a_saved_login_asks_for_no_configuration(growing: Growing, store: LoginStore) -> None:
    with Session() as session:
        assert (session.cluster_name, session.org_name) == ("default", "acme")
        assert session.project_name == "vision"
        assert not session.presets
        assert session.config.platform.clusters[1].name == "gpu"
        assert session.config.is_local is False
    assert growing.asked == 0
    assert stat.S_IMODE(store.file.stat().st_mode) == 0o600


@pytest.mark.parametrize("seconds", [MAX_AGE_S + 1, -10.0])
def test_an_old_answer_and_one_of_the_future_are_replaced(growing: Growing, seconds: float) -> None:
    with Session(clock=Later(seconds)) as session:
        assert session.cluster_name == "default"
        assert growing.asked == 1
    with Session(clock=Later(seconds)) as session:
        assert session.cluster_name == "default"
    assert growing.asked == 1


def test_a_cluster_that_appears_is_found_when_it_is_named(growing: Growing) -> None:
    growing.add_cluster("new")
    with Session(cluster_name="new") as session:
        assert session.cluster_name == "new"
        assert growing.asked == 1
    with Session() as session:
        assert session.config.cluster("new").name == "new"
        assert growing.asked == 1
        with pytest.raises(ConfigError, match="there is no cluster 'none'"):
            session.config.cluster("none")
        with pytest.raises(ConfigError, match="there is no cluster 'none'"):
            session.config.cluster("none")
    assert growing.asked == 2


def test_a_preset_that_appears_is_found_when_it_is_looked_up(growing: Growing) -> None:
    growing.add_preset("new")
    with Session() as session:
        presets = session.presets
        assert "new" in presets
        assert presets["new"].cpu == session.presets["new"].cpu == 1
        assert presets.get("none") is None
        assert list(presets) == ["new"]
        assert pickle.loads(pickle.dumps(presets)) == presets
        with pytest.raises(KeyError):
            presets["none"]
    assert growing.asked == 1


def test_a_saved_project_that_the_saved_answer_lacks_is_looked_for(
    growing: Growing, store: LoginStore
) -> None:
    growing.set_projects("vision", "later")
    store.update(growing.url, "alice", project_name="later")  # as the official client does
    with Session() as session:
        assert session.project_name == "later"
        assert growing.asked == 1
    with Session() as session:
        assert session.project_name == "later"
    assert growing.asked == 1


def test_switching_finds_what_has_appeared(growing: Growing) -> None:
    growing.set_projects("vision", "later")
    with Session() as session:
        session.config.switch_project("later")
        assert session.project_name == "later"
    first, second = growing.config()["clusters"]
    growing.changed["clusters"] = [first, second | {"orgs": ["fresh"]}]
    with Session() as session:
        session.config.switch_org("fresh")
        assert (session.cluster_name, session.org_name) == ("gpu", "fresh")


def test_fetching_asks_and_saves_for_both_clients(growing: Growing, store: LoginStore) -> None:
    growing.add_cluster("new")
    with Session() as session:
        session.config.fetch()
        assert growing.asked == 1
    assert [cluster["name"] for cluster in store.read().clusters] == ["default", "gpu", "new"]
    with Session() as session:
        assert list(session.config.clusters) == ["default", "gpu", "new"]
    assert growing.asked == 1


def test_threads_that_contradict_it_at_once_ask_once(growing: Growing) -> None:
    growing.add_cluster("new")
    found: list[str] = []
    with Session() as session:
        assert session.cluster_name == "default"
        threads = [
            threading.Thread(target=lambda: found.append(session.config.cluster("new").name))
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (found, growing.asked) == (["new"] * 16, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_child_of_fork_uses_and_replaces_it_as_well(growing: Growing) -> None:
    growing.add_cluster("new")
    with Session() as session:
        assert session.cluster_name == "default"
        child = os.fork()
        if child == 0:
            is_found = session.config.cluster("new").name == "new"
            os._exit(0 if is_found else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert growing.asked == 1
    with Session() as session:
        assert session.config.cluster("new").name == "new"
    assert growing.asked == 1


def spoil(store: LoginStore, how: str) -> None:
    login = store.read()
    assert login.config is not None
    if how == "no table":
        with closing(sqlite3.connect(store.file)) as database, database:
            database.execute("DROP TABLE neuro_sync_config")
    elif how == "other columns":
        with closing(sqlite3.connect(store.file)) as database, database:
            database.execute("DROP TABLE neuro_sync_config")
            database.execute("CREATE TABLE neuro_sync_config (url TEXT)")
    elif how == "of another user":
        with closing(sqlite3.connect(store.file)) as database, database:
            database.execute("UPDATE neuro_sync_config SET username = 'bob'")
    else:
        config = SavedAnswer(how.encode(), "", login.config.fetched)
        store.write(replace(login, config=config), now=1.0)


@pytest.mark.parametrize(
    "how",
    [
        *("no table", "other columns", "of another user"),
        *("", "{", "{}", "[]", '{"clusters": [{}]}', '{"clusters": 7}'),
    ],
)
def test_an_answer_that_is_missing_or_unusable_is_asked_for(
    growing: Growing, store: LoginStore, how: str
) -> None:
    spoil(store, how)
    with Session() as session:
        assert session.cluster_name == "default"
    assert growing.asked == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_cannot_be_written_to_asks_in_every_process(
    growing: Growing, store: LoginStore
) -> None:
    store.folder.chmod(0o500)
    store.file.chmod(0o400)
    try:
        for _ in range(2):
            with Session(clock=Later(2 * MAX_AGE_S)) as session:
                assert session.cluster_name == "default"
    finally:
        store.folder.chmod(0o700)
    assert growing.asked == 2


def test_a_token_that_is_refused_has_the_answer_asked_for_again(
    home: Path, platform: LocalPlatform, store: LoginStore
) -> None:
    assert home
    neuro_sync.login_with_token(platform.token, url=platform.url)
    login = store.read()
    store.write(replace(login, token=SecretText(f"{platform.token[:-4]}AAAA")), now=1.0)
    with Session() as session:
        assert session.cluster_name == "local"
        with pytest.raises(AuthenticationError):
            session.jobs.get_capacity()
        assert store.read().config is None
        with pytest.raises(AuthenticationError, match="the token is not accepted"):
            session.config.cluster()


def test_a_job_that_is_refused_has_the_answer_asked_for_again(
    home: Path, platform: LocalPlatform, store: LoginStore
) -> None:
    assert home
    neuro_sync.login_with_token(platform.token, url=platform.url)
    with Session() as session:
        with pytest.raises(NeuroError, match="Preset was not found"):
            session.jobs.start(image="any", preset_name="gone")
        assert store.read().config is None
        assert "cpu-small" in session.presets
        assert store.read().config is not None


def test_the_local_platform_is_known_without_a_question(
    home: Path, platform: LocalPlatform, store: LoginStore
) -> None:
    assert home
    with FrontDoor(port_of(platform)) as door:
        neuro_sync.login_with_token(platform.token, url=door.url)
    with Session() as session:  # nobody answers there any more
        assert session.config.is_local
    config = store.read().config
    assert config is not None
    assert config.service.startswith("neuro-local/")


def port_of(platform: LocalPlatform) -> int:
    return int(urlsplit(platform.url).port or 0)


class Elsewhere(FrontDoor):
    """A load balancer that knows none of the addresses it is asked for."""

    status = "404 Not Found"

    def _admitted(self, head: bytes) -> bytes | None:
        return head if head.startswith(b"GET /api/v1/config ") else None

    def _refusal(self, head: bytes) -> bytes:
        return (
            f"HTTP/1.1 {self.status}\r\nContent-Length: 7\r\nLocation: http://elsewhere.test/\r\n"
            "Connection: close\r\n\r\nnothing"
        ).encode()


class Redirecting(Elsewhere):
    status = "308 Permanent Redirect"


class Unavailable(Elsewhere):
    status = "503 Service Unavailable"


class Counting(FrontDoor):
    """Counts the questions for the configuration; its services may move."""

    asked = 0

    def _admitted(self, head: bytes) -> bytes | None:
        self.asked += head.startswith(b"GET /api/v1/config ")
        return head

    def move_services(self, address: str) -> None:
        self._services = address
        self.asked = 0


def capacity(session: Session) -> None:
    assert session.jobs.get_capacity()


def secrets(session: Session) -> None:
    session.secrets.add("moved", b"value")
    session.secrets.rm("moved")


def folders(session: Session, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    for number in range(30):
        (source / f"file{number}").write_bytes(b"x" * number)
    session.storage.upload_dir(source, "storage:moved")
    assert len(list(session.storage.list("storage:moved"))) == 30
    session.storage.rm("storage:moved", recursive=True)


def commands(session: Session) -> None:
    job = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 100")
    session.jobs.wait(job, until="running")
    assert session.jobs.run_command(job, "true").exit_code == 0
    session.jobs.send_signal(job)


@pytest.fixture(params=[None, Elsewhere, Redirecting])
def moved(
    request: pytest.FixtureRequest,
    home: Path,  # where the login is saved
    platform: LocalPlatform,
) -> Iterator[Counting]:
    """A platform whose services have moved since somebody logged in; what was there is gone."""
    port = port_of(platform)
    kind = request.param or FrontDoor
    with ExitStack() as stack:
        new = stack.enter_context(FrontDoor(port))
        old = kind(port)
        if request.param:
            stack.enter_context(old)
        api = stack.enter_context(Counting(port, services=old.address))
        neuro_sync.login_with_token(platform.token, url=api.url)
        if not request.param:
            old.close()
        api.move_services(new.address)
        yield api


@pytest.mark.parametrize("work", [capacity, secrets, folders])
def test_services_that_have_moved_are_found(
    moved: Counting, tmp_path: Path, work: Callable[..., None]
) -> None:
    for expected in (1, 1):
        with Session(clock=Later()) as session:
            work(session, tmp_path) if work is folders else work(session)
        assert moved.asked == expected


def test_commands_find_a_service_that_has_moved(moved: Counting) -> None:
    with Session(clock=Later()) as session:
        commands(session)
    assert moved.asked == 1


def test_a_service_that_is_unavailable_may_have_moved(home: Path, platform: LocalPlatform) -> None:
    assert home
    port = port_of(platform)
    with (
        FrontDoor(port) as new,
        Unavailable(port) as old,
        Counting(port, services=old.address) as api,
    ):
        neuro_sync.login_with_token(platform.token, url=api.url)
        with Session(clock=Later()) as session, pytest.raises(ServerNotAvailable, match="nothing"):
            session.jobs.get_capacity()
        assert api.asked == 2
        api.move_services(new.address)
        with Session(clock=Later()) as session:
            assert session.jobs.get_capacity()
        assert api.asked == 1


def test_what_is_not_sent_twice_is_not_sent_to_a_service_that_has_moved(
    home: Path, platform: LocalPlatform
) -> None:
    assert home
    port = port_of(platform)
    with (
        FrontDoor(port) as new,
        Unavailable(port) as old,
        Counting(port, services=old.address) as api,
    ):
        neuro_sync.login_with_token(platform.token, url=api.url)
        api.move_services(new.address)
        with Session(clock=Later()) as session, pytest.raises(ServerNotAvailable, match="nothing"):
            session.disks.create(2**20)
        assert api.asked == 0


def test_an_error_of_a_service_contradicts_nothing(home: Path, platform: LocalPlatform) -> None:
    assert home
    with Counting(port_of(platform)) as api:
        neuro_sync.login_with_token(platform.token, url=api.url)
        api.asked = 0
        with Session(clock=Later()) as session:
            with pytest.raises(StorageNotFound):
                session.storage.stat("storage:missing")
            with pytest.raises(NeuroError):
                session.jobs.status("missing")
            with pytest.raises(NeuroError):
                session.secrets.rm("missing")
            with pytest.raises(NeuroError):
                session.images.digest("image:missing:latest")
        assert api.asked == 0


def test_a_platform_that_is_not_there_is_told_as_before(
    home: Path, platform: LocalPlatform
) -> None:
    assert home
    door = FrontDoor(port_of(platform))
    with door:
        neuro_sync.login_with_token(platform.token, url=door.url)
    with Session(clock=Later()) as session:
        with pytest.raises(ConnectionFailed, match="nobody answers there: GET /api/v1/monitoring"):
            session.jobs.get_capacity()
        with pytest.raises(ConnectionFailed, match="nobody answers there: GET /api/v1/jobs"):
            session.jobs.status("job")
