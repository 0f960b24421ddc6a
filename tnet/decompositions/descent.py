"""Repeats a sweep that lowers an error until it settles; keeps the best state."""

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
    """

    def relative(squared: float) -> float:
        return math.sqrt(max(squared, 0.0) / reference) if reference > 0 else 0.0

    best, least, state = start, squared_error, start
    errors: list[float] = []
    seconds: list[float] = []
    status = Status.MAX_ITER
    for _ in range(stopping.max_iter):
        state, found = sweep(state)
        before = least
        if found <= least:
            best, least = state, found
        errors.append(relative(least))
        seconds.append(time.perf_counter() - started)
        # Roundoff can raise the error a little at a fixed point: the best so far stands.
        settled = stopping.change > 0 and relative(before) - relative(least) < stopping.change
        if found > before or least <= 0.0 or settled:
            status = Status.CONVERGED
            break
        if stopping.max_seconds is not None and seconds[-1] >= stopping.max_seconds:
            status = Status.MAX_SECONDS
            break
    return Descent(best, least, status, History(tuple(errors), tuple(seconds)))
