"""What iterative decompositions tell their callers while they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from tnet.callers import warn_caller
from tnet.errors import ConvergenceWarning
from tnet.options import Stopping
from tnet.results import Status

__all__ = ["Callback", "IterationInfo", "warn_unless_converged", "why_ended"]

T = TypeVar("T")

_WORTH_A_WARNING = (
    Status.MAX_ITER,
    Status.MAX_SECONDS,
    Status.MAX_RANK,
    Status.MAX_EVALUATIONS,
    Status.STALLED,
    Status.DEGENERATE,
)


@dataclass(frozen=True, eq=False)
class IterationInfo(Generic[T]):
    """The state after a sweep, as handed to a callback.

    Parameters
    ----------
    iteration : int
        Sweeps done, from 1.
    error : float
        Relative Frobenius error.
    seconds : float
        Wall seconds since the start.
    tensor : format
        The factorised tensor as it would be returned now.
    """

    iteration: int
    error: float
    seconds: float
    tensor: T


Callback: TypeAlias = Callable[[IterationInfo[T]], bool | None]
"""Receives the state after each sweep; stops the iteration by returning True."""


def why_ended(stopping: Stopping, n: int, seconds: float, error: float, fall: float) -> Status | None:
    """Return why an iteration ends after its n-th sweep, or None if it goes on.

    ``fall`` is by how much the sweep lowered what the method lowers, as a relative error; infinite after the first.
    """
    if error == 0.0 or (stopping.change > 0 and fall < stopping.change):
        return Status.CONVERGED
    if stopping.max_seconds is not None and seconds >= stopping.max_seconds:
        return Status.MAX_SECONDS
    return Status.MAX_ITER if n >= stopping.max_iter else None


def warn_unless_converged(name: str, status: Status, change: float) -> None:
    """Emit a ConvergenceWarning for a status that asks for one.

    ``change = 0`` demands exactly ``max_iter`` sweeps: then their end is no surprise.
    """
    if status in _WORTH_A_WARNING and not (status is Status.MAX_ITER and change == 0):
        warn_caller(f"{name}: {status.value}.", ConvergenceWarning)
