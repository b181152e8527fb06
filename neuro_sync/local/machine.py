"""What this machine has to offer, and how it is divided: room, presets, prices."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

import psutil

from neuro_sync.models.config import GPU, MIB, Preset
from neuro_sync.models.jobs import Resources

GIB = 2**30
CORE_PRICE = Decimal("0.1")
"""Credits an hour; nobody pays them, but a program that adds prices up has something to add."""
GPU_PRICE = Decimal(1)


@dataclass(frozen=True)
class Room:
    """What a job takes of a machine, or what a machine has left; in whole numbers, so that
    what was taken and given back a thousand times is what it was."""

    millicores: int
    memory: int
    """Bytes."""
    gpus: int = 0

    def __add__(self, other: Room) -> Room:
        return Room(
            self.millicores + other.millicores, self.memory + other.memory, self.gpus + other.gpus
        )

    def __sub__(self, other: Room) -> Room:
        return Room(
            self.millicores - other.millicores, self.memory - other.memory, self.gpus - other.gpus
        )

    def holds(self, other: Room) -> bool:
        return (
            other.millicores <= self.millicores
            and other.memory <= self.memory
            and other.gpus <= self.gpus
        )

    def times(self, other: Room) -> int:
        """Return how often another room is in this one."""
        pairs = (
            (self.millicores, other.millicores),
            (self.memory, other.memory),
            (self.gpus, other.gpus),
        )
        return max(min(has // wants for has, wants in pairs if wants), 0)

    def __str__(self) -> str:
        cores = f"{self.millicores / 1000:g} core{'' if self.millicores == 1000 else 's'}"
        text = f"{cores} and {self.memory // MIB} MiB of memory"
        return f"{text} and {self.gpus} GPU{'' if self.gpus == 1 else 's'}" if self.gpus else text


def room_of(resources: Resources | Preset) -> Room:
    """Return what a job with such resources takes."""
    return Room(round(resources.cpu * 1000), resources.memory or 0, resources.gpu or 0)


@dataclass(frozen=True)
class Machine:
    """A machine, as it is or as somebody says that it is."""

    cores: float
    memory: int
    """Bytes, used or not."""
    gpu: GPU | None = None

    @classmethod
    def here(cls, *, cores: float | None = None, memory: int | None = None) -> Machine:
        """Return this machine, with what was said of it in place of what it has."""
        return cls(
            cores=cores or os.cpu_count() or 1,
            memory=memory or psutil.virtual_memory().total,
            gpu=gpus(),
        )

    @property
    def room(self) -> Room:
        return Room(round(self.cores * 1000), self.memory, self.gpu.count if self.gpu else 0)

    def presets(self) -> tuple[Preset, ...]:
        """Return a small and a large preset, the same with the GPUs that are really here, and all
        of them once more for jobs that give way to others."""
        half, most = self.memory // 2, self.memory // 4 * 3
        small = Preset(name="cpu-small", cpu=min(1.0, self.cores), memory=min(2 * GIB, half))
        large = Preset(name="cpu-large", cpu=max(self.cores - 1, small.cpu), memory=most)
        found = [small, large]
        if self.gpu is not None:
            one = self.gpu.model_copy(update={"count": 1})
            found.append(large.model_copy(update={"name": "gpu-small", "nvidia_gpu": one}))
            found.append(large.model_copy(update={"name": "gpu-large", "nvidia_gpu": self.gpu}))
        ordinary = [
            preset.model_copy(update={"credits_per_hour": price(room_of(preset))})
            for preset in found
        ]
        return (*ordinary, *map(_preemptible, ordinary))


def _preemptible(preset: Preset) -> Preset:
    changes = {
        "name": f"{preset.name}-p",
        "credits_per_hour": preset.credits_per_hour / 2,
        "scheduler_enabled": True,
        "preemptible_node": True,
    }
    return preset.model_copy(update=changes)


def price(room: Room) -> Decimal:
    """Return what an hour of it would cost."""
    return CORE_PRICE * room.millicores / 1000 + GPU_PRICE * room.gpus


def cheapest(presets: Iterable[Preset], room: Room) -> Decimal:
    """Return the price of an hour of a job without a preset: that of the cheapest one it fits."""
    prices = [preset.credits_per_hour for preset in presets if room_of(preset).holds(room)]
    return min(prices, default=price(room))


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
