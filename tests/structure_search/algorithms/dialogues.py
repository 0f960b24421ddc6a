"""Dialogues with algorithms: errors in closed form, and a search that only answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tnet.structure_search.losses import SquaredError
from tnet.structure_search.objective import Objective, SizeAndError
from tnet.structure_search.proposals import Algorithm, Candidate, Problem
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Trial

Error = Callable[[Structure], float]


def problem(
    space: SearchSpace,
    shape: Sequence[int],
    *,
    objective: Objective | None = None,
    x: np.ndarray | None = None,
    **more,
) -> Problem:
    x = np.random.default_rng(0).standard_normal(tuple(shape)) if x is None else x
    goal = SizeAndError(5.0) if objective is None else objective
    return Problem(x, SquaredError(), goal, space, lambda structures: np.zeros(len(structures)), **more)


def missing_ranks(planted: Structure, floor: float = 0.0) -> Error:
    """Return an error that is 0 exactly where every bond has at least the planted rank."""

    def error(structure: Structure) -> float:
        missing = sum(max(0, rank - structure.rank(i, j)) for i, j, rank in planted.bonds)
        return floor + 1 - math.exp(-0.3 * missing)

    return error


def talk(
    algorithm: Algorithm,
    asked_about: Problem,
    error: Error,
    *,
    seed: int = 0,
    batches: int = 200,
    evaluations: int = 20_000,
) -> tuple[list[list[Trial]], bool]:
    """Answer until the algorithm ends or enough was asked; return the trials by batch, and whether it ended."""
    dialogue = algorithm.propose(asked_about, np.random.default_rng(seed))
    told: list[list[Trial]] = []
    count = 0
    try:
        asked = next(dialogue)
        while len(told) < batches and count < evaluations:
            structures = [each.structure if isinstance(each, Candidate) else each for each in asked]
            trials = []
            for structure in structures:
                rse = float(error(structure))
                trials.append(Trial(count, structure, rse, asked_about.objective.score(structure, rse)))
                count += 1
            told.append(trials)
            asked = dialogue.send(trials)
    except StopIteration:
        return told, True
    dialogue.close()
    return told, False


def best(told: list[list[Trial]]) -> Trial:
    return min((trial for batch in told for trial in batch), key=lambda trial: trial.score)
