"""Tensor rings: the ceiling of the error, the choice of the cut, alternating least squares."""

from __future__ import annotations

import itertools
import math
import os
import signal
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnet
from tnet.decompositions import IterationInfo, ring_als
from tnet.decompositions.ring_svd import ring_limits
from tnet.errors import BackendError, ConvergenceWarning, InputError, RankError, ShapeError
from tnet.formats import TensorRing
from tnet.options import Stopping
from tnet.results import Status

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


def planted_ring(seed: int, shape: tuple[int, ...], ranks: tuple[int, ...], complex_: bool = False) -> TensorRing:
    rng = np.random.default_rng(seed)
    cores = []
    for k, n in enumerate(shape):
        size = (ranks[k], n, ranks[(k + 1) % len(shape)])
        cores.append(rng.normal(size=size) + (1j * rng.normal(size=size) if complex_ else 0))
    return TensorRing(tuple(cores))


def planted(seed: int, shape: tuple[int, ...], ranks: tuple[int, ...], complex_: bool = False) -> np.ndarray:
    return np.asarray(planted_ring(seed, shape, ranks, complex_))


def distance(x: np.ndarray, result: Any) -> float:
    return float(np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x))


@given(shapes, st.floats(0.0, 0.99), st.integers(0, 10_000), st.booleans())
def test_the_tolerance_is_kept(shape: tuple[int, ...], rtol: float, seed: int, complex_: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)
    result = tnet.tr(x, rtol=rtol)
    assert distance(x, result) <= rtol + 1e-13
    assert result.error == pytest.approx(distance(x, result), abs=1e-10)
    assert result.status is Status.DIRECT


@given(shapes, st.integers(1, 4), st.integers(0, 10_000))
def test_ranks_are_bounds(shape: tuple[int, ...], rank: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=shape)
    ranks = [min(rank, limit) for limit in ring_limits(shape)]
    result = tnet.tr(x, ranks)
    assert len(result.tensor.rank) == len(shape)
    assert all(r <= bound for r, bound in zip(result.tensor.rank, ranks, strict=True))
    assert result.error == pytest.approx(distance(x, result), abs=1e-10)


def test_limits_are_those_of_trains() -> None:
    assert ring_limits((7,)) == [1]
    assert ring_limits((4, 6)) == [4, 4]
    assert ring_limits((4, 5, 6)) == [6, 5, 6]
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    assert tnet.tr(x, ring_limits(x.shape)).error < 1e-13


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rtol", [0.3, 0.05])
def test_seldom_more_parameters_than_a_train(seed: int, rtol: float) -> None:
    x = planted(seed, (6, 7, 5, 8), (2, 3, 2, 3)) + 0.2 * np.random.default_rng(seed).normal(size=(6, 7, 5, 8))
    ring, train = tnet.tr(x, rtol=rtol), tnet.tt(x, rtol=rtol)
    assert ring.tensor.n_params <= 1.02 * train.tensor.n_params


def test_the_cut_saves_parameters() -> None:
    # A cyclic shift of a train: a train in the given order needs the product of two ranks on every bond.
    x = np.moveaxis(planted(0, (8, 8, 8, 8), (1, 3, 3, 3)), (0, 1, 2, 3), (2, 3, 0, 1))
    ring, train = tnet.tr(x, rtol=1e-9), tnet.tt(x, rtol=1e-9)
    assert ring.tensor.rank == (3, 3, 1, 3)
    assert ring.error < 1e-9
    assert ring.tensor.n_params < train.tensor.n_params / 2


def test_many_cuts_and_few_keep_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    x = planted(0, (6, 7, 8), (2, 2, 2)) + 0.1 * np.random.default_rng(0).normal(size=(6, 7, 8))
    sizes = []
    for work in (0, 1000):
        monkeypatch.setattr("tnet.decompositions.ring_svd._SEARCH_WORK", work)
        result = tnet.tr(x, rtol=0.2)
        assert distance(x, result) <= 0.2
        sizes.append(result.tensor.n_params)
    assert sizes[1] <= sizes[0]


def test_tight_tolerances_leave_the_gram_matrix() -> None:
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(n, 3)))[0] for n in (10, 100))
    x = ((U * [1.0, 1e-5, 1e-10]) @ V.T).reshape(10, 10, 10)
    for rtol in (1e-6, 1e-8, 1e-12):
        assert distance(x, tnet.tr(x, rtol=rtol)) <= rtol


@given(
    st.integers(0, 1000),
    st.sampled_from([(4, 5, 6), (3, 4, 2, 3), (5, 7), (2, 3, 2, 2, 3)]),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["svd", "random"]),
)
def test_als_is_monotone_true_and_better(
    seed: int, shape: tuple[int, ...], rank: int, complex_: bool, init: Any
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)
    stopping = Stopping(max_iter=12, change=0)
    result = tnet.tr(x, rank, method="als", init=init, rng=seed, stopping=stopping)
    assert result.error == pytest.approx(distance(x, result), abs=1e-7)
    assert all(b <= a for a, b in itertools.pairwise(result.history.error))
    assert result.tensor.rank == (rank,) * len(shape)
    if init == "svd":
        assert result.error <= tnet.tr(x, rank).error + 1e-9


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize(("shape", "ranks"), [((8, 9, 10), (2, 3, 2)), ((6, 6, 6, 6), (2, 2, 3, 2))])
def test_als_finds_planted_rings(shape: tuple[int, ...], ranks: tuple[int, ...], complex_: bool) -> None:
    x = planted(1, shape, ranks, complex_)
    result = tnet.tr(x, ranks, method="als", init="random", rng=0)
    assert distance(x, result) < 1e-6
    assert result.converged


def test_als_solves_each_core() -> None:
    """At a fixed point no core alone can be improved: compared with lstsq on the whole design matrix."""
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    result = tnet.tr(x, 2, method="als", rng=0, stopping=Stopping(max_iter=5000, change=1e-14))
    for k, core in enumerate(result.tensor.cores):
        columns = []
        for unit in np.eye(core.size):
            cores = list(result.tensor.cores)
            cores[k] = unit.reshape(core.shape)
            columns.append(np.asarray(TensorRing(tuple(cores))).ravel())
        A = np.array(columns).T
        best = x.ravel() - A @ np.linalg.lstsq(A, x.ravel(), rcond=None)[0]
        assert result.error == pytest.approx(np.linalg.norm(best) / np.linalg.norm(x), rel=1e-6)


def test_panels_of_the_chain_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 3, 4))
    options: dict[str, Any] = {"method": "als", "rng": 0, "stopping": Stopping(max_iter=5, change=0)}
    wanted = tnet.tr(x, 2, **options)
    monkeypatch.setattr(ring_als, "_PANEL", 1)
    assert tnet.tr(x, 2, **options).error == pytest.approx(wanted.error, rel=1e-9)


def test_a_start_is_taken_as_given() -> None:
    x = planted(0, (5, 6, 7), (2, 2, 2))
    first = tnet.tr(x, 2, method="als", init="random", rng=3, stopping=Stopping(max_iter=50, change=0))
    again = tnet.tr(x, 2, method="als", init=first.tensor, stopping=Stopping(max_iter=1, change=0))
    assert again.error <= first.error + 1e-12
    assert again.rng_seed is None
    assert first.rng_seed == 3
    zero = TensorRing(tuple(0 * core for core in first.tensor.cores))
    assert np.isfinite(tnet.tr(x, 2, method="als", init=zero, stopping=Stopping(max_iter=2, change=0)).error)


def test_one_seed_one_result(convert: Callable[[np.ndarray], Any]) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    options: dict[str, Any] = {
        "method": "als",
        "init": "random",
        "rng": 7,
        "stopping": Stopping(max_iter=5, change=0),
    }
    wanted, found = tnet.tr(x, (2, 3, 2), **options), tnet.tr(convert(x), (2, 3, 2), **options)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-8)


def test_callback_and_account() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6)) * 2.0**700
    seen: list[IterationInfo[TensorRing]] = []

    def third(info: IterationInfo[TensorRing]) -> bool:
        seen.append(info)
        return info.iteration == 3

    result = tnet.tr(x, 2, method="als", rng=0, callback=third)
    assert result.status is Status.CALLBACK
    assert [info.iteration for info in seen] == [1, 2, 3]
    assert result.history.error == tuple(info.error for info in seen)
    scale = 2.0**-700
    true = np.linalg.norm(x * scale - np.asarray(seen[-1].tensor) * scale) / np.linalg.norm(x * scale)
    assert seen[-1].error == pytest.approx(true, abs=1e-7)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        assert tnet.tr(x, 2, method="als", stopping=Stopping(max_iter=2)).status is Status.MAX_ITER
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        stopped = tnet.tr(x, 2, method="als", stopping=Stopping(max_seconds=1e-9, change=0))
    assert stopped.status is Status.MAX_SECONDS


def test_ctrl_c_returns_the_last_sweep() -> None:
    x = np.random.default_rng(0).normal(size=(6, 7, 8))

    def interrupt(info: IterationInfo[TensorRing]) -> None:
        if info.iteration == 4:
            os.kill(os.getpid(), signal.SIGINT)

    result = tnet.tr(x, 2, method="als", rng=0, callback=interrupt, stopping=Stopping(max_iter=10_000, change=0))
    assert result.status is Status.INTERRUPTED
    assert len(result.history.error) >= 4
    assert result.error == pytest.approx(distance(x, result), abs=1e-7)

    def at_once(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_als._Sweeper, "sweep", at_once)
        with pytest.raises(KeyboardInterrupt):
            tnet.tr(x, 2, method="als")


X = np.ones((3, 4, 5))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rank": 2, "method": "fast"}, InputError, "method='fast'"),
        ({"rank": 2, "method": "als", "init": "hosvd"}, InputError, "init='hosvd'"),
        ({"rank": 2, "method": "als", "init": 3}, InputError, "init=3"),
        ({"rank": 2, "method": "als", "rng": -1}, InputError, "rng"),
        ({"rank": 2, "rtol": 0.1}, RankError, "both"),
        ({}, RankError, "neither"),
        ({"rtol": 0.1, "method": "als"}, RankError, "als"),
        ({"rank": (2, 2)}, RankError, "2 ranks for 3 bonds"),
        ({"rank": 1, "method": "als", "init": TensorRing((np.ones((2, 3, 2)),))}, ShapeError, "init has shape"),
        (
            {"rank": 1, "method": "als", "init": TensorRing(tuple(np.full((1, n, 1), np.nan) for n in (3, 4, 5)))},
            InputError,
            "non-finite",
        ),
        (
            {"rank": 1, "method": "als", "init": TensorRing(tuple(torch.ones((1, n, 1)) for n in (3, 4, 5)))},
            BackendError,
            "librar",
        ),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tnet.tr(X, **options)


def test_a_single_mode_and_a_single_entry() -> None:
    x = np.arange(1.0, 6.0)
    for method in ("svd", "als"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert distance(x, tnet.tr(x, 1, method=method)) < 1e-14
    wide = tnet.tr(x, 1, method="als", init=TensorRing((np.ones((1, 5, 1)),)))
    assert distance(x, wide) < 1e-14
    assert tnet.tr(np.full((1, 1, 1), 2.0), rtol=0.0).tensor.rank == (1, 1, 1)
    assert math.isclose(float(np.asarray(tnet.tr(np.full((1, 1), 2.0), 1).tensor)[0, 0]), 2.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_error_of_als_is_true_where_the_normal_equations_are_singular(dtype: str) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = (rng.normal(size=(3, 3, 3, 2, 1)) * (rng.random((3, 3, 3, 2, 1)) < 0.25)).astype(dtype)
        result = tnet.tr(x, 4, method="als", init="random", rng=seed, stopping=Stopping(max_iter=5, change=0))
        wide = np.asarray(result.tensor.astype("float64"))
        true = np.linalg.norm(x - wide) / np.linalg.norm(x.astype(float))
        assert result.error == pytest.approx(true, rel=1e-3, abs=2e-5 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_given_start_may_have_any_scale(scale: float) -> None:
    x = planted(0, (3, 4, 5), (2, 2, 2))
    start = planted_ring(1, (3, 4, 5), (2, 2, 2))
    stopping = Stopping(max_iter=3, change=0)
    for tensor in (x, x.astype(np.float32)):
        wanted = tnet.tr(tensor, 2, method="als", init=start, stopping=stopping)
        far = start.map_arrays(lambda core: scale * core)
        found = tnet.tr(tensor, 2, method="als", init=far, stopping=stopping)
        assert found.error == pytest.approx(wanted.error, rel=1e-4)


def test_starts_of_other_kinds() -> None:
    x = planted(0, (3, 4, 5), (2, 2, 2))
    start = TensorRing(tuple(np.ones((2, n, 2)) for n in x.shape))
    with pytest.raises(InputError, match="complex"):
        tnet.tr(x, 2, method="als", init=start.astype("complex128"))
    recording = start.map_arrays(lambda core: torch.from_numpy(core).requires_grad_())
    stopping = Stopping(max_iter=2, change=0)
    result = tnet.tr(torch.from_numpy(x), 2, method="als", init=recording, stopping=stopping)
    assert not any(core.requires_grad for core in result.tensor.arrays)
