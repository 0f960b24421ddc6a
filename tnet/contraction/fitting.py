"""An order and cuts that keep a contraction within a limit on memory."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tnet.contraction.dtypes import DtypePlan
from tnet.contraction.layout import Layout
from tnet.contraction.pairs import Pair, order_for_memory, pairwise_macs, result_indices
from tnet.contraction.planners.network import planning_network
from tnet.contraction.planning import Timing
from tnet.contraction.slicing import (
    MOST_SLICES_ADVISED,
    Reached,
    Split,
    cannot_be_met,
    choose_splits,
    sliced_peak,
    sliced_sizes,
    smallest_prime_factor,
    unavoidable_bytes,
)
from tnet.contraction.spec import ContractionSpec, size_of
from tnet.errors import MemoryLimitError

__all__ = ["fit_into_memory", "sliced_macs"]

_MOST_OPERANDS_IN_PYTHON = 24
_MOST_ATTEMPTS = 16
_NOISE = 0.15  # on the base-2 logarithm of the price of a cut, from the second attempt on
_SWEEPS = 300
_BETA = (2.0, 15.0)
_SWEEPS_A_CUT = 60
_BETA_A_CUT = (8.0, 15.0)
_MOST_CUTS = 200
_MOST_RAISES = 8
_RAISED = 5, 4  # the limit of the next try is larger by this ratio, or its square; whole numbers know no overflow
_PARTS_OF_PEAK = 1.0  # a step holds an operand and the result: the largest may take half


class Fitted(NamedTuple):
    """An order with cuts, and what they cost."""

    pairs: tuple[Pair, ...]
    splits: tuple[Split, ...]
    macs: int


class Unmet(NamedTuple):
    """The least peak that an attempt reached, above the limit."""

    least: int


class _Problem(NamedTuple):
    spec: ContractionSpec
    dtypes: DtypePlan
    limit: int
    layouts: Sequence[Layout] | None
    may_change_tree: bool

    def peak(self, pairs: Sequence[Pair], splits: Sequence[Split]) -> int:
        return sliced_peak(self.spec, pairs, splits, self.dtypes, self.layouts).n_bytes

    def fits(self, pairs: Sequence[Pair], splits: Sequence[Split]) -> bool:
        """Return whether the peak is within the limit; nothing is lowered where the arrays alone are above it."""
        sets = result_indices(self.spec, pairs)
        return self.may_fit(pairs, sets, splits) and self.peak(pairs, splits) <= self.limit

    def may_fit(self, pairs: Sequence[Pair], sets: Sequence[tuple[int, ...]], splits: Sequence[Split]) -> bool:
        """Return whether the intermediates alone, of these indices and without copies, are within the limit."""
        sizes, n = sliced_sizes(self.spec, splits), len(self.spec.inputs)
        most = self.limit // self.dtypes.compute_itemsize
        elements = [size_of(indices, sizes) for indices in sets]
        alive = 0
        for node, pair in enumerate(pairs, n):
            alive += elements[node]
            if alive > most:
                return False
            alive -= sum(elements[operand] for operand in pair if operand >= n)
        return True


def fit_into_memory(
    spec: ContractionSpec,
    pairs: tuple[Pair, ...],
    dtypes: DtypePlan,
    limit: int,
    layouts: Sequence[Layout] | None,
    timing: Timing,
    *,
    seed: int = 0,
    may_change_tree: bool = True,
) -> tuple[tuple[Pair, ...], tuple[Split, ...]]:
    """Return an order and cuts with a peak of at most ``limit`` bytes, and few multiply-adds.

    Parameters
    ----------
    spec : ContractionSpec
    pairs : tuple of pair of int
        A good order without a limit.
    dtypes : DtypePlan
    limit : int
        Bytes.
    layouts : sequence of (tuple of int or None), optional
        Memory layout of each input; C order by default.
    timing : Timing
        At least one attempt is made; after the ceiling it goes on without annealing.
    seed : int
    may_change_tree : bool
        False keeps ``pairs`` as they are.

    Returns
    -------
    pairs : tuple of pair of int
    splits : tuple of (int, int)
        Indices and their numbers of parts; empty when the whole fits.

    Raises
    ------
    MemoryLimitError
        No attempt fits; the message names the least peak that was found.

    Notes
    -----
    An attempt cuts one prime factor of one index after another. Each time it takes the index with the least
    log(macs) + log(peak above the limit), and then looks for a better tree under the new sizes: annealing with a
    penalty on size, and reconfiguration. Cuts that turn out superfluous are taken back. Later attempts start from
    trees annealed towards small intermediates, and choose with noise. Whether an attempt fits is decided by the peak
    of the lowered program, byte for byte. Up to 24 operands a search with exact peaks does without all that.

    Sources: J. Gray and S. Kourtis, "Hyper-optimized tensor network contraction", Quantum 5, 410 (2021), for cuts
    that take turns with reconfiguration; G. Kalachev, P. Panteleev and M.-H. Yung, arXiv:2108.05665 (2021), for
    annealing with a penalty on size.
    """
    problem = _Problem(spec, dtypes, limit, layouts, may_change_tree)
    if problem.peak(pairs, ()) <= limit:
        return pairs, ()
    if len(spec.inputs) <= _MOST_OPERANDS_IN_PYTHON:
        return pairs, choose_splits(spec, pairs, dtypes, limit, layouts)
    floor = unavoidable_bytes(spec, dtypes)
    if limit <= floor:
        raise _refusal(problem, pairs, seed, floor + floor // 8, timing.ceiling)
    return _by_attempts(problem, pairs, timing, seed)


def sliced_macs(spec: ContractionSpec, pairs: Sequence[Pair], splits: Sequence[Split]) -> int:
    """Return the multiply-adds of all slices; steps below which nothing is cut count once."""
    sizes = sliced_sizes(spec, splits)
    n_slices = math.prod(parts for _, parts in splits)
    touched = _touched(spec, splits).tolist()
    sets = result_indices(spec, pairs)
    total = 0
    for a, b in pairs:
        touched.append(touched[a] or touched[b])
        step = size_of(tuple(set(sets[a]) | set(sets[b])), sizes)
        total += step * n_slices if touched[-1] else step
    return total


def _by_attempts(
    problem: _Problem, pairs: tuple[Pair, ...], timing: Timing, seed: int
) -> tuple[tuple[Pair, ...], tuple[Split, ...]]:
    draws = np.random.default_rng(seed)
    best: Fitted | None = None
    unmet: Unmet | None = None
    started = time.perf_counter()
    for attempt in range(_MOST_ATTEMPTS):
        found = _attempt(problem, pairs, draws, attempt, timing.ceiling)
        if isinstance(found, Unmet):
            unmet = found if unmet is None or found.least < unmet.least else unmet
        elif best is None or found.macs < best.macs:
            best = found
        spent = (time.perf_counter() - started) / (attempt + 1)
        macs = pairwise_macs(problem.spec, pairs) if best is None else best.macs
        if (
            time.perf_counter() + spent > timing.deadline(math.log2(max(macs, 1)), started)
            or not problem.may_change_tree
        ):
            break
    if best is None and unmet is not None:
        raise _refusal(problem, pairs, seed, unmet.least, timing.ceiling)
    assert best is not None
    return best.pairs, best.splits


def _refusal(problem: _Problem, pairs: tuple[Pair, ...], seed: int, limit: int, deadline: float) -> MemoryLimitError:
    """Return the error for a limit that cannot be met; from ``limit`` upwards it looks for one that can."""
    uncut = advised = least = Reached(problem.peak(pairs, ()), 1)
    up, down = _RAISED
    for _ in range(_MOST_RAISES):
        found = _attempt(problem._replace(limit=limit), pairs, np.random.default_rng(seed), 0, deadline)
        if isinstance(found, Unmet):
            limit = max(min(found.least, limit * up**2 // down**2), limit * up // down)
            continue
        # What it takes may be less than it was allowed.
        reached = Reached(problem.peak(found.pairs, found.splits), math.prod(parts for _, parts in found.splits))
        least = min(least, reached)
        if reached.n_slices <= MOST_SLICES_ADVISED:
            advised = min(advised, reached)
            break
        # A guess: the slices go with the square of the memory that is missing.
        guess = limit * math.isqrt(reached.n_slices // MOST_SLICES_ADVISED)
        limit = min(max(guess, limit * up**2 // down**2), uncut.n_bytes)
    return cannot_be_met(problem.limit, unavoidable_bytes(problem.spec, problem.dtypes), advised, least)


def _attempt(
    problem: _Problem, pairs: tuple[Pair, ...], draws: np.random.Generator, attempt: int, deadline: float
) -> Fitted | Unmet:
    """Cut until the contraction fits, or nothing is left to cut; after the deadline trees are only reconfigured."""
    from tnet.contraction.planners.cuts import weigh_cuts

    spec = problem.spec
    target = _log2_target(problem)
    if problem.may_change_tree and attempt:
        pairs = _smaller_tree(spec, pairs, spec.sizes, target, draws, _SWEEPS, _BETA, deadline)
    parts: dict[int, int] = {}
    while True:
        splits = tuple(sorted(parts.items()))
        if problem.fits(pairs, splits):
            return _without_superfluous_cuts(problem, pairs, parts, deadline)
        sizes = sliced_sizes(spec, splits)
        network = planning_network(spec.inputs, spec.output, [max(size, 1) for size in sizes])
        prime = [smallest_prime_factor(size) for size in sizes]
        log2_slices = math.log2(math.prod(parts.values()))
        cuts = weigh_cuts(network, np.array(pairs, np.int32), _touched(spec, splits), log2_slices, prime)
        if not len(cuts.indices) or sum(map(int.bit_length, parts.values())) > _MOST_CUTS:
            return Unmet(problem.peak(pairs, splits))
        price = cuts.log2_macs + np.maximum(cuts.log2_peak - target - _PARTS_OF_PEAK, 0.0)
        if attempt:
            price += _NOISE * draws.gumbel(size=len(price))
        index = int(cuts.indices[np.argmin(price)])
        parts[index] = parts.get(index, 1) * prime[index]
        sizes = sliced_sizes(spec, tuple(parts.items()))
        if problem.may_change_tree:
            pairs = _smaller_tree(spec, pairs, sizes, target, draws, _SWEEPS_A_CUT, _BETA_A_CUT, deadline)


def _smaller_tree(
    spec: ContractionSpec,
    pairs: tuple[Pair, ...],
    sizes: Sequence[int],
    target: float,
    draws: np.random.Generator,
    n_sweeps: int,
    beta: tuple[float, float],
    deadline: float,
) -> tuple[Pair, ...]:
    """Return a tree with fewer multiply-adds, or smaller intermediates, under the sizes of a slice."""
    from tnet.contraction.planners.annealing import anneal
    from tnet.contraction.planners.reconfigure import reconfigure

    network = planning_network(spec.inputs, spec.output, [max(size, 1) for size in sizes])
    tree = reconfigure(network, np.array(pairs, np.int32), seed=int(draws.integers(2**31)), max_rounds=2)
    tree = anneal(
        network,
        tree.pairs,
        seed=int(draws.integers(2**31)),
        n_sweeps=n_sweeps,
        beta=beta,
        log2_size_target=target,
        deadline=deadline,
    )
    return order_for_memory(spec, [(a, b) for a, b in tree.pairs.tolist()], sizes)


def _without_superfluous_cuts(
    problem: _Problem, pairs: tuple[Pair, ...], parts: dict[int, int], deadline: float
) -> Fitted:
    """Take back prime factors of cuts, as many as the contraction fits without.

    What does not fit without some cuts does not fit without more of them. So the factors are taken back one after
    another as far as the intermediates alone allow, and the last of these steps that truly fits is found by halving.
    The factor that stood in its way stays; after the deadline all others stay too.
    """
    spec = problem.spec
    sets = result_indices(spec, pairs)
    needed: set[int] = set()
    while True:
        steps, taken = [parts], []
        for index in sorted(parts.keys() - needed):
            while index in steps[-1]:
                fewer = _with_one_factor_less(steps[-1], index)
                if not problem.may_fit(pairs, sets, tuple(sorted(fewer.items()))):
                    break
                steps.append(fewer)
                taken.append(index)
        low, high = 0, len(steps) - 1
        middle = high
        while low < high:
            if problem.peak(pairs, tuple(sorted(steps[middle].items()))) <= problem.limit:
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        parts = steps[low]
        if low == len(steps) - 1 or time.perf_counter() > deadline:
            break
        needed.add(taken[low])
    splits = tuple(sorted(parts.items()))
    return Fitted(pairs, splits, sliced_macs(spec, pairs, splits))


def _with_one_factor_less(parts: dict[int, int], index: int) -> dict[int, int]:
    left = parts[index] // smallest_prime_factor(parts[index])
    return {i: left if i == index else n for i, n in parts.items() if i != index or left > 1}


def _log2_target(problem: _Problem) -> float:
    """Return the base-2 logarithm of the elements that the largest intermediate may have."""
    room = problem.limit - unavoidable_bytes(problem.spec, problem.dtypes)
    return math.log2(max(room // problem.dtypes.compute_itemsize, 1)) - _PARTS_OF_PEAK


def _touched(spec: ContractionSpec, splits: Sequence[Split]) -> np.ndarray:
    """Return which operands carry an index that is cut."""
    cut = frozenset(index for index, parts in splits if parts > 1)
    return np.array([not cut.isdisjoint(indices) for indices in spec.inputs], dtype=np.bool_)
