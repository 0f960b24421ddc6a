"""SVDinsTN: planted structures lie on its path, with cores that fit; what it keeps to, and what it refuses."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch

from tests.structure_search.algorithms.dialogues import problem
from tnet.errors import InputError
from tnet.structure_search.algorithms.svdinstn import SVDinsTN
from tnet.structure_search.losses import MaskedError, SquaredError
from tnet.structure_search.objective import SizeAndError
from tnet.structure_search.proposals import Candidate, Problem
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure

RING = Structure((5, 5, 5, 5), ((0, 1, 2), (0, 3, 2), (1, 2, 3), (2, 3, 2)))
QUICK = SVDinsTN(weights=(1e-3, 1e-2, 0.03, 0.1))


def planted(structure: Structure, *, seed: int = 0, noise: float = 0.0, dtype: type = np.float64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cores = [rng.standard_normal(shape) for shape in structure.core_shapes]
    if np.issubdtype(dtype, np.complexfloating):
        cores = [core + 1j * rng.standard_normal(core.shape) for core in cores]
    x = np.asarray(structure.to_network(cores).to_dense())
    error = rng.standard_normal(x.shape)
    return (x + noise * np.linalg.norm(x) / np.linalg.norm(error) * error).astype(dtype)


def proposed(algorithm: SVDinsTN, space: SearchSpace, x) -> list[Candidate]:
    setting = Problem(x, SquaredError(), SizeAndError(5.0), space, lambda structures: np.zeros(len(structures)))
    dialogue = algorithm.propose(setting, np.random.default_rng(0))
    asked = next(dialogue)
    dialogue.close()
    candidates = [each for each in asked if isinstance(each, Candidate)]
    assert len(candidates) == len(asked)
    return candidates


def error_of(candidate: Candidate, x: np.ndarray) -> float:
    cores = [np.asarray(core) for core in candidate.cores]
    assert tuple(core.shape for core in cores) == candidate.structure.core_shapes
    y = np.asarray(candidate.structure.to_network(cores).to_dense())
    return float(np.linalg.norm(x - y) ** 2 / np.linalg.norm(x) ** 2)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize(
    "structure", [RING, Structure((4, 4, 4, 4), ((0, 2, 3), (1, 2, 2), (2, 3, 2)))], ids=["ring", "star"]
)
def test_the_planted_structure_lies_on_the_path(structure: Structure, noise: float) -> None:
    x = planted(structure, noise=noise)
    found = {c.structure: c for c in proposed(QUICK, SearchSpace(max_rank=3), x)}
    assert structure in found
    assert error_of(found[structure], x) < 0.05


def test_larger_weights_give_smaller_structures() -> None:
    sizes = [c.structure.n_params for c in proposed(QUICK, SearchSpace(max_rank=3), planted(RING))]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) > 1


def test_single_precision_and_complex() -> None:
    algorithm = SVDinsTN(weights=(0.02,), max_iter=15)
    for dtype in (np.float32, np.complex128):
        x = planted(RING, dtype=dtype)
        before = x.copy()
        (candidate,) = proposed(algorithm, SearchSpace(max_rank=3), x)
        assert {core.dtype for core in candidate.cores} == {np.dtype(dtype)}
        assert error_of(candidate, x) < 0.1
        assert np.array_equal(x, before)


def test_libraries_agree() -> None:
    x = planted(RING)
    algorithm = SVDinsTN(weights=(0.02, 0.1), max_iter=3)
    plain = proposed(algorithm, SearchSpace(max_rank=3), x)
    for other in (torch.from_numpy(x), array_api_strict.asarray(x)):
        found = proposed(algorithm, SearchSpace(max_rank=3), other)
        assert [c.structure for c in found] == [c.structure for c in plain]
        assert all(type(core) is type(other) for c in found for core in c.cores)
        assert [error_of(c, x) for c in found] == pytest.approx([error_of(c, x) for c in plain], rel=1e-6)


def test_constraints_fixed_bonds_and_templates() -> None:
    x = planted(Structure((3, 3, 3, 3), ((0, 1, 2), (0, 2, 2), (0, 3, 2), (1, 2, 2), (2, 3, 2))))
    algorithm = SVDinsTN(weights=(0.01, 0.1), max_iter=10)
    for space in (
        SearchSpace("trees", max_rank=3),
        SearchSpace(max_rank=3, max_degree=1),
        SearchSpace(max_rank=2, fixed=((0, 3, 1), (1, 3, 2))),
        SearchSpace.train(4, max_rank=3),
    ):
        for candidate in proposed(algorithm, space, x):
            assert space.allows(candidate.structure)
            assert error_of(candidate, x) < 1.5
    fixed = proposed(algorithm, SearchSpace(max_rank=2, fixed=((0, 3, 1), (1, 3, 2))), x)
    assert all(c.structure.rank(1, 3) == 2 and c.structure.rank(0, 3) == 1 for c in fixed)


def test_ranks_of_the_start_are_lowered_to_the_limit() -> None:
    x = planted(RING)
    algorithm = SVDinsTN(weights=(1e-9,), max_iter=1, most_bond_entries=8)
    (candidate,) = proposed(algorithm, SearchSpace(max_rank=4), x)
    assert max(np.prod(shape[1:]) for shape in candidate.structure.core_shapes) <= 8


def test_order_two_gives_the_matrix_rank() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 7))
    found = proposed(SVDinsTN(weights=(1e-3,)), SearchSpace(max_rank=5), x)
    assert found[0].structure == Structure((6, 7), ((0, 1, 2),))


def test_refusals() -> None:
    with pytest.raises(InputError, match="at most 8"):
        next(SVDinsTN().propose(problem(SearchSpace(max_rank=2), (2,) * 9), np.random.default_rng(0)))
    x = planted(RING)
    masked = Problem(x, MaskedError(x > 0), SizeAndError(5.0), SearchSpace(), lambda structures: np.zeros(1))
    with pytest.raises(InputError, match="completion"):
        next(SVDinsTN().propose(masked, np.random.default_rng(0)))


@pytest.mark.parametrize(
    "settings",
    [
        {"weights": ()}, {"weights": (1.0, 0.1)}, {"weights": (0.0,)}, {"ridge": 0.0}, {"proximal": -1.0},
        {"penalty": 0.0}, {"change": -1e-3}, {"max_iter": 0}, {"most_bond_entries": 0},
    ],
)  # fmt: skip
def test_bad_settings(settings: dict) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        SVDinsTN(**settings)
