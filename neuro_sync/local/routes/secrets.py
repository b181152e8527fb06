"""``/secrets``: put values away for jobs."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from neuro_sync.local.access import Asking
from neuro_sync.local.answers import JSON
from neuro_sync.local.permissions import Resource
from neuro_sync.local.secrets import SecretStore
from neuro_sync.models.secrets import NewSecret
from neuro_sync.models.users import Action

from .bodies import body_of, described
from .tenants import project_of

router = APIRouter(prefix="/secrets")


async def store(request: Request) -> SecretStore:
    secrets: SecretStore = request.app.state.secrets
    return secrets


Store = Annotated[SecretStore, Depends(store)]


@router.post("", status_code=201, openapi_extra=described(NewSecret.model_json_schema()))
async def add(request: Request, secrets: Store, caller: Asking) -> Response:
    """Store a value under a key; one that is there is replaced."""
    secret = await body_of(NewSecret, request)
    caller.require(Action.WRITE, _resource(request, secret.org_name, secret.project_name))
    secrets.add(secret)
    described = _describe(secret.key, secret.org_name, secret.project_name)
    return Response(json.dumps(described), status_code=201, media_type=JSON)


@router.get("")
async def list_secrets(request: Request, secrets: Store, caller: Asking) -> Response:
    """List the keys of a project that the caller may read."""
    project = project_of(request)
    found = [
        _describe(key, *project)
        for key in secrets.keys(*project)
        if caller.may(Action.READ, _resource(request, *project, key))
    ]
    return Response(json.dumps(found), media_type=JSON)


@router.get("/{key}")
async def get(key: str, request: Request, secrets: Store, caller: Asking) -> Response:
    """Tell the value of a secret."""
    project = project_of(request)
    caller.require(Action.READ, _resource(request, *project, key))
    value = b64encode(secrets.value(*project, key)).decode()
    return Response(json.dumps({**_describe(key, *project), "value": value}), media_type=JSON)


@router.delete("/{key}", status_code=204)
async def remove(key: str, request: Request, secrets: Store, caller: Asking) -> Response:
    """Delete a secret."""
    project = project_of(request)
    caller.require(Action.WRITE, _resource(request, *project))
    secrets.remove(*project, key)
    return Response(status_code=204)


def _resource(request: Request, *path: str) -> Resource:
    return Resource("secret", request.app.state.home.cluster, *path)


def _describe(key: str, org: str, project: str) -> dict[str, str]:
    return {"key": key, "owner": project, "org_name": org, "project_name": project}
