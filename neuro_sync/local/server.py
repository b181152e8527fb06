"""`LocalPlatform`: the app in a thread, as a context manager."""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import socket
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import uvicorn
from typing_extensions import Self

from neuro_sync.closing import Closing
from neuro_sync.errors import APIError, ConfigError, ServerError
from neuro_sync.models.users import Action

from .access import Caller, own_hosts
from .accounts import Accounts, accounts_of
from .app import API, create_app
from .cleanup import Watch, clean_up_later, make_folder
from .clock import Clock, SystemClock
from .disks import DiskStore
from .http import ACCEPTED_AT_ONCE, Connections, Http, WebSockets
from .jobs import JobService, Tenant
from .loop import PlatformLoop
from .machine import Machine
from .mounts import Mounts
from .registry import Registry
from .repeats import limit_repeats
from .retention import AutomaticPruning, Pruner, Retention
from .runtimes.base import Runtime
from .runtimes.process import LOG_LIMIT, ProcessRuntime
from .schedule import Schedule
from .secrets import SecretStore
from .sites import Sites
from .state import (
    StateFolder,
    folder_of,
    is_state_folder,
    last_runtime,
    local_user,
    running_platform,
    stop_platform,
)
from .storage import StorageFolder
from .store import Store, unusable
from .trees import remove_tree
from .users import Users

__all__ = [
    "LocalPlatform",
    "StateFolder",
    "end_leftovers",
    "folder_of",
    "is_state_folder",
    "running_platform",
    "stop_platform",
]

logger = logging.getLogger(__name__)

RuntimeName = Literal["process", "docker"]
HOST = "127.0.0.1"
CLUSTER = "local"
START_TIMEOUT = 10.0
BACKLOG = 512
"""Connections that wait in the kernel to be accepted."""
EXIT_GRACE_S = 0.5
"""How long jobs may take to end with a program that ends without having closed the platform."""
PING_INTERVAL = 30.0
PONG_TIMEOUT = 15.0
LARGEST_MESSAGE = 4 * 2**20 - 1
"""Bytes of a websocket message; the protocol refuses from 4 MiB on."""


def _is_news(record: logging.LogRecord) -> bool:
    """Pass over what uvicorn logs of daily events.

    These are handshakes that were refused properly, and container engines, which try TLS first.
    """
    text = str(record.msg)
    return "without completing handshake" not in text and "Invalid HTTP request" not in text


class _Server(uvicorn.Server):
    """A server that sleeps until it is stopped; the usual one looks around ten times a second."""

    def __init__(self, settings: uvicorn.Config, connections: Connections) -> None:
        super().__init__(settings)
        self.server_state = connections
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        await self.stop.wait()


class LocalPlatform(Closing):
    """A platform on this machine, for as long as the block lasts.

    It listens on the loopback address only. Its jobs end with it; what it remembers stays in the
    state folder, unless it is `ephemeral`. If its process is killed its jobs go on, and the next
    platform on the same folder takes them up. A child of `fork` may use it, and never ends it.
    """

    def __init__(
        self,
        state: str | Path | None = None,
        *,
        ephemeral: bool = False,
        port: int = 0,
        grace: float = 3.0,
        cores: float | None = None,
        memory: int | None = None,
        total_running_jobs: int | None = None,
        log_limit: int | None = LOG_LIMIT,
        durable: bool | None = None,
        retention: Retention | None = None,
        clock: Clock | None = None,
        runtime: RuntimeName = "process",
        visible: Iterable[str | Path] = (),
        writable: Iterable[str | Path] = (),
        is_program: bool = False,
    ) -> None:
        """Say where it keeps its state, where it listens, and what runs its jobs.

        Port 0 is any free one. `grace` is how many seconds a job that is killed may take to end
        by itself. `runtime` is ``process``, commands on this machine, or ``docker``, containers
        of the engine that the ``docker`` command would use. Jobs that run as
        processes see of this machine the system and the Python that runs the platform, and besides
        what is `visible`, read-only, and what is `writable`. `cores` and `memory` (bytes) are what
        its jobs may use together, in place of what this machine has; they may well be more.
        `total_running_jobs` is the quota of each user: how many unfinished jobs he may have. A
        job whose output exceeds `log_limit` bytes is ended, so that it does not fill the disk;
        None lets it go on. What a `durable` platform has acknowledged or reported survives a power
        loss; one that is not is a little faster. All are durable by default, but ephemeral ones.
        With a `retention`, finished jobs are removed every hour, with their logs. A test sets a
        `ManualClock` forward. `is_program` says that this process is there for the platform alone
        and ends when it is sent SIGTERM, so that ``neuro local down`` may do that.
        """
        for name, value in (("cores", cores), ("memory", memory), ("jobs", total_running_jobs)):
            if isinstance(value, bool) or (value is not None and not 0 < value < math.inf):
                raise ConfigError(f"{name} = {value}: a platform needs a number above 0")
        if isinstance(port, bool) or not isinstance(port, int):
            raise ConfigError(f"port = {port!r}: should be a whole number, 0 for any free one")
        if not 0 <= grace < math.inf:
            raise ConfigError(f"grace = {grace}: should be seconds, 0 or more")
        if log_limit is not None and log_limit <= 0:
            raise ConfigError(f"log_limit = {log_limit}: should be bytes, or None for no limit")
        self._visible = _existing("visible", visible)
        self._writable = _existing("writable", writable)
        self._is_program = is_program
        self._forget = False
        self._is_ephemeral = ephemeral
        self._state = StateFolder(make_folder() if ephemeral else state)
        self._watch: Watch | None = None
        self._port = port
        self._grace = grace
        self._runtime = runtime
        self._cores = cores
        self._memory = memory
        self._quota = total_running_jobs
        self._log_limit = log_limit
        self._retention = retention
        self._pruning: AutomaticPruning | None = None
        self._durable = not ephemeral if durable is None else durable
        self._clock = clock or SystemClock()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._listener: socket.socket | None = None
        self._store: Store | None = None

    @property
    def folder(self) -> Path:
        """Where the state is kept."""
        return self._state.path

    @property
    def url(self) -> str:
        """Of the API."""
        return f"http://{HOST}:{self._port}{API}"

    @property
    def runtime(self) -> RuntimeName:
        """What runs its jobs."""
        return self._runtime

    @property
    def warning(self) -> str:
        """What its user should know of how jobs run on this machine; mostly empty."""
        return self._service.runtime.warning

    @property
    def port(self) -> int:
        """Where it listens, once it does."""
        return self._port

    @property
    def token(self) -> str:
        return self._token

    def start(self) -> Self:
        """Start it, and return when it answers.

        Raises:
            ConfigError: The port is taken, the state folder is unusable or in use, or there is
                no container engine for the docker runtime.
        """
        self._opened_by = os.getpid()
        _running.add(self)
        atexit.register(self._close_at_exit)
        try:
            if self._is_ephemeral:
                clean_up_later()
                self._watch = Watch(self.folder)
            self._state.open()
            listener = self._listener = self._listen()
            self._port = listener.getsockname()[1]
            user = local_user()
            self._token = self._state.token(user)
            self._run(self._server(user), listener)
            self._state.announce(
                self.url, self._token, runtime=self._runtime, is_program=self._is_program
            )
        except BaseException as error:
            self._forget = False  # another platform may be using the folder
            self._clean_up()
            if isinstance(error, OSError):
                raise self._state.unusable(error) from error
            if isinstance(error, ServerError):  # of the database
                raise ConfigError(f"the local platform did not start: {error.text}") from error
            raise
        return self

    def _listen(self) -> socket.socket:
        # The protocol is named, since asyncio sends at once only on a socket that says it is TCP;
        # otherwise each answer waits 40 ms for an acknowledgement.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, self._port))
            listener.listen(BACKLOG)
        except (OSError, OverflowError) as error:
            listener.close()
            raise ConfigError(
                f"port {self._port} cannot be used ({error}); "
                "name another one with --port, or 0 for any free one"
            ) from error
        return listener

    def _server(self, user: str) -> _Server:
        machine = Machine.here(cores=self._cores, memory=self._memory)
        offered = machine.presets()
        home = Tenant(CLUSTER, CLUSTER, user)
        self._store = Store(self._state.database, durable=self._durable)
        users = self._users = Users(Accounts(self._store.database), home, self._token)
        runtime = self._make_runtime(users)
        connections = Connections()
        sites = Sites(runtime.dial, users, self._may_see, connections)
        mounts = self._mounts = Mounts(
            StorageFolder(self.folder / "storage", self.folder / "uploads"),
            SecretStore(self.folder / "secrets"),
            DiskStore(self._store.database, self.folder / "disks", self._clock),
        )
        mounts.storage.open(home.org, home.project)
        mounts.secrets.open()
        self._service = JobService(
            self._store,
            runtime,
            Schedule(machine.room, quota=self._quota),
            mounts,
            sites,
            offered,
            home,
            self._clock,
            registry_hosts=own_hosts(self._port),
        )
        self._registry = Registry(self.folder)
        if self._retention is not None:
            pruner = Pruner(self._store, self.folder, self._retention)
            self._pruning = AutomaticPruning(pruner, self._clock)
        app = create_app(
            service=self._service,
            mounts=mounts,
            users=users,
            home=home,
            presets=offered,
            registry=self._registry,
            folder=self.folder,
            port=self._port,
        )
        settings = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            lifespan="off",
            backlog=ACCEPTED_AT_ONCE,
            http=Http,
            ws=WebSockets,
            ws_max_size=LARGEST_MESSAGE,
            ws_ping_interval=PING_INTERVAL,
            ws_ping_timeout=PONG_TIMEOUT,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        return _Server(settings, connections)

    def _make_runtime(self, users: Users) -> Runtime:
        if self._runtime == "process":
            return ProcessRuntime(
                grace=self._grace,
                log_limit=self._log_limit,
                durable=self._durable,
                visible=self._visible,
                writable=self._writable,
            )
        if self._runtime != "docker":
            raise ConfigError(
                f"there is no runtime {self._runtime!r}; there are 'process' and 'docker'"
            )
        try:
            from .runtimes.docker import DockerRuntime
        except ImportError as error:
            raise ConfigError(
                f"the docker runtime needs {error.name}: pip install 'neuro-sync[local,docker]'"
            ) from error
        return DockerRuntime(
            grace=self._grace,
            durable=self._durable,
            registry_hosts=own_hosts(self._port),
            lend_token=users.lend,
        )

    def _may_see(self, user: Caller, job_id: str) -> bool:
        """Return whether a user may see a job's web page."""
        try:
            self._service.find(job_id, user, Action.READ)
        except APIError:
            return False
        return True

    def _run(self, server: _Server, listener: socket.socket) -> None:
        self._uvicorn = server
        ready = threading.Event()

        def run() -> None:
            try:
                with limit_repeats():
                    self._loop.run(self._serve(server, listener, ready))
            except BaseException as error:  # noqa: BLE001  # told to whoever started the platform
                self._failure = error
            finally:
                ready.set()

        self._loop = PlatformLoop()
        # A daemon: a session that nobody closed must not keep the interpreter from ending.
        self._thread = threading.Thread(target=run, name="neuro-local", daemon=True)
        self._thread.start()
        if not ready.wait(START_TIMEOUT) or not server.started:
            if isinstance(self._failure, sqlite3.Error):
                raise unusable(self._state.database, self._failure) from self._failure
            if isinstance(self._failure, OSError | ServerError):
                raise self._failure
            raise ConfigError(f"the local platform did not start: {self._failure or 'too slow'}")

    async def _serve(
        self, server: _Server, listener: socket.socket, ready: threading.Event
    ) -> None:
        self._mounts.disks.open()
        await self._service.open(self.folder, only_to_end=self._forget)
        if self._pruning is not None:
            self._pruning.open()
        serving = asyncio.ensure_future(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        with suppress(OSError):
            listener.listen(BACKLOG)
        ready.set()
        await serving

    def close(self) -> None:
        """End the platform and its jobs; calling it again does nothing."""
        if self._thread is None or self.is_inherited:
            return
        if threading.current_thread() is self._thread:  # it was dropped there
            threading.Thread(target=self.close, name="neuro-local: end").start()
            return
        thread, self._thread = self._thread, None
        if thread.is_alive():
            if self._pruning is not None:
                asyncio.run_coroutine_threadsafe(self._pruning.close(), self._loop).result()
            # Jobs first: the server waits for its connections, and followers wait for the jobs.
            asyncio.run_coroutine_threadsafe(self._service.close(), self._loop).result()
            asyncio.run_coroutine_threadsafe(self._registry.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._uvicorn.stop.set)
            thread.join()
        self._clean_up()

    def _close_at_exit(self) -> None:
        """End with the interpreter, for which somebody may be waiting."""
        if self._thread is not None and not self.is_inherited:
            runtime = self._service.runtime
            runtime.grace = min(runtime.grace, EXIT_GRACE_S)
            self._uvicorn.config.timeout_graceful_shutdown = 1
            self.close()

    def release_in_child(self) -> None:
        """Release what a child of `fork` shares with the platform, which goes on in its parent."""
        if self._thread is not None:
            self._loop.release_descriptors()
        if self._watch is not None:
            self._watch.release()
        self._state.close()

    def add_user(self, name: str) -> str:
        """Make a user, with a project of the same name, and return the user's token.

        Raises:
            IllegalArgumentError: The name is taken, or is none that a user can have.
        """
        with accounts_of(self.folder) as accounts:
            accounts.add_user(name)
            return accounts.add_token(name)

    def delete_at_end(self) -> None:
        """Have `close` delete the state folder, with all that the platform remembers.

        A platform that is told so before it starts runs none of the jobs that it finds.
        """
        self._forget = True

    def _clean_up(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._store is not None:
            self._store.close()
        if self._is_ephemeral:
            remove_tree(self.folder)
        elif self._forget:
            self._state.delete()
        self._state.close()
        if self._watch is not None:
            self._watch.end()
        atexit.unregister(self._close_at_exit)
        _running.discard(self)

    def __enter__(self) -> Self:
        return self.start()

    def __repr__(self) -> str:
        return f"<LocalPlatform at {self.url}, state in {self.folder}>"


def _existing(name: str, paths: Iterable[str | Path]) -> list[Path]:
    found = [Path(path).absolute() for path in paths]
    for path in found:
        if not path.exists():
            raise ConfigError(f"{name} = {str(path)!r}: there is no such file or folder")
    return found


def end_leftovers(state: str | Path | None) -> None:
    """End the jobs that a killed platform has left on a state folder, and delete the folder.

    Raises:
        FolderInUse: A platform runs on it.
        ConfigError: The folder cannot be used.
    """
    if StateFolder(state).discard():  # a copy: the jobs of which it tells are not its own
        return
    runtime: RuntimeName = "docker" if last_runtime(state) == "docker" else "process"
    platform = LocalPlatform(state, runtime=runtime)
    platform.delete_at_end()
    with platform:
        pass


_running: set[LocalPlatform] = set()
"""The platforms of this process."""


def _release_in_child() -> None:
    for platform in _running:
        platform.release_in_child()
    _running.clear()


os.register_at_fork(after_in_child=_release_in_child)
