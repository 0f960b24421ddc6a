"""From a dense layer, one contract for every factorised layer: exact, truncated, weighted, refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tnet.errors import InputError, RankError, ShapeError, TnetError
from tnet.nn import (
    BTTLinear,
    CPLinear,
    FactorisedLinear,
    KroneckerLinear,
    LowRankLinear,
    MPOLinear,
    TNLinear,
    TuckerLinear,
)

KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {  # class, exact, truncated; the weight is 8 x 6
    "low_rank": (LowRankLinear, {"rank": 6}, {"rank": 2}),
    "mpo": (
        MPOLinear,
        {"rank": 6, "row_shape": (2, 4), "column_shape": (3, 2)},
        {"rank": 2, "row_shape": (2, 4), "column_shape": (3, 2)},
    ),
    "btt": (BTTLinear, {"rank": 3}, {"rank": 1}),
    "kronecker": (KroneckerLinear, {"rank": 4}, {"rank": 1}),
    "tucker": (TuckerLinear, {"rank": (2, 4, 2, 3)}, {"rank": (2, 2, 2, 2)}),
    "cp": (CPLinear, {"rank": 14}, {"rank": 3}),
    "network": (TNLinear, {"rtol": 1e-9}, {"rtol": 0.5}),
}


def dense(dtype: torch.dtype = torch.float64, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 8, bias=bias, dtype=dtype).eval()


def second_moment(n: int = 6) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.randn(40, n, dtype=torch.float64) * torch.logspace(0, 2, n, dtype=torch.float64)
    return x.T @ x / len(x)


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_exact(kind, dtype):
    make, exact, _ = kind
    linear = dense(dtype)
    before = linear.weight.detach().clone()
    if dtype == torch.bfloat16 and "rtol" in exact:
        exact = {"rtol": 0.01}
    layer: FactorisedLinear = make.from_dense(linear, **exact)
    tolerance = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.03}[dtype]
    error = torch.linalg.norm((layer.dense_weight() - linear.weight).double()) / torch.linalg.norm(
        linear.weight.double()
    )
    assert error < tolerance
    assert {p.dtype for p in layer.parameters()} == {dtype}
    assert torch.equal(layer.bias, linear.bias)
    assert not layer.training
    assert torch.equal(linear.weight, before)


def test_truncated_without_a_bias(kind):
    make, _, truncated = kind
    linear = dense(bias=False)
    layer = make.from_dense(linear, **truncated)
    assert layer.bias is None
    error = torch.linalg.norm(layer.dense_weight() - linear.weight) / torch.linalg.norm(linear.weight)
    assert 0.05 < error < 1
    assert layer.n_params < 48


@pytest.mark.parametrize("rtol", [0.3, 0.05])
def test_rtol_is_met(kind, rtol):
    make, *_ = kind
    linear = dense()
    if make is CPLinear and rtol < 0.1:
        with pytest.raises(RankError, match=r"rtol=0\.05: not met with 4 terms"):
            make.from_dense(linear, rtol=rtol)
        return
    layer = make.from_dense(linear, rtol=rtol)
    error = torch.linalg.norm(layer.dense_weight() - linear.weight) / torch.linalg.norm(linear.weight)
    assert error <= rtol * (1 + 1e-9)


def weighted_error(layer: FactorisedLinear, linear: nn.Linear, C: torch.Tensor) -> float:
    difference = (layer.dense_weight() - linear.weight).detach()
    return float(torch.sum((difference @ C) * difference))


@pytest.mark.filterwarnings("ignore::tnet.errors.ConvergenceWarning")
def test_a_weight_lowers_the_weighted_error(kind):
    make, _, truncated = kind
    linear, C = dense(), second_moment()
    plain, weighted = make.from_dense(linear, **truncated), make.from_dense(linear, weight=C, **truncated)
    assert weighted.n_params == plain.n_params
    assert weighted_error(weighted, linear, C) < 0.9 * weighted_error(plain, linear, C)


def test_a_conv1d_is_read_transposed(kind):
    class Conv1D(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(linear.weight.detach().T.clone()), linear.bias

    make, _, truncated = kind
    linear = dense()
    one, other = make.from_dense(linear, **truncated), make.from_dense(Conv1D(linear), **truncated)
    torch.testing.assert_close(one.dense_weight(), other.dense_weight())


def broken(value: float) -> nn.Linear:
    linear = dense()
    with torch.no_grad():
        linear.weight[2, 3] = value
    return linear


BAD: dict[str, tuple[Callable[[Any, dict[str, Any]], Any], type[TnetError]]] = {
    "nan": (lambda make, how: make.from_dense(broken(float("nan")), **how), InputError),
    "no linear": (lambda make, how: make.from_dense(nn.Embedding(8, 6), **how), InputError),
    "no weight": (lambda make, how: make.from_dense(nn.ReLU(), **how), InputError),
    "C of another size": (
        lambda make, how: make.from_dense(dense(), weight=torch.eye(5).double(), **how),
        ShapeError,
    ),
    "C negative": (lambda make, how: make.from_dense(dense(), weight=-torch.eye(6).double(), **how), InputError),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_input(kind, bad):
    make, _, truncated = kind
    call, error = bad
    with pytest.raises(error):
        call(make, truncated)


@pytest.mark.parametrize("goal", [{}, {"rank": 1, "rtol": 0.1}, {"rank": 0}, {"rank": 1.5}, {"rtol": -1.0}])
def test_bad_goals(kind, goal):
    make, *_ = kind
    if make is TNLinear:
        goal = {("max_params" if name == "rank" else name): value for name, value in goal.items()}
    with pytest.raises((RankError, InputError, ShapeError)):
        make.from_dense(dense(), **goal)


def test_a_state_dict_of_other_factors_names_the_module():
    model = nn.Sequential(nn.Linear(6, 6), BTTLinear(6, 8, 2))
    other = nn.Sequential(nn.Linear(6, 6), BTTLinear(6, 8, 1))
    with pytest.raises(ShapeError, match=r"BTTLinear 1: .* 1\.left \(2, 4, 2, 1\), not \(2, 4, 2, 2\)"):
        model.load_state_dict(other.state_dict())
