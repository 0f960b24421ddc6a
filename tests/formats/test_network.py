from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import close, dense, random_array, seeds
from tnet.errors import IndexLabelError, InputError, ShapeError
from tnet.formats import TensorNetwork


@st.composite
def networks(draw):
    """Any connected or disconnected network with hyper-indices, traces, open and summed indices."""
    names = [f"index {k}" for k in range(draw(st.integers(1, 6)))]
    sizes = {name: draw(st.integers(1, 3)) for name in names}
    terms = draw(st.lists(st.lists(st.sampled_from(names), max_size=3), min_size=1, max_size=5))
    used = sorted({name for term in terms for name in term})
    output = draw(st.lists(st.sampled_from(used), unique=True, max_size=4)) if used else []
    rng = np.random.default_rng(draw(seeds))
    tensors = [random_array(rng, [sizes[name] for name in term]) for term in terms]
    return tensors, terms, output


@given(parts=networks())
def test_dense_equals_einsum(convert, parts):
    tensors, terms, output = parts
    network = TensorNetwork([convert(tensor) for tensor in tensors], terms, output)
    x = network.to_dense()
    assert tuple(x.shape) == network.shape
    close(x, dense(network))


def test_more_indices_than_letters(convert):
    """A ring of 70 matrices: 70 summed indices, more than einsum has letters."""
    rng = np.random.default_rng(0)
    matrices = [random_array(rng, (2, 2)) for _ in range(70)]
    indices = [(f"b{k}", f"b{(k + 1) % 70}") for k in range(70)]
    network = TensorNetwork(tuple(map(convert, matrices)), indices, ())
    close(network.to_dense(), np.trace(np.linalg.multi_dot(matrices)), factor=1e4)
    assert network.rank == (2,) * 70
    assert network.sizes == {f"b{k}": 2 for k in range(70)}


def test_output_order_is_kept():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(TensorNetwork((x,), (("i", "j"),), ("j", "i")).to_dense(), x.T)


def one(*shape):
    return np.ones(shape)


@pytest.mark.parametrize(
    ("tensors", "indices", "output", "error", "words"),
    [
        ((), (), (), InputError, "non-empty"),
        ((one(2),), (("i",), ("j",)), (), ShapeError, "2 index tuples for 1 tensors"),
        ((one(2, 2),), (("i",),), (), ShapeError, r"tensors\[0\] of shape \(2, 2\) has 1 index names"),
        ((one(2),), "i", (), IndexLabelError, "tuples of names"),
        ((one(2),), (("i",),), "i", IndexLabelError, "tuples of names"),
        ((one(2),), ("i",), (), IndexLabelError, "tuple of names"),
        ((one(2),), ((1,),), (), IndexLabelError, "index 1 is of type int"),
        ((one(2), one(3)), (("i",), ("i",)), (), IndexLabelError, r"'i' has size 2 in tensors\[0\] and 3 in"),
        ((one(2, 3),), (("i", "i"),), (), IndexLabelError, "'i' has size 2"),
        ((one(2),), (("i",),), ("i", "i"), IndexLabelError, "repeats"),
        ((one(2),), (("i",),), ("k",), IndexLabelError, r"'k' is in no tensor; known are \['i'\]"),
    ],
)
def test_refusals(tensors, indices, output, error, words):
    with pytest.raises(error, match=words):
        TensorNetwork(tensors, indices, output)
