from __future__ import annotations

import pytest
import torch
from torch import nn

from tnet.compression.allocation import Choice
from tnet.compression.catalogue import Problem, metric_of
from tnet.compression.fitting import RIDGE, contiguous, fit, ridge_target
from tnet.compression.moments import Moments
from tnet.compression.targets import Target
from tnet.compression.whitening import Shrinkage, kronecker_loss
from tnet.nn import FollowerLinear, InterpolativeLinear, MPOLinear, SharedInputLinear

N, ROWS = 8, {"a": 6, "b": 12}
SHRINKAGE = Shrinkage(1e-6, 1e-6)


def inputs(samples: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, N, dtype=torch.float64, generator=generator)
    return x * torch.logspace(0, -1, N, dtype=torch.float64) + 2.0


def setting(bias: bool):
    generator = torch.Generator().manual_seed(1)
    targets = {name: Target(name, 0, m, N, bias, False) for name, m in ROWS.items()}
    weights = {name: torch.randn(m, N, dtype=torch.float64, generator=generator) for name, m in ROWS.items()}
    biases = {
        name: torch.randn(m, dtype=torch.float64, generator=generator) if bias else None for name, m in ROWS.items()
    }
    x = inputs()
    moments = Moments(n_units=len(x))
    moments.inputs["a"], moments.means["a"] = x.T @ x, x.sum(0)
    moments.n_rows["a"] = torch.tensor(float(len(x)))
    for name, m in ROWS.items():
        g = torch.randn(100, m, dtype=torch.float64, generator=generator)
        moments.outputs[name] = g.T @ g
    return Problem(targets, (("a", "b"),), weights, 2), moments, biases


def choice(kind: str, members: tuple[str, ...], ranks: tuple[int, ...]) -> Choice:
    return Choice(members, kind, ranks, 0, 0, 0, 0.0)


CHOICES = [
    choice("interpolative", ("a",), (3,)),
    choice("interpolative", ("b",), (5,)),
    choice("shared", ("a", "b"), (4,)),
    choice("mpo", ("b",), (4, 4)),
]


def fitted(c: Choice, bias: bool):
    problem, moments, biases = setting(bias)
    return problem, moments, biases, fit(problem, moments, SHRINKAGE, ("a", "b"), c, biases, problem.weights)


@pytest.mark.parametrize("c", CHOICES, ids=lambda c: c.kind)
@pytest.mark.parametrize("bias", [True, False])
def test_layers_and_stand_ins_are_one_map(c, bias):
    _, _, _, result = fitted(c, bias)
    x = inputs(5)
    stand_ins, modules = result.stand_ins(), result.modules()
    assert all(type(module) is nn.Linear for module in stand_ins)
    for stand_in, module in zip(stand_ins, modules, strict=True):
        torch.testing.assert_close(module(x), stand_in(x), rtol=1e-9, atol=1e-9)
        assert (module.bias is not None) == (stand_in.bias is not None) == bias
    kinds = {
        "interpolative": (InterpolativeLinear,),
        "shared": (SharedInputLinear, FollowerLinear),
        "mpo": (MPOLinear,),
    }
    assert tuple(type(module) for module in modules) == kinds[c.kind]


@pytest.mark.parametrize("c", CHOICES, ids=lambda c: c.kind)
def test_bias_correction_keeps_the_mean_output(c):
    problem, _, biases, result = fitted(c, True)
    x = inputs()
    for name, module in zip(c.members, result.modules(), strict=True):
        before = (x @ problem.weights[name].T + biases[name]).mean(0)
        plain = x.mean(0) @ module.dense_weight().detach().T + biases[name]
        torch.testing.assert_close(module(x).mean(0), before, rtol=1e-8, atol=1e-8)
        assert float((plain - before).abs().max()) > 1e-3, "without correction it would move"


@pytest.mark.parametrize("bias", [True, False])
def test_factors_are_optimal_in_the_metric_of_the_group(bias):
    c = choice("shared", ("a", "b"), (4,))
    problem, moments, _, result = fitted(c, bias)
    x = inputs()
    centred = x - x.mean(0) if bias else x
    metric = metric_of(problem, moments, ("a", "b"), ("a", "b"), SHRINKAGE)
    torch.testing.assert_close(metric.column @ metric.column.T, centred.T @ centred / len(x), rtol=0, atol=1e-4)
    stacked, best = [], 0.0
    for (left, right), name, row in zip(result.approximations, c.members, metric.rows, strict=True):
        stacked.append(row.T @ problem.weights[name] @ metric.column)
        best += kronecker_loss(problem.weights[name] - left @ right, row, metric.column)
    singular = torch.linalg.svdvals(torch.cat(stacked))
    assert best == pytest.approx(0.5 * float((singular[4:] ** 2).sum()), rel=1e-8)


def test_members_without_output_moments_count_by_relative_error():
    problem, moments, _ = setting(False)
    moments.outputs.clear()
    metric = metric_of(problem, moments, ("a", "b"), ("a", "b"), SHRINKAGE)
    x = inputs()
    for name, row in zip("ab", metric.rows, strict=True):
        power = float((x @ problem.weights[name].T).square().sum(1).mean())
        torch.testing.assert_close(row, torch.eye(ROWS[name], dtype=torch.float64) * power**-0.5, rtol=1e-8, atol=0)
    problem.weights["a"].zero_()
    metric = metric_of(problem, moments, ("a", "b"), ("a", "b"), SHRINKAGE)
    assert torch.equal(metric.rows[0], torch.eye(ROWS["a"], dtype=torch.float64)), "a zero layer has no scale"


def test_ridge_target_is_the_least_squares_solution():
    generator = torch.Generator().manual_seed(5)
    original = inputs()
    x = original @ (torch.eye(N) + 0.3 * torch.randn(N, N, generator=generator)).double()
    weight = torch.randn(5, N, dtype=torch.float64, generator=generator)
    moments = Moments(inputs={"a": x.T @ x}, cross={"a": original.T @ x})
    # Rows of the original outputs, and RIDGE times the rows of the original layer on the present inputs.
    design = torch.cat([x, RIDGE**0.5 * x])
    wanted = torch.cat([original @ weight.T, RIDGE**0.5 * x @ weight.T])
    expected = torch.linalg.lstsq(design, wanted).solution.T
    actual = ridge_target(weight, moments, "a")
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-2 * float(expected.abs().max()))
    error = (x @ actual.T - original @ weight.T).square().sum()
    assert error < (x @ weight.T - original @ weight.T).square().sum()


def test_ridge_target_of_an_unchanged_model_is_the_weight():
    x = inputs()
    weight = torch.randn(5, N, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    actual = ridge_target(weight, Moments(inputs={"a": x.T @ x}, cross={"a": x.T @ x}), "a")
    torch.testing.assert_close(actual, weight, rtol=0, atol=1e-3)


def test_ridge_target_keeps_the_weight_where_no_input_points():
    generator = torch.Generator().manual_seed(7)
    original = inputs() @ torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 0])).double()
    x = original + 0.2 * original @ torch.randn(N, N, dtype=torch.float64, generator=generator)[:, :5] @ torch.eye(
        5, N, dtype=torch.float64
    )
    weight = torch.randn(5, N, dtype=torch.float64, generator=generator)
    # As collected: in single precision, where a singular moment is no longer positive semidefinite.
    moments = Moments(inputs={"a": (x.T.float() @ x.float())}, cross={"a": original.T.float() @ x.float()})
    actual = ridge_target(weight, moments, "a")
    torch.testing.assert_close(actual[:, 5:], weight[:, 5:], rtol=0, atol=1e-2)
    error = (x @ actual.T - original @ weight.T).square().sum()
    assert error < 0.95 * (x @ weight.T - original @ weight.T).square().sum()


def test_values_are_contiguous():
    layer = InterpolativeLinear(6, 4, 2)
    layer.left.data = torch.randn(2, 4).T
    assert not layer.left.is_contiguous()
    kept = layer.left.clone()
    assert contiguous(layer) is layer
    assert layer.left.is_contiguous()
    assert torch.equal(layer.left, kept)
