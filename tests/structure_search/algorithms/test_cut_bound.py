"""Search on bounds: planted networks are found and proven, in every kind of space and for every objective."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tests.structure_search.algorithms.dialogues import talk
from tnet.errors import InputError
from tnet.structure_search.algorithms.branch_and_bound import all_below, least_score
from tnet.structure_search.algorithms.candidate_pool import CandidatePool
from tnet.structure_search.algorithms.cut_bound import CutBound
from tnet.structure_search.algorithms.error_model import ErrorModel, described
from tnet.structure_search.algorithms.landscape import Landscape
from tnet.structure_search.bounds import lower_bounds
from tnet.structure_search.budget import Budget
from tnet.structure_search.losses import MaskedError, SquaredError
from tnet.structure_search.objective import FewestParams, LatencyAndError, LeastError, Objective, SizeAndError
from tnet.structure_search.proposals import Problem
from tnet.structure_search.result import SearchResult
from tnet.structure_search.search import search
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.spectra import cut_spectra
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Trial

SHAPE = (3, 2, 3, 2)
RING = Structure(SHAPE, ((0, 2, 2), (0, 3, 2), (1, 2, 2), (1, 3, 2)))

OBJECTIVES: dict[str, Objective] = {
    "fewest parameters": FewestParams(0.3),
    "least error": LeastError(30),
    "size and error": SizeAndError(2.0),
    "logarithm of the size": SizeAndError(9.0, size="log", negligible=1e-3),
    "latency": LatencyAndError(1.0, lambda structure: structure.n_params / 100),
}

SPACES = {
    "free": SearchSpace(max_rank=3),
    "trees": SearchSpace("trees", max_rank=3),
    "internal core": SearchSpace(max_rank=2, n_internal=1),
    "ring": SearchSpace.ring(4, max_rank=3),
    "train in order": SearchSpace.train(4, max_rank=3, permuted=False),
    "fixed and narrow": SearchSpace(max_rank=3, fixed=((0, 2, 2),), max_degree=2, max_width=4.0),
}


def network_of(structure: Structure, seed: int, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = structure.to_network([rng.standard_normal(size) for size in structure.core_shapes]).to_dense()
    x = x / np.sqrt(np.mean(x**2))
    return x + noise * rng.standard_normal(x.shape)


def bounded(x: np.ndarray, space: SearchSpace, objective: Objective) -> Problem:
    spectra = cut_spectra(x)
    return Problem(x, SquaredError(), objective, space, lambda s: lower_bounds(spectra, s), spectra)


def every_structure(space: SearchSpace, shape: tuple[int, ...]) -> list[Structure]:
    """All of a tiny space, by plain enumeration."""
    pairs = space.pairs(len(shape))
    orders = itertools.permutations(range(len(shape))) if space.kind == "permutations" else [None]
    ranks = list(itertools.product(range(1, space.max_rank + 1), repeat=len(pairs)))
    found = {space.place(shape, r, order) for order in orders for r in ranks}
    return [structure for structure in found if space.allows(structure)]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("goal", OBJECTIVES)
def test_scores_of_arrays_are_those_of_structures(name: str, goal: str) -> None:
    asked = bounded(network_of(RING, 0, noise=0.3), SPACES[name], OBJECTIVES[goal])
    landscape = Landscape(asked)
    points = landscape.random(40, np.random.default_rng(1))
    structures = [landscape.structure(points, k) for k in range(points.count)]
    scored = landscape.scores(points)
    plain = [structure.canonical() for structure in structures]
    assert scored.bound == pytest.approx(asked.bound(structures), abs=1e-15)
    if asked.space.n_internal == 0:
        assert scored.n_params.tolist() == [structure.n_params for structure in plain]
        expected = [asked.objective.score(s, b) for s, b in zip(plain, scored.bound.tolist(), strict=True)]
        assert scored.score == pytest.approx(expected, rel=1e-12)
    assert landscape.allowed(points).all()


@pytest.mark.parametrize("name", SPACES)
def test_neighbours_are_of_the_space_and_not_the_point(name: str) -> None:
    space = SPACES[name]
    landscape = Landscape(bounded(network_of(RING, 0), space, SizeAndError(1.0)))
    points = landscape.random(5, np.random.default_rng(2))
    loose = SearchSpace(
        space.kind, space.max_rank, space.template, space.n_internal, space.max_degree, None, space.fixed
    )
    for place in range(points.count):
        near = landscape.neighbours(points, place)
        assert near.count
        assert all(loose.allows(landscape.structure(near, k)) for k in range(near.count))
        changed = (near.ranks != points.ranks[place]).any(axis=1) | (near.order != points.order[place]).any(axis=1)
        assert changed.all()


@pytest.mark.parametrize("name", [name for name in SPACES if name != "internal core"])
@pytest.mark.parametrize("goal", [name for name in OBJECTIVES if name != "latency"])
def test_branch_and_bound_lists_what_enumeration_lists(name: str, goal: str) -> None:
    asked = bounded(network_of(RING, 3, noise=0.3), SPACES[name], OBJECTIVES[goal])
    landscape = Landscape(asked)
    structures = every_structure(asked.space, SHAPE)
    scores = [asked.objective.score(s, b) for s, b in zip(structures, asked.bound(structures).tolist(), strict=True)]
    limit = float(np.quantile(scores, 0.1)) + 1e-9
    points = all_below(landscape, limit, max_nodes=10**6)
    assert points is not None
    listed = {landscape.structure(points, k) for k in range(points.count)}
    expected = {s for s, score in zip(structures, scores, strict=True) if score < limit}
    assert expected
    assert {s for s in listed if asked.space.allows(s)} == expected  # widths are looked at later
    least = least_score(landscape, limit)
    assert least is not None
    assert least <= min(scores) + 1e-12


def test_branch_and_bound_with_internal_cores_leaves_nothing_out() -> None:
    asked = bounded(network_of(RING, 3, noise=0.3), SPACES["internal core"], SizeAndError(2.0))
    landscape = Landscape(asked)
    structures = list({structure.canonical() for structure in every_structure(asked.space, SHAPE)})
    scores = [asked.objective.score(s, b) for s, b in zip(structures, asked.bound(structures).tolist(), strict=True)]
    limit = float(np.quantile(scores, 0.05)) + 1e-9
    points = all_below(landscape, limit, max_nodes=10**6)
    assert points is not None
    listed = {landscape.structure(points, k).canonical() for k in range(points.count)}
    assert {s for s, score in zip(structures, scores, strict=True) if score < limit} <= listed


def test_branch_and_bound_gives_up_rather_than_guess() -> None:
    free = bounded(network_of(RING, 3, noise=0.3), SPACES["free"], SizeAndError(2.0))
    assert all_below(Landscape(free), 10.0, max_nodes=10) is None
    latency = bounded(network_of(RING, 3, noise=0.3), SPACES["free"], OBJECTIVES["latency"])
    assert all_below(Landscape(latency), 10.0, max_nodes=10**6) is None
    assert least_score(Landscape(latency), 10.0) is None


def proven(result: SearchResult) -> bool:
    return result.gap is not None and result.gap < 1e-9


PLANTED = {
    "ring, permuted": RING,
    "train": Structure((3, 4, 3, 4), ((0, 2, 2), (1, 3, 3), (2, 3, 3))),
    "tree": Structure((3, 3, 3, 3, 3), ((0, 4, 2), (1, 4, 2), (2, 3, 3), (2, 4, 3))),
    "grid": Structure((3,) * 6, ((0, 1, 2), (0, 3, 2), (1, 2, 2), (1, 4, 2), (2, 5, 2), (3, 4, 2), (4, 5, 2))),
    "internal cores": Structure((3, 3, 3, 3), ((0, 4, 2), (1, 4, 2), (2, 5, 2), (3, 5, 2), (4, 5, 2)), 2),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_networks_are_found_and_proven(name: str) -> None:
    planted = PLANTED[name]
    space = SearchSpace(max_rank=4, n_internal=planted.n_internal)
    result = search(network_of(planted, 4), rtol=1e-4, space=space, algorithm=CutBound(effort=1), rng=0)
    assert result.best.n_params <= planted.n_params
    assert result.best.rse <= 1e-8
    if name == "train":  # a smaller structure with loops passes all cuts: that it fails, only its evaluation says
        assert result.gap is not None
        assert 0 < result.gap < 0.2
    else:
        assert proven(result)
    assert result.evaluations < 30


@pytest.mark.parametrize(
    ("name", "goal"),
    [pair for pair in itertools.product(SPACES, OBJECTIVES) if pair[1] != "latency" or pair[0] in ("free", "trees")],
)
def test_every_space_and_objective(name: str, goal: str) -> None:
    """Where the proof closes, nothing of the space scores less than the least by the bounds."""
    x = network_of(RING, 5, noise=0.3)
    asked = bounded(x, SPACES[name], OBJECTIVES[goal])

    def error(structure: Structure) -> float:
        return min(1.0, 1.3 * float(asked.bound([structure])[0]) + 1e-3)

    told, ended = talk(CutBound(patience=16, effort=1), asked, error)
    assert ended
    scores = [asked.objective.score(s, error(s)) for s in every_structure(asked.space, SHAPE)]
    found = min(trial.score for batch in told for trial in batch)
    exact = goal != "latency"  # of which nothing can be proven
    assert found <= (min(scores) * (1.0 + 1e-9) if exact else np.quantile(scores, 0.02))
    assert all(asked.space.allows(trial.structure) for batch in told for trial in batch)


def test_the_certificate_is_true() -> None:
    """The value that the dialogue returns bounds all structures that it did not ask for."""
    x = network_of(RING, 6, noise=0.3)
    for goal in ("fewest parameters", "size and error", "least error"):
        asked = bounded(x, SPACES["free"], OBJECTIVES[goal])
        dialogue = CutBound(patience=4, max_nodes=2000).propose(asked, np.random.default_rng(0))
        told, value, batch = set(), None, next(dialogue)
        try:
            while True:
                told.update(s for s in batch if isinstance(s, Structure))
                answers = []
                for structure in (s for s in batch if isinstance(s, Structure)):
                    rse = min(1.0, 2 * float(asked.bound([structure])[0]))
                    answers.append(Trial(len(told), structure, rse, asked.objective.score(structure, rse)))
                batch = dialogue.send(answers)
        except StopIteration as end:
            value = end.value
        assert value is not None
        others = [s for s in every_structure(asked.space, SHAPE) if s not in told]
        bounds = asked.bound(others).tolist()
        least = min(asked.objective.score(s, b) for s, b in zip(others, bounds, strict=True))
        best = min(asked.objective.score(s, min(1.0, 2 * float(asked.bound([s])[0]))) for s in told)
        assert value <= min(least, best) + 1e-12


def test_other_shapes_are_searched_as_well() -> None:
    planted = Structure((4, 9, 5), ((0, 1, 2), (1, 2, 2)))
    x = network_of(planted, 7).reshape(4, 3, 3, 5)
    space = SearchSpace(max_rank=6, reshapes=((4, 9, 5),))
    result = search(x, rtol=1e-6, space=space, algorithm=CutBound(), rng=0)
    assert result.best.structure.shape in ((4, 9, 5), (4, 3, 3, 5))
    assert {trial.structure.shape for trial in result.trials} == {(4, 9, 5), (4, 3, 3, 5)}
    assert result.best.n_params <= planted.n_params


def test_without_spectra_it_follows_the_model() -> None:
    planted = Structure((4, 3, 4, 3), ((0, 1, 2), (0, 3, 2), (1, 2, 2), (2, 3, 2)))
    x = network_of(planted, 8)
    mask = np.random.default_rng(9).random(x.shape) < 0.8
    asked = Problem(
        x, MaskedError(mask), SizeAndError(5.0), SearchSpace(max_rank=3), lambda s: np.zeros(len(s)), None
    )

    def error(structure: Structure) -> float:
        missing = sum(max(0, rank - structure.rank(i, j)) for i, j, rank in planted.bonds)
        return 1 - math.exp(-0.3 * missing)

    told, ended = talk(CutBound(patience=64), asked, error, batches=400)
    assert ended
    found = min((trial for batch in told for trial in batch), key=lambda trial: trial.score)
    assert found.score <= asked.objective.score(planted, 0.0)


def test_budgets_and_seeds() -> None:
    x = network_of(RING, 10, noise=0.3)
    goal, algorithm = SizeAndError(3.0), CutBound(effort=1)
    several = search(x, objective=goal, algorithm=algorithm, rng=0)
    few = search(x, objective=goal, algorithm=algorithm, budget=Budget(evaluations=1), rng=0)
    assert few.evaluations == 1 < several.evaluations
    assert [trial.structure for trial in few.trials] == [
        trial.structure for trial in several.trials[: len(few.trials)]
    ]


def test_what_was_refuted_is_believed_of_its_parts() -> None:
    pool = CandidatePool(Landscape(bounded(network_of(RING, 11), SPACES["free"], FewestParams(1e-4))))
    landscape = pool.landscape
    pool.add(landscape.points(np.array([[2, 2, 1, 1, 2, 1], [3, 2, 1, 1, 2, 2], [1, 1, 3, 1, 1, 1]])), math.inf)
    whole = pool.place(landscape.points(np.array([[3, 2, 1, 1, 2, 2]])))
    part = pool.place(landscape.points(np.array([[2, 2, 1, 1, 2, 1]])))
    pool.learn(whole, 0.9)
    assert pool.believed_rse[part] == pytest.approx(0.9, rel=1e-2)
    pool.add(landscape.points(np.array([[1, 2, 1, 1, 2, 1]])), math.inf)
    assert pool.believed_rse[-1] == pytest.approx(0.9, rel=1e-2)
    assert pool.believed_rse[pool.place(landscape.points(np.array([[1, 1, 3, 1, 1, 1]])))] < 0.9


def test_the_model_learns_a_law_of_the_size() -> None:
    rng = np.random.default_rng(12)
    ranks = rng.integers(1, 4, (60, 6))
    sizes = rng.uniform(10, 1000, 60)
    rows = described(sizes, np.zeros((60, 0)), ranks)
    model = ErrorModel()
    for row, size in zip(rows[:40], sizes[:40].tolist(), strict=True):
        model.learn(row, min(1.0, 5 / size))
    model.learn(rows[0], math.inf)  # a failure teaches nothing
    assert model.predict(rows[40:]) == pytest.approx(np.minimum(1.0, 5 / sizes[40:]), rel=0.35)


@pytest.mark.parametrize("setting", ["batch", "patience", "max_nodes", "effort"])
def test_bad_settings(setting: str) -> None:
    for value in (0, -1, 1.5, True):
        with pytest.raises(InputError, match=setting):
            CutBound(**{setting: value})  # pyright: ignore[reportArgumentType]
