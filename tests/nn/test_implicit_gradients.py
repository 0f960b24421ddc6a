"""Gradients through best approximations, against differences of whole fits and against closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.autograd import gradcheck

from tnet.errors import BackendError, ConvergenceWarning, InputError, RankError
from tnet.nn import DifferentiableFit, differentiable_cp, differentiable_tt, differentiable_tucker
from tnet.options import Stopping

FITS: dict[str, Callable[..., DifferentiableFit[Any]]] = {
    "cp": lambda x, rank, **options: differentiable_cp(x, rank, **({"rng": 0} | options)),
    "tucker": differentiable_tucker,
    "tt": differentiable_tt,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cp", "tucker", "tt"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def noisy(shape: tuple[int, ...] = (3, 4, 3), rank: int = 2, noise: float = 0.2, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    x = noise * rng.normal(size=shape)
    for _ in range(rank):
        term = np.ones(())
        for n in shape:
            term = np.multiply.outer(term, rng.normal(size=n))
        x = x + term
    return torch.from_numpy(x).requires_grad_()


def fit_near(kind: str, x: Tensor) -> Callable[[Tensor], DifferentiableFit[Any]]:
    """Return the fit as a function of x that stays at one local minimum."""
    if kind != "cp":
        return lambda y: FITS[kind](y, 2)
    start = FITS[kind](x, 2).tensor.map_arrays(torch.detach)
    return lambda y: FITS[kind](y, 2, init=start)


def test_the_dense_approximation(kind: str) -> None:
    x = noisy()
    fit = fit_near(kind, x)
    assert fit(x).converged
    assert gradcheck(lambda y: fit(y).tensor.to_dense(), x, eps=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (4, 5)], ids=str)
def test_other_orders(kind: str, shape: tuple[int, ...]) -> None:
    if kind == "cp" and len(shape) == 2:
        pytest.skip("matrices have no unique CP model")
    x = noisy(shape, noise=0.05)
    fit = fit_near(kind, x)
    assert gradcheck(lambda y: fit(y).tensor.to_dense(), x, eps=1e-5, atol=1e-6)


def test_the_error_by_the_envelope_theorem(kind: str) -> None:
    x = noisy()
    fit = fit_near(kind, x)
    assert gradcheck(lambda y: fit(y).squared_error, x, eps=1e-5, atol=1e-7)
    found = fit(x)
    (gradient,) = torch.autograd.grad(found.squared_error * x.detach().square().sum(), x)
    y, squares = found.tensor.to_dense().detach(), x.detach().square().sum()
    expected = 2 * (x.detach() - y) - 2 * found.squared_error.detach() * x.detach()
    assert torch.allclose(gradient, expected, atol=1e-10)
    assert float(found.squared_error.detach()) == pytest.approx(float((x.detach() - y).square().sum() / squares))


@pytest.mark.parametrize("name", ["tucker", "tt"])
def test_singular_values(name: str) -> None:
    x = noisy()
    assert gradcheck(
        lambda y: torch.linalg.svdvals(FITS[name](y, 2).tensor.to_dense().reshape(3, 12))[:2], x, eps=1e-5, atol=1e-6
    )


def test_weights_and_factors_of_cp() -> None:
    x = noisy()
    fit = fit_near("cp", x)
    assert gradcheck(lambda y: fit(y).tensor.weights, x, eps=1e-5, atol=1e-6)
    assert gradcheck(lambda y: fit(y).tensor.factors[1].square() @ fit(y).tensor.weights, x, eps=1e-5, atol=1e-6)
    tensor = fit(x).tensor.map_arrays(torch.detach)
    assert torch.all(tensor.weights[:-1] >= tensor.weights[1:])
    for factor in tensor.factors:
        assert torch.allclose(torch.linalg.vector_norm(factor, dim=0), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("name", ["tucker", "tt"])
def test_a_matrix_has_the_gradient_of_its_truncated_svd(name: str) -> None:
    x = noisy((5, 6), rank=5)
    v = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 6)))
    U, s, Vh = torch.linalg.svd(x, full_matrices=False)
    (expected,) = torch.autograd.grad(((U[:, :2] * s[:2]) @ Vh[:2] * v).sum(), x)
    (found,) = torch.autograd.grad((FITS[name](x, 2).tensor.to_dense() * v).sum(), x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-8)


def test_the_derivative_is_symmetric_and_projects_an_exact_fit(kind: str) -> None:
    # dy = P dx with the projector on the tangent space when the residual is zero: y itself is tangent.
    x = noisy(noise=0.0)
    y = FITS[kind](x, 2).tensor.to_dense()
    rng = np.random.default_rng(3)
    v = torch.from_numpy(rng.normal(size=(3, 4, 3)))
    (once,) = torch.autograd.grad(y, x, v, retain_graph=True)
    (twice,) = torch.autograd.grad(y, x, once, retain_graph=True)
    (of_y,) = torch.autograd.grad(y, x, x.detach())
    assert torch.allclose(once, twice, atol=1e-7)
    assert torch.allclose(of_y, x.detach(), atol=1e-7)


def test_scales_are_taken_out(kind: str) -> None:
    x = noisy()
    v = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 4, 3)))
    gradients = []
    for scale in (1.0, 1e150, 1e-150):
        y = (x.detach() * scale).requires_grad_()
        (gradient,) = torch.autograd.grad((FITS[kind](y, 2).tensor.to_dense() * v).sum(), y)
        gradients.append(gradient)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-7)
    assert torch.allclose(gradients[0], gradients[2], atol=1e-7)


def test_single_precision_is_computed_in_double(kind: str) -> None:
    x = noisy()
    single = x.detach().float().requires_grad_()
    fit = FITS[kind](single, 2)
    assert fit.tensor.dtype == fit.squared_error.dtype == torch.float32
    (gradient,) = torch.autograd.grad(fit.tensor.to_dense().square().sum() / 2, single)
    (wanted,) = torch.autograd.grad(FITS[kind](x, 2).tensor.to_dense().square().sum() / 2, x)
    assert gradient.dtype == torch.float32
    assert torch.allclose(gradient.double(), wanted, atol=1e-4)


def test_it_composes_with_other_layers(kind: str) -> None:
    A = noisy((3, 3), seed=5)
    x = noisy().detach()
    loss = FITS[kind](torch.einsum("ab,bjk->ajk", A, x), 2).tensor.to_dense().square().sum()
    loss.backward()
    assert A.grad is not None
    assert torch.all(torch.isfinite(A.grad))


@pytest.mark.gpu
def test_on_a_device(kind: str) -> None:
    x = noisy()
    on_device = x.detach().cuda().requires_grad_()
    gradients = [
        torch.autograd.grad(FITS[kind](y, 2).tensor.to_dense().square().sum(), y)[0].cpu() for y in (x, on_device)
    ]
    assert torch.allclose(*gradients, atol=1e-8)


def test_no_gradient_is_recorded_when_none_is_asked(kind: str) -> None:
    fit = FITS[kind](noisy().detach(), 2)
    assert not fit.squared_error.requires_grad
    assert not fit.tensor.to_dense().requires_grad


@pytest.mark.parametrize("name", ["tucker", "tt"])
def test_functions_of_the_gauge_are_refused(name: str) -> None:
    x = noisy()
    with pytest.raises(InputError, match="gauge"):
        FITS[name](x, 2).tensor.arrays[1][1].sum().backward()


def test_second_derivatives_are_refused(kind: str) -> None:
    x = noisy()
    (gradient,) = torch.autograd.grad(FITS[kind](x, 2).tensor.to_dense().square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_components_that_cancel_are_reported() -> None:
    a, b = np.eye(2)
    border = sum(np.einsum("i,j,k->ijk", *v) for v in ((a, a, b), (a, b, a), (b, a, a)))
    x = torch.from_numpy(border).requires_grad_()
    with pytest.warns(ConvergenceWarning, match="gradient of the fit"):
        fit = differentiable_cp(x, 2, init="random", rng=0, stopping=Stopping(max_iter=20))
    assert not fit.converged
    assert fit.stationarity > 1e-12


def test_a_saddle_is_reported_in_the_backward_pass() -> None:
    # Two equal singular values: the best matrix of rank one is not unique, and its derivative does not exist.
    x = torch.eye(2, dtype=torch.float64).requires_grad_()
    y = differentiable_tt(x, 1).tensor.to_dense()
    v = torch.tensor([[0.3, 1.0], [-0.4, 0.2]], dtype=torch.float64)
    with pytest.warns(ConvergenceWarning, match="gradient through the fit is approximate"):
        torch.autograd.grad(y, x, v)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (np.ones((2, 2)), BackendError, "ndarray"),
        (torch.ones(2, 2, dtype=torch.complex128), BackendError, "complex128"),
        (torch.ones(2, 2, dtype=torch.float16), BackendError, "float16"),
        (torch.ones(2, 2, dtype=torch.int64), BackendError, "int64"),
        (torch.zeros(2, 2), InputError, "zero"),
        (torch.zeros(2, 0), InputError, "empty"),
        (torch.tensor([[1.0, float("nan")]]), InputError, "non-finite"),
        (torch.tensor([[1.0, float("inf")]]), InputError, "non-finite"),
        (torch.full((9, 9), 1e308, dtype=torch.float64), InputError, "overflows"),
        (torch.tensor(1.0), InputError, "no modes"),
    ],
    ids=["numpy", "complex", "half", "int", "zero", "empty", "nan", "inf", "large", "scalar"],
)
def test_bad_input_is_refused(kind: str, x: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        FITS[kind](x, 1)


@pytest.mark.parametrize("rank", [0, 2.5, True, "3"])
def test_bad_ranks_are_refused(kind: str, rank: Any) -> None:
    with pytest.raises(RankError, match="rank"):
        FITS[kind](noisy(), rank)
