"""The normal equations of CP models: Hadamard products of Gram matrices, and the error they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tnet.arrays import Array, array_namespace, conj, dtype_name, to_numpy
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.residual import DIFFERENCE_FLOOR, exact_error
from tnet.errors import InputError
from tnet.formats import CPTensor

__all__ = ["checked_ridge", "gram_of_columns", "hadamard", "model_error", "penalised"]


_LARGEST_RIDGE = 1e12  # nothing is left of the model long before; its products stay in the range of single precision


def checked_ridge(ridge: Any) -> float:
    """Return a ridge as a float, or raise InputError."""
    numeric = isinstance(ridge, (int, float, np.number)) and not isinstance(ridge, bool)
    if not (numeric and 0 <= ridge <= _LARGEST_RIDGE):
        raise InputError(f"ridge={ridge!r}: give a number from 0 to {_LARGEST_RIDGE:g}.")
    return float(ridge)


def gram_of_columns(A: Array) -> Array:
    """Return ``A^T conj(A)``, whose Hadamard products are the normal matrices of least squares."""
    return array_namespace(A).matrix_transpose(A) @ conj(A)


def hadamard(grams: Sequence[Array], skip: Sequence[int] = ()) -> Array:
    """Return the entrywise product of the Gram matrices of all modes but those to skip; ones if none is left."""
    product: Array = None
    for mode, G in enumerate(grams):
        if mode not in skip:
            product = G if product is None else product * G
    return array_namespace(grams[0]).ones_like(grams[0]) if product is None else product


def model_error(
    prepared: Prepared,
    weights: Array,
    factors: Sequence[Array],
    inner: Array,
    squared_norm: Array,
    energy: Array | None = None,
) -> tuple[float, Literal["gram", "exact"]]:
    """Return the relative error of a model; from the residual where the normal equations do not resolve it.

    Parameters
    ----------
    prepared : Prepared
        Of the tensor x.
    weights, factors
        The model y.
    inner : array, shape ()
        Real part of <x, y>.
    squared_norm : array, shape ()
        Of y.
    energy : array, shape (), optional
        Sum of the squared norms of the components of y, where they may cancel each other.
    """
    total = prepared.squared_norm
    if total == 0.0:
        return 0.0, "exact"
    xp = array_namespace(weights)
    numbers = [inner, squared_norm, squared_norm if energy is None else energy]
    product, square, largest = to_numpy(xp.stack(numbers)).tolist()  # the host waits for the device once
    error = math.sqrt(max(total - 2.0 * product + square, 0.0) / total)
    # Where components cancel, ||y||^2 is itself a sum of numbers near their squares: the floor rises with them.
    if error >= DIFFERENCE_FLOOR[dtype_name(weights)] * math.sqrt(max(1.0, largest / total)):
        return error, "gram"
    return exact_error(prepared.array, CPTensor(weights, tuple(factors)), total), "exact"


def penalised(error: float, penalty: float, prepared: Prepared) -> float:
    """Return what a fit lowers, as a relative error: the root of ``error**2 + penalty / ||x||**2``."""
    return math.hypot(error, math.sqrt(penalty / prepared.squared_norm)) if penalty else error
