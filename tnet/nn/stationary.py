"""Stationary points of the least-squares fit of a format, and systems with its Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from tnet.formats import TensorFormat

__all__ = ["STATIONARY", "Model", "Objective", "Solution", "conjugate_gradients", "stationary_point"]

Along: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]

# Norm of the gradient of ||x - y||^2 / 2, for ||x|| = 1, at which a fit counts as stationary, and the one that
# Newton's method aims at: one more step, because small eigenvalues of the Hessian enlarge what is left.
STATIONARY, _AIMED_AT = 1e-12, 1e-15
_MAX_NEWTON_STEPS = 100
_ARMIJO = 1e-4
_VALUE_ROUNDOFF = 1e-12  # values closer than this do not tell which is less; gradients still do
_SMALLEST_STEP = 2.0**-20
_FLAT = 1e-13  # curvature, relative to the largest, that is roundoff of none
_GAUGE = 1e-7  # relative size of the derivative along the gauge that counts as one


class Model:
    """A format as a function of all its parameters in one vector.

    ``along(parts, cotangents)`` returns the derivatives along the gauge of a function with these derivatives.
    """

    def __init__(
        self, parts: Sequence[Tensor], build: Callable[[Sequence[Tensor]], TensorFormat], along: Along
    ) -> None:
        self._shapes = [part.shape for part in parts]
        self._sizes = [part.numel() for part in parts]
        self._build = build
        self._along = along
        self.start = torch.cat([part.reshape(-1) for part in parts])

    def parts(self, theta: Tensor) -> list[Tensor]:
        """Return the arrays, as views of ``theta``."""
        pieces = zip(theta.split(self._sizes), self._shapes, strict=True)
        return [piece.reshape(shape) for piece, shape in pieces]

    def dense(self, theta: Tensor) -> Tensor:
        """Return the dense tensor."""
        return self._build(self.parts(theta)).to_dense()

    def depends_on_the_gauge(self, theta: Tensor, v: Tensor) -> bool:
        """Return whether a function with the derivative ``v`` changes where the dense tensor does not."""
        size = float(theta.norm() * v.norm())
        return any(float(E.norm()) > _GAUGE * size for E in self._along(self.parts(theta), self.parts(v)))


class Objective:
    """Half the squared error at one point, with its first and second derivatives from one recorded evaluation."""

    def __init__(self, model: Model, theta: Tensor, x: Tensor) -> None:
        with torch.enable_grad():
            self._theta = theta.detach().requires_grad_()
            self._x = x.detach().requires_grad_()
            value = (self._x - model.dense(self._theta)).square().sum() / 2
            (self._gradient,) = torch.autograd.grad(value, self._theta, create_graph=True)
        self.value = float(value.detach())
        self.gradient = self._gradient.detach()
        self.gradient_norm = float(torch.linalg.vector_norm(self.gradient))

    def hessian_times(self, v: Tensor) -> Tensor:
        """Return ``H v``."""
        return torch.autograd.grad(self._gradient, self._theta, v, retain_graph=True)[0]

    def jacobian_times(self, v: Tensor) -> Tensor:
        """Return ``J v``, in the shape of x: the gradient is ``J^T (y - x)``, and changes by ``-J^T dx``."""
        return -torch.autograd.grad(self._gradient, self._x, v, retain_graph=True)[0]


class Solution(NamedTuple):
    """An approximate solution of ``H u = b``, its residual, and whether H proved not to be positive."""

    u: Tensor
    residual: Tensor
    negative_curvature: bool


def stationary_point(model: Model, x: Tensor) -> tuple[Tensor, float]:
    """Minimise by Newton's method, conjugate gradients inside and backtracking outside, from ``model.start``."""
    theta = model.start
    at = Objective(model, theta, x)
    for _ in range(_MAX_NEWTON_STEPS):
        if at.gradient_norm <= _AIMED_AT:
            break
        accuracy = min(0.5, at.gradient_norm**0.5)
        step = conjugate_gradients(at.hessian_times, -at.gradient, accuracy, 2 * theta.numel()).u
        slope = float(step @ at.gradient)
        if not slope < 0:
            step, slope = -at.gradient, -(at.gradient_norm**2)
        found = _backtracked(model, x, theta, step, slope, at)
        if found is None:
            break
        theta, at = found
    return theta, at.gradient_norm


def _backtracked(
    model: Model, x: Tensor, theta: Tensor, step: Tensor, slope: float, at: Objective
) -> tuple[Tensor, Objective] | None:
    """Return the first point along ``step`` that descends, or, where values are roundoff, has a smaller gradient."""
    length = 1.0
    # Where the fit is stationary already, only roundoff is left to be gained.
    smallest = 1.0 if at.gradient_norm <= STATIONARY else _SMALLEST_STEP
    while length >= smallest:
        trial = Objective(model, theta + length * step, x)
        descends = trial.value <= at.value + _ARMIJO * length * slope and trial.value < at.value
        level = length == 1.0 and trial.value <= at.value * (1 + _VALUE_ROUNDOFF)
        if descends or (level and trial.gradient_norm < 0.5 * at.gradient_norm):
            return theta + length * step, trial
        length /= 2
    return None


def conjugate_gradients(H: Callable[[Tensor], Tensor], b: Tensor, accuracy: float, max_iter: int) -> Solution:
    """Solve ``H u = b`` until the residual is ``accuracy`` times ``b``, or the curvature is not positive.

    The iterate of the least residual is returned: where b is not in the range of H, residuals rise again.
    """
    u = torch.zeros_like(b)
    r, p = b, b
    squared = least = float(r @ r)
    best = Solution(u, r, False)
    goal, steepest = accuracy**2 * squared, 0.0
    for _ in range(max_iter):
        if squared <= goal:
            break
        Hp = H(p)
        curvature, length = float(p @ Hp), float(p @ p)
        steepest = max(steepest, curvature / length)
        if not curvature > _FLAT * steepest * length:
            return best._replace(negative_curvature=True)
        u = u + (squared / curvature) * p
        r = r - (squared / curvature) * Hp
        before, squared = squared, float(r @ r)
        p = r + (squared / before) * p
        if squared < least:
            least, best = squared, Solution(u, r, False)
    return best
