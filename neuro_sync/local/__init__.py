"""The local platform: the protocol of the hosted one, and jobs that run on this machine."""

from neuro_sync.errors import ConfigError

try:
    import fcntl  # noqa: F401
except ImportError as error:
    raise ConfigError(
        "the local platform runs on Linux and macOS only; on Windows, run it in the Windows "
        "Subsystem for Linux (WSL), or use a hosted platform"
    ) from error
