"""Addresses, short and full."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from neuro_sync.models.uris import complete, parse_address

HERE = {"cluster": "default", "org": "acme", "project": "vision"}


@pytest.mark.parametrize(
    ("given_address", "full"),
    [
        ("storage:", "storage://default/acme/vision"),
        ("storage://", "storage://default/acme/vision"),
        ("storage:a/b", "storage://default/acme/vision/a/b"),
        ("storage:/other/a", "storage://default/acme/other/a"),
        ("storage:///other/a", "storage://default/acme/other/a"),
        ("storage:////other/a", "storage://default/acme/other/a"),
        ("storage://gpu/acme/vision/a", "storage://gpu/acme/vision/a"),
        ("storage://gpu/x", "storage://gpu/x"),
        ("storage:5", "storage://default/acme/vision/5"),
        ("storage:a b", "storage://default/acme/vision/a%20b"),
        ("storage:a%23b%3Fc", "storage://default/acme/vision/a%23b%3Fc"),
        ("STORAGE:a", "storage://default/acme/vision/a"),
    ],
)
def test_a_short_address_is_completed(given_address: str, full: str) -> None:
    address = parse_address(given_address, "storage")
    assert str(complete(address, **HERE)) == full


def test_without_an_organisation_a_project_lies_in_the_cluster() -> None:
    address = parse_address("disk:a", "disk")
    full = complete(address, cluster="default", org=None, project="alice")
    assert full == URL("disk://default/alice/a")


@pytest.mark.parametrize(
    "address",
    [
        "a",
        "disk:a",
        "storage:a?",
        "storage:a#",
        "storage:~a",
        "storage://~a/b",
        "storage://user@host/a",
        "storage://host:80/a",
        "storage:a/../../b",
    ],
)
def test_what_is_no_address_is_refused_and_named(address: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_address(address, "storage")
    assert address.partition(":")[2].strip("?#") in str(refused.value)


NAMES = st.text(st.characters(exclude_characters="/?#\0", codec="utf-8"), min_size=1).filter(
    lambda name: name not in (".", "..") and not name.startswith("~") and "%" not in name
)


@given(NAMES)
def test_any_name_makes_the_round_trip(name: str) -> None:
    full = complete(parse_address(f"storage:{name}", "storage"), **HERE)
    assert parse_address(str(full), "storage").path == f"/acme/vision/{name}"
