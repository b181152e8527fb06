"""The servers' side, a process of its own: ``bench.servers platform|canned|counted``.

``platform`` is the local platform with many finished jobs in its store. ``canned`` repeats what
that platform answers from memory, so that no server is what is measured. ``counted`` is a local
platform that tells which requests it had.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from neuro_sync.local.server import CLUSTER, LocalPlatform
from neuro_sync.local.state import local_user
from neuro_sync.local.store import JobRow, Store

from .canned import CannedServer, record
from .children import tell
from .counting import counting

JOBS = 10_000
NAMESPACE = "platform--acme--vision--ec093e472edac47866583d96"
SHORT_HASH = "859b431f56"
BORN = datetime(2026, 3, 1, 9, 15, 27, 104233, tzinfo=timezone.utc)


@contextmanager
def filled_platform() -> Iterator[LocalPlatform]:
    """Run a platform whose store holds many finished jobs."""
    # Each row leaves its job behind; none of them is to wait for room.
    with LocalPlatform(ephemeral=True, cores=64, memory=2**40) as platform:
        store = Store(platform.folder / "platform.db")
        for number in range(JOBS):
            store.add(finished_job(number), tags=())
        store.close()
        yield platform


def job_id(number: int) -> str:
    return f"job-{uuid.UUID(int=number)}"


def finished_job(number: int) -> JobRow:
    """Return a job with all that the hosted platform tells of one; about 1.7 KB."""
    id, name, user = job_id(number), f"train-{number}", local_user()
    host, label = f"{id}.{NAMESPACE}", f"{name}--{SHORT_HASH}"
    answer = {
        "id": id,
        "owner": user,
        "cluster_name": CLUSTER,
        "org_name": CLUSTER,
        "project_name": user,
        "org_project_hash": SHORT_HASH,
        "namespace": NAMESPACE,
        "uri": f"job://{CLUSTER}/{CLUSTER}/{user}/{id}",
        "name": name,
        "tags": ["kind:demo"],
        "preset_name": "cpu-small",
        "status": "succeeded",
        **_life(BORN + timedelta(minutes=number)),
        "container": {
            "image": "ubuntu:latest",
            "command": "sleep 30",
            "env": {},
            "volumes": [],
            "resources": {"cpu": 1.0, "memory": 2**32, "memory_mb": 4096, "shm": False},
            "http": {"port": 8080, "health_check_path": "/", "requires_auth": True},
        },
        "scheduler_enabled": False,
        "preemptible_node": False,
        "is_preemptible": False,
        "is_preemptible_node_required": False,
        "pass_config": False,
        "privileged": False,
        "restart_policy": "never",
        "priority": "normal",
        "materialized": True,
        "being_dropped": False,
        "logs_removed": False,
        "total_price_credits": "0.00035",
        "price_credits_per_hour": "0.1",
        "max_run_time_minutes": 60,
        "http_url": f"https://{id}.jobs.default.example.org",
        "http_url_named": f"https://{label}.jobs.default.example.org",
        "internal_hostname": host,
        "internal_hostname_named": f"{label}.{NAMESPACE}",
    }
    return JobRow(
        id=id,
        name=name,
        owner=user,
        cluster_name=CLUSTER,
        org_name=CLUSTER,
        project_name=user,
        status="succeeded",
        created_at=BORN + timedelta(minutes=number),
        description={},
        transitions="[]",
        answer=json.dumps(answer, separators=(",", ":")),
    )


def _life(born: datetime) -> dict[str, Any]:
    moments = [(born + timedelta(seconds=seconds)).isoformat() for seconds in (0, 5, 36)]
    nothing = {"reason": None, "description": None}
    created, started, finished = moments
    return {
        "statuses": [
            {"status": "pending", "transition_time": created, **nothing, "reason": "Creating"},
            {"status": "running", "transition_time": started, **nothing},
            {"status": "succeeded", "transition_time": finished, **nothing, "exit_code": 0},
        ],
        "history": {
            "status": "succeeded",
            **nothing,
            "created_at": created,
            "started_at": started,
            "finished_at": finished,
            "exit_code": 0,
            "run_time_seconds": 31.0,
            "restarts": 0,
        },
    }


def serve(url: str, token: str) -> None:
    """Tell where it is, and from then on how much CPU time it took, until the input ends."""
    tell({"url": url, "token": token, "job_id": job_id(0)})
    for _ in sys.stdin:
        tell({"cpu": time.process_time()})


def serve_counted() -> None:
    """Tell where it is, and from then on what came since it was last asked."""
    with counting() as counts, LocalPlatform(ephemeral=True, cores=64, memory=2**40) as platform:
        tell({"url": platform.url, "token": platform.token})
        for _ in sys.stdin:
            taken = counts.take()
            tell({"requests": taken.requests, "connections": len(taken.connections)})


def main() -> None:
    if sys.argv[1] == "counted":
        serve_counted()
        return
    if sys.argv[1] == "platform":
        with filled_platform() as platform:
            serve(platform.url, platform.token)
        return
    with filled_platform() as platform:
        recording = record(platform.url, platform.token, "/config", "/jobs", f"/jobs/{job_id(0)}")
        token = platform.token
    with CannedServer(recording) as server:
        serve(server.url, token)


if __name__ == "__main__":
    main()
