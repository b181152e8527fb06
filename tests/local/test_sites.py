"""The web servers of jobs, as browsers and scripts see them."""

from __future__ import annotations

import json
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import psutil
import pytest
import requests
import websocket
from hypothesis import given
from hypothesis import strategies as st
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from neuro_sync import (
    Action,
    Container,
    HTTPPort,
    JobDescription,
    JobStatus,
    Permission,
    Resources,
    Session,
)
from neuro_sync.local import http, sites
from neuro_sync.local.accounts import accounts_of
from neuro_sync.local.server import LocalPlatform
from neuro_sync.local.state import running_platform
from tests.processes import eventually, platform_process
from tests.programs import require_programs

WEB = """
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = {"method": self.command, "path": self.path, "headers": self.headers.items(),
                "received": len(body), "same": body == body[:1] * len(body)}
        answer = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", len(answer))
        self.send_header("Set-Cookie", "theirs=1")
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_PUT = do_DELETE = do_GET

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("ready", flush=True)
server.serve_forever()
"""
WEBSOCKETS = """
import sys
from websockets.sync.server import serve

def echo(connection):
    for message in connection:
        connection.send(message)

with serve(echo, "127.0.0.1", int(sys.argv[1])) as server:
    print("ready", flush=True)
    server.serve_forever()
"""
PAGE = {"Accept": "text/html,*/*"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


class Serve:
    """Starts a web server as a job, and returns when it listens."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session = session
        self._folder = folder

    def __call__(self, script: str = WEB, *, requires_auth: bool = True) -> JobDescription:
        port = free_port()
        path = self._folder / "serve.py"
        path.write_text(script)
        job = self._session.jobs.run(
            Container(
                image="any",
                command=f"python '{path}' {port}",
                resources=Resources(cpu=0.1, memory_mb=64),
                http=HTTPPort(port=port, requires_auth=requires_auth),
            )
        )
        with self._session.jobs.logs(job) as lines:
            assert next(lines) == "ready"
        return job


@pytest.fixture
def serve(session: Session, folder: Path) -> Iterator[Serve]:
    yield Serve(session, folder)
    for job in session.jobs.list(statuses=[JobStatus.RUNNING]):
        session.jobs.kill(job)


def url_of(job: JobDescription) -> str:
    return str(job.http_url).rstrip("/")


@pytest.fixture
def bearer(platform: LocalPlatform) -> dict[str, str]:
    return {"Authorization": f"Bearer {platform.token}"}


def raw(url: str, request: bytes) -> bytes:
    """Send bytes, and return all that comes back."""
    parts = urlsplit(url)
    assert parts.hostname
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def test_a_request_reaches_the_job_and_no_login_does(serve: Serve, bearer: dict[str, str]) -> None:
    job = serve()
    cookies = {"Cookie": f"a=1; {sites.COOKIE}=secret; b=2"}
    answer = requests.get(f"{url_of(job)}/a%20b?c=d&e", headers=bearer | cookies, timeout=20)
    told = answer.json()
    assert told["path"] == "/a%20b?c=d&e"
    headers = {name.lower(): value for name, value in told["headers"]}
    assert headers["cookie"] == "a=1; b=2"
    assert headers["host"] == urlsplit(url_of(job)).netloc
    assert headers["x-forwarded-proto"] == "http"
    assert "authorization" not in headers
    assert answer.headers["Set-Cookie"] == "theirs=1"


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_pass(serve: Serve, bearer: dict[str, str], chunked: bool) -> None:
    url = f"{url_of(serve())}/upload"
    size = 5 * 2**20
    if chunked:  # the job's server does not read those; that it answers at all is enough
        pieces = iter([b"x" * 1000])
        assert requests.post(url, data=pieces, headers=bearer, timeout=20).status_code == 200
        return
    told = requests.post(url, data=b"x" * size, headers=bearer, timeout=20).json()
    assert (told["method"], told["received"], told["same"]) == ("POST", size, True)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_nobody_gets_in_without_signing_in(serve: Serve, method: str) -> None:
    url = url_of(serve())
    refused = requests.request(method, url, timeout=20)
    assert refused.status_code == 401
    wrong = {"Authorization": "Bearer wrong"}
    assert requests.request(method, url, headers=wrong, timeout=20).status_code == 401


def test_a_browser_is_asked_to_sign_in_once(serve: Serve, platform: LocalPlatform) -> None:
    url = url_of(serve())
    with requests.Session() as browser:
        page = browser.get(f"{url}/lab?x=<y>", headers=PAGE, timeout=20)
        assert page.status_code == 401
        assert "<form" in page.text
        assert "<y>" not in page.text
        form = {"token": "wrong", "next": "/lab?x=1"}
        again = browser.post(f"{url}{sites.LOGIN_PATH}", data=form, timeout=20)
        assert again.status_code == 401
        assert "does not know this token" in again.text
        form["token"] = platform.token
        found = browser.post(f"{url}{sites.LOGIN_PATH}", data=form, timeout=20)
        assert found.json()["path"] == "/lab?x=1"
        assert browser.get(url, headers=PAGE, timeout=20).json()["path"] == "/"
        assert platform.token not in str(browser.cookies)


def test_a_token_in_the_address_becomes_a_cookie(serve: Serve, platform: LocalPlatform) -> None:
    address = f"{url_of(serve())}/a?b=1&{sites.TOKEN_PARAMETER}={platform.token}"
    first = requests.get(address, timeout=20, allow_redirects=False)
    assert first.status_code == 303
    assert first.headers["Location"] == "/a?b=1"
    assert {"HttpOnly", "SameSite=Lax"} <= set(first.headers["Set-Cookie"].split("; "))
    with requests.Session() as browser:
        assert browser.get(address, timeout=20).json()["path"] == "/a?b=1"


ELSEWHERE = [
    "//evil.example/",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n\\evil.example",
    " //evil.example",
    "/\0/evil.example",
    "/%09/evil.example",
    "/%2fevil.example",
    "/%5cevil.example",
    "/\N{NO-BREAK SPACE}/evil.example",
    "https://evil.example/",
    "https:evil.example",
    "javascript:alert(1)",
    "evil.example",
    "/a\r\nSet-Cookie: a=b",
    "",
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_signing_in_leads_nowhere_else(serve: Serve, platform: LocalPlatform, target: str) -> None:
    url = url_of(serve())
    form = {"token": platform.token, "next": target}
    answer = requests.post(f"{url}{sites.LOGIN_PATH}", data=form, timeout=20, allow_redirects=False)
    assert answer.headers["Location"] == "/"


@given(st.text("/\\\t\r\n\0 %2f5C09:?#@.ev\xa0\x7f", max_size=12))
def test_a_path_of_a_site_is_one_to_browsers(text: str) -> None:
    path = sites.own_path(text)
    # As the URL standard has it for addresses of http.
    read = re.sub(r"[\t\r\n]", "", path.strip("".join(map(chr, range(33))))).replace("\\", "/")
    assert urlsplit(urljoin("http://127.0.0.1:1/a/b", read)).netloc == "127.0.0.1:1"
    assert path.startswith("/")
    assert path.isprintable()


@pytest.mark.parametrize("path", ["/", "/lab?x=1&y=//z#f", "/a%20b/%D1%8F", "/a//b", "/?\\"])
def test_signing_in_leads_to_where_one_wanted_to_go(path: str) -> None:
    assert sites.own_path(path) == path


def test_a_page_without_login_is_open_and_keeps_its_own(serve: Serve) -> None:
    url = url_of(serve(requires_auth=False))
    answer = requests.get(url, headers={"Authorization": "Basic their-own"}, timeout=20)
    assert ["authorization", "Basic their-own"] in answer.json()["headers"]


def test_a_login_of_the_job_itself_gets_through(serve: Serve, platform: LocalPlatform) -> None:
    url = url_of(serve())
    with requests.Session() as browser:
        browser.get(f"{url}/?{sites.TOKEN_PARAMETER}={platform.token}", timeout=20)
        theirs = {"Authorization": "token of-the-notebook"}
        told = browser.get(url, headers=theirs, timeout=20).json()
        assert ["authorization", "token of-the-notebook"] in told["headers"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "header",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_other_names_and_pages_are_turned_away(
    serve: Serve, bearer: dict[str, str], method: str, header: dict[str, str]
) -> None:
    for requires_auth in (True, False):
        url = url_of(serve(requires_auth=requires_auth))
        answer = requests.request(method, url, headers=bearer | header, timeout=20)
        assert answer.status_code == 403


def test_websockets_pass(serve: Serve, bearer: dict[str, str]) -> None:
    url = url_of(serve(WEBSOCKETS)).replace("http", "ws")
    connection = websocket.create_connection(url, header=bearer, timeout=20)
    for message in ("hello", "x" * 1_000_000):
        connection.send(message)
        assert connection.recv() == message
    connection.close()
    for refused, origin in (({}, None), (bearer, "http://evil.example")):
        with pytest.raises(websocket.WebSocketBadStatusException):
            websocket.create_connection(url, header=refused, origin=origin, timeout=20)


NOTEBOOK = """
import sys
from http import HTTPStatus
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.sync.server import serve

PAGE = b'''<!doctype html><title>closed</title><script>
const socket = new WebSocket("ws://" + location.host + "/kernel")
socket.onopen = () => socket.send("6 * 7")
socket.onmessage = (event) => document.title = "answered: " + event.data
</script>'''

def answer(connection, request):
    if request.path != "/kernel":
        headers = Headers({"Content-Type": "text/html", "Content-Length": str(len(PAGE))})
        return Response(HTTPStatus.OK, "OK", headers, PAGE)

def echo(connection):
    for message in connection:
        connection.send(message)

with serve(echo, "127.0.0.1", int(sys.argv[1]), process_request=answer) as server:
    print("ready", flush=True)
    server.serve_forever()
"""


STEAL = """
import html, http.server, pathlib, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        victim = pathlib.Path("{victim}").read_text()
        page = f'''<!doctype html><p id="cookies">{{html.escape(self.headers["Cookie"] or "")}}</p>
<img id="image" src="{{victim}}/image" onerror="this.alt='was answered'">
<a id="link" href="{{victim}}/linked">link</a>'''.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", len(page))
        self.end_headers()
        self.wfile.write(page)

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A real one, without a window."""
    program, driver = require_programs("chromium", "chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(f"--{argument}")
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()


def test_a_browser_signs_in_and_its_page_speaks_with_the_job(
    serve: Serve, platform: LocalPlatform, browser: webdriver.Chrome
) -> None:
    browser.get(url_of(serve(NOTEBOOK)))
    assert browser.title == "Sign in"
    browser.find_element("name", "token").send_keys(platform.token)
    browser.find_element("tag name", "button").click()
    WebDriverWait(browser, 20).until(lambda found: found.title == "answered: 6 * 7")
    # Each job has a login of its own.
    browser.get(url_of(serve(NOTEBOOK)))
    assert browser.title == "Sign in"


def test_a_job_gets_no_cookie_from_a_browser_that_opens_the_page_of_another_job(
    session: Session,
    serve: Serve,
    platform: LocalPlatform,
    browser: webdriver.Chrome,
    tmp_path: Path,
) -> None:
    victim, thief = serve(), serve(STEAL.format(victim=tmp_path / "victim"), requires_auth=False)
    (tmp_path / "victim").write_text(url_of(victim))
    assert thief.container.http is not None
    browser.get(url_of(victim))
    browser.find_element("name", "token").send_keys(platform.token)
    browser.find_element("tag name", "button").click()
    WebDriverWait(browser, 20).until(lambda found: '"/"' in found.page_source)

    browser.get(url_of(thief))
    assert sites.COOKIE not in browser.find_element("id", "cookies").text
    browser.get(f"http://127.0.0.1:{thief.container.http.port}/")  # past the platform
    stolen = browser.find_element("id", "cookies").text
    assert sites.COOKIE in stolen  # browsers send it to all ports
    answer = requests.get(url_of(victim), headers={"Cookie": stolen}, timeout=20)
    assert answer.status_code == 401

    # What the thief's page has the browser do reaches the victim's job only by a click.
    assert browser.find_element("id", "image").get_attribute("alt") == "was answered"
    browser.find_element("id", "link").click()
    WebDriverWait(browser, 20).until(lambda found: found.title == "Open this page?")
    browser.find_element("tag name", "a").click()
    with session.jobs.logs(victim) as lines:
        seen = next(line for line in lines if "/image" in line or "/linked" in line)
    assert "/linked" in seen


def test_what_one_may_see_may_change_while_one_is_signed_in(
    serve: Serve, platform: LocalPlatform, session: Session
) -> None:
    job = serve()
    with accounts_of(platform.folder) as accounts:
        accounts.add_user("visitor")
        token = accounts.add_token("visitor")
    address = f"{url_of(job)}/?{sites.TOKEN_PARAMETER}={token}"
    with requests.Session() as browser:
        assert browser.get(address, timeout=20).status_code == 403
        session.users.share("visitor", Permission(uri=job.uri, action=Action.READ))
        assert browser.get(address, timeout=20).status_code == 200
        assert browser.get(url_of(job), timeout=20).status_code == 200
        session.users.revoke("visitor", job.uri)
        assert browser.get(url_of(job), timeout=20).status_code == 403
        session.users.share("visitor", Permission(uri=job.uri, action=Action.READ))
        with accounts_of(platform.folder) as accounts:
            accounts.remove("visitor")
        assert browser.get(url_of(job), timeout=20).status_code == 401


def test_the_address_ends_with_the_job(
    session: Session, serve: Serve, bearer: dict[str, str]
) -> None:
    job = serve()
    session.jobs.kill(job)
    session.jobs.wait(job)
    with pytest.raises(requests.ConnectionError):
        requests.get(url_of(job), headers=bearer, timeout=20)


def test_the_address_stays_when_the_platform_is_killed(folder: Path) -> None:
    state = folder / "state"
    with platform_process(state) as process:
        with Session.local(state=state) as session:
            job = Serve(session, folder)()
        process.kill()
        process.wait()
    with pytest.raises(requests.ConnectionError):
        requests.get(url_of(job), timeout=20)
    with platform_process(state), Session.local(state=state) as session:
        assert url_of(session.jobs.status(job)) == url_of(job)
        token = session.config.token()
        headers = {"Authorization": f"Bearer {token}"}
        assert requests.get(url_of(job), headers=headers, timeout=20).status_code == 200


def test_a_server_that_does_not_listen_yet_is_named(
    session: Session, bearer: dict[str, str]
) -> None:
    port = free_port()
    container = Container(
        image="any",
        command="sleep 60",
        resources=Resources(cpu=0.1, memory_mb=64),
        http=HTTPPort(port=port),
    )
    job = session.jobs.run(container)
    answer = requests.get(url_of(job), headers=bearer, timeout=20)
    session.jobs.kill(job)
    assert answer.status_code == 502
    assert f"{job.id} does not listen on its port {port}" in answer.text


def test_only_this_machine_is_listened_to(serve: Serve) -> None:
    port = urlsplit(url_of(serve())).port
    assert port is not None
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    addresses = [line.split()[1] for line in listening.splitlines() if " 0A " in line]
    assert [a for a in addresses if a.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 2**18 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(serve: Serve, request_bytes: bytes, status: int) -> None:
    assert raw(url_of(serve()), request_bytes).startswith(b"HTTP/1.1 %d " % status)


def test_half_a_request_is_not_waited_for_for_ever(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "HEAD_TIMEOUT", 0.1)
    assert raw(url_of(serve()), b"GET / HTTP/1.1\r\n").startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_is_no_http_is_told_apart(serve: Serve, bearer: dict[str, str]) -> None:
    script = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b"hello")
    connection.close()
"""
    answer = requests.get(url_of(serve(script)), headers=bearer, timeout=20)
    assert (answer.status_code, answer.text) == (502, "the job gave no answer in HTTP")


def test_a_login_form_must_be_small(serve: Serve) -> None:
    url = url_of(serve())
    host = urlsplit(url).netloc
    request = f"POST {sites.LOGIN_PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999\r\n\r\n"
    assert raw(url, request.encode()).startswith(b"HTTP/1.1 400 ")


def test_a_job_without_a_web_server_has_no_address(session: Session) -> None:
    job = session.jobs.start(image="any", preset_name="cpu-small", command="true")
    assert str(job.http_url) == ""


def test_a_second_request_on_a_connection_is_not_let_through(
    serve: Serve, bearer: dict[str, str]
) -> None:
    url = url_of(serve())
    head = f"GET /%s HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
    first = head % "first" + f"Authorization: {bearer['Authorization']}\r\n\r\n"
    answer = raw(url, (first + head % "second" + "\r\n").encode())
    told = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    assert told["path"] == "/first"
    assert b"/second" not in answer


# Sign-ins


def sign_in(url: str, token: str, *, cookies: str = "") -> str:
    """Sign in to a page, and return the cookie."""
    form = {"token": token, "next": "/"}
    answer = requests.post(
        f"{url}{sites.LOGIN_PATH}",
        data=form,
        headers={"Cookie": cookies} if cookies else {},
        timeout=20,
        allow_redirects=False,
    )
    assert answer.status_code == 303
    return answer.headers["Set-Cookie"].partition(";")[0]


def status(url: str, cookies: str, **headers: str) -> int:
    return requests.get(url, headers={"Cookie": cookies, **headers}, timeout=20).status_code


def test_a_sign_in_is_for_one_job(serve: Serve, platform: LocalPlatform) -> None:
    one, other = url_of(serve()), url_of(serve())
    cookie = sign_in(one, platform.token)
    name, _, value = cookie.partition("=")
    assert status(one, cookie) == 200
    assert status(other, cookie) == 401
    assert status(other, f"{name.replace(port_of(one), port_of(other))}={value}") == 401
    # A browser sends both to both, and stays signed in to both.
    both = f"{cookie}; {sign_in(other, platform.token, cookies=cookie)}"
    for url in (one, other):
        told = requests.get(url, headers={"Cookie": f"a=1; {both}"}, timeout=20).json()
        assert [value for name, value in told["headers"] if name == "cookie"] == ["a=1"]


def port_of(url: str) -> str:
    return str(urlsplit(url).port)


def test_a_sign_in_is_for_the_program_that_made_it(serve: Serve, platform: LocalPlatform) -> None:
    url = url_of(serve())
    cookie = sign_in(url, platform.token)
    program = (
        "import sys, requests; "
        "print(requests.get(sys.argv[1], headers={'Cookie': sys.argv[2]}, timeout=20).status_code)"
    )
    replay = [sys.executable, "-c", program, url, cookie]
    assert subprocess.check_output(replay, text=True) == "401\n"
    assert status(url, cookie) == 200


@pytest.mark.parametrize(
    "broken",
    [
        "a[0]=1",
        'a="b',
        "=x",
        "x",
        "a=b c\xe9",
        "a={1, 2}",
        'a="\\073',
        "  b = c ",
        "\t",
        ";;",
        "a=1;b=2",
    ],
)
def test_broken_cookies_do_no_harm_and_reach_the_job_as_they_are(
    serve: Serve, platform: LocalPlatform, broken: str
) -> None:
    url = url_of(serve())
    cookie = sign_in(url, platform.token)
    for sent, expected in (
        (f"{broken}; {cookie}", broken.strip()),
        (f"{cookie}; {broken}", broken.strip()),
        (f"x=1; {cookie}; {broken};y=2", f"x=1; {broken};y=2"),
    ):
        request = f"GET / HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nCookie: {sent}\r\n\r\n"
        answer = raw(url, request.encode("latin-1"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        told = dict(json.loads(answer.partition(b"\r\n\r\n")[2])["headers"])
        assert told.get("cookie", "") == expected


@given(
    st.lists(st.binary(max_size=8).filter(lambda item: b";" not in item)),
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 65535)), min_size=1),
)
def test_no_sign_in_is_left_among_cookies_and_all_others_are(
    others: list[bytes], logins: list[tuple[int, int]]
) -> None:
    items = list(others)
    for place, port in logins:
        items.insert(place, b" %s-%d=x" % (sites.COOKIE.encode(), port))
    request = sites.Request("GET", "/", ((b"cookie", b";".join(items)),))
    head = request.for_job(is_ours=lambda _: False)
    assert sites.COOKIE.encode() not in head
    kept = b";".join(others).strip()
    assert (b"\r\ncookie: " + kept + b"\r\n" in head) == bool(kept)
    assert {"x"} == {request.cookies(f"{sites.COOKIE}-{port}")[0] for _, port in logins}


@pytest.mark.parametrize("site", ["cross-site", "same-site", "unheard-of", ""])
def test_another_page_cannot_use_a_sign_in(
    serve: Serve, platform: LocalPlatform, bearer: dict[str, str], site: str
) -> None:
    url = url_of(serve())
    cookie = sign_in(url, platform.token)
    for allowed in ("same-origin", "none"):
        assert status(url, cookie, **{"Sec-Fetch-Site": allowed}) == 200
    foreign = {"Sec-Fetch-Site": site}
    assert status(url, cookie, **foreign) == 403
    page = requests.get(f"{url}/a?b=<c>", headers={"Cookie": cookie, **foreign, **PAGE}, timeout=20)
    assert page.status_code == 403
    assert 'href="/a?b=%3Cc%3E"' in page.text
    page = requests.get(f"{url}//evil.example", headers={"Cookie": cookie, **foreign, **PAGE})
    assert 'href="/"' in page.text
    # Nobody else can be signed in by it either; a script's own token is no sign-in.
    form = {"token": platform.token, "next": "/"}
    refused = requests.post(f"{url}{sites.LOGIN_PATH}", data=form, headers=foreign, timeout=20)
    assert refused.status_code == 403
    assert requests.get(url, headers={**bearer, **foreign}, timeout=20).status_code == 200


def test_a_sign_in_ends_after_some_hours(
    serve: Serve, platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(serve())
    monkeypatch.setattr(sites, "LOGIN_LIFETIME_S", 0.0)
    assert status(url, sign_in(url, platform.token)) == 401


@pytest.mark.parametrize("name", ["Host", "Authorization", "Cookie", "Origin", "Sec-Fetch-Site"])
def test_a_header_that_decides_is_there_once(
    serve: Serve, platform: LocalPlatform, name: str
) -> None:
    for requires_auth in (True, False):
        url = url_of(serve(requires_auth=requires_auth))
        values = {
            "Host": urlsplit(url).netloc,
            "Authorization": f"Bearer {platform.token}",
            "Origin": url,
            "Cookie": "a=1",
            "Sec-Fetch-Site": "same-origin",
        }
        lines = [*values.items(), (name, values[name])]
        head = "".join(f"{name}: {value}\r\n" for name, value in lines)
        answer = raw(url, f"GET / HTTP/1.1\r\n{head}\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert name.lower() in answer.decode().lower()


@pytest.mark.parametrize("target", ["//[", "//[/?x", "http://[", "*", "/?neuro-auth-token=%"])
def test_a_strange_address_is_answered(serve: Serve, target: str) -> None:
    url = url_of(serve())
    request = f"GET {target} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n"
    assert raw(url, request.encode()).startswith(b"HTTP/1.1 401 ")


# Revocation


def test_a_sign_in_is_over_when_its_token_is_replaced(
    serve: Serve, platform: LocalPlatform, session: Session
) -> None:
    job = serve()
    url = url_of(job)
    with accounts_of(platform.folder) as accounts:
        accounts.add_user("guest")
        token = accounts.add_token("guest")
        session.users.share("guest", Permission(uri=job.uri, action=Action.READ))
        cookie = sign_in(url, token)
        assert status(url, cookie) == 200
        accounts.forget_tokens("guest")
        newer = accounts.add_token("guest")
        assert status(url, cookie) == 401
        cookie = sign_in(url, newer)
        assert status(url, cookie) == 200
        accounts.remove("guest")
        accounts.add_user("guest")
        accounts.add_token("guest")
        session.users.share("guest", Permission(uri=job.uri, action=Action.READ))
        assert status(url, cookie) == 401
        accounts.remove("guest")


# Too many connections


SILENT = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
kept = []
while True:
    kept.append(listener.accept())
"""


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise the limit of open files of this process to a few thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def few_files(folder: Path) -> Iterator[Session]:
    """Run a platform that may open 1024 files, and check at its end that it has logged little."""
    log = folder / "log"
    with (
        open(log, "wb") as stderr,
        platform_process(folder / "state", stderr=stderr) as process,
        Session.local(state=folder / "state") as session,
    ):
        psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE, (1024, 1024))
        yield session
    assert log.stat().st_size < 2**16, log.read_text()[-2000:]


@pytest.mark.usefixtures("many_files")
def test_connections_to_a_page_starve_neither_the_platform_nor_the_disk(folder: Path) -> None:
    state = folder / "state"
    with few_files(folder) as session:
        job = Serve(session, folder)()
        url = url_of(job)
        headers = {"Authorization": f"Bearer {session.config.token()}"}
        with ExitStack() as stack:
            parts = urlsplit(url)
            for number in range(1200):
                opened = socket.create_connection((parts.hostname, parts.port), timeout=20)
                stack.enter_context(opened)
                with suppress(ConnectionError):
                    opened.sendall(b"GET / HTTP/1.1\r\n" if number % 2 else b"")
            for _ in range(20):
                assert session.jobs.status(job).status.is_running
                with Session.local(state=state) as another:
                    assert another.jobs.status(job).status.is_running
                time.sleep(0.05)
            refused = requests.get(url, headers=headers, timeout=20)
            assert refused.status_code == 503
            assert "too many connections" in refused.text
        session.jobs.start(image="any", preset_name="cpu-small", command="true")
        eventually(
            lambda: requests.get(url, headers=headers, timeout=20).status_code == 200,
            "the page answers no more",
        )


@pytest.mark.usefixtures("many_files")
def test_connections_to_the_api_starve_nobody_who_is_connected(folder: Path) -> None:
    state = folder / "state"
    with few_files(folder) as session:
        job = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 60")
        address = running_platform(state)
        assert address is not None
        parts = urlsplit(address.url)
        with ExitStack() as stack:
            for _ in range(1200):
                opened = socket.create_connection((parts.hostname, parts.port), timeout=20)
                stack.enter_context(opened)
            for _ in range(20):
                session.jobs.status(job)
                time.sleep(0.05)
        other = Session.local(state=state)
        eventually(lambda: other.jobs.status(job).status.is_running, "the job does not run")
        other.close()


def test_pages_and_the_api_are_counted_together(
    serve: Serve, platform: LocalPlatform, bearer: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(serve(WEBSOCKETS)).replace("http", "ws")
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 40)
    with ExitStack() as stack:
        for _ in range(20):  # half of all
            page = websocket.create_connection(url, header=bearer, timeout=20)
            stack.callback(page.close)
        with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
            websocket.create_connection(url, header=bearer, timeout=20)
        assert refusal.value.status_code == 503
        api = f"{platform.url}/ping"
        answers = []
        for _ in range(20):
            connection = stack.enter_context(requests.Session())
            answers.append(connection.get(api, timeout=20).status_code)
        assert answers.count(200) >= 15  # other tests may have left one or another open
        assert stack.enter_context(requests.Session()).get(api, timeout=20).status_code == 503


def test_a_client_that_has_left_holds_no_connection_to_a_silent_job(
    serve: Serve, bearer: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "HALF_CLOSED_TIMEOUT_S", 0.2)
    url = url_of(serve(SILENT))
    head = f"GET / HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
    request = f"{head}Authorization: {bearer['Authorization']}\r\n\r\n".encode()
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_a_line_that_anybody_can_cause_is_logged_only_a_few_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LocalPlatform(ephemeral=True, cores=1) as platform:
        for _ in range(50):
            headers = {"Connection": "upgrade", "Upgrade": "nonsense"}
            assert requests.get(f"{platform.url}/ping", headers=headers, timeout=20).ok
    lines = [line for line in caplog.messages if line.startswith("Unsupported upgrade")]
    assert 0 < len(lines) <= 10
