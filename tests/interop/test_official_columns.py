"""A login that we save is one that the official client accepts, whatever the platform answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from apolo_sdk import Factory, _config, _server_cfg
from hypothesis import given
from hypothesis import strategies as st

import neuro_sync
from neuro_sync.client.official_columns import official_columns
from tests.two_clusters import TwoClusters, two_clusters

NAMES = st.text("abc-", min_size=1, max_size=4)
COUNTS = st.integers(0, 2**40)
TPU_POOL = {"types": ["v2-8"], "software_versions": ["1.14"], "ipv4_cidr_block": "10.0.0.0/8"}
TPU = st.just(TPU_POOL)
PRICES = st.decimals(0, 100, places=2).map(str) | st.integers(0, 9)


def record(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


def gpus(*, model_is_required: bool) -> dict[str, Any]:
    model = {"model": NAMES}
    gpu = record(
        {"count": COUNTS, **(model if model_is_required else {})},
        {"memory": COUNTS | st.none(), **({} if model_is_required else model)},
    )
    kinds = ("nvidia_gpu", "amd_gpu", "intel_gpu")
    migs = st.dictionaries(NAMES, gpu, max_size=2)
    return {**dict.fromkeys(kinds, gpu | st.none()), "nvidia_migs": migs | st.none()}


POOLS = record(
    {
        "name": NAMES,
        "min_size": COUNTS,
        "max_size": COUNTS,
        "cpu": st.floats(0, 100),
        "memory": COUNTS,
        "disk_size": COUNTS,
    },
    {
        "is_preemptible": st.booleans(),
        "idle_size": COUNTS,
        "tpu": TPU,
        "available_cpu": st.floats(0, 9),
        **gpus(model_is_required=True),
    },
)
PRESETS = record(
    {"name": NAMES, "credits_per_hour": PRICES, "cpu": st.floats(0, 100), "memory": COUNTS},
    {
        "memory_mb": COUNTS,
        "scheduler_enabled": st.booleans(),
        "preemptible_node": st.booleans(),
        "is_preemptible": st.booleans(),
        "resource_pool_names": st.lists(NAMES),
        "available_resource_pool_names": st.lists(NAMES),
        "tpu": st.just({"type": "v2-8", "software_version": "1.14"}) | st.none(),
        **gpus(model_is_required=False),
    },
)
ADDRESSES = st.sampled_from(
    ["https://a.example/api/v1", "http://b.example:80", "https://c.example/", "https://d.example/ü"]
)
APPS = record(
    {},
    {
        "apps_hostname_templates": st.lists(NAMES),
        "app_proxy_url": ADDRESSES,
        "launchpad_use_subdomain": st.booleans(),
    },
)
SERVICES = ("registry", "storage", "users", "monitoring", "secrets", "disks", "buckets")
CLUSTERS = record(
    {
        "name": NAMES,
        **{f"{service}_url": ADDRESSES for service in SERVICES},
        "resource_pool_types": st.lists(POOLS, max_size=3),
        "resource_presets": st.lists(PRESETS, max_size=3),
    },
    {
        "orgs": st.lists(NAMES) | st.none(),
        "tpu": TPU,
        "apps": APPS,
        "timezone": st.just("UTC"),
        "location": NAMES,
    },
)
PROJECTS = record({"name": NAMES, "cluster_name": NAMES, "role": NAMES}, {"org_name": NAMES})
ANSWERS = record(
    {"clusters": st.lists(CLUSTERS, max_size=3), "projects": st.lists(PROJECTS, max_size=3)},
    {"admin_url": ADDRESSES, "vcluster_url": ADDRESSES},
)


@given(ANSWERS)
def test_the_official_client_reads_from_our_columns_what_it_reads_from_the_answer(
    answer: dict[str, Any],
) -> None:
    columns = official_columns(json.dumps(answer).encode())
    row = {name: json.dumps(columns[name]) for name in ("clusters", "projects")}
    clusters, projects = _server_cfg._parse_clusters(answer), _server_cfg._parse_projects(answer)
    assert _config._deserialize_clusters(row) == clusters
    assert _config._deserialize_projects(row) == projects
    theirs = _config._serialize_clusters(clusters)
    # The official client refuses some of what it saves itself, such as addresses with a usual port.
    if _config._deserialize_clusters({"clusters": theirs}) == clusters:
        assert json.loads(theirs) == columns["clusters"]
    assert json.loads(_config._serialize_projects(projects)) == columns["projects"]


class WithTPU(TwoClusters):
    """Its first cluster has a pool with a TPU."""

    def config(self) -> dict[str, Any]:
        answer = super().config()
        pool = {"name": "tpu", "min_size": 0, "max_size": 1, "cpu": 4, "memory": 1, "disk_size": 1}
        answer["clusters"][0]["resource_pool_types"] = [pool | {"tpu": TPU_POOL}]
        return answer


@pytest.mark.usefixtures("home")
def test_the_official_client_accepts_a_login_of_ours_to_a_cluster_with_a_tpu(
    tmp_path: Path,
) -> None:
    async def look() -> str:
        async with await Factory(tmp_path / "ours").get() as client:
            return str(client.config.project_name)

    with two_clusters(WithTPU) as server:
        neuro_sync.login_with_token(server.token, url=server.url, path=tmp_path / "ours")
        assert asyncio.run(look()) == "vision"
