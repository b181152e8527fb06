"""What the official client saves of an answer to ``GET /config``.

When the official client is updated, it reads ``/config`` again and compares the result with the
saved one. It refuses the login if they differ. It reads only some of the keys, so a login that has
all keys of the answer is refused. This module saves the keys that the official client saves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from yarl import URL

ADDRESSES = (
    "registry_url",
    "storage_url",
    "users_url",
    "monitoring_url",
    "secrets_url",
    "disks_url",
    "buckets_url",
)
GPUS = ("nvidia_gpu", "amd_gpu", "intel_gpu")

Json = Mapping[str, Any]


def official_columns(answer: bytes) -> dict[str, Any]:
    """Return the columns ``admin_url``, ``vcluster_url``, ``clusters`` and ``projects``.

    Keys that a platform of 2020 leaves out become null; the official client of today cannot read
    the answer of such a platform at all.
    """
    told = json.loads(answer)
    projects = {
        (project["cluster_name"], project["org_name"], project["name"]): {
            "name": project["name"],
            "cluster_name": project["cluster_name"],
            "org_name": project["org_name"],
            "role": project.get("role"),
        }
        for project in told.get("projects") or ()
        if project.get("org_name")
    }
    return {
        "admin_url": _address(told.get("admin_url")),
        "vcluster_url": _address(told.get("vcluster_url")),
        "clusters": _named(map(_cluster, told.get("clusters") or ())),
        "projects": list(projects.values()),
    }


def _cluster(told: Json) -> dict[str, Any]:
    # The official client looks for the pool's TPU at the cluster.
    tpu = told.get("tpu")
    return {
        "name": told["name"],
        "orgs": told.get("orgs") or [],
        **{key: _address(told.get(key)) for key in ADDRESSES},
        "resource_pools": _named(
            _pool(pool, tpu) for pool in told.get("resource_pool_types") or ()
        ),
        "presets": _named(map(_preset, told.get("resource_presets") or ())),
        "apps": _apps(told.get("apps") or {}),
    }


def _pool(told: Json, tpu: Json | None) -> dict[str, Any]:
    sizes = ("min_size", "max_size", "cpu", "memory", "disk_size")
    pool = {
        "name": told["name"],
        **{key: told.get(key) for key in sizes},
        "is_preemptible": told.get("is_preemptible", False),
        **_gpus(told),
    }
    if tpu:
        keys = ("types", "software_versions", "ipv4_cidr_block")
        pool["tpu"] = {key: tpu.get(key) for key in keys}
    return pool


def _preset(told: Json) -> dict[str, Any]:
    preset = {
        "name": told["name"],
        "credits_per_hour": _decimal(told.get("credits_per_hour")),
        "cpu": told.get("cpu"),
        "memory": told.get("memory"),
        "scheduler_enabled": told.get("scheduler_enabled", False),
        "preemptible_node": told.get("preemptible_node", False),
        "resource_pool_names": told.get("resource_pool_names", []),
        "available_resource_pool_names": told.get("available_resource_pool_names", []),
        **_gpus(told),
    }
    if tpu := told.get("tpu"):
        preset["tpu"] = {key: tpu.get(key) for key in ("type", "software_version")}
    return preset


def _gpus(told: Json) -> dict[str, Any]:
    """Return the GPUs of a pool or a preset, in the order in which they are written."""
    found: dict[str, Any] = {}
    for key in GPUS:
        if gpu := told.get(key):
            found[key] = _gpu(gpu)
        if key == "nvidia_gpu" and (migs := told.get("nvidia_migs")):
            found["nvidia_migs"] = {name: _gpu(mig) for name, mig in migs.items()}
    return found


def _gpu(told: Json | int) -> dict[str, Any]:
    if isinstance(told, int):  # platforms of 2020 tell only how many there are
        return {"count": told, "model": None, "memory": None}
    return {key: told.get(key) for key in ("count", "model", "memory")}


def _apps(told: Json) -> dict[str, Any]:
    apps = {"launchpad_use_subdomain": told.get("launchpad_use_subdomain", False)}
    if told:
        apps["apps_hostname_templates"] = told.get("apps_hostname_templates", [])
    # Else the official client would read an empty list, expect an empty tuple, and refuse both.
    if proxy := told.get("app_proxy_url"):
        apps["app_proxy_url"] = _address(proxy)
    return apps


def _address(told: Any) -> Any:
    """Return an address as the official client writes it: percent-encoded."""
    is_plain = not isinstance(told, str) or told.isascii()
    return told if is_plain else str(URL(told))


def _named(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the items; of those with the same name, the last one in the place of the first."""
    return list({item["name"]: item for item in items}.values())


def _decimal(told: Any) -> str:
    try:
        return str(Decimal(told or 0))
    except InvalidOperation:
        return "0"
