"""A matrix as a sum of Kronecker products, in the plain or a weighted norm."""

from __future__ import annotations

from collections.abc import Sequence

from tnet.arrays import Array, array_namespace
from tnet.decompositions.mpo import operator_from
from tnet.formats import KroneckerSum, MatrixProductOperator
from tnet.options import Stopping
from tnet.results import Decomposition

__all__ = ["kronecker_sum"]


def kronecker_sum(
    w: Array,
    row_shape: Sequence[int],
    column_shape: Sequence[int],
    rank: int | None = None,
    *,
    rtol: float | None = None,
    weight: Array | None = None,
    row_weight: Array | None = None,
    stopping: Stopping = Stopping(max_iter=100, change=1e-4),  # noqa: B008 - frozen
) -> Decomposition[KroneckerSum]:
    r"""Decompose a matrix into a sum of Kronecker products.

    .. math:: W \approx \sum_{r=1}^R A_r \otimes B_r

    Parameters
    ----------
    w : array, shape (m_1 m_2, n_1 n_2)
        Real or complex floating point. Not changed; a torch tensor is detached.
    row_shape, column_shape : (int, int)
        ``(m_1, m_2)``, the rows of :math:`A_r` and :math:`B_r`, and ``(n_1, n_2)``, their columns.
    rank : int
        R. Above ``min(m_1 n_1, m_2 n_2)``, where the sum is exact, it is clipped with a warning.
    rtol : float
        Relative Frobenius error, instead of ``rank``; not together with weights.
    weight : array, shape (n, n), optional
        C, Hermitian and positive semidefinite, such as the second moment of a layer's inputs.
    row_weight : array, shape (m, m), optional
        F, likewise, such as the second moment of the gradients of a layer's outputs.
    stopping : Stopping
        Of the weighted fit: sweeps, change of the relative error, seconds.

    Returns
    -------
    Decomposition of KroneckerSum
        ``error`` is :math:`\|F^{1/2}(W - W')C^{1/2}\|_F / \|F^{1/2} W C^{1/2}\|_F`, with the identity for a
        weight not given. ``error_kind`` is "exact" without weights and "gram" with them: what a singular
        weight annihilates leaves roundoff, so that errors below about 1e-7 (1e-3 in single precision) are
        not resolved. A singular weight is fitted with a small multiple of the identity added, 1e-6 of its mean
        eigenvalue (1e-3 in single precision), so that the model stays near W where the weight sees nothing.
        Ctrl-C after the first sweep returns the best sweep, with status ``INTERRUPTED``.

    Raises
    ------
    RankError
        Both or neither of ``rank`` and ``rtol``, ``rtol`` with weights, a rank that is no positive integer.
    ShapeError
        Digits that are not two or do not multiply to the shape, or a weight of another shape.
    InputError
        A non-finite entry, an empty matrix, a weight that is not Hermitian or not positive semidefinite.
    BackendError
        Integers, or arrays of several libraries or devices.

    Warns
    -----
    ConvergenceWarning
        The weighted fit reached ``max_iter`` or ``max_seconds``.

    Notes
    -----
    Without weights: the truncated SVD of the matrix whose rows are the blocks of W [1]_, the best sum of R
    products; ``m n min(m_1 n_1, m_2 n_2)`` multiply-adds. The result is that of :func:`tnet.mpo` for two digits.
    With weights: alternating least squares from an SVD in the norm of the weights' marginals on each digit; with
    one weight each half of a sweep is solved exactly, ``n^2 R^2`` multiply-adds and a Cholesky factorisation of
    order ``R n_1`` or ``R n_2``. The weighted error never rises. Half precision is fitted in float32.

    References
    ----------
    .. [1] C. F. Van Loan, N. Pitsianis, "Approximation with Kronecker products", in: Linear Algebra for Large
       Scale and Real-Time Applications, Kluwer (1993).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> A, B = np.arange(6.0).reshape(2, 3), np.ones((4, 2))
    >>> result = tnet.kronecker_sum(np.kron(A, B), (2, 4), (3, 2), rtol=1e-10)
    >>> result.tensor.rank
    1
    >>> bool(np.allclose(result.tensor @ np.ones(6), np.kron(A, B) @ np.ones(6)))
    True
    """
    found = operator_from(
        w,
        row_shape,
        column_shape,
        rank,
        rtol=rtol,
        weight=weight,
        row_weight=row_weight,
        stopping=stopping,
        name="kronecker_sum",
        count=2,
    )
    tensor = _sum_of(found.tensor)
    return Decomposition(tensor, found.error, found.error_kind, found.status, found.history, found.seconds)


def _sum_of(operator: MatrixProductOperator) -> KroneckerSum:
    """Return the sum whose terms are the columns of the first core and the rows of the second."""
    first, second = operator.cores
    xp = array_namespace(first, second)
    return KroneckerSum(xp.permute_dims(first[0, :, :, :], (2, 0, 1)), second[:, :, :, 0])
