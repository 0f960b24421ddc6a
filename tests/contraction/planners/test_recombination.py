import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contraction.networks import networks
from tests.contraction.planners.trees import check_tree, grid, network_of, random_pairs
from tnet.contraction.planners.annealing import anneal
from tnet.contraction.planners.greedy import random_greedy
from tnet.contraction.planners.network import planning_network
from tnet.contraction.planners.optimal import optimal
from tnet.contraction.planners.recombination import recombine
from tnet.contraction.planners.trees import Tree, log2_macs


def tree_of(network, pairs):
    pairs = np.array(pairs, np.int32).reshape(-1, 2)
    return Tree(pairs, log2_macs(network, pairs))


def random_trees(network, n_trees, seed):
    for k in range(n_trees):
        yield tree_of(network, random_pairs(seed + k, len(network.legs)))


def all_trees(n):
    """All orders of pairwise steps, each tree several times."""

    def go(nodes, pairs):
        if len(nodes) == 1:
            yield pairs
        for a, b in itertools.combinations(nodes, 2):
            rest = [v for v in nodes if v not in (a, b)]
            yield from go([*rest, n + len(pairs)], [*pairs, (a, b)])

    return go(list(range(n)), [])


@given(networks(max_operands=8), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_trees_are_valid_and_never_worse_than_the_best_given(case, n_trees, seed):
    spec, network = network_of(case)
    trees = list(random_trees(network, n_trees, seed))
    before = [tree.pairs.copy() for tree in trees]
    found = recombine(network, trees)
    check_tree(found, spec)
    assert found.log2_macs <= min(tree.log2_macs for tree in trees)
    assert all(np.array_equal(tree.pairs, pairs) for tree, pairs in zip(trees, before, strict=True))


@given(networks(max_operands=5))
def test_all_trees_together_hold_the_optimum(case):
    spec, network = network_of(case)
    trees = [tree_of(network, pairs) for pairs in all_trees(len(spec.inputs))]
    assert recombine(network, trees).log2_macs == min(tree.log2_macs for tree in trees)


def test_the_good_halves_of_two_trees_make_a_better_one():
    # Two triangles that hang together by one bond: each is contracted from one of two sides.
    triangle = [("a", "b"), ("b", "c"), ("a", "c", "m")]
    other = [tuple(label.upper() if label != "m" else label for label in term) for term in triangle]
    sizes = {"a": 64, "b": 4, "c": 4, "A": 64, "B": 4, "C": 4, "m": 2, "w": 2}
    number = {label: k for k, label in enumerate(sizes)}
    other[0] = (*other[0], "w")
    inputs = [[number[label] for label in term] for term in triangle + other]
    network = planning_network(inputs, [number["w"]], list(sizes.values()))
    left, right = ([(0, 1), (6, 2)], [(0, 2), (6, 1)]), ([(3, 4), (8, 5)], [(3, 5), (8, 4)])
    costs = {(a, b): tree_of(network, [*left[a], *right[b], (7, 9)]) for a in range(2) for b in range(2)}
    (a, b), best = min(costs.items(), key=lambda item: item[1].log2_macs)
    found = recombine(network, [costs[a, 1 - b], costs[1 - a, b]])
    assert found.log2_macs < min(costs[a, 1 - b].log2_macs, costs[1 - a, b].log2_macs)
    assert found.log2_macs == pytest.approx(best.log2_macs)


def test_trees_that_differ_by_their_root_are_recombined_as_well():
    spec, network = network_of(grid(4, 4))
    trees = [
        anneal(network, random_greedy(network, seed=s, n_trials=1).pairs, seed=s, n_sweeps=20) for s in range(40)
    ]
    best = optimal(network, search_outer=True)
    assert best is not None
    found = recombine(network, trees)
    check_tree(found, spec)
    assert found.log2_macs == pytest.approx(best.log2_macs)
    assert np.array_equal(found.pairs, recombine(network, trees).pairs)


def test_trees_kept_as_they_were_last_are_recombined_to_less():
    spec, network = network_of(grid(9, 9))
    start = random_greedy(network, seed=0, n_trials=1)
    near = [anneal(network, start.pairs, seed=seed, n_sweeps=10, beta=(1.0, 6.0), keep="last") for seed in range(20)]
    assert len({tree.log2_macs for tree in near}) > 10
    found = recombine(network, near)
    check_tree(found, spec)
    assert found.log2_macs < min(tree.log2_macs for tree in near) - 0.05


def test_one_tree_is_returned_and_costs_may_exceed_the_largest_float():
    labels = range(40)
    network = planning_network([labels, labels, labels, (0,)], labels, [2**60] * 40)
    trees = list(random_trees(network, 10, 0))
    assert recombine(network, trees[:1]) is trees[0]
    assert recombine(network, trees).log2_macs == pytest.approx(2400 + np.log2(3))
