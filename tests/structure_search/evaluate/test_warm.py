"""Cores adapted to a structure near their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tests.structure_search.evaluate.cases import ALL, GRID, INTERNAL, RING, TRAIN, dense, random_cores
from tests.structure_search.evaluate.test_sweeps import structures
from tnet.arrays import library_name, to_numpy
from tnet.errors import ShapeError
from tnet.structure_search.evaluate.als import ALS
from tnet.structure_search.evaluate.warm import adapted
from tnet.structure_search.losses import SquaredError
from tnet.structure_search.proposals import Start
from tnet.structure_search.space import exchanged
from tnet.structure_search.structure import Structure


@pytest.mark.parametrize("name", ALL)
def test_the_same_structure_keeps_its_cores(name: str) -> None:
    cores = random_cores(ALL[name], 0, complex_=True)
    for before, after in zip(cores, adapted(cores, ALL[name], ALL[name], 0), strict=True):
        np.testing.assert_array_equal(before, after)


@given(structures(), structures())
def test_any_structure_can_be_adapted_to_any_other_of_its_tensor(old: Structure, new: Structure) -> None:
    new = Structure(old.shape, tuple(b for b in new.bonds if b[1] < old.n_cores), old.n_internal)
    found = adapted(random_cores(old, 0), old, new, 1)
    assert tuple(core.shape for core in found) == new.core_shapes
    assert all(np.all(np.isfinite(core)) for core in found)


def test_a_higher_rank_stays_near_and_has_no_zero_slice() -> None:
    cores = random_cores(GRID, 0)
    new = GRID.with_rank(0, 1, 3).with_rank(0, 5, 2)
    found = adapted(cores, GRID, new, 7)
    x, y = dense(GRID, cores), dense(new, found)
    assert 0 < np.linalg.norm(x - y) < 0.01 * np.linalg.norm(x)
    assert all(np.all(core != 0) for core in found)
    again = adapted(cores, GRID, new, 7)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_a_lower_rank_keeps_all_where_the_bond_has_no_more() -> None:
    small = TRAIN.with_rank(0, 1, 2)
    cores = random_cores(small, 0)
    wide = adapted(cores, small, TRAIN, 0)
    wide = [wide[0].copy(), *wide[1:]]
    wide[0][:, 2] = 0.0  # the third singular value of the bond is 0 now
    back = adapted(wide, TRAIN, small, 0)
    np.testing.assert_allclose(dense(small, back), dense(TRAIN, wide), atol=1e-10)


def test_a_lower_rank_of_a_pair_is_the_best_truncation() -> None:
    wide = Structure((5, 6), ((0, 1, 4),))
    narrow = wide.with_rank(0, 1, 2)
    cores = random_cores(wide, 0, complex_=True)
    s = np.linalg.svd(dense(wide, cores), compute_uv=False)
    found = adapted(cores, wide, narrow, 0)
    assert np.linalg.norm(dense(wide, cores) - dense(narrow, found)) == pytest.approx(np.linalg.norm(s[2:]))


def test_exchanged_modes_of_one_size_change_places() -> None:
    cores = random_cores(GRID, 0)
    new = exchanged(GRID, 0, 4)
    found = adapted(cores, GRID, new, 0)
    np.testing.assert_allclose(dense(new, found), np.swapaxes(dense(GRID, cores), 0, 4), atol=1e-12)


def test_modes_of_other_sizes_keep_their_cores() -> None:
    new = exchanged(RING, 0, 1)
    found = adapted(random_cores(RING, 0), RING, new, 0)
    assert tuple(core.shape for core in found) == new.core_shapes


def test_internal_cores_come_and_go_without_a_change() -> None:
    cores = random_cores(INTERNAL, 0)
    x = dense(INTERNAL, cores)
    more = Structure(INTERNAL.shape, INTERNAL.bonds, 3)
    np.testing.assert_allclose(dense(more, adapted(cores, INTERNAL, more, 0)), x, atol=1e-12)
    # The last internal core joins cores 2, 3 and 4, and becomes part of core 2.
    fewer = Structure(INTERNAL.shape, ((0, 4, 2), (1, 4, 2), (2, 3, 2), (2, 4, 2)), 1)
    np.testing.assert_allclose(dense(fewer, adapted(cores, INTERNAL, fewer, 0)), x, atol=1e-10)


def test_a_warm_start_needs_fewer_sweeps_than_random_ones() -> None:
    x = dense(GRID, random_cores(GRID, 0)) + 0.01 * np.random.default_rng(1).standard_normal((3,) * 6)
    old = GRID.with_rank(0, 1, 3)
    (first,) = ALS().solve(x, SquaredError(), [Start(old, 0)])
    warm = adapted(first.cores, old, GRID, 0)
    (begun,) = ALS(race_sweeps=5, max_sweeps=5).solve(x, SquaredError(), [Start(GRID, 0, warm=warm)])
    assert begun.start_errors[0] < 0.5 * min(begun.start_errors[1:])


def test_libraries_keep_their_arrays(convert, library: str) -> None:
    cores = random_cores(RING, 0)
    new = RING.with_rank(0, 2, 2)
    found = adapted([convert(core) for core in cores], RING, new, 0)
    expected = adapted(cores, RING, new, 0)
    assert {library_name(core) for core in found} == {library_name(convert(cores[0]))}
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(to_numpy(mine), theirs)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="one tensor"):
        adapted(random_cores(RING, 0), RING, Structure((3, 4)), 0)
    with pytest.raises(ShapeError, match="asks for"):
        adapted(random_cores(TRAIN, 0), RING, RING, 0)
