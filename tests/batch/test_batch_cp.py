"""What is special to the batched alternating least squares."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import tnet
from tests.batch.conftest import batch_of, true_errors
from tnet.batch import CPBatch
from tnet.decompositions import IterationInfo
from tnet.errors import BackendError, ConvergenceWarning, InputError, RankError, ShapeError
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status


def exact(n: int, seed: int = 0, dtype: type = float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a, b, c = (rng.normal(size=(n, k, 2)).astype(dtype) for k in (5, 6, 7))
    if dtype is complex:
        a = a + 1j * rng.normal(size=a.shape)
    return np.einsum("bir,bjr,bkr->bijk", a, b, c)


@pytest.mark.parametrize("dtype", [float, complex])
def test_planted_factors_are_found(dtype: type) -> None:
    x = exact(30, dtype=dtype)
    result = tnet.batch.cp(x, 2, rng=0, stopping=Stopping(max_iter=3000, change=1e-12))
    assert np.max(true_errors(x, result)) < 1e-8
    assert np.all(result.converged)


def test_each_item_stops_by_itself_and_stays_as_it_was() -> None:
    x = batch_of(40, (5, 6, 7), noise=0.02)
    seen: list[CPBatch] = []
    errors: list[float] = []

    def watch(info: IterationInfo[CPBatch]) -> None:
        seen.append(info.tensor)
        errors.append(info.error)

    result = tnet.batch.cp(x, 3, rng=0, stopping=Stopping(max_iter=3000, change=1e-7), callback=watch)
    active = result.history.active
    assert active[0] == 40
    assert active[-1] < 40
    assert all(b <= a for a, b in itertools.pairwise(active))
    assert len(seen) == len(active) == len(result.history.seconds)
    assert tuple(errors) == result.history.max_error
    dense = np.stack([np.asarray(tensor) for tensor in seen])
    changes = np.any(dense[1:] != dense[:-1], axis=(2, 3, 4)).sum(axis=1)
    assert tuple(changes) == active[1:]
    assert np.array_equal(dense[-1], np.asarray(result.tensor))


def test_the_errors_never_rise() -> None:
    x = batch_of(10, (5, 6, 7))
    result = tnet.batch.cp(x, 3, init="random", rng=1, stopping=Stopping(max_iter=50, change=0))
    assert len(result.history.mean_error) == 50
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(result.history.mean_error))
    assert set(result.status) <= {Status.MAX_ITER, Status.DEGENERATE}


def test_weights_descend_and_columns_have_norm_one() -> None:
    tensor = tnet.batch.cp(batch_of(8, (5, 6, 7)), 3, rng=0, stopping=Stopping(max_iter=30, change=0)).tensor
    assert np.all(np.diff(tensor.weights, axis=1) <= 0)
    for factor in tensor.factors:
        assert np.allclose(np.linalg.norm(factor, axis=1), 1)


def test_ranks_above_the_modes_take_random_columns_from_the_seed() -> None:
    x = batch_of(4, (2, 3, 2))
    few = Stopping(max_iter=5, change=0)
    first, again = (tnet.batch.cp(x, 4, rng=5, stopping=few) for _ in range(2))
    assert first.rng_seed == 5
    assert np.array_equal(np.asarray(first.tensor), np.asarray(again.tensor))
    assert tnet.batch.cp(x, 2, rng=5, stopping=few).rng_seed is None
    assert tnet.batch.cp(x, 2, init="random", rng=5, stopping=few).rng_seed == 5


def test_a_given_start_is_taken() -> None:
    x = batch_of(5, (4, 5, 6))
    long = Stopping(max_iter=3000, change=1e-12)
    with pytest.warns(ConvergenceWarning, match="of 5 items: max_iter"):
        found = tnet.batch.cp(x, 2, rng=0, stopping=Stopping(max_iter=5, change=1e-15))
    end = tnet.batch.cp(x, 2, rng=0, stopping=long)
    resumed = tnet.batch.cp(x, 2, init=end.tensor, stopping=Stopping(max_iter=2, change=0))
    assert np.allclose(resumed.errors, end.errors, atol=1e-9)
    assert np.max(found.errors - end.errors) > 1e-6


def test_a_ridge_shrinks_the_weights() -> None:
    x = batch_of(5, (4, 5, 6))
    plain, ridged = (tnet.batch.cp(x, 2, rng=0, ridge=ridge) for ridge in (0.0, 0.5))
    assert np.all(np.linalg.norm(ridged.tensor.weights, axis=1) < np.linalg.norm(plain.tensor.weights, axis=1))


def test_components_that_cancel_are_reported_item_by_item() -> None:
    a, b = np.eye(2)
    border = sum(np.einsum("i,j,k->ijk", *v) for v in ((a, a, b), (a, b, a), (b, a, a)))
    x = np.stack([border, np.einsum("i,j,k->ijk", a, b, a), border])
    with pytest.warns(ConvergenceWarning, match="2 of 3 items: degenerate"):
        result = tnet.batch.cp(x, 2, init="random", rng=0, stopping=Stopping(max_iter=800, change=0))
    assert result.status[0] is result.status[2] is Status.DEGENERATE
    assert result.status[1] is not Status.DEGENERATE
    assert all(np.all(np.isfinite(array)) for array in result.tensor.arrays)


def test_a_callback_stops() -> None:
    result = tnet.batch.cp(batch_of(3, (4, 5, 6)), 2, rng=0, callback=lambda info: info.iteration == 3)
    assert set(result.status) <= {Status.CALLBACK, Status.CONVERGED}
    assert len(result.history.seconds) == 3


def test_an_interruption_returns_the_last_complete_sweep() -> None:
    def interrupt(info: IterationInfo[CPBatch]) -> None:
        if info.iteration == 4:
            raise KeyboardInterrupt

    x = batch_of(3, (4, 5, 6))
    stopping = Stopping(max_iter=50, change=0)
    result = tnet.batch.cp(x, 2, rng=0, stopping=stopping, callback=interrupt)
    assert set(result.status) == {Status.INTERRUPTED}
    assert np.allclose(true_errors(x, result), result.errors, atol=1e-9)


def test_an_interruption_before_the_first_sweep_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tnet.batch.als._swept", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tnet.batch.cp(batch_of(3, (4, 5, 6)), 2, rng=0)


def test_seconds_are_a_ceiling() -> None:
    x = batch_of(20, (4, 5, 6))
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        result = tnet.batch.cp(x, 3, rng=0, stopping=Stopping(max_iter=10**6, change=1e-300, max_seconds=0.1))
    assert len(result.history.seconds) < 10**6
    assert set(result.status) <= {Status.MAX_SECONDS, Status.CONVERGED}


@pytest.mark.gpu
def test_the_host_waits_once_a_sweep() -> None:
    x = torch.from_numpy(batch_of(200, (5, 6, 7))).cuda()

    def waits(sweeps: int) -> int:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                tnet.batch.cp(x, 3, rng=0, stopping=Stopping(max_iter=sweeps, change=0))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in told)

    waits(2)
    assert waits(25) - waits(5) <= 20


def test_many_panels_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    x = batch_of(13, (4, 5, 6), dtype="float32")
    stopping = Stopping(max_iter=20, change=0)
    wanted = tnet.batch.cp(x, 2, rng=0, stopping=stopping)
    monkeypatch.setattr("tnet.batch.preparation._HOST_PANEL", 300)
    found = tnet.batch.cp(x, 2, rng=0, stopping=stopping)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-4)
    assert np.allclose(found.errors, wanted.errors, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ridge": True}, InputError),
        ({"ridge": 1e300}, InputError),
        ({"init": "best"}, InputError),
        ({"init": CPTensor(np.ones(2), (np.ones((4, 2)),) * 3)}, InputError),
        ({"init": CPBatch(np.ones((3, 2)), (np.ones((3, 4, 2)),) * 3)}, ShapeError),
        ({"init": CPBatch(np.ones((3, 3)), tuple(np.ones((3, n, 3)) for n in (4, 5, 6)))}, ShapeError),
        ({"init": CPBatch(np.ones((3, 2)), tuple(np.full((3, n, 2), np.nan) for n in (4, 5, 6)))}, InputError),
        ({"init": CPBatch(torch.ones((3, 2)), tuple(torch.ones((3, n, 2)) for n in (4, 5, 6)))}, BackendError),
        ({"ridge": -1.0}, InputError),
        ({"ridge": float("nan")}, InputError),
        ({"rng": -3}, InputError),
    ],
    ids=[
        "ridge True",
        "ridge huge",
        "name",
        "no batch",
        "shape",
        "rank",
        "nan",
        "torch",
        "negative",
        "nan ridge",
        "rng",
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        tnet.batch.cp(batch_of(3, (4, 5, 6)), 2, **options)


def test_lists_of_ranks_are_refused() -> None:
    with pytest.raises(RankError):
        tnet.batch.cp(batch_of(3, (4, 5, 6)), [2])  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_scale_of_a_given_start_plays_no_part(scale: float) -> None:
    x = exact(3)
    factors = tuple(np.random.default_rng(1).normal(size=(3, n, 2)) for n in x.shape[1:])
    few = Stopping(max_iter=4, change=0)
    wanted = tnet.batch.cp(x, 2, init=CPBatch(np.ones((3, 2)), factors), stopping=few).errors
    scaled = CPBatch(np.ones((3, 2)), tuple(scale * factor for factor in factors))
    assert np.allclose(tnet.batch.cp(x, 2, init=scaled, stopping=few).errors, wanted, rtol=1e-9)


def test_a_complex_start_of_real_tensors_is_refused() -> None:
    start = CPBatch(np.ones((3, 2), complex), tuple(np.ones((3, n, 2), complex) for n in (5, 6, 7)))
    with pytest.raises(InputError, match="complex and x is real"):
        tnet.batch.cp(exact(3), 2, init=start)
