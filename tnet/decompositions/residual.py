"""The exact error of a factorised tensor, without holding the dense one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tnet.arrays import Array, astype, scale_by_power_of_two, squared_norm, total_size
from tnet.decompositions.preparation import Prepared
from tnet.errors import InputError
from tnet.formats import CPTensor, HierarchicalTucker, TensorFormat, TensorRing, TensorTrain, TuckerTensor

__all__ = ["DIFFERENCE_FLOOR", "error_after_rounding", "exact_error"]

# ||x - y||^2 from ||x||^2, ||y||^2 and <x, y> is a difference of numbers near ||x||^2, right to some ten units of
# roundoff: below these relative errors the residual itself is computed.
DIFFERENCE_FLOOR = {"float64": 1e-6, "complex128": 1e-6, "float32": 1e-2, "complex64": 1e-2}

_BLOCK = 1 << 22  # elements of the dense tensor that are multiplied out at a time


def exact_error(x: Array, tensor: TensorFormat, squared_norm_x: float) -> float:
    """Return ``||x - y|| / ||x||`` from the residual itself; 0 for ``x = y = 0``.

    Parameters
    ----------
    x : array
        As large as the dense ``tensor``, in its dtype.
    tensor : CPTensor, TuckerTensor, HierarchicalTucker, TensorTrain or TensorRing
    squared_norm_x : float

    Notes
    -----
    Multiplies ``tensor`` out once, in blocks of about 2^22 elements: some rows of its first mode, at least one.
    """
    n = int(x.shape[0])
    step = max(1, _BLOCK // max(1, total_size(x.shape) // n))
    total = 0.0
    for start in range(0, n, step):
        stop = min(start + step, n)
        total += squared_norm(x[start:stop, ...] - _rows(tensor, start, stop).to_dense(), "the residual")
    if squared_norm_x == 0.0:
        return 0.0 if total == 0.0 else math.inf
    return math.sqrt(total / squared_norm_x)


def error_after_rounding(prepared: Prepared, tensor: TensorFormat) -> float:
    """Return the exact relative error of parts that were rescaled and rounded to half precision."""
    scales = iter([-prepared.exponent])

    def widened(part: Array) -> Array:
        part = astype(part, prepared.array.dtype)
        return scale_by_power_of_two(part, next(scales, 0))

    return exact_error(prepared.array, tensor.map_arrays(widened), prepared.squared_norm)


def _rows(tensor: Any, start: int, stop: int) -> TensorFormat:
    """Return the rows ``start:stop`` of the first mode."""
    if isinstance(tensor, (CPTensor, TuckerTensor, HierarchicalTucker)):
        factors = (tensor.factors[0][start:stop, :], *tensor.factors[1:])
        return dataclasses.replace(tensor, factors=factors)
    if isinstance(tensor, (TensorTrain, TensorRing)):
        return dataclasses.replace(tensor, cores=(tensor.cores[0][:, start:stop, :], *tensor.cores[1:]))
    raise InputError(f"{type(tensor).__name__} has no blockwise residual.")
