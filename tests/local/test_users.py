"""What is one user's is not another's: on every route, until it is shared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from websocket import WebSocketBadStatusException
from yarl import URL

from neuro_sync import (
    Action,
    AuthenticationError,
    AuthorizationError,
    IllegalArgumentError,
    JobDescription,
    JobStatus,
    Permission,
    ResourceNotFound,
    Session,
)
from neuro_sync.local.accounts import accounts_of
from neuro_sync.local.server import LocalPlatform

from .conftest import Dial
from .routes import app_of, routes_of

JSON = "application/json; charset=utf-8"
# Names that occur nowhere else, so that an answer with one of them tells of its owner.
OPHELIA = "ophelia"
MALLORY = "mallory"


@dataclass(frozen=True)
class Stage:
    """A platform with somebody who has things, and somebody who would like to."""

    platform: LocalPlatform
    ophelia: Session
    mallory: Session
    token: str
    """Mallory's."""
    job: JobDescription
    """Ophelia's; it runs."""
    exec_id: str
    disk: str
    """The id of one of hers; it is called ``grave`` too."""

    @property
    def names(self) -> dict[str, str]:
        """What a path can be filled in with."""
        return {"id": self.job.id, "exec_id": self.exec_id, "port": "80", "disk": self.disk}

    def ask(self, method: str, path: str, body: object = None) -> requests.Response:
        """Have Mallory send a request, to a path from the root."""
        root = self.platform.url.removesuffix("/api/v1")
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.request(
            method, root + path, json=body, headers=headers, timeout=10, stream=True
        )

    def dial(self) -> Dial:
        return Dial(self, [])  # type: ignore[arg-type]  # it has a url and a token

    @property
    def url(self) -> str:
        return self.platform.url


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with LocalPlatform(ephemeral=True, grace=0.5, cores=1000, memory=2**42) as platform:
        ophelias, mallorys = platform.add_user(OPHELIA), platform.add_user(MALLORY)
        with Session(platform.url, ophelias) as ophelia, Session(platform.url, mallorys) as mallory:
            job = start(ophelia, name="hamlet")
            exec_id = ophelia.jobs.exec_create(job, "true")
            ophelia.secrets.add("skull", b"yorick")
            disk = ophelia.disks.create(2**20, name="grave").id
            yield Stage(platform, ophelia, mallory, mallorys, job, exec_id, disk)


def start(session: Session, **options: Any) -> JobDescription:
    command = "sh -c 'echo alas; sleep 600'"
    job = session.jobs.start(
        image="any", preset_name="cpu-small", command=command, tags=["elsinore"], **options
    )
    return session.jobs.wait(job, until="running")


@dataclass(frozen=True)
class Refused:
    """A call that Mallory makes for something of Ophelia's."""

    action: str
    """What is missing,"""
    resources: tuple[str, ...]
    """and on what."""
    path: str | None = None
    """What to call, where it is not enough to fill the names in."""
    body: object = None


@dataclass(frozen=True)
class Silent:
    """A call that anybody may make, and that tells nothing of Ophelia."""

    path: str | None = None
    body: object = None
    status: int = 200


JOB = ("job://local/local/ophelia/{id}", "job://local/local/ophelia/hamlet")
PROJECT = ("job://local/local/ophelia",)
USER = ("user://ophelia",)
READ_JOB, WRITE_JOB = Refused("read", JOB), Refused("write", JOB)
NOT_UPGRADED = Silent(status=400)
# The registry takes no such login; to whom it gives what, test_registry.py tells.
REGISTRY = Silent(f"/v2/local/{OPHELIA}/resnet/tags/list", status=400)
API, ADMIN = "/api/v1", "/apis/admin/v1"
HERS = "org_name=local&project_name=ophelia"
SECRETS, DISKS = ("secret://local/local/ophelia",), ("disk://local/local/ophelia",)
DISK = (f"{DISKS[0]}/{{disk}}", f"{DISKS[0]}/grave")
TENANT = {"org_name": "local", "project_name": OPHELIA}
NO_FILE = Silent(f"{API}/storage/local/ophelia?destination=/local/mallory/x", status=404)
RUN: dict[str, Any] = {
    "project_name": OPHELIA,
    "container": {"image": "any", "resources": {"cpu": 0.1, "memory": 2**26}},
}
START = {"project_name": OPHELIA, "image": "any", "preset_name": "cpu-small"}
GRANT = [{"uri": PROJECT[0], "action": "read"}]
SHARE = Refused("manage", PROJECT, f"{API}/users/{MALLORY}/permissions", GRANT)

EXPECTED: dict[tuple[str, str], Refused | Silent] = {
    ("GET", "/ping"): Silent(),
    ("GET", "/openapi.json"): Silent(),
    ("GET", "/docs"): Silent(),
    ("GET", "/docs/oauth2-redirect"): Silent(),
    ("GET", "/redoc"): Silent(),
    ("GET", f"{API}/ping"): Silent(),
    ("GET", f"{API}/config"): Silent(),
    ("GET", f"{API}/tags"): Silent(),
    ("GET", f"{API}/jobs"): Silent(),
    ("POST", f"{API}/jobs"): Refused("write", PROJECT, body=RUN),
    ("GET", f"{API}/jobs/{{id}}"): READ_JOB,
    ("DELETE", f"{API}/jobs/{{id}}"): WRITE_JOB,
    ("PUT", f"{API}/jobs/{{id}}/max_run_time_minutes"): Refused(
        "write", JOB, body={"max_run_time_minutes": 1}
    ),
    ("GET", f"{API}/monitoring/jobs/capacity"): Silent(),
    ("POST", f"{API}/monitoring/jobs/available"): Silent(),
    ("GET", f"{API}/monitoring/jobs/{{id}}/log"): READ_JOB,
    ("WS", f"{API}/monitoring/jobs/{{id}}/log_ws"): READ_JOB,
    ("GET", f"{API}/monitoring/jobs/{{id}}/top"): READ_JOB,
    ("WS", f"{API}/monitoring/jobs/{{id}}/top"): READ_JOB,
    ("GET", f"{API}/monitoring/jobs/{{id}}/exec"): NOT_UPGRADED,
    ("POST", f"{API}/monitoring/jobs/{{id}}/exec"): NOT_UPGRADED,
    ("WS", f"{API}/monitoring/jobs/{{id}}/exec"): Refused(
        "write", JOB, f"{API}/monitoring/jobs/{{id}}/exec?cmd=true"
    ),
    ("GET", f"{API}/monitoring/jobs/{{id}}/attach"): NOT_UPGRADED,
    ("POST", f"{API}/monitoring/jobs/{{id}}/attach"): NOT_UPGRADED,
    ("WS", f"{API}/monitoring/jobs/{{id}}/attach"): WRITE_JOB,
    ("POST", f"{API}/monitoring/jobs/{{id}}/kill"): WRITE_JOB,
    ("POST", f"{API}/monitoring/jobs/{{id}}/save"): WRITE_JOB,
    ("GET", f"{API}/monitoring/jobs/{{id}}/port_forward/{{port}}"): NOT_UPGRADED,
    ("POST", f"{API}/monitoring/jobs/{{id}}/port_forward/{{port}}"): NOT_UPGRADED,
    ("WS", f"{API}/monitoring/jobs/{{id}}/port_forward/{{port}}"): WRITE_JOB,
    ("POST", f"{API}/monitoring/jobs/{{id}}/resize"): WRITE_JOB,
    ("POST", f"{API}/monitoring/jobs/{{id}}/exec_create"): Refused(
        "write", JOB, body={"command": "true"}
    ),
    ("GET", f"{API}/monitoring/jobs/{{id}}/{{exec_id}}/exec_inspect"): READ_JOB,
    ("POST", f"{API}/monitoring/jobs/{{id}}/{{exec_id}}/exec_resize"): Refused(
        "write", JOB, f"{API}/monitoring/jobs/{{id}}/{{exec_id}}/exec_resize?w=80&h=25"
    ),
    ("GET", f"{API}/monitoring/jobs/{{id}}/{{exec_id}}/exec_start"): NOT_UPGRADED,
    ("POST", f"{API}/monitoring/jobs/{{id}}/{{exec_id}}/exec_start"): NOT_UPGRADED,
    ("WS", f"{API}/monitoring/jobs/{{id}}/{{exec_id}}/exec_start"): WRITE_JOB,
    ("GET", f"{API}/storage/{{path:any_path}}"): NO_FILE,
    ("PUT", f"{API}/storage/{{path:any_path}}"): NO_FILE,
    ("PATCH", f"{API}/storage/{{path:any_path}}"): NO_FILE,
    ("POST", f"{API}/storage/{{path:any_path}}"): NO_FILE,
    ("DELETE", f"{API}/storage/{{path:any_path}}"): NO_FILE,
    ("GET", f"{API}/secrets"): Silent(f"{API}/secrets?{HERS}"),
    ("POST", f"{API}/secrets"): Refused(
        "write", SECRETS, body={"key": "skull", "value": "bm8=", **TENANT}
    ),
    ("GET", f"{API}/secrets/{{key}}"): Refused(
        "read", (f"{SECRETS[0]}/skull",), f"{API}/secrets/skull?{HERS}"
    ),
    ("DELETE", f"{API}/secrets/{{key}}"): Refused("write", SECRETS, f"{API}/secrets/skull?{HERS}"),
    ("GET", f"{API}/disk"): Silent(f"{API}/disk?{HERS}"),
    ("POST", f"{API}/disk"): Refused("write", DISKS, body={"storage": 2**20, **TENANT}),
    ("GET", f"{API}/disk/{{id_or_name}}"): Refused("read", DISK, f"{API}/disk/grave?{HERS}"),
    ("DELETE", f"{API}/disk/{{id_or_name}}"): Refused("write", DISK, f"{API}/disk/grave?{HERS}"),
    ("POST", f"{API}/users"): Refused(
        "manage", ("role://ophelia/roles/fool",), body={"name": "ophelia/roles/fool"}
    ),
    ("GET", f"{API}/users/{{user}}"): Refused("read", USER),
    ("DELETE", f"{API}/users/{{user}}"): Refused("manage", USER),
    ("GET", f"{API}/users/{{user}}/subroles"): Refused("read", USER),
    ("GET", f"{API}/users/{{user}}/permissions"): Refused("read", USER),
    ("GET", f"{API}/users/{{user}}/permissions/shared"): Refused("read", USER),
    ("GET", f"{API}/users/{{user}}/permissions/tree"): Refused(
        "read", USER, f"{API}/users/{{user}}/permissions/tree?uri=job:"
    ),
    ("POST", f"{API}/users/{{user}}/permissions/check"): Refused("read", USER, body=GRANT),
    ("POST", f"{API}/users/{{user}}/permissions"): SHARE,
    ("PUT", f"{API}/users/{{user}}/permissions"): SHARE,
    ("DELETE", f"{API}/users/{{user}}/permissions"): Refused(
        "manage", PROJECT, f"{API}/users/{MALLORY}/permissions?uri={PROJECT[0]}"
    ),
    ("POST", f"{API}/users/{{user}}/token"): Refused("manage", USER),
    ("GET", f"{API}/service_accounts"): Silent(status=501),
    ("POST", f"{API}/service_accounts"): Silent(status=501),
    ("GET", f"{API}/service_accounts/{{id}}"): Silent(status=501),
    ("DELETE", f"{API}/service_accounts/{{id}}"): Silent(status=501),
    ("GET", f"{ADMIN}/clusters/{{cluster}}/users/{{user}}"): Refused("read", USER),
    ("GET", f"{ADMIN}/clusters/{{cluster}}/orgs/{{org}}/users/{{user}}"): Refused("read", USER),
    ("GET", f"{ADMIN}/clusters/{{cluster}}/orgs/{{org}}"): Silent(),
    ("GET", "/v2/"): Silent(status=400),
    ("GET", "/v2/_catalog"): Silent(status=400),
    **{
        (method, "/v2/{path:path}"): REGISTRY
        for method in ("GET", "POST", "PATCH", "PUT", "DELETE")
    },
}
"""What Mallory meets on each route. One that is new needs a line here, and may well be forgotten
to ask for a permission."""


def test_every_route_is_in_the_table(stage: Stage) -> None:
    app = app_of(stage.platform)
    routes = set(routes_of(app.routes))
    described = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert described <= routes
    assert routes == set(EXPECTED)


def calls(kind: type) -> list[Any]:
    return [
        pytest.param(method, path, call, id=f"{method} {path}")
        for (method, path), call in EXPECTED.items()
        if isinstance(call, kind)
    ]


@pytest.fixture
def unchanged(stage: Stage) -> Iterator[None]:
    """Hold that nothing of what a test does has any effect."""

    def known() -> list[object]:
        session = stage.ophelia
        with accounts_of(stage.platform.folder) as accounts:
            stored = [accounts.names(), accounts.grants(), accounts.tokens(), accounts.members()]
        job = session.jobs.status(stage.job)
        stored += [session.secrets.get("skull"), session.disks.get("grave").id]
        return [*stored, job.status, job.life_span, len(list(session.jobs.list()))]

    before = known()
    yield
    assert known() == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("method", "path", "call"), calls(Refused))
def test_what_is_anothers_is_refused(stage: Stage, method: str, path: str, call: Refused) -> None:
    names = {**stage.names, "user": OPHELIA}
    status, body = answer(stage, method, call.path or path, names, call.body)
    missing = [
        {"uri": resource.format(**names), "action": call.action} for resource in call.resources
    ]
    assert (status, body) == (403, json.dumps({"missing": missing}))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("method", "path", "call"), calls(Silent))
def test_what_anybody_may_ask_tells_nothing_of_others(
    stage: Stage, method: str, path: str, call: Silent
) -> None:
    status, body = answer(stage, method, call.path or path, stage.names, call.body)
    assert status == call.status
    assert not re.search(f"{OPHELIA}|hamlet|elsinore|skull|grave|{stage.job.id}", body)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("method", "path", "call"),
    [case for case in calls(Refused) if case.values[2].resources == USER],
)
def test_whether_a_user_exists_is_told_to_nobody(
    stage: Stage, method: str, path: str, call: Refused
) -> None:
    known = answer(stage, method, call.path or path, {"user": OPHELIA}, call.body)
    unknown = answer(stage, method, call.path or path, {"user": "nobody"}, call.body)
    assert unknown == (known[0], known[1].replace(OPHELIA, "nobody"))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("method", "path", "call"),
    [case for case in calls(Refused) if case.values[2].resources == JOB],
)
@pytest.mark.parametrize("id", ["job-00000000-0000-0000-0000-000000000000", "hamlet"])
def test_a_job_is_found_by_its_id_and_by_names_of_ones_own(
    stage: Stage, method: str, path: str, call: Refused, id: str
) -> None:
    names = {"id": id, "exec_id": stage.exec_id, "port": "80"}
    status, body = answer(stage, method, call.path or path, names, call.body)
    assert (status, body) == (400, json.dumps({"error": f"no such job {id}"}))


def answer(
    stage: Stage, method: str, path: str, names: dict[str, str], body: object
) -> tuple[int, str]:
    """Return what Mallory gets."""
    path = path.format(**{"cluster": "local", "org": "local", **names})
    if method == "WS":
        job, _, rest = path.removeprefix(f"{API}/monitoring/jobs/").partition("/")
        try:
            stage.dial()(job, rest, offer=()).leave()
        except WebSocketBadStatusException as refusal:
            return refusal.status_code, (refusal.resp_headers or {})["x-error"]
        return 101, ""
    response = stage.ask(method, path, body)
    with response:
        # Of a stream that has no end, what comes first is enough.
        text = next(response.iter_content(2**16), b"") if response.ok else response.content
    return response.status_code, text.decode()


# Sharing


@pytest.fixture
def shared(stage: Stage) -> Iterator[JobDescription]:
    """A job of Ophelia's, to be shared; whatever Mallory is granted is taken back."""
    job = start(stage.ophelia, name=f"yorick-{uuid4().hex[:8]}")
    yield job
    stage.ophelia.jobs.kill(job)
    with accounts_of(stage.platform.folder) as accounts:
        accounts.replace(MALLORY, [])


JOB_CALLS = [case for case in calls(Refused) if case.values[2].resources == JOB]


@pytest.mark.parametrize("granted", [Action.READ, Action.WRITE])
@pytest.mark.parametrize(("method", "path", "call"), JOB_CALLS)
def test_each_call_takes_no_more_and_no_less_than_its_permission(
    stage: Stage, shared: JobDescription, method: str, path: str, call: Refused, granted: Action
) -> None:
    command = stage.ophelia.jobs.exec_create(shared, "true")
    stage.ophelia.users.share(MALLORY, Permission(uri=str(shared.uri), action=granted))
    names = {"id": shared.id, "exec_id": command, "port": "80"}
    status, body = answer(stage, method, call.path or path, names, call.body)
    if Action(call.action).power <= granted.power:
        # What the call itself has to say, a port that nobody listens on for one.
        assert status != 403
        assert "no such job" not in body
    else:
        assert status == 403
        assert {item["action"] for item in json.loads(body)["missing"]} == {call.action}


def addresses(job: JobDescription) -> list[str]:
    """Return how a permission on a job may be granted."""
    return [f"job:{job.id}", f"job:{job.name}", str(job.uri), "job:", "job://local/local/ophelia"]


@pytest.mark.parametrize("as_url", [False, True])
def test_a_shared_job_is_found_at_its_address_by_id_and_by_name(
    stage: Stage, shared: JobDescription, as_url: bool
) -> None:
    jobs = stage.mallory.jobs
    by_name = f"job://local/local/{OPHELIA}/{shared.name}"
    with pytest.raises(IllegalArgumentError, match=f"no such job {by_name}"):
        jobs.status(by_name)  # that it exists is not told
    stage.ophelia.users.share(MALLORY, Permission(uri=shared.uri, action=Action.READ))
    for address in (by_name, f"job:/{OPHELIA}/{shared.name}", str(shared.uri)):
        assert jobs.status(URL(address) if as_url else address).id == shared.id
        with jobs.logs(address) as lines:
            assert next(lines) == "alas"
    for address in ("job:", f"job://local/local/{OPHELIA}/"):
        with pytest.raises(IllegalArgumentError):
            jobs.status(address)


@pytest.mark.parametrize("way", range(5))
def test_who_may_read_a_job_sees_it_and_changes_nothing(
    stage: Stage, shared: JobDescription, way: int
) -> None:
    uri = addresses(shared)[way]
    stage.ophelia.users.share(MALLORY, Permission(uri=uri, action=Action.READ))
    jobs = stage.mallory.jobs
    assert jobs.status(shared.id).owner == OPHELIA
    listed = {job.id for job in jobs.list(name=shared.name, statuses=[JobStatus.RUNNING])}
    assert listed == {shared.id}
    assert shared.id in {job.id for job in jobs.list(owners=[OPHELIA])}
    assert shared.id not in {job.id for job in jobs.list(owners=[MALLORY])}
    with jobs.logs(shared.id) as lines:
        assert next(lines) == "alas"
    for refused in (jobs.kill, lambda id: jobs.exec(id, "true"), jobs.attach):
        with pytest.raises(AuthorizationError) as error:
            refused(shared.id)
        assert {item["action"] for item in error.value.missing} == {"write"}
    with pytest.raises(AuthorizationError, match="manage"):
        stage.mallory.users.share(OPHELIA, Permission(uri=str(shared.uri), action=Action.READ))


def test_who_may_read_a_job_sees_what_it_uses(stage: Stage, shared: JobDescription) -> None:
    stage.ophelia.users.share(MALLORY, Permission(uri=str(shared.uri), action=Action.READ))
    with stage.mallory.jobs.top(shared.id) as samples:
        assert next(samples).memory >= 0


def test_a_permission_on_a_name_is_none_on_other_jobs(stage: Stage, shared: JobDescription) -> None:
    stage.ophelia.users.share(MALLORY, Permission(uri=f"job:{shared.name}", action=Action.MANAGE))
    assert [job.id for job in stage.mallory.jobs.list(owners=[OPHELIA])] == [shared.id]
    with pytest.raises(AuthorizationError):
        stage.mallory.jobs.status(stage.job.id)


def test_who_may_write_takes_part_in_a_job_until_it_is_revoked(
    stage: Stage, shared: JobDescription
) -> None:
    jobs, uri = stage.mallory.jobs, f"job:{shared.id}"
    stage.ophelia.users.share(MALLORY, Permission(uri=uri, action=Action.WRITE))
    assert jobs.run_command(shared.id, "echo alas").stdout == b"alas\n"
    with pytest.raises(AuthorizationError, match="manage"):
        stage.mallory.users.share(MALLORY, Permission(uri=str(shared.uri), action=Action.MANAGE))
    stage.ophelia.users.revoke(MALLORY, uri)
    with pytest.raises(AuthorizationError):
        jobs.exec(shared.id, "true")
    with pytest.raises(AuthorizationError):
        jobs.logs(shared.id)
    with pytest.raises(AuthorizationError):
        jobs.kill(shared.id)
    assert list(jobs.list(owners=[OPHELIA])) == []
    assert stage.ophelia.jobs.status(shared).status.is_running


def test_who_may_write_may_kill(stage: Stage, shared: JobDescription) -> None:
    stage.ophelia.users.share(MALLORY, Permission(uri=f"job:{shared.name}", action=Action.WRITE))
    stage.mallory.jobs.kill(shared.id)
    assert stage.ophelia.jobs.status(shared).reason == "UserRequested"


def test_who_may_manage_shares_on(stage: Stage, shared: JobDescription) -> None:
    token = stage.platform.add_user("horatio")
    stage.ophelia.users.share(MALLORY, Permission(uri=f"job:{shared.name}", action=Action.MANAGE))
    uri = f"job://local/local/ophelia/{shared.name}"
    stage.mallory.users.share("horatio", Permission(uri=uri, action=Action.READ))
    with Session(stage.platform.url, token) as horatio:
        assert [job.id for job in horatio.jobs.list()] == [shared.id]
        stage.mallory.users.revoke("horatio", uri)
        assert list(horatio.jobs.list()) == []
    with accounts_of(stage.platform.folder) as accounts:
        accounts.remove("horatio")


def test_a_share_tells_what_is_allowed_from_now_on(stage: Stage, shared: JobDescription) -> None:
    users = stage.ophelia.users
    given = users.share(MALLORY, Permission(uri="job:", action=Action.WRITE))
    assert (str(given.uri), given.action) == ("job://local/local/ophelia", Action.WRITE)
    lesser = users.share(MALLORY, Permission(uri=f"job:{shared.name}", action=Action.READ))
    assert lesser.action is Action.WRITE
    users.share(MALLORY, Permission(uri="job:", action=Action.READ))
    acl = stage.mallory.users.get_acl(MALLORY, uri="job://local/local/ophelia")
    assert {item.action for item in acl} == {Action.WRITE}


def test_permissions_are_listed_by_kind_and_below_an_address(
    stage: Stage, shared: JobDescription
) -> None:
    stage.ophelia.users.share(MALLORY, Permission(uri=f"job:{shared.name}", action=Action.READ))
    stage.ophelia.users.share(MALLORY, Permission(uri="storage:skulls", action=Action.WRITE))

    def told(scheme: str | None = None, uri: str | None = None) -> list[tuple[str, str]]:
        found = stage.mallory.users.get_acl(MALLORY, scheme, uri=uri)
        return [(str(item.uri), item.action.value) for item in found]

    assert told("job") == [
        ("job://local/local/mallory", "manage"),
        (f"job://local/local/ophelia/{shared.name}", "read"),
    ]
    skulls = "storage://local/local/ophelia/skulls"
    assert told(uri="storage://local/local/ophelia") == [(skulls, "write")]
    assert told(uri=f"{skulls}/upper") == [(f"{skulls}/upper", "write")]
    assert told(uri="storage://local/local/ophelia/other") == []
    assert set(told("storage")) < set(told())
    shares = stage.ophelia.users.get_shares(OPHELIA)
    assert [(share.user, str(share.uri), share.action.value) for share in shares] == [
        (MALLORY, f"job://local/local/ophelia/{shared.name}", "read"),
        (MALLORY, skulls, "write"),
    ]
    (share,) = stage.ophelia.users.get_shares(OPHELIA, "storage")
    assert share.permission == Permission(uri=skulls, action=Action.WRITE)
    assert stage.mallory.users.get_shares(MALLORY) == ()


def test_a_revocation_without_effect_is_told(stage: Stage, shared: JobDescription) -> None:
    stage.ophelia.users.share(MALLORY, Permission(uri="job:", action=Action.READ))
    path = f"{API}/users/ophelia/permissions?uri=job://local/local/mallory/any"
    refused = stage.ask("DELETE", path)
    assert (refused.status_code, refused.text) == (400, '{"error": "Operation has no effect"}')
    with pytest.raises(IllegalArgumentError, match="Operation has no effect"):
        stage.ophelia.users.revoke(MALLORY, f"job:{shared.name}")
    assert stage.mallory.jobs.status(shared.id).id == shared.id


def test_an_unknown_user_is_404_to_those_who_share(stage: Stage) -> None:
    path = f"{API}/users/nobody/permissions"
    mine = [{"uri": "job://local/local/mallory", "action": "read"}]
    for refused in (
        stage.ask("POST", path, mine),
        stage.ask("DELETE", f"{path}?uri=job://local/local/mallory"),
    ):
        assert (refused.status_code, refused.headers["Content-Type"]) == (404, JSON)
        assert refused.text == '{"error": "user \\"nobody\\" was not found"}'


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "valid array"),
        ([{"uri": "job://local/local/mallory"}], "is required"),
        ([{"uri": "job://local/local/mallory", "action": "deny"}], "read, write, manage"),
        ([{"uri": "job://local/local/mallory", "action": "own"}], "read, write, manage"),
        ([{"uri": "job:mine", "action": "read"}], "job:mine"),
        ([{"uri": "ftp://local/mallory", "action": "read"}], "should begin with one of"),
        ([{"uri": "job://local/local/mallory/../ophelia", "action": "read"}], "Invalid path"),
    ],
)
def test_what_cannot_be_granted_is_refused(stage: Stage, body: object, text: str) -> None:
    refused = stage.ask("POST", f"{API}/users/{OPHELIA}/permissions", body)
    assert refused.status_code == 400
    assert text in refused.json()["error"]


# Roles


def test_a_role_passes_on_what_was_shared_to_it(stage: Stage, shared: JobDescription) -> None:
    users, role = stage.ophelia.users, "ophelia/roles/gravediggers"
    users.add(role)
    assert users.get_subroles(OPHELIA) == (role,)
    users.share(role, Permission(uri=f"job:{shared.name}", action=Action.READ))
    with pytest.raises(AuthorizationError):
        stage.mallory.jobs.status(shared.id)
    users.share(MALLORY, Permission(uri=f"role://{role}", action=Action.READ))
    assert stage.mallory.jobs.status(shared.id).id == shared.id
    assert [job.id for job in stage.mallory.jobs.list(owners=[OPHELIA])] == [shared.id]
    expanded = f"{API}/users/{MALLORY}/permissions"
    assert str(shared.name) in stage.ask("GET", expanded).text
    assert str(shared.name) not in stage.ask("GET", f"{expanded}?expand_roles=false").text
    with pytest.raises(IllegalArgumentError, match="exists already"):
        users.add(role)
    users.remove(role)
    with pytest.raises(AuthorizationError):
        stage.mallory.jobs.status(shared.id)
    users.add(role)  # another one of the same name is nothing to those who had the first
    users.share(role, Permission(uri=f"job:{shared.name}", action=Action.READ))
    with pytest.raises(AuthorizationError):
        stage.mallory.jobs.status(shared.id)
    users.remove(role)
    with pytest.raises(ResourceNotFound, match="was not found"):
        users.remove(role)


@pytest.mark.parametrize("name", ["ophelia/gravediggers", "ophelia/roles/", "ophelia/roles/A"])
def test_a_role_has_a_name_like_a_path(stage: Stage, name: str) -> None:
    with pytest.raises(IllegalArgumentError):
        stage.ophelia.users.add(name)


# What the service says beside that


def test_the_tree_of_permissions_follows_the_paths(stage: Stage, shared: JobDescription) -> None:
    stage.ophelia.users.share(MALLORY, Permission(uri=f"job:{shared.name}", action=Action.READ))
    path = f"{API}/users/{MALLORY}/permissions/tree?uri=job://local/local"
    yorick = {"action": "read", "children": {}}
    assert stage.ask("GET", path).json() == {
        "path": "/local/local",
        "action": "list",
        "children": {
            MALLORY: {"action": "manage", "children": {}},
            OPHELIA: {"action": "list", "children": {shared.name: yorick}},
        },
    }
    shallow = stage.ask("GET", f"{path}&depth=1").json()
    assert shallow["children"][OPHELIA] == {"action": "list", "children": {}}


def test_permissions_can_be_checked(stage: Stage) -> None:
    path = f"{API}/users/{MALLORY}/permissions/check"
    mine = {"uri": "job://local/local/mallory/any", "action": "write"}
    other = {"uri": "job://local/local/ophelia/any", "action": "read"}
    allowed = stage.ask("POST", path, [mine])
    assert (allowed.status_code, allowed.json()) == (200, {"missing": []})
    refused = stage.ask("POST", path, [mine, other])
    assert (refused.status_code, refused.json()) == (403, {"missing": [other]})


def test_a_user_is_told_of_itself(stage: Stage) -> None:
    assert stage.ask("GET", f"{API}/users/{MALLORY}").json() == {"name": MALLORY}
    quota = stage.mallory.users.get_quota()
    assert (quota.credits, quota.total_running_jobs) == (None, None)
    assert stage.mallory.users.get_org_quota() == quota
    config = stage.ask("GET", f"{API}/config").json()
    project = {"name": MALLORY, "cluster_name": "local", "org_name": "local", "role": "admin"}
    assert config["projects"] == [project]
    assert config["orgs"] == [{"name": "local", "role": "user"}]


# Projects, and users that come and go while the platform runs


@pytest.mark.parametrize(
    ("role", "allowed"), [("reader", 1), ("writer", 2), ("manager", 3), ("admin", 3)]
)
def test_a_role_in_a_project_covers_what_is_in_it(stage: Stage, role: str, allowed: int) -> None:
    project = f"denmark-{role}"
    with accounts_of(stage.platform.folder) as accounts:
        accounts.add_project(project)
        accounts.set_member(project, OPHELIA, "admin")
        job = stage.ophelia.jobs.start(
            image="any", preset_name="cpu-small", command="true", project_name=project
        )
        assert job.uri.path == f"/local/{project}/{job.id}"
        with pytest.raises(AuthorizationError):
            stage.mallory.jobs.status(job.id)
        accounts.set_member(project, MALLORY, role)
        jobs, users = stage.mallory.jobs, stage.mallory.users
        attempts = (
            lambda: jobs.status(job.id),
            lambda: jobs.start(
                image="any", preset_name="cpu-small", command="true", project_name=project
            ),
            lambda: users.share(MALLORY, Permission(uri=str(job.uri), action=Action.READ)),
        )
        for attempt in attempts[allowed:]:
            with pytest.raises(AuthorizationError):
                attempt()
        for attempt in attempts[:allowed]:
            attempt()
        roles = {
            item["name"]: item["role"]
            for item in stage.ask("GET", f"{API}/config").json()["projects"]
        }
        assert roles == {MALLORY: "admin", project: role}
        accounts.set_member(project, MALLORY, None)
        accounts.replace(MALLORY, [])
        with pytest.raises(AuthorizationError):
            stage.mallory.jobs.status(job.id)


def test_the_one_who_runs_the_platform_may_do_everything(stage: Stage) -> None:
    with Session(stage.platform.url, stage.platform.token) as owner:
        assert stage.job.id in {job.id for job in owner.jobs.list(owners=[OPHELIA])}
        assert owner.project_name == owner.username
        owner.users.share(MALLORY, Permission(uri=str(stage.job.uri), action=Action.READ))
        assert stage.mallory.jobs.status(stage.job.id).id == stage.job.id
        owner.users.revoke(MALLORY, stage.job.uri)
        with pytest.raises(IllegalArgumentError, match="cannot be removed"):
            owner.users.remove(owner.username)
        with pytest.raises(AuthorizationError) as refused:
            owner.jobs.start(
                image="any", preset_name="cpu-small", command="true", project_name="no-such"
            )
        uri = "job://local/local/no-such"
        assert refused.value.missing == ({"uri": uri, "action": "write"},)


def test_a_user_that_is_removed_is_let_in_no_more(stage: Stage) -> None:
    with Session(stage.platform.url, stage.platform.add_user("laertes")) as laertes:
        job = start(laertes)
        with accounts_of(stage.platform.folder) as accounts:
            accounts.remove("laertes")
        with pytest.raises(AuthenticationError):
            laertes.jobs.status(job.id)
        with pytest.raises(AuthenticationError):
            laertes.jobs.exec(job.id, "true")


def test_a_token_is_revoked_with_the_one_that_it_was_made_by(stage: Stage) -> None:
    def ask(token: str, method: str = "GET", path: str = "/jobs") -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(method, stage.url + path, headers=headers, timeout=10)

    def make(token: str, account: str) -> str:
        made: str = ask(token, "POST", f"/users/{account}/token").json()["access_token"]
        return made

    name, role, lesser = "fortinbras", "fortinbras/roles/army", "fortinbras/roles/scout"
    for is_removed in (False, True):
        first = stage.platform.add_user(name)
        with Session(stage.url, first) as session:
            session.users.add(role)
            session.users.add(lesser)
            permission = Permission(uri=f"role://{lesser}", action=Action.MANAGE)
            session.users.share(role, permission)
        roles = make(first, role.replace("/", ":"))
        scouts = make(roles, lesser.replace("/", ":"))
        by_others = make(stage.platform.token, name)
        assert {ask(token).status_code for token in (first, roles, scouts, by_others)} == {200}
        with accounts_of(stage.platform.folder) as accounts:
            if is_removed:
                accounts.remove(name)
                accounts.add_user(name)
                accounts.add_role(role)
                accounts.add_role(lesser)
            else:
                accounts.forget_tokens(name)
            newer = accounts.add_token(name)
        assert {ask(token).status_code for token in (first, roles, scouts, by_others)} == {401}
        assert ask(make(newer, role.replace("/", ":"))).status_code == 200
        with accounts_of(stage.platform.folder) as accounts:
            accounts.remove(name)


def test_a_token_that_was_made_by_a_replaced_token_of_the_folder_is_not_accepted(
    tmp_path: Path,
) -> None:
    def accepts(platform: LocalPlatform, token: str) -> bool:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(f"{platform.url}/jobs", headers=headers, timeout=10).ok

    with LocalPlatform(tmp_path / "state") as platform:
        kept = platform.add_user("horatio")
        headers = {"Authorization": f"Bearer {platform.token}"}
        answer = requests.post(f"{platform.url}/users/horatio/token", headers=headers, timeout=10)
        made = answer.json()["access_token"]
        assert accepts(platform, made)
    with LocalPlatform(tmp_path / "state") as platform:
        assert accepts(platform, made)
    (tmp_path / "state" / "token").unlink()
    with LocalPlatform(tmp_path / "state") as platform:
        assert not accepts(platform, made)
        assert accepts(platform, kept)


def test_what_is_lent_to_the_platform_is_of_one_user_not_of_the_next_of_that_name(
    stage: Stage,
) -> None:
    users = app_of(stage.platform).state.users
    stage.platform.add_user("osric")
    with accounts_of(stage.platform.folder) as accounts, users.lend("osric") as lent:
        accounts.forget_tokens("osric")
        assert users.of_token(lent).name == "osric"
        made = accounts.add_token("osric", parent=users.of_token(lent).token_digest)
        assert users.of_token(made) is None  # nothing outlives what is lent
        accounts.remove("osric")
        assert users.of_token(lent) is None
        accounts.add_user("osric")
        assert users.of_token(lent) is None
        accounts.remove("osric")
    with users.lend("nobody") as lent:
        assert users.of_token(lent) is None


def test_what_a_job_needs_is_refused_all_at_once(stage: Stage) -> None:
    host = stage.platform.url.split("/")[2]
    theirs = "storage://local/local/ophelia/skulls"
    container = {
        "image": f"{host}/local/ophelia/stage:latest",
        "resources": {"cpu": 0.1, "memory": 2**26},
        "secret_env": {"KEY": "secret://local/local/ophelia/key"},
        "volumes": [
            {"src_storage_uri": theirs, "dst_path": "/read"},
            {"src_storage_uri": theirs, "dst_path": "/write", "read_only": False},
            {"src_storage_uri": "storage://local/local/mallory/own", "dst_path": "/own"},
        ],
        "disk_volumes": [{"src_disk_uri": "disk://local/local/ophelia/d", "dst_path": "/disk"}],
    }
    refused = stage.ask("POST", f"{API}/jobs", {"container": container})
    assert (refused.status_code, refused.json()) == (
        403,
        {
            "missing": [
                {"uri": "image://local/local/ophelia/stage", "action": "read"},
                {"uri": "secret://local/local/ophelia/key", "action": "read"},
                {"uri": theirs, "action": "read"},
                {"uri": theirs, "action": "write"},
                {"uri": "disk://local/local/ophelia/d", "action": "read"},
            ]
        },
    )
