"""Canonical forms of tensor trains."""

from __future__ import annotations

from typing import TypeVar

from tnet.algebra.operands import check_mode, unsupported
from tnet.algebra.trains import (
    Train,
    left_orthogonal_step,
    right_orthogonal_step,
    three_axis_cores,
    with_cores,
)
from tnet.arrays import astype, check_finite, require_floating, to_compute
from tnet.formats import MatrixProductOperator, TensorTrain

__all__ = ["canonicalise"]

T = TypeVar("T", bound=Train)


def canonicalise(t: T, center: int) -> T:
    r"""Return the same tensor train with all cores but one orthogonal.

    Cores before ``center`` satisfy :math:`\sum_{r,i} \bar G_{ris} G_{ris'} = \delta_{ss'}`, cores
    after it :math:`\sum_{i,s} G_{ris} \bar G_{r'is} = \delta_{rr'}`; the norm of the tensor is
    that of the core at ``center``.

    Parameters
    ----------
    t : TensorTrain or MatrixProductOperator
    center : int
        Counted from 0; negative from the end.

    Returns
    -------
    Same kind as ``t``
        Bonds that exceed what their side can carry shrink to it.

    Raises
    ------
    InputError
        If a core has a non-finite entry.

    Notes
    -----
    One QR factorisation for each core: about ``4 d n r^3`` flops. Differentiable, except where
    a core is rank deficient.

    References
    ----------
    .. [1] I. V. Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33 (2011).
    """
    if not isinstance(t, (TensorTrain, MatrixProductOperator)):
        raise unsupported("canonicalise", [t], "give a TensorTrain or a MatrixProductOperator.")
    center = check_mode(center, len(t.cores))
    dtype = t.dtype
    for k, core in enumerate(t.cores):
        require_floating(core, f"cores[{k}]")
        check_finite(core, f"cores[{k}]")
    cores = [to_compute(astype(core, dtype)) for core in three_axis_cores(t)]
    for k in range(center):
        left_orthogonal_step(cores, k)
    for k in range(len(cores) - 1, center, -1):
        right_orthogonal_step(cores, k)
    return with_cores(t, [astype(core, dtype) for core in cores])
