"""Measure this package beside ``apolo-sdk``: ``python tests/bench [ROW ...]``.

Both clients do the same work against the same server, in turns. Absolute times are this machine's,
so only ratios have goals; the exit code is 1 when one of them is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from .rows import ROWS, Bench, Figure

ROOM = 8 * 2**30
"""Bytes that all rows together need, with some to spare."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; else all")
    wanted = parser.parse_args().rows or list(ROWS)
    unknown = sorted(set(wanted) - set(ROWS))
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    print("| what | ours | peer | unit | ratio | goal | met |")
    print("|---|---|---|---|---|---|---|", flush=True)
    met = True
    with TemporaryDirectory(prefix="bench-", dir=_memory()) as folder, ExitStack() as processes:
        bench = Bench(Path(folder), processes)
        for row in wanted:
            for figure in ROWS[row](bench):
                print(_line(figure), flush=True)
                met &= figure.met is not False
    return 0 if met else 1


def _memory() -> str | None:
    """Return a folder in memory if there is one, since no disk is what is measured."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > ROOM
    return str(memory) if has_room else None


def _line(figure: Figure) -> str:
    verdict = {None: "", True: "yes", False: "**no**"}[figure.met]
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    peer = "" if figure.peer is None else _number(figure.peer)
    numbers = f"{_number(figure.ours)} | {peer} | {figure.unit} | {ratio}"
    return f"| {figure.name} | {numbers} | {figure.goal or ''} | {verdict} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
