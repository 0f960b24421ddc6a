"""Feature mimicking: the best affine map of a rank on data, by three other ways; streaming; bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tnet.errors import InputError, RankError, ShapeError
from tnet.nn import LowRankLinear, mimic_features
from tnet.nn.feature_mimicking import FeatureMoments

F64 = torch.float64


def data(tokens: int = 300, n: int = 6) -> torch.Tensor:
    """Correlated inputs with a mean that is not zero."""
    torch.manual_seed(1)
    return torch.randn(tokens, n, dtype=F64) @ torch.randn(n, n, dtype=F64) + 3 * torch.randn(n, dtype=F64)


def dense(bias: bool = True, m: int = 8, n: int = 6) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(n, m, bias=bias, dtype=F64).eval()


def error(layer: nn.Module, linear: nn.Linear, x: torch.Tensor) -> float:
    return float((layer(x) - linear(x)).detach().square().sum(-1).mean())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_the_error_is_the_tail_of_the_covariance_of_the_features(bias, rank):
    linear, x = dense(bias), data()
    layer = mimic_features(linear, x.split(70), rank)
    y = linear(x).detach()
    values = torch.linalg.eigvalsh(torch.cov(y.T, correction=0)).flip(0)
    assert error(layer, linear, x) == pytest.approx(float(values[rank:].clamp(min=0).sum()), rel=1e-9, abs=1e-12)
    assert layer.rank == rank
    assert layer.bias is not None
    assert not layer.training


@pytest.mark.parametrize("rank", [1, 3])
def test_it_is_the_whitened_svd_with_centring(rank):
    linear, x = dense(), data()
    layer = mimic_features(linear, [x], rank)
    mean = x.mean(0)
    C = (x - mean).T @ (x - mean) / len(x)
    whitened = LowRankLinear.from_dense(linear, rank, weight=C)
    torch.testing.assert_close(layer.dense_weight(), whitened.dense_weight(), rtol=1e-8, atol=1e-9)
    with torch.no_grad():
        shift = linear(mean) - whitened.dense_weight() @ mean
    torch.testing.assert_close(layer.bias.detach(), shift, rtol=1e-8, atol=1e-9)
    plain = LowRankLinear.from_dense(linear, rank, weight=x.T @ x / len(x))
    assert error(layer, linear, x) < 0.999 * error(plain, linear, x)


@pytest.mark.parametrize("rank", [1, 2])
def test_descent_over_all_affine_maps_finds_nothing_better(rank):
    linear, x = dense(m=4, n=3), data(n=3)
    layer = mimic_features(linear, [x], rank)
    best = error(layer, linear, x)
    for seed in range(3):
        torch.manual_seed(seed)
        other = LowRankLinear(3, 4, rank, dtype=F64)
        optimiser = torch.optim.LBFGS(other.parameters(), max_iter=400, line_search_fn="strong_wolfe")

        def loss(other: LowRankLinear = other, optimiser: torch.optim.LBFGS = optimiser) -> torch.Tensor:
            optimiser.zero_grad()
            value = (other(x) - linear(x).detach()).square().sum(-1).mean()
            value.backward()
            return value

        optimiser.step(loss)
        found = error(other, linear, x)
        assert found > best * (1 - 1e-9)
        assert found == pytest.approx(best, rel=0.2)


@given(rtol=st.floats(0.0, 0.9))
def test_rtol_is_met_by_the_least_rank(rtol):
    linear, x = dense(), data()
    layer = mimic_features(linear, [x], rtol=rtol)
    y = linear(x).detach()
    spread = float((y - y.mean(0)).square().sum(-1).mean())
    assert error(layer, linear, x) <= rtol**2 * spread * (1 + 1e-9) + 1e-20 * spread + 1e-24
    if layer.rank > 1:
        smaller = mimic_features(linear, [x], layer.rank - 1)
        assert error(smaller, linear, x) > rtol**2 * spread


@given(parts=st.lists(st.integers(0, 9), min_size=1, max_size=8), offset=st.sampled_from([0.0, 1e6]))
def test_moments_do_not_depend_on_the_parts(parts, offset):
    torch.manual_seed(sum(parts))
    x = torch.randn(sum(parts), 3, dtype=F64) + offset
    moments = FeatureMoments.none(3)
    for part in x.split(parts):
        moments = moments.joined(part)
    assert moments.count == len(x)
    if len(x):
        centred = x - x.mean(0)
        torch.testing.assert_close(moments.mean, x.mean(0), rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(moments.scatter, centred.T @ centred, rtol=1e-9, atol=1e-8)


def test_inputs_of_any_leading_shape_and_dtype():
    linear, x = dense().float(), data().float()
    one = mimic_features(linear, [x], 3)
    other = mimic_features(linear, iter([x[:200].reshape(4, 50, 6), x[200:200], x[200:]]), 3)
    torch.testing.assert_close(one.dense_weight(), other.dense_weight())
    assert one.left.dtype == torch.float32
    half = mimic_features(dense().bfloat16(), [x.bfloat16()], 3)
    assert half.left.dtype == torch.bfloat16


BAD = [
    (lambda: mimic_features(dense(), [data()]), RankError, "exactly one"),
    (lambda: mimic_features(dense(), [data()], 7), RankError, "rank=7"),
    (lambda: mimic_features(dense(), [data()], 2, rtol=0.1), RankError, "exactly one"),
    (lambda: mimic_features(dense(), [], 2), InputError, "no vector"),
    (lambda: mimic_features(dense(), [data()[:, :5]], 2), ShapeError, "input 0 of shape"),
    (lambda: mimic_features(dense(), [data() * float("inf")], 2), InputError, "non-finite"),
    (lambda: mimic_features(nn.ReLU(), [data()], 2), InputError, "torch.nn.Linear"),
]


@pytest.mark.parametrize(("call", "error_type", "message"), BAD)
def test_bad_input(call, error_type, message):
    with pytest.raises(error_type, match=message):
        call()
