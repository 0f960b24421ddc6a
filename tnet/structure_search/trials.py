"""What came of a structure: the account of one evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tnet.arrays import Array
from tnet.structure_search.structure import Structure

__all__ = ["Evaluation", "Trial"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an inner solver found for one structure.

    Parameters
    ----------
    structure : Structure
    rse : float
        Squared relative error of the best start; inf where the solver failed.
    cores : tuple of array, or None
        Of the best start, in the shapes that the structure names.
    start_errors : tuple of float
        Squared relative error that each start reached: solvers get stuck, and comparisons hang on it.
    n_sweeps : int
        Over all starts.
    seconds : float
        CPU seconds of this process.
    message : str
        Why it failed; empty otherwise.
    """

    structure: Structure
    rse: float
    cores: tuple[Array, ...] | None = None
    start_errors: tuple[float, ...] = ()
    n_sweeps: int = 0
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True, eq=False)
class Trial:
    """One structure that an algorithm asked for, and what it was told.

    Parameters
    ----------
    number : int
        Place in the order of asking, from 0.
    structure : Structure
    rse : float
        Squared relative error; of a pruned one the lower bound.
    score : float
        Of the objective.
    bound : float
        Lower bound of the squared relative error by the cuts of the tensor; 0 where there is none.
    status : {"evaluated", "cached", "pruned", "failed"}
        ``"cached"``: known already, counted as an evaluation all the same; ``"pruned"``: cannot be better than the
        best so far, not evaluated and not counted; ``"failed"``: the solver raised or never ended.
    n_starts, n_sweeps : int
    seconds : float
        CPU seconds of the solver.
    message : str
    """

    number: int
    structure: Structure
    rse: float
    score: float
    bound: float = 0.0
    status: Literal["evaluated", "cached", "pruned", "failed"] = "evaluated"
    n_starts: int = 0
    n_sweeps: int = 0
    seconds: float = 0.0
    message: str = field(default="")
