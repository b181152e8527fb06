"""The websocket over TLS: the same trust as requests have, and bytes that wait in the library."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from websockets.sync.server import ServerConnection

from neuro_sync import ConnectionFailed
from neuro_sync.transport.http import HttpTransport
from neuro_sync.transport.websocket import WebSocket
from tests.programs import require_programs
from tests.scripted_websocket import served


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and the certificate of an authority that nobody else trusts."""
    require_programs("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


@pytest.fixture
def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def echo(server: ServerConnection) -> None:
    for message in server:
        server.send(message)


def address(url: str) -> str:
    return url.replace("http://127.0.0.1", "https://localhost")


@pytest.mark.parametrize("trust", ["argument", "environment", "anybody"])
def test_one_setting_says_whom_to_trust(
    certificate: Path,
    server_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    trust: str,
) -> None:
    if trust == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    verify = {"argument": str(certificate), "environment": None, "anybody": False}[trust]
    transport = HttpTransport("token", verify=verify)
    with (
        served(echo, ssl=server_context) as url,
        WebSocket(transport, address(url)).open() as websocket,
    ):
        websocket.send(b"hello")
        assert websocket.receive() == b"hello"
    transport.close()


def test_a_stranger_is_not_trusted(server_context: ssl.SSLContext) -> None:
    transport = HttpTransport("token")
    with (
        served(echo, ssl=server_context) as url,
        pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        WebSocket(transport, address(url)).open()
    transport.close()


def test_both_directions_flow_at_once_and_nothing_waits_unseen(
    certificate: Path, server_context: ssl.SSLContext
) -> None:
    messages = [os.urandom(1 + 997 * number % 65_000) for number in range(300)]
    transport = HttpTransport("token", verify=str(certificate))
    with (
        served(echo, ssl=server_context) as url,
        WebSocket(transport, address(url)).open() as websocket,
    ):

        def write() -> None:
            for message in messages:
                websocket.send(message)

        writer = threading.Thread(target=write)
        writer.start()
        assert [websocket.receive() for _ in messages] == messages
        writer.join()
    transport.close()


def test_closing_frees_a_reader(certificate: Path, server_context: ssl.SSLContext) -> None:
    transport = HttpTransport("token", verify=str(certificate))
    with served(echo, ssl=server_context) as url:
        websocket = WebSocket(transport, address(url)).open()
        reader = threading.Thread(target=websocket.receive)
        reader.start()
        websocket.close()
        reader.join(5)
        assert not reader.is_alive()
    transport.close()
