"""A container engine: where it is, and why it cannot be reached, in words.

Both sides look for it here: the client to push and pull images, the local platform to run jobs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import docker
from docker.context import ContextAPI
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from neuro_sync.errors import ConfigError

WINDOWS_PIPE = "npipe:////./pipe/docker_engine"
"""Where Docker Desktop listens on Windows."""


@dataclass(frozen=True)
class Endpoint:
    """Where an engine listens."""

    url: str
    """``unix:///path``, ``tcp://host:port``, or on Windows ``npipe:////./pipe/name``."""
    origin: str
    """Who says so."""
    tls: TLSConfig | None = None

    def __str__(self) -> str:
        return f"{self.url} ({self.origin})"

    @property
    def socket_path(self) -> str | None:
        return urlsplit(self.url).path if self.url.startswith("unix://") else None


VARIABLES = (
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"),
    *("HOME", "XDG_RUNTIME_DIR"),
)
"""All that is looked up. Of the rest of the environment, a traceback shall show nothing."""


def find_endpoint(environment: Mapping[str, str] | None = None) -> Endpoint:
    """Return the engine that the ``docker`` command would use here.

    That is the one of ``DOCKER_HOST``, else of ``DOCKER_CONTEXT`` or the current context, else of
    the first of the usual sockets that exists.

    Raises:
        ConfigError: There is none; the text lists where it was looked for.
    """
    if environment is None:
        environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    told = kwargs_from_env(dict(environment))
    if told.get("base_url"):
        return _known(Endpoint(str(told["base_url"]), "DOCKER_HOST", told.get("tls")))
    context = ContextAPI.get_context(environment.get("DOCKER_CONTEXT"))
    name = environment.get("DOCKER_CONTEXT") or (context.Name if context else "")
    if context is None:
        raise ConfigError(
            f"there is no Docker context {name!r}; `docker context ls` shows those that there are"
        )
    if name != "default":
        return _known(Endpoint(context.Host or "", f"Docker context {name!r}", context.TLSConfig))
    if not hasattr(socket, "AF_UNIX"):
        return Endpoint(WINDOWS_PIPE, "the usual place")
    candidates = _usual_sockets(environment)
    for path in candidates:
        if path.is_socket():
            return Endpoint(f"unix://{path}", "the usual place")
    raise ConfigError(
        "no container engine was found: DOCKER_HOST and DOCKER_CONTEXT are not set, "
        "the current Docker context is the default one, and there is no socket at "
        + ", ".join(map(str, candidates))
        + "; install Docker and start it, or set DOCKER_HOST"
    )


def _known(endpoint: Endpoint) -> Endpoint:
    scheme = urlsplit(endpoint.url).scheme
    if scheme == "unix" and not hasattr(socket, "AF_UNIX"):
        raise ConfigError(
            f"the container engine at {endpoint} cannot be reached: this system's Python has no "
            f"Unix sockets. Set DOCKER_HOST={WINDOWS_PIPE}, or an address tcp://HOST:PORT"
        )
    if scheme not in ("unix", "npipe", "tcp", "http", "https"):
        raise ConfigError(
            f"the container engine at {endpoint} cannot be reached over {scheme!r}, only over "
            "unix://, npipe:// and tcp://; forward its socket, for instance with "
            "`ssh -NL /tmp/docker.sock:/var/run/docker.sock HOST`, "
            "and set DOCKER_HOST=unix:///tmp/docker.sock"
        )
    return endpoint


def _usual_sockets(environment: Mapping[str, str]) -> list[Path]:
    """Return where Docker, Docker Desktop, rootless Docker and Colima listen."""
    home = Path(environment.get("HOME") or "~").expanduser()
    user = os.getuid() if hasattr(os, "getuid") else 0
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    return [
        Path("/var/run/docker.sock"),
        runtime / "docker.sock",
        home / ".docker/run/docker.sock",
        home / ".docker/desktop/docker.sock",
        home / ".colima/default/docker.sock",
    ]


def find_running() -> str | None:
    """Return where an engine listens that lets us in; None if there is none."""
    try:
        endpoint = find_endpoint()
    except ConfigError:
        return None
    is_local = endpoint.socket_path is not None  # another one may take long to answer
    return str(endpoint) if is_local and probe(endpoint) is None else None


def connect(endpoint: Endpoint, timeout: int) -> docker.APIClient:
    """Return the engine's own client; `timeout` is seconds without a word from it.

    Raises:
        ConfigError: Nobody listens there, or we are not let in.
    """
    # First, since the client leaves its socket open when it cannot connect.
    error: Exception | None = probe(endpoint)
    try:
        if error is None:
            return docker.APIClient(
                base_url=endpoint.url, tls=endpoint.tls or False, version="auto", timeout=timeout
            )
    except docker.errors.DockerException as failure:
        error = failure
    raise ConfigError(why_unreachable(endpoint, error)) from error


def why_unreachable(endpoint: Endpoint, error: BaseException) -> str:
    """Say why an engine was not reached, and what to do.

    The client's own errors bury the reason, so it is asked for once more.
    """
    match probe(endpoint) or error:
        case PermissionError():
            return (
                f"the container engine at {endpoint} does not let this user in; "
                "add the user to the group that the socket belongs to, mostly with "
                "`sudo usermod -aG docker $USER`, and log in again"
            )
        case FileNotFoundError() | ConnectionRefusedError():
            return f"the container engine at {endpoint} is not running; start it"
        case _:
            return f"the container engine at {endpoint} does not answer: {error}"


def probe(endpoint: Endpoint) -> OSError | None:
    """Return why an engine's socket does not take a connection; None if it does, or is none."""
    if endpoint.socket_path is not None and hasattr(socket, "AF_UNIX"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
            tried.settimeout(1)
            try:
                tried.connect(endpoint.socket_path)
            except OSError as error:
                return error
    return None
