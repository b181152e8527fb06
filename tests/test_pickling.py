"""Values and errors go through pickle and copy, as pools of processes and task queues need it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import neuro_sync
from neuro_sync import (
    ConnectionFailed,
    JobDescription,
    JobFailed,
    NeuroError,
    Session,
    StorageNotFound,
    WaitTimeout,
    errors,
)
from tests.values import public_classes, values

WAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {protocol}": lambda value, protocol=protocol: pickle.loads(  # type: ignore[misc]
            pickle.dumps(value, protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def _is_for_users(kind: type) -> bool:
    """Tell whether a class is a value, and none of the inner works of the client."""
    return kind.__module__.startswith("neuro_sync.models") or kind.__name__ in neuro_sync.__all__


ERRORS = [kind for kind in public_classes() if issubclass(kind, BaseException)]
VALUES = [
    kind
    for kind in public_classes()
    if issubclass(kind, BaseModel | Enum)
    or ((is_dataclass(kind) or issubclass(kind, tuple)) and _is_for_users(kind))
]
FEW = settings(max_examples=5, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def test_the_classes_are_found() -> None:
    assert {JobFailed, WaitTimeout, StorageNotFound} <= {*ERRORS}
    assert JobDescription in VALUES


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
@FEW
@given(data=st.data())
def test_every_value_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    value = data.draw(values(kind))
    for how, again in WAYS.items():
        assert again(value) == value, how


def _facts(error: BaseException) -> tuple[object, ...]:
    told = {name: getattr(error, name, None) for name in errors.OS_ERROR_FIELDS}
    return type(error), str(error), error.args, vars(error), told


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
@FEW
@given(data=st.data())
def test_every_error_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    error = data.draw(values(kind))
    for how, again in WAYS.items():
        assert _facts(again(error)) == _facts(error), how


class OwnFailure(JobFailed):
    """What a user makes of an error of ours."""

    def __init__(self, step: int, job: JobDescription) -> None:
        super().__init__(f"step {step}", job)
        self.step = step


def _raised(error: NeuroError, cause: BaseException | None = None) -> NeuroError:
    try:
        try:
            raise ValueError("before")
        except ValueError:
            raise error from cause
    except NeuroError as caught:
        return caught


@pytest.mark.parametrize("how", WAYS)
def test_an_error_keeps_what_it_is_chained_to(how: str) -> None:
    cause = _raised(ConnectionFailed(111, "Connection refused"), OSError(2, "No such file", "/a"))
    again = WAYS[how](_raised(NeuroError("lost"), cause))
    assert _facts(again.__cause__) == _facts(cause)
    assert _facts(again.__cause__.__cause__) == _facts(OSError(2, "No such file", "/a"))
    assert again.__cause__.__cause__.__cause__ is None
    assert str(again.__context__) == str(again.__cause__.__context__) == "before"
    assert again.__suppress_context__


def test_a_cause_that_may_hold_a_token_is_kept_as_its_text() -> None:
    request = requests.Request("GET", "http://a.test", headers={"Authorization": "Bearer canary"})
    cause = requests.ConnectionError("reset", request=request.prepare())
    cause.__cause__ = OSError("cut")
    pickled = pickle.dumps(_raised(ConnectionFailed("broke"), cause))
    assert b"canary" not in pickled
    again = pickle.loads(pickled)
    assert str(again.__cause__) == "requests.exceptions.ConnectionError: reset"
    assert str(again.__cause__.__cause__) == "cut"


def test_a_cause_that_cannot_be_pickled_is_no_obstacle() -> None:
    cause: BaseException = ValueError(lambda: None)
    for _ in range(30):  # a chain takes no time that doubles with each link
        cause = _raised(NeuroError("more"), cause)
    again = pickle.loads(pickle.dumps(cause))
    while again.__cause__ is not None:
        again = again.__cause__
    assert str(again).startswith("builtins.ValueError: <function")


POOLS = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from neuro_sync import JobFailed, Session

def wait(url, token, job):
    with Session(url, token) as session:
        session.jobs.wait(job, check=True)

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor, multiprocessing.Pool(1) as pool:
        for result in (
            lambda: executor.submit(wait, *sys.argv[1:]).result(timeout=60),
            lambda: pool.apply_async(wait, sys.argv[1:]).get(timeout=60),
        ):
            try:
                result()
            except JobFailed as error:
                print(error.exit_code, error.log_tail, error.job.id)
"""


def test_pools_of_processes_hand_an_error_on(session: Session, tmp_path: Path) -> None:
    job = session.jobs.start(image="x", preset_name="cpu-small", command="sh -c 'echo a; exit 3'")
    program = tmp_path / "pools.py"
    program.write_text(POOLS)
    command = [sys.executable, str(program), str(session.api_url), session.config.token(), job.id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout.splitlines() == [f"3 ('a',) {job.id}"] * 2, done.stderr


def test_an_error_of_a_users_own_comes_back_too(session: Session) -> None:
    job = session.jobs.start(image="x", preset_name="cpu-small", command="true")
    error = _raised(OwnFailure(7, job))
    for again in WAYS.values():
        assert _facts(again(error)) == _facts(error)
