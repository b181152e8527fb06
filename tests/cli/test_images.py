"""The commands about images, on a registry of the test's own."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from neuro_sync.local.server import LocalPlatform
from tests.docker_engine import IMAGE
from tests.image_repository import Repository
from tests.programs import require_programs

from .conftest import Neuro


@pytest.fixture
def repository(platform: LocalPlatform) -> Repository:
    require_programs("docker-registry")
    return Repository(platform, f"i{uuid4().hex[:12]}")


def name_of(repository: Repository) -> str:
    return repository.name.rpartition("/")[2]


def test_images_are_listed_with_their_tags_and_sizes(neuro: Neuro, repository: Repository) -> None:
    repository.put_image("v1", b"a" * 1000)
    repository.put_image("v2", b"a" * 1000, b"b" * 2000)
    name = name_of(repository)
    full = f"image://local{repository.name}"
    assert neuro(f"images --name {name}").output == f"NAME\n{full}\n"
    assert neuro(f"-q image ls --name {name}").output == f"{full}\n"
    assert neuro("images --name no-such-name").output == "NAME\n"
    assert neuro(f"-q image tags image:{name}").output == f"{full}:v1\n{full}:v2\n"
    assert "1000B" in neuro(f"image tags -l image:{name}").output
    assert [tag["tag"] for tag in json.loads(neuro(f"image tags image:{name} --json").output)] == [
        "v1",
        "v2",
    ]
    assert neuro(f"image size image:{name}:v2").output == "3000\n"


def test_the_digest_of_an_image(neuro: Neuro, repository: Repository) -> None:
    digest = repository.put_image("v1", b"a")
    assert neuro(f"image digest image:{name_of(repository)}:v1").output == f"{digest}\n"


def test_an_image_with_more_tags_is_removed_with_force_only(
    neuro: Neuro, repository: Repository
) -> None:
    for tag in ("one", "two"):
        repository.put_image(tag, b"same")
    repository.put_image("other", b"other")
    name = name_of(repository)
    refused = neuro(f"image rm image:{name}:one")
    assert refused.exit_code == 65
    assert ":two; remove them with --force" in refused.stderr
    assert neuro(f"image rm -f image:{name}:one").exit_code == 0
    assert neuro(f"image rm image:{name}:other").exit_code == 0


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("image size image:no-such:v1", 72),
        ("image digest image:no-such:v1", 72),
        ("image tags image:no-such", 72),
        ("image rm image:no-such:v1", 72),
        ("image size ubuntu", 65),
        ("images --name '('", 65),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(neuro: Neuro, line: str, code: int) -> None:
    require_programs("docker-registry")
    ended = neuro(line)
    assert ended.exit_code == code, ended.output
    assert ended.stderr.startswith("Error: ")
    assert ended.stderr.count("\n") == 1


def test_an_image_of_the_engine_goes_to_the_platform_and_comes_back(
    neuro: Neuro, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_programs("docker-registry")
    monkeypatch.setenv("DOCKER_HOST", engine)
    name = f"pushed-{uuid4().hex[:12]}"
    pushed = neuro(f"push {IMAGE} image:{name}:v1")
    assert pushed.exit_code == 0, pushed.output
    assert pushed.stdout.endswith(f"/{name}:v1\n")
    assert neuro(f"-q image tags image:{name}").stdout == pushed.stdout
    pulled = neuro(f"pull image:{name}:v1 {name}:back")
    assert (pulled.exit_code, pulled.stdout.strip().endswith(f"{name}:back")) == (0, True)
    again = neuro(f"push {name}:back image:{name}:v2")
    assert again.stdout.endswith(f"/{name}:v2\n")


def test_an_image_that_the_engine_lacks_is_named(
    neuro: Neuro, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine)
    ended = neuro("push no-such-image:v1")
    assert (ended.exit_code, "'no-such-image:v1'" in ended.stderr) == (72, True), ended.output
