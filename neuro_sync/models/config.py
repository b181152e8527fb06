"""What a platform says of itself: its clusters, their presets and addresses."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated
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
    tpu: Mapping[str, str] | None = None
    available_resource_pool_names: tuple[str, ...] = ()

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


class ResourcePool(Model):
    """Machines of one kind in a cluster."""

    name: str
    min_size: int = 0
    max_size: int = 0
    """Machines."""
    idle_size: int = 0
    cpu: float
    """Cores of each machine."""
    memory: int
    """Bytes of each machine."""
    disk_size: int = 0
    """Bytes of each machine."""
    nvidia_gpu: GPU | None = None
    amd_gpu: GPU | None = None
    intel_gpu: GPU | None = None
    is_preemptible: bool = False


class ClusterConfig(Model):
    """One cluster: the addresses of its services, and the presets it offers."""

    name: str
    orgs: tuple[str | None, ...] = ()
    monitoring_url: str
    storage_url: str
    registry_url: str
    secrets_url: str
    users_url: str | None = None
    disks_url: str | None = None
    buckets_url: str | None = None
    presets: Annotated[tuple[Preset, ...], Field(alias="resource_presets")] = ()
    resource_pools: Annotated[
        tuple[ResourcePool, ...], Field(alias="resource_pool_types", repr=False)
    ] = ()

    @property
    def registry(self) -> str:
        """The host, and port, that the Docker references of its images begin with."""
        return urlsplit(self.registry_url).netloc.rpartition("@")[2]


class PlatformConfig(Model):
    """The answer to ``GET /config``."""

    authorized: bool = True
    """Whether the token was accepted; platforms of 2020 did not say."""
    clusters: tuple[ClusterConfig, ...] = ()
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
