"""What is measured: each row is a function that does its work on both sides, in turns."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import neuro_sync

from .canned import CHUNKS, LINES, LOGS
from .children import PACKAGE, Child
from .operations import OPERATIONS
from .operations import SMALL_FILES as FEW_FILES

SIDES = ("ours", "peer")

SINK = """
import socket, threading

def serve(connection):
    with connection:
        head = connection.recv(9, socket.MSG_WAITALL)
        left = int.from_bytes(head[1:], "big")
        if head[:1] == b"d":
            connection.sendall(bytes(left))
        else:
            while left and (data := connection.recv(65536)):
                left -= len(data)
            connection.sendall(b".")
        connection.recv(1)

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1])
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""
"""A server that takes or sends as many bytes as it is told."""

JOBS = 10_000
LARGE = 2**28
"""Bytes of the file that is copied."""
SMALL_FILES = 1_000
MIB = 2**20

IMPORT = {"bare": "pass", "ours": "import neuro_sync", "peer": "import apolo_sdk"}
FIRST_STATUS = {
    "ours": """
import sys, neuro_sync
url, token, job_id = sys.argv[1:]
with neuro_sync.get(url, token) as session:
    print(session.jobs.status(job_id).status, flush=True)
""",
    "peer": """
import sys, asyncio, apolo_sdk
async def main():
    async with apolo_sdk.get() as client:
        print((await client.jobs.status(sys.argv[3])).status, flush=True)
asyncio.run(main())
""",
}


@dataclass(frozen=True)
class Goal:
    """What is good enough: a bound of the ratio, or of our own figure where ratios say nothing."""

    at_most: float = math.inf
    at_least: float = 0.0
    ours_at_most: float = math.inf
    ours_at_least: float = 0.0

    def is_met(self, figure: Figure) -> bool:
        ratio = figure.ratio
        in_ratio = ratio is None or self.at_least <= ratio <= self.at_most
        return in_ratio and self.ours_at_least <= figure.ours <= self.ours_at_most

    def __str__(self) -> str:
        if self.ours_at_most < math.inf:
            return f"ours <= {self.ours_at_most:g}"
        if self.ours_at_least:
            return f"ours >= {self.ours_at_least:g}"
        return f">= {self.at_least:g}" if self.at_least else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Figure:
    """One line of the table: a median of each side."""

    name: str
    unit: str
    ours: float
    peer: float | None
    """``None`` where there is no such thing to compare with."""
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; ``None`` where there is none."""
        return None if self.goal is None else self.goal.is_met(self)


@dataclass
class Samples:
    """What was measured in turns, by side."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def add(self, side: str, *values: float) -> None:
        self.taken.setdefault(side, []).extend(values)

    def median(self, side: str) -> float:
        return median(self.taken[side])

    def figure(self, name: str, unit: str, factor: float = 1.0, goal: Goal | None = None) -> Figure:
        """Return the medians, times what turns them into the unit."""
        ours, peer = (self.median(side) * factor for side in SIDES)
        return Figure(name, unit, ours, peer, goal)


class Bench:
    """The processes that rows need, started when the first of them asks for one."""

    def __init__(self, folder: Path, processes: ExitStack) -> None:
        self.folder = folder
        self._processes = processes
        self._servers: dict[str, Child] = {}
        # Bytecode of its own, written in the first turn: what is installed has it from the start,
        # sources that are worked on may not.
        bytecode = str(folder / "bytecode")
        self._env = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "TMPDIR": str(folder)}
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)

    def server(self, kind: str) -> Child:
        """Return a running server: ``platform`` or ``canned``."""
        if kind not in self._servers:
            child = Child("servers", kind, folder=self.folder, env=self._env)
            self._servers[kind] = self._processes.enter_context(child)
        return self._servers[kind]

    def program(self, name: str, *arguments: str) -> Child:
        """Start a program of the benchmark; it ends with its block."""
        return Child(name, *arguments, folder=self.folder, env=self._env)

    def client(self, side: str, server: Child) -> Child:
        """Start a client of a server; it ends with its block."""
        where = server.greeting
        return Child(
            "clients",
            *(side, where["url"], where["token"]),
            folder=self.folder,
            env=self._login(server),
        )

    def _login(self, server: Child) -> dict[str, str]:
        """Return an environment in which the peer's login for a server is saved."""
        port = server.greeting["url"].split(":")[2].split("/")[0]
        return {**self._env, "APOLO_CONFIG": str(self.folder / f"login-{port}")}

    def start_job(self, command: str) -> tuple[str, str]:
        """Start a job on the platform; return its id and its first line."""
        with self.client("ours", self.server("platform")) as client:
            answer = client.ask("start", command)
        return answer["job_id"], answer["line"]

    def make_pipe(self) -> Path:
        """Return a new named pipe."""
        pipe = self.folder / f"pipe-{uuid.uuid4()}"
        os.mkfifo(pipe)
        return pipe

    def time_command(self, command: Sequence[str], server: Child | None = None) -> float:
        """Return the seconds that a command line takes from its start to its end."""
        env = self._env
        if server is not None:
            where = server.greeting
            ours = {"NEURO_SYNC_URL": where["url"], "NEURO_SYNC_TOKEN": where["token"]}
            env = {**self._login(server), **ours}
        started = time.perf_counter()
        ended = subprocess.run(
            command, stdout=subprocess.DEVNULL, cwd=self.folder, env=env, check=False
        )
        seconds = time.perf_counter() - started
        if ended.returncode:
            raise RuntimeError(f"ended with {ended.returncode}: {command}")
        return seconds

    def _saved(self, server: Child) -> dict[str, str]:
        """Return an environment in which the logins of both sides for a server are saved."""
        env = self._login(server)
        ours = env["APOLO_CONFIG"] + "-ours"
        where = server.greeting
        if not Path(ours).exists():
            neuro_sync.login_with_token(where["token"], url=where["url"], path=ours)
            with self.client("peer", server):  # saves its own
                pass
        return {**env, "NEUROMATION_CONFIG": ours, "PYTHONPATH": str(PACKAGE.parent)}

    def run_as_user(self, command: Sequence[str], server: Child) -> None:
        """Run a program with the saved login of its side."""
        ended = subprocess.run(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,  # shown only if it fails
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=self._saved(server),
            check=False,
            timeout=120,
            text=True,
        )
        if ended.returncode:
            raise RuntimeError(f"ended with {ended.returncode}: {command}\n{ended.stderr}")

    def time_script(self, script: str, server: Child | None = None) -> float:
        """Return the seconds from the start of a new interpreter to its first line, or its end."""
        arguments, env = [], self._env
        if server is not None:
            arguments = [server.greeting[key] for key in ("url", "token", "job_id")]
            env = self._login(server)
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdout=subprocess.PIPE,
            cwd=self.folder,
            env=env,
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - started
        if process.returncode or bool(line) is not bool(server):
            raise RuntimeError(f"ended with {process.returncode}: {script}")
        return seconds


def import_time(bench: Bench) -> Iterator[Figure]:
    """Import each package in a new interpreter, less what the interpreter alone takes."""
    samples = Samples()
    for turn in range(-1, 11):  # the first one writes the bytecode
        for side, script in IMPORT.items():
            seconds = bench.time_script(script)
            if turn >= 0:
                samples.add(side, seconds)
    bare = samples.median("bare")
    for side in SIDES:
        samples.taken[side] = [seconds - bare for seconds in samples.taken[side]]
    yield samples.figure("import", "ms", 1e3, goal=Goal(at_most=0.4))


def first_status(bench: Bench) -> Iterator[Figure]:
    """Start a new interpreter that asks for one status; the peer has its login already."""
    server = bench.server("platform")
    with bench.client("peer", server):
        pass
    samples = Samples()
    for turn in range(-1, 11):
        for side, script in FIRST_STATUS.items():
            seconds = bench.time_script(script, server)
            if turn >= 0:
                samples.add(side, seconds)
    yield samples.figure("process start to first status", "ms", 1e3, goal=Goal(at_most=0.5))


def cli_help(bench: Bench) -> Iterator[Figure]:
    """Print the help of both commands."""
    yield _commands(bench, ["--help"]).figure("--help", "ms", 1e3, goal=Goal(at_most=0.4))


def cli_status(bench: Bench) -> Iterator[Figure]:
    """Print a job's status with both commands; the peer has its login already."""
    server = bench.server("platform")
    with bench.client("peer", server):
        pass
    line = ["status", server.greeting["job_id"]]
    samples = _commands(bench, line, server)
    yield samples.figure("status, by command", "ms", 1e3, goal=Goal(at_most=0.5))


def _commands(bench: Bench, line: Sequence[str], server: Child | None = None) -> Samples:
    samples = Samples()
    for turn in range(-1, 11):
        for side, program in _programs().items():
            seconds = bench.time_command([*program, *line], server)
            if turn >= 0:
                samples.add(side, seconds)
    return samples


def _programs() -> Mapping[str, Sequence[str]]:
    """Return how both commands are started."""
    # The peer's command has an environment of its own: it brings a program `neuro` too.
    apolo = os.environ.get("APOLO") or shutil.which("apolo")
    if apolo is None:
        raise RuntimeError("there is no apolo; name the program of apolo-cli in APOLO")
    quiet = ["--disable-pypi-version-check", "--skip-stats"]
    return {"ours": [sys.executable, "-m", "neuro_sync"], "peer": [apolo, *quiet]}


def status(bench: Bench) -> Iterator[Figure]:
    """Ask for a status on a session that has asked before."""
    yield _status(bench, "platform").figure("status", "µs", 1e6, goal=Goal(at_most=0.65))


def status_canned(bench: Bench) -> Iterator[Figure]:
    """Ask a server that has the answer in memory, so that the time is the client's."""
    yield _status(bench, "canned").figure("status, from memory", "µs", 1e6, goal=Goal(at_most=0.65))


def _status(bench: Bench, kind: str) -> Samples:
    server = bench.server(kind)
    samples = Samples()
    for side, answer in _in_turns(bench, server, 30, "status", server.greeting["job_id"], 50):
        samples.add(side, *answer["seconds"])
    return samples


def list_jobs(bench: Bench) -> Iterator[Figure]:
    """List all jobs of the platform."""
    yield from _list(bench, "platform", f"list {JOBS:,} jobs")


def list_canned(bench: Bench) -> Iterator[Figure]:
    """List the same jobs from a server that has the bytes in memory."""
    yield from _list(bench, "canned", f"list {JOBS:,} jobs, from memory")


def _list(bench: Bench, kind: str, name: str) -> Iterator[Figure]:
    server = bench.server(kind)
    speed, cpu, memory, first, server_cpu = (Samples() for _ in range(5))
    for _ in range(5):
        for side in SIDES:
            # A new process each time: the peak of its memory can only rise.
            with bench.client(side, server) as client:
                client.ask("list", 100)
                before = server.ask("cpu")["cpu"]
                answer = client.ask("list", None)
                server_cpu.add(side, (server.ask("cpu")["cpu"] - before) / answer["seconds"])
            if answer["jobs"] < JOBS:  # other rows may have added some
                raise RuntimeError(f"{side} listed {answer['jobs']} jobs instead of {JOBS}")
            speed.add(side, JOBS / answer["seconds"])
            cpu.add(side, answer["cpu"])
            memory.add(side, answer["memory"])
            first.add(side, answer["first"])
    yield speed.figure(name, "jobs/s", goal=Goal(at_least=8))
    yield cpu.figure(f"{name}: CPU time", "ms", 1e3, goal=Goal(at_most=1 / 8))
    yield memory.figure(f"{name}: growth of memory", "MiB", 1 / MIB, Goal(ours_at_most=4))
    yield first.figure(
        f"{name}: first job", "ms", 1e3, goal=Goal(at_most=1.5)
    )  # both wait for the server
    yield server_cpu.figure(f"{name}: the server's CPU", "% of a core", 100)


def log_lines(bench: Bench) -> Iterator[Figure]:
    """Read a log that comes a line at a time, as archived logs do."""
    yield _log(bench, LINES).figure(
        "log, one line per chunk", "MB/s", 1e-6, goal=Goal(at_least=1.3)
    )


def log_chunks(bench: Bench) -> Iterator[Figure]:
    """Read a log that comes in pieces of 64 KiB."""
    yield _log(bench, CHUNKS).figure("log, large chunks", "MB/s", 1e-6, goal=Goal(at_least=0.9))


def _log(bench: Bench, job_id: str) -> Samples:
    samples = Samples()
    for side, answer in _in_turns(bench, bench.server("canned"), 11, "log", job_id):
        if answer["bytes"] != LOGS[job_id].size:
            raise RuntimeError(f"{side} read {answer['bytes']} bytes of {LOGS[job_id].size}")
        samples.add(side, answer["bytes"] / answer["seconds"])
    return samples


def line_latency(bench: Bench) -> Iterator[Figure]:
    """Wait for a line from the moment at which the job is told to write it."""
    samples = Samples()
    server = bench.server("platform")
    for side in SIDES * 4:
        pipe = bench.make_pipe()
        job_id, _ = bench.start_job(f"sh -c 'echo ready; exec cat {pipe}'")
        with bench.client(side, server) as client:
            samples.add(side, *client.ask("line_latency", job_id, str(pipe), 100)["seconds"])
    yield samples.figure("one log line", "µs", 1e6, goal=Goal(at_most=1))


def commands(bench: Bench) -> Iterator[Figure]:
    """Run a command in a job, from the call to its exit code."""
    job_id, _ = bench.start_job("sh -c 'echo ready; exec sleep 600'")
    samples = Samples()
    server = bench.server("platform")
    for side, answer in _in_turns(bench, server, 8, "commands", job_id, 20):
        samples.add(side, *answer["seconds"])
    yield samples.figure("exec of true", "ms", 1e3, goal=Goal(at_most=1))


def echo(bench: Bench) -> Iterator[Figure]:
    """Send a byte to a command and receive it again."""
    job_id, _ = bench.start_job("sh -c 'echo ready; exec sleep 600'")
    samples = Samples()
    server = bench.server("platform")
    for side, answer in _in_turns(bench, server, 8, "echo", job_id, 200):
        samples.add(side, *answer["seconds"])
    yield samples.figure("exec, a byte and back", "µs", 1e6, goal=Goal(at_most=1))


def forward(bench: Bench) -> Iterator[Figure]:
    """Send bytes through a forwarded port, and receive as many."""
    script = bench.folder / "sink.py"
    script.write_text(SINK)
    job_id, port = bench.start_job(f"python3 -u {script}")
    up, down = Samples(), Samples()
    size = 128 * MIB
    server = bench.server("platform")
    for side, answer in _in_turns(bench, server, 7, "forward", job_id, int(port), size):
        up.add(side, size / answer["up"])
        down.add(side, size / answer["down"])
    yield up.figure("port forward, up", "MB/s", 1e-6, goal=Goal(at_least=1))
    yield down.figure("port forward, down", "MB/s", 1e-6, goal=Goal(at_least=1))


def storage_up(bench: Bench) -> Iterator[Figure]:
    """Copy a large file to the storage, over the one that is there."""
    file = _large_file(bench)
    samples = Samples()
    for side, answer in _in_turns(
        bench, bench.server("platform"), 7, "upload", str(file), "large", False
    ):
        samples.add(side, LARGE / answer["seconds"])
    yield samples.figure("storage, up", "MB/s", 1e-6, goal=Goal(at_least=1.3))


def storage_down(bench: Bench) -> Iterator[Figure]:
    """Copy a large file from the storage, to a new place and over the file that is there."""
    server = bench.server("platform")
    with bench.client("ours", server) as client:
        client.ask("upload", str(_large_file(bench)), "large", False)
    target = bench.folder / "large-back"
    new, over = Samples(), Samples()
    with bench.client("ours", server) as ours, bench.client("peer", server) as peer:
        for turn in range(-1, 7):
            for side, client in zip(SIDES, (ours, peer), strict=True):
                target.unlink(missing_ok=True)
                for samples in (new, over):
                    answer = client.ask("download", "large", str(target), False)
                    if turn >= 0:
                        samples.add(side, LARGE / answer["seconds"])
    yield new.figure("storage, down", "MB/s", 1e-6, goal=Goal(at_least=1.3))
    yield over.figure("storage, down, over a file", "MB/s", 1e-6, goal=Goal(at_least=1.3))


def _large_file(bench: Bench) -> Path:
    file = bench.folder / "large"
    if not file.exists():
        file.write_bytes(os.urandom(MIB) * (LARGE // MIB))
    return file


def small_files(bench: Bench) -> Iterator[Figure]:
    """Copy a folder of small files up and down; and file by file, which is the slow way."""
    folder = bench.folder / "small"
    folder.mkdir()
    for number in range(SMALL_FILES):
        (folder / f"{number}.bin").write_bytes(os.urandom(1024))
    up, down, alone = Samples(), Samples(), Samples()
    server = bench.server("platform")
    with bench.client("ours", server) as ours, bench.client("peer", server) as peer:
        for turn in range(-1, 5):
            for side, client in zip(SIDES, (ours, peer), strict=True):
                name = f"small-{side}-{turn}"
                sent = client.ask("upload", str(folder), name, True)["seconds"]
                back = client.ask("download", name, str(bench.folder / name), True)["seconds"]
                if turn >= 0:
                    up.add(side, SMALL_FILES / sent)
                    down.add(side, SMALL_FILES / back)
        for turn in range(2):
            target = bench.folder / f"alone-{turn}"
            target.mkdir()
            answer = ours.ask("one_by_one", str(folder), f"alone-{turn}", str(target))
            alone.add("up", SMALL_FILES / answer["up"])
            alone.add("down", SMALL_FILES / answer["down"])
    name = f"{SMALL_FILES:,} files of 1 KiB"
    for way, samples in (("up", up), ("down", down)):
        yield samples.figure(f"{name}, {way}", "files/s", goal=Goal(at_least=1))
        samples.taken["peer"] = alone.taken[way]
        yield samples.figure(
            f"{name}, {way}; not the peer but one by one", "files/s", goal=Goal(at_least=4)
        )


def local_platform(bench: Bench) -> Iterator[Figure]:
    """Measure the local platform by itself; the peer of its first line is a bare interpreter."""
    taken: dict[str, list[float]] = {}
    for turn in range(-1, 3):  # the first one writes the bytecode
        with bench.program("local") as child:
            for name, value in child.greeting.items():
                taken.setdefault(name, []).extend([value] if turn >= 0 else ())
    ours = {name: median(values) for name, values in taken.items()}
    yield Figure("local: ready", "ms", ours["ready"] * 1e3, None, Goal(ours_at_most=500))
    first, bare = ours["first_line"] * 1e3, ours["bare"] * 1e3
    yield Figure("local: first line, beside `python -c pass`", "ms", first, bare, Goal(at_most=3))
    yield Figure("local: list 1,000 jobs", "ms", ours["list"] * 1e3, None, Goal(ours_at_most=200))
    idle = Goal(ours_at_most=10)
    yield Figure("local: CPU time in 5 idle seconds", "ms", ours["idle"] * 1e3, None, idle)
    follow = Goal(ours_at_least=200)
    yield Figure("local: follow 1 GiB of log", "MB/s", ours["follow"] / 1e6, None, follow)


def durability(bench: Bench) -> Iterator[Figure]:
    """Start jobs on a platform that waits for its disk; the peer is one that does not."""
    samples: dict[str, Samples] = {"acknowledged": Samples(), "over": Samples()}
    for _ in range(5):
        for side, kind in zip(SIDES, ("durable", "volatile"), strict=True):
            with bench.program("local", kind) as child:
                for name, value in child.greeting.items():
                    samples[name].add(side, value)
    for name, label in (("acknowledged", "start"), ("over", "start and end")):
        # At most a fifth of the throughput may be what durability costs, else it is a setting.
        yield samples[name].figure(
            f"local, durable: {label} of jobs; not the peer but `--no-sync`", "jobs/s"
        )


def requests(bench: Bench) -> Iterator[Figure]:
    """Count what new processes with a saved login ask for, and on how many connections."""
    server = bench.server("counted")
    small = bench.folder / "few"
    small.mkdir()
    for number in range(FEW_FILES):
        (small / f"{number}.bin").write_bytes(os.urandom(4096))
    with bench.client("ours", server) as client:
        job_id = client.ask("start", "sh -c 'echo ready; exec sleep 600'")["job_id"]
        ended = client.ask("start", "echo ready")["job_id"]
        client.ask("upload", str(small), "small", True)
    programs = _programs()
    program = [sys.executable, "-m", "bench.operations"]
    runs = {
        name: {side: [*program, side, name, job_id, str(small)] for side in SIDES}
        for name in OPERATIONS
    }
    for name, ours, theirs in (
        ("status", ["status", job_id], ["job", "status", job_id]),
        ("ps", ["ps"], ["ps"]),
        ("logs", ["logs", ended], ["logs", ended]),
        ("exec -T JOB true", ["exec", "-T", job_id, "true"], ["exec", "-T", job_id, "--", "true"]),
        (
            "run ubuntu true",
            ["run", "-s", "cpu-small", "-T", "ubuntu", "true"],
            ["run", "-s", "cpu-small", "--no-tty", "ubuntu", "--", "true"],
        ),
    ):
        runs[f"`{name}`"] = {
            "ours": [*programs["ours"], *ours],
            "peer": [*programs["peer"], *theirs],
        }
    for name, commands in runs.items():
        asked, connected = Samples(), Samples()
        for turn in range(-1, 3):
            for side, command in commands.items():
                server.ask("counts")
                bench.run_as_user(command, server)
                counts = server.ask("counts")
                if turn >= 0:
                    asked.add(side, len(counts["requests"]))
                    connected.add(side, counts["connections"])
        # We look at a copied folder again, and once more at the log of a job that is over.
        goal = Goal(at_most=1.25 if "run" in name else 1.01)
        yield asked.figure(f"{name}: requests", "", goal=goal)
        yield connected.figure(f"{name}: connections", "", goal=Goal(at_most=1))


def _in_turns(
    bench: Bench, server: Child, turns: int, order: str, *arguments: object
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give both clients the same order in turns; the answers to the first one are left out."""
    with bench.client("ours", server) as ours, bench.client("peer", server) as peer:
        for turn in range(-1, turns):
            for side, client in zip(SIDES, (ours, peer), strict=True):
                answer = client.ask(order, *arguments)
                if turn >= 0:
                    yield side, answer


ROWS: Mapping[str, Callable[[Bench], Iterator[Figure]]] = {
    "import": import_time,
    "first-status": first_status,
    "help": cli_help,
    "cli-status": cli_status,
    "list": list_jobs,
    "list-canned": list_canned,
    "status": status,
    "status-canned": status_canned,
    "log-lines": log_lines,
    "log-chunks": log_chunks,
    "line-latency": line_latency,
    "exec": commands,
    "echo": echo,
    "forward": forward,
    "requests": requests,
    "local": local_platform,
    "durability": durability,
    "storage-up": storage_up,
    "storage-down": storage_down,
    "storage-small": small_files,
}
