"""Nonnegative Tucker: planted models, monotone exact errors, starts from a seed, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.decompositions import IterationInfo
from tnet.errors import BackendError, ConvergenceWarning, InputError, RankError
from tnet.formats import TuckerTensor
from tnet.options import Stopping
from tnet.results import Status


def planted(shape: tuple[int, ...], ranks: tuple[int, ...], noise: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    draw = lambda shape: rng.random(shape) * (rng.random(shape) < 0.6)  # noqa: E731
    x = TuckerTensor(draw(ranks), tuple(draw((n, r)) for n, r in zip(shape, ranks, strict=True))).to_dense()
    E = rng.random(shape)
    return x + noise * np.linalg.norm(x) / np.linalg.norm(E) * E


def true_error(x: Any, result: Any) -> float:
    x, y = np.asarray(x), np.asarray(result.tensor)
    return float(np.linalg.norm(x - y) / np.linalg.norm(x))


@pytest.mark.parametrize(
    ("shape", "ranks"), [((12, 13, 14), (2, 3, 2)), ((7, 8, 7, 8), (2, 2, 3, 2)), ((15, 16), (3, 3))]
)
def test_planted_models_are_fitted_to_the_noise(shape: tuple[int, ...], ranks: tuple[int, ...]) -> None:
    x = planted(shape, ranks, noise=0.02)
    best = min(
        (tnet.tucker(x, ranks, nonnegative=True, rng=seed, stopping=Stopping(500, 1e-5)) for seed in range(3)),
        key=lambda result: result.error,
    )
    assert best.error < 0.02
    assert best.tensor.rank == ranks
    assert best.rng_seed in range(3)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_error_never_rises_and_nothing_is_negative(seed: int, signed: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 5, 6)) if signed else rng.random((4, 5, 6))
    errors: list[float] = []

    def record(info: IterationInfo[TuckerTensor]) -> None:
        assert all(np.all(part >= 0) for part in info.tensor.arrays)
        assert info.error == pytest.approx(true_error(x, info), rel=1e-8)
        errors.append(info.error)

    result = tnet.tucker(x, (2, 3, 2), nonnegative=True, rng=seed, stopping=Stopping(30, 0), callback=record)
    assert len(errors) == 30
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(errors))
    assert result.error == pytest.approx(errors[-1], rel=1e-9)
    for factor in result.tensor.factors:
        assert np.allclose(np.linalg.norm(factor, axis=0), 1.0)


def test_at_convergence_the_gradient_is_complementary() -> None:
    x = planted((8, 9, 10), (2, 2, 2), noise=0.2)
    core, factors = tnet.tucker(x, 2, nonnegative=True, rng=0, stopping=Stopping(5000, 1e-14)).tensor
    residual = np.einsum("abc,ia,jb,kc->ijk", core, *factors) - x
    gradient = np.einsum("ijk,ia,jb,kc->abc", residual, *factors)
    assert np.all(gradient > -1e-3)
    assert np.max(np.abs(core * gradient)) < 1e-2 * np.max(core) * np.linalg.norm(x)


def test_extrapolation_and_core_steps_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    x = planted((10, 11, 12), (3, 3, 3), noise=0.05)
    stopping = Stopping(60, 0)
    fast = tnet.tucker(x, 3, nonnegative=True, rng=0, stopping=stopping)
    monkeypatch.setattr("tnet.decompositions.momentum._FIRST", 0.0)
    plain = tnet.tucker(x, 3, nonnegative=True, rng=0, stopping=stopping)
    assert fast.error < plain.error
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(plain.history.error))


def test_every_library_gives_the_same(convert: Callable[[np.ndarray], Any]) -> None:
    x = planted((5, 6, 7), (2, 2, 2), noise=0.05)
    stopping = Stopping(10, 0)
    wanted = tnet.tucker(x, 2, nonnegative=True, rng=3, stopping=stopping)
    found = tnet.tucker(convert(x), 2, nonnegative=True, rng=3, stopping=stopping)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-9)
    assert found.rng_seed == 3


def test_zero_negative_and_exact_data() -> None:
    assert tnet.tucker(np.zeros((3, 4, 5)), 2, nonnegative=True, rng=0).error == 0.0
    negative = tnet.tucker(-np.ones((3, 4, 5)), 2, nonnegative=True, rng=0)
    assert negative.error == 1.0
    assert not np.any(np.asarray(negative.tensor))
    assert negative.status is Status.CONVERGED
    x = planted((6, 7, 8), (1, 1, 1))
    exact = tnet.tucker(x, 1, nonnegative=True, rng=0)
    assert exact.error < 1e-10
    assert exact.error == pytest.approx(true_error(x, exact), abs=1e-14)


def test_ranks_are_clipped_and_signed_data_is_no_trap() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    for seed in range(5):
        assert tnet.tucker(x, 2, nonnegative=True, rng=seed).error < 0.99
        mostly = -np.random.default_rng(seed).random((4, 5, 6))
        mostly[1, 2, 3] = 0.5
        found = tnet.tucker(mostly, 2, nonnegative=True, rng=seed)
        assert found.error**2 <= 1 - 0.25 / np.sum(mostly**2) + 1e-12
    with pytest.warns(UserWarning, match=r"rank 99 .*clipped to 4"):
        assert tnet.tucker(x, (99, 2, 2), nonnegative=True, rng=0).tensor.rank == (4, 2, 2)


def test_what_ends_it() -> None:
    x = planted((6, 7, 8), (2, 2, 2), noise=0.1)

    def stop(info: IterationInfo[TuckerTensor]) -> bool:
        return info.iteration == 3

    def interrupt(info: IterationInfo[TuckerTensor]) -> None:
        if info.iteration == 3:
            raise KeyboardInterrupt

    for callback, status in ((stop, Status.CALLBACK), (interrupt, Status.INTERRUPTED)):
        result = tnet.tucker(x, 2, nonnegative=True, rng=0, callback=callback)
        assert result.status is status
        assert len(result.history.error) == len(result.history.seconds) == 3
        assert result.error == pytest.approx(true_error(x, result), rel=1e-10)
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        tnet.tucker(x, 2, nonnegative=True, rng=0, stopping=Stopping(max_seconds=1e-9))
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        tnet.tucker(x, 2, nonnegative=True, rng=0, stopping=Stopping(2))


def test_ctrl_c_before_the_first_sweep_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("tnet.decompositions.nonnegative_tucker.hals", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tnet.tucker(np.ones((3, 4, 5)), 2, nonnegative=True, rng=0)


@pytest.mark.parametrize(
    ("x", "options", "error", "word"),
    [
        (np.ones((4, 5, 6)), {"rank": None, "rtol": 0.1}, InputError, "rtol"),
        (np.ones((4, 5, 6)), {"method": "hooi"}, InputError, "hooi"),
        (np.ones((4, 5, 6)), {"memory_limit": "1MiB"}, InputError, "memory_limit"),
        (np.ones((4, 5, 6)), {"rank": 2.5}, RankError, "rank"),
        (np.ones((4, 5, 6), dtype=complex), {}, BackendError, "complex128"),
        (torch.ones((4, 5, 6), dtype=torch.complex64), {}, BackendError, "complex64"),
    ],
)
def test_bad_input_is_refused_by_name(x: Any, options: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        tnet.tucker(x, **{"rank": 2, "nonnegative": True, **options})
