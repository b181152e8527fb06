"""What the platform's own OpenAPI description allows is answered: no failure, no hang."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from neuro_sync import Session
from neuro_sync.local.app import create_app
from neuro_sync.local.server import LocalPlatform

EXAMPLES = int(os.environ.get("NEURO_TEST_EXAMPLES", "12"))
"""For each operation; somebody who changes how requests are read gives 200."""


def operations() -> dict[str, APIOperation[Any, Any, Any, Any]]:
    parts = {name: Mock() for name in ("service", "mounts", "users", "home", "registry")}
    app = create_app(**parts, presets=(), folder=Path(), port=1)
    schema = schemathesis.openapi.from_dict(app.openapi())
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(found) > 40
    return {operation.label: operation for operation in found}


OPERATIONS = operations()


@pytest.fixture(scope="module")
def target() -> Iterator[LocalPlatform]:
    """A platform that may be asked for anything: it has little, and goes with the tests."""
    with LocalPlatform(
        ephemeral=True, grace=0.1, cores=1, memory=2**33, total_running_jobs=20
    ) as platform:
        yield platform


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize("label", OPERATIONS)
def test_whatever_is_asked_is_answered(
    target: LocalPlatform, http: requests.Session, label: str
) -> None:
    root = f"http://127.0.0.1:{target.port}"
    headers = {"Authorization": f"Bearer {target.token}"}

    @settings(
        max_examples=EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(OPERATIONS[label].as_strategy())
    def ask(case: Case[Any]) -> None:
        answer = case.call(base_url=root, session=http, headers=headers, timeout=10)
        # What is not offered here at all says so by 501.
        assert answer.status_code < 500 or answer.status_code == 501, answer.text

    ask()
    with Session(target.url, target.token) as session:
        assert session.jobs.get_capacity()  # it goes on
