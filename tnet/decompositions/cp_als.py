"""Alternating least squares for the canonical polyadic decomposition."""

from __future__ import annotations

import itertools

from tnet.arrays import Array, array_namespace, astype, cholesky_solve_gram, conj
from tnet.decompositions.cp_fit import CPFit, CPRun
from tnet.decompositions.cp_normal_equations import gram_of_columns, hadamard, model_error, real_part
from tnet.decompositions.dimension_tree import mttkrp_cycle
from tnet.decompositions.iteration import Callback
from tnet.decompositions.preparation import Prepared
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status

__all__ = ["als_sweeps", "alternating_least_squares"]


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
    """Take at most so many sweeps of ALS, each factor updated from the newest of the others; return why they end."""
    x = run.prepared.array
    xp = array_namespace(x)
    factors = list(factors)
    grams = [gram_of_columns(factor) for factor in factors]
    penalty = ridge * xp.eye(grams[0].shape[0], dtype=x.dtype, device=x.device) if ridge else None
    products = mttkrp_cycle(x, factors)
    for _ in range(sweeps):
        norms: Array = None
        inner: Array = None
        for mode, M in itertools.islice(products, len(factors)):
            H = hadamard(grams, skip=(mode,))
            A = cholesky_solve_gram(H if penalty is None else H + penalty, M)
            norms = xp.sqrt(xp.sum(real_part(xp, A * conj(A)), axis=0))
            # An extinct component keeps a zero column with weight 0; dividing by 1 leaves it zero.
            A = A / astype(xp.where(norms > 0, norms, xp.ones_like(norms)), A.dtype)
            factors[mode], grams[mode] = A, gram_of_columns(A)
            inner = xp.sum(real_part(xp, M * conj(A)) * norms) if mode == len(factors) - 1 else None
        weights = astype(norms, x.dtype)
        squared_norm = xp.sum(real_part(xp, hadamard(grams)) * norms[:, None] * norms[None, :])
        status = run.record(weights, factors, *model_error(run.prepared, weights, factors, inner, squared_norm))
        if status is not None:
            return status
    return Status.MAX_ITER
