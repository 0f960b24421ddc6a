"""What makes one structure better than another: its size, the error of its best approximation, its latency."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from tnet.errors import InputError
from tnet.structure_search.structure import Structure

__all__ = ["INFEASIBLE", "FewestParams", "LatencyAndError", "LeastError", "Objective", "SizeAndError"]

INFEASIBLE = 1e6
"""Scores above this belong to structures that miss what is asked; among them the nearer one is better."""

_LEAST_RTOL = 1e-100  # its square is still far from the smallest number


class Objective(Protocol):
    """A score, the lower the better, that never falls when the error grows.

    So the score of a lower bound of the error is a lower bound of the score.
    """

    def score(self, structure: Structure, rse: float) -> float:
        """Return the score of a structure whose approximation has this squared relative error."""
        ...

    def error_to_beat(self, structure: Structure, score: float) -> float:
        """Return the squared relative error below which the structure scores better than ``score``.

        Negative where no error would do.
        """
        ...

    def enough(self) -> float:
        """Return the squared relative error below which a smaller one gains nothing."""
        ...


@dataclass(frozen=True)
class SizeAndError:
    r"""Size plus :math:`\lambda` times the squared relative error, as the papers on structure search have it.

    Parameters
    ----------
    weight : float
        :math:`\lambda > 0`. Published: 200 for rings and 5 for free topologies (TnALE), 50 (TNGA).
    size : {"ratio", "log"}
        ``"ratio"``: parameters over entries; ``"log"``: its natural logarithm.
    negligible : float
        Squared relative errors below it count as 0.

    Notes
    -----
    :math:`\phi(G) + \lambda\, \|X - Y\|_F^2 / \|X\|_F^2`: Li et al., ICML 2023, eq. (1).
    """

    weight: float
    size: Literal["ratio", "log"] = "ratio"
    negligible: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.weight, (int, float)) and math.isfinite(self.weight) and self.weight > 0):
            raise InputError(f"weight={self.weight!r}: give the positive number that multiplies the error.")
        if self.size not in ("ratio", "log"):
            raise InputError(f"size={self.size!r}: choose 'ratio' or 'log'.")
        if not (isinstance(self.negligible, (int, float)) and 0 <= self.negligible < 1):
            raise InputError(f"negligible={self.negligible!r}: give a squared relative error in [0, 1).")

    def score(self, structure: Structure, rse: float) -> float:
        """Return size + weight * rse."""
        return self._size(structure) + (0.0 if rse < self.negligible else self.weight * rse)

    def error_to_beat(self, structure: Structure, score: float) -> float:
        """Return (score - size) / weight."""
        return max(
            (score - self._size(structure)) / self.weight, self.negligible if score > self._size(structure) else -1.0
        )

    def enough(self) -> float:
        """Return ``negligible``."""
        return self.negligible

    def _size(self, structure: Structure) -> float:
        ratio = structure.n_params / structure.n_entries
        return ratio if self.size == "ratio" else math.log(ratio)


@dataclass(frozen=True)
class FewestParams:
    """The fewest parameters whose relative error is at most ``rtol``; scores are parameters over entries.

    Parameters
    ----------
    rtol : float
        Relative Frobenius error, at least 1e-100 and below 1.
    """

    rtol: float

    def __post_init__(self) -> None:
        if not (isinstance(self.rtol, (int, float)) and _LEAST_RTOL <= self.rtol < 1):
            raise InputError(
                f"rtol={self.rtol!r}: give a relative Frobenius error from {_LEAST_RTOL:g} to 1, for example 1e-2."
            )

    def score(self, structure: Structure, rse: float) -> float:
        """Return parameters over entries; above 1e6 where the error is too large."""
        ratio = structure.n_params / structure.n_entries
        if rse <= self.rtol**2:
            return ratio
        return INFEASIBLE * (1 + math.log(rse / self.rtol**2)) + ratio if math.isfinite(rse) else math.inf

    def error_to_beat(self, structure: Structure, score: float) -> float:
        """Return ``rtol**2`` for a structure that is smaller than the score allows."""
        return self.rtol**2 if structure.n_params / structure.n_entries < score else -1.0

    def enough(self) -> float:
        """Return ``rtol**2``."""
        return self.rtol**2


@dataclass(frozen=True)
class LeastError:
    """The least error with at most ``max_params`` parameters; scores are squared relative errors.

    Parameters
    ----------
    max_params : int
    """

    max_params: int

    def __post_init__(self) -> None:
        if isinstance(self.max_params, bool) or not isinstance(self.max_params, int) or self.max_params < 1:
            raise InputError(f"max_params={self.max_params!r}: give a positive number of parameters.")

    def score(self, structure: Structure, rse: float) -> float:
        """Return the squared relative error; above 1e6 where there are too many parameters."""
        excess = structure.n_params / self.max_params
        return rse if excess <= 1 else INFEASIBLE * excess + min(rse, 1.0)

    def error_to_beat(self, structure: Structure, score: float) -> float:
        """Return the score for a structure within ``max_params``."""
        return score if structure.n_params <= self.max_params else -1.0

    def enough(self) -> float:
        """Return 0."""
        return 0.0


@dataclass(frozen=True)
class LatencyAndError:
    r"""Seconds of one evaluation of the network plus :math:`\lambda` times the squared relative error.

    Parameters
    ----------
    weight : float
        Seconds that an error of 100 % is worth.
    seconds : callable
        ``seconds(structure)``: measured or predicted, each structure once; for example of the layer that it will be.
    """

    weight: float
    seconds: Callable[[Structure], float]

    def __post_init__(self) -> None:
        if not (isinstance(self.weight, (int, float)) and math.isfinite(self.weight) and self.weight > 0):
            raise InputError(f"weight={self.weight!r}: give the positive number that multiplies the error.")
        if not callable(self.seconds):
            raise InputError(f"seconds={self.seconds!r}: give a function of a structure, such as LayerLatency().")

    def score(self, structure: Structure, rse: float) -> float:
        """Return seconds + weight * rse."""
        return self._checked_seconds(structure) + self.weight * rse

    def _checked_seconds(self, structure: Structure) -> float:
        seconds = self.seconds(structure)
        if not (isinstance(seconds, (int, float)) and 0 <= seconds < math.inf):
            raise InputError(f"seconds({structure!r}) gave {seconds!r}: it must return a number of seconds.")
        return float(seconds)

    def error_to_beat(self, structure: Structure, score: float) -> float:
        """Return (score - seconds) / weight."""
        return (score - self._checked_seconds(structure)) / self.weight

    def enough(self) -> float:
        """Return 0."""
        return 0.0
