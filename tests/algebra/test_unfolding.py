from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import close, dense, random_array, random_format, seeds, shapes
from tnet.algebra import fold, mode_product, unfold
from tnet.arrays import to_numpy
from tnet.errors import BackendError, ShapeError


@given(seed=seeds, shape=shapes, data=st.data())
def test_fold_undoes_unfold(convert, seed, shape, data):
    mode = data.draw(st.integers(-len(shape), len(shape) - 1))
    a = random_array(np.random.default_rng(seed), shape)
    matrix = unfold(convert(a), mode)
    assert tuple(matrix.shape) == (shape[mode], a.size // shape[mode])
    np.testing.assert_array_equal(to_numpy(fold(matrix, mode, shape)), a)


def test_columns_run_in_c_order_over_ascending_modes(convert):
    a = np.arange(24.0).reshape(2, 3, 4)
    expected = np.array([[a[i, j, k] for i in range(2) for k in range(4)] for j in range(3)])
    np.testing.assert_array_equal(to_numpy(unfold(convert(a), 1)), expected)


def test_empty_modes():
    assert unfold(np.ones((3, 0, 2)), 1).shape == (0, 6)
    assert fold(np.ones((0, 6)), 1, (3, 0, 2)).shape == (3, 0, 2)


@pytest.mark.parametrize("mode", [3, -4, True, 1.0, "1", None])
def test_bad_modes(mode):
    for call in (
        lambda: unfold(np.ones((2, 2, 2)), mode),
        lambda: fold(np.ones((2, 4)), mode, (2, 2, 2)),
        lambda: mode_product(np.ones((2, 2, 2)), np.ones((2, 2)), mode),
    ):
        with pytest.raises(ShapeError, match="mode="):
            call()


@pytest.mark.parametrize("matrix", [np.ones((3, 4)), np.ones((2, 3)), np.ones(8)])
def test_fold_refuses(matrix):
    with pytest.raises(ShapeError, match=r"mode 0 of \(2, 2, 2\) unfolds to shape \(2, 4\)"):
        fold(matrix, 0, (2, 2, 2))


@pytest.mark.parametrize("kind", ["dense", "cp", "tucker", "tensor_train"])
@given(seed=seeds, shape=shapes, data=st.data())
def test_mode_product(kind, convert, seed, shape, data):
    mode = data.draw(st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(seed)
    matrix = random_array(rng, (5, shape[mode]))
    if kind == "dense":
        a = random_array(rng, shape)
        product = mode_product(convert(a), convert(matrix), mode)
        result = to_numpy(product)
    else:
        t = random_format(kind, rng, convert, shape)
        a = dense(t)
        product = mode_product(t, convert(matrix), mode)
        assert type(product) is type(t)
        result = dense(product)
    close(result, np.moveaxis(np.tensordot(matrix, a, axes=(1, mode)), 0, mode))


def test_mode_product_refuses():
    t = random_format("tucker", np.random.default_rng(0))
    with pytest.raises(ShapeError, match=r"mode 1 of size 4: give shape \(m, 4\)"):
        mode_product(t, np.ones((2, 3)), 1)
    with pytest.raises(ShapeError, match="mode 0"):
        mode_product(t, np.ones(3), 0)
    with pytest.raises(BackendError, match="several libraries"):
        mode_product(t, torch.ones(2, 3), 0)
    with pytest.raises(BackendError, match="mode_product is not defined for LowRank"):
        mode_product(random_format("low_rank", np.random.default_rng(0)), np.ones((2, 3)), 0)
