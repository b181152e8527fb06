"""The commands about login and settings: which platform, as whom, and what is current on it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from neuro_sync.errors import IllegalArgumentError

from . import output
from .invocation import Invocation, pass_session
from .output import Column, Field
from .parameters import as_json

if TYPE_CHECKING:
    from neuro_sync.client.session import Session
    from neuro_sync.models.config import ClusterConfig, Preset

DEFAULT_URL = "https://api.apolo.us/api/v1"


@click.group()
def config() -> None:
    """Log in, and see or change what is current.

    Example: neuro config show
    """


@config.command()
@as_json
@pass_session
def show(session: Session, as_json: bool) -> None:
    """Show who you are and where, and what you may use.

    It tells where each setting comes from, and lists the presets.

    Example: neuro config show
    """
    if as_json:
        output.json(_described(session))
        return
    presets = output.grid(session.presets.values(), PRESET_COLUMNS)
    fields: list[Field] = [*_current(session), ("Resource Presets", tuple(presets))]
    place = "User Configuration (LOCAL)" if session.config.is_local else "User Configuration"
    output.print_fields([(place, tuple(output.field_lines(fields)))])


def _current(session: Session) -> Iterable[Field]:
    known, sources = session.config, session.config.sources
    yield "User Name", session.username
    yield "Current Cluster", f"{session.cluster_name}  (from {sources['cluster_name']})"
    if session.org_name:
        yield "Current Org", f"{session.org_name}  (from {sources['org_name']})"
    yield "Current Project", f"{session.project_name}  (from {sources['project_name']})"
    yield "API URL", f"{session.api_url}  (from {sources['api_url']})"
    yield "Token", f"***  (from {sources['token']})"
    yield "Docker Registry URL", known.cluster().registry_url


def _described(session: Session) -> dict[str, object]:
    return {
        "username": session.username,
        "api_url": str(session.api_url),
        "cluster_name": session.cluster_name,
        "org_name": session.org_name,
        "project_name": session.project_name,
        "registry_url": session.config.cluster().registry_url,
        "is_local": session.config.is_local,
        "sources": dict(session.config.sources),
        "presets": [preset.model_dump(mode="json") for preset in session.presets.values()],
    }


PRESET_COLUMNS: tuple[Column[Preset], ...] = (
    Column("Name", lambda preset: preset.name),
    Column("CPU", lambda preset: preset.cpu),
    Column("Memory", lambda preset: output.size(preset.memory_mb * 2**20)),
    Column("Preemptible", lambda preset: "Yes" if preset.is_preemptible else "No"),
    Column("GPU", lambda preset: f"{preset.gpu} x {preset.gpu_model}" if preset.gpu else ""),
)


@config.command("show-token")
@pass_session
def show_token(session: Session) -> None:
    """Print the token that requests are sent with.

    It is your password, so take care.

    Example: NEURO_SYNC_TOKEN=$(neuro config show-token)
    """
    output.result(session.config.token())


@config.command("get-clusters")
@as_json
@pass_session
def get_clusters(session: Session, as_json: bool) -> None:
    """List the clusters that the platform has now.

    Example: neuro config get-clusters
    """
    session.config.fetch()
    projects = session.config.projects

    def projects_of(cluster: ClusterConfig) -> str:
        return ", ".join(
            project.name for project in projects if project.cluster_name == cluster.name
        )

    columns: tuple[Column[ClusterConfig], ...] = (
        Column("NAME", lambda cluster: cluster.name),
        Column("ORGS", lambda cluster: ", ".join(org or "<none>" for org in cluster.orgs)),
        Column("PROJECTS", projects_of),
        Column("PRESETS", lambda cluster: ", ".join(preset.name for preset in cluster.presets)),
    )
    clusters = session.config.clusters.values()
    output.listing(clusters, columns, id=lambda cluster: cluster.name, as_json=as_json)


@config.command("switch-cluster")
@click.argument("name", required=False)
@pass_session
def switch_cluster(session: Session, name: str | None) -> None:
    """Make another cluster the current one. You are asked which if you name none.

    Example: neuro config switch-cluster default
    """
    known = session.config
    known.switch_cluster(name or _ask("cluster", known.clusters))
    output.note(f"The current cluster is {known.cluster_name}.")


@config.command("switch-org")
@click.argument("name", required=False)
@pass_session
def switch_org(session: Session, name: str | None) -> None:
    """Make another organisation the current one. You are asked which if you name none.

    Example: neuro config switch-org acme
    """
    known = session.config
    known.switch_org(name or _ask("organisation", known.available_orgs))
    output.note(f"The current organisation is {known.org_name}, on {known.cluster_name}.")


@config.command("switch-project")
@click.argument("name", required=False)
@pass_session
def switch_project(session: Session, name: str | None) -> None:
    """Make another project the current one. You are asked which if you name none.

    Example: neuro config switch-project vision
    """
    known = session.config
    here = (known.cluster_name, known.org_name)
    names = [
        project.name
        for project in known.projects
        if (project.cluster_name, project.org_name) == here
    ]
    known.switch_project(name or _ask("project", names))
    output.note(f"The current project is {known.project_name}.")


def _ask(what: str, names: Iterable[str]) -> str:
    if not sys.stdin.isatty():
        raise IllegalArgumentError(f"which {what}? there are: {', '.join(names)}")
    return output.choose(f"Which {what}", names)


@config.command()
@click.argument("url", default=DEFAULT_URL)
@click.pass_context
def login(context: click.Context, url: str) -> None:
    """Log in with the browser of this machine.

    \b
    Examples:
      neuro login
      neuro login https://api.example.org/api/v1
    """
    from neuro_sync.client.login import login as log_in

    log_in(_open_browser, url=url, path=Invocation.of(context).config_path)
    output.note(f"You are logged in to {url}.")


def _open_browser(address: object) -> None:
    import webbrowser

    # Told as well, for who has no browser here.
    output.note(f"Opening {address}")
    webbrowser.open(str(address))


@config.command("login-headless")
@click.argument("url", default=DEFAULT_URL)
@click.pass_context
def login_headless(context: click.Context, url: str) -> None:
    """Log in with the browser of another machine.

    You paste the code that it shows.

    Example: neuro config login-headless
    """
    from neuro_sync.client.login import login_headless as log_in

    def ask(address: object) -> str:
        output.note(f"Open this address in a browser, and log in:\n{address}")
        code: str = click.prompt("The code that is shown there", err=True)
        return code

    log_in(ask, url=url, path=Invocation.of(context).config_path)
    output.note(f"You are logged in to {url}.")


@config.command("login-with-token")
@click.argument("token")
@click.argument("url", default=DEFAULT_URL)
@click.pass_context
def login_with_token(context: click.Context, token: str, url: str) -> None:
    """Remember a token, as of a service account. A TOKEN of `-` is read from standard input.

    \b
    Examples:
      neuro config login-with-token - < token.txt
      neuro config login-with-token "$TOKEN" https://api.example.org/api/v1
    """
    from neuro_sync.client.login import login_with_token as log_in

    text = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105  # stands for input
    log_in(text, url=url, path=Invocation.of(context).config_path)
    output.note(f"You are logged in to {url}.")


@config.command()
@click.pass_context
def logout(context: click.Context) -> None:
    """Forget the saved login.

    Example: neuro logout
    """
    from neuro_sync.client.login import logout as log_out

    log_out(path=Invocation.of(context).config_path)
    output.note("You are logged out.")
