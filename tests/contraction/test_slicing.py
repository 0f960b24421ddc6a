"""A limit on memory is kept, and the cuts for it cost little."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import ContractionPlan
from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.fitting import _Problem, fit_into_memory, sliced_macs
from tnet.contraction.pairs import pairwise_macs, result_indices
from tnet.contraction.planners.cuts import weigh_cuts
from tnet.contraction.planners.network import planning_network
from tnet.contraction.planning import Timing, find_pairs
from tnet.contraction.slicing import choose_splits, sliced_peak, sliced_sizes, smallest_prime_factor
from tnet.contraction.spec import ContractionSpec
from tnet.errors import MemoryLimitError

HURRY = Timing(0.0, None, "float64")  # long ago: one attempt


def regular(n: int, size: int, seed: int = 0) -> ContractionSpec:
    """A ring of n operands with chords, every operand on three indices."""
    rng = np.random.default_rng(seed)
    ends = rng.permutation(n)
    chord = {int(k): n + j for j in range(n // 2) for k in ends[2 * j : 2 * j + 2]}
    inputs = tuple((k, (k + 1) % n, chord[k]) for k in range(n))
    n_indices = n + n // 2
    return ContractionSpec(inputs, (), (size,) * n_indices, tuple(map(str, range(n_indices))))


def fixed_bytes(spec: ContractionSpec) -> int:
    return 8 * (sum(math.prod(shape) for shape in spec.input_shapes) + math.prod(spec.output_shape))


@pytest.mark.parametrize("size", [2, 4, 6])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_large_networks_keep_their_limit(size: int, share: float) -> None:
    spec = regular(40, size)
    dtypes = dtype_plan(("float64",) * 40)
    pairs = find_pairs(spec, "greedy", HURRY)
    floor, peak = fixed_bytes(spec), sliced_peak(spec, pairs, (), dtypes).n_bytes
    limit = floor + int(share * (peak - floor))
    found, splits = fit_into_memory(spec, pairs, dtypes, limit, None, HURRY)
    assert sliced_peak(spec, found, splits, dtypes).n_bytes <= limit
    assert all(spec.sizes[i] % parts == 0 for i, parts in splits)
    assert sliced_macs(spec, found, splits) <= sliced_macs(spec, pairs, choose_splits(spec, pairs, dtypes, limit))


def test_a_sliced_network_has_the_value_of_the_whole() -> None:
    spec = regular(30, 3)
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=shape) for shape in spec.input_shapes]
    operands = [x for a, labels in zip(arrays, spec.inputs, strict=True) for x in (a, list(labels))]
    whole = tnet.plan(*operands, [])
    limit = (whole.peak_bytes + fixed_bytes(spec)) // 2
    cut = tnet.plan(*operands, [], memory_limit=limit)
    assert cut.n_slices > 1
    assert cut.peak_bytes <= limit
    assert np.isclose(float(cut(*arrays)), float(whole(*arrays)), rtol=1e-9)


def test_a_tree_that_was_given_is_kept() -> None:
    spec = regular(30, 3)
    dtypes = dtype_plan(("float64",) * 30)
    pairs = find_pairs(spec, "greedy", HURRY)
    limit = (sliced_peak(spec, pairs, (), dtypes).n_bytes + fixed_bytes(spec)) // 2
    found, splits = fit_into_memory(spec, pairs, dtypes, limit, None, HURRY, may_change_tree=False)
    assert found == pairs
    assert sliced_peak(spec, pairs, splits, dtypes).n_bytes <= limit


def test_no_cut_is_superfluous() -> None:
    spec = regular(40, 4)
    dtypes = dtype_plan(("float64",) * 40)
    pairs = find_pairs(spec, "greedy", HURRY)
    limit = fixed_bytes(spec) + (sliced_peak(spec, pairs, (), dtypes).n_bytes - fixed_bytes(spec)) // 8
    found, splits = fit_into_memory(spec, pairs, dtypes, limit, None, HURRY)
    for k, (index, parts) in enumerate(splits):
        fewer = (*splits[:k], (index, parts // 2), *splits[k + 1 :])
        assert sliced_peak(spec, found, fewer, dtypes).n_bytes > limit


def test_an_unreachable_limit_names_one_that_is_feasible() -> None:
    spec = regular(30, 3)
    dtypes = dtype_plan(("float64",) * 30)
    pairs = find_pairs(spec, "greedy", HURRY)
    with pytest.raises(MemoryLimitError, match="least limit found feasible") as caught:
        fit_into_memory(spec, pairs, dtypes, fixed_bytes(spec) + 8, None, HURRY)
    named = int(str(caught.value).partition("feasible is ")[2].split()[0])
    assert named > fixed_bytes(spec)
    found, splits = fit_into_memory(spec, pairs, dtypes, named, None, HURRY)
    assert sliced_peak(spec, found, splits, dtypes).n_bytes <= named


def test_one_seed_gives_one_choice() -> None:
    spec = regular(30, 4)
    dtypes = dtype_plan(("float64",) * 30)
    pairs = find_pairs(spec, "greedy", HURRY)
    limit = fixed_bytes(spec) + (sliced_peak(spec, pairs, (), dtypes).n_bytes - fixed_bytes(spec)) // 4
    timing = Timing(time.perf_counter(), 600.0, "float64")
    found = [fit_into_memory(spec, pairs, dtypes, limit, None, timing, seed=3) for _ in range(2)]
    assert found[0] == found[1]


@given(networks(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_macs_of_slices_are_those_of_the_plan(case: Case, random: object) -> None:
    whole = tnet.plan(case.equation, *case.shapes)
    splits = []
    for index, size in enumerate(whole.spec.sizes):
        parts = random.choice([p for p in range(1, size + 1) if size % p == 0] or [1])  # type: ignore[attr-defined]
        if parts > 1:
            splits.append((index, parts))
    assert sliced_macs(whole.spec, whole.pairs, ()) == whole.macs
    cut = ContractionPlan(whole.spec, whole.pairs, tuple(splits), whole.dtypes)
    assert sliced_macs(whole.spec, whole.pairs, splits) == cut.macs


def test_weighed_cuts_against_counting() -> None:
    spec = regular(12, 4)
    pairs = find_pairs(spec, "greedy", HURRY)
    made = ((2, 2), (5, 4))
    sizes = sliced_sizes(spec, made)
    touched = np.array([bool({2, 5} & set(indices)) for indices in spec.inputs])
    network = planning_network(spec.inputs, spec.output, sizes)
    cuts = weigh_cuts(network, np.array(pairs, np.int32), touched, 3.0, [2] * len(sizes))
    assert len(cuts.indices) > 3
    sets = result_indices(spec, pairs)
    for index, log2_macs, log2_peak in zip(cuts.indices.tolist(), cuts.log2_macs, cuts.log2_peak, strict=True):
        parts = dict(made)
        parts[index] = parts.get(index, 1) * 2
        splits = tuple(parts.items())
        assert np.isclose(log2_macs, math.log2(sliced_macs(spec, pairs, splits)))
        smaller = sliced_sizes(spec, splits)
        live = most = 0
        for k, pair in enumerate(pairs):
            live += math.prod(smaller[i] for i in sets[12 + k])
            most = max(most, live)
            live -= sum(math.prod(smaller[i] for i in sets[v]) for v in pair if v >= 12)
        assert np.isclose(log2_peak, math.log2(most))


def test_fewer_slices_than_cutting_at_the_end() -> None:
    spec = regular(60, 2, seed=3)
    dtypes = dtype_plan(("float64",) * 60)
    pairs = find_pairs(spec, "greedy", HURRY)
    limit = fixed_bytes(spec) + (sliced_peak(spec, pairs, (), dtypes).n_bytes - fixed_bytes(spec)) // 16
    found, splits = fit_into_memory(spec, pairs, dtypes, limit, None, HURRY)
    plain = choose_splits(spec, pairs, dtypes, limit)
    assert pairwise_macs(spec, found, sliced_sizes(spec, splits)) * math.prod(p for _, p in splits) < pairwise_macs(
        spec, pairs, sliced_sizes(spec, plain)
    ) * math.prod(p for _, p in plain)


def test_an_index_of_huge_prime_size_is_cut_into_single_entries() -> None:
    assert [smallest_prime_factor(n) for n in (0, 1, 2, 15, 49, 2**61 - 1, 65521 * 65521)] == [
        0, 1, 2, 3, 7, 2**61 - 1, 65521,
    ]  # fmt: skip


@given(networks(max_operands=8))
def test_what_cannot_fit_by_its_intermediates_does_not_fit(case: Case) -> None:
    plan = tnet.plan(case.equation, *case.shapes)
    spec, pairs, dtypes = plan.spec, plan.pairs, plan.dtypes
    peak = sliced_peak(spec, pairs, (), dtypes).n_bytes
    sets = result_indices(spec, pairs)
    assert _Problem(spec, dtypes, peak, None, False).may_fit(pairs, sets, ())
    largest = max((math.prod(spec.sizes[i] for i in indices) for indices in sets[len(spec.inputs) :]), default=0)
    if largest:
        assert not _Problem(spec, dtypes, 8 * largest - 1, None, False).may_fit(pairs, sets, ())


def test_plans_beyond_floating_point_are_shown_and_refused() -> None:
    shapes = [(2**62,)] * 30
    equation = f"{','.join('abcdefghijklmnopqrstuvwxyzABCD')}->{'abcdefghijklmnopqrstuvwxyzABCD'}"
    plan = tnet.plan(equation, *shapes)
    assert plan.macs > 10**500
    assert "e+55" in repr(plan)
    assert "PiB" in repr(plan)
    with pytest.raises(MemoryLimitError, match="cannot be met"):
        tnet.plan(equation, *shapes, memory_limit="1GiB")
