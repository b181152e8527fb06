"""The local platform's bytes are those that the protocol's description promises.

Nothing of this package's client takes part: requests are written by hand, and what is compared
is status, headers and body.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
import websocket

from neuro_sync.local.server import LocalPlatform

DEADLINE = 30.0
"""Seconds until a test gives up on what should take a moment."""
JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"
UNAUTHORIZED = (401, TEXT, "401: Unauthorized")
FOREVER = "sleep 600"
RESOURCES = {"cpu": 1, "memory_mb": 64}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")
STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (.*)\n?")


@dataclass(frozen=True)
class Wire:
    """The platform as a program sees it that knows nothing but HTTP."""

    root: str
    token: str
    http: requests.Session

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request with the token, unless the test brings headers of its own."""
        options.setdefault("headers", self.authorization)
        return self.http.request(
            method, self.root + path, timeout=DEADLINE, allow_redirects=False, **options
        )

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def start(self, command: str, **fields: Any) -> dict[str, Any]:
        body = {"image": "ubuntu", "command": command, **fields}
        answer = self.send("POST", "/api/v1/jobs?from_preset", json=body)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def job(self, id: str) -> dict[str, Any]:
        return dict(self.send("GET", f"/api/v1/jobs/{id}").json())

    def until(self, id: str, *statuses: str) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE
        while (job := self.job(id))["status"] not in statuses:
            assert time.monotonic() < deadline, job
            time.sleep(0.01)
        return job

    def finish(self, command: str, **fields: Any) -> dict[str, Any]:
        job = self.start(command, **fields)
        return self.until(job["id"], "succeeded", "failed", "cancelled")

    def listed(self, query: str) -> list[str]:
        answer = self.send("GET", f"/api/v1/jobs?{query}")
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["jobs"]]

    def handshake(
        self, path: str, *, headers: dict[str, str] | None = None, offer: tuple[str, ...] = ()
    ) -> websocket.WebSocket:
        return websocket.create_connection(
            self.root.replace("http", "ws", 1) + path,
            header=self.authorization if headers is None else headers,
            subprotocols=list(offer),
            timeout=DEADLINE,
        )

    def refused_handshake(
        self, path: str, *, headers: dict[str, str] | None = None
    ) -> websocket.WebSocketBadStatusException:
        with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
            self.handshake(path, headers=headers)
        return refusal.value


@pytest.fixture(scope="module")
def wire(platform: LocalPlatform) -> Iterator[Wire]:
    with requests.Session() as http:
        http.trust_env = False
        yield Wire(platform.url.removesuffix("/api/v1"), platform.token, http)


@pytest.fixture
def label() -> str:
    """A job name and tag that no other test uses."""
    return f"wire-{uuid4().hex[:12]}"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: a job that reads it waits until the test writes to it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture(scope="module")
def logged(wire: Wire) -> str:
    """The id of a finished job with three lines in its log, each of a time of its own."""
    program = "for line in one two three; do echo $line; sleep 0.002; done"
    id: str = wire.finish(f"sh -c '{program}'")["id"]
    return id


def told(answer: requests.Response) -> tuple[int, str | None, str]:
    return answer.status_code, answer.headers.get("content-type"), answer.text


def receive_all(socket: websocket.WebSocket) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return all messages with their kind, and the payload of the frame that closed."""
    messages: list[tuple[int, bytes]] = []
    while True:
        kind, data = socket.recv_data(control_frame=True)
        if kind == websocket.ABNF.OPCODE_CLOSE:
            # Not close(), which does nothing once the peer has closed.
            socket.shutdown()  # type: ignore[no-untyped-call]  # the library leaves it untyped
            return messages, data
        if kind != websocket.ABNF.OPCODE_PING:
            messages.append((kind, data))


# Who may call


@pytest.mark.parametrize(
    ("authorization", "status", "content_type", "body"),
    [
        (None, *UNAUTHORIZED),
        ("Bearer wrong", *UNAUTHORIZED),
        ("Bearer \xe9", *UNAUTHORIZED),
        ("Basic dTpw", 400, JSON, '{"error": "Unexpected authorization scheme"}'),
        ("Bearer", 400, JSON, '{"error": "No credentials"}'),
        ("Bearer ", 400, JSON, '{"error": "No credentials"}'),
        ("", 400, JSON, '{"error": "No credentials"}'),
    ],
)
@pytest.mark.parametrize(
    "path", ["/api/v1/jobs", "/api/v1/jobs/x", "/api/v1/monitoring/jobs/x/log"]
)
def test_a_call_without_a_good_token_is_refused(
    wire: Wire, path: str, authorization: str | None, status: int, content_type: str, body: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    assert told(wire.send("GET", path, headers=headers)) == (status, content_type, body)


def test_the_token_may_come_in_the_query(wire: Wire) -> None:
    assert wire.send("GET", f"/api/v1/jobs?neuro-auth-token={wire.token}", headers={}).ok


def test_the_header_goes_before_the_query(wire: Wire) -> None:
    headers = {"Authorization": "Bearer wrong"}
    answer = wire.send("GET", f"/api/v1/jobs?neuro-auth-token={wire.token}", headers=headers)
    assert told(answer) == UNAUTHORIZED


@pytest.mark.parametrize("path", ["/ping", "/api/v1/ping"])
def test_ping_answers_anybody_with_nothing(wire: Wire, path: str) -> None:
    answer = wire.send("GET", path, headers={})
    assert (answer.status_code, answer.content) == (200, b"")


# What all answers have in common


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/", 404, "404: Not Found"),
        ("GET", "/api/v1/nothing", 404, "404: Not Found"),
        ("PUT", "/api/v1/jobs", 405, "405: Method Not Allowed"),
        ("PATCH", "/api/v1/jobs", 405, "405: Method Not Allowed"),
        ("POST", "/api/v1/jobs/x", 405, "405: Method Not Allowed"),
        ("PATCH", "/api/v1/config", 405, "405: Method Not Allowed"),
        ("POST", "/api/v1/monitoring/jobs/x/log", 405, "405: Method Not Allowed"),
    ],
)
def test_an_unknown_route_or_method_is_told_in_plain_text(
    wire: Wire, method: str, path: str, status: int, body: str
) -> None:
    assert told(wire.send(method, path)) == (status, TEXT, body)


@pytest.mark.parametrize("path", ["/ping", "/api/v1/config", "/api/v1/jobs"])
def test_head_answers_as_get_does_but_without_a_body(wire: Wire, path: str) -> None:
    answer = wire.send("HEAD", path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/ping", "/api/v1/config", "/api/v1/jobs", "/api/v1/jobs/x", "/nothing"]
)
def test_every_answer_names_the_service_and_its_version(wire: Wire, path: str) -> None:
    headers = wire.send("GET", path).headers
    assert re.fullmatch(r"neuro-local/\d+(\.\w+)+", headers["X-Service-Version"])


@pytest.mark.parametrize("path", ["/api/v1/config", "/api/v1/jobs", "/api/v1/jobs/unknown"])
def test_json_is_declared_with_its_charset(wire: Wire, path: str) -> None:
    assert wire.send("GET", path).headers["Content-Type"] == JSON


# GET /config

LOGIN_KEYS = {
    "auth_url",
    "token_url",
    "logout_url",
    "client_id",
    "audience",
    "headless_callback_url",
    "callback_urls",
}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_without_a_good_token_config_tells_how_to_log_in(
    wire: Wire, headers: dict[str, str]
) -> None:
    answer = wire.send("GET", "/api/v1/config", headers=headers)
    assert answer.status_code == 200
    assert answer.json()["authorized"] is False
    assert set(answer.json()) == {"authorized", *LOGIN_KEYS}


@pytest.mark.parametrize(
    ("authorization", "text"),
    [("Basic dTpw", "Unexpected authorization scheme"), ("Bearer", "No credentials")],
)
def test_config_refuses_a_malformed_authorization(
    wire: Wire, authorization: str, text: str
) -> None:
    answer = wire.send("GET", "/api/v1/config", headers={"Authorization": authorization})
    assert told(answer) == (400, JSON, json.dumps({"error": text}))


def test_config_describes_the_cluster_to_clients_of_all_generations(wire: Wire) -> None:
    config = wire.send("GET", "/api/v1/config").json()
    assert config["authorized"] is True
    assert set(config) >= LOGIN_KEYS | {"admin_url", "vcluster_url", "orgs"}
    (cluster,) = config["clusters"]
    project = config["projects"][0]  # other tests may have made some more
    assert project.pop("name")
    assert project == {"cluster_name": "local", "org_name": "local", "role": "admin"}
    assert (cluster["name"], cluster["orgs"]) == ("local", ["local"])
    services = ("registry", "storage", "users", "monitoring", "secrets", "disks", "buckets")
    for service in services:
        assert cluster[f"{service}_url"].startswith(wire.root)
    assert cluster["monitoring_url"].endswith("/jobs")
    assert isinstance(cluster["resource_pool_types"], list)
    small = cluster["resource_presets"][0]
    assert small["name"] == "cpu-small"
    assert small["memory"] // 2**20 == small["memory_mb"]
    assert isinstance(small["credits_per_hour"], str)
    assert small["scheduler_enabled"] is small["is_preemptible"] is False
    assert small["preemptible_node"] is small["is_preemptible_node_required"] is False


# POST /jobs


def test_a_created_job_is_answered_with_all_that_clients_read(wire: Wire, label: str) -> None:
    answer = wire.send(
        "POST",
        "/api/v1/jobs?from_preset=any-value",
        json={
            "image": "ubuntu",
            "command": FOREVER,
            "preset_name": "cpu-small",
            "name": label,
            "tags": ["b", label, "a", "b"],
            "http": {"port": 8080},
            "max_run_time_minutes": "60",
        },
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (202, JSON)
    job = answer.json()
    wire.send("DELETE", f"/api/v1/jobs/{job['id']}")
    owner, id = job["owner"], job["id"]
    small = wire.send("GET", "/api/v1/config").json()["clusters"][0]["resource_presets"][0]
    assert re.fullmatch(r"job-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", id)
    assert re.fullmatch(r"[0-9a-f]{10}", job["org_project_hash"])
    assert re.fullmatch(r"platform--local--[a-z0-9-]+--[0-9a-f]{24}", job["namespace"])
    created_at = job["history"]["created_at"]
    assert job == {
        "id": id,
        "owner": owner,
        "cluster_name": "local",
        "org_name": "local",
        "project_name": owner,
        "org_project_hash": job["org_project_hash"],
        "namespace": job["namespace"],
        "uri": f"job://local/local/{owner}/{id}",
        "name": label,
        "tags": ["a", "b", label],
        "preset_name": "cpu-small",
        "status": "pending",
        "statuses": [
            {
                "status": "pending",
                "transition_time": created_at,
                "reason": "Creating",
                "description": None,
            }
        ],
        "history": {
            "status": "pending",
            "reason": "Creating",
            "description": None,
            "created_at": created_at,
            "run_time_seconds": 0.0,
            "restarts": 0,
        },
        "container": {
            "image": "ubuntu:latest",
            "command": FOREVER,
            "env": {},
            "volumes": [],
            # The wire's defaults, which are not those of the SDK.
            "http": {"port": 8080, "health_check_path": "/", "requires_auth": False},
            "resources": {
                "cpu": small["cpu"],
                "memory": small["memory"],
                "memory_mb": small["memory_mb"],
                "shm": False,
            },
        },
        "scheduler_enabled": False,
        "is_preemptible": False,
        "preemptible_node": False,
        "is_preemptible_node_required": False,
        "pass_config": False,
        "privileged": False,
        "restart_policy": "never",
        "priority": "normal",
        "materialized": True,
        "being_dropped": False,
        "logs_removed": False,
        "total_price_credits": "0",
        "price_credits_per_hour": small["credits_per_hour"],
        "max_run_time_minutes": 60,
        "http_url": job["http_url"],  # at any free port, so that two jobs can listen on one
        "internal_hostname": f"{id}.{job['namespace']}",
        "internal_hostname_named": f"{label}--{job['org_project_hash']}.{job['namespace']}",
    }


def test_times_carry_a_numeric_offset(wire: Wire) -> None:
    job = wire.finish("true")
    times = [job["history"][key] for key in ("created_at", "started_at", "finished_at")]
    times += [item["transition_time"] for item in job["statuses"]]
    assert [time for time in times if not INSTANT.fullmatch(time)] == []


def test_a_finished_job_has_the_code_and_the_times_of_its_end(wire: Wire) -> None:
    job = wire.finish("sh -c 'echo why; exit 7'")
    pending, running, failed = job["statuses"]
    assert failed == {
        "status": "failed",
        "transition_time": job["history"]["finished_at"],
        "reason": "Error",
        "description": "why",
        "exit_code": 7,
    }
    assert running == {
        "status": "running",
        "transition_time": job["history"]["started_at"],
        "reason": None,
        "description": None,
    }
    assert pending["transition_time"] == job["history"]["created_at"]
    assert job["history"] == {
        **job["history"],
        "status": "failed",
        "reason": "Error",
        "description": "why",
        "exit_code": 7,
        "restarts": 0,
    }


def test_a_job_that_never_ran_started_when_it_ended(wire: Wire) -> None:
    job = wire.finish("there-is-no-such-program")
    assert [item["status"] for item in job["statuses"]] == ["pending", "failed"]
    assert job["history"]["started_at"] == job["history"]["finished_at"]
    assert job["history"]["reason"] == "ContainerCannotRun"


def test_optional_fields_are_absent_when_they_were_not_asked_for(wire: Wire) -> None:
    job = wire.start("true")
    absent = {"name", "description", "tags", "schedule_timeout", "max_run_time_minutes"}
    absent |= {"http_url", "http_url_named", "internal_hostname_named", "energy_schedule_name"}
    assert absent & set(job) == set()
    absent = {"http", "tty", "entrypoint", "working_dir", "secret_env", "secret_volumes"}
    assert absent & set(job["container"]) == set()
    assert {"exit_code", "started_at", "finished_at"} & set(job["history"]) == set()


def test_no_preset_means_the_first_one(wire: Wire) -> None:
    assert wire.start("true")["preset_name"] == "cpu-small"


def test_a_job_without_a_preset_keeps_the_name_of_one_unchecked(wire: Wire) -> None:
    container = {"image": "ubuntu", "command": "true", "resources": RESOURCES}
    body = {"container": container, "preset_name": "unheard-of"}
    answer = wire.send("POST", "/api/v1/jobs", json=body)
    assert answer.status_code == 202
    assert answer.json()["preset_name"] == "unheard-of"


@pytest.mark.parametrize(
    ("given", "both"),
    [
        ({"memory_mb": 64}, (64 * 2**20, 64)),
        ({"memory": 64 * 2**20}, (64 * 2**20, 64)),
        ({"memory": 64 * 2**20, "memory_mb": 99}, (64 * 2**20, 64)),
        ({"memory_mb": "64"}, (64 * 2**20, 64)),
    ],
)
def test_memory_is_answered_in_both_units_and_bytes_win(
    wire: Wire, given: dict[str, Any], both: tuple[int, int]
) -> None:
    container = {"image": "u", "command": "true", "resources": {"cpu": "0.5", **given}}
    answer = wire.send("POST", "/api/v1/jobs", json={"container": container})
    assert answer.status_code == 202, answer.text
    resources = answer.json()["container"]["resources"]
    assert (resources["memory"], resources["memory_mb"]) == both
    assert resources["cpu"] == 0.5


@pytest.mark.parametrize("name", ["scheduler_enabled", "is_preemptible"])
def test_a_flag_comes_under_its_old_name_too_and_is_answered_under_both(
    wire: Wire, name: str
) -> None:
    container = {"image": "u", "command": "true", "resources": RESOURCES}
    job = wire.send("POST", "/api/v1/jobs", json={"container": container, name: True}).json()
    assert job["scheduler_enabled"] is job["is_preemptible"] is True


def test_a_name_may_be_null(wire: Wire) -> None:
    assert "name" not in wire.start("true", name=None)


@pytest.mark.parametrize("query", ["", "?from_preset"])
@pytest.mark.parametrize("body", [b"", b"nope", b"{", b'{"image": "ubuntu"} nope'])
def test_a_body_that_is_no_json_is_refused_with_the_parser_s_words(
    wire: Wire, query: str, body: bytes
) -> None:
    with pytest.raises(json.JSONDecodeError) as error:
        json.loads(body)
    answer = wire.send("POST", f"/api/v1/jobs{query}", data=body)
    assert told(answer) == (400, JSON, json.dumps({"error": str(error.value)}))


@pytest.mark.parametrize("body", [[], None, 5, "text"])
def test_a_body_that_is_no_object_is_refused(wire: Wire, body: object) -> None:
    # The hosted platform says 500 here, and means the same.
    answer = wire.send("POST", "/api/v1/jobs", data=json.dumps(body))
    assert answer.status_code == 400
    assert "object" in answer.json()["error"]


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ({"unheard_of": 1}, "unheard_of is not allowed key"),
        ({"container": {}}, "container is not allowed key"),
        ({"image": ""}, "blank value is not allowed"),
        ({"image": " "}, "blank value is not allowed"),
        ({"name": "ab"}, "String is shorter than 3 characters"),
        ({"name": "a" * 41}, "String is longer than 40 characters"),
        ({"name": "1abc"}, "does not match pattern"),
        ({"name": "Abc"}, "does not match pattern"),
        ({"name": "abc-"}, "does not match pattern"),
        ({"name": "a--b"}, "does not match pattern"),
        ({"name": "abc\n"}, "does not match pattern"),
        ({"name": 5}, "value is not a string"),
        ({"description": ""}, "blank value is not allowed"),
        ({"description": " "}, "blank value is not allowed"),
        ({"description": 5}, "value is not a string"),
        ({"tags": ["t"] * 17}, "list length is greater than 16"),
        ({"tags": [""]}, "blank value is not allowed"),
        ({"tags": ["a b"]}, "does not match pattern"),
        ({"tags": ["a" * 257]}, "String is longer than 256 characters"),
        ({"tags": [5]}, "value is not a string"),
        ({"preset_name": ""}, "blank value is not allowed"),
        ({"preset_name": "unheard-of"}, "Preset was not found"),
        ({"resources": {"cpu": 1}}, "Both preset and resources are not allowed"),
        ({"resources": {"shm": 1}}, "value should be True or False"),
        ({"pass_config": 1}, "value should be True or False"),
        ({"privileged": "true"}, "value should be True or False"),
        ({"wait_for_jobs_quota": 0}, "value should be True or False"),
        ({"priority": "urgent"}, "value doesn't match any variant"),
        ({"priority": "HIGH"}, "value doesn't match any variant"),
        ({"restart_policy": "sometimes"}, "value doesn't match any variant"),
        ({"schedule_timeout": 0.5}, "value is less than 1"),
        ({"schedule_timeout": 2592000}, "value should be less than 2592000"),
        ({"max_run_time_minutes": 0}, "value is less than 1"),
        ({"max_run_time_minutes": 1.5}, "value is not int"),
        ({"max_run_time_minutes": "soon"}, "value is not int"),
        ({"cluster_name": "ab"}, "String is shorter than 3 characters"),
        ({"org_name": "a b c"}, "does not match pattern"),
        ({"project_name": "a" * 256}, "String is longer than 255 characters"),
        ({"energy_schedule_name": "default"}, "energy_schedule_name requires scheduler_enabled"),
        ({"name": "job-1"}, "Failed to create job: job name cannot start with 'job-' prefix."),
        ({"privileged": True}, "Cluster local does not allow privileged jobs"),
        ({"command": ""}, "blank value is not allowed"),
        ({"command": "echo 'open"}, "invalid command format"),
        ({"entrypoint": "echo 'open"}, "invalid command format"),
        ({"command": 5}, "value is not a string"),
        ({"working_dir": "relative"}, "does not match pattern"),
        ({"env": {"": "value"}}, "blank value is not allowed"),
        ({"env": {"KEY": 5}}, "value is not a string"),
        ({"http": {}}, "is required"),
        ({"http": {"port": -1}}, "value is less than 0"),
        ({"http": {"port": 65536}}, "value is greater than 65535"),
        ({"http": {"port": "web"}}, "value is not int"),
        ({"http": {"port": 80, "requires_auth": 1}}, "value should be True or False"),
        ({"http": {"port": 80, "health_check_path": ""}}, "blank value is not allowed"),
        ({"tty": 1}, "value should be True or False"),
        ({"ssh": {"port": 22}}, "ssh is not allowed key"),
    ],
)
def test_a_job_that_breaks_a_rule_is_refused_in_the_words_clients_look_for(
    wire: Wire, label: str, fields: dict[str, Any], fragment: str
) -> None:
    body = {"image": "ubuntu", "command": "true", "tags": [label], **fields}
    answer = wire.send("POST", "/api/v1/jobs?from_preset", json=body)
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, JSON), answer.text
    assert list(answer.json()) == ["error"]
    assert fragment in answer.json()["error"].replace("\\", "")
    assert wire.listed(f"tag={label}") == []


@pytest.mark.parametrize(
    "field",
    [
        "cluster_name",
        "command",
        "description",
        "entrypoint",
        "env",
        "http",
        "max_run_time_minutes",
        "org_name",
        "pass_config",
        "preset_name",
        "priority",
        "project_name",
        "restart_policy",
        "schedule_timeout",
        "tags",
        "tty",
        "volumes",
        "working_dir",
    ],
)
def test_a_field_that_is_left_out_may_not_be_null_instead(wire: Wire, field: str) -> None:
    body = {"image": "ubuntu", "entrypoint": "true", field: None}
    assert wire.send("POST", "/api/v1/jobs?from_preset", json=body).status_code == 400


@pytest.mark.parametrize(
    ("resources", "fragment"),
    [
        ({"memory_mb": 64}, "is required"),
        ({"cpu": 1}, "Either memory or memory_mb should be present"),
        ({"cpu": 0.05, "memory_mb": 64}, "value is less than 0.1"),
        ({"cpu": 1, "memory_mb": 15}, "value is less than 16"),
        ({"cpu": 1, "memory_mb": 16.5}, "value is not int"),
        ({"cpu": 1, "memory": 2**24 - 1}, "value is less than 16777216"),
        ({**RESOURCES, "nvidia_gpu": -1}, "value is less than 0"),
        ({**RESOURCES, "nvidia_gpu_model": ""}, "blank value is not allowed"),
        ({**RESOURCES, "shm": 1}, "value should be True or False"),
        ({**RESOURCES, "unheard_of": 1}, "unheard_of is not allowed key"),
    ],
)
def test_resources_that_break_a_rule_are_refused(
    wire: Wire, resources: dict[str, Any], fragment: str
) -> None:
    container = {"image": "ubuntu", "command": "true", "resources": resources}
    answer = wire.send("POST", "/api/v1/jobs", json={"container": container})
    assert answer.status_code == 400, answer.text
    assert fragment in answer.json()["error"].replace("\\", "")


NESTED = (
    r"""{'container': DataError('{\'resources\': """
    r"""DataError("{\'cpu\': DataError(\'is required\')}")}')}"""
)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "{'container': DataError('is required')}"),
        (
            {"foo": 1},
            "{'container': DataError('is required'), 'foo': DataError('foo is not allowed key')}",
        ),
        (
            {"container": {"image": "u", "resources": {}}},
            NESTED,
        ),
    ],
)
def test_nested_errors_are_texts_within_texts(wire: Wire, body: dict[str, Any], error: str) -> None:
    assert wire.send("POST", "/api/v1/jobs", json=body).json() == {"error": error}


@pytest.mark.parametrize(
    ("volumes", "fragment"),
    [
        ([("storage:a", "/a")], "Invalid URI cluster: '' != 'local'"),
        ([("storage://other/o/p/a", "/a")], "Invalid URI cluster: 'other' != 'local'"),
        ([("disk://local/o/p/a", "/a")], "Invalid URI scheme: 'disk' != 'storage'"),
        ([("storage://local/o/../a", "/a")], "Invalid path: '"),
        ([("storage://local/o/p/a", "a")], "Mount path must be absolute: 'a'"),
        ([("storage://local/o/p/a", "/a/../b")], "Invalid path: '"),
        (
            [("storage://local/o/p/a", "/a/"), ("storage://local/o/p/b", "//a")],
            "destination path '/a' was encountered multiple times",
        ),
    ],
)
def test_volumes_that_break_a_rule_are_refused(
    wire: Wire, volumes: list[tuple[str, str]], fragment: str
) -> None:
    mounts = [{"src_storage_uri": uri, "dst_path": path} for uri, path in volumes]
    body = {"image": "ubuntu", "command": "true", "volumes": mounts}
    answer = wire.send("POST", "/api/v1/jobs?from_preset", json=body)
    assert answer.status_code == 400, answer.text
    assert fragment in answer.json()["error"].replace("\\", "")


NOT_THIS_CLUSTER = "User is not allowed to submit jobs to the specified cluster"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"cluster_name": "other"}, {"error": NOT_THIS_CLUSTER}),
        (
            {"org_name": "other"},
            {"error": f"{NOT_THIS_CLUSTER} as a member of given organization"},
        ),
        (
            {"project_name": "other"},
            {"missing": [{"uri": "job://local/local/other", "action": "write"}]},
        ),
    ],
)
def test_a_job_elsewhere_is_not_permitted(
    wire: Wire, fields: dict[str, str], body: dict[str, Any]
) -> None:
    asked = {"image": "ubuntu", "command": "true", **fields}
    answer = wire.send("POST", "/api/v1/jobs?from_preset", json=asked)
    assert told(answer) == (403, JSON, json.dumps(body))


def test_a_number_that_json_does_not_have_never_comes_back(wire: Wire, label: str) -> None:
    resources = {"cpu": float("inf"), "memory_mb": 64}
    container = {"image": "u", "command": "true", "resources": resources}
    body = json.dumps({"container": container, "tags": [label]})
    assert "Infinity" in body
    wire.send("POST", "/api/v1/jobs", data=body)
    assert "Infinity" not in wire.send("GET", f"/api/v1/jobs?tag={label}").text


def test_a_name_in_use_is_refused_with_the_id_of_its_job(wire: Wire, label: str) -> None:
    job = wire.start(FOREVER, name=label)
    body = {"image": "ubuntu", "command": "true", "name": label}
    answer = wire.send("POST", "/api/v1/jobs?from_preset", json=body)
    assert answer.status_code == 400
    assert answer.json() == {
        "error": f"Failed to create job: job with name {label!r} and project "
        f"{job['project_name']!r} already exists: {job['id']!r}"
    }
    wire.send("DELETE", f"/api/v1/jobs/{label}")
    assert wire.start("true", name=label)["id"] != job["id"]


# GET and DELETE /jobs/{id}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_job_is_a_bad_request(wire: Wire, method: str) -> None:
    answer = wire.send(method, "/api/v1/jobs/job-unknown")
    assert told(answer) == (400, JSON, '{"error": "no such job job-unknown"}')


def test_a_cancelled_job_is_so_at_once_and_cancelling_it_again_does_nothing(wire: Wire) -> None:
    id = wire.start(FOREVER)["id"]
    for _ in range(2):
        answer = wire.send("DELETE", f"/api/v1/jobs/{id}")
        assert (answer.status_code, answer.content) == (204, b"")
        job = wire.job(id)
        assert job["statuses"][-1]["status"] == job["status"] == "cancelled"
        assert job["history"]["reason"] == "UserRequested"
    assert [item["status"] for item in job["statuses"]].count("cancelled") == 1


# GET /jobs


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/x-ndjson", NDJSON),
        ("application/json;q=0.5, application/x-ndjson", NDJSON),
    ],
)
def test_a_list_comes_in_the_form_that_is_accepted(
    wire: Wire, label: str, accept: str | None, content_type: str
) -> None:
    jobs = [wire.finish("true", tags=[label]) for _ in range(2)]
    headers = {**wire.authorization, "Accept": accept}
    answer = wire.send("GET", f"/api/v1/jobs?tag={label}", headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, content_type)
    if content_type == JSON:
        assert answer.json() == {"jobs": jobs}
    else:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert answer.content.endswith(b"\n")
        assert [json.loads(line) for line in answer.content.splitlines()] == jobs


def test_a_list_of_nothing_is_an_empty_one(wire: Wire, label: str) -> None:
    query = f"/api/v1/jobs?name={label}"
    assert wire.send("GET", query).json() == {"jobs": []}
    headers = {**wire.authorization, "Accept": NDJSON}
    answer = wire.send("GET", query, headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Type"] == NDJSON


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("status=bad", "'bad' is not a valid JobStatus"),
        ("status=unknown", "'unknown' is not a valid JobStatus"),
        ("status=", "is not a valid JobStatus"),
        ("name=", "String is shorter than 3 characters"),
        ("name=ab", "String is shorter than 3 characters"),
        (f"name={'a' * 41}", "String is longer than 40 characters"),
        ("name=Upper", "does not match pattern"),
        ("name=abc%0A", "does not match pattern"),
        ("owner=ab", "String is shorter than 3 characters"),
        (f"owner={'a' * 22}", "String is longer than 21 characters"),
        ("owner=Upper", "does not match pattern"),
        ("base_owner=ab", "String is shorter than 3 characters"),
        ("cluster_name=ab", "String is shorter than 3 characters"),
        ("org_name=ab", "String is shorter than 3 characters"),
        ("project_name=ab", "String is shorter than 3 characters"),
        ("since=yesterday", "Unable to parse date string 'yesterday'"),
        ("since=2026-01-01T00:00:00+00:00", "Unable to parse date string"),
        ("until=", "Unable to parse date string ''"),
        ("reverse=yes", 'Required "0", "1", "false" or "true"'),
        ("reverse=", 'Required "0", "1", "false" or "true"'),
        ("materialized=2", 'Required "0", "1", "false" or "true"'),
        ("being_dropped=no", 'Required "0", "1", "false" or "true"'),
        ("logs_removed=None", 'Required "0", "1", "false" or "true"'),
        ("limit=0", "limit should be > 0"),
        ("limit=-1", "limit should be > 0"),
        ("limit=many", "invalid literal for int() with base 10: 'many'"),
        ("limit=", "invalid literal for int() with base 10: ''"),
        ("hostname=some-name--0123456789.jobs&name=abc", "Invalid request"),
        ("hostname=job-1&project_name=abc", "Invalid request"),
        ("hostname=job-1&cluster_name=abc", "Invalid request"),
        ("hostname=job-1&since=2026-01-01T00:00:00Z", "Invalid request"),
        ("hostname=job-1&until=2026-01-01T00:00:00Z", "Invalid request"),
    ],
)
def test_a_list_by_a_value_that_cannot_be_is_refused(wire: Wire, query: str, text: str) -> None:
    answer = wire.send("GET", f"/api/v1/jobs?{query}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, JSON), answer.text
    assert text in answer.json()["error"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", True),
        ("status=succeeded", True),
        ("status=failed", False),
        ("status=failed&status=succeeded", True),
        ("tag=second", True),
        ("tag=second&tag=third", False),
        ("tag=", False),
        ("name={name}", True),
        ("name=nobody-has-it", False),
        ("owner={owner}", True),
        ("owner=somebody&owner={owner}", True),
        ("owner=somebody", False),
        ("base_owner={owner}", True),
        ("base_owner=somebody", False),
        ("cluster_name=local&cluster_name=other", True),
        ("cluster_name=other", False),
        ("org_name=local", True),
        ("org_name=other", False),
        ("project_name={owner}", True),
        ("project_name=other", False),
        ("since={created_at}", True),
        ("since={after}", False),
        ("until={created_at}", True),
        ("until={before}", False),
        ("since={created_at}&until={created_at}", True),
        ("materialized=TRUE", True),
        ("materialized=0", False),
        ("being_dropped=False&logs_removed=False", True),
        ("being_dropped=1", False),
        ("logs_removed=tRUE", False),
        ("hostname={id}.jobs.example.org", True),
        ("hostname={id}", True),
        ("hostname={name}--{hash}.jobs.example.org", True),
        ("hostname=other-name--{hash}.jobs.example.org", False),
        ("hostname={id}&status=succeeded", True),
        ("hostname={id}&status=failed", False),
        ("limit=1&reverse=True", True),
        ("unheard_of=1", True),
    ],
)
def test_a_list_is_filtered(wire: Wire, filtered: dict[str, str], query: str, found: bool) -> None:
    given = query.format_map(filtered)
    expected = [filtered["id"]] if found else []
    assert wire.listed(f"tag={filtered['label']}&{given}".rstrip("&")) == expected


@pytest.fixture(scope="module")
def filtered(wire: Wire) -> dict[str, str]:
    """A finished job that a list can find, and what there is to know of it."""
    label = f"wire-{uuid4().hex[:12]}"
    job = wire.finish("true", name=f"{label}-name", tags=[label, "second"])
    created_at = datetime.fromisoformat(job["history"]["created_at"].replace("Z", "+00:00"))

    def query(moment: datetime) -> str:
        return moment.isoformat().replace("+", "%2B")

    return {
        "label": label,
        "id": job["id"],
        "name": job["name"],
        "owner": job["owner"],
        "hash": job["org_project_hash"],
        "created_at": query(created_at),
        "before": query(created_at - timedelta(microseconds=1)),
        "after": query(created_at + timedelta(microseconds=1)),
    }


# The log, over HTTP and as a websocket


def test_a_log_is_chunked_text_with_a_separator_that_nothing_else_is(
    wire: Wire, logged: str
) -> None:
    answer = wire.send("GET", f"/api/v1/monitoring/jobs/{logged}/log")
    assert told(answer) == (200, TEXT, "one\ntwo\nthree\n")
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Encoding" not in answer.headers
    assert re.fullmatch("=== Live logs ===[0-9a-f]{60}", answer.headers["X-Separator"])


@pytest.mark.parametrize("separator", ["", "my own"])
def test_a_log_s_separator_is_the_caller_s_and_nothing_is_separated(
    wire: Wire, logged: str, separator: str
) -> None:
    path = f"/api/v1/monitoring/jobs/{logged}/log?separator={separator}"
    answer = wire.send("GET", path)
    assert answer.headers["X-Separator"] == separator
    assert answer.text == "one\ntwo\nthree\n"


@pytest.mark.parametrize("flag", ["1", "true", "TRUE"])
def test_a_log_with_timestamps_has_one_before_each_line(wire: Wire, logged: str, flag: str) -> None:
    path = f"/api/v1/monitoring/jobs/{logged}/log?timestamps={flag}"
    lines = [STAMPED.fullmatch(line) for line in wire.send("GET", path).text.splitlines()]
    assert [line and line[2] for line in lines] == ["one", "two", "three"]
    stamps = [line[1] for line in lines if line]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("flag", ["0", "false", "False"])
def test_a_log_without_timestamps_has_none(wire: Wire, logged: str, flag: str) -> None:
    path = f"/api/v1/monitoring/jobs/{logged}/log?timestamps={flag}"
    assert wire.send("GET", path).text == "one\ntwo\nthree\n"


@pytest.mark.parametrize("written", ["{0}", "{0:.26}Z", "{0:.26}%2B00:00", "{0:.26}"])
def test_a_log_begins_with_the_line_of_the_given_time(
    wire: Wire, logged: str, written: str
) -> None:
    path = f"/api/v1/monitoring/jobs/{logged}/log"
    stamped = wire.send("GET", f"{path}?timestamps=1").text.splitlines(keepends=True)
    stamp = stamped[1].split(" ")[0]
    since = written.format(stamp)
    # On a busy machine two lines may have come at the same moment.
    later = [line for line in stamped if line >= stamp]
    texts = [line.partition(" ")[2] for line in later]
    assert wire.send("GET", f"{path}?since={since}").text == "".join(texts)
    assert wire.send("GET", f"{path}?since={since}&timestamps=1").text == "".join(later)


@pytest.mark.parametrize(
    ("since", "text"),
    [("2000-01-01T00:00:00Z", "one\ntwo\nthree\n"), ("2100-01-01T00:00:00Z", "")],
)
def test_a_log_may_begin_before_or_after_all_of_it(
    wire: Wire, logged: str, since: str, text: str
) -> None:
    path = f"/api/v1/monitoring/jobs/{logged}/log?since={since}"
    assert told(wire.send("GET", path)) == (200, TEXT, text)


def test_the_headers_of_a_log_come_before_its_first_line(wire: Wire) -> None:
    id = wire.start(FOREVER)["id"]
    path = f"/api/v1/monitoring/jobs/{id}/log"
    with wire.send("GET", path, stream=True) as answer:
        assert answer.status_code == 200
        wire.send("DELETE", f"/api/v1/jobs/{id}")
        assert answer.content == b""


def test_a_followed_log_goes_on_until_the_job_ends(wire: Wire, gate: Path) -> None:
    id = wire.start(f"sh -c 'echo first; read line < {gate}; echo $line'")["id"]
    path = f"/api/v1/monitoring/jobs/{id}/log"
    with wire.send("GET", path, stream=True) as answer:
        pieces = answer.iter_content(None)
        assert next(pieces) == b"first\n"
        gate.write_text("second\n")
        assert b"".join(pieces) == b"second\n"


BAD_FLAG = '"timestamps" request parameter can be "true"/"1" or "false"/"0"'
UNKNOWN_JOB = '{"error": "no such job job-unknown"}'


@pytest.mark.parametrize(
    ("path", "content_type", "status", "body"),
    [
        ("job-unknown/{log}", JSON, 400, UNKNOWN_JOB),
        ("{id}/{log}?timestamps=x", JSON, 400, json.dumps({"error": BAD_FLAG})),
        ("{id}/{log}?timestamps=", JSON, 400, json.dumps({"error": BAD_FLAG})),
        ("job-unknown/{log}?timestamps=x", JSON, 400, json.dumps({"error": BAD_FLAG})),
        ("{id}/nothing", TEXT, 404, "404: Not Found"),
    ],
)
@pytest.mark.parametrize("kind", ["log", "log_ws"])
def test_a_refused_log_is_told_alike_over_http_and_in_a_handshake(
    wire: Wire, logged: str, kind: str, path: str, content_type: str, status: int, body: str
) -> None:
    path = "/api/v1/monitoring/jobs/" + path.format(id=logged, log=kind)
    if kind == "log":
        answer = wire.send("GET", path)
        assert told(answer) == (status, content_type, body)
        assert "X-Error" not in answer.headers
    else:
        refusal = wire.refused_handshake(path)
        headers = refusal.resp_headers or {}
        assert refusal.status_code == status
        assert headers["content-type"] == content_type
        assert headers["x-error"] == body
        assert refusal.resp_body == body.encode()
        assert "x-service-version" in headers


@pytest.mark.parametrize("kind", ["log", "log_ws"])
@pytest.mark.parametrize("since", ["yesterday", "2026-01-01T00:00:00+00:00"])
def test_a_log_since_a_time_that_is_none_is_refused(
    wire: Wire, logged: str, kind: str, since: str
) -> None:
    path = f"/api/v1/monitoring/jobs/{logged}/{kind}?since={since}"
    if kind == "log":
        status, _, body = told(wire.send("GET", path))
    else:
        refusal = wire.refused_handshake(path)
        status, body = refusal.status_code, (refusal.resp_headers or {})["x-error"]
    assert status == 400
    assert json.loads(body)["error"].startswith("Unable to parse date string '")


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({}, 401, "401: Unauthorized"),
        ({"Authorization": "Bearer wrong"}, 401, "401: Unauthorized"),
        ({"Sec-WebSocket-Protocol": "bearer.apolo.us-wrong"}, 401, "401: Unauthorized"),
        ({"Authorization": "Basic dTpw"}, 400, '{"error": "Unexpected authorization scheme"}'),
        ({"Authorization": "Bearer"}, 400, '{"error": "No credentials"}'),
    ],
)
def test_a_handshake_without_a_good_token_is_refused(
    wire: Wire, logged: str, headers: dict[str, str], status: int, text: str
) -> None:
    path = f"/api/v1/monitoring/jobs/{logged}/log_ws"
    refusal = wire.refused_handshake(path, headers=headers)
    assert refusal.status_code == status
    assert (refusal.resp_headers or {})["x-error"] == text
    assert refusal.resp_body == text.encode()


def test_a_refused_handshake_is_no_failure_of_the_platform(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        wire.refused_handshake("/api/v1/monitoring/jobs/job-unknown/log_ws")
        # One more call, so that whatever the first one left to be logged has been.
        wire.send("GET", "/ping")
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize(
    ("offer", "picked"),
    [((), None), (("logs.apolo.us",), "logs.apolo.us"), (("x", "logs.apolo.us"), "logs.apolo.us")],
)
def test_a_log_s_websocket_sends_binary_messages_and_closes_with_1000(
    wire: Wire, logged: str, offer: tuple[str, ...], picked: str | None
) -> None:
    socket = wire.handshake(f"/api/v1/monitoring/jobs/{logged}/log_ws", offer=offer)
    assert socket.subprotocol == picked
    messages, closing = receive_all(socket)
    assert {kind for kind, _ in messages} == {websocket.ABNF.OPCODE_BINARY}
    assert b"".join(data for _, data in messages) == b"one\ntwo\nthree\n"
    assert closing == (1000).to_bytes(2, "big")


def test_a_protocol_that_nobody_knows_is_not_picked_but_no_reason_to_refuse(
    wire: Wire, logged: str
) -> None:
    # In a header: this client refuses to go on when its own offer is not taken up.
    headers = {**wire.authorization, "Sec-WebSocket-Protocol": "unheard.of"}
    socket = wire.handshake(f"/api/v1/monitoring/jobs/{logged}/log_ws", headers=headers)
    assert "sec-websocket-protocol" not in (socket.headers or {})
    assert receive_all(socket)[1] == (1000).to_bytes(2, "big")


@pytest.mark.parametrize("prefix", ["", "logs.apolo.us, "])
def test_a_handshake_s_token_may_be_among_the_protocols(
    wire: Wire, logged: str, prefix: str
) -> None:
    headers = {"Sec-WebSocket-Protocol": f"{prefix}bearer.apolo.us-{wire.token}"}
    socket = wire.handshake(f"/api/v1/monitoring/jobs/{logged}/log_ws", headers=headers)
    assert receive_all(socket)[1] == (1000).to_bytes(2, "big")


def test_a_handshake_s_token_may_come_in_the_query(wire: Wire, logged: str) -> None:
    path = f"/api/v1/monitoring/jobs/{logged}/log_ws?neuro-auth-token={wire.token}"
    assert receive_all(wire.handshake(path, headers={}))[1] == (1000).to_bytes(2, "big")


@pytest.mark.parametrize("query", ["timestamps=1", "timestamps=TRUE&separator=x", "since={since}"])
def test_a_log_s_websocket_sends_the_same_bytes_as_http(
    wire: Wire, logged: str, query: str
) -> None:
    path = f"/api/v1/monitoring/jobs/{logged}/"
    stamped = wire.send("GET", f"{path}log?timestamps=1").text.splitlines()
    query = query.format(since=stamped[2].split(" ")[0])
    messages, _ = receive_all(wire.handshake(f"{path}log_ws?{query}"))
    expected = wire.send("GET", f"{path}log?{query}").content
    assert b"".join(data for _, data in messages) == expected


def test_an_empty_log_closes_without_a_message(wire: Wire) -> None:
    id = wire.finish("true")["id"]
    socket = wire.handshake(f"/api/v1/monitoring/jobs/{id}/log_ws")
    assert receive_all(socket) == ([], (1000).to_bytes(2, "big"))


def test_a_long_log_comes_in_messages_of_no_more_than_64_kib(wire: Wire) -> None:
    id = wire.finish("""python -c 'print("x" * 1_000_000)'""")["id"]
    messages, _ = receive_all(wire.handshake(f"/api/v1/monitoring/jobs/{id}/log_ws"))
    sizes = [len(data) for _, data in messages]
    assert sum(sizes) == 1_000_001
    assert max(sizes) <= 2**16


def test_what_a_follower_sends_is_ignored_and_its_pings_are_answered(
    wire: Wire, gate: Path
) -> None:
    id = wire.start(f"sh -c 'echo first; read line < {gate}; echo $line'")["id"]
    socket = wire.handshake(f"/api/v1/monitoring/jobs/{id}/log_ws")
    assert socket.recv() == b"first\n"
    socket.send("text")
    socket.send_binary(bytes(1000))
    socket.ping("are you there")
    assert socket.recv_data(control_frame=True) == (
        websocket.ABNF.OPCODE_PONG,
        b"are you there",
    )
    gate.write_text("second\n")
    messages, closing = receive_all(socket)
    assert b"".join(data for _, data in messages) == b"second\n"
    assert closing == (1000).to_bytes(2, "big")


def test_a_follower_that_closes_is_answered_with_a_close(wire: Wire) -> None:
    id = wire.start(FOREVER)["id"]
    socket = wire.handshake(f"/api/v1/monitoring/jobs/{id}/log_ws")
    socket.send_close()
    assert receive_all(socket)[1] == (1000).to_bytes(2, "big")
    assert wire.job(id)["status"] in ("pending", "running")
    wire.send("DELETE", f"/api/v1/jobs/{id}")
