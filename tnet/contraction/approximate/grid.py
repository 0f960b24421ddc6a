"""From a network and the places of its tensors to the sites of a rectangular grid with open edges."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import numpy as np

from tnet.algebra.gram_rounding import in_range
from tnet.arrays import (
    array_namespace,
    astype,
    check_finite,
    compute_dtype,
    from_numpy_like,
    reduce_single,
    require_floating,
)
from tnet.contraction.approximate.arrangement import Arrangement
from tnet.contraction.approximate.sites import Labelled, Site, labelled, merged
from tnet.errors import InputError, ShapeError
from tnet.formats import TensorNetwork

__all__ = ["Grid", "grid_of", "transposed"]

Grid: TypeAlias = list[list[Site]]

Place = tuple[int, int]
_Cells = dict[Place, list[Labelled]]


def grid_of(network: TensorNetwork, arrangement: Arrangement) -> tuple[Grid, int]:
    """Put the tensors of a network on a grid with open edges.

    Parameters
    ----------
    network : TensorNetwork
    arrangement : Arrangement

    Returns
    -------
    grid : list of list of Site
        Where indices join opposite edges, the grid is folded, so that both lie in one place.
    exponent : int
        The network is ``2**exponent`` times the grid.

    Raises
    ------
    ShapeError
        If an index joins places that are no neighbours.
    """
    tensors, exponent = _prepared(network)
    n_rows, n_columns = len(arrangement), len(arrangement[0])
    like = tensors[0].array
    cells: _Cells = {(i, j): [tensors[k] for k in arrangement[i][j]] for i in range(n_rows) for j in range(n_columns)}
    wraps = _wraps(cells, n_rows, n_columns)
    for axis, n in enumerate((n_rows, n_columns)):
        if wraps[axis]:
            cells = _folded(cells, axis, n)
    n_rows, n_columns = 1 + max(i for i, _ in cells), 1 + max(j for _, j in cells)
    _split_shared_indices(cells)
    xp = array_namespace(like)
    for place, cell in cells.items():
        if not cell:
            cells[place] = [Labelled(xp.ones((), dtype=like.dtype, device=like.device), ())]
    return [[_site(cells, i, j) for j in range(n_columns)] for i in range(n_rows)], exponent


def transposed(grid: Grid) -> Grid:
    """Return the grid with rows and columns exchanged."""
    return [[site.transposed() for site in column] for column in zip(*grid, strict=True)]


def _prepared(network: TensorNetwork) -> tuple[list[Labelled], int]:
    """Return the tensors to compute with, in range, without diagonals and lonely indices; and their exponent."""
    for k, tensor in enumerate(network.tensors):
        require_floating(tensor, f"tensors[{k}]")
    dtype = compute_dtype(*network.tensors)
    uses: dict[Hashable, int] = {}
    for labels in network.indices:
        for label in set(labels):
            uses[label] = uses.get(label, 0) + 1
    found: list[Labelled] = []
    total = 0
    for k, (tensor, labels) in enumerate(zip(network.tensors, network.indices, strict=True)):
        try:
            array, exponent = in_range(astype(tensor, dtype))
        except InputError:
            check_finite(tensor, f"tensors[{k}]")  # names the tensor to blame
            raise
        total += exponent
        array, once = labelled(array, labels)
        shared = tuple(label for label in once if uses[label] > 1)
        found.append(Labelled(reduce_single(array_namespace(array), array, once, shared), shared))
    return found, total


def _places(cells: _Cells) -> dict[Hashable, list[Place]]:
    """Return, for each index, the places that hold it, in the order of the grid."""
    found: dict[Hashable, dict[Place, None]] = {}
    for place, cell in cells.items():
        for tensor in cell:
            for label in tensor.labels:
                found.setdefault(label, {})[place] = None
    return {label: list(places) for label, places in found.items()}


def _wraps(cells: _Cells, n_rows: int, n_columns: int) -> tuple[bool, bool]:
    """Return whether indices join the first and last row, and the first and last column."""
    wraps = [False, False]
    for label, places in _places(cells).items():
        pairs = [(p, q) for p in places for q in places if p < q]
        around = [
            axis
            for (i, j), (k, l) in pairs
            for axis, gap, n, other in ((0, k - i, n_rows, l - j), (1, l - j, n_columns, k - i))
            if n > 2 and abs(gap) == n - 1 and other == 0
        ]
        for axis in around:
            wraps[axis] = True
        if not around and _middle(places, cells) is None:
            raise _too_far(label, places)
    return wraps[0], wraps[1]


def _are_near(p: Place, q: Place) -> bool:
    return abs(p[0] - q[0]) + abs(p[1] - q[1]) <= 1


def _folded(cells: _Cells, axis: int, n: int) -> _Cells:
    """Lay the places k and n - 1 - k along an axis on each other."""
    found: _Cells = {}
    for place, cell in cells.items():
        folded = list(place)
        folded[axis] = min(place[axis], n - 1 - place[axis])
        key = (folded[0], folded[1])
        found[key] = [*found.get(key, []), *cell]
    return dict(sorted(found.items()))


def _split_shared_indices(cells: _Cells) -> None:
    """Give an index that more than two places hold a tensor of its own, ones on its diagonal, in their middle."""
    for label, places in _places(cells).items():
        if len(places) < 3 and (len(places) < 2 or _are_near(*places)):
            continue
        hub = _middle(places, cells)
        if hub is None:
            raise _too_far(label, places)
        names: list[Hashable] = []
        like = None
        for place in places:
            names.append(label if place == hub else (label, place))
            for k, tensor in enumerate(cells[place]):
                if label in tensor.labels:
                    like, n = tensor.array, int(tensor.array.shape[tensor.labels.index(label)])
                    labels = tuple(names[-1] if i == label else i for i in tensor.labels)
                    cells[place][k] = Labelled(tensor.array, labels)
        assert like is not None  # places are those of tensors
        diagonal = np.zeros((n,) * len(names))
        diagonal[(np.arange(n),) * len(names)] = 1.0
        cells[hub] = [Labelled(from_numpy_like(diagonal, like), tuple(names)), *cells[hub]]


def _middle(places: list[Place], cells: _Cells) -> Place | None:
    """Return a place that neighbours all others of an index, one of them where there is one."""
    near = [(i + a, j + b) for i, j in places for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    return next((p for p in (*places, *near) if p in cells and all(_are_near(p, q) for q in places)), None)


def _too_far(label: Hashable, places: list[Place]) -> ShapeError:
    return ShapeError(
        f"index {label!r} joins the places {', '.join(map(str, places))} (row, column), which are neither neighbours "
        "nor all beside one place: give another arrangement of the tensors by sites=."
    )


def _site(cells: _Cells, i: int, j: int) -> Site:
    own = {label: int(n) for t in cells[i, j] for label, n in zip(t.labels, t.array.shape, strict=True)}
    sides = []
    for place in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
        there = {label for tensor in cells.get(place, ()) for label in tensor.labels}
        sides.append(tuple(sorted((label for label in own if label in there), key=repr)))
    above, below, left, right = sides
    return Site(merged(cells[i, j], (*above, *below, *left, *right)), above, below, left, right, own)
