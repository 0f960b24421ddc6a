import math
import time

import numpy as np
import opt_einsum
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contraction.planners.trees import (
    chain,
    is_tree,
    least_log2_macs,
    random_network,
    random_networks,
    random_regular,
)
from tnet.contraction.pairs import pairs_of_linear_path
from tnet.contraction.planners import greedy_small
from tnet.contraction.planners.greedy import random_greedy
from tnet.contraction.planners.greedy_small import small_tree
from tnet.contraction.planners.network import planning_network
from tnet.contraction.planners.trees import log2_macs


def cost_of(case, pairs):
    return log2_macs(planning_network(*case), np.array(pairs, np.int32).reshape(-1, 2))


def cost_of_other_library(case, search):
    inputs, output, sizes = case
    path = search([frozenset(t) for t in inputs], frozenset(output), dict(enumerate(sizes)))
    return cost_of(case, pairs_of_linear_path(path, len(inputs)))


cases = random_networks(1, 8, 10)


@given(cases, st.integers(0, 2**64))
def test_trees_are_valid_of_the_cost_told_and_never_below_the_least(case, seed):
    network = planning_network(*case)
    tree = random_greedy(network, seed=seed, n_trials=4)
    assert is_tree(tree.pairs, len(case[0]))
    assert tree.log2_macs == pytest.approx(log2_macs(network, tree.pairs))
    if len(case[0]) > 1:
        assert tree.log2_macs >= least_log2_macs(network, outer=True) - 1e-9


def test_many_trials_come_close_to_the_least_of_small_networks():
    for seed in range(20):
        network = planning_network(*random_regular(seed, 8))
        tree = random_greedy(network, seed=seed, n_trials=64)
        assert tree.log2_macs < least_log2_macs(network, outer=True) + 0.1


def test_one_seed_gives_one_tree_and_seeds_differ():
    network = planning_network(*random_regular(0, 60))
    trees = [random_greedy(network, seed=seed, n_trials=8).pairs for seed in (3, 3, 4)]
    assert (trees[0] == trees[1]).all()
    assert (trees[0] != trees[2]).any()


def test_more_trials_never_cost_more():
    network = planning_network(*random_regular(1, 100))
    costs = [random_greedy(network, seed=0, n_trials=n).log2_macs for n in (1, 4, 16, 64)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_beats_a_greedy_search_without_noise_of_another_library():
    gains = []
    for seed in range(5):
        case = random_regular(seed, 100)
        tree = random_greedy(planning_network(*case), seed=seed, n_trials=64)
        gains.append(cost_of_other_library(case, opt_einsum.paths.greedy) - tree.log2_macs)
    assert min(gains) > -1
    assert np.mean(gains) > 1


def test_components_are_joined_smallest_first():
    # Results of size 2, 3 and 50: joining the small ones first costs 6 + 300, any other order more.
    case = [(0, 3), (3,), (1, 4), (4,), (2, 5), (5,)], (0, 1, 2), [2, 3, 50, 7, 7, 7]
    steps = [2 * 7, 3 * 7, 50 * 7, 6, 300]
    assert random_greedy(planning_network(*case), seed=0, n_trials=1).log2_macs == pytest.approx(
        math.log2(sum(steps))
    )
    assert cost_of(case, small_tree(*case, seed=0)) == pytest.approx(math.log2(sum(steps)))


@pytest.mark.parametrize(
    "case",
    [
        chain(10_000),
        ([(0,)] * 2000, (), [3]),
        ([(0,)] * 200, (0,), [3]),
        ([(k,) for k in range(1500)], tuple(range(1500)), [2] * 1500),
        ([()] * 500, (), []),
        ([(0, k + 1) for k in range(300)], (0,), [2] + [2 + k for k in range(300)]),
        random_network(0, 600, 40, sizes=(2, 10**6)),
    ],
    ids=[
        "chain",
        "one index of all",
        "batch index of all",
        "outer",
        "scalars",
        "star of many sizes",
        "hyper-indices",
    ],
)
def test_thousands_of_operands(case):
    network = planning_network(*case)
    tree = random_greedy(network, seed=0, n_trials=2)
    assert is_tree(tree.pairs, len(case[0]))
    assert np.isfinite(tree.log2_macs)
    assert tree.log2_macs == pytest.approx(log2_macs(network, tree.pairs))


def test_a_chain_is_contracted_along_its_bonds():
    assert random_greedy(planning_network(*chain(3000)), seed=0, n_trials=1).log2_macs < math.log2(2999 * 4**3)


def test_a_deadline_in_the_past_still_gives_a_tree():
    network = planning_network(*random_regular(0, 1000, degree=12))
    started = time.perf_counter()
    tree = random_greedy(network, seed=0, n_trials=10**9, deadline=started)
    assert is_tree(tree.pairs, 1000)
    assert tree.log2_macs == pytest.approx(log2_macs(network, tree.pairs))


@given(cases, st.integers(0, 100))
def test_small_trees_are_valid_and_never_below_the_least(case, seed):
    n = len(case[0])
    pairs = small_tree(*case, seed=seed)
    assert is_tree(np.array(pairs, np.int32).reshape(-1, 2), n)
    assert all(a < b for a, b in pairs)
    if n > 1:
        assert cost_of(case, pairs) >= least_log2_macs(planning_network(*case), outer=True) - 1e-9


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(3, 7))
def test_small_trees_are_the_best_without_outer_products(seed, n):
    case = random_network(seed, n, n + 1, n_output=2)
    least = least_log2_macs(planning_network(*case), outer=False)
    assert cost_of(case, small_tree(*case, seed=0)) <= least + 1e-9


def test_small_trees_of_some_tens_of_operands_beat_another_library():
    gains = []
    for seed in range(30):
        case = random_regular(seed, 16 + seed % 20)
        gains.append(cost_of_other_library(case, opt_einsum.paths.auto) - cost_of(case, small_tree(*case, seed=seed)))
    assert np.mean(gains) > 0.15


def test_small_trees_with_huge_sizes_and_none():
    big = ([(k, k + 1) for k in range(12)], (0,), [10**40] * 13)
    assert is_tree(np.array(small_tree(*big, seed=0), np.int32), 12)
    empty = ([(0, 1), (1, 2), (2, 3), (3, 0)], (), [0, 0, 1, 2])
    assert is_tree(np.array(small_tree(*empty, seed=0), np.int32), 4)


def test_small_trees_with_noise_are_reproducible(monkeypatch):
    monkeypatch.setattr(greedy_small, "_NOISY", 5)
    case = random_regular(5, 30, degree=4)
    assert small_tree(*case, seed=1) == small_tree(*case, seed=1)
    assert any(small_tree(*case, seed=1) != small_tree(*case, seed=s) for s in range(2, 8))
