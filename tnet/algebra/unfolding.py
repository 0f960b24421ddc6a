"""Matrices out of tensors and back, and the product along one mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tnet import arrays
from tnet.algebra.operands import Operand, as_operand, check_mode, unsupported
from tnet.arrays import Array, array_namespace, as_array, total_size
from tnet.errors import ShapeError
from tnet.formats import CPTensor, HierarchicalTucker, TensorFormat, TensorRing, TensorTrain, TuckerTensor

__all__ = ["fold", "mode_product", "unfold"]


def unfold(x: Array, mode: int) -> Array:
    r"""Return the mode-k unfolding :math:`X_{(k)}`: fibres of one mode as columns.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
    mode : int
        k, counted from 0; negative from the end.

    Returns
    -------
    array, shape (n_k, product of the others)
        Columns run in C order over the remaining modes, ascending (the last fastest). Kolda and
        Bader let the first run fastest.

    Examples
    --------
    >>> import numpy as np
    >>> unfold(np.arange(8).reshape(2, 2, 2), 1)
    array([[0, 1, 4, 5],
           [2, 3, 6, 7]])
    """
    x = as_array(x)
    mode = check_mode(mode, x.ndim)
    xp = array_namespace(x)
    rest = total_size(x.shape[:mode]) * total_size(x.shape[mode + 1 :])
    return xp.reshape(xp.moveaxis(x, mode, 0), (x.shape[mode], rest))


def fold(matrix: Array, mode: int, shape: Sequence[int]) -> Array:
    """Return the tensor of which ``matrix`` is the mode-k unfolding; the inverse of :func:`unfold`.

    Parameters
    ----------
    matrix : array, shape (n_k, product of the others)
    mode : int
        k, counted from 0; negative from the end.
    shape : sequence of int
        ``(n_1, ..., n_d)``, the shape of the result.

    Returns
    -------
    array, shape (n_1, ..., n_d)

    Raises
    ------
    ShapeError
        If the matrix does not have the shape of that unfolding.
    """
    matrix = as_array(matrix, "matrix")
    shape = tuple(int(n) for n in shape)
    mode = check_mode(mode, len(shape))
    moved = (shape[mode], *shape[:mode], *shape[mode + 1 :])
    expected = (moved[0], total_size(moved[1:]))
    if tuple(matrix.shape) != expected:
        raise ShapeError(
            f"matrix of shape {tuple(matrix.shape)}: mode {mode} of {shape} unfolds to shape {expected}."
        )
    xp = array_namespace(matrix)
    return xp.moveaxis(xp.reshape(matrix, moved), 0, mode)


def mode_product(t: Operand, matrix: Array, mode: int) -> Operand:
    r"""Return :math:`Y = X \times_k A`, that is :math:`Y_{(k)} = A X_{(k)}`.

    Parameters
    ----------
    t : array, CPTensor, TuckerTensor, HierarchicalTucker, TensorTrain or TensorRing of shape (n_1, ..., n_d)
    matrix : array, shape (m, n_k)
    mode : int
        k, counted from 0; negative from the end.

    Returns
    -------
    Same kind as ``t``, shape (n_1, ..., m, ..., n_d)

    Notes
    -----
    ``m size(x)`` multiply-adds for an array; for a format only one part is multiplied.
    """
    t = as_operand(t, "t")
    matrix = as_array(matrix, "matrix")
    mode = check_mode(mode, t.ndim)
    if matrix.ndim != 2 or matrix.shape[1] != t.shape[mode]:
        raise ShapeError(
            f"matrix of shape {tuple(matrix.shape)} in mode {mode} of size {t.shape[mode]}: "
            f"give shape (m, {t.shape[mode]})."
        )
    if isinstance(t, (CPTensor, TuckerTensor, HierarchicalTucker)):
        array_namespace(matrix, *t.arrays)
        factors = list(t.factors)
        factors[mode] = matrix @ factors[mode]
        return dataclasses.replace(t, factors=tuple(factors))
    if isinstance(t, (TensorTrain, TensorRing)):
        cores = list(t.cores)
        cores[mode] = arrays.mode_product(cores[mode], matrix, 1)
        return dataclasses.replace(t, cores=tuple(cores))
    if isinstance(t, TensorFormat):
        raise unsupported("mode_product", [t], "use t.to_dense(), or add the matrix to the network.")
    return arrays.mode_product(t, matrix, mode)
