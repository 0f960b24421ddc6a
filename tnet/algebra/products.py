"""Inner products, norms and entrywise products."""

from __future__ import annotations

import math
from typing import Any

from tnet.algebra.canonical import canonicalise
from tnet.algebra.operands import Operand, as_operand, check_same_shape, unsupported
from tnet.algebra.thin_factors import Thin, thin_factors, with_thin_factors
from tnet.algebra.trains import three_axis_cores, with_cores
from tnet.algebra.trees import orthogonalised, tree_inner
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    balanced_scale,
    check_finite,
    common_dtype,
    compute_dtype,
    conj,
    einsum,
    qr,
    real_part,
    require_floating,
    scale_by_power_of_two,
    ttm_chain,
)
from tnet.errors import ShapeError
from tnet.formats import (
    BlockTensorTrain,
    CPTensor,
    HierarchicalTucker,
    KroneckerSum,
    LowRank,
    MatrixProductOperator,
    TensorFormat,
    TensorRing,
    TensorTrain,
    TuckerTensor,
)

__all__ = ["check_same_split", "hadamard", "inner", "norm"]

_Split = (MatrixProductOperator, KroneckerSum, BlockTensorTrain)


def inner(a: Operand, b: Operand) -> Array:
    r"""Return :math:`\langle a, b \rangle = \sum_i \bar a_i b_i`.

    Parameters
    ----------
    a, b : format or array
        Of equal shape: both of one kind, or one of them a dense array.

    Returns
    -------
    array, shape ()
        In the common dtype; half precision is summed in float32.

    Raises
    ------
    ShapeError
        If the shapes differ.
    BackendError
        For two formats of different kinds, and for networks.

    Notes
    -----
    Formats of one kind are not multiplied out. Multiply-adds: CP ``R^2 sum n_k``; Tucker
    ``r sum n_k r_k`` and ``d`` mode products of the core; trains ``2 d n r^3``; rings ``2 d n r^5``;
    hierarchical Tucker ``d n r^2 + 3 d r^4``; low rank ``(m + n) r^2``, as Kronecker sums for
    ``m = m_1 n_1`` and ``n = m_2 n_2``, and block tensor trains for each block. With a dense array, the
    format is made dense.
    """
    a, b = as_operand(a, "a"), as_operand(b, "b")
    check_same_shape("inner", a, b)
    parts = [*_arrays(a), *_arrays(b)]
    array_namespace(*parts)
    wide = compute_dtype(*parts)
    result = _inner(_cast(a, wide), _cast(b, wide))
    return astype(result, common_dtype(*parts))


def norm(t: Operand) -> Array:
    r"""Return the Frobenius norm :math:`\|t\| = \sqrt{\langle t, t \rangle}`.

    Parameters
    ----------
    t : format or array
        A TensorNetwork is made dense.

    Returns
    -------
    array, shape ()
        Real.

    Raises
    ------
    InputError
        If an entry is not finite.

    Notes
    -----
    For all formats but CP and rings the parts are orthogonalised first, so that the norm of a small
    difference of large tensors is right. For CP and rings the squared norm is the inner product with
    itself: what cancels below ``sqrt(eps)`` of the terms is lost.
    """
    t = as_operand(t, "t")
    parts = _arrays(t)
    for part in parts:
        require_floating(part, "t")
    wide = _cast(t, compute_dtype(*parts))
    value = _gram_norm(wide) if isinstance(wide, (CPTensor, TensorRing)) else _array_norm(_condensed(wide))
    common = common_dtype(*parts)
    return value if array_namespace(*parts).isdtype(common, "complex floating") else astype(value, common)


def hadamard(a: Operand, b: Operand) -> Operand:
    r"""Return the entrywise product :math:`a_i b_i`.

    Parameters
    ----------
    a, b : format or array
        Both of one kind and of equal shape.

    Returns
    -------
    Same kind as ``a``
        Its ranks are the products of the ranks: :func:`tnet.round` brings them down.

    Raises
    ------
    ShapeError
        If the shapes differ.
    BackendError
        For operands of different kinds, and for networks.
    """
    a, b = as_operand(a, "a"), as_operand(b, "b")
    check_same_shape("hadamard", a, b)
    xp = array_namespace(*_arrays(a), *_arrays(b))
    match a, b:
        case CPTensor(), CPTensor():
            weights = xp.reshape(a.weights[:, None] * b.weights[None, :], (-1,))
            return CPTensor(weights, _rowwise_pairs(a.factors, b.factors))
        case TuckerTensor(), TuckerTensor():
            return TuckerTensor(_kronecker(a.core, b.core), _rowwise_pairs(a.factors, b.factors))
        case (TensorTrain(), TensorTrain()) | (MatrixProductOperator(), MatrixProductOperator()):
            check_same_split("hadamard", a, b)
            cores = [_kronecker_of_bonds(x, y) for x, y in zip(three_axis_cores(a), three_axis_cores(b), strict=True)]
            return with_cores(a, cores)
        case TensorRing(), TensorRing():
            return TensorRing(tuple(map(_kronecker_of_bonds, a.cores, b.cores)))
        case HierarchicalTucker(), HierarchicalTucker():
            check_same_split("hadamard", a, b)
            transfers = tuple(map(_kronecker, a.transfers, b.transfers))
            return HierarchicalTucker(_rowwise_pairs(a.factors, b.factors), transfers, a.tree)
        case (LowRank(), LowRank()) | (KroneckerSum(), KroneckerSum()) | (BlockTensorTrain(), BlockTensorTrain()):
            check_same_split("hadamard", a, b)
            (tall, wide), (tall_b, wide_b) = thin_factors(a), thin_factors(b)
            wides = xp.matrix_transpose(wide), xp.matrix_transpose(wide_b)
            tall, wide = _rowwise_pairs((tall, wides[0]), (tall_b, wides[1]))
            return with_thin_factors(a, tall, xp.matrix_transpose(wide))
    if isinstance(a, TensorFormat) or isinstance(b, TensorFormat):
        raise unsupported("hadamard", [a, b], "bring both to one kind, for example with .to_dense().")
    return a * b


def check_same_split(operation: str, a: TensorFormat, b: TensorFormat) -> None:
    """Raise ShapeError if two operators split their rows or columns differently, or two trees differ."""
    if isinstance(a, HierarchicalTucker) and isinstance(b, HierarchicalTucker) and a.tree != b.tree:
        raise ShapeError(f"{operation}: dimension trees {a.tree} and {b.tree} differ; give equal trees.")
    if isinstance(a, _Split) and isinstance(b, _Split):
        splits = (a.row_shape, a.column_shape), (b.row_shape, b.column_shape)
        if splits[0] != splits[1]:
            raise ShapeError(
                f"{operation}: rows and columns split as {splits[0]} and as {splits[1]}; split both alike."
            )


def _inner(a: Operand, b: Operand) -> Array:
    match a, b:
        case CPTensor(), CPTensor():
            return array_namespace(a.weights).sum(_cp_gram(a, b))
        case TuckerTensor(), TuckerTensor():
            mixed = [adjoint(x) @ y for x, y in zip(a.factors, b.factors, strict=True)]
            return _dense_inner(a.core, ttm_chain(b.core, mixed, range(b.ndim)))
        case (TensorTrain(), TensorTrain()) | (MatrixProductOperator(), MatrixProductOperator()):
            check_same_split("inner", a, b)
            return _train_inner(three_axis_cores(a), three_axis_cores(b))
        case TensorRing(), TensorRing():
            return _ring_inner(a.cores, b.cores)
        case HierarchicalTucker(), HierarchicalTucker():
            check_same_split("inner", a, b)
            return tree_inner(a, b)
        case (LowRank(), LowRank()) | (KroneckerSum(), KroneckerSum()) | (BlockTensorTrain(), BlockTensorTrain()):
            check_same_split("inner", a, b)
            (tall, wide), (tall_b, wide_b) = thin_factors(a), thin_factors(b)
            return _dense_inner(adjoint(tall_b) @ tall, wide_b @ adjoint(wide))
    if isinstance(a, TensorFormat) and isinstance(b, TensorFormat):
        raise unsupported("inner", [a, b], "bring both to one kind, or make one dense with .to_dense().")
    return _dense_inner(_dense(a), _dense(b))


def _dense_inner(a: Array, b: Array) -> Array:
    xp = array_namespace(a, b)
    return xp.vecdot(xp.reshape(a, (-1,)), xp.reshape(b, (-1,)))


def _cp_gram(a: CPTensor, b: CPTensor) -> Array:
    """Return the inner products of all pairs of terms, (R_a, R_b)."""
    product = conj(a.weights)[:, None] * b.weights[None, :]
    for x, y in zip(a.factors, b.factors, strict=True):
        product = product * (adjoint(x) @ y)
    return product


def _train_inner(a: list[Array], b: list[Array]) -> Array:
    """Zip two trains together from the left; the state is (bond of conj a, bond of b)."""
    xp = array_namespace(*a, *b)
    state = xp.ones((1, 1), dtype=a[0].dtype, device=a[0].device)
    for x, y in zip(a, b, strict=True):
        state = einsum(xp, "pr,rns->pns", state, y)
        state = einsum(xp, "pnq,pns->qs", conj(x), state)
    return xp.reshape(state, ())


def _ring_inner(a: tuple[Array, ...], b: tuple[Array, ...]) -> Array:
    """Zip two rings together; the state is (first bonds of conj a and of b, next bonds of both)."""
    xp = array_namespace(*a, *b)
    state = einsum(xp, "pnq,rns->prqs", conj(a[0]), b[0])
    for x, y in zip(a[1:], b[1:], strict=True):
        state = einsum(xp, "prqs,snt->prqnt", state, y)
        state = einsum(xp, "qnu,prqnt->prut", conj(x), state)
    p, r = state.shape[:2]
    return xp.linalg.trace(xp.reshape(state, (p * r, p * r)))


def _condensed(t: Operand) -> Array:
    """Return an array of the same norm as ``t``, the parts around it being orthogonalised."""
    if isinstance(t, (TensorTrain, MatrixProductOperator)):
        return canonicalise(t, 0).cores[0]
    if isinstance(t, TensorFormat):
        for part in t.arrays:
            check_finite(part, "t")
    if isinstance(t, TuckerTensor):
        return ttm_chain(t.core, [qr(factor)[1] for factor in t.factors], range(t.ndim))
    if isinstance(t, HierarchicalTucker):
        return orthogonalised(t).transfers[0]
    if isinstance(t, Thin):
        tall, wide = thin_factors(t)
        return qr(tall)[1] @ adjoint(qr(adjoint(wide))[1])
    return _dense(t)


def _array_norm(x: Array) -> Array:
    scaled = balanced_scale(x, "t")
    return scale_by_power_of_two(array_namespace(x).linalg.vector_norm(scaled.array), scaled.exponent)


def _gram_norm(t: CPTensor | TensorRing) -> Array:
    xp = array_namespace(*t.arrays)
    exponent = 0
    parts = []
    for part in t.arrays:
        scaled = balanced_scale(part, "t")
        # Every part near norm 1: the product over all modes must not overflow either.
        fine = math.frexp(math.sqrt(scaled.squared_norm))[1]
        parts.append(scale_by_power_of_two(scaled.array, -fine))
        exponent += scaled.exponent + fine
    if isinstance(t, CPTensor):
        unit = CPTensor(parts[0], tuple(parts[1:]))
        squared = xp.sum(_cp_gram(unit, unit))
    else:
        squared = _ring_inner(tuple(parts), tuple(parts))
    squared = real_part(squared)
    root = xp.sqrt(xp.where(squared > 0, squared, xp.zeros_like(squared)))
    return scale_by_power_of_two(root, exponent)


def _rowwise_pairs(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return the row-wise Kronecker product of each pair: (..., n, r), (..., n, s) -> (..., n, r s)."""
    xp = array_namespace(*a, *b)
    return tuple(
        xp.reshape(x[..., :, None] * y[..., None, :], (*x.shape[:-1], x.shape[-1] * y.shape[-1]))
        for x, y in zip(a, b, strict=True)
    )


def _kronecker(a: Array, b: Array) -> Array:
    """Return the Kronecker product of two tensors of the same order."""
    xp = array_namespace(a, b)
    spread_a = xp.reshape(a, tuple(n for size in a.shape for n in (size, 1)))
    spread_b = xp.reshape(b, tuple(n for size in b.shape for n in (1, size)))
    return xp.reshape(spread_a * spread_b, tuple(m * n for m, n in zip(a.shape, b.shape, strict=True)))


def _kronecker_of_bonds(a: Array, b: Array) -> Array:
    """Return the core (r r', n, s s') whose slices are the Kronecker products of slices."""
    xp = array_namespace(a, b)
    r, n, s = a.shape
    q, _, t = b.shape
    return xp.reshape(a[:, None, :, :, None] * b[None, :, :, None, :], (r * q, n, s * t))


def _arrays(t: Operand) -> tuple[Array, ...]:
    return t.arrays if isinstance(t, TensorFormat) else (t,)


def _cast(t: Operand, dtype: Any) -> Operand:
    if isinstance(t, TensorFormat):
        return t.map_arrays(lambda array: astype(array, dtype))
    return astype(t, dtype)


def _dense(t: Operand) -> Array:
    return t.to_dense() if isinstance(t, TensorFormat) else t
