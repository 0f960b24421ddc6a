"""Regression on tensors: every kind against the explicit contraction, from dense, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tnet.errors import InputError, RankError, ShapeError
from tnet.nn import TensorRegression

F64 = torch.float64
KINDS: dict[str, tuple[Any, Any]] = {"tucker": ((2, 3, 2, 2), 5), "cp": (3, 30), "tt": ((3, 4, 2), (5, 6, 2))}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (2, 0), (2, 3)])
def test_forward_is_the_contraction(kind, bias, lead):
    torch.manual_seed(0)
    layer = TensorRegression((4, 3, 2), 5, KINDS[kind][0], kind, bias=bias, dtype=F64)
    x = torch.randn(*lead, 4, 3, 2, dtype=F64)
    W = layer.dense_weight()
    assert W.shape == (5, 4, 3, 2)
    expected = torch.einsum("...abc,iabc->...i", x, W) + (layer.bias if bias else 0.0)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x), layer.to_dense()(x.flatten(-3)), rtol=1e-12, atol=1e-12)


def dense() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 5, dtype=F64).eval()


@pytest.mark.parametrize("by", ["rank", "rtol"])
def test_from_dense(kind, by):
    linear = dense()
    how = {"rank": KINDS[kind][1]} if by == "rank" else {"rtol": 0.3}
    layer = TensorRegression.from_dense(linear, (4, 3, 2), kind=kind, **how)
    error = torch.linalg.norm(layer.dense_weight().flatten(1) - linear.weight) / torch.linalg.norm(linear.weight)
    assert error.detach() < (0.01 if by == "rank" else 0.3 * (1 + 1e-9))
    assert torch.equal(layer.bias, linear.bias)
    assert not layer.training
    assert layer.out_features == 5
    assert layer.macs <= 120
    x = torch.randn(2, 4, 3, 2, dtype=F64)
    torch.testing.assert_close(layer(x), layer.to_dense()(x.flatten(1)))


@pytest.mark.filterwarnings("ignore::tnet.errors.ConvergenceWarning")
def test_a_weight_lowers_the_error_of_the_outputs(kind):
    linear = dense()
    x = torch.randn(200, 24, dtype=F64) * torch.logspace(0, 1.5, 24, dtype=F64)
    C = x.T @ x / len(x)
    rank = {"tucker": 2, "cp": 2, "tt": 2}[kind]
    layers = [TensorRegression.from_dense(linear, (4, 3, 2), rank, kind=kind, weight=w) for w in (None, C)]
    plain, weighted = (
        float((layer(x.reshape(-1, 4, 3, 2)) - linear(x)).detach().square().mean()) for layer in layers
    )
    assert weighted < 0.9 * plain


BAD = [
    (lambda: TensorRegression((4, 3), 5, 2, "ring"), InputError, "tucker, cp, tt"),
    (lambda: TensorRegression.from_dense(dense(), (4, 6), 2, kind="ring"), InputError, "tucker, cp, tt"),
    (lambda: TensorRegression((4, 3), 5, (2, 2), "cp"), RankError, "number of its terms"),
    (lambda: TensorRegression.from_dense(dense(), (4, 6), (2, 2), kind="cp"), RankError, "number of its terms"),
    (lambda: TensorRegression((4, 3), 5, (2, 2)), RankError, "3 digits"),
    (lambda: TensorRegression((4, 3), 5, (2, 2, 2), "tt"), RankError, "one less"),
    (lambda: TensorRegression((4, 0), 5, 2), ShapeError, "input_shape"),
    (lambda: TensorRegression((), 5, 2), ShapeError, "input_shape"),
    (lambda: TensorRegression((4, 3), 0, 2), ShapeError, "out_features"),
    (lambda: TensorRegression((4, 3), 5, 2)(torch.randn(2, 3, 4)), ShapeError, r"\(4, 3\)"),
    (lambda: TensorRegression.from_dense(dense(), (4, 5), 2), ShapeError, "not 24"),
    (lambda: TensorRegression.from_dense(nn.ReLU(), (4, 5), 2), InputError, "torch.nn.Linear"),
    (lambda: TensorRegression.from_dense(dense(), (4, 6)), RankError, "exactly one"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
