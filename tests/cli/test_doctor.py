"""``neuro doctor``: what it finds well, what it finds wrong, and what it says to do."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from neuro_sync.local.server import LocalPlatform
from neuro_sync.testing import Fault, FaultProxy

from .conftest import Neuro


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch, login: object) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")  # so that Docker is missing everywhere alike


def test_where_all_is_well_each_check_is_a_line(neuro: Neuro, platform: LocalPlatform) -> None:
    ended = neuro("doctor")
    assert ended.exit_code == 0, ended.output
    first, *others = ended.output.splitlines()
    assert first == f"+ address: {platform.url}"
    for found in ("+ proxy: none", "+ certificates: ", "+ login: ", "+ websocket: the platform"):
        assert any(line.startswith(found) for line in others), ended.output
    assert others[-1].startswith("+ docker: not installed")


def test_findings_are_told_as_json(neuro: Neuro, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = neuro("doctor --json")
    assert ended.exit_code == 0
    found = json.loads(ended.stdout)
    assert [finding["what"] for finding in found][:3] == ["address", "proxy", "certificates"]
    assert not any(finding["remedy"] for finding in found)
    monkeypatch.setenv("NEURO_SYNC_URL", "http://127.0.0.1:9/api/v1")
    ended = neuro("doctor --json")
    assert ended.exit_code == 69
    assert any(finding["remedy"] for finding in json.loads(ended.stdout))


def test_without_a_login_it_says_where_it_looked(
    neuro: Neuro, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NEURO_SYNC_TOKEN")
    ended = neuro("doctor")
    assert ended.exit_code == 69
    assert "! address: no platform to talk to" in ended.output
    assert "NEURO_SYNC_TOKEN: not set" in ended.output
    assert "  -> log in" in ended.output


def test_a_platform_that_is_not_reached(neuro: Neuro, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURO_SYNC_URL", "http://127.0.0.1:9/api/v1")
    ended = neuro("doctor")
    assert ended.exit_code == 69
    assert "! login: " in ended.output
    assert "  -> see whether the address, the network and the proxy are right" in ended.output


def test_websockets_that_do_not_pass(
    neuro: Neuro, monkeypatch: pytest.MonkeyPatch, platform: LocalPlatform
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with FaultProxy(urlsplit(platform.url).port or 0) as proxy:
        proxy.plan("GET /api/v1/monitoring", *(Fault(answer=answer) for _ in range(9)))
        monkeypatch.setenv("NEURO_SYNC_URL", f"http://127.0.0.1:{proxy.port}/api/v1")
        ended = neuro("doctor")
    assert ended.exit_code == 69
    assert "+ login: " in ended.output
    assert "! websocket: " in ended.output
    assert "  -> let the proxy in between pass websockets on" in ended.output


def test_a_proxys_password_is_not_told(neuro: Neuro, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:canary@127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://user:canary@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NEURO_SYNC_URL", "http://platform.test/api/v1")
    ended = neuro("doctor")
    assert ended.exit_code == 69
    assert "+ proxy: 127.0.0.1:9\n" in ended.output
    assert "canary" not in ended.output


def test_this_machine_is_reached_without_a_proxy(
    neuro: Neuro, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    ended = neuro("doctor")
    assert ended.exit_code == 0, ended.output
    assert "+ proxy: none" in ended.output


def test_a_bundle_that_is_not_there(neuro: Neuro, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such.pem")
    ended = neuro("doctor")
    assert ended.exit_code == 69
    assert "! certificates: /no/such.pem, from REQUESTS_CA_BUNDLE" in ended.output
