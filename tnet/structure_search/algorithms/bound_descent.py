"""Local search over arrays of structures, where a score costs microseconds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tnet.structure_search.algorithms.landscape import Landscape, Points

__all__ = ["Score", "descend", "local_minima"]

_CHUNK = 64  # neighbours scored together
_KICKS = 12  # in vain, before a new start

Score = Callable[[Points], np.ndarray]


def descend(landscape: Landscape, start: Points, score: Score) -> tuple[Points, float]:
    """Return the local minimum that the best moves lead to from a single point, and its score.

    Parameters
    ----------
    landscape : Landscape
    start : Points
        One.
    score : callable
        Never below the score with an error of zero: neighbours that could not win with that are not looked at.
    """
    point, best = start, float(score(start)[0])
    while True:
        near = landscape.neighbours(point, 0)
        least = landscape.score_of(near, np.zeros(near.count))
        order = np.argsort(least, kind="stable")
        order = order[least[order] < best]
        chosen = None
        for begin in range(0, len(order), _CHUNK):
            places = order[begin : begin + _CHUNK]
            if least[places[0]] >= best:
                break
            values = score(near.part(places))
            winner = int(np.argmin(values))
            if values[winner] < best:
                chosen, best = near.part(places[winner : winner + 1]), float(values[winner])
        if chosen is None or landscape.expired():
            return point, best
        point = chosen


def local_minima(
    landscape: Landscape, score: Score, rng: np.random.Generator, *, patience: int, start: Points | None = None
) -> Points:
    """Return the distinct local minima of iterated local search, the best first.

    Parameters
    ----------
    landscape : Landscape
    score : callable
        As in :func:`descend`.
    rng : numpy Generator
    patience : int
        Descents in vain after which it ends.
    start : Points, optional
        Where the first descent begins; random points follow.
    """
    found: dict[bytes, tuple[float, Points]] = {}
    best, last_gain, n_descents = math.inf, 0, 0
    point = landscape.random(1, rng) if start is None else start
    here, vain = math.inf, 0
    while n_descents - last_gain < patience and not (n_descents and landscape.expired()):
        kicked = point if here == math.inf else _kicked(landscape, point, rng)
        candidate, value = descend(landscape, kicked, score)
        n_descents += 1
        found.setdefault(landscape.keys(candidate)[0], (value, candidate))
        vain = 0 if value < here else vain + 1
        if value <= here:
            point, here = candidate, value
        if here < best:
            best, last_gain = here, n_descents
        if vain >= _KICKS:
            point, here, vain = landscape.random(1, rng), math.inf, 0
    ordered = sorted(found.values(), key=lambda pair: pair[0])
    return Points(np.concatenate([p.ranks for _, p in ordered]), np.concatenate([p.order for _, p in ordered]))


def _kicked(landscape: Landscape, point: Points, rng: np.random.Generator) -> Points:
    """Return a point a few moves away: ranks raised, modes exchanged, some ranks drawn anew, or bonds made a star."""
    row, order = point.ranks[0].copy(), point.order[0].copy()
    n_slots = len(row)
    way = rng.integers(3 if landscape.space.n_internal == 0 else 5)
    if way == 1 and landscape.space.kind == "permutations":
        i, j = rng.choice(landscape.n_modes, 2, replace=False)
        order[[i, j]] = order[[j, i]]
    elif way == 1 and len(landscape.renamings):
        for _ in range(int(rng.integers(1, 4))):
            row = row[landscape.renamings[rng.integers(len(landscape.renamings))]]
    elif way >= 3:
        row = _starred(landscape, row, rng)
    else:
        chosen = rng.choice(n_slots, min(n_slots, int(rng.integers(1, 6))), replace=False)
        row[chosen] = row[chosen] + rng.integers(1, 3, len(chosen)) if way == 0 else rng.integers(1, 5, len(chosen))
    kicked = Points(np.clip(row, landscape.lowest, landscape.highest)[None], order[None])
    return kicked if landscape.allowed(kicked)[0] and landscape.narrow(kicked)[0] else point


def _starred(landscape: Landscape, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ranks in which an internal core takes the place of the bonds among some cores."""
    centre = landscape.n_modes + int(rng.integers(landscape.space.n_internal))
    others = np.delete(np.arange(landscape.n_cores), centre)
    chosen = rng.choice(others, min(len(others), int(rng.integers(3, 6))), replace=False)
    inside = np.isin(landscape.slots, chosen)
    of_centre = (landscape.slots == centre).any(axis=1)
    row = np.where(of_centre | inside.all(axis=1), 1, row)
    return np.where(of_centre & inside.any(axis=1), 2, row)
