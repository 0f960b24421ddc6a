"""Damped Gauss-Newton for the canonical polyadic decomposition: second order, for nearly collinear factors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from tnet.arrays import Array, array_namespace, astype, conj, real_part
from tnet.decompositions.cp_als import als_sweeps
from tnet.decompositions.cp_fit import CPFit, CPRun
from tnet.decompositions.cp_normal_equations import gram_of_columns, hadamard, model_error
from tnet.decompositions.dimension_tree import mttkrp_cycle
from tnet.decompositions.iteration import Callback
from tnet.decompositions.preparation import Prepared
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status

__all__ = ["nonlinear_least_squares"]

_FIRST_SWEEPS = 5  # of ALS: cheap, and far from a minimum as good as a step of Gauss-Newton
_CG_STEPS = 15
_CG_TOLERANCE = 1e-2  # of the preconditioned residual
_FIRST_DAMPING = 1e-3  # times the largest diagonal entry of the normal matrices
_LARGEST_DAMPING = 1e12  # as above; no step so short lowers the error by more than roundoff
_LEAST_DAMPING = 4  # units of roundoff for each component, as above: the matrices of equal ones stay regular


def nonlinear_least_squares(
    prepared: Prepared,
    factors: list[Array],
    ridge: float,
    stopping: Stopping,
    callback: Callback[CPTensor] | None,
    started: float,
) -> CPFit:
    r"""Minimise the squared error over all factors at once by Levenberg and Marquardt's method.

    Notes
    -----
    A step solves ``(J^H J + mu I) P = -G`` by conjugate gradients, J the Jacobian of the model. Neither J nor its
    Gram matrix is formed: :class:`_NormalOperator` applies it in ``O(d^2 R^2 max n_k)``. A trial costs one product
    with the tensor, and a second one if it is accepted. The damping follows the ratio of the true and the predicted
    fall of the objective (Nielsen's rule). A step that does not lower the objective is not taken.

    References
    ----------
    .. [1] L. Sorber, M. Van Barel, L. De Lathauwer, "Optimization-based algorithms for tensor decompositions:
       canonical polyadic decomposition, decomposition in rank-(L_r, L_r, 1) terms, and a new generalization",
       SIAM J. Optim. 23 (2013).
    .. [2] K. Madsen, H. B. Nielsen, O. Tingleff, "Methods for non-linear least squares problems", Technical
       University of Denmark (2004).
    """
    run = CPRun(prepared, stopping, callback, started)

    def iterate() -> Status:
        status = als_sweeps(run, factors, ridge, _FIRST_SWEEPS)
        return _gauss_newton(run, ridge) if status is Status.MAX_ITER and run.sweeps < stopping.max_iter else status

    return run.complete(iterate)


def _gauss_newton(run: CPRun, ridge: float) -> Status:
    """Take damped steps from the last sweep of ``run`` until it says stop, or no step lowers the error."""
    d = len(run.factors)
    xp = array_namespace(run.weights)
    if not bool(xp.any(run.weights != 0)):  # all derivatives vanish with the model
        return Status.CONVERGED
    least = _LEAST_DAMPING * int(run.weights.shape[0]) * float(xp.finfo(run.weights.dtype).eps)
    root = (run.weights / _unit(run.prepared)) ** (1.0 / d)
    point = _Point(run.prepared, [factor * root for factor in run.factors], ridge)
    damping, growth = _FIRST_DAMPING, 2.0
    while True:
        step, predicted = _conjugate_gradients(_NormalOperator(point, damping), point.gradient())
        trial = _Point(run.prepared, point.moved(step), ridge)
        fall = point.objective - trial.objective
        accepted = fall > 0.0
        if accepted:
            point = trial
            point.balance()
            ratio = min(fall / predicted, 1.0) if predicted > 0.0 else 1.0
            damping = max(least, damping * max(1.0 / 3.0, 1.0 - (2.0 * ratio - 1.0) ** 3))
            growth = 2.0
        else:
            damping, growth = damping * growth, 2.0 * growth
        level = math.sqrt(point.objective * (_unit(run.prepared) ** 2 / run.prepared.squared_norm))
        status = run.record(*point.normalised(), point.error, point.error_kind, accepted, level)
        if status is not None:
            return status
        if damping > _LARGEST_DAMPING:
            return Status.CONVERGED


class _Point:
    """Factors that share the weights evenly, and what one needs to know of the objective there.

    The objective is ``||x - y||^2 + ridge * sum(weights**2)``. Its second term is a Hadamard factor
    ``1 + ridge * I`` beside the Gram matrices of the factors. All is in units of a power of two near ``||x||``,
    so that roots of the weights round alike whatever the scale of x.
    """

    def __init__(self, prepared: Prepared, factors: list[Array], ridge: float) -> None:
        xp = array_namespace(factors[0])
        self.xp = xp
        self.factors = factors
        self.grams = [gram_of_columns(factor) for factor in factors]
        eye = xp.eye(self.grams[0].shape[0], dtype=factors[0].dtype, device=factors[0].device)
        self.penalty = 1.0 + ridge * eye
        self._cycle = itertools.islice(mttkrp_cycle(prepared.array, factors), len(factors))
        self._unit = _unit(prepared)
        self._products = [next(self._cycle)[1] / self._unit]
        cosines = real_part(hadamard(self.grams))
        inner = xp.sum(real_part(self._products[0] * conj(factors[0])))
        weights = self._unit * xp.ones_like(self.grams[0][0, :])
        self.error: float
        self.error_kind: Literal["gram", "exact"]
        energy = xp.sum(xp.linalg.diagonal(cosines))
        self.error, self.error_kind = model_error(
            prepared, weights, factors, inner * self._unit**2, xp.sum(cosines) * self._unit**2, energy * self._unit**2
        )
        self.objective = self.error**2 * (prepared.squared_norm / self._unit**2)
        if ridge:
            self.objective += ridge * float(energy)

    def gradient(self) -> Array:
        """Return the gradient by the conjugate factors, one below the other, shape (sum of n_k, R)."""
        self._complete()
        parts = [
            factor @ (self.penalty * hadamard(self.grams, skip=(mode,))) - M
            for mode, (factor, M) in enumerate(zip(self.factors, self._products, strict=True))
        ]
        return self.xp.concat(parts, axis=0)

    def moved(self, step: Array) -> list[Array]:
        """Return the factors after a step."""
        parts = _split(step, self.factors)
        return [factor + part for factor, part in zip(self.factors, parts, strict=True)]

    def balance(self) -> None:
        """Give each column the same norm in all modes: the model stays, and damping means the same to all."""
        xp = self.xp
        norms = self._norms()
        share = xp.prod(norms, axis=0) ** (1.0 / len(self.factors))
        ones = xp.ones_like(norms)
        scales = astype(xp.where(share > 0, share / xp.where(norms > 0, norms, ones), ones), self.factors[0].dtype)
        self._complete()  # the rest of the products belongs to the factors before
        for mode in range(len(self.factors)):
            scale = scales[mode, :]
            self.factors[mode] = self.factors[mode] * scale
            self.grams[mode] = self.grams[mode] * scale[:, None] * scale[None, :]
            self._products[mode] = self._products[mode] / scale

    def normalised(self) -> tuple[Array, list[Array]]:
        """Return weights, and factors with columns of norm 1."""
        xp = self.xp
        norms = self._norms()
        weights = self._unit * astype(xp.prod(norms, axis=0), self.factors[0].dtype)
        divisors = astype(xp.where(norms > 0, norms, xp.ones_like(norms)), self.factors[0].dtype)
        return weights, [factor / divisors[mode, :] for mode, factor in enumerate(self.factors)]

    def _complete(self) -> None:
        """Compute the products of the other modes, if they are still missing."""
        self._products += [M / self._unit for _, M in self._cycle]

    def _norms(self) -> Array:
        """Return the norms of the columns, shape (d, R)."""
        diagonals = [self.xp.linalg.diagonal(G) for G in self.grams]
        return self.xp.sqrt(real_part(self.xp.stack(diagonals)))


class _NormalOperator:
    """The damped Gauss-Newton matrix ``J^H J + mu I`` of a point, and its block Jacobi preconditioner.

    Vectors are changes of the factors, one below the other, shape (sum of n_k, R).
    """

    def __init__(self, point: _Point, damping: float) -> None:
        xp = point.xp
        d = len(point.factors)
        self._xp = xp
        self._factors = point.factors
        self._conjugates = [conj(factor) for factor in point.factors]
        self._blocks = [point.penalty * hadamard(point.grams, skip=(k,)) for k in range(d)]
        self._couplings = {
            (k, j): point.penalty * hadamard(point.grams, skip=(k, j)) for k in range(d) for j in range(d) if j != k
        }
        largest = xp.max(xp.stack([xp.max(real_part(xp.linalg.diagonal(block))) for block in self._blocks]))
        self.mu = damping * largest
        shift = astype(self.mu, point.penalty.dtype) * xp.eye(
            point.penalty.shape[0], dtype=point.penalty.dtype, device=point.penalty.device
        )
        self._blocks = [block + shift for block in self._blocks]
        self._inverses = [xp.linalg.inv(block) for block in self._blocks]

    def __call__(self, V: Array) -> Array:
        """Return ``(J^H J + mu I) V``."""
        d = len(self._factors)
        parts = _split(V, self._factors)
        overlaps = [
            self._xp.matrix_transpose(part) @ other for part, other in zip(parts, self._conjugates, strict=True)
        ]
        images = []
        for k in range(d):
            image = parts[k] @ self._blocks[k]
            if d > 1:
                coupled = [self._couplings[k, j] * overlaps[j] for j in range(d) if j != k]
                image = image + self._factors[k] @ sum(coupled[1:], start=coupled[0])
            images.append(image)
        return self._xp.concat(images, axis=0)

    def precondition(self, V: Array) -> Array:
        """Return the solution of the system without its couplings between modes."""
        parts = _split(V, self._factors)
        solved = [part @ inverse for part, inverse in zip(parts, self._inverses, strict=True)]
        return self._xp.concat(solved, axis=0)


def _conjugate_gradients(operator: _NormalOperator, gradient: Array) -> tuple[Array, float]:
    """Return an approximate solution P of ``(J^H J + mu I) P = -G``, and the fall of the objective it predicts.

    The residual is orthogonal to P, so that the fall is ``-Re<G, P> + mu ||P||^2``.
    """
    xp = array_namespace(gradient)

    def product(a: Array, b: Array) -> Array:
        return xp.sum(real_part(conj(a) * b))

    residual = -gradient
    direction = preconditioned = operator.precondition(residual)
    size = product(residual, preconditioned)
    enough = _CG_TOLERANCE**2 * float(size)
    P = xp.zeros_like(gradient)
    for _ in range(_CG_STEPS):
        image = operator(direction)
        curvature = product(direction, image)
        if not float(curvature) > 0.0:  # the gradient is zero, or its direction lost to roundoff
            break
        length = size / curvature
        P = P + length * direction
        residual = residual - length * image
        preconditioned = operator.precondition(residual)
        size, previous = product(residual, preconditioned), size
        if float(size) <= enough:
            break
        direction = preconditioned + (size / previous) * direction
    return P, float(operator.mu * product(P, P) - product(gradient, P))


def _unit(prepared: Prepared) -> float:
    """Return a power of two near the norm of the tensor."""
    return 2.0 ** math.frexp(math.sqrt(prepared.squared_norm))[1]


def _split(V: Array, factors: Sequence[Array]) -> list[Array]:
    """Return the rows of ``V`` that belong to each factor."""
    bounds = list(itertools.accumulate((int(factor.shape[0]) for factor in factors), initial=0))
    return [V[start:stop, :] for start, stop in itertools.pairwise(bounds)]
