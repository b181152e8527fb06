"""``/users``: who may do what, and sharing."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import TypeAdapter, ValidationError

from neuro_sync.errors import IllegalArgumentError, NotSupported
from neuro_sync.local.access import Asking, Caller, user_of
from neuro_sync.local.answers import JSON, bad_request
from neuro_sync.local.permissions import Permission as Grant
from neuro_sync.local.permissions import Resource, role_resource
from neuro_sync.local.users import Users
from neuro_sync.models.users import Action, NewAccount, Permission

from .bodies import body_of, described, read_body, read_json
from .values import check_count, flag, whole_number

router = APIRouter(prefix="/users")

_PERMISSIONS = TypeAdapter(list[Permission])


MOST_ROLES = 1000
"""Roles of a user."""
MOST_GRANTS = 10_000
"""Permissions that were granted to a user and the user's roles together; they are kept in memory,
and read again after each change."""
LONGEST_ADDRESS = 2**14
"""Characters."""
DEEPEST_ADDRESS = 128
"""Names; a tree of permissions is nested so deep."""

_PERMISSION = {
    "type": "object",
    "properties": {
        "uri": {"type": "string", "examples": ["job://local/local/alice/my-job"]},
        "action": {"enum": [Action.READ, Action.WRITE, Action.MANAGE]},
    },
}
_PERMISSIONS_BODY = described({"type": "array", "items": _PERMISSION})


async def _users(request: Request) -> Users:
    users: Users = request.app.state.users
    return users


Service = Annotated[Users, Depends(_users)]


@router.post("", status_code=201, openapi_extra=described(NewAccount.model_json_schema()))
async def add(request: Request, users: Service, caller: Asking) -> Response:
    """Make a role, such as ``alice/roles/editors``; or a user, which takes more."""
    name = (await body_of(NewAccount, request)).name
    caller.require(Action.MANAGE, _resource(name))
    if "/" in name:
        _check_roles(users, user_of(name))
        users.accounts.add_role(name)
    else:
        users.accounts.add_user(name)
    return _json({"name": name}, status_code=201)


@router.get("/{user}")
async def get(user: str, users: Service, caller: Asking) -> Response:
    """Tell that a user or a role exists."""
    return _json({"name": _seen(user, users, caller).name})


@router.delete("/{user}", status_code=204)
async def remove(user: str, users: Service, caller: Asking) -> Response:
    """Remove a role, or a user."""
    name = _name(user)
    caller.require(Action.MANAGE, _resource(name))
    users.remove(name)
    return Response(status_code=204)


@router.get("/{user}/subroles")
async def subroles(user: str, users: Service, caller: Asking) -> Response:
    """List a user's own roles."""
    name = _seen(user, users, caller).name
    found = [role for role in users.accounts.names() if role.startswith(f"{name}/")]
    return _json({"subroles": found})


@router.get("/{user}/permissions")
async def permissions(
    user: str,
    users: Service,
    caller: Asking,
    uri: str | None = None,
    expand_roles: str = "true",
) -> Response:
    """List what a user may do, by grants, projects and roles."""
    seen = _seen(user, users, caller)
    grants = seen.grants if flag(expand_roles) else users.without_roles(seen)
    return _json([_wire(item) for item in grants.within(_filter(uri))])


@router.get("/{user}/permissions/shared")
async def shared(user: str, users: Service, caller: Asking, uri: str | None = None) -> Response:
    """List what others were granted on what a user manages."""
    found = users.shares_of(_seen(user, users, caller).name, _filter(uri))
    return _json([{"user": account, **_wire(item)} for account, item in found])


@router.get("/{user}/permissions/tree")
async def tree(
    user: str, users: Service, caller: Asking, uri: str = "", depth: str | None = None
) -> Response:
    """Tell the same as a tree of what lies below an address."""
    resource = _address(uri)
    levels = None if depth is None else whole_number("depth", depth)
    grants = _seen(user, users, caller).grants
    path = "/" + "/".join(resource.parts[1:])
    return _json({"path": path, **grants.tree(resource, levels)})


@router.post("/{user}/permissions", status_code=201, openapi_extra=_PERMISSIONS_BODY)
async def share(user: str, request: Request, users: Service, caller: Asking) -> Response:
    """Grant permissions, and tell what the user may do with each from now on."""
    grants = await _grants(request)
    caller.require_all((Action.MANAGE, resource) for resource, _ in grants)
    name = _name(user)
    known = users.accounts.grants()
    _check_grants(name, {**known, name: [*known.get(name, ()), *grants]})
    users.accounts.grant(name, grants)
    resulting = users.caller(name).grants
    answer = [_wire((resource, resulting.action_on(resource))) for resource, _ in grants]
    return _json(answer, status_code=201)


@router.put("/{user}/permissions", status_code=204, openapi_extra=_PERMISSIONS_BODY)
async def replace(user: str, request: Request, users: Service, caller: Asking) -> Response:
    """Grant exactly these permissions, and no others from now on."""
    grants = await _grants(request)
    name = _name(user)
    known = users.accounts.grants()
    taken = [resource for resource, _ in known.get(name, ())]
    changed = dict.fromkeys([*taken, *(resource for resource, _ in grants)])
    caller.require_all((Action.MANAGE, resource) for resource in changed)
    _check_grants(name, {**known, name: grants})
    users.accounts.replace(name, grants)
    return Response(status_code=204)


@router.delete("/{user}/permissions", status_code=204)
async def revoke(
    user: str,
    users: Service,
    caller: Asking,
    uri: Annotated[list[str], Query()] = [],  # noqa: B006  # a declaration, never changed
) -> Response:
    """Take back what was granted on exactly these addresses."""
    if not uri:
        raise IllegalArgumentError("revoke what? There is no 'uri' in the query")
    check_count(uri)
    resources = [_address(text) for text in uri]
    caller.require_all((Action.MANAGE, resource) for resource in resources)
    users.accounts.revoke(_name(user), resources)
    return Response(status_code=204)


@router.post("/{user}/permissions/check", openapi_extra=_PERMISSIONS_BODY)
async def check(user: str, request: Request, users: Service, caller: Asking) -> Response:
    """Tell which of some permissions a user lacks."""
    seen = _seen(user, users, caller)
    seen.require_all((action, resource) for resource, action in await _grants(request))
    return _json({"missing": []})


@router.post("/{user}/token")
async def token(user: str, request: Request, users: Service, caller: Asking) -> Response:
    """Return a new token of a user, which is valid as long as the caller's own."""
    name = _name(user)
    caller.require(Action.MANAGE, _resource(name))
    if await read_body(request) not in (b"", b"{}"):
        raise NotSupported("a token for less than the whole account; leave 'uri' out")
    return _json({"access_token": users.accounts.add_token(name, parent=caller.token_digest)})


def _check_roles(users: Users, owner: str) -> None:
    roles = [name for name in users.accounts.names() if name.startswith(f"{owner}/")]
    if len(roles) >= MOST_ROLES:
        raise IllegalArgumentError(f"{owner} has {len(roles)} roles, and no user may have more")


def _check_grants(name: str, granted: dict[str, list[Grant]]) -> None:
    """Check how many permissions a user would have."""
    owner = user_of(name)
    count = sum(len(grants) for account, grants in granted.items() if user_of(account) == owner)
    if count > MOST_GRANTS:
        raise IllegalArgumentError(
            f"{owner} and the user's roles may have {MOST_GRANTS} permissions, and would have "
            f"{count}"
        )


def _name(user: str) -> str:
    """Read a name as paths have it: a role's with colons."""
    return user.replace(":", "/")


def _resource(name: str) -> Resource:
    return role_resource(name) if "/" in name else Resource("user", name)


def _seen(user: str, users: Users, caller: Caller) -> Caller:
    """Return a user or a role that the caller may know of."""
    name = _name(user)
    caller.require(Action.READ, _resource(name))
    return users.caller(name)


def _filter(uri: str | None) -> Resource | None:
    return None if uri is None else _address(uri)


def _address(uri: str) -> Resource:
    """Read an address, of a length and depth within limits."""
    if len(uri) > LONGEST_ADDRESS:
        raise IllegalArgumentError(
            f"an address has at most {LONGEST_ADDRESS} characters, and one has {len(uri)}"
        )
    resource = Resource.parse(uri)
    if len(resource.parts) > DEEPEST_ADDRESS:
        raise IllegalArgumentError(
            f"an address has at most {DEEPEST_ADDRESS} names, and one has {len(resource.parts)}"
        )
    return resource


async def _grants(request: Request) -> list[Grant]:
    return await read_json(request, _read_grants)


def _read_grants(value: Any) -> list[Grant]:
    try:
        permissions = _PERMISSIONS.validate_json(json.dumps(value), by_name=False, by_alias=True)
    except ValidationError as error:
        raise bad_request(error) from error
    return [(_address(str(item.uri)), item.action) for item in permissions]


def _wire(permission: Grant) -> dict[str, str]:
    resource, action = permission
    return {"uri": str(resource), "action": action.value}


def _json(answer: Any, status_code: int = 200) -> Response:
    return Response(json.dumps(answer), status_code=status_code, media_type=JSON)
