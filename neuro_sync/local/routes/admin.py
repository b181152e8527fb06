"""The part of the admin service that clients read: what a user may use."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from neuro_sync.errors import NotSupported, ResourceNotFound
from neuro_sync.local.access import Asking, Caller
from neuro_sync.local.permissions import Resource
from neuro_sync.local.users import Users
from neuro_sync.models.users import Action

from .jobs import Service as Jobs
from .users import Service

router = APIRouter()

BALANCE = {"spent_credits": "0"}


@router.get("/apis/admin/v1/clusters/{cluster}/orgs/{org}/users/{user}")
@router.get("/apis/admin/v1/clusters/{cluster}/users/{user}")
async def user_quota(
    cluster: str,
    user: str,
    users: Service,
    jobs: Jobs,
    caller: Asking,
    org: str | None = None,
) -> dict[str, Any]:
    """Tell what a user may use."""
    _check(cluster, org, users, caller)
    caller.require(Action.READ, Resource("user", user))
    name = users.caller(user).name
    role = users.role_of(name)
    limit = jobs.total_running_jobs
    quota = {} if limit is None else {"total_running_jobs": limit}
    return {"user_name": name, "role": role, "org_name": org, "quota": quota, "balance": BALANCE}


@router.get("/apis/admin/v1/clusters/{cluster}/orgs/{org}")
async def org_quota(cluster: str, org: str, users: Service, caller: Asking) -> dict[str, Any]:
    """Tell what an organisation may use."""
    _check(cluster, org, users, caller)
    return {
        "org_name": org,
        "quota": {},
        "balance": BALANCE,
        "default_credits": None,
        "default_quota": {},
        "default_role": "user",
        "storage_size": None,
        "maintenance": False,
    }


def _check(cluster: str, org: str | None, users: Users, caller: Caller) -> None:
    caller.require(Action.READ, Resource("cluster", cluster, "access"))
    if org not in (None, users.home.org):
        raise ResourceNotFound(f'org "{org}" was not found')


@router.get("/api/v1/service_accounts")
@router.post("/api/v1/service_accounts")
@router.get("/api/v1/service_accounts/{id}")
@router.delete("/api/v1/service_accounts/{id}")
async def service_accounts() -> None:
    """Refuse what this platform does not have."""
    raise NotSupported(
        "this local platform has no service accounts; "
        "make a user for the program instead, with: neuro local user add NAME"
    )
