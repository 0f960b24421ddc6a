"""Cross approximation: a tensor train of a function, from few of its values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tnet.algebra import bounded_ranks, round
from tnet.algebra.ranks import bond_limits
from tnet.arrays import from_numpy_like, resolve_rng, to_numpy, total_size
from tnet.decompositions.cross_pivots import Cross, Pivot, values_at
from tnet.decompositions.evaluations import Evaluations, EvaluationsSpentError
from tnet.decompositions.iteration import Callback, IterationInfo, warn_unless_converged
from tnet.decompositions.tt import tt
from tnet.errors import InputError, ShapeError
from tnet.formats import TensorTrain
from tnet.options import Stopping
from tnet.results import Decomposition, History, Status

__all__ = ["tt_cross"]

# Of the tolerance: what interpolation may take, the least of it after disappointments, and what rounding may take.
_INTERPOLATION = 0.4
_LEAST_INTERPOLATION = 0.05
_ROUNDING = 0.5
# Residuals, relative to the root mean square of f times the tolerance, from which a pivot is worth its fibres.
_WORTH_A_PIVOT = 0.1
# Relative to the largest value of f: residuals below are roundoff, and pivots there would make P singular.
_ROUNDOFF = 1e-14
# Calls without any new pivot before the search is given up.
_PATIENCE = 3

_DEFAULT_STOPPING = Stopping(max_iter=1000, change=0.0)


def tt_cross(
    f: Callable[[np.ndarray], Any],
    shape: Sequence[int],
    *,
    rtol: float,
    max_evaluations: int | None = None,
    max_rank: int | None = None,
    n_validation: int = 1024,
    start: Any = None,
    stopping: Stopping = _DEFAULT_STOPPING,
    rng: Any = None,
    callback: Callback[TensorTrain] | None = None,
) -> Decomposition[TensorTrain]:
    r"""Approximate a function of d indices by a tensor train, without evaluating it everywhere.

    .. math:: f \approx C_1 P_1^{-1} C_2 P_2^{-1} \cdots C_d, \quad
        C_k = f(I_{k-1}, i_k, J_k), \quad P_k = f(I_k, J_k)

    Parameters
    ----------
    f : callable
        Takes indices of shape (n, d), int64, a NumPy array; returns n real or complex floating point values, as an
        array of any supported library: the train lives there.
    shape : sequence of int
        ``(n_1, ..., n_d)``.
    rtol : float
        Relative Frobenius error to reach, in (0, 1), judged from random entries.
    max_evaluations : int or None
        Never exceeded. An index asked for twice is evaluated once.
    max_rank : int or None
        Largest rank of any bond.
    n_validation : int
        Random entries that judge the result, and as many to steer the search.
    start : array_like of int, shape (d,) or (m, d), optional
        Indices where f is large: for functions that vanish nearly everywhere.
    stopping : Stopping
        ``max_iter`` and ``max_seconds``; ``change`` plays no part.
    rng : int, numpy.random.Generator, torch.Generator or None
    callback : callable, optional
        Called after each iteration with an :class:`IterationInfo`; stops by returning True.

    Returns
    -------
    Decomposition of TensorTrain
        ``error`` is that at ``n_validation`` fresh random entries, ``error_kind`` "estimate"; "exact" where the
        tensor has no more entries than that.

    Raises
    ------
    ShapeError, InputError, BackendError
        f returns another number of values, a NaN or infinity (the message names the first index), or no floating
        point numbers; a bad argument.
    RankError
        ``max_rank`` is no positive integer.

    Warns
    -----
    ConvergenceWarning
        If ``rtol`` is not reached within ``max_rank``, ``max_evaluations`` or ``stopping``; the result is the best
        so far.

    Notes
    -----
    The greedy cross: each iteration looks in every bond for the entry where the approximation is off most, in the
    superblock ``f(I_{k-1}, i_k, i_{k+1}, J_{k+1})``, by a rook's moves from a random entry, and takes it as a pivot.
    All bonds share the calls of f, about five an iteration. Of n entries a mode and ranks r, about
    ``1.5 d n r^2`` evaluations and ``d n r^3`` flops an iteration. An error estimate from random entries is as good
    as they represent f: a narrow peak that no entry hits is missed; give it as ``start``.

    References
    ----------
    .. [1] I. V. Oseledets, E. E. Tyrtyshnikov, "TT-cross approximation for multidimensional arrays", Linear Algebra
       Appl. 432 (2010).
    .. [2] D. V. Savostyanov, "Quasioptimality of maximum-volume cross interpolation of tensors", Linear Algebra Appl.
       458 (2014).
    .. [3] S. Dolgov, D. Savostyanov, "Parallel cross interpolation for high-precision calculation of
       high-dimensional integrals", Comput. Phys. Commun. 246 (2020).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> result = tnet.tt_cross(lambda i: 1.0 / (1.0 + i.sum(axis=1)), (20,) * 8, rtol=1e-6, rng=0)
    >>> result.converged, max(result.tensor.rank) < 10
    (True, True)
    """
    started = time.perf_counter()
    shape = _checked_shape(shape)
    _check_numbers(f, rtol, n_validation)
    starts = _checked_start(start, shape)
    bound = 2**62 if max_rank is None else bounded_ranks(max_rank, [2**62], "bond")[0]
    least = min(total_size(shape), 2 * n_validation + len(starts) + sum(shape))
    _check_budget(max_evaluations, least)
    generator, seed = resolve_rng(rng)
    evaluate = Evaluations(f, shape, max_evaluations)
    if total_size(shape) <= n_validation:
        return _from_all_entries(evaluate, shape, rtol, bound, seed, started)
    evaluate.reserve = n_validation
    limits = [min(limit, bound) for limit in bond_limits(shape)]
    search = _Search(evaluate, shape, limits, rtol, n_validation, generator, started)
    status = search.run(starts, stopping, callback)
    evaluate.reserve = 0
    if status is not Status.CONVERGED:
        search.judge()
        status = Status.CONVERGED if search.error <= rtol else status
    warn_unless_converged("tt_cross", status, 1.0)
    history = History(tuple(search.errors), tuple(search.seconds))
    seconds = time.perf_counter() - started
    return Decomposition(search.tensor, search.error, "estimate", status, history, seconds, seed)


class _Search:
    """The iteration: pivots are added until random entries say that the tolerance is met.

    ``tensor`` and ``error`` are the last judged result.
    """

    def __init__(
        self,
        evaluate: Evaluations,
        shape: tuple[int, ...],
        limits: Sequence[int],
        rtol: float,
        n_validation: int,
        rng: np.random.Generator,
        started: float,
    ) -> None:
        self._evaluate = evaluate
        self._shape, self._limits = shape, limits
        self._rtol, self._n_validation = rtol, n_validation
        self._rng, self._started = rng, started
        self._best: tuple[float, list[np.ndarray]] = (math.inf, [])
        self._target = _INTERPOLATION * rtol
        self.errors: list[float] = []
        self.seconds: list[float] = []
        self.error = math.inf

    def run(self, starts: np.ndarray, stopping: Stopping, callback: Callback[TensorTrain] | None) -> Status:
        """Iterate until converged, or until something ends it."""
        points = np.concatenate([starts, self._random_points()])
        self._points, self._values = points, self._evaluate(points)
        largest = int(np.argmax(np.abs(self._values)))
        if self._values[largest] == 0:
            self._best = (0.0, [np.zeros((1, n, 1)) for n in self._shape])
            return Status.STALLED
        cross = Cross(self._evaluate, self._shape, points[largest])
        try:
            return self._iterate(cross, stopping, callback)
        except EvaluationsSpentError:
            return Status.MAX_EVALUATIONS
        except KeyboardInterrupt:
            if not self.errors:  # there is nothing to return yet
                raise
            return Status.INTERRUPTED

    def judge(self) -> np.ndarray:
        """Round the best train so far, measure its error at fresh random entries; return the worst of them."""
        _, cores = self._best
        train = round(TensorTrain(tuple(cores)), rtol=_ROUNDING * self._rtol)
        like = self._evaluate.like
        assert like is not None  # f has been called
        self.tensor = train.map_arrays(lambda core: from_numpy_like(core, like))
        points = self._random_points()
        values = self._evaluate(points)
        off = np.abs(values - values_at([to_numpy(core) for core in self.tensor.cores], points))
        self.error = _relative(off, values)
        self._points = np.concatenate([self._points, points])
        self._values = np.concatenate([self._values, values])
        return points[np.argmax(off)]

    def _iterate(self, cross: Cross, stopping: Stopping, callback: Callback[TensorTrain] | None) -> Status:
        idle = 0
        for iteration in range(1, stopping.max_iter + 1):
            off = self._steer(cross)
            worst = None
            if self.errors[-1] <= self._target:
                worst = self.judge()
                if self.error <= self._rtol:
                    return Status.CONVERGED
                # The entries that judged steer from now on: they show what the others did not.
                self._best = (self.error, self._best[1])
                self._target = max(self._target / 2, _LEAST_INTERPOLATION * self._rtol)
            if callback is not None and self._stopped_by(callback, iteration, cross):
                return Status.CALLBACK
            if stopping.max_seconds is not None and self.seconds[-1] > stopping.max_seconds:
                return Status.MAX_SECONDS
            open_bonds = [
                k for k, (r, limit) in enumerate(zip(cross.ranks, self._limits, strict=True), 1) if r < limit
            ]
            if not open_bonds:
                return Status.MAX_RANK
            found = self._worth(cross.search(open_bonds, self._rng), idle)
            if worst is not None or not found:
                # What the superblocks do not show, random entries may.
                point = self._points[np.argmax(off)] if worst is None else worst
                found = {**self._worth(cross.off_at(point, open_bonds), idle), **({} if worst is None else found)}
            idle = 0 if found else idle + 1
            if idle > _PATIENCE:
                return Status.STALLED
            if found:
                try:
                    cross.add(found)
                except np.linalg.LinAlgError:  # pivots that differ by roundoff alone
                    return Status.STALLED
        return Status.MAX_ITER

    def _steer(self, cross: Cross) -> np.ndarray:
        """Enter the error at the entries known so far; return how far each is off."""
        cores = cross.train()
        off = np.abs(self._values - values_at(cores, self._points))
        error = _relative(off, self._values)
        self.errors.append(error)
        self.seconds.append(time.perf_counter() - self._started)
        if error <= self._best[0]:
            self._best = (error, cores)
        return off

    def _worth(self, found: dict[int, Pivot], idle: int) -> dict[int, Pivot]:
        """Return the pivots that stand out of the error to be reached, less the longer idle, and of roundoff."""
        sizes = np.abs(self._values)
        largest = float(np.max(sizes))
        typical = largest * math.sqrt(float(np.mean((sizes / largest) ** 2)))
        threshold = max(_WORTH_A_PIVOT ** (idle + 1) * self._target * typical, _ROUNDOFF * largest)
        return {k: pivot for k, pivot in found.items() if pivot.residual > threshold}

    def _stopped_by(self, callback: Callback[TensorTrain], iteration: int, cross: Cross) -> bool:
        like = self._evaluate.like
        assert like is not None  # f has been called
        tensor = TensorTrain(tuple(from_numpy_like(core, like) for core in cross.train()))
        return bool(callback(IterationInfo(iteration, self.errors[-1], self.seconds[-1], tensor)))

    def _random_points(self) -> np.ndarray:
        return self._rng.integers(0, self._shape, size=(self._n_validation, len(self._shape)))


def _from_all_entries(
    evaluate: Evaluations, shape: tuple[int, ...], rtol: float, bound: int, seed: int, started: float
) -> Decomposition[TensorTrain]:
    """Return the train of a tensor so small that all its entries are evaluated."""
    values = evaluate(np.indices(shape).reshape(len(shape), -1).T).reshape(shape)
    found = tt(values, rtol=rtol)
    status = Status.CONVERGED
    if any(r > bound for r in found.tensor.rank):
        found = tt(values, [min(r, bound) for r in found.tensor.rank])
        status = Status.MAX_RANK
    warn_unless_converged("tt_cross", status, 1.0)
    like = evaluate.like
    assert like is not None  # f has been called
    tensor = found.tensor.map_arrays(lambda core: from_numpy_like(core, like))
    return Decomposition(tensor, found.error, "exact", status, History(), time.perf_counter() - started, seed)


def _relative(off: np.ndarray, values: np.ndarray) -> float:
    """Return the root mean square of ``off`` relative to that of ``values``; 0 where both are zero."""
    largest = float(np.max(np.abs(values)))
    if largest == 0.0:
        return 0.0 if not np.any(off) else math.inf
    return float(np.linalg.norm(off / largest) / np.linalg.norm(values / largest))


def _checked_shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list, np.ndarray)) or not len(shape):
        raise ShapeError(f"shape={shape!r}: give a sequence of at least one mode size.")
    for n in shape:
        if isinstance(n, (bool, np.bool_)) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ShapeError(f"shape={shape!r}: every mode size must be an integer of at least 1.")
    return tuple(int(n) for n in shape)


def _check_numbers(f: object, rtol: object, n_validation: object) -> None:
    if not callable(f):
        raise InputError(f"f={type(f).__name__}: give a function of indices (n, d) that returns n values.")
    if isinstance(rtol, bool) or not isinstance(rtol, (int, float)) or not 0 < rtol < 1:
        raise InputError(f"rtol={rtol!r}: give a relative Frobenius error in (0, 1), for example rtol=1e-6.")
    if isinstance(n_validation, bool) or not isinstance(n_validation, int) or n_validation < 1:
        raise InputError(f"n_validation={n_validation!r}: give an integer of at least 1.")


def _check_budget(max_evaluations: object, least: int) -> None:
    if max_evaluations is None:
        return
    if isinstance(max_evaluations, bool) or not isinstance(max_evaluations, int) or max_evaluations < least:
        raise InputError(
            f"max_evaluations={max_evaluations!r}: give an integer of at least {least} here (two samples of "
            "n_validation entries, and a fibre of each mode), or None."
        )


def _checked_start(start: Any, shape: tuple[int, ...]) -> np.ndarray:
    if start is None:
        return np.empty((0, len(shape)), dtype=np.int64)
    given = np.asarray(start)
    points = given[None, :] if given.ndim == 1 else given
    if points.ndim != 2 or points.shape[1] != len(shape) or points.dtype.kind not in "iu":
        raise ShapeError(f"start of shape {given.shape}, {given.dtype}: give integers of shape (m, {len(shape)}).")
    if np.any(points < 0) or np.any(points >= np.asarray(shape)):
        raise ShapeError(f"start: an index lies outside of shape {shape}; give 0 to n - 1 in each mode.")
    return points.astype(np.int64)
