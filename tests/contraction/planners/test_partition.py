import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contraction.networks import networks
from tests.contraction.planners.trees import check_tree, grid, network_of
from tnet.contraction.planners import partition
from tnet.contraction.planners.network import planning_network
from tnet.contraction.planners.partition import by_partition, hypergraph, smallest_cut


def cut_of(graph, side):
    pins = [graph.pins[a:b] for a, b in zip(graph.first_pin, graph.first_pin[1:], strict=False)]
    return sum(
        int(w) for w, net in zip(graph.net_weight, pins, strict=True) if 0 < sum(side[v] for v in net) < len(net)
    )


@given(networks(max_operands=8), st.integers(0, 2**32), st.integers(1, 5))
def test_trees_are_valid(case, seed, smallest):
    spec, network = network_of(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "_SMALL_PART", max(smallest, 2))
        check_tree(by_partition(network, seed=seed), spec)


@given(
    st.lists(st.sets(st.integers(0, 8), min_size=2, max_size=5), max_size=14),
    st.integers(0, 2**32),
    st.integers(5, 7),
)
def test_small_hypergraphs_are_cut_as_well_as_can_be(nets, seed, most):
    inputs = [tuple(i for i, net in enumerate(nets) if v in net) for v in range(9)]
    graph = hypergraph(planning_network(inputs, (), [2] * len(nets)))
    side = smallest_cut(graph, most, np.random.default_rng(seed))
    assert 9 - most <= side.sum() <= most
    least = min(cut_of(graph, s) for s in product((0, 1), repeat=9) if 9 - most <= sum(s) <= most)
    assert cut_of(graph, side) == least


@pytest.mark.parametrize(("rows", "columns"), [(8, 30), (12, 12)])
def test_lattices_are_cut_across(rows, columns):
    _, network = network_of(grid(rows, columns))
    graph = hypergraph(network)
    side = smallest_cut(graph, math.ceil(0.55 * rows * columns), np.random.default_rng(0))
    assert cut_of(graph, side) == rows * int(graph.net_weight[0])


def test_levels_keep_the_cut():
    _, network = network_of(grid(10, 12))
    graph = hypergraph(network)
    cluster, n_clusters = partition._matching(graph, 2, np.zeros(1, np.uint64))
    coarse = partition._Hypergraph(*partition._contracted(graph, cluster, n_clusters))
    assert coarse.vertex_weight.sum() == 120
    assert np.bincount(cluster).max() == 2
    side = np.random.default_rng(0).integers(0, 2, n_clusters)
    assert cut_of(coarse, side) == cut_of(graph, side[cluster])


def test_refinement_returns_the_cut_it_leaves_and_never_raises_it():
    _, network = network_of(grid(10, 12))
    graph = hypergraph(network)
    for seed in range(5):
        side = np.random.default_rng(seed).permutation(np.repeat([0, 1], 60)).astype(np.int8)
        before = cut_of(graph, side)
        cut = partition._refine(graph, side, 70, 4)
        assert cut == cut_of(graph, side) < before
        assert 50 <= side.sum() <= 70


@pytest.mark.parametrize("n", [2, 3, 50, 200])
def test_networks_without_indices(n):
    network = planning_network([()] * n, (), [])
    tree = by_partition(network, seed=0)
    assert sorted(tree.pairs.ravel().tolist()) == list(range(2 * n - 2))


def test_stars_and_pieces():
    star = planning_network([tuple(range(100)), *((k,) for k in range(100))], (), [2] * 100)
    hyper = planning_network([(0,)] * 150 + [(1, 2)] * 30, (2,), [3, 2, 2])
    for network in (star, hyper):
        n = len(network.legs)
        assert sorted(by_partition(network, seed=1).pairs.ravel().tolist()) == list(range(2 * n - 2))


def test_one_seed_gives_one_tree():
    _, network = network_of(grid(8, 8))
    first, again, other = (by_partition(network, seed=seed).pairs for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_deadline_past_gives_a_greedy_tree():
    spec, network = network_of(grid(6, 6))
    check_tree(by_partition(network, seed=0, deadline=0.0), spec)
