"""Repeats a sweep that lowers an error until it settles; keeps the best state, also on Ctrl-C."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

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
            before, rose = done.squared_error, found > done.squared_error
            # Roundoff can raise the error a little at a fixed point: the best so far stands.
            best, least = (done.state, before) if rose else (state, found)
            seconds = time.perf_counter() - started
            history = History((*done.history.error, relative(least)), (*done.history.seconds, seconds))
            settled = stopping.change > 0 and relative(before) - relative(least) < stopping.change
            status = Status.INTERRUPTED
            if rose or least <= 0.0 or settled:
                status = Status.CONVERGED
            elif stopping.max_seconds is not None and seconds >= stopping.max_seconds:
                status = Status.MAX_SECONDS
            elif n == stopping.max_iter:
                status = Status.MAX_ITER
            done = Descent(best, least, status, history)  # in one assignment, so that Ctrl-C never tears it
            if status is not Status.INTERRUPTED:
                break
    except KeyboardInterrupt:
        if not done.history.error:
            raise
    return done
