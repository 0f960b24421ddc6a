"""How a tolerance is dealt out to the truncations of one algorithm."""

from __future__ import annotations

import math

from tnet.options import Truncation

__all__ = ["ErrorBudget"]


class ErrorBudget:
    """Deals a squared error out to truncations, in equal shares of what is left.

    Parameters
    ----------
    ranks : tuple of int or None
        Ranks to keep instead, one for each step.
    rtol : float or None
    squared_norm : float
    n_steps : int
    """

    def __init__(self, ranks: tuple[int, ...] | None, rtol: float | None, squared_norm: float, n_steps: int) -> None:
        self._ranks = ranks
        self._allowed = 0.0 if rtol is None else rtol * rtol * squared_norm
        self._steps_left = n_steps
        self.squared_norm = squared_norm
        self.spent = 0.0

    def truncation(self, place: int) -> Truncation:
        """Return how to truncate at this mode or bond."""
        if self._ranks is not None:
            return Truncation(rank=self._ranks[place])
        left = max(self._allowed - self.spent, 0.0)
        return Truncation(tail=math.sqrt(left / self._steps_left))

    def spend(self, discarded: float) -> None:
        """Enter the squared norm that a step discarded."""
        self.spent += max(discarded, 0.0)
        self._steps_left -= 1
