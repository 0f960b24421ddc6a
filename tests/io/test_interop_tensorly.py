"""TensorLy reads our formats as the same tensors, and we read its."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tnet.errors import InputError, MissingDependencyError
from tnet.formats import CPTensor, LowRank, MatrixProductOperator, TensorTrain, TuckerTensor
from tnet.io.interop import from_tensorly, to_tensorly

tensorly = pytest.importorskip("tensorly")
rng = np.random.default_rng(0)

FORMATS = [
    CPTensor(rng.random(2), (rng.random((3, 2)), rng.random((4, 2)), rng.random((5, 2)))),
    TuckerTensor(rng.random((2, 3)), (rng.random((4, 2)), rng.random((5, 3)))),
    TensorTrain((rng.random((1, 3, 2)), rng.random((2, 4, 3)), rng.random((3, 2, 1)))),
    MatrixProductOperator((rng.random((1, 2, 3, 2)), rng.random((2, 3, 2, 1)))),
]


@pytest.mark.parametrize("ours", FORMATS, ids=lambda x: type(x).__name__)
def test_both_ways(ours):
    theirs = to_tensorly(ours)
    dense = theirs.to_matrix() if isinstance(ours, MatrixProductOperator) else theirs.to_tensor()
    np.testing.assert_allclose(dense, ours.to_dense(), rtol=1e-13)
    back = from_tensorly(theirs)
    assert type(back) is type(ours)
    assert all(x is y for x, y in zip(back.arrays, ours.arrays, strict=True))


def test_their_decomposition():
    from tensorly.decomposition import tensor_train

    x = rng.random((3, 4, 5))
    np.testing.assert_allclose(from_tensorly(tensor_train(x, [1, 3, 5, 1])).to_dense(), x, atol=1e-12)


@pytest.mark.parametrize("obj", [None, (np.ones(2), [np.ones((3, 2))]), np.ones(3)])
def test_what_has_no_counterpart(obj):
    with pytest.raises(InputError, match="none of tensorly's"):
        from_tensorly(obj)
    with pytest.raises(InputError, match="has no counterpart"):
        to_tensorly(LowRank(np.ones((2, 1)), np.ones((1, 2))) if obj is None else obj)


def test_without_tensorly(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorly"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"tnet-tensors\[interop\]"):
        to_tensorly(FORMATS[0])
    with pytest.raises(MissingDependencyError, match=r"tnet-tensors\[interop\]"):
        from_tensorly(None)
