"""``python tests/bench``: `report` is what it runs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

# This folder is the package, since `tests` is none, and some distributions bring one so named.
sys.path[0] = str(Path(__file__).resolve().parents[1])
runpy.run_module("bench.report", run_name="__main__", alter_sys=True)
