"""Image references."""

from __future__ import annotations

import pytest

from neuro_sync import RemoteImage


@pytest.mark.parametrize(
    ("reference", "name", "tag"),
    [
        ("ubuntu", "ubuntu", "latest"),
        ("library/ubuntu:20.04", "library/ubuntu", "20.04"),
        ("cr.example.com/proj/img:1", "cr.example.com/proj/img", "1"),
        ("localhost:5000/img:t", "localhost:5000/img", "t"),
        ("localhost:5000/img", "localhost:5000/img", "latest"),
        ("a/b@sha256:00", "a/b@sha256:00", None),
    ],
)
def test_a_reference_is_read_and_written_back(reference: str, name: str, tag: str | None) -> None:
    image = RemoteImage.from_reference(reference)
    assert (image.name, image.tag) == (name, tag)
    assert RemoteImage.from_reference(image.as_docker_url()) == image


@pytest.mark.parametrize("reference", ["", " ", "a b", ":", ":tag", "a:", "a:b:c", "image:a"])
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
