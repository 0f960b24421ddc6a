"""muP: sizes of activations and of their changes at all widths, values, rates, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tnet.errors import InputError, ShapeError
from tnet.nn import BTTLinear, KroneckerLinear, LowRankLinear, MPOLinear, TuckerConv2d
from tnet.nn.digits import balanced_digits
from tnet.nn.init import mup_, mup_groups

WIDTHS = (64, 128, 256, 512, 1024)


def digits(width: int) -> tuple[int, ...]:
    return balanced_digits(width, 2)


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "dense": lambda w: nn.Linear(w, w),
    "btt": lambda w: BTTLinear(w, w, 4),
    "mpo": lambda w: MPOLinear(digits(w), digits(w), (8,)),
    "low rank": lambda w: LowRankLinear(w, w, w // 8),
    "kronecker": lambda w: KroneckerLinear(w, w, 4),
}


class Net(nn.Module):
    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(16, width)
        self.hidden = nn.ModuleList([LAYERS[kind](width), LAYERS[kind](width)])
        self.readout = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.relu(self.first(x))
        for layer in self.hidden:
            y = layer(h)
            h = torch.relu(y)
        return y, self.readout(h)


def coordinates(kind: str, width: int, seed: int, steps: int = 5, lr: float = 0.01) -> list[float]:
    """RMS of the last hidden outputs at first, and of their change after each step of Adam."""
    torch.manual_seed(seed)
    x, labels = torch.randn(64, 16), torch.randint(10, (64,))
    net = mup_(Net(kind, width), readout="readout", zero_readout=False)
    optimiser = torch.optim.Adam(mup_groups(net, lr, 64, readout="readout"), eps=1e-12)
    before = net(x)[0].detach()
    sizes = [float(before.square().mean().sqrt())]
    for _ in range(steps):
        loss = F.cross_entropy(net(x)[1], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        sizes.append(float((net(x)[0].detach() - before).square().mean().sqrt()))
    return sizes


def slopes(curves: np.ndarray) -> np.ndarray:
    """Exponents of the width, by least squares, of each column."""
    return np.polyfit(np.log(WIDTHS), np.log(curves), 1)[0]


@pytest.mark.parametrize("kind", LAYERS)
def test_activations_and_their_changes_do_not_depend_on_the_width(kind):
    curves = np.array([np.mean([coordinates(kind, width, seed) for seed in range(3)], axis=0) for width in WIDTHS])
    first, *changes = slopes(curves)
    assert abs(first) < 0.1
    # Gradients of a factor that acts at sqrt(width) places are sums over them; their signs follow each place less.
    least = -0.3 if kind in ("mpo", "kronecker") else -0.1
    assert least < min(changes) <= max(changes) < 0.1


def test_rates_that_are_equal_for_all_widths_fail_the_coordinate_check():
    def size(width: int) -> float:
        torch.manual_seed(0)
        x, net = torch.randn(64, 16), mup_(Net("btt", width), readout="readout", zero_readout=False)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        before = net(x)[0].detach()
        F.cross_entropy(net(x)[1], torch.randint(10, (64,))).backward()
        optimiser.step()
        return float((net(x)[0].detach() - before).square().mean().sqrt())

    assert size(1024) > 2 * size(64)


@pytest.mark.parametrize("kind", LAYERS)
def test_spectral_norm_of_a_new_weight_does_not_depend_on_the_width(kind):
    def norm(width: int) -> float:
        torch.manual_seed(0)
        layer = mup_(LAYERS[kind](width))
        weight = layer.weight.detach()  # type: ignore[union-attr]
        return float(torch.linalg.matrix_norm(weight, 2))

    norms = np.array([[norm(width)] for width in WIDTHS])
    assert abs(slopes(norms)[0]) < 0.1
    assert 0.5 < norms.min() <= norms.max() < 4


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 64)
        self.mixed = BTTLinear(64, 256, 4)
        self.norm = nn.LayerNorm(256)
        self.dense = nn.Linear(256, 64)
        self.convolution = nn.Conv1d(64, 32, 3)
        self.readout = nn.Linear(32, 10)


def test_values():
    model = mup_(Model(), readout="readout", zero_readout=False, generator=torch.Generator().manual_seed(1))
    expected = {
        "table.weight": 1.0,
        "mixed.right": 8**0.5 / 8,  # 8 to 4 * 16
        "mixed.left": 16**0.5 / 32,  # 8 * 4 to 16
        "dense.weight": 64**0.5 / 256,
        "convolution.weight": 32**0.5 / 192,
        "readout.weight": 1 / 32,
    }
    for name, parameter in model.named_parameters():
        if name in expected:
            assert float(parameter.detach().std()) == pytest.approx(expected[name], rel=0.12), name
        elif name == "norm.weight":
            assert bool((parameter == 1).all())
        else:
            assert not parameter.any(), name
    again = mup_(Model(), readout="readout", zero_readout=False, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_rates():
    model = Model()
    groups = mup_groups(model, 0.01, 128, readout=model.readout, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    assert rates == pytest.approx(
        dict.fromkeys(names.values(), 0.01)
        | {
            "mixed.right": 0.01 * 128 / (8 * 2),
            "mixed.left": 0.01 * 128 / (32 * 2),
            "dense.weight": 0.01 * 128 / 256,
            "convolution.weight": 0.01 * 128 / 192,
            "readout.weight": 0.01 * 128 / 32,
        }
    )
    taken = {names[id(p)]: group["lr"] * group["weight_decay"] for group in groups for p in group["params"]}
    for name, product in taken.items():
        matrix = name in ("mixed.right", "mixed.left") or (
            name.endswith("weight") and name[:5] not in ("table", "norm.")
        )
        assert product == pytest.approx(0.001 if matrix else 0.0), name


def test_inputs_vectors_and_factors_have_rates_of_their_own():
    model = nn.Sequential(nn.Linear(16, 64), BTTLinear(64, 64, 2), nn.Linear(64, 10))
    groups = mup_groups(model, 0.01, 64, inputs=["0"], lr_vectors=0.04, lr_factors=0.005)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    own = {"1.right": 0.02, "1.left": 0.01, "2.weight": 0.01}
    assert rates == pytest.approx(dict.fromkeys(names.values(), 0.04) | own)


@pytest.mark.parametrize("last", [nn.Linear(64, 10), BTTLinear(64, 10, 2)])
def test_readout_of_zero(last):
    model = mup_(nn.Sequential(LowRankLinear(64, 64, 8), last), readout="1")
    assert not model(torch.randn(3, 64)).any()
    assert model[0](torch.randn(3, 64)).any()
    mup_(model, readout=last, zero_readout=False)
    assert model(torch.randn(3, 64)).any()


def test_last_factors_of_zero():
    model = mup_(
        nn.ModuleList([BTTLinear(64, 64, 2), MPOLinear((8, 8), (8, 8), (4,)), nn.Linear(64, 64)]),
        zero_last_factor=True,
    )
    x = torch.randn(3, 64)
    assert [bool(layer(x).any()) for layer in model] == [False, False, True]
    assert model[0].right.any()


def test_factorised_convolutions_follow_their_dims():
    model = mup_(nn.Sequential(TuckerConv2d(16, 32, 3, (16, 8, 3, 3))))
    for name, (d_in, d_out) in model[0].factor_dims().items():
        std = float(model[0].get_parameter(name).detach().std())
        assert std == pytest.approx(math.sqrt(min(d_in, d_out)) / d_in, rel=0.5)


def test_frozen_and_shared_parameters():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    groups = mup_groups(model, 0.1, 8)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found)) == 4


def test_given_dims_serve_for_other_modules():
    model = nn.MultiheadAttention(64, 4)
    dims = {"in_proj_weight": (64, 192)}
    mup_(model, dims=dims)
    assert float(model.in_proj_weight.detach().std()) == pytest.approx(1 / 8, rel=0.1)
    rates = {group["lr"] for group in mup_groups(model, 0.1, 128, dims=dims)}
    assert rates == {0.2, 0.1}


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "settings", "error", "told"),
    [
        (nn.MultiheadAttention(8, 2), {}, InputError, "in_proj_weight"),
        (nn.Linear(8, 8), {"readout": "head"}, InputError, "head"),
        (nn.Linear(8, 8), {"readout": nn.Linear(8, 8)}, InputError, "no module"),
        (nn.Sequential(nn.ReLU()), {"readout": "0"}, InputError, "ReLU"),
        (nn.Linear(8, 8), {"dims": {"none": (8, 8)}}, InputError, "none"),
        (nn.Linear(8, 8), {"dims": {"weight": (8,)}}, InputError, "d_in, d_out"),
        (nn.Linear(8, 8), {"dims": {"weight": (0, 8)}}, ShapeError, "at least 1"),
        (tied(), {"readout": "1"}, InputError, "Untie"),
    ],
)
def test_models_that_cannot_be_used_are_refused(model, settings, error, told):
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(error, match=told):
        mup_(model, **settings)
    with pytest.raises(error, match=told):
        mup_groups(model, 0.1, 8, **settings)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"lr": 0.0}, InputError),
        ({"lr": math.nan}, InputError),
        ({"base_width": 0}, ShapeError),
        ({"base_width": 2.5}, ShapeError),
        ({"weight_decay": -1.0}, InputError),
        ({"lr_vectors": 0.0}, InputError),
        ({"lr_factors": math.inf}, InputError),
        ({"inputs": ["first"]}, InputError),
        ({"inputs": "first"}, InputError),
    ],
)
def test_rates_that_cannot_be_used_are_refused(settings, error):
    with pytest.raises(error):
        mup_groups(nn.Linear(8, 8), **({"lr": 0.1, "base_width": 8} | settings))
