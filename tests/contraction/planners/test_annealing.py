import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contraction.networks import networks
from tests.contraction.planners.trees import check_tree, grid, network_of
from tnet.contraction.pairs import result_indices
from tnet.contraction.planners.annealing import anneal
from tnet.contraction.planners.network import planning_network
from tnet.contraction.planners.optimal import optimal
from tnet.contraction.planners.trees import log2_macs


def one_by_one(n):
    """The tree that contracts the operands in their order."""
    return np.array([(max(n + k - 1, 0) if k else 0, k + 1) for k in range(n - 1)], np.int32).reshape(-1, 2)


@given(networks(max_operands=8), st.integers(0, 2**64 - 1))
def test_trees_are_valid_and_never_worse_than_the_start(case, seed):
    spec, network = network_of(case)
    start = one_by_one(len(spec.inputs))
    before = start.copy()
    tree = anneal(network, start, seed=seed, n_sweeps=5)
    check_tree(tree, spec)
    assert tree.log2_macs <= log2_macs(network, start) + 1e-9
    assert np.array_equal(start, before)


@pytest.mark.parametrize("case", [grid(4, 4), grid(3, 5, 3)])
def test_small_lattices_are_solved(case):
    _, network = network_of(case)
    best = optimal(network, search_outer=True)
    tree = anneal(network, one_by_one(len(network.legs))[:, ::-1], seed=3, n_sweeps=2000)
    assert best is not None
    assert tree.log2_macs == pytest.approx(best.log2_macs)


def test_one_seed_gives_one_tree_and_another_another():
    _, network = network_of(grid(6, 6))
    start = one_by_one(36)
    first, again, other = (anneal(network, start, seed=seed, n_sweeps=30).pairs for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_size_target_is_worth_multiply_adds():
    spec, network = network_of(grid(5, 8))
    start = one_by_one(40)[:, ::-1]

    def score(tree, target):
        sizes = [len(row) for row in result_indices(spec, tree.pairs.tolist())[40:]]
        return tree.log2_macs + max(0, max(sizes) - target)

    for target in (3.0, 5.0):
        tree = anneal(network, start, seed=0, n_sweeps=300, log2_size_target=target)
        check_tree(tree, spec)
        assert score(tree, target) <= score(anneal(network, start, seed=0, n_sweeps=0), target)
        assert score(tree, target) <= score(anneal(network, start, seed=0, n_sweeps=300), target) + 0.5


def test_the_last_tree_may_cost_more_than_the_start():
    spec, network = network_of(grid(6, 6))
    start = anneal(network, one_by_one(36), seed=0, n_sweeps=300)
    hot = [anneal(network, start.pairs, seed=s, n_sweeps=5, beta=(0.1, 0.2), keep="last") for s in range(3)]
    for tree in hot:
        check_tree(tree, spec)
        assert tree.log2_macs > start.log2_macs + 0.1


def test_no_sweeps_or_a_deadline_past_give_the_start():
    _, network = network_of(grid(5, 5))
    start = one_by_one(25)
    assert anneal(network, start, seed=0, n_sweeps=0).log2_macs == pytest.approx(log2_macs(network, start))
    assert anneal(network, start, seed=0, n_sweeps=10**9, deadline=0.0).log2_macs <= log2_macs(network, start)


def test_a_deadline_shortens_the_schedule_to_its_cold_end():
    _, network = network_of(grid(6, 6))
    start = one_by_one(36)
    anneal(network, start, seed=0, n_sweeps=1)  # compiled from here on
    cut = anneal(network, start, seed=0, n_sweeps=10**9, deadline=time.perf_counter() + 0.3)
    assert cut.log2_macs < log2_macs(network, start)


def test_costs_beyond_the_largest_float():
    labels = range(40)
    network = planning_network([labels, labels, labels, (0,)], labels, [2**60] * 40)
    tree = anneal(network, one_by_one(4), seed=0, n_sweeps=50)
    assert tree.log2_macs == pytest.approx(2400 + np.log2(3))
