"""Who may call: programs of this machine with the token, and no page of a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from websocket import WebSocketBadStatusException, create_connection

from neuro_sync import AuthenticationError, Session
from neuro_sync.local.server import LocalPlatform

CALLS = [
    ("GET", "/jobs"),
    ("POST", "/jobs"),
    ("POST", "/jobs?from_preset"),
    ("GET", "/jobs/some-job"),
    ("DELETE", "/jobs/some-job"),
    ("GET", "/monitoring/jobs/some-job/log"),
    ("GET", "/no/such/route"),
]


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_every_call_takes_the_token(
    platform: LocalPlatform, http: requests.Session, method: str, path: str
) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = http.request(method, platform.url + path, headers=headers)
        assert (answer.status_code, answer.text) == (401, "401: Unauthorized")


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "header",
    [
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
    ],
)
def test_another_host_or_origin_is_refused_even_with_the_token(
    platform: LocalPlatform,
    http: requests.Session,
    method: str,
    path: str,
    header: dict[str, str],
) -> None:
    port = platform.url.split(":")[2].split("/")[0]
    headers = {name: value.format(port=port) for name, value in header.items()}
    headers["Authorization"] = f"Bearer {platform.token}"
    answer = http.request(method, platform.url + path, headers=headers)
    assert answer.status_code == 403
    assert "error" in answer.json()


def test_a_page_of_the_platform_itself_may_call(
    platform: LocalPlatform, http: requests.Session
) -> None:
    origin = platform.url.removesuffix("/api/v1").replace("127.0.0.1", "localhost")
    headers = {"Authorization": f"Bearer {platform.token}", "Origin": origin}
    headers["Host"] = origin.removeprefix("http://")
    assert http.get(f"{platform.url}/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("authorization", "text"),
    [
        ("Basic YTpi", "Unexpected authorization scheme"),
        ("Bearer", "No credentials"),
        ("Bearer ", "No credentials"),
    ],
)
def test_a_header_that_is_no_bearer_token_is_400(
    platform: LocalPlatform, http: requests.Session, authorization: str, text: str
) -> None:
    answer = http.get(f"{platform.url}/jobs", headers={"Authorization": authorization})
    assert (answer.status_code, answer.json()) == (400, {"error": text})


def test_the_token_may_come_in_the_query(platform: LocalPlatform, http: requests.Session) -> None:
    query = {"neuro-auth-token": platform.token}
    assert http.get(f"{platform.url}/jobs", params=query).status_code == 200


def test_config_without_a_token_tells_only_how_to_log_in(
    platform: LocalPlatform, http: requests.Session
) -> None:
    answer = http.get(f"{platform.url}/config", headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 200
    assert answer.json()["authorized"] is False
    assert "clusters" not in answer.json()


def test_a_wrong_token_is_told_by_each_call_of_a_session(platform: LocalPlatform) -> None:
    with Session(platform.url, platform.token + "x") as session:
        with pytest.raises(AuthenticationError, match="does not accept the token"):
            session.jobs.start(image="any", preset_name="cpu-small", command="true")
        with pytest.raises(AuthenticationError, match="401"):
            session.jobs.status("some-job")


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({}, 401, "401: Unauthorized"),
        ({"Authorization": "Bearer wrong"}, 401, "401: Unauthorized"),
        ({"Origin": "http://evil.example"}, 403, "http://evil.example"),
        ({"Host": "evil.example"}, 403, "evil.example"),
    ],
)
def test_a_refused_handshake_says_why_in_a_header(
    platform: LocalPlatform, headers: dict[str, str], status: int, reason: str
) -> None:
    if status == 403:
        headers = {**headers, "Authorization": f"Bearer {platform.token}"}
    refused = refused_handshake(platform, headers)
    assert refused.status_code == status
    assert reason in refused.resp_headers["x-error"]


def test_an_unknown_job_is_refused_before_the_handshake(platform: LocalPlatform) -> None:
    refused = refused_handshake(platform, {"Authorization": f"Bearer {platform.token}"})
    assert refused.status_code == 400
    assert json.loads(refused.resp_headers["x-error"]) == {"error": "no such job some-job"}


def refused_handshake(platform: LocalPlatform, headers: dict[str, str]) -> Any:
    """Try to open the log of an unknown job as a websocket."""
    url = platform.url.replace("http:", "ws:") + "/monitoring/jobs/some-job/log_ws"
    others = {name: value for name, value in headers.items() if name == "Authorization"}
    with pytest.raises(WebSocketBadStatusException) as refused:
        create_connection(
            url,
            header=others,
            timeout=5,
            host=headers.get("Host"),
            origin=headers.get("Origin"),
            suppress_origin="Origin" not in headers,
        )
    return refused.value


def test_the_platform_listens_on_the_loopback_address_only(platform: LocalPlatform) -> None:
    port = int(platform.url.split(":")[2].split("/")[0])
    with open("/proc/net/tcp") as table:
        listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening
