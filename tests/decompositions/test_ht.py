"""Hierarchical Tucker: quasi-optimality on trees, known ranks, the tolerance, rounding of what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tnet
from tnet.algebra import add
from tnet.errors import InputError, RankError, ShapeError
from tnet.formats.hierarchical_tucker import balanced_tree, tree_nodes
from tnet.results import Status

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)
TREES = [
    None,
    ((0, 1), (2, 3)),
    ((3, 0), (2, 1)),
    (0, (1, (2, 3))),
    (((2, 0), 3), 1),
    (0, 1, 2, 3),
    ((0, 1, 2), 3),
    ((0, 2), 1, 3),
]


def unfolded(x: np.ndarray, modes: tuple[int, ...]) -> np.ndarray:
    return np.moveaxis(x, modes, range(len(modes))).reshape(math.prod(x.shape[k] for k in modes), -1)


def unfoldings(x: np.ndarray, tree: Any) -> list[np.ndarray]:
    """One for each node below the root, in depth-first order."""
    return [unfolded(x, node.modes) for node in tree_nodes(tree)[1:]]


def distance(x: np.ndarray, result: Any) -> float:
    return float(np.linalg.norm(x - np.asarray(result.tensor)))


@given(shapes, st.integers(1, 4), st.integers(0, 10_000), st.booleans())
def test_quasi_optimal_on_balanced_trees(shape: tuple[int, ...], rank: int, seed: int, complex_: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)
    matrices = unfoldings(x, balanced_tree(len(shape)))
    ranks = [min(rank, *matrix.shape) for matrix in matrices]
    result = tnet.ht(x, ranks)
    tails = [
        float(np.linalg.norm(np.linalg.svd(matrix, compute_uv=False)[r:]))
        for matrix, r in zip(matrices, ranks, strict=True)
    ]
    # No tensor of these ranks beats the largest tail. One of the two equal tails below the root counts once.
    spent = sum(t * t for t in tails) - (tails[0] ** 2 if len(shape) > 1 else 0.0)
    assert max(tails) - 1e-12 <= distance(x, result) <= math.sqrt(max(spent, 0.0)) + 1e-7
    assert distance(x, result) <= math.sqrt(max(2 * len(shape) - 3, 1)) * max(tails) + 1e-7
    assert result.error * np.linalg.norm(x) == pytest.approx(distance(x, result), abs=1e-10)
    assert all(r <= bound for r, bound in zip(result.tensor.rank, ranks, strict=True))


@pytest.mark.parametrize("tree", TREES)
@given(rank=st.integers(1, 4), seed=st.integers(0, 1000))
def test_quasi_optimal_on_any_tree(tree: Any, rank: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(3, 4, 2, 3))
    matrices = unfoldings(x, balanced_tree(4) if tree is None else tree)
    ranks = [min(rank, *matrix.shape) for matrix in matrices]
    result = tnet.ht(x, ranks, tree=tree)
    tails = [np.linalg.svd(m, compute_uv=False)[r:] for m, r in zip(matrices, ranks, strict=True)]
    squares = [float(np.sum(tail**2)) for tail in tails]
    assert max(squares) - 1e-12 <= distance(x, result) ** 2 <= sum(squares) + 1e-12


@pytest.mark.parametrize("tree", TREES)
@given(rtol=st.floats(0.0, 0.99), seed=st.integers(0, 1000))
def test_the_tolerance_is_kept(tree: Any, rtol: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(3, 4, 2, 3))
    result = tnet.ht(x, rtol=rtol, tree=tree)
    assert distance(x, result) <= (rtol + 1e-13) * np.linalg.norm(x)
    assert result.status is Status.DIRECT
    assert result.tensor.tree == (balanced_tree(4) if tree is None else tree)


@given(shapes, st.floats(0.0, 0.99), st.integers(0, 1000))
def test_the_tolerance_is_kept_at_any_order(shape: tuple[int, ...], rtol: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=shape)
    assert distance(x, tnet.ht(x, rtol=rtol)) <= (rtol + 1e-13) * np.linalg.norm(x)


def test_functions_with_known_ranks() -> None:
    grid: Any = sum(np.meshgrid(*[np.linspace(0, 1, 5)] * 5, indexing="ij"))
    for tree in (None, (0, (1, (2, (3, 4))))):
        assert set(tnet.ht(grid, rtol=1e-6, tree=tree).tensor.rank) == {2}
        assert set(tnet.ht(np.sin(grid), rtol=1e-6, tree=tree).tensor.rank) == {2}
        assert set(tnet.ht(np.exp(grid), rtol=1e-6, tree=tree).tensor.rank) == {1}


def test_the_tree_that_fits_needs_least() -> None:
    # Modes 0 and 2 depend on each other, and 1 and 3.
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(6, 6)), rng.normal(size=(6, 6))
    x = np.einsum("ac,bd->abcd", A, B)
    fitting, other = tnet.ht(x, rtol=1e-10, tree=((0, 2), (1, 3))), tnet.ht(x, rtol=1e-10)
    assert fitting.tensor.rank == (1, 6, 6, 1, 6, 6)
    assert other.tensor.rank == (36, 6, 6, 36, 6, 6)
    assert fitting.tensor.n_params < other.tensor.n_params / 5


def test_one_level_is_tucker() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    flat, tucker = tnet.ht(x, 3, tree=(0, 1, 2)), tnet.tucker(x, 3)
    assert np.allclose(np.asarray(flat.tensor), np.asarray(tucker.tensor), atol=1e-10)
    assert flat.error == pytest.approx(tucker.error, rel=1e-10)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("complex_", [False, True])
def test_bases_are_orthonormal(tree: Any, complex_: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 2, 3)) + (1j * rng.normal(size=(3, 4, 2, 3)) if complex_ else 0)
    tensor = tnet.ht(x, 2, tree=tree).tensor
    parts = [*tensor.factors, *(part.reshape(-1, part.shape[-1]) for part in tensor.transfers[1:])]
    for part in parts:
        assert np.allclose(part.conj().T @ part, np.eye(part.shape[1]), atol=1e-12)
    assert np.linalg.norm(tensor.transfers[0]) == pytest.approx(np.linalg.norm(np.asarray(tensor)))


def test_tight_tolerances_leave_the_gram_matrix() -> None:
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(n, 3)))[0] for n in (36, 36))
    x = ((U * [1.0, 1e-5, 1e-10]) @ V.T).reshape(6, 6, 6, 6)
    for rtol, wanted in ((1e-3, 1), (1e-7, 2), (1e-12, 3)):
        result = tnet.ht(x, rtol=rtol)
        assert result.tensor.rank[0] == wanted
        assert distance(x, result) <= rtol


def test_rounding_what_comes_out() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3, 5, 2))
    tensor = tnet.ht(x, rtol=0.1, tree=((3, 1), (0, 2))).tensor
    doubled = add(tensor, tensor)
    assert doubled.tree == tensor.tree  # type: ignore[union-attr]
    again = tnet.round(doubled, rtol=1e-10)  # type: ignore[type-var]
    assert again.rank == tensor.rank
    assert np.allclose(np.asarray(again), 2 * np.asarray(tensor), atol=1e-9)


def test_trees_of_many_modes_and_lists() -> None:
    x = np.ones((2,) * 12)
    assert set(tnet.ht(x, rtol=1e-6).tensor.rank) == {1}
    assert tnet.ht(np.ones((2, 3, 2)), 1, tree=[[0, 2], 1]).tensor.tree == ((0, 2), 1)


@pytest.mark.parametrize("tree", TREES)
def test_libraries_agree_on_any_tree(tree: Any, convert: Callable[[np.ndarray], Any]) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 2, 3))
    wanted, found = tnet.ht(x, 2, tree=tree), tnet.ht(convert(x), 2, tree=tree)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-10)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rank": 2, "rtol": 0.1}, RankError, "both"),
        ({}, RankError, "neither"),
        ({"rank": (2, 2)}, RankError, "2 ranks for 4 nodes"),
        ({"rank": 2, "tree": (0, 1)}, ShapeError, "modes 0 to 2 once"),
        ({"rank": 2, "tree": (0, 1, 1)}, ShapeError, "modes 0 to 2 once"),
        ({"rank": 2, "tree": ((0, 1), (2,))}, ShapeError, "two children"),
        ({"rank": 2, "tree": "012"}, ShapeError, "tree='012'"),
        ({"rank": 2, "tree": 0}, ShapeError, "tree=0"),
        ({"rank": 2, "tree": ((0, 1.5), 2)}, ShapeError, "nested tuples"),
        ({"rtol": 2.0}, InputError, "rtol"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tnet.ht(np.ones((3, 4, 5)), **options)
