"""What users may write, and what platforms may answer."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from yarl import URL

from neuro_sync import (
    Container,
    DiskVolume,
    HTTPPort,
    JobDescription,
    JobPriority,
    JobRestartPolicy,
    JobStatus,
    JobTelemetry,
    ProtocolError,
    RemoteImage,
    Resources,
    SecretFile,
    Volume,
)
from neuro_sync.models.base import explain
from neuro_sync.models.jobs import JobOptions, JobRun, JobStart
from neuro_sync.models.parse import EnvParseResult

ANSWER: dict[str, Any] = {
    "id": "job-5f0c1a52-6d5b-4d9e-9a3e-2c1f3f3a9b10",
    "owner": "alice",
    "cluster_name": "default",
    "org_name": "acme",
    "project_name": "vision",
    "uri": "job://default/acme/vision/job-5f0c1a52-6d5b-4d9e-9a3e-2c1f3f3a9b10",
    "name": "train-1",
    "tags": ["kind:demo"],
    "preset_name": "cpu-small",
    "status": "running",
    "statuses": [
        {
            "status": "pending",
            "transition_time": "2026-03-01T09:15:27.104233+00:00",
            "reason": "Creating",
            "description": None,
        },
        {
            "status": "running",
            "transition_time": "2026-03-01T09:15:31+00:00",
            "reason": None,
            "description": None,
        },
    ],
    "history": {
        "status": "running",
        "reason": None,
        "description": None,
        "created_at": "2026-03-01T09:15:27.104233+00:00",
        "started_at": "2026-03-01T09:15:31+00:00",
        "run_time_seconds": 12.5,
        "restarts": 0,
    },
    "container": {
        "image": "ubuntu:latest",
        "command": "sleep 30",
        "env": {},
        "volumes": [],
        "resources": {"cpu": 1.0, "memory": 4294967296, "memory_mb": 4096, "shm": False},
        "http": {"port": 8080, "health_check_path": "/", "requires_auth": True},
    },
    "scheduler_enabled": False,
    "preemptible_node": False,
    "pass_config": False,
    "privileged": False,
    "restart_policy": "never",
    "priority": "normal",
    "total_price_credits": "0.00035",
    "price_credits_per_hour": "0.1",
    "max_run_time_minutes": 60,
    "http_url": "https://job-5f0c.jobs.example.org",
    "http_url_named": "https://train-1--859b431f56.jobs.example.org",
    "internal_hostname": "job-5f0c.platform",
}


def read(**changes: Any) -> JobDescription:
    return JobDescription.from_answer(json.dumps({**ANSWER, **changes}))


def test_an_answer_has_the_names_and_units_of_the_reference() -> None:
    job = read()
    assert job.life_span == 3600.0
    assert job.http_url == URL("https://train-1--859b431f56.jobs.example.org")
    assert str(job.uri) == ANSWER["uri"]
    assert job.history.transitions == job.statuses
    assert [item.reason for item in job.history.transitions] == ["Creating", ""]
    assert job.container.resources.memory_mb == 4096
    assert job.container.image == RemoteImage(name="ubuntu", tag="latest")
    assert not job.is_preemptible
    assert job.history.changed_at == job.history.started_at


def test_a_job_says_in_one_line_which_it_is() -> None:
    assert repr(read()) == f"<Job {ANSWER['id']} 'train-1' running>"


def test_an_answer_of_2020_is_read_too() -> None:
    old = {
        key: value
        for key, value in ANSWER.items()
        if key in ("id", "owner", "cluster_name", "status", "history", "container")
    }
    old["container"] = {"image": "ubuntu", "resources": {"cpu": 0.1, "memory_mb": 16}}
    old["is_preemptible"] = True
    job = JobDescription.from_answer(json.dumps(old))
    assert job.scheduler_enabled
    assert job.project_name == "alice"
    assert job.container.resources.memory == 16 * 2**20
    assert job.history.transitions == ()
    assert job.http_url == URL()


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "hibernating"},
        {"restart_policy": "sometimes"},
        {"priority": "urgent"},
        {"a_new_field": {"deep": [1]}},
        {"history": {**ANSWER["history"], "a_new_field": 1, "status": "hibernating"}},
        {"container": {**ANSWER["container"], "a_new_field": 1}},
        {"container": {**ANSWER["container"], "image": "::"}},
        {"container": {**ANSWER["container"], "command": "it's"}},
        {"container": {**ANSWER["container"], "resources": {"cpu": 0, "memory": 1, "npu": 1}}},
    ],
)
def test_an_answer_with_something_new_or_odd_is_still_read(changes: dict[str, Any]) -> None:
    assert read(**changes).id == ANSWER["id"]


def test_a_field_that_is_null_counts_as_left_out() -> None:
    required = {"id", "owner", "cluster_name", "status", "history", "container"}
    nulls = dict.fromkeys(ANSWER.keys() - required)
    container = {**ANSWER["container"], "env": None, "volumes": None, "tty": None}
    job = read(**nulls, container=container)
    assert job.tags == ()
    assert job.project_name == job.owner
    assert job.container.env == {}
    assert not job.privileged
    with pytest.raises(ProtocolError, match="id: Input should be a valid string"):
        read(id=None)


def test_a_status_that_nobody_knows_counts_as_unfinished() -> None:
    status = read(status="hibernating").status
    assert status is JobStatus.UNKNOWN
    assert not status.is_finished


def test_an_answer_that_lacks_the_id_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="'id' is required"):
        JobDescription.from_answer("{}")


def test_statuses_answer_questions() -> None:
    assert JobStatus.items() == JobStatus.active_items() | JobStatus.finished_items()
    assert JobStatus.UNKNOWN not in JobStatus.items()
    assert {status for status in JobStatus if status.is_pending} == {
        JobStatus.PENDING,
        JobStatus.SUSPENDED,
    }
    assert {status for status in JobStatus if status.is_running} == {JobStatus.RUNNING}
    assert {status for status in JobStatus if status.is_finished} == JobStatus.finished_items()
    assert f"{JobStatus.RUNNING}" == "running"


def resources(**changes: Any) -> Resources:
    return Resources(**{"cpu": 1.0, "memory_mb": 100, **changes})


def test_memory_is_told_in_both_units() -> None:
    assert resources().memory == 100 * 2**20
    assert Resources(cpu=1, memory=2**30).memory_mb == 1024


def test_gpus_and_tpus_travel_under_the_names_of_the_wire() -> None:
    body = JobRun(
        container=Container(
            image="ubuntu",
            resources=resources(gpu=1, gpu_model="a100", tpu_type="v2-8", tpu_software_version="1"),
        )
    ).to_request()["container"]["resources"]
    assert body["nvidia_gpu"] == 1
    assert body["nvidia_gpu_model"] == "a100"
    assert body["tpu"] == {"type": "v2-8", "software_version": "1"}
    assert {"gpu", "tpu_type"}.isdisjoint(body)
    assert Resources.model_validate(body).tpu_type == "v2-8"


BAD: list[tuple[type, dict[str, Any], str]] = [
    (Resources, {"cpu": 1, "memory_mb": 100, "gpus": 1}, "gpus"),
    (Resources, {"cpu": 0.01, "memory_mb": 100}, "cpu"),
    (Resources, {"cpu": 1, "memory_mb": 1}, "memory_mb"),
    (Resources, {"cpu": 1}, "memory"),
    (HTTPPort, {"port": 70000}, "port"),
    (HTTPPort, {"port": 80, "requires_auth": "yes"}, "requires_auth"),
    (Volume, {"storage_uri": "storage:a", "container_path": "mnt"}, "container_path"),
    (Volume, {"storage_uri": "storage:a", "container_path": "/a/../b"}, "container_path"),
    (Volume, {"storage_uri": "disk:a", "container_path": "/mnt"}, "storage_uri"),
    (Volume, {"storage_uri": "storage:a?b", "container_path": "/mnt"}, "%3F"),
    (Volume, {"storage_uri": "storage:a#b", "container_path": "/mnt"}, "%23"),
    (Volume, {"storage_uri": "storage:../a", "container_path": "/mnt"}, "upwards"),
    (Volume, {"storage_uri": "data", "container_path": "/mnt"}, "storage:data"),
    (Volume, {"storage_uri": 5, "container_path": "/mnt"}, "storage_uri"),
    (
        SecretFile,
        {"secret_uri": "secret:a", "container_path": "/s", "read_only": True},
        "read_only",
    ),
    (DiskVolume, {"disk_uri": "storage:a", "container_path": "/d"}, "disk_uri"),
    (JobOptions, {"name": "Train"}, "name"),
    (JobOptions, {"name": "ab"}, "name"),
    (JobOptions, {"name": "a--b"}, "name"),
    (JobOptions, {"name": "a" * 41}, "name"),
    (JobOptions, {"tags": ["a b"]}, "tags"),
    (JobOptions, {"tags": [str(number) for number in range(17)]}, "tags"),
    (JobOptions, {"description": " "}, "description"),
    (JobOptions, {"schedule_timeout": 0}, "schedule_timeout"),
    (JobOptions, {"max_run_time_minutes": 0}, "max_run_time_minutes"),
    (JobOptions, {"restart_policy": "sometimes"}, "never, on-failure, always"),
    (JobOptions, {"priority": "urgent"}, "low, normal, high"),
    (JobOptions, {"privileged": 1}, "privileged"),
    (JobStart, {"image": ""}, "image"),
    (JobStart, {"image": "a b"}, "image"),
    (JobStart, {"image": "ubuntu:"}, "image"),
    (JobStart, {"image": "ubuntu", "command": "it's"}, "command"),
    (JobStart, {"image": "ubuntu", "command": ""}, "command"),
    (JobStart, {"image": "ubuntu", "working_dir": "here"}, "working_dir"),
    (JobStart, {"image": "ubuntu", "env": {"": "x"}}, "env"),
    (
        JobStart,
        {
            "image": "ubuntu",
            "volumes": [
                {"storage_uri": "storage:a", "container_path": "/mnt"},
                {"storage_uri": "storage:b", "container_path": "/mnt/"},
            ],
        },
        "'/mnt' was encountered multiple times",
    ),
]


@pytest.mark.parametrize(("model", "fields", "named"), BAD)
def test_bad_input_is_refused_at_once_and_named(
    model: type, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        model(**fields)
    assert named in str(refused.value)


CANARY = "canary-4711"
TWICE = [
    {"storage_uri": "storage:a", "container_path": "/mnt"},
    {"storage_uri": "storage:b", "container_path": "/mnt"},
]


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (JobStart, {"image": "a b", "env": {"A": CANARY}}),
        (JobStart, {"image": "u", "volumes": TWICE, "env": {"A": CANARY}}),
        (Container, {"image": "u", "volumes": TWICE, "env": {"A": CANARY}}),
        (Container, {"env": {"A": CANARY}}),
        (Container, {"image": "u", "env": {"": CANARY}}),
        (Container, {"image": "u", "env": {"A": [CANARY]}}),
        (JobRun, {"container": {"image": "a b", "env": {"A": CANARY}}}),
        (JobRun, {"container": [{"env": {"A": CANARY}}]}),
        (EnvParseResult, {"env": {"A": [CANARY]}, "secret_env": {}}),
    ],
)
def test_an_error_does_not_show_the_values_of_variables(
    model: type, fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as refused:
        model(**fields)
    assert CANARY not in str(refused.value)
    assert CANARY not in explain(refused.value)


def test_nor_does_one_of_an_answer() -> None:
    answer = {"id": [CANARY], "container": {"image": "u", "env": {"A": CANARY}, "tty": [CANARY]}}
    with pytest.raises(ProtocolError) as refused:
        JobDescription.from_answer(json.dumps(answer))
    assert CANARY not in "".join(traceback.format_exception(refused.value))


def test_models_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        resources().cpu = 2.0  # type: ignore[misc]  # that is the point


def test_a_request_mentions_only_what_was_asked_for() -> None:
    assert JobStart(image="ubuntu", preset_name="cpu-small").to_request() == {
        "image": "ubuntu:latest",
        "preset_name": "cpu-small",
        "pass_config": False,
    }


def test_on_the_wire_a_command_is_a_line() -> None:
    with pytest.raises(ValidationError, match="command"):
        JobStart.from_request(b'{"image": "ubuntu", "command": ["echo", "words"]}')


def test_a_request_always_says_what_the_wire_has_another_default_for() -> None:
    body = JobStart(
        image="ubuntu",
        http=HTTPPort(port=80),
        volumes=(Volume(storage_uri=URL("storage:a"), container_path="/a"),),
        restart_policy=JobRestartPolicy.ALWAYS,
        priority=JobPriority.NORMAL,
    ).to_request()
    assert body["http"] == {"port": 80, "requires_auth": True}
    assert body["volumes"] == [
        {"src_storage_uri": "storage:a", "dst_path": "/a", "read_only": False}
    ]
    assert body["restart_policy"] == "always"
    assert body["priority"] == "normal"


@given(
    command=st.text(min_size=1).filter(str.strip),
    env=st.dictionaries(st.text(min_size=1).filter(str.strip), st.text()),
    cpu=st.floats(0.1, 1000),
    memory=st.integers(16 * 2**20, 2**50),
)
def test_what_a_client_sends_is_what_a_platform_reads(
    command: str, env: dict[str, str], cpu: float, memory: int
) -> None:
    try:
        container = Container(
            image="ubuntu", command=command, env=env, resources=Resources(cpu=cpu, memory=memory)
        )
    except ValidationError:
        return  # such as an open quote
    spec = JobRun(container=container)
    body = json.dumps(spec.to_request()).encode()
    assert JobRun.from_request(body).container == container


def test_old_servers_tell_telemetry_in_whole_mebibytes() -> None:
    sample = JobTelemetry.from_answer('{"cpu": 0.5, "memory": 11, "timestamp": 1.5, "new": 1}')
    assert sample.memory == 11
    assert sample.gpu_memory is None
    newer = JobTelemetry.from_answer(
        '{"cpu": 0.5, "memory": 11, "memory_bytes": 12058624, "timestamp": 1.5,'
        ' "gpu_memory_bytes": 1048576, "gpu_duty_cycle": 3}'
    )
    assert newer.memory == 11.5
    assert newer.gpu_memory == 1
