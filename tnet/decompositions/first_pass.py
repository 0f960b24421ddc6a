"""The first pass over an input: the Gram matrix that the first truncation needs, whose trace is the squared norm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tnet.arrays import Array, array_namespace, device_kind, real_part, squared_norm

__all__ = ["FirstPass"]


class FirstPass:
    """What :func:`~tnet.decompositions.preparation.prepare` may call for the squared norm; remembers the Gram matrix.

    Parameters
    ----------
    gram_of_first : callable
        Returns the Gram matrix of the first unfolding that an algorithm truncates, or None where that needs none.
    """

    def __init__(self, gram_of_first: Callable[[Array], Array | None]) -> None:
        self._gram_of_first = gram_of_first
        self._array: Array | None = None
        self._gram: Array | None = None

    def __call__(self, array: Array) -> float:
        """Return the squared norm; not finite where an entry is not, or where squares overflow."""
        if device_kind(array) == "meta":
            return squared_norm(array)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            G = self._gram_of_first(array)
        if G is None:
            return squared_norm(array)
        self._array, self._gram = array, G
        return float(real_part(array_namespace(G).linalg.trace(G)))

    def gram_of(self, array: Array) -> Array | None:
        """Return the Gram matrix, unless the array to compute with is another than the one it was made of."""
        return self._gram if array is self._array else None
