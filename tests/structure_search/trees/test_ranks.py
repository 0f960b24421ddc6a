"""Ranks of a fixed tree under a budget, against all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.structure_search.trees.random_trees import random_tree
from tests.structure_search.trees.test_topology import size
from tnet.structure_search.structure import Structure
from tnet.structure_search.trees.ranks import Assignment, fewest_params, least_tails, ranks_at_price
from tnet.structure_search.trees.topology import CutPrices, Tree, tree_of


def random_case(seed: int) -> tuple[Tree, list[CutPrices], np.ndarray]:
    """Return a tree, tails of its bonds, and (parameters, tails) of all ranks."""
    rng = np.random.default_rng(seed)
    n_modes = int(rng.integers(2, 5))
    tree = tree_of(random_tree(rng, n_modes, int(rng.integers(0, n_modes - 1))))
    n_ranks = 5 if len(tree.bonds) < 5 else 4
    tails = []
    for _ in tree.bonds:
        values = np.sort(10.0 ** (-6 * rng.random(n_ranks)))[::-1].copy()
        values[-1] *= rng.random() < 0.5
        tails.append(CutPrices(np.arange(1, n_ranks + 1), values))
    every = [
        (
            size(tree, tuple(place + 1 for place in chosen)),
            sum(t.prices[k] for t, k in zip(tails, chosen, strict=True)),
        )
        for chosen in itertools.product(range(n_ranks), repeat=len(tails))
    ]
    return tree, tails, np.array(every)


def check(tree: Tree, tails: list[CutPrices], found: Assignment) -> None:
    assert found.is_proven
    assert found.n_params == size(tree, found.ranks)
    total = sum(float(t.prices[t.ranks == rank][0]) for t, rank in zip(tails, found.ranks, strict=True))
    assert found.tails == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("seed", range(100))
def test_ranks_are_the_best_of_all(seed: int) -> None:
    tree, tails, every = random_case(seed)
    rng = np.random.default_rng(seed)
    budget = float(np.quantile(every[:, 1], 0.7 * rng.random()))
    fits = every[every[:, 1] <= budget * (1 - 1e-12)]
    found = fewest_params(tree, tails, budget * (1 - 1e-12))
    if fits.size:
        assert found is not None
        assert found.n_params == fits[:, 0].min()
        assert found.tails <= budget
        check(tree, tails, found)
    else:
        assert found is None
    most = int(rng.integers(every[:, 0].min(), every[:, 0].max()))
    found = least_tails(tree, tails, most)
    assert found is not None
    assert found.n_params <= most
    assert found.tails == pytest.approx(every[every[:, 0] <= most, 1].min(), rel=1e-9, abs=1e-12)
    check(tree, tails, found)
    price = float(10.0 ** (4 * rng.random()))
    found = ranks_at_price(tree, tails, price)
    assert found.n_params + price * found.tails == pytest.approx((every[:, 0] + price * every[:, 1]).min(), rel=1e-12)
    check(tree, tails, found)


def test_nothing_fits() -> None:
    tree, tails, every = random_case(0)
    assert fewest_params(tree, tails, 0.5 * float(every[:, 1].min()) - 1e-9) is None
    assert least_tails(tree, tails, int(every[:, 0].min()) - 1) is None


def test_single_core_has_no_ranks() -> None:
    tree = tree_of(Structure((4,)))
    assert fewest_params(tree, [], 0.0) == Assignment((), 4, 0.0, True)


def test_forty_ranks_on_thirteen_bonds_are_proven() -> None:
    rng = np.random.default_rng(3)
    bonds = tuple(
        sorted(
            [*((k, 8 + k // 2, 2) for k in range(8)), (8, 12, 2), (9, 12, 2), (10, 13, 2), (11, 13, 2), (12, 13, 2)]
        )
    )
    tree = tree_of(Structure((40,) * 8, bonds, 6))
    tails = [CutPrices(np.arange(1, 41), np.cumsum(np.sort(rng.random(40) ** 6))[::-1] / 100) for _ in tree.bonds]
    found = fewest_params(tree, tails, 0.3)
    assert found is not None
    assert found.is_proven
    assert found.tails <= 0.3
    back = least_tails(tree, tails, found.n_params)
    assert back is not None
    assert back.tails <= found.tails
