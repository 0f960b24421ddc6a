"""One contract for every factorised linear layer: map, gradients, dtypes, storage, copies, compilation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tnet.formats import TensorNetwork
from tnet.nn import (
    BTTLinear,
    CPLinear,
    FactorisedLinear,
    FollowerLinear,
    InterpolativeLinear,
    KroneckerLinear,
    LowRankLinear,
    MPOLinear,
    SharedInputLinear,
    TNLinear,
    TuckerLinear,
)


class Pair(nn.Module):
    """An owner and its follower as one layer, so that both go through the contract."""

    def __init__(self, bias: bool, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.owner = SharedInputLinear(12, 6, 5, bias=bias, dtype=dtype)
        self.follower = FollowerLinear(self.owner, 10, bias=bias, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.follower(x)


def ring(bias: bool, dtype: torch.dtype | None) -> TNLinear:
    """Three cores in a ring, one with two digits; their axes in no order."""
    cores = tuple(torch.randn(shape, dtype=dtype) for shape in ((2, 3, 4), (5, 4), (4, 4, 4)))
    indices = (("i0", "j1", "a"), ("i1", "b"), ("b", "a", "j0"))
    network = TensorNetwork(cores, indices, ("i0", "i1", "j0", "j1"))
    return TNLinear(network, ("i0", "i1"), ("j1", "j0"), torch.randn(10, dtype=dtype) if bias else None)


@dataclass(frozen=True)
class Case:
    make: Callable[[bool, torch.dtype | None], nn.Module]
    keys: tuple[str, ...]
    n_params: int  # without bias
    macs: int

    def layer(self, bias: bool = True, dtype: torch.dtype | None = None) -> nn.Module:
        torch.manual_seed(0)
        return self.make(bias, dtype)


CASES = {
    "low_rank": Case(lambda b, t: LowRankLinear(12, 10, 5, bias=b, dtype=t), ("left", "right"), 110, 110),
    "interpolative": Case(
        lambda b, t: InterpolativeLinear(12, 10, 5, bias=b, dtype=t),
        ("left", "coupling", "order"),
        5 * (12 + 10 - 5) + 12,
        5 * (12 + 10 - 5),
    ),
    "interpolative_full": Case(
        lambda b, t: InterpolativeLinear(12, 10, 12, bias=b, dtype=t),
        ("left", "coupling", "order"),
        12 * 10 + 12,
        12 * 10,
    ),
    "shared_owner": Case(
        lambda b, t: SharedInputLinear(12, 10, 5, bias=b, dtype=t),
        ("left", "coupling", "order"),
        5 * (12 + 10 - 5) + 12,
        5 * (12 + 10 - 5),
    ),
    "mpo_chain": Case(  # a chain of small bonds beats the dense weight
        lambda b, t: MPOLinear((5, 2), (3, 4), (1,), bias=b, dtype=t),
        ("cores.0", "cores.1"),
        15 + 8,
        3 * 8 + 2 * 15,
    ),
    "mpo_dense": Case(  # large bonds: the dense weight is cheaper
        lambda b, t: MPOLinear((5, 1, 2), (2, 3, 2), (6, 3), bias=b, dtype=t),
        ("cores.0", "cores.1", "cores.2"),
        5 * 2 * 6 + 6 * 3 * 3 + 3 * 2 * 2,
        120,
    ),
    "btt": Case(
        lambda b, t: BTTLinear(12, 10, 2, row_shape=(2, 5), column_shape=(3, 4), bias=b, dtype=t),
        ("left", "right"),
        2 * 2 * 3 * (5 + 4),
        2 * 2 * 3 * (5 + 4),
    ),
    "monarch": Case(
        lambda b, t: BTTLinear(12, 10, 1, bias=b, dtype=t), ("left", "right"), 2 * 3 * (5 + 4), 2 * 3 * (5 + 4)
    ),
    "kronecker": Case(
        lambda b, t: KroneckerLinear(12, 10, 2, row_shape=(2, 5), column_shape=(3, 4), bias=b, dtype=t),
        ("left", "right"),
        2 * (6 + 20),
        120,
    ),
    "tucker": Case(
        lambda b, t: TuckerLinear((2, 5), (3, 4), (2, 2, 2, 1), bias=b, dtype=t),
        ("core", "factors.0", "factors.1", "factors.2", "factors.3"),
        8 + 4 + 10 + 6 + 4,
        12 + 3 * 2 + 2 * 10,  # the row factors and the core merged
    ),
    "cp": Case(
        lambda b, t: CPLinear((10,), (3, 4), 2, bias=b, dtype=t),
        ("factors.0", "factors.1", "factors.2"),
        2 * (10 + 3 + 4),
        2 * (12 + 10),  # the column factors merged
    ),
    "network": Case(ring, ("tensors.0", "tensors.1", "tensors.2"), 24 + 20 + 64, 120),
    "follower": Case(Pair, ("follower.left",), 50, 5 * (12 + 10 - 5)),
}


def factorised(layer: nn.Module) -> FactorisedLinear:
    result = layer.follower if isinstance(layer, Pair) else layer
    assert isinstance(result, FactorisedLinear)
    return result


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,), (2, 0, 3)])
def test_forward_is_the_dense_map(case, bias, lead):
    layer = case.layer(bias, torch.float64)
    x = torch.randn(*lead, 12, dtype=torch.float64)
    dense = factorised(layer).to_dense()
    assert (dense.bias is not None) == bias
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x), x @ factorised(layer).weight.T + (dense.bias if bias else 0.0))


def test_to_dense_shares_nothing_and_keeps_the_mode(case):
    layer = factorised(case.layer().eval())
    dense = layer.to_dense()
    assert not dense.training
    before = layer.dense_weight().clone()
    with torch.no_grad():
        dense.weight.zero_()
        dense.bias.zero_()
    torch.testing.assert_close(layer.dense_weight(), before)
    assert layer.bias.abs().max() > 0


def test_gradients(case):
    layer = case.layer(dtype=torch.float64)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    if isinstance(layer, Pair):  # the owner is reached through its follower, past functional_call
        torch.autograd.gradcheck(layer, (x,))
        layer(x).sum().backward()
        assert layer.owner.coupling.grad.abs().max() > 0
        assert layer.follower.left.grad.abs().max() > 0
        return
    assert torch.autograd.gradcheck(run, (x, *(p.detach().requires_grad_() for p in parameters)))


def test_dense_weight_is_differentiable(case):
    layer = case.layer(dtype=torch.float64)
    factorised(layer).dense_weight().square().sum().backward()
    unused = ("bias", "owner.left")
    assert all(p.grad is not None for n, p in layer.named_parameters() if not n.endswith(unused))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(case, dtype):
    layer = case.layer(dtype=torch.float64)
    x = torch.randn(4, 12, dtype=torch.float64)
    exact = layer(x)
    half = layer.to(dtype)
    y = half(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), exact, rtol=0.05, atol=0.05)


def test_autocast(case):
    layer = case.layer()
    x = torch.randn(4, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for n, p in layer.named_parameters() if "owner" not in n)


def test_state_dict_keys_are_stable_and_round_trip(case):
    layer = case.layer()
    keys = [k for k in layer.state_dict() if not k.startswith("owner.")]
    prefix = "follower." if isinstance(layer, Pair) else ""
    assert sorted(keys) == sorted((*case.keys, f"{prefix}bias"))
    torch.manual_seed(1)
    other = case.make(True, None)
    x = torch.randn(3, 12)
    assert not torch.allclose(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_counts(case):
    assert factorised(case.layer(bias=False)).n_params == case.n_params
    assert factorised(case.layer(bias=True)).n_params == case.n_params + 10
    assert factorised(case.layer()).macs == case.macs


def test_deepcopy_is_independent(case):
    layer = case.layer()
    twin = copy.deepcopy(layer)
    x = torch.randn(3, 12)
    y = layer(x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1.0)
    assert torch.equal(twin(x), y)
    assert not torch.allclose(layer(x), y)


def test_meta_device_and_repr(case):
    layer = case.layer()
    assert all(p.is_meta for p in layer.to("meta").parameters())
    assert "in_features=12, out_features=10" in repr(factorised(layer))


def test_reset_gives_the_variance_of_a_dense_layer(case):
    """Over 300 draws, within 15 % of nn.Linear's (1 + 1/n) / 3 for inputs of variance 1."""
    layer = case.layer(dtype=torch.float64)
    x = torch.randn(400, 12, dtype=torch.float64)
    variances = []
    with torch.no_grad():
        for _ in range(300):
            for part in layer.modules():
                if isinstance(part, FactorisedLinear):
                    part.reset_parameters()
            variances.append(layer(x).square().mean())
    assert torch.stack(variances).mean().item() == pytest.approx((1 + 1 / 12) / 3, rel=0.15)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of inductor
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(case, backend):
    torch._dynamo.reset()
    layer = case.layer()
    x = torch.randn(4, 12, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    y = compiled(x)
    torch.testing.assert_close(y, layer(x))
    y.sum().backward()
    gradient = x.grad.clone()
    x.grad = None
    layer(x).sum().backward()
    torch.testing.assert_close(gradient, x.grad)
