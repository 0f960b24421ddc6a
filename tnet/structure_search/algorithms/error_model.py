"""What evaluations teach about the errors of structures that were not evaluated."""

from __future__ import annotations

import numpy as np

__all__ = ["ErrorModel", "described"]

_FEWEST = 4  # evaluations before it predicts
_SMALL = 1e-2  # errors and tails below this share of the usual error are alike to the model
_RIDGE = 0.1
_RIDGE_OF_RANKS = 4.0


class ErrorModel:
    r"""A ridge regression of the logarithm of the error of structures.

    Notes
    -----
    Features are the logarithms of the number of parameters, of the largest tail over all cuts and of the sum of tails
    (without spectra: constants), the number of bonds, and, held down more, the logarithm of each rank.
    """

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._errors: list[float] = []
        self._weights: np.ndarray | None = None
        self._small = 1.0
        self._centre = np.zeros(0)

    @property
    def is_ready(self) -> bool:
        """Whether enough was seen to predict."""
        return len(self._errors) >= _FEWEST

    def learn(self, described: np.ndarray, rse: float) -> None:
        """Take in one evaluated structure: a row of :func:`described`, and its squared relative error."""
        if np.isfinite(rse):
            self._rows.append(described)
            self._errors.append(rse)
            self._weights = None

    def predict(self, described: np.ndarray) -> np.ndarray:
        """Return the expected squared relative errors of many structures, never below the largest tail."""
        weights = self._weights
        if weights is None:
            self._small = max(_SMALL * float(np.median(self._errors)), 1e-15)
            seen = self._features(np.array(self._rows))
            target = np.log(np.array(self._errors) + self._small)
            self._centre = np.append(seen.mean(axis=0), target.mean())
            seen = seen - self._centre[:-1]
            penalty = np.full(seen.shape[1], _RIDGE_OF_RANKS)
            penalty[:4] = _RIDGE
            weights = self._weights = np.linalg.solve(
                seen.T @ seen + np.diag(penalty), seen.T @ (target - self._centre[-1])
            )
        logs = (self._features(described) - self._centre[:-1]) @ weights + self._centre[-1]
        return np.maximum(np.exp(np.minimum(logs, 0.0)) - self._small, described[:, 1])

    def _features(self, described: np.ndarray) -> np.ndarray:
        tails = np.log(described[:, 1:3] + self._small)
        return np.concatenate([described[:, :1], tails, described[:, 3:]], axis=1)


def described(n_params: np.ndarray, tails: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return what the model knows of structures.

    Parameters
    ----------
    n_params : array, shape (B,)
    tails : array, shape (B, n_cuts)
    ranks : array of int, shape (B, n_pairs)
    """
    sizes = np.log(n_params)
    largest, total = tails.max(axis=1, initial=0.0), tails.sum(axis=1)
    logs = np.log(ranks)
    return np.concatenate([np.stack([sizes, largest, total, (logs > 0).sum(axis=1)], axis=1), logs], axis=1)
