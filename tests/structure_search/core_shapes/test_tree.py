"""Ranks of trees against brute force, and against the trains and Tucker models that are special trees."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import tnet
from tnet.errors import InputError, ShapeError
from tnet.structure_search.core_shapes.tree import tree_core_shape
from tnet.structure_search.core_shapes.tucker import core_shape
from tnet.structure_search.structure import Structure, structure_of_ranks


def with_ranks(tree: Structure, ranks: Sequence[int]) -> Structure:
    matrix = np.ones((tree.n_cores, tree.n_cores), dtype=int)
    for (i, j, _), rank in zip(tree.bonds, ranks, strict=True):
        matrix[i, j] = matrix[j, i] = rank
    return structure_of_ranks(tree.shape, matrix)


def random_tree(seed: int) -> tuple[Structure, list[np.ndarray], int]:
    """A tree whose inner cores carry modes or none, spectra of its bonds, and a budget."""
    rng = np.random.default_rng(seed)
    n_modes, n_internal = int(rng.integers(2, 5)), int(rng.integers(0, 2))
    n_cores = n_modes + n_internal
    number = rng.permutation(n_cores)
    bonds = []
    for k in range(1, n_cores):
        i, j = sorted((int(number[rng.integers(0, k)]), int(number[k])))
        bonds.append((i, j, 2))
    tree = Structure(tuple(rng.integers(1, 6, n_modes).tolist()), tuple(sorted(bonds)), n_internal)
    spectra = [rng.random(rng.integers(1, 7)) ** rng.integers(1, 5) for _ in tree.bonds]
    most = with_ranks(tree, [len(s) for s in spectra]).n_params
    return tree, spectra, int(rng.integers(sum(tree.shape) + n_internal, most + 2))


def test_ranks_equal_brute_force_on_200_trees():
    for seed in range(200):
        tree, spectra, budget = random_tree(seed)
        found = tree_core_shape(tree=tree, spectra=spectra, max_params=budget)
        sums = [np.cumsum(np.sort(s)[::-1]) for s in spectra]
        best = 0.0
        for ranks in itertools.product(*(range(1, len(s) + 1) for s in sums)):
            if with_ranks(tree, ranks).n_params <= budget:
                best = max(best, sum(float(f[r - 1]) for f, r in zip(sums, ranks, strict=True)))
        assert found.is_proven
        assert found.value == pytest.approx(best, rel=1e-12), seed
        assert found.structure.bonds == with_ranks(tree, found.ranks).bonds
        assert found.n_params == found.structure.n_params <= budget


def test_the_star_is_a_tucker_model():
    x = np.random.default_rng(0).standard_normal((4, 5, 6)).cumsum(axis=1).cumsum(axis=2)
    star = Structure(x.shape, ((0, 3, 2), (1, 3, 2), (2, 3, 2)), 1)
    for budget in (30, 60, 100):
        tree, tucker = tree_core_shape(x, tree=star, max_params=budget), core_shape(x, max_params=budget)
        assert tree.ranks == tucker.ranks
        assert tree.value == pytest.approx(tucker.value)
        assert tree.rse_bounds == pytest.approx(tucker.rse_bounds)


def test_trains_stay_within_the_bounds(convert: Callable[..., Any]):
    x = np.random.default_rng(1).standard_normal((4, 5, 3, 4)).cumsum(axis=0).cumsum(axis=1).cumsum(axis=3)
    train = Structure(x.shape, ((0, 1, 2), (1, 2, 2), (2, 3, 2)))
    for budget in (30, 60, 90):
        found = tree_core_shape(convert(x), tree=train, max_params=budget)
        model = tnet.tt(x, found.ranks)
        assert model.tensor.n_params == found.n_params
        low, high = found.rse_bounds
        assert low * (1 - 1e-9) <= model.error**2 <= high * (1 + 1e-9)


def test_spectra_belong_to_the_bonds_in_their_order():
    tree = Structure((2, 2, 2), ((0, 2, 2), (1, 2, 2)))  # core 2 in the middle
    found = tree_core_shape(tree=tree, spectra=[[1.0, 0.5], [1.0, 0.1]], max_params=10)
    assert found.ranks == (2, 1)
    assert found.structure.bonds == ((0, 2, 2),)


def test_an_internal_core_at_an_end_stays_at_rank_one():
    x = np.random.default_rng(0).standard_normal((3, 3))
    found = tree_core_shape(x, tree=Structure((3, 3), ((0, 1, 2), (1, 2, 2)), 1), max_params=100)
    assert found.ranks == (3, 1)
    assert "the best" in repr(found)


CHAIN = Structure((2, 3, 4), ((0, 1, 2), (1, 2, 2)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tree": CHAIN, "max_params": 20}, InputError, "neither given"),
        (
            {"x": np.ones((2, 3, 4)), "spectra": [[1.0]] * 2, "tree": CHAIN, "max_params": 20},
            InputError,
            "both given",
        ),
        ({"x": np.ones((2, 3, 5)), "tree": CHAIN, "max_params": 20}, ShapeError, "shape"),
        ({"x": np.ones((2, 3, 4)), "tree": CHAIN, "max_params": 8}, InputError, "takes 9 parameters"),
        ({"spectra": [[1.0]], "tree": CHAIN, "max_params": 20}, ShapeError, "one for each"),
        ({"x": np.ones((2, 3)), "tree": Structure((2, 3)), "max_params": 20}, InputError, "join all cores"),
        (
            {"x": np.ones((2, 3, 4)), "tree": Structure((2, 3, 4), ((0, 1, 2),)), "max_params": 20},
            InputError,
            "join all cores",
        ),
        (
            {
                "x": np.ones((2, 2, 2)),
                "tree": Structure((2, 2, 2), ((0, 1, 2), (0, 2, 2), (1, 2, 2))),
                "max_params": 20,
            },
            InputError,
            "without loops",
        ),
    ],
)
def test_bad_input_is_told_apart(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        tree_core_shape(**arguments)


TRAIN = Structure((2, 3, 2), ((0, 1, 2), (1, 2, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tree": 5, "spectra": [[1.0]]}, "tree=5"),
        ({"tree": TRAIN, "spectra": 5}, "spectra is a int"),
        ({"tree": TRAIN, "spectra": "ab"}, "spectra is a str"),
        ({"tree": TRAIN, "spectra": [["a"], ["b"]]}, "real numbers"),
        ({"tree": TRAIN, "spectra": [[1j], [1j]]}, "real numbers"),
        ({"tree": TRAIN, "spectra": [[1e308, 1e308], [1.0]]}, "their sum too"),
    ],
)
def test_what_is_no_tree_and_no_spectrum(arguments, message):
    with pytest.raises(InputError, match=message):
        tree_core_shape(max_params=50, **arguments)


def test_nested_lists_are_read():
    assert tree_core_shape([[1.0, 0.0], [0.0, 2.0]], tree=Structure((2, 2), ((0, 1, 2),)), max_params=4).ranks == (1,)
