"""What every method of the canonical polyadic decomposition hands back, and how a result is made of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from tnet.arrays import Array, array_namespace, astype, conj, is_complex, to_numpy
from tnet.decompositions.preparation import Prepared, rescaled
from tnet.decompositions.residual import error_after_rounding
from tnet.formats import CPTensor
from tnet.results import Decomposition, History, Status

__all__ = ["CPFit", "as_returned", "decomposition_from", "is_degenerate", "normalised_columns"]

# Two components cancel when they point in nearly opposite directions, are larger than the tensor, and still
# grow. Least squares crawls there: on the standard example of border rank 2 the cosine is -0.81 after 100
# sweeps and -0.935 after 1000, so that a stricter bound would stay silent.
_CANCELLING_COSINE = -0.75
_CANCELLING_NORM = 1.5
_STILL_GROWING = 1.02


class CPFit(NamedTuple):
    """Factors with columns of norm 1 and real weights >= 0, in the scale of ``prepared.array``, and their account.

    ``error_kind`` and the last of ``errors`` are those of ``weights`` and ``factors``; ``seconds`` is as long as
    ``errors``; ``status`` is why the method ended.
    """

    weights: Array
    factors: tuple[Array, ...]
    status: Status
    error_kind: Literal["gram", "exact", "bound"]
    errors: tuple[float, ...]
    seconds: tuple[float, ...]


def decomposition_from(fit: CPFit, prepared: Prepared, started: float, seed: int | None) -> Decomposition[CPTensor]:
    """Return what :func:`tnet.cp` returns."""
    tensor = as_returned(fit.weights, fit.factors, prepared)
    error, kind = fit.errors[-1], fit.error_kind
    if prepared.is_half:
        error, kind = error_after_rounding(prepared, tensor), "exact"
    history = History(fit.errors, fit.seconds)
    return Decomposition(tensor, error, kind, fit.status, history, time.perf_counter() - started, seed)


def as_returned(weights: Array, factors: Sequence[Array], prepared: Prepared) -> CPTensor:
    """Return the tensor in the scale and dtype of the input, weights descending."""
    xp = array_namespace(weights)
    order = xp.argsort(_real(weights), descending=True)
    parts = [xp.take(weights, order)]
    parts += [xp.take(factor, order, axis=1) for factor in factors]
    weights, *columns = rescaled(parts, 0, prepared)
    return CPTensor(weights, tuple(columns))


def is_degenerate(weights: Array, cosines: Array, magnitudes: Sequence[float], norm: float) -> bool:
    """Return whether two components cancel each other and have grown over the later half of the sweeps.

    Parameters
    ----------
    weights : array, shape (R,)
    cosines : array, shape (R, R)
        Hadamard product of the Gram matrices of the normalised factors.
    magnitudes : sequence of float
        Norm of the weights after each sweep.
    norm : float
        Of the tensor that is approximated.
    """
    n = len(magnitudes)
    if n < 3 or magnitudes[-1] <= _STILL_GROWING * magnitudes[n // 2]:
        return False
    large = to_numpy(_real(weights)) > _CANCELLING_NORM * norm
    opposite = to_numpy(_real(cosines)) < _CANCELLING_COSINE
    return bool(np.any(opposite & large[:, None] & large[None, :]))


def normalised_columns(A: Array) -> Array:
    """Return ``A`` with columns of norm 1; zero columns stay zero."""
    xp = array_namespace(A)
    norms = xp.sqrt(xp.sum(_real(A * conj(A)), axis=0))
    return A / astype(xp.where(norms > 0, norms, xp.ones_like(norms)), A.dtype)


def _real(A: Array) -> Array:
    return array_namespace(A).real(A) if is_complex(A) else A
