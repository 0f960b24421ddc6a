"""The dialogue: budgets, memory, pruning, failures, the log on disk, interruption."""

from __future__ import annotations

import itertools
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

import tnet
from tnet import parallel
from tnet.errors import BackendError, FormatError, InputError, WorkerError
from tnet.structure_search.budget import Budget, Ending
from tnet.structure_search.losses import DifferentiableLoss, WeightedError
from tnet.structure_search.objective import FewestParams, LatencyAndError, LeastError, SizeAndError
from tnet.structure_search.proposals import Candidate
from tnet.structure_search.search import search
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Evaluation

SHAPE = (3, 3, 3)
X = np.random.default_rng(0).standard_normal(SHAPE)
GOAL = SizeAndError(1.0)
SPACE = SearchSpace("free", 3)


def chain(a, b):
    return Structure(SHAPE, tuple(bond for bond in ((0, 1, a), (1, 2, b)) if bond[2] > 1))


@dataclass(frozen=True)
class Fixed:
    """Asks for given lists of structures."""

    rounds: tuple
    prunes: bool = False
    bound: float | None = None

    def propose(self, problem, rng):
        for number in range(len(self.rounds)):
            yield self.rounds[number]
        return self.bound


@dataclass(frozen=True)
class Hand:
    """Errors by the sum of the ranks; ones are the cores."""

    wrong: tuple = ()
    slow: tuple = ()

    def solve(self, x, loss, starts):
        found = []
        for start in starts:
            structure = start.structure
            if structure in self.wrong:
                raise ZeroDivisionError("this structure always fails")
            if structure in self.slow:
                time.sleep(30)
            error = 1.0 / (1 + sum(rank for _, _, rank in structure.bonds))
            found.append(
                Evaluation(
                    structure, error, tuple(np.ones(shape) for shape in structure.core_shapes), (error,), 3, 0.1
                )
            )
        return found


def run(algorithm, **options):
    settings = {"objective": GOAL, "space": SPACE, "solver": Hand(), "rng": 0} | options
    return search(X, algorithm=algorithm, **settings)


def test_it_counts_caches_and_returns_the_best():
    rounds = ([chain(2, 2), chain(3, 3)], [chain(2, 2), chain(1, 1)], [chain(1, 2)])
    found = run(Fixed(rounds))
    assert [trial.status for trial in found.trials] == ["evaluated", "evaluated", "cached", "evaluated", "evaluated"]
    assert (found.evaluations, found.n_cached, found.ending) == (5, 1, Ending.FINISHED)
    scores = [trial.score for trial in found.trials]
    assert found.best.score == min(scores)
    assert found.best.structure == found.trials[scores.index(min(scores))].structure
    assert found.best.network.shape == SHAPE
    assert found.gap is None
    front = [(trial.structure.n_params, trial.rse) for trial in found.pareto]
    assert front == sorted(front)
    assert [e for _, e in front] == sorted((e for _, e in front), reverse=True)
    assert len(repr(found).splitlines()) <= 12


def test_a_certificate_closes_the_gap():
    proven = run(Fixed(([chain(2, 2)],), bound=10.0), objective=FewestParams(0.5))
    assert (proven.gap, proven.ending) == (0.0, Ending.PROVEN)
    open_ = run(Fixed(([chain(2, 2)],), bound=0.1))
    assert open_.gap == pytest.approx(1 - 0.1 / open_.best.score)
    assert open_.ending is Ending.FINISHED


def test_what_was_evaluated_is_certain_only_up_to_its_bound():
    """The error by hand lies above what the singular values allow: a better solver may find less."""
    found = run(Fixed(([chain(2, 2)],), bound=10.0))
    (trial,) = found.trials
    assert trial.bound < trial.rse
    assert found.bound == GOAL.score(trial.structure, trial.bound)
    assert found.ending is Ending.FINISHED


@pytest.mark.parametrize("seed", range(4))
def test_proven_is_not_beaten_by_the_whole_space(seed):
    """Only one structure has 6 parameters; one sweep of truncations does not find its best cores."""
    x = np.random.default_rng(seed).standard_normal((2, 2, 2))
    found = search(x, max_params=6, rng=0)
    least = min(
        tnet.cp(x, 1, init="random", rng=k).error ** 2 for k in range(8)
    )  # the only structure of 6 parameters
    assert found.bound <= least + 1e-12
    assert found.ending is not Ending.PROVEN or found.best.rse <= least * (1 + 1e-6)


@pytest.mark.parametrize(
    ("budget", "ending", "evaluations"),
    [
        (Budget(evaluations=3), Ending.EVALUATIONS, 3),
        (Budget(patience=4), Ending.PATIENCE, 6),
        (Budget(seconds=1e-9), Ending.SECONDS, 1),
        (Budget(), Ending.FINISHED, 9),
    ],
)
def test_budgets_are_ceilings(budget, ending, evaluations):
    every = [chain(a, b) for a, b in itertools.product((1, 2, 3), repeat=2)]
    found = run(Fixed(tuple([one] for one in every)), budget=budget)
    assert (found.ending, found.evaluations) == (ending, evaluations)
    at_once = run(Fixed((every,)), budget=Budget(evaluations=3))
    assert (at_once.ending, at_once.evaluations) == (Ending.EVALUATIONS, 3)
    many = [chain(a, b) for a, b in itertools.product(range(1, 4), repeat=2)] * 10
    cut_short = run(Fixed((many,)), budget=Budget(patience=4))
    assert cut_short.ending is Ending.PATIENCE
    assert cut_short.evaluations < len(many)


def test_bounds_prune_only_where_the_algorithm_allows():
    dear = Structure(SHAPE, ((0, 1, 3), (0, 2, 3), (1, 2, 3)))  # larger than the best score by itself
    rounds = ([chain(1, 1)], [dear])
    assert run(Fixed(rounds)).trials[1].status == "evaluated"
    pruned = run(Fixed(rounds, prunes=True))
    assert pruned.trials[1].status == "pruned"
    assert (pruned.evaluations, pruned.n_pruned) == (1, 1)


def test_a_trial_that_raises_costs_only_itself():
    rounds = ([chain(1, 2), chain(2, 2), chain(2, 1)],)
    found = run(Fixed(rounds), solver=Hand(wrong=(chain(2, 2),)))
    assert [trial.status for trial in found.trials] == ["evaluated", "failed", "evaluated"]
    assert "this structure always fails" in found.trials[1].message
    assert (found.n_failed, found.evaluations) == (1, 3)
    with pytest.raises(WorkerError, match="always fails"):
        run(Fixed(([chain(2, 2)],)), solver=Hand(wrong=(chain(2, 2),)))


@dataclass(frozen=True)
class Careless(Hand):
    """Answers wrongly wherever more than one bond is there."""

    how: str = "nan"

    def solve(self, x, loss, starts):
        right = super().solve(x, loss, starts)
        if all(len(one.structure.bonds) < 2 for one in right):
            return right
        changes = {
            "nan": {"rse": math.nan}, "negative": {"rse": -1.0}, "coreless": {"cores": None},
            "shapes": {"cores": (np.ones(3),)}, "other": {"structure": chain(3, 3)},
        }  # fmt: skip
        if self.how in changes:
            return [replace(one, **changes[self.how]) for one in right]
        return None if self.how == "nothing" else right[:-1]


@pytest.mark.parametrize("how", ["nan", "negative", "coreless", "shapes", "other", "nothing", "few"])
def test_an_answer_that_is_none_is_a_failed_trial(how):
    found = run(Fixed(([chain(2, 2), chain(1, 2)], [chain(2, 1)])), solver=Careless(how=how))
    assert [trial.status for trial in found.trials] == ["failed", "evaluated", "evaluated"]
    assert math.isfinite(found.best.score)
    assert found.trials[0].message


@pytest.mark.parametrize("algorithm", ["auto", "trees"])
@pytest.mark.parametrize(
    ("goal", "space"),
    [
        (FewestParams(1e-6), SearchSpace("ranks", 2, ((0, 1), (1, 2)))),
        (FewestParams(1e-6), SearchSpace("ranks", 2, ((0, 2),))),
        (FewestParams(1e-6), SearchSpace("trees", 1)),
        (LeastError(3), SearchSpace("free", 2)),
        (LeastError(30), SearchSpace("free", 3, max_width=1.0, fixed=((0, 1, 2),))),
    ],
)
def test_where_nothing_does_the_best_there_is_comes_back(algorithm, goal, space):
    found = search(X, objective=goal, algorithm=algorithm, space=space, rng=0)
    assert space.allows(found.best.structure)
    assert found.feasible == (found.best.score < 1)


def test_an_algorithm_that_asks_for_nothing_gets_the_smallest_structure():
    found = run(Fixed(()), space=SearchSpace("free", 3, fixed=((0, 2, 2),)))
    assert [trial.structure for trial in found.trials] == [Structure(SHAPE, ((0, 2, 2),))]


def test_a_trial_that_never_ends_fails_in_time():
    rounds = ([chain(1, 2), chain(2, 2)],)
    found = run(Fixed(rounds), solver=Hand(slow=(chain(2, 2),)), budget=Budget(trial_seconds=0.2))
    assert [trial.status for trial in found.trials] == ["evaluated", "failed"]
    assert "trial_seconds=0.2" in found.trials[1].message


def test_it_resumes_as_if_it_had_never_ended(tmp_path):
    every = tuple([chain(a, b), chain(b, a)] for a, b in itertools.product((1, 2, 3), repeat=2))
    whole = run(Fixed(every))
    for evaluations in (3, 7):
        run(Fixed(every), budget=Budget(evaluations=evaluations), resume=tmp_path / "log")
    with open(tmp_path / "log" / "trials.jsonl", "ab") as file:
        file.write(b'{"half a li')  # killed while writing
    again = run(Fixed(every), resume=tmp_path / "log")

    def told(found):
        return [(t.number, t.structure, t.rse, t.score, t.status) for t in found.trials]

    assert told(again) == told(whole)
    assert again.best.structure == whole.best.structure
    assert np.array_equal(again.best.network.to_dense(), whole.best.network.to_dense())
    lines = (tmp_path / "log" / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(len(whole.trials)))


def test_two_searches_at_once_do_not_mix_their_logs(tmp_path):
    every = tuple([chain(a, b)] for a, b in itertools.product((1, 2, 3), repeat=2))
    folder = tmp_path / "log"

    def other(trial, best):
        if trial.number == 2:
            run(Fixed(every), resume=folder, budget=Budget(evaluations=5))

    with pytest.raises(InputError, match="at the same time"):
        run(Fixed(every), resume=folder, callback=other)
    log = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert [line["number"] for line in log] == list(range(5))
    assert run(Fixed(every), resume=folder).evaluations == len(every)


def test_cores_that_are_damaged_are_made_again(tmp_path):
    rounds = ([chain(1, 2), chain(2, 2)],)
    first = run(Fixed(rounds), resume=tmp_path / "log")
    files = sorted((tmp_path / "log").glob("trial-*.safetensors"))
    for file in files:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.warns(UserWarning, match="damaged"):
        again = run(Fixed(rounds), resume=tmp_path / "log")
    assert again.best.structure == first.best.structure
    assert [trial.score for trial in again.trials] == [trial.score for trial in first.trials]
    assert sorted((tmp_path / "log").glob("trial-*.safetensors")) == files
    run(Fixed(rounds), resume=tmp_path / "log")  # whole again: no warning


def test_a_fresh_seed_is_kept_in_the_log(tmp_path):
    first = run(Fixed(([chain(1, 2)],)), rng=None, resume=tmp_path / "log")
    assert run(Fixed(([chain(1, 2)],)), rng=None, resume=tmp_path / "log").rng_seed == first.rng_seed


def test_a_log_of_another_search_is_refused(tmp_path):
    rounds = ([chain(1, 2)], [chain(2, 2)])
    run(Fixed(rounds), resume=tmp_path / "log")
    for other in ({"objective": SizeAndError(2.0)}, {"rng": 1}, {"space": SearchSpace("free", 2)}):
        with pytest.raises(InputError):
            run(Fixed(rounds), resume=tmp_path / "log", **other)
    with pytest.raises(InputError):
        search(
            X + 1, algorithm=Fixed(rounds), objective=GOAL, space=SPACE, solver=Hand(), rng=0, resume=tmp_path / "log"
        )
    log = tmp_path / "log" / "trials.jsonl"
    log.write_text(log.read_text().replace('"rank', '"rang').replace("evaluated", "dreamt"))
    with pytest.raises(FormatError, match="line 1"):
        run(Fixed(rounds), resume=tmp_path / "log")


def test_another_question_than_the_log_has_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Changing:
        def propose(self, problem, rng):
            yield [chain(*asked)]

    asked = (1, 2)
    run(Changing(), resume=tmp_path / "log")
    asked = (2, 1)
    with pytest.raises(InputError, match="trial 0"):
        run(Changing(), resume=tmp_path / "log")


def test_ctrl_c_returns_the_best_so_far():
    def stop(trial, best):
        if trial.number == 2:
            raise KeyboardInterrupt

    rounds = tuple([chain(a, b)] for a, b in itertools.product((1, 2, 3), repeat=2))
    found = run(Fixed(rounds), callback=stop)
    assert found.ending is Ending.INTERRUPTED
    assert len(found.trials) == 3


def test_cores_of_an_algorithm_reach_the_solver_and_those_known_come_back():
    seen = []

    @dataclass(frozen=True)
    class Watching(Hand):
        def solve(self, x, loss, starts):
            seen.extend((start.structure, start.warm) for start in starts)
            return super().solve(x, loss, starts)

    star = Structure(SHAPE, ((0, 3, 2), (1, 3, 2), (2, 3, 3)), 1)

    @dataclass(frozen=True)
    class Knowing:
        def propose(self, problem, rng):
            yield [Candidate(star, tuple(np.full(shape, 2.0) for shape in star.core_shapes))]
            known = problem.cores(star)
            assert tuple(core.shape for core in known) == star.core_shapes
            assert problem.cores(chain(2, 2)) is None

    run(Knowing(), space=SearchSpace("free", 3, n_internal=1), solver=Watching())
    assert seen[0][0] == star
    assert all(np.array_equal(core, np.full(core.shape, 2.0)) for core in seen[0][1])


def test_workers_change_nothing():
    rounds = ([chain(a, b) for a, b in itertools.product((1, 2, 3), repeat=2)],)
    here, there = run(Fixed(rounds)), run(Fixed(rounds), executor=2)
    assert [trial.score for trial in here.trials] == [trial.score for trial in there.trials]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"x": np.ones(5)}, InputError),
        ({"x": np.ones((3, 0))}, InputError),
        ({"x": np.zeros((3, 3))}, InputError),
        ({"x": np.full((3, 3), np.nan)}, InputError),
        ({"x": np.ones((3, 3), dtype=int)}, BackendError),
        ({"objective": None}, InputError),
        ({"rtol": 0.1}, InputError),
        ({"algorithm": "guess"}, InputError),
        ({"mask": np.ones((2, 2), dtype=bool)}, InputError),
        ({"space": SearchSpace("ranks", 2, ((0, 7),))}, InputError),
        ({"space": "ring"}, InputError),
        ({"objective": "size"}, InputError),
        ({"algorithm": 7}, InputError),
        ({"solver": "als"}, InputError),
        ({"budget": 5}, InputError),
        ({"budget": Budget}, InputError),
        ({"space": SearchSpace}, InputError),
        ({"objective": SizeAndError}, InputError),
        ({"callback": 5}, InputError),
        ({"resume": 5}, InputError),
        ({"loss": "rse"}, InputError),
        ({"mask": np.zeros((3, 3), dtype=bool)}, InputError),
        ({"loss": WeightedError(np.full((3, 3), np.nan), 1)}, InputError),
        ({"loss": WeightedError(np.eye(3), "1")}, InputError),  # type: ignore[arg-type]
        ({"loss": DifferentiableLoss(np.sum)}, BackendError),
    ],
)
def test_bad_input_is_refused(options, error):
    given = {"x": np.ones((3, 3)), "objective": GOAL, "algorithm": Fixed(()), "solver": Hand(), "rng": 0} | options
    with pytest.raises(error):
        search(given.pop("x"), **given)


def test_numbers_of_numpy_are_numbers():
    budget = Budget(evaluations=np.int64(3), seconds=np.float32(9), patience=np.int32(2))  # type: ignore[arg-type]
    assert budget == Budget(evaluations=3, seconds=9.0, patience=2)
    found = run(Fixed(([chain(1, 1)],)), objective=None, max_params=np.int64(9))
    assert found.best.score == run(Fixed(([chain(1, 1)],)), objective=None, max_params=9).best.score
    assert run(Fixed(([chain(1, 1)],)), objective=None, rtol=np.float32(0.5)).feasible is False


@pytest.mark.parametrize(
    "options",
    [{"evaluations": 0}, {"patience": 0}, {"seconds": 0}, {"trial_seconds": math.nan}, {"evaluations": 1.5}],
)
def test_budgets_of_zero_are_refused(options):
    with pytest.raises(InputError):
        Budget(**options)


def test_trial_seconds_in_a_thread_are_refused_not_ignored():
    with ThreadPoolExecutor(1) as pool, pytest.raises(WorkerError, match=r"trial_seconds=0\.1 is kept by a signal"):
        run(Fixed(([chain(2, 2)],)), executor=pool, budget=Budget(trial_seconds=0.1))


def test_workers_are_started_once(monkeypatch):
    made = []

    def counted(*args, **options):
        made.append(args)
        return ProcessPoolExecutor(*args, **options)

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", counted)
    found = run(Fixed(([chain(2, 2)], [chain(1, 2)], [chain(2, 1)])), executor=1)
    assert found.evaluations == 3
    assert len(made) == 1


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "not Hermitian"),
        (-np.eye(2), "negative eigenvalues"),
        (np.array([[1.0, 1j], [-1j, 1.0]]), "complex and x is real"),
    ],
)
def test_weights_that_are_no_second_moments_are_refused(weight, message):
    x = np.random.default_rng(0).standard_normal((3, 4, 2))
    with pytest.raises(InputError, match=message):
        search(x, rtol=0.1, loss=WeightedError(weight, 1), rng=0)


def test_a_loss_leaves_the_gradients_of_others_alone():
    torch = pytest.importorskip("torch")
    x = torch.randn(3, 4, dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = DifferentiableLoss(lambda y: scale * torch.sum((y - x) ** 2))
    search(x, max_params=20, loss=loss, rng=0, budget=Budget(evaluations=2))
    assert scale.grad is None


def test_seconds_that_are_none_are_refused():
    with pytest.raises(InputError, match="must return a number of seconds"):
        search(X, objective=LatencyAndError(1.0, lambda structure: math.nan), rng=0)


def test_internal_cores_that_are_not_used_do_not_count_in_the_certificate():
    x = np.random.default_rng(3).standard_normal((3, 4, 2))
    found = search(x, objective=SizeAndError(5.0), space=SearchSpace(max_rank=1, n_internal=1), rng=0)
    (trial,) = found.trials
    assert trial.bound < trial.rse
    assert found.bound == pytest.approx(9 / 24 + 5.0 * trial.bound)
    assert found.ending is Ending.FINISHED
