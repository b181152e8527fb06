"""The calls of 2020, as programs of that time make them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import requests

from neuro_sync.local.server import LocalPlatform

if TYPE_CHECKING:
    from .conftest import Channel, Dial, Run


@dataclass
class Old:
    """A program of 2020."""

    platform: LocalPlatform
    dial: Dial

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(
            method,
            f"{self.platform.url}/monitoring/jobs/{path}",
            headers={"Authorization": f"Bearer {self.platform.token}"},
            timeout=30,
            **options,
        )

    def create(self, job_id: str, command: str, **options: bool) -> str:
        everything = {"stdin": True, "stdout": True, "stderr": True}
        body = {"command": command, **everything, **options}
        answer = self.send("POST", f"{job_id}/exec_create", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["job_id"] == job_id
        return str(answer.json()["exec_id"])

    def start(self, job_id: str, exec_id: str) -> Channel:
        return self.dial(job_id, f"{exec_id}/exec_start", offer=())

    def inspect(self, job_id: str, exec_id: str) -> dict[str, Any]:
        return dict(self.send("GET", f"{job_id}/{exec_id}/exec_inspect").json())


@pytest.fixture
def old(platform: LocalPlatform, dial: Dial) -> Old:
    return Old(platform, dial)


def test_a_command_is_created_started_and_inspected(old: Old, run: Run) -> None:
    job = run("sleep 600").id
    exec_id = old.create(job, "sh -c 'echo out; echo err >&2; read x; echo $x; exit 3'")
    created = {
        "id": exec_id,
        "running": False,
        "exit_code": None,
        "job_id": job,
        "tty": False,
        "entrypoint": "sh",
        "command": "-c 'echo out; echo err >&2; read x; echo $x; exit 3'",
    }
    assert old.inspect(job, exec_id) == created
    channel = old.start(job, exec_id)
    assert {channel.message(), channel.message()} == {b"\x01out\n", b"\x02err\n"}
    assert old.inspect(job, exec_id) == {**created, "running": True}
    channel.send(b"raw input\n")
    heard = channel.rest()
    assert heard.messages == [b"\x01raw input\n"]
    assert heard.close_code == 1000
    assert old.inspect(job, exec_id) == {**created, "exit_code": 3}
    status, body = old.dial.refused(job, f"{exec_id}/exec_start")
    assert (status, body) == (409, {"error": f"Exec '{exec_id}' was started already"})


def test_the_terminal_of_a_command_is_resized(old: Old, run: Run) -> None:
    job = run("sleep 600").id
    exec_id = old.create(job, "sh -c 'read x; stty size'", tty=True)
    path = f"{job}/{exec_id}/exec_resize?w=132&h=50"
    assert old.send("POST", path).status_code == 404
    channel = old.start(job, exec_id)
    deadline = time.monotonic() + 10
    while not old.inspect(job, exec_id)["running"]:
        assert time.monotonic() < deadline
    answer = old.send("POST", path)
    assert (answer.status_code, answer.json()) == (200, None)
    channel.send(b"\n")
    assert b"50 132\r\n" in channel.rest().stdout


def test_a_command_without_input_finds_its_end(old: Old, run: Run) -> None:
    job = run("sleep 600").id
    exec_id = old.create(job, "cat", stdin=False)
    assert old.start(job, exec_id).rest().messages == []
    assert old.inspect(job, exec_id)["exit_code"] == 0


def test_a_command_that_cannot_be_run_has_an_exit_code(old: Old, run: Run) -> None:
    job = run("sleep 600").id
    exec_id = old.create(job, "no-such-program")
    assert old.start(job, exec_id).rest().messages == []
    assert old.inspect(job, exec_id)["exit_code"] == 127


def test_a_command_belongs_to_its_job(old: Old, run: Run) -> None:
    job, other = run("sleep 600").id, run("sleep 600").id
    exec_id = old.create(job, "true")
    assert old.send("GET", f"{other}/{exec_id}/exec_inspect").status_code == 404
    assert old.dial.refused(other, f"{exec_id}/exec_start")[0] == 404
    assert old.dial.refused(job, "unknown/exec_start")[0] == 404


@pytest.mark.parametrize(
    "body", [{}, {"command": ""}, {"command": "a\0b"}, {"command": "a", "unknown": 1}]
)
def test_a_command_that_is_malformed_is_refused(old: Old, run: Run, body: dict[str, Any]) -> None:
    answer = old.send("POST", f"{run('sleep 600').id}/exec_create", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_job_without_a_terminal_can_be_resized_to_no_effect(old: Old, run: Run) -> None:
    job = run("sleep 600").id
    for query in ("", "?w=100&h=30"):
        answer = old.send("POST", f"{job}/resize{query}")
        assert (answer.status_code, answer.json()) == (200, None)
    assert old.send("POST", f"{job}/resize?w=wide").status_code == 400
    assert old.send("POST", f"{job}/any/exec_resize?w=80").status_code == 400


def test_commands_that_are_never_started_do_not_fill_the_memory(old: Old, run: Run) -> None:
    job = run("sleep 600").id
    first = old.create(job, "first")
    second = old.create(job, "second")
    word = "a" * 100_000
    for _ in range(4):
        old.create(job, " ".join([word] * 10))
    assert old.inspect(job, second)["entrypoint"] == "second"
    for _ in range(2):
        old.create(job, " ".join([word] * 10))
    for forgotten in (first, second):
        assert old.send("GET", f"{job}/{forgotten}/exec_inspect").status_code == 404
