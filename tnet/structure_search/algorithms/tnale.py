"""TnALE: one variable of the structure after the other, forth and back, around a centre."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from tnet.errors import InputError
from tnet.structure_search.algorithms.coordinates import Coordinates, Point
from tnet.structure_search.algorithms.shapes import in_every_shape
from tnet.structure_search.proposals import Problem, Proposals
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Trial

__all__ = ["TnALE"]

_ORDER = -1
"""The variable that is the order of the modes."""

_ATTEMPTS = 100  # to draw a point of the neighbourhood other than the centre

Visit = Generator[Sequence[Structure], Sequence[Trial], "_Known"]
Round = Generator[Sequence[Structure], Sequence[Trial], "tuple[str, _Known]"]


@dataclass(frozen=True)
class TnALE:
    r"""Alternating local enumeration of ranks, permutation or topology.

    Parameters
    ----------
    initial_radius : int
        :math:`s_0`: ranks this far from the centre are looked at in the initial phase, where only the two ends and
        the middle are evaluated and errors between them are interpolated.
    radius : int
        :math:`s_1`: the same for the main phase, where all of them are evaluated.
    initial_rounds : int
        :math:`L_0`, rounds of the initial phase; 0 leaves it out.
    round_trips : int
        D, visits of all variables forth and back in one round.
    absent : float or None
        Probability that a pair of cores has no bond at the start. None: 0.6 for free topologies, else 0.
    patience : int or None
        Ends after so many rounds of the main phase without a better score. None never ends, as published.
    start : Structure or None
        Where it begins, of the tensor's own shape and in the order of its modes; None draws one, as published.

    Notes
    -----
    A round visits the variables :math:`1, \dots, K, \dots, 1`; each is set to the best value of its grid while the
    others stay. The grid of a rank is a window of :math:`2s + 1` values around the value of the centre, shifted into
    the allowed range; the grid of the order is the centre's and all its transpositions, visited between the two ways.
    The best structure of the round becomes the centre if it is no worse; else the next round begins at a random
    structure of the neighbourhood. A round ends early when the centre was met as often as there are variables, or
    once after a random start.

    One round takes O(K s) evaluations: for rings with permutation 52 at 6 cores and 77 at 8, in the initial phase and
    with ``radius=1``. The current structure is asked for again with every variable, and the least error seen is
    carried over; errors are carried and interpolated, not scores, so any objective serves.

    Where constraints forbid a value it is left out; where they forbid all three values of an interpolation the whole
    grid is evaluated. The error carried into a round is the centre's own.

    References
    ----------
    .. [1] C. Li, J. Zeng, C. Li, C. Caiafa, Q. Zhao, "Alternating local enumeration (TnALE): solving tensor network
       structure search with fewer evaluations", ICML 2023, arXiv:2304.12875; details as in the authors' code.
    """

    initial_radius: int = 2
    radius: int = 1
    initial_rounds: int = 2
    round_trips: int = 1
    absent: float | None = None
    patience: int | None = 5
    start: Structure | None = None

    def __post_init__(self) -> None:
        for name, least in (("initial_radius", 1), ("radius", 1), ("initial_rounds", 0), ("round_trips", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)!r}: give a whole number, at least {least}.")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience={self.patience!r}: give a number of rounds, at least 1, or None.")
        if not (self.start is None or isinstance(self.start, Structure)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"start={self.start!r}: give a Structure, or None for a random one.")
        if self.absent is not None and not 0 <= self.absent <= 1:
            raise InputError(f"absent={self.absent!r}: give a probability.")

    def propose(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        """Return the dialogue."""
        return in_every_shape(self._dialogue, problem, rng)

    def _dialogue(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        coordinates = Coordinates(problem.space, problem.shape)
        start = coordinates.random(rng, absent=self.absent)
        if self.start is not None and self.start.shape == problem.shape:
            ranks = [self.start.rank(i, j) for i, j in problem.space.pairs(len(problem.shape))]
            start = coordinates.repaired(ranks, None if start.order is None else range(len(start.order)), rng)
        walk = _Walk(problem, coordinates, center=start, at=_Known(start))
        if not walk.variables:
            yield [coordinates.structure(start)]
            return None
        score, idle = math.inf, 0
        for number in itertools.count(1):
            initial = number <= self.initial_rounds
            walk.radius = self.initial_radius if initial else self.radius
            end, best = yield from self._round(walk, interpolated=initial, first=number == 1)
            self._move(walk, end, best, rng, last_of_phase=number == self.initial_rounds)
            if walk.best_score < score:
                score, idle = walk.best_score, 0
            elif not initial:
                idle += 1
            if idle == self.patience:
                return None
        return None

    def _round(self, walk: _Walk, *, interpolated: bool, first: bool) -> Round:
        """Visit the variables once; return how it ended and the best that was met, the latest of equals."""
        unchanged, met = 0, []
        for variable in self._visits(walk.variables):
            walk.at = yield from walk.enumerate(variable, interpolated)
            met.append(walk.at)
            if first or walk.at.point != walk.center:
                continue
            unchanged += 1
            if walk.restarted or unchanged == len(walk.variables):
                break
        else:
            return "complete", min(reversed(met), key=walk.score)
        return "back" if walk.restarted else "stuck", min(reversed(met), key=walk.score)

    def _visits(self, variables: list[int]) -> list[int]:
        return (variables + variables[-2:0:-1]) * self.round_trips + variables[:1]

    def _move(self, walk: _Walk, end: str, best: _Known, rng: np.random.Generator, *, last_of_phase: bool) -> None:
        """Choose the next centre, and where the next round begins."""
        gained = walk.score(best) <= walk.center_score
        if last_of_phase:
            # Interpolated scores would keep all true ones from becoming the centre: they are forgotten.
            walk.center = best.point if gained else walk.center
            walk.center_score = math.inf
            walk.begin(_Known(walk.center), restarted=False)
        elif gained and end == "complete":
            walk.center, walk.center_score = best.point, walk.score(best)
            walk.begin(best, restarted=False)
        else:
            if end == "stuck":
                walk.center, walk.center_score = best.point, walk.score(best)
            walk.begin(_Known(walk.random_neighbour(rng)), restarted=True)


@dataclass(frozen=True)
class _Known:
    """A point and the least error known for it, which may be interpolated."""

    point: Point
    rse: float = math.inf


@dataclass
class _Walk:
    """Where a search is: the centre of its neighbourhood, and the point it has come to."""

    problem: Problem
    coordinates: Coordinates
    center: Point
    at: _Known
    center_score: float = math.inf
    radius: int = 1
    restarted: bool = False
    best_score: float = math.inf

    @property
    def variables(self) -> list[int]:
        return self.coordinates.free + ([_ORDER] if self.coordinates.permuted else [])

    def begin(self, at: _Known, *, restarted: bool) -> None:
        self.at, self.restarted = at, restarted

    def score(self, known: _Known) -> float:
        return self.problem.objective.score(self.coordinates.structure(known.point), known.rse)

    def grid(self, variable: int, point: Point) -> list[Point]:
        """Return the point with every value of one variable near the centre, allowed or not."""
        if variable != _ORDER:
            window = rank_window(self.center.ranks[variable], self.radius, self.problem.space.max_rank)
            return [point.with_rank(variable, rank) for rank in window]
        home = Point(point.ranks, self.center.order)
        places = range(len(self.coordinates.shape))
        return [home, *(home.transposed(a, b) for a, b in itertools.combinations(places, 2))]

    def enumerate(self, variable: int, interpolated: bool) -> Visit:
        """Try the values of one variable; return the best with its error."""
        grid = self.grid(variable, self.at.point)
        allowed = [self.coordinates.allows(point) for point in grid]
        tried = [k for k in range(len(grid)) if allowed[k]]
        if interpolated and variable != _ORDER:
            ends = sorted({0, (len(grid) + 1) // 2 - 1, len(grid) - 1})
            tried = [k for k in ends if allowed[k]] or tried
        trials = yield [self.coordinates.structure(grid[k]) for k in tried]
        self.best_score = min(self.best_score, *(trial.score for trial in trials))
        errors = {k: trial.rse for k, trial in zip(tried, trials, strict=True)}
        here = grid.index(self.at.point)
        if here in errors:
            errors[here] = min(errors[here], self.at.rse)
        filled = interpolated_errors(errors, len(grid))
        filled[here] = min(filled[here], self.at.rse)
        known = [_Known(point, rse) for point, rse in zip(grid, filled, strict=True)]
        scores = [self.score(each) if ok else math.inf for each, ok in zip(known, allowed, strict=True)]
        best = min(range(len(grid)), key=scores.__getitem__)
        return known[best] if math.isfinite(scores[best]) else self.at

    def random_neighbour(self, rng: np.random.Generator) -> Point:
        """Return a random point near the centre that differs from it; all variables but the first are drawn."""
        for _ in range(_ATTEMPTS):
            point = self.center
            for variable in self.variables[1:]:
                choices = [other for other in self.grid(variable, point) if self.coordinates.allows(other)]
                point = choices[int(rng.integers(len(choices)))] if choices else point
            if point != self.center:
                return point
        return self.center


def rank_window(rank: int, radius: int, max_rank: int) -> range:
    """Return the ranks within ``radius`` of ``rank``, shifted to fit between 1 and ``max_rank``."""
    width = min(2 * radius + 1, max_rank)
    low = min(max(rank - radius, 1), max_rank - width + 1)
    return range(low, low + width)


def interpolated_errors(errors: dict[int, float], n: int) -> list[float]:
    """Return the errors of n values in a row: known ones as they are, linear between two, inf outside.

    Parameters
    ----------
    errors : dict
        By position; between a failed evaluation (inf) and another nothing is known: inf.
    n : int
    """
    filled = [errors.get(k, math.inf) for k in range(n)]
    for a, b in itertools.pairwise(sorted(errors)):
        if math.isfinite(errors[a]) and math.isfinite(errors[b]):
            for k in range(a + 1, b):
                filled[k] = errors[a] + (errors[b] - errors[a]) * (k - a) / (b - a)
    return filled
