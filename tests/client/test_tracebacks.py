"""What a debug page shows of a failure: each variable of each frame, and no secret in any."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import pprint
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import responses
import websocket

import neuro_sync
from neuro_sync import Session
from neuro_sync.client.saved_login import LoginStore
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import make_token
from neuro_sync.secret_text import SecretBytes, SecretText
from neuro_sync.testing import Fault, FaultProxy
from neuro_sync.transport.clock import Clock
from tests.oauth_server import CANARY, OAuthServer, TokenDoor
from tests.scripted_platform import JOB_ID, Cut, answer, scripted_platform

TESTS = str(Path(__file__).parent.parent)
VALUE = b"canary-value-4711"
ENCODED = base64.b64encode(VALUE).decode()


class Hurried(Clock):
    """A clock that does not wait before another try."""

    def sleep(self, seconds: float) -> None:
        pass


def shown(error: BaseException) -> str:
    """Return what debug pages show of an error and of all that led to it."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    texts: list[str] = []
    while waiting:
        found = waiting.pop()
        if found is None or found in seen:
            continue
        seen.append(found)
        waiting += [found.__cause__, found.__context__]
        texts += [str(found), repr(found), repr(found.args), pprint.pformat(vars(found))]
        trace = found.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if not frame.f_code.co_filename.startswith(TESTS):
                for value in frame.f_locals.values():
                    texts += [repr(value), pprint.pformat(value)]
            trace = trace.tb_next
    return "\n".join(texts)


def check_hidden(error: BaseException, *secrets: str) -> None:
    text = shown(error)
    for secret in secrets:
        for form in (secret, base64.b64encode(secret.encode()).decode()):
            place = text.find(form)
            assert place < 0, text[max(place - 300, 0) : place + 100]


@contextmanager
def failing(*secrets: str, kind: type[BaseException] = Exception) -> Iterator[None]:
    """Check that the block fails, and that its traceback shows none of the secrets."""
    with pytest.raises(kind) as failed:
        yield
    check_hidden(failed.value, *secrets)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    for name, size in (("a", 10), ("b", 20), ("large", 2**17)):
        (folder / name).write_bytes(b"x" * size)
    return folder


Call = Callable[[Session, Path], object]

CALLS: dict[str, Call] = {
    "status": lambda session, _: session.jobs.status(JOB_ID),
    "list": lambda session, _: list(session.jobs.list()),
    "logs": lambda session, _: list(session.jobs.logs(JOB_ID)),
    "exec": lambda session, _: session.jobs.exec(JOB_ID, "true"),
    "top": lambda session, _: list(session.jobs.top(JOB_ID)),
    "stat": lambda session, _: session.storage.stat("storage:x"),
    "create": lambda session, _: session.storage.create("storage:x", b"x" * 2**17),
    "upload_dir": lambda session, tree: session.storage.upload_dir(tree, "storage:x"),
    "upload_file": lambda session, tree: session.storage.upload_file(tree / "large", "storage:x"),
    "download_dir": lambda session, tree: session.storage.download_dir("storage:x", tree),
    "images.tags": lambda session, _: session.images.tags("image:x"),
    "secrets.add": lambda session, _: session.secrets.add("key", VALUE),
    "secrets.get": lambda session, _: session.secrets.get("key"),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
def known(platform: LocalPlatform) -> Iterator[Session]:
    """A session that knows its platform, and has no connection to it."""
    with Session(platform.url, platform.token, clock=Hurried()) as session:
        session.config.fetch()
        session.storage.mkdir("storage:x", parents=True, exist_ok=True)
        session.storage.create("storage:x/file", b"content")
        session._transport._connections.adapter.poolmanager.clear()  # as a pause does
        session._transport._connections.adapter._known.clear()  # as above
        yield session


FAILING_STEPS = [
    ("getaddrinfo", socket.gaierror),
    ("connect", ConnectionRefusedError),
    ("connect", TimeoutError),
    ("send", ConnectionResetError),
    ("send", TimeoutError),
    ("send", KeyboardInterrupt),
    ("recv", ConnectionResetError),
    ("recv_into", ConnectionResetError),
    ("recv_into", TimeoutError),
    ("recv_into", KeyboardInterrupt),
]


@each_call
@pytest.mark.parametrize(("step", "kind"), FAILING_STEPS)
def test_no_token_is_shown_wherever_a_connection_fails(
    known: Session,
    platform: LocalPlatform,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    step: str,
    kind: type[BaseException],
) -> None:
    platform_threads = set(threading.enumerate()) - {threading.current_thread()}
    holder = socket if step == "getaddrinfo" else socket.socket
    original = getattr(holder, step)
    failures: list[str] = []

    def fail_here(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() in platform_threads:
            return original(*arguments, **options)
        failures.append(step)
        raise kind("it fails")

    monkeypatch.setattr(holder, step, fail_here)
    try:
        call(known, tree)
    except BaseException as error:  # noqa: BLE001  # KeyboardInterrupt, too
        check_hidden(error, platform.token, VALUE.decode(), ENCODED)
    else:
        assert not failures


REFUSALS = {
    "401": answer({"error": "no"}, "401 Unauthorized"),
    "403": answer({"error": "no"}, "403 Forbidden"),
    "404": answer({"error": "no"}, "404 Not Found"),
    "500": answer(b"oops", "500 Internal Server Error"),
    "503": answer(b"busy", "503 Service Unavailable", "Retry-After: 0"),
    "302": answer(b"", "302 Found", "Location: http://elsewhere.test/"),
    "no json": answer(b"{", "200 OK", "Content-Type: application/json"),
    "other json": answer([1], "200 OK"),
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "cut": Cut(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
    "nothing": b"",
}


@each_call
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_no_token_is_shown_whatever_a_platform_answers(
    tree: Path, call: Call, refusal: bytes
) -> None:
    with scripted_platform() as scripted:
        del scripted.script[""]
        scripted.script["GET /api/v1/config"] = answer(scripted.config())
        for method in ("GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"):
            scripted.script[method] = refusal
        url, token = scripted.url, scripted.token
        with Session(url, token, clock=Hurried(), timeout=(5, 5)) as session:
            if call is CALLS["logs"] and refusal.endswith(b"half"):
                return  # it is followed for as long as it is cut
            try:
                call(session, tree)
            except Exception as error:  # noqa: BLE001  # whatever it is
                check_hidden(error, token, VALUE.decode(), ENCODED)


@pytest.mark.parametrize("status", ["401 Unauthorized", "400 Bad Request", "302 Found"])
@each_call
def test_no_token_is_shown_by_a_platform_that_repeats_it(
    tree: Path, call: Call, status: str
) -> None:
    with scripted_platform() as scripted:

        def repeat(request: Any) -> bytes:
            told = request.headers.get("authorization", "")
            return answer({"error": told}, status, f"Location: /{told}", f"X-Error: {told}")

        for method in ("GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"):
            scripted.script[method] = repeat
        with (
            Session(scripted.url, scripted.token, clock=Hurried()) as session,
            failing(scripted.token),
        ):
            call(session, tree)


@pytest.mark.parametrize("cut", [10, 100])
@pytest.mark.parametrize("name", ["create", "upload_dir", "upload_file", "secrets.add", "exec"])
def test_no_token_is_shown_when_a_request_is_cut(
    platform: LocalPlatform, tree: Path, name: str, cut: int
) -> None:
    with (
        FaultProxy(platform.port) as proxy,
        Session(proxy.url, platform.token, clock=Hurried()) as session,
    ):
        session.config.fetch()
        for method in ("GET", "PUT", "POST", "PATCH"):
            proxy.plan(f"{method} ", *(Fault(cut_request_after=cut) for _ in range(99)))
        with failing(platform.token, VALUE.decode(), ENCODED):
            CALLS[name](session, tree)


BAD_TOKENS = ["canary-4711 x", "canary-4711\u20ac", "canary-4711\n-", "  \n"]


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_a_token_that_is_none_is_not_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    passed = json.dumps({"url": "http://127.0.0.1:1/api/v1", "token": token, "cluster": "c"})
    encoded = base64.b64encode(passed.encode()).decode()
    with failing(token, "canary-4711"):
        Session("http://127.0.0.1:1/api/v1", token)
    with failing(token, "canary-4711"):
        neuro_sync.login_with_token(token, url="http://127.0.0.1:1/api/v1")
    with failing(token, encoded, "canary-4711"):
        neuro_sync.login_with_passed_config(encoded)
    with failing(encoded):
        neuro_sync.login_with_passed_config(f"!{encoded}")
    monkeypatch.setenv("NEURO_SYNC_TOKEN", token)
    with failing(token, "canary-4711"):
        Session("http://127.0.0.1:1/api/v1")
    monkeypatch.delenv("NEURO_SYNC_TOKEN")
    monkeypatch.setenv("NEURO_PASSED_CONFIG", encoded)
    with failing(token, encoded, "canary-4711"):
        Session()


@pytest.mark.parametrize("token", ["canary-4711", "canary-4711.e30.canary", make_token("alice")])
def test_a_token_is_not_shown_by_a_session_that_cannot_be_made(home: Path, token: str) -> None:
    assert home
    url = "http://127.0.0.1:1/api/v1"
    for make in (
        lambda: Session("nowhere", token),
        lambda: Session(token=token),
        lambda: Session(url, token, timeout=-1),
        lambda: Session(url, token, application="\n"),
        lambda: Session(url, token, path=home / "none").username + 1,  # type: ignore[operator]
        lambda: neuro_sync.login_with_token(token, url=url),
    ):
        with failing(token):
            make()


REFUSED_GRANTS: list[tuple[int, Any]] = [
    (403, {"error_description": "no"}),
    (500, {}),
    (200, {"access_token": "canary canary", "expires_in": 1}),
    (200, {"access_token": "canary-access", "expires_in": "canary"}),
    (200, ["canary"]),
]


@pytest.mark.parametrize("refusal", REFUSED_GRANTS)
def test_no_refresh_token_is_shown_when_a_renewal_fails(
    home: Path, oauth: OAuthServer, door: TokenDoor, refusal: tuple[int, Any]
) -> None:
    neuro_sync.login_headless(lambda address: oauth.browse(address).text, url=door.url)
    store = LoginStore(home / ".neuro")
    login = store.read()
    store.write(replace(login, expiration_time=0.0), now=1.0)
    oauth.refusal = refusal
    with Session() as session, failing(CANARY):
        session.config.fetch()
    store.write(
        replace(login, expiration_time=0.0, auth_config={"token_url": "http://127.0.0.1:1/"}),
        now=1.0,
    )
    with Session() as session, failing(CANARY):
        session.config.fetch()


@pytest.mark.parametrize("refusal", REFUSED_GRANTS)
def test_no_code_is_shown_when_a_login_fails(
    home: Path, oauth: OAuthServer, door: TokenDoor, refusal: tuple[int, Any]
) -> None:
    assert home
    oauth.refusal = refusal
    with failing(CANARY):
        neuro_sync.login_headless(lambda address: oauth.browse(address).text, url=door.url)
    oauth.refusal = None
    with failing("code-that-is-wrong"):
        neuro_sync.login_headless(lambda _: "code-that-is-wrong", url=door.url)


def test_no_login_is_shown_when_it_cannot_be_saved(home: Path, platform: LocalPlatform) -> None:
    neuro_sync.login_with_token(platform.token, url=platform.url)
    store = LoginStore(home / ".neuro")
    login = store.read()
    with failing(platform.token):
        store.update(login.url, "somebody-else", token=SecretText(platform.token))
    with closing(sqlite3.connect(store.file)) as database, database:
        database.execute("UPDATE main SET expiration_time = 'never'")
    with failing(platform.token):
        store.read()
    store.file.write_bytes(b"no database")
    (store.folder / "db.new" / "in the way").mkdir(parents=True)
    with failing(platform.token):
        store.write(login, now=1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("bad key", VALUE), ("..", VALUE), ("key", VALUE * 2**20), ("key", VALUE.decode())],
)
def test_the_value_of_a_secret_is_not_shown_when_it_is_refused(
    session: Session, platform: LocalPlatform, key: str, value: Any
) -> None:
    with failing(platform.token, VALUE.decode(), ENCODED[:-4]):
        session.secrets.add(key, value)


def test_the_value_of_a_secret_is_not_shown_when_it_cannot_be_read() -> None:
    with scripted_platform() as scripted:
        body = {"key": "key", "value": f"{ENCODED}!"}
        scripted.script["GET /api/v1/secrets"] = answer(body)
        with Session(scripted.url, scripted.token) as session, failing(ENCODED, VALUE.decode()):
            session.secrets.get("key")


def test_no_environment_is_shown_where_no_engine_is_found(
    session: Session, platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURO_SYNC_TOKEN", platform.token)
    monkeypatch.setenv("DOCKER_HOST", "ssh://nobody@nowhere")
    with failing(platform.token):
        session.images.push("busybox:latest")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with failing(platform.token):
        session.images.push("busybox:latest")


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        answer({"message": "oops"}, "500 Internal Server Error"),
        answer({"message": "denied"}, "403 Forbidden"),
        answer(b'{"error": "denied"}\r\n'),
        answer(b"{no json"),
        Cut(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
    ],
)
def test_the_password_of_the_registry_is_not_shown_when_an_engine_fails(
    session: Session, platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch, reply: bytes
) -> None:
    with scripted_platform() as engine:
        engine.script["GET /version"] = answer({"ApiVersion": "1.44", "Version": "27.0"})
        engine.script["GET /v1.44/images/json"] = answer([])
        engine.script["POST /v1.44/images"] = reply
        engine.script["POST /v1.44/images/busybox:latest/tag"] = answer(b"", "201 Created")
        engine.script["DELETE "] = answer({})
        monkeypatch.setenv("DOCKER_HOST", engine.url.replace("http:", "tcp:").partition("/api")[0])
        for call in (session.images.push, session.images.pull):
            with failing(platform.token):
                call("image:busybox:latest" if call == session.images.pull else "busybox:latest")
        assert sum("x-registry-auth" in request.headers for request in engine.requests) >= 2


def test_nothing_that_a_program_looks_at_shows_the_token(
    platform: LocalPlatform, caplog: pytest.LogCaptureFixture, tree: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    websocket.enableTrace(True)
    try:
        with Session(platform.url, platform.token) as session:
            session.secrets.add("key", VALUE)
            session.storage.upload_dir(tree, "storage:logged")
            with pytest.raises(neuro_sync.NeuroError):
                session.jobs.exec(JOB_ID, "true")
            looked_at = [repr(session), pprint.pformat(vars(session)), pprint.pformat(session)]
            for part in (
                session.config,
                session._transport,
                session._transport._connections,
            ):  # what a debugger shows
                looked_at += [repr(part), pprint.pformat(vars(part))]
    finally:
        websocket.enableTrace(False)
    text = "\n".join(looked_at) + caplog.text
    for secret in (platform.token, VALUE.decode(), ENCODED):
        assert secret not in text


def test_a_secret_is_shown_by_nothing_but_its_reveal() -> None:
    text, data = SecretText("canary"), SecretBytes(b"canary")
    for secret in (text, data):
        told = [
            repr(secret),
            str(secret),
            f"{secret}",
            f"{[secret]}",
            pprint.pformat({"a": secret}),
        ]
        assert "canary" not in "".join(told)
        assert secret.reveal() in ("canary", b"canary")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret)
    assert text == "canary" == SecretText(text).reveal()
    assert text != "other"
    assert {text: 1}[SecretText("canary")] == 1
    assert not SecretText("")


@responses.activate
def test_a_mock_sees_the_token_as_text(platform: LocalPlatform) -> None:
    responses.get(f"{platform.url}/config", json={})
    with Session(platform.url, platform.token) as session, pytest.raises(neuro_sync.NeuroError):
        session.config.fetch()
    assert responses.calls[0].request.headers["Authorization"] == f"Bearer {platform.token}"
