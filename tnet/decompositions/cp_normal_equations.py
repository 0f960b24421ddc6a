"""The normal equations of CP models: Hadamard products of Gram matrices, and the error they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from tnet.arrays import Array, Namespace, array_namespace, conj, dtype_name, is_complex, to_numpy
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.residual import exact_error
from tnet.formats import CPTensor

__all__ = ["gram_of_columns", "hadamard", "model_error", "real_part"]

# ||x - y||^2 from the normal equations is a difference of numbers near ||x||^2, right to some ten units of
# roundoff: below these relative errors the residual itself is computed.
_GRAM_FLOOR = {"float64": 1e-6, "complex128": 1e-6, "float32": 1e-2, "complex64": 1e-2}


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
    prepared: Prepared, weights: Array, factors: Sequence[Array], inner: Array, squared_norm: Array
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
    """
    total = prepared.squared_norm
    if total == 0.0:
        return 0.0, "exact"
    xp = array_namespace(weights)
    product, square = to_numpy(xp.stack([inner, squared_norm])).tolist()  # the host waits for the device once
    error = math.sqrt(max(total - 2.0 * product + square, 0.0) / total)
    if error >= _GRAM_FLOOR[dtype_name(weights)]:
        return error, "gram"
    return exact_error(prepared.array, CPTensor(weights, tuple(factors)), total), "exact"


def real_part(xp: Namespace, A: Array) -> Array:
    """Return the real part; ``A`` itself, uncopied, when it is real."""
    return xp.real(A) if is_complex(A) else A
