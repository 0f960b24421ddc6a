"""Quasi-Newton on all cores at once: the solver for losses that are no sum of squares."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet.arrays import Array, array_namespace, from_numpy_like, squared_norm, to_numpy
from tnet.errors import InputError
from tnet.structure_search.evaluate.gradients import errors_and_gradients
from tnet.structure_search.evaluate.requests import failed, in_precision_of, prepared_for_gradients
from tnet.structure_search.evaluate.stacks import (
    Member,
    Stack,
    from_stack,
    random_starts,
    sorted_into_stacks,
    to_stack,
)
from tnet.structure_search.evaluate.targets import Data, target_of
from tnet.structure_search.losses import Loss
from tnet.structure_search.proposals import Start
from tnet.structure_search.trials import Evaluation

__all__ = ["LBFGS"]


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS on any loss, from random cores of the norm of x.

    Parameters
    ----------
    n_starts : int
        Random starts of a structure, of which the best counts; one with warm cores more.
    max_iter : int
        Iterations of a start.
    change : float
        A start ends when an iteration lowers its loss by less than this share.

    Notes
    -----
    Gradients come from the network itself; of a :class:`~tnet.structure_search.losses.DifferentiableLoss` torch gives
    that by the dense approximation. One evaluation of loss and gradient costs about three contractions of the network
    to a dense tensor. Steps by scipy.

    References
    ----------
    .. [1] D. C. Liu, J. Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Program. 45
       (1989).
    """

    n_starts: int = 3
    max_iter: int = 300
    change: float = 1e-7

    def __post_init__(self) -> None:
        for name in ("n_starts", "max_iter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: give a positive integer.")
        if not (isinstance(self.change, (int, float)) and 0 <= self.change < 1):
            raise InputError(f"change={self.change!r}: give a number in [0, 1).")

    def solve(self, x: Array, loss: Loss, starts: Sequence[Start]) -> list[Evaluation]:
        """Return the best cores found for each structure; failures carry a message.

        Parameters
        ----------
        x : array
            Real floating point; a torch tensor for a differentiable loss.
        loss : Loss
        starts : sequence of Start

        Raises
        ------
        InputError
            If x has one mode, is zero or not finite, or the loss does not fit it.
        BackendError
            If x is complex.
        """
        data, evaluations, members = prepared_for_gradients(x, loss, starts, "L-BFGS")
        for member in members:
            (stack,) = sorted_into_stacks([member], 1, "layers", share_order=True)
            try:
                evaluations[member.number] = self._solved(data, stack, member, starts[member.number])
            except Exception as error:  # what a function of the user raises fails its trial, not the search
                evaluations.update(failed(stack, f"{type(error).__name__}: {error}"))
        return [in_precision_of(x, data, evaluations[number]) for number in range(len(starts))]

    def _solved(self, data: Data, stack: Stack, member: Member, start: Start) -> Evaluation:
        from scipy.optimize import minimize

        began = time.process_time()
        xp, program = array_namespace(data.x), stack.program
        target = target_of(data, program, [member.form.order])
        begins = [to_stack(program, member, cores) for cores in self._begins(data, start)]
        shapes = [core.reshape(1, -1, core.shape[-1]).shape for core in begins[0]]
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]

        def cores_of(flat: np.ndarray) -> list[Array]:
            parts = (part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True))
            return [from_numpy_like(part, data.x) for part in parts]

        def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            errors, gradients = errors_and_gradients(xp, program, target, cores_of(flat), slice(0, 1))
            slope = np.concatenate([to_numpy(gradient).reshape(-1) for gradient in gradients])
            return float(errors[0]), slope.astype(np.float64)

        best, reached, n_iterations = None, [], 0
        for begin in begins:
            flat = np.concatenate([core.reshape(-1) for core in begin]).astype(np.float64)
            options = {"maxiter": self.max_iter, "ftol": self.change, "gtol": 0.0}
            found = minimize(loss_and_gradient, flat, jac=True, method="L-BFGS-B", options=options)
            n_iterations += int(found.nit)
            reached.append(float(found.fun))
            if np.isfinite(found.fun) and (best is None or found.fun < best.fun):
                best = found
            if best is not None and best.fun <= start.target:
                break
        taken = time.process_time() - began
        if best is None:
            message = "no start gave a finite loss"
            return Evaluation(member.structure, math.inf, n_sweeps=n_iterations, seconds=taken, message=message)
        cores = from_stack(xp, program, member, [core[0, ...] for core in cores_of(best.x)])
        return Evaluation(member.structure, float(best.fun), cores, tuple(reached), n_iterations, taken)

    def _begins(self, data: Data, start: Start) -> list[list[np.ndarray]]:
        """Return the cores of each start, with a first axis of length 1."""
        n = self.n_starts if start.n_starts is None else start.n_starts
        begins = []
        if start.warm is not None:
            begins.append([to_numpy(core)[None, ...] for core in start.warm])
        if n:
            drawn = random_starts(start.structure, start.seed, 0, n, data.x)
            drawn[0] = drawn[0] * math.sqrt(squared_norm(data.x))
            begins += [[core[k : k + 1] for core in drawn] for k in range(n)]
        return begins
