from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tnet.decompositions import mpo
from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.formats import MatrixProductOperator
from tnet.nn import MPOLinear

digits = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(digits=digits, tokens=st.integers(0, 5))
def test_forward_is_the_dense_map(digits, tokens):
    rows, columns, bonds = zip(*digits, strict=True)
    layer = MPOLinear(rows, columns, bonds[:-1], dtype=torch.float64)
    x = torch.randn(tokens, layer.in_features, dtype=torch.float64)
    product = x @ layer.dense_weight().T
    torch.testing.assert_close(layer(x), product + layer.bias, rtol=1e-10, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(digits=digits)
def test_weight_is_that_of_the_format(digits):
    rows, columns, bonds = zip(*digits, strict=True)
    bonds = (1, *bonds[:-1], 1)
    cores = tuple(
        torch.randn(shape, dtype=torch.float64) for shape in zip(bonds[:-1], rows, columns, bonds[1:], strict=True)
    )
    tensor = MatrixProductOperator(cores)
    layer = MPOLinear.from_tensor(tensor)
    torch.testing.assert_close(layer.dense_weight().detach(), tensor.to_dense(), rtol=1e-12, atol=1e-12)
    assert (layer.row_shape, layer.column_shape) == (tensor.row_shape, tensor.column_shape)
    assert layer.ranks == tensor.rank
    assert layer.n_params == sum(core.numel() for core in cores)


def test_the_order_depends_on_the_number_of_tokens():
    layer = MPOLinear((8, 8, 8), (8, 8, 8), (2, 2))
    few = layer._network.order(1, "cpu", torch.float32)
    assert few.macs < 512 * 512 // 4  # the cores one by one
    assert len(few.steps) == 3
    assert layer.macs < 512 * 512 // 4
    dear = MPOLinear((8, 8, 8), (8, 8, 8), (16, 16))
    many = dear._network.order(1 << 14, "cpu", torch.float32)
    assert many.macs < (1 << 14) * 512 * 512 * 1.1  # the weight first
    assert dear.macs == 512 * 512


def test_from_cores_copies_and_keeps_the_dtype():
    cores = [torch.randn(1, 2, 3, 2, dtype=torch.bfloat16), torch.randn(2, 2, 2, 1, dtype=torch.bfloat16)]
    layer = MPOLinear.from_cores(cores, torch.ones(4, dtype=torch.bfloat16))
    cores[0].zero_()
    assert layer.cores[0].abs().max() > 0
    assert layer.dense_weight().dtype == layer.bias.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_from_dense_is_exact_at_full_rank(dtype):
    linear = nn.Linear(6, 8, dtype=dtype).eval()
    before = linear.weight.detach().clone()
    layer = MPOLinear.from_dense(linear, 6, row_shape=(2, 4), column_shape=(3, 2))
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(layer.dense_weight(), linear.weight, rtol=tolerance, atol=tolerance)
    assert layer.ranks == (6,)
    assert torch.equal(layer.bias, linear.bias)
    assert layer.bias.dtype == layer.cores[0].dtype == dtype
    assert not layer.training
    assert torch.equal(linear.weight, before)


def test_from_dense_truncates_like_the_decomposition():
    linear = nn.Linear(12, 8, bias=False, dtype=torch.float64)
    layer = MPOLinear.from_dense(linear, (4, 2), row_shape=(2, 2, 2), column_shape=(3, 2, 2))
    expected = mpo(linear.weight.detach(), (2, 2, 2), (3, 2, 2), (4, 2)).tensor.to_dense()
    torch.testing.assert_close(layer.dense_weight().detach(), expected)
    assert layer.bias is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rank": 2, "row_shape": (2, 3), "column_shape": (3, 2)}, ShapeError, r"not 8: give \(2, 4\)"),
        ({"rank": 2, "row_shape": (2, 4), "column_shape": (6,)}, ShapeError, "has 1 digits: give 2"),
        ({"rank": 0, "row_shape": (2, 4), "column_shape": (3, 2)}, RankError, "rank"),
        ({"rank": 2.5, "row_shape": (2, 4), "column_shape": (3, 2)}, RankError, "rank"),
    ],
)
def test_from_dense_refuses_what_does_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        MPOLinear.from_dense(nn.Linear(6, 8), **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((), (), ()), ShapeError, "at least 1"),
        (((2, 2), (2,), (1,)), ShapeError, "as many row as column digits"),
        (((2, 0), (2, 2), (1,)), ShapeError, r"row_shape\[1\]=0"),
        (((2, 2), (2, 2.0), (1,)), ShapeError, r"column_shape\[1\]=2\.0"),
        (((2, 2), (2, 2), ()), RankError, "got 0 for 2 cores"),
        (((2, 2), (2, 2), (0,)), RankError, r"ranks=\(0,\)"),
        (((2, 2), (2, 2), (True,)), RankError, r"ranks=\(True,\)"),
    ],
)
def test_bad_shapes_and_ranks_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        MPOLinear(*arguments)


@pytest.mark.parametrize(
    ("cores", "bias", "error", "message"),
    [
        ([], None, ShapeError, "cores of shapes"),
        ([torch.ones(1, 2, 2)], None, ShapeError, "cores of shapes"),
        ([torch.ones(2, 2, 2, 1)], None, ShapeError, "bonds of 1"),
        ([torch.ones(1, 2, 2, 3), torch.ones(2, 2, 2, 1)], None, ShapeError, "equal bonds"),
        ([torch.ones(1, 2, 2, 1)], torch.ones(3), ShapeError, r"bias \(3,\)"),
        ([torch.ones(1, 2, 2, 1)], torch.ones(2).double(), BackendError, "mixed dtype"),
        ([torch.full((1, 2, 2, 1), float("nan"))], None, InputError, r"cores\[0\] has non-finite"),
    ],
)
def test_bad_cores_are_refused(cores, bias, error, message):
    with pytest.raises(error, match=message):
        MPOLinear.from_cores(cores, bias)


def test_input_of_another_size_is_refused():
    with pytest.raises(ShapeError, match="last axis must be 6"):
        MPOLinear((2, 2), (2, 3), (1,))(torch.ones(2, 5))
