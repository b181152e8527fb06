"""Secrets of the local platform: jobs have them, and nothing else does."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import requests
from yarl import URL

from neuro_sync import IllegalArgumentError, JobStatus, ResourceNotFound, SecretFile, Session
from neuro_sync.local.accounts import accounts_of
from neuro_sync.local.server import LocalPlatform
from tests.sandbox import bubblewrap  # noqa: F401  # a fixture

CANARY = b"canary-3f9a1c-in-a-coal-mine"
HASHED = hashlib.sha256(CANARY).hexdigest()
HASHES = (
    "python -c 'import hashlib, os, sys, time\n"
    'print(hashlib.sha256(os.environ["KEY"].encode()).hexdigest())\n'
    'print(hashlib.sha256(open("/run/neuro/key", "rb").read()).hexdigest(), flush=True)\n'
    "sys.stdin.readline()'"
)


@pytest.fixture(autouse=True)
def _projects(platform: LocalPlatform, session: Session) -> None:
    """Projects that nobody else uses, and that come after the one that is meant by default."""
    with accounts_of(platform.folder) as accounts:
        for name in ("zz-another", "zz-wired"):
            if name not in accounts.projects():
                accounts.add_project(name)
                accounts.set_member(name, session.username, "admin")


def files_with(folder: Path, value: bytes) -> list[str]:
    """Return the files below a folder that hold a value, as it is or in base64."""
    written = {value, base64.b64encode(value)}
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(text in path.read_bytes() for text in written)
    ]


@pytest.mark.usefixtures("bubblewrap")
def test_a_secret_is_in_its_job_and_in_the_store_and_nowhere_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        LocalPlatform(tmp_path / "state", grace=0.2) as platform,
        Session(platform.url, platform.token) as session,
    ):
        session.secrets.add("canary", CANARY)
        store = f"secrets/local/{session.project_name}/canary"
        job = session.jobs.start(
            image="any",
            preset_name="cpu-small",
            command=HASHES,
            secret_env={"KEY": URL("secret:canary")},
            secret_files=[SecretFile(secret_uri="secret:canary", container_path="/run/neuro/key")],
        )
        with session.jobs.logs(job) as lines:
            assert [next(lines), next(lines)] == [HASHED, HASHED]
        assert files_with(platform.folder, CANARY) == [store]
        answer = requests.get(
            f"{platform.url}/jobs/{job.id}",
            headers={"Authorization": f"Bearer {platform.token}"},
            timeout=10,
        )
        told = [answer.text, repr(session.jobs.status(job)), repr([*session.secrets.list()])]
        told += [_read(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit()]
        session.secrets.rm("canary")
        assert files_with(platform.folder, CANARY) == []
        session.jobs.kill(job)
        session.jobs.wait(job)
    assert files_with(tmp_path, CANARY) == []
    assert not [text for text in (*told, caplog.text) if CANARY.decode() in text]
    assert base64.b64encode(CANARY).decode() not in caplog.text


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def test_no_error_repeats_a_value(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    value: Any = CANARY.decode()
    with pytest.raises(IllegalArgumentError, match="a value is bytes") as refused:
        session.secrets.add("text", value)
    errors: list[BaseException | None] = [refused.value, refused.value.__cause__]
    with pytest.raises(IllegalArgumentError, match="larger than 786432 bytes") as too_large:
        session.secrets.add("large", CANARY * 40000)
    errors += [too_large.value, too_large.value.__cause__]
    assert not [error for error in errors if "canary" in str(error)]
    assert "canary-" not in caplog.text


def test_only_the_owner_may_read_the_store(session: Session, platform: LocalPlatform) -> None:
    session.secrets.add("mine", b"value")
    path = platform.folder / "secrets" / "local" / session.project_name / "mine"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(above.stat().st_mode) for above in list(path.parents)[:3]} == {0o700}


@pytest.mark.parametrize("value", [b"\0\xff any bytes\n", b"x", b"y" * 2**19 + b"z" * 2**18])
def test_any_bytes_come_back_as_they_went(session: Session, value: bytes) -> None:
    if len(value) == 2**19 + 2**18:  # the body around it has to fit into a mebibyte as well
        value = value[:-1000]
    session.secrets.add("bytes", b"an earlier value")
    session.secrets.add("bytes", value)
    assert session.secrets.get("bytes") == value
    session.secrets.rm("bytes")


def test_secrets_are_listed_by_project(session: Session) -> None:
    session.secrets.add("listed", b"value")
    session.secrets.add("listed-too", b"value", project_name="zz-another")
    (secret,) = session.secrets.list(project_name="zz-another")
    assert (secret.key, secret.owner, secret.project_name) == (
        "listed-too",
        "zz-another",
        "zz-another",
    )
    assert str(secret.uri) == "secret://local/local/zz-another/listed-too"
    assert "listed" in [secret.key for secret in session.secrets.list()]
    session.secrets.rm("listed-too", project_name="zz-another")
    assert list(session.secrets.list(project_name="zz-another")) == []


def test_a_secret_that_is_not_there_is_named(session: Session) -> None:
    for call in (session.secrets.get, session.secrets.rm):
        with pytest.raises(ResourceNotFound, match="Secret 'nothing' not found"):
            call("nothing")


@pytest.mark.parametrize("key", ["../../../token", "..", "%2e%2e", "a/b", ""])
def test_a_key_leads_nowhere_else(session: Session, key: str) -> None:
    with pytest.raises((ResourceNotFound, IllegalArgumentError)):
        session.secrets.get(key)


def test_a_job_whose_secrets_are_missing_fails_as_on_the_wire(session: Session) -> None:
    session.secrets.add("there", b"value")
    job = session.jobs.start(
        image="any",
        preset_name="cpu-small",
        command="true",
        secret_env={"A": URL("secret:gone"), "B": URL("secret:there"), "C": URL("secret:too")},
    )
    ended = session.jobs.wait(job)
    assert ended.status is JobStatus.FAILED
    assert ended.reason == "Missing secrets: 'gone', 'too'"
    assert ended.history.description == "The job could not be started."
    assert ended.history.exit_code is None
    assert list(session.jobs.logs(job)) == []


def test_a_zero_byte_in_a_variable_fails_the_job_with_a_remedy(session: Session) -> None:
    session.secrets.add("zero", b"a\0PATH=/evil")
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command="env", secret_env={"A": URL("secret:zero")}
    )
    ended = session.jobs.wait(job)
    assert ended.reason == "ContainerCannotRun"
    assert "secret_files" in ended.history.description
    assert "evil" not in ended.history.description


# on the wire


@pytest.fixture
def send(platform: LocalPlatform) -> Any:
    def send_request(method: str, path: str = "", **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {platform.token}"}
        url = f"{platform.url}/secrets{path}"
        return requests.request(method, url, headers=headers, timeout=10, **options)

    return send_request


NEW = {"key": "wire", "value": "dmFsdWU=", "org_name": "local", "project_name": "zz-wired"}
QUERY = {"org_name": "local", "project_name": "zz-wired"}
TOLD = {"key": "wire", "owner": "zz-wired", "org_name": "local", "project_name": "zz-wired"}


def test_the_life_of_a_secret_on_the_wire(send: Any) -> None:
    answers = [
        send("POST", json=NEW),
        send("GET", params=QUERY),
        send("GET", "/wire", params=QUERY),
        send("DELETE", "/wire", params=QUERY),
        send("GET", "/wire", params=QUERY),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 204, 404]
    bodies = [json.loads(answer.content) for answer in answers if answer.content]
    assert bodies == [
        TOLD,
        [TOLD],
        {**TOLD, "value": "dmFsdWU="},
        {"error": "Secret 'wire' not found"},
    ]


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"key": None}, "value is not a string"),
        ({"key": ""}, "blank value is not allowed"),
        ({"key": "x" * 254}, "String is longer than 253 characters"),
        ({"key": "a b"}, "does not match pattern"),
        ({"key": "."}, "does not match pattern"),
        ({"key": "..a"}, "does not match pattern"),
        ({"key": "a\n"}, "does not match pattern"),
        ({"key": "---Neuro---"}, "does not match pattern"),
        ({"value": ""}, "blank value is not allowed"),
        ({"value": "abc"}, "Incorrect padding"),
        ({"value": 5}, "value is not a string"),
        ({"more": 1}, "more is not allowed key"),
        ({"org_name": "../x"}, "does not match pattern"),
    ],
)
def test_what_is_no_secret_is_refused(send: Any, changes: dict[str, Any], fragment: str) -> None:
    answer = send("POST", json={**NEW, **changes})
    assert answer.status_code == 400, answer.text
    assert fragment in answer.json()["error"]


@pytest.mark.parametrize("missing", [*NEW])
def test_each_field_is_required(send: Any, missing: str) -> None:
    answer = send("POST", json={name: value for name, value in NEW.items() if name != missing})
    assert answer.status_code == 400
    assert answer.json()["error"] == f"{{{missing!r}: DataError('is required')}}"


@pytest.mark.parametrize(
    ("query", "fragment"),
    [
        ({}, "'org_name': DataError('is required'), 'project_name': DataError('is required')"),
        ({"org_name": "local"}, "'project_name': DataError('is required')"),
        ({**QUERY, "more": "1"}, "more is not allowed key"),
        ({**QUERY, "project_name": "../../x"}, "does not match pattern"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/wire"), ("DELETE", "/wire")])
def test_a_query_names_the_project_and_nothing_else(
    send: Any, method: str, path: str, query: dict[str, str], fragment: str
) -> None:
    answer = send(method, path, params=query)
    assert answer.status_code == 400
    assert fragment in answer.json()["error"]


def test_a_body_of_more_than_a_mebibyte_is_too_large(send: Any) -> None:
    assert send("POST", json={**NEW, "value": "A" * 2**20}).status_code == 413
    assert send("POST", data=iter([b" " * 2**19] * 3)).status_code == 413
