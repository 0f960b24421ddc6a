"""Published algorithms with the real solver on planted tensors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tnet
from tnet.structure_search import Budget
from tnet.structure_search.algorithms import TNGA, TNLS, GreedyTN, SVDinsTN, TnALE
from tnet.structure_search.evaluate.als import ALS
from tnet.structure_search.objective import FewestParams, SizeAndError
from tnet.structure_search.result import SearchResult
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure

QUICK = ALS(n_starts=4, max_starts=4, max_sweeps=60)
RING = Structure((3, 4, 3, 4), ((0, 1, 2), (0, 2, 2), (1, 3, 2), (2, 3, 2)))


def planted(structure: Structure, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = structure.to_network([rng.standard_normal(shape) for shape in structure.core_shapes]).to_dense()
    return x / np.sqrt(np.mean(x**2))


def found(structure: Structure, algorithm, space: SearchSpace, objective, evaluations: int = 400) -> SearchResult:
    budget = Budget(evaluations=evaluations, patience=None)
    return tnet.search(
        planted(structure), objective=objective, algorithm=algorithm, space=space, solver=QUICK, budget=budget, rng=0
    )


@pytest.mark.parametrize(
    "algorithm",
    [
        TnALE(patience=3),
        TNLS(n_samples=15, patience=6),
        dataclasses.replace(TNGA.binary(2), population=16, generations=6),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_rings_are_found(algorithm) -> None:
    space, goal = SearchSpace.ring(4, max_rank=3), SizeAndError(200.0, negligible=1e-8)
    result = found(RING, algorithm, space, goal)
    assert result.best.score <= goal.score(RING, 0.0)


def test_greedy_grows_to_a_tree() -> None:
    tree = Structure((4, 4, 4, 4), ((0, 1, 2), (1, 2, 2), (1, 3, 2)))
    result = found(tree, GreedyTN(), SearchSpace(max_rank=3), FewestParams(1e-3))
    assert result.best.rse < 1e-6
    assert result.best.n_params <= tree.n_params


def test_greedy_splits_a_core() -> None:
    """Three cores of rank 3 meet in one without a mode; grown on the modes alone, the structure is larger."""
    star = Structure((8, 8, 8), ((0, 3, 3), (1, 3, 3), (2, 3, 3)), 1)
    plain = found(star, GreedyTN(), SearchSpace(max_rank=3), FewestParams(1e-3))
    split = found(star, GreedyTN(), SearchSpace(max_rank=3, n_internal=1), FewestParams(1e-3))
    assert plain.best.rse < 1e-6
    assert split.best.rse < 1e-6
    assert split.best.structure.n_internal == 1
    assert split.best.n_params < plain.best.n_params


def test_svdinstn_names_the_ring() -> None:
    algorithm = SVDinsTN(weights=(1e-3, 1e-2, 0.03, 0.1))
    result = found(RING, algorithm, SearchSpace(max_rank=3), SizeAndError(50.0))
    assert result.best.structure == RING
    assert result.evaluations < 5
