"""Adam on all cores: gradients against finite differences, planted networks, losses of the user."""

from __future__ import annotations

import dataclasses
import math

import array_api_compat.numpy as xp
import numpy as np
import pytest
import torch

from tests.structure_search.evaluate.cases import ALL, PAIR, RING, dense, planted, random_cores, rse
from tests.structure_search.evaluate.test_sweeps import loss_and_rows
from tnet.arrays import library_name
from tnet.errors import BackendError, InputError
from tnet.structure_search.evaluate.adam import Adam
from tnet.structure_search.evaluate.als import ALS
from tnet.structure_search.evaluate.gradients import errors_and_gradients
from tnet.structure_search.evaluate.graph_form import graph_form
from tnet.structure_search.evaluate.stacks import Member, from_stack, to_stack
from tnet.structure_search.evaluate.sweep_program import sweep_program
from tnet.structure_search.evaluate.targets import prepared_data, target_of
from tnet.structure_search.losses import DifferentiableLoss, SquaredError
from tnet.structure_search.proposals import Start
from tnet.structure_search.structure import Structure

SQUARED = SquaredError()
FAST = Adam(learning_rate=0.02, n_iterations=1500)


@pytest.mark.parametrize("kind", ["squared", "masked", "weighted"])
@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name: str, kind: str) -> None:
    structure = ALL[name]
    x = planted(structure, 3, noise=0.3)
    loss, rows = loss_and_rows(kind, x)
    form = graph_form(structure, keep_order=kind == "weighted")
    member = Member(0, structure, form)
    program = sweep_program(form.graph, form.ranks, "layers")
    cores = random_cores(structure, 1)
    target = target_of(prepared_data(x, loss), program, [form.order])
    stack = to_stack(program, member, [core[None] for core in cores])
    errors, gradients = errors_and_gradients(xp, program, target, stack, slice(0, 1))
    gradients = from_stack(xp, program, member, [gradient[0] for gradient in gradients])
    direction = random_cores(structure, 2)
    slope = sum(float(np.sum(g * d)) for g, d in zip(gradients, direction, strict=True))

    def error(step: float) -> float:
        moved = [core + step * d for core, d in zip(cores, direction, strict=True)]
        return float(np.linalg.norm(rows(x - dense(structure, moved))) ** 2 / np.linalg.norm(rows(x)) ** 2)

    assert errors[0] == pytest.approx(error(0.0), rel=1e-10)
    assert slope == pytest.approx((error(1e-5) - error(-1e-5)) / 2e-5, rel=1e-5)


def test_a_planted_ring_is_found_and_the_error_is_that_of_its_cores() -> None:
    x = planted(RING, 1)
    (found,) = FAST.solve(x, SQUARED, [Start(RING, 0)])
    assert found.rse < 1e-3
    assert found.rse == pytest.approx(rse(RING, found.cores, x), rel=1e-8)
    assert len(found.start_errors) == 2
    assert 0 < found.n_sweeps <= 3000


def test_the_published_defaults() -> None:
    assert Adam() == Adam(learning_rate=0.001, n_iterations=10_000, n_repeats=2, stop_rse=1e-8, init_std=0.1)


def test_a_start_ends_when_its_error_is_small_enough() -> None:
    x = planted(PAIR, 0)
    (found,) = Adam(0.02, 4000, stop_rse=1e-3).solve(x, SQUARED, [Start(PAIR, 0)])
    assert found.rse < 1e-3
    assert found.n_sweeps < 8000


def test_first_steps_are_those_of_torch() -> None:
    x = planted(RING, 1)
    (found,) = Adam(0.01, 30, n_repeats=1, init_std=0.7).solve(x, SQUARED, [Start(RING, 3)])
    rng = np.random.default_rng(3)
    cores = [torch.tensor(0.7 * rng.standard_normal(shape)) for shape in RING.core_shapes]
    for core in cores:
        core.requires_grad_(True)
    optimiser = torch.optim.Adam(cores, lr=0.01, eps=1e-8)
    given = torch.from_numpy(x)
    for _ in range(30):
        optimiser.zero_grad()
        y = RING.to_network([core + 0 for core in cores]).to_dense()
        loss = torch.sum((given - y) ** 2) / torch.sum(given**2)
        loss.backward()
        optimiser.step()
    for mine, theirs in zip(found.cores, cores, strict=True):
        np.testing.assert_allclose(mine, theirs.detach().numpy(), atol=1e-5)


def test_company_and_order_change_nothing() -> None:
    x = planted(RING, 1, noise=0.2)
    solver = Adam(0.01, 60)
    other = Structure(RING.shape, ((0, 1, 3), (0, 3, 2), (1, 2, 3), (2, 3, 3)))
    first, second = solver.solve(x, SQUARED, [Start(other, 1), Start(RING, 2)])
    (alone,) = solver.solve(x, SQUARED, [Start(RING, 2)])
    assert second.rse == pytest.approx(alone.rse, rel=1e-9)
    assert first.structure == other


def test_libraries_agree(convert, library: str) -> None:
    x = planted(RING, 1, noise=0.2)
    (expected,) = Adam(0.01, 40).solve(x, SQUARED, [Start(RING, 0)])
    (found,) = Adam(0.01, 40).solve(convert(x), SQUARED, [Start(RING, 0)])
    assert found.rse == pytest.approx(expected.rse, rel=1e-9)
    assert {library_name(core) for core in found.cores} == {library_name(convert(x))}


def test_a_differentiable_loss_equal_to_the_squared_error_takes_the_same_way() -> None:
    structure = Structure((3, 2, 4), ((0, 1, 2), (0, 2, 3), (1, 2, 2)))
    x = torch.from_numpy(planted(structure, 1, noise=0.1))
    loss = DifferentiableLoss(lambda y: torch.sum((x - y) ** 2) / torch.sum(x**2))
    (expected,) = Adam(0.01, 100).solve(x, SQUARED, [Start(structure, 0)])
    (found,) = Adam(0.01, 100).solve(x, loss, [Start(structure, 0)])
    assert found.message == ""
    assert found.rse == pytest.approx(expected.rse, rel=1e-9)


def test_any_differentiable_loss_falls_and_sees_the_shape_of_x() -> None:
    x = torch.from_numpy(planted(RING, 1)).float()
    shapes = set()

    def absolute(y):
        shapes.add((tuple(y.shape), y.dtype))
        return torch.mean(torch.abs(x - y))

    starts = [Start(RING, 0), Start(Structure((3, 4, 2, 3), ((0, 2, 2), (1, 3, 3))), 0)]
    short = Adam(0.01, 10).solve(x, DifferentiableLoss(absolute), starts)
    long = Adam(0.01, 300).solve(x, DifferentiableLoss(absolute), starts)
    assert shapes == {((3, 4, 2, 3), torch.float32)}
    assert all(after.rse < 0.9 * before.rse for before, after in zip(short, long, strict=True))
    y = torch.from_numpy(dense(RING, [core.numpy() for core in long[0].cores]))
    assert float(absolute(y)) == pytest.approx(long[0].rse, rel=1e-4)


def test_a_loss_that_raises_or_is_never_finite_fails_its_trial() -> None:
    x = torch.ones((3, 4, 2, 3))

    def broken(y):
        raise ZeroDivisionError("no loss today")

    (found,) = Adam(n_iterations=5).solve(x, DifferentiableLoss(broken), [Start(RING, 0)])
    assert found.rse == math.inf
    assert "no loss today" in found.message
    (found,) = Adam(n_iterations=5).solve(x, DifferentiableLoss(lambda y: torch.sum(y) * math.nan), [Start(RING, 0)])
    assert found.rse == math.inf
    assert "finite" in found.message


def test_a_differentiable_loss_needs_torch_and_complex_tensors_need_als() -> None:
    with pytest.raises(BackendError, match="torch"):
        Adam().solve(np.ones((3, 4, 2, 3)), DifferentiableLoss(lambda y: y), [Start(RING, 0)])
    with pytest.raises(BackendError, match="ALS"):
        Adam().solve(np.ones((3, 4, 2, 3), dtype=complex), SQUARED, [Start(RING, 0)])


def test_a_structure_of_another_shape_fails_alone_and_warm_cores_count() -> None:
    x = planted(RING, 0)
    (best,) = ALS().solve(x, SQUARED, [Start(RING, 0, target=1e-12)])
    failed, found = Adam(n_iterations=20).solve(
        x, SQUARED, [Start(Structure((3, 4)), 0), Start(RING, 0, warm=best.cores)]
    )
    assert failed.rse == math.inf
    assert len(found.start_errors) == 3
    assert found.rse == pytest.approx(best.rse, rel=1e-3, abs=1e-20)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Adam)])
@pytest.mark.parametrize("value", [-1, "3", None])
def test_settings_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        Adam(**{field: value})
