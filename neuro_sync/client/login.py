"""Logging in and out; what is saved, the official clients use as well."""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack
from yarl import URL

from neuro_sync.closing import Closing
from neuro_sync.errors import AuthenticationError, AuthError, ConfigError
from neuro_sync.secret_text import SecretText
from neuro_sync.transport.retry import Retry

if TYPE_CHECKING:
    import requests

    from neuro_sync.models.config import LoginConfig, PlatformConfig
    from neuro_sync.transport.connections import ConnectionOptions

    from .lookup import Chosen
    from .oauth import Grant
    from .saved_login import LoginStore

DEFAULT_URL = "https://api.apolo.us/api/v1"
LOGIN_TIMEOUT = 60.0
"""Seconds in which the browser has to come back."""
YEARS = 3 * 365 * 24 * 3600.0
"""Seconds that a token lasts of which nobody knows how long it lasts."""

Folder = str | os.PathLike[str]


def login(
    show_browser_cb: Callable[[URL], object] | None = None,
    *,
    url: str | URL = DEFAULT_URL,
    path: Folder | None = None,
    **options: Unpack[ConnectionOptions],
) -> None:
    """Log in with a browser on this machine, and save that in place of any other login.

    `show_browser_cb` opens an address; without it the usual browser does. `path` is the config
    folder; without it the one in use, else ``~/.neuro``. `options` are those of `Session`.

    Raises:
        AuthError: The user or the platform said no, or nobody came back within a minute.
        ConfigError: The login cannot be saved, or this platform has no such way to log in.
    """
    from .callback import CallbackServer
    from .oauth import AuthorizationRequest

    with _Entrance(url, path, options) as entrance:
        if not entrance.is_open():
            keys = entrance.login_keys("auth_url", "token_url")
            with CallbackServer(keys.callback_urls, keys.success_redirect_url) as server:
                request = AuthorizationRequest(server.address, server.state)
                (show_browser_cb or _open_browser)(request.url(keys))
                code = server.code(LOGIN_TIMEOUT)
            entrance.save(request.exchange(entrance.transport, keys, code))


def login_headless(
    get_auth_code_cb: Callable[[URL], str],
    *,
    url: str | URL = DEFAULT_URL,
    path: Folder | None = None,
    **options: Unpack[ConnectionOptions],
) -> None:
    """Log in with a browser on another machine, and save that in place of any other login.

    `get_auth_code_cb` is given an address to show to the user, and returns the code that the
    user reads there after logging in.

    Raises:
        AuthError: The platform does not accept the code.
        ConfigError: The login cannot be saved, or this platform has no such way to log in.
    """
    from .oauth import AuthorizationRequest

    with _Entrance(url, path, options) as entrance:
        if not entrance.is_open():
            keys = entrance.login_keys("auth_url", "token_url", "headless_callback_url")
            request = AuthorizationRequest(keys.headless_callback_url)
            code = SecretText(get_auth_code_cb(request.url(keys)).strip())
            if not code:
                raise AuthError("the login was cancelled: there is no code")
            entrance.save(request.exchange(entrance.transport, keys, code))


def login_with_token(
    token: str,
    *,
    url: str | URL = DEFAULT_URL,
    path: Folder | None = None,
    **options: Unpack[ConnectionOptions],
) -> None:
    """Save a token in place of any other login; it cannot be renewed.

    Raises:
        AuthenticationError: The platform does not accept it.
        ConfigError: The login cannot be saved.
    """
    from neuro_sync.transport.tokens import checked_token

    from .oauth import Grant

    secret = SecretText(token)
    del token
    with _Entrance(url, path, options) as entrance:
        entrance.save(Grant(checked_token(secret), YEARS, None))


def login_with_passed_config(
    config_data: str | None = None,
    *,
    path: Folder | None = None,
    **options: Unpack[ConnectionOptions],
) -> None:
    """Save what a platform hands to a job, or to a service account, in place of any other login.

    Without `config_data` it is that of ``NEURO_PASSED_CONFIG``, else of ``APOLO_PASSED_CONFIG``.
    A session inside a job needs none of this: it looks there itself.

    Raises:
        AuthenticationError: The platform does not accept the token in it.
        ConfigError: There is none, it is unreadable, or the login cannot be saved.
    """
    from .lookup import PASSED_VARIABLES, read_passed_config
    from .oauth import Grant

    text, place = SecretText(config_data or ""), "the argument config_data"
    is_given = config_data is not None
    del config_data
    for variable in PASSED_VARIABLES:
        if not is_given and not text and (text := SecretText(os.environ.get(variable, ""))):
            place = f"the variable {variable}"
    if not text:
        raise ConfigError(
            f"there is no passed config; neither {' nor '.join(PASSED_VARIABLES)} is set"
        )
    passed = read_passed_config(text, place)
    with _Entrance(passed.url, path, options) as entrance:
        entrance.save(Grant(passed.token, YEARS, None), passed.names)


def logout(
    show_browser_cb: Callable[[URL], object] | None = None, *, path: Folder | None = None
) -> None:
    """Forget the saved login. The settings in ``user.toml`` stay.

    With `show_browser_cb` the platform's page for logging out is opened, for the browser to
    forget it as well.

    Raises:
        ConfigError: It cannot be removed.
    """
    from .saved_login import logger

    store = _store(path)
    page = None
    if show_browser_cb is not None and store.exists():
        try:
            keys = store.read().auth_config
            page = URL(keys["logout_url"]).update_query(client_id=keys["client_id"])
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            logger.info("%s", error)  # what cannot be read can be forgotten
    store.delete()
    if show_browser_cb is not None and page is not None:
        show_browser_cb(page)


class _Entrance(Closing):
    """A platform where nobody is logged in yet, and where the login is going to be saved."""

    def __init__(self, url: str | URL, path: Folder | None, options: ConnectionOptions) -> None:
        from neuro_sync.transport.clock import Clock
        from neuro_sync.transport.http import HttpTransport
        from neuro_sync.transport.tokens import NO_TOKEN

        from .lookup import checked_url

        self._url = checked_url(str(url))
        self._store = _store(path)
        self._clock = Clock()
        self.transport = HttpTransport(NO_TOKEN, clock=self._clock, **options)

    def is_open(self) -> bool:
        """Tell whether this platform wants no login; then there is one at once."""
        from neuro_sync.models.config import PlatformConfig

        from .oauth import Grant

        if not PlatformConfig.from_answer(self._config().content).clusters:
            return False
        self.save(Grant(SecretText(_token_for_nothing()), YEARS, None))
        return True

    def login_keys(self, *wanted: str) -> LoginConfig:
        """Return what the platform says of logging in.

        Raises:
            ConfigError: It does not say all that is `wanted`.
        """
        from neuro_sync.models.config import LoginConfig
        from neuro_sync.transport.connections import check_encrypted

        keys = LoginConfig.from_answer(self._config().content)
        for name in wanted:
            if URL(getattr(keys, name)).scheme not in ("http", "https"):
                raise ConfigError(f"{self._url} has no such login; use login_with_token")
            if not self.transport.allow_http_services:
                check_encrypted(self._url, name, getattr(keys, name))
        return keys

    def save(self, grant: Grant, names: Mapping[str, Chosen] | None = None) -> None:
        """Save a login with what the platform has for its user; `names` are current, if known.

        Raises:
            AuthenticationError: The platform does not accept the token.
            ConfigError: It has no such cluster, or nothing can be saved.
        """
        from neuro_sync.errors import SERVICE_HEADER
        from neuro_sync.models.config import LoginConfig, PlatformConfig
        from neuro_sync.transport.tokens import user_of

        from .official_columns import official_columns
        from .saved_login import SavedAnswer, SavedLogin
        from .tokens import expiration

        user_of(grant.token)  # one without a name is refused before it is saved
        answer = self._config(grant.token)
        body = answer.content
        platform = PlatformConfig.from_answer(body)
        if not platform.clusters:
            why = "knows no cluster for you" if platform.authorized else "does not accept the token"
            raise AuthenticationError(f"{self._url} {why}", method="GET", path="/config")
        now = self._clock.date()
        login = SavedLogin(
            url=self._url,
            token=grant.token,
            expiration_time=expiration(grant.expires_in, now),
            refresh_token=grant.refresh_token or SecretText(""),
            auth_config=LoginConfig.from_answer(body).model_dump(mode="json"),
            config=SavedAnswer(body, answer.headers.get(SERVICE_HEADER, ""), now),
            **_current(platform, {name: choice.value for name, choice in (names or {}).items()}),
            **official_columns(body),
        )
        self._store.write(login, now=now)
        self._store.warn_if_open_to_others()

    def _config(self, token: SecretText | None = None) -> requests.Response:
        from neuro_sync.transport.tokens import NO_TOKEN, FixedToken

        tokens = FixedToken(token) if token else NO_TOKEN
        transport = self.transport.with_options(tokens=tokens)
        return transport.request("GET", f"{self._url}/config", retry=Retry.ALWAYS)

    def close(self) -> None:
        self.transport.close()


def _current(platform: PlatformConfig, wanted: Mapping[str, str]) -> dict[str, Any]:
    """Return what is current after a login: what is wanted, else the platform's first."""
    clusters = {cluster.name: cluster for cluster in platform.clusters}
    name = wanted.get("cluster_name", platform.clusters[0].name)
    if name not in clusters:
        raise ConfigError(f"there is no cluster {name!r}; there are: {', '.join(clusters)}")
    org = wanted.get("org_name") or next((org for org in clusters[name].orgs if org), None)
    here = [
        project.name
        for project in platform.projects
        if (project.cluster_name, project.org_name) == (name, org)
    ]
    project = wanted.get("project_name") or min(here, default=None)
    # The official client cannot do without an organisation, and uses this name where there is none.
    return {"cluster_name": name, "org_name": org or "default-org", "project_name": project}


def _store(path: Folder | None) -> LoginStore:
    from .saved_login import current_store

    store = current_store(path)
    if store is None:
        raise ConfigError(
            "there is no home folder to save a login in; name a folder with path=..., "
            "or in the variable NEUROMATION_CONFIG"
        )
    return store


def _open_browser(address: URL) -> None:
    import webbrowser

    if not webbrowser.open(str(address)):
        raise ConfigError("there is no browser on this machine; use login_headless")


def _token_for_nothing() -> str:
    """Return what the official clients use where nobody has to log in."""
    parts = [
        {"alg": "HS256", "typ": "JWT"},
        {"https://platform.neuromation.io/user": "user"},
    ]
    text = ".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return f"{text}.{_base64(hmac.digest(b'neuro', text.encode(), 'sha256'))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
