"""Blocking Python SDK for Neu.ro / Apolo compute jobs."""

from importlib import import_module
from typing import TYPE_CHECKING

from .client.channels import CommandResult, StdStream
from .client.forward import PortForward
from .client.session import Client, Session, get
from .errors import (
    APIError,
    AuthenticationError,
    AuthError,
    AuthorizationError,
    BadGateway,
    ClientError,
    CommandFailed,
    CommandTimeout,
    ConfigError,
    Conflict,
    ConnectionFailed,
    EngineFailed,
    IllegalArgumentError,
    JobFailed,
    NDJSONError,
    NeuroError,
    NotSupported,
    ProtocolError,
    RequestTimeout,
    ResourceNotFound,
    ServerError,
    ServerNotAvailable,
    StorageError,
    StorageExists,
    StorageIsDirectory,
    StorageNotDirectory,
    StorageNotFound,
    StreamClosed,
    StreamInterrupted,
    WaitTimeout,
)
from .models.config import ClusterConfig, Preset, Project, ResourcePool
from .models.images import (
    AbstractDockerImageProgress,
    ImageCommitFinished,
    ImageCommitStarted,
    ImageProgressPull,
    ImageProgressPush,
    ImageProgressSave,
    ImageProgressStep,
    LocalImage,
    RemoteImage,
    Tag,
    TagOption,
)
from .models.jobs import (
    Container,
    DiskVolume,
    ExecInspect,
    HTTPPort,
    JobDescription,
    JobPriority,
    JobRestartPolicy,
    JobStatus,
    JobStatusHistory,
    JobStatusItem,
    JobTelemetry,
    Message,
    Resources,
    SecretFile,
    Volume,
)
from .version import __version__

if TYPE_CHECKING:
    from .client.login import (
        login,
        login_headless,
        login_with_passed_config,
        login_with_token,
        logout,
    )
    from .models.disks import Disk
    from .models.parse import EnvParseResult, VolumeParseResult
    from .models.secrets import Secret
    from .models.storage import (
        AbstractDeleteProgress,
        AbstractFileProgress,
        AbstractRecursiveFileProgress,
        DiskUsageInfo,
        FileStatus,
        FileStatusType,
        StorageProgressComplete,
        StorageProgressDelete,
        StorageProgressEnterDir,
        StorageProgressFail,
        StorageProgressLeaveDir,
        StorageProgressStart,
        StorageProgressStep,
    )
    from .models.users import Action, Permission, Quota, Share

__all__ = [
    "APIError",
    "AbstractDeleteProgress",
    "AbstractDockerImageProgress",
    "AbstractFileProgress",
    "AbstractRecursiveFileProgress",
    "Action",
    "AuthError",
    "AuthenticationError",
    "AuthorizationError",
    "BadGateway",
    "Client",
    "ClientError",
    "ClusterConfig",
    "CommandFailed",
    "CommandResult",
    "CommandTimeout",
    "ConfigError",
    "Conflict",
    "ConnectionFailed",
    "Container",
    "Disk",
    "DiskUsageInfo",
    "DiskVolume",
    "EngineFailed",
    "EnvParseResult",
    "ExecInspect",
    "FileStatus",
    "FileStatusType",
    "HTTPPort",
    "IllegalArgumentError",
    "ImageCommitFinished",
    "ImageCommitStarted",
    "ImageProgressPull",
    "ImageProgressPush",
    "ImageProgressSave",
    "ImageProgressStep",
    "JobDescription",
    "JobFailed",
    "JobPriority",
    "JobRestartPolicy",
    "JobStatus",
    "JobStatusHistory",
    "JobStatusItem",
    "JobTelemetry",
    "LocalImage",
    "Message",
    "NDJSONError",
    "NeuroError",
    "NotSupported",
    "Permission",
    "PortForward",
    "Preset",
    "Project",
    "ProtocolError",
    "Quota",
    "RemoteImage",
    "RequestTimeout",
    "ResourceNotFound",
    "ResourcePool",
    "Resources",
    "Secret",
    "SecretFile",
    "ServerError",
    "ServerNotAvailable",
    "Session",
    "Share",
    "StdStream",
    "StorageError",
    "StorageExists",
    "StorageIsDirectory",
    "StorageNotDirectory",
    "StorageNotFound",
    "StorageProgressComplete",
    "StorageProgressDelete",
    "StorageProgressEnterDir",
    "StorageProgressFail",
    "StorageProgressLeaveDir",
    "StorageProgressStart",
    "StorageProgressStep",
    "StreamClosed",
    "StreamInterrupted",
    "Tag",
    "TagOption",
    "Volume",
    "VolumeParseResult",
    "WaitTimeout",
    "__version__",
    "get",
    "login",
    "login_headless",
    "login_with_passed_config",
    "login_with_token",
    "logout",
]

_LATER = {
    ".client.login": (
        "login",
        "login_headless",
        "login_with_passed_config",
        "login_with_token",
        "logout",
    ),
    ".models.disks": ("Disk",),
    ".models.parse": ("EnvParseResult", "VolumeParseResult"),
    ".models.secrets": ("Secret",),
    ".models.storage": (
        "AbstractDeleteProgress",
        "AbstractFileProgress",
        "AbstractRecursiveFileProgress",
        "DiskUsageInfo",
        "FileStatus",
        "FileStatusType",
        "StorageProgressComplete",
        "StorageProgressDelete",
        "StorageProgressEnterDir",
        "StorageProgressFail",
        "StorageProgressLeaveDir",
        "StorageProgressStart",
        "StorageProgressStep",
    ),
    ".models.users": ("Action", "Permission", "Quota", "Share"),
}
"""What not every program needs: imported when it is first asked for."""


def __getattr__(name: str) -> object:
    for module, names in _LATER.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module, __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
