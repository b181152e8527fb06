"""The package as a whole: what it shows, what it loads, what it promises to be."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from random import randrange

import pytest
from psutil import process_iter

import neuro_sync
from neuro_sync.client.jobs import Jobs

HEAVY = ("requests", "urllib3", "websocket", "click", "rich", "fastapi", "uvicorn", "sqlite3")


def run(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_importing_loads_no_server_command_line_or_websocket_library() -> None:
    loaded = run("import sys, neuro_sync; print(*sys.modules)").split()
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    ours = {name.split(".")[1] for name in loaded if name.startswith("neuro_sync.")}
    pure = {"errors", "models", "monotonic", "secret_text", "version"}
    assert ours == {"client", "closing", *pure}


def test_importing_starts_no_thread_and_opens_no_socket() -> None:
    code = (
        "import socket, threading\n"
        "def refuse(*_, **__): raise AssertionError('a socket')\n"
        "socket.socket.__init__ = refuse\n"
        "import neuro_sync\n"
        "print(threading.active_count())"
    )
    assert run(code).strip() == "1"


def test_making_a_session_loads_no_database_and_no_server() -> None:
    code = (
        "import sys, neuro_sync\n"
        "neuro_sync.Session('https://h/api/v1', 'token')\n"
        "print(*sys.modules)"
    )
    loaded = set(run(code).split())
    assert not loaded & {"sqlite3", "http.server", "websocket", "tomllib", "webbrowser"}


def callables() -> Iterator[tuple[str, object]]:
    for name in neuro_sync.__all__:
        public = getattr(neuro_sync, name)
        if inspect.isclass(public):
            for member, value in inspect.getmembers(public):
                if not member.startswith("_"):
                    yield f"{name}.{member}", value
        else:
            yield name, public
    for member, value in inspect.getmembers(Jobs):
        if not member.startswith("_"):
            yield f"Jobs.{member}", value


def test_nothing_public_is_a_coroutine() -> None:
    asynchronous = [
        name
        for name, value in callables()
        if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
    ]
    assert asynchronous == []


def test_everything_public_is_listed_and_documented() -> None:
    assert sorted(neuro_sync.__all__) == neuro_sync.__all__
    undocumented = [name for name in neuro_sync.__all__ if not getattr(neuro_sync, name).__doc__]
    assert undocumented == []


def test_it_works_inside_a_running_event_loop() -> None:
    code = (
        "import asyncio, neuro_sync\n"
        "async def main():\n"
        "    with neuro_sync.Session.local(ephemeral=True) as session:\n"
        "        job = session.jobs.start(image='any', preset_name='cpu-small',"
        " command='echo inside')\n"
        "        print(*session.jobs.logs(job), session.jobs.wait(job).status)\n"
        "asyncio.run(main())"
    )
    assert run(code).strip() == "inside succeeded"


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "psutil"])
def test_without_the_extra_local_a_session_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import neuro_sync\n"
        "try: neuro_sync.Session.local()\n"
        "except neuro_sync.ConfigError as error: print(error)"
    )
    assert f"needs {missing}: pip install 'neuro-sync[local]'" in run(code)


def test_without_the_extra_cli_the_command_says_what_to_install() -> None:
    code = (
        "import runpy, sys\n"
        "sys.modules['click'] = None\n"
        "runpy.run_module('neuro_sync', run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.strip() == "the neuro command needs click: pip install 'neuro-sync[cli]'"


def test_a_session_that_nobody_closed_ends_with_its_platform_at_the_end_of_the_program() -> None:
    mark = f"{randrange(10**6, 10**7)}"
    code = (
        "import neuro_sync\n"
        "session = neuro_sync.Session.local(ephemeral=True)\n"
        "job = session.jobs.start(image='any', preset_name='cpu-small',"
        f" command=\"sh -c 'echo ready; exec sleep {mark}'\")\n"
        "print(next(session.jobs.logs(job)))"
    )
    assert run(code).strip() == "ready"
    # Not by its pid, of which the job may have one of its own.
    assert ["sleep", mark] not in [process.info["cmdline"] for process in process_iter(["cmdline"])]
