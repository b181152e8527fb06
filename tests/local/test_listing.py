"""Jobs are found by an index: what is found is right, and finding it takes no longer with time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync.local.store import JobFilter, JobRow, Store

BORN = datetime(2026, 3, 1, tzinfo=timezone.utc)
STATUSES = ("pending", "running", "suspended", "succeeded", "failed", "cancelled")
OWNERS = ("alice", "alice/roles/ml", "bob")
PROJECTS = ("alice", "bob", "vision")
NAMES = (None, "train", "serve")
TAGS = ("kind:a", "kind:b", "rare")
JOBS = 1200
"""More than a page has, and more than are counted of a value."""


def job(number: int, **fields: Any) -> JobRow:
    id = f"job-{number}"
    answer = json.dumps({"id": id})
    fields = {"status": "succeeded", "owner": "alice", "project_name": "alice", **fields}
    return JobRow(
        id=id,
        name=fields.pop("name", None),
        cluster_name="local",
        org_name="local",
        created_at=fields.pop("created_at", BORN + timedelta(minutes=number)),
        description={},
        transitions="[]",
        answer=answer,
        **fields,
    )


class Jobs(list[tuple[JobRow, tuple[str, ...]]]):
    """Jobs with their tags, too many to be shown with each example."""

    def __repr__(self) -> str:
        return f"<{len(self)} jobs>"


@pytest.fixture(scope="module")
def jobs() -> Jobs:
    """Return jobs with their tags; now and then the clock was set back."""
    chance = random.Random(1)
    return Jobs(
        (
            job(
                number,
                status=chance.choices(STATUSES, (1, 1, 1, 900, 50, 5))[0],
                owner=chance.choices(OWNERS, (900, 5, 50))[0],
                project_name=chance.choice(PROJECTS),
                name=chance.choice(NAMES),
                created_at=BORN + timedelta(minutes=number - 60 * (number % 97 == 0)),
            ),
            tuple(tag for tag in TAGS if chance.random() < (0.01 if tag == "rare" else 0.9)),
        )
        for number in range(JOBS)
    )


@pytest.fixture(scope="module")
def store(
    jobs: list[tuple[JobRow, tuple[str, ...]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("store") / "platform.db"
    with closing(Store(path, durable=False)) as opened:
        for row, tags in jobs:
            opened.add(row, tags)
        yield opened


def some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from((*values, "none")), max_size=3).map(tuple)


moments = st.none() | st.integers(-10, JOBS + 10).map(lambda n: BORN + timedelta(minutes=n))
readable_paths = st.sampled_from(
    ("local/local/alice", "local/local/bob", "local/local/vision/train", "local/local/bob/job-7")
)
filters = st.builds(
    JobFilter,
    statuses=some(STATUSES),
    name=st.none() | st.sampled_from(("train", "serve", "none")),
    tags=some(TAGS),
    owners=some(OWNERS),
    base_owners=some(("alice", "bob")),
    project_names=some(PROJECTS),
    ids=some(("job-7", "job-500")),
    since=moments,
    until=moments,
    reverse=st.booleans(),
    limit=st.none() | st.integers(1, JOBS + 1),
    readable=st.none() | st.lists(readable_paths, max_size=3).map(tuple) | st.just(("local",)),
)


def matches(row: JobRow, tags: tuple[str, ...], wanted: JobFilter) -> bool:
    paths = {"local", "local/local", f"local/local/{row.project_name}"}
    paths |= {f"local/local/{row.project_name}/{key}" for key in (row.id, row.name)}
    return all(
        (
            not wanted.statuses or row.status in wanted.statuses,
            wanted.name is None or row.name == wanted.name,
            set(wanted.tags) <= set(tags),
            not wanted.owners or row.owner in wanted.owners,
            not wanted.base_owners or row.owner.partition("/")[0] in wanted.base_owners,
            not wanted.project_names or row.project_name in wanted.project_names,
            not wanted.ids or row.id in wanted.ids,
            wanted.since is None or row.created_at >= wanted.since,
            wanted.until is None or row.created_at <= wanted.until,
            wanted.readable is None or paths & set(wanted.readable),
        )
    )


@given(wanted=filters)
def test_every_filter_lists_what_it_asks_for_in_order(
    store: Store, jobs: list[tuple[JobRow, tuple[str, ...]]], wanted: JobFilter
) -> None:
    expected = [row.id for row, tags in jobs if matches(row, tags, wanted)]
    if wanted.reverse:
        expected.reverse()
    expected = expected[: wanted.limit]
    assert [row.id for row in store.list(wanted)] == expected
    answers = store.answers(wanted)
    assert [json.loads(str(answer))["id"] for answer in answers] == expected


def steps(store: Store, work: Callable[[], object]) -> int:
    """Return how many instructions of its machine SQLite needs for something."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    store.database.set_progress_handler(step, 1)
    try:
        work()
    finally:
        store.database.set_progress_handler(None, 1)
    return count


LATE = BORN + timedelta(days=365)
QUESTIONS: dict[str, Callable[[Store], object]] = {
    "unfinished": lambda s: list(s.list(JobFilter(statuses=("pending", "suspended", "running")))),
    "failed": lambda s: list(s.list(JobFilter(statuses=("failed",)))),
    "failed, those of an owner": lambda s: list(
        s.list(JobFilter(statuses=("failed",), owners=("alice",), reverse=True, limit=20))
    ),
    "of another owner": lambda s: list(s.list(JobFilter(owners=("bob",)))),
    "of another base owner": lambda s: list(s.list(JobFilter(base_owners=("bob",)))),
    "of another project": lambda s: list(s.list(JobFilter(project_names=("vision",)))),
    "that another user may read": lambda s: list(s.list(JobFilter(readable=("local/local/bob",)))),
    "since a moment": lambda s: list(s.list(JobFilter(since=LATE))),
    "since a moment, unfinished": lambda s: list(
        s.list(JobFilter(since=BORN, statuses=("running",)))
    ),
    "of a name": lambda s: list(s.list(JobFilter(name="serve"))),
    "of a tag": lambda s: list(s.list(JobFilter(tags=("rare", "kind:a")))),
    "the newest": lambda s: list(s.list(JobFilter(reverse=True, limit=20))),
    "the first": lambda s: next(iter(s.list(JobFilter(limit=1)))),
    "one, by id": lambda s: s.get("job-7", "alice"),
    "one, by a name that many had": lambda s: s.get("train", "alice"),
    "who uses a name that many had": lambda s: s.unfinished_with_name("train", "alice"),
    "to be restored": lambda s: list(s.not_over()),
    "tags": lambda s: s.tags("alice"),
}


@pytest.fixture(scope="module")
def few_and_many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store]]:
    """Two stores that have the same but for the number of their finished jobs."""
    folder: Path = tmp_path_factory.mktemp("stores")
    with (
        closing(Store(folder / "few.db", durable=False)) as few,
        closing(Store(folder / "many.db", durable=False)) as many,
    ):
        for store, count in ((few, 200), (many, 4000)):
            special = [
                job(10**6 + 1, status="failed"),
                job(10**6 + 2, owner="bob", project_name="bob"),
                job(10**6 + 3, project_name="vision"),
                job(10**6 + 4, created_at=LATE),
                job(10**6 + 5, name="serve", status="running"),
            ]
            for number in range(count):
                store.add(job(number, name="train"), ("kind:a",))
            for row in special:
                store.add(row, ("rare", "kind:a"))
        yield few, many


@pytest.mark.parametrize("question", QUESTIONS)
def test_finding_a_few_jobs_takes_no_longer_when_many_have_finished(
    few_and_many: tuple[Store, Store], question: str
) -> None:
    few, many = (steps(store, partial(QUESTIONS[question], store)) for store in few_and_many)
    # What is counted to choose the best index is bounded, and cheap.
    assert many < 2 * few + 5 * 1000, question
