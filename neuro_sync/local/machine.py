"""What this machine has to offer, as presets."""

from __future__ import annotations

import os
import shutil
import subprocess

import psutil

from neuro_sync.models.config import GPU, MIB, Preset

GIB = 2**30


def presets() -> tuple[Preset, ...]:
    """Return a small and a large preset, and the same with the GPUs that are really here."""
    half, most = memory() // 2, memory() // 4 * 3
    small = Preset(name="cpu-small", cpu=1.0, memory=min(2 * GIB, half))
    large = Preset(name="cpu-large", cpu=float(max(cores() - 1, 1)), memory=most)
    found = gpus()
    if found is None:
        return small, large
    one = found.model_copy(update={"count": 1})
    return (
        small,
        large,
        large.model_copy(update={"name": "gpu-small", "nvidia_gpu": one}),
        large.model_copy(update={"name": "gpu-large", "nvidia_gpu": found}),
    )


def cores() -> int:
    return os.cpu_count() or 1


def memory() -> int:
    """Return the bytes of memory, used or not."""
    return psutil.virtual_memory().total


def gpus() -> GPU | None:
    """Ask NVIDIA's own program, where it is installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = answer.stdout.strip().splitlines()
    if answer.returncode != 0 or not lines:
        return None
    model, _, mebibytes = lines[0].rpartition(",")
    return GPU(
        count=len(lines),
        model=model.strip().lower().replace(" ", "-"),
        memory=int(mebibytes) * MIB,
    )
