"""One contract for layers that are no linear map of a vector: gradients, dtypes, storage, copies, compilation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tnet.errors import ShapeError
from tnet.nn import BilinearLayer, TensorRegression, TrilinearInteraction, TTEmbedding

F64 = torch.float64


@dataclass(frozen=True)
class Case:
    make: Callable[..., Any]
    inputs: Callable[[], tuple[torch.Tensor, ...]]
    keys: tuple[str, ...]
    n_params: int

    def layer(self, dtype: torch.dtype | None = F64) -> Any:
        torch.manual_seed(0)
        return self.make(dtype=dtype)

    def drawn(self, dtype: torch.dtype = F64) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in self.inputs())


def activation() -> tuple[torch.Tensor, ...]:
    return (torch.randn(3, 4, 3, 2, dtype=F64),)


def sets() -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(2, n, d, dtype=F64) for n, d in ((3, 5), (2, 4), (4, 3)))


CASES = {
    "tt_embedding": Case(
        lambda **a: TTEmbedding(22, 12, (3, 4), padding_idx=5, **a),
        lambda: (torch.tensor([[0, 5, 21], [7, 7, 1]]),),
        ("cores.0", "cores.1", "cores.2"),
        3 * 2 * 3 + 3 * 3 * 2 * 4 + 3 * 4 * 3,
    ),
    "regression_tucker": Case(
        lambda **a: TensorRegression((4, 3, 2), 5, (2, 3, 2, 2), **a),
        activation,
        ("linear.core", *(f"linear.factors.{k}" for k in range(4)), "linear.bias"),
        24 + 10 + 12 + 6 + 4 + 5,
    ),
    "regression_cp": Case(
        lambda **a: TensorRegression((4, 3, 2), 5, 3, "cp", **a),
        activation,
        (*(f"linear.factors.{k}" for k in range(4)), "linear.bias"),
        3 * 14 + 5,
    ),
    "regression_tt": Case(
        lambda **a: TensorRegression((4, 3, 2), 5, (3, 4, 2), "tt", **a),
        activation,
        (*(f"linear.cores.{k}" for k in range(4)), "linear.bias"),
        5 * 3 + 3 * 4 * 4 + 4 * 3 * 2 + 2 * 2 + 5,
    ),
    "trilinear": Case(
        lambda **a: TrilinearInteraction(5, 4, 3, 6, 2, 2, **a),
        sets,
        (*(f"{name}.{k}" for name in ("projections", "map_projections") for k in range(3)), "cores"),
        2 * (8 + 2 * 12) + 6 * 12,
    ),
    "trilinear_softmax": Case(
        lambda **a: TrilinearInteraction(5, 4, 3, 6, 2, 2, softmax=True, **a),
        sets,
        (*(f"{name}.{k}" for name in ("projections", "map_projections") for k in range(3)), "cores"),
        2 * (8 + 2 * 12) + 6 * 12,
    ),
    "bilinear": Case(
        lambda **a: BilinearLayer(5, 4, 3, inner_bias=True, **a),
        lambda: (torch.randn(3, 5, dtype=F64),),
        ("left", "right", "output", "bias"),
        2 * 4 * 6 + 12 + 3,
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_gradients(case):
    layer, inputs = case.layer(), case.drawn()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    floating = tuple(x.requires_grad_() for x in inputs if x.is_floating_point())

    def run(*values: torch.Tensor) -> torch.Tensor:
        own = dict(zip(names, values, strict=False))
        given = values[len(names) :] or inputs
        return torch.func.functional_call(layer, own, tuple(given))

    assert torch.autograd.gradcheck(run, (*(p.detach().requires_grad_() for p in parameters), *floating))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(case, dtype):
    layer = case.layer()
    exact = layer(*case.drawn())
    y = layer.to(dtype)(*case.drawn(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), exact, rtol=0.05, atol=0.05 * float(exact.detach().abs().max()))


def test_autocast(case):
    layer, inputs = case.layer(torch.float32), case.drawn(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(*inputs)
    exact = layer(*inputs)
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05 * float(exact.detach().abs().max()))
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


def test_state_dict_keys_are_stable_and_round_trip(case):
    layer, inputs = case.layer(), case.drawn()
    assert sorted(layer.state_dict()) == sorted(case.keys)
    torch.manual_seed(3)
    other = case.make(dtype=F64)
    assert not torch.allclose(other(*inputs), layer(*inputs))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(*inputs), layer(*inputs))
    wrong = {key: torch.cat([value, value]) for key, value in layer.state_dict().items()}
    with pytest.raises(ShapeError, match="of other factors"):
        other.load_state_dict(wrong)


def test_counts_and_repr(case):
    layer = case.layer()
    assert layer.n_params == case.n_params == sum(p.numel() for p in layer.parameters())
    assert f"n_params={case.n_params}, macs=" in repr(layer)


def test_deepcopy_and_meta(case):
    layer, inputs = case.layer(), case.drawn()
    twin, y = copy.deepcopy(layer), layer(*inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1.0)
    assert torch.equal(twin(*inputs), y)
    assert layer.to("meta")(*(x.to("meta") for x in inputs)).shape == y.shape


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of inductor
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(case, backend):
    torch._dynamo.reset()
    layer, inputs = case.layer(torch.float32), case.drawn(torch.float32)
    y = torch.compile(layer, fullgraph=True, backend=backend)(*inputs)
    torch.testing.assert_close(y, layer(*inputs))
    y.sum().backward()
    gradients = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer(*inputs).sum().backward()
    torch.testing.assert_close(gradients, [p.grad for p in layer.parameters()])


def test_reset_scales_the_outputs_as_dense_layers_do():
    """Over many draws: entries of embeddings have variance 1, those of bilinear outputs 1/3."""
    torch.manual_seed(0)
    embedding, bilinear = TTEmbedding(30, 8, 4, dtype=F64), BilinearLayer(20, 30, 10, bias=False, dtype=F64)
    trilinear = TrilinearInteraction(6, 6, 6, 8, 3, 2, dtype=F64)
    x, triple = torch.randn(200, 20, dtype=F64), [torch.randn(20, 1, 6, dtype=F64) for _ in range(3)]
    squares: list[list[torch.Tensor]] = [[], [], []]
    with torch.no_grad():
        for _ in range(400):
            for layer in (embedding, bilinear, trilinear):
                layer.reset_parameters()
            squares[0].append(embedding.dense_weight().square().mean())
            squares[1].append(bilinear(x).square().mean())
            squares[2].append(trilinear.attention(*triple).square().mean())
    means = [torch.stack(values).mean().item() for values in squares]
    assert means == pytest.approx([1.0, 1 / 3, 1.0], rel=0.2)
