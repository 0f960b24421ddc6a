"""Where the commands print: results to the standard output, all else to the error stream."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tnet.plot.plain_text import plain_text

__all__ = ["print_json", "progress_bar", "say", "show", "show_table", "size"]

_WIDTH_OF_A_FILE = 140


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_FILE
    return console


def show(text: object) -> None:
    """Print a result, control characters taken out, lines kept."""
    _console(stderr=False).print(Text(plain_text(text, keep="\n")), soft_wrap=True)


def say(text: object, *, style: Literal["", "red", "yellow", "dim"] = "") -> None:
    """Print a remark to the error stream, control characters taken out, lines kept."""
    _console(stderr=True).print(Text(plain_text(text, keep="\n"), style=style), soft_wrap=True)


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1, stderr: bool = False
) -> None:
    """Print a table; the first ``left`` columns are text, the others numbers aligned on the right."""
    table = Table(title=Text(plain_text(title)), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain_text(cell)) for cell in row))
    _console(stderr).print(table)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], object] | None]:
    """Give a function of (done, all) that draws a bar on the error stream; None where that is no terminal."""
    console = _console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line; what is not finite becomes null."""
    sys.stdout.write(json.dumps(_finite(value), allow_nan=False) + "\n")
    sys.stdout.flush()


def size(n_bytes: int) -> str:
    """Return bytes as people read them, in powers of ten as file managers and model pages count them."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
