"""Private authorities and proxies: the same for requests, streams and websockets."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pytest

from neuro_sync import (
    ConfigError,
    ConnectionFailed,
    Session,
    login_headless,
    login_with_token,
)
from neuro_sync.client.saved_login import LoginStore
from neuro_sync.local.server import LocalPlatform
from neuro_sync.transport.clock import Clock
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.overlap import Call as SmallCall
from tests.oauth_server import OAuthServer, TokenDoor
from tests.programs import require_programs
from tests.relays import LOOPBACK, FrontDoor, HttpProxy

HOST = "platform.test"
"""Where the platform is told to be; this machine by its own names is asked without a proxy."""
ADDRESS = "192.0.2.1"
"""Another one, which is the address of no machine at all."""

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")

PASSWORD = "sw:rd/f@sh"
QUOTED_PASSWORD = "sw%3Ard%2Ff%40sh"

Call = Callable[[Session, str], None]


def ask(session: Session, job_id: str) -> None:
    assert session.jobs.status(job_id).id == job_id


def follow(session: Session, job_id: str) -> None:
    with session.jobs.monitor(job_id) as pieces:
        assert next(pieces).startswith(b"ready")


def run(session: Session, job_id: str) -> None:
    assert session.jobs.run_command(job_id, "echo hello").stdout == b"hello\n"


class NoTime(Clock):
    def sleep(self, seconds: float) -> None:
        pass


def copy(session: Session, job_id: str) -> None:
    files = {f"{number}.txt": f"{job_id} {number}" for number in range(20)}
    with TemporaryDirectory() as folder:
        source, back = Path(folder, "source"), Path(folder, "back")
        source.mkdir()
        for name, content in files.items():
            (source / name).write_text(content)
        session.storage.upload_dir(source, f"storage:{job_id}")
        session.storage.download_dir(f"storage:{job_id}", back)
        assert {path.name: path.read_text() for path in back.iterdir()} == files


each_call = pytest.mark.parametrize("call", [ask, follow, run, copy])


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *BUNDLES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
def known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *args: Any, **kwargs: Any) -> Any:
        return look_up(LOOPBACK if host in (HOST, ADDRESS) else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an authority that nobody else trusts, and of a server it vouches for."""
    require_programs("openssl")
    folder = tmp_path_factory.mktemp("authority")
    (folder / "names").write_text(
        f"subjectAltName=DNS:{HOST},IP:{ADDRESS}\nauthorityKeyIdentifier=keyid\n"
    )
    new_key = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    authority_itself = "-x509 -days 2 -subj /CN=authority -addext keyUsage=critical,keyCertSign"
    signed = "-CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile names"
    for command in (
        f"{new_key} {authority_itself} -keyout ca-key.pem -out ca.pem",
        f"{new_key} -subj /CN=localhost -keyout key.pem -out request.pem",
        f"x509 -req -in request.pem {signed} -out cert.pem",
        f"{new_key} -subj /CN=client -keyout client-key.pem -out request.pem",
        (
            "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2"
            " -out client.pem"
        ),
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def ca(authority: Path) -> str:
    return str(authority / "ca.pem")


@pytest.fixture(scope="module")
def secure(platform: LocalPlatform, authority: Path) -> Iterator[FrontDoor]:
    """The platform as ``https://``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    with FrontDoor(port_of(platform.url), context, host=HOST) as door:
        yield door


@pytest.fixture(scope="module")
def plain(platform: LocalPlatform) -> Iterator[FrontDoor]:
    """The platform as ``http://``."""
    with FrontDoor(port_of(platform.url), host=HOST) as door:
        yield door


@pytest.fixture(scope="module")
def half_secure(platform: LocalPlatform, secure: FrontDoor) -> Iterator[FrontDoor]:
    """The platform as ``http://``, which says that its services are at ``https://``."""
    with FrontDoor(port_of(platform.url), host=HOST, services=secure.address) as door:
        yield door


@pytest.fixture(scope="module")
def half_named(platform: LocalPlatform, plain: FrontDoor) -> Iterator[FrontDoor]:
    """The platform as 127.0.0.1, which says that its services are elsewhere."""
    with FrontDoor(port_of(platform.url), services=plain.address) as door:
        yield door


@pytest.fixture(scope="module")
def job_id(platform: LocalPlatform) -> Iterator[str]:
    """A job that runs, and has written a line."""
    with Session(platform.url, platform.token) as session:
        job = session.jobs.start(
            image="any", preset_name="cpu-small", command="sh -c 'echo ready; exec sleep 120'"
        )
        follow(session, job.id)
        yield job.id
        session.jobs.kill(job.id)


@pytest.fixture
def proxy() -> Iterator[HttpProxy]:
    with HttpProxy() as running:
        yield running


@pytest.fixture
def strict_proxy() -> Iterator[HttpProxy]:
    """One that wants a login."""
    with HttpProxy(f"user:{PASSWORD}") as running:
        yield running


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def door_of(call: Call, secure: FrontDoor, half_secure: FrontDoor) -> str:
    """Return where to go so that this call, and nothing that comes before it, is secure."""
    return secure.url if call is ask else half_secure.url


@pytest.fixture(params=["secure", "plain"])
def proxied(
    request: pytest.FixtureRequest,
    secure: FrontDoor,
    plain: FrontDoor,
    half_secure: FrontDoor,
    half_named: FrontDoor,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Call, str], str]:
    """Set a proxy so that a call, and nothing that comes before it, goes through; its address."""

    def use(call: Call, proxy: str) -> str:
        if request.param == "secure":
            monkeypatch.setenv("HTTPS_PROXY", proxy)
            return door_of(call, secure, half_secure)
        monkeypatch.setenv("HTTP_PROXY", proxy)
        return plain.url if call is ask else half_named.url

    return use


@each_call
def test_an_authority_is_given_once(
    platform: LocalPlatform, secure: FrontDoor, ca: str, job_id: str, call: Call
) -> None:
    with Session(secure.url, platform.token, verify=ca) as session:
        call(session, job_id)


@pytest.mark.parametrize("knows_authority", [True, False])
def test_requests_that_overlap_trust_the_same(
    platform: LocalPlatform, secure: FrontDoor, ca: str, knows_authority: bool
) -> None:
    transport = HttpTransport(platform.token, verify=ca if knows_authority else True)
    calls = [(number, SmallCall("GET", f"{secure.url}/config")) for number in range(20)]
    overlap = transport.overlap(secure.url)
    assert overlap is not None
    with overlap:
        answers = [answer is not None for _, answer in overlap.answers(calls)]
    assert answers == [knows_authority] * 20
    transport.close()


@each_call
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_is_found_in_the_environment(
    platform: LocalPlatform,
    secure: FrontDoor,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    call: Call,
) -> None:
    monkeypatch.setenv(variable, ca)
    with Session(secure.url, platform.token) as session:
        call(session, job_id)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_files_that_cannot_be_used_are_named(
    platform: LocalPlatform,
    secure: FrontDoor,
    ca: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
) -> None:
    file = tmp_path / "file.pem"
    if content:
        file.write_text(content)
    with (
        Session(secure.url, platform.token, verify=str(file)) as session,
        pytest.raises(ConfigError, match=r"file\.pem' is no usable bundle"),
    ):
        assert session.presets
    with (
        Session(secure.url, platform.token, verify=ca, cert=str(file)) as session,
        pytest.raises(ConfigError, match=r"cert = '.*file\.pem' cannot be used"),
    ):
        assert session.presets
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    with (
        Session(secure.url, platform.token) as session,
        pytest.raises(ConfigError, match="REQUESTS_CA_BUNDLE"),
    ):
        assert session.presets
    # What is given wins, the usual authorities too.
    with (
        Session(secure.url, platform.token, verify=True, clock=NoTime()) as session,
        pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        assert session.presets


@each_call
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_stranger_is_not_trusted(
    platform: LocalPlatform,
    secure: FrontDoor,
    half_secure: FrontDoor,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    elsewhere: bool,
) -> None:
    verify: bool | str = True
    if elsewhere:  # what is given wins over a variable that would let it pass
        import certifi

        monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca)
        verify = certifi.where()
    address = door_of(call, secure, half_secure)
    with (
        Session(address, platform.token, verify=verify, clock=NoTime()) as session,
        pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        call(session, job_id)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@each_call
@pytest.mark.parametrize("anybody", [False, True])
def test_what_is_given_wins_over_the_environment(
    platform: LocalPlatform,
    secure: FrontDoor,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    anybody: bool,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with Session(secure.url, platform.token, verify=False if anybody else ca) as session:
        call(session, job_id)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
@each_call
def test_a_plain_platform_is_reached_through_the_proxy(
    platform: LocalPlatform,
    plain: FrontDoor,
    proxy: HttpProxy,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    scheme: str,
    call: Call,
) -> None:
    monkeypatch.setenv(variable, proxy.address.replace("http://", scheme))
    with Session(plain.url, platform.token) as session:
        call(session, job_id)
    expected: dict[Call, str] = {
        ask: f"GET {plain.url}/jobs/{job_id}",
        follow: f"GET {plain.url}/monitoring/jobs/{job_id}/log",
        run: f"CONNECT {HOST}:{plain.port}",
        copy: f"GET {plain.url}/storage/",
    }
    assert proxy.requests[-1].startswith(expected[call])


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@each_call
def test_a_secure_platform_is_reached_through_the_proxy(
    platform: LocalPlatform,
    secure: FrontDoor,
    half_secure: FrontDoor,
    proxy: HttpProxy,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    call: Call,
) -> None:
    monkeypatch.setenv(variable, proxy.address)
    address = door_of(call, secure, half_secure)
    with Session(address, platform.token, verify=ca) as session:
        call(session, job_id)
    assert set(proxy.requests) == {f"CONNECT {HOST}:{secure.port}"}
    assert call is copy or len(proxy.requests) == 1


@each_call
@pytest.mark.parametrize("exception", ["platform.test", "localhost, .test", "*", "192.0.2.0/24"])
def test_an_exception_is_reached_without_the_proxy(
    platform: LocalPlatform,
    secure: FrontDoor,
    half_secure: FrontDoor,
    proxy: HttpProxy,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    exception: str,
    call: Call,
) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, proxy.address)
    monkeypatch.setenv("NO_PROXY", exception)
    url = half_secure.url
    if exception.startswith(ADDRESS[:-1]):
        url = secure.url.replace(HOST, ADDRESS)
        call = ask  # the only one that goes where the session is told to
    with Session(url, platform.token, verify=ca) as session:
        call(session, job_id)
    assert proxy.requests == []


@each_call
@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_this_machine_itself_is_reached_without_the_proxy(
    platform: LocalPlatform,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    address: str,
) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with Session(platform.url.replace("127.0.0.1", address), platform.token) as session:
        call(session, job_id)


@each_call
@pytest.mark.parametrize("is_secure", [False, True])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_proxy_is_told_the_login_in_its_address(
    platform: LocalPlatform,
    secure: FrontDoor,
    plain: FrontDoor,
    strict_proxy: HttpProxy,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    is_secure: bool,
    scheme: str,
) -> None:
    login = f"user:{QUOTED_PASSWORD}@127.0.0.1:{strict_proxy.port}"
    monkeypatch.setenv("ALL_PROXY", scheme + login)
    address = secure.url if is_secure else plain.url
    with Session(address, platform.token, verify=ca) as session:
        call(session, job_id)
    basic = b64encode(f"user:{PASSWORD}".encode()).decode()
    assert set(strict_proxy.logins) == {f"Basic {basic}"}


@each_call
def test_a_proxy_that_refuses_learns_the_password_and_no_reader_of_the_error_does(
    platform: LocalPlatform,
    proxied: Callable[[Call, str], str],
    strict_proxy: HttpProxy,
    ca: str,
    job_id: str,
    call: Call,
) -> None:
    login = f"stranger:{QUOTED_PASSWORD}"
    address = proxied(call, f"http://{login}@127.0.0.1:{strict_proxy.port}")
    with (
        Session(address, platform.token, verify=ca, clock=NoTime()) as session,
        pytest.raises(ConnectionFailed, match=r"the proxy .*407") as caught,
    ):
        call(session, job_id)
    basic = b64encode(f"stranger:{PASSWORD}".encode()).decode()
    # Once: again and again would lock the user out.
    assert strict_proxy.logins == [f"Basic {basic}"]
    told = "".join(traceback.format_exception(caught.value))
    assert not any(secret in told for secret in (PASSWORD, QUOTED_PASSWORD, basic))


@each_call
def test_a_proxy_that_is_not_there_is_blamed(
    platform: LocalPlatform,
    proxied: Callable[[Call, str], str],
    ca: str,
    job_id: str,
    call: Call,
) -> None:
    with HttpProxy() as gone:
        address = proxied(call, gone.address)
    with (
        Session(address, platform.token, verify=ca, clock=NoTime()) as session,
        pytest.raises(ConnectionFailed, match=r"the proxy does not let us through .*refused"),
    ):
        call(session, job_id)


@pytest.mark.parametrize("is_secure", [False, True])
def test_a_silent_stream_through_a_proxy_notices_a_peer_that_is_gone(
    platform: LocalPlatform,
    secure: FrontDoor,
    plain: FrontDoor,
    proxy: HttpProxy,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    is_secure: bool,
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy.address)
    kept_alive: list[socket.socket] = []
    connect = socket.socket.connect

    def remember(connection: socket.socket, address: tuple[str, int]) -> None:
        if address[1] == proxy.port:
            kept_alive.append(connection.dup())
        connect(connection, address)

    monkeypatch.setattr(socket.socket, "connect", remember)
    address = secure.url if is_secure else plain.url
    with Session(address, platform.token, verify=ca) as session:
        follow(session, job_id)
    assert kept_alive
    for connection in kept_alive:
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("through_proxy", [False, True])
@pytest.mark.parametrize("is_secure", [False, True])
def test_a_stream_may_be_silent_for_longer_than_the_timeout(
    platform: LocalPlatform,
    secure: FrontDoor,
    plain: FrontDoor,
    proxy: HttpProxy,
    ca: str,
    through_proxy: bool,
    is_secure: bool,
) -> None:
    with Session(platform.url, platform.token) as session:
        job = session.jobs.start(
            image="any", preset_name="cpu-small", command="sh -c 'echo ready; sleep 1; echo late'"
        )
    proxies = {"all": proxy.address} if through_proxy else None
    url = secure.url if is_secure else plain.url
    with Session(url, platform.token, verify=ca, proxies=proxies, timeout=(5.0, 0.5)) as session:
        assert b"".join(session.jobs.monitor(job)) == b"ready\nlate\n"
    assert bool(proxy.requests) == through_proxy


@pytest.mark.parametrize("through_proxy", [False, True])
def test_closing_a_stream_frees_its_reader(
    platform: LocalPlatform,
    secure: FrontDoor,
    proxy: HttpProxy,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    through_proxy: bool,
) -> None:
    if through_proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.address)
    with Session(secure.url, platform.token, verify=ca) as session:
        stream = session.jobs.monitor(job_id)
        assert next(stream).startswith(b"ready")
        rest: list[bytes] = []
        reader = threading.Thread(target=lambda: rest.extend(stream))
        reader.start()
        stream.close()
        reader.join(5)
        assert not reader.is_alive()
        assert rest == []


def test_a_job_that_no_proxy_let_through_was_not_started(
    platform: LocalPlatform, plain: FrontDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        session = Session(plain.url, platform.token)
        assert session.presets
    with session, pytest.raises(ConnectionFailed, match="the proxy does not") as caught:
        session.jobs.start(image="any", preset_name="cpu-small", command="true")
    assert "may have been carried out" not in str(caught.value)


@each_call
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_environment_that_is_not_trusted_names_no_authority(
    platform: LocalPlatform,
    secure: FrontDoor,
    half_secure: FrontDoor,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    call: Call,
) -> None:
    monkeypatch.setenv(variable, ca)
    address = door_of(call, secure, half_secure)
    with (
        Session(address, platform.token, trust_env=False, clock=NoTime()) as session,
        pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        call(session, job_id)


@each_call
def test_an_environment_that_is_not_trusted_names_no_proxy(
    platform: LocalPlatform,
    plain: FrontDoor,
    proxy: HttpProxy,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy.address)
    with Session(plain.url, platform.token, trust_env=False) as session:
        call(session, job_id)
    assert proxy.requests == []


@each_call
@pytest.mark.parametrize("kind", ["http", "https", "all"])
@pytest.mark.parametrize("trust_env", [False, True])
def test_a_proxy_that_is_given_wins_over_the_environment(
    platform: LocalPlatform,
    secure: FrontDoor,
    plain: FrontDoor,
    proxy: HttpProxy,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    trust_env: bool,
    call: Call,
) -> None:
    address = secure.url if kind == "https" else plain.url
    monkeypatch.setenv(f"{'http' if kind == 'all' else kind}_proxy", "http://127.0.0.1:1")
    if kind == "all":  # the most exact one counts, wherever it stands
        monkeypatch.delenv("http_proxy")
    proxies = {kind: proxy.address.removeprefix("http://")}
    options = {"verify": ca, "proxies": proxies, "trust_env": trust_env}
    with Session(address, platform.token, **options) as session:  # type: ignore[arg-type]  # mixed
        call(session, job_id)
    assert proxy.requests


@pytest.fixture(scope="module")
def wary(platform: LocalPlatform, authority: Path) -> Iterator[FrontDoor]:
    """The platform as ``https://``, for clients with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    context.load_verify_locations(authority / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with FrontDoor(port_of(platform.url), context, host=HOST) as door:
        yield door


@each_call
def test_a_client_shows_its_certificate(
    platform: LocalPlatform, wary: FrontDoor, authority: Path, ca: str, job_id: str, call: Call
) -> None:
    cert = str(authority / "client.pem"), str(authority / "client-key.pem")
    with Session(wary.url, platform.token, verify=ca, cert=cert) as session:
        call(session, job_id)


@each_call
def test_a_client_without_a_certificate_is_refused_by_who_wants_one(
    platform: LocalPlatform, wary: FrontDoor, ca: str, job_id: str, call: Call
) -> None:
    with (
        Session(wary.url, platform.token, verify=ca, clock=NoTime()) as session,
        pytest.raises(ConnectionFailed),
    ):
        call(session, job_id)


@each_call
def test_the_application_is_told_by_name(
    platform: LocalPlatform, proxy: HttpProxy, job_id: str, call: Call
) -> None:
    options = {"proxies": {"http": proxy.address}, "application": "my-app/1.2"}
    with Session(platform.url, platform.token, **options) as session:  # type: ignore[arg-type]
        if call is not run:  # behind CONNECT a proxy sees no header of ours
            call(session, job_id)
            assert proxy.agents[-1].startswith("my-app/1.2 neuro-sync/")
        assert session._transport.connection_settings(platform.url).user_agent.startswith("my-app")


@pytest.mark.parametrize("name", ["canary\r\nX-Evil: 1", "\u20ac"])
def test_an_application_whose_name_cannot_be_sent_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"should look like my-app/1\.2"):
        Session("https://h/api/v1", "token", application=name)


def test_logging_in_goes_by_the_same_options(
    home: Path, platform: LocalPlatform, wary: FrontDoor, authority: Path, ca: str, proxy: HttpProxy
) -> None:
    login_with_token(
        platform.token,
        url=wary.url,
        verify=ca,
        cert=(str(authority / "client.pem"), str(authority / "client-key.pem")),
        proxies={"https": proxy.address},
    )
    assert proxy.requests == [f"CONNECT {HOST}:{wary.port}"]


@pytest.fixture(scope="module")
def half_open(platform: LocalPlatform, plain: FrontDoor, authority: Path) -> Iterator[FrontDoor]:
    """The platform as ``https://``, which says that its services are at ``http://``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    with FrontDoor(port_of(platform.url), context, host=HOST, services=plain.address) as door:
        yield door


@pytest.fixture
def plain_connections(plain: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports of the unencrypted services, each time that one is connected to."""
    found: list[int] = []
    connect = socket.socket.connect

    def record(self: socket.socket, address: Any) -> None:
        if address[1] == plain.port:
            found.append(address[1])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", record)
    return found


UNENCRYPTED: list[Callable[[Session, str], object]] = [
    *(follow, run, copy),
    lambda session, _: session.secrets.add("key", b"value"),
    lambda session, _: list(session.disks.list()),
    lambda session, _: session.images.list(),
    lambda session, _: session.images.push("busybox:latest"),
    lambda session, _: session.storage.stat("storage:x"),
    lambda session, job: list(session.jobs.top(job)),
    lambda session, job: session.jobs.send_signal(job),
]


@pytest.mark.parametrize("call", UNENCRYPTED)
def test_no_token_is_sent_unencrypted_because_a_platform_says_so(
    platform: LocalPlatform,
    half_open: FrontDoor,
    plain_connections: list[int],
    ca: str,
    job_id: str,
    call: Callable[[Session, str], object],
) -> None:
    with (
        Session(half_open.url, platform.token, verify=ca) as session,
        pytest.raises(ConfigError, match="travel unencrypted") as refused,
    ):
        call(session, job_id)
    assert plain_connections == []
    assert re.search(r"names \w+_url of the cluster 'local' = http://", str(refused.value))
    assert "NEURO_SYNC_ALLOW_HTTP_SERVICES=1" in str(refused.value)


@pytest.mark.parametrize("by_variable", [True, False])
def test_unencrypted_services_are_used_by_who_accepts_that(
    platform: LocalPlatform,
    half_open: FrontDoor,
    ca: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    by_variable: bool,
) -> None:
    if by_variable:
        monkeypatch.setenv("NEURO_SYNC_ALLOW_HTTP_SERVICES", "1")
    allowed = None if by_variable else True
    with Session(half_open.url, platform.token, verify=ca, allow_http_services=allowed) as session:
        for call in (follow, run, copy):
            call(session, job_id)


def test_the_scheme_of_an_address_may_be_in_capitals(
    platform: LocalPlatform, secure: FrontDoor, ca: str, job_id: str
) -> None:
    url = secure.url.replace("https:", "HTTPS:")
    with Session(url, platform.token, verify=ca) as session:
        for call in (ask, follow, run, copy):
            call(session, job_id)


def test_no_login_is_sent_unencrypted_because_a_platform_says_so(
    door: TokenDoor, oauth: OAuthServer, authority: Path, ca: str, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    with FrontDoor(port_of(door.url), context, host=HOST) as secure_door:
        with pytest.raises(ConfigError, match="names auth_url = http:"):
            login_headless(lambda _: "code", url=secure_door.url, path=tmp_path, verify=ca)
        login_headless(
            lambda address: oauth.browse(address).text,
            url=secure_door.url,
            path=tmp_path,
            verify=ca,
            allow_http_services=True,
        )
        store = LoginStore(tmp_path)
        login = store.read()
        store.write(replace(login, expiration_time=0.0), now=1.0)
        asked = oauth.refreshes
        with (
            Session(path=tmp_path, verify=ca) as session,
            pytest.raises(ConfigError, match="names token_url = http:"),
        ):
            session.config.fetch()
        assert oauth.refreshes == asked
