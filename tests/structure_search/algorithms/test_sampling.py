"""TNLS, TNGA and samplers of the user: what they draw, when they end, planted structures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.structure_search.algorithms.dialogues import best, missing_ranks, problem, talk
from tnet.errors import InputError
from tnet.structure_search.algorithms.sampler import Sampler
from tnet.structure_search.algorithms.tnga import TNGA
from tnet.structure_search.algorithms.tnls import TNLS
from tnet.structure_search.objective import SizeAndError
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure

SHAPE = (4, 4, 4, 4, 4)
TARGET = Structure(SHAPE, ((0, 1, 2), (1, 2, 3), (2, 4, 2)))
GOAL = SizeAndError(20.0)


def test_tnls_samples_around_the_best() -> None:
    space = SearchSpace(max_rank=6)
    told, _ = talk(TNLS(n_samples=200, decay=0.5), problem(space, SHAPE), lambda s: 0.1, batches=12)
    assert [len(batch) for batch in told] == [1] + [200] * 11
    center = min((trial for batch in told[:-1] for trial in batch), key=lambda trial: trial.score).structure
    moved = [
        abs(trial.structure.rank(i, j) - center.rank(i, j)) for trial in told[-1] for i, j in space.pairs(len(SHAPE))
    ]
    # At the deviation 0.3 a rank moves with probability 2 (1 - Phi(0.5 / 0.3)) = 0.096, half of it clipped at 1.
    assert max(moved) <= 2
    assert 0.02 < np.mean(moved) < 0.14


def test_tnls_exchanges_modes_up_to_a_distance() -> None:
    space = SearchSpace.ring(6, max_rank=2)
    shape = (2, 3, 4, 5, 6, 7)
    told, _ = talk(
        TNLS(n_samples=60, distance=1, least_deviation=1e-6, decay=0.5, patience=50),
        problem(space, shape),
        lambda s: 0.0 if s.n_params == sum(shape) else 1.0,
        batches=30,
    )
    assert len({trial.structure for trial in told[1]}) > 5


def test_tnga_binary_has_bonds_of_one_rank() -> None:
    told, ended = talk(TNGA.binary(3), problem(SearchSpace(max_rank=4), SHAPE), missing_ranks(TARGET))
    assert ended
    assert [len(batch) for batch in told] == [50] * 30
    assert {rank for batch in told for trial in batch for _, _, rank in trial.structure.bonds} == {3}


def test_tnga_gains_over_generations() -> None:
    told, _ = talk(
        TNGA(generations=20), problem(SearchSpace(max_rank=3), SHAPE, objective=GOAL), missing_ranks(TARGET)
    )
    means = [np.mean([trial.score for trial in batch]) for batch in told]
    assert np.mean(means[-3:]) < 0.8 * means[0]


def test_tnga_without_mutation_only_mixes() -> None:
    """Every rank of a child stands at the same pair in the first generation."""
    algorithm = dataclasses.replace(TNGA(population=10, generations=4), mutation=0.0)
    space = SearchSpace(max_rank=9)
    told, _ = talk(algorithm, problem(space, SHAPE), missing_ranks(TARGET))
    for i, j in space.pairs(len(SHAPE)):
        first = {trial.structure.rank(i, j) for trial in told[0]}
        assert {trial.structure.rank(i, j) for trial in told[-1]} <= first


@pytest.mark.parametrize(
    "algorithm",
    [TNLS(patience=20), TNGA(generations=40, mutation=0.1)],
    ids=["TNLS", "TNGA"],
)
def test_planted_structures_are_found(algorithm) -> None:
    space = SearchSpace(max_rank=3)
    told, _ = talk(algorithm, problem(space, SHAPE, objective=GOAL), missing_ranks(TARGET))
    assert best(told).score <= GOAL.score(TARGET, 0.0)


def test_tnls_finds_a_planted_permutation() -> None:
    target = Structure(SHAPE, ((0, 2, 2), (0, 3, 2), (1, 2, 2), (1, 4, 2), (3, 4, 2)))
    space = SearchSpace.ring(5, max_rank=3)
    told, _ = talk(TNLS(patience=30), problem(space, SHAPE, objective=GOAL), missing_ranks(target))
    assert best(told).score <= GOAL.score(target, 0.0)


def recorded(calls: list):
    def function(history, fitness, best, n, iteration, max_iterations, hyperparameters):
        calls.append((history, fitness, best, n, iteration, max_iterations, hyperparameters))
        return [np.full(len(best), 100.0)] * (n + 5)

    return function


def test_samplers_are_told_what_the_signature_says() -> None:
    calls: list = []
    algorithm = Sampler(recorded(calls), n_samples=4, max_iterations=3, hyperparameters={"decay_rate": 0.9})
    told, ended = talk(algorithm, problem(SearchSpace(max_rank=3), (2, 3, 4)), lambda s: 1 / s.n_params)
    assert ended
    assert [len(batch) for batch in told] == [4, 4, 4]
    history, fitness, vector, n, iteration, most, given = calls[-1]
    assert (n, iteration, most) == (4, 3, 3)
    assert list(history) == list(fitness) == ["1", "2"]
    assert fitness["1"] == [trial.score for trial in told[0]]
    assert [tuple(v) for v in history["2"]] == [(3, 3, 3)] * 4
    assert tuple(vector) in [tuple(v) for v in (*history["1"], *history["2"])]
    assert given["code_upperbound"] == 3
    assert given["decay_rate"] == 0.9


def test_samplers_that_fail() -> None:
    setting = problem(SearchSpace(max_rank=3), (2, 3, 4))
    told, ended = talk(Sampler(lambda *given: []), setting, lambda s: 1.0)
    assert ended
    assert len(told) == 1
    for vector in ([1, 2], "abc", [1, np.nan, 2], None):
        algorithm = Sampler(lambda *given, vector=vector: [vector])
        with pytest.raises(InputError, match="vectors of 3 ranks"):
            talk(algorithm, setting, lambda s: 1.0)
    with pytest.raises(InputError, match="orders"):
        talk(Sampler(lambda *given: []), problem(SearchSpace.ring(3), (2, 3, 4)), lambda s: 1.0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (TNLS, {"n_samples": 0}), (TNLS, {"decay": 0.0}), (TNLS, {"least_deviation": 0.0}), (TNLS, {"distance": 0}),
        (TNLS, {"patience": 0}), (TNLS, {"absent": -0.1}),
        (TNGA, {"rank": 1}), (TNGA, {"population": 1}), (TNGA, {"generations": 0}), (TNGA, {"survivors": 0.0}),
        (TNGA, {"mutation": 2.0}), (TNGA, {"alpha": 0.0}),
        (Sampler, {"function": 3}), (Sampler, {"function": max, "n_samples": 0}),
    ],
)  # fmt: skip
def test_bad_settings(kind: type, settings: dict) -> None:
    with pytest.raises(InputError, match=list(settings)[-1]):
        kind(**settings)


def test_a_rank_above_the_space_is_refused() -> None:
    with pytest.raises(InputError, match="max_rank=2"):
        talk(TNGA.binary(3), problem(SearchSpace(max_rank=2), SHAPE), lambda s: 1.0)
