"""``tnet demo``: compress a real language model against its baselines, on text from the standard library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tnet.cli.failures import reported

__all__ = ["demo"]


@reported
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
) -> None:
    """Compress SmolLM2-135M to 80 % of its target parameters and compare with plain methods."""
