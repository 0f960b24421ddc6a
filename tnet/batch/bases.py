"""The leading left singular vectors of many matrices at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    dtype_name,
    from_numpy_like,
    is_complex,
    to_numpy,
    total_size,
)
from tnet.batch.preparation import item_panels
from tnet.decompositions.truncated_basis import GRAM_RESOLUTION, is_double

__all__ = ["Bases", "BatchErrorBudget", "leading_bases", "mode_grams", "unfoldings"]

# Columns Y V in single precision are orthogonal to roundoff times the largest singular value over their own.
_SINGLE_RESOLUTION = 1e-3
# From a departure of 1e-2, the most that the resolutions leave, the departure is squared to roundoff.
_ORTHONORMALISING_STEPS = 3


class Bases(NamedTuple):
    """Orthonormal columns ``U`` (B, m, r) and the squared norm of what their spans leave out (B,), on the host."""

    U: Array
    discarded: np.ndarray


class BatchErrorBudget:
    """Deals each item's squared error out to truncations, in equal shares of what is left.

    Parameters
    ----------
    ranks : tuple of int or None
        Ranks to keep instead, one for each step.
    rtol : float or None
    squared_norms : numpy.ndarray, shape (B,)
    n_steps : int
    """

    def __init__(
        self, ranks: tuple[int, ...] | None, rtol: float | None, squared_norms: np.ndarray, n_steps: int
    ) -> None:
        self._ranks = ranks
        self._allowed = (0.0 if rtol is None else rtol * rtol) * squared_norms
        self._steps_left = n_steps
        self.spent = np.zeros_like(squared_norms)

    def keep(self, place: int) -> Callable[[np.ndarray], int]:
        """Return the function from descending squared singular values (B, k) to the rank for all items."""
        ranks = self._ranks
        if ranks is not None:
            return lambda squared: min(ranks[place], squared.shape[1])
        left = np.maximum(self._allowed - self.spent, 0.0) / self._steps_left

        def largest_needed(squared: np.ndarray) -> int:
            tails = np.cumsum(squared[:, ::-1], axis=1)
            droppable = np.sum(tails <= left[:, None], axis=1)
            return max(1, squared.shape[1] - int(np.min(droppable)))

        return largest_needed

    def spend(self, discarded: np.ndarray) -> None:
        """Enter the squared norms that a step discarded."""
        self.spent = self.spent + np.maximum(discarded, 0.0)
        self._steps_left -= 1


def leading_bases(Y: Array, keep: Callable[[np.ndarray], int], accurate: bool) -> Bases:
    """Return orthonormal bases of the leading left singular vectors of every ``Y[b]``.

    Parameters
    ----------
    Y : array, shape (B, m, n)
    keep : callable
        Squared singular values (B, k), descending, to the one rank of all items.
    accurate : bool
        By QR and the singular values of the triangle, to roundoff; else from Gram matrices, and accurately for
        those items alone whose kept singular values a Gram matrix does not resolve.

    Notes
    -----
    ``m^2 n`` multiply-adds an item for ``m <= n``. A tall ``Y`` takes the eigenvectors V of ``Y^H Y`` and makes the
    few columns ``Y V`` orthonormal by products alone: batched QR goes item by item on a device.
    """
    xp = array_namespace(Y)
    m, n = int(Y.shape[1]), int(Y.shape[2])
    if accurate:
        U, s = _by_qr(Y)
        squared = s * s
        r = keep(squared)
        return Bases(U[:, :, :r], np.sum(squared[:, r:], axis=1))
    wide = m <= n
    values, vectors = xp.linalg.eigh(_grams(Y if wide else adjoint(Y)))
    squared = np.maximum(to_numpy(values)[:, ::-1], 0.0)
    r = keep(squared)
    U = astype(xp.flip(vectors, axis=2)[:, :, :r], Y.dtype)
    if not wide:
        U = _orthonormalised(Y @ U)
    discarded = np.sum(squared[:, r:], axis=1)
    # Zero items have orthonormal eigenvectors, but no columns Y V.
    weakest, strongest = squared[:, r - 1], squared[:, 0]
    if is_double(Y):
        unresolved = (weakest <= GRAM_RESOLUTION**2 * strongest) & ((strongest > 0) | (not wide))
    else:
        unresolved = (weakest <= _SINGLE_RESOLUTION**2 * strongest) & (not wide)
    chosen = np.flatnonzero(unresolved)
    if len(chosen):
        better, s = _by_qr(xp.take(Y, from_numpy_like(chosen, Y, xp.int64), axis=0))
        U = _replaced(U, better[:, :, :r], chosen)
        discarded[chosen] = np.sum(s[:, r:] ** 2, axis=1)
    return Bases(U, discarded)


def mode_grams(x: Array, mode: int) -> Array:
    """Return the Gram matrices (B, n_k, n_k) of the unfoldings of ``x`` (B, n_1, ..., n_d) along ``mode``.

    In double precision; unfoldings are made in panels of items.
    """
    xp = array_namespace(x)
    return xp.concat([_grams(unfoldings(x[panel, ...], mode)) for panel in item_panels(x)])


def unfoldings(x: Array, mode: int) -> Array:
    """Return the unfoldings (B, n_k, product of the others) along ``mode``, in C order of the other modes."""
    xp = array_namespace(x)
    B, *shape = (int(n) for n in x.shape)
    before, n, after = total_size(shape[:mode]), shape[mode], total_size(shape[mode + 1 :])
    if before == 1:
        return xp.reshape(x, (B, n, after))
    if after == 1:
        return xp.matrix_transpose(xp.reshape(x, (B, before, n)))
    return xp.reshape(xp.permute_dims(xp.reshape(x, (B, before, n, after)), (0, 2, 1, 3)), (B, n, before * after))


def _grams(Y: Array) -> Array:
    """Return ``Y[b] Y[b]^H`` in double precision; single precision is widened in panels of items."""
    xp = array_namespace(Y)
    if dtype_name(Y) == "float64":
        return Y @ xp.matrix_transpose(Y)
    wide = xp.complex128 if is_complex(Y) else xp.float64
    parts = (astype(Y[panel, ...], wide) for panel in item_panels(Y))
    return xp.concat([part @ adjoint(part) for part in parts])


def _orthonormalised(W: Array) -> Array:
    """Return nearly orthogonal columns (B, m, r) made orthonormal: Newton's iteration for the polar factor."""
    xp = array_namespace(W)
    norms = xp.linalg.vector_norm(W, axis=1, keepdims=True)
    U = W / astype(xp.where(norms > 0, norms, xp.ones_like(norms)), W.dtype)
    eye = xp.eye(int(U.shape[2]), dtype=U.dtype, device=U.device)
    for _ in range(_ORTHONORMALISING_STEPS):
        U = U @ (1.5 * eye - 0.5 * (adjoint(U) @ U))
    return U


def _by_qr(Y: Array) -> tuple[Array, np.ndarray]:
    """Return left singular vectors (B, m, k) and singular values (B, k), on the host, by way of QR."""
    xp = array_namespace(Y)
    m, n = int(Y.shape[1]), int(Y.shape[2])
    if m <= n:
        _, R = xp.linalg.qr(adjoint(Y), mode="reduced")
        U, s, _ = xp.linalg.svd(adjoint(R), full_matrices=False)
        return U, to_numpy(s).astype(np.float64)
    Q, R = xp.linalg.qr(Y, mode="reduced")
    U, s, _ = xp.linalg.svd(R, full_matrices=False)
    return Q @ U, to_numpy(s).astype(np.float64)


def _replaced(x: Array, rows: Array, places: np.ndarray) -> Array:
    """Return ``x`` with ``rows`` at ``places`` of its first axis."""
    xp = array_namespace(x)
    index = np.arange(int(x.shape[0]))
    index[places] = int(x.shape[0]) + np.arange(len(places))
    return xp.take(xp.concat([x, rows]), from_numpy_like(index, x, xp.int64), axis=0)
