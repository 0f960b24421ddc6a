"""Interpolative gauge of a wide matrix: some of its own columns span all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch

__all__ = ["Interpolation", "interpolate"]

# Largest entry of the coupling that is left alone. Any bound above 1 ends; the smaller, the more swaps.
_MODEST = 2.0
# Column-pivoted QR rarely needs more than a few swaps; this bounds the time on an adversarial matrix.
_MAX_SWAPS = 200


@dataclass(frozen=True, eq=False)
class Interpolation:
    """``right[:, order] = mixing @ [I, coupling]``, in float64 on the CPU.

    Parameters
    ----------
    order : torch.Tensor
        ``(n,)`` int64, the ``r`` pivots first, then the other columns, each part ascending.
    coupling : torch.Tensor
        ``(r, n - r)``.
    mixing : torch.Tensor
        ``(r, r)``, the pivot columns of ``right``.
    """

    order: torch.Tensor
    coupling: torch.Tensor
    mixing: torch.Tensor


def interpolate(right: torch.Tensor) -> Interpolation:
    r"""Choose ``r`` columns of a wide matrix that express the others with small coefficients.

    With ``right = G Q``, ``Q`` of orthonormal rows, column-pivoted QR of ``Q`` proposes the pivots ``P``;
    while an entry of ``Q_P^{-1} Q`` exceeds 2, its row and column change places.

    Parameters
    ----------
    right : torch.Tensor
        ``(r, n)`` with ``r <= n``, finite; any rank.

    Returns
    -------
    Interpolation
        Exact up to rounding in float64.

    Notes
    -----
    ``O(n r^2)`` operations and ``O(r (n - r))`` for each of at most 200 swaps. Each swap multiplies ``|det
    Q_P|`` by the entry, at least 2, so the search ends; the volume is bounded by 1. The choice works on
    ``Q``, not ``right``, so that it depends on the row space alone and a singular ``right`` is no special
    case.

    References
    ----------
    Cheng, Gimbutas, Martinsson, Rokhlin, On the compression of low rank matrices, SIAM J. Sci. Comput. 26
    (2005); Gu, Eisenstat, Efficient algorithms for computing a strong rank-revealing QR factorization, SIAM
    J. Sci. Comput. 17 (1996).
    """
    wide = right.detach().to(device="cpu", dtype=torch.float64).numpy()
    rank = wide.shape[0]
    row_basis = np.linalg.qr(wide.T)[0].T
    triangle, order = _pivoted_triangle(row_basis)
    coupling = scipy.linalg.solve_triangular(triangle[:, :rank], triangle[:, rank:], check_finite=False)
    order = _swap_until_modest(order, coupling)
    order = np.concatenate([np.sort(order[:rank]), np.sort(order[rank:])])
    ordered = row_basis[:, order]
    coupling = scipy.linalg.solve(ordered[:, :rank], ordered[:, rank:], check_finite=False)
    return Interpolation(
        order=torch.from_numpy(order),
        coupling=torch.from_numpy(np.ascontiguousarray(coupling)),
        mixing=torch.from_numpy(np.ascontiguousarray(wide[:, order[:rank]])),
    )


def _pivoted_triangle(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The union of return types that scipy declares for qr has no common index.
    factors: Any = scipy.linalg.qr(matrix, mode="r", pivoting=True, check_finite=False)
    return np.asarray(factors[0]), np.asarray(factors[1], dtype=np.int64)


def _swap_until_modest(order: np.ndarray, coupling: np.ndarray) -> np.ndarray:
    """Exchange pivots with other columns until the coupling, kept up to date, has no large entry."""
    rank, rest = coupling.shape
    order, coupling = order.copy(), coupling.copy()
    if rest == 0:
        return order
    for _ in range(_MAX_SWAPS):
        i, j = divmod(int(np.abs(coupling).argmax()), rest)
        pivot = coupling[i, j]
        if abs(pivot) <= _MODEST:
            break
        column, row = coupling[:, j].copy(), coupling[i].copy()
        column[i] -= 1.0
        row[j] += 1.0
        coupling -= np.outer(column, row / pivot)
        order[i], order[rank + j] = order[rank + j], order[i]
    return order
