"""GreedyTN: growth by the loss or by the loss per parameter, ends, and cores split in two."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest

from tests.structure_search.algorithms.dialogues import best, missing_ranks, problem, talk
from tnet.errors import InputError
from tnet.structure_search.algorithms.greedy import GreedyTN, splits
from tnet.structure_search.objective import FewestParams, LeastError, SizeAndError
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure

SHAPE = (4, 4, 4, 4)


def random_cores(structure: Structure, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape) for shape in structure.core_shapes)


def dense(structure: Structure, cores) -> np.ndarray:
    return np.asarray(structure.to_network(cores).to_dense())


def test_every_step_raises_one_rank() -> None:
    target = Structure(SHAPE, ((0, 1, 2), (1, 3, 3)))
    told, ended = talk(
        GreedyTN(), problem(SearchSpace(max_rank=4), SHAPE, objective=FewestParams(1e-3)), missing_ranks(target)
    )
    assert ended
    assert [len(batch) for batch in told] == [1, 6, 6, 6]
    assert best(told).structure == target
    assert told[0][0].structure == Structure(SHAPE)


def test_steps_and_threshold_end_it() -> None:
    target = Structure(SHAPE, ((0, 1, 4), (1, 3, 3)))
    setting = problem(SearchSpace(max_rank=4), SHAPE, objective=SizeAndError(1e6))
    told, _ = talk(GreedyTN(steps=2), setting, missing_ranks(target))
    assert len(told) == 3
    told, _ = talk(GreedyTN(threshold=0.5), setting, missing_ranks(target))
    assert best(told).rse <= 0.5
    assert min(trial.rse for batch in told[:-1] for trial in batch) > 0.5
    tight = problem(SearchSpace(max_rank=4), SHAPE, objective=FewestParams(1e-5))
    told, _ = talk(GreedyTN(), tight, lambda s: 1e-7 if s.bonds else 1.0)
    assert len(told) > 3, "an error of 1e-7 was taken for 1e-10"
    told, _ = talk(GreedyTN(increment=3), setting, missing_ranks(target))
    assert told[1][0].structure.bonds == ((0, 1, 4),)


def test_a_budget_of_parameters_ends_it() -> None:
    told, ended = talk(
        GreedyTN(), problem(SearchSpace(max_rank=4), SHAPE, objective=LeastError(40)), lambda s: 1 / s.n_params
    )
    assert ended
    assert max(trial.structure.n_params for batch in told for trial in batch) <= 40


def test_loss_per_parameter_takes_the_cheap_bond() -> None:
    """Bond 0-1 lowers the loss a little more, but joins the large modes."""
    shape = (30, 30, 2, 2)

    def error(structure: Structure) -> float:
        return 1.0 - 0.30 * (structure.rank(0, 1) > 1) - 0.29 * (structure.rank(2, 3) > 1)

    setting = problem(SearchSpace(max_rank=2), shape, objective=SizeAndError(1e6))
    first = {}
    for choice in ("loss", "loss_per_parameter"):
        told, _ = talk(GreedyTN(choice=choice), setting, error, batches=3)
        first[choice] = set.intersection(*({bond[:2] for bond in t.structure.bonds} for t in told[2] if t.structure))
    assert first == {"loss": {(0, 1)}, "loss_per_parameter": {(2, 3)}}


def low_rank_core(rank: int) -> tuple[Structure, list[np.ndarray]]:
    """A star whose centre is a product over (its mode and bond to 1) and (bonds to 2 and 3) up to a rank."""
    structure = Structure((4, 5, 6, 7), ((0, 1, 3), (0, 2, 3), (0, 3, 3)))
    cores = list(random_cores(structure))
    rng = np.random.default_rng(2)
    cores[0] = np.einsum("iar,rbc->iabc", rng.standard_normal((4, 3, rank)), rng.standard_normal((rank, 3, 3)))
    return structure, cores


@pytest.mark.parametrize("rank", [1, 2])
def test_a_split_keeps_the_tensor(rank: int) -> None:
    structure, cores = low_rank_core(rank)
    found = list(splits(structure, cores, 1e-8))
    assert found
    for candidate in found:
        assert candidate.structure.n_internal == 1
        assert candidate.structure.n_params < structure.n_params
        assert tuple(core.shape for core in candidate.cores) == candidate.structure.core_shapes
        assert np.allclose(dense(candidate.structure, candidate.cores), dense(structure, cores), atol=1e-10)
    expected = ((0, 1, 3), *(((0, 4, rank),) if rank > 1 else ()), (2, 4, 3), (3, 4, 3))
    assert expected in [candidate.structure.bonds for candidate in found]


def test_splits_of_an_internal_core() -> None:
    structure = Structure((4, 4, 4, 4), ((0, 4, 3), (1, 4, 3), (2, 4, 3), (3, 4, 3)), 1)
    cores = list(random_cores(structure))
    rng = np.random.default_rng(2)
    cores[4] = np.einsum("acr,rbd->abcd", rng.standard_normal((3, 3, 2)), rng.standard_normal((2, 3, 3)))
    found = min(splits(structure, cores, 1e-8), key=lambda candidate: candidate.structure.n_params)
    assert found.structure.n_params == 4 * 12 + 18 + 18
    assert np.allclose(dense(found.structure, found.cores), dense(structure, cores))


def test_no_split_of_a_full_core() -> None:
    structure = Structure((4, 4, 4), ((0, 1, 2), (0, 2, 2), (1, 2, 2)))
    assert not list(splits(structure, random_cores(structure), 1e-8))
    zero = [np.zeros(shape) for shape in structure.core_shapes]
    assert not list(splits(structure, zero, 1e-8))


def test_splits_speak_the_standard_alone() -> None:
    structure, cores = low_rank_core(2)
    strict = [array_api_strict.asarray(core) for core in cores]
    pairs = zip(splits(structure, cores, 1e-8), splits(structure, strict, 1e-8), strict=True)
    for plain, other in pairs:
        assert plain.structure == other.structure
        arrays = [np.asarray(core) for core in other.cores]
        assert np.allclose(dense(other.structure, arrays), dense(plain.structure, plain.cores))


def test_a_split_is_kept_where_the_loss_stays() -> None:
    planted, cores = low_rank_core(1)
    setting = problem(
        SearchSpace(max_rank=3, n_internal=1),
        planted.shape,
        objective=SizeAndError(1e6),
        cores=lambda structure: tuple(cores) if structure == planted else None,
    )

    def error(structure: Structure) -> float:
        return 0.01 if structure.n_internal else missing_ranks(planted, floor=0.01)(structure)

    told, _ = talk(GreedyTN(), setting, error)
    after = next(k for k, batch in enumerate(told) if batch[0].structure.n_internal)
    assert len(told[after]) == 1
    assert told[after][0].structure.n_params < planted.n_params
    assert all(trial.structure.n_internal for trial in told[after + 1])


def test_without_cores_nothing_is_split() -> None:
    setting = problem(SearchSpace(max_rank=3, n_internal=1), SHAPE, objective=SizeAndError(1e6))
    told, _ = talk(GreedyTN(), setting, missing_ranks(Structure(SHAPE, ((0, 1, 3), (0, 2, 3), (0, 3, 3)))))
    assert not any(trial.structure.n_internal for batch in told for trial in batch)


@pytest.mark.parametrize(
    "settings", [{"choice": "size"}, {"steps": 0}, {"increment": 0}, {"threshold": -1.0}, {"split_tolerance": 0.0}]
)
def test_bad_settings(settings: dict) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        GreedyTN(**settings)
