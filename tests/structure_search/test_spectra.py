"""Tails over cuts are those of the singular value decomposition, and never above them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet.arrays import Array
from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.structure_search.spectra import cut_spectra


def exact_tails(x: np.ndarray, mask: int) -> np.ndarray:
    """Tails by a singular value decomposition; entry r is for rank r."""
    inside = [k for k in range(x.ndim) if mask >> k & 1]
    matrix = np.moveaxis(x, inside, range(len(inside))).reshape(math.prod(x.shape[k] for k in inside), -1)
    squared = np.linalg.svd(matrix, compute_uv=False) ** 2
    return np.append(np.cumsum(squared[::-1])[::-1], 0.0) / np.sum(squared)


def low_rank(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A sum of two rank-one tensors of very different size: most tails are 0 or tiny."""
    rng = np.random.default_rng(seed)
    x = np.zeros(shape)
    for scale in (1.0, 1e-4):
        term = np.ones(())
        for n in shape:
            term = np.multiply.outer(term, rng.standard_normal(n))
        x = x + scale * term
    return x


@given(shape=st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple), seed=st.integers(0, 99))
def test_tails_equal_those_of_the_svd(shape: tuple[int, ...], seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(shape)
    spectra = cut_spectra(x)
    for mask in range(1, 2 ** len(shape) - 1):
        exact = exact_tails(x, mask)
        for rank in range(1, len(exact)):
            assert spectra.tail(mask, rank) == pytest.approx(exact[rank], abs=1e-13)
            assert spectra.tail(mask, rank) <= exact[rank] <= spectra.tail_at_most(mask, rank) + 1e-16


@given(shape=st.lists(st.integers(2, 6), min_size=2, max_size=4).map(tuple), seed=st.integers(0, 99))
def test_tails_of_low_rank_stay_lower_bounds(shape: tuple[int, ...], seed: int) -> None:
    x = low_rank(shape, seed)
    spectra = cut_spectra(x)
    for mask in range(1, 2 ** len(shape) - 1):
        assert spectra.tail(mask, 2) == 0.0
        assert spectra.tail(mask, 1) <= exact_tails(x, mask)[1] <= spectra.tail_at_most(mask, 1) + 1e-16


def test_all_libraries_agree(convert, library: str) -> None:
    x = np.random.default_rng(3).standard_normal((3, 4, 2, 3))
    assert cut_spectra(convert(x)).tails == pytest.approx(cut_spectra(x).tails, abs=1e-13)
    single = cut_spectra(convert(x.astype(np.float32)))
    assert single.tails == pytest.approx(cut_spectra(x.astype(np.float32)).tails, abs=1e-13)


def test_complex_input() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((3, 4, 5)) + 1j * rng.standard_normal((3, 4, 5))
    spectra = cut_spectra(x)
    for mask in range(1, 7):
        exact = exact_tails(x, mask)
        assert [spectra.tail(mask, r) for r in range(1, len(exact))] == pytest.approx(exact[1:], abs=1e-13)


@pytest.mark.parametrize("scale", [1e-200, 1e200, 2.0**-1040])
def test_scale_of_the_input_does_not_matter(scale: float) -> None:
    x = np.random.default_rng(5).standard_normal((4, 3, 5))
    assert cut_spectra(x * scale).tails == pytest.approx(cut_spectra(x).tails, abs=1e-9)


def test_both_sides_name_the_same_cut() -> None:
    spectra = cut_spectra(np.random.default_rng(6).standard_normal((2, 3, 4, 2)))
    for mask in range(1, 15):
        assert spectra.tail(mask, 2) == spectra.tail(15 - mask, 2)
        assert spectra.side(mask) == spectra.side(15 - mask)


def test_needed_ranks_are_the_least() -> None:
    x = np.random.default_rng(7).standard_normal((4, 3, 5))
    spectra = cut_spectra(x)
    for mask, rank in zip(spectra.masks.tolist(), spectra.needed_ranks(0.1).tolist(), strict=True):
        assert spectra.tail(mask, rank) <= 0.1
        assert rank == 1 or spectra.tail(mask, rank - 1) > 0.1


def test_cuts_with_large_sides_are_left_out_and_bound_nothing() -> None:
    x = np.random.default_rng(8).standard_normal((4, 4, 4, 4))
    full, some = cut_spectra(x), cut_spectra(x, max_side=4)
    assert (full.n_cuts, some.n_cuts) == (7, 4)
    assert some.row(0b0011) is None
    assert (some.tail(0b0011, 1), some.tail_at_most(0b0011, 1), some.tail_at_most(0b0011, 16)) == (0.0, 1.0, 0.0)
    assert some.tail(0b0100, 2) == pytest.approx(full.tail(0b0100, 2), abs=1e-13)
    assert cut_spectra(x, max_side=1).n_cuts == 0


def test_many_modes_have_small_and_contiguous_cuts() -> None:
    x = np.random.default_rng(9).standard_normal((2,) * 13)
    spectra = cut_spectra(x)
    pairs = [1 << i | 1 << j for i, j in itertools.combinations(range(13), 2)]
    assert all(spectra.row(mask) is not None for mask in [*pairs, 0b1111111, 0b1111100])
    assert spectra.row(0b1010101010101) is None
    assert spectra.tail(0b11, 3) == pytest.approx(exact_tails(x, 0b11)[3], abs=1e-13)
    assert spectra.tail(0b1111100, 9) == pytest.approx(exact_tails(x, 0b1111100)[9], abs=1e-13)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones(3), ShapeError, "two modes"),
        (np.zeros((2, 3)), InputError, "all zero"),
        (np.ones((0, 3)), ShapeError, "no entries"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), InputError, "non-finite"),
        (np.array([[1.0, np.inf], [1.0, 2.0]]), InputError, "non-finite"),
        (np.ones((2, 2), dtype=int), BackendError, "floating"),
    ],
)
def test_bad_input(x: Array, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cut_spectra(x)


def test_bad_questions() -> None:
    spectra = cut_spectra(np.ones((2, 2)))
    with pytest.raises(InputError, match="max_side"):
        cut_spectra(np.ones((2, 2)), max_side=0)
    with pytest.raises(RankError, match="rank=0"):
        spectra.tail(1, 0)
    for mask in (0, 3):
        with pytest.raises(InputError, match="both sides"):
            spectra.tail(mask, 1)
