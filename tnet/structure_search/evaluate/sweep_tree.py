"""In which order a sweep visits the cores, and what it contracts on the way: a binary tree of the cores."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

__all__ = ["Gram", "Graph", "Pair", "Tree", "best_tree", "cores_of", "sweep_cost"]

Pair = tuple[int, int]
Graph: TypeAlias = tuple[tuple[int, ...], tuple[Pair, ...]]
"""Size of the mode of each core (1 for an internal one), and the pairs of cores with a bond, i < j, ascending."""

Tree: TypeAlias = "int | tuple[Tree, Tree]"
"""A core, or two trees of cores."""

Gram = Literal["layers", "environment"]
"""How normal matrices are made: by contracting two layers of cores, or from the environment itself."""

_NOMINAL_RANK = 3  # trees are made for graphs, so that all ranks of a neighbourhood share one
_MOST_CORES = 10  # 3^n splits are compared


@functools.lru_cache(maxsize=4096)
def best_tree(graph: Graph, gram: Gram | None = None) -> tuple[Tree, Gram]:
    r"""Return the cheapest tree for sweeps over a graph, and the cheaper way to its normal matrices.

    Parameters
    ----------
    graph : Graph
    gram : {"layers", "environment"}, optional
        Prescribes the way; default: the cheaper one.

    Notes
    -----
    Let :math:`m_S` be the entries of all modes of a set S of cores, and :math:`c` those of all bonds that leave S or
    cross its split in two. Passing from S to its halves costs :math:`3 m_S c` multiply-adds for the tensor contracted
    with all other cores, and :math:`3 c^2` for the normal matrices by layers; by environments it is
    :math:`2 m_{\bar{S}} c` and, for a single core with bonds of size :math:`r`, :math:`m_{\bar{S}} r^2`. The least
    sum over all trees is found by dynamic programming over sets of cores, :math:`3^n` steps; beyond 10 cores the tree
    is grown by joining the two sets with the least :math:`m_S c` each time. All ranks are taken to be 3.
    """
    ways: tuple[Gram, ...] = ("layers", "environment") if gram is None else (gram,)
    nominal = [_NOMINAL_RANK] * len(graph[1])
    found = [_least(_Costs(graph, nominal, way)) for way in ways]
    least = min(range(len(ways)), key=lambda k: found[k][0])
    return found[least][1], ways[least]


def cores_of(tree: Tree) -> tuple[int, ...]:
    """Return the cores of a tree in the order in which a sweep visits them."""
    return (tree,) if isinstance(tree, int) else (*cores_of(tree[0]), *cores_of(tree[1]))


@functools.lru_cache(maxsize=1 << 14)
def sweep_cost(graph: Graph, ranks: tuple[int, ...], tree: Tree, gram: Gram) -> float:
    """Return the multiply-adds of a sweep over one network with these ranks."""
    return _Costs(graph, ranks, gram).of_tree(tree)[1]


class _Costs:
    """Multiply-adds of the parts of a sweep; sets of cores are bit masks."""

    def __init__(self, graph: Graph, ranks: Sequence[int], gram: Gram) -> None:
        self.modes, self.pairs = graph
        self.ranks = ranks
        self.gram = gram
        self.everything = (1 << len(self.modes)) - 1

    def of_tree(self, tree: Tree) -> tuple[int, float]:
        """Return the cores of a tree and its cost."""
        if isinstance(tree, int):
            return 1 << tree, self.of_core(1 << tree)
        (a, cost_a), (b, cost_b) = self.of_tree(tree[0]), self.of_tree(tree[1])
        return a | b, cost_a + cost_b + self.of_split(a, b)

    def of_split(self, a: int, b: int) -> float:
        """Return the cost at the split of a | b into a and b."""
        whole = a | b
        modes, c = self.entries(whole), self.crossing(a, b)
        if self.gram == "environment":
            outside = self.entries(self.everything ^ a) + self.entries(self.everything ^ b)
            return 0.0 if whole == self.everything else (outside + modes) * c
        if whole == self.everything:
            return 2 * modes * c
        return 3 * modes * c + 2 * c**2 + min(c**2, modes * self.crossing(whole, 0) ** 2)

    def of_core(self, core: int) -> float:
        """Return the cost of the normal equations of one core, and of their solution."""
        r, own = self.crossing(core, 0), self.entries(core)
        solution = r**3 / 3 + own * r**2
        if self.gram == "layers":
            return solution + own * r**2
        return solution + self.entries(self.everything ^ core) * (r**2 + r * own)

    def crossing(self, a: int, b: int) -> float:
        """Return the entries of all bonds that leave a | b or join a and b."""
        entries = 1.0
        for (i, j), rank in zip(self.pairs, self.ranks, strict=True):
            ends = (a >> i & 1 or (b >> i & 1 and 2), a >> j & 1 or (b >> j & 1 and 2))
            if ends[0] != ends[1]:
                entries *= rank
        return entries

    def entries(self, mask: int) -> float:
        """Return the entries of all modes of a set."""
        return float(math.prod(n for k, n in enumerate(self.modes) if mask >> k & 1))


def _least(costs: _Costs) -> tuple[float, Tree]:
    n = len(costs.modes)
    if n > _MOST_CORES:
        tree = _joined(costs)
        return costs.of_tree(tree)[1], tree
    best: dict[int, tuple[float, Tree]] = {1 << k: (costs.of_core(1 << k), k) for k in range(n)}
    for mask in sorted(range(1, costs.everything + 1), key=int.bit_count):
        if mask.bit_count() > 1:
            low = mask & -mask
            cost, first = min(
                (
                    best[part | low][0] + best[mask ^ part ^ low][0] + costs.of_split(part | low, mask ^ part ^ low),
                    part | low,
                )
                for part in _proper_parts(mask ^ low)
            )
            best[mask] = (cost, (best[first][1], best[mask ^ first][1]))
    return best[costs.everything]


def _proper_parts(mask: int) -> Iterator[int]:
    """Yield the sets within a set, all but the whole."""
    part = mask
    while part:
        part = (part - 1) & mask
        yield part


def _joined(costs: _Costs) -> Tree:
    parts: list[tuple[int, Tree]] = [(1 << k, k) for k in range(len(costs.modes))]
    while len(parts) > 1:
        _, i, j = min(
            (costs.entries(parts[i][0] | parts[j][0]) * costs.crossing(parts[i][0], parts[j][0]), i, j)
            for i, j in itertools.combinations(range(len(parts)), 2)
        )
        (b, tree_b), (a, tree_a) = parts.pop(j), parts.pop(i)
        parts.append((a | b, (tree_a, tree_b)))
    return parts[0][1]
