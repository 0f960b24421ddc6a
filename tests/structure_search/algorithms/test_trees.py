"""TreeSearch: finds planted trees and proves them, keeps to budgets, fixed bonds, templates and shapes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import tnet
from tests.structure_search.trees.random_trees import planted, random_tree
from tests.structure_search.trees.test_topology import all_trees
from tnet.errors import InputError
from tnet.structure_search.algorithms.tree_guide import TreeGuide
from tnet.structure_search.algorithms.trees import TreeSearch
from tnet.structure_search.evaluate.tree_svd import TreeSVD
from tnet.structure_search.losses import MaskedError, SquaredError
from tnet.structure_search.objective import FewestParams, LatencyAndError, LeastError, Objective, SizeAndError
from tnet.structure_search.proposals import Problem, Start
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.spectra import cut_spectra
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Trial


def hunt(
    x: np.ndarray, objective: Objective, space: SearchSpace, algorithm: TreeSearch | None = None
) -> tuple[list[Trial], float | None]:
    """Answer with the errors of TreeSVD; return all trials and the bound."""
    problem = Problem(x, SquaredError(), objective, space, lambda s: np.zeros(len(s)), cut_spectra(x))
    dialogue = (algorithm or TreeSearch()).propose(problem, np.random.default_rng(0))
    trials: list[Trial] = []
    answers: list[Trial] | None = None
    try:
        while True:
            asked = next(dialogue) if answers is None else dialogue.send(answers)
            answers = []
            for structure in asked:
                assert isinstance(structure, Structure)
                rse = TreeSVD().solve(x, SquaredError(), [Start(structure, 0)])[0].rse
                answers.append(Trial(len(trials), structure, rse, objective.score(structure, rse)))
                trials.append(answers[-1])
    except StopIteration as end:
        return trials, end.value


def best(trials: list[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.score)


def natural(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return a sum of smooth functions of neighbouring coordinates: singular values fall fast on every cut."""
    rng = np.random.default_rng(seed)
    places = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    x = sum(1 / (0.3 + rng.random() * a + rng.random() * b) for a, b in itertools.pairwise(places))
    return np.asarray(x) + 0.02 * rng.standard_normal(shape)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n_modes", "n_internal"), [(4, 1), (5, 0), (6, 2)])
def test_planted_tree_is_found_and_proven(n_modes: int, n_internal: int, seed: int) -> None:
    structure = random_tree(np.random.default_rng(seed), n_modes, n_internal)
    x = planted(np.random.default_rng(seed), structure)
    space = SearchSpace("trees", max_rank=6, n_internal=n_modes - 2)
    trials, bound = hunt(x, FewestParams(1e-5), space)
    found = best(trials)
    assert found.rse <= 1e-10
    assert found.structure.n_params <= structure.canonical().n_params
    assert bound == pytest.approx(found.score, rel=1e-12)


def test_bound_is_below_every_tree_and_met_by_one() -> None:
    x = natural((3, 2, 3, 2))
    space = SearchSpace("trees", max_rank=3, n_internal=1)
    every: list[Structure] = []
    for n_internal in (0, 1):
        for tree in all_trees(x.shape, n_internal):
            for ranks in itertools.product((1, 2, 3), repeat=len(tree.bonds)):
                structure = tree.structure(ranks).canonical()
                if space.allows(structure):
                    every.append(structure)
    every = list(dict.fromkeys(every))
    errors = [e.rse for e in TreeSVD().solve(x, SquaredError(), [Start(s, 0) for s in every])]
    for objective in (FewestParams(0.2), LeastError(20), SizeAndError(3.0), SizeAndError(3.0, "log")):
        bound = TreeGuide(cut_spectra(x), objective, space, None).bound()
        least = min(objective.score(s, rse) for s, rse in zip(every, errors, strict=True))
        assert bound is not None
        assert bound <= least
        trials, told = hunt(x, objective, space)
        assert told == bound
        assert best(trials).score <= least * (1.1 if least > 0 else 0.9)


def test_fewer_parameters_than_trains_and_hierarchical_tucker() -> None:
    x = natural((4,) * 6)
    trials, _ = hunt(x, FewestParams(0.05), SearchSpace("trees", max_rank=16, n_internal=4))
    found = best(trials)
    assert math.sqrt(found.rse) <= 0.05
    assert found.structure.n_params < tnet.tt(x, rtol=0.05).tensor.n_params
    assert found.structure.n_params < tnet.ht(x, rtol=0.05).tensor.n_params


@pytest.mark.parametrize("most", [30, 60, 120])
def test_parameters_stay_within_the_budget(most: int) -> None:
    x = natural((4, 4, 4, 4))
    trials, bound = hunt(x, LeastError(most), SearchSpace("trees", max_rank=8, n_internal=2))
    found = best(trials)
    assert found.structure.n_params <= most
    assert bound is not None
    assert bound <= found.rse
    plain = Structure(x.shape, ((0, 1, 2), (1, 2, 2), (2, 3, 2)))  # 48 parameters
    if most >= plain.n_params:
        assert found.rse <= TreeSVD().solve(x, SquaredError(), [Start(plain, 0)])[0].rse


def test_internal_cores_are_no_more_than_allowed() -> None:
    x = natural((3,) * 5)
    for allowed in (0, 1):
        trials, _ = hunt(x, FewestParams(0.05), SearchSpace("trees", max_rank=9, n_internal=allowed))
        assert trials
        assert max(trial.structure.n_internal for trial in trials) <= allowed


def test_degree_and_fixed_bond_are_kept() -> None:
    x = natural((3,) * 5)
    trials, _ = hunt(x, FewestParams(0.05), SearchSpace("trees", max_rank=9, max_degree=2, fixed=((0, 4, 3),)))
    assert trials
    for trial in trials:
        assert trial.structure.rank(0, 4) == 3
        assert all(trial.structure.degree(core) <= 2 for core in range(5))


@pytest.mark.parametrize("space", [SearchSpace.train(4, permuted=False), SearchSpace.train(4), SearchSpace.ring(4)])
def test_templates_give_trees_within_them(space: SearchSpace) -> None:
    x = natural((3, 4, 3, 4))
    trials, bound = hunt(x, FewestParams(0.05), space)
    assert bound is None
    assert math.sqrt(best(trials).rse) <= 0.05
    assert all(space.allows(trial.structure) for trial in trials)


def test_planted_order_of_a_train_is_found() -> None:
    rng = np.random.default_rng(0)
    structure = Structure((3, 4, 3, 4, 3), ((0, 3, 2), (1, 3, 2), (1, 4, 3), (2, 4, 2)))
    trials, _ = hunt(planted(rng, structure), FewestParams(1e-5), SearchSpace.train(5, max_rank=4))
    assert best(trials).structure == structure


def test_other_shapes_are_searched() -> None:
    x = np.kron(natural((4, 4)), np.ones((3, 3))).reshape(12, 12)
    space = SearchSpace("trees", max_rank=12, reshapes=((4, 3, 4, 3),))
    trials, _ = hunt(x, FewestParams(1e-5), space)
    assert best(trials).structure.shape == (4, 3, 4, 3)
    assert {trial.structure.shape for trial in trials} == {(12, 12), (4, 3, 4, 3)}


def test_any_objective_gets_trees_of_all_sizes() -> None:
    x = natural((4, 4, 4))
    objective = LatencyAndError(100.0, lambda structure: float(structure.n_params))
    trials, bound = hunt(x, objective, SearchSpace("trees", max_rank=8, n_internal=1), TreeSearch(n_draws=1))
    assert bound is None
    product = Structure(x.shape)
    (alone,) = TreeSVD().solve(x, SquaredError(), [Start(product, 0)])
    assert best(trials).score <= objective.score(product, alone.rse)


def test_the_same_answers_give_the_same_questions() -> None:
    x = natural((3, 3, 3, 3))
    space = SearchSpace("trees", max_rank=8, n_internal=1)
    first, second = (hunt(x, FewestParams(0.03), space)[0] for _ in range(2))
    assert [trial.structure for trial in first] == [trial.structure for trial in second]
    assert len({trial.structure for trial in first}) == len(first)


def test_thirteen_modes_are_searched_along_their_order() -> None:
    rng = np.random.default_rng(1)
    bonds = tuple((k, k + 1, 2) for k in range(12))
    x = planted(rng, Structure((2,) * 13, bonds))
    trials, bound = hunt(
        x, FewestParams(1e-4), SearchSpace("trees", max_rank=4), TreeSearch(slacks=(1.0,), n_draws=0)
    )
    assert bound is None
    assert best(trials).structure.bonds == bonds


def test_failed_evaluations_do_not_end_the_dialogue() -> None:
    x = natural((3, 3, 3))
    objective = FewestParams(0.05)
    problem = Problem(x, SquaredError(), objective, SearchSpace(max_rank=4), lambda s: np.zeros(len(s)))
    dialogue = TreeSearch().propose(problem, np.random.default_rng(0))
    asked, ended = next(dialogue), False
    for _ in range(100):
        try:
            asked = dialogue.send(
                [Trial(0, s, math.inf, math.inf, status="failed") for s in asked if isinstance(s, Structure)]
            )
        except StopIteration:
            ended = True
            break
    assert ended


def test_bad_input() -> None:
    x = np.ones((2, 2))
    problem = Problem(x, MaskedError(x > 0), FewestParams(0.1), SearchSpace(), lambda s: np.zeros(len(s)))
    with pytest.raises(InputError, match="MaskedError"):
        next(TreeSearch().propose(problem, np.random.default_rng(0)))
    for settings in ({"slacks": ()}, {"slacks": (0.5,)}, {"n_draws": -1}, {"noise": math.nan}, {"n_finalists": 0}):
        with pytest.raises(InputError, match=next(iter(settings))):
            TreeSearch(**settings)  # type: ignore[arg-type]
