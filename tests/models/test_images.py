"""Image references."""

from __future__ import annotations

import pytest
import requests

from neuro_sync import IllegalArgumentError, RemoteImage, Session
from neuro_sync.local.server import LocalPlatform


@pytest.mark.parametrize(
    ("reference", "name", "tag"),
    [
        ("ubuntu", "ubuntu", "latest"),
        ("library/ubuntu:20.04", "library/ubuntu", "20.04"),
        ("cr.example.com/proj/img:1", "cr.example.com/proj/img", "1"),
        ("localhost:5000/img:t", "localhost:5000/img", "t"),
        ("localhost:5000/img", "localhost:5000/img", "latest"),
        ("a/b@sha256:00", "a/b@sha256:00", None),
        ("a/b:1@sha256:00", "a/b:1@sha256:00", None),
        ("[::1]:5000/a__b/c-d:T_1", "[::1]:5000/a__b/c-d", "T_1"),
    ],
)
def test_a_reference_is_read_and_written_back(reference: str, name: str, tag: str | None) -> None:
    image = RemoteImage.from_reference(reference)
    assert (image.name, image.tag) == (name, tag)
    assert RemoteImage.from_reference(image.as_docker_url()) == image


@pytest.mark.parametrize(
    "reference",
    [
        *("", " ", "a b", ":", ":tag", "a:", "a:b:c", "image:a", "a//b", "A", "a@sha256:", "a@b"),
        *("--volume=/:/host", "-v", "a:-t", "a;b", "$(b)", "a\x1b[2J", "a\u202eb", "a/../b"),
    ],
)
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match=r"image|blank"):
        RemoteImage.from_reference(reference)


def test_an_image_of_the_platform_has_an_address_and_a_reference() -> None:
    image = RemoteImage(
        name="resnet",
        tag="v1",
        registry="registry.example.org",
        cluster_name="default",
        org_name="acme",
        project_name="vision",
    )
    assert str(image) == "image://default/acme/vision/resnet:v1"
    assert image.as_docker_url() == "registry.example.org/acme/vision/resnet:v1"


@pytest.mark.parametrize("image", ["--volume=/:/host", RemoteImage(name="--volume=/:/host")])
def test_a_job_of_an_image_that_would_be_an_option_is_refused(
    session: Session, image: RemoteImage | str
) -> None:
    with pytest.raises(IllegalArgumentError, match="cannot begin with a dash"):
        session.jobs.start(image=image, preset_name="cpu-small")


def test_the_platform_refuses_an_image_that_would_be_an_option(platform: LocalPlatform) -> None:
    answer = requests.post(
        f"{platform.url}/jobs?from_preset",
        json={"image": "--volume=/:/host", "preset_name": "cpu-small"},
        headers={"Authorization": f"Bearer {platform.token}"},
        timeout=30,
    )
    assert answer.status_code == 400
    assert "cannot begin with a dash" in answer.text
