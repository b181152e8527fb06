"""What a platform says of itself: its clusters, their presets and addresses."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field

from .base import Model

MIB = 2**20


class GPU(Model):
    """The GPUs of one kind in a preset or on a machine."""

    count: int
    model: str | None = None
    memory: int | None = None
    """Bytes of each."""


class TPUResource(Model):
    """The TPUs of the machines of a pool."""

    types: tuple[str, ...] = ()
    """Such as ``v2-8``."""
    software_versions: tuple[str, ...] = ()
    ipv4_cidr_block: str = ""


class Preset(Model):
    """A named amount of resources; a job runs with one of them."""

    name: str
    cpu: float
    memory: int | None = None
    """Bytes."""
    memory_mib: Annotated[int | None, Field(alias="memory_mb", repr=False)] = None
    credits_per_hour: Decimal = Decimal(0)
    scheduler_enabled: Annotated[
        bool,
        Field(
            validation_alias=AliasChoices("scheduler_enabled", "is_preemptible"),
            serialization_alias="scheduler_enabled",
        ),
    ] = False
    preemptible_node: Annotated[
        bool,
        Field(
            validation_alias=AliasChoices("preemptible_node", "is_preemptible_node_required"),
            serialization_alias="preemptible_node",
        ),
    ] = False
    nvidia_gpu: GPU | int | None = None
    amd_gpu: GPU | int | None = None
    intel_gpu: GPU | int | None = None
    gpu_count: Annotated[int | None, Field(alias="gpu", repr=False)] = None
    nvidia_gpu_model: str | None = None
    wire_gpu_model: Annotated[str | None, Field(alias="gpu_model", repr=False)] = None
    nvidia_migs: Mapping[str, GPU] | None = None
    """Slices of a GPU of NVIDIA, by their profile such as ``1g.5gb``."""
    tpu: Mapping[str, str] | None = None
    resource_pool_names: tuple[str, ...] = ()
    """The pools that its jobs are restricted to; none means any."""
    available_resource_pool_names: tuple[str, ...] = ()
    """The pools whose machines have room for one of its jobs."""

    @property
    def memory_mb(self) -> int:
        """MiB."""
        return self.memory // MIB if self.memory is not None else self.memory_mib or 0

    @property
    def gpu(self) -> int | None:
        """How many GPUs of NVIDIA; ``None`` without."""
        count = self.nvidia_gpu.count if isinstance(self.nvidia_gpu, GPU) else self.nvidia_gpu
        return count or self.gpu_count

    @property
    def gpu_model(self) -> str | None:
        model = self.nvidia_gpu.model if isinstance(self.nvidia_gpu, GPU) else None
        return model or self.nvidia_gpu_model or self.wire_gpu_model

    @property
    def is_preemptible(self) -> bool:
        """The older name of `scheduler_enabled`."""
        return self.scheduler_enabled


class Project(Model):
    """A project of an organisation on a cluster, and the caller's role in it."""

    name: str
    cluster_name: str
    org_name: str | None = None
    role: str | None = None


class Organization(Model):
    """An organisation, and the caller's role in it."""

    name: str
    role: str | None = None


class ResourcePool(Model):
    """Machines of one kind in a cluster."""

    name: str
    min_size: int = 0
    max_size: int = 0
    """Machines."""
    idle_size: int = 0
    cpu: float
    """Cores of each machine."""
    available_cpu: Annotated[float, Field(default_factory=lambda data: data.get("cpu", 0.0))]
    """Cores of each machine that jobs can have."""
    memory: int
    """Bytes of each machine."""
    available_memory: Annotated[int, Field(default_factory=lambda data: data.get("memory", 0))]
    """Bytes of each machine that jobs can have."""
    disk_size: int = 0
    """Bytes of each machine."""
    available_disk_size: Annotated[
        int, Field(default_factory=lambda data: data.get("disk_size", 0))
    ]
    """Bytes of each machine that jobs can have."""
    cpu_min_watts: float = 0.0
    cpu_max_watts: float = 0.0
    nvidia_gpu: GPU | None = None
    nvidia_migs: Mapping[str, GPU] | None = None
    """Slices of a GPU of NVIDIA, by their profile such as ``1g.5gb``."""
    amd_gpu: GPU | None = None
    intel_gpu: GPU | None = None
    tpu: TPUResource | None = None
    is_preemptible: bool = False


class EnergyPeriod(Model):
    """A part of a day of the week, in the cluster's time zone."""

    weekday: int
    """1 is Monday, 7 is Sunday."""
    start_time: str
    """Such as ``09:30``."""
    end_time: str


class EnergySchedule(Model):
    """When jobs that were started with it may run."""

    name: str
    periods: tuple[EnergyPeriod, ...] = ()


class ClusterConfig(Model):
    """One cluster: the addresses of its services, and the presets it offers."""

    name: str
    orgs: tuple[str | None, ...] = ()
    location: str | None = None
    timezone: str | None = None
    """By its name, such as ``Europe/Berlin``."""
    monitoring_url: str = ""
    """Empty, as the next three, where the cluster lacks the service."""
    storage_url: str = ""
    registry_url: str = ""
    secrets_url: str = ""
    users_url: str | None = None
    disks_url: str | None = None
    buckets_url: str | None = None
    presets: Annotated[tuple[Preset, ...], Field(alias="resource_presets")] = ()
    resource_pools: Annotated[
        tuple[ResourcePool, ...], Field(alias="resource_pool_types", repr=False)
    ] = ()
    energy_schedules: Annotated[tuple[EnergySchedule, ...], Field(repr=False)] = ()

    @property
    def registry(self) -> str:
        """The host, and port, that the Docker references of its images begin with."""
        return urlsplit(self.registry_url).netloc.rpartition("@")[2]


class PlatformConfig(Model):
    """The answer to ``GET /config``."""

    stand_ins: ClassVar[Mapping[str, object]] = {"cpu": 0.0, "memory": 0}
    lossy_lists: ClassVar[frozenset[str]] = frozenset(
        {
            "available_resource_pool_names",
            "energy_schedules",
            "orgs",
            "periods",
            "projects",
            "resource_pool_names",
            "resource_pool_types",
            "resource_presets",
            "software_versions",
            "types",
        }
    )

    authorized: bool = True
    """Whether the token was accepted; platforms of 2020 did not say."""
    clusters: tuple[ClusterConfig, ...] = ()
    orgs: tuple[Organization, ...] = ()
    projects: tuple[Project, ...] = ()
    admin_url: str | None = None
    vcluster_url: str | None = None


class LoginConfig(Model):
    """What the same answer tells of logging in; nothing, where it is done in another way."""

    auth_url: str = ""
    token_url: str = ""
    logout_url: str = ""
    client_id: str = ""
    audience: str = ""
    headless_callback_url: str = ""
    success_redirect_url: str | None = None
    callback_urls: tuple[str, ...] = (
        "http://127.0.0.1:54540",
        "http://127.0.0.1:54541",
        "http://127.0.0.1:54542",
    )
