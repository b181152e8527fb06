"""How far an image's copy is: a bar on a terminal, silence anywhere else."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from typing_extensions import Self

from neuro_sync.closing import Closing
from neuro_sync.models.images import (
    AbstractDockerImageProgress,
    ImageCommitStarted,
    ImageProgressStep,
)

from . import output

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class LayerProgress(AbstractDockerImageProgress, Closing):
    """Draws one bar a layer, with what the engine says of it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if sys.stdout.isatty() and not output.is_quiet():
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

            text = TextColumn("{task.description}", markup=False)
            self._stack.enter_context(output.cursor_restored())
            self._bars = self._stack.enter_context(Progress(text, BarColumn(), DownloadColumn()))
        return self

    def close(self) -> None:
        """Leave the last state of the bars on the terminal."""
        self._stack.close()

    def commit_started(self, data: ImageCommitStarted) -> None:
        output.note(f"Making an image of {data.job_id}")

    def step(self, data: ImageProgressStep) -> None:
        if self._bars is None or not data.layer_id:
            return
        if data.layer_id not in self._tasks:
            self._tasks[data.layer_id] = self._bars.add_task("", total=None)
        self._bars.update(
            self._tasks[data.layer_id],
            description=output.visible(f"{data.layer_id} {data.status}"),
            completed=data.current,
            total=data.total,
        )
