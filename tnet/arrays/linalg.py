"""Linear algebra that the array API standard lacks, or that needs care with small singular values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from tnet.arrays.checks import check_finite, scale_by_power_of_two
from tnet.arrays.namespace import (
    Array,
    adjoint,
    array_namespace,
    astype,
    device_kind,
    dtype_name,
    is_complex,
    is_torch,
    library_name,
    real_dtype,
    real_part,
    total_size,
)
from tnet.errors import InputError, ShapeError
from tnet.options import Truncation

__all__ = [
    "TruncatedSVD",
    "cholesky_solve_gram",
    "eigh_descending",
    "gram",
    "gram_factor",
    "gram_truncated",
    "is_positive_definite",
    "khatri_rao",
    "qr",
    "solve_triangular",
    "svd_truncated",
    "truncated_eigh",
    "tsqr",
    "tsqr_truncated",
]

# Elements of a panel that is widened to float64 or handed to LAPACK at a time: 8 MiB of float64.
_PANEL = 1 << 20

# Rows from which LAPACK finds a few leading eigenpairs faster than all, and their largest part of all.
_SUBSET_FROM = 128
_SUBSET_PART = 1 / 10


class TruncatedSVD(NamedTuple):
    """``Y ~ U @ diag(s) @ Vh`` with the squared Frobenius norm of what was cut."""

    U: Array
    s: Array
    Vh: Array
    discarded: float


def khatri_rao(matrices: Sequence[Array]) -> Array:
    r"""Return the column-wise Kronecker product :math:`A_1 \odot \dots \odot A_d`.

    Parameters
    ----------
    matrices : sequence of array, shapes (n_k, R)

    Returns
    -------
    array, shape (n_1 * ... * n_d, R)
        The row index runs in C order: that of the last matrix fastest.
    """
    if not matrices:
        raise ShapeError("khatri_rao: no matrices given; pass at least one of shape (n, R).")
    xp = array_namespace(*matrices)
    columns = {int(matrix.shape[-1]) if matrix.ndim == 2 else -1 for matrix in matrices}
    if len(columns) > 1 or -1 in columns:
        shapes = [tuple(matrix.shape) for matrix in matrices]
        raise ShapeError(f"khatri_rao: shapes {shapes}; give matrices with the same number of columns.")
    product = matrices[0]
    for matrix in matrices[1:]:
        rows = product.shape[0] * matrix.shape[0]
        product = xp.reshape(product[:, None, :] * matrix[None, :, :], (rows, matrix.shape[1]))
    return product


def gram(Y: Array) -> Array:
    r"""Return :math:`Y Y^H`, in double precision also for single-precision input.

    Parameters
    ----------
    Y : array, shape (m, n)

    Returns
    -------
    array, shape (m, m), float64 or complex128

    Notes
    -----
    m^2 n multiply-adds. Single precision is widened in panels of columns, so that no wide copy
    of ``Y`` is made and the singular values of a float32 matrix are resolved to float32 accuracy.
    """
    xp = array_namespace(Y)
    if dtype_name(Y) == "float64":
        return Y @ xp.matrix_transpose(Y)
    wide = xp.complex128 if is_complex(Y) else xp.float64
    m, n = Y.shape
    total = xp.zeros((m, m), dtype=wide, device=Y.device)
    step = max(1, _PANEL // max(m, 1))
    for start in range(0, n, step):
        panel = astype(Y[:, start : min(start + step, n)], wide)
        total = total + panel @ adjoint(panel)
    return total


def eigh_descending(G: Array) -> tuple[Array, Array]:
    """Return eigenvalues (descending) and eigenvectors (columns) of a Hermitian matrix.

    Parameters
    ----------
    G : array, shape (m, m)

    Returns
    -------
    values : array, shape (m,)
    vectors : array, shape (m, m)

    Raises
    ------
    InputError
        If an entry is not finite.
    """
    check_finite(G, "G")
    xp = array_namespace(G)
    values, vectors = xp.linalg.eigh(G)
    return xp.flip(values), xp.flip(vectors, axis=1)


def truncated_eigh(G: Array, truncation: Truncation) -> tuple[Array, Array, float]:
    """Return the leading left singular vectors and values of ``Y`` from its Gram matrix ``Y Y^H``.

    Parameters
    ----------
    G : array, shape (m, m)
        Hermitian, positive semidefinite up to roundoff.
    truncation : Truncation

    Returns
    -------
    U : array, shape (m, r)
    s : array, shape (r,)
        Singular values of ``Y``, not of ``G``.
    discarded : float
        Squared Frobenius norm of what was cut.

    Notes
    -----
    Singular values below about ``sqrt(eps * m)`` times the largest are roundoff.
    """
    xp = array_namespace(G)
    m = int(G.shape[0])
    few = truncation.rank is not None and truncation.rank <= _SUBSET_PART * m
    if isinstance(G, np.ndarray) and m >= _SUBSET_FROM and truncation.rank is not None and few:
        return _leading_eigh(G, truncation.rank)
    values, vectors = eigh_descending(G)
    values = xp.where(values > 0, values, xp.zeros_like(values))
    squared = _to_list(values)
    r = truncation.keep(squared)
    return vectors[:, :r], xp.sqrt(values[:r]), math.fsum(squared[r:])


def _leading_eigh(G: np.ndarray, r: int) -> tuple[Array, Array, float]:
    """Return what :func:`truncated_eigh` does, from the leading eigenpairs alone."""
    from scipy.linalg import eigh

    check_finite(G, "G")
    m = G.shape[0]
    values, vectors = eigh(G, subset_by_index=(m - r, m - 1), check_finite=False)
    squared = np.maximum(values[::-1], 0.0)
    left = math.fsum(np.real(np.diagonal(G)).tolist()) - math.fsum(squared.tolist())
    return np.ascontiguousarray(vectors[:, ::-1]), np.sqrt(squared), max(left, 0.0)


def gram_truncated(Y: Array, truncation: Truncation) -> TruncatedSVD:
    """Truncate the singular value decomposition of ``Y`` by way of its smaller Gram matrix.

    Parameters
    ----------
    Y : array, shape (m, n)
    truncation : Truncation

    Returns
    -------
    TruncatedSVD
        ``U`` (m, r), ``s`` (r,), ``Vh`` (r, n), ``discarded``.

    Notes
    -----
    ``min(m, n) m n`` multiply-adds and one pass over ``Y``, the fastest path for a matrix with one
    short side. Singular values below about ``1e-8`` times the largest are roundoff. The factor of
    the short side is orthonormal to roundoff; the other, made by division through ``s``, only
    to ``eps (s_1 / s_r)^2``. Their product is the projection of ``Y`` all the same.
    """
    m, n = Y.shape
    if m > n:
        flipped = gram_truncated(adjoint(Y), truncation)
        return TruncatedSVD(adjoint(flipped.Vh), flipped.s, adjoint(flipped.U), flipped.discarded)
    with np.errstate(over="ignore", invalid="ignore"):
        G = gram(Y)
    _blame_input(G, Y)
    U, s, discarded = truncated_eigh(G, truncation)
    return _projected(Y, U, s, discarded)


def qr(Y: Array) -> tuple[Array, Array]:
    """Return the reduced factors ``Q`` (m, k) and ``R`` (k, n) of ``Y`` (m, n), ``k = min(m, n)``.

    Leading axes number the matrices of a stack.
    """
    exponent = _exponent_for_cuda(Y)
    Q, R = array_namespace(Y).linalg.qr(scale_by_power_of_two(Y, -exponent), mode="reduced")
    return Q, scale_by_power_of_two(R, exponent)


def _exponent_for_cuda(Y: Array) -> int:
    """Return the exponent to take out of a stack on a CUDA device: its QR there squares entries as they are."""
    if Y.ndim < 3 or device_kind(Y) != "cuda" or total_size(Y.shape) == 0:
        return 0
    xp = array_namespace(Y)
    largest = float(xp.max(xp.abs(Y)))
    return math.frexp(largest)[1] if math.isfinite(largest) else 0


def tsqr(Y: Array) -> Array:
    """Return the triangular factor R of a tall matrix, ``Y^H Y = R^H R``, panel by panel.

    Parameters
    ----------
    Y : array, shape (m, n)

    Returns
    -------
    R : array, shape (min(m, n), n)

    Raises
    ------
    InputError
        If an entry is not finite: it shows in R, so that ``Y`` is not scanned for it.

    Notes
    -----
    The sequential (flat tree) TSQR: the R so far is stacked on the next panel of rows and
    factorised again. 2 m n^2 flops, working memory of one panel; as stable as Householder QR.

    References
    ----------
    .. [1] J. Demmel, L. Grigori, M. Hoemmen, J. Langou, "Communication-optimal parallel and
       sequential QR and LU factorizations", SIAM J. Sci. Comput. 34 (2012).
    """
    xp = array_namespace(Y)
    m, n = Y.shape
    step = max(4 * n, _PANEL // max(n, 1))
    R = _qr_r(Y[: min(step, m), :])
    for start in range(step, m, step):
        R = _qr_r(xp.concat([R, Y[start : min(start + step, m), :]], axis=0))
    _blame_input(R, Y)
    return R


def tsqr_truncated(Y: Array, truncation: Truncation) -> TruncatedSVD:
    """Truncate the singular value decomposition of ``Y`` by way of the R factor of its long side.

    Parameters
    ----------
    Y : array, shape (m, n)
    truncation : Truncation

    Returns
    -------
    TruncatedSVD
        ``U`` (m, r), ``s`` (r,), ``Vh`` (r, n), ``discarded``.

    Notes
    -----
    ``s`` and the factor of the short side are as accurate as those of :func:`svd_truncated`,
    without a copy of ``Y``; the other factor is orthonormal to ``eps s_1 / s_r``.
    """
    m, n = Y.shape
    if m > n:
        flipped = tsqr_truncated(adjoint(Y), truncation)
        return TruncatedSVD(adjoint(flipped.Vh), flipped.s, adjoint(flipped.U), flipped.discarded)
    small = svd_truncated(adjoint(tsqr(adjoint(Y))), truncation)
    return _projected(Y, small.U, small.s, small.discarded)


def svd_truncated(Y: Array, truncation: Truncation) -> TruncatedSVD:
    """Truncate the singular value decomposition of ``Y`` itself, the most accurate path.

    Parameters
    ----------
    Y : array, shape (m, n)
    truncation : Truncation

    Returns
    -------
    TruncatedSVD
        ``U`` (m, r) and ``Vh`` (r, n) orthonormal, ``s`` (r,), ``discarded``.

    Raises
    ------
    InputError
        If an entry is not finite; LAPACK may not return from such input.
    """
    check_finite(Y, "Y")
    xp = array_namespace(Y)
    U, s, Vh = xp.linalg.svd(Y, full_matrices=False)
    squared = [value * value for value in _to_list(s)]
    r = truncation.keep(squared)
    return TruncatedSVD(U[:, :r], s[:r], Vh[:r, :], math.fsum(squared[r:]))


def solve_triangular(A: Array, B: Array, *, lower: bool) -> Array:
    """Return X with ``A X = B`` for a triangular ``A``.

    Parameters
    ----------
    A : array, shape (n, n)
        Only the triangle named by ``lower`` is read.
    B : array, shape (n, k)
    lower : bool
        Whether ``A`` is lower triangular.
    """
    if isinstance(A, np.ndarray):
        from scipy.linalg import solve_triangular as solve

        return solve(A, B, lower=lower, check_finite=False)
    xp = array_namespace(A, B)
    if is_torch(A):
        return xp.linalg.solve_triangular(A, B, upper=not lower)
    return xp.linalg.solve(xp.tril(A) if lower else xp.triu(A), B)


def gram_factor(G: Array) -> Array:
    r"""Return L with :math:`L L^H = G`.

    Parameters
    ----------
    G : array, shape (m, m)
        Hermitian, positive semidefinite up to roundoff, finite.

    Returns
    -------
    L : array, shape (m, r)
        The Cholesky factor. Where G is singular to working precision: its eigenvectors, times the roots of the
        eigenvalues above ``eps * m`` of the largest, so that ``r`` is the numerical rank (at least 1).
    """
    xp = array_namespace(G)
    L = _cholesky_or_none(xp, G)
    if L is not None:
        return L
    values, vectors = eigh_descending(G)
    squared = _to_list(values)
    cutoff = squared[0] * int(G.shape[0]) * float(xp.finfo(real_dtype(G)).eps)
    r = max(1, sum(value > cutoff for value in squared))
    root = xp.sqrt(xp.where(values[:r] > 0, values[:r], xp.zeros_like(values[:r])))
    return vectors[:, :r] * astype(root, vectors.dtype)


def is_positive_definite(G: Array) -> bool:
    """Return whether a Hermitian matrix has a Cholesky factor, as those with eigenvalues above roundoff have."""
    xp = array_namespace(G)
    L = _cholesky_or_none(xp, G)
    return L is not None and bool(xp.all(xp.isfinite(L)))


def cholesky_solve_gram(G: Array, M: Array) -> Array:
    r"""Return the X of least norm with ``X G = M``, the normal equations of least squares.

    Parameters
    ----------
    G : array, shape (R, R)
        Hermitian, positive semidefinite up to roundoff.
    M : array, shape (m, R)
        Of the dtype of ``G``.

    Returns
    -------
    X : array, shape (m, R)

    Raises
    ------
    InputError
        If an entry of ``G`` is not finite.

    Notes
    -----
    Cholesky, R^3/3 + 2 m R^2 flops. When G is singular to working precision (the factorisation
    fails, or its smallest squared pivot is below ``eps * R`` times the largest), the
    pseudo-inverse from the eigenvalues above ``eps * R * lambda_max`` takes its place.
    """
    xp = array_namespace(G, M)
    R = int(G.shape[0])
    cutoff = R * float(xp.finfo(G.dtype).eps)
    L = _cholesky_or_none(xp, G)
    if L is not None:
        pivots = real_part(xp.linalg.diagonal(L))
        # A NaN in G fails this comparison, and is named below.
        if float(xp.min(pivots)) ** 2 > cutoff * float(xp.max(pivots)) ** 2:
            return adjoint(_solve_from_cholesky(L, adjoint(M)))
    values, vectors = eigh_descending(G)
    keep = values > cutoff * values[0]
    safe = xp.where(keep, values, xp.ones_like(values))
    inverse = xp.where(keep, 1 / safe, xp.zeros_like(values))
    return ((M @ vectors) * astype(inverse, vectors.dtype)) @ adjoint(vectors)


def _cholesky_or_none(xp: Any, G: Array) -> Array | None:
    if is_torch(G):
        L, info = xp.linalg.cholesky_ex(G)
        return None if int(info) else L
    try:
        with _raising_linalg_errors(G):
            return xp.linalg.cholesky(G)
    except np.linalg.LinAlgError:
        return None


def _raising_linalg_errors(G: Array) -> AbstractContextManager[Any]:
    """Let CuPy raise where a factorisation breaks down; by default it returns what it has."""
    if isinstance(G, np.ndarray) or library_name(G) != "cupy":
        return nullcontext()
    import cupyx  # pyright: ignore[reportMissingImports]

    return cupyx.errstate(linalg="raise")


def _solve_from_cholesky(L: Array, B: Array) -> Array:
    """Return X with ``L L^H X = B``."""
    if isinstance(L, np.ndarray):
        from scipy.linalg import get_lapack_funcs

        (solve,) = get_lapack_funcs(("potrs",), (L, B))
        return solve(L, B, lower=True)[0]
    if is_torch(L):
        return array_namespace(L).cholesky_solve(B, L)
    half = solve_triangular(L, B, lower=True)
    return solve_triangular(adjoint(L), half, lower=False)


def _blame_input(small: Array, Y: Array) -> None:
    """Raise InputError if a small matrix made from ``Y`` is not finite; search ``Y`` only then."""
    xp = array_namespace(small)
    if bool(xp.all(xp.isfinite(small))):
        return
    check_finite(Y, "Y")
    raise InputError("Y is so large that its squares overflow: scale it down (balanced_scale) first.")


def _projected(Y: Array, U: Array, s: Array, discarded: float) -> TruncatedSVD:
    """Complete left singular vectors and values, possibly in wider precision, with ``Vh``."""
    xp = array_namespace(Y)
    U = astype(U, Y.dtype)
    s = astype(s, real_dtype(Y))
    held = s >= xp.finfo(s.dtype).smallest_normal  # the inverse of a smaller one overflows
    inverse = xp.where(held, 1 / xp.where(held, s, xp.ones_like(s)), xp.zeros_like(s))
    Vh = (adjoint(U) @ Y) * astype(inverse, Y.dtype)[:, None]
    return TruncatedSVD(U, s, Vh, discarded)


def _qr_r(Y: Array) -> Array:
    if isinstance(Y, np.ndarray):
        return np.linalg.qr(Y, mode="r")
    xp = array_namespace(Y)
    return xp.linalg.qr(Y, mode="r")[1] if is_torch(Y) else xp.linalg.qr(Y)[1]


def _to_list(x: Array) -> list[float]:
    if is_torch(x):
        return x.detach().tolist()
    return x.tolist() if hasattr(x, "tolist") else [float(x[k]) for k in range(x.shape[0])]
