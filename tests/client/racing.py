"""Several processes that begin at the same moment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

# One program loads what all need; its children are made before any of them opens anything.
FORKING = """
import json, os, sys, traceback
import neuro_sync
from neuro_sync.client import callback, config, login, lookup, oauth, settings, tokens
from neuro_sync.transport import http

waiting, starting = os.pipe()
children = []
for program in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(starting)
            os.read(waiting, 1)
            exec(program, {})
            sys.stdout.flush()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    children.append(child)
os.close(starting)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def race(programs: Sequence[str]) -> list[str]:
    """Run each program in a process of its own, all at once; return the lines they print."""
    command = [sys.executable, "-W", "error", "-c", FORKING, json.dumps(programs)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()
