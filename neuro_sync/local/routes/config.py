"""``GET /config``: what this platform is."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response

from neuro_sync.local.access import Caller
from neuro_sync.local.answers import JSON
from neuro_sync.local.jobs import Tenant
from neuro_sync.local.users import Users
from neuro_sync.models.config import GPU, MIB, Preset

router = APIRouter()


@router.get("/config")
async def config(request: Request) -> Response:
    """Describe the platform; without a valid token, only how to log in."""
    state = request.app.state
    login = _login(state.url)
    caller: Caller | None = request.state.caller
    if caller is None:
        return _json({"authorized": False, **login})
    home: Tenant = state.home
    users: Users = state.users
    answer = {
        "authorized": True,
        "admin_url": f"{state.url}/apis/admin/v1",
        "vcluster_url": f"{state.url}/apis/vcluster/v1",
        "orgs": [{"name": home.org, "role": users.role_of(caller.name)}],
        "projects": [
            {
                "name": project,
                "cluster_name": home.cluster,
                "org_name": home.org,
                "role": role,
            }
            for project, role in users.projects_of(caller.name).items()
        ],
        "clusters": [_cluster(state.url, home, state.presets)],
        **login,
    }
    return _json(answer)


def _json(answer: dict[str, Any]) -> Response:
    return Response(json.dumps(answer), media_type=JSON)


@router.get("/ping")
async def ping() -> Response:
    return Response()


def _login(url: str) -> dict[str, Any]:
    """Return the keys about logging in; the official clients cannot read an answer without."""
    return {
        "auth_url": f"{url}/oauth/authorize",
        "token_url": f"{url}/oauth/token",
        "logout_url": f"{url}/oauth/logout",
        "client_id": "neuro-local",
        "audience": url,
        "callback_urls": [f"http://127.0.0.1:{port}" for port in (54540, 54541, 54542)],
        "headless_callback_url": f"{url}/oauth/show-code",
    }


def _cluster(url: str, home: Tenant, presets: tuple[Preset, ...]) -> dict[str, Any]:
    api = f"{url}/api/v1"
    return {
        "name": home.cluster,
        "orgs": [home.org],
        "location": "this machine",
        "timezone": "UTC",
        "registry_url": url,
        "storage_url": f"{api}/storage",
        "users_url": f"{api}/users",
        "monitoring_url": f"{api}/monitoring/jobs",
        "secrets_url": f"{api}/secrets",
        "disks_url": f"{api}/disk",
        "buckets_url": f"{api}/buckets",
        "resource_pool_types": [],
        "resource_presets": [_preset(preset) for preset in presets],
        "storage_volumes": [],
        "apps": {"apps_hostname_templates": []},
    }


def _preset(preset: Preset) -> dict[str, Any]:
    """Return a preset in the words of all generations of clients."""
    described: dict[str, Any] = {
        "name": preset.name,
        "credits_per_hour": str(preset.credits_per_hour),
        "cpu": preset.cpu,
        "memory": preset.memory,
        "memory_mb": (preset.memory or 0) // MIB,
        "scheduler_enabled": preset.scheduler_enabled,
        "is_preemptible": preset.scheduler_enabled,
        "preemptible_node": preset.preemptible_node,
        "is_preemptible_node_required": preset.preemptible_node,
    }
    if isinstance(preset.nvidia_gpu, GPU):
        described["nvidia_gpu"] = preset.nvidia_gpu.model_dump(exclude_none=True)
        described["gpu"] = preset.nvidia_gpu.count
        described["gpu_model"] = preset.nvidia_gpu.model
    return described
