"""How an algorithm and the search talk: it asks for structures, and is told what came of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from tnet.arrays import Array
from tnet.structure_search.losses import Loss
from tnet.structure_search.objective import Objective
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Evaluation, Trial

__all__ = ["Algorithm", "Candidate", "Problem", "Proposals", "Solver", "Start"]


def _none_known(structure: Structure) -> tuple[Array, ...] | None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True, eq=False)
class Problem:
    """What is searched for.

    Parameters
    ----------
    x : array
        Real or complex, finite (where observed), not all zero.
    loss : Loss
    objective : Objective
    space : SearchSpace
    bound : callable
        ``bound(structures)``: for each a lower bound of the squared relative error that no cores can fall below; 0
        where nothing is known. NumPy float64.
    spectra : CutSpectra or None
        Squared singular values of the matricisations of ``x``; None where the loss has no use for them.
    cores : callable
        ``cores(structure)``: the best cores found so far for this very structure, in its core shapes, or None. The
        search answers it from its memo; trials carry no cores, so that keeping them keeps no arrays.
    expired : callable
        ``expired()``: whether the seconds of the search are over. An algorithm that thinks for long between two
        questions looks at it, and asks for the best that it has.
    """

    x: Array
    loss: Loss
    objective: Objective
    space: SearchSpace
    bound: Callable[[Sequence[Structure]], np.ndarray]
    spectra: object | None = None
    cores: Callable[[Structure], tuple[Array, ...] | None] = _none_known
    expired: Callable[[], bool] = _never

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``x``."""
        return tuple(int(n) for n in self.x.shape)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A structure to try, with cores that the algorithm has for it: one more start of its evaluation.

    Parameters
    ----------
    structure : Structure
    cores : tuple of array
        Of this very structure.
    """

    structure: Structure
    cores: tuple[Array, ...]


Proposals: TypeAlias = Generator[Sequence[Structure | Candidate], Sequence[Trial], float | None]
"""Yields structures to try, receives one trial for each, in the same order; returns when it has no more to ask.

What it returns is a lower bound on the score of all structures of the space that it did not ask for, or None.
"""


class Algorithm(Protocol):
    """A frozen dataclass of settings."""

    def propose(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        """Return the dialogue. The same seed and the same answers give the same questions: so a search resumes."""
        ...


@dataclass(frozen=True, eq=False)
class Start:
    """Where the solver may begin with one structure, and when it may end.

    Parameters
    ----------
    structure : Structure
    seed : int
        Of its random starts; by structure, so that results depend neither on workers nor on the company.
    target : float
        Squared relative error at which it may stop: a smaller one gains nothing.
    beat : float
        Squared relative error below which the structure would be the best so far: starts whose pace or scatter
        does not promise as much may be saved. Negative where no error would do.
    warm : tuple of array, or None
        Cores of this very structure to begin one start with.
    n_starts : int or None
        Random starts; None leaves it to the solver, 0 begins with ``warm`` alone.
    """

    structure: Structure
    seed: int
    target: float = 0.0
    beat: float = math.inf
    warm: tuple[Array, ...] | None = None
    n_starts: int | None = None


class Solver(Protocol):
    """A frozen dataclass of settings that finds cores for structures."""

    def solve(self, x: Array, loss: Loss, starts: Sequence[Start]) -> list[Evaluation]:
        """Return one evaluation for each start, in their order; a failure is an evaluation with a message."""
        ...
