"""Jobs: what a user asks for, what a platform tells of them.

Aliases are the wire's names. A field keeps the wire's unit; where the reference has another one,
a property of the reference's name gives it.
"""

from __future__ import annotations

import posixpath
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_serializer,
    model_validator,
)
from pydantic_core import PydanticKnownError
from typing_extensions import Self
from yarl import URL

from .base import ANSWER, DISCREET, NUMBER, WIRE, Flag, Model, Text, at_least, written
from .images import ImageReference
from .uris import DiskURI, SecretURI, StorageURI

MIB = 2**20
LONGEST_LIFE_SPAN_MINUTES = 10**9
"""Some two thousand years, within which a date can still be written."""


class JobStatus(str, Enum):
    """Where in its life a job is."""

    PENDING = "pending"
    SUSPENDED = "suspended"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """A status that this version has never heard of; taken for unfinished."""

    def __str__(self) -> str:
        return self.value

    @classmethod
    def _missing_(cls, _: object) -> JobStatus:
        return cls.UNKNOWN

    @classmethod
    def items(cls) -> set[JobStatus]:
        """Return all statuses but `UNKNOWN`."""
        return set(cls) - {cls.UNKNOWN}

    @classmethod
    def active_items(cls) -> set[JobStatus]:
        """Return the statuses that are not final."""
        return {cls.PENDING, cls.SUSPENDED, cls.RUNNING}

    @classmethod
    def finished_items(cls) -> set[JobStatus]:
        """Return the statuses that never change again."""
        return {cls.SUCCEEDED, cls.FAILED, cls.CANCELLED}

    @property
    def is_pending(self) -> bool:
        """Waiting to run: `PENDING` or `SUSPENDED`."""
        return self in (JobStatus.PENDING, JobStatus.SUSPENDED)

    @property
    def is_running(self) -> bool:
        return self is JobStatus.RUNNING

    @property
    def is_finished(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobRestartPolicy(str, Enum):
    """Whether a job that ended is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNKNOWN = "unknown"
    """A policy that this version has never heard of."""

    def __str__(self) -> str:
        return self.value

    @classmethod
    def _missing_(cls, _: object) -> JobRestartPolicy:
        return cls.UNKNOWN


class JobPriority(str, Enum):
    """Which of the waiting jobs is started first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    UNKNOWN = "unknown"
    """A priority that this version has never heard of."""

    def __str__(self) -> str:
        return self.value

    @classmethod
    def _missing_(cls, _: object) -> JobPriority:
        return cls.UNKNOWN


Instant = Annotated[AwareDatetime, PlainSerializer(datetime.isoformat, str, when_used="json")]
"""Written as the platform does, with a numeric offset: ``...+00:00``."""

Choice = TypeVar("Choice", bound=Enum)


def _known(choice: Choice) -> Choice:
    if choice.name == "UNKNOWN":
        known = ", ".join(str(item) for item in type(choice) if item.name != "UNKNOWN")
        raise ValueError(f"value doesn't match any variant: {known}")
    return choice


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("blank value is not allowed")
    return text


def _command_line(text: str) -> str:
    try:
        shlex.split(_not_blank(text))
    except ValueError as error:
        raise ValueError(f"invalid command format: {error}") from error
    return text


def _joined(value: object, info: ValidationInfo) -> object:
    return value if value is None or info.mode != "python" else command_line(value)


NO_WORDS: tuple[type, ...] = (bytes, bytearray, Mapping, AbstractSet)
"""What can be iterated over, and is no list of words."""


def command_line(command: object) -> str:
    """Return the line of a command; its words are joined so that the wire splits it into them.

    Raises:
        ValueError: It is neither a line nor words.
    """
    if isinstance(command, str):
        return command
    if not isinstance(command, Iterable) or isinstance(command, NO_WORDS):
        raise ValueError(f"a command is a string, or a list of its words, not {command!r}")
    words = list(command)
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"each word has to be a string: {word!r}")
    return shlex.join(words)


def _mount_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"Mount path must be absolute: {path!r}")
    if ".." in path.split("/"):
        raise ValueError(f"Invalid path: {path!r} leads upwards, with '..'")
    return "/" + posixpath.normpath(path).lstrip("/")


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"does not match pattern '^/': a working folder is absolute: {path!r}")
    return path


def _port(port: int) -> int:
    if port > 65535:
        raise PydanticKnownError("less_than_equal", {"le": 65535})
    if port < 0:
        raise PydanticKnownError("greater_than_equal", {"ge": 0})
    return port


def _one_tag(value: object, info: ValidationInfo) -> object:
    """Take one tag alone for a list of it; the wire has lists only."""
    return (value,) if isinstance(value, str) and info.mode == "python" else value


def _variable_name(name: str) -> str:
    if not name.strip():
        raise ValueError(f"{name!r} is no name of a variable: blank value is not allowed")
    if "=" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a variable: it has '=' or NUL in it")
    return name


CommandLine = Annotated[str, BeforeValidator(_joined), written(_command_line)]
MountPath = Annotated[str, written(_mount_path)]
NonBlank = Annotated[str, written(_not_blank)]
VariableName = Annotated[str, written(_variable_name)]


class Resources(Model):
    """What a container gets of a machine."""

    memory_mb: Annotated[int, NUMBER, at_least(16)] | None = None
    """MiB; or give ``memory``, in bytes. The other one is worked out, and bytes win."""
    memory: Annotated[int, NUMBER, at_least(16 * MIB)] | None = None
    """Bytes."""
    cpu: Annotated[float, NUMBER, at_least(0.1)]
    """Cores; ``0.5`` is half of one."""
    gpu: Annotated[
        Annotated[int, NUMBER, at_least(0)] | None,
        Field(validation_alias=AliasChoices("nvidia_gpu", "gpu"), serialization_alias="nvidia_gpu"),
    ] = None
    """How many GPUs of NVIDIA."""
    gpu_model: Annotated[
        NonBlank | None,
        Field(
            validation_alias=AliasChoices("nvidia_gpu_model", "gpu_model"),
            serialization_alias="nvidia_gpu_model",
        ),
    ] = None
    amd_gpu: Annotated[int, NUMBER, at_least(0)] | None = None
    amd_gpu_model: NonBlank | None = None
    intel_gpu: Annotated[int, NUMBER, at_least(0)] | None = None
    intel_gpu_model: NonBlank | None = None
    nvidia_migs: Mapping[str, Any] | None = None
    """Slices of a GPU: profile to ``{"count": n}``."""
    shm: Flag = True
    """Whether ``/dev/shm`` is as large as the memory."""
    tpu_type: Annotated[str | None, Field(exclude=True)] = None
    tpu_software_version: Annotated[str | None, Field(exclude=True)] = None
    tpu: Annotated[Mapping[str, str | None] | None, Field(repr=False)] = None
    """Both TPU fields as the wire nests them."""

    @model_validator(mode="after")
    def _tpu_in_both_forms(self) -> Self:
        if self.tpu is None and self.tpu_type:
            version = self.tpu_software_version
            self.__dict__["tpu"] = {"type": self.tpu_type, "software_version": version}
        else:
            nested = self.tpu or {}
            self.__dict__["tpu_type"] = nested.get("type")
            self.__dict__["tpu_software_version"] = nested.get("software_version")
        return self

    @model_validator(mode="after")
    def _memory_in_both_units(self, info: ValidationInfo) -> Self:
        if self.memory is not None:
            self.__dict__["memory_mb"] = self.memory // MIB
        elif self.memory_mb is not None:
            self.__dict__["memory"] = self.memory_mb * MIB
        elif info.context is not ANSWER:
            raise ValueError("Either memory or memory_mb should be present")
        return self


class HTTPPort(Model):
    """A web server inside a job, and who may see it."""

    port: Annotated[int, NUMBER, written(_port)]
    requires_auth: Flag = True
    """Whether visitors have to log in to the platform first."""
    health_check_path: NonBlank | None = None


class Volume(Model):
    """A folder of the platform's storage, seen inside a job."""

    storage_uri: Annotated[StorageURI, Field(alias="src_storage_uri")]
    """What is mounted, such as ``storage:data``."""
    container_path: Annotated[MountPath, Field(alias="dst_path")]
    """Where the job sees it."""
    read_only: Flag = False


class SecretFile(Model):
    """A secret, seen as a file inside a job."""

    secret_uri: Annotated[SecretURI, Field(alias="src_secret_uri")]
    container_path: Annotated[MountPath, Field(alias="dst_path")]


class DiskVolume(Model):
    """A disk, mounted inside a job."""

    disk_uri: Annotated[DiskURI, Field(alias="src_disk_uri")]
    container_path: Annotated[MountPath, Field(alias="dst_path")]
    read_only: Flag = False


class Workload(Model):
    """What runs: the parts of a container that do not depend on the machine."""

    model_config: ClassVar[ConfigDict] = DISCREET

    image: ImageReference
    """A `RemoteImage`, or a Docker reference such as ``ubuntu:latest``."""
    entrypoint: CommandLine | None = None
    """Replaces that of the image; split by shell rules, run by no shell. Or a list of words."""
    command: CommandLine | None = None
    """Replaces that of the image; split by shell rules, run by no shell. Or a list of words."""
    working_dir: Annotated[str, written(_absolute)] | None = None
    http: HTTPPort | None = None
    env: Mapping[VariableName, str] = Field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    secret_env: Mapping[VariableName, SecretURI] = Field(default_factory=dict)
    secret_files: Annotated[tuple[SecretFile, ...], Field(alias="secret_volumes")] = ()
    disk_volumes: tuple[DiskVolume, ...] = ()
    tty: Flag = False

    @model_validator(mode="after")
    def _mount_each_path_once(self, info: ValidationInfo) -> Self:
        if info.context is not ANSWER:
            for mounts in (self.volumes, self.secret_files, self.disk_volumes):
                for path, times in Counter(mount.container_path for mount in mounts).items():
                    if times > 1:
                        raise ValueError(
                            f"destination path {path!r} was encountered multiple times"
                        )
        return self


class Container(Workload):
    """What runs, and what it gets of a machine."""

    resources: Resources


class SharedMemory(Model):
    """The one resource that is asked for beside a preset."""

    shm: Flag = False


NAME_PATTERN = r"^[a-z](?:-?[a-z0-9])*$"

TENANT_PATTERN = r"^[a-z0-9](?:-?[a-z0-9])*$"

JobName = Annotated[str, Field(min_length=3, max_length=40, pattern=NAME_PATTERN)]
TenantName = Annotated[str, Field(min_length=3, max_length=255, pattern=TENANT_PATTERN)]
Tag = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^\S+$")]


Minutes = Annotated[int, NUMBER, Field(ge=1, le=LONGEST_LIFE_SPAN_MINUTES)]


class JobOptions(Model):
    """What a user says of a job besides what runs; the part both forms of a request share."""

    name: JobName | None = None
    """3 to 40 lower-case letters, digits and single dashes, a letter first: ``train-1``."""
    description: NonBlank | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=16), BeforeValidator(_one_tag)] = ()
    """At most 16, each without white space; one may be given alone."""
    preset_name: NonBlank | None = None
    pass_config: Flag = False
    """Whether the platform lets the job act as its owner."""
    wait_for_jobs_quota: Flag = False
    """Whether the job waits for a place instead of being refused."""
    privileged: Flag = False
    priority: Annotated[JobPriority, written(_known)] = JobPriority.NORMAL
    schedule_timeout: Annotated[float, NUMBER, Field(ge=1, lt=2_592_000)] | None = None
    """Seconds after which a job that finds no machine fails."""
    max_run_time_minutes: (
        Annotated[int, NUMBER, Field(ge=1, le=LONGEST_LIFE_SPAN_MINUTES)] | None
    ) = None
    """Minutes after which a running job is stopped."""
    restart_policy: Annotated[JobRestartPolicy, written(_known)] = JobRestartPolicy.NEVER
    cluster_name: TenantName | None = None
    org_name: TenantName | None = None
    project_name: TenantName | None = None
    scheduler_enabled: Annotated[
        Flag,
        Field(
            validation_alias=AliasChoices("scheduler_enabled", "is_preemptible"),
            serialization_alias="scheduler_enabled",
        ),
    ] = False
    preemptible_node: Annotated[
        Flag,
        Field(
            validation_alias=AliasChoices("preemptible_node", "is_preemptible_node_required"),
            serialization_alias="preemptible_node",
        ),
    ] = False
    energy_schedule_name: str | None = None

    def to_request(self) -> dict[str, Any]:
        """Return the body: beside three fields, only what differs from nothing.

        A platform refuses a field that it does not know, so that an old one can only be served
        by a client that does not mention what was not asked for.
        """
        body = self.model_dump(mode="json", exclude_none=True, context=WIRE)
        for field in ("priority", "restart_policy"):
            if field not in self.model_fields_set or body[field] == "never":
                del body[field]
        container = body.get("container", body)
        for key in [key for key, value in container.items() if not value]:
            del container[key]
        always = {"pass_config": self.pass_config}
        return always | {key: value for key, value in body.items() if value}


class JobStart(JobOptions, Workload):
    """The body of ``POST /jobs?from_preset``."""

    resources: SharedMemory = Field(default_factory=SharedMemory)

    def to_request(self) -> dict[str, Any]:
        body = super().to_request()
        if not self.resources.shm:
            del body["resources"]
        return body


class JobRun(JobOptions):
    """The body of ``POST /jobs``."""

    model_config: ClassVar[ConfigDict] = DISCREET

    container: Container


class LifeSpanChange(Model):
    """The body of ``PUT /jobs/{id}/max_run_time_minutes``."""

    max_run_time_minutes: (
        Annotated[int, NUMBER, Field(ge=1, le=LONGEST_LIFE_SPAN_MINUTES)] | None
    ) = None
    """The new limit."""
    additional_max_run_time_minutes: (
        Annotated[int, NUMBER, Field(ge=1, le=LONGEST_LIFE_SPAN_MINUTES)] | None
    ) = None
    """What is added to the limit; none counts as 0."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.max_run_time_minutes is None) == (self.additional_max_run_time_minutes is None):
            raise ValueError(
                "Exactly one of 'max_run_time_minutes' and 'additional_max_run_time_minutes' "
                "allowed"
            )
        return self

    @property
    def is_addition(self) -> bool:
        return self.additional_max_run_time_minutes is not None

    @property
    def minutes(self) -> int:
        return self.max_run_time_minutes or self.additional_max_run_time_minutes or 0


class JobStatusItem(Model):
    """One step of a job's life."""

    transition_time: Instant
    status: JobStatus = JobStatus.UNKNOWN
    reason: Text = ""
    description: Text = ""
    exit_code: int | None = None


class JobStatusHistory(Model):
    """How a job's life went so far."""

    status: JobStatus = JobStatus.UNKNOWN
    reason: Text = ""
    """Why it has its status, in a word such as ``Creating``, ``Error`` or ``UserRequested``."""
    description: Text = ""
    """The same at more length; of a job that failed, often the end of its output."""
    exit_code: int | None = None
    restarts: int = 0
    created_at: Instant | None = None
    started_at: Instant | None = None
    finished_at: Instant | None = None
    run_time_seconds: float = 0.0
    """The time it was running, over all restarts."""
    transitions: tuple[JobStatusItem, ...] = ()
    """All steps, oldest first."""

    @property
    def changed_at(self) -> datetime | None:
        """When it took its present status."""
        if self.status is JobStatus.PENDING:
            return self.created_at
        return self.finished_at if self.status.is_finished else self.started_at


class JobDescription(Model):
    """All that a platform tells of a job, at one moment."""

    model_config: ClassVar[ConfigDict] = DISCREET
    stand_ins: ClassVar[Mapping[str, object]] = {
        "container": {},
        "image": "",
        "resources": {},
        "cpu": 0.0,
    }
    lossy_lists: ClassVar[frozenset[str]] = frozenset(
        {"statuses", "tags", "volumes", "secret_volumes", "disk_volumes"}
    )

    id: str
    owner: str = ""
    cluster_name: str = ""
    status: JobStatus = JobStatus.UNKNOWN
    history: JobStatusHistory = Field(default_factory=JobStatusHistory)
    container: Container
    name: str | None = None
    tags: tuple[str, ...] = ()
    description: str | None = None
    preset_name: str | None = None
    org_name: str | None = None
    project_name: Annotated[str, Field(default_factory=lambda data: data.get("owner", ""))]
    """The project; on platforms without projects, the owner."""
    namespace: str | None = None
    scheduler_enabled: Annotated[
        bool,
        Field(
            validation_alias=AliasChoices("scheduler_enabled", "is_preemptible"),
            serialization_alias="scheduler_enabled",
        ),
    ] = False
    """Whether it takes turns with other jobs, suspended in between."""
    preemptible_node: Annotated[
        bool,
        Field(
            validation_alias=AliasChoices("preemptible_node", "is_preemptible_node_required"),
            serialization_alias="preemptible_node",
        ),
    ] = False
    pass_config: bool = False
    privileged: bool = False
    restart_policy: JobRestartPolicy = JobRestartPolicy.NEVER
    priority: JobPriority = JobPriority.NORMAL
    schedule_timeout: float | None = None
    """Seconds after which it fails if no machine was found."""
    max_run_time_minutes: int | None = None
    energy_schedule_name: str | None = None
    internal_hostname: str | None = None
    internal_hostname_named: str | None = None
    total_price_credits: Decimal = Decimal(0)
    price_credits_per_hour: Decimal = Decimal(0)
    statuses: Annotated[tuple[JobStatusItem, ...], Field(repr=False)] = ()
    wire_uri: Annotated[str, Field(alias="uri", repr=False)] = ""
    wire_http_url: Annotated[str, Field(alias="http_url", repr=False)] = ""
    wire_http_url_named: Annotated[str, Field(alias="http_url_named", repr=False)] = ""
    wire_ssh_server: Annotated[str, Field(alias="ssh_server", repr=False)] = ""

    @model_validator(mode="after")
    def _complete_history(self) -> Self:
        history = self.history
        # The wire has them beside the history, the reference inside it.
        history.__dict__["transitions"] = self.statuses
        if "status" not in history.model_fields_set:
            history.__dict__["status"] = self.status
        elif "status" not in self.model_fields_set:
            self.__dict__["status"] = history.status
        return self

    @field_serializer("history", mode="wrap")
    def _leave_transitions_out(self, history: JobStatusHistory, write: Any) -> Any:
        return {key: value for key, value in write(history).items() if key != "transitions"}

    # Only platforms write descriptions: also one that was saved is held to no rule for users.

    @classmethod
    def model_validate(cls, obj: Any, *, context: Any = ANSWER, **options: Any) -> Self:
        """Read a description from what `model_dump` returns."""
        return super().model_validate(obj, context=context, **options)

    @classmethod
    def model_validate_json(
        cls, json_data: str | bytes | bytearray, *, context: Any = ANSWER, **options: Any
    ) -> Self:
        """Read a description from what `model_dump_json` returns."""
        return super().model_validate_json(json_data, context=context, **options)

    @property
    def reason(self) -> str:
        """Why it has its status; the same as ``history.reason``."""
        return self.history.reason

    @property
    def is_preemptible(self) -> bool:
        """The older name of `scheduler_enabled`."""
        return self.scheduler_enabled

    @property
    def life_span(self) -> float | None:
        """How long the job may run, in seconds; ``None`` sets no limit."""
        return None if self.max_run_time_minutes is None else self.max_run_time_minutes * 60.0

    @property
    def uri(self) -> URL:
        """The job's address, by which it is shared."""
        return URL(self.wire_uri)

    @property
    def http_url(self) -> URL:
        """Where the job's web server is reached; by its name if it has one, empty without one."""
        return URL(self.wire_http_url_named or self.wire_http_url)

    @property
    def ssh_server(self) -> URL:
        """Empty: platforms of today have none. Use ``jobs.exec`` and ``jobs.port_forward``."""
        return URL(self.wire_ssh_server)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        code = "" if self.history.exit_code is None else f" (exit code {self.history.exit_code})"
        return f"<Job {self.id}{name} {self.status}{code}>"

    __str__ = __repr__


class JobTelemetry(Model):
    """What a running job uses at one moment."""

    timestamp: float
    """Seconds since the epoch, on the platform's clock."""
    cpu: float = 0.0
    """Cores in use: 1.0 is one, busy all the time."""
    memory_bytes: int = 0
    memory_mib: Annotated[float, Field(alias="memory", repr=False)] = 0.0
    gpu_duty_cycle: int | None = None
    """Per cent of the time in which the GPUs worked; ``None`` without a GPU."""
    gpu_memory_bytes: int | None = None
    gpu_memory_mib: Annotated[float | None, Field(alias="gpu_memory", repr=False)] = None

    @property
    def memory(self) -> float:
        """MiB in use."""
        return self.memory_bytes / MIB if self.memory_bytes else self.memory_mib

    @property
    def gpu_memory(self) -> float | None:
        """MiB in use on all of the job's GPUs; ``None`` without a GPU."""
        if self.gpu_memory_bytes is None:
            return self.gpu_memory_mib
        return self.gpu_memory_bytes / MIB


class Message(Model):
    """A piece of a job's output."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        ser_json_bytes="base64", val_json_bytes="base64"
    )

    fileno: Literal[1, 2]
    """1 is standard output, 2 standard error; with a terminal all is 1."""
    data: bytes


class ExecInspect(Model):
    """What is known of a command run inside a job."""

    id: str
    job_id: str
    running: bool
    exit_code: int | None = None
    """``None`` while it runs."""
    tty: bool = False
    entrypoint: str = ""
    command: str = ""
