"""The leading left singular vectors of an unfolding, at the least price for the accuracy asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    dtype_name,
    gram,
    qr,
    svd_truncated,
    truncated_eigh,
    tsqr_truncated,
)
from tnet.errors import InputError
from tnet.options import Truncation

__all__ = [
    "GRAM_RESOLUTION",
    "Basis",
    "Method",
    "basis_from_gram",
    "error_floor",
    "is_double",
    "leading_basis",
    "resolve_method",
    "with_true_error",
]

T = TypeVar("T")

Method = Literal["auto", "gram", "tsqr", "svd"]
METHODS = ("auto", "gram", "tsqr", "svd")

# A Gram matrix squares the condition: in float64 singular values below sqrt(eps) = 1.5e-8 of the largest
# are roundoff. Single precision is accumulated in float64, so its Gram matrix loses nothing that the
# input had.
GRAM_RESOLUTION = 1e-7


class Basis(NamedTuple):
    """Orthonormal columns ``U`` (m, r) and the squared norm of what their span leaves out."""

    U: Array
    discarded: float


def resolve_method(method: str, rtol: float | None, x: Array) -> str:
    """Return the method to use; ``"auto"`` avoids Gram matrices where ``rtol`` is below their resolution.

    Raises
    ------
    InputError
        For an unknown name.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r}: choose one of {', '.join(map(repr, METHODS))}.")
    if method == "auto" and rtol is not None and rtol < GRAM_RESOLUTION and is_double(x):
        return "tsqr"
    return method


def error_floor(method: str, x: Array) -> float:
    """Return the relative error below which the sum of discarded squares is roundoff."""
    eps = float(array_namespace(x).finfo(x.dtype).eps)
    return 100 * eps if method in ("tsqr", "svd") or not is_double(x) else 10 * GRAM_RESOLUTION


def with_true_error(
    build: Callable[[str], tuple[T, float]],
    residual: Callable[[T], float],
    method: str,
    rtol: float | None,
    like: Array,
) -> tuple[T, float]:
    """Return what ``build(method)`` makes, and its relative error.

    ``build`` also returns the error, as far as what was discarded tells it; where that is roundoff in the dtype of
    ``like``, ``residual`` gives it exactly. If it then exceeds ``rtol``, the Gram matrices of "auto" did not see all
    that they cut, and everything is built again by TSQR.
    """
    found, error = build(method)
    if error >= error_floor(method, like):
        return found, error
    error = residual(found)
    if rtol is not None and error > rtol and method == "auto":
        found, _ = build("tsqr")
        error = residual(found)
    return found, error


def leading_basis(Y: Array, truncation: Truncation, method: str, G: Array | None = None) -> Basis:
    """Return an orthonormal basis of the leading left singular vectors of ``Y``.

    Parameters
    ----------
    Y : array, shape (m, n)
    truncation : Truncation
    method : {"auto", "gram", "tsqr", "svd"}
        ``"auto"`` starts from the Gram matrix and turns to TSQR when singular values are kept that the
        Gram matrix does not resolve.
    G : array, shape (m, m), optional
        The Gram matrix of ``Y``, where it is known already.

    Notes
    -----
    For ``m <= n``: ``m^2 n`` multiply-adds by Gram, ``2 m^2 n`` by TSQR. A tall ``Y`` is small at this
    point of every algorithm here and takes QR and an SVD of its triangle, so that ``U`` is orthonormal
    to roundoff whatever the singular values.
    """
    m, n = Y.shape
    if m > n:
        Q, R = qr(Y)
        found = svd_truncated(R, truncation)
        return Basis(Q @ found.U, found.discarded)
    if method in ("auto", "gram"):
        basis = basis_from_gram(gram(Y) if G is None else G, truncation, Y, accept_roundoff=method == "gram")
        if basis is not None:
            return basis
    found = svd_truncated(Y, truncation) if method == "svd" else tsqr_truncated(Y, truncation)
    return Basis(found.U, found.discarded)


def basis_from_gram(G: Array, truncation: Truncation, like: Array, *, accept_roundoff: bool = False) -> Basis | None:
    """Return the leading basis from ``G = Y Y^H``, in the dtype of ``like``.

    None when a kept singular value is below what the Gram matrix of this dtype resolves, unless
    ``accept_roundoff``.
    """
    U, s, discarded = truncated_eigh(G, truncation)
    if accept_roundoff or not is_double(like) or float(s[-1]) > GRAM_RESOLUTION * float(s[0]):
        return Basis(astype(U, like.dtype), discarded)
    return None


def is_double(x: Array) -> bool:
    """Return whether an array is in double precision."""
    return dtype_name(x) in ("float64", "complex128")
