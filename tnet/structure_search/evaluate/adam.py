"""The published inner solver of structure search: Adam on all cores at once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet.arrays import Array, array_namespace, from_numpy_like, itemsize, to_numpy
from tnet.errors import InputError
from tnet.structure_search.evaluate.gradients import errors_and_gradients
from tnet.structure_search.evaluate.requests import (
    failed,
    in_precision_of,
    kind_of_device,
    must_share_order,
    prepared_for_gradients,
)
from tnet.structure_search.evaluate.stacks import Stack, from_stack, sorted_into_stacks, to_stack
from tnet.structure_search.evaluate.targets import Data, Target, target_of
from tnet.structure_search.losses import Loss
from tnet.structure_search.proposals import Start
from tnet.structure_search.trials import Evaluation

__all__ = ["Adam"]

_LOOK_EVERY = 10  # steps between looks at the errors, for which the host waits
_TILE_BYTES = 1 << 26  # of whole approximations at a time
_FIRST_MOMENT, _SECOND_MOMENT, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Adam:
    r"""Adam on the squared relative error, from small normal cores.

    Parameters
    ----------
    learning_rate : float
        Published: 0.001 for rings, 0.01 for free topologies.
    n_iterations : int
        Published: 10000 for rings, 40000 for free topologies.
    n_repeats : int
        Random starts of a structure, of which the best counts.
    stop_rse : float
        A start ends when its squared relative error falls below.
    init_std : float
        Of the entries of the cores.

    Notes
    -----
    With m and v the running means of the gradient g and of its square, step t moves the cores by
    :math:`-\eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m}{\sqrt{v} + \epsilon}`,
    :math:`\beta_1 = 0.9, \beta_2 = 0.999, \epsilon = 10^{-8}`. Gradients come from the network itself; structures and
    starts run in stacks. For a :class:`~tnet.structure_search.losses.DifferentiableLoss` torch differentiates the
    function, and the best cores that were seen are returned. Warm cores are one more start; targets of the starts are
    not looked at.

    References
    ----------
    .. [1] C. Li, J. Zeng, C. Li, C. Caiafa, Q. Zhao, "Alternating local enumeration (TnALE)", ICML 2023.
    .. [2] D. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """

    learning_rate: float = 1e-3
    n_iterations: int = 10_000
    n_repeats: int = 2
    stop_rse: float = 1e-8
    init_std: float = 0.1

    def __post_init__(self) -> None:
        for name in ("n_iterations", "n_repeats"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: give a positive integer.")
        for name in ("learning_rate", "init_std"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise InputError(f"{name}={value!r}: give a positive number.")
        if not (isinstance(self.stop_rse, (int, float)) and 0 <= self.stop_rse < 1):
            raise InputError(f"stop_rse={self.stop_rse!r}: give a squared relative error in [0, 1).")

    def solve(self, x: Array, loss: Loss, starts: Sequence[Start]) -> list[Evaluation]:
        """Return the best cores found for each structure; failures carry a message.

        Parameters
        ----------
        x : array
            Real floating point; a torch tensor for a differentiable loss. It is not scaled: the steps of Adam are not
            invariant to the scale of x.
        loss : Loss
        starts : sequence of Start

        Raises
        ------
        InputError
            If x has one mode, is zero or not finite, or the loss does not fit it.
        BackendError
            If x is complex.
        """
        data, evaluations, members = prepared_for_gradients(x, loss, starts, "Adam")
        for stack in sorted_into_stacks(
            members, self.n_repeats, "layers", share_order=must_share_order(x), device=kind_of_device(x)
        ):
            try:
                found = self._solve_stack(data, stack, starts)
            except Exception as error:  # what a function of the user raises fails its trials, not the search
                found = failed(stack, f"{type(error).__name__}: {error}")
            evaluations.update(found)
        return [in_precision_of(x, data, evaluations[number]) for number in range(len(starts))]

    def _solve_stack(self, data: Data, stack: Stack, starts: Sequence[Start]) -> list[tuple[int, Evaluation]]:
        began = time.process_time()
        xp = array_namespace(data.x)
        packed, owners = [], []
        for k, member in enumerate(stack.members):
            cores = self._starts(starts[member.number])
            packed.append(to_stack(stack.program, member, cores))
            owners += [k] * len(cores[0])
        cores = [
            from_numpy_like(np.concatenate(parts).reshape(len(owners), -1, parts[0].shape[-1]), data.x)
            for parts in zip(*packed, strict=True)
        ]
        tile = max(1, _TILE_BYTES // (math.prod(data.x.shape) * itemsize(data.x)))
        tiles = [slice(a, min(a + tile, len(owners))) for a in range(0, len(owners), tile)]
        parts = [
            self._descended(data, stack, np.asarray(owners[items]), [core[items, ...] for core in cores])
            for items in tiles
        ]
        errors, steps = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        cores = [xp.concat([part[2][k] for part in parts], axis=0) for k in range(len(cores))]
        seconds = (time.process_time() - began) / max(1, int(np.sum(steps)))
        found = []
        for k, member in enumerate(stack.members):
            mine = np.flatnonzero(np.asarray(owners) == k)
            best = int(mine[np.argmin(errors[mine])])
            n_steps = int(np.sum(steps[mine]))
            if not math.isfinite(errors[best]):
                message = "no start gave a finite error: try a smaller learning_rate"
                found.append(
                    (member.number, Evaluation(member.structure, math.inf, n_sweeps=n_steps, message=message))
                )
                continue
            evaluation = Evaluation(
                structure=member.structure,
                rse=float(errors[best]),
                cores=from_stack(xp, stack.program, member, [core[best, ...] for core in cores]),
                start_errors=tuple(errors[mine].tolist()),
                n_sweeps=n_steps,
                seconds=seconds * n_steps,
            )
            found.append((member.number, evaluation))
        return found

    def _starts(self, start: Start) -> list[np.ndarray]:
        rng = np.random.default_rng(start.seed)
        n = self.n_repeats if start.n_starts is None else start.n_starts
        cores = [self.init_std * rng.standard_normal((n, *shape)) for shape in start.structure.core_shapes]
        if start.warm is not None:
            cores = [np.concatenate([to_numpy(a)[None, ...], b]) for a, b in zip(start.warm, cores, strict=True)]
        return cores

    def _descended(
        self, data: Data, stack: Stack, owners: np.ndarray, cores: list[Array]
    ) -> tuple[np.ndarray, np.ndarray, list[Array]]:
        """Return errors, numbers of steps and cores of all starts; the best cores seen at the looks."""
        xp, program = array_namespace(data.x), stack.program
        n = len(owners)
        places = np.arange(n)  # of the starts that go on
        errors, steps, best = np.full(n, math.inf), np.zeros(n, dtype=int), list(cores)
        first, second = [xp.zeros_like(core) for core in cores], [xp.zeros_like(core) for core in cores]
        target = _target_of(data, stack, owners)
        for t in range(self.n_iterations + 1):
            found, gradients = errors_and_gradients(xp, program, target, cores, slice(0, len(places)))
            if t % _LOOK_EVERY == 0 or t == self.n_iterations:
                now = np.where(np.isfinite(host := to_numpy(found).astype(np.float64)), host, math.inf)
                better = now < errors[places]
                best = _updated(best, cores, places, better)
                errors[places] = np.minimum(now, errors[places])
                steps[places] = t
                going = np.flatnonzero((now >= self.stop_rse) & np.isfinite(now))
                if not len(going) or t == self.n_iterations:
                    break
                if len(going) < len(places):
                    index = from_numpy_like(going, data.x, xp.int64)
                    cores, first, second, gradients = (
                        [xp.take(a, index, axis=0) for a in arrays] for arrays in (cores, first, second, gradients)
                    )
                    places = places[going]
                    target = _target_of(data, stack, owners[places])
            rate = self.learning_rate * math.sqrt(1 - _SECOND_MOMENT ** (t + 1)) / (1 - _FIRST_MOMENT ** (t + 1))
            first = [_FIRST_MOMENT * m + (1 - _FIRST_MOMENT) * g for m, g in zip(first, gradients, strict=True)]
            second = [
                _SECOND_MOMENT * v + (1 - _SECOND_MOMENT) * g * g for v, g in zip(second, gradients, strict=True)
            ]
            cores = [
                core - rate * m / (xp.sqrt(v) + _EPSILON) for core, m, v in zip(cores, first, second, strict=True)
            ]
        return errors, steps, best


def _updated(best: list[Array], cores: list[Array], places: np.ndarray, better: np.ndarray) -> list[Array]:
    """Return the best cores of all starts, given those of the starts at some places, of which some are better."""
    xp = array_namespace(cores[0])
    source, is_new = np.zeros(int(best[0].shape[0]), dtype=np.int64), np.zeros(int(best[0].shape[0]), dtype=bool)
    source[places[better]], is_new[places[better]] = np.flatnonzero(better), True
    index = from_numpy_like(source, cores[0], xp.int64)
    mask = from_numpy_like(is_new, cores[0], xp.bool)[:, None, None]
    return [xp.where(mask, xp.take(core, index, axis=0), old) for old, core in zip(best, cores, strict=True)]


def _target_of(data: Data, stack: Stack, owners: np.ndarray) -> Target:
    orders = [stack.members[k].form.order for k in owners.tolist()]
    return target_of(data, stack.program, orders if len(set(orders)) > 1 else orders[:1])
