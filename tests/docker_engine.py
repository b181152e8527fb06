"""A container engine for the tests: a ``dockerd`` of their own, and an image made offline.

All workers of a test run share one. Each holds a lock while it may use it, which ends with the
worker however that ends. The guard, ``python docker_engine.py FOLDER``, takes the engine down
when it gets the lock for itself: it alone knows the pids, the mounts and the folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

IMAGE = "neuro-test:latest"
"""Busybox, as a user of its own, so that it shows when a job runs as somebody else."""
IMAGE_USER = 65534
READY_TIMEOUT = 30.0


@contextmanager
def shared_engine(folder: Path) -> Iterator[str]:
    """Return the address of the engine of a test run, whose workers share a folder."""
    # The guard runs this file as a program, which has no package `tests`.
    from tests.programs import require_programs, skip_or_fail

    require_programs("dockerd", "busybox", "ip")
    if os.getuid() != 0:
        skip_or_fail("no container engine: only root can start one")
    folder.mkdir(exist_ok=True)
    with open(folder / "users", "w") as users, open(folder / "start", "w") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)  # no guard gets it from now on
        guard = None if _is_guarded(folder) else _start_guard(folder)
        fcntl.flock(start, fcntl.LOCK_UN)
        told = json.loads((folder / "engine.json").read_text())
        try:
            if "failed" in told:
                skip_or_fail(f"no container engine: {told['failed']}")
            yield told["url"]
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            if guard is not None:
                guard.wait()


def _is_guarded(folder: Path) -> bool:
    with open(folder / "guard", "w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _start_guard(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "engine.json").unlink(missing_ok=True)
    guard = subprocess.Popen([sys.executable, __file__, str(folder)], start_new_session=True)
    deadline = time.monotonic() + 2 * READY_TIMEOUT
    while not (folder / "engine.json").exists():
        assert guard.poll() is None, "the guard of the engine has gone"
        assert time.monotonic() < deadline, "the guard of the engine does not answer"
        time.sleep(0.02)
    return guard


# The guard


def main(folder: Path) -> None:
    with open(folder / "guard", "w") as guarding, open(folder / "users", "w") as users:
        fcntl.flock(guarding, fcntl.LOCK_EX)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        data = Path(tempfile.mkdtemp(prefix="neuro-dockerd-"))
        bridge = f"neuro-{os.getpid()}"
        engine: subprocess.Popen[bytes] | None = None
        try:
            try:
                _add_bridge(bridge)
                engine = start_engine(data, bridge)
                _import_image(f"unix://{data}/sock")
                told = {"url": f"unix://{data}/sock"}
            except Exception as error:  # noqa: BLE001  # whatever it is, tests are skipped for it
                log = data / "log"
                lines = log.read_text().splitlines()[-5:] if log.exists() else []
                told = {"failed": " | ".join([repr(error), *lines])}
            (folder / "engine.json.new").write_text(json.dumps(told))
            (folder / "engine.json.new").rename(folder / "engine.json")
            fcntl.flock(users, fcntl.LOCK_EX)
        finally:
            if engine is not None:
                stop_engine(engine)
            subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)
            _remove(data)


def start_engine(data: Path, bridge: str) -> subprocess.Popen[bytes]:
    """Start an engine that keeps everything in a folder, and return when it answers."""
    with open(data / "log", "ab") as log:
        engine = subprocess.Popen(
            [
                "dockerd",
                f"--host=unix://{data}/sock",
                f"--data-root={data}/data",
                f"--exec-root={data}/exec",
                f"--pidfile={data}/pid",
                f"--bridge={bridge}",
                "--iptables=false",
                "--ip-masq=false",
                "--log-level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + READY_TIMEOUT
    while True:
        try:
            client = docker.APIClient(f"unix://{data}/sock", version="auto")
        except docker.errors.DockerException:
            if engine.poll() is not None or time.monotonic() > deadline:
                stop_engine(engine)
                raise
            time.sleep(0.05)
        else:
            client.close()
            return engine


def stop_engine(engine: subprocess.Popen[bytes]) -> None:
    """End an engine; it ends its containers and its own helper first."""
    engine.terminate()
    try:
        engine.wait(20)
    except subprocess.TimeoutExpired:
        engine.kill()
        engine.wait()


def _add_bridge(name: str) -> None:
    """Make a network of the tests' own, so that no rule of this machine's firewall is touched."""
    pid = os.getpid()  # another run of the tests may be at it, with another network
    commands = (
        ["link", "add", "name", name, "type", "bridge"],
        ["addr", "add", f"10.{128 + pid // 256 % 127}.{pid % 256}.1/24", "dev", name],
        ["link", "set", name, "up"],
    )
    for command in commands:
        subprocess.run(["ip", *command], check=True, capture_output=True)


def _import_image(url: str) -> None:
    program = shutil.which("busybox")
    assert program is not None
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as image:
        image.add(program, "bin/busybox")
        for name in {*names.stdout.split()} - {"busybox"}:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            image.addfile(link)
        for folder in ("tmp", "etc", "root"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            image.addfile(entry)
    client = docker.APIClient(url, version="auto")
    try:
        client.import_image_from_data(
            archive.getvalue(), repository=IMAGE, changes=[f"USER {IMAGE_USER}", 'CMD ["sh"]']
        )
    finally:
        client.close()


def _remove(data: Path) -> None:
    """Remove an engine's folder, with what is still mounted in it."""
    libc = ctypes.CDLL(None)
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        target = line.split()[1]
        if target.startswith(f"{data}/"):
            libc.umount2(target.encode(), 2)  # MNT_DETACH
    shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
