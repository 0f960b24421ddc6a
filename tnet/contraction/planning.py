"""In which order the operands are contracted, two at a time.

The search itself is opt_einsum's; here its paths are checked against each other, made reproducible,
and put into the order of evaluation that holds the least memory.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence

import numpy as np
import opt_einsum

from tnet.contraction.spec import ContractionSpec, size_of
from tnet.errors import InputError

__all__ = ["PLANNERS", "Pair", "find_pairs", "linear_path", "pairwise_macs"]

Pair = tuple[int, int]
"""Two operands, the smaller first, in single-assignment numbering: step k makes ``n_inputs + k``."""

PLANNERS = ("auto", "greedy", "optimal", "random-greedy")
_MOST_OPTIMAL_INPUTS = 12  # the search over all trees takes about 3^n steps of interpreted code
_SECONDS_A_SUBSET_PAIR = 4e-6
_RANDOM_TRIALS = 64


def find_pairs(
    spec: ContractionSpec, planner: str, *, max_seconds: float | None, rng: int | np.random.Generator | None
) -> tuple[Pair, ...]:
    """Return the pairwise steps of a good contraction order.

    Parameters
    ----------
    spec : ContractionSpec
    planner : {"auto", "greedy", "optimal", "random-greedy"}
    max_seconds : float or None
        Wall seconds that the planner may use; random-greedy stops its trials there, optimal refuses
        networks for which it would take longer.
    rng : int, numpy Generator or None
        Source of random-greedy's noise.

    Returns
    -------
    tuple of pair of int
        Operands of each step in single-assignment numbering.

    Raises
    ------
    InputError
        Unknown planner, or a network too large for ``"optimal"``.
    """
    if planner not in PLANNERS:
        raise InputError(f"planner={planner!r}: choose one of {', '.join(map(repr, PLANNERS))}.")
    n = len(spec.inputs)
    if n == 1:
        return ()
    started = time.perf_counter()
    candidates = [_pairs_of_path(_greedy(spec), n)]
    if planner == "auto":
        candidates.append(_pairs_of_path(_small_network_search(spec), n))
    elif planner == "optimal":
        _check_optimal_is_affordable(n, max_seconds)
        candidates.append(_pairs_of_path(_optimal(spec), n))
    elif planner == "random-greedy":
        deadline = math.inf if max_seconds is None else started + max_seconds
        candidates += _random_greedy(spec, rng, deadline)
    best = min(candidates, key=lambda pairs: pairwise_macs(spec, pairs))
    return _order_for_memory(spec, best)


def result_indices(spec: ContractionSpec, pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
    """Return the index sets of all operands, first inputs (as consumed), then the results of the steps.

    An index of an input that no other operand and not the output carries is summed before use and
    left out; a repeated one stands once.
    """
    carriers = [0] * len(spec.sizes)  # live operands, and the output, that carry the index
    for indices in (*spec.inputs, spec.output):
        for i in set(indices):
            carriers[i] += 1
    sets = [tuple(i for i in dict.fromkeys(indices) if carriers[i] > 1) for indices in spec.inputs]
    for a, b in pairs:
        for i in (*sets[a], *sets[b]):
            carriers[i] -= 1
        result = tuple(i for i in dict.fromkeys(sets[a] + sets[b]) if carriers[i] > 0)
        for i in result:
            carriers[i] += 1
        sets.append(result)
    return sets


def pairwise_macs(spec: ContractionSpec, pairs: Sequence[Pair], sizes: Sequence[int] | None = None) -> int:
    """Return the multiply-adds of all steps: for each, the product of the sizes of all its indices."""
    sizes = spec.sizes if sizes is None else sizes
    sets = result_indices(spec, pairs)
    return sum(size_of(tuple(set(sets[a]) | set(sets[b])), sizes) for a, b in pairs)


def linear_path(pairs: Sequence[Pair], n_inputs: int) -> list[tuple[int, ...]]:
    """Return the path in opt_einsum's form: positions in a list from which operands are popped."""
    if n_inputs == 1:
        return [(0,)]
    alive = list(range(n_inputs))
    path: list[tuple[int, ...]] = []
    for step, pair in enumerate(pairs):
        positions = sorted(alive.index(operand) for operand in pair)
        for position in reversed(positions):
            alive.pop(position)
        alive.append(n_inputs + step)
        path.append(tuple(positions))
    return path


def pairs_of_linear_path(path: Sequence[Sequence[int]], n_inputs: int) -> tuple[Pair, ...]:
    """Return the pairwise steps of a path in opt_einsum's form; n-ary steps go left to right.

    Raises
    ------
    InputError
        The path does not contract ``n_inputs`` operands to one.
    """
    try:
        return _pairs_of_path(path, n_inputs)
    except (IndexError, TypeError, ValueError) as error:
        raise InputError(f"the path {list(path)!r} does not contract {n_inputs} operands to one.") from error


def _pairs_of_path(path: Sequence[Sequence[int]], n_inputs: int) -> tuple[Pair, ...]:
    alive = list(range(n_inputs))
    pairs: list[Pair] = []
    for positions in path:
        if len(set(positions)) != len(positions) or any(p < 0 for p in positions):
            raise ValueError("positions repeat or are negative")
        taken = [alive[position] for position in positions]
        for position in sorted(positions, reverse=True):
            alive.pop(position)
        result = taken[0]
        for other in taken[1:]:
            pairs.append((min(result, other), max(result, other)))
            result = n_inputs + len(pairs) - 1
        alive.append(result)
    if len(alive) != 1:
        raise ValueError("operands are left over")
    return tuple(pairs)


def _search_problem(spec: ContractionSpec) -> tuple[list[frozenset[int]], frozenset[int], dict[int, int]]:
    # Integer labels: sets of strings iterate in an order that changes with the process's hash seed.
    inputs = [frozenset(indices) for indices in spec.inputs]
    # An empty axis makes every cost 0 and the search blind; plan as if it had one entry.
    return inputs, frozenset(spec.output), {i: max(n, 1) for i, n in enumerate(spec.sizes)}


def _greedy(spec: ContractionSpec) -> Sequence[Sequence[int]]:
    return list(opt_einsum.paths.greedy(*_search_problem(spec)))  # pyright: ignore[reportArgumentType]


def _small_network_search(spec: ContractionSpec) -> Sequence[Sequence[int]]:
    return list(opt_einsum.paths.auto(*_search_problem(spec)))  # pyright: ignore[reportArgumentType]


def _optimal(spec: ContractionSpec) -> Sequence[Sequence[int]]:
    search = opt_einsum.DynamicProgramming(minimize="flops", search_outer=True)
    return list(search(*_search_problem(spec)))  # pyright: ignore[reportArgumentType]


def _check_optimal_is_affordable(n: int, max_seconds: float | None) -> None:
    expected = 3.0**n * _SECONDS_A_SUBSET_PAIR
    if n > _MOST_OPTIMAL_INPUTS or (max_seconds is not None and expected > max(max_seconds, 0.01)):
        raise InputError(
            f"planner='optimal' on {n} operands may take {expected:.2g} s (allowed: "
            f"{_MOST_OPTIMAL_INPUTS} operands, max_planning_seconds={max_seconds}); "
            "use planner='random-greedy'."
        )


def _random_greedy(
    spec: ContractionSpec, rng: int | np.random.Generator | None, deadline: float
) -> list[tuple[Pair, ...]]:
    """Greedy searches with Boltzmann noise on the score, as in Gray and Kourtis (2021), section 4.1.

    A pair costs ``size(ab) / alpha - alpha (size(a) + size(b))`` on a logarithmic scale; Gumbel noise
    of temperature ``tau`` on it samples from the Boltzmann distribution.
    """
    noise = random.Random(int(np.random.default_rng(rng).integers(2**63)))
    n = len(spec.inputs)
    found = []
    for _ in range(_RANDOM_TRIALS):
        if time.perf_counter() > deadline:
            break
        alpha = noise.uniform(0.1, 4.0)
        tau = 10.0 ** noise.uniform(-3.0, 0.0)

        def cost(size12: int, size1: int, size2: int, *_: int, alpha: float = alpha, tau: float = tau) -> float:
            score = size12 / alpha - alpha * (size1 + size2)
            gumbel = -math.log(-math.log(noise.uniform(1e-300, 1.0 - 1e-16)))
            return math.copysign(math.log1p(abs(score)), score) - tau * gumbel

        problem = _search_problem(spec)
        path = opt_einsum.paths.greedy(*problem, cost_fn=cost)  # pyright: ignore[reportArgumentType]
        found.append(_pairs_of_path(list(path), n))
    return found


def _order_for_memory(spec: ContractionSpec, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Evaluate first, at each node, the child whose evaluation needs more beyond its own result.

    This order minimises the peak of the live intermediates over all depth-first orders of the tree
    (Sethi and Ullman 1970, with sizes instead of registers).
    """
    n = len(spec.inputs)
    sets = result_indices(spec, pairs)
    held = [0] * n + [size_of(sets[n + k], spec.sizes) for k in range(len(pairs))]  # inputs are the caller's
    peak = list(held)
    first: dict[int, Pair] = {}
    for k, (a, b) in enumerate(pairs):
        if peak[b] - held[b] > peak[a] - held[a]:
            a, b = b, a
        first[n + k] = (a, b)
        peak[n + k] = max(peak[a], held[a] + peak[b], held[a] + held[b] + held[n + k])
    order: list[int] = []
    stack: list[tuple[int, bool]] = [(n + len(pairs) - 1, False)]
    while stack:
        node, ready = stack.pop()
        if node < n:
            continue
        if ready:
            order.append(node)
            continue
        a, b = first[node]
        stack += [(node, True), (b, False), (a, False)]
    renamed = {k: k for k in range(n)} | {node: n + k for k, node in enumerate(order)}
    steps = [sorted(renamed[operand] for operand in pairs[node - n]) for node in order]
    return tuple((a, b) for a, b in steps)
