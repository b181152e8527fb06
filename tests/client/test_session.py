"""The session: lazy, shared by threads, quiet about its token."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path

import pytest

import neuro_sync
from neuro_sync import ConfigError, ConnectionFailed, NeuroError, Session
from neuro_sync.local.server import LocalPlatform


def test_a_session_knows_who_and_where_it_is(session: Session, platform: LocalPlatform) -> None:
    assert session.username
    assert session.cluster_name == "local"
    assert session.org_name == "local"
    assert session.project_name == session.username
    assert str(session.api_url) == platform.url
    assert list(session.presets)[:2] == ["cpu-small", "cpu-large"]
    assert session.presets["cpu-small"].memory_mb > 0
    assert session.presets["cpu-small"].gpu is None
    assert repr(session) == f"<Session {session.username!r} at {platform.url}>"
    assert repr(session.jobs) == f"<Jobs at {platform.url}>"
    assert repr(session.storage) == f"<Storage at {platform.url}>"


def test_making_a_session_contacts_nobody_and_starts_no_thread() -> None:
    threads = threading.active_count()
    claims = base64.urlsafe_b64encode(json.dumps({"identity": "alice"}).encode()).decode()
    with Session("http://127.0.0.1:1/api/v1", f"head.{claims}.tail") as session:
        assert session.username == "alice"
        assert threading.active_count() == threads
        with pytest.raises(ConnectionFailed):
            session.cluster_name  # noqa: B018  # asks the platform


@pytest.mark.parametrize("url", ["localhost", "ftp://host/api", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"https://HOST/api/v1"):
        Session(url, "token")


def test_a_token_that_is_none_says_so_without_repeating_it() -> None:
    with Session("http://127.0.0.1:1", "canary-4711") as session:
        with pytest.raises(ConfigError) as refused:
            session.username  # noqa: B018  # reads the token
        assert "canary" not in str(refused.value)


def test_the_environment_is_asked_where_the_platform_is(
    platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURO_SYNC_URL", platform.url)
    monkeypatch.setenv("NEURO_SYNC_TOKEN", platform.token)
    with neuro_sync.get() as session:
        assert session.cluster_name == "local"


def test_closing_is_final_and_may_be_repeated(platform: LocalPlatform) -> None:
    session = Session(platform.url, platform.token)
    session.close()
    session.close()
    with pytest.raises(NeuroError, match="closed"):
        session.jobs.list()


def test_another_cluster_is_named_with_those_that_there_are(session: Session) -> None:
    with pytest.raises(ConfigError, match="no cluster 'mars'; there are: local"):
        session.jobs.start(image="a", preset_name="b", cluster_name="mars")


def test_only_a_platform_that_runs_already_is_taken_if_none_may_be_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no local platform runs on {tmp_path}; start one with"):
        Session.local(state=tmp_path, start=False)
    with (
        LocalPlatform(tmp_path) as platform,
        Session.local(state=tmp_path, start=False) as session,
    ):
        assert str(session.api_url) == platform.url
