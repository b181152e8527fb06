"""Processes of the benchmark: each does one thing, so that its time and memory are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

PACKAGE = Path(__file__).resolve().parent
PATIENCE = 30.0
"""Seconds that a child may take to end by itself."""


class Child:
    """A program of this package that says a first line, then answers orders, a line each.

    The lines are JSON. It ends when its input does, which happens at the end of the block.
    """

    def __init__(self, program: str, *arguments: str, folder: Path, env: Mapping[str, str]) -> None:
        """Start it in a folder away from the sources, so that it imports what is installed."""
        path = filter(None, (str(PACKAGE.parent), env.get("PYTHONPATH")))
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{PACKAGE.name}.{program}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env={**env, "PYTHONPATH": os.pathsep.join(path)},
        )
        self.greeting = self._read()

    def ask(self, order: str, *arguments: object) -> dict[str, Any]:
        """Give an order and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([order, *arguments]).encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def tell(answer: Mapping[str, object]) -> None:
    """Say a line, on the child's side."""
    print(json.dumps(answer), flush=True)
