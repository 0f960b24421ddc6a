"""The graph of a structure with its cores in an order that equal graphs share, so that they run in one stack."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from tnet.structure_search.evaluate.sweep_tree import Graph
from tnet.structure_search.structure import Structure

__all__ = ["GraphForm", "graph_form"]

_MOST_ORDERS = 256  # are compared; beyond, equal graphs may get different forms, and run apart


class GraphForm(NamedTuple):
    """A graph, and how a structure fits it.

    Attributes
    ----------
    graph : Graph
        Sizes of the modes (1 for internal cores) and pairs of cores.
    order : tuple of int
        Core ``order[k]`` of the structure is core k of the graph.
    ranks : tuple of int
        Of the pairs of the graph.
    """

    graph: Graph
    order: tuple[int, ...]
    ranks: tuple[int, ...]


@functools.lru_cache(maxsize=1 << 14)
def graph_form(structure: Structure, *, keep_order: bool = False) -> GraphForm:
    """Return the form of a structure: the same graph for all that differ by a permutation of modes of one size.

    Parameters
    ----------
    structure : Structure
    keep_order : bool
        Leave the cores in their order.

    Notes
    -----
    Colour refinement with individualisation: cores get the colours of their sizes; colours are split by those of the
    neighbours until nothing changes; a core of the first colour that several share gets one of its own, and so on.
    Of all orders found so the one with the least pairs, then the least ranks, is taken. Of cores that may be
    exchanged without a change of the graph only one is tried.
    """
    n = structure.n_cores
    if keep_order:
        return _form(structure, range(n))
    neighbours = [frozenset(_others(structure, k)) for k in range(n)]
    sizes = [(0, size) for size in structure.shape] + [(1, 1)] * structure.n_internal
    found: list[GraphForm] = []
    waiting = [_ranked(sizes)]
    while waiting and len(found) < _MOST_ORDERS:
        colours = _refined(waiting.pop(), neighbours)
        shared = [colour for colour in sorted(set(colours)) if colours.count(colour) > 1]
        if not shared:
            found.append(_form(structure, sorted(range(n), key=colours.__getitem__)))
            continue
        cell = [k for k in range(n) if colours[k] == shared[0]]
        tried: list[int] = []
        for k in cell:
            if not any(neighbours[k] - {other} == neighbours[other] - {k} for other in tried):
                tried.append(k)
                waiting.append([2 * colour + (j != k and j in cell) for j, colour in enumerate(colours)])
    return min(found, key=lambda form: (form.graph, form.ranks))


def _form(structure: Structure, order: Sequence[int]) -> GraphForm:
    place = {core: k for k, core in enumerate(order)}
    sizes = (*structure.shape, *[1] * structure.n_internal)
    bonds = sorted((min(place[i], place[j]), max(place[i], place[j]), rank) for i, j, rank in structure.bonds)
    graph = (tuple(sizes[core] for core in order), tuple((i, j) for i, j, _ in bonds))
    return GraphForm(graph, tuple(order), tuple(rank for _, _, rank in bonds))


def _others(structure: Structure, core: int) -> list[int]:
    return [i + j - core for i, j, _ in structure.bonds if core in (i, j)]


def _refined(colours: list[int], neighbours: Sequence[frozenset[int]]) -> list[int]:
    while True:
        finer = _ranked([(colours[k], tuple(sorted(colours[j] for j in near))) for k, near in enumerate(neighbours)])
        if len(set(finer)) == len(set(colours)):
            return finer
        colours = finer


def _ranked(keys: Sequence) -> list[int]:
    """Return for each key its place among the different keys in ascending order."""
    place = {key: k for k, key in enumerate(sorted(set(keys)))}
    return [place[key] for key in keys]
