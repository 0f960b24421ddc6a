"""The commands under one name. Nothing here imports torch: ``tnet --help`` answers at once."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from tnet import __version__
from tnet.cli.compress import compress
from tnet.cli.contract import contract
from tnet.cli.decompose import decompose
from tnet.cli.demo import demo
from tnet.cli.info import info
from tnet.cli.plan import plan
from tnet.cli.search import search

__all__ = ["app", "main"]

app = typer.Typer(
    name="tnet",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tnet {__version__}")
        raise typer.Exit


@app.callback()
def tnet(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Tensor networks and decompositions under a budget.

    Exit codes: 0 done, 1 internal error, 2 input that cannot be used, 3 quality gate missed, 130 interrupted.
    """


app.command()(compress)
app.command()(decompose)
app.command()(plan)
app.command()(contract)
app.command()(search)
app.command()(info)
app.command()(demo)


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that cannot show a character gets a question mark, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of other libraries, which only a terminal can show
    app()
