"""Nonnegative factorisations of many perturbed copies at once, by multiplicative updates."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np

from tnet.arrays import Array, array_namespace, from_numpy_like, hals, to_numpy

__all__ = ["Method", "consensus_error", "features_of_copies"]

Method: TypeAlias = Literal["nmfk", "rescalk"]

_REFIT_SWEEPS = 400
_INNER = 4  # updates of a factor for one pair of products with the data, which take most of the time
_TINY = {"float32": 1e-30, "float64": 1e-200}


def features_of_copies(
    x: Array,
    method: Method,
    rank: int,
    copies: tuple[int, ...],
    noise: float,
    n_starts: int,
    n_sweeps: int,
    seed: int,
) -> np.ndarray:
    r"""Factorise perturbed copies of ``x``; return their features, columns of norm 1, shape (P, n, rank).

    Parameters
    ----------
    x : array, shape (m, n) or (T, n, n)
        Nonnegative, of order 1.
    method : {"nmfk", "rescalk"}
        :math:`X \approx W H` or :math:`X_t \approx A R_t A^T`.
    rank : int
    copies : tuple of int
        Numbers of the copies: each has its own entries, times :math:`1 + \delta u` with u uniform in (-1, 1), and its
        own random start, both by its number and the seed alone.
    noise : float
        :math:`\delta`.
    n_starts : int
        For each copy; the best counts.
    n_sweeps : int
    seed : int

    Notes
    -----
    A sweep of P copies takes 2 P m n k multiply-adds for "nmfk", as much for each slice of "rescalk": updates of Lee
    and Seung, several for one product with the data [1]_.

    References
    ----------
    .. [1] N. Gillis, F. Glineur, "Accelerated multiplicative updates and hierarchical ALS algorithms for nonnegative
       matrix factorization", Neural Computation 24 (2012).
    """
    entries = np.stack([_perturbation(tuple(x.shape), noise, seed, p) for p in copies])
    X = x[None, ...] * from_numpy_like(entries, x)
    xp = array_namespace(x)
    features, least = None, None
    for start in range(n_starts):
        seeds = [[seed, 1, rank, copy, start] for copy in copies]
        if method == "nmfk":
            W, H = _starts(x, [(x.shape[0], rank), (rank, x.shape[1])], seeds)
            found, errors = _nmf(X, W, H, n_sweeps)
        else:
            A, R = _starts(x, [(x.shape[1], rank), (x.shape[0], rank, rank)], seeds)
            found, errors = _rescal(X, A, R, n_sweeps)
        if features is None or least is None:
            features, least = found, errors
        else:
            better = errors < least
            features = xp.where(better[:, None, None], found, features)
            least = xp.where(better, errors, least)
    columns = np.asarray(to_numpy(features), dtype=np.float64)
    norms = np.linalg.norm(columns, axis=1, keepdims=True)
    return columns / np.where(norms > 0, norms, 1.0)


def consensus_error(x: Array, method: Method, features: np.ndarray) -> float:
    """Return the relative error of ``x`` with these features, shape (n, rank), the other factor fitted to them."""
    A = from_numpy_like(features, x)
    xp = array_namespace(x)
    if method == "nmfk":
        start = xp.ones((x.shape[1], A.shape[1]), dtype=x.dtype, device=x.device)
        G = xp.matrix_transpose(A) @ A
        H = hals(start, xp.matrix_transpose(x) @ A, G, _REFIT_SWEEPS, 1e-6)
        rest = x - A @ xp.matrix_transpose(H)
    else:
        R = _cores_of(x, A)
        rest = x - A @ R @ xp.matrix_transpose(A)
    return math.sqrt(float(xp.sum(rest * rest)) / float(xp.sum(x * x)))


def _perturbation(shape: tuple[int, ...], noise: float, seed: int, copy: int) -> np.ndarray:
    return 1.0 + noise * np.random.default_rng([seed, 0, copy]).uniform(-1.0, 1.0, shape)


def _starts(like: Array, shapes: list[tuple[int, ...]], seeds: list[list[int]]) -> tuple[Array, ...]:
    generators = [np.random.default_rng(seed) for seed in seeds]
    # Bounded away from 0, which multiplicative updates never leave.
    return tuple(
        from_numpy_like(np.stack([g.uniform(0.1, 1.0, shape) for g in generators]), like) for shape in shapes
    )


def _ratio(numerator: Array, denominator: Array) -> Array:
    xp = array_namespace(numerator)
    return numerator / xp.clip(denominator, min=_TINY.get(str(denominator.dtype).rpartition(".")[2], 1e-30))


def _nmf(X: Array, W: Array, H: Array, n_sweeps: int) -> tuple[Array, Array]:
    """Return the features, and the squared error less the squared norm, of each copy."""
    xp = array_namespace(X)
    G, M = W, W
    for _ in range(n_sweeps):
        Wt = xp.matrix_transpose(W)
        G, M = Wt @ W, Wt @ X
        for _ in range(_INNER):
            H = H * _ratio(M, G @ H)
        Ht = xp.matrix_transpose(H)
        G, M = H @ Ht, X @ Ht
        for _ in range(_INNER):
            W = W * _ratio(M, W @ G)
    return W, xp.sum((W @ G - 2 * M) * W, axis=(1, 2))


def _rescal(X: Array, A: Array, R: Array, n_sweeps: int) -> tuple[Array, Array]:
    """Return the same of the best sweep: A appears twice, so that an update may raise the error."""
    xp = array_namespace(X)
    Xt = xp.matrix_transpose(X)
    best, least = A, xp.full((X.shape[0],), math.inf, dtype=X.dtype, device=X.device)
    XA, XtA = X @ A[:, None, :, :], Xt @ A[:, None, :, :]
    for _ in range(n_sweeps):
        Rt = xp.matrix_transpose(R)
        G = (xp.matrix_transpose(A) @ A)[:, None, :, :]
        above = xp.sum(XA @ Rt + XtA @ R, axis=1)
        below = A @ xp.sum(R @ G @ Rt + Rt @ G @ R, axis=1)
        A = A * _ratio(above, below)
        At = xp.matrix_transpose(A)
        # Columns of sum 1: A and R stay of like size.
        sums = xp.sum(A, axis=1, keepdims=True)
        scale = xp.where(sums > 0, sums, xp.ones_like(sums))
        A = A / scale
        R = R * (xp.matrix_transpose(scale) * scale)[:, None, :, :]
        At = xp.matrix_transpose(A)
        G = (At @ A)[:, None, :, :]
        XA, XtA = X @ A[:, None, :, :], Xt @ A[:, None, :, :]
        projected = At[:, None, :, :] @ XA
        for _ in range(_INNER):
            R = R * _ratio(projected, G @ R @ G)
        error = xp.sum((G @ R @ G - 2 * projected) * R, axis=(1, 2, 3))
        better = error < least
        least = xp.where(better, error, least)
        best = xp.where(better[:, None, None], A, best)
    return best, least


def _cores_of(x: Array, A: Array) -> Array:
    """Return nonnegative R_t that fit ``x`` with features A."""
    xp = array_namespace(x)
    At = xp.matrix_transpose(A)
    G, projected = At @ A, At @ x @ A
    R = xp.ones_like(projected)
    for _ in range(_REFIT_SWEEPS):
        R = R * _ratio(projected, G @ R @ G)
    return R
