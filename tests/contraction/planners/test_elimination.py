import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contraction.networks import networks
from tests.contraction.planners.trees import check_tree, grid, network_of
from tnet.contraction.planners.elimination import by_elimination
from tnet.contraction.planners.incidence import incidence
from tnet.contraction.planners.network import planning_network

ORDERS = ("min-fill", "min-degree")


@given(networks(max_operands=8), st.integers(0, 2**32), st.sampled_from(ORDERS))
def test_trees_are_valid(case, seed, order):
    spec, network = network_of(case)
    check_tree(by_elimination(network, seed=seed, order=order), spec)


@given(networks(max_operands=8))
def test_incidence_lists_legs_and_carriers(case):
    _, network = network_of(case)
    lists = incidence(network)
    found = {
        (k, int(i)) for k in range(len(network.legs)) for i in lists.legs[lists.first_leg[k] : lists.first_leg[k + 1]]
    }
    assert found == {
        (int(k), i)
        for i in range(len(lists.in_output))
        for k in lists.carriers[lists.first_carrier[i] : lists.first_carrier[i + 1]]
    }
    assert found == {
        (k, 64 * w + b)
        for k, row in enumerate(network.legs)
        for w in range(row.size)
        for b in range(64)
        if int(row[w]) >> b & 1
    }


@pytest.mark.parametrize("order", ORDERS)
def test_a_tree_of_factors_takes_its_tree_width(order):
    # A star of paths: every index has a neighbour that separates it, no step joins more than two indices.
    inputs = [(3 * arm + k, 3 * arm + k + 1) for arm in range(10) for k in range(2)]
    inputs += [(3 * arm, 30) for arm in range(10)]
    network = planning_network(inputs, (), [5] * 31)
    tree = by_elimination(network, seed=0, order=order)
    assert tree.log2_macs <= 2 * math.log2(5) + math.log2(len(inputs) - 1) + 1e-9


@pytest.mark.parametrize("order", ORDERS)
def test_a_hyper_index_of_all_operands_costs_no_more_than_itself(order):
    network = planning_network([(0,)] * 50, (), [7])
    assert by_elimination(network, seed=0, order=order).log2_macs == pytest.approx(math.log2(49 * 7))


def test_fill_counts_sizes():
    # Both 0 and 1 lack one edge; that of 0 joins two large indices, that of 1 two small ones.
    network = planning_network([(0, 2), (0, 3), (1, 4), (1, 5), (2, 4), (3, 5)], (), [2, 2, 64, 64, 2, 2])
    first = by_elimination(network, seed=0).pairs[0]
    assert first.tolist() == [2, 3]


def test_one_seed_gives_one_tree():
    _, network = network_of(grid(6, 6))
    first, again, other = (by_elimination(network, seed=seed).pairs for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("deadline", [0.0, math.inf])
def test_deadlines_and_networks_in_pieces(deadline):
    spec, network = network_of(grid(3, 3))
    check_tree(by_elimination(network, seed=0, deadline=deadline), spec)
    pieces = planning_network([(), (0,), (0,), (), (1, 2), (1, 2), ()], (2,), [3, 3, 3])
    assert by_elimination(pieces, seed=0, deadline=deadline).pairs.shape == (6, 2)
