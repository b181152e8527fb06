"""Answers that no platform gives: whatever comes, a call ends, and with an error of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from neuro_sync import Action, JobDescription, NeuroError, Permission, Session
from neuro_sync.local.server import LocalPlatform
from neuro_sync.testing import Fault, FaultProxy
from neuro_sync.transport.clock import Clock

METHODS = ("GET /", "POST /", "PUT /", "PATCH /", "DELETE /", "HEAD /")
MANY = 80


def _with_body(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def _refusal(status: int, header: bytes) -> bytes:
    return b"HTTP/1.1 %d x\r\n%s\r\nContent-Length: 0\r\n\r\n" % (status, header)


ODD = {
    "empty": _with_body(b""),
    "null": _with_body(b"null"),
    "list": _with_body(b"[]"),
    "object": _with_body(b"{}"),
    "text": _with_body(b'"x"'),
    "page": _with_body(b"<html>Log in to this network</html>"),
    "binary": _with_body(b"\xff\xfe\x00"),
    "list of null": _with_body(b"[null]"),
    "list of objects": _with_body(b"[{}]"),
    "half": _with_body(b'{"a":'),
    "infinity": _with_body(b"1e999"),
    "null id": _with_body(b'{"id": null}'),
    "number of jobs": _with_body(b'{"jobs": 3}'),
    "no files": _with_body(b'{"FileStatus": []}'),
    "surrogates": _with_body(b'{"FileStatus": {"path": "\\ud800"}}'),
    "deep": _with_body(b"[" * 20_000),
    "deep objects": _with_body(b'{"a":' * 20_000),
    "deep refusal": b"HTTP/1.1 400 x\r\nContent-Length: 20000\r\n\r\n" + b"[" * 20_000,
    "lines": _with_body(b"[[[[\n").replace(b"/json", b"/x-ndjson"),
    "no chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "sent on": _refusal(301, b"Location: http://[bad"),
    "far too long": _refusal(429, b"Retry-After: 99999999999"),
    "until a date": _refusal(503, b"Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"),
    "until no number": _refusal(429, b"Retry-After: \xb2"),
    "until no date": _refusal(429, b"Retry-After: Wed, 99 Oct 2015\r\nDate: tomorrow"),
    "no http": b"\x00\x01\n",
    "no status": _refusal(999, b"X: y"),
    "no date": b"HTTP/1.1 200 OK\r\nDate: \xff\xff\r\nContent-Length: 2\r\n\r\n{}",
    "login to a proxy": _refusal(407, b"X: y"),
}


class Impatient(Clock):
    """A clock that does not pause between two tries."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.001))


@pytest.fixture(scope="module")
def proxy(platform: LocalPlatform) -> Iterator[FaultProxy]:
    with FaultProxy(platform.port) as running:
        yield running


@pytest.fixture(scope="module")
def job(platform: LocalPlatform) -> Iterator[JobDescription]:
    with Session(platform.url, platform.token) as session:
        job = session.jobs.start(image="any", preset_name="cpu-small", command="sleep 600")
        yield session.jobs.wait(job, until="running")
        session.jobs.kill(job)


def calls(s: Session, job: JobDescription, folder: Path) -> dict[str, Callable[[], object]]:
    """One call of each kind."""
    (folder / "tree").mkdir()
    (folder / "tree" / "file").write_bytes(b"content")
    file, tree = folder / "tree" / "file", folder / "tree"
    mine = f"job:{job.id}"
    return {
        "jobs.status": lambda: s.jobs.status(job),
        "jobs.status by name": lambda: s.jobs.status("name"),
        "jobs.list": lambda: list(s.jobs.list()),
        "jobs.kill": lambda: s.jobs.kill(job),
        "jobs.logs": lambda: [*islice(s.jobs.logs(job, follow=False), 3)],
        "jobs.monitor": lambda: [*islice(s.jobs.monitor(job), 3)],
        "jobs.top": lambda: [*islice(s.jobs.top(job), 1)],
        "jobs.wait": lambda: s.jobs.wait(job, timeout=0.2),
        "jobs.get_capacity": s.jobs.get_capacity,
        "jobs.tags": s.jobs.tags,
        "jobs.bump_life_span": lambda: s.jobs.bump_life_span(job, 10),
        "jobs.start": lambda: s.jobs.start(
            image="any", preset_name="cpu-small", command="true", name="odd"
        ),
        "jobs.save": lambda: s.jobs.save(job, "image:odd:1"),
        "jobs.run_command": lambda: s.jobs.run_command(job, "true", timeout=2),
        "jobs.exec_create": lambda: s.jobs.exec_create(job, "true"),
        "jobs.port_forward": lambda: s.jobs.port_forward(job, 0, 9).__enter__().close(),
        "storage.list": lambda: list(s.storage.list()),
        "storage.glob": lambda: list(s.storage.glob("storage:*")),
        "storage.stat": lambda: s.storage.stat("storage:a"),
        "storage.open": lambda: b"".join(s.storage.open("storage:a")),
        "storage.create": lambda: s.storage.create("storage:b", b"x"),
        "storage.mkdir": lambda: s.storage.mkdir("storage:q", parents=True),
        "storage.rm": lambda: s.storage.rm("storage:b"),
        "storage.rm recursive": lambda: s.storage.rm("storage:b", recursive=True),
        "storage.mv": lambda: s.storage.mv("storage:b", "storage:c"),
        "storage.disk_usage": s.storage.disk_usage,
        "storage.upload_file": lambda: s.storage.upload_file(file, "storage:up"),
        "storage.download_file": lambda: s.storage.download_file("storage:a", folder / "down"),
        "storage.upload_dir": lambda: s.storage.upload_dir(tree, "storage:tree"),
        "storage.download_dir": lambda: s.storage.download_dir("storage:tree", folder / "new"),
        "secrets.list": lambda: list(s.secrets.list()),
        "secrets.add": lambda: s.secrets.add("key", b"value"),
        "secrets.get": lambda: s.secrets.get("key"),
        "secrets.rm": lambda: s.secrets.rm("key"),
        "disks.list": lambda: list(s.disks.list()),
        "disks.create": lambda: s.disks.create(2**30),
        "disks.get": lambda: s.disks.get("disk"),
        "disks.rm": lambda: s.disks.rm("disk"),
        "images.list": lambda: list(s.images.list()),
        "images.tags": lambda: s.images.tags("image:x"),
        "images.size": lambda: s.images.size("image:x:1"),
        "images.digest": lambda: s.images.digest("image:x:1"),
        "images.rm": lambda: s.images.rm("image:x:1"),
        "users.get_acl": lambda: s.users.get_acl(s.username),
        "users.get_shares": lambda: s.users.get_shares(s.username),
        "users.get_quota": s.users.get_quota,
        "users.share": lambda: s.users.share("root", Permission(uri=mine, action=Action.READ)),
        "users.revoke": lambda: s.users.revoke("root", mine),
        "users.add": lambda: s.users.add("root/roles/r"),
        "users.remove": lambda: s.users.remove("root/roles/r"),
        "config.fetch": s.config.fetch,
    }


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_ends_a_call_with_an_error_of_ours(
    platform: LocalPlatform, proxy: FaultProxy, job: JobDescription, tmp_path: Path, kind: str
) -> None:
    _plan(proxy)
    with Session(
        proxy.url, platform.token, timeout=(5.0, 5.0), clock=Impatient(), trust_env=False
    ) as session:
        session.presets  # noqa: B018  # so that it is the call itself which is answered oddly
        for name, call in calls(session, job, tmp_path).items():
            _plan(proxy, *[Fault(answer=ODD[kind])] * MANY)
            try:
                with suppress(NeuroError):
                    call()
            except Exception as error:
                raise AssertionError(f"{name} raises {error!r}") from error
    _plan(proxy)


def _plan(proxy: FaultProxy, *faults: Fault) -> None:
    for method in METHODS:
        proxy.plan(method, *faults)
