"""What evaluations teach about the errors of structures that were not evaluated."""

from __future__ import annotations

import numpy as np

__all__ = ["ErrorModel"]

_FLOOR = 1e-15  # of squared relative errors, under the logarithm
_FEWEST = 4  # evaluations before it predicts
_RIDGE_OF_RANKS = 4.0


class ErrorModel:
    r"""A ridge regression of the logarithm of the error, around the bound by the cuts.

    Notes
    -----
    :math:`\log e \approx \log b + a + \sum_k w_k f_k` with b the largest tail, and for features f the sums of the
    tails over all cuts relative to it (where many cuts are tight at once the error is farther above the bound), and
    the logarithms of the ranks. Without tails the latter are all there is.
    """

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._excess: list[float] = []
        self._weights: np.ndarray | None = None

    @property
    def is_ready(self) -> bool:
        """Whether enough was seen to predict."""
        return len(self._excess) >= _FEWEST

    def learn(self, tails: np.ndarray, ranks: np.ndarray, rse: float) -> None:
        """Take in one evaluated structure: tails (n_cuts,), ranks of pairs (n_pairs,), squared relative error."""
        if np.isfinite(rse):
            logs, rows = _described(tails[None], ranks[None])
            self._rows.append(rows[0])
            self._excess.append(float(np.log(max(rse, _FLOOR)) - logs[0]))
            self._weights = None

    def predict(self, tails: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Return the expected squared relative errors of many structures, never below the largest tail."""
        if self._weights is None:
            seen = np.array(self._rows)
            penalty = np.full(seen.shape[1], _RIDGE_OF_RANKS)
            penalty[:4] = 1e-3, 1.0, 1.0, 1.0
            self._weights = np.linalg.solve(seen.T @ seen + np.diag(penalty), seen.T @ np.array(self._excess))
        logs, rows = _described(tails, ranks)
        excess = rows @ self._weights
        return np.exp(np.minimum(logs + (np.maximum(excess, 0.0) if tails.shape[1] else excess), 0.0))


def _described(tails: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of the largest tails, and the features."""
    sums = np.stack([tails.max(axis=1, initial=0.0), np.sqrt(np.sum(tails**2, axis=1)), tails.sum(axis=1)], axis=1)
    logs = np.log(np.maximum(sums, _FLOOR)) if tails.shape[1] else np.zeros((len(ranks), 3))
    constant = np.ones((len(ranks), 1))
    return logs[:, 0], np.concatenate([constant, logs[:, :1] / 10, logs[:, 1:] - logs[:, :1], np.log(ranks)], axis=1)
