"""Progress bars with time left, on the error stream of a terminal; silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Reporter"]

Advance = Callable[[int], None]


class Reporter:
    """Shows the stages of a long job.

    Parameters
    ----------
    enabled : bool
        False is silent; True draws bars if the error stream is a terminal, else writes one line a stage.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Show a stage of ``total`` steps; yields a function that says how many steps are done in all."""
        if not self.enabled:
            yield lambda _done: None
            return
        console = Console(file=sys.stderr)
        if not console.is_terminal:
            console.print(f"{name} ...", highlight=False)
            yield lambda _done: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(name, total=total)
            yield lambda done: bar.update(task, completed=done)
