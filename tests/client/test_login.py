"""Logging in, in each of the ways there are, and out; against a real OAuth server."""

from __future__ import annotations

import base64
import json
import socket
import stat
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from yarl import URL

import neuro_sync
from neuro_sync import AuthenticationError, AuthError, ConfigError, ConnectionFailed, Session
from neuro_sync.client.saved_login import LoginStore
from neuro_sync.local.server import LocalPlatform
from tests.oauth_server import CLIENT_ID, OAuthServer, TokenDoor


def log_in(oauth: OAuthServer, door: TokenDoor) -> None:
    neuro_sync.login(oauth.browse, url=door.url)


def saved(home: Path) -> LoginStore:
    return LoginStore(home / ".neuro")


def test_a_browser_logs_in(home: Path, oauth: OAuthServer, door: TokenDoor) -> None:
    pages: list[requests.Response] = []
    neuro_sync.login(lambda address: pages.append(oauth.browse(address)), url=door.url)
    assert "neuro-sync: login" not in {thread.name for thread in threading.enumerate()}
    assert pages[0].text == "OK"
    with neuro_sync.get() as session:
        assert session.username == oauth.user
        assert session.project_name == oauth.user
        assert oauth.accepts(session.config.token())


def test_a_browser_is_sent_on_to_the_page_of_success(
    home: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    oauth.success_url = f"{oauth.address}/welcome"
    pages: list[requests.Response] = []
    neuro_sync.login(lambda address: pages.append(oauth.browse(address)), url=door.url)
    assert pages[0].text == "welcome"


def test_the_usual_browser_is_opened(
    home: Path, oauth: OAuthServer, door: TokenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda address: oauth.browse(URL(address)).ok)
    neuro_sync.login(url=door.url)
    assert saved(home).exists()


def test_without_a_browser_the_error_tells_the_other_way(
    home: Path, oauth: OAuthServer, door: TokenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    with pytest.raises(ConfigError, match="no browser on this machine; use login_headless"):
        neuro_sync.login(url=door.url)


def test_a_callback_address_in_use_gives_way_to_the_next(
    home: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        oauth.callback_ports = [taken.getsockname()[1], 0]
        log_in(oauth, door)
        oauth.callback_ports.pop()
        with pytest.raises(ConfigError, match="other programs use all of"):
            log_in(oauth, door)


def test_a_callback_address_elsewhere_is_refused(
    home: Path, oauth: OAuthServer, door: TokenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.oauth_server.LOOPBACK", "0.0.0.0")
    with pytest.raises(ConfigError, match=r"come back to http://0\.0\.0\.0:0, which is not"):
        log_in(oauth, door)


@pytest.mark.parametrize(
    ("error", "status"), [("unauthorized", 401), ("access_denied", 403), ("server_error", 400)]
)
def test_who_may_not_log_in_is_told_why(
    home: Path, oauth: OAuthServer, door: TokenDoor, error: str, status: int
) -> None:
    oauth.error = error
    pages: list[requests.Response] = []
    with pytest.raises(AuthError, match=r"^you may not, said the server$"):
        neuro_sync.login(lambda address: pages.append(oauth.browse(address)), url=door.url)
    assert (pages[0].status_code, pages[0].text) == (status, "you may not, said the server")
    assert not saved(home).exists()


def test_a_page_cannot_slip_in_the_code_of_somebody_else(
    home: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    def browse(address: URL) -> None:
        back = address.query["redirect_uri"]
        for query in ("code=evil", "code=evil&state=evil", "error=evil", ""):
            assert requests.get(f"{back}/?{query}", timeout=10).status_code == 400
        assert requests.get(f"{back}/favicon.ico", timeout=10).status_code == 404
        oauth.browse(address)

    neuro_sync.login(browse, url=door.url)
    assert "evil" not in str(oauth.forms)
    assert saved(home).exists()


def test_a_login_without_a_code_is_cancelled(
    home: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    def cancel(address: URL) -> None:
        query = address.query
        page = requests.get(f"{query['redirect_uri']}/?state={query['state']}", timeout=10)
        assert page.status_code == 400

    with pytest.raises(AuthError, match="the login was cancelled"):
        neuro_sync.login(cancel, url=door.url)
    with pytest.raises(AuthError, match="the login was cancelled: there is no code"):
        neuro_sync.login_headless(lambda address: " ", url=door.url)


def test_nobody_waits_for_ever_for_a_browser(
    home: Path, oauth: OAuthServer, door: TokenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuro_sync.client.login.LOGIN_TIMEOUT", 0.01)
    with pytest.raises(AuthError, match="nobody logged in within 0 seconds"):
        neuro_sync.login(lambda address: None, url=door.url)


def test_a_code_is_pasted(home: Path, oauth: OAuthServer, door: TokenDoor) -> None:
    neuro_sync.login_headless(lambda address: f" {oauth.browse(address).text}\n", url=door.url)
    with Session() as session:
        assert session.cluster_name == "local"


def test_a_code_that_is_wrong_is_refused_without_repeating_it(
    home: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    with pytest.raises(AuthenticationError) as refused:
        neuro_sync.login_headless(lambda address: "canary", url=door.url)
    assert str(refused.value) == "Wrong code (403 for POST /token)"


def test_a_token_is_saved(home: Path, platform: LocalPlatform) -> None:
    neuro_sync.login_with_token(platform.token, url=platform.url)
    with Session() as session:
        assert session.cluster_name == "local"
    assert saved(home).read().refresh_token == ""


def test_a_token_that_is_not_accepted_is_not_saved(home: Path, platform: LocalPlatform) -> None:
    claims = base64.urlsafe_b64encode(b'{"identity": "eve"}').decode()
    with pytest.raises(AuthenticationError, match="does not accept the token"):
        neuro_sync.login_with_token(f"canary.{claims}.canary", url=platform.url)
    with pytest.raises(ConfigError, match="no user in it"):
        neuro_sync.login_with_token("canary", url=platform.url)
    assert not saved(home).exists()


@pytest.mark.parametrize("variable", ["NEURO_PASSED_CONFIG", "APOLO_PASSED_CONFIG", None])
def test_a_passed_config_is_saved(
    home: Path, platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    content = {"token": platform.token, "url": platform.url, "cluster": "local"}
    text = base64.b64encode(json.dumps(content).encode()).decode()
    if variable:
        monkeypatch.setenv(variable, text)
    neuro_sync.login_with_passed_config(None if variable else text)
    monkeypatch.delenv(variable or "HOME_OF_NOBODY", raising=False)
    with Session() as session:
        assert session.config.sources["token"] == f"the saved login {saved(home).file}"
        assert session.config.sources["cluster_name"] == f"the saved login {saved(home).file}"


def test_a_passed_config_of_a_cluster_that_is_gone_is_not_saved(
    home: Path, platform: LocalPlatform
) -> None:
    content = {"token": platform.token, "url": platform.url, "cluster": "mars"}
    text = base64.b64encode(json.dumps(content).encode()).decode()
    with pytest.raises(ConfigError, match="there is no cluster 'mars'; there are: local"):
        neuro_sync.login_with_passed_config(text)
    assert not saved(home).exists()


def test_a_passed_config_that_is_missing_is_told(home: Path) -> None:
    with pytest.raises(ConfigError) as missing:
        neuro_sync.login_with_passed_config()
    assert str(missing.value) == (
        "there is no passed config; neither NEURO_PASSED_CONFIG nor APOLO_PASSED_CONFIG is set"
    )


def test_a_login_is_for_its_owner_alone(home: Path, platform: LocalPlatform) -> None:
    neuro_sync.login_with_token(platform.token, url=platform.url)
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home / ".neuro").iterdir()}
    assert rights == {"db": 0o600, ".neuro-sync.lock": 0o600}
    assert stat.S_IMODE((home / ".neuro").stat().st_mode) == 0o700


def test_a_folder_that_others_may_look_into_is_told_at_once(
    home: Path, platform: LocalPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    (home / ".neuro").mkdir()
    (home / ".neuro").chmod(0o755)
    neuro_sync.login_with_token(platform.token, url=platform.url)
    assert caplog.messages[-1].endswith(f": chmod 700 {home}/.neuro")


def test_a_new_login_takes_the_place_of_the_old_one(
    home: Path, oauth: OAuthServer, door: TokenDoor, platform: LocalPlatform
) -> None:
    neuro_sync.login_with_token(platform.token, url=platform.url)
    log_in(oauth, door)
    assert saved(home).read().url == door.url


@pytest.mark.parametrize(
    ("variable", "folder"),
    [(None, ".neuro"), ("NEUROMATION_CONFIG", "a"), ("APOLO_CONFIG", "b"), ("path", "c")],
)
def test_where_a_login_is_saved(
    home: Path,
    platform: LocalPlatform,
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    folder: str,
) -> None:
    path = home / folder if variable == "path" else None
    if variable and not path:
        monkeypatch.setenv(variable, f"~/{folder}")
    neuro_sync.login_with_token(platform.token, url=platform.url, path=path)
    assert LoginStore(home / folder).exists()


def test_a_login_where_there_is_one_already_stays_there(
    home: Path, platform: LocalPlatform
) -> None:
    neuro_sync.login_with_token(platform.token, url=platform.url, path=home / ".apolo")
    neuro_sync.login_with_token(platform.token, url=platform.url)
    assert not saved(home).exists()


def test_a_platform_without_a_login_by_browser_says_what_to_use(
    home: Path, oauth: OAuthServer, door: TokenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(oauth), "login_keys", {"auth_url": ""})
    with pytest.raises(ConfigError, match="has no such login; use login_with_token"):
        log_in(oauth, door)


def test_a_platform_that_wants_no_login_gets_none(
    home: Path, oauth: OAuthServer, door: TokenDoor, platform: LocalPlatform
) -> None:
    """As the official clients do it, with a token that is the same for all."""
    admitted = door._admitted

    def admit_all(head: bytes) -> bytes | None:
        token = b"Authorization: Bearer " + platform.token.encode() + b"\r\n\r\n"
        return admitted(head.partition(b"\r\n\r\n")[0] + b"\r\n" + token)

    door._admitted = admit_all  # type: ignore[method-assign]  # another kind of door
    oauth._tokens[platform.token] = 1.0
    neuro_sync.login(lambda address: pytest.fail("a browser"), url=door.url)
    assert saved(home).read().token == (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
        "eyJodHRwczovL3BsYXRmb3JtLm5ldXJvbWF0aW9uLmlvL3VzZXIiOiJ1c2VyIn0."
        "c9RLM3ZV-Nua7qchDkbHd11OaqA4kkEC49IB2A5ZAwE"
    )


def test_logging_out_forgets_the_login_and_keeps_the_settings(
    home: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    log_in(oauth, door)
    (home / ".neuro" / "user.toml").write_text("[job]\nlife-span = '1d'\n")
    neuro_sync.logout(oauth.browse)
    assert oauth.logged_out == [CLIENT_ID]
    assert sorted(path.name for path in (home / ".neuro").iterdir()) == [
        ".neuro-sync.lock",
        "user.toml",
    ]
    with pytest.raises(ConfigError, match="no platform to talk to"):
        Session()
    neuro_sync.logout(oauth.browse)  # nobody is logged in; nothing happens
    assert oauth.logged_out == [CLIENT_ID]


def test_logging_out_forgets_what_cannot_be_read(home: Path) -> None:
    store = saved(home)
    store.folder.mkdir()
    store.file.write_text("no database")
    neuro_sync.logout(lambda address: pytest.fail("a browser"))
    assert not store.exists()


def test_a_platform_that_is_not_there_is_told(home: Path) -> None:
    with pytest.raises(ConnectionFailed, match="nobody answers there: GET /api/v1/config"):
        neuro_sync.login_with_token("a.eyJpZGVudGl0eSI6ICJhIn0.c", url="http://127.0.0.1:1/api/v1")


def test_the_address_for_the_browser_is_as_the_protocol_has_it(
    home: Path, oauth: OAuthServer, door: TokenDoor
) -> None:
    seen: list[URL] = []

    def browse(address: URL) -> str:
        seen.append(address)
        return oauth.browse(address).text

    neuro_sync.login_headless(browse, url=door.url)
    query = parse_qs(urlsplit(str(seen[0])).query)
    assert {name: query.pop(name)[0] for name in list(query) if len(query[name][0]) < 40} == {
        "response_type": "code",
        "code_challenge_method": "S256",
        "client_id": CLIENT_ID,
        "redirect_uri": f"{oauth.address}/show-code",
        "scope": "offline_access",
        "audience": "https://platform.example.org",
        "state": parse_qs(urlsplit(str(seen[0])).query)["state"][0],
    }
    assert list(query) == ["code_challenge"]
    assert len(query["code_challenge"][0]) == 43
