"""Ranks: what a format of a given shape can have, and what a caller may ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tnet.arrays import total_size
from tnet.callers import warn_caller
from tnet.errors import RankError
from tnet.formats.hierarchical_tucker import DimensionTree, tree_nodes

__all__ = ["bond_limits", "bounded_ranks", "mode_limits", "node_limits", "positive_rank"]


def bounded_ranks(rank: object, limits: Sequence[int], where: str) -> tuple[int, ...]:
    """Return one rank for each limit, clipped to it.

    Parameters
    ----------
    rank : int or sequence of int
        One integer bounds all ranks alike.
    limits : sequence of int
        The largest rank that makes sense at each place.
    where : str
        What a place is called: "mode", "bond".

    Returns
    -------
    tuple of int

    Raises
    ------
    RankError
        If a rank is no positive integer, or their number is wrong.

    Warns
    -----
    UserWarning
        If one of several ranks exceeds its limit, or a single one exceeds all limits.
    """
    if isinstance(rank, (list, tuple, np.ndarray)):
        ranks = tuple(positive_rank(r) for r in rank)
        if len(ranks) != len(limits):
            raise RankError(f"rank={rank!r}: {len(ranks)} ranks for {len(limits)} {where}s; give one for each.")
        for k, (r, limit) in enumerate(zip(ranks, limits, strict=True)):
            if r > limit:
                warn_caller(f"rank {r} of {where} {k} is clipped to {limit}, the largest possible there.")
    else:
        ranks = (positive_rank(rank),) * len(limits)
        if limits and ranks[0] > max(limits):
            warn_caller(f"rank {ranks[0]} is clipped to {max(limits)}, the largest possible in any {where}.")
    return tuple(min(r, limit) for r, limit in zip(ranks, limits, strict=True))


def positive_rank(rank: object, alternative: str = "") -> int:
    """Return a rank as an integer; ``alternative`` is what else the message may offer, such as ``", or 'auto'"``."""
    if isinstance(rank, (bool, np.bool_)) or not isinstance(rank, (int, np.integer)) or rank < 1:
        raise RankError(f"rank={rank!r}: give an integer of at least 1{alternative}.")
    return int(rank)


def mode_limits(shape: Sequence[int]) -> list[int]:
    """Return the largest Tucker rank of each mode: the shorter side of its unfolding."""
    return [min(n, total_size(shape[:k]) * total_size(shape[k + 1 :])) for k, n in enumerate(shape)]


def bond_limits(shape: Sequence[int]) -> list[int]:
    """Return the largest rank of each bond of a train: the shorter side of its cut."""
    return [min(total_size(shape[:k]), total_size(shape[k:])) for k in range(1, len(shape))]


def node_limits(shape: Sequence[int], tree: DimensionTree) -> list[int]:
    """Return the largest rank of each node below the root: the shorter side of its unfolding."""
    sizes = [total_size([shape[mode] for mode in node.modes]) for node in tree_nodes(tree)]
    return [min(size, sizes[0] // size) if size else 0 for size in sizes[1:]]
