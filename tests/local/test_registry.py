"""The registry of images behind the platform's token: who may ask it what, and how it ends."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin
from uuid import uuid4

import psutil
import pytest
import requests

from neuro_sync import NotSupported, Session
from neuro_sync.local import registry as local_registry
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import running_platform
from tests.image_repository import Repository, digest_of
from tests.programs import require_programs

DEADLINE = 30.0


@pytest.fixture(autouse=True)
def _registry() -> None:
    require_programs("docker-registry")


@pytest.fixture
def repository(platform: LocalPlatform) -> Repository:
    return Repository(platform, f"r{uuid4().hex[:12]}")


@pytest.fixture
def stranger(platform: LocalPlatform) -> str:
    """The token of another user."""
    return platform.add_user(f"u{uuid4().hex[:12]}")


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def test_the_registry_itself_answers_nobody_but_the_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its socket can be opened by whatever runs as this user."""
    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        with LocalPlatform(ephemeral=True) as platform:
            Repository(platform, "mine").put_image("latest", b"layer")
            (path,) = Path(folder).glob("neuro-registry-*/socket")
            answers = []
            for login in ("", basic("platform:"), basic("platform:guessed"), basic("token:x")):
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(path))
                    head = f"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\nAuthorization: {login}\r\n\r\n"
                    connection.sendall(head.encode())
                    answers.append(connection.recv(12))
    assert set(answers) == {b"HTTP/1.1 401"}


@pytest.mark.parametrize(
    ("authorization", "status", "text"),
    [
        (None, 401, "401: Unauthorized"),
        (basic("token:no-such-token"), 401, "401: Unauthorized"),
        ("Bearer {token}", 400, '{"error": "Unexpected authorization scheme"}'),
        ("Basic {token}", 400, '{"error": "No credentials"}'),
        (basic("without-a-colon"), 400, '{"error": "No credentials"}'),
        (basic("token:"), 400, '{"error": "No credentials"}'),
    ],
)
def test_a_caller_without_a_token_is_sent_away(
    repository: Repository, authorization: str | None, status: int, text: str
) -> None:
    headers = (
        {"Authorization": authorization.format(token=repository.token)} if authorization else {}
    )
    for path in ("/v2/", "/v2/_catalog", f"/v2{repository.name}/tags/list"):
        url = repository.url.partition("/v2/")[0] + path
        answer = requests.get(url, headers=headers, timeout=DEADLINE)
        assert (answer.status_code, answer.text) == (status, text)
        if status == 401:
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="Docker Registry"'


def test_a_page_of_a_browser_reaches_no_registry(repository: Repository) -> None:
    for headers in ({"Origin": "http://evil.example.org"}, {"Host": "evil.example.org"}):
        assert repository.ask("GET", "tags/list", headers=headers).status_code == 403


def test_the_registrys_answers_come_through(repository: Repository) -> None:
    version = requests.get(
        repository.url.partition("/v2/")[0] + "/v2/", auth=("x", repository.token), timeout=DEADLINE
    )
    assert (version.status_code, version.json()) == (200, {})
    assert version.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    unknown = repository.ask("GET", "tags/list")
    assert unknown.status_code == 404
    assert unknown.json()["errors"][0]["code"] == "NAME_UNKNOWN"
    blob = repository.put_blob(b"some bytes")
    head = repository.ask("HEAD", f"blobs/{blob['digest']}")
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, "10", b"")
    part = repository.ask("GET", f"blobs/{blob['digest']}", headers={"Range": "bytes=5-6"})
    assert (part.status_code, part.content) == (206, b"by")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/x/tags/list",
        "/v2/org/project/tags/list",
        "/v2/org/project/UPPER/tags/list",
        "/v2/org/project/../other/tags/list",
        "/v2/org/project/%2e%2e/x/tags/list",
        "/v2/org/project/name/manifests/-dash",
        "/v2/org/project/name/manifests/a/b",
        "/v2/org/project/name/blobs/uploads/../../x",
        "/v2/org/project/name",
    ],
)
def test_what_is_no_path_of_a_repository_is_not_passed_on(
    repository: Repository, path: str
) -> None:
    # By hand: a library would make another path of it.
    host = repository.url.split("/")[2]
    prepared = requests.Request("GET", f"http://{host}", auth=("x", repository.token)).prepare()
    prepared.url = f"http://{host}{path}"
    with requests.Session() as session:
        answer = session.send(prepared, timeout=DEADLINE)
    assert answer.status_code == 404
    assert "NAME_INVALID" in answer.text


def test_a_stranger_may_neither_read_nor_write(repository: Repository, stranger: str) -> None:
    digest = repository.put_image("v1", b"secret layer")
    theirs = Repository(repository.platform, repository.name, stranger)
    blob = f"blobs/{digest_of(b'secret layer')}"
    for method, path in (
        ("GET", "tags/list"),
        ("GET", "manifests/v1"),
        ("HEAD", "manifests/v1"),
        ("GET", blob),
        ("DELETE", f"manifests/{digest}"),
        ("PUT", "manifests/v1"),
        ("POST", "blobs/uploads/"),
    ):
        answer = theirs.ask(method, path)
        assert answer.status_code == 403
        assert answer.text == ("" if method == "HEAD" else "403: Forbidden")
    catalog = theirs.ask("GET", f"{theirs.url.partition('/v2/')[0]}/v2/_catalog")
    assert catalog.json() == {"repositories": []}


def test_no_blob_is_mounted_from_where_the_caller_may_not_read(
    repository: Repository, stranger: str
) -> None:
    digest = repository.put_blob(b"secret layer")["digest"]
    source = repository.name.removeprefix("/")
    query = f"mount={digest}&from={source}"
    own = Repository(repository.platform, "copy")
    assert own.ask("POST", f"blobs/uploads/?{query}").status_code == 201
    theirs = Repository(repository.platform, "copy", stranger)
    for asked in (query, f"{query}&from={theirs.name.removeprefix('/')}"):
        answer = theirs.ask("POST", f"blobs/uploads/?{asked}")
        assert answer.status_code == 202  # it is asked for the bytes
        assert theirs.ask("GET", f"blobs/{digest}").status_code == 404


FORM = "application/x-www-form-urlencoded"


def multipart(**fields: str) -> dict[str, Any]:
    parts = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    body = f"{parts}--x--\r\n"
    return {"data": body, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}


def form(content_type: str = FORM, **fields: str) -> dict[str, Any]:
    return {"data": urlencode(fields), "headers": {"Content-Type": content_type}}


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", lambda mount, source: form(**{"mount": mount, "from": source})),
        (
            "",
            lambda mount, source: form(
                f"{FORM}; charset=utf-8", **{"mount": mount, "from": source}
            ),
        ),
        ("", lambda mount, source: form(FORM.upper(), **{"mount": mount, "from": source})),
        ("", lambda mount, source: form(f"{FORM} ;x", **{"mount": mount, "from": source})),
        ("", lambda mount, source: multipart(**{"mount": mount, "from": source})),
        ("mount={mount}", lambda _, source: form(**{"from": source})),
        ("from={source}", lambda mount, _: form(mount=mount)),
        ("mount={mount}", lambda _, source: multipart(**{"from": source})),
        ("mount={mount}&from={own}", lambda _, source: form(**{"from": source})),
        ("mount={mount}&from={own}&from={source}", None),
        ("mount={mount}&from={source}&from={own}", None),
        ("mount={mount};from={source}", None),
        ("a=b;mount={mount}&a=b;from={source}", None),
        ("mount={mount}&from={own};from={source}", None),
        ("mount={mount}&%66rom={source}", None),
        ("%6dount={mount}&from={own}&%66%72om={source}", None),
        ("mount={mount}&FROM={source}", None),
        ("mount={mount}&from={own}%26from={source}", None),
        ("mount={mount}&from={own}%00&from={source}", None),
        ("mount={mount}&from={own}/../../../{source}", None),
        ("mount={mount}&from=%2F{source}", None),
        ("mount={mount}&from={source}%0A", None),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_no_blob_is_mounted_by_other_ways_to_say_it(
    repository: Repository,
    stranger: str,
    method: str,
    query: str,
    options: Callable[[str, str], dict[str, Any]] | None,
) -> None:
    mount = repository.put_blob(b"secret layer")["digest"]
    source = repository.name.removeprefix("/")
    theirs = Repository(repository.platform, "copy", stranger)
    theirs.put_blob(b"one of theirs")
    own = theirs.name.removeprefix("/")
    asked = query.format(mount=quote(mount), source=source, own=own)
    given = options(mount, source) if options else {}
    override = {"X-HTTP-Method-Override": "POST"} if method != "POST" else {}
    given["headers"] = {**given.get("headers", {}), **override}
    answer = theirs.ask(method, f"blobs/uploads/?{asked}", **given)
    assert answer.status_code != 201
    assert theirs.ask("HEAD", f"blobs/{mount}").status_code == 404


def test_a_form_names_no_digest_of_an_upload(repository: Repository) -> None:
    begun = repository.ask("POST", "blobs/uploads/")
    url = urljoin(repository.url, begun.headers["Location"])
    ended = repository.ask("PUT", url, **form(digest=digest_of(b"")))
    assert ended.status_code == 400
    assert ended.json()["errors"][0]["code"] == "DIGEST_INVALID"


def test_the_registry_is_told_what_was_checked_and_nothing_else(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, dict[bytes, bytes]]] = []
    original = local_registry.Registry.ask

    async def ask(
        self: local_registry.Registry, method: str, target: str, headers: Any = (), body: Any = None
    ) -> local_registry.Answer:
        asked.append((method, target, dict(headers)))
        return await original(self, method, target, headers, body)

    monkeypatch.setattr(local_registry.Registry, "ask", ask)
    repository.put_image("v1", b"layer")
    hostile = {
        "X-Forwarded-Host": "evil.example.org",
        "X-HTTP-Method-Override": "DELETE",
        "Docker-Upload-UUID": "x",
        "Forwarded": "host=evil.example.org",
        "Content-Type": FORM,
    }
    for method, path in (
        ("GET", "tags/list?n=1&x=y&last=a&_state=x"),
        ("GET", "manifests/v1?from=a/b/c&ns=docker.io"),
        ("POST", "blobs/uploads/?from=a/b/c&x=y"),
        ("PUT", "manifests/v2?from=a/b/c"),
    ):
        repository.ask(method, path, headers=hostile, data=b"from=a/b/c")
    targets = [target.partition("?")[2] for _, target, _ in asked[-4:]]
    assert targets == ["n=1&last=a", "", "", ""]
    told = {name: value for *_, headers in asked[-4:] for name, value in headers.items()}
    known = {b"accept", b"user-agent", b"content-type", b"content-length"}
    assert told.keys() == known
    assert told[b"content-type"] == b"application/octet-stream"


def test_a_path_that_is_written_otherwise_is_checked_as_it_is_read(
    repository: Repository, stranger: str
) -> None:
    repository.put_image("v1", b"secret layer")
    theirs = Repository(repository.platform, "copy", stranger)
    theirs.put_image("v1", b"one of theirs")
    root = repository.url.partition("/v2/")[0]
    source, own = repository.name, theirs.name
    for path in (
        source.replace("/", "%2f").replace("%2f", "/", 1) + "/manifests/v1",
        f"{own}/..{source}/manifests/v1",
        f"{own}/%2e%2e{source}/manifests/v1",
        f"{own}/manifests/..{source}/manifests/v1",
        f"{own}/manifests/%2e%2e%2f%2e%2e%2f..{source}/manifests/v1",
        f"{own}/blobs/uploads/..",
        f"{own}/blobs/uploads/.",
        f"/{source}/manifests/v1",
        f"{own}//manifests/v1",
        f"{own}/manifests/v1%00",
        f"{own}/manifests/v1%0a",
        f"{own}/manifests/v1%3fx=y",
    ):
        prepared = requests.Request("GET", root, auth=("x", stranger)).prepare()
        prepared.url = f"{root}/v2{path}"
        with requests.Session() as session:
            answer = session.send(prepared, timeout=DEADLINE, allow_redirects=False)
        assert answer.status_code in (400, 403, 404), path
        assert "secret layer" not in answer.text


def test_the_catalog_can_be_read_in_pages(repository: Repository) -> None:
    names = sorted(f"{repository.name}/{letter}".removeprefix("/") for letter in "abcde")
    for name in names:
        Repository(repository.platform, f"/{name}").put_image("v1", b"layer")
    base = repository.url.partition("/v2/")[0]
    url = f"{base}/v2/_catalog?n=2&org=local&last={repository.name.removeprefix('/')}"
    found: list[str] = []
    while url and not set(names) <= set(found):
        answer = repository.ask("GET", url)
        page = answer.json()["repositories"]
        assert len(page) <= 2
        found += page
        url = base + answer.links["next"]["url"] if "next" in answer.links else ""
    assert [name for name in found if name in names] == names
    other = repository.ask("GET", f"{base}/v2/_catalog?project=no-such-project").json()
    assert other == {"repositories": []}
    for wrong in ("color=red", "n=0", "n=two", f"n={'9' * 5000}"):
        assert repository.ask("GET", f"{base}/v2/_catalog?{wrong}").status_code == 400


def test_a_refusal_comes_through_before_the_body_was_read(repository: Repository) -> None:
    pieces = (bytes(2**20) for _ in range(32))
    answer = repository.ask("PATCH", f"blobs/uploads/{uuid4()}", data=pieces)
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"].startswith("BLOB_UPLOAD")


def test_large_blobs_pass_in_flat_memory(repository: Repository) -> None:
    piece, count = os.urandom(2**20), 96
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)
    process, peak, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    repository.put_blob(b"warm")
    begin = process.memory_info().rss
    watcher.start()
    try:
        begun = repository.ask("POST", "blobs/uploads/")
        base = repository.url.partition("/v2/")[0]
        sent = repository.ask(
            "PATCH", base + begun.headers["Location"], data=(piece for _ in range(count))
        )
        name = f"sha256:{digest.hexdigest()}"
        done_url = f"{base}{sent.headers['Location']}&digest={name}"
        assert repository.ask("PUT", done_url).status_code == 201
        received = hashlib.sha256()
        with repository.ask("GET", f"blobs/{name}", stream=True) as answer:
            for chunk in answer.iter_content(2**18):
                received.update(chunk)
    finally:
        done.set()
        watcher.join()
    assert received.hexdigest() == digest.hexdigest()
    assert peak[0] - begin < 32 * 2**20


def test_without_the_program_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_registry, "PROGRAM", "no-such-registry")
    with (
        LocalPlatform(ephemeral=True) as platform,
        Session(platform.url, platform.token) as bare,
        pytest.raises(NotSupported, match=r"apt install docker-registry"),
    ):
        bare.images.list()


def test_images_stay_when_the_platform_is_started_again(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path) as platform:
        digest = Repository(platform, "kept").put_image("v1", b"layer")
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        assert session.images.digest("image:kept:v1") == digest


def test_a_registry_that_died_is_started_again(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path) as platform, Session(platform.url, platform.token) as session:
        Repository(platform, "kept").put_image("v1", b"layer")
        [registry] = _registries(psutil.Process().children(recursive=True), tmp_path)
        registry.kill()
        # Its parent keeps what is left of it, until the platform notices.
        _until(lambda: registry.status() == psutil.STATUS_ZOMBIE)
        assert [image.name for image in session.images.list()] == ["kept"]


def test_the_registry_ends_with_the_platform(tmp_path: Path) -> None:
    with LocalPlatform(tmp_path) as platform:
        Repository(platform, "kept").put_image("v1", b"layer")
        [registry] = _registries(psutil.Process().children(recursive=True), tmp_path)
        place = _socket_folder(tmp_path)
        assert oct(place.stat().st_mode)[-3:] == "700"
    assert not registry.is_running()
    assert not place.exists()


def test_the_registry_ends_even_while_a_forked_child_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_registry, "PIPE_TIMEOUT", 0.05)
    with LocalPlatform(tmp_path) as platform:
        Repository(platform, "kept").put_image("v1", b"layer")
        [registry] = _registries(psutil.Process().children(recursive=True), tmp_path)
        inherited = [os.dup(number) for number in _pipes_to(registry.parent())]
        assert inherited
    assert not registry.is_running()
    for number in inherited:
        os.close(number)


def _pipes_to(process: psutil.Process | None) -> list[int]:
    """Return our ends of the pipe that is a process's standard input."""
    assert process is not None
    pipe = os.readlink(f"/proc/{process.pid}/fd/0")
    ours = Path("/proc/self/fd")
    return [int(name) for name in os.listdir(ours) if _link(ours / name) == pipe]


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # the listing's own
        return ""


def test_the_registry_ends_with_a_platform_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from neuro_sync.local.server import LocalPlatform\n"
        "LocalPlatform(sys.argv[1]).start()\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    state = tmp_path / "state"
    command = [sys.executable, "-c", program, str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        address = running_platform(state)
        assert address is not None
        with Session(address.url, address.token) as session:
            session.images.list()
        [registry] = _registries(psutil.Process(process.pid).children(recursive=True), state)
        place = _socket_folder(state)
        process.send_signal(signal.SIGKILL)
    registry.wait(DEADLINE)
    _until(lambda: not place.exists())


def _registries(processes: list[psutil.Process], state: Path) -> list[psutil.Process]:
    def command(process: psutil.Process) -> list[str]:
        try:
            return process.cmdline()
        except psutil.NoSuchProcess:
            return []

    wanted = ["serve", str(state / "registry" / "config.yml")]
    return [process for process in processes if command(process)[1:] == wanted]


def _socket_folder(state: Path) -> Path:
    configuration = (state / "registry" / "config.yml").read_text()
    return Path(configuration.partition('"addr": "')[2].partition('"')[0]).parent


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)
