"""Which tensor stands where on a rectangular grid: as the caller says it, or found from who shares an index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from tnet.errors import ShapeError

__all__ = ["Arrangement", "found_arrangement", "read_sites"]

Arrangement: TypeAlias = tuple[tuple[tuple[int, ...], ...], ...]
"""Positions of tensors, by row and column; a place may hold none or several."""

_REMEDY = "give rows of positions, such as sites=[[0, 1], [2, (3, 4)]], which name every tensor once"


def read_sites(sites: Any, n_tensors: int) -> Arrangement:
    """Return the arrangement that a caller gave.

    Parameters
    ----------
    sites : sequence of rows
        A row is a sequence of places; a place is the position of a tensor in the network, or a sequence of them.
    n_tensors : int

    Raises
    ------
    ShapeError
        If rows differ in length, or positions are missing, repeated or out of range.
    """
    try:
        rows = tuple(tuple(_place(place) for place in row) for row in sites)
    except TypeError as error:
        raise ShapeError(f"sites={sites!r} are not rows of positions: {_REMEDY}.") from error
    lengths = {len(row) for row in rows}
    if not rows or lengths == {0}:
        raise ShapeError(f"sites hold no place: {_REMEDY}.")
    if len(lengths) > 1:
        raise ShapeError(f"rows of sites have lengths {sorted(lengths)}: a grid has rows of one length.")
    counts = Counter(k for row in rows for place in row for k in place)
    outside = sorted(k for k in counts if not 0 <= k < n_tensors)
    if outside:
        raise ShapeError(f"sites name tensor {outside[0]}; the network has tensors 0 to {n_tensors - 1}: {_REMEDY}.")
    repeated = sorted(k for k, times in counts.items() if times > 1)
    if repeated:
        raise ShapeError(f"sites name tensor {repeated[0]} more than once: {_REMEDY}.")
    missing = sorted(set(range(n_tensors)).difference(counts))
    if missing:
        raise ShapeError(f"sites do not name tensor {missing[0]}: {_REMEDY}.")
    return rows


def found_arrangement(indices: Sequence[Sequence[str]]) -> Arrangement:
    """Find rows and columns from the graph of the tensors that share an index.

    Parameters
    ----------
    indices : sequence of sequence of str
        Indices of each tensor.

    Returns
    -------
    Arrangement
        One tensor at each place, the first tensor of those that can be a corner at place (0, 0).

    Raises
    ------
    ShapeError
        If the graph is not that of a rectangular grid, or of a grid closed to a cylinder.

    Notes
    -----
    The first row is a walk along the edge, where tensors have fewest neighbours; each next row holds the neighbours
    not placed yet, in the same order. Time grows with the number of indices.
    """
    near = _neighbours(indices)
    row = _first_row(near)
    rows = [row]
    placed = set(row)
    while len(placed) < len(near):
        following: list[int] = []
        for k in rows[-1]:
            free = near[k] - placed
            if len(free) != 1:
                raise _not_a_grid(f"tensor {k} has {len(free)} neighbours below the rows found so far")
            following.append(free.pop())
        if len(set(following)) < len(row):
            raise _not_a_grid(f"two tensors of row {len(rows) - 1} have the same neighbour below")
        placed.update(following)
        rows.append(following)
    return tuple(tuple((k,) for k in found) for found in rows)


def _place(place: Any) -> tuple[int, ...]:
    found: tuple[Any, ...] = (place,) if isinstance(place, (int, np.integer, str)) else tuple(place)
    if not all(isinstance(k, (int, np.integer)) and not isinstance(k, bool) for k in found):
        raise TypeError(place)
    return tuple(int(k) for k in found)


def _neighbours(indices: Sequence[Sequence[str]]) -> list[set[int]]:
    holders: dict[str, list[int]] = {}
    for k, labels in enumerate(indices):
        for label in dict.fromkeys(labels):
            holders.setdefault(label, []).append(k)
    near: list[set[int]] = [set() for _ in indices]
    for label, tensors in holders.items():
        if len(tensors) > 2:
            raise _not_a_grid(f"index {label!r} is in {len(tensors)} tensors")
        if len(tensors) == 2:
            near[tensors[0]].add(tensors[1])
            near[tensors[1]].add(tensors[0])
    return near


def _first_row(near: Sequence[set[int]]) -> list[int]:
    """Walk along an edge of the grid, from a corner to the next one, or once around a cylinder."""
    degrees = [len(tensors) for tensors in near]
    least, most = min(degrees), max(degrees)
    if len(near) > 1 and not 1 <= least <= 3:
        raise _not_a_grid(f"every tensor has {least} neighbours or more" if least else "a tensor has no neighbour")
    if least == most == 3:
        raise _not_a_grid("every tensor has 3 neighbours, which more than one arrangement fits")
    # Tensors of an edge have at most 3 neighbours, those of a chain or of a ring 2; corners have 2 beside edges of 3.
    along = min(most, 3)
    has_corners = least == 2 and most > 2
    row = [degrees.index(least)]
    seen = set(row)
    while True:
        ahead = sorted(k for k in near[row[-1]] - seen if degrees[k] <= along)
        corners = [k for k in ahead if has_corners and degrees[k] == 2]
        if not ahead:
            return row
        row.append((corners or ahead)[0])
        seen.add(row[-1])
        if corners:
            return row


def _not_a_grid(reason: str) -> ShapeError:
    return ShapeError(
        f"the network is not seen to be a rectangular grid with one tensor at each place: {reason}; give the "
        "arrangement by sites=, rows of positions such as sites=[[0, 1], [2, (3, 4)]]."
    )
