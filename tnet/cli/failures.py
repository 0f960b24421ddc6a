"""How a command ends: exit codes, one message on the error stream, a traceback only for our own mistakes."""

from __future__ import annotations

import functools
import traceback
import warnings
from collections.abc import Callable
from enum import IntEnum
from typing import ParamSpec

import typer

from tnet.cli.terminal import say
from tnet.errors import QualityGateError, TnetError, WorkerError

__all__ = ["ExitCode", "reported"]

P = ParamSpec("P")


class ExitCode(IntEnum):
    """What the exit code of ``tnet`` means."""

    DONE = 0
    INTERNAL = 1
    INPUT = 2
    GATE = 3
    INTERRUPTED = 130


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what a command raises into a message and an exit code, and its warnings into remarks."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                command(*args, **kwargs)
        except KeyboardInterrupt:
            say("interrupted; run the same line again to continue.", style="red")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except QualityGateError as error:
            say(error, style="red")
            raise typer.Exit(ExitCode.GATE) from None
        except WorkerError as error:
            say(f"error: {error}", style="red")
            raise typer.Exit(ExitCode.INTERNAL) from None
        except TnetError as error:
            say(f"error: {error}", style="red")
            raise typer.Exit(ExitCode.INPUT) from None
        except BrokenPipeError:
            raise  # the reader of the output has gone: Click ends silently
        except OSError as error:
            say(f"error: {error}", style="red")
            raise typer.Exit(ExitCode.INTERNAL) from None
        except typer.Exit:
            raise
        except Exception as error:
            say(traceback.format_exc().rstrip(), style="dim")
            say(f"internal error ({type(error).__name__}): please report it with the lines above.", style="red")
            raise typer.Exit(ExitCode.INTERNAL) from error

    return wrapped


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    if issubclass(category, (DeprecationWarning, PendingDeprecationWarning, FutureWarning)):
        return  # of the libraries, for their developers
    say(f"warning: {message}", style="yellow")
