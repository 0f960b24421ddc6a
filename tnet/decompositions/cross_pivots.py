"""The state of a cross approximation: nested pivots, the fibres through them, and the search for new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tnet.decompositions.evaluations import Evaluations

__all__ = ["Cross", "Pivot", "values_at"]

# Random entries of a superblock looked at before a search, as a part of its rows and columns.
_SAMPLED_PART = 8
_LEAST_SAMPLED = 8


class Pivot(NamedTuple):
    """A multi-index cut in two at a bond, and how far the approximation is off there."""

    left: np.ndarray
    right: np.ndarray
    residual: float


class Cross:
    r"""A tensor train that interpolates f on crosses through pivots.

    .. math:: f \approx C_1 P_1^{-1} C_2 P_2^{-1} \cdots C_d, \quad
        C_k = f(I_{k-1}, i_k, J_k), \quad P_k = f(I_k, J_k)

    ``left[k]`` holds the rows ``I_k`` (r_k, k), ``right[k]`` the columns ``J_k`` (r_k, d - k), for the bond that
    follows mode k - 1; ``cores[k]`` the fibres (r_k, n_k, r_{k+1}).
    """

    def __init__(self, evaluate: Evaluations, shape: Sequence[int], start: np.ndarray) -> None:
        self.evaluate = evaluate
        self.shape = tuple(shape)
        d = len(self.shape)
        self.left = [start[None, :k] for k in range(d + 1)]
        self.right = [start[None, k:] for k in range(d + 1)]
        fibres = evaluate(np.concatenate([self._fibres(k) for k in range(d)]))
        ends = np.cumsum(self.shape)[:-1]
        self.cores = [part.reshape(1, -1, 1) for part in np.split(fibres, ends)]
        self.pivots = [np.ones((1, 1)), *(core[:, i, :] for core, i in zip(self.cores[:-1], start[:-1], strict=True))]
        self._refresh(range(d - 1))

    @property
    def ranks(self) -> list[int]:
        """Pivots of each inner bond."""
        return [rows.shape[0] for rows in self.left[1:-1]]

    def train(self) -> list[np.ndarray]:
        """Return the cores of the tensor train."""
        return [*self.interpolants, self.cores[-1]]

    def search(self, bonds: Sequence[int], rng: np.random.Generator) -> dict[int, Pivot]:
        """Return, for each bond, an entry of its superblock where the residual dominates its row and its column.

        The superblock of bond k has the rows ``(I_{k-1}, i_k)`` and the columns ``(i_{k+1}, J_{k+1})``. The best of
        a few random entries is improved along its row, then along the column of the best found there. All bonds
        share the calls of f.
        """
        sampled = {k: self._random_entries(k, rng) for k in bonds}
        rows: dict[int, int] = {}
        columns: dict[int, int] = {}
        for k, residual in self._residuals(sampled).items():
            rows[k] = int(sampled[k][0][np.argmax(residual)])
        for k, residual in self._residuals({k: (rows[k], self._all_columns(k)) for k in bonds}).items():
            columns[k] = int(np.argmax(residual))
        best: dict[int, float] = {}
        for k, residual in self._residuals({k: (self._all_rows(k), columns[k]) for k in bonds}).items():
            rows[k] = int(np.argmax(residual))
            best[k] = float(residual[rows[k]])
        return {k: Pivot(self._row(k, rows[k]), self._column(k, columns[k]), best[k]) for k in bonds}

    def off_at(self, point: np.ndarray, bonds: Sequence[int]) -> dict[int, Pivot]:
        """Return the pivots that a multi-index is cut into, with the residual of each bond's own cross there."""
        value = self.evaluate(point[None, :])[0]
        found = {}
        for k in bonds:
            row = self.evaluate(_joined(point[None, :k], self.right[k]))
            column = self.evaluate(_joined(self.left[k], point[None, k:]))
            fitted = row @ np.linalg.solve(self.pivots[k], column)
            found[k] = Pivot(point[:k], point[k:], float(abs(value - fitted)))
        return found

    def add(self, found: Mapping[int, Pivot]) -> None:
        """Take pivots in, one a bond, and evaluate the fibres that they need; all or nothing."""
        left = [np.vstack([rows, found[k].left]) if k in found else rows for k, rows in enumerate(self.left)]
        right = [
            np.vstack([columns, found[k].right]) if k in found else columns for k, columns in enumerate(self.right)
        ]
        batches: list[np.ndarray] = []
        for k, n in enumerate(self.shape):
            if k in found:
                batches.append(_grid(left[k][-1:], n, right[k + 1]))
            if k + 1 in found:
                batches.append(_grid(self.left[k], n, right[k + 1][-1:]))
        for k in found:
            batches += [_joined(left[k][-1:], right[k]), _joined(self.left[k], right[k][-1:])]
        values = self.evaluate(np.concatenate(batches))
        parts = iter(np.split(values, np.cumsum([len(batch) for batch in batches])[:-1]))
        for k, n in enumerate(self.shape):
            core = self.cores[k]
            new_row = next(parts).reshape(1, n, -1) if k in found else None
            if k + 1 in found:
                core = np.concatenate([core, next(parts).reshape(-1, n, 1)], axis=2)
            self.cores[k] = core if new_row is None else np.concatenate([core, new_row], axis=0)
        for k in found:
            row, column = next(parts)[None, :], next(parts)[:, None]
            self.pivots[k] = np.vstack([np.hstack([self.pivots[k], column]), row])
        self.left, self.right = left, right
        self._refresh(range(len(self.shape) - 1))

    def _refresh(self, modes: Sequence[int]) -> None:
        """Compute ``C_k P_k^{-1}``.

        The solution may be wrong by ``eps cond(P)``, but only where the next core does not see it: the residual of
        a solve is small in every row.
        """
        self.interpolants = []
        for k in modes:
            r, n, s = self.cores[k].shape
            solved = np.linalg.solve(self.pivots[k + 1].T, self.cores[k].reshape(r * n, s).T)
            self.interpolants.append(np.ascontiguousarray(solved.T).reshape(r, n, s))

    def _residuals(self, entries: Mapping[int, tuple[np.ndarray | int, np.ndarray | int]]) -> dict[int, np.ndarray]:
        """Return |f - approximation| at (rows, columns) of each bond's superblock."""
        points = [
            _joined_pairs(self._row(k, rows), self._column(k, columns)) for k, (rows, columns) in entries.items()
        ]
        values = self.evaluate(np.concatenate(points))
        parts = np.split(values, np.cumsum([len(part) for part in points])[:-1])
        found = {}
        for (k, (rows, columns)), exact in zip(entries.items(), parts, strict=True):
            before, after = self.interpolants[k - 1], self.cores[k]
            B = before.reshape(-1, before.shape[2])[rows]
            C = after.reshape(after.shape[0], -1)[:, columns]
            if B.ndim == 2 and C.ndim == 2:
                fitted = np.einsum("ar,ra->a", B, C)
            else:
                fitted = B @ C
            found[k] = np.abs(exact - fitted)
        return found

    def _random_entries(self, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n_rows, n_columns = len(self._all_rows(k)), len(self._all_columns(k))
        size = max(_LEAST_SAMPLED, (n_rows + n_columns) // _SAMPLED_PART)
        return rng.integers(n_rows, size=size), rng.integers(n_columns, size=size)

    def _all_rows(self, k: int) -> np.ndarray:
        return np.arange(self.left[k - 1].shape[0] * self.shape[k - 1])

    def _all_columns(self, k: int) -> np.ndarray:
        return np.arange(self.shape[k] * self.right[k + 1].shape[0])

    def _row(self, k: int, row: np.ndarray | int) -> np.ndarray:
        """Return the multi-indices of the first k modes of rows of the superblock."""
        alpha, i = np.divmod(row, self.shape[k - 1])
        return np.concatenate([self.left[k - 1][alpha], np.asarray(i)[..., None]], axis=-1)

    def _column(self, k: int, column: np.ndarray | int) -> np.ndarray:
        """Return the multi-indices of the other modes of columns of the superblock."""
        j, beta = np.divmod(column, self.right[k + 1].shape[0])
        return np.concatenate([np.asarray(j)[..., None], self.right[k + 1][beta]], axis=-1)

    def _fibres(self, k: int) -> np.ndarray:
        return _grid(self.left[k], self.shape[k], self.right[k + 1])


def values_at(cores: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
    """Return the entries of a train at ``points`` (n, d)."""
    state = cores[0][:, points[:, 0], :].transpose(1, 0, 2)
    for k, core in enumerate(cores[1:], start=1):
        state = state @ core.transpose(1, 0, 2)[points[:, k]]
    return state[:, 0, 0]


def _grid(left: np.ndarray, n: int, right: np.ndarray) -> np.ndarray:
    """Return all multi-indices ``(left, i, right)``, the last fastest."""
    k = left.shape[1]
    out = np.empty((left.shape[0], n, right.shape[0], k + 1 + right.shape[1]), dtype=np.int64)
    out[..., :k] = left[:, None, None, :]
    out[..., k] = np.arange(n)[None, :, None]
    out[..., k + 1 :] = right[None, None, :, :]
    return out.reshape(-1, out.shape[-1])


def _joined(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return all multi-indices ``(left, right)``, the last fastest."""
    out = np.empty((left.shape[0], right.shape[0], left.shape[1] + right.shape[1]), dtype=np.int64)
    out[..., : left.shape[1]] = left[:, None, :]
    out[..., left.shape[1] :] = right[None, :, :]
    return out.reshape(-1, out.shape[-1])


def _joined_pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the multi-indices ``(left[i], right[i])``; a single one goes with all of the other side."""
    n = max(left.shape[0] if left.ndim == 2 else 1, right.shape[0] if right.ndim == 2 else 1)
    out = np.empty((n, left.shape[-1] + right.shape[-1]), dtype=np.int64)
    out[:, : left.shape[-1]] = left
    out[:, left.shape[-1] :] = right
    return out
