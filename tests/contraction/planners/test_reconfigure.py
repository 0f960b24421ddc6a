import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contraction.planners.trees import (
    chain,
    is_tree,
    least_log2_macs,
    random_network,
    random_networks,
    random_pairs,
    random_regular,
)
from tnet.contraction.planners.greedy import random_greedy
from tnet.contraction.planners.network import planning_network
from tnet.contraction.planners.reconfigure import reconfigure
from tnet.contraction.planners.trees import log2_macs
from tnet.errors import InputError

cases = random_networks(1, 20, 20)


@given(cases, st.integers(0, 2**32), st.integers(2, 9))
def test_trees_are_valid_of_the_cost_told_and_never_worse(case, seed, subtree_size):
    network, n = planning_network(*case), len(case[0])
    pairs = random_pairs(seed, n)
    given_pairs = pairs.copy()
    tree = reconfigure(network, pairs, subtree_size=subtree_size, seed=seed)
    assert is_tree(tree.pairs, n)
    assert tree.log2_macs == log2_macs(network, tree.pairs)
    assert tree.log2_macs <= log2_macs(network, pairs)
    assert (pairs == given_pairs).all()


@given(st.integers(0, 2**32), st.integers(2, 8))
def test_a_subtree_as_large_as_the_network_gives_the_least_of_all_trees(seed, n):
    network = planning_network(*random_network(seed, n, n + 2, n_output=2))
    tree = reconfigure(network, random_pairs(seed, n), subtree_size=8, seed=seed, max_rounds=1)
    assert tree.log2_macs == pytest.approx(least_log2_macs(network, outer=True))


def test_random_trees_of_a_chain_become_its_best():
    tree = reconfigure(planning_network(*chain(40)), random_pairs(0, 40), seed=0)
    assert 2**tree.log2_macs == pytest.approx(38 * 16 + 4)


def test_greedy_trees_improve_and_larger_subtrees_improve_more():
    gains = np.zeros(2)
    for seed in range(6):
        network = planning_network(*random_regular(seed, 100))
        greedy = random_greedy(network, seed=seed, n_trials=8)
        costs = [reconfigure(network, greedy.pairs, subtree_size=s, seed=seed).log2_macs for s in (4, 9)]
        gains += greedy.log2_macs - np.array(costs)
    assert 6 < gains[0] < gains[1]


def test_one_seed_gives_one_tree():
    network = planning_network(*random_regular(3, 120))
    start = random_greedy(network, seed=0, n_trials=1).pairs
    trees = [reconfigure(network, start, seed=seed).pairs for seed in (0, 0, 1, 2)]
    assert (trees[0] == trees[1]).all()
    assert any((trees[0] != other).any() for other in trees[2:])


def test_costs_above_the_range_of_floating_point():
    bonds = [tuple(range(10 * k, 10 * k + 10)) for k in range(10)]
    network = planning_network([a + b for a, b in itertools.pairwise(bonds)], bonds[0] + bonds[9], [2**50] * 100)
    tree = reconfigure(network, random_pairs(1, 9), seed=0, subtree_size=9)
    assert tree.log2_macs == pytest.approx(1503)


def test_thousands_of_operands():
    network = planning_network(*chain(5000))
    start = random_greedy(network, seed=0, n_trials=1)
    tree = reconfigure(network, start.pairs, seed=0, max_rounds=2, subtree_size=5)
    assert is_tree(tree.pairs, 5000)
    assert tree.log2_macs <= start.log2_macs


def test_a_deadline_in_the_past_gives_the_tree_back():
    network = planning_network(*random_regular(0, 100))
    pairs = random_pairs(0, 100)
    assert (reconfigure(network, pairs, seed=0, deadline=time.perf_counter()).pairs == pairs).all()


@pytest.mark.parametrize("subtree_size", [1, 15])
def test_subtree_sizes_out_of_range_are_refused(subtree_size):
    with pytest.raises(InputError, match="2 to 14"):
        reconfigure(planning_network(*chain(4)), random_pairs(0, 4), subtree_size=subtree_size, seed=0)
