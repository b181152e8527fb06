"""The config section: what is current, why, and how it is switched."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import responses

import neuro_sync
from neuro_sync import AuthenticationError, ConfigError, NotSupported, Session
from neuro_sync.client.saved_login import LoginStore
from neuro_sync.local.server import LocalPlatform
from tests.client.test_lookup import token_of
from tests.oauth_server import OAuthServer, TokenDoor

URL = "https://here.example/api/v1"
JOB_ID = "job-4c8ccc8b-7d4c-4f4f-8d4c-4f4f8d4c4f4f"
FIRST = "the platform's first"


def cluster(name: str, *orgs: str | None) -> dict[str, Any]:
    services = ("registry", "storage", "users", "monitoring", "secrets", "disks", "buckets")
    urls = {f"{service}_url": f"https://{name}.example/{service}" for service in services}
    presets = [{"name": f"{name}-small", "cpu": 1.0, "memory": 2**30}]
    pools = [{"name": f"{name}-pool", "cpu": 8.0, "memory": 2**35, "min_size": 0, "max_size": 2}]
    more = {"resource_presets": presets, "resource_pool_types": pools, "news": "of a newer one"}
    return {"name": name, "orgs": orgs, **urls, **more}


def project(name: str, cluster_name: str, org_name: str | None) -> dict[str, Any]:
    return {"name": name, "cluster_name": cluster_name, "org_name": org_name, "role": "writer"}


DESCRIBED: dict[str, Any] = {
    "authorized": True,
    "clusters": [cluster("one", "b", "a"), cluster("two", "c", "b"), cluster("three", None)],
    "projects": [
        project("y", "one", "b"),
        project("x", "one", "b"),
        project("z", "one", "a"),
        project("y", "two", "b"),
        project("w", "two", "c"),
    ],
}


@pytest.fixture(autouse=True)
def hosted(home: Path) -> Iterator[responses.RequestsMock]:
    """A hosted platform with three clusters."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.add_passthru("http://127.0.0.1")
        mock.add(responses.GET, f"{URL}/config", json=DESCRIBED)
        yield mock


@pytest.fixture
def store(home: Path, hosted: responses.RequestsMock) -> LoginStore:
    """Where somebody has logged in."""
    neuro_sync.login_with_token(token_of("alice"), url=URL)
    return LoginStore(home / ".neuro")


def questions(hosted: responses.RequestsMock) -> list[str | None]:
    """Return what the platform was asked; threads of other tests may still ask other ones."""
    return [call.request.url for call in hosted.calls if str(call.request.url).startswith(URL)]


def current(session: Session) -> tuple[str, str | None, str]:
    return session.cluster_name, session.org_name, session.project_name


def saved(store: LoginStore) -> tuple[str | None, ...]:
    login = store.read()
    return login.cluster_name, login.org_name, login.project_name


def test_what_there_is() -> None:
    with Session(URL, token_of("alice")) as session:
        config = session.config
        assert str(config.api_url) == URL
        assert config.username == "alice"
        assert list(config.clusters) == ["one", "two", "three"]
        assert config.available_orgs == ("b", "a", "c")
        assert [found.name for found in config.projects] == ["y", "x", "z", "y", "w"]
        assert list(config.presets) == ["one-small"]
        assert config.resource_pools["one-pool"].max_size == 2
        assert config.token() == token_of("alice")


def test_without_a_choice_the_platforms_first_are_current() -> None:
    with Session(URL, token_of("alice")) as session:
        assert current(session) == ("one", "b", "x")
        assert session.config.sources == {
            "api_url": "the argument url",
            "token": "the argument token",
            "cluster_name": FIRST,
            "org_name": FIRST,
            "project_name": FIRST,
        }


@pytest.mark.parametrize(
    ("arguments", "file", "expected", "sources"),
    [
        ({}, {}, ("two", "b", "y"), ("saved", "saved", "saved")),
        ({}, {"cluster-name": "one"}, ("one", "b", "y"), ("file", "saved", "saved")),
        ({}, {"project-name": "q"}, ("two", "b", "q"), ("saved", "saved", "file")),
        ({}, {"org-name": "c"}, ("two", "c", "w"), ("saved", "file", "saved")),
        ({"org_name": "c"}, {"org-name": "b"}, ("two", "c", "w"), ("saved", "argument", "saved")),
        (
            {"cluster_name": "one", "org_name": "a", "project_name": "q"},
            {"cluster-name": "two", "org-name": "c", "project-name": "p"},
            ("one", "a", "q"),
            ("argument", "argument", "argument"),
        ),
        # What was current elsewhere gives way where it is not.
        ({"cluster_name": "three"}, {}, ("three", None, "alice"), ("argument", "saved", "saved")),
    ],
)
def test_arguments_come_before_the_project_and_that_before_the_saved_login(
    home: Path,
    store: LoginStore,
    arguments: dict[str, str],
    file: dict[str, str],
    expected: tuple[str, str | None, str],
    sources: tuple[str, str, str],
) -> None:
    store.update(URL, "alice", cluster_name="two", org_name="b", project_name="y")
    settled = "\n".join(f"{name} = {json.dumps(value)}" for name, value in file.items())
    (home / ".neuro.toml").write_text(f"[job]\n{settled}")
    with Session(**arguments) as session:  # type: ignore[arg-type]  # names, all of them
        assert current(session) == expected
        told = dict(session.config.sources)
    names = ("cluster_name", "org_name", "project_name")
    meant = {"saved": f"the saved login {store.file}", "file": str(home / ".neuro.toml")}
    for name, source in zip(names, sources, strict=True):
        assert told[name] == meant.get(source, f"the argument {name}")


def test_a_cluster_that_is_not_there_is_told_with_who_chose_it(home: Path) -> None:
    file = home / ".neuro.toml"
    file.write_text("[job]\ncluster-name = 'mars'")
    with Session(URL, token_of("alice")) as session, pytest.raises(ConfigError) as refused:
        session.cluster_name  # noqa: B018  # asks the platform
    assert str(refused.value) == (
        f"there is no cluster 'mars', which {file} chooses; there are: one, two, three"
    )


def test_a_local_platform_does_not_heed_the_names_of_the_project(
    home: Path, platform: LocalPlatform
) -> None:
    (home / ".neuro.toml").write_text("[job]\ncluster-name = 'one'\nlife-span = '1d'")
    with Session.local(state=platform.folder) as session:
        assert session.cluster_name == "local"
        assert session.config.settings.job.life_span == 86400


@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        ("switch_cluster", "two", ("two", "b", "y")),  # both are there as well
        ("switch_cluster", "three", ("three", None, "alice")),
        ("switch_org", "a", ("one", "a", "z")),
        ("switch_org", "c", ("two", "c", "w")),  # only the other cluster has it
        ("switch_project", "x", ("one", "b", "x")),
    ],
)
def test_switching_holds_at_once_and_in_the_next_session(
    store: LoginStore, method: str, name: str, expected: tuple[str, str | None, str]
) -> None:
    store.update(URL, "alice", project_name="y")
    with Session() as session:
        assert current(session) == ("one", "b", "y")
        getattr(session.config, method)(name)
        assert current(session) == expected
        assert session.config.sources["cluster_name"] == f"the saved login {store.file}"
    with Session() as session:
        assert current(session) == expected
    cluster_name, org_name, project_name = expected
    has_projects = cluster_name != "three"
    assert saved(store) == (cluster_name, org_name, project_name if has_projects else None)


def test_a_cluster_without_the_organisation_has_its_first_by_name(store: LoginStore) -> None:
    with Session() as session:
        session.config.switch_org("a")
        session.config.switch_cluster("two")
        assert current(session) == ("two", "b", "y")


def test_switching_outranks_an_argument_and_needs_no_saved_login() -> None:
    with Session(URL, token_of("alice"), cluster_name="one", org_name="a") as session:
        session.config.switch_cluster("two")
        assert current(session) == ("two", "b", "y")
        assert session.config.sources["cluster_name"] == "a switch in this session"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("switch_cluster", "there is no cluster 'mars'; there are: one, two, three"),
        ("switch_org", "there is no organisation 'mars'; there are: b, a, c"),
        ("switch_project", "there is no project 'mars' of 'b' on 'one'; there are: x, y"),
    ],
)
def test_what_is_not_there_cannot_be_switched_to(store: LoginStore, method: str, said: str) -> None:
    before = saved(store)
    with Session() as session:
        with pytest.raises(ConfigError) as refused:
            getattr(session.config, method)("mars")
        assert current(session) == ("one", "b", "x")
    assert str(refused.value) == said
    assert saved(store) == before


@pytest.mark.parametrize("what", ["cluster", "org", "project"])
def test_what_the_project_settles_is_changed_there(
    home: Path, store: LoginStore, what: str
) -> None:
    file = home / ".neuro.toml"
    file.write_text(f"[job]\n{what}-name = 'one'")
    with Session() as session, pytest.raises(ConfigError) as refused:
        getattr(session.config, f"switch_{what}")("two")
    assert str(refused.value) == f"{file} makes 'one' the {what}-name; change it there"


def test_a_switch_that_cannot_be_saved_is_none(store: LoginStore) -> None:
    with Session() as session:
        assert current(session) == ("one", "b", "x")
        neuro_sync.login_with_token(token_of("bob"), url=URL)
        with pytest.raises(ConfigError, match="is somebody else's by now"):
            session.config.switch_cluster("two")
        assert current(session) == ("one", "b", "x")


def test_fetching_asks_again_and_saves_what_there_is(
    store: LoginStore, hosted: responses.RequestsMock
) -> None:
    with Session() as session:
        assert list(session.config.clusters) == ["one", "two", "three"]
        fewer = DESCRIBED | {"clusters": DESCRIBED["clusters"][:1]}
        hosted.replace(responses.GET, f"{URL}/config", json=fewer)
        assert list(session.config.clusters) == ["one", "two", "three"]
        session.config.fetch()
        assert list(session.config.clusters) == ["one"]
        assert [found["name"] for found in store.read().clusters] == ["one"]
        fewer = DESCRIBED | {"clusters": DESCRIBED["clusters"][1:]}
        hosted.replace(responses.GET, f"{URL}/config", json=fewer)
        with pytest.raises(ConfigError, match="there is no cluster 'one', which the saved login"):
            session.config.fetch()


def test_many_threads_ask_once(hosted: responses.RequestsMock) -> None:
    with Session(URL, token_of("alice")) as session:
        threads = [threading.Thread(target=current, args=(session,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert questions(hosted) == [f"{URL}/config"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"authorized": False}, "does not accept the token"),
        ({"authorized": True}, "knows no cluster for you"),
    ],
)
def test_a_platform_that_has_nothing_for_us_says_why(
    hosted: responses.RequestsMock, answer: dict[str, Any], said: str
) -> None:
    hosted.replace(responses.GET, f"{URL}/config", json=answer)
    with Session(URL, token_of("alice")) as session, pytest.raises(AuthenticationError, match=said):
        session.cluster_name  # noqa: B018  # asks the platform


def test_options_change_a_view_and_not_the_session(hosted: responses.RequestsMock) -> None:
    with Session(URL, token_of("alice")) as session:
        with session.with_options(cluster_name="two", org_name="c") as other:
            assert current(other) == ("two", "c", "w")
            assert other.config.sources["cluster_name"] == "the argument cluster_name"
        assert current(session) == ("one", "b", "x")
        assert questions(hosted) == [f"{URL}/config"]  # what the platform said is shared as well


def test_a_view_shares_connections_token_and_end_with_its_session(
    oauth: OAuthServer, door: TokenDoor
) -> None:
    neuro_sync.login(oauth.browse, url=door.url)
    session = Session()
    view = session.with_options(timeout=(1.0, 0.5))
    oauth.revoke_tokens()
    assert view.jobs.get_capacity()
    assert session.jobs.get_capacity()
    assert oauth.refreshes == 1
    assert view._transport._connections is session._transport._connections
    assert (view._transport._timeout, session._transport._timeout) == ((1.0, 0.5), (10.0, 60.0))
    view.close()
    assert session.jobs.get_capacity()
    session.close()
    with pytest.raises(neuro_sync.NeuroError, match="closed"):
        view.jobs.get_capacity()


def test_a_view_keeps_the_local_platform_of_its_session_running() -> None:
    view = Session.local(ephemeral=True).with_options(timeout=(5.0, 5.0))
    assert view.cluster_name == "local"
    assert view._origin is not None
    view._origin.close()


@pytest.mark.parametrize(
    ("service", "call"),
    [
        ("monitoring", lambda session: session.jobs.get_capacity()),
        ("monitoring", lambda session: session.jobs.exec(JOB_ID, "true")),
        ("storage", lambda session: session.storage.stat("storage:a")),
        ("storage", lambda session: session.storage.download_dir("storage:a", "here")),
        ("secrets", lambda session: list(session.secrets.list())),
        ("registry", lambda session: session.images.list()),
        ("registry", lambda session: session.images.tags("image:a")),
        ("disks", lambda session: list(session.disks.list())),
    ],
)
def test_a_cluster_that_lacks_a_service_is_one_all_the_same(
    hosted: responses.RequestsMock, service: str, call: Callable[[Session], object]
) -> None:
    bare = cluster("one", "b")
    del bare[f"{service}_url"]
    hosted.replace(responses.GET, f"{URL}/config", json={**DESCRIBED, "clusters": [bare]})
    with Session(URL, token_of("alice")) as session:
        assert current(session) == ("one", "b", "x")
        with pytest.raises(NotSupported, match=r"has no|lacks"):
            call(session)
