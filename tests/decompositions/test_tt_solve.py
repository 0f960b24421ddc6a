"""Linear systems and division in the tensor-train format."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.strategies import random_array, random_format, seeds
from tnet.arrays import to_numpy
from tnet.decompositions import tt_divide, tt_solve
from tnet.errors import BackendError, ConvergenceWarning, InputError, ShapeError
from tnet.formats import MatrixProductOperator, TensorTrain
from tnet.options import Stopping
from tnet.results import Status

local_system = importlib.import_module("tnet.decompositions.local_system")

Convert = Callable[[np.ndarray], Any]


def laplacian(d: int, n: int, wind: float = 0.0, convert: Convert = np.asarray, dtype: str = "float64"):
    """Second differences in each of d directions, with a first difference of weight ``wind``."""
    one = np.eye(n)
    T = 2 * one - (1 - wind) * np.eye(n, k=1) - (1 + wind) * np.eye(n, k=-1)
    if dtype.startswith("complex"):
        T = T + 0.3j * one
    middle = np.zeros((2, n, n, 2), dtype=T.dtype)
    middle[0, :, :, 0], middle[1, :, :, 1], middle[1, :, :, 0] = one, one, T
    cores = [middle[1:] if k == 0 else middle for k in range(d)]
    cores[-1] = cores[-1][..., :1]
    return MatrixProductOperator(tuple(convert(core.astype(dtype)) for core in cores))


def ones(shape: tuple[int, ...], convert: Convert = np.asarray, dtype: str = "float64") -> TensorTrain:
    return TensorTrain(tuple(convert(np.ones((1, n, 1), dtype)) for n in shape))


def residual(A: Any, b: Any, x: Any) -> float:
    A, b, x = (to_numpy(t.to_dense()) for t in (A, b, x))
    return float(np.linalg.norm(b.reshape(-1) - A @ x.reshape(-1)) / np.linalg.norm(b))


@pytest.mark.parametrize("rtol", [1e-2, 1e-6, 1e-10])
@pytest.mark.parametrize("wind", [0.0, 0.5])
def test_a_boundary_value_problem(rtol: float, wind: float) -> None:
    A, b = laplacian(3, 12, wind), ones((12,) * 3)
    result = tt_solve(A, b, rtol=rtol, rng=0)
    assert result.status is Status.CONVERGED
    true = residual(A, b, result.tensor)
    assert true <= rtol
    assert result.error == pytest.approx(true, rel=1e-2, abs=1e-13)
    assert len(result.history.error) == len(result.history.seconds)
    assert result.rng_seed == 0


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_libraries_and_dtypes(convert: Convert, dtype: str) -> None:
    A, b = laplacian(3, 6, convert=convert, dtype=dtype), ones((6,) * 3, convert, dtype)
    result = tt_solve(A, b, rtol=1e-4, rng=0)
    assert all(core.dtype == b.cores[0].dtype for core in result.tensor.cores)
    assert type(result.tensor.cores[0]) is type(b.cores[0])
    assert residual(A, b, result.tensor) <= 2e-4


@settings(max_examples=8)
@given(seed=seeds, rank=st.integers(1, 3))
def test_a_planted_solution_is_found(seed: int, rank: int) -> None:
    shape = (5, 4, 6, 5)
    rng = np.random.default_rng(seed)
    wanted = random_format("tensor_train", rng, shape=shape, rank=rank)
    cores = []
    for n in shape:  # a positive definite operator of Kronecker form
        M = random_array(rng, (n, n))
        cores.append((M @ M.T + n * np.eye(n))[None, :, :, None])
    A = MatrixProductOperator(tuple(cores))
    result = tt_solve(A, tnet.algebra.matvec(A, wanted), rtol=1e-9, rng=seed)
    assert result.converged
    assert all(a <= rank for a in result.tensor.rank)
    assert np.allclose(result.tensor.to_dense(), wanted.to_dense(), atol=1e-6)


@pytest.mark.parametrize("blocks", [0, 10_000])
def test_gmres_does_as_the_dense_solver(convert: Convert, monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    monkeypatch.setattr(local_system, "_DENSE", 0)
    monkeypatch.setattr(local_system, "_BLOCK", blocks)
    for dtype in ("float64", "complex128"):
        A, b = laplacian(3, 7, 0.2, convert, dtype), ones((7,) * 3, convert, dtype)
        result = tt_solve(A, b, rtol=1e-8, rng=0)
        assert result.converged
        assert residual(A, b, result.tensor) <= 1e-8


def test_ranks_stay_small_in_many_dimensions() -> None:
    result = tt_solve(laplacian(12, 6), ones((6,) * 12), rtol=1e-6, rng=0)
    assert result.converged
    assert max(result.tensor.rank) <= 8


def test_one_mode_and_a_zero_right_side() -> None:
    A, b = laplacian(1, 5), TensorTrain((np.arange(1.0, 6.0).reshape(1, 5, 1),))
    assert np.allclose(A.to_dense() @ tt_solve(A, b, rtol=1e-10).tensor.to_dense(), np.arange(1.0, 6.0))
    zero = tt_solve(laplacian(3, 4), ones((4,) * 3).map_arrays(lambda a: a * 0), rtol=1e-6)
    assert zero.error == 0.0
    assert not np.any(zero.tensor.to_dense())


@pytest.mark.parametrize("power", [-250, 250])
def test_extreme_scales(power: int) -> None:
    A, b = laplacian(3, 6), ones((6,) * 3)
    wanted = tt_solve(A, b, rtol=1e-8, rng=0).tensor.to_dense()
    huge = A.map_arrays(lambda core: core * 2.0**power)
    found = tt_solve(huge, b, rtol=1e-8, rng=0).tensor.to_dense()
    assert np.allclose(np.ldexp(found, 3 * power), wanted, rtol=1e-6)


def test_what_cannot_be_solved_warns() -> None:
    A, b = laplacian(3, 4), ones((4,) * 3)
    singular = A.map_arrays(lambda core: core * 0)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        result = tt_solve(singular, b, rtol=1e-6, rng=0, stopping=Stopping(3))
    assert result.error == pytest.approx(1.0)
    assert np.all(np.isfinite(result.tensor.to_dense()))
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        tt_solve(laplacian(3, 9), ones((9,) * 3), rtol=1e-9, rng=0, stopping=Stopping(9, max_seconds=1e-9))


def test_a_callback_stops_and_ctrl_c_keeps_the_best() -> None:
    A, b = laplacian(3, 9), ones((9,) * 3)
    seen: list[Any] = []

    def watch(info: Any) -> bool:
        seen.append(info)
        return True

    result = tt_solve(A, b, rtol=1e-9, rng=0, callback=watch)
    assert result.status is Status.CALLBACK
    assert seen[0].error == result.history.error[0]

    def interrupt(info: Any) -> None:
        if info.iteration == 2:
            raise KeyboardInterrupt

    result = tt_solve(A, b, rtol=1e-12, rng=0, callback=interrupt)
    assert result.status is Status.INTERRUPTED
    assert result.error < seen[0].error


def test_division(convert: Convert) -> None:
    x = np.linspace(0.5, 2.0, 8)
    b = x[:, None, None] + x[:, None] ** 2 + np.sin(x)
    a = 1.0 + x[:, None, None] * x[:, None] * x
    trains = [tnet.tt(convert(y), rtol=1e-12).tensor for y in (a, b)]
    result = tt_divide(*trains, rtol=1e-8, rng=0)
    assert result.converged
    found = to_numpy(result.tensor.to_dense())
    assert np.linalg.norm(b * found - a) <= 1e-8 * np.linalg.norm(a) * 1.01
    assert np.allclose(found, a / b, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "fault", "words"),
    [
        (lambda A, b: tt_solve(A.to_dense(), b, rtol=0.1), BackendError, "ndarray"),
        (lambda A, b: tt_solve(A, b.to_dense(), rtol=0.1), BackendError, "ndarray"),
        (lambda A, b: tt_solve(A, ones((4, 4, 5)), rtol=0.1), ShapeError, r"\(4, 4, 5\)"),
        (lambda A, b: tt_solve(A, b, rtol=0), InputError, "rtol=0"),
        (lambda A, b: tt_solve(A, b, rtol=True), InputError, "rtol=True"),
        (lambda A, b: tt_solve(A, b.map_arrays(lambda c: c * np.nan), rtol=0.1), InputError, "non-finite"),
        (lambda A, b: tt_solve(A.map_arrays(lambda c: c * np.inf), b, rtol=0.1), InputError, "of A"),
        (lambda A, b: tt_solve(A, b.map_arrays(lambda c: c.astype(int)), rtol=0.1), BackendError, "int64"),
        (lambda A, b: tt_divide(b, ones((4, 4)), rtol=0.1), ShapeError, "differ"),
        (lambda A, b: tt_divide(b, b.to_dense(), rtol=0.1), BackendError, "b is ndarray"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_input(call: Callable[[Any, Any], Any], fault: type[Exception], words: str) -> None:
    with pytest.raises(fault, match=words):
        call(laplacian(3, 4), ones((4,) * 3))
