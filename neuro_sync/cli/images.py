"""The commands about Docker images in the platform's registry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from neuro_sync.errors import IllegalArgumentError

from . import exit_codes, output
from .invocation import pass_session
from .output import Column
from .parameters import as_json

if TYPE_CHECKING:
    from neuro_sync.client.session import Session
    from neuro_sync.models.images import RemoteImage


@click.group()
def image() -> None:
    """List, copy and remove Docker images of the platform.

    Example: neuro image ls
    """


NAME: Column[RemoteImage] = Column("NAME", lambda image: image)
URL: Column[RemoteImage] = Column("DOCKER URL", lambda image: image.as_docker_url())


@image.command()
@click.option("-l", "--long", is_flag=True, help="With their Docker URLs.")
@click.option("-n", "--name", "pattern", metavar="REGEX", help="Those whose names match.")
@click.option("--project", "-p", metavar="NAME", help="Those of one project.")
@click.option("--org", metavar="NAME", help="Those of one organisation.")
@click.option("--cluster", "cluster_name", metavar="NAME", help="Another than the current one.")
@as_json
@pass_session
def ls(
    session: Session,
    cluster_name: str | None,
    long: bool,
    pattern: str | None,
    project: str | None,
    org: str | None,
    as_json: bool,
) -> None:
    """List images.

    Example: neuro images --name 'train-.*'
    """
    try:
        matches = re.compile(pattern or "").match
    except re.error as error:
        raise IllegalArgumentError(f"{pattern!r} is no regular expression: {error}") from error
    found = [
        image
        for image in session.images.list(cluster_name)
        if matches(image.name)
        and project in (None, image.project_name)
        and org in (None, image.org_name)
    ]
    output.listing(found, (NAME, URL) if long else (NAME,), id=str, as_json=as_json)


@image.command()
@click.option("-l", "--long", is_flag=True, help="With their sizes.")
@click.argument("image")
@as_json
@pass_session
def tags(session: Session, image: str, long: bool, as_json: bool) -> None:
    """List the tags of an image.

    Example: neuro image tags -l image:train
    """
    size: Column[RemoteImage] = Column("SIZE", lambda tag: output.size(session.images.size(tag)))
    columns = (NAME, size) if long else (NAME,)
    output.listing(session.images.tags(image), columns, id=str, as_json=as_json)


@image.command()
@click.argument("image")
@pass_session
def size(session: Session, image: str) -> None:
    """Print how large an image is, in bytes.

    Example: neuro image size image:train:latest
    """
    output.result(str(session.images.size(image)))


@image.command()
@click.argument("image")
@pass_session
def digest(session: Session, image: str) -> None:
    """Print the digest of an image.

    It names exactly this one for ever.

    Example: neuro image digest image:train:latest
    """
    output.result(session.images.digest(image))


@image.command()
@click.option("-f", "--force", is_flag=True, help="Also if it has more tags; all of them go.")
@click.argument("images", nargs=-1, required=True)
@pass_session
def rm(session: Session, images: tuple[str, ...], force: bool) -> None:
    """Remove images.

    Example: neuro image rm image:train:old
    """

    def remove(image: str) -> None:
        remote = session.parse.remote_image(image)
        digest = session.images.digest(remote)
        if not force:
            tags = session.images.tags(remote)
            same = [str(tag) for tag in tags if session.images.digest(tag) == digest]
            if len(same) > 1:
                raise IllegalArgumentError(
                    f"it has more tags, and all of them would go: {', '.join(same)}; "
                    "remove them with --force"
                )
        session.images.rm(remote, digest)

    exit_codes.for_each(images, remove)


@image.command()
@click.argument("local")
@click.argument("remote", required=False)
@pass_session
def push(session: Session, local: str, remote: str | None) -> None:
    """Copy an image of the Docker engine here to the platform.

    Example: neuro push train:latest image:train:v2
    """
    from .layers import LayerProgress

    with LayerProgress() as told:
        pushed = session.images.push(local, remote, progress=told)
    output.result(str(pushed))


@image.command()
@click.argument("remote")
@click.argument("local", required=False)
@pass_session
def pull(session: Session, remote: str, local: str | None) -> None:
    """Copy an image of the platform to the Docker engine here.

    Example: neuro pull image:train:v2 train:latest
    """
    from .layers import LayerProgress

    with LayerProgress() as told:
        pulled = session.images.pull(remote, local, progress=told)
    output.result(str(pulled))
