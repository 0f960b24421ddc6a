"""Shampoo and Muon against their formulas, on quadratics, saved and loaded, and given what they cannot use."""

from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tnet.errors import BackendError, InputError, ShapeError
from tnet.nn import BTTLinear, MPOLinear, Muon, Shampoo, muon_groups, newton_schulz

F64 = torch.float64
PLAIN: dict[str, Any] = {"momentum": 0.0, "decay": 0.0, "ridge": 0.0, "every": 1, "start": 0, "graft": None}


def gauss(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def polar(matrix: torch.Tensor) -> torch.Tensor:
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U @ Vh


def steps_of(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], gradients: list[torch.Tensor]
) -> torch.Tensor:
    """What the optimiser took off a parameter of zeros, with these gradients."""
    parameter = nn.Parameter(torch.zeros_like(gradients[0]))
    optimiser = make([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimiser.step()
    return -parameter.detach()


# Newton-Schulz


@pytest.mark.parametrize("shape", [(64, 128), (128, 64), (3, 64, 128)])
def test_singular_values_after_five_steps(shape):
    G = gauss(*shape, dtype=torch.float32)
    given_values = G.clone()
    values = torch.linalg.svdvals(newton_schulz(G))
    assert 0.68 <= float(values.min()) <= float(values.max()) <= 1.135
    assert torch.equal(G, given_values)


def test_singular_vectors_are_kept():
    G = gauss(12, 7)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    inner = U.T @ newton_schulz(G) @ Vh.T
    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_orthogonalisation_knows_no_scale(size):
    G = gauss(8, 5, dtype=torch.float32)
    assert torch.allclose(newton_schulz(G * size), newton_schulz(G), atol=1e-4)


def test_orthogonalisation_of_zeros_of_halves_and_of_nothing():
    assert not newton_schulz(torch.zeros(3, 4)).any()
    half = newton_schulz(gauss(32, 64, dtype=torch.float32).bfloat16())
    assert half.dtype == torch.bfloat16
    assert float(torch.linalg.svdvals(half.float()).max()) < 1.2
    assert newton_schulz(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize(
    ("matrices", "steps", "error"),
    [
        (torch.zeros(3), 5, ShapeError),
        (torch.zeros(3, 3, dtype=torch.complex64), 5, BackendError),
        (torch.zeros(3, 3, dtype=torch.int64), 5, BackendError),
        ([[1.0]], 5, BackendError),
        (torch.zeros(3, 3), 0, ShapeError),
    ],
)
def test_what_cannot_be_orthogonalised(matrices, steps, error):
    with pytest.raises(error):
        newton_schulz(matrices, steps)


# Shampoo


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_shampoo_without_accumulation_steps_along_the_polar_factor(shape):
    G = gauss(*shape)
    taken = steps_of(lambda p: Shampoo(p, lr=1.0, **PLAIN), [G])
    assert torch.allclose(taken, polar(G), atol=1e-7)


def power(gram: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(gram)
    return (vectors * values**exponent) @ vectors.T


@pytest.mark.parametrize("decay", [None, 0.9])
def test_shampoo_of_order_three_by_its_formula(decay):
    gradients = [gauss(3, 4, 2, seed=seed) for seed in range(3)]
    expected, ridge = np.zeros((3, 4, 2)), 1e-3
    grams = [np.zeros((n, n)) for n in (3, 4, 2)]
    for t, G in enumerate(gradients, 1):
        step = G.numpy()
        for mode, gram in enumerate(grams):
            unfolded = np.moveaxis(G.numpy(), mode, 0).reshape(len(gram), -1)
            gram *= 1 if decay is None else decay
            gram += (1 if decay is None else 1 - decay) * unfolded @ unfolded.T
            mean = gram if decay is None else gram / (1 - decay**t)
            root = power(mean + ridge * np.linalg.norm(mean, 2) * np.eye(len(gram)), -1 / 6)
            step = np.moveaxis(np.tensordot(root, step, (1, mode)), 0, mode)
        expected += step
    settings = PLAIN | {"decay": decay, "ridge": ridge}
    taken = steps_of(lambda p: Shampoo(p, lr=1.0, **settings), gradients)
    np.testing.assert_allclose(taken, expected, rtol=1e-9, atol=1e-9)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_shampoo_does_not_see_the_order_of_modes(shape, random):
    order = list(range(len(shape)))
    random.shuffle(order)
    gradients = [gauss(*shape, seed=seed) for seed in range(3)]
    taken = steps_of(lambda p: Shampoo(p, lr=1.0, ridge=0.1, every=2, start=1), gradients)
    moved = steps_of(lambda p: Shampoo(p, lr=1.0, ridge=0.1, every=2, start=1), [G.permute(order) for G in gradients])
    assert torch.allclose(taken.permute(order), moved, atol=1e-9)


def test_shampoo_turns_with_the_bases():
    Q, gradients = torch.linalg.qr(gauss(5, 5, seed=9))[0], [gauss(5, 4, seed=seed) for seed in range(3)]
    settings = PLAIN | {"decay": None, "momentum": 0.9, "ridge": 1e-3}
    taken = steps_of(lambda p: Shampoo(p, **settings), gradients)
    turned = steps_of(lambda p: Shampoo(p, **settings), [Q @ G for G in gradients])
    assert torch.allclose(Q @ taken, turned, atol=1e-12)


def test_long_modes_are_cut_into_blocks():
    gradients = [gauss(6, 4, seed=seed) for seed in range(2)]
    settings = PLAIN | {"decay": 0.5, "ridge": 1e-3}
    taken = steps_of(lambda p: Shampoo(p, max_mode=4, **settings), gradients)
    for rows in (slice(0, 3), slice(3, 6)):
        own = steps_of(lambda p: Shampoo(p, **settings), [G[rows] for G in gradients])
        assert torch.allclose(taken[rows], own, atol=1e-12)


@pytest.mark.parametrize("graft", ["adam", "sgd"])
def test_grafted_steps_have_the_norm_of_the_other_optimiser(graft):
    gradients = [gauss(5, 3, seed=seed) for seed in range(4)]
    parameter, other = nn.Parameter(torch.zeros(5, 3, dtype=F64)), nn.Parameter(torch.zeros(5, 3, dtype=F64))
    optimiser = Shampoo([parameter], lr=0.1, graft=graft, start=1, momentum=0.9 if graft == "adam" else 0.0)
    adam = (
        torch.optim.Adam([other], lr=0.1, betas=(0.9, 0.95)) if graft == "adam" else torch.optim.SGD([other], lr=0.1)
    )
    for gradient in gradients:
        before = parameter.detach().clone(), other.detach().clone()
        parameter.grad, other.grad = gradient.clone(), gradient.clone()
        optimiser.step()
        adam.step()
        own = torch.linalg.norm(parameter.detach() - before[0])
        assert torch.allclose(own, torch.linalg.norm(other.detach() - before[1]), rtol=1e-9)


def test_roots_are_taken_every_so_many_steps():
    parameter = nn.Parameter(torch.zeros(3, 3, dtype=F64))
    optimiser = Shampoo([parameter], every=3, start=0)
    seen = []
    for seed in range(5):
        parameter.grad = gauss(3, 3, seed=seed)
        optimiser.step()
        seen.append(optimiser.state[parameter]["roots"][0][0].clone())
    same = [torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert same == [True, True, False, True]


def test_first_steps_are_those_of_adam():
    gradients = [gauss(5, 3, seed=seed) for seed in range(4)]
    taken = steps_of(lambda p: Shampoo(p, lr=0.1, start=4), gradients)
    adam = steps_of(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.95)), gradients)
    assert torch.allclose(taken, adam, atol=1e-12)


def test_small_gradients_are_grafted_without_loss():
    small = [gauss(5, 3, seed=seed, dtype=torch.float32) * 1e-15 for seed in range(3)]
    taken = steps_of(lambda p: Shampoo(p, lr=1.0, graft="sgd", start=0, momentum=0.0), small)
    large = steps_of(lambda p: Shampoo(p, lr=1.0, graft="sgd", start=0, momentum=0.0), [1e15 * G for G in small])
    assert torch.allclose(1e15 * taken, large, rtol=1e-2, atol=1e-2)


def test_shampoo_of_zero_gradients_stays():
    assert not steps_of(lambda p: Shampoo(p, lr=1.0, graft=None, start=0), [torch.zeros(3, 2, dtype=F64)] * 3).any()


def test_shampoo_refuses_squares_that_overflow():
    with pytest.raises(InputError, match="overflow"):
        steps_of(lambda p: Shampoo(p, start=0), [torch.full((3, 3), 1e30)])


# Muon


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["spectral", "rms"])
def test_muon_by_its_formula(nesterov, scale):
    gradients = [gauss(6, 4, seed=seed) for seed in range(3)]
    moment, expected = torch.zeros(6, 4, dtype=F64), torch.zeros(6, 4, dtype=F64)
    size = math.sqrt(6 / 4) if scale == "spectral" else 0.2 * math.sqrt(6)
    for G in gradients:
        moment = 0.9 * moment + G
        expected = expected * (1 - 0.1 * 0.5)
        expected += 0.1 * size * newton_schulz(G + 0.9 * moment if nesterov else moment)
    taken = steps_of(
        lambda p: Muon(p, lr=0.1, momentum=0.9, nesterov=nesterov, scale=scale, weight_decay=0.5), gradients
    )
    assert torch.allclose(taken, expected, atol=1e-12)


def test_factors_are_stepped_as_the_matrices_that_they_act_as():
    layer = BTTLinear(12, 10, 2, row_shape=(2, 5), column_shape=(3, 4), dtype=F64)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    layer(gauss(7, 12)).square().sum().backward()
    Muon(muon_groups(layer), lr=1.0, momentum=0.0).step()
    taken = {name: before[name] - parameter.detach() for name, parameter in layer.named_parameters()}
    for block in range(3):  # right maps n_2 = 4 to (r, m_1) = (2, 2)
        G = layer.right.grad[block].reshape(4, 4)
        assert torch.allclose(taken["right"][block].reshape(4, 4), newton_schulz(G), atol=1e-10)
    for block in range(2):  # left maps (n_1, r) = (3, 2) to m_2 = 5
        G = layer.left.grad[block].reshape(5, 6)
        assert torch.allclose(taken["left"][block].reshape(5, 6), newton_schulz(G), atol=1e-10)


def test_cores_of_operators_are_stepped_by_bonds_and_modes():
    layer = MPOLinear((2, 3), (3, 2), (4,), dtype=F64)
    layer(gauss(5, 6)).square().sum().backward()
    before = layer.cores[0].detach().clone()
    Muon(muon_groups(layer), lr=1.0, momentum=0.0).step()
    G = layer.cores[0].grad  # (1, m, n, r)
    matrix = G.permute(1, 3, 0, 2).reshape(8, 3)
    expected = math.sqrt(8 / 3) * newton_schulz(matrix).reshape(2, 4, 1, 3).permute(2, 0, 3, 1)
    assert torch.allclose(before - layer.cores[0].detach(), expected, atol=1e-10)


def test_vectors_embeddings_and_the_readout_are_left_to_adamw():
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 5))

    ours, theirs = model(), model()
    optimiser = Muon(muon_groups(ours, readout="3"), lr=0.1, adam_share=0.1, weight_decay=0.2)
    left = [(name, parameter) for name, parameter in theirs.named_parameters() if name != "1.weight"]
    groups = [
        {"params": [p for _, p in left if p.ndim > 1], "weight_decay": 0.2},
        {"params": [p for _, p in left if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for seed in range(3):
        for number, (a, b) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
            a.grad = gauss(*a.shape, seed=10 * seed + number, dtype=torch.float32)
            b.grad = a.grad.clone()
        optimiser.step()
        adam.step()
    mine = dict(ours.named_parameters())
    for name, parameter in left:
        assert torch.allclose(mine[name], parameter, atol=1e-6), name
    assert not torch.allclose(ours[1].weight, theirs[1].weight)


def test_groups_leave_frozen_parameters_out():
    model = nn.Sequential(BTTLinear(16, 16, 2), nn.Linear(16, 4))
    model[1].weight.requires_grad_(False)
    found = {id(p) for group in muon_groups(model) for p in group["params"]}
    assert found == {id(p) for p in model.parameters() if p.requires_grad}
    with pytest.raises(InputError, match="head"):
        muon_groups(model, readout="head")


# Both

OPTIMISERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "shampoo": lambda model: Shampoo(model.parameters(), lr=0.02, every=3, start=2, weight_decay=0.01),
    "shampoo, sums": lambda model: Shampoo(model.parameters(), lr=0.02, decay=None, graft="sgd", start=0, max_mode=5),
    "muon": lambda model: Muon(muon_groups(model), lr=0.02, weight_decay=0.01),
}


def trained(model: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = gauss(16, 12, seed=step, dtype=torch.float32)
        loss = (model(x) - x.flip(1)[:, :10]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_saved_states_go_on_as_if_nothing_was(kind):
    torch.manual_seed(0)
    model = nn.Sequential(BTTLinear(12, 12, 2), nn.LayerNorm(12), nn.Linear(12, 10))
    optimiser = OPTIMISERS[kind](model)
    trained(model, optimiser, range(5))
    other, file = copy.deepcopy(model), io.BytesIO()
    torch.save(optimiser.state_dict(), file)
    file.seek(0)
    loaded = OPTIMISERS[kind](other)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    trained(model, optimiser, range(5, 10))
    trained(other, loaded, range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_copies_step_alike(kind):
    torch.manual_seed(0)
    model = BTTLinear(12, 10, 2)
    pair = copy.deepcopy((model, OPTIMISERS[kind](model)))
    trained(model, OPTIMISERS[kind](model), range(4))
    trained(*pair, range(4))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), pair[0].parameters(), strict=True))


@pytest.mark.parametrize("kind", ["shampoo", "muon"])
def test_quadratics_are_solved(kind):
    """An objective of condition 1e4 in both modes: with falling rates the error falls to where gradient descent,
    at its largest stable rate, does not come."""
    target = gauss(8, 6)
    left, right = torch.logspace(0, -2, 8, dtype=F64), torch.logspace(0, -2, 6, dtype=F64)

    def loss_of(W: torch.Tensor) -> torch.Tensor:
        return 0.5 * (left[:, None] * (W - target) * right).square().sum()

    def solved(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], fall: bool) -> float:
        parameter = nn.Parameter(torch.zeros(8, 6, dtype=F64))
        optimiser = make([parameter])
        rate = optimiser.param_groups[0]["lr"]
        for step in range(300):
            optimiser.param_groups[0]["lr"] = rate * (1 - step / 300) if fall else rate
            optimiser.zero_grad()
            loss_of(parameter).backward()
            optimiser.step()
        return float(loss_of(parameter.detach()))

    makes = {"shampoo": lambda p: Shampoo(p, lr=0.1, every=1), "muon": lambda p: Muon(p, lr=0.1)}
    assert solved(makes[kind], True) < 0.1 * solved(lambda p: torch.optim.SGD(p, lr=1.0), False)


@pytest.mark.parametrize("make", [lambda p: Shampoo(p, lr=0.1), lambda p: Muon(p, lr=0.1)])
def test_closures_and_parameters_without_gradients(make):
    used, unused = nn.Parameter(gauss(3, 3)), nn.Parameter(gauss(3, 3))
    empty = nn.Parameter(torch.zeros(0, 3, dtype=F64))
    scalar = nn.Parameter(torch.tensor(2.0, dtype=F64))
    optimiser = make([used, unused, empty, scalar])
    before = unused.detach().clone(), scalar.detach().clone()

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = used.square().sum() + scalar**2 + empty.sum()
        loss.backward()
        return loss

    first, second = optimiser.step(closure), optimiser.step(closure)
    assert bool(second < first)
    assert torch.equal(unused, before[0])
    assert bool(scalar < before[1])


@pytest.mark.parametrize("make", [lambda p: Shampoo(p), lambda p: Muon(p)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_change_nothing(make, bad):
    parameters = [nn.Parameter(gauss(3, 3)), nn.Parameter(gauss(3))]
    optimiser = make(parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    parameters[0].grad, parameters[1].grad = gauss(3, 3), torch.tensor([1.0, bad, 1.0], dtype=F64)
    with pytest.raises(InputError, match="not finite"):
        optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    assert not optimiser.state


@pytest.mark.parametrize("make", [lambda p: Shampoo(p), lambda p: Muon(p)])
def test_sparse_gradients_are_refused(make):
    table = nn.Embedding(5, 3, sparse=True)
    optimiser = make(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(BackendError, match="dense"):
        optimiser.step()


@pytest.mark.parametrize("kind", [Shampoo, Muon])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.bfloat16, torch.float16])
def test_complex_and_half_parameters_are_refused(kind, dtype):
    with pytest.raises(BackendError, match="float32"):
        kind([nn.Parameter(torch.zeros(3, 3, dtype=dtype))])


@pytest.mark.parametrize(
    ("kind", "settings", "error"),
    [
        (kind, settings, error)
        for kind in (Shampoo, Muon)
        for settings, error in (
            ({"lr": -1.0}, InputError),
            ({"lr": math.nan}, InputError),
            ({"lr": "fast"}, InputError),
            ({"momentum": 1.0}, InputError),
            ({"weight_decay": -0.1}, InputError),
            ({"eps": 0.0}, InputError),
        )
    ]
    + [
        (Shampoo, {"decay": 1.0}, InputError),
        (Shampoo, {"ridge": -1e-3}, InputError),
        (Shampoo, {"every": 0}, ShapeError),
        (Shampoo, {"start": -1}, InputError),
        (Shampoo, {"max_mode": 0}, ShapeError),
        (Shampoo, {"graft": "lion"}, InputError),
        (Muon, {"steps": 0}, ShapeError),
        (Muon, {"scale": "unit"}, InputError),
        (Muon, {"betas": (0.9,)}, InputError),
        (Muon, {"betas": (0.9, 1.0)}, InputError),
        (Muon, {"adam_share": -1.0}, InputError),
        (Muon, {"nesterov": 1}, InputError),
    ],
)
def test_settings_that_cannot_be_used_are_refused(kind, settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        kind([nn.Parameter(torch.zeros(3, 3))], **settings)


@pytest.mark.parametrize(
    ("axes", "error"), [(((0,), (1,)), InputError), (((), (0,), (0,)), ShapeError), ("last", InputError)]
)
def test_axes_that_do_not_fit_are_refused_and_the_group_is_not_added(axes, error):
    optimiser = Muon([nn.Parameter(torch.zeros(3, 3))])
    with pytest.raises(error, match="axes"):
        optimiser.add_param_group({"params": [nn.Parameter(torch.zeros(3, 3))], "axes": axes})
    assert len(optimiser.param_groups) == 1
