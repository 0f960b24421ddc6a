"""Views of every kind give what their copies give, and are not written to."""

from __future__ import annotations

import numpy as np
import pytest

from tests.strategies import close, random_array
from tnet.algebra import inner, mode_product, norm, round, unfold
from tnet.arrays import balanced_scale, mttkrp, squared_norm, to_numpy
from tnet.formats import LowRank


def _read_only(a):
    a.setflags(write=False)
    return a


VIEWS = {
    "fortran": np.asfortranarray,
    "negative strides": lambda a: a[::-1, :, ::-1],
    "every other": lambda a: a[:, ::2],
    "transposed": lambda a: a.transpose(2, 0, 1),
    "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "read-only": _read_only,
    "overlapping": lambda a: np.lib.stride_tricks.as_strided(a, (3, 4, 2), (32, 16, 8)),
}


@pytest.fixture(params=list(VIEWS))
def view(request):
    return VIEWS[request.param](random_array(np.random.default_rng(0), (3, 4, 2)))


def test_dense_operations(view):
    copy = np.array(view, order="C")
    for mode in range(3):
        np.testing.assert_array_equal(unfold(view, mode), unfold(copy, mode))
        matrix = random_array(np.random.default_rng(1), (2, view.shape[mode]))
        close(mode_product(view, matrix, mode), mode_product(copy, matrix, mode))
        factors = [random_array(np.random.default_rng(1), (n, 2)) for n in view.shape]
        close(mttkrp(view, factors, mode), mttkrp(copy, factors, mode))
    close(norm(view), norm(copy))
    close(inner(view, copy), inner(copy, copy))
    assert squared_norm(view) == pytest.approx(squared_norm(copy), rel=1e-14)
    assert balanced_scale(view).array is view
    np.testing.assert_array_equal(view, copy)


def test_formats_of_views(view):
    left, right = view[:, :, 0], view[0, :, :]
    t = LowRank(left[:, : right.shape[0]], right[: left.shape[1]])
    copy = LowRank(np.array(t.left, order="C"), np.array(t.right, order="C"))
    close(to_numpy(round(t, 1).to_dense()), to_numpy(round(copy, 1).to_dense()))
