"""``session.users``, byte for byte as the hosted platform wants it, and as it answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import responses
from pydantic import ValidationError
from yarl import URL

from neuro_sync import (
    Action,
    AuthorizationError,
    IllegalArgumentError,
    Permission,
    ProtocolError,
    Quota,
    Session,
)

CLAIMS = base64.urlsafe_b64encode(b'{"identity": "alice"}').rstrip(b"=").decode()
TOKEN = f"head.{CLAIMS}.tail"
HOST = "https://api.example.org"
API, ADMIN = f"{HOST}/api/v1", f"{HOST}/apis/admin/v1"
READ = Permission(uri="storage:data", action=Action.READ)
FULL = "storage://default/acme/vision/data"
CONFIG: dict[str, Any] = {
    "authorized": True,
    "admin_url": ADMIN,
    "projects": [
        {"name": "vision", "cluster_name": "default", "org_name": "acme", "role": "writer"}
    ],
    "clusters": [
        {
            "name": "default",
            "orgs": ["acme"],
            **dict.fromkeys(("monitoring_url", "storage_url", "registry_url", "secrets_url"), HOST),
        }
    ],
}


@pytest.fixture
def hosted() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as platform:
        yield platform


@pytest.fixture
def session(hosted: responses.RequestsMock) -> Iterator[Session]:
    hosted.get(f"{API}/config", json=CONFIG)
    hosted.assert_all_requests_are_fired = False
    with Session(API, TOKEN) as opened:
        yield opened


def last(hosted: responses.RequestsMock) -> tuple[str | None, str, Any]:
    """Return the method, the address and the body of the last request."""
    request = hosted.calls[-1].request
    return request.method, str(request.url), request.body


def test_permissions_are_asked_for_by_kind_or_address(
    session: Session, hosted: responses.RequestsMock
) -> None:
    acl = [{"uri": FULL, "action": "manage"}, {"uri": "job:", "action": "own", "since": "2031"}]
    hosted.get(f"{API}/users/bob/permissions", json=acl)
    first, second = session.users.get_acl("bob")
    assert (first.uri, first.action) == (URL(FULL), Action.MANAGE)
    assert (str(second.uri), second.action) == ("job:", Action.UNKNOWN)
    assert last(hosted) == ("GET", f"{API}/users/bob/permissions", None)
    session.users.get_acl("bob", "job")
    assert last(hosted)[1] == f"{API}/users/bob/permissions?uri=job%3A"
    session.users.get_acl("bob", uri="storage:data")
    query = "uri=storage%3A%2F%2Fdefault%2Facme%2Fvision%2Fdata"
    assert last(hosted)[1] == f"{API}/users/bob/permissions?{query}"
    with pytest.raises(IllegalArgumentError, match="not both"):
        session.users.get_acl("bob", "job", uri="storage:data")


def test_shares_name_who_has_them(session: Session, hosted: responses.RequestsMock) -> None:
    listed = [{"user": "bob", "uri": FULL, "action": "read"}]
    hosted.get(f"{API}/users/alice/permissions/shared", json=listed)
    (share,) = session.users.get_shares("alice", "storage")
    assert last(hosted)[1] == f"{API}/users/alice/permissions/shared?uri=storage%3A"
    assert share.user == "bob"
    assert share.permission == Permission(uri=FULL, action=Action.READ)


def test_a_share_returns_what_the_platform_made_of_it(
    session: Session, hosted: responses.RequestsMock
) -> None:
    hosted.post(
        f"{API}/users/bob/permissions", status=201, json=[{"uri": FULL, "action": "manage"}]
    )
    assert session.users.share("bob", READ).action is Action.MANAGE
    method, url, body = last(hosted)
    assert (method, url) == ("POST", f"{API}/users/bob/permissions")
    assert json.loads(body) == [{"uri": FULL, "action": "read"}]


def test_a_platform_that_tells_nothing_of_a_share_is_misunderstood(
    session: Session, hosted: responses.RequestsMock
) -> None:
    url = f"{API}/users/bob/permissions"
    for body in ("[]", "{}", '[{"uri": 1}]', "Created"):
        hosted.upsert("POST", url, status=201, body=body)
        with pytest.raises(ProtocolError):
            session.users.share("bob", READ)


def test_what_is_not_ones_own_to_share_is_named(
    session: Session, hosted: responses.RequestsMock
) -> None:
    missing = [{"uri": FULL, "action": "manage"}]
    hosted.post(f"{API}/users/bob/permissions", status=403, json={"missing": missing})
    with pytest.raises(AuthorizationError, match=f"it takes manage on {FULL}") as refused:
        session.users.share("bob", READ)
    assert refused.value.missing == tuple(missing)


def test_revoking_names_the_address_in_the_query(
    session: Session, hosted: responses.RequestsMock
) -> None:
    hosted.delete(f"{API}/users/bob/permissions", status=204)
    session.users.revoke("bob", URL("job:/other/train"))
    query = "uri=job%3A%2F%2Fdefault%2Facme%2Fother%2Ftrain"
    assert last(hosted) == ("DELETE", f"{API}/users/bob/permissions?{query}", None)


def test_roles_are_written_with_colons_in_paths(
    session: Session, hosted: responses.RequestsMock
) -> None:
    hosted.post(f"{API}/users", status=201)
    session.users.add("alice/roles/ml")
    assert last(hosted) == ("POST", f"{API}/users", b'{"name": "alice/roles/ml"}')
    hosted.delete(f"{API}/users/alice:roles:ml", status=204)
    session.users.remove("alice/roles/ml")
    assert last(hosted)[:2] == ("DELETE", f"{API}/users/alice:roles:ml")
    hosted.get(f"{API}/users/alice/subroles", json={"subroles": ["alice/roles/ml"]})
    assert session.users.get_subroles("alice") == ("alice/roles/ml",)
    for name in ("alice:roles:ml", ""):
        with pytest.raises(IllegalArgumentError, match="no name of a user"):
            session.users.remove(name)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("job:train", "job://default/acme/vision/train"),
        ("job:", "job://default/acme/vision"),
        ("storage:5", "storage://default/acme/vision/5"),
        ("storage:a b/c%23d", "storage://default/acme/vision/a%20b/c%23d"),
        ("storage://gpu", "storage://gpu"),
        ("role://alice/roles/ml", "role://alice/roles/ml"),
    ],
)
def test_addresses_are_completed(
    session: Session, hosted: responses.RequestsMock, given: str, sent: str
) -> None:
    answer = [{"uri": sent, "action": "read"}]
    hosted.post(f"{API}/users/bob/permissions", status=201, json=answer)
    session.users.share("bob", Permission(uri=given, action=Action.READ))
    assert json.loads(last(hosted)[2]) == answer


@pytest.mark.parametrize(
    ("uri", "action", "text"),
    [
        ("data", "read", "should begin with one of storage:, image:, job:"),
        ("ftp://host/data", "read", "should begin with one of"),
        ("role:ml", "read", "should be absolute"),
        ("storage:a#b", "read", "fragment"),
        ("storage:../b", "read", "upwards"),
        ("storage:a", "list", "read, write, manage"),
        ("storage:a", "own", "read, write, manage"),
    ],
)
def test_what_is_no_permission_is_refused(uri: str, action: str, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Permission(uri=uri, action=action)


def test_a_quota_is_asked_of_the_organisation_then_of_the_cluster(
    session: Session, hosted: responses.RequestsMock
) -> None:
    with_org = f"{ADMIN}/clusters/default/orgs/acme/users/alice"
    hosted.get(with_org, json={"quota": {"total_running_jobs": 3}, "balance": {"credits": "0.1"}})
    quota = session.users.get_quota()
    assert (quota.credits, quota.total_running_jobs) == (Decimal("0.1"), 3)
    hosted.upsert("GET", with_org, status=403, json={"error": "no"})
    unlimited = {"quota": {}, "balance": {"spent_credits": "7"}}
    hosted.get(f"{ADMIN}/clusters/default/users/alice", json=unlimited)
    assert session.users.get_quota() == Quota()
    hosted.get(f"{ADMIN}/clusters/default/orgs/acme", json={"balance": {"credits": "5"}})
    org = session.users.get_org_quota()
    assert org is not None
    assert org.credits == 5


def test_without_an_admin_service_there_is_no_quota(hosted: responses.RequestsMock) -> None:
    hosted.get(f"{API}/config", json={**CONFIG, "admin_url": None})
    with Session(API, TOKEN) as session:
        assert session.users.get_quota() == Quota()
