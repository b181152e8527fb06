"""The rules of permissions, whatever the resources and the grants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro_sync import AuthorizationError, IllegalArgumentError
from neuro_sync.local.access import Caller
from neuro_sync.local.permissions import Grants, Resource
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
    most = max(above, key=ACTIONS.index, default=Action.DENY)
    assert Grants(granted).action_on(resource) is most


@given(permissions, resources, actions, st.sampled_from(["a", "b"]))
def test_what_is_allowed_is_allowed_below_and_with_less_power(
    granted: list[tuple[Resource, Action]], resource: Resource, action: Action, name: str
) -> None:
    grants = Grants(granted)
    if grants.allow(action, resource):
        assert grants.allow(action, Resource(*resource.parts, name))
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
