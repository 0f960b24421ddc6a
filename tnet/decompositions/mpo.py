"""Matrix product operator of a matrix, in the plain or a weighted norm."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tnet.algebra import bounded_ranks
from tnet.algebra.ranks import bond_limits
from tnet.arrays import Array, array_namespace, as_array
from tnet.decompositions.iteration import warn_unless_converged
from tnet.decompositions.kronecker_fit import fit_operator
from tnet.decompositions.mpo_fit import interleaved
from tnet.decompositions.operator_arguments import checked_digits, checked_weight
from tnet.decompositions.preparation import prepare, rescaled
from tnet.decompositions.residual import error_after_rounding
from tnet.decompositions.truncated_basis import resolve_method
from tnet.decompositions.tt import train_of
from tnet.errors import RankError
from tnet.formats import MatrixProductOperator, TensorTrain
from tnet.options import Stopping, check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["mpo", "operator_from"]


def mpo(
    w: Array,
    row_shape: Sequence[int],
    column_shape: Sequence[int],
    rank: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    weight: Array | None = None,
    row_weight: Array | None = None,
    stopping: Stopping = Stopping(max_iter=100, change=1e-4),  # noqa: B008 - frozen
) -> Decomposition[MatrixProductOperator]:
    r"""Decompose a matrix into a matrix product operator.

    .. math:: W_{(i_1 \dots i_d), (j_1 \dots j_d)} \approx G_1[i_1, j_1] \cdots G_d[i_d, j_d]

    Parameters
    ----------
    w : array, shape (m, n)
        Real or complex floating point. Not changed; a torch tensor is detached.
    row_shape, column_shape : sequence of int
        Digits of the row and of the column index, equal in number; their products are m and n.
    rank : int or sequence of int
        The d - 1 inner ranks, or one bound for all. Above what a bond can have, they are clipped with a
        warning.
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
    Decomposition of MatrixProductOperator
        ``error`` is :math:`\|F^{1/2}(W - W')C^{1/2}\|_F / \|F^{1/2} W C^{1/2}\|_F`, with the identity for a
        weight not given. ``error_kind`` is "exact" without weights and "gram" with them: what a singular
        weight annihilates leaves roundoff, so that errors below about 1e-7 (1e-3 in single precision) are
        not resolved. A singular weight is fitted with a small multiple of the identity added, 1e-6 of its mean
        eigenvalue (1e-3 in single precision), so that the model stays near W where the weight sees nothing.
        Ctrl-C after the first sweep returns the best sweep, with status ``INTERRUPTED``.

    Raises
    ------
    RankError
        Both or neither of ``rank`` and ``rtol``, ``rtol`` with weights, a rank that is no positive integer,
        a wrong count.
    ShapeError
        Digits that do not multiply to the shape, or a weight of another shape.
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
    Without weights: the TT-SVD of the tensor with modes ``m_k n_k`` [1]_, see :func:`tnet.tt`. With weights:
    from a TT-SVD in the norm of the weights' marginals on each digit, alternating least squares over the
    cores; the weighted error never rises. A core is solved for by conjugate gradients, of which a step costs
    ``m^2 n + m n^2`` multiply-adds; with two digits and one weight by its normal equations, see
    :func:`tnet.kronecker_sum`. Half precision is fitted, and its error stated, in float32.

    References
    ----------
    .. [1] I. V. Oseledets, "Approximation of 2^d x 2^d matrices using tensor decomposition", SIAM J. Matrix
       Anal. Appl. 31 (2010).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> w = np.kron(np.arange(4.0).reshape(2, 2), np.ones((3, 2)))
    >>> tnet.mpo(w, (2, 3), (2, 2), rtol=1e-10).tensor.rank
    (1,)
    """
    return operator_from(
        w,
        row_shape,
        column_shape,
        rank,
        rtol=rtol,
        weight=weight,
        row_weight=row_weight,
        stopping=stopping,
        name="mpo",
    )


def operator_from(
    w: Array,
    row_shape: Sequence[int],
    column_shape: Sequence[int],
    rank: int | Sequence[int] | None,
    *,
    rtol: float | None,
    weight: Array | None,
    row_weight: Array | None,
    stopping: Stopping,
    name: str,
    count: int | None = None,
) -> Decomposition[MatrixProductOperator]:
    """Return what :func:`mpo` does, called by the function ``name``; ``count`` is how many digits there must be."""
    started = time.perf_counter()
    check_rank_or_rtol(rank, rtol)
    weighted = weight is not None or row_weight is not None
    if weighted and rank is None:
        raise RankError("rtol= with a weight is not offered: give rank=.")
    array = as_array(w, "w")
    rows, columns = checked_digits(array, row_shape, column_shape, count)
    prepared = prepare(array, "w")
    modes = tuple(m * n for m, n in zip(rows, columns, strict=True))
    ranks = None if rank is None else bounded_ranks(rank, bond_limits(modes), "bond")
    if ranks is not None and weighted:
        F = checked_weight(row_weight, "row_weight", prepared, 0)
        C = checked_weight(weight, "weight", prepared, 1)
        fit = fit_operator(prepared.array, rows, columns, ranks, F, C, stopping)
        warn_unless_converged(name, fit.status, stopping.change)
        cores = rescaled(fit.cores, fit.center, prepared)
        tensor = MatrixProductOperator(_with_digits(cores, rows, columns))
        seconds = time.perf_counter() - started
        return Decomposition(tensor, fit.error, "gram", fit.status, fit.history, seconds)
    train_input = prepared._replace(array=interleaved(prepared.array, rows, columns))
    method = resolve_method("auto", rtol, prepared.array)
    cores, carrier, error = train_of(train_input, modes, ranks, rtol, method)
    cores = rescaled(cores, carrier, train_input)
    if prepared.is_half:
        error = error_after_rounding(train_input, TensorTrain(tuple(cores)))
    tensor = MatrixProductOperator(_with_digits(cores, rows, columns))
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), time.perf_counter() - started)


def _with_digits(cores: Sequence[Array], rows: tuple[int, ...], columns: tuple[int, ...]) -> tuple[Array, ...]:
    xp = array_namespace(*cores)
    return tuple(
        xp.reshape(core, (core.shape[0], m, n, core.shape[2]))
        for core, m, n in zip(cores, rows, columns, strict=True)
    )
