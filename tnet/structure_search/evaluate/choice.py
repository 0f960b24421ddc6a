"""The solver that a search takes where the user names none."""

from __future__ import annotations

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
    A tree whose truncated decomposition is not good enough goes on with alternating least squares from there, without
    random starts: it is near the best there is.
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
        for k, start in enumerate(starts):
            if k not in found:
                rest[k] = start
            elif found[k].cores is not None and found[k].rse > start.target:
                rest[k] = replace(start, warm=found[k].cores, n_starts=0)
        for k, evaluation in zip(rest, self.als.solve(x, loss, list(rest.values())), strict=True):
            direct = found.get(k)
            if direct is None or evaluation.rse < direct.rse:
                found[k] = evaluation
            else:
                found[k] = replace(direct, n_sweeps=evaluation.n_sweeps, seconds=direct.seconds + evaluation.seconds)
        return [found[k] for k in range(len(starts))]
