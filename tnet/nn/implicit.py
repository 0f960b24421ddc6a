"""Gradients through a best approximation, from its optimality conditions instead of from the steps that led to it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tnet.arrays import check_finite
from tnet.callers import warn_caller
from tnet.decompositions import cp, tt, tucker
from tnet.errors import BackendError, ConvergenceWarning, InputError
from tnet.formats import CPTensor, TensorFormat, TensorTrain, TuckerTensor
from tnet.nn.stationary import STATIONARY, Model, Objective, Solution, conjugate_gradients, stationary_point
from tnet.options import Stopping

__all__ = ["DifferentiableFit", "differentiable_cp", "differentiable_tt", "differentiable_tucker"]

T = TypeVar("T", bound=TensorFormat)

# Relative residual of the linear system of the backward pass: aimed at, and worth a warning.
_SOLVED, _UNSOLVED = 1e-11, 1e-6


@dataclass(frozen=True, eq=False)
class DifferentiableFit(Generic[T]):
    """A locally best approximation of a tensor x, as a differentiable function of x.

    Parameters
    ----------
    tensor : format
        Its arrays carry the gradient of every function of them that does not depend on the gauge:
        ``tensor.to_dense()``, singular values of its unfoldings, weights and factors of a CP model.
    squared_error : torch.Tensor, 0-d
        ``||x - y||^2 / ||x||^2``. Its gradient needs no linear system: at a stationary point that of
        ``||x - y||^2`` is ``2 (x - y)``.
    stationarity : float
        Norm of the gradient by the parameters, for ``||x|| = 1``: how far the fit is from its optimality conditions.
    converged : bool
        Whether they hold to about 1e-12; else the gradients are approximate, and a warning was given.
    """

    tensor: T
    squared_error: Tensor
    stationarity: float
    converged: bool


def differentiable_cp(
    x: Tensor,
    rank: int,
    *,
    init: Literal["svd", "random"] | CPTensor = "svd",
    stopping: Stopping = Stopping(),  # noqa: B008 - frozen
    rng: Any = None,
) -> DifferentiableFit[CPTensor]:
    r"""Fit a sum of rank-one tensors to ``x``, differentiably.

    .. math:: y(x) = \operatorname{argmin}_{y \in \mathrm{CP}_R} \|x - y\|^2, \qquad
              \frac{\partial y}{\partial x} = J H^{+} J^{\mathsf T}

    with the Jacobian J of y by the factors and the Hessian H of half the squared error.

    Parameters
    ----------
    x : torch.Tensor, shape (n_1, ..., n_d)
        float32 or float64, on any device.
    rank : int
        R, the number of terms.
    init : {"svd", "random"} or CPTensor
        As in :func:`tnet.cp`, which makes the first fit.
    stopping : Stopping
        Of that first fit; Newton steps follow until it is stationary.
    rng : int, numpy Generator, torch Generator or None
        As in :func:`tnet.cp`.

    Returns
    -------
    DifferentiableFit of CPTensor
        Columns of norm 1, weights descending; both may be differentiated, unless two weights are equal.

    Raises
    ------
    RankError
        A rank that is no positive integer.
    InputError
        A zero tensor, where the best approximation is not differentiable; a non-finite entry. In the backward
        pass: a function that depends on the gauge.
    BackendError
        Anything but a real float32 or float64 torch tensor.

    Warns
    -----
    ConvergenceWarning
        The fit did not become stationary (components that cancel each other never do), or the linear system of
        the backward pass was not solved: then the gradients are approximate.

    Notes
    -----
    No step of the iteration is recorded. The backward pass solves one singular symmetric system, which scaling
    the factors against each other makes singular but never inconsistent, by conjugate gradients; a product with H
    costs about four evaluations of the model. All is computed in float64. No second derivatives.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(3, 4, 5, dtype=torch.float64, requires_grad=True)
    >>> fit = differentiable_cp(x, 2, rng=0)
    >>> fit.tensor.to_dense().square().sum().backward()
    >>> x.grad.shape
    torch.Size([3, 4, 5])
    """
    scaled, norm = _checked(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Newton steps follow
        start = cp(scaled.detach(), rank, init=init, stopping=stopping, rng=rng).tensor
    # Columns of equal norm in all modes: the Hessian is then conditioned best.
    shares = start.weights ** (1 / len(start.factors))
    ones = torch.ones_like(start.weights)
    # The normalised columns, which are returned, do not depend on the gauge.
    parts = [factor * shares for factor in start.factors]
    model = Model(parts, lambda parts: CPTensor(ones, tuple(parts)), lambda parts, cotangents: [])
    factors, gradient_norm = _fitted(model, scaled)
    norms = [torch.linalg.vector_norm(factor, dim=0) for factor in factors]
    weights = torch.stack(norms).prod(dim=0)
    order = torch.argsort(weights.detach(), descending=True)
    safe = [torch.where(norm > 0, norm, 1.0) for norm in norms]
    columns = tuple((factor / n)[:, order].to(x.dtype) for factor, n in zip(factors, safe, strict=True))
    tensor = CPTensor((norm * weights[order]).to(x.dtype), columns)
    return _result(tensor, x, norm, gradient_norm, "differentiable_cp")


def differentiable_tucker(x: Tensor, rank: int | Sequence[int]) -> DifferentiableFit[TuckerTensor]:
    """Fit a Tucker tensor to ``x``, differentiably.

    Parameters
    ----------
    x : torch.Tensor, shape (n_1, ..., n_d)
        float32 or float64, on any device.
    rank : int or sequence of int
        As in :func:`tnet.tucker`.

    Returns
    -------
    DifferentiableFit of TuckerTensor
        The locally best approximation of these ranks, a fixed point of the higher-order orthogonal iteration: the
        truncated higher-order SVD is where Newton steps start. Factors are not orthonormal.

    Raises
    ------
    RankError, InputError, BackendError
        As in :func:`differentiable_cp`.

    Warns
    -----
    ConvergenceWarning
        As in :func:`differentiable_cp`.

    Notes
    -----
    As in :func:`differentiable_cp`; singular are here the changes of basis of each factor, against the core.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(3, 4, 5, dtype=torch.float64, requires_grad=True)
    >>> fit = differentiable_tucker(x, 2)
    >>> torch.linalg.svdvals(fit.tensor.to_dense().reshape(3, 20))[:2].sum().backward()
    >>> x.grad.shape
    torch.Size([3, 4, 5])
    """
    scaled, norm = _checked(x)
    start = tucker(scaled.detach(), rank).tensor
    model = Model(list(start.arrays), lambda parts: TuckerTensor(parts[0], tuple(parts[1:])), _along_mode_bases)
    (core, *factors), gradient_norm = _fitted(model, scaled)
    tensor = TuckerTensor((norm * core).to(x.dtype), tuple(factor.to(x.dtype) for factor in factors))
    return _result(tensor, x, norm, gradient_norm, "differentiable_tucker")


def differentiable_tt(x: Tensor, rank: int | Sequence[int]) -> DifferentiableFit[TensorTrain]:
    """Fit a tensor train to ``x``, differentiably.

    Parameters
    ----------
    x : torch.Tensor, shape (n_1, ..., n_d)
        float32 or float64, on any device.
    rank : int or sequence of int
        As in :func:`tnet.tt`.

    Returns
    -------
    DifferentiableFit of TensorTrain
        The locally best approximation of these ranks: the TT-SVD is where Newton steps start.

    Raises
    ------
    RankError, InputError, BackendError
        As in :func:`differentiable_cp`.

    Warns
    -----
    ConvergenceWarning
        As in :func:`differentiable_cp`.

    Notes
    -----
    As in :func:`differentiable_cp`; singular are here the changes of basis of each bond.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(3, 4, 5, dtype=torch.float64, requires_grad=True)
    >>> fit = differentiable_tt(x, 2)
    >>> fit.squared_error.backward()
    >>> x.grad.shape
    torch.Size([3, 4, 5])
    """
    scaled, norm = _checked(x)
    start = tt(scaled.detach(), rank).tensor
    model = Model(list(start.cores), lambda parts: TensorTrain(tuple(parts)), _along_bond_bases)
    (first, *others), gradient_norm = _fitted(model, scaled)
    cores = ((norm * first).to(x.dtype), *(core.to(x.dtype) for core in others))
    return _result(TensorTrain(cores), x, norm, gradient_norm, "differentiable_tt")


def _along_mode_bases(parts: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Return the derivatives by E of ``U_k -> U_k (I + E), C -> C x_k (I - E)`` for each mode."""
    core, *factors = parts
    core_cotangent, *factor_cotangents = cotangents
    derivatives = []
    for k, (U, V) in enumerate(zip(factors, factor_cotangents, strict=True)):
        unfolded, moved = (part.movedim(k, 0).flatten(1) for part in (core[..., None], core_cotangent[..., None]))
        derivatives.append(U.T @ V - moved @ unfolded.T)
    return derivatives


def _along_bond_bases(parts: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Return the derivatives by E of ``G_k -> G_k (I + E), G_{k+1} -> (I - E) G_{k+1}`` for each bond."""
    derivatives = []
    for k in range(len(parts) - 1):
        left, left_cotangent = parts[k].flatten(0, 1), cotangents[k].flatten(0, 1)
        right, right_cotangent = parts[k + 1].flatten(1), cotangents[k + 1].flatten(1)
        derivatives.append(left.T @ left_cotangent - right_cotangent @ right.T)
    return derivatives


class _ImplicitParameters(torch.autograd.Function):
    """The parameters of the best approximation as a function of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, model: Model) -> Tensor:
        """Return ``theta``, which belongs to ``x``."""
        ctx.save_for_backward(x, theta)
        ctx.model = model
        return theta.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor, None, None]:
        """Return ``J H^+ v`` for the cotangent v."""
        x, theta = ctx.saved_tensors
        (v,) = cotangents
        if ctx.model.depends_on_the_gauge(theta, v):
            raise InputError(
                "this function depends on the gauge of the factors (how bases are chosen), which x does not "
                "determine: differentiate functions of tensor.to_dense() or its singular values, or a CP model."
            )
        objective = Objective(ctx.model, theta, x)
        solution = conjugate_gradients(objective.hessian_times, v, _SOLVED, 10 * v.numel())
        _warn_if_unsolved(solution, float(v.norm()))
        return objective.jacobian_times(solution.u), None, None


def _checked(x: object) -> tuple[Tensor, Tensor]:
    """Return ``x / ||x||`` in float64, differentiable by x, and the norm as a constant.

    The best approximation is homogeneous, so that the constant may be put back without a gradient of its own.
    """
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise BackendError(f"x is {kind}: gradients are those of torch tensors of float32 or float64.")
    wide = x.double()
    norm = torch.linalg.vector_norm(wide.detach())
    if not bool(torch.isfinite(norm)):
        check_finite(x.detach())
        raise InputError("x is so large that its norm overflows: scale it down first.")
    if not float(norm) > 0:
        raise InputError("x is zero or empty: its best approximation is not differentiable there.")
    return wide / norm, norm


def _fitted(model: Model, x: Tensor) -> tuple[list[Tensor], float]:
    """Return the parts of the stationary fit, with the gradient of x, and the norm of the gradient that is left."""
    theta, gradient_norm = stationary_point(model, x.detach())
    return model.parts(_apply(x, theta, model)), gradient_norm


def _apply(x: Tensor, theta: Tensor, model: Model) -> Tensor:
    attached: Any = _ImplicitParameters.apply(x, theta, model)
    return attached


def _result(tensor: T, x: Tensor, norm: Tensor, gradient_norm: float, name: str) -> DifferentiableFit[T]:
    converged = gradient_norm <= STATIONARY
    if not converged:
        message = (
            f"{name}: the gradient of the fit is {gradient_norm:.1e} (for ||x|| = 1), not {STATIONARY:.0e}: "
            "gradients through it are approximate; lower the rank if components cancel each other."
        )
        warn_caller(message, ConvergenceWarning)
    # The approximation counts as constant here (envelope theorem).
    residual = (x - tensor.map_arrays(lambda part: part.detach()).to_dense()) / norm
    squared_error = residual.square().sum() / (x / norm).square().sum()
    return DifferentiableFit(tensor, squared_error.to(x.dtype), gradient_norm, converged)


def _warn_if_unsolved(solution: Solution, size: float) -> None:
    left = float(solution.residual.norm())
    if left > _UNSOLVED * size:
        reason = "it is no strict local minimum" if solution.negative_curvature else "its Hessian is ill-conditioned"
        message = f"the gradient through the fit is approximate (relative residual {left / size:.1e}): {reason}."
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
