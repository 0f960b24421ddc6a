import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contraction.networks import networks
from tests.contraction.planners.trees import check_tree, grid, network_of
from tnet.contraction.planners import linear
from tnet.contraction.planners.linear import along_a_line
from tnet.contraction.planners.network import planning_network
from tnet.contraction.planners.optimal import optimal


def sandwich(length, rank, operator_rank, size, order=None):
    """<x|A|x> with operands in a given order."""
    sizes, number, inputs = [], {}, []

    def index(name, n):
        if name not in number:
            number[name] = len(sizes)
            sizes.append(n)
        return number[name]

    for k in range(length):
        for name, bond, physical in (("ket", rank, "l"), ("mpo", operator_rank, "lu"), ("bra", rank, "u")):
            bonds = [index((name, j), bond) for j in (k, k + 1) if 0 < j < length]
            inputs.append((*bonds, *(index((p, k), size) for p in physical)))
    if order is not None:
        inputs = [inputs[k] for k in order]
    return planning_network(inputs, (), sizes)


@given(networks(max_operands=8), st.integers(0, 2**32), st.sampled_from([1, 2, 3, 8]))
def test_trees_are_valid_with_windows_of_any_length(case, seed, window):
    spec, network = network_of(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_affordable_window", lambda n, n_words: min(n, window))
        check_tree(along_a_line(network, seed=seed), spec)


def test_a_chain_of_matrices_is_solved():
    sizes = [int(s) for s in np.random.default_rng(0).integers(2, 90, 12)]
    network = planning_network([(k, k + 1) for k in range(11)], (0, 11), sizes)
    best = optimal(network)
    assert best is not None
    assert along_a_line(network, seed=0).log2_macs == pytest.approx(best.log2_macs)


@pytest.mark.parametrize("window", [6, 120])
def test_the_sweep_of_an_expectation_value_is_found_whatever_the_order(window, monkeypatch):
    length, rank, operator_rank, size = 40, 32, 4, 2
    monkeypatch.setattr(linear, "_affordable_window", lambda n, n_words: min(n, window))
    order = np.random.default_rng(1).permutation(3 * length)
    tree = along_a_line(sandwich(length, rank, operator_rank, size, order), seed=0)
    site = 2 * rank**3 * operator_rank * size + rank**2 * operator_rank**2 * size**2
    assert tree.log2_macs <= math.log2(length * site)


def test_wider_windows_are_never_worse(monkeypatch):
    network = sandwich(10, 8, 3, 2)
    costs = []
    for window in (1, 3, 9, 30):
        monkeypatch.setattr(linear, "_affordable_window", lambda n, n_words, window=window: min(n, window))
        costs.append(along_a_line(network, seed=0).log2_macs)
    assert costs == sorted(costs, reverse=True)


def test_one_seed_gives_one_tree():
    _, network = network_of(grid(5, 5))
    assert np.array_equal(along_a_line(network, seed=4).pairs, along_a_line(network, seed=4).pairs)


def test_windows_fit_time_and_memory():
    assert linear._affordable_window(300, 8) == 300
    for n, n_words in ((3000, 78), (20_000, 300), (10**6, 10**4)):
        window = linear._affordable_window(n, n_words)
        assert window >= 1
        assert window == 1 or (n * window**2 / 2 - window**3 / 3) * (n_words + 8) <= linear._MOST_WORK


@pytest.mark.parametrize("deadline", [0.0, math.inf])
def test_deadlines_pieces_and_costs_beyond_the_largest_float(deadline):
    spec, network = network_of(grid(4, 4))
    check_tree(along_a_line(network, seed=0, deadline=deadline), spec)
    pieces = planning_network([(), (0,), (0,), (), (1, 2), (1, 2), ()], (2,), [3, 3, 3])
    assert along_a_line(pieces, seed=0, deadline=deadline).pairs.shape == (6, 2)
    labels = range(40)
    huge = planning_network([labels, labels, labels], labels, [2**60] * 40)
    assert along_a_line(huge, seed=0, deadline=deadline).log2_macs == pytest.approx(2401)
