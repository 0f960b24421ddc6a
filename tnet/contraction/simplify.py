"""The steps of a contraction that need no search, and the connected networks that are left to plan."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tnet.contraction.pairs import Pair
from tnet.contraction.spec import ContractionSpec

__all__ = ["Component", "Simplified", "join_components", "simplify"]

Legs = frozenset[int]

_MOST_CARRIERS = 32
"""Operands looked at as partners through one index."""


class Component(NamedTuple):
    """A connected part of a simplified network.

    Parameters
    ----------
    nodes : tuple of int
        Its operands, in the single-assignment numbering of the steps already taken.
    legs : tuple of frozenset of int
        Indices of each, without those of size 1, those summed in advance and those that all of them carry.
    output : frozenset of int
        Indices of the result of the component, without the same.
    log2_scale : float
        Base-2 logarithm of the factor that the indices which all carry put on every step.
    """

    nodes: tuple[int, ...]
    legs: tuple[Legs, ...]
    output: Legs
    log2_scale: float


class Simplified(NamedTuple):
    """Steps taken, and what is left.

    Parameters
    ----------
    pairs : tuple of pair of int
        Single-assignment numbering.
    components : tuple of Component
        Each to be contracted to one operand; :func:`join_components` does the rest.
    """

    pairs: tuple[Pair, ...]
    components: tuple[Component, ...]


def simplify(spec: ContractionSpec) -> Simplified:
    """Take the steps that no plan needs to weigh, and split the rest into connected networks.

    - An operand whose indices all stand on another operand too is multiplied into the smallest such operand: vectors,
      diagonals, equal index sets.
    - A matrix is absorbed by its smaller neighbour where the result is no larger than the larger of both.
    - Numbers are multiplied together and into the smallest operand.
    - Indices that every operand of a component carries scale all of its steps alike, and are left out.

    Parameters
    ----------
    spec : ContractionSpec

    Returns
    -------
    Simplified

    Notes
    -----
    O(sum of ranks) set operations. The steps cost less than any step that would carry the absorbed index along, with
    one exception: a chain of matrices of different sizes is absorbed least result first, which need not be its best
    order. Planners repair that by looking at subtrees of the whole tree.
    """
    network = _Network(spec)
    network.absorb()
    network.merge_numbers()
    return Simplified(tuple(network.pairs), tuple(network.components()))


def join_components(
    components: Sequence[Component], results: Iterable[int], sizes: Sequence[int], n_nodes: int
) -> list[Pair]:
    """Return the steps that join the results of components, the smallest two first.

    Parameters
    ----------
    components : sequence of Component
    results : iterable of int
        The node that each component ends in.
    sizes : sequence of int
    n_nodes : int
        Number of nodes so far; the first step makes the node of this number.
    """
    heap = [(_log2_size(part.output, sizes), node) for part, node in zip(components, results, strict=True)]
    heapq.heapify(heap)
    pairs: list[Pair] = []
    while len(heap) > 1:
        first, a = heapq.heappop(heap)
        second, b = heapq.heappop(heap)
        pairs.append((min(a, b), max(a, b)))
        heapq.heappush(heap, (first + second, n_nodes + len(pairs) - 1))
    return pairs


def _log2_size(legs: Iterable[int], sizes: Sequence[int]) -> float:
    return math.log2(math.prod(sizes[i] for i in legs))


class _Network:
    """Operands that merge, two at a time, and who carries which index."""

    def __init__(self, spec: ContractionSpec) -> None:
        self._sizes = spec.sizes
        self.pairs: list[Pair] = []
        self._next = len(spec.inputs)
        sets = [frozenset(indices) for indices in spec.inputs]
        self._output = frozenset(i for i in spec.output if spec.sizes[i] > 1)
        self._carriers: dict[int, set[int]] = {}
        for node, indices in enumerate(sets):
            for i in indices:
                self._carriers.setdefault(i, set()).add(node)
        common = frozenset.intersection(*sets) if len(sets) > 1 else frozenset()
        kept = {
            i
            for i, nodes in self._carriers.items()
            if spec.sizes[i] > 1 and (len(nodes) > 1 or i in self._output) and i not in common
        }
        self._legs = {node: indices & kept for node, indices in enumerate(sets)}
        self._log2_sizes = {i: math.log2(spec.sizes[i]) for i in kept}
        self._log2_common = sum([math.log2(spec.sizes[i]) for i in common if spec.sizes[i] > 1])
        self._with_legs: dict[Legs, int] = {}  # an operand with these legs, found equal to others by look-up

    def _weight(self, legs: Iterable[int]) -> float:
        return sum([self._log2_sizes[i] for i in legs])

    def _merge(self, a: int, b: int) -> int:
        node = self._next
        self._next += 1
        self.pairs.append((min(a, b), max(a, b)))
        legs = self._legs.pop(a) | self._legs.pop(b)
        kept = []
        for i in legs:
            nodes = self._carriers[i]
            nodes.discard(a)
            nodes.discard(b)
            if nodes or i in self._output:
                nodes.add(node)
                kept.append(i)
        self._legs[node] = result = frozenset(kept)
        if result in self._with_legs:
            self._with_legs[result] = node
        return node

    def absorb(self) -> None:
        """Merge vectors and subsets first; matrices when no vector is left."""
        first = deque(self._legs)
        matrices: list[tuple[float, int]] = []
        while first or matrices:
            if first:
                node = first.popleft()
                partner = self._container(node) if node in self._legs else None
                if partner is None and len(self._legs.get(node, ())) == 2:
                    heapq.heappush(matrices, (self._weight(self._legs[node]), node))
            else:
                node = heapq.heappop(matrices)[1]
                partner = self._neighbour_of_matrix(node) if node in self._legs else None
            if partner is not None:
                merged = self._merge(node, partner)
                first.append(merged)

    def _container(self, node: int) -> int | None:
        """Return an operand with the same indices, or the smallest that carries all of them and others."""
        legs = self._legs[node]
        if not legs:
            return None
        twin = self._with_legs.setdefault(legs, node)
        if twin != node:
            if self._legs.get(twin) == legs:
                return twin
            self._with_legs[legs] = node
        rarest = min(legs, key=lambda i: (len(self._carriers[i]), i))
        nodes = self._carriers[rarest]
        if len(nodes) > _MOST_CARRIERS and len(legs) > 1:
            return None
        found = [other for other in nodes if other != node and legs <= self._legs[other]]
        return min(found, key=lambda other: (self._weight(self._legs[other]), other), default=None)

    def _neighbour_of_matrix(self, node: int) -> int | None:
        """Return the operand that a matrix costs least to multiply with, if the result is not larger than both."""
        own = self._weight(self._legs[node])
        best: tuple[float, int] | None = None
        for i in self._legs[node]:
            nodes = self._carriers[i]
            if len(nodes) != 2 or i in self._output:
                continue
            (other,) = nodes - {node}
            weight = self._weight(self._legs[other])
            cost = self._weight(self._legs[node] | self._legs[other])
            if cost - self._log2_sizes[i] <= max(own, weight) + 1e-9 and (best is None or (cost, other) < best):
                best = (cost, other)
        return None if best is None else best[1]

    def merge_numbers(self) -> None:
        """Multiply the operands without indices together, and into the smallest of the others."""
        numbers = [node for node, legs in self._legs.items() if not legs]
        if not numbers:
            return
        product = numbers[0]
        for other in numbers[1:]:
            product = self._merge(product, other)
        others = [node for node in self._legs if node != product]
        if others:
            self._merge(product, min(others, key=lambda node: (self._weight(self._legs[node]), node)))

    def components(self) -> list[Component]:
        """Return the connected parts, apart from indices that a whole part carries."""
        todo, done = [(sorted(self._legs), frozenset[int]())], []
        while todo:
            nodes, dropped = todo.pop()
            for part in self._connected(nodes, dropped):
                legs = [self._legs[node] - dropped for node in part]
                common = frozenset.intersection(*legs)
                if common and len(part) > 1:
                    todo.append((part, dropped | common))
                    continue
                output = frozenset().union(*legs) & self._output
                scale = self._log2_common + self._weight(dropped)
                done.append(Component(tuple(part), tuple(legs), output, scale))
        return sorted(done, key=lambda part: part.nodes)

    def _connected(self, nodes: list[int], dropped: Legs) -> list[list[int]]:
        left = set(nodes)
        parts = []
        for start in nodes:
            if start not in left:
                continue
            left.discard(start)
            part, stack = [], [start]
            seen: set[int] = set()
            while stack:
                node = stack.pop()
                part.append(node)
                for i in self._legs[node] - dropped - seen:
                    seen.add(i)
                    for other in self._carriers[i] & left:
                        left.discard(other)
                        stack.append(other)
            parts.append(sorted(part))
        return parts
