from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.nn import LowRankLinear


@settings(max_examples=25, deadline=None)
@given(m=st.integers(1, 12), n=st.integers(1, 12), data=st.data())
def test_from_dense_is_the_best_approximation(m, n, data):
    rank = data.draw(st.integers(1, min(m, n)))
    linear = nn.Linear(n, m, dtype=torch.float64)
    layer = LowRankLinear.from_dense(linear, rank)
    s = torch.linalg.svdvals(linear.weight.detach())
    error = (layer.dense_weight() - linear.weight).norm()
    torch.testing.assert_close(error, s[rank:].norm(), rtol=1e-8, atol=1e-12)
    assert torch.equal(layer.bias, linear.bias)
    assert layer.left.norm().item() == pytest.approx(layer.right.norm().item(), rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_from_dense_keeps_dtype_mode_and_missing_bias(dtype):
    linear = nn.Linear(6, 4, bias=False, dtype=dtype).eval()
    before = linear.weight.detach().clone()
    layer = LowRankLinear.from_dense(linear, 4)
    assert layer.left.dtype == layer.right.dtype == dtype
    assert layer.bias is None
    assert not layer.training
    assert torch.equal(linear.weight, before)
    torch.testing.assert_close(layer.dense_weight(), linear.weight, rtol=0.02, atol=0.02)


def test_from_factors_copies():
    left, right = torch.randn(4, 2), torch.randn(6, 2).T
    layer = LowRankLinear.from_factors(left, right)
    expected = left @ right
    left.zero_()
    torch.testing.assert_close(layer.dense_weight(), expected)
    assert layer.right.is_contiguous()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 3, 1), ShapeError, "in_features=0"),
        ((3, True, 1), ShapeError, "out_features=True"),
        ((3, 2.0, 1), ShapeError, r"out_features=2\.0"),
        ((3, 4, 0), RankError, "rank=0.*from 1 to 3"),
        ((3, 4, 4), RankError, r"rank=4.*from 1 to 3.*\(4, 3\)"),
        ((3, 4, True), RankError, "rank=True"),
        ((3, 4, 2.0), RankError, r"rank=2\.0"),
        ((3, 4, "2"), RankError, "rank='2'"),
    ],
)
def test_bad_sizes_and_ranks_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        LowRankLinear(*arguments)


@pytest.mark.parametrize(
    ("left", "right", "bias", "error", "message"),
    [
        (torch.ones(4, 2), torch.ones(3, 5), None, ShapeError, r"left \(4, 2\), right \(3, 5\)"),
        (torch.ones(4), torch.ones(1, 5), None, ShapeError, "give matrices"),
        (torch.ones(4, 2), torch.ones(2, 5), torch.ones(5), ShapeError, r"bias \(5,\)"),
        (torch.ones(4, 2), torch.ones(2, 5).double(), None, BackendError, "mixed dtype"),
        (torch.ones(4, 2, dtype=torch.int64), torch.ones(2, 5), None, BackendError, "int64"),
        (torch.ones(4, 2, dtype=torch.complex64), torch.ones(2, 5), None, BackendError, "complex64"),
        ([[1.0]], torch.ones(1, 5), None, BackendError, "list"),
        (torch.full((4, 2), float("nan")), torch.ones(2, 5), None, InputError, "left has non-finite"),
        (torch.ones(4, 2), torch.full((2, 5), float("inf")), None, InputError, "right has non-finite"),
        (torch.ones(4, 5), torch.ones(5, 3), None, RankError, "rank=5"),
    ],
)
def test_bad_factors_are_refused(left, right, bias, error, message):
    with pytest.raises(error, match=message):
        LowRankLinear.from_factors(left, right, bias)


def test_from_dense_refuses_bad_rank_and_non_finite_weight():
    linear = nn.Linear(3, 4)
    with pytest.raises(RankError, match="rank=4"):
        LowRankLinear.from_dense(linear, 4)
    with torch.no_grad():
        linear.weight[0, 0] = float("inf")
    with pytest.raises(InputError, match="non-finite"):
        LowRankLinear.from_dense(linear, 2)
