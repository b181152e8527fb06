"""What services of a cluster share: a project named in the query, and bodies of limited size."""

from __future__ import annotations

from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError

from neuro_sync.errors import IllegalArgumentError
from neuro_sync.local.answers import bad_request
from neuro_sync.models.base import Model
from neuro_sync.models.jobs import TenantName

M = TypeVar("M", bound=Model)

LARGEST_BODY = 2**20
"""Bytes."""
TOKEN = "neuro-auth-token"  # noqa: S105  # the name of a parameter


class Project(Model):
    """The query of each request that is about something of a project."""

    org_name: TenantName
    project_name: TenantName


def project_of(request: Request) -> tuple[str, str]:
    """Return organisation and project; the query has to name both, and nothing else."""
    query = {name: value for name, value in request.query_params.items() if name != TOKEN}
    try:
        project = Project.model_validate(query)
    except ValidationError as error:
        raise bad_request(error) from None
    return project.org_name, project.project_name


async def body_of(model: type[M], request: Request) -> M:
    """Read a request's body, of 1 MiB at most.

    Raises:
        IllegalArgumentError: It is larger, or not what it should be.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise IllegalArgumentError(
                f"Maximum request body size {LARGEST_BODY} exceeded", status=413
            )
    try:
        return model.from_request(body)
    except ValidationError as error:
        # Not chained: the original may show what was sent, the value of a secret.
        raise bad_request(error) from None
