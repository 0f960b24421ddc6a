"""The arguments that the decompositions of matrices share: digits of the indices, weights of the norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    as_array,
    astype,
    check_finite,
    dtype_name,
    is_complex,
    is_positive_definite,
    is_torch,
    require_floating,
    scale_by_power_of_two,
    to_compute,
    total_size,
)
from tnet.decompositions.preparation import Prepared
from tnet.errors import InputError, ShapeError

__all__ = ["checked_digits", "checked_weight", "lifted_weight"]

_SYMMETRY_TOLERANCE = 1e-3  # of a second moment summed in single precision
# Times the mean eigenvalue: what a weight does not see, a fit makes as large as it likes, until the roundoff of that
# drowns the rest. Lifted by this, the weight holds it near W instead.
_LEAST_EIGENVALUE = {"float32": 1e-3, "complex64": 1e-3, "float64": 1e-6, "complex128": 1e-6}
_SEMIDEFINITE_TOLERANCE = 1e-5  # of the trace: roundoff of such a sum may push small eigenvalues below 0


def checked_digits(
    w: Array, row_shape: Sequence[int], column_shape: Sequence[int], count: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the digits of the row and of the column index; raise ShapeError if they do not fit ``w``.

    Parameters
    ----------
    w : array
    row_shape, column_shape : sequence of int
    count : int, optional
        How many digits there must be.
    """
    if w.ndim != 2:
        raise ShapeError(f"w has shape {tuple(w.shape)}: give a matrix, with 2 axes.")
    found: list[tuple[int, ...]] = []
    for name, digits, size in (
        ("row_shape", row_shape, int(w.shape[0])),
        ("column_shape", column_shape, int(w.shape[1])),
    ):
        if not isinstance(digits, (tuple, list, np.ndarray)) or not len(digits):
            raise ShapeError(f"{name}={digits!r}: give a tuple of positive integers.")
        if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1 for n in digits):
            raise ShapeError(f"{name}={digits!r}: give a tuple of positive integers.")
        found.append(tuple(int(n) for n in digits))
        if count is not None and len(digits) != count:
            raise ShapeError(f"{name}={tuple(digits)} has {len(digits)} digits: give {count}.")
        if total_size(found[-1]) != size:
            raise ShapeError(
                f"{name}={found[-1]} multiplies to {total_size(found[-1])}, but w has shape {tuple(w.shape)}: "
                f"give digits whose product is {size}."
            )
    rows, columns = found
    if len(rows) != len(columns):
        raise ShapeError(f"row_shape={rows} and column_shape={columns} differ in length; pad the shorter with ones.")
    return rows, columns


def checked_weight(weight: Any, name: str, prepared: Prepared, axis: int) -> Array | None:
    """Return a weight in the dtype to compute in, symmetrised, its largest diagonal entry near 1."""
    if weight is None:
        return None
    array = as_array(weight, name)
    require_floating(array, name)
    n = int(prepared.array.shape[axis])
    if tuple(array.shape) != (n, n):
        raise ShapeError(f"{name} has shape {tuple(array.shape)}; give ({n}, {n}), for axis {axis} of w.")
    if is_torch(array):
        array = array.detach()
    xp = array_namespace(prepared.array, array)
    check_finite(array, name)
    if is_complex(array) and not is_complex(prepared.array):
        raise InputError(f"{name} is complex and w is real: give a real weight, or a complex w.")
    array = to_compute(array)
    top = float(xp.max(xp.abs(array)))
    if top == 0.0:
        return astype(array, prepared.array.dtype)
    # First into range, then into the dtype of w, which may have less of it.
    C = astype(scale_by_power_of_two(array, -math.frexp(top)[1]), prepared.array.dtype)
    if float(xp.max(xp.abs(C - adjoint(C)))) > _SYMMETRY_TOLERANCE:
        raise InputError(f"{name} is not Hermitian: give a second moment such as X^H X / len(X).")
    C = (C + adjoint(C)) / 2
    trace = float(xp.sum(xp.abs(xp.linalg.diagonal(C))))
    shifted = C + (_SEMIDEFINITE_TOLERANCE * trace) * xp.eye(n, dtype=C.dtype, device=C.device)
    if not is_positive_definite(shifted):
        raise InputError(f"{name} has negative eigenvalues: give a positive semidefinite matrix.")
    return C


def lifted_weight(C: Array | None) -> Array | None:
    """Return the weight itself, or with a multiple of the identity added where it is numerically singular."""
    if C is None:
        return None
    xp = array_namespace(C)
    n = int(C.shape[0])
    trace = float(xp.sum(xp.abs(xp.linalg.diagonal(C))))
    shift = (_LEAST_EIGENVALUE[dtype_name(C)] * trace / n) * xp.eye(n, dtype=C.dtype, device=C.device)
    return C if trace == 0.0 or is_positive_definite(C - shift) else C + shift
