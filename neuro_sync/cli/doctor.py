"""The command that finds out why nothing works, and says what to mend."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from neuro_sync.errors import APIError, NeuroError

from . import exit_codes, output
from .invocation import Invocation
from .parameters import as_json

if TYPE_CHECKING:
    from yarl import URL

    from neuro_sync.client.session import Session

NOBODY = "job-00000000-0000-0000-0000-000000000000"
"""The id of a job that no platform has."""
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
ENGINE_PATIENCE = 5.0


@dataclass(frozen=True)
class Finding:
    """What one check found: well or not, and if not, what to do."""

    what: str
    found: str
    remedy: str = ""


@click.command()
@as_json
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Find out what does not work, and what to do about it.

    Looks at address, proxy, certificates, login, websockets and Docker. The exit code is 69 if
    something is to be mended.

    Example: neuro doctor
    """
    ills: list[Finding] = []

    def findings() -> Iterator[Finding]:
        for finding in _check(Invocation.of(context)):
            yield finding
            if finding.remedy:
                ills.append(finding)

    if as_json:
        output.array(map(asdict, findings()))
    else:
        for finding in findings():
            output.finding(finding.what, finding.found, finding.remedy)
    context.exit(exit_codes.UNWELL if ills else 0)


def _check(invocation: Invocation) -> Iterator[Finding]:
    try:
        session = invocation.open_session()
    except NeuroError as error:
        yield Finding("address", str(error), "log in, or set the variables named above")
    else:
        with session:
            yield from _check_platform(session)
    yield _engine()


def _check_platform(session: Session) -> Iterator[Finding]:
    url = session.api_url
    yield Finding("address", str(url))
    yield _proxy(url)
    yield _authorities()
    yield _attempt("login", lambda: f"{session.username} on {session.cluster_name}", _mend_login)
    yield _attempt("websocket", lambda: _open_websocket(session), _mend_websocket)


def _attempt(what: str, check: Callable[[], str], mend: Callable[[NeuroError], str]) -> Finding:
    try:
        return Finding(what, check())
    except NeuroError as error:
        return Finding(what, str(error), mend(error))


def _mend_login(error: NeuroError) -> str:
    if isinstance(error, APIError):
        return "log in again, or set a token that is still valid"
    return "see whether the address, the network and the proxy are right"


def _open_websocket(session: Session) -> str:
    """Ask for a command in a job that does not exist: the platform itself has to refuse it."""
    try:
        session.jobs.exec(NOBODY, "true").close()
    except APIError as error:
        if not exit_codes.is_unknown_job(error):
            raise
    return "the platform answers"


def _mend_websocket(_: NeuroError) -> str:
    return "let the proxy in between pass websockets on: exec, attach and port-forward need them"


def _proxy(url: URL) -> Finding:
    from urllib.request import getproxies, proxy_bypass

    from neuro_sync.transport.connections import is_this_machine

    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or is_this_machine(str(url)) or proxy_bypass(str(url.host)):
        return Finding("proxy", "none")
    # A proxy's address may hold a password.
    return Finding("proxy", proxy.rpartition("@")[2].rpartition("//")[2])


def _authorities() -> Finding:
    for variable in CA_VARIABLES:
        path = os.environ.get(variable)
        if path:
            remedy = "" if os.path.exists(path) else f"mend or unset {variable}: no such file"
            return Finding("certificates", f"{path}, from {variable}", remedy)
    return Finding("certificates", "the usual authorities")


def _engine() -> Finding:
    program = shutil.which("docker")
    if program is None:
        return Finding("docker", "not installed; only images and the docker runtime need it")
    command = [program, "version", "--format", "{{.Server.Version}}"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=ENGINE_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return Finding("docker", "the engine does not answer", "start it again")
    if answer.returncode == 0:
        return Finding("docker", f"engine {answer.stdout.strip()}")
    why = answer.stderr.strip().rpartition("\n")[2]
    return Finding("docker", f"{why or 'no engine'}; only images and the docker runtime need it")
