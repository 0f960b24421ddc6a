"""In which order the operands are contracted, two at a time: choice of planner, and how long it may search."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tnet.contraction.foreign import path_from_cotengra
from tnet.contraction.pairs import Pair, order_for_memory, pairs_of_linear_path, pairwise_macs
from tnet.contraction.planners.greedy_small import small_tree
from tnet.contraction.planners.network import PlanningNetwork, planning_network
from tnet.contraction.rates import host_rates
from tnet.contraction.simplify import Component, Simplified, join_components, simplify
from tnet.contraction.spec import ContractionSpec
from tnet.errors import InputError

if TYPE_CHECKING:
    from tnet.contraction.planners.trees import Tree

__all__ = ["PLANNERS", "PLANNING_SHARE", "Path", "Timing", "find_pairs", "name_of_planner"]

Path = tuple[tuple[int, ...], ...]
"""An order in opt_einsum's form: positions in a list from which operands are popped."""

PLANNERS = ("auto", "greedy", "random-greedy", "optimal", "annealing", "partition", "elimination")

PLANNING_SHARE = 0.5
"""Planning stops when it has taken this share of the seconds that the contraction will take."""

_MOST_SECONDS = 30.0  # without max_planning_seconds
_LEAST_SECONDS = 0.1
_FIRST_PART = 0.6
_SECONDS_TO_LOAD = 0.5  # of the compiled planners
_CHEAP_MACS = 10**8  # below a second on any host, so that its rate need not be measured
_MOST_OPERANDS_IN_PYTHON = 1000
_MOST_SECONDS_OF_OPTIMAL = 60.0
_MOST_WITH_OUTER_PRODUCTS = 16  # 3**16 / 2 pairs of subsets take a fraction of a second
_FIRST_COMPILED = "tnet.contraction.planners.portfolio"


class Timing(NamedTuple):
    """When planning began, and how long it may take.

    Parameters
    ----------
    started : float
        Value of ``time.perf_counter()``.
    max_seconds : float or None
        The caller's ceiling.
    dtype : str
        Of the computation, for the rate of this host.
    """

    started: float
    max_seconds: float | None
    dtype: str

    @property
    def ceiling(self) -> float:
        """Value of ``time.perf_counter()`` at which any search ends."""
        return self.started + (_MOST_SECONDS if self.max_seconds is None else self.max_seconds)

    def first_part(self) -> Timing:
        """Return the timing of the search of an order that cuts will be sought for after it."""
        return self if self.max_seconds is None else self._replace(max_seconds=_FIRST_PART * self.max_seconds)

    def deadline(self, log2_macs: float, since: float) -> float:
        """Return when a search that began at ``since`` has taken its share of what so many multiply-adds take."""
        if self.max_seconds is not None:
            return self.ceiling
        share = PLANNING_SHARE * _seconds(log2_macs, self.dtype)
        return min(max(self.ceiling, since + _LEAST_SECONDS), since + max(share, _LEAST_SECONDS))

    def pays_to_compile(self, macs: int) -> bool:
        """Return whether the compiled planners may be loaded for a contraction that costs ``macs`` so far."""
        if self.max_seconds is not None:
            return self.max_seconds > _SECONDS_TO_LOAD or _FIRST_COMPILED in sys.modules
        return macs > _CHEAP_MACS and PLANNING_SHARE * _seconds(math.log2(macs), self.dtype) > _SECONDS_TO_LOAD


def _seconds(log2_macs: float, dtype: str) -> float:
    """Return how long multiply-adds take on this host."""
    return 2.0 ** min(log2_macs, 1000.0) / host_rates(dtype).macs


def name_of_planner(planner: str | Path) -> str:
    """Return the name that a plan keeps of its planner."""
    return planner if isinstance(planner, str) else "path given"


def find_pairs(spec: ContractionSpec, planner: str | Path, timing: Timing, *, seed: int = 0) -> tuple[Pair, ...]:
    """Return the pairwise steps of a good contraction order.

    Parameters
    ----------
    spec : ContractionSpec
    planner : str or path
        One of :data:`PLANNERS`, ``"cotengra:<optimizer>"``, or an order in opt_einsum's form, taken as it is.
    timing : Timing
    seed : int
        Of all noise.

    Returns
    -------
    tuple of pair of int
        Operands of each step in single-assignment numbering.

    Raises
    ------
    InputError
        Unknown planner, a path that does not contract the operands, or a network that ``"optimal"`` cannot finish.
    MissingDependencyError
        cotengra is not installed.
    """
    n = len(spec.inputs)
    if not isinstance(planner, str):
        return pairs_of_linear_path(planner, n)
    if planner not in PLANNERS and not planner.startswith("cotengra:"):
        raise InputError(
            f"planner={planner!r}: choose one of {', '.join(map(repr, PLANNERS))}, 'cotengra:<optimizer>', or give "
            "a path as a list of pairs."
        )
    if n == 1:
        return ()
    if planner.startswith("cotengra:"):
        return order_for_memory(spec, path_from_cotengra(spec, planner.partition(":")[2]))
    search = _Search(spec, timing, seed)
    if planner == "greedy":
        return order_for_memory(spec, search.greedy)
    if planner == "optimal":
        return order_for_memory(spec, search.optimal())
    if planner != "auto":
        return order_for_memory(spec, search.cheapest(search.by_name(planner)))
    if not timing.pays_to_compile(pairwise_macs(spec, search.greedy)):
        return order_for_memory(spec, search.greedy)
    return order_for_memory(spec, search.cheapest(search.polished(search.by_portfolio())))


class _Search:
    """The simplified network, and the greedy order that every other is compared with."""

    def __init__(self, spec: ContractionSpec, timing: Timing, seed: int) -> None:
        self._spec = spec
        self._sizes = [max(size, 1) for size in spec.sizes]  # of an empty axis every cost would be 0
        self._timing = timing
        self._seed = seed
        self._simplified: Simplified = simplify(spec)
        self._greedy_trees = [self._greedy_tree(part) for part in self._simplified.components]
        self.greedy = self._assemble(self._greedy_trees)

    def _greedy_tree(self, part: Component) -> Sequence[Pair]:
        if len(part.nodes) <= _MOST_OPERANDS_IN_PYTHON:
            return small_tree(part.legs, part.output, self._sizes, seed=0)  # one greedy order, whatever the seed
        from tnet.contraction.planners.greedy import random_greedy

        network = planning_network(part.legs, part.output, self._sizes)
        return _as_pairs(random_greedy(network, seed=0, n_trials=2, deadline=self._timing.ceiling))

    def _assemble(self, trees: Sequence[Sequence[Pair]]) -> tuple[Pair, ...]:
        """Return the whole order of the steps of simplification, one tree for each component, and their joins."""
        pairs = list(self._simplified.pairs)
        results = []
        for part, tree in zip(self._simplified.components, trees, strict=True):
            node_of = list(part.nodes)
            for a, b in tree:
                first, second = node_of[a], node_of[b]
                pairs.append((min(first, second), max(first, second)))
                node_of.append(len(self._spec.inputs) + len(pairs) - 1)
            results.append(node_of[-1])
        n_nodes = len(self._spec.inputs) + len(pairs)
        return (*pairs, *join_components(self._simplified.components, results, self._sizes, n_nodes))

    def cheapest(self, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        """Return the order given, or the greedy one where that costs less."""
        return min(self.greedy, pairs, key=lambda order: pairwise_macs(self._spec, order, self._sizes))

    def optimal(self) -> tuple[Pair, ...]:
        """Return the best order over all trees, or for more than 16 operands over those of connected subsets."""
        from tnet.contraction.planners.optimal import optimal
        from tnet.contraction.planners.trees import log2_macs

        spec, most = self._spec, self._timing.max_seconds
        network = planning_network(spec.inputs, spec.output, self._sizes)
        deadline = self._timing.started + (_MOST_SECONDS_OF_OPTIMAL if most is None else most)
        tree = optimal(
            network,
            log2_cost_cap=log2_macs(network, _as_array(self.greedy)) + 1e-6,
            search_outer=len(spec.inputs) <= _MOST_WITH_OUTER_PRODUCTS,
            deadline=deadline,
        )
        if tree is None:
            allowed = f"{_MOST_SECONDS_OF_OPTIMAL:.0f} s" if most is None else f"max_planning_seconds={most}"
            raise InputError(
                f"planner='optimal' cannot search all orders of {len(spec.inputs)} operands within {allowed} and "
                "2**20 connected subsets; use planner='auto'."
            )
        return self.cheapest(_as_pairs(tree))

    def by_name(self, planner: str) -> tuple[Pair, ...]:
        """Return the order that one planner finds for the components."""
        from tnet.contraction.planners.choices import TREES

        find = TREES[planner]
        return self._component_by_component(
            lambda part, tree, deadline: find(self._network(part), self._seed, deadline)
        )

    def by_portfolio(self) -> tuple[Pair, ...]:
        """Return the best order that all planners find for the components."""
        from tnet.contraction.planners.portfolio import portfolio
        from tnet.contraction.planners.trees import Tree, log2_macs

        def find(part: Component, tree: Sequence[Pair], deadline: float) -> Tree:
            network = self._network(part)
            since = time.perf_counter()
            start = Tree(_as_array(tree), log2_macs(network, _as_array(tree)))

            def deadline_of(log2: float) -> float:
                return min(deadline, self._timing.deadline(log2 + part.log2_scale, since))

            return portfolio(network, seed=self._seed, deadline_of=deadline_of, start=start)

        return self._component_by_component(find)

    def polished(self, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        """Return the order with its small subtrees optimised, those of the simplification included."""
        from tnet.contraction.planners.reconfigure import reconfigure

        spec = self._spec
        network = planning_network(spec.inputs, spec.output, self._sizes)
        deadline = max(self._timing.ceiling, time.perf_counter() + 0.02)
        tree = reconfigure(network, _as_array(pairs), seed=self._seed, max_rounds=4, deadline=deadline)
        return _as_pairs(tree)

    def _network(self, part: Component) -> PlanningNetwork:
        return planning_network(part.legs, part.output, self._sizes)

    def _component_by_component(self, find: Callable[[Component, Sequence[Pair], float], Tree]) -> tuple[Pair, ...]:
        """Plan the costliest component first, each with a part of the time left in proportion to its operands."""
        parts = self._simplified.components
        trees: list[Sequence[Pair]] = list(self._greedy_trees)
        order = sorted(range(len(parts)), key=lambda k: (-len(parts[k].nodes), k))
        n_left = sum(len(part.nodes) for part in parts)
        for k in order:
            n = len(parts[k].nodes)
            now = time.perf_counter()
            if n > 2 and now < self._timing.ceiling:
                trees[k] = _as_pairs(find(parts[k], trees[k], now + (self._timing.ceiling - now) * n / n_left))
            n_left -= n
        return self._assemble(trees)


def _as_array(pairs: Sequence[Pair]) -> np.ndarray:
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _as_pairs(tree: Tree) -> tuple[Pair, ...]:
    return tuple((min(a, b), max(a, b)) for a, b in tree.pairs.tolist())
