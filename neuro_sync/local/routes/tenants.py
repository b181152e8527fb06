"""What services of a cluster share: a project named in the query."""

from __future__ import annotations

from fastapi import Request
from pydantic import ValidationError

from neuro_sync.local.answers import bad_request
from neuro_sync.models.base import Model
from neuro_sync.models.jobs import TenantName

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
