"""The commands for users and projects of the local platform."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import click

from neuro_sync.errors import IllegalArgumentError

from . import output
from .parameters import as_json

if TYPE_CHECKING:
    from neuro_sync.local.accounts import Accounts

ROLES = ("reader", "writer", "manager", "admin")

state_option = click.option(
    "--state", metavar="FOLDER", help="That of the platform; .neuro-local here."
)


@click.group()
def user() -> None:
    """Who may use the local platform, running or not.

    Example: neuro local user ls
    """


@user.command("add")
@click.argument("name")
@state_option
def add_user(name: str, state: str | None) -> None:
    """Add a user, and print the token. It is shown this once.

    The user has a project of the same name, and sees nothing of others' until they share it.

    Example: NEURO_SYNC_TOKEN=$(neuro local user add bob)
    """
    with _accounts(state) as accounts:
        accounts.add_user(name)
        output.result(accounts.add_token(name))


@user.command("token")
@click.argument("name")
@state_option
def renew_token(name: str, state: str | None) -> None:
    """Print a new token of a user.

    The ones before are not accepted any more, nor is anything that was made by them: tokens of
    roles, and sign-ins to the web pages of jobs.

    Example: NEURO_SYNC_TOKEN=$(neuro local user token bob)
    """
    from neuro_sync.local.state import local_user

    if name == local_user():
        raise IllegalArgumentError(
            f"{name!r} runs this platform, and the token is in the state folder; to have a new one "
            "made, stop the platform and delete the file 'token' there"
        )
    with _accounts(state) as accounts:
        accounts.forget_tokens(name)
        output.result(accounts.add_token(name))


@user.command("ls")
@state_option
@as_json
def list_users(state: str | None, as_json: bool) -> None:
    """List users and roles, each with its projects and the role there.

    Example: neuro local user ls
    """
    with _accounts(state) as accounts:
        members = accounts.members()
        roles = {
            name: {member.project: member.role for member in members if member.user == name}
            for name in accounts.names()
        }
    _print_roles(roles, "projects", as_json=as_json)


@user.command("rm")
@click.argument("name")
@state_option
def remove_user(name: str, state: str | None) -> None:
    """Remove a user or a role. What was shared to it goes too; the user's project is kept.

    Example: neuro local user rm bob
    """
    from neuro_sync.local.state import local_user

    if name == local_user():
        raise IllegalArgumentError(f"{name!r} runs this platform, and cannot be removed")
    with _accounts(state) as accounts:
        accounts.remove(name)


@click.group()
def project() -> None:
    """What users of the local platform have in common.

    Example: neuro local project ls
    """


@project.command("add")
@click.argument("name")
@state_option
def add_project(name: str, state: str | None) -> None:
    """Add a project; give users a role in it with set-role.

    Example: neuro local project add vision
    """
    with _accounts(state) as accounts:
        accounts.add_project(name)


@project.command("set-role")
@click.argument("name")
@click.argument("user_name", metavar="USER")
@click.argument("role", type=click.Choice([*ROLES, "none"]))
@state_option
def set_role(name: str, user_name: str, role: str, state: str | None) -> None:
    """Give a user a role in a project, or none.

    A reader may look at everything in it, a writer change it and start jobs, a manager and an
    admin share it too.

    Example: neuro local project set-role vision bob writer
    """
    with _accounts(state) as accounts:
        accounts.set_member(name, user_name, None if role == "none" else role)


@project.command("ls")
@state_option
@as_json
def list_projects(state: str | None, as_json: bool) -> None:
    """List projects, each with its users and the role of each.

    Example: neuro local project ls
    """
    with _accounts(state) as accounts:
        members = accounts.members()
        roles = {
            name: {member.user: member.role for member in members if member.project == name}
            for name in accounts.projects()
        }
    _print_roles(roles, "users", as_json=as_json)


def _print_roles(found: dict[str, dict[str, str]], where: str, *, as_json: bool) -> None:
    if as_json and not output.is_quiet():
        output.array({"name": name, where: roles} for name, roles in found.items())
        return
    for name, roles in found.items():
        output.result("\t".join([name, *(f"{other}:{role}" for other, role in roles.items())]))


def _accounts(state: str | None) -> AbstractContextManager[Accounts]:
    from neuro_sync.local.accounts import accounts_of

    return accounts_of(state)
