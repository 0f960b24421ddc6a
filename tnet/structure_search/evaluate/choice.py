"""The solver that a search takes where the user names none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tnet.arrays import Array
from tnet.structure_search.evaluate.als import ALS
from tnet.structure_search.evaluate.lbfgs import LBFGS
from tnet.structure_search.evaluate.tree_svd import TreeSVD
from tnet.structure_search.losses import DifferentiableLoss, Loss, SquaredError
from tnet.structure_search.proposals import Start
from tnet.structure_search.trials import Evaluation

__all__ = ["BySituation"]

_CHEAP_SWEEP = 1e8  # multiply-adds
_NEAR = 1.02  # times the error that would count
_FEW_SWEEPS = 4


@dataclass(frozen=True)
class BySituation:
    """Singular value decompositions for trees, alternating least squares for the rest, gradients for other losses.

    Parameters
    ----------
    als : ALS
    gradient : LBFGS
        For losses that are no sum of squares.

    Notes
    -----
    The truncated decomposition of a tree is near the best there is: a few sweeps of least squares from there lower
    the squared error by about a hundredth. Trees that this may bring to the target, or above the best so far, get
    them where a sweep is cheap.
    """

    als: ALS = field(default_factory=ALS)
    gradient: LBFGS = field(default_factory=LBFGS)

    def solve(self, x: Array, loss: Loss, starts: Sequence[Start]) -> list[Evaluation]:
        """Return one evaluation for each start, in their order."""
        if isinstance(loss, DifferentiableLoss):
            return self.gradient.solve(x, loss, starts)
        if not isinstance(loss, SquaredError):
            return self.als.solve(x, loss, starts)
        trees = [k for k, start in enumerate(starts) if start.structure.is_tree]
        found = dict(zip(trees, TreeSVD().solve(x, loss, [starts[k] for k in trees]), strict=True))
        rest: dict[int, Start] = {}
        near: dict[int, Start] = {}
        for k, start in enumerate(starts):
            if k not in found:
                rest[k] = start
            elif start.target < found[k].rse <= _NEAR * _enough(start) and _sweep_macs(start) <= _CHEAP_SWEEP:
                near[k] = replace(start, warm=found[k].cores, n_starts=0)
        found |= dict(zip(rest, self.als.solve(x, loss, list(rest.values())), strict=True))
        few = replace(self.als, race_sweeps=_FEW_SWEEPS, max_sweeps=_FEW_SWEEPS)
        for k, evaluation in zip(near, few.solve(x, loss, list(near.values())), strict=True):
            direct = found[k]
            better = evaluation if evaluation.rse < direct.rse else direct
            found[k] = replace(better, n_sweeps=evaluation.n_sweeps, seconds=direct.seconds + evaluation.seconds)
        return [found[k] for k in range(len(starts))]


def _enough(start: Start) -> float:
    """Return the squared relative error that would count."""
    return max(start.target, start.beat if math.isfinite(start.beat) else 0.0)


def _sweep_macs(start: Start) -> float:
    """Return about how many multiply-adds the normal equations of all cores take."""
    structure = start.structure
    counts = [math.prod(shape[k < structure.n_modes :]) for k, shape in enumerate(structure.core_shapes)]
    return sum(float(structure.n_entries) * n + float(n) ** 3 for n in counts)
