"""Operators applied to tensors."""

from __future__ import annotations

from typing import TypeAlias

from tnet.algebra.operands import Operand, as_operand, unsupported
from tnet.arrays import Array, array_namespace, astype, compute_dtype, einsum
from tnet.errors import ShapeError
from tnet.formats import BlockTensorTrain, KroneckerSum, LowRank, MatrixProductOperator, TensorFormat, TensorTrain

__all__ = ["matvec"]


_Operator: TypeAlias = MatrixProductOperator | LowRank | KroneckerSum | BlockTensorTrain


def matvec(operator: _Operator, x: Operand) -> Operand:
    r"""Return :math:`y = W x`.

    Parameters
    ----------
    operator : MatrixProductOperator, LowRank, KroneckerSum or BlockTensorTrain, shape (m, n)
    x : TensorTrain or array
        For a MatrixProductOperator, a TensorTrain of shape ``operator.column_shape``; or an array
        of shape (n,) or (n, k).

    Returns
    -------
    TensorTrain or array
        As ``x``. A TensorTrain has shape ``operator.row_shape``, and as its ranks the products of
        the ranks: :func:`tnet.round` brings them down.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    BackendError
        For other kinds of operands.

    Notes
    -----
    Train times train: ``m n r^2 q^2`` multiply-adds for each core.
    """
    if not isinstance(operator, _Operator):
        raise unsupported("matvec", [operator], "give an operator first, such as a MatrixProductOperator.")
    x = as_operand(x, "x")
    if not isinstance(x, TensorFormat):
        return operator @ x
    if not isinstance(operator, MatrixProductOperator) or not isinstance(x, TensorTrain):
        raise unsupported("matvec", [operator, x], "make the second dense with .to_dense().")
    if x.shape != operator.column_shape:
        raise ShapeError(
            f"matvec: a tensor train of shape {x.shape} for columns split as {operator.column_shape}; "
            "give equal shapes."
        )
    parts = (*operator.cores, *x.cores)
    xp, wide = array_namespace(*parts), compute_dtype(*parts)
    dtype = xp.result_type(operator.dtype, x.dtype)
    cores = (
        astype(_applied_core(astype(W, wide), astype(G, wide)), dtype)
        for W, G in zip(operator.cores, x.cores, strict=True)
    )
    return TensorTrain(tuple(cores))


def _applied_core(W: Array, G: Array) -> Array:
    """Sum over the column digit of W (r, m, n, s) and the mode of G (q, n, t): (r q, m, s t)."""
    xp = array_namespace(W, G)
    core = einsum(xp, "rmns,qnt->rqmst", W, G)
    r, q, m, s, t = core.shape
    return xp.reshape(core, (r * q, m, s * t))
