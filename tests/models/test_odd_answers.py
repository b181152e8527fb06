"""Answers that lack something, or have it in another type: read, as far as they mean something."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from neuro_sync import JobStatus, ProtocolError
from neuro_sync.models.base import Model
from neuro_sync.models.config import PlatformConfig
from neuro_sync.models.disks import Disk
from neuro_sync.models.images import ImageEvent, Manifest, TagList
from neuro_sync.models.jobs import JobDescription, JobTelemetry
from neuro_sync.models.secrets import OpenedSecret, Secret
from neuro_sync.models.storage import DiskUsageInfo, FileListing, ListedFile, RemovedFile
from neuro_sync.models.users import Quota

TIME = "2026-03-01T09:15:27.104233+00:00"
NAIVE = "2026-03-01T09:15:27.104233"
JOB: dict[str, Any] = {
    "id": "job-1",
    "owner": "alice",
    "cluster_name": "default",
    "org_name": "acme",
    "project_name": "vision",
    "name": "train-1",
    "tags": ["kind:demo", "b"],
    "description": "greets",
    "preset_name": "cpu-small",
    "namespace": "platform",
    "status": "running",
    "statuses": [
        {"status": "pending", "transition_time": TIME, "reason": "Creating", "description": None},
        {"status": "running", "transition_time": TIME, "reason": None, "exit_code": 0},
    ],
    "history": {
        "status": "running",
        "reason": "",
        "description": "",
        "created_at": TIME,
        "started_at": TIME,
        "run_time_seconds": 12.5,
        "restarts": 0,
    },
    "container": {
        "image": "ubuntu:latest",
        "command": "sleep 30",
        "env": {"A": "1", "B": "2"},
        "volumes": [
            {"src_storage_uri": "storage://c/o/p/a", "dst_path": "/a", "read_only": True},
            {"src_storage_uri": "storage://c/o/p/b", "dst_path": "/b", "read_only": False},
        ],
        "secret_env": {"KEY": "secret://c/o/p/key"},
        "secret_volumes": [{"src_secret_uri": "secret://c/o/p/key", "dst_path": "/key"}],
        "disk_volumes": [{"src_disk_uri": "disk://c/o/p/d", "dst_path": "/d", "read_only": False}],
        "resources": {
            "cpu": 1.0,
            "memory": 2**32,
            "memory_mb": 4096,
            "nvidia_gpu": 1,
            "nvidia_gpu_model": "a100",
            "shm": False,
            "tpu": {"type": "v2-8", "software_version": "1.14"},
        },
        "http": {"port": 8080, "health_check_path": "/", "requires_auth": True},
        "tty": False,
    },
    "scheduler_enabled": False,
    "is_preemptible": False,
    "preemptible_node": False,
    "pass_config": False,
    "privileged": False,
    "restart_policy": "never",
    "priority": "normal",
    "schedule_timeout": 90.5,
    "max_run_time_minutes": 60,
    "total_price_credits": "0.00035",
    "price_credits_per_hour": "0.1",
    "uri": "job://default/acme/vision/job-1",
    "http_url": "https://job-1.jobs.example.org",
}
GPU = {"count": 1, "model": "a100", "memory": 2**35}
PRESET = {
    "name": "mig",
    "credits_per_hour": "20",
    "cpu": 1.0,
    "memory": 2**32,
    "memory_mb": 4096,
    "scheduler_enabled": True,
    "preemptible_node": False,
    "nvidia_gpu": GPU,
    "nvidia_migs": {"1g.5gb": GPU},
    "tpu": {"type": "v2-8", "software_version": "1.14"},
    "resource_pool_names": ["gpu"],
    "available_resource_pool_names": ["gpu", "cpu"],
}
POOL = {
    "name": "gpu",
    "min_size": 1,
    "max_size": 2,
    "cpu": 8.0,
    "available_cpu": 7.5,
    "memory": 2**35,
    "available_memory": 2**34,
    "disk_size": 2**37,
    "available_disk_size": 2**36,
    "nvidia_gpu": GPU,
    "nvidia_migs": {"1g.5gb": GPU, "2g.10gb": GPU},
    "tpu": {"types": ["v2-8"], "software_versions": ["1.14"], "ipv4_cidr_block": "1.1.1.1/32"},
    "is_preemptible": True,
    "cpu_min_watts": 50,
    "cpu_max_watts": 250.5,
}
CONFIG: dict[str, Any] = {
    "authorized": True,
    "orgs": [{"name": "acme", "role": "user"}],
    "projects": [
        {"name": "vision", "cluster_name": "default", "org_name": "acme", "role": "writer"}
    ],
    "clusters": [
        {
            "name": "default",
            "orgs": ["acme"],
            "location": "loopback",
            "timezone": "Europe/Berlin",
            "registry_url": "https://registry.example.org",
            "storage_url": "https://example.org/storage",
            "users_url": "https://example.org/users",
            "monitoring_url": "https://example.org/jobs",
            "secrets_url": "https://example.org/secrets",
            "disks_url": "https://example.org/disk",
            "buckets_url": "https://example.org/buckets",
            "resource_presets": [PRESET, {**PRESET, "name": "second"}],
            "resource_pool_types": [POOL],
            "energy_schedules": [
                {
                    "name": "green",
                    "periods": [{"weekday": 1, "start_time": "00:00", "end_time": "23:59"}],
                }
            ],
        }
    ],
    "admin_url": "https://example.org/admin",
    "vcluster_url": "https://example.org/vcluster",
}
FILE = {
    "path": "a",
    "type": "FILE",
    "length": 5,
    "modificationTime": 1750000000,
    "permission": "write",
    "target": "b",
}
TELEMETRY = {
    "timestamp": 1.5,
    "cpu": 0.5,
    "memory": 10,
    "memory_bytes": 10 * 2**20,
    "gpu_duty_cycle": 5,
    "gpu_memory_bytes": 2**20,
}
SECRET = {"key": "k", "owner": "vision", "org_name": "acme", "project_name": "vision"}
DISK = {
    "id": "disk-1",
    "storage": 2**30,
    "used_bytes": 5,
    "owner": "alice",
    "name": "scratch",
    "status": "Ready",
    "org_name": "acme",
    "project_name": "vision",
    "created_at": TIME,
    "last_usage": TIME,
    "life_span": 3600.5,
}

Reader = Callable[[str], object]
Path = tuple[str | int, ...]

READERS: dict[str, tuple[Reader, Any, set[Path]]] = {
    "job": (JobDescription.from_answer, JOB, {("id",)}),
    "config": (
        PlatformConfig.from_answer,
        CONFIG,
        {("clusters",), ("clusters", 0), ("clusters", 0, "name")},
    ),
    "file": (
        ListedFile.from_answer,
        {"FileStatus": FILE},
        {("FileStatus",)}
        | {("FileStatus", name) for name in ("path", "length", "modificationTime")},
    ),
    "files": (
        FileListing.from_answer,
        {"FileStatuses": {"FileStatus": [FILE, {**FILE, "path": "b"}]}},
        {("FileStatuses",), ("FileStatuses", "FileStatus")}
        | {("FileStatuses", "FileStatus", at) for at in (0, 1)}
        | {
            ("FileStatuses", "FileStatus", at, name)
            for at in (0, 1)
            for name in ("path", "length", "modificationTime")
        },
    ),
    "removed": (RemovedFile.from_answer, {"path": "/a", "is_dir": True}, {("path",)}),
    "usage": (
        DiskUsageInfo.from_answer,
        {"total": 10, "used": 4, "free": 6},
        {("total",), ("used",)},
    ),
    "telemetry": (JobTelemetry.from_answer, TELEMETRY, {("timestamp",)}),
    "secrets": (
        Secret.list_from_answer,
        [SECRET, {**SECRET, "key": "l"}],
        {(0,), (1,), (0, "key"), (1, "key")},
    ),
    "secret": (OpenedSecret.from_answer, {**SECRET, "value": "dmFsdWU="}, {("value",)}),
    "disks": (
        Disk.list_from_answer,
        [DISK, {**DISK, "id": "disk-2"}],
        {(0,), (1,)} | {(at, name) for at in (0, 1) for name in ("id", "storage", "created_at")},
    ),
    "quota": (
        Quota.from_answer,
        {"balance": {"credits": "10"}, "quota": {"total_running_jobs": 3}},
        set(),
    ),
    "event": (
        ImageEvent.from_answer,
        {"status": "Pushing", "id": "a", "progressDetail": {"current": 1, "total": 2}},
        set(),
    ),
}

ODD: tuple[Any, ...] = (
    None,
    1.5,
    -1,
    10**30,
    "odd",
    "",
    "1.5",
    True,
    [],
    [None],
    ["odd"],
    {},
    {"odd": None},
    NAIVE,
    "2026-03-01",
)


def paths(value: Any, above: Path = ()) -> Iterator[Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*above, key)
        if isinstance(item, dict | list):
            yield from paths(item, (*above, key))


MISSING = object()
DERIVED = {"owner": {"project_name"}, "status": {"history"}, "statuses": {"history"}}
"""Fields of a job that follow from others."""


def optional(kind: str) -> list[Path]:
    """Return the places of an answer that may be odd."""
    _, answer, needed = READERS[kind]
    return [path for path in paths(answer) if path not in needed]


def changed(answer: Any, path: Path, value: object) -> Any:
    answer = copy.deepcopy(answer)
    *above, key = path
    place = answer
    for step in above:
        place = place[step]
    if value is MISSING:
        del place[key]
    else:
        place[key] = value
    return answer


@pytest.mark.parametrize("kind", READERS)
def test_one_odd_field_costs_no_answer(kind: str) -> None:
    read, answer, _ = READERS[kind]
    for path in optional(kind):
        for value in (MISSING, *ODD):
            read(json.dumps(changed(answer, path, value)))


JOB_FIELDS = [path for path in optional("job") if isinstance(path[-1], str)]


@given(st.lists(st.tuples(st.sampled_from(JOB_FIELDS), st.sampled_from(ODD)), max_size=5))
def test_several_odd_fields_cost_a_job_no_other_field(odd: list[tuple[Path, object]]) -> None:
    answer = JOB
    for path, value in odd:
        with suppress(LookupError, TypeError):  # one above it is odd already
            answer = changed(answer, path, value)
    found, whole = (JobDescription.from_answer(json.dumps(one)) for one in (answer, JOB))
    touched = {str(path[0]) for path, _ in odd}
    touched |= {name for field in touched for name in DERIVED.get(field, ())}
    if "history" in touched or "status" in touched:
        touched |= {"history", "status"}
    if "is_preemptible" in touched:
        touched.add("scheduler_enabled")
    for name in JobDescription.model_fields:
        if name.removeprefix("wire_") not in touched:
            assert getattr(found, name) == getattr(whole, name), name


@pytest.mark.parametrize("kind", READERS)
def test_an_answer_that_is_none_is_refused(kind: str) -> None:
    read = READERS[kind][0]
    for body in ("5", '"text"', "", "{", "[5]" if "s" not in kind else "{}"):
        with pytest.raises(ProtocolError):
            read(body)


@pytest.mark.parametrize(
    ("kind", "path"), [(kind, path) for kind, (_, _, needed) in READERS.items() for path in needed]
)
def test_what_an_answer_is_about_is_not_made_up(kind: str, path: Path) -> None:
    read, answer, _ = READERS[kind]
    if path in (("clusters",), (0,), (1,)) or path[-1] in ("FileStatus", 0, 1):
        return  # there may be none of them
    with pytest.raises(ProtocolError):
        read(json.dumps(changed(answer, path, MISSING)))


def job(**changes: Any) -> JobDescription:
    return JobDescription.from_answer(json.dumps({**JOB, **changes}))


def test_a_status_that_is_missing_is_the_other_one() -> None:
    history = {key: value for key, value in JOB["history"].items() if key != "status"}
    assert job(history=history).history.status is JobStatus.RUNNING
    assert job(history=None).history.status is JobStatus.RUNNING
    without = {key: value for key, value in JOB.items() if key != "status"}
    assert JobDescription.from_answer(json.dumps(without)).status is JobStatus.RUNNING
    del without["history"]
    assert JobDescription.from_answer(json.dumps(without)).status is JobStatus.UNKNOWN


def test_a_time_without_a_zone_is_utc() -> None:
    found = job(history={"created_at": NAIVE, "started_at": "2026-03-01 09:15:27"})
    assert found.history.created_at == datetime.fromisoformat(TIME)
    assert found.history.started_at == datetime(2026, 3, 1, 9, 15, 27, tzinfo=timezone.utc)
    disk = Disk.list_from_answer(json.dumps([{**DISK, "created_at": NAIVE}]))[0]
    assert disk.created_at == datetime.fromisoformat(TIME)


def test_values_of_another_type_are_converted_where_that_is_plain() -> None:
    file = {**FILE, "length": 5.0, "modificationTime": 1750000000.75, "target": 7}
    status = ListedFile.from_answer(json.dumps({"FileStatus": file})).status
    assert (status.size, status.modification_time, status.target) == (5, 1750000000, "7")
    found = job(
        tags=["a", 5, None],
        history={**JOB["history"], "restarts": 1.5, "exit_code": "12.0"},
        container={**JOB["container"], "tty": "true", "env": {"A": 1, "B": True, "C": None}},
    )
    assert found.tags == ("a", "5")
    assert (found.history.restarts, found.history.exit_code) == (1, 12)
    assert found.container.tty is True
    assert found.container.env == {"A": "1", "B": "true"}


def test_what_cannot_be_read_is_left_out_alone() -> None:
    volume = JOB["container"]["volumes"][0]
    container = {
        **JOB["container"],
        "volumes": [{"dst_path": "/x"}, volume, {**volume, "src_storage_uri": "blob:../x"}],
        "http": {"port": "none"},
        "resources": "odd",
    }
    found = job(container=container, statuses=[{"status": "pending"}, JOB["statuses"][1]])
    assert [str(volume.storage_uri) for volume in found.container.volumes] == [
        "storage://c/o/p/a",
        "blob:../x",
    ]
    assert found.container.http is None
    assert found.container.resources.cpu == 0
    assert found.container.command == "sleep 30"
    assert [item.status for item in found.statuses] == [JobStatus.RUNNING]


def test_no_file_of_a_listing_and_no_layer_of_an_image_is_left_out() -> None:
    with pytest.raises(ProtocolError, match="length"):
        FileListing.from_answer(
            json.dumps({"FileStatuses": {"FileStatus": [FILE, {**FILE, "length": None}]}})
        )
    with pytest.raises(ProtocolError, match="layers"):
        Manifest.from_answer('{"layers": [{"size": 1}, {}]}')
    with pytest.raises(ProtocolError, match="tags"):
        TagList.from_answer('{"tags": ["a", []]}')


def test_a_secret_may_come_as_its_value_alone() -> None:
    assert OpenedSecret.from_answer('{"value": "dmFsdWU="}').value == b"value"
    assert OpenedSecret.from_answer('{"key": "k", "value": ""}').value == b""
    (secret,) = Secret.list_from_answer('[{"key": "k"}]')
    assert (secret.key, secret.org_name, secret.project_name) == ("k", None, "")


def test_all_that_a_platform_says_of_its_machines_is_read() -> None:
    config = PlatformConfig.from_answer(json.dumps(CONFIG))
    assert [(org.name, org.role) for org in config.orgs] == [("acme", "user")]
    (cluster,) = config.clusters
    (pool,) = cluster.resource_pools
    preset = cluster.presets[0]
    assert cluster.timezone == "Europe/Berlin"
    assert [schedule.name for schedule in cluster.energy_schedules] == ["green"]
    (period,) = cluster.energy_schedules[0].periods
    assert (period.weekday, period.start_time, period.end_time) == (1, "00:00", "23:59")
    assert preset.nvidia_migs is not None
    assert preset.nvidia_migs["1g.5gb"].memory == 2**35
    assert preset.resource_pool_names == ("gpu",)
    assert pool.nvidia_migs is not None
    assert list(pool.nvidia_migs) == ["1g.5gb", "2g.10gb"]
    assert pool.tpu is not None
    assert (pool.tpu.types, pool.tpu.ipv4_cidr_block) == (("v2-8",), "1.1.1.1/32")
    assert (pool.available_cpu, pool.available_memory) == (7.5, 2**34)
    assert pool.available_disk_size == 2**36
    assert lost(CONFIG, config.model_dump(mode="json")) == []


def lost(wire: Any, kept: Any, at: str = "") -> list[str]:
    """Return the places of an answer that are not, or not so, in what a model dumps."""
    if isinstance(wire, dict):
        return [
            place
            for key, value in wire.items()
            for place in lost(value, kept.get(key), f"{at}.{key}")
        ]
    if isinstance(wire, list):
        return [
            place
            for number, value in enumerate(wire)
            for place in lost(value, kept[number], f"{at}.{number}")
        ]
    return [] if wire == kept or str(wire) == str(kept) else [at]


def test_what_a_pool_can_give_is_all_it_has_if_that_is_not_said() -> None:
    pool = {key: value for key, value in POOL.items() if not key.startswith("available")}
    config = {**CONFIG, "clusters": [{**CONFIG["clusters"][0], "resource_pool_types": [pool]}]}
    (found,) = PlatformConfig.from_answer(json.dumps(config)).clusters[0].resource_pools
    assert (found.available_cpu, found.available_memory) == (8.0, 2**35)
    assert found.available_disk_size == 2**37


def test_an_answer_that_is_repaired_changes_no_later_one() -> None:
    bare = JobDescription.from_answer('{"id": "a"}')
    assert JobDescription.from_answer('{"id": "a"}') == bare
    assert bare.container.resources.cpu == 0
    assert all(not value for value in JobDescription.stand_ins.values())
    assert isinstance(bare, BaseModel)
    assert Model.stand_ins == {}
