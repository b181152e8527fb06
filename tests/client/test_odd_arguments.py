"""Arguments that nobody should give: each is refused by its name, or means what it obviously means.

None may look like a failure of the network, of the platform or of Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from neuro_sync import (
    ConfigError,
    Container,
    HTTPPort,
    IllegalArgumentError,
    JobDescription,
    JobStatus,
    Resources,
    Session,
    StdStream,
    Volume,
)
from neuro_sync.local.server import LocalPlatform
from tests.sandbox import bubblewrap  # noqa: F401  # a fixture

ENDLESS = [math.inf, 1e10, 10**30, 10**400, timedelta.max, "9999999d"]
NONSENSE = [math.nan, True, "x", "", b"5", (0, 0)]
NO_NUMBERS = [math.nan, -math.inf, -1, -(10**30), True, False, 1.5, "x", b"5", (0, 0)]


@pytest.fixture(scope="module")
def session(platform: LocalPlatform) -> Iterator[Session]:
    with Session(platform.url, platform.token) as opened:
        yield opened


@pytest.fixture(scope="module")
def job(session: Session) -> Iterator[JobDescription]:
    started = session.jobs.start(image="x", preset_name="cpu-small", command="sleep 60")
    yield session.jobs.wait(started, until="running")
    session.jobs.kill(started)


@pytest.fixture
def stream(session: Session, job: JobDescription) -> Iterator[StdStream]:
    with session.jobs.exec(job, "echo out", tty=True) as opened:
        yield opened


Call = Callable[[Session, JobDescription, Any], object]


def _start(session: Session, **options: Any) -> JobDescription:
    options = {"image": "x", "preset_name": "cpu-small", "command": "true", **options}
    return session.jobs.start(**options)


def _forward(session: Session, job: JobDescription, *ports: Any) -> None:
    session.jobs.port_forward(job, *ports).close()


WAITS: dict[str, Call] = {
    "wait": lambda s, job, v: s.jobs.wait(job, until="running", timeout=v),
    "run_command": lambda s, job, v: s.jobs.run_command(job, "true", timeout=v),
}
TIMEOUTS: dict[str, Call] = {
    "both": lambda s, job, v: s.with_options(timeout=v).jobs.status(job),
    "connect": lambda s, job, v: s.with_options(timeout=(v, 10)).jobs.status(job),
    "read": lambda s, job, v: s.with_options(timeout=(10, v)).jobs.run_command(job, "true"),
}


@pytest.mark.parametrize("duration", [*ENDLESS, None, "1m"], ids=repr)
@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_may_be_endless(
    session: Session, job: JobDescription, wait: str, duration: Any
) -> None:
    WAITS[wait](session, job, duration)


@pytest.mark.parametrize("duration", [*ENDLESS, None, "1m"], ids=repr)
def test_a_stream_may_be_waited_for_without_end(stream: StdStream, duration: Any) -> None:
    assert stream.read_out(timeout=duration)
    assert stream.wait(duration) == 0
    assert stream.communicate(timeout=duration).exit_code == 0


@pytest.mark.parametrize("duration", NONSENSE, ids=repr)
def test_nonsense_is_no_time_to_wait(
    session: Session, job: JobDescription, stream: StdStream, duration: Any
) -> None:
    calls: list[Callable[[Any], object]] = [
        *(partial(call, session, job) for call in WAITS.values()),
        lambda v: stream.read_out(timeout=v),
        stream.wait,
        lambda v: stream.communicate(timeout=v),
    ]
    for call in calls:
        with pytest.raises(IllegalArgumentError, match=r"^timeout = "):
            call(duration)


@pytest.mark.parametrize("duration", [*ENDLESS, "1m", 3_000_000, 0.5 + 10], ids=repr)
@pytest.mark.parametrize("kind", TIMEOUTS)
def test_a_session_may_have_any_patience(
    session: Session, job: JobDescription, kind: str, duration: Any
) -> None:
    TIMEOUTS[kind](session, job, duration)


@pytest.mark.parametrize("duration", [*NONSENSE, 0, -1, -math.inf, "0", ()], ids=repr)
@pytest.mark.parametrize("kind", TIMEOUTS)
def test_a_session_needs_some_patience(
    session: Session, job: JobDescription, kind: str, duration: Any
) -> None:
    with pytest.raises(ConfigError, match=r"^timeout = "):
        TIMEOUTS[kind](session, job, duration)


def test_patience_is_checked_when_a_session_is_made(platform: LocalPlatform) -> None:
    with pytest.raises(ConfigError, match=r"timeout = \(0, 0\): should be more than 0 seconds"):
        Session(platform.url, platform.token, timeout=(0, 0))


@pytest.mark.parametrize("duration", [math.inf, 10**400, timedelta.max, None], ids=repr)
def test_an_endless_life_span_is_no_limit(session: Session, duration: Any) -> None:
    assert _start(session, life_span=duration).life_span is None
    disk = session.disks.create(1, duration)
    session.disks.rm(disk.id)
    assert disk.life_span is None


@pytest.mark.parametrize(("given", "seconds"), [("1h", 3600), ("90s", 120), (61, 120)])
def test_a_life_span_is_given_as_to_the_command(
    session: Session, given: Any, seconds: float
) -> None:
    assert _start(session, life_span=given).life_span == seconds


@pytest.mark.parametrize("duration", [*NONSENSE, 0, -1, -math.inf, "0"], ids=repr)
def test_a_life_span_of_nothing_is_refused(
    session: Session, job: JobDescription, duration: Any
) -> None:
    with pytest.raises(IllegalArgumentError, match=r"^life_span = "):
        _start(session, life_span=duration)
    with pytest.raises(IllegalArgumentError, match=r"^additional_life_span = "):
        session.jobs.bump_life_span(job, duration)


@pytest.mark.parametrize("duration", [math.inf, 10**30, 10**400, timedelta.max], ids=repr)
def test_nobody_can_add_what_does_not_end(
    session: Session, job: JobDescription, duration: Any
) -> None:
    with pytest.raises(IllegalArgumentError, match="should be a time that ends"):
        session.jobs.bump_life_span(job, duration)


def test_what_is_added_up_to_a_life_span_ends_too(session: Session) -> None:
    job = _start(session, command="sleep 60", life_span=5e10)
    with pytest.raises(IllegalArgumentError, match="is greater than"):
        session.jobs.bump_life_span(job, 5e10)
    assert session.jobs.status(job).life_span == pytest.approx(5e10, abs=60)
    session.jobs.kill(job)


@pytest.mark.parametrize("duration", [*NONSENSE, 0, -1, math.inf, 1e10], ids=repr)
def test_a_job_waits_for_a_machine_for_a_time_that_ends(session: Session, duration: Any) -> None:
    with pytest.raises(IllegalArgumentError, match=r"^schedule_timeout = "):
        _start(session, schedule_timeout=duration)


@pytest.mark.parametrize("number", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("tail", lambda s, job, v: list(s.jobs.logs(job, tail=v, follow=False))),
        ("limit", lambda s, _, v: list(s.jobs.list(limit=v))),
        ("job_port", lambda s, job, v: _forward(s, job, 0, v)),
        ("there is no port", lambda s, job, v: _forward(s, job, v, 80)),
        ("w", lambda s, job, v: s.jobs.resize(job, w=v, h=24)),
        ("h", lambda s, job, v: s.jobs.resize(job, w=80, h=v)),
        ("offset", lambda s, _, v: s.storage.open("storage:x", v)),
        ("size", lambda s, _, v: s.storage.open("storage:x", 0, v)),
        ("offset", lambda s, _, v: s.storage.write("storage:x", b"x", v)),
        ("storage", lambda s, _, v: s.disks.create(v)),
    ],
)
def test_what_is_no_number_is_refused_by_its_name(
    session: Session, job: JobDescription, name: str, call: Call, number: Any
) -> None:
    with pytest.raises((IllegalArgumentError, ConfigError), match=f"^{name}"):
        call(session, job, number)


@pytest.mark.parametrize("size", [65536, 10**30, math.inf, -1, True, None], ids=repr)
def test_no_terminal_has_such_a_size(stream: StdStream, size: Any) -> None:
    for sides in ((size, 80), (24, size)):
        with pytest.raises(IllegalArgumentError, match=r"^[hw] = "):
            stream.resize(*sides)


@pytest.mark.parametrize("port", [0, 65536, 10**30, math.inf], ids=repr)
def test_there_is_no_such_port(session: Session, job: JobDescription, port: Any) -> None:
    with pytest.raises(IllegalArgumentError, match=r"^job_port = "):
        _forward(session, job, 0, port)


@pytest.mark.parametrize("number", [10**30, 10**400, math.inf, None], ids=repr)
def test_more_than_there_can_be_is_all(session: Session, job: JobDescription, number: Any) -> None:
    session.storage.create("storage:odd", b"abc")
    assert list(session.jobs.logs(job, tail=number, follow=False)) == []
    assert job.id in [found.id for found in session.jobs.list(limit=number)]
    assert b"".join(session.storage.open("storage:odd", 0, number)) == b"abc"


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, True, -1, 1e300], ids=repr)
def test_a_model_holds_no_odd_number(number: Any) -> None:
    models: list[Callable[[Any], object]] = [
        lambda v: HTTPPort(port=v),
        lambda v: Resources(cpu=1, memory=v),
        lambda v: Resources(cpu=1, memory_mb=v),
        lambda v: Resources(cpu=1, memory_mb=16, gpu=v),
    ]
    if number != 1e300:  # so many cores are only more than any machine has
        models.append(lambda v: Resources(cpu=v, memory_mb=16))
    for build in models:
        with pytest.raises(ValidationError):
            build(number)


LISTS: dict[str, Call] = {
    "tags": lambda s, _, v: _start(s, tags=v),
    "tags ": lambda s, _, v: list(s.jobs.list(tags=v)),
    "owners": lambda s, _, v: list(s.jobs.list(owners=v)),
    "statuses": lambda s, _, v: list(s.jobs.list(statuses=v)),
    "org_names": lambda s, _, v: list(s.jobs.list(org_names=v)),
    "project_names": lambda s, _, v: list(s.jobs.list(project_names=v)),
    "volume": lambda s, _, v: s.parse.volumes(v),
    "env": lambda s, _, v: s.parse.envs(v),
    "env_file": lambda s, _, v: s.parse.envs((), v),
    "allowed_schemes": lambda s, _, v: s.parse.str_to_uri("storage:a", allowed_schemes=v),
    "ignore_file_names": lambda s, _, v: s.storage.upload_dir(
        Path(__file__).parent, "storage:odd-dir", ignore_file_names=v
    ),
    "volumes": lambda s, _, v: _start(s, volumes=v),
    "secret_files": lambda s, _, v: _start(s, secret_files=v),
    "disk_volumes": lambda s, _, v: _start(s, disk_volumes=v),
    "id": lambda s, _, v: s.jobs.wait(v, timeout=1),
}


@pytest.mark.parametrize("value", [b"abc", bytearray(b"abc"), {"abc": "def"}, 5], ids=repr)
@pytest.mark.parametrize("name", LISTS)
def test_what_is_no_list_is_not_taken_apart(
    session: Session, job: JobDescription, name: str, value: Any
) -> None:
    with pytest.raises(IllegalArgumentError, match=f"^{name.strip()}\\b"):
        LISTS[name](session, job, value)


@pytest.mark.parametrize("field", ["volumes", "secret_files", "disk_volumes"])
def test_a_text_is_no_list_of_volumes(session: Session, job: JobDescription, field: str) -> None:
    with pytest.raises(IllegalArgumentError, match=f"^{field}: should be a list, not str"):
        LISTS[field](session, job, "storage:a:/b")
    with pytest.raises(ValidationError):
        Container(image="x", resources=Resources(cpu=1, memory_mb=16), **{field: "storage:a:/b"})


def test_one_string_is_one_item(session: Session, job: JobDescription, tmp_path: Path) -> None:
    started = _start(session, tags="lonely")
    assert started.tags == ("lonely",)
    jobs = session.jobs
    assert [found.id for found in jobs.list(tags="lonely", owners=session.username)] == [started.id]
    assert job.id in [found.id for found in jobs.list(statuses="running")]
    assert job.id in [found.id for found in jobs.list(statuses=JobStatus.RUNNING)]
    assert list(jobs.list(project_names="another")) == list(jobs.list(org_names="another")) == []
    assert session.parse.volumes("storage:a:/b").volumes[0].container_path == "/b"
    (tmp_path / "variables").write_text("A=1")
    parsed = session.parse.envs("B=2", tmp_path / "variables")
    assert parsed.env == {"A": "1", "B": "2"}
    with pytest.raises(IllegalArgumentError, match="only 'storage:'"):
        session.parse.str_to_uri("rage:a", allowed_schemes="storage")
    (tmp_path / "rules").write_text("variables")
    session.storage.upload_dir(tmp_path, "storage:odd-dir", ignore_file_names="rules")
    assert [file.name for file in session.storage.list("storage:odd-dir")] == ["rules"]


@pytest.mark.usefixtures("bubblewrap")
def test_several_may_come_from_a_generator(session: Session, job: JobDescription) -> None:
    started = _start(
        session,
        tags=(tag for tag in ("one", "two")),
        command=(word for word in ("echo", "a b")),
        volumes=(Volume(storage_uri=f"storage:{n}", container_path=f"/{n}") for n in "ab"),
    )
    assert started.tags == ("one", "two")
    assert started.container.command == "echo 'a b'"
    assert len(started.container.volumes) == 2
    waited = session.jobs.wait((one for one in (started, job.id)), until="running")
    assert [each.id for each in waited] == [started.id, job.id]
    found = session.jobs.list(tags=(tag for tag in ("one", "two")))
    assert [each.id for each in found] == [started.id]


@pytest.mark.parametrize("command", [b"echo a", {"echo": "a"}, {"echo"}, 5, ["echo", 5]], ids=repr)
def test_a_command_is_a_line_or_words(session: Session, job: JobDescription, command: Any) -> None:
    for call in (
        lambda: _start(session, command=command),
        lambda: _start(session, entrypoint=command),
        lambda: session.jobs.exec(job, command),
        lambda: session.jobs.run_command(job, command),
        lambda: session.jobs.exec_create(job, command),
    ):
        with pytest.raises(IllegalArgumentError, match=r"a command is a string|each word"):
            call()


def test_input_that_is_no_bytes_is_refused_at_once(session: Session, job: JobDescription) -> None:
    with session.jobs.exec(job, "cat", stdin=True) as stream, pytest.raises(TypeError):
        stream.communicate("text", timeout=5)  # type: ignore[arg-type]  # a mistake


@pytest.mark.parametrize(
    "options",
    [
        {"port": True},
        {"port": 1.5},
        {"port": 10**30},
        {"port": -1},
        {"grace": math.nan},
        {"grace": -1},
        {"cores": math.inf},
        {"cores": True},
        {"memory": 0},
        {"log_limit": -1},
        {"total_running_jobs": math.nan},
    ],
    ids=repr,
)
def test_a_platform_is_told_what_is_odd(options: dict[str, Any]) -> None:
    name = "jobs" if "total_running_jobs" in options else next(iter(options))
    with pytest.raises(ConfigError, match=f"^{name}"):
        LocalPlatform(ephemeral=True, **options).start()


@pytest.mark.parametrize(
    "call",
    [
        lambda s, job, v: s.jobs.run_command(job, ["echo", v]),
        lambda s, job, v: s.jobs.exec(job, f"echo {v}"),
        lambda s, _, v: s.jobs.status(v),
        lambda s, _, v: s.jobs.kill(v),
        lambda s, _, v: list(s.jobs.list(name=v)),
        lambda s, _, v: list(s.jobs.list(tags=[v])),
        lambda s, _, v: _start(s, command=v),
        lambda s, _, v: _start(s, image=v),
        lambda s, _, v: _start(s, name=v),
        lambda s, _, v: _start(s, tags=[v]),
        lambda s, _, v: _start(s, description=v),
        lambda s, _, v: _start(s, env={"A": v}),
        lambda s, _, v: s.disks.create(1, name=v),
        lambda s, _, v: s.disks.get(v),
        lambda s, _, v: s.secrets.get(v),
        lambda s, _, v: s.users.get_acl(v),
    ],
)
def test_text_that_is_not_utf8_is_refused(
    session: Session, job: JobDescription, call: Call
) -> None:
    for text in ("caf\udce9", "\ud800"):
        with pytest.raises(IllegalArgumentError, match=r"UTF-8|is no image"):
            call(session, job, text)
