"""The commands about sharing: who may do what with which job, folder or image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from neuro_sync.errors import IllegalArgumentError

from . import output
from .invocation import pass_session
from .output import Column
from .parameters import as_json

if TYPE_CHECKING:
    from neuro_sync.client.session import Session
    from neuro_sync.models.users import Permission, Share

ACTIONS = ("read", "write", "manage")


@click.group()
def acl() -> None:
    """Share what has an address, and see what is shared.

    Example: neuro acl ls --shared
    """


@acl.command()
@click.argument("uri")
@click.argument("user")
@click.argument("action", type=click.Choice(ACTIONS), metavar="[read|write|manage]")
@pass_session
def grant(session: Session, uri: str, user: str, action: str) -> None:
    """Share something with a user or a role.

    `manage` lets them share it too.

    \b
    Examples:
      neuro share job:job363 mrsmariyadavydova manage
      neuro share storage:data alice/roles/readers read
    """
    from neuro_sync.models.users import Action, Permission

    permission = Permission(uri=_full(session, uri), action=Action(action))
    allowed = session.users.share(user, permission)
    if allowed.action.value != action:
        output.note(f"{user} may {allowed.action} it already.")


@acl.command()
@click.argument("uri")
@click.argument("user")
@pass_session
def revoke(session: Session, uri: str, user: str) -> None:
    """Take back what was shared with a user or a role.

    Example: neuro acl revoke job:job363 mrsmariyadavydova
    """
    session.users.revoke(user, _full(session, uri))


@acl.command("ls")
@click.option("--shared", is_flag=True, help="What of your own others may use.")
@click.option("-u", "--user", metavar="USER", help="Somebody else's, or a role's.")
@click.argument("uri", required=False)
@as_json
@pass_session
def list_permissions(
    session: Session, uri: str | None, user: str | None, shared: bool, as_json: bool
) -> None:
    """List what you may use, everything or what lies below an address.

    \b
    Examples:
      neuro acl ls storage:
      neuro acl ls --shared
    """
    whose = user or session.username
    # `storage:` alone is all of that scheme, wherever it is.
    scheme = uri[:-1] if uri and uri.endswith(":") else None
    below = _full(session, uri) if uri and not scheme else None
    if shared:
        shares = session.users.get_shares(whose, scheme, uri=below)
        output.listing(shares, SHARE_COLUMNS, id=lambda share: str(share.uri), as_json=as_json)
    else:
        permissions = session.users.get_acl(whose, scheme, uri=below)
        output.listing(permissions, COLUMNS, id=lambda item: str(item.uri), as_json=as_json)


def _full(session: Session, uri: str) -> str:
    """Return the address of what is meant; a job's name is known to the Jobs API only."""
    scheme, colon, name = uri.partition(":")
    if not colon:
        raise IllegalArgumentError(f"{uri!r} is no address; write job:{uri}, storage:{uri} or such")
    if scheme != "job" or not name:
        return uri
    if "/" not in name:
        return str(session.jobs.status(name).uri)
    full = session.parse.str_to_uri(uri, allowed_schemes=("job",))
    is_of_project = len(full.parts[1:]) > (2 if session.org_name else 1)
    return str(session.jobs.status(full).uri) if is_of_project else uri


COLUMNS: tuple[Column[Permission], ...] = (
    Column("URI", lambda permission: permission.uri),
    Column("ACTION", lambda permission: permission.action),
)
SHARE_COLUMNS: tuple[Column[Share], ...] = (
    Column("URI", lambda share: share.uri),
    Column("ACTION", lambda share: share.action),
    Column("USER", lambda share: share.user),
)
