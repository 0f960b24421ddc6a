"""Search on the bounds by the cuts of the tensor, verified lazily: the algorithm "auto"."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from tnet.arrays import array_namespace
from tnet.errors import InputError
from tnet.structure_search.algorithms.bound_descent import Score, local_minima
from tnet.structure_search.algorithms.branch_and_bound import all_below, least_score
from tnet.structure_search.algorithms.candidate_pool import CandidatePool
from tnet.structure_search.algorithms.landscape import Landscape, Points
from tnet.structure_search.algorithms.tnale import TnALE
from tnet.structure_search.algorithms.trees import TreeSearch
from tnet.structure_search.objective import INFEASIBLE
from tnet.structure_search.proposals import Candidate, Problem, Proposals
from tnet.structure_search.spectra import CutSpectra, cut_spectra
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Trial

__all__ = ["CutBound"]

_NEIGHBOURS_KEPT = 200  # of a structure that was evaluated
_TREES_KEPT = 8
_BEFORE_GUESTS = 16  # structures asked for: what can be proven soon is proven by then
_BOUND_TRUSTED = 8  # evaluations in vain in the order of the bound, before the model gets most of each batch


@dataclass(frozen=True)
class CutBound:
    r"""Search on bounds, verify lazily, then follow a model of the error.

    Parameters
    ----------
    batch : int
        Structures asked for at a time.
    patience : int
        It ends after so many evaluations in vain, unless it can soon prove that nothing is better.
    max_nodes : int
        Of branch and bound, which is tried again as structures are asked for and the best score falls; shared out
        where there are internal cores.
    effort : int
        Descents on the bound alone that may be in vain, for each rank variable and each choice of an internal core.

    Notes
    -----
    For every structure :math:`F_{LB}`, the objective at the bound by the cuts
    (``bounds.lower_bounds``), is at most its score, and costs microseconds. The search

    1. runs iterated local search on :math:`F_{LB}` (ranks one up or down or moved to another bond, bonds or modes
       exchanged), over the whole space and over its trees, whose bound is nearly sharp;
    2. evaluates the best in the order of what is believed of them: :math:`F_{LB}`, or the objective at the error of
       an evaluated structure that contains them, if that is larger;
    3. lists all structures with :math:`F_{LB}` below the best score by branch and bound. Where the list is complete
       and every member was evaluated, it ends; where the list is empty, the best is optimal;
    4. elsewhere walks from the best so far by :class:`~tnet.structure_search.algorithms.TnALE`, then runs
       :class:`~tnet.structure_search.algorithms.TreeSearch`, whose ranks are exact for trees, each once and where any
       bond may be, and then takes half of each batch from structures that a model of the error expects to be best:
       near the best so far, or found by local search on the model's prediction.

    Without spectra (completion, weights, other losses) the model has only the ranks to go by.
    """

    batch: int = 8
    patience: int = 48
    max_nodes: int = 400_000
    effort: int = 4

    prunes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("batch", "patience", "max_nodes", "effort"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: give a positive integer.")

    def propose(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        """Return the dialogue; it ends with a lower bound of all scores that were not asked for."""
        search = _Search(self, problem, rng)
        search.seed()
        while batch := search.next_batch():
            trials = yield [entry.structure for entry in batch]
            search.learn(batch, trials)
            if search.wants_guests:
                yield from search.guests()
        return search.bound_of_the_rest()


class _Entry(NamedTuple):
    """A structure that is asked for, and its place in a pool."""

    pool: CandidatePool
    place: int
    structure: Structure
    by_bound: bool


class _Search:
    """The state of one dialogue."""

    def __init__(self, settings: CutBound, problem: Problem, rng: np.random.Generator) -> None:
        self.settings, self.problem, self.rng = settings, problem, rng
        self.pools = [CandidatePool(Landscape(part)) for part in _of_all_shapes(problem)]
        self.best = math.inf
        self.best_place: tuple[CandidatePool, int] | None = None
        self.asked: set[Structure] = set()
        self.in_vain = self.bound_in_vain = 0
        self.listed_below: float | None = None
        self.failed_below, self.list_again_at = math.inf, 0
        self.first: list[tuple[CandidatePool, int]] = []
        has_tails = isinstance(problem.spectra, CutSpectra) and problem.spectra.n_cuts > 0
        self.guests_wait = problem.space.kind == "free" and has_tails

    def seed(self) -> None:
        """Fill the pools with the local minima of the bound, or with random structures where there is none."""
        for pool in self.pools:
            landscape = pool.landscape
            if landscape.bounds is None:
                pool.add(landscape.points(landscape.lowest[None, :]), math.inf)  # the smallest of all
                pool.add(landscape.random(self.settings.batch, self.rng), math.inf)
                continue
            patience = 20 + self.settings.effort * len(landscape.slots) * (1 + landscape.space.n_internal)
            pool.add(local_minima(landscape, _bound_score(landscape), self.rng, patience=patience), math.inf)
            if landscape.space.kind == "free":
                trees = landscape.without_loops()
                found = local_minima(trees, _bound_score(trees), self.rng, patience=patience // 2)
                found = found.part(slice(_TREES_KEPT))
                pool.add(found, math.inf)
                self.first.append((pool, pool.place(found.part(slice(1)))))

    def next_batch(self) -> list[_Entry]:
        """Return what to evaluate next; nothing at the end."""
        if self.first:
            trees, self.first = self.first, []
            return self._chosen([trees], size=len(trees))
        self._list_all()
        waiting = [(pool, pool.waiting(self.best)) for pool in self.pools]
        left = sum(len(places) for _, places in waiting)
        provable = self.listed_below is not None and left <= self.settings.patience
        if self.in_vain >= self.settings.patience and not provable:
            return []
        if self.listed_below is None:
            self._follow_model()
            waiting = [(pool, pool.waiting(self.best)) for pool in self.pools]
        waiting = _smaller_first(waiting)
        by_bound = _ranked([(pool, places, pool.believed_score(places)) for pool, places in waiting])
        ready = all(pool.model.is_ready for pool in self.pools) and not provable
        if not ready:
            return self._chosen([by_bound])
        by_model = _ranked([(pool, places, pool.expected_score(places)) for pool, places in waiting])
        has_bounds = all(pool.landscape.bounds is not None for pool in self.pools)
        if not has_bounds:
            return self._chosen([by_model])
        return self._chosen([by_model, by_bound], shares=(1 if self.bound_in_vain < _BOUND_TRUSTED else 7, 1))

    def _chosen(
        self,
        queues: list[list[tuple[CandidatePool, int]]],
        *,
        size: int | None = None,
        shares: Sequence[int] = (1,),
    ) -> list[_Entry]:
        """Return structures that were not asked for, so many from each queue in turn; the last is that of bounds."""
        batch: list[_Entry] = []
        turns = [turn for queue, share in zip(queues, shares, strict=True) for turn in [iter(queue)] * share]
        last = turns[-1]
        if size is None:
            size = min(self.settings.batch, 1 + len(self.asked))  # the first answers rule out most others
        while turns and len(batch) < size:
            for turn in turns[: size - len(batch)]:
                pair = next(turn, None)
                while pair is not None and not self._is_new(*pair):
                    pair = next(turn, None)
                if pair is None:
                    turns.remove(turn)
                    continue
                pool, place = pair
                pool.tried[place] = True
                batch.append(_Entry(pool, place, pool.landscape.structure(pool.points, place), turn is last))
        return batch

    def _is_new(self, pool: CandidatePool, place: int) -> bool:
        if pool.tried[place]:
            return False
        structure = pool.landscape.structure(pool.points, place)
        plain = structure.canonical()
        if plain in self.asked or not self.problem.space.allows(structure):
            pool.tried[place] = True
            return False
        self.asked.add(plain)
        return True

    def learn(self, batch: Sequence[_Entry], trials: Sequence[Trial]) -> None:
        """Take in what came of a batch."""
        for entry, trial in zip(batch, trials, strict=True):
            if trial.status == "pruned":
                continue
            entry.pool.learn(entry.place, trial.rse)
            if trial.score < self.best:
                self.best, self.best_place, self.in_vain = trial.score, (entry.pool, entry.place), 0
                self.bound_in_vain *= not entry.by_bound
            else:
                self.in_vain += 1
                self.bound_in_vain += entry.by_bound
            if self.listed_below is None:
                near = entry.pool.landscape.neighbours(entry.pool.points, entry.place)
                entry.pool.add(near, self.best, _NEIGHBOURS_KEPT)

    @property
    def wants_guests(self) -> bool:
        """Whether the first answers have shown that this will take longer, and no other algorithm was asked yet."""
        has_bounds = any(pool.landscape.bounds is not None for pool in self.pools)
        asked_enough = len(self.asked) >= (_BEFORE_GUESTS if has_bounds else 1)
        return self.guests_wait and self.listed_below is None and asked_enough

    def guests(self) -> Generator[Sequence[Structure | Candidate], Sequence[Trial], None]:
        """Walk from the best so far, then search for trees."""
        self.guests_wait = False
        if self.best_place is not None:
            pool, place = self.best_place
            walk = TnALE(initial_rounds=0, patience=1, start=pool.landscape.structure(pool.points, place))
            yield from self._guest(walk.propose(self.problem, self.rng))
        space = replace(self.problem.space, kind="trees")
        yield from self._guest(TreeSearch().propose(replace(self.problem, space=space), self.rng))

    def _guest(self, dialogue: Proposals) -> Generator[Sequence[Structure | Candidate], Sequence[Trial], None]:
        """Carry the dialogue of another algorithm, and take in what it finds."""
        trials: Sequence[Trial] | None = None
        while True:
            try:
                asked = next(dialogue) if trials is None else dialogue.send(trials)
            except StopIteration:
                return
            trials = yield asked
            for trial in trials:
                self._learn_from_guest(trial)
            # A bound is no error: what was ruled out counts as failed.
            trials = [
                replace(trial, rse=math.inf, score=math.inf) if trial.status == "pruned" else trial
                for trial in trials
            ]

    def _learn_from_guest(self, trial: Trial) -> None:
        structure = trial.structure
        self.asked.add(structure.canonical())
        pool = next((pool for pool in self.pools if pool.landscape.shape == structure.shape), None)
        if pool is None or trial.status == "pruned":
            return
        point = pool.landscape.point_of(structure)
        pool.add(point, math.inf)
        place = pool.place(point)
        pool.tried[place] = True
        self.learn([_Entry(pool, place, structure, False)], [trial])

    def _list_all(self) -> None:
        """List what may be better than the best by branch and bound, if that was not done and may succeed.

        Where it failed it is tried again with a better score, once twice as many structures were asked for, and
        before the search ends.
        """
        if self.listed_below is not None or not self.best < min(self.failed_below, INFEASIBLE):
            return
        if len(self.asked) < self.list_again_at and self.in_vain < self.settings.patience:
            return
        found = []
        for pool in self.pools:
            points = all_below(
                pool.landscape, self.best, max_nodes=self.settings.max_nodes // (1 + pool.landscape.space.n_internal)
            )
            if points is None:
                self.failed_below, self.list_again_at = self.best, 2 * len(self.asked)
                return
            found.append(points)
        for pool, points in zip(self.pools, found, strict=True):
            pool.add(points, self.best)
        self.listed_below = self.best

    def _follow_model(self) -> None:
        """Add what local search on the expected score finds, from the best structure and from anywhere."""
        for pool in self.pools:
            if not pool.model.is_ready:
                continue
            landscape = pool.landscape

            def expected(points: Points, pool: CandidatePool = pool) -> np.ndarray:
                return pool.landscape.score_of(points, pool.expected_rse(points))

            start = None
            if self.best_place is not None and self.best_place[0] is pool:
                place = self.best_place[1]
                start = pool.points.part(slice(place, place + 1))
            pool.add(local_minima(landscape, expected, self.rng, patience=6, start=start), self.best)

    def bound_of_the_rest(self) -> float | None:
        """Return a lower bound of the score of every structure that was not asked for."""
        bounds = [self.best]
        for pool in self.pools:
            if self.listed_below is not None:
                bounds += pool.bound_score[~pool.tried].tolist()
                continue
            least = least_score(pool.landscape, self.best)
            if least is None:
                return None
            bounds.append(least)
        return min(bounds)


def _smaller_first(waiting: list[tuple[CandidatePool, np.ndarray]]) -> list[tuple[CandidatePool, np.ndarray]]:
    """Return only what is smaller than the tensor, while there is any: the rest is dear, and hardly ever the best."""
    smaller = [(pool, places[pool.are_smaller(places)]) for pool, places in waiting]
    return smaller if any(len(places) for _, places in smaller) else waiting


def _of_all_shapes(problem: Problem) -> list[Problem]:
    """Return the problem for the shape of its tensor, and for those that the space names besides."""
    problems = [problem]
    xp = array_namespace(problem.x)
    for shape in problem.space.reshapes:
        if shape != problem.shape and all(shape != other.shape for other in problems):
            x = xp.reshape(problem.x, shape)
            spectra = cut_spectra(x) if isinstance(problem.spectra, CutSpectra) else None
            problems.append(replace(problem, x=x, spectra=spectra))
    return problems


def _bound_score(landscape: Landscape) -> Score:
    return lambda points: landscape.scores(points).score


def _ranked(
    queues: Sequence[tuple[CandidatePool, np.ndarray, np.ndarray]],
) -> list[tuple[CandidatePool, int]]:
    """Return pools and places, the least score first; of equal ones that of fewest bonds: its bound is sharper."""
    entries = [
        (score, bonds, number, place)
        for number, (pool, places, scores) in enumerate(queues)
        for score, bonds, place in zip(scores.tolist(), pool.n_bonds(places).tolist(), places.tolist(), strict=True)
    ]
    return [(queues[number][0], place) for _, _, number, place in sorted(entries)]
