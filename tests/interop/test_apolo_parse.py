"""Our parser and that of the official client, on the same texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apolo_sdk
import pytest
from apolo_sdk import Factory
from yarl import URL

import neuro_sync
from neuro_sync import IllegalArgumentError, Session
from tests.two_clusters import two_clusters

REGISTRY = "registry.default.example.org"
GPU_REGISTRY = "registry.gpu.example.org:8443"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """Our parser and the peer's, each of a session at the same platform."""
    folder = tmp_path_factory.mktemp("apolo") / "config"
    with two_clusters() as server, closing(asyncio.new_event_loop()) as loop:

        async def log_in() -> apolo_sdk.Client:
            await Factory(folder).login_with_token(server.token, url=URL(server.url))
            return await Factory(folder).get()

        client = loop.run_until_complete(log_in())
        with Session(server.url, server.token) as session:
            yield session.parse, client.parse
        loop.run_until_complete(client.close())


def outcomes(both: Sequence[Any], read: Callable[[Any], Any]) -> list[Any]:
    """Return what each made of it; `ValueError` when it was refused."""
    found: list[Any] = []
    for parse in both:
        try:
            found.append(_plain(read(parse)))
        except ValueError:
            found.append(ValueError)
    return found


def _plain(value: Any) -> Any:
    """Return a result as values that do not tell whose they are."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, neuro_sync.RemoteImage | apolo_sdk.RemoteImage):
        return (str(value), value.as_docker_url(), value.name, value.tag, value.cluster_name)
    for fields in (
        ("storage_uri", "container_path", "read_only"),
        ("disk_uri", "container_path", "read_only"),
        ("secret_uri", "container_path"),
        ("volumes", "secret_files", "disk_volumes"),
        ("env", "secret_env"),
        ("name", "tag"),
    ):
        if all(hasattr(value, field) for field in fields):
            return [_plain(getattr(value, field)) for field in fields]
    return value


ADDRESSES = [
    "storage:",
    "storage://",
    "storage:a/b",
    "storage:/other/a",
    "storage:///other/a",
    "storage:////other/a",
    "storage:/",
    "storage://gpu/acme/vision/a",
    "storage://gpu/x",
    "storage://gpu",
    "storage:5",
    "storage:a/../b",
    "storage:../a",
    "storage:.",
    "storage:a b",
    "storage: a",
    "storage:a/",
    "storage:a//b",
    "storage://default/acme/vision",
    "storage://default/acme/vision/a/",
    "storage://default/acme/visionx",
    "storage://default/acme/other/x/",
    "storage:a#",
    "storage:a#b",
    "storage:a?",
    "storage:a?b",
    "storage://u@h/a",
    "storage://:@h/a",
    "storage://h:80/a",
    "storage:~a",
    "storage://~a/b",
    "storage:a%",
    "storage:a%23b",
    "storage:a%2Fb",
    "storage:a%3Ab",
    "storage:a+b",
    "storage:a%2bb",
    "storage:é",
    "storage:a:b",
    "storage:a@b",
    "storage://GPU/x",
    "STORAGE:a",
    "",
    "a",
    "nope:a",
    "role:a",
    "role://alice/roles/x",
    "user:x",
    "user://x",
    "token://x/y",
    "job:my-job",
    "disk:disk-1",
    "secret:key",
    "image:x",
    "flow:x",
    "blob:b/x",
]


@pytest.mark.parametrize("text", ADDRESSES)
def test_both_read_an_address_alike(both: tuple[Any, Any], text: str) -> None:
    for options in (
        {},
        {"short": True},
        {"allowed_schemes": ("storage", "job")},
        {"cluster_name": "gpu", "org_name": "other-org", "project_name": "pp"},
    ):
        ours, theirs = outcomes(both, lambda parse: str(parse.str_to_uri(text, **options)))  # noqa: B023  # called at once
        assert ours == theirs, options


PATHS = [
    "a",
    "C:x",
    "~/x",
    "~nobody-of-that-name/y",
    "./x",
    "../x",
    "file:a",
    "file:///a",
    "x:y",
    "file://host/x",
    "/abs/x y#z?%é",
    "file:///a/../b",
    "file:~/x",
    "",
    "a/",
    "storage:a",
    "file:///a?b",
    "file:///a#b",
    "file:%20",
]


@pytest.mark.parametrize("text", PATHS)
def test_both_read_a_path_alike(both: tuple[Any, Any], text: str) -> None:
    files = {"allowed_schemes": ("file", "storage")}
    ours, theirs = outcomes(both, lambda parse: str(parse.str_to_uri(text, **files)))
    assert ours == theirs


@pytest.mark.parametrize("path", ["a b#c?%25:é", "~/a", "/x/../y", "/a@b;c=d&e+f,g!$'()*~"])
def test_both_write_a_path_alike(both: tuple[Any, Any], path: str) -> None:
    ours, theirs = outcomes(both, lambda parse: str(parse.path_to_uri(Path(path))))
    assert ours == theirs
    assert both[0].uri_to_path(URL(ours)) == both[1].uri_to_path(URL(theirs))


VOLUMES = [
    "storage:folder:/var/data",
    "storage::/mnt",
    "storage://gpu/acme/vision/a:/x:ro",
    "storage:a:/x:rw",
    "storage:a:/x:zz",
    "storage:a",
    "a:/x",
    "storage:a%3ab:/x",
    "storage:a#b:/x",
    "storage:/other/a:/x",
    "HOME",
    "ALL",
    "",
    "disk:a:/x",
    "disk:a:/x:ro",
    "disk://gpu/acme/vision/a:/x:rw",
    "disk:a",
    "disk:a:/x:zz",
    "secret:k:/x",
    "secret:k:/x:ro",
    "secret:k",
    "secret://gpu/acme/vision/k:/x",
    "secret:k#:/x",
]


@pytest.mark.parametrize("text", VOLUMES)
def test_both_read_a_volume_alike(both: tuple[Any, Any], text: str) -> None:
    ours, theirs = outcomes(both, lambda parse: parse.volume(text))
    assert ours == theirs
    ours, theirs = outcomes(both, lambda parse: parse.volumes([text, "storage:b:/b"], "gpu"))
    assert ours == theirs


def test_both_read_variables_alike(both: tuple[Any, Any], tmp_path: Path) -> None:
    file = tmp_path / "variables"
    file.write_bytes(
        '\ufeff# c\n  A=1\n\nB\nHOME\nD = 5\nS=secret:k\n  # x\nE=a=b \r\nF="q"\n\xa0G=1'.encode()
    )
    for env in (
        ["A=2", "H", "T=secret:/other/k"],
        ["S=plain", "S=secret:x"],
        ["=x", ""],
        ["A = secret:x", " B=1", "C=SECRET:x"],
        ["A=secret:a#b"],
    ):
        ours, theirs = outcomes(both, lambda parse: parse.envs(env, [str(file)]))  # noqa: B023  # called at once
        assert ours == theirs


IMAGES = [
    "ubuntu",
    "library/ubuntu:20.04",
    "cr.example.com/proj/img:1",
    "docker.io/library/ubuntu",
    "a.b/c",
    "a/b/c",
    "storage:a",
    "image:resnet",
    "image:a/b:1",
    "image:5000",
    "image:b:latest",
    "image:/other/resnet:v1",
    "image:///other/resnet:v1",
    "image:/acme/other/resnet",
    "image:/acme/x",
    "image://gpu/other/resnet",
    "image://gpu/acme/other/resnet",
    "image://gpu/acme/x",
    "image://gpu/zzz/other/resnet",
    "image://gpu/acme/other/a/b/c:1",
    "image://default/acme/vision/acme/vision/x",
    f"{REGISTRY}/acme/vision/resnet:v1",
    f"{REGISTRY}/vision/resnet:v1",
    f"{REGISTRY}/a/b/c/d:v1",
    f"{REGISTRY}/x",
    f"{REGISTRY}/acme/x:1",
    f"{REGISTRY}/acme/vision/a:b:c",
    f"{GPU_REGISTRY}/acme/vision/r:1",
    "registry.gpu.example.org/acme/vision/r:1",
    "",
    "-a",
    "image:latest",
    "image:",
    "image://",
    "image:/x",
    "image://gpu/p",
    "a:",
    "a::b",
    ":a",
    "a:b:c",
    "a/b:c:d",
    "A",
    "a.-b",
    "a:" + "x" * 129,
    "a:" + "x" * 128,
    "a:#",
    "a:b c",
    "a@sha256:" + "0" * 64,
    "image:a@sha256:00",
    "image:a#b",
    "image:a?b",
    "image:a?",
    "image:a#",
    "image://u@gpu/a/b",
    "image://gpu:80/a/b",
    "image://ubuntu:v1",
    "image:~a",
    "image:a%20b",
    "image:a/../b",
    "image:a//b",
    "IMAGE:a",
    "x/y:5000/z",
    "a/",
    "image:a/",
    "image:a:",
    "image::b",
    " ubuntu",
    "xn--x/é",
    "image:é",
]


@pytest.mark.parametrize("text", IMAGES)
def test_both_read_an_image_alike(both: tuple[Any, Any], text: str) -> None:
    ours, theirs = outcomes(both, lambda parse: parse.remote_image(text))
    assert ours == theirs
    for name in ("ALLOW", "DENY"):
        found = [
            outcomes((parse,), lambda it: it.remote_image(text, tag_option=option[name]))  # noqa: B023  # called at once
            for parse, option in zip(both, (neuro_sync.TagOption, apolo_sdk.TagOption), strict=True)
        ]
        assert found[0] == found[1]
    ours, theirs = outcomes(both, lambda parse: parse.local_image(text))
    assert ours == theirs


def test_an_unknown_cluster_is_an_error_of_the_same_kind(both: tuple[Any, Any]) -> None:
    for parse in both:
        with pytest.raises(RuntimeError, match=r"nope"):
            parse.remote_image("image://nope/a/b")


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        # Docker allows these; the official client's rule is narrower than what it says.
        ("my__img", "my__img:latest"),
        ("my--img", "my--img:latest"),
        # The official client loses the registry, or takes a foreign organisation for a project.
        ("localhost:5000/img:t", "localhost:5000/img:t"),
        (f"{REGISTRY}/other-org/p/x:1", f"{REGISTRY}/other-org/p/x:1"),
        ("image://default/other-org/p/x:1", f"{REGISTRY}/other-org/p/x:1"),
        # No repository can have such a name.
        ("image:../x", None),
        ("image:/../x", None),
    ],
)
def test_where_the_official_client_errs_we_differ(
    both: tuple[Any, Any], text: str, ours: str | None
) -> None:
    parse, peer = both
    try:
        theirs = peer.remote_image(text).as_docker_url()
    except ValueError:
        theirs = None
    if ours is None:
        with pytest.raises(IllegalArgumentError):
            parse.remote_image(text)
    else:
        assert parse.remote_image(text).as_docker_url() == ours
    assert theirs != ours
