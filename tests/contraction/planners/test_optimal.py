import itertools
import math
import time

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
from tnet.contraction.planners import optimal as module
from tnet.contraction.planners.greedy import random_greedy
from tnet.contraction.planners.network import planning_network
from tnet.contraction.planners.optimal import optimal
from tnet.contraction.planners.trees import log2_macs

cases = random_networks(2, 6, 9)


@given(cases)
def test_with_outer_products_the_tree_is_the_least_of_all(case):
    network = planning_network(*case)
    tree = optimal(network, search_outer=True)
    assert tree is not None
    assert is_tree(tree.pairs, len(case[0]))
    assert tree.log2_macs == pytest.approx(log2_macs(network, tree.pairs))
    assert tree.log2_macs == pytest.approx(least_log2_macs(network, outer=True))


@pytest.mark.parametrize("most_in_dense_tables", [12, 1], ids=["all subsets", "levels"])
def test_without_them_the_tree_is_the_least_of_connected_subsets(most_in_dense_tables, monkeypatch):
    monkeypatch.setattr(module, "_MOST_IN_DENSE_TABLES", most_in_dense_tables)
    n_connected = 0
    for seed in range(150):
        case = random_network(seed, 2 + seed % 5, 1 + seed % 9, n_output=seed % 3)
        network = planning_network(*case)
        least = least_log2_macs(network, outer=False)
        tree = optimal(network)
        assert tree is not None
        assert is_tree(tree.pairs, len(case[0]))
        if least < math.inf:
            n_connected += 1
            assert tree.log2_macs == pytest.approx(least)
    assert n_connected > 30


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(13, 18))
def test_levels_and_tables_of_all_subsets_agree(seed, n):
    network = planning_network(*random_regular(seed, n))
    by_levels, with_outer = optimal(network), optimal(network, search_outer=n <= 14)
    assert by_levels is not None
    assert with_outer is not None
    assert by_levels.log2_macs >= with_outer.log2_macs - 1e-9
    assert by_levels.log2_macs <= random_greedy(network, seed=0, n_trials=32).log2_macs + 1e-9


def test_matrix_chains_take_the_textbook_cost():
    sizes = [30, 35, 15, 5, 10, 20, 25]  # Cormen et al., Introduction to Algorithms, 15.2: 15125 multiply-adds
    network = planning_network([(k, k + 1) for k in range(6)], (0, 6), sizes)
    tree = optimal(network)
    assert tree is not None
    assert 2**tree.log2_macs == pytest.approx(15125)


def test_a_chain_of_the_most_operands():
    tree = optimal(planning_network(*chain(64)))
    assert tree is not None
    assert 2**tree.log2_macs == pytest.approx(62 * 16 + 4)


def test_indices_of_many_sizes_and_of_more_bits_than_a_word():
    network = planning_network([(k, k + 1, 20 + k) for k in range(14)] + [tuple(range(20, 34))], (), range(2, 36))
    tree = optimal(network)
    assert tree is not None
    assert tree.log2_macs <= random_greedy(network, seed=0, n_trials=64).log2_macs + 1e-9


def test_costs_above_the_range_of_floating_point():
    bonds = [tuple(range(10 * k, 10 * k + 10)) for k in range(18)]
    for n in (5, 17):
        inputs = [a + b for a, b in itertools.pairwise(bonds[: n + 1])]
        tree = optimal(planning_network(inputs, bonds[0] + bonds[n], [2**50] * 180))
        assert tree is not None
        assert tree.log2_macs == pytest.approx(1500 + math.log2(n - 1))


def test_a_cap_below_the_least_cost_gives_none_and_one_at_it_the_tree():
    for n in (9, 15):
        network = planning_network(*random_regular(n, n, degree=4))
        tree = optimal(network)
        assert tree is not None
        assert optimal(network, log2_cost_cap=tree.log2_macs - 1e-3) is None
        again = optimal(network, log2_cost_cap=tree.log2_macs)
        assert again is not None
        assert again.log2_macs == pytest.approx(tree.log2_macs)


def test_too_many_operands_give_none_but_many_small_components_do_not():
    assert optimal(planning_network(*chain(65))) is None
    assert optimal(planning_network(*chain(21)), search_outer=True) is None
    many = planning_network([(k // 2,) for k in range(200)], (), [3] * 100)
    tree = optimal(many)
    assert tree is not None
    assert is_tree(tree.pairs, 200)
    assert 2**tree.log2_macs == pytest.approx(100 * 3 + 99)


@pytest.mark.parametrize("n", [1, 2])
def test_one_and_two_operands(n):
    tree = optimal(planning_network([(0,)] * n, (), [4]))
    assert tree is not None
    assert is_tree(tree.pairs, n)
    assert tree.log2_macs == (-math.inf if n == 1 else 2.0)


def test_a_deadline_in_the_past_and_a_full_table_give_none(monkeypatch):
    hard = planning_network(*random_regular(0, 60, degree=5))
    assert optimal(hard, deadline=time.perf_counter()) is None
    monkeypatch.setattr(module, "_MOST_SUBSETS", 1 << 10)
    assert optimal(hard) is None
