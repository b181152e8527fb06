"""What a model dumps, it reads back."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from yarl import URL

from neuro_sync import (
    Container,
    HTTPPort,
    JobDescription,
    JobTelemetry,
    Message,
    RemoteImage,
    Resources,
    Session,
    Volume,
)
from neuro_sync.models.storage import FileStatus
from tests.sandbox import bubblewrap  # noqa: F401  # a fixture
from tests.values import models, public_classes

MODELS = [kind for kind in public_classes() if issubclass(kind, BaseModel)]


def check(model: BaseModel) -> None:
    kind = type(model)
    for by_alias in (None, False):
        assert kind.model_validate(model.model_dump(by_alias=by_alias)) == model
        text = model.model_dump_json(by_alias=by_alias)
        assert kind.model_validate_json(text) == model
        json.loads(text, parse_constant=pytest.fail)  # JSON knows no NaN


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
@settings(max_examples=10, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_model_reads_back_what_it_dumps(kind: type[BaseModel], data: st.DataObject) -> None:
    check(data.draw(models(kind)))


@pytest.mark.usefixtures("bubblewrap")
def test_what_a_platform_answers_is_read_back(session: Session) -> None:
    session.storage.create("storage:round/a b\udcff", b"x")
    disk = session.disks.create(2**20, 3600)
    session.secrets.add("round", b"\xff")
    job = session.jobs.start(
        image="image:own:v1",
        preset_name="cpu-small",
        command="sh -c 'exit 3'",
        http=HTTPPort(port=80),
        secret_env={"A": URL("secret:round")},
        volumes=[Volume(storage_uri="storage:round", container_path="/a")],
        tags=["round"],
        life_span=3600,
    )
    assert job.container.image.cluster_name
    for answered in (
        job,
        session.jobs.wait(job),
        *session.jobs.list(tags=["round"]),
        session.storage.stat("storage:round"),
        *session.storage.list("storage:round"),
        session.storage.disk_usage(),
        disk,
        *session.disks.list(),
        *session.secrets.list(),
        session.config.platform,
        *session.users.get_acl(session.username),
        session.users.get_quota(),
        session.parse.volumes(["storage:a:/x", "secret:k:/y", "disk:abc:/z"]),
        session.parse.envs(["A=1", "B=secret:k"]),
    ):
        check(answered)
    session.disks.rm(disk.id)


def test_a_file_keeps_its_address(session: Session) -> None:
    session.storage.create("storage:kept/a b\udcff", b"")
    (found,) = session.storage.list("storage:kept")
    again = FileStatus.model_validate_json(found.model_dump_json())
    assert again.uri == found.uri
    assert session.storage.stat(again.uri).size == 0


def test_a_description_of_other_days_is_read_back() -> None:
    """A platform may answer what today's rules do not let a user write."""
    answer = {
        "id": "job-1",
        "owner": "me",
        "cluster_name": "c",
        "status": "thinking",
        "history": {"status": "thinking", "created_at": "2019-01-01T00:00:00Z"},
        "container": {
            "image": "no image",
            "command": "'",
            "working_dir": "here",
            "http": {"port": 80, "health_check_path": " "},
            "volumes": [{"src_storage_uri": "storage:a", "dst_path": "relative"}],
            "resources": {"cpu": 0.001, "memory": 1, "tpu": {"type": "v2"}},
        },
    }
    check(JobDescription.from_answer(json.dumps(answer)))


@pytest.mark.parametrize(
    "image",
    [
        RemoteImage.new_external_image("ubuntu"),
        RemoteImage.new_external_image("ubuntu", tag="22.04"),
        RemoteImage.new_external_image("ubuntu", "registry.test:5000", tag="1"),
        RemoteImage.new_platform_image(
            "ubuntu", "registry.test", cluster_name="c", org_name=None, project_name="p"
        ),
    ],
    ids=str,
)
def test_an_image_is_read_back_whole(image: RemoteImage) -> None:
    container = Container(image=image, resources=Resources(cpu=1, memory_mb=16))
    check(container)
    assert container.model_copy().image == image


@pytest.mark.parametrize("number", [math.inf, -math.inf])
def test_a_number_without_end_is_read_back(number: float) -> None:
    check(JobTelemetry(timestamp=1, cpu=number))


@given(st.binary())
def test_any_output_is_read_back(data: bytes) -> None:
    check(Message(fileno=1, data=data))
