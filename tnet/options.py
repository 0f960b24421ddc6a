"""Options shared by several functions."""

# Checks at the door are for callers without a type checker.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from dataclasses import dataclass

from tnet.errors import InputError, RankError

__all__ = ["Stopping", "Truncation", "check_rank_or_rtol"]


@dataclass(frozen=True)
class Stopping:
    """When an iteration ends.

    Parameters
    ----------
    max_iter : int
        Largest number of sweeps, at least 1.
    change : float
        Stop when the relative error falls by less than this between two sweeps;
        0 never stops early.
    max_seconds : float or None
        Wall seconds after which no new sweep begins.
    """

    max_iter: int = 200
    change: float = 1e-8
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.max_iter, bool) or not isinstance(self.max_iter, int) or self.max_iter < 1:
            raise InputError(f"max_iter={self.max_iter!r}: give an integer of at least 1.")
        if not (math.isfinite(self.change) and self.change >= 0):
            raise InputError(f"change={self.change!r}: give a finite number >= 0 (0 never stops early).")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise InputError(f"max_seconds={self.max_seconds!r}: give a positive number of seconds, or None.")


@dataclass(frozen=True)
class Truncation:
    """How many singular values survive a cut: exactly one of the two is set.

    Parameters
    ----------
    rank : int or None
        Keep at most this many.
    tail : float or None
        Keep the fewest whose discarded part has a Frobenius norm of at most this.
    """

    rank: int | None = None
    tail: float | None = None

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.tail is None):
            raise InputError("Truncation takes exactly one of rank= and tail=.")

    def keep(self, squared_singular_values: list[float]) -> int:
        """Return how many of the descending squared singular values to keep, at least one."""
        n = len(squared_singular_values)
        if self.rank is not None:
            return max(1, min(self.rank, n))
        assert self.tail is not None
        discarded = 0.0
        keep = n
        for value in reversed(squared_singular_values):
            discarded += max(value, 0.0)
            if discarded > self.tail**2:
                break
            keep -= 1
        return max(1, keep)


def check_rank_or_rtol(rank: object, rtol: float | None) -> None:
    """Raise unless exactly one of ``rank`` and ``rtol`` is given and ``rtol`` is usable."""
    if (rank is None) == (rtol is None):
        given = "neither" if rank is None else "both"
        raise RankError(f"rank= and rtol=: {given} given; give exactly one of them.")
    if rtol is not None and not (isinstance(rtol, (int, float)) and not isinstance(rtol, bool) and 0 <= rtol < 1):
        raise InputError(f"rtol={rtol!r}: give a relative Frobenius error in [0, 1), for example rtol=1e-3.")
