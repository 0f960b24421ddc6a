"""One contract for every factorised convolution: map, ways, gradients, dtypes, storage, compilation, from dense."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tnet.contraction.rates import COUNTING
from tnet.errors import InputError, RankError, ShapeError, TnetError
from tnet.nn import CPConv2d, FactorisedConv2d, TuckerConv2d, factorised_conv, network_map

CHANNELS, HEIGHT, WIDTH = (6, 8), 9, 10


@dataclass(frozen=True)
class Case:
    make: Callable[..., FactorisedConv2d]  # of the other arguments of a convolution
    keys: tuple[str, ...]
    n_params: int  # without bias, for a kernel of 3 x 2
    macs: int  # for an image of 9 x 10, without padding: 7 x 9 places

    def layer(self, **arguments: Any) -> FactorisedConv2d:
        torch.manual_seed(0)
        return self.make(**{"kernel_size": (3, 2), "dtype": torch.float64, **arguments})


CASES = {
    "tucker": Case(
        lambda **a: TuckerConv2d(*CHANNELS, ranks=(4, 3), **a),
        ("core", "factors.0", "factors.1"),
        4 * 3 * 6 + 8 * 4 + 6 * 3,
        90 * 6 * 3 + 63 * (4 * 3 * 6 + 8 * 4),
    ),
    "tucker_spatial": Case(
        lambda **a: TuckerConv2d(*CHANNELS, ranks=(4, 3, 2, 1), **a),
        ("core", "factors.0", "factors.1", "factors.2", "factors.3"),
        4 * 3 * 2 + 8 * 4 + 6 * 3 + 3 * 2 + 2,
        90 * 6 * 3 + 63 * (4 * 3 * 6 + 8 * 4),
    ),
    "cp": Case(
        lambda **a: CPConv2d(*CHANNELS, rank=5, **a),
        ("factors.0", "factors.1", "factors.2", "factors.3"),
        5 * (8 + 6 + 3 + 2),
        5 * (90 * 6 + 70 * 3 + 63 * 2 + 63 * 8),
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def images(*lead: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(*lead, CHANNELS[0], HEIGHT, WIDTH, dtype=dtype)


GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (3, 1), "padding": (2, 0), "dilation": (1, 2)},
    {"padding": "same"},
    {"padding": "valid", "bias": False},
    {"padding": "same", "padding_mode": "circular", "dilation": (2, 3)},
    {"padding": (1, 2), "padding_mode": "reflect", "stride": 2},
    {"padding": 3, "padding_mode": "replicate", "bias": False},
    {"kernel_size": 1, "stride": 2},
]


def shrunk(case: Case, geometry: dict[str, Any]) -> FactorisedConv2d:
    """A layer of the case; a kernel of one place has no spatial ranks above 1."""
    if case is CASES["tucker_spatial"] and geometry.get("kernel_size") == 1:
        return TuckerConv2d(*CHANNELS, ranks=(4, 3, 1, 1), dtype=torch.float64, **geometry)
    return case.layer(**geometry)


@pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel:UserWarning"
)  # torch's own, of the dense layer
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_every_way_is_the_dense_map(case, geometry):
    layer, x = shrunk(case, geometry), images(2)
    dense = layer.to_dense()
    expected = dense(x)
    assert isinstance(dense, nn.Conv2d)
    assert (dense.bias is not None) == geometry.get("bias", True)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=1e-12, atol=1e-12)
    for k in range(layer.n_paths):
        torch.testing.assert_close(layer.along(k, x), expected, rtol=1e-12, atol=1e-12)


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
)
def test_any_geometry(kernel, stride, dilation, padding, mode):
    x = images(1)
    torch.manual_seed(2)
    arguments: Any = dict(
        kernel_size=kernel, stride=stride, dilation=dilation, padding=padding, padding_mode=mode, dtype=x.dtype
    )
    for layer in (TuckerConv2d(*CHANNELS, ranks=(2, 3), **arguments), CPConv2d(*CHANNELS, rank=2, **arguments)):
        expected = layer.to_dense()(x)
        for k in range(layer.n_paths):
            torch.testing.assert_close(layer.along(k, x), expected, rtol=1e-12, atol=1e-12)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[FactorisedConv2d, torch.Tensor], int]:
    """Which way a layer takes where only multiply-adds and elementwise products cost anything, a second each."""
    rates = COUNTING._replace(times=(1.0,) * len(COUNTING.times))
    monkeypatch.setattr(factorised_conv, "torch_rates", lambda *_: rates)
    monkeypatch.setattr(network_map, "torch_rates", lambda *_: rates)
    for module, name in ((factorised_conv, "_kept_fastest"), (network_map, "_weight_order")):
        monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)  # past what is kept of other rates
    ways: list[int] = []

    def run(layer: FactorisedConv2d, x: torch.Tensor) -> int:
        along = layer.along
        layer.along = lambda k, x: ways.append(k) or along(k, x)
        layer(x)
        return ways[-1]

    return run


@pytest.mark.parametrize("kind", ["tucker", "tucker_spatial"])
def test_the_chosen_way_has_fewest_multiply_adds(kind, taken):
    layer, x = CASES[kind].layer(), images(512)[:, :, :3, :2]  # one place for each image: kernels cost little
    macs = [path.macs(layer._geometry, (3, 2)) for path in layer._paths]
    assert taken(layer, x) == macs.index(min(macs)) != 0
    assert taken(layer, x[:1]) == 0  # for one image the kernel would cost more than it saves


def test_rows_and_columns_are_one_step_unless_their_gradient_costs_more(taken):
    x = images(1)
    small, large = CPConv2d(6, 8, 3, 2, dtype=torch.float64), CPConv2d(6, 8, 7, 2, padding=3, dtype=torch.float64)
    assert taken(small, x) == 1
    assert taken(large, x) == 0
    with torch.no_grad():
        assert taken(large, x) == 1


def test_no_images(case):
    layer, x = case.layer(padding=1), images(0)
    assert layer(x).shape == layer.to_dense()(x).shape


def test_channels_last(case):
    layer, x = case.layer(), images(2)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), layer(x))


def test_gradients(case):
    layer = case.layer(stride=2, padding=1)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = images(1)[:, :, :4, :3].clone().requires_grad_()
    original = layer.along
    for path in range(layer.n_paths):

        def run(x: torch.Tensor, *values: torch.Tensor, path: int = path) -> torch.Tensor:
            layer.forward = lambda x: original(path, x)
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

        assert torch.autograd.gradcheck(run, (x, *(p.detach().requires_grad_() for p in parameters)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(case, dtype):
    layer, x = case.layer(), images(2)
    exact = layer(x)
    y = layer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), exact, rtol=0.05, atol=0.05)


def test_autocast(case):
    layer, x = case.layer(dtype=torch.float32), images(2, dtype=torch.float32)
    exact = layer(x)
    for path in range(layer.n_paths):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer.along(path, x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)
        layer.zero_grad()
        y.float().sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


def test_state_dict_keys_are_stable_and_round_trip(case):
    layer = case.layer()
    assert sorted(layer.state_dict()) == sorted((*case.keys, "bias"))
    torch.manual_seed(3)
    other = case.make(kernel_size=(3, 2), dtype=torch.float64)
    assert not torch.allclose(other(images(1)), layer(images(1)))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(images(1)), layer(images(1)))


def test_a_state_dict_of_other_factors_names_the_module():
    model, other = nn.Sequential(CPConv2d(2, 3, 3, 4)), nn.Sequential(CPConv2d(2, 3, 3, 5))
    with pytest.raises(ShapeError, match=r"CPConv2d 0: .*0\.factors\.0 \(3, 5\), not \(3, 4\)"):
        model.load_state_dict(other.state_dict())


def test_counts_and_repr(case):
    assert case.layer(bias=False).n_params == case.n_params
    layer = case.layer()
    assert layer.n_params == case.n_params + 8
    assert layer.macs(HEIGHT, WIDTH) == min(case.macs, 63 * 8 * 6 * 6)
    assert "6, 8, kernel_size=(3, 2), stride=(1, 1), padding=0, " in repr(layer)
    assert f"n_params={case.n_params + 8}, macs_per_output=" in repr(layer)


def test_deepcopy_and_meta(case):
    layer = case.layer()
    twin, y = copy.deepcopy(layer), layer(images(1))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1.0)
    assert torch.equal(twin(images(1)), y)
    assert layer.to("meta")(images(1).to("meta")).shape == y.shape


def test_reset_gives_the_variance_of_a_dense_layer(case):
    layer, squares, biases = case.layer(), [], []
    with torch.no_grad():
        for _ in range(2500):
            layer.reset_parameters()
            squares.append(layer.dense_weight().square().mean())
            biases.append(layer.bias.square().mean())
    assert torch.stack(squares).mean().item() == pytest.approx(1 / (3 * 36), rel=0.15)
    assert torch.stack(biases).mean().item() == pytest.approx(1 / (3 * 36), rel=0.05)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of inductor
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(case, backend):
    torch._dynamo.reset()
    layer, x = case.layer(dtype=torch.float32, padding=1), images(2, dtype=torch.float32).requires_grad_()
    y = torch.compile(layer, fullgraph=True, backend=backend)(x)
    torch.testing.assert_close(y, layer(x))
    y.sum().backward()
    gradient, x.grad = x.grad.clone(), None
    layer(x).sum().backward()
    torch.testing.assert_close(gradient, x.grad)


# From a dense layer.

KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {  # class, exact, truncated
    "tucker": (TuckerConv2d, {"rank": 8}, {"rank": (4, 3)}),
    "tucker_spatial": (TuckerConv2d, {"rank": 8, "spatial": True}, {"rank": (4, 3, 2, 2)}),
    "cp": (CPConv2d, {"rank": 40}, {"rank": 8}),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def dense(dtype: torch.dtype = torch.float64, **arguments: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*CHANNELS, (3, 2), dtype=dtype, **arguments).eval()


def error_of(layer: FactorisedConv2d, conv: nn.Conv2d) -> float:
    difference = layer.dense_weight().double() - conv.weight.double()
    return float(torch.linalg.norm(difference.detach()) / torch.linalg.norm(conv.weight.detach().double()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_exact(kind, dtype):
    make, exact, _ = kind
    conv = dense(dtype, stride=2, padding=(1, 0), padding_mode="circular", dilation=(1, 2))
    before = conv.weight.detach().clone()
    layer = make.from_dense(conv, **exact)
    tolerance = 0.03 if make is CPConv2d or dtype == torch.bfloat16 else 1e-5
    assert error_of(layer, conv) < tolerance
    assert {p.dtype for p in layer.parameters()} == {dtype}
    assert torch.equal(layer.bias, conv.bias)
    assert layer.bias is not conv.bias
    assert not layer.training
    assert torch.equal(conv.weight, before)
    x = images(2, dtype=dtype)
    torch.testing.assert_close(layer(x).double(), conv(x).double(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("rtol", [0.6, 0.4])
def test_rtol_is_met(kind, rtol):
    make, *_ = kind
    spatial = {"spatial": True} if "spatial" in kind[1] else {}
    layer = make.from_dense(dense(bias=False), rtol=rtol, **spatial)
    assert layer.bias is None
    assert 0.4 * rtol < error_of(layer, dense()) <= rtol * (1 + 1e-9)


@pytest.mark.parametrize("max_params", [60, 130])
def test_a_budget_is_kept_and_used(kind, max_params):
    make, *_ = kind
    spatial = {"spatial": True} if "spatial" in kind[1] else {}
    layer = make.from_dense(dense(bias=False), max_params=max_params, **spatial)
    assert 0.7 * max_params < layer.n_params <= max_params


def test_the_ranks_within_a_budget_are_the_best_by_brute_force():
    conv = dense(bias=False)
    with torch.no_grad():
        conv.weight.mul_(torch.logspace(0, 1, 8, dtype=torch.float64)[:, None, None, None])
    W = conv.weight.detach()
    spectra = [torch.linalg.svdvals(W.transpose(0, k).flatten(1)).square() for k in range(2)]
    for budget in range(20, 200, 15):
        fitting = [
            (a, b) for a, b in itertools.product(range(1, 9), range(1, 7)) if 6 * a * b + 8 * a + 6 * b <= budget
        ]
        best = max(float(spectra[0][:a].sum() + spectra[1][:b].sum()) for a, b in fitting)
        a, b = TuckerConv2d.from_dense(conv, max_params=budget).ranks
        assert (a, b) in fitting
        assert float(spectra[0][:a].sum() + spectra[1][:b].sum()) == pytest.approx(best, rel=1e-12)


def test_a_weight_lowers_the_error_of_the_outputs(kind):
    make, _, truncated = kind
    conv, x = dense(), images(20) * torch.logspace(0, 1.5, 6, dtype=torch.float64)[:, None, None]
    patches = nn.functional.unfold(x, (3, 2)).transpose(1, 2).flatten(0, 1)
    C = patches.T @ patches / len(patches)
    plain, weighted = (make.from_dense(conv, weight=w, **truncated) for w in (None, C))
    errors = [float((layer(x) - conv(x)).detach().square().mean()) for layer in (plain, weighted)]
    assert weighted.n_params == plain.n_params
    assert errors[1] < 0.9 * errors[0]


def test_ranks_before_training():
    ranks = TuckerConv2d.ranks_within(64, 128, 3, 10_000)
    assert 9_000 < TuckerConv2d(64, 128, 3, ranks, bias=False).n_params <= 10_000
    assert ranks[0] // 2 == ranks[1]
    spatial = TuckerConv2d.ranks_within(64, 128, 5, 10_000, spatial=True)
    assert len(spatial) == 4
    assert TuckerConv2d(64, 128, 5, spatial, bias=False).n_params <= 10_000
    rank = CPConv2d.rank_within(64, 128, 3, 10_000)
    assert rank == 10_000 // 198
    assert CPConv2d(64, 128, 3, rank, bias=False).n_params <= 10_000


def broken() -> nn.Conv2d:
    conv = dense()
    with torch.no_grad():
        conv.weight[2, 3, 0, 0] = float("inf")
    return conv


BAD: dict[str, tuple[Callable[[Any], Any], type[TnetError], str]] = {
    "inf": (lambda make: make.from_dense(broken(), 2), InputError, "non-finite"),
    "linear": (lambda make: make.from_dense(nn.Linear(2, 2), 2), InputError, "torch.nn.Conv2d"),
    "groups": (lambda make: make.from_dense(nn.Conv2d(4, 4, 3, groups=2), 2), InputError, "groups=2"),
    "no goal": (lambda make: make.from_dense(dense()), RankError, "exactly one"),
    "two goals": (lambda make: make.from_dense(dense(), 2, rtol=0.1), RankError, "exactly one"),
    "rank and budget": (lambda make: make.from_dense(dense(), 2, max_params=90), RankError, "exactly one"),
    "no rank": (lambda make: make.from_dense(dense(), 0), ShapeError, "rank=0"),
    "budget of nothing": (lambda make: make.from_dense(dense(), max_params=9), RankError, "max_params=9"),
    "C of another size": (
        lambda make: make.from_dense(dense(), 2, weight=torch.eye(6).double()),
        ShapeError,
        r"\(36, 36\)",
    ),
    "same with stride": (
        lambda make: make(6, 8, 3, **ranks(make), stride=2, padding="same"),
        InputError,
        "stride of 1",
    ),
    "padding": (lambda make: make(6, 8, 3, **ranks(make), padding="full"), InputError, "'same' or 'valid'"),
    "negative padding": (lambda make: make(6, 8, 3, **ranks(make), padding=-1), ShapeError, "padding=-1"),
    "padding mode": (lambda make: make(6, 8, 3, **ranks(make), padding_mode="wrap"), InputError, "circular"),
    "kernel": (lambda make: make(6, 8, (3, 3, 3), **ranks(make)), ShapeError, "kernel_size"),
    "channels": (lambda make: make(0, 8, 3, **ranks(make)), ShapeError, "in_channels=0"),
    "image": (lambda make: make(6, 8, 3, **ranks(make))(torch.randn(1, 5, 9, 9)), ShapeError, r"\(N, 6, H, W\)"),
}


def ranks(make: Any) -> dict[str, Any]:
    return {"rank": 2} if make is CPConv2d else {"ranks": (2, 2)}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("make", [TuckerConv2d, CPConv2d])
def test_bad_input(make, bad):
    call, error, message = bad
    with pytest.raises(error, match=message):
        call(make)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((9, 2), "mode of size 8"),
        ((2, 2, 2), "two, for outputs"),
        ((2, 0), "integer from 1 to 6"),
        ((2, 2, 4, 1), "3"),
    ],
)
def test_bad_ranks(given, message):
    with pytest.raises(RankError, match=message):
        TuckerConv2d(6, 8, 3, given)
    with pytest.raises(RankError, match=message):
        TuckerConv2d.from_dense(nn.Conv2d(6, 8, 3), given)


def test_bad_rank_of_terms():
    with pytest.raises(RankError, match="rank=0"):
        CPConv2d(6, 8, 3, 0)
    with pytest.raises(RankError, match="max_params=5: ranks of 1"):
        TuckerConv2d.ranks_within(6, 8, 3, 5)
