"""Alternating least squares for the canonical polyadic decomposition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from tnet.arrays import Array, array_namespace, astype, cholesky_solve_gram, conj, real_part
from tnet.decompositions.cp_fit import CPFit, CPRun, normalised_columns
from tnet.decompositions.cp_normal_equations import gram_of_columns, hadamard, model_error, penalised
from tnet.decompositions.cp_spans import Spans
from tnet.decompositions.dimension_tree import mttkrp_cycle
from tnet.decompositions.iteration import Callback
from tnet.decompositions.momentum import Momentum
from tnet.decompositions.preparation import Prepared
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status

__all__ = ["als_sweeps", "alternating_least_squares"]

_CEILING_GROWTH = 1.02
_PLAIN_SWEEPS = 10  # to begin with: easy problems are then done, and the first changes lead nowhere


def alternating_least_squares(
    prepared: Prepared,
    factors: list[Array],
    ridge: float,
    stopping: Stopping,
    callback: Callback[CPTensor] | None,
    started: float,
) -> CPFit:
    """Run ALS from ``factors`` until a criterion of ``stopping`` holds; Ctrl-C keeps the last complete sweep."""
    run = CPRun(prepared, stopping, callback, started)
    return run.complete(lambda: als_sweeps(run, factors, ridge, stopping.max_iter))


def als_sweeps(run: CPRun, factors: list[Array], ridge: float, sweeps: int) -> Status:
    """Take at most so many sweeps of ALS from ``factors``; return why they end.

    Notes
    -----
    After the first ten, each sweep starts from factors that are further on than the last sweep left them. Where the
    rank is small against the modes they come from sweeps within the spans of the factors
    (:class:`~tnet.decompositions.cp_spans.Spans`). Elsewhere, and where those gain little, they are extrapolated
    along the last change, ``A + beta (A - A_old)`` [1]_ [2]_; ``beta`` grows while that succeeds.

    A sweep that does not lower the objective is dropped, ``beta`` shrinks, and a plain sweep from the best factors
    follows, as it does to confirm convergence. A plain sweep raises the objective only by roundoff, which is large
    where components cancel; it is dropped, too. A sweep from factors further on takes two products with a tensor of
    order 3 instead of one and a half.

    References
    ----------
    .. [1] D. Mitchell, N. Ye, H. De Sterck, "Nesterov acceleration of alternating least squares for canonical
       tensor decomposition", Numer. Linear Algebra Appl. 27 (2020).
    .. [2] A. M. S. Ang, J. E. Cohen, N. Gillis, L. T. K. Hien, "Accelerating block coordinate descent for
       nonnegative tensor factorization", Numer. Linear Algebra Appl. 28 (2021).
    """
    spans = Spans(run.prepared, int(factors[0].shape[1]), Momentum(ceiling_growth=_CEILING_GROWTH))
    return _sweeps(run, factors, ridge, sweeps, Momentum(ceiling_growth=_CEILING_GROWTH), _PLAIN_SWEEPS, spans)


def _sweeps(
    run: CPRun,
    factors: Sequence[Array],
    ridge: float,
    sweeps: int,
    momentum: Momentum,
    plain: int,
    spans: Spans | None,
) -> Status:
    """Take at most so many sweeps, the first ``plain`` of them from where the one before ended."""
    solver = _Sweeper(run.prepared, ridge)
    solver.begin(factors)
    last: _Swept | None = None
    start: Literal["plain", "extrapolated", "refined"] = "plain"
    reached = 0.0  # squared objective of refined factors
    for n in range(1, sweeps + 1):
        swept = solver.sweep()
        failed = last is not None and not swept.objective <= last.objective
        if spans is not None and last is not None and start == "refined":
            spans.judge(last.objective**2 - reached, reached - swept.objective**2)
        if last is not None and failed:
            swept = last
            if start == "extrapolated":
                momentum.shrink()
            solver.begin(last.factors)
        moved = start == "plain" or (start == "refined" and not failed)
        status = run.record(swept.weights, swept.factors, swept.error, swept.error_kind, moved, swept.objective)
        if status is not None:
            return status
        slow = last is not None and last.objective - swept.objective < run.stopping.change
        # A plain sweep follows a failure, and decides whether slow progress is convergence.
        if last is None or n < plain or failed or (slow and start != "plain"):
            start = "plain"
        elif spans is not None and spans.due():
            start = "refined"
            solver.begin(swept.factors)  # lets go of its intermediate
            refined, reached = _refined(run, spans, swept, last, ridge)
            solver.begin(refined)
        else:
            start = "extrapolated"
            solver.begin(_ahead(swept.factors, last.factors, momentum.beta))
            momentum.grow()  # until it fails
        last = swept
    return Status.MAX_ITER


def _refined(run: CPRun, spans: Spans, new: _Swept, before: _Swept, ridge: float) -> tuple[list[Array], float]:
    """Return factors after sweeps within the spans of the last ones, and the squared objective there."""
    within = spans.project(run.prepared, new.factors, before.factors)
    total = run.prepared.squared_norm
    inside = within.core.squared_norm / total
    outside = 1.0 - inside
    # A small part of the error lies inside where the noise does not: then a large fall there is a small one of all.
    slope = math.sqrt(inside * max(new.objective**2 - outside, 0.0)) / new.objective
    change = min(1.0, run.stopping.change / slope) if slope > 0 else 1.0
    stopping = Stopping(max_iter=spans.sweeps, change=change, max_seconds=run.stopping.max_seconds)
    inner = CPRun(within.core, stopping, None, run.started)
    _sweeps(inner, within.coordinates(new.factors), ridge, spans.sweeps, spans.momentum, 1, None)
    return within.factors(inner.factors), outside + inside * inner.objective**2


class _Swept(NamedTuple):
    """What a sweep leaves; ``objective`` is what sweeps lower: the error, or with a ridge :func:`penalised`."""

    weights: Array
    factors: tuple[Array, ...]
    error: float
    error_kind: Literal["gram", "exact"]
    objective: float


class _Sweeper:
    """Takes sweeps: each factor updated in turn from the newest values of the others."""

    _factors: list[Array]
    _grams: list[Array]
    _products: Iterator[tuple[int, Array]]

    def __init__(self, prepared: Prepared, ridge: float) -> None:
        self._prepared = prepared
        self._ridge = ridge

    def begin(self, factors: Sequence[Array]) -> None:
        """Let the next sweep start from factors with columns of norm 1, other than those it was left with."""
        self._factors = list(factors)
        self._grams = [gram_of_columns(factor) for factor in factors]
        self._products = mttkrp_cycle(self._prepared.array, self._factors)

    def sweep(self) -> _Swept:
        """Update every factor once."""
        factors, grams = self._factors, self._grams
        xp = array_namespace(factors[0])
        penalty = self._ridge * xp.eye(grams[0].shape[0], dtype=grams[0].dtype, device=grams[0].device)
        norms: Array = None
        inner: Array = None
        for mode, M in itertools.islice(self._products, len(factors)):
            H = hadamard(grams, skip=(mode,))
            A = cholesky_solve_gram(H + penalty if self._ridge else H, M)
            norms = xp.sqrt(xp.sum(real_part(A * conj(A)), axis=0))
            # An extinct component keeps a zero column with weight 0; dividing by 1 leaves it zero.
            A = A / astype(xp.where(norms > 0, norms, xp.ones_like(norms)), A.dtype)
            factors[mode], grams[mode] = A, gram_of_columns(A)
            inner = xp.sum(real_part(M * conj(A)) * norms) if mode == len(factors) - 1 else None
        weights = astype(norms, factors[0].dtype)
        squared_norm = xp.sum(real_part(hadamard(grams)) * norms[:, None] * norms[None, :])
        energy = xp.sum(norms * norms)
        error, kind = model_error(self._prepared, weights, factors, inner, squared_norm, energy)
        paid = self._ridge * float(energy) if self._ridge else 0.0
        return _Swept(weights, tuple(factors), error, kind, penalised(error, paid, self._prepared))


def _ahead(new: Sequence[Array], old: Sequence[Array], beta: float) -> list[Array]:
    """Return factors extrapolated along the last change, with columns of norm 1."""
    return [normalised_columns(A + beta * (A - before)) for A, before in zip(new, old, strict=True)]
