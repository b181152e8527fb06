"""Where the platform is and who asks: looked up in one order, and told where it was found."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from yarl import URL

from neuro_sync.errors import ConfigError
from neuro_sync.secret_text import SecretText
from neuro_sync.transport.tokens import checked_token

from .saved_login import LoginStore, SavedLogin, login_stores

URL_VARIABLE = "NEURO_SYNC_URL"
TOKEN_VARIABLE = "NEURO_SYNC_TOKEN"  # noqa: S105  # the name of a variable
PASSED_VARIABLES = ("NEURO_PASSED_CONFIG", "APOLO_PASSED_CONFIG")

REMEDY = (
    "Log in with neuro_sync.login(), give Session(url=..., token=...), "
    "or use Session.local() to run jobs on this machine."
)


class NoPlatformFound(ConfigError):
    """Nowhere is said which platform to talk to; `places` are those that were looked at."""

    def __init__(self, places: Sequence[str]) -> None:
        self.places: tuple[str, ...] = tuple(places)
        looked = "\n  ".join(places)
        super().__init__(f"no platform to talk to. Looked at:\n  {looked}\n{REMEDY}")


@dataclass(frozen=True)
class Chosen:
    """A value, and who chose it."""

    value: str = field(repr=False)
    source: str


@dataclass(frozen=True)
class _ChosenToken:
    """A token, and who chose it."""

    value: SecretText
    source: str


@dataclass(frozen=True)
class Found:
    """A platform, and as whom to talk to it."""

    url: str
    token: SecretText
    url_source: str
    token_source: str
    names: Mapping[str, Chosen] = field(default_factory=dict)
    """What is current: ``cluster_name``, ``org_name``, ``project_name``, as far as it is known."""
    store: LoginStore | None = None
    login: SavedLogin | None = None
    """The saved login that it is, if it is one."""


def find_platform(
    url: str | URL | None = None,
    token: str | SecretText | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Found:
    """Return the platform that is meant: by the arguments, the environment, or a saved login.

    An address that is given without a token makes do only with a token for that very address:
    one that was meant for another platform is not sent there.

    Raises:
        ConfigError: There is none; the text lists each place looked at. Or what is there is
            unreadable.
    """
    token = SecretText(token) if token else None
    places: list[str] = []
    address, secret = _given(places, str(url) if url else None, token, environment=path is None)
    found = None
    if address and secret:
        return Found(address.value, secret.value, address.source, secret.source)
    if address or not secret:
        wanted = address.value if address else None
        if path is None:
            found = _from_passed_config(places, wanted)
        found = found or _from_saved_login(places, wanted, path)
    if found is None:
        raise NoPlatformFound(places)
    return found


def _given(
    places: list[str], url: str | None, token: SecretText | None, *, environment: bool
) -> tuple[Chosen | None, _ChosenToken | None]:
    """Return the address and the token of the arguments, else of the environment."""
    places.append(f"the argument url: {'given' if url else 'not given'}")
    places.append(f"the argument token: {'given' if token else 'not given'}")
    address = Chosen(checked_url(url), "the argument url") if url else None
    secret = _ChosenToken(checked_token(token), "the argument token") if token else None
    if not environment:
        return address, secret
    url_set = os.environ.get(URL_VARIABLE)
    token_set = SecretText(os.environ.get(TOKEN_VARIABLE, ""))
    said = "set" if token_set else "not set"
    if address and url_set and token_set and checked_url(url_set) != address.value:
        token_set, said = SecretText(""), "set, for another address"
    places.append(f"the variable {URL_VARIABLE}: {'set' if url_set else 'not set'}")
    places.append(f"the variable {TOKEN_VARIABLE}: {said}")
    if not address and url_set:
        address = Chosen(checked_url(url_set), f"the variable {URL_VARIABLE}")
    if not secret and token_set:
        secret = _ChosenToken(checked_token(token_set), f"the variable {TOKEN_VARIABLE}")
    return address, secret


def _from_passed_config(places: list[str], wanted: str | None) -> Found | None:
    for variable in PASSED_VARIABLES:
        place = f"the variable {variable}"
        text = SecretText(os.environ.get(variable, ""))
        if not text:
            places.append(f"{place}: not set")
            continue
        passed = read_passed_config(text, place)
        if wanted in (None, passed.url):
            return passed
        places.append(f"{place}: set, for {passed.url}")
    return None


def read_passed_config(text: SecretText, place: str) -> Found:
    """Read what a platform hands to a job, or a service account is given: base64 of JSON.

    Raises:
        ConfigError: It is something else.
    """
    passed = _passed(text)
    if passed is None:
        raise ConfigError(
            f"{place} holds no passed config: base64 of JSON with url, token and cluster"
        )
    url, token, names = passed
    return Found(
        checked_url(url),
        checked_token(token),
        place,
        place,
        {name: Chosen(str(value), place) for name, value in names.items() if value},
    )


def _passed(text: SecretText) -> tuple[str, SecretText, dict[str, object]] | None:
    # It returns, since an error would show the token in its frames.
    try:
        content = json.loads(base64.b64decode(text.reveal(), validate=True))
        url, token, cluster = (content[key] for key in ("url", "token", "cluster"))
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None
    names = {
        "cluster_name": cluster,
        "org_name": content.get("org_name"),
        "project_name": content.get("project_name"),
    }
    return str(url), SecretText(str(token)), names


def _from_saved_login(
    places: list[str], wanted: str | None, path: str | os.PathLike[str] | None
) -> Found | None:
    stores = login_stores(path)
    for store, note in stores:
        place = f"the saved login {store.file}"
        if not store.exists():
            places.append(f"{place}: not there{note}")
            continue
        store.warn_if_open_to_others()
        login = store.read()
        if wanted in (None, login.url):
            return _of_login(store, login, place)
        places.append(f"{place}: for {login.url}{note}")
    if not stores:
        places.append("a saved login: there is no home folder, and no NEUROMATION_CONFIG")
    return None


def _of_login(store: LoginStore, login: SavedLogin, place: str) -> Found:
    names = {name: getattr(login, name) for name in ("cluster_name", "org_name", "project_name")}
    return Found(
        checked_url(login.url),
        checked_token(login.token),
        place,
        place,
        {name: Chosen(value, place) for name, value in names.items() if value},
        store,
        login,
    )


def checked_url(text: str) -> str:
    """Return the address of a platform's API without a slash at its end.

    Raises:
        ConfigError: It is none.
    """
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
        # What is no address at all may be a token in the wrong place.
        shown = f" {text!r}" if "://" in text and "@" not in text else ""
        raise ConfigError(f"the platform's address{shown} should look like https://HOST/api/v1")
    return text.rstrip("/")
