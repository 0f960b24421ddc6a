"""Alternating least squares over stacks of structures and starts, with restarts and races between them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet.arrays import Array, itemsize, total_size
from tnet.errors import InputError
from tnet.structure_search.evaluate.pool import Pool
from tnet.structure_search.evaluate.race import Race
from tnet.structure_search.evaluate.requests import (
    failed,
    fitting_members,
    in_precision_of,
    kind_of_device,
    must_share_order,
)
from tnet.structure_search.evaluate.stacks import Member, Stack, random_starts, sorted_into_stacks
from tnet.structure_search.evaluate.sweep_tree import Gram, best_tree, sweep_cost
from tnet.structure_search.evaluate.targets import Data, prepared_data
from tnet.structure_search.losses import DifferentiableLoss, Loss, SquaredError
from tnet.structure_search.proposals import Start
from tnet.structure_search.trials import Evaluation

__all__ = ["ALS"]

_CACHE = {"cpu": 1 << 23, "cuda": 1 << 31}
"""Bytes of the tensors of one tile."""
_MOST_ITEMS = {"cpu": 256, "cuda": 1 << 14}
_DENSE = {"cpu": 1 << 22, "cuda": 1 << 30}
"""Bytes of whole approximations at a time."""
_MACS_AN_ENTRY = 2000.0
_MOST_COMPILED_MACS = 1_500_000
"""Multiply-adds of a sweep from which on BLAS makes up for the cost of its calls."""


@dataclass(frozen=True)
class ALS:
    r"""Alternating least squares: each core in turn becomes the best one given the others.

    Parameters
    ----------
    n_starts : int
        Random starts of a structure, and of each later round.
    max_starts : int
        More rounds follow while the best error is above the target of the start, if that is positive, until so many
        starts were tried, or, from the second round on, the three best agree to 0.1 %, or what is to beat seems out
        of reach (see Notes).
    race_sweeps : int
        Sweeps before the better starts of a structure are chosen, and between looks at the errors.
    n_kept : int
        Starts of a structure that go on after the race.
    max_sweeps : int
        Of one start.
    change : float
        A start ends when ``race_sweeps`` sweeps lower its squared relative error by less than this share.
    exact : float
        Squared relative errors below it end a structure, as its target does; in single precision those below 1e-11.
    max_bytes : int
        A structure whose sweep needs more memory fails.
    max_macs : float
        A structure whose sweep takes more multiply-adds, and more than 2000 for each entry of x, fails.
    compiled : bool
        Sweep over small networks in loops that Numba compiles at their first use (10 seconds, once: they are kept on
        disk), if x is a NumPy array of float64 and all its entries count.

    Notes
    -----
    All structures with one graph, up to a permutation of equal modes, run as one stack, padded to common ranks where
    that is cheaper than to run apart. Padded entries are zero and stay so. On a CPU a stack runs in tiles that fit
    the cache; on a GPU whole.

    A sweep over one network costs about :math:`2 N c + O(c^2)` multiply-adds, N the entries of the tensor and c those
    of the bonds that cross the middle of the network: each half of the cores meets x once, and serves all cores of
    the other half. Normal matrices come from two layers of cores, or from the environment where bonds are many. With
    a mask or a weight they always do: :math:`N r^2` for each core with bonds of size r, and :math:`N r / n_k` entries
    of memory; a weight couples all entries of a core of the columns, :math:`(r n_k)^3`.

    Starts and rounds that would beat nothing are saved. Let b be ``Start.beat``, and E the squared relative error of
    a start after k looks, :math:`\Delta` less than one look before; ``max_sweeps`` gives time for K looks. While no
    start of the structure is below b, and b is near, :math:`b < E \le 4 b`,

    - a start ends where :math:`E - \min(2 k, K - k) \Delta > b`: an error that falls with the square root of the
      number of sweeps, or faster, gains no more than that;
    - no further round follows where the best error less one standard deviation of the errors at which starts ended
      is above b. Were these normal, one more start would go below in one of five cases after two ends, and in one of
      35 after eight.

    Where b is farther, as where a planted network is looked for, errors stand still before they fall by orders of
    magnitude, and neither pace nor scatter tells what comes.

    What a start gives depends on the structure, its seed, target and error to beat alone, up to rounding.
    """

    n_starts: int = 8
    max_starts: int = 32
    race_sweeps: int = 10
    n_kept: int = 2
    max_sweeps: int = 200
    change: float = 1e-3
    exact: float = 1e-14
    max_bytes: int = 1 << 32
    max_macs: float = 2e9
    compiled: bool = True

    def __post_init__(self) -> None:
        for name in ("n_starts", "max_starts", "race_sweeps", "n_kept", "max_sweeps", "max_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: give a positive integer.")
        if not isinstance(self.compiled, bool):
            raise InputError(f"compiled={self.compiled!r}: give True or False.")
        if not (isinstance(self.max_macs, (int, float)) and self.max_macs > 0):
            raise InputError(f"max_macs={self.max_macs!r}: give a positive number.")
        for name in ("change", "exact"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 <= value < 1):
                raise InputError(f"{name}={value!r}: give a number in [0, 1).")

    def solve(self, x: Array, loss: Loss, starts: Sequence[Start]) -> list[Evaluation]:
        """Return the best cores found for each structure.

        Parameters
        ----------
        x : array
            Real or complex floating point; half precision is computed in float32.
        loss : SquaredError, MaskedError or WeightedError
        starts : sequence of Start

        Returns
        -------
        list of Evaluation
            In the order of the starts; a structure that cannot be solved has ``rse = inf`` and a message.

        Raises
        ------
        InputError
            If x has one mode, is zero or not finite, or the loss does not fit it.

        Notes
        -----
        The error of an evaluation is that of the residual itself, in the precision of computation.
        """
        if isinstance(loss, DifferentiableLoss):
            raise InputError("a DifferentiableLoss has no least squares: choose the solver LBFGS.")
        data = prepared_data(x, loss)
        evaluations, members = fitting_members(x, loss, starts)
        gram = None if isinstance(loss, SquaredError) else "environment"
        evaluations |= self._too_dear(members, gram, total_size(x.shape))
        members = [member for member in members if member.number not in evaluations]
        kind, share = kind_of_device(x), must_share_order(x)
        stacks = sorted_into_stacks(members, self.n_starts, gram, share_order=share, device=kind)
        while stacks:
            stack = stacks.pop()
            if len(stack.members) > 1 and stack.program.n_entries * itemsize(data.x) > self.max_bytes:
                # Padding may be what is too much: each has its own memory.
                for member in stack.members:
                    stacks += sorted_into_stacks([member], self.n_starts, gram, share_order=share, device=kind)
                continue
            for number, evaluation in self._solve_stack(data, stack, starts, kind):
                evaluations[number] = evaluation
        return [in_precision_of(x, data, evaluations[number]) for number in range(len(starts))]

    def _too_dear(self, members: Sequence[Member], gram: Gram | None, n_entries: int) -> dict[int, Evaluation]:
        """Return failures for the structures of which one sweep would take too long."""
        most = max(self.max_macs, _MACS_AN_ENTRY * n_entries)
        refused = {}
        for member in members:
            cost = sweep_cost(member.form.graph, member.form.ranks, *best_tree(member.form.graph, gram))
            if cost > most:
                message = f"a sweep takes {cost:.3g} multiply-adds, more than {most:.3g} (see max_macs)"
                refused[member.number] = Evaluation(member.structure, math.inf, message=message)
        return refused

    def _n_random(self, start: Start) -> int:
        """Return the number of random starts; none only beside a warm one."""
        n = self.n_starts if start.n_starts is None else start.n_starts
        return max(n, start.warm is None)

    def _solve_stack(
        self, data: Data, stack: Stack, starts: Sequence[Start], kind: str
    ) -> list[tuple[int, Evaluation]]:
        began = time.process_time()
        own = [starts[member.number] for member in stack.members]
        size = stack.program.n_entries * itemsize(data.x)
        if size > self.max_bytes:
            message = f"a sweep needs {size / 2**30:.3g} GiB for each network, more than max_bytes = {self.max_bytes}"
            return failed(stack, message)
        tile = max(1, min(_MOST_ITEMS[kind], _CACHE[kind] // size))
        n_dense = max(1, _DENSE[kind] // (math.prod(data.x.shape) * itemsize(data.x)))
        pool = Pool(data, stack, tile, n_dense, compiled=self.compiled and _is_for_loops(data, stack))
        eps = float(pool.xp.finfo(data.x.dtype).eps)
        exact = max(self.exact, (32 * eps) ** 2)
        race = Race(
            targets=np.asarray([max(start.target, exact) for start in own]),
            beats=np.asarray([start.beat for start in own]),
            goes_on=np.asarray([start.target > 0 for start in own]),
            settings=self,
        )
        try:
            while True:
                for k, round_, n in race.new_starts([self._n_random(start) for start in own]):
                    warm = own[k].warm if round_ == 0 else None
                    pool.add(k, random_starts(stack.members[k].structure, own[k].seed, round_, n, data.x), warm)
                    race.admit(k, n + (warm is not None))
                if not len(race.owners):
                    break
                errors = pool.advance(self.race_sweeps)
                pool.remember(race.bests_of(errors))
                pool.keep(race.judged(errors))
        except (np.linalg.LinAlgError, MemoryError, RuntimeError) as error:  # torch tells of memory by RuntimeError
            return failed(stack, f"{type(error).__name__}: {error}")
        seconds = (time.process_time() - began) / max(1, int(np.sum(race.n_sweeps)))
        return [
            (member.number, race.evaluation(k, member, pool.best_cores(k), seconds))
            for k, member in enumerate(stack.members)
        ]


def _is_for_loops(data: Data, stack: Stack) -> bool:
    """Return whether the compiled loops serve a stack, and its networks are small enough for them."""
    plain = (
        isinstance(data.x, np.ndarray) and data.x.dtype == np.float64 and data.mask is None and data.factor is None
    )
    return plain and stack.program.gram == "layers" and stack.program.macs <= _MOST_COMPILED_MACS
