"""Repeats a sweep that lowers an error until it settles; keeps the best state, also on Ctrl-C."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tnet.decompositions.iteration import why_ended
from tnet.options import Stopping
from tnet.results import History, Status

__all__ = ["Descent", "descend"]

S = TypeVar("S")


@dataclass(frozen=True, eq=False)
class Descent(Generic[S]):
    """The best state found, its squared error, and how it was found."""

    state: S
    squared_error: float
    status: Status
    history: History


def descend(
    sweep: Callable[[S], tuple[S, float]],
    start: S,
    squared_error: float,
    reference: float,
    stopping: Stopping,
    started: float,
) -> Descent[S]:
    """Apply ``sweep`` again and again.

    Parameters
    ----------
    sweep : callable
        Takes a state; returns the next and its squared error, which in exact arithmetic is not larger.
    start : state
    squared_error : float
        Of ``start``.
    reference : float
        What squared errors are divided by; with 0 every error is 0.
    stopping : Stopping
    started : float
        Value of ``time.perf_counter`` that seconds are counted from.

    Notes
    -----
    Ctrl-C after the first sweep ends the descent with status ``INTERRUPTED``; ``sweep`` must not change the state
    that it is given.
    """

    def relative(squared: float) -> float:
        return math.sqrt(max(squared, 0.0) / reference) if reference > 0 else 0.0

    state = start
    done = Descent(start, squared_error, Status.INTERRUPTED, History())
    try:
        for n in range(1, stopping.max_iter + 1):
            state, found = sweep(state)
            before = done.squared_error
            # Roundoff can raise the error a little at a fixed point: the best so far stands.
            best, least = (done.state, before) if found > before else (state, found)
            seconds = time.perf_counter() - started
            history = History((*done.history.error, relative(least)), (*done.history.seconds, seconds))
            ended = why_ended(stopping, n, seconds, relative(least), relative(before) - relative(least))
            # In one assignment, so that Ctrl-C never tears it.
            done = Descent(best, least, ended or Status.INTERRUPTED, history)
            if ended is not None:
                break
    except KeyboardInterrupt:
        if not done.history.error:
            raise
    return done
