"""Sums and multiples of formats."""

from __future__ import annotations

import cmath
import dataclasses
from collections.abc import Sequence

import numpy as np

from tnet.algebra.operands import Operand, as_operand, check_same_shape, unsupported
from tnet.algebra.products import check_same_split
from tnet.algebra.thin_factors import thin_factors, with_thin_factors
from tnet.algebra.trains import three_axis_cores, with_cores
from tnet.arrays import Array, array_namespace, astype, common_dtype, is_complex
from tnet.errors import InputError
from tnet.formats import (
    BlockTensorTrain,
    CPTensor,
    HierarchicalTucker,
    KroneckerSum,
    LowRank,
    MatrixProductOperator,
    TensorFormat,
    TensorNetwork,
    TensorRing,
    TensorTrain,
    TuckerTensor,
)

__all__ = ["add", "scale"]


def add(a: Operand, b: Operand) -> Operand:
    """Return ``a + b``.

    Parameters
    ----------
    a, b : format or array
        Both of one kind and of equal shape.

    Returns
    -------
    Same kind as ``a``
        Its ranks are the sums of the ranks (boundary bonds stay 1): :func:`tnet.round` brings
        them down. In the common dtype.

    Raises
    ------
    ShapeError
        If the shapes differ.
    BackendError
        For operands of different kinds, and for networks.
    """
    a, b = as_operand(a, "a"), as_operand(b, "b")
    check_same_shape("add", a, b)
    if not isinstance(a, TensorFormat) and not isinstance(b, TensorFormat):
        array_namespace(a, b)
        return a + b
    if isinstance(a, TensorFormat) and isinstance(b, TensorFormat):
        parts = (*a.arrays, *b.arrays)
        xp, dtype = array_namespace(*parts), common_dtype(*parts)
        a = a.map_arrays(lambda part: astype(part, dtype))
        b = b.map_arrays(lambda part: astype(part, dtype))
        match a, b:
            case CPTensor(), CPTensor():
                factors = [xp.concat(pair, axis=1) for pair in zip(a.factors, b.factors, strict=True)]
                return CPTensor(xp.concat((a.weights, b.weights)), tuple(factors))
            case TuckerTensor(), TuckerTensor():
                factors = [xp.concat(pair, axis=1) for pair in zip(a.factors, b.factors, strict=True)]
                return TuckerTensor(_block_diagonal(a.core, b.core, range(a.ndim)), tuple(factors))
            case (TensorTrain(), TensorTrain()) | (MatrixProductOperator(), MatrixProductOperator()):
                check_same_split("add", a, b)
                return with_cores(a, _added_cores(three_axis_cores(a), three_axis_cores(b)))
            case TensorRing(), TensorRing():
                cores = [_block_diagonal(x, y, (0, 2)) for x, y in zip(a.cores, b.cores, strict=True)]
                return TensorRing(tuple(cores))
            case HierarchicalTucker(), HierarchicalTucker():
                check_same_split("add", a, b)
                return _added_trees(a, b)
            case (LowRank(), LowRank()) | (KroneckerSum(), KroneckerSum()) | (BlockTensorTrain(), BlockTensorTrain()):
                check_same_split("add", a, b)
                (tall, wide), (tall_b, wide_b) = thin_factors(a), thin_factors(b)
                tall, wide = xp.concat((tall, tall_b), axis=-1), xp.concat((wide, wide_b), axis=-2)
                return with_thin_factors(a, tall, wide)
    raise unsupported("add", [a, b], "bring both to one kind, for example with .to_dense().")


def scale(t: Operand, factor: complex) -> Operand:
    """Return ``factor * t``.

    Parameters
    ----------
    t : format or array
    factor : float or complex
        A Python or NumPy number. It goes into the weights, the core, the first core, the root, the left
        factor or the first tensor; the other parts are shared with ``t``.

    Returns
    -------
    Same kind as ``t``, in its dtype

    Raises
    ------
    InputError
        If ``factor`` is no finite number, or complex while ``t`` is real.
    """
    t = as_operand(t, "t")
    if isinstance(factor, (bool, np.bool_)) or not isinstance(factor, (int, float, complex, np.number)):
        raise InputError(f"factor={factor!r}: give a real or complex number.")
    number = complex(factor)
    if not cmath.isfinite(number):
        raise InputError(f"factor={factor!r}: give a finite number.")
    if isinstance(t, CPTensor):
        return dataclasses.replace(t, weights=_times(t.weights, number))
    if isinstance(t, TuckerTensor):
        return dataclasses.replace(t, core=_times(t.core, number))
    if isinstance(t, (TensorTrain, TensorRing, MatrixProductOperator)):
        return dataclasses.replace(t, cores=(_times(t.cores[0], number), *t.cores[1:]))
    if isinstance(t, HierarchicalTucker):
        return dataclasses.replace(t, transfers=(_times(t.transfers[0], number), *t.transfers[1:]))
    if isinstance(t, (LowRank, KroneckerSum, BlockTensorTrain)):
        return dataclasses.replace(t, left=_times(t.left, number))
    if isinstance(t, TensorNetwork):
        return dataclasses.replace(t, tensors=(_times(t.tensors[0], number), *t.tensors[1:]))
    if isinstance(t, TensorFormat):
        raise unsupported("scale", [t], "use t.to_dense().")
    return _times(t, number)


def _times(x: Array, number: complex) -> Array:
    if is_complex(x):
        return x * number
    if number.imag != 0:
        raise InputError(f"factor={number} is complex and t is real: use t.astype('complex128') first.")
    return x * number.real


def _block_diagonal(a: Array, b: Array, axes: Sequence[int]) -> Array:
    """Return ``a`` and ``b`` placed corner to corner along ``axes``, with zeros elsewhere."""
    xp = array_namespace(a, b)
    for axis in axes:
        above = _zeros_like_but(a, axis, b.shape[axis])
        below = _zeros_like_but(b, axis, a.shape[axis])
        a, b = xp.concat((a, above), axis=axis), xp.concat((below, b), axis=axis)
    return a + b


def _zeros_like_but(x: Array, axis: int, n: int) -> Array:
    shape = (*x.shape[:axis], n, *x.shape[axis + 1 :])
    return array_namespace(x).zeros(shape, dtype=x.dtype, device=x.device)


def _added_cores(a: list[Array], b: list[Array]) -> list[Array]:
    """Return block-diagonal cores; at the ends, blocks in a row and in a column."""
    if len(a) == 1:
        return [a[0] + b[0]]
    xp = array_namespace(*a, *b)
    middle = [_block_diagonal(x, y, (0, 2)) for x, y in zip(a[1:-1], b[1:-1], strict=True)]
    return [xp.concat((a[0], b[0]), axis=2), *middle, xp.concat((a[-1], b[-1]), axis=0)]


def _added_trees(a: HierarchicalTucker, b: HierarchicalTucker) -> HierarchicalTucker:
    """Return bases side by side and transfers corner to corner; the root has one basis vector, their sum."""
    xp = array_namespace(*a.arrays, *b.arrays)
    factors = [xp.concat(pair, axis=1) for pair in zip(a.factors, b.factors, strict=True)]
    transfers = [
        _block_diagonal(x, y, range(x.ndim if k else x.ndim - 1))
        for k, (x, y) in enumerate(zip(a.transfers, b.transfers, strict=True))
    ]
    return HierarchicalTucker(tuple(factors), tuple(transfers), a.tree)
