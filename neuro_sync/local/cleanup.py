"""What becomes of an ephemeral platform that is killed: its jobs end, its folder is deleted.

The platform starts a shell that waits for the end of a pipe. If the platform dies without a word
the shell becomes ``python -m neuro_sync.local.cleanup FOLDER``, which is a platform that starts on
the folder only to end what it finds there. If that is killed too, the next ephemeral platform of
the same user does the same.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from neuro_sync.errors import ConfigError
from neuro_sync.monotonic import monotonic

from .durable_files import create_file
from .private_files import open_file, resolve
from .state import FolderInUse, belongs_here, is_locked, opened

PREFIX = "neuro-local-"
MARK = "ephemeral"
"""The file by which a folder is known as one to delete."""
WATCH = """
trap '' HUP INT QUIT TERM
read -r _ || exec "$0" -m neuro_sync.local.cleanup "$1"
"""
LATER = 'exec "$0" -m neuro_sync.local.cleanup "$1" &'
RELEASE_TIMEOUT_S = 10.0
"""Seconds that the files of a killed process may stay locked."""


def make_folder() -> Path:
    """Make the state folder of an ephemeral platform.

    Raises:
        ConfigError: In the folder for temporary files, others may put their own in its place.
    """
    try:
        resolve(Path(tempfile.gettempdir()).absolute() / "any", may_be_missing=True)
    except ConfigError as error:
        raise ConfigError(
            f"the folder for temporary files cannot be used: {error}; or name another one for "
            "temporary files in the variable TMPDIR, or set its sticky bit: chmod +t"
        ) from error
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    folder.chmod(0o700)  # an umask may take away its owner's rights
    os.close(create_file(folder / MARK))
    return folder


class Watch:
    """A process that cleans up after an ephemeral platform, unless it is told to end."""

    def __init__(self, folder: Path) -> None:
        reading, self._writing = os.pipe()
        try:
            self._process = _run_shell(WATCH, folder, stdin=reading)
        except BaseException:
            os.close(self._writing)
            raise
        finally:
            os.close(reading)

    def end(self) -> None:
        """End the process: the platform has cleaned up itself."""
        with suppress(BrokenPipeError):  # somebody has killed it
            os.write(self._writing, b"\n")
        self.release()
        self._process.wait()

    def release(self) -> None:
        """Close this process's end of the pipe; a child of `fork` has one of its own."""
        os.close(self._writing)


def clean_up_later() -> None:
    """Have the folders cleaned up of all platforms of this user that nobody has cleaned up after.

    It is done by other processes, which are not waited for.
    """
    for mark in Path(tempfile.gettempdir()).absolute().glob(f"{PREFIX}*/{MARK}"):
        with suppress(OSError, ConfigError):
            if is_left_over(mark.parent):
                _run_shell(LATER, mark.parent, stdin=subprocess.DEVNULL).wait()


def is_left_over(folder: Path) -> bool:
    """Return whether an ephemeral platform of this user made a folder, and is gone.

    Raises:
        ConfigError: Somebody else may have made the folder, or changed it.
        OSError: It is not there, or has no mark.
    """
    with opened(folder) as found:
        os.close(open_file(found, MARK))
        is_private = stat.S_IMODE(os.fstat(found).st_mode) == 0o700
        return is_private and belongs_here(found) and not is_locked(found, "lock")


def is_ephemeral(folder: Path) -> bool:
    """Return whether a folder exists and is to be deleted.

    Raises:
        ConfigError: Somebody else may have made the folder, or changed it.
    """
    try:
        with opened(folder) as found:
            os.close(open_file(found, MARK))
    except FileNotFoundError:
        return False
    return True


def _run_shell(script: str, folder: Path, stdin: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", script, sys.executable, str(folder)],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        # Neither the terminal's signals nor those for the program's group are meant for it.
        start_new_session=True,
    )


def main(folder: Path) -> None:
    """End the jobs of a killed platform, and delete its folder."""
    from .server import end_leftovers

    give_up_at = monotonic() + RELEASE_TIMEOUT_S
    while is_ephemeral(folder):
        try:
            end_leftovers(folder)
        except FolderInUse:
            if monotonic() > give_up_at:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
