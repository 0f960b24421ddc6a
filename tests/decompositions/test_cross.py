"""Cross approximation: what it finds, what it costs, and how it ends."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.strategies import dense, random_array, seeds
from tnet.arrays import to_numpy
from tnet.decompositions.cross_pivots import values_at
from tnet.errors import BackendError, ConvergenceWarning, InputError, RankError, ShapeError
from tnet.formats import TensorTrain
from tnet.options import Stopping
from tnet.results import Status

cross = importlib.import_module("tnet.decompositions.cross")

GRID = np.linspace(-1, 1, 12)
SHAPE = (12,) * 5


class Counted:
    """A function of indices, which remembers what it was asked."""

    def __init__(self, f: Callable[[np.ndarray], Any]) -> None:
        self._f = f
        self.asked: list[np.ndarray] = []

    def __call__(self, indices: np.ndarray) -> Any:
        assert indices.dtype == np.int64
        assert indices.ndim == 2
        self.asked.append(indices.copy())
        return self._f(indices)

    @property
    def count(self) -> int:
        return sum(len(indices) for indices in self.asked)


def smooth(indices: np.ndarray) -> np.ndarray:
    x = GRID[indices]
    return 1 / (3 + x.sum(axis=1) / 2) + np.exp(-(x**2).sum(axis=1))


def planted(seed: int, shape: tuple[int, ...], rank: int, dtype: str = "float64") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    bonds = [1, *[rank] * (len(shape) - 1), 1]
    return [random_array(rng, (bonds[k], n, bonds[k + 1]), dtype) for k, n in enumerate(shape)]


def everywhere(f: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return f(np.indices(shape).reshape(len(shape), -1).T).reshape(shape)


def error(y: Any, x: np.ndarray) -> float:
    return float(np.linalg.norm(to_numpy(y.to_dense()) - x) / np.linalg.norm(x))


@pytest.mark.parametrize("rtol", [1e-2, 1e-5, 1e-9])
def test_a_smooth_function_within_the_tolerance(rtol: float) -> None:
    x = everywhere(smooth, SHAPE)
    for seed in range(3):
        f = Counted(smooth)
        result = tnet.tt_cross(f, SHAPE, rtol=rtol, rng=seed)
        assert result.status is Status.CONVERGED
        assert result.error_kind == "estimate"
        assert error(result.tensor, x) <= rtol
        assert result.error == pytest.approx(error(result.tensor, x), rel=0.5)
        assert f.count < x.size / 10
        assert result.rng_seed == seed
        assert len(result.history.error) == len(result.history.seconds) > 0


@settings(max_examples=10)
@given(seed=seeds, rank=st.integers(1, 4), complex_=st.booleans())
def test_planted_ranks_are_found(seed: int, rank: int, complex_: bool) -> None:
    shape = (5, 6, 4, 6, 5)
    cores = planted(seed, shape, rank, "complex128" if complex_ else "float64")
    result = tnet.tt_cross(lambda i: values_at(cores, i), shape, rtol=1e-8, rng=seed)
    assert result.tensor.rank == (rank,) * 4
    assert error(result.tensor, TensorTrain(tuple(cores)).to_dense()) < 1e-8


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_the_result_lives_where_the_values_do(convert: Callable[[np.ndarray], Any], dtype: str) -> None:
    f = Counted(lambda i: convert(smooth(i).astype(dtype)))
    result = tnet.tt_cross(f, SHAPE, rtol=1e-3, rng=0)
    like = convert(np.zeros(1, dtype))
    assert all(type(core) is type(like) and core.dtype == like.dtype for core in result.tensor.cores)
    assert error(result.tensor, everywhere(smooth, SHAPE)) <= 1e-3


def test_nothing_is_evaluated_twice() -> None:
    f = Counted(smooth)
    tnet.tt_cross(f, SHAPE, rtol=1e-6, rng=0)
    asked = np.concatenate(f.asked)
    assert len(np.unique(asked, axis=0)) == len(asked)


def test_more_indices_than_64_bits_can_number() -> None:
    shape = (10,) * 40
    f = Counted(lambda i: 1.0 + i.sum(axis=1))
    result = tnet.tt_cross(f, shape, rtol=1e-8, rng=0)
    assert result.tensor.rank == (2,) * 39
    asked = np.concatenate(f.asked)
    assert len(np.unique(asked, axis=0)) == len(asked)


@pytest.mark.parametrize("budget", [2200, 3000, 4000])
def test_the_budget_is_a_ceiling(budget: int) -> None:
    f = Counted(smooth)
    with pytest.warns(ConvergenceWarning, match="max_evaluations"):
        result = tnet.tt_cross(f, SHAPE, rtol=1e-13, max_evaluations=budget, rng=0)
    assert f.count <= budget
    assert result.status is Status.MAX_EVALUATIONS
    assert not result.converged
    assert result.error == pytest.approx(error(result.tensor, everywhere(smooth, SHAPE)), rel=0.5)


def test_a_larger_budget_is_of_use() -> None:
    errors = []
    for budget in (2200, 3000, 4000):
        with pytest.warns(ConvergenceWarning):
            errors.append(tnet.tt_cross(smooth, SHAPE, rtol=1e-13, max_evaluations=budget, rng=0).error)
    assert errors[2] < errors[1] < errors[0]


def test_a_rank_too_small_for_the_tolerance() -> None:
    with pytest.warns(ConvergenceWarning, match="max_rank"):
        result = tnet.tt_cross(smooth, SHAPE, rtol=1e-9, max_rank=3, rng=0)
    assert result.status is Status.MAX_RANK
    assert max(result.tensor.rank) <= 3
    assert result.error == pytest.approx(error(result.tensor, everywhere(smooth, SHAPE)), rel=0.5)


def test_the_other_ends() -> None:
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        assert tnet.tt_cross(smooth, SHAPE, rtol=1e-9, stopping=Stopping(2), rng=0).status is Status.MAX_ITER
    stopping = Stopping(max_seconds=1e-9)
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        assert tnet.tt_cross(smooth, SHAPE, rtol=1e-9, stopping=stopping, rng=0).status is Status.MAX_SECONDS


def test_a_callback_sees_and_stops() -> None:
    seen: list[Any] = []

    def watch(info: Any) -> bool:
        seen.append(info)
        return info.iteration == 3

    result = tnet.tt_cross(smooth, SHAPE, rtol=1e-12, rng=0, callback=watch)
    assert result.status is Status.CALLBACK
    assert [info.iteration for info in seen] == [1, 2, 3]
    assert [info.error for info in seen] == list(result.history.error)
    assert seen[-1].tensor.shape == SHAPE


def test_ctrl_c_returns_the_best_so_far() -> None:
    def interrupted(indices: np.ndarray) -> np.ndarray:
        interrupted.calls += 1
        if interrupted.calls == 12:
            raise KeyboardInterrupt
        return smooth(indices)

    interrupted.calls = 0
    result = tnet.tt_cross(interrupted, SHAPE, rtol=1e-12, rng=0)
    assert result.status is Status.INTERRUPTED
    assert result.error < 0.5


def test_a_peak_must_be_shown() -> None:
    shape, peak = (50,) * 6, np.array([3, 47, 11, 30, 5, 44])

    def f(indices: np.ndarray) -> np.ndarray:
        return np.exp(-((indices - peak) ** 2).sum(axis=1)) + np.exp(-((indices - peak - 1) ** 2).sum(axis=1) / 2)

    result = tnet.tt_cross(f, shape, rtol=1e-6, rng=0, start=peak)
    assert max(result.tensor.rank) == 2
    near = peak + np.random.default_rng(0).integers(-2, 3, (500, 6))
    near = np.clip(near, 0, 49)
    assert np.allclose(values_at(list(result.tensor.cores), near), f(near), rtol=0, atol=1e-5)


def test_entries_that_the_search_misses_are_taken_from_the_sample() -> None:
    """The function has two separate blocks: from one of them no rook's move leads to the other."""
    shape = (8,) * 4

    def f(indices: np.ndarray) -> np.ndarray:
        low = np.all(indices < 4, axis=1)
        high = np.all(indices >= 4, axis=1)
        return low * (1.0 + indices.sum(axis=1)) + high * 5.0

    result = tnet.tt_cross(f, shape, rtol=1e-8, rng=0)
    assert result.tensor.rank == (3, 3, 3)
    assert error(result.tensor, everywhere(f, shape)) < 1e-12


def test_zero_is_found_and_told() -> None:
    result = tnet.tt_cross(lambda i: np.zeros(len(i)), SHAPE, rtol=1e-6, rng=0)
    assert result.error == 0.0
    assert result.converged
    assert not np.any(result.tensor.to_dense())


def test_noise_ends_at_full_ranks_or_by_the_bound() -> None:
    x = np.random.default_rng(0).standard_normal((6,) * 4)
    result = tnet.tt_cross(lambda i: x[tuple(i.T)], x.shape, rtol=1e-6, rng=0)
    assert error(result.tensor, x) <= 1e-6
    assert result.tensor.rank == (6, 36, 6)


@pytest.mark.parametrize("power", [-600, 600])
def test_extreme_scales(power: int) -> None:
    one = tnet.tt_cross(smooth, SHAPE, rtol=1e-6, rng=0)
    scaled = tnet.tt_cross(lambda i: smooth(i) * 2.0**power, SHAPE, rtol=1e-6, rng=0)
    assert scaled.tensor.rank == one.tensor.rank
    assert scaled.error == pytest.approx(one.error, rel=1e-3)


def test_small_tensors_are_evaluated_whole() -> None:
    f = Counted(lambda i: 1.0 / (1.0 + i.sum(axis=1)))
    result = tnet.tt_cross(f, (4, 5, 6), rtol=1e-6, rng=0)
    assert f.count == 120
    assert result.error_kind == "exact"
    assert result.error == pytest.approx(error(result.tensor, everywhere(f, (4, 5, 6))), abs=1e-12)
    vector = tnet.tt_cross(lambda i: i[:, 0] + 0.5, (7,), rtol=0.1)
    assert np.allclose(dense(vector.tensor), np.arange(7) + 0.5)
    with pytest.warns(ConvergenceWarning, match="max_rank"):
        small = tnet.tt_cross(f, (4, 5, 6), rtol=1e-9, max_rank=2, rng=0)
    assert small.tensor.rank == (2, 2)
    assert small.status is Status.MAX_RANK


def test_one_seed_gives_one_result() -> None:
    one, two = (tnet.tt_cross(smooth, SHAPE, rtol=1e-4, rng=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one.tensor.cores, two.tensor.cores, strict=True))
    by_torch = tnet.tt_cross(lambda i: torch.from_numpy(smooth(i)), SHAPE, rtol=1e-4, rng=3)
    assert np.array_equal(by_torch.tensor.cores[2].numpy(), one.tensor.cores[2])


def test_results_are_saved_and_loaded(tmp_path: Any) -> None:
    result = tnet.tt_cross(smooth, SHAPE, rtol=1e-4, rng=3)
    tnet.save(result, tmp_path / "cross.safetensors")
    assert tnet.load(tmp_path / "cross.safetensors").error_kind == "estimate"


def test_pivots_that_differ_by_roundoff_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def singular(self: Any, found: Any) -> None:
        raise np.linalg.LinAlgError

    monkeypatch.setattr(cross.Cross, "add", singular)
    with pytest.warns(ConvergenceWarning, match="no step improves"):
        assert tnet.tt_cross(smooth, SHAPE, rtol=1e-6, rng=0).status is Status.STALLED


def test_a_search_without_finds_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross._Search, "_worth", lambda self, found, idle: {})
    with pytest.warns(ConvergenceWarning, match="no step improves"):
        assert tnet.tt_cross(smooth, SHAPE, rtol=1e-6, rng=0).status is Status.STALLED


@pytest.mark.parametrize(
    ("f", "fault", "words"),
    [
        (lambda i: np.ones(len(i) - 1), ShapeError, r"f returned shape"),
        (lambda i: np.ones((len(i), 1)), ShapeError, r"one value for each row"),
        (lambda i: 1.0, ShapeError, r"f returned shape \(\)"),
        (lambda i: np.ones(len(i), dtype=int), BackendError, "int64"),
        (lambda i: np.where(np.arange(len(i)) == 5, np.nan, 1.0), InputError, r"f returned nan at index \(\d"),
        (lambda i: np.where(i[:, 0] == 7, np.inf, 1.0), InputError, r"inf at index \(7, "),
        (lambda i: "text", BackendError, "f"),
        (3, InputError, "f=int"),
    ],
)
def test_functions_that_cannot_be_used(f: Any, fault: type[Exception], words: str) -> None:
    with pytest.raises(fault, match=words):
        tnet.tt_cross(f, SHAPE, rtol=1e-3, rng=0)


@pytest.mark.parametrize(
    ("options", "fault", "words"),
    [
        ({"shape": ()}, ShapeError, "shape"),
        ({"shape": 5}, ShapeError, "shape=5"),
        ({"shape": (3, 0)}, ShapeError, "at least 1"),
        ({"shape": (3, 2.5)}, ShapeError, "2.5"),
        ({"shape": (3, True)}, ShapeError, "True"),
        ({"rtol": 0.0}, InputError, "rtol=0.0"),
        ({"rtol": 1.0}, InputError, "rtol=1.0"),
        ({"rtol": float("nan")}, InputError, "rtol=nan"),
        ({"rtol": "small"}, InputError, "rtol='small'"),
        ({"max_rank": 0}, RankError, "rank=0"),
        ({"max_rank": 2.5}, RankError, "rank=2.5"),
        ({"max_evaluations": 100}, InputError, "max_evaluations=100: give an integer of at least 2108"),
        ({"max_evaluations": True}, InputError, "max_evaluations=True"),
        ({"max_evaluations": 1e6}, InputError, "max_evaluations=1000000.0"),
        ({"n_validation": 0}, InputError, "n_validation=0"),
        ({"start": [1, 2]}, ShapeError, "start of shape"),
        ({"start": [1.0] * 5}, ShapeError, "float64"),
        ({"start": [12] * 5}, ShapeError, "outside"),
        ({"rng": -1}, InputError, "rng=-1"),
    ],
)
def test_bad_arguments(options: dict[str, Any], fault: type[Exception], words: str) -> None:
    f = Counted(smooth)
    with pytest.raises(fault, match=words):
        tnet.tt_cross(f, **{"shape": SHAPE, "rtol": 1e-3, "rng": 0, **options})
    assert f.count == 0


def test_ctrl_c_before_there_is_anything_to_return_passes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tnet.decompositions.cross_pivots.Cross.train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tnet.tt_cross(lambda indices: 1.0 / (1.0 + indices.sum(axis=1)), (20,) * 4, rtol=1e-6, rng=0)
