"""Small cases with printed answers from papers and from the tests of other libraries, each with its source."""

from __future__ import annotations

import numpy as np
import pytest

import tnet
from tnet.algebra import add, norm, scale, unfold
from tnet.arrays import mode_product
from tnet.formats import TensorTrain


def numbers() -> np.ndarray:
    """Return the tensor of Kolda and Bader (2009), equation 2.1: 1 to 24, the first index fastest."""
    return np.arange(1.0, 25.0).reshape((3, 4, 2), order="F")


def test_the_product_of_kolda_and_bader() -> None:
    # Kolda and Bader (2009), section 2.5; also in the tests of tensorly and pyttb.
    Y = mode_product(numbers(), np.array([[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]), 0)
    assert np.array_equal(Y[:, :, 0], [[22, 49, 76, 103], [28, 64, 100, 136]])
    assert np.array_equal(Y[:, :, 1], [[130, 157, 184, 211], [172, 208, 244, 280]])


@pytest.mark.parametrize(
    ("mode", "first_row"),
    [(0, [1, 4, 7, 10, 13, 16, 19, 22]), (1, [1, 2, 3, 13, 14, 15]), (2, list(range(1, 13)))],
)
def test_the_unfoldings_of_kolda_and_bader(mode: int, first_row: list[int]) -> None:
    # The same page; their columns come in another order, which no product depends on.
    unfolded = unfold(numbers(), mode)
    assert sorted(unfolded[0]) == first_row
    step = (1, 3, 12)[mode]
    assert np.array_equal(
        unfolded - unfolded[0],
        np.outer(step * np.arange(numbers().shape[mode]), np.ones(24 // numbers().shape[mode])),
    )


def test_sums_of_a_train_with_itself() -> None:
    # torchTT and ttpy: t + t is of twice the ranks, rounds to those of t, and t - t to nothing.
    rng = np.random.default_rng(0)
    ranks, n = (1, 3, 4, 2, 1), (5, 6, 4, 5)
    t = TensorTrain(tuple(rng.normal(size=(ranks[k], n[k], ranks[k + 1])) for k in range(4)))
    twice = add(t, t)
    assert isinstance(twice, TensorTrain)
    assert twice.rank == (6, 8, 4)
    rounded = tnet.round(twice, rtol=1e-10)
    assert rounded.rank == t.rank
    assert np.allclose(rounded.to_dense(), 2 * t.to_dense())
    assert float(norm(add(t, scale(t, -1.0)))) < 1e-6 * float(norm(t))
