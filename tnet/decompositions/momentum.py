"""How far to extrapolate from the last change, learned from success and failure."""

from __future__ import annotations

import math

__all__ = ["Momentum"]

# First momentum, growth and fall: the values of Ang, Cohen, Gillis and Hien.
_FIRST = 0.5
_GROWTH, _FALL = 1.05, 1.5


class Momentum:
    """A factor that grows with each success and falls after a failure, under a ceiling that remembers it.

    Parameters
    ----------
    ceiling_growth : float
        By which the ceiling rises with each success.
    highest : float
        Of the ceiling.

    References
    ----------
    .. [1] A. M. S. Ang, J. E. Cohen, N. Gillis, L. T. K. Hien, "Accelerating block coordinate descent for
       nonnegative tensor factorization", Numer. Linear Algebra Appl. 28 (2021).
    """

    def __init__(self, *, ceiling_growth: float, highest: float = math.inf) -> None:
        self.beta = _FIRST
        self._ceiling = min(1.0, highest)
        self._ceiling_growth = ceiling_growth
        self._highest = highest

    def grow(self) -> None:
        """Go further next time."""
        self._ceiling = min(self._highest, self._ceiling_growth * self._ceiling)
        self.beta = min(self._ceiling, _GROWTH * self.beta)

    def shrink(self) -> None:
        """Go less far next time."""
        self._ceiling = self.beta
        self.beta /= _FALL
