"""What a search returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tnet.formats import TensorNetwork
from tnet.structure_search.budget import Ending
from tnet.structure_search.objective import INFEASIBLE
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Trial

__all__ = ["SearchResult", "Solution", "pareto_front"]


@dataclass(frozen=True, eq=False)
class Solution:
    """A structure with cores.

    Parameters
    ----------
    structure : Structure
    network : TensorNetwork
        Approximates the tensor, in its library and dtype. Where the structure has another shape, so has the network.
    rse : float
        Squared relative error, as the loss has it.
    score : float
        Of the objective.
    """

    structure: Structure
    network: TensorNetwork
    rse: float
    score: float

    @property
    def n_params(self) -> int:
        """Entries of all cores."""
        return self.structure.n_params

    @property
    def error(self) -> float:
        """Relative error: the root of ``rse``."""
        return math.sqrt(self.rse)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best structure that a search found, and the account of the search.

    Parameters
    ----------
    best : Solution
    trials : tuple of Trial
        All that the algorithm asked for, in its order.
    pareto : tuple of Trial
        Evaluated trials to which no other is better in parameters and in error, by parameters ascending.
    bound : float or None
        Lower bound on the score of every structure of the space; None where none is known.
    ending : Ending
    seconds : float
        Wall seconds of this call.
    cpu_seconds : float
        CPU seconds of this process in this call, and those that workers told.
    rng_seed : int
    """

    best: Solution
    trials: tuple[Trial, ...]
    pareto: tuple[Trial, ...]
    bound: float | None
    ending: Ending
    seconds: float
    cpu_seconds: float
    rng_seed: int

    @property
    def evaluations(self) -> int:
        """Structures evaluated, those answered from memory included, as comparisons of algorithms count them."""
        return sum(trial.status in ("evaluated", "cached", "failed") for trial in self.trials)

    @property
    def n_cached(self) -> int:
        """Evaluations answered from memory."""
        return sum(trial.status == "cached" for trial in self.trials)

    @property
    def n_pruned(self) -> int:
        """Structures that a bound ruled out without an evaluation."""
        return sum(trial.status == "pruned" for trial in self.trials)

    @property
    def n_failed(self) -> int:
        """Evaluations that raised or did not end."""
        return sum(trial.status == "failed" for trial in self.trials)

    @property
    def feasible(self) -> bool:
        """Whether the best meets what was asked: ``rtol`` or ``max_params``."""
        return self.best.score < INFEASIBLE

    @property
    def gap(self) -> float | None:
        """How far the best score may be above the least possible one, relative to it; 0 is proven optimal."""
        if self.bound is None:
            return None
        distance = max(self.best.score - self.bound, 0.0)
        return distance / max(abs(self.best.score), 1e-300)

    def plot(self) -> Any:
        """Draw the course of the search, the Pareto front and the network: :func:`tnet.plot.search`."""
        from tnet.plot import search

        return search(self)

    def __repr__(self) -> str:
        best = self.best
        structure = best.structure
        gap = "unknown" if self.gap is None else f"at most {self.gap:.2%} of the score"
        return "\n".join(
            [
                f"SearchResult  {structure!r}",
                f"  parameters   {best.n_params} of {structure.n_entries} "
                f"({structure.n_entries / best.n_params:.3g}x smaller)",
                f"  error        {best.error:.3e} relative"
                + ("" if self.feasible else ": what was asked is not met"),
                f"  score        {best.score:.6g}",
                f"  gap          {gap}",
                f"  evaluations  {self.evaluations} ({self.n_cached} from memory, {self.n_failed} failed), "
                f"{self.n_pruned} ruled out by bounds",
                f"  ending       {self.ending.value}",
                f"  seconds      {self.seconds:.3g} ({self.cpu_seconds:.3g} of CPU)",
                f"  seed         {self.rng_seed}",
            ]
        )


def pareto_front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return the evaluated trials that no other beats in parameters and error at once, by parameters ascending."""
    evaluated = [trial for trial in trials if trial.status in ("evaluated", "cached") and math.isfinite(trial.rse)]
    front: list[Trial] = []
    for trial in sorted(evaluated, key=lambda trial: (trial.structure.canonical().n_params, trial.rse, trial.number)):
        if not front or trial.rse < front[-1].rse:
            front.append(trial)
    return tuple(front)
