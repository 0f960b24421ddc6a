"""One dialogue for each shape that the tensor may be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from tnet.arrays import array_namespace
from tnet.structure_search.proposals import Candidate, Problem, Proposals
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Trial

__all__ = ["in_every_shape"]

Dialogue: TypeAlias = Callable[[Problem, np.random.Generator], Proposals]


def in_every_shape(dialogue: Dialogue, problem: Problem, rng: np.random.Generator) -> Proposals:
    """Hold the dialogue for the shape of the tensor and for each of ``space.reshapes``, side by side.

    Parameters
    ----------
    dialogue : callable
        ``dialogue(problem, rng)`` for one shape. It returns no bound.
    problem : Problem
    rng : numpy Generator
        Each shape has a generator of its own, spawned from it, where there are several.

    Notes
    -----
    Every batch holds one batch of each dialogue that has not ended. Spectra, which are those of the one shape, are
    left out for the others.
    """
    xp = array_namespace(problem.x)
    shapes = dict.fromkeys((problem.shape, *problem.space.reshapes))
    if len(shapes) == 1:
        return (yield from dialogue(problem, rng))
    waiting: list[tuple[Proposals, Sequence[Structure | Candidate]]] = []
    for shape, own in zip(shapes, rng.spawn(len(shapes)), strict=True):
        x = xp.reshape(problem.x, shape)
        part = problem if shape == problem.shape else replace(problem, x=x, spectra=None)
        talk = dialogue(part, own)
        waiting += [(talk, asked) for asked in _answer(talk, None)]
    while waiting:
        trials = yield [question for _, asked in waiting for question in asked]
        begin, still = 0, []
        for talk, asked in waiting:
            mine = trials[begin : begin + len(asked)]
            begin += len(asked)
            still += [(talk, more) for more in _answer(talk, mine)]
        waiting = still
    return None


def _answer(talk: Proposals, trials: Sequence[Trial] | None) -> list[Sequence[Structure | Candidate]]:
    """Return what a dialogue asks next, in a list that is empty where it has ended."""
    try:
        return [next(talk) if trials is None else talk.send(trials)]
    except StopIteration:
        return []
