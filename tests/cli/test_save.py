"""`neuro save`, on a platform whose jobs are containers."""

from __future__ import annotations

from uuid import uuid4

import docker
import pytest

from neuro_sync import Session
from neuro_sync.local.server import LocalPlatform
from tests.docker_engine import IMAGE
from tests.programs import require_programs

from .conftest import Neuro


@pytest.fixture(scope="module")
def platform(docker_platform: LocalPlatform) -> LocalPlatform:
    return docker_platform


def test_a_running_job_is_saved_as_an_image(session: Session, neuro: Neuro, engine: str) -> None:
    require_programs("docker-registry")
    name = f"saved-{uuid4().hex[:12]}"
    command = "sh -c 'echo kept > /tmp/kept; echo ready; sleep 600'"
    job = session.jobs.start(image=IMAGE, preset_name="cpu-small", command=command, name=name)
    with session.jobs.logs(job) as lines:
        assert next(lines) == "ready"
    saved = neuro(f"save {name} image:{name}:v1")
    image = session.parse.remote_image(f"image:{name}:v1")
    assert (saved.exit_code, saved.stdout) == (0, f"{image}\n")
    assert job.id in saved.stderr
    session.jobs.kill(job)
    assert [tag.tag for tag in session.images.tags(f"image:{name}")] == ["v1"]
    refused = neuro(f"save {name} ubuntu:latest")
    assert refused.exit_code == 65
    assert "'ubuntu:latest' is no image of the platform; write 'image:NAME:TAG'" in refused.stderr
    client = docker.APIClient(engine, version="auto")
    client.remove_image(image.as_docker_url(), force=True)
    client.close()
