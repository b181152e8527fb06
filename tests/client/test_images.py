"""The platform's images: against the real registry, and against one that pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from neuro_sync import (
    Action,
    AuthorizationError,
    IllegalArgumentError,
    Permission,
    ProtocolError,
    ResourceNotFound,
    Session,
)
from neuro_sync.local.server import LocalPlatform
from tests.image_repository import IMAGE_TYPES, INDEX_TYPES, Repository, digest_of
from tests.programs import require_programs
from tests.scripted_platform import Request, answer, scripted_platform
from tests.two_clusters import TwoClusters


@pytest.fixture
def repository(platform: LocalPlatform) -> Repository:
    """An empty repository of the user's own, which no other test uses."""
    require_programs("docker-registry")
    return Repository(platform, f"team/i{uuid4().hex[:12]}")


def address(repository: Repository) -> str:
    return f"image:/{repository.name.split('/', 2)[2]}"


@pytest.mark.parametrize("kind", IMAGE_TYPES)
def test_an_image_has_a_size_a_digest_and_tags(
    session: Session, repository: Repository, kind: str
) -> None:
    digest = repository.put_image("v1", b"a" * 1000, b"b" * 500, kind=kind)
    repository.put_image("v2", b"a" * 1000, kind=kind)
    image = session.parse.remote_image(f"{address(repository)}:v1")
    assert session.images.size(image) == 1500
    assert session.images.digest(image) == digest
    assert session.images.tag_info(image).model_dump() == {"name": "v1", "size": 1500}
    assert [str(tagged) for tagged in session.images.tags(address(repository))] == [
        str(image),
        str(image).replace(":v1", ":v2"),
    ]


@pytest.mark.parametrize(("kind", "list_kind"), [*zip(IMAGE_TYPES, INDEX_TYPES, strict=True)])
def test_the_size_of_an_image_for_many_machines_is_that_for_the_platforms(
    session: Session, repository: Repository, kind: str, list_kind: str
) -> None:
    arm = repository.put_image("arm", b"arm" * 1000, kind=kind)
    amd = repository.put_image("amd", b"amd" * 500, kind=kind)
    proof = repository.put_image("proof", b"proof", kind=kind)
    entries = [
        repository.entry(proof, kind, "unknown", "unknown"),
        repository.entry(arm, kind, "linux", "arm64"),
        repository.entry(amd, kind, "linux", "amd64"),
    ]
    both = repository.put_index("both", list_kind, *entries)
    repository.put_index("only-arm", list_kind, *entries[:2])
    repository.put_index("none", list_kind, entries[0])
    assert session.images.size(f"{address(repository)}:both") == 1500
    assert session.images.size(f"{address(repository)}:only-arm") == 3000
    with pytest.raises(ProtocolError, match=r"none consists of no layers and of no other images"):
        session.images.size(f"{address(repository)}:none")
    assert session.images.digest(f"{address(repository)}:both") == both


def test_removing_an_image_removes_all_its_tags(session: Session, repository: Repository) -> None:
    digest = repository.put_image("one", b"same")
    assert repository.put_image("two", b"same") == digest
    other = repository.put_image("other", b"other")
    session.images.rm(f"{address(repository)}:one", digest)
    assert [image.tag for image in session.images.tags(address(repository))] == ["other"]
    assert session.images.digest(f"{address(repository)}:other") == other
    session.images.rm(f"{address(repository)}:other")  # it finds the digest out
    assert session.images.tags(address(repository)) == []


@pytest.mark.parametrize("kind", INDEX_TYPES)
def test_a_list_of_images_is_removed_as_well(
    session: Session, repository: Repository, kind: str
) -> None:
    image_kind = IMAGE_TYPES[INDEX_TYPES.index(kind)]
    amd = repository.put_image("amd", b"amd", kind=image_kind)
    entry = repository.entry(amd, image_kind, "linux", "amd64")
    repository.put_index("list", kind, entry)
    session.images.rm(f"{address(repository)}:list")
    assert [image.tag for image in session.images.tags(address(repository))] == ["amd"]


def test_all_images_of_the_user_are_listed(session: Session, repository: Repository) -> None:
    repository.put_image("v1", b"layer")
    image = session.parse.remote_image(address(repository)).model_copy(update={"tag": None})
    assert session.images.list().count(image) == 1


def test_what_is_not_there_is_told(session: Session, repository: Repository) -> None:
    images, name = session.images, address(repository)
    path = repository.name.removeprefix("/")
    with pytest.raises(ResourceNotFound, match=f"there is no image://local/{path}, or"):
        images.tags(name)
    repository.put_image("v1", b"layer")
    for ask in (images.size, images.digest, images.rm):
        with pytest.raises(ResourceNotFound, match=f"there is no image://local/{path}:v2, or"):
            ask(f"{name}:v2")
    with pytest.raises(ResourceNotFound, match=f"there is no image://local/{path}"):
        images.rm(name, digest_of(b"nothing"))


def test_an_image_of_another_registry_is_none_of_the_platforms(session: Session) -> None:
    with pytest.raises(IllegalArgumentError, match=r"'ubuntu:latest' is no image of the platform"):
        session.images.tags("ubuntu")


def test_another_users_image_is_refused_until_it_is_shared(
    platform: LocalPlatform, repository: Repository
) -> None:
    repository.put_image("v1", b"layer")
    name = f"u{uuid4().hex[:12]}"
    with Session(platform.url, platform.add_user(name)) as stranger:
        image = f"{address(repository)}:v1"
        for refused in (stranger.images.size, stranger.images.tags, stranger.images.rm):
            with pytest.raises(AuthorizationError):
                refused(image)
        assert stranger.images.list() == []
        with Session(platform.url, platform.token) as owner:
            owner.users.share(name, Permission(uri=address(repository), action=Action.READ))
        assert stranger.images.size(image) == 5
        assert [str(found) for found in stranger.images.list()] == [
            f"image://local{repository.name}"
        ]
        with pytest.raises(AuthorizationError):
            stranger.images.rm(image)


# A registry that pages


class Paging(TwoClusters):
    """Hands out two names a page, and links the next one in some way."""

    names = tuple(f"t{number}" for number in range(5))
    link = '</v2/{path}?n=2&last={last}>; rel="next"'

    def config(self) -> dict[str, Any]:
        config = super().config()
        config["clusters"][0]["registry_url"] = f"http://127.0.0.1:{self.server_port}"
        return config


class _Page(BaseHTTPRequestHandler):
    server: Paging

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {}
        if url.path.endswith("/config"):
            body: object = self.server.config()
        else:
            assert self.headers["Authorization"].startswith("Basic ")
            last = parse_qs(url.query).get("last", [""])[0]
            page = [name for name in self.server.names if name > last][:2]
            if page and page[-1] != self.server.names[-1]:
                path = url.path.removeprefix("/v2/")
                headers["Link"] = self.server.link.format(
                    path=path, last=page[-1], port=self.server.server_port
                )
            body = {"repositories": [f"acme/vision/{name}" for name in page], "tags": page or None}
        data = json.dumps(body).encode()
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *values: object) -> None:
        pass


@contextmanager
def paging(link: str) -> Iterator[Session]:
    with Paging(("127.0.0.1", 0), _Page) as server:
        server.link = link
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with Session(server.url, server.token) as session:
                yield session
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "link",
    [
        '</v2/{path}?n=2&last={last}>; rel="next"',
        '<http://127.0.0.1:{port}/v2/{path}?last={last}>; rel="next"',
        '<?last={last}>;rel="next"',
    ],
)
def test_pages_are_followed_to_the_last(link: str) -> None:
    with paging(link) as session:
        assert [image.name for image in session.images.list()] == list(Paging.names)
        assert [image.tag for image in session.images.tags("image:a")] == list(Paging.names)


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ('<http://elsewhere.example.org/v2/{path}>; rel="next"', "on another host"),
        ('<?n=1000>; rel="next"', "with what was read"),
        ('<http://[bad>; rel="next"', "at no address"),
    ],
)
def test_a_link_that_leads_astray_is_not_followed(link: str, why: str) -> None:
    with paging(link) as session, pytest.raises(ProtocolError, match=why):
        session.images.list()


@contextmanager
def listing(page: Callable[[int], list[str]], pages: int) -> Iterator[Session]:
    """Serve lists of so many pages, each of which links the next one by a link of its own."""

    def reply(request: Request) -> bytes:
        number = int(parse_qs(urlsplit(request.target).query).get("page", ["0"])[0])
        found = page(number)
        more = [f'Link: <?page={number + 1}>; rel="next"'] if number + 1 < pages else []
        body = {"repositories": [f"acme/vision/{name}" for name in found], "tags": found}
        return answer(body, "200 OK", *more)

    with scripted_platform() as server, Session(server.url, server.token) as session:
        server.script["GET /v2/"] = reply
        yield session


def lists(session: Session) -> Iterator[Callable[[], list[str | None]]]:
    yield lambda: [image.name for image in session.images.list()]
    yield lambda: [image.tag for image in session.images.tags("image:a")]


def test_names_behind_empty_pages_are_found_each_once() -> None:
    """A registry may filter a page by what the caller may see, and repeat the name at its edge."""
    pages = [[], ["a"], *[[]] * 99, ["b", "c"], ["c", "d"], [], ["e"], []]
    with listing(lambda number: pages[number], len(pages)) as session:
        for names in lists(session):
            assert names() == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("page", [[], ["a"], ["a", "b"]])
def test_a_list_that_goes_on_without_a_new_name_is_an_error(page: list[str]) -> None:
    with listing(lambda _: page, 10**9) as session:
        for names in lists(session):
            with pytest.raises(ProtocolError, match="after 100 pages without a new name"):
                names()


def test_a_list_has_an_end() -> None:
    with listing(lambda number: [f"n{number}"], 1000) as session:
        assert len(session.images.list()) == 1000
    endless = listing(lambda number: [f"n{number}"], 1001)
    with endless as session, pytest.raises(ProtocolError, match="after 1000 pages"):
        session.images.list()
