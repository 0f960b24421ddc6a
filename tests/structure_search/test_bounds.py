"""Bounds by cuts: below every approximation, sharp where they can be, two-sided for trees."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet.errors import InputError, ShapeError
from tnet.structure_search.bounds import cut_bounds, lower_bounds, tree_upper_bound
from tnet.structure_search.spectra import CutSpectra, cut_spectra
from tnet.structure_search.structure import Structure, structure_of_ranks


def slow_bound(spectra: CutSpectra, structure: Structure) -> float:
    """The definition, cut by cut and placement by placement."""
    n = structure.n_modes
    best = 0.0
    for mask in range(1, 1 << (n - 1)):
        capacities = []
        for placed in range(1 << structure.n_internal):
            side = mask | placed << n
            capacities.append(math.prod(r for i, j, r in structure.bonds if (side >> i & 1) != (side >> j & 1)))
        best = max(best, spectra.tail(mask, min(capacities)))
    return best


@st.composite
def structures(draw: st.DrawFn, n_internal: int = 0) -> Structure:
    shape = tuple(draw(st.lists(st.integers(2, 4), min_size=2, max_size=4)))
    n_cores = len(shape) + n_internal
    ranks = np.ones((n_cores, n_cores), dtype=int)
    for i, j in itertools.combinations(range(n_cores), 2):
        ranks[i, j] = ranks[j, i] = draw(st.integers(1, 3))
    return structure_of_ranks(shape, ranks)


def network_of(structure: Structure, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return structure.to_network([rng.standard_normal(size) for size in structure.core_shapes]).to_dense()


@given(structure=st.integers(0, 2).flatmap(structures), seed=st.integers(0, 99))
def test_the_bound_is_its_definition(structure: Structure, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(structure.shape)
    spectra = cut_spectra(x)
    assert lower_bounds(spectra, [structure])[0] == pytest.approx(slow_bound(spectra, structure), abs=1e-15)


@given(structure=st.integers(0, 2).flatmap(structures), seed=st.integers(0, 99))
def test_no_network_of_the_structure_is_refused(structure: Structure, seed: int) -> None:
    """Of x + e the network x of the structure is an approximation: the bound may not exceed its error."""
    x = network_of(structure, seed)
    noisy = x + 0.1 * np.std(x) * np.random.default_rng(seed + 1).standard_normal(x.shape)
    error = np.sum((noisy - x) ** 2) / np.sum(noisy**2)
    assert lower_bounds(cut_spectra(x), [structure])[0] == 0.0
    assert lower_bounds(cut_spectra(noisy), [structure])[0] <= error


def test_many_structures_as_arrays_of_ranks() -> None:
    rng = np.random.default_rng(0)
    spectra = cut_spectra(rng.standard_normal((3, 2, 4, 3)))
    ranks = rng.integers(1, 4, (50, 5, 5))
    ranks = np.triu(ranks, 1) + np.triu(ranks, 1).swapaxes(1, 2) + np.eye(5, dtype=int)
    several = [structure_of_ranks(spectra.shape, matrix) for matrix in ranks]
    expected = [slow_bound(spectra, structure) for structure in several]
    bounds = cut_bounds(spectra, 1)
    assert lower_bounds(spectra, several) == pytest.approx(expected, abs=1e-15)
    assert bounds.of_ranks(ranks) == pytest.approx(expected, abs=1e-15)
    assert bounds.of_pair_ranks(ranks[:, bounds.pairs[0], bounds.pairs[1]]) == pytest.approx(expected, abs=1e-15)


def test_large_ranks_do_not_overflow() -> None:
    spectra = cut_spectra(np.random.default_rng(0).standard_normal((3, 3, 3)))
    assert lower_bounds(spectra, [Structure((3, 3, 3), ((0, 1, 10**9), (0, 2, 10**9), (1, 2, 10**9)))])[0] == 0.0


def test_matrices_meet_eckart_and_young() -> None:
    x = np.random.default_rng(1).standard_normal((5, 7))
    squared = np.linalg.svd(x, compute_uv=False) ** 2
    for rank in range(2, 5):
        structure = Structure(x.shape, ((0, 1, rank),))
        exact = squared[rank:].sum() / squared.sum()
        assert lower_bounds(cut_spectra(x), [structure])[0] == pytest.approx(exact, abs=1e-13)
        assert tree_upper_bound(cut_spectra(x), structure) == pytest.approx(exact, abs=1e-13)


def truncated_train(x: np.ndarray, ranks: list[int]) -> float:
    """Squared relative error of a tensor train by successive truncation of singular values."""
    rest, left, cores = x.reshape(1, -1), 1, []
    for n, rank in zip(x.shape[:-1], ranks, strict=True):
        u, s, vh = np.linalg.svd(rest.reshape(left * n, -1), full_matrices=False)
        cores.append(u[:, :rank].reshape(left, n, -1))
        rest, left = s[:rank, None] * vh[:rank], rank
    y = rest
    for core in reversed(cores):
        y = np.tensordot(core, y.reshape(core.shape[2], -1), 1).reshape(core.shape[0], -1)
    return float(np.sum((x - y.reshape(x.shape)) ** 2) / np.sum(x**2))


@given(ranks=st.lists(st.integers(2, 3), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_trains_lie_between_both_bounds(ranks: list[int], seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((3, 4, 3, 3))
    structure = Structure(x.shape, tuple((k, k + 1, rank) for k, rank in enumerate(ranks)))
    spectra = cut_spectra(x)
    error = truncated_train(x, ranks)
    assert lower_bounds(spectra, [structure])[0] <= error <= tree_upper_bound(spectra, structure) + 1e-14


def test_upper_bound_of_a_tree_with_internal_cores_is_the_sum_over_its_bonds() -> None:
    x = np.random.default_rng(2).standard_normal((3, 4, 3, 2))
    spectra = cut_spectra(x)
    tree = Structure(x.shape, ((0, 4, 2), (1, 4, 3), (2, 5, 2), (3, 5, 2), (4, 5, 4)), 2)
    expected = [(0b0001, 2), (0b0010, 3), (0b0100, 2), (0b1000, 2), (0b0011, 4)]
    total = sum(spectra.tail(mask, rank) for mask, rank in expected)
    assert tree_upper_bound(spectra, tree) == pytest.approx(min(total, 1.0), abs=1e-12)


def test_upper_bound_of_parts_without_bonds() -> None:
    rng = np.random.default_rng(3)
    left, right = rng.standard_normal((3, 2)) @ rng.standard_normal((2, 4)), rng.standard_normal(5)
    x = np.multiply.outer(left, right)
    spectra, none = cut_spectra(x), Structure(x.shape)
    assert tree_upper_bound(spectra, Structure(x.shape, ((0, 1, 2),))) == pytest.approx(0.0, abs=1e-12)
    assert tree_upper_bound(spectra, none) >= lower_bounds(spectra, [none])[0] > 1e-4


def test_bad_input() -> None:
    spectra = cut_spectra(np.random.default_rng(4).standard_normal((2, 3, 2)))
    with pytest.raises(ShapeError, match="give one"):
        lower_bounds(spectra, [Structure((2, 3, 3))])
    with pytest.raises(InputError, match="without loops"):
        tree_upper_bound(spectra, Structure((2, 3, 2), ((0, 1, 2), (0, 2, 2), (1, 2, 2))))
    with pytest.raises(InputError, match="at most 8"):
        cut_bounds(spectra, 9)
    assert lower_bounds(spectra, [Structure((2, 3, 2), (), 9)])[0] == 0.0
