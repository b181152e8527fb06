"""Where the platform is: the order of the places, and what is said when it is in none."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path

import pytest

from neuro_sync import ConfigError, Session
from neuro_sync.client.lookup import find_platform
from neuro_sync.client.saved_login import LoginStore, SavedLogin
from neuro_sync.secret_text import SecretText

HERE = "https://here.example/api/v1"
THERE = "https://there.example/api/v1"


def token_of(user: str) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"identity": user}).encode()).decode()
    return f"canary.{claims.rstrip('=')}.canary"


def passed(user: str, url: str = HERE, **more: str | None) -> str:
    content = {"token": token_of(user), "url": url, "cluster": "passed-cluster"} | more
    return base64.b64encode(json.dumps(content).encode()).decode()


def save(folder: Path, user: str) -> LoginStore:
    store = LoginStore(folder)
    store.write(
        SavedLogin(HERE, SecretText(token_of(user)), 1e12, SecretText("canary-refresh"), {}),
        now=1.0,
    )
    return store


ENVIRONMENT = {"NEURO_SYNC_URL": HERE, "NEURO_SYNC_TOKEN": token_of("environment")}
ALL = ("environment", "neuro-passed", "apolo-passed", "neuro-folder", "apolo-folder")
VARIABLES = {
    "environment": ENVIRONMENT,
    "neuro-passed": {"NEURO_PASSED_CONFIG": passed("neuro-passed")},
    "apolo-passed": {"APOLO_PASSED_CONFIG": passed("apolo-passed")},
    "neuro-variable": {"NEUROMATION_CONFIG": "~/neuro-variable"},
    "apolo-variable": {"APOLO_CONFIG": "~/apolo-variable"},
}
FOLDERS = {
    "neuro-folder": ".neuro",
    "apolo-folder": ".apolo",
    "neuro-variable": "neuro-variable",
    "apolo-variable": "apolo-variable",
}


def arrange(home: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[str, ...]) -> None:
    """Let each place name a platform, as a user whose name is that of the place."""
    for place in places:
        for variable, value in VARIABLES.get(place, {}).items():
            monkeypatch.setenv(variable, value)
        if place in FOLDERS:
            save(home / FOLDERS[place], place)


@pytest.mark.parametrize(
    ("places", "winner"),
    [
        (ALL, "environment"),
        (ALL[1:], "neuro-passed"),
        (ALL[2:], "apolo-passed"),
        (ALL[3:], "neuro-folder"),
        (ALL[4:], "apolo-folder"),
        (("neuro-variable", "apolo-variable"), "neuro-variable"),
        (("neuro-variable", "neuro-folder", "apolo-folder"), "neuro-variable"),
        # What a variable names comes before what is usual.
        (("apolo-variable", "neuro-folder", "apolo-folder"), "apolo-variable"),
    ],
)
def test_the_first_place_that_names_a_platform_counts(
    home: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[str, ...], winner: str
) -> None:
    arrange(home, monkeypatch, places)
    with Session() as session:
        assert session.username == winner


@pytest.mark.parametrize("place", [*ALL, "neuro-variable", "apolo-variable"])
def test_arguments_come_before_every_place(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    arrange(home, monkeypatch, (place,))
    with Session(THERE, token_of("argument")) as session:
        assert (session.username, str(session.api_url)) == ("argument", THERE)


@pytest.mark.parametrize("place", ["environment", "neuro-passed", "neuro-folder"])
def test_a_folder_that_is_given_comes_before_every_other_place(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    arrange(home, monkeypatch, (place,))
    save(home / "given", "given")
    with Session(path=home / "given") as session:
        assert session.username == "given"


@pytest.mark.parametrize("place", ["environment", "neuro-passed", "apolo-passed", "neuro-folder"])
def test_an_address_makes_do_with_a_token_for_that_address(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    arrange(home, monkeypatch, (place,))
    with Session(HERE + "/") as session:
        assert session.username == place


@pytest.mark.parametrize("place", ["environment", "neuro-passed", "apolo-passed", "neuro-folder"])
def test_a_token_is_not_sent_to_an_address_that_it_is_not_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    arrange(home, monkeypatch, (place,))
    with pytest.raises(ConfigError, match=r"another address|for https://here\.example/api/v1"):
        Session(THERE)


def test_a_token_of_the_environment_goes_with_an_address_that_is_given(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURO_SYNC_TOKEN", token_of("environment"))
    with Session(THERE) as session:
        assert session.username == "environment"


@pytest.mark.parametrize("in_variable", [False, True])
def test_a_token_without_an_address_is_not_sent_to_where_somebody_logged_in(
    home: Path, monkeypatch: pytest.MonkeyPatch, in_variable: bool
) -> None:
    save(home / ".neuro", "saved")
    if in_variable:
        monkeypatch.setenv("NEURO_SYNC_TOKEN", token_of("environment"))
    with pytest.raises(ConfigError) as refused:
        Session(token=None if in_variable else token_of("argument"))
    said = ("not given", "set") if in_variable else ("given", "not set")
    assert str(refused.value) == HALF.format(*said)


HALF = """\
no platform to talk to. Looked at:
  the argument url: not given
  the argument token: {}
  the variable NEURO_SYNC_URL: not set
  the variable NEURO_SYNC_TOKEN: {}
Log in with neuro_sync.login(), give Session(url=..., token=...), \
or use Session.local() to run jobs on this machine."""

NOWHERE = """\
no platform to talk to. Looked at:
  the argument url: not given
  the argument token: not given
  the variable NEURO_SYNC_URL: not set
  the variable NEURO_SYNC_TOKEN: not set
  the variable NEURO_PASSED_CONFIG: not set
  the variable APOLO_PASSED_CONFIG: not set
  the saved login {home}/.neuro/db: not there
  the saved login {home}/.apolo/db: not there
Log in with neuro_sync.login(), give Session(url=..., token=...), \
or use Session.local() to run jobs on this machine."""

ELSEWHERE = """\
no platform to talk to. Looked at:
  the argument url: given
  the argument token: not given
  the variable NEURO_SYNC_URL: set
  the variable NEURO_SYNC_TOKEN: set, for another address
  the variable NEURO_PASSED_CONFIG: set, for https://here.example/api/v1
  the variable APOLO_PASSED_CONFIG: not set
  the saved login {home}/neuro-variable/db: for https://here.example/api/v1 \
(from the variable NEUROMATION_CONFIG)
  the saved login {home}/.apolo/db: not there
Log in with neuro_sync.login(), give Session(url=..., token=...), \
or use Session.local() to run jobs on this machine."""

IN_A_FOLDER = """\
no platform to talk to. Looked at:
  the argument url: not given
  the argument token: not given
  the saved login {home}/given/db: not there
Log in with neuro_sync.login(), give Session(url=..., token=...), \
or use Session.local() to run jobs on this machine."""


def test_who_finds_nothing_tells_each_place(home: Path) -> None:
    with pytest.raises(ConfigError) as nowhere:
        Session()
    assert str(nowhere.value) == NOWHERE.format(home=home)


def test_who_finds_another_platform_tells_where(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrange(home, monkeypatch, ("environment", "neuro-passed", "neuro-variable"))
    with pytest.raises(ConfigError) as elsewhere:
        Session(THERE)
    assert str(elsewhere.value) == ELSEWHERE.format(home=home)


def test_who_finds_nothing_in_a_folder_tells_that_one_alone(home: Path) -> None:
    with pytest.raises(ConfigError) as nowhere:
        Session(path=home / "given")
    assert str(nowhere.value) == IN_A_FOLDER.format(home=home)


def test_without_a_home_folder_the_error_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(ConfigError, match="a saved login: there is no home folder"):
        Session()
    with Session(HERE, token_of("argument")) as session:
        assert session.username == "argument"


@pytest.mark.parametrize(
    "text",
    [
        "canary",
        base64.b64encode(b"canary").decode(),
        base64.b64encode(b'{"token": "canary", "url": "https://h"}').decode(),
        base64.b64encode(b'["canary"]').decode(),
    ],
)
def test_a_passed_config_that_is_none_is_named_and_not_repeated(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("NEURO_PASSED_CONFIG", text)
    save(home / ".neuro", "saved")
    with pytest.raises(ConfigError) as refused:
        Session()
    assert str(refused.value) == (
        "the variable NEURO_PASSED_CONFIG holds no passed config: "
        "base64 of JSON with url, token and cluster"
    )


def test_a_passed_config_says_what_is_current(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURO_PASSED_CONFIG", passed("job", org_name="acme", project_name=None))
    names = find_platform().names
    assert {name: choice.value for name, choice in names.items()} == {
        "cluster_name": "passed-cluster",
        "org_name": "acme",
    }


@pytest.mark.parametrize("text", ["localhost", "ftp://host/api", "http://", "canary.canary.canary"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"should look like https://HOST/api/v1") as refused:
        Session(text, "token")
    assert "canary" not in str(refused.value)


def test_an_address_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError) as refused:
        Session("https://user:canary@host/api/v1", "token")
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("token", ["canary\nX-Evil: 1", "canary canary", "canary\u20ac"])
def test_a_token_that_cannot_be_sent_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(ConfigError, match=r"the token is no token: character \d+ of") as refused:
        Session(HERE, token)
    assert "canary" not in str(refused.value)


def test_space_around_a_token_is_no_part_of_it(home: Path) -> None:
    with Session(HERE, f" {token_of('alice')}\n") as session:
        assert session.config.token() == token_of("alice")


def test_rights_that_are_too_wide_are_told_with_the_remedy(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = save(home / ".neuro", "saved")
    with caplog.at_level(logging.WARNING, logger="neuro_sync"):
        Session().close()
        assert caplog.messages == []
        store.file.chmod(0o644)
        store.folder.chmod(0o755)
        with Session() as session:
            assert session.username == "saved"
    file = f"{home}/.neuro/db"
    assert caplog.messages == [
        f"other users of this machine may use the saved login {file}: chmod 700 {home}/.neuro",
        f"other users of this machine may use the saved login {file}: chmod 600 {file}",
    ]
