"""Inner products, norms and entrywise products."""

from __future__ import annotations

import math
from typing import Any

from tnet.algebra.canonical import canonicalise
from tnet.algebra.operands import Operand, as_operand, check_same_shape, unsupported
from tnet.algebra.trains import three_axis_cores, with_cores
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
    is_complex,
    qr,
    require_floating,
    scale_by_power_of_two,
    ttm_chain,
)
from tnet.errors import ShapeError
from tnet.formats import (
    CPTensor,
    LowRank,
    MatrixProductOperator,
    TensorFormat,
    TensorTrain,
    TuckerTensor,
)

__all__ = ["hadamard", "inner", "norm"]


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
    ``r sum n_k r_k`` and ``d`` mode products of the core; trains ``2 d n r^3``; low rank
    ``(m + n) r^2``. With a dense array, the format is made dense.
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
    For Tucker, trains and low rank the parts are orthogonalised first, so that the norm of a small
    difference of large tensors is right. For CP the squared norm is a sum over pairs of
    terms: what cancels below ``sqrt(eps)`` of the terms is lost.
    """
    t = as_operand(t, "t")
    parts = _arrays(t)
    for part in parts:
        require_floating(part, "t")
    wide = _cast(t, compute_dtype(*parts))
    value = _cp_norm(wide) if isinstance(wide, CPTensor) else _array_norm(_condensed(wide))
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
        case LowRank(), LowRank():
            (left,) = _rowwise_pairs((a.left,), (b.left,))
            (right,) = _rowwise_pairs((xp.matrix_transpose(a.right),), (xp.matrix_transpose(b.right),))
            return LowRank(left, xp.matrix_transpose(right))
    if isinstance(a, TensorFormat) or isinstance(b, TensorFormat):
        raise unsupported("hadamard", [a, b], "bring both to one kind, for example with .to_dense().")
    return a * b


def check_same_split(operation: str, a: TensorFormat, b: TensorFormat) -> None:
    """Raise ShapeError if two operators split their rows or columns differently."""
    if isinstance(a, MatrixProductOperator) and isinstance(b, MatrixProductOperator):
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
        case LowRank(), LowRank():
            return _dense_inner(adjoint(b.left) @ a.left, b.right @ adjoint(a.right))
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


def _condensed(t: Operand) -> Array:
    """Return an array of the same norm as ``t``, the parts around it being orthogonalised."""
    if isinstance(t, TuckerTensor):
        for part in t.arrays:
            check_finite(part, "t")
        return ttm_chain(t.core, [qr(factor)[1] for factor in t.factors], range(t.ndim))
    if isinstance(t, (TensorTrain, MatrixProductOperator)):
        return canonicalise(t, 0).cores[0]
    if isinstance(t, LowRank):
        for part in t.arrays:
            check_finite(part, "t")
        return qr(t.left)[1] @ adjoint(qr(adjoint(t.right))[1])
    return _dense(t)


def _array_norm(x: Array) -> Array:
    scaled = balanced_scale(x, "t")
    return scale_by_power_of_two(array_namespace(x).linalg.vector_norm(scaled.array), scaled.exponent)


def _cp_norm(t: CPTensor) -> Array:
    xp = array_namespace(*t.arrays)
    exponent = 0
    parts = []
    for part in t.arrays:
        scaled = balanced_scale(part, "t")
        # Every part near norm 1: the product over all modes must not overflow either.
        fine = math.frexp(math.sqrt(scaled.squared_norm))[1]
        parts.append(scale_by_power_of_two(scaled.array, -fine))
        exponent += scaled.exponent + fine
    unit = CPTensor(parts[0], tuple(parts[1:]))
    squared = xp.sum(_cp_gram(unit, unit))
    squared = xp.real(squared) if is_complex(squared) else squared
    root = xp.sqrt(xp.where(squared > 0, squared, xp.zeros_like(squared)))
    return scale_by_power_of_two(root, exponent)


def _rowwise_pairs(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return the row-wise Kronecker product of each pair: (n, r), (n, s) -> (n, r s)."""
    xp = array_namespace(*a, *b)
    return tuple(
        xp.reshape(x[:, :, None] * y[:, None, :], (x.shape[0], x.shape[1] * y.shape[1]))
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
