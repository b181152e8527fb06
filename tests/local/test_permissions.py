"""The rules of permissions, whatever the resources and the grants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import AuthorizationError, IllegalArgumentError
from neuro_sync.local.access import Caller
from neuro_sync.local.permissions import Grants, Resource, role_resource, with_roles
from neuro_sync.local.store import JobFilter, JobRow, Store
from neuro_sync.models.users import Action

ACTIONS = [Action.DENY, Action.LIST, Action.READ, Action.WRITE, Action.MANAGE]

names = st.text("abAB %?#@:+é", min_size=1, max_size=3)
few_names = st.sampled_from(["a", "b"])
resources = st.builds(
    lambda scheme, path: Resource(scheme, *path),
    st.sampled_from(["job", "storage"]),
    st.lists(few_names, max_size=4),
)
actions = st.sampled_from(ACTIONS)
permissions = st.lists(st.tuples(resources, actions), max_size=6)


@given(st.sampled_from(["a", "local"]), st.lists(names, max_size=4))
def test_an_address_is_read_as_it_was_written(cluster: str, path: list[str]) -> None:
    resource = Resource("storage", cluster, *path)
    assert Resource.parse(str(resource)) == resource


@given(permissions, resources)
def test_an_action_is_the_most_of_what_is_granted_there_or_above(
    granted: list[tuple[Resource, Action]], resource: Resource
) -> None:
    above = [action for there, action in granted if resource.is_within(there)]
    below = [action for there, action in granted if there.is_within(resource)]
    if max(below, key=ACTIONS.index, default=Action.DENY) in ACTIONS[2:]:
        above.append(Action.LIST)  # what leads to something readable may be listed
    most = max(above, key=ACTIONS.index, default=Action.DENY)
    assert Grants(granted).action_on(resource) is most


@given(permissions, resources, actions, st.sampled_from(["a", "b"]))
def test_what_is_allowed_is_allowed_below_and_with_less_power(
    granted: list[tuple[Resource, Action]], resource: Resource, action: Action, name: str
) -> None:
    grants = Grants(granted)
    if grants.allow(action, resource):
        assert action is Action.LIST or grants.allow(action, Resource(*resource.parts, name))
        assert all(grants.allow(less, resource) for less in ACTIONS[: ACTIONS.index(action)])


@given(permissions, resources, actions, permissions)
def test_one_more_permission_takes_nothing_away(
    granted: list[tuple[Resource, Action]],
    resource: Resource,
    action: Action,
    more: list[tuple[Resource, Action]],
) -> None:
    if Grants(granted).allow(action, resource):
        assert Grants(granted + more).allow(action, resource)


@given(permissions, resources)
def test_what_is_listed_is_what_is_allowed(
    granted: list[tuple[Resource, Action]], resource: Resource
) -> None:
    grants = Grants(granted)
    for listed in (None, resource):
        found = grants.within(listed)
        assert found == sorted(found, key=lambda item: item[0].parts)
        assert all(grants.action_on(there) is action for there, action in found)
        assert all(action in ACTIONS[2:] for _, action in found)
        assert all(listed is None or there.is_within(listed) for there, _ in found)
    readable = {there for there, action in granted if action in ACTIONS[2:]}
    assert readable <= {there for there, _ in grants.within()}
    # To be granted what is listed is to be granted the same.
    again = Grants(grants.within())
    assert again.allow(Action.READ, resource) == grants.allow(Action.READ, resource)
    assert again.action_on(resource) is grants.action_on(resource) or (
        grants.action_on(resource) is Action.LIST  # as somebody granted it
    )


@given(permissions, resources, st.none() | st.integers(0, 3))
def test_a_tree_tells_the_same_as_the_question_at_each_node(
    granted: list[tuple[Resource, Action]], resource: Resource, depth: int | None
) -> None:
    grants = Grants(granted)

    def check(node: dict[str, Any], there: Resource, level: int) -> Iterator[Resource]:
        assert node["action"] == grants.action_on(there).value
        assert depth is None or level <= depth
        yield there
        for name, child in node["children"].items():
            yield from check(child, Resource(*there.parts, name), level + 1)

    nodes = set(check(grants.tree(resource, depth), resource, 0))
    if depth is None:
        assert {there for there, _ in grants.within(resource)} <= nodes


people = ["ann", "ben", "ann/roles/one", "ben/roles/two"]
roles = [name for name in people if "/" in name]
uses = st.sampled_from([role_resource(name) for name in [*people, "none/roles/one"]])
things = st.one_of(resources, uses)


@given(
    st.dictionaries(
        st.sampled_from(people), st.lists(st.tuples(things, actions), max_size=4), max_size=4
    )
)
def test_roles_pass_on_what_they_have_however_they_are_nested(
    own: dict[str, list[tuple[Resource, Action]]],
) -> None:
    for name in people:
        permissions = with_roles(name, own, roles)
        grants = Grants(permissions)
        used = {name, *(r for r in roles if grants.allow(Action.READ, role_resource(r)))}
        expected = [item for account in used for item in own.get(account, ())]
        assert Counter(permissions) == Counter(expected)


cells = st.sampled_from(["aaa", "bbb"])
jobs = st.builds(
    lambda number, name, tenant: JobRow(
        id=f"job-{number}",
        name=name,
        owner="any",
        cluster_name=tenant[0],
        org_name=tenant[1],
        project_name=tenant[2],
        status="running",
        created_at=datetime.now(timezone.utc),
        description={},
        transitions="[]",
    ),
    st.integers(1, 3),
    st.none() | cells,
    st.tuples(cells, cells, cells),
)
job_paths = st.builds(
    lambda path, length: Resource("job", *path[:length]),
    st.tuples(cells, cells, cells, cells | st.sampled_from(["job-1", "job-2"]), cells),
    st.sampled_from([0, 1, 2, 3, 4, 4, 4, 4, 5]),
)
job_grants = st.lists(st.tuples(job_paths, st.sampled_from([Action.LIST, Action.READ])), max_size=5)


@given(st.lists(jobs, max_size=3, unique_by=lambda job: job.id), job_grants)
def test_the_jobs_that_are_listed_are_those_that_may_be_read(
    known: list[JobRow], granted: list[tuple[Resource, Action]]
) -> None:
    grants = Grants(granted)
    caller = Caller("any", grants)
    with TemporaryDirectory() as folder, closing(Store(Path(folder) / "db")) as store:
        for job in known:
            store.add(job, ())
        listed = {job.id for job in store.list(JobFilter(readable=grants.readable("job")))}
    assert listed == {job.id for job in known if caller.may(Action.READ, *job.resources)}


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "job",
        "job:one",
        "job:/local/one",
        "/job",
        "storage://local/local/alice/../bob",
        "storage://local/local/alice/%2e%2e/bob",
        "storage://local/local/alice/..%2Fbob",
        "storage://local/./alice",
        "job://local:80/one",
        "job://alice@local/one",
        "job://local/one?two",
        "job://local/one#two",
        "storage://local/%ff",
    ],
)
def test_what_is_no_address_of_a_resource_is_refused(uri: str) -> None:
    with pytest.raises(IllegalArgumentError):
        Resource.parse(uri)


@pytest.mark.parametrize("part", ["", ".", ".."])
def test_a_path_that_leads_elsewhere_names_no_resource(part: str) -> None:
    with pytest.raises(IllegalArgumentError):
        Resource("storage", "local", "local", "alice", part, "bob")


@pytest.mark.parametrize(
    ("uri", "same"),
    [
        ("JOB://Local/local/alice", "job://local/local/alice"),
        ("job://local/local/alice/", "job://local/local/alice"),
        ("job://local//local///alice", "job://local/local/alice"),
        ("job://", "job:"),
        ("storage://local/a%2Fb/%C3%A9%20%25", "storage://local/a/b/%C3%A9%20%25"),
    ],
)
def test_addresses_of_one_resource_are_written_alike(uri: str, same: str) -> None:
    assert str(Resource.parse(uri)) == same


def test_a_caller_is_told_all_that_is_missing() -> None:
    mine, other, third = (Resource("secret", "local", name) for name in ("mine", "other", "third"))
    caller = Caller("alice", Grants([(mine, Action.READ)]))
    caller.require(Action.READ, mine)
    caller.require(Action.READ, other, mine)
    with pytest.raises(AuthorizationError) as refused:
        caller.require_all([(Action.READ, mine), (Action.WRITE, mine), (Action.READ, other)])
    assert refused.value.body() == {
        "missing": [
            {"uri": "secret://local/mine", "action": "write"},
            {"uri": "secret://local/other", "action": "read"},
        ]
    }
    with pytest.raises(AuthorizationError) as refused:
        caller.require(Action.READ, other, third)
    assert [item["uri"] for item in refused.value.missing] == [str(other), str(third)]
