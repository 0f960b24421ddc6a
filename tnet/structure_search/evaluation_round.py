"""One round of evaluations: groups of structures as tasks, with failures kept apart."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from tnet.arrays import Array, array_namespace
from tnet.errors import BackendError, InputError
from tnet.parallel import ExecutorLike, run_tasks
from tnet.structure_search.losses import Loss, MaskedError, SquaredError
from tnet.structure_search.proposals import Solver, Start
from tnet.structure_search.trials import Evaluation

__all__ = ["SecondsOver", "alarm", "can_interrupt", "evaluate"]

_GROUP = 2  # structures of one task, whatever the number of workers: so results do not depend on it


def evaluate(
    x: Array,
    loss: Loss,
    solver: Solver,
    starts: Sequence[Start],
    *,
    executor: ExecutorLike,
    trial_seconds: float | None,
) -> list[Evaluation]:
    """Return one evaluation for each start; those that raise or do not end carry a message and an infinite error.

    Parameters
    ----------
    x : array
    loss : Loss
    solver : Solver
    starts : sequence of Start
    executor : None, int, "processes", concurrent.futures.Executor or dask Client
    trial_seconds : float or None
        Wall seconds of one evaluation; with it structures are evaluated one by one.
    """
    # Here the solver gets all at once: it knows best what fits into a cache, or on a GPU.
    size = 1 if trial_seconds is not None else len(starts) if executor is None else _GROUP
    groups = {k: tuple(starts[k : k + size]) for k in range(0, len(starts), max(size, 1))}
    items = {k: (x, loss, solver, group, trial_seconds) for k, group in groups.items()}
    if executor is None:
        found = {k: solve_group(*arguments) for k, arguments in items.items()}
    else:
        found = run_tasks(solve_group, items, executor=executor)
    return [evaluation for k in groups for evaluation in found[k]]


def solve_group(
    x: Array, loss: Loss, solver: Solver, starts: Sequence[Start], trial_seconds: float | None
) -> list[Evaluation]:
    """Solve a group at once; where that raises, one by one, so that only the culprit fails."""
    began = time.process_time()
    shapes = list(dict.fromkeys(start.structure.shape for start in starts))
    if len(shapes) > 1:
        answers = {
            shape: iter(
                solve_group(x, loss, solver, [s for s in starts if s.structure.shape == shape], trial_seconds)
            )
            for shape in shapes
        }
        return [next(answers[start.structure.shape]) for start in starts]
    try:
        with limited(trial_seconds):
            found = _checked(solver.solve(*_reshaped(x, loss, shapes[0]), starts), starts)
    except BackendError:
        raise  # what is asked cannot be done at all
    except Exception as error:  # the loss may be the user's: whatever it raises costs one trial, not the search
        if len(starts) == 1:
            message = f"{type(error).__name__}: {error}"
            return [
                Evaluation(starts[0].structure, float("inf"), message=message, seconds=time.process_time() - began)
            ]
        return [evaluation for start in starts for evaluation in solve_group(x, loss, solver, [start], trial_seconds)]
    taken = (time.process_time() - began) / max(len(starts), 1)
    return [e if e.seconds else dataclasses.replace(e, seconds=taken) for e in found]


def _checked(found: Sequence[Evaluation], starts: Sequence[Start]) -> Sequence[Evaluation]:
    """Return what a solver found; raise ValueError where it is no answer to what it was asked."""
    if len(found) != len(starts):
        raise ValueError(f"the solver gave {len(found)} evaluations for {len(starts)} structures")
    for start, one in zip(starts, found, strict=True):
        if one.structure != start.structure or not one.rse >= 0:
            raise ValueError(f"the solver gave {one.structure!r} with rse={one.rse} for {start.structure!r}")
        if math.isfinite(one.rse):
            shapes = None if one.cores is None else tuple(tuple(core.shape) for core in one.cores)
            if shapes != one.structure.core_shapes:
                raise ValueError(f"the solver gave cores of shapes {shapes} for {one.structure.core_shapes}")
    return found


def _reshaped(x: Array, loss: Loss, shape: tuple[int, ...]) -> tuple[Array, Loss]:
    """Return the tensor and its loss in the shape of the structures, entries in C order."""
    if tuple(x.shape) == shape:
        return x, loss
    xp = array_namespace(x)
    if isinstance(loss, MaskedError):
        loss = MaskedError(xp.reshape(loss.mask, shape))
    elif not isinstance(loss, SquaredError):
        raise InputError(
            f"a structure for shape {shape}, but the loss {type(loss).__name__} is one of {tuple(x.shape)}."
        )
    return xp.reshape(x, shape), loss


class SecondsOver(BaseException):
    """The seconds of a search ended within an evaluation; no :class:`Exception`, so that no trial takes the blame."""


@contextmanager
def limited(seconds: float | None) -> Generator[None]:
    """Raise TimeoutError in the block after so many wall seconds; BackendError where no signal can."""
    if seconds is None:
        yield
        return
    if not can_interrupt():
        raise BackendError(
            f"trial_seconds={seconds:g} is kept by a signal, which reaches only the main thread of a process, not "
            "one on Windows: use executor=None or processes, or leave trial_seconds out."
        )
    with alarm(seconds, TimeoutError(f"the evaluation took longer than trial_seconds={seconds:g}")):
        yield


def can_interrupt() -> bool:
    """Return whether a signal can interrupt what this thread is at."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


@contextmanager
def alarm(seconds: float, error: BaseException) -> Generator[None]:
    """Raise an error in the block after so many wall seconds."""

    def ring(number: int, frame: Any) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
