"""The best of all trees, against all of them one by one; moves between trees; hulls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import seeds
from tests.structure_search.trees.random_trees import random_tree
from tnet.structure_search.structure import Structure
from tnet.structure_search.trees.lower_hull import Hull, least_at, lower_hull, products
from tnet.structure_search.trees.moves import tree_moves
from tnet.structure_search.trees.topology import CutPrices, Tree, cheapest_tree, tree_of


def all_trees(shape: tuple[int, ...], n_internal: int) -> Iterator[Tree]:
    """Yield all trees with so many internal cores of three bonds or more, by their Pruefer codes."""
    n, n_cores = len(shape), len(shape) + n_internal
    for code in itertools.product(range(n_cores), repeat=n_cores - 2):
        degree = [1 + code.count(core) for core in range(n_cores)]
        if any(degree[core] < 3 for core in range(n, n_cores)):
            continue
        bonds = []
        for core in code:
            leaf = degree.index(1)
            bonds.append((min(leaf, core), max(leaf, core), 2))
            degree[leaf], degree[core] = 0, degree[core] - 1
        last = [core for core in range(n_cores) if degree[core] == 1]
        yield tree_of(Structure(shape, tuple(sorted([*bonds, (last[0], last[1], 2)])), n_internal))


def size(tree: Tree, ranks: tuple[int, ...]) -> int:
    sizes = [*tree.shape, *[1] * tree.n_internal]
    for (i, j), rank in zip(tree.bonds, ranks, strict=True):
        sizes[i] *= rank
        sizes[j] *= rank
    return sum(sizes)


def least_of_all(
    shape: tuple[int, ...], cuts: dict[int, CutPrices], max_internal: int, max_degree: int | None
) -> float:
    best = math.inf
    for n_internal in range(max_internal + 1):
        for tree in all_trees(shape, n_internal):
            if max_degree is None or tree.degree <= max_degree:
                choices = [list(zip(*cuts[cut], strict=True)) for cut in tree.cuts]
                for chosen in itertools.product(*choices):
                    cost = size(tree, tuple(int(rank) for rank, _ in chosen)) + sum(price for _, price in chosen)
                    best = min(best, cost)
    return best


def random_cuts(rng: np.random.Generator, n: int, ranks: tuple[int, ...], scale: float) -> dict[int, CutPrices]:
    return {
        2 * mask: CutPrices(np.array(ranks), np.sort(scale * rng.random(len(ranks)))[::-1])
        for mask in range(1, 2 ** (n - 1))
    }


@pytest.mark.parametrize("max_degree", [None, 2, 3])
@pytest.mark.parametrize("max_internal", [0, 2])
@pytest.mark.parametrize("n_modes", [2, 3, 4])
def test_cheapest_tree_is_the_least_of_all(n_modes: int, max_internal: int, max_degree: int | None) -> None:
    rng = np.random.default_rng(n_modes)
    internal_price = 0.0 if max_internal else math.inf
    for scale in (3.0, 30.0):
        shape = tuple(int(n) for n in rng.integers(2, 5, n_modes))
        cuts = random_cuts(rng, n_modes, (1, 2, 4), scale)
        cost, tree, ranks = cheapest_tree(shape, cuts, max_degree=max_degree, internal_price=internal_price)
        prices = [
            float(cuts[cut].prices[cuts[cut].ranks == rank][0]) for cut, rank in zip(tree.cuts, ranks, strict=True)
        ]
        assert cost == pytest.approx(size(tree, ranks) + sum(prices))
        assert cost == pytest.approx(least_of_all(shape, cuts, max_internal, max_degree))
        again = cheapest_tree(
            shape, cuts, max_degree=max_degree, internal_price=internal_price, at_most=cost * (1 + 1e-12)
        )
        assert again[0] == pytest.approx(cost)
        with pytest.raises(ValueError, match="no tree"):
            cheapest_tree(shape, cuts, max_degree=max_degree, internal_price=internal_price, at_most=0.99 * cost)


def test_five_modes_and_stars_against_all_trees() -> None:
    rng = np.random.default_rng(5)
    shape = (2, 3, 2, 4, 2)
    cuts = random_cuts(rng, 5, (1, 2), 20.0)
    assert cheapest_tree(shape, cuts)[0] == pytest.approx(least_of_all(shape, cuts, 3, None))
    # Single modes alone leave nothing but stars: round mode 0, or round an internal core beyond a bond of mode 0.
    leaves = {1 << k: CutPrices(np.array([2]), np.zeros(1)) for k in range(1, 5)}
    assert cheapest_tree(shape, leaves)[0] == 2 * 2**4 + 2 * (3 + 2 + 4 + 2)


def test_many_modes_take_runs_of_neighbours() -> None:
    n = 16
    runs = [sum(1 << k for k in range(i, j)) for i in range(1, n) for j in range(i + 1, n + 1)]
    cuts = {run: CutPrices(np.array([2]), np.zeros(1)) for run in runs}
    cost, tree, ranks = cheapest_tree((2,) * n, cuts, internal_price=math.inf)
    assert cost == size(tree, ranks) == 2 * 4 + (n - 2) * 8  # a train, as good as any tree of rank 2


def test_cut_that_is_missing_is_not_used() -> None:
    shape = (3, 3, 3)
    cuts = {mask: CutPrices(np.array([2]), np.zeros(1)) for mask in (0b010, 0b100)}
    _, tree, ranks = cheapest_tree(shape, cuts)
    assert set(tree.cuts) == {0b010, 0b100}
    assert tree.structure(ranks).bonds == ((0, 1, 2), (0, 2, 2))
    with pytest.raises(ValueError, match="no tree"):
        cheapest_tree(shape, {0b010: cuts[0b010]})


@given(seeds, st.integers(2, 6), st.integers(0, 2))
def test_tree_of_a_structure_gives_it_back(seed: int, n_modes: int, n_internal: int) -> None:
    structure = random_tree(np.random.default_rng(seed), n_modes, min(n_internal, n_modes - 1))
    tree = tree_of(structure)
    assert tree.structure([structure.rank(*bond) for bond in tree.bonds]) == structure
    for (_, child), cut in zip(tree.bonds, tree.cuts, strict=True):
        assert cut & 1 == 0
        assert child >= n_modes or cut >> child & 1


@given(seeds, st.integers(3, 6), st.integers(0, 2))
def test_moves_are_trees_and_can_be_undone(seed: int, n_modes: int, n_internal: int) -> None:
    rng = np.random.default_rng(seed)
    structure = random_tree(rng, n_modes, 0)
    tree = tree_of(structure)
    moved = tree_moves(tree, max_internal=n_internal)
    assert tree not in moved
    assert len(set(moved)) == len(moved)
    for other in moved:
        shown = other.structure([2] * len(other.bonds))
        assert shown.is_tree
        assert len(other.bonds) == n_modes + other.n_internal - 1
        assert all(shown.degree(core) > 2 for core in range(n_modes, shown.n_cores))
    back = moved[int(rng.integers(len(moved)))]
    reached = [other.structure([2] * len(other.bonds)) for other in tree_moves(back, max_internal=max(1, n_internal))]
    assert tree.structure([2] * len(tree.bonds)) in reached
    for other in tree_moves(tree, max_internal=n_internal, max_degree=2):
        assert other.degree <= 2


@given(seeds, st.integers(1, 30))
def test_hull_holds_the_least_at_every_slope(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    weights, costs = rng.integers(1, 9, n).astype(float), np.round(rng.standard_normal(n), 1)
    costs[rng.random(n) < 0.1] = np.inf
    kept = lower_hull(weights, costs)
    if not np.isfinite(costs).any():
        assert kept.size == 0
        return
    assert np.all(np.diff(weights[kept]) > 0)
    assert np.all(np.diff(costs[kept]) < 0)
    slopes = np.array([0.0, 0.01, 0.3, 1.0, 7.0, 1e6])
    found, _ = least_at(Hull(weights[kept], costs[kept], kept[:, None]), slopes)
    np.testing.assert_allclose(found, np.min(slopes[:, None] * weights + costs, axis=1))


def test_products_of_hulls_hold_the_least_product() -> None:
    rng = np.random.default_rng(0)
    tables = [(np.arange(1.0, 7), np.sort(5 * rng.random(6))[::-1]) for _ in range(3)]
    hulls = [Hull(w[k], c[k], k[:, None]) for w, c in tables for k in [lower_hull(w, c)]]
    joined = products(hulls)
    for slope in (0.01, 0.1, 1.0):
        least = min(
            slope * math.prod(w for w, _ in chosen) + sum(c for _, c in chosen)
            for chosen in itertools.product(*(list(zip(*table, strict=True)) for table in tables))
        )
        value, point = least_at(joined, np.array([slope]))
        assert value[0] == pytest.approx(least)
        picks = joined.picks[point[0]]
        assert joined.weights[point[0]] == math.prod(hull.weights[i] for hull, i in zip(hulls, picks, strict=True))
