"""A function on multi-indices, evaluated in batches: checked, remembered, counted against a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tnet.arrays import Array, as_array, is_complex, require_floating, to_numpy, total_size
from tnet.errors import InputError, ShapeError

__all__ = ["Evaluations", "EvaluationsSpentError"]


class EvaluationsSpentError(Exception):
    """The next batch would exceed the evaluations allowed; nothing of it was evaluated."""


class Evaluations:
    """Values of ``f`` at multi-indices of a tensor of the given shape.

    Parameters
    ----------
    f : callable
        Takes indices (n, d) int64, returns n values.
    shape : sequence of int
    budget : int or None
        Most evaluations; one that is remembered costs nothing.

    Attributes
    ----------
    reserve : int
        Part of the budget that is not to be spent yet.
    count : int
        Evaluations so far.
    like : array or None
        What ``f`` returned last: tells the library and dtype of the result.
    """

    def __init__(self, f: Callable[[np.ndarray], Any], shape: Sequence[int], budget: int | None) -> None:
        self._f = f
        self._shape = tuple(shape)
        self._budget = budget
        self.reserve = 0
        self._known: dict[Any, complex] = {}
        self.count = 0
        self.like: Array | None = None

    @property
    def left(self) -> float:
        """Evaluations that may be spent now."""
        return float("inf") if self._budget is None else self._budget - self.count - self.reserve

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the values at ``points`` (n, d), in double precision on the host.

        Raises
        ------
        EvaluationsSpentError
            If the new ones among the points are more than may be spent now.
        ShapeError, InputError, BackendError
            If ``f`` returns another shape, a non-finite value, or no floating point numbers.
        """
        keys = self._keys(points)
        known = self._known
        new: dict[Any, int] = {}
        for place, key in enumerate(keys):
            if key not in known and key not in new:
                new[key] = place
        if new:
            if len(new) > self.left:
                raise EvaluationsSpentError
            fresh = points if len(new) == len(keys) else points[list(new.values())]
            known.update(zip(new, self._evaluated(fresh).tolist(), strict=True))
        return np.array([known[key] for key in keys])

    def _evaluated(self, points: np.ndarray) -> np.ndarray:
        n = points.shape[0]
        returned = as_array(self._f(points), "the value of f")
        self.count += n
        if tuple(returned.shape) != (n,):
            raise ShapeError(
                f"f returned shape {tuple(returned.shape)} for indices of shape {points.shape}: return one value for "
                f"each row, shape ({n},)."
            )
        require_floating(returned, "the value of f")
        values = to_numpy(returned)
        bad = ~np.isfinite(values)
        if np.any(bad):
            first = int(np.argmax(bad))
            index = tuple(int(i) for i in points[first])
            raise InputError(f"f returned {values[first]} at index {index}: return finite values everywhere.")
        self.like = returned
        return values.astype(np.complex128 if is_complex(returned) else np.float64, copy=False)

    def _keys(self, points: np.ndarray) -> list[Any]:
        """Return one hashable key for each row: its place in the tensor, or its bytes where that is no int64."""
        if total_size(self._shape) < 2**63:
            places: Any = np.ravel_multi_index(tuple(points.T), self._shape)
            return places.tolist()
        rows = np.ascontiguousarray(points)
        return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).reshape(-1).tolist()
