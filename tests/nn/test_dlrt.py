"""Rank-adaptive training: ranks, robustness, orthonormal factors, descent; convolutions, Tucker and low rank."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tnet.errors import BackendError, InputError
from tnet.nn import DLRT, LowRankLinear, TuckerConv2d, TuckerLinear
from tnet.nn.tucker_step import augmented_basis, multiplied, orthonormalised, probe, right_bases, truncated, unfolded

F64 = torch.float64


def planted(shape: tuple[int, ...], ranks: tuple[int, ...]) -> torch.Tensor:
    """A tensor of norm 1 and these multilinear ranks."""
    torch.manual_seed(0)
    tensor = torch.randn(ranks, dtype=F64)
    for mode, (n, r) in enumerate(zip(shape, ranks, strict=True)):
        tensor = multiplied(tensor, torch.linalg.qr(torch.randn(n, r, dtype=F64))[0], mode)
    return tensor / torch.linalg.norm(tensor)


def convolution(scale: float, ranks: tuple[int, ...] = (8, 8, 4, 4)) -> TuckerConv2d:
    torch.manual_seed(1)
    layer = TuckerConv2d(18, 20, 5, ranks, bias=False, dtype=F64)
    with torch.no_grad():
        layer.core.mul_(scale)
    return layer


def distance(layer: TuckerConv2d, target: torch.Tensor) -> float:
    return float(torch.linalg.norm(layer.dense_weight().detach() - target))


def fit(layer: TuckerConv2d, target: torch.Tensor, steps: int, tau: float) -> list[float]:
    optimiser = DLRT(layer, lr=0.5, tau=tau)

    def closure() -> torch.Tensor:
        loss = 0.5 * (layer.dense_weight() - target).square().sum()
        loss.backward()
        return loss

    curve = []
    for _ in range(steps):
        optimiser.step(closure)
        curve.append(distance(layer, target))
    return curve


@pytest.mark.parametrize("tau", [0.05, 0.01])
def test_planted_ranks_are_found(tau):
    layer = convolution(1.0)
    curve = fit(layer, planted((20, 18, 5, 5), (3, 2, 2, 2)), 50, tau)
    assert layer.ranks == (3, 2, 2, 2)
    assert layer.core.shape == (3, 2, 2, 2)
    assert curve[10] < 1e-3
    assert curve[20] < 1e-6
    assert curve[-1] < 1e-13


def test_tiny_singular_values_do_not_matter():
    target = planted((20, 18, 5, 5), (3, 2, 2, 2))
    curves = [fit(convolution(scale), target, 21, 0.05) for scale in (1e-4, 1e-6, 1e-9)]
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[2]), rtol=0.05, atol=1e-9)
    torch.testing.assert_close(torch.tensor(curves[1]), torch.tensor(curves[2]), rtol=1e-3, atol=1e-9)
    layer = convolution(1e-9)
    descent = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(21):
        descent.zero_grad()
        (0.5 * (layer.dense_weight() - target).square().sum()).backward()
        descent.step()
    assert not distance(layer, target) < 1e4 * curves[2][-1]  # factor by factor, it crawls or runs away


class Net(nn.Module):
    """All kinds of layers that are stepped, and some that are not."""

    def __init__(self, dtype: torch.dtype = F64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = TuckerConv2d(3, 8, 3, (4, 3), padding=1, dtype=dtype)
        self.norm = nn.BatchNorm2d(8, dtype=dtype)
        self.tucker = TuckerLinear((2, 5), (8, 4), (2, 3, 4, 2), dtype=dtype)
        self.low = LowRankLinear(10, 6, 3, dtype=dtype)
        self.head = nn.Linear(6, 4, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean(-1)
        return self.head(torch.tanh(self.low(torch.tanh(self.tucker(x.flatten(1))))))

    def dense(self) -> list[torch.Tensor]:
        return [layer.dense_weight().detach().clone() for layer in (self.conv, self.tucker, self.low)]


def batch(dtype: torch.dtype = F64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    x = torch.randn(64, 3, 4, 4, dtype=dtype)
    return x, x.mean((1, 3)).argmax(1)


def closure_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor):
    def closure() -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


def orthonormal_error(factor: torch.Tensor) -> float:
    gram = factor.detach().T @ factor.detach()
    return float((gram - torch.eye(len(gram), dtype=gram.dtype)).abs().max())


@pytest.mark.parametrize(("dtype", "limit"), [(F64, 1e-12), (torch.float32, 1e-6)])
def test_factors_are_orthonormal_and_the_loss_falls(dtype, limit):
    model, (x, y) = Net(dtype), batch(dtype)
    optimiser, other = (
        DLRT(model, lr=1.0, tau=0.02),
        torch.optim.SGD([*model.head.parameters(), *model.norm.parameters()], lr=0.2),
    )
    losses = []
    for _ in range(40):
        losses.append(float(optimiser.step(closure_of(model, x, y))))
        other.step()
        for factor in [*model.conv.factors, *model.tucker.factors, model.low.right.T]:
            assert orthonormal_error(factor) < limit
    assert losses[-1] < 0.8 * losses[0]
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert {id(p) for group in optimiser.param_groups for p in group["params"]} <= {id(p) for p in model.parameters()}
    assert torch.isfinite(model(x)).all()


def test_at_full_ranks_a_step_is_one_of_the_dense_weight():
    layer, x = TuckerConv2d(3, 4, (2, 3), (4, 3, 2, 3), bias=False, dtype=F64), torch.randn(5, 3, 6, 6, dtype=F64)
    before = layer.dense_weight().detach().requires_grad_()
    loss = torch.tanh(nn.functional.conv2d(x, before)).square().mean()
    (gradient,) = torch.autograd.grad(loss, before)

    def closure() -> torch.Tensor:
        value = torch.tanh(layer(x)).square().mean()
        value.backward()
        return value

    returned = DLRT(layer, lr=0.3, tau=0.0).step(closure)
    torch.testing.assert_close(returned, loss.detach())
    torch.testing.assert_close(layer.dense_weight(), before - 0.3 * gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["conv", "tucker", "low"])
def test_descent_is_that_of_the_tangent_projection(kind):
    """With tau = 0 the loss falls by at least lr ||P grad||^2 (1 - small), P the projection on the tangent space."""
    model, (x, y) = Net().eval(), batch()
    layer = getattr(model, kind)
    for other in ("conv", "tucker", "low"):
        if other != kind:
            setattr(model, other, getattr(model, other).to_dense())
    with torch.no_grad():  # the projection by brute force: all first-order changes of the factors
        names = [name for name, _ in layer.named_parameters() if name != "bias"]
        values = tuple(layer.get_parameter(name).detach() for name in names)

    def dense(*values: torch.Tensor) -> torch.Tensor:
        twin = dict(zip(names, values, strict=True))
        return torch.func.functional_call(_Weight(layer), {f"layer.{k}": v for k, v in twin.items()}, ())

    jacobians = torch.autograd.functional.jacobian(dense, values)
    size = layer.dense_weight().numel()
    tangent = torch.cat([j.reshape(size, -1) for j in jacobians], 1)
    basis = torch.linalg.svd(tangent, full_matrices=False)
    basis = basis.U[:, basis.S > 1e-10 * basis.S[0]]
    gradient = torch.autograd.functional.jacobian(
        lambda w: _loss_of(model, kind, w, x, y), layer.dense_weight().detach()
    )
    expected = float((basis.T @ gradient.flatten()).square().sum())
    lr = 1e-3
    before = closure_of(model, x, y)().detach()
    DLRT(model, lr=lr, tau=0.0).step(closure_of(model, x, y))
    fall = float(before - closure_of(model, x, y)().detach())
    assert fall > 0.95 * lr * expected > 0


class _Weight(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> torch.Tensor:
        return self.layer.dense_weight()


def _loss_of(model: nn.Module, kind: str, weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    dense = getattr(model, kind).to_dense()
    parts = dict(model.named_children())
    parts[kind] = dense
    twin = nn.Module.__new__(Net)
    nn.Module.__init__(twin)
    for name, part in parts.items():
        setattr(twin, name, part)
    return nn.functional.cross_entropy(torch.func.functional_call(twin, {f"{kind}.weight": weight}, (x,)), y)


def test_max_rank_and_tau_bound_the_ranks():
    model, (x, y) = Net(), batch()
    DLRT(model, lr=0.1, tau=0.0, max_rank=2).step(closure_of(model, x, y))
    assert model.conv.ranks == (2, 2)
    assert model.tucker.ranks == (2, 2, 2, 2)
    assert model.low.rank == 2
    DLRT(model, lr=0.1, tau=0.9).step(closure_of(model, x, y))
    assert model.low.rank == 1


def test_one_probe_has_the_gradients_of_all_bases():
    core, factors = orthonormalised(*_random_model((4, 5, 3), (2, 3, 2)))
    rights = right_bases(core, 3)
    G = torch.randn(4, 5, 3, dtype=F64)
    wide, padded = probe(core, factors, rights)
    leaves = [factor.requires_grad_() for factor in padded]
    value = wide
    for mode, leaf in enumerate(leaves):
        value = multiplied(value, leaf, mode)
    torch.testing.assert_close(value, _assembled(core, factors))
    (value * G).sum().backward()
    for mode, (factor, leaf, right) in enumerate(zip(factors, leaves, rights, strict=True)):
        projected = G
        for other, basis in enumerate(factors):
            if other != mode:
                projected = multiplied(projected, basis.T, other)
        torch.testing.assert_close(leaf.grad[:, factor.shape[1] :], unfolded(projected, mode) @ right)


def _random_model(shape: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(2)
    return torch.randn(ranks, dtype=F64), [torch.randn(n, r, dtype=F64) for n, r in zip(shape, ranks, strict=True)]


def _assembled(core: torch.Tensor, factors) -> torch.Tensor:
    for mode, factor in enumerate(factors):
        core = multiplied(core, factor, mode)
    return core


@pytest.mark.parametrize("ranks", [(1, 1, 1), (4, 2, 3), (4, 5, 3)])
def test_parts_of_a_step(ranks):
    core, factors = _random_model((4, 5, 3), ranks)
    same, bases = orthonormalised(core, factors)
    torch.testing.assert_close(_assembled(same, bases), _assembled(core, factors))
    cut, kept = truncated(same, bases, 0.2, None)
    error = torch.linalg.norm(_assembled(cut, kept) - _assembled(core, factors)) / torch.linalg.norm(same)
    assert error <= 0.2 * 3**0.5
    for basis in bases:
        assert augmented_basis(basis, basis @ torch.randn(basis.shape[1], 2, dtype=F64)).shape == basis.shape
        moved = torch.randn(basis.shape[0], basis.shape[1], dtype=F64)
        wide = augmented_basis(basis, moved)
        assert torch.equal(wide[:, : basis.shape[1]], basis)
        assert orthonormal_error(wide) < 1e-12
        torch.testing.assert_close(wide @ (wide.T @ moved), moved)


def test_a_gradient_that_is_not_finite_changes_nothing():
    model, (x, y) = Net(), batch()
    before = model.dense()

    def closure() -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(x), y) * float("inf")
        loss.backward()
        return loss

    with pytest.raises(InputError, match="no step was taken"):
        DLRT(model, lr=0.1).step(closure)
    for old, new in zip(before, model.dense(), strict=True):
        torch.testing.assert_close(old, new)


def test_a_failing_closure_changes_nothing_and_schedulers_work():
    model, (x, y) = Net(), batch()
    before, optimiser = model.dense(), DLRT(model, lr=0.1)
    with pytest.raises(ZeroDivisionError):
        optimiser.step(lambda: torch.tensor(1 / 0))
    for old, new in zip(before, model.dense(), strict=True):
        torch.testing.assert_close(old, new)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5)
    optimiser.step(closure_of(model, x, y))
    scheduler.step()
    assert [group["lr"] for group in optimiser.param_groups] == [0.05] * 3


def test_a_layer_without_part_in_the_loss_stays():
    model = nn.ModuleList([LowRankLinear(6, 5, 4, dtype=F64) for _ in range(3)])
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    before, x = [layer.dense_weight().detach().clone() for layer in model], torch.randn(4, 6, dtype=F64)

    def closure() -> torch.Tensor:
        loss = model[0](x).square().sum() + model[2](x).sum()
        loss.backward()
        return loss

    DLRT(model, lr=0.01, tau=0.5).step(closure)
    assert model[0].rank < 4
    for k in (1, 2):
        assert model[k].rank == 4
        torch.testing.assert_close(model[k].dense_weight(), before[k])
    assert not model[2].left.requires_grad


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DLRT(nn.Linear(3, 3)), InputError, "no layer to train"),
        (lambda: DLRT(LowRankLinear(3, 3, 1), lr=0.0), InputError, "lr=0.0"),
        (lambda: DLRT(LowRankLinear(3, 3, 1), tau=1.0), InputError, "tau=1.0"),
        (lambda: DLRT(LowRankLinear(3, 3, 1), max_rank=0), InputError, "max_rank=0"),
        (lambda: DLRT(LowRankLinear(3, 3, 1).bfloat16()), BackendError, "float32"),
        (lambda: DLRT(LowRankLinear(3, 3, 1)).step(), InputError, "closure"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
