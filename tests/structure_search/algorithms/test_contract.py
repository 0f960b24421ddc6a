"""What every algorithm keeps to, whatever it does; a new one is tested by one line of the registry."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests.structure_search.algorithms.dialogues import best, missing_ranks, problem, talk
from tnet.structure_search.algorithms.cut_bound import CutBound
from tnet.structure_search.algorithms.greedy import GreedyTN
from tnet.structure_search.algorithms.sampler import Sampler
from tnet.structure_search.algorithms.svdinstn import SVDinsTN
from tnet.structure_search.algorithms.tnale import TnALE
from tnet.structure_search.algorithms.tnga import TNGA
from tnet.structure_search.algorithms.tnls import TNLS
from tnet.structure_search.algorithms.trees import TreeSearch
from tnet.structure_search.objective import FewestParams, LeastError, SizeAndError
from tnet.structure_search.proposals import Algorithm
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure


def near_the_best(history, fitness, best, n, iteration, max_iterations, hyperparameters):
    rng = hyperparameters["rng"]
    return [np.asarray(best) + rng.integers(-1, 2, len(best)) for _ in range(n)]


ALGORITHMS: dict[str, Algorithm] = {
    "TnALE": TnALE(),
    "TnALE without an initial phase": TnALE(initial_rounds=0, round_trips=2, patience=2),
    "TNLS": TNLS(n_samples=20, distance=2),
    "TNGA": TNGA(population=20, generations=8),
    "TNGA binary": dataclasses.replace(TNGA.binary(2), generations=8),
    "GreedyTN": GreedyTN(),
    "GreedyTN per parameter": GreedyTN(choice="loss_per_parameter"),
    "SVDinsTN": SVDinsTN(weights=(1e-2, 0.1), max_iter=3),
    "TreeSearch": TreeSearch(n_draws=2),
    "Sampler": Sampler(near_the_best, n_samples=20, max_iterations=8),
    "CutBound": CutBound(patience=16),
}

SPACES = {
    "free": (SearchSpace(max_rank=3), (3, 2, 4, 3)),
    "free with internal cores": (SearchSpace(max_rank=3, n_internal=2, max_degree=3), (2, 3, 2)),
    "fixed bond": (SearchSpace(max_rank=4, fixed=((0, 2, 3),)), (3, 3, 3)),
    "narrow": (SearchSpace(max_rank=4, max_degree=2, max_width=4.0), (2, 3, 2, 3, 2)),
    "ring": (SearchSpace.ring(5, max_rank=4), (2, 3, 4, 3, 2)),
    "train in order": (SearchSpace.train(5, max_rank=3, permuted=False), (3, 2, 3, 2, 3)),
    "trees": (SearchSpace("trees", max_rank=3, n_internal=1), (3, 3, 3, 3)),
    "two modes": (SearchSpace(max_rank=5), (4, 6)),
    "two modes, a ring": (SearchSpace.ring(2, max_rank=2), (4, 6)),
    "one structure": (SearchSpace(max_rank=1), (3, 3, 3)),
    "all bonds fixed": (SearchSpace("ranks", 3, ((0, 1), (1, 2)), fixed=((0, 1, 2), (1, 2, 3))), (3, 3, 3)),
}


def applies(algorithm: Algorithm, space: SearchSpace) -> bool:
    """Samplers give no orders; bonds of one rank need a space that has it."""
    if isinstance(algorithm, TNGA) and algorithm.rank is not None:
        return algorithm.rank <= space.max_rank
    return not (isinstance(algorithm, Sampler) and space.kind == "permutations")


EACH = pytest.mark.parametrize("name", ALGORITHMS)
EACH_IN_EVERY_SPACE = pytest.mark.parametrize(
    ("name", "where"),
    [(name, where) for name in ALGORITHMS for where in SPACES if applies(ALGORITHMS[name], SPACES[where][0])],
)


def planted(shape: tuple[int, ...], space: SearchSpace) -> Structure:
    return space.random(shape, np.random.default_rng(3))


@EACH_IN_EVERY_SPACE
def test_proposals_are_structures_of_the_space(name: str, where: str) -> None:
    algorithm, (space, shape) = ALGORITHMS[name], SPACES[where]
    told, _ = talk(algorithm, problem(space, shape), missing_ranks(planted(shape, space)), batches=60)
    assert told
    for batch in told:
        assert batch, "an empty list was asked"
        for trial in batch:
            assert trial.structure.shape == shape
            assert space.allows(trial.structure), trial.structure


@EACH_IN_EVERY_SPACE
def test_the_same_seed_gives_the_same_questions(name: str, where: str) -> None:
    algorithm, (space, shape) = ALGORITHMS[name], SPACES[where]
    error = missing_ranks(planted(shape, space))
    twice = [talk(algorithm, problem(space, shape), error, seed=5, batches=40) for _ in range(2)]
    assert [[trial.structure for trial in batch] for batch in twice[0][0]] == [
        [trial.structure for trial in batch] for batch in twice[1][0]
    ]
    assert twice[0][1] == twice[1][1]


@pytest.mark.parametrize(
    "goal", [SizeAndError(5.0), FewestParams(0.1), LeastError(30)], ids=lambda g: type(g).__name__
)
@EACH
def test_failed_trials_do_not_stop_it(name: str, goal) -> None:
    algorithm = ALGORITHMS[name]
    space, shape = SPACES["free"]
    told, ended = talk(algorithm, problem(space, shape, objective=goal), lambda structure: math.inf, batches=30)
    assert told
    assert ended or len(told) == 30
    # Every third fails; all that is asked is still of the space.
    count = iter(range(10**6))
    error = missing_ranks(planted(shape, space))
    told, _ = talk(
        algorithm,
        problem(space, shape, objective=goal),
        lambda structure: math.inf if next(count) % 3 == 0 else error(structure),
        batches=30,
    )
    assert all(space.allows(trial.structure) for batch in told for trial in batch)


@EACH
def test_it_gains_on_its_first_structures(name: str) -> None:
    algorithm = ALGORITHMS[name]
    space, shape = SearchSpace(max_rank=3), (3, 3, 3, 3)
    rng = np.random.default_rng(1)
    a, b, c, d = (rng.standard_normal((3, 2, 2)) for _ in range(4))
    x = np.einsum("iab,jbc,kcd,lda->ijkl", a, b, c, d)
    error = missing_ranks(Structure(shape, ((0, 1, 2), (0, 3, 2), (1, 2, 2), (2, 3, 2))))
    told, _ = talk(algorithm, problem(space, shape, x=x), error)
    first = min(trial.score for trial in told[0])
    assert best(told).score < first or best(told).rse == 0 or len(told) == 1, "nothing was gained"
    assert best(told).score < error_only(told[0][0])


def error_only(trial) -> float:
    return SizeAndError(5.0).score(Structure(trial.structure.shape), 1.0)


@EACH
def test_every_shape_is_searched(name: str) -> None:
    """Tensors of other shapes, of as many entries, are searched beside the one given."""
    space = SearchSpace(max_rank=2, reshapes=((4, 9), (2, 2, 9)))
    if isinstance(ALGORITHMS[name], TNGA):
        space = dataclasses.replace(space, max_rank=3)
    setting = problem(space, (4, 3, 3))
    told, _ = talk(ALGORITHMS[name], setting, lambda structure: 1 / structure.n_params, batches=20)
    assert {trial.structure.shape for batch in told for trial in batch} == {(4, 3, 3), (4, 9), (2, 2, 9)}
    assert all(space.allows(trial.structure) for batch in told for trial in batch)


@EACH
def test_settings_are_frozen(name: str) -> None:
    algorithm = ALGORITHMS[name]
    setting = dataclasses.fields(algorithm)[0].name  # pyright: ignore[reportArgumentType]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(algorithm, setting, None)
