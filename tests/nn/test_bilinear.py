"""Bilinear layers: the map, its eigendecomposition, truncation bound, output modes, from dense."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.nn import BilinearLayer

F64 = torch.float64


def layer(n: int = 6, hidden: int = 5, m: int = 3, inner_bias: bool = False, bias: bool = True) -> BilinearLayer:
    torch.manual_seed(0)
    result = BilinearLayer(n, hidden, m, bias, inner_bias, dtype=F64)
    if result.bias is not None:
        nn.init.normal_(result.bias)
    return result


@pytest.mark.parametrize("inner_bias", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_map_is_the_dense_one(inner_bias, bias):
    own, x = layer(inner_bias=inner_bias, bias=bias), torch.randn(2, 4, 6, dtype=F64)
    h, dense = own.homogeneous(x), own.to_dense()
    assert h.shape[-1] == 6 + inner_bias
    torch.testing.assert_close(own(x), dense(h, h), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own.dense_tensor(), own.dense_tensor().mT)
    with torch.no_grad():  # only the symmetric part matters: W and V may change places
        left = own.left.clone()
        own.left.copy_(own.right)
        own.right.copy_(left)
    torch.testing.assert_close(own(x), dense(h, h), rtol=1e-12, atol=1e-12)


@given(
    n=st.integers(1, 9), hidden=st.integers(1, 6), m=st.integers(1, 4), inner=st.booleans(), seed=st.integers(0, 99)
)
def test_eigenvectors_sum_to_the_output(n, hidden, m, inner, seed):
    torch.manual_seed(seed)
    own = BilinearLayer(n, hidden, m, bias=False, inner_bias=inner, dtype=F64)
    x, u = torch.randn(7, n, dtype=F64), torch.randn(m, dtype=F64)
    form, h = own.eigen(u), own.homogeneous(x)
    torch.testing.assert_close(form(h), (own(x) @ u).detach(), rtol=1e-12, atol=1e-12)
    gram = form.vectors.T @ form.vectors
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=F64), rtol=0, atol=1e-12)
    assert torch.equal(form.values.abs(), form.values.abs().sort(descending=True).values)
    Q = torch.einsum("o,oij->ij", u, own.dense_tensor().detach())
    torch.testing.assert_close((form.vectors * form.values) @ form.vectors.T, Q, rtol=1e-12, atol=1e-12)
    for rank in range(len(form.values) + 1):
        difference = (form.leading(rank)(h) - form(h)).abs()
        assert bool((difference <= form.bound(rank) * h.square().sum(-1) + 1e-12).all())


def test_wide_inputs_have_few_eigenvalues():
    own = layer(n=40, hidden=3)
    form = own.eigen(torch.ones(3, dtype=F64))
    assert form.values.shape == (6,)
    assert form.vectors.shape == (40, 6)


@pytest.mark.parametrize("inner_bias", [False, True])
def test_the_truncated_layer_keeps_its_bound(inner_bias):
    own, x = layer(inner_bias=inner_bias), torch.randn(50, 6, dtype=F64)
    norms = own.homogeneous(x).square().sum(-1)
    for rank in range(1, 7):
        cut = own.truncated(rank)
        for k, u in enumerate(torch.eye(3, dtype=F64)):
            difference = (cut(x) - own(x)).detach()[:, k].abs()
            assert bool((difference <= own.eigen(u).bound(rank) * norms + 1e-12).all())
    full = own.truncated(6 + inner_bias)
    torch.testing.assert_close(full(x), own(x))
    assert full.hidden_features == 3 * (6 + inner_bias)
    with pytest.raises(RankError, match="eigenvalues"):
        own.truncated(11)


@pytest.mark.parametrize("shape", [(6, 5, 3), (4, 9, 7), (12, 2, 4)])
def test_output_modes_are_the_svd_of_the_unfolded_tensor(shape):
    own = layer(*shape)
    modes = own.output_modes()
    unfolded = own.dense_tensor().detach().flatten(1)
    expected = torch.linalg.svdvals(unfolded)
    torch.testing.assert_close(modes.values[: len(expected)], expected, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(modes.directions.T @ modes.directions, torch.eye(shape[2], dtype=F64))
    for value, direction in zip(modes.values, modes.directions.T, strict=True):
        assert float(torch.linalg.norm(own.eigen(direction).values)) == pytest.approx(float(value), abs=1e-7)


def test_from_linears_is_the_gated_product():
    torch.manual_seed(0)
    gate, up = nn.Linear(6, 5, bias=False, dtype=F64), nn.Linear(6, 5, dtype=F64)
    down, x = nn.Linear(5, 3, dtype=F64), torch.randn(4, 6, dtype=F64)
    own = BilinearLayer.from_linears(gate, up, down)
    torch.testing.assert_close(own(x), down(gate(x) * up(x)))
    assert own.inner_bias
    plain = BilinearLayer.from_linears(gate, nn.Linear(6, 5, bias=False, dtype=F64), down)
    assert not plain.inner_bias


def dense(n: int = 4, m: int = 3) -> nn.Bilinear:
    torch.manual_seed(0)
    return nn.Bilinear(n, n, m, dtype=F64).eval()


def test_from_dense():
    bilinear, x = dense(), torch.randn(20, 4, dtype=F64)
    exact = BilinearLayer.from_dense(bilinear, 12)
    torch.testing.assert_close(exact(x), bilinear(x, x), rtol=0.02, atol=0.02)
    assert not exact.training
    symmetric = (bilinear.weight + bilinear.weight.mT).detach() / 2
    cut = BilinearLayer.from_dense(bilinear, rtol=0.6)
    error = torch.linalg.norm(cut.dense_tensor() - symmetric) / torch.linalg.norm(symmetric)
    assert 0.2 < error.detach() <= 0.6 * (1 + 1e-9)


def test_eigen_in_half_precision_is_computed_in_double():
    own = layer().bfloat16()
    form = own.eigen(torch.ones(3))
    assert form.values.dtype == torch.bfloat16
    exact = own.double().eigen(torch.ones(3))
    torch.testing.assert_close(form.values.double(), exact.values, rtol=0.01, atol=0.01)


def broken() -> BilinearLayer:
    own = layer()
    with torch.no_grad():
        own.left[0, 0] = float("nan")
    return own


BAD = [
    (lambda: BilinearLayer(0, 2, 2), ShapeError, "in_features"),
    (lambda: layer()(torch.randn(2, 5, dtype=F64)), ShapeError, "must be 6"),
    (lambda: layer().eigen(torch.ones(4)), ShapeError, r"\(3,\)"),
    (lambda: layer().eigen(torch.full((3,), float("nan"))), InputError, "non-finite"),
    (lambda: broken().eigen(torch.ones(3)), InputError, "non-finite"),
    (lambda: broken().output_modes(), InputError, "non-finite"),
    (lambda: BilinearLayer.from_dense(nn.Linear(2, 2), 2), InputError, "torch.nn.Bilinear"),
    (lambda: BilinearLayer.from_dense(nn.Bilinear(2, 3, 2), 2), ShapeError, "equal inputs"),
    (lambda: BilinearLayer.from_dense(dense()), RankError, "exactly one"),
    (
        lambda: BilinearLayer.from_linears(nn.Linear(6, 5), nn.Linear(6, 4), nn.Linear(5, 3)),
        ShapeError,
        "n to c, n to c, and c to m",
    ),
    (
        lambda: BilinearLayer.from_linears(nn.Linear(6, 5), nn.Linear(6, 5).double(), nn.Linear(5, 3)),
        BackendError,
        "mixed dtype",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
