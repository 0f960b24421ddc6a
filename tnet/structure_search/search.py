"""Search for the structure of a tensor network: the dialogue of an algorithm with evaluations, bounds and budget."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tnet.arrays import Array, array_namespace, as_array, is_torch, resolve_rng
from tnet.decompositions.preparation import checked_input
from tnet.errors import InputError, WorkerError
from tnet.parallel import ExecutorLike, held_workers
from tnet.structure_search.budget import Budget, Ending
from tnet.structure_search.evaluate.targets import prepared_data
from tnet.structure_search.evaluation_round import SecondsOver, alarm, can_interrupt, evaluate
from tnet.structure_search.journal import Journal, described
from tnet.structure_search.losses import DifferentiableLoss, Loss, MaskedError, SquaredError, WeightedError
from tnet.structure_search.memo import Memo
from tnet.structure_search.objective import FewestParams, LeastError, Objective
from tnet.structure_search.proposals import Algorithm, Candidate, Problem, Solver, Start
from tnet.structure_search.result import SearchResult, Solution, pareto_front
from tnet.structure_search.space import SearchSpace, default_max_rank
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Evaluation, Trial

__all__ = ["search"]

AlgorithmName = Literal["auto", "tnale", "tnls", "tnga", "greedy", "svdinstn", "trees"]

_NEEDED = {
    "space": (("allows", "check"), "a SearchSpace"),
    "objective": (("score", "error_to_beat", "enough"), "an objective such as SizeAndError(5.0)"),
    "algorithm": (("propose",), "the name of an algorithm, or one with a method propose"),
    "solver": (("solve",), "a solver such as ALS()"),
    "budget": (("evaluations", "seconds", "patience"), "a Budget"),
}
_PIECE = 64  # structures evaluated between two looks at the budget and the log, at most
_SHARE_OF_CLOCK = 1 / 32  # of the seconds allowed, that a piece may take
_CERTAIN = 1e-9  # distance of bound and score, relative to it, that rounding explains


def search(
    x: Array,
    *,
    rtol: float | None = None,
    max_params: int | None = None,
    objective: Objective | None = None,
    algorithm: AlgorithmName | Algorithm = "auto",
    space: SearchSpace | None = None,
    mask: Array | None = None,
    loss: Loss | None = None,
    solver: Solver | None = None,
    budget: Budget | None = None,
    executor: ExecutorLike = None,
    resume: str | os.PathLike[str] | None = None,
    rng: Any = None,
    callback: Callable[[Trial, float], object] | None = None,
) -> SearchResult:
    """Find the tensor network that approximates a tensor best, within a budget.

    Parameters
    ----------
    x : array
        At least two modes; real or complex floating point; finite, where it was observed; not all zero. Gradients are
        not recorded.
    rtol : float, optional
        Ask for the fewest parameters at this relative error.
    max_params : int, optional
        Ask for the least error with so many parameters. Exactly one of ``rtol``, ``max_params`` and ``objective``.
    objective : Objective, optional
        Any other score, such as :class:`SizeAndError`.
    algorithm : str or Algorithm
        ``"auto"``: search on the bounds that the singular values of all cuts give, verified lazily
        (:class:`~tnet.structure_search.algorithms.CutBound`). Others by name, with their published settings, or as a
        dataclass with your own.
    space : SearchSpace, optional
        Any topology over the modes with ranks up to 64 (or the root of the entries) by default.
    mask : array of bool, optional
        Completion: only entries where it is True count. The same as ``loss=MaskedError(mask)``.
    loss : Loss, optional
        Another measure of the error.
    solver : Solver, optional
        What finds the cores of one structure; by default truncated singular value decompositions for trees, and
        alternating least squares.
    budget : Budget, optional
        Ceilings on evaluations, seconds and patience.
    executor : None, int, "processes", concurrent.futures.Executor or dask Client
        Where evaluations run. Results do not depend on it.
    resume : str or path, optional
        A folder for the log of trials and the cores; the same call goes on with it.
    rng : int, numpy Generator or None
    callback : callable, optional
        ``callback(trial, best_score)`` after each trial. Ctrl-C ends the search with the best so far.

    Returns
    -------
    SearchResult

    Raises
    ------
    InputError
        Order 1, zero or non-finite entries, not exactly one goal, constraints that no structure meets, or a folder to
        resume from that belongs to another search.
    WorkerError
        Not one structure could be evaluated.

    Notes
    -----
    Counted as an evaluation is every structure that the algorithm asks for, also when the answer is known already;
    structures that a bound rules out are not. Seeds belong to structures, so that a search is the same whatever
    evaluates it; a search that resumes replays its log and goes on as if it had never ended.

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> draw = np.random.default_rng(0).standard_normal
    >>> x = np.einsum("ia,jab,kb->ijk", draw((4, 2)), draw((4, 2, 2)), draw((4, 2)))
    >>> found = tnet.search(x, rtol=1e-6, rng=0)
    >>> found.best.n_params, found.best.structure.bonds
    (32, ((0, 1, 2), (1, 2, 2)))
    """
    started = time.perf_counter()
    x = checked_input(x)
    if x.ndim < 2:
        raise InputError(f"x has shape {tuple(x.shape)}: a structure has at least two modes.")
    chosen_loss = _loss_of(mask, loss)
    prepared_data(x, chosen_loss)  # what no solver can use is refused before the search
    goal = _goal_of(rtol, max_params, objective)
    where = SearchSpace(max_rank=default_max_rank(x.shape)) if space is None else space
    method = _algorithm_of(algorithm)
    inner = _default_solver() if solver is None else solver
    ceilings = Budget() if budget is None else budget
    if callback is not None and not callable(callback):
        raise InputError(f"callback={callback!r}: give a function of a trial and the best score, or None.")
    if resume is not None and not isinstance(resume, (str, os.PathLike)):
        raise InputError(f"resume={resume!r}: give the path of a folder, or None.")
    _check_kinds(space=where, objective=goal, algorithm=method, solver=inner, budget=ceilings)
    where.check(x.shape)
    _, seed = resolve_rng(rng)
    journal = None
    if resume is not None:
        question = {
            "x": described(x), "loss": described(chosen_loss),
            "objective": described(goal), "space": described(where),
            "algorithm": described(method), "solver": described(inner), "rng": None if rng is None else seed,
        }  # fmt: skip
        journal = Journal(resume, question)
        seed = journal.seed(seed)
    run = _Run(x, chosen_loss, goal, where, inner, ceilings, executor, journal, seed, callback, started)
    return run.all_of(method)


@dataclass(eq=False)
class _Run:
    """The state of one search."""

    x: Array
    loss: Loss
    objective: Objective
    space: SearchSpace
    solver: Solver
    budget: Budget
    executor: ExecutorLike
    journal: Journal | None
    seed: int
    callback: Callable[[Trial, float], object] | None
    started: float
    memo: Memo = field(default_factory=Memo)
    trials: list[Trial] = field(default_factory=list)
    best: tuple[float, Evaluation] | None = None
    last_gain: int = 0
    counted: int = 0
    workers: ExecutorLike = None
    pace: float = math.inf  # seconds of a structure in the last piece

    def all_of(self, algorithm: Algorithm) -> SearchResult:
        """Carry the dialogue to its end."""
        cpu = time.process_time()
        n_logged = 0 if self.journal is None else len(self.journal.trials)
        with held_workers(self.executor) as workers:
            self.workers = workers
            ending, bound = self._dialogue(algorithm)
        seconds = time.process_time() - cpu
        if not (self.executor is None or isinstance(self.executor, ThreadPoolExecutor)):
            seconds += sum(trial.seconds for trial in self.trials[n_logged:])  # of other processes
        return self._result(ending, bound, seconds)

    def _dialogue(self, algorithm: Algorithm) -> tuple[Ending, float | None]:
        """Ask and tell until either side ends; return why, and the algorithm's bound of what it did not ask for."""
        spectra = _SpectraByShape(self.x, self.space) if isinstance(self.loss, SquaredError) else None
        problem = Problem(
            self.x, self.loss, self.objective, self.space,
            _no_bounds if spectra is None else spectra.bounds,
            None if spectra is None else spectra.of(tuple(self.x.shape)),
            self.memo.cores, lambda: self._spent() is Ending.SECONDS,
        )  # fmt: skip
        dialogue = algorithm.propose(problem, np.random.default_rng(self.seed))
        may_prune = bool(getattr(algorithm, "prunes", False))
        ending, bound = Ending.FINISHED, None
        try:
            asked = next(dialogue)
            while True:
                answers = self._answers(asked, problem, may_prune)
                ending = self._spent()
                if ending is not Ending.FINISHED:
                    break
                asked = dialogue.send(answers)
        except StopIteration as end:
            bound = end.value
            if not self.trials:  # nothing came near what is asked: the smallest structure tells how far it is
                self._answers([self.space.smallest(problem.shape)], problem, False)
        except SecondsOver:
            ending = Ending.SECONDS
        except KeyboardInterrupt:
            ending = Ending.INTERRUPTED
            if self.best is None:
                raise
        finally:
            dialogue.close()
        return ending, bound

    def _answers(self, asked: Sequence[Structure | Candidate], problem: Problem, may_prune: bool) -> list[Trial]:
        """Return a trial for each question, fewer where the budget ends before."""
        structures = [question.structure if isinstance(question, Candidate) else question for question in asked]
        bounds = problem.bound(structures)
        answers: list[Trial] = []
        while len(answers) < len(asked):
            piece = slice(len(answers), len(answers) + self._piece())
            room = None if self.budget.evaluations is None else self.budget.evaluations - self.counted
            began = time.perf_counter()
            answers += self._answers_of_piece(asked[piece], structures[piece], bounds[piece], may_prune, room)
            self.pace = (time.perf_counter() - began) / max(1, piece.stop - piece.start)
            if self._spent() is not Ending.FINISHED:
                break
        return answers

    def _piece(self) -> int:
        """Return how many structures to evaluate before the next look at the budget."""
        budget, size = self.budget, _PIECE
        if budget.patience is not None:
            size = min(size, budget.patience - (self.counted - self.last_gain))
        if budget.seconds is not None:
            allowed = _SHARE_OF_CLOCK * budget.seconds
            size = min(size, int(allowed / max(self.pace, 1e-9)))
        return max(1, size)

    def _answers_of_piece(
        self,
        asked: Sequence[Structure | Candidate],
        structures: Sequence[Structure],
        bounds: np.ndarray,
        may_prune: bool,
        room: int | None,
    ) -> list[Trial]:
        best = math.inf if self.best is None else self.best[0]
        canonical = [structure.canonical() for structure in structures]
        starts: dict[Structure, Start] = {}
        plan: list[str] = []
        logged_here: set[Structure] = set()
        for question, structure, plain, bound in zip(asked, structures, canonical, bounds, strict=True):
            number = len(self.trials) + len(plan)
            logged = self._logged(number, structure)
            if logged is not None:
                plan.append("logged")
                logged_here.add(plain)
                if logged.status == "evaluated" and self._cores_logged(logged) is None:
                    starts[plain] = self._start(question, plain, best)  # its file is damaged
            elif may_prune and self.objective.score(plain, float(bound)) >= best:
                plan.append("pruned")
            elif room is not None and sum(what not in ("pruned",) for what in plan) >= room:
                break
            elif not isinstance(question, Candidate) and (
                plain in starts or plain in logged_here or self.memo.get(plain) is not None
            ):
                plan.append("cached")
            else:
                plan.append("evaluated")
                if plain not in starts or isinstance(question, Candidate):
                    starts[plain] = self._start(question, plain, best)
        found = dict(zip(starts, self._evaluated(list(starts.values())), strict=True))
        for evaluation in found.values():
            self.memo.put(evaluation)
        return [
            self._tell(what, structure, plain, float(bound), found)
            for what, structure, plain, bound in zip(plan, structures, canonical, bounds, strict=False)
        ]

    def _logged(self, number: int, structure: Structure) -> Trial | None:
        if self.journal is None or number >= len(self.journal.trials):
            return None
        trial = self.journal.trials[number]
        if trial.structure != structure:
            raise InputError(
                f"resume: trial {number} of the log is {trial.structure!r}, but the algorithm now asks for "
                f"{structure!r}: the log is of another version of tnet or NumPy; give a new folder."
            )
        return trial

    def _cores_logged(self, trial: Trial) -> tuple[Array, ...] | None:
        assert self.journal is not None
        return self.journal.cores(trial, self.x)

    def _start(self, question: Structure | Candidate, plain: Structure, best: float) -> Start:
        """Return how the solver begins: cores of the algorithm, or of the nearest structure known."""
        from tnet.structure_search.evaluate.warm import adapted

        text = json.dumps(plain.to_json(), sort_keys=True).encode()
        seed = int.from_bytes(hashlib.sha256(text + str(self.seed).encode()).digest()[:8], "little") >> 1
        warm = None
        if isinstance(question, Candidate):
            number = question.structure.canonical_numbers()
            warm = None if number is None else question.structure.relabelled_cores(question.cores, number)
        else:
            near = self.memo.nearest(plain)
            if near is not None and near.cores is not None:
                warm = adapted(near.cores, near.structure, plain, seed)
        return Start(plain, seed, self.objective.enough(), self.objective.error_to_beat(plain, best), warm)

    def _evaluated(self, starts: list[Start]) -> list[Evaluation]:
        if not starts:
            return []
        budget = self.budget
        may_stop = self.best is not None and self.executor is None and budget.trial_seconds is None
        left = math.inf if budget.seconds is None else budget.seconds - (time.perf_counter() - self.started)
        stopped = nullcontext()
        if may_stop and left < math.inf and can_interrupt():
            stopped = alarm(max(left, 1e-6), SecondsOver())
        with stopped:
            return evaluate(
                self.x, self.loss, self.solver, starts, executor=self.workers, trial_seconds=budget.trial_seconds
            )

    def _tell(
        self, what: str, structure: Structure, plain: Structure, bound: float, found: dict[Structure, Evaluation]
    ) -> Trial:
        """Make the trial, keep it, and look whether it is the best."""
        number = len(self.trials)
        if what == "logged":
            assert self.journal is not None
            trial = self.journal.trials[number]
            evaluation = found.get(plain) if trial.status == "evaluated" else None
            if evaluation is None:
                cores = self._cores_logged(trial)
                evaluation = Evaluation(plain, trial.rse, cores, (), trial.n_sweeps, trial.seconds, trial.message)
            elif evaluation.cores is not None:
                self.journal.keep_cores(trial, evaluation.cores)
            if trial.status in ("evaluated", "failed"):
                self.memo.put(evaluation)
        elif what == "pruned":
            trial = Trial(number, structure, bound, self.objective.score(plain, bound), bound, "pruned")
            evaluation = None
        else:
            fresh = what == "evaluated"
            evaluation = found.get(plain) if fresh else None
            evaluation = self.memo.get(plain) if evaluation is None else evaluation
            assert evaluation is not None
            status = "failed" if not math.isfinite(evaluation.rse) else "evaluated" if fresh else "cached"
            trial = Trial(
                number, structure, evaluation.rse, self.objective.score(plain, evaluation.rse), bound, status,
                len(evaluation.start_errors) if fresh else 0, evaluation.n_sweeps if fresh else 0,
                evaluation.seconds if fresh else 0.0, evaluation.message,
            )  # fmt: skip
        self.trials.append(trial)
        if self.journal is not None and what != "logged":
            self.journal.append(trial, evaluation)
        if trial.status != "pruned":
            self.counted += 1
            known = self.memo.get(plain)
            if known is not None and known.cores is not None and (self.best is None or trial.score < self.best[0]):
                self.best = (trial.score, known)
                self.last_gain = self.counted
        if self.callback is not None:
            self.callback(trial, math.inf if self.best is None else self.best[0])
        return trial

    def _spent(self) -> Ending:
        """Return why the search must end now; FINISHED where it need not."""
        budget = self.budget
        if budget.evaluations is not None and self.counted >= budget.evaluations:
            spent = Ending.EVALUATIONS
        elif budget.seconds is not None and time.perf_counter() - self.started >= budget.seconds:
            spent = Ending.SECONDS
        elif budget.patience is not None and self.counted - self.last_gain >= budget.patience:
            spent = Ending.PATIENCE
        else:
            spent = Ending.FINISHED
        return spent

    def _result(self, ending: Ending, bound: float | None, cpu: float) -> SearchResult:
        if self.best is None:
            messages = list(dict.fromkeys(trial.message for trial in self.trials if trial.message))
            raise WorkerError(
                f"not one of {len(self.trials)} structures could be evaluated; the first failure: "
                f"{messages[0] if messages else 'no structure was asked for: loosen the space'}"
            )
        score, evaluation = self.best
        assert evaluation.cores is not None
        network = evaluation.structure.to_network(evaluation.cores)
        if bound is not None:
            # What was evaluated may still be better than its evaluation says: solvers can get stuck.
            bound = min(
                [bound, score, *(self.objective.score(t.structure.canonical(), t.bound) for t in self.trials)]
            )
            if ending is Ending.FINISHED and bound >= score - _CERTAIN * abs(score):
                ending = Ending.PROVEN
        return SearchResult(
            Solution(evaluation.structure, network, evaluation.rse, score),
            tuple(self.trials),
            pareto_front(self.trials),
            bound,
            ending,
            time.perf_counter() - self.started,
            cpu,
            self.seed,
        )


class _SpectraByShape:
    """Singular values of all cuts, for the shape of the tensor and those that the space names besides."""

    def __init__(self, x: Array, space: SearchSpace) -> None:
        self._x, self._shapes = x, {tuple(x.shape), *space.reshapes}
        self._known: dict[tuple[int, ...], Any] = {}

    def of(self, shape: tuple[int, ...]) -> Any:
        """Return the spectra of the tensor in a shape."""
        from tnet.structure_search.spectra import cut_spectra

        if shape not in self._known:
            self._known[shape] = cut_spectra(array_namespace(self._x).reshape(self._x, shape))
        return self._known[shape]

    def bounds(self, structures: Sequence[Structure]) -> np.ndarray:
        """Return a lower bound of the squared relative error of each structure."""
        from tnet.structure_search.bounds import lower_bounds

        found = np.zeros(len(structures))
        for shape in {structure.shape for structure in structures} & self._shapes:
            own = [k for k, structure in enumerate(structures) if structure.shape == shape]
            found[own] = lower_bounds(self.of(shape), [structures[k] for k in own])
        return found


def _no_bounds(structures: Sequence[Structure]) -> np.ndarray:
    return np.zeros(len(structures))


def _loss_of(mask: Array | None, loss: Loss | None) -> Loss:
    if mask is not None and loss is not None:
        raise InputError("mask= and loss=: give one of them; a mask is a loss.")
    if mask is not None:
        return MaskedError(as_array(mask, "mask"))
    if isinstance(loss, MaskedError):
        return MaskedError(as_array(loss.mask, "mask"))
    if isinstance(loss, WeightedError):
        weight = as_array(loss.weight, "weight")
        return WeightedError(weight.detach() if is_torch(weight) else weight, loss.n_columns)
    if loss is None:
        return SquaredError()
    if not isinstance(loss, (SquaredError, DifferentiableLoss)):
        raise InputError(f"loss={loss!r}: give SquaredError, MaskedError, WeightedError or DifferentiableLoss.")
    return loss


def _goal_of(rtol: float | None, max_params: int | None, objective: Objective | None) -> Objective:
    given = [
        name
        for name, value in (("rtol", rtol), ("max_params", max_params), ("objective", objective))
        if value is not None
    ]
    if len(given) != 1:
        raise InputError(f"rtol=, max_params= and objective=: give exactly one of them, not {given or 'none'}.")
    if rtol is not None:
        return FewestParams(float(rtol) if isinstance(rtol, np.floating) else rtol)
    if max_params is not None:
        return LeastError(int(max_params) if isinstance(max_params, np.integer) else max_params)
    assert objective is not None
    return objective


def _check_kinds(**given: object) -> None:
    """Raise InputError, naming the argument, where a value cannot do what is asked of it."""
    for name, value in given.items():
        needed, allowed = _NEEDED[name]
        if isinstance(value, type) or not all(hasattr(value, attribute) for attribute in needed):
            raise InputError(f"{name}={value!r}: give {allowed}.")


def _default_solver() -> Solver:
    from tnet.structure_search.evaluate.choice import BySituation

    return BySituation()


def _algorithm_of(algorithm: AlgorithmName | Algorithm) -> Algorithm:
    if not isinstance(algorithm, str):
        return algorithm
    from tnet.structure_search import algorithms

    known = algorithms.ALGORITHMS
    if algorithm not in known:
        raise InputError(f"algorithm={algorithm!r}: choose one of {', '.join(map(repr, known))}, or give your own.")
    return getattr(algorithms, known[algorithm])()
