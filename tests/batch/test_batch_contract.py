"""What the three batched decompositions promise alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import tnet
from tests.batch.conftest import batch_of, true_errors
from tnet.arrays import device_of
from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.options import Stopping
from tnet.results import Status

pytestmark = pytest.mark.filterwarnings("ignore::tnet.errors.ConvergenceWarning")

_LONG = Stopping(max_iter=3000, change=1e-11)
_FEW = Stopping(max_iter=40, change=1e-9)
SHAPES = [(4, 5, 6), (6, 5, 4), (3, 4, 2, 3), (5, 7), (4, 1, 3)]


def batched(name: str) -> Callable[..., Any]:
    options = {"rng": 0, "stopping": _FEW} if name == "cp" else {}
    return lambda x, rank, **more: getattr(tnet.batch, name)(x, rank, **(options | more))


def plain(name: str) -> Callable[..., Any]:
    options = {"rng": 0, "stopping": _LONG} if name == "cp" else {}
    return lambda x, rank: getattr(tnet, name)(x, rank, **options)


class _Dense(NamedTuple):
    tensor: np.ndarray


@pytest.fixture(params=["cp", "tucker", "tt"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "complex64"])
def test_the_stated_errors_are_the_true_errors(name: str, shape: tuple[int, ...], dtype: str) -> None:
    x = batch_of(7, shape, dtype=dtype)
    result = batched(name)(x, 2 if 1 not in shape else 1)
    single = dtype in ("float32", "complex64")
    assert np.allclose(result.errors, true_errors(x, result), rtol=0, atol=3e-5 if single else 1e-9)
    assert result.tensor.dtype == x.dtype
    assert result.tensor.shape == x.shape
    assert len(result) == len(result.tensor) == 7
    assert result.seconds > 0


@pytest.mark.parametrize("shape", [(4, 5, 6), (6, 5, 4), (3, 4, 2, 3), (5, 7)], ids=str)
def test_items_equal_those_decomposed_alone(name: str, shape: tuple[int, ...]) -> None:
    x = batch_of(6, shape, noise=0.01)
    result = batched(name)(x, 2, **({"stopping": _LONG} if name == "cp" else {}))
    for i, item in enumerate(x):
        alone = plain(name)(item, 2)
        assert result.errors[i] == pytest.approx(alone.error, rel=1e-4)
        scale = np.linalg.norm(item)
        assert np.linalg.norm(np.asarray(result.tensor[i]) - np.asarray(alone.tensor)) < 1e-2 * alone.error * scale


def test_libraries_agree(name: str, convert: Callable[[np.ndarray], Any]) -> None:
    x = batch_of(5, (4, 5, 6))
    x[1] = 0.0
    for rank in (2, 4):
        wanted, found = batched(name)(x, rank), batched(name)(convert(x), rank)
        assert type(found.tensor.arrays[0]) is type(convert(x))
        assert found.tensor.device == device_of(convert(x))
        assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-6)
        assert np.allclose(found.errors, wanted.errors, atol=1e-7)


def test_half_precision_returns_its_dtype(name: str) -> None:
    x = batch_of(4, (4, 5, 6))
    for half in (x.astype(np.float16), torch.from_numpy(x).bfloat16()):
        result = batched(name)(half, 2)
        assert result.tensor.dtype == half.dtype
        wide = half.astype(float) if isinstance(half, np.ndarray) else half.double().numpy()
        parts = result.tensor.map_arrays(lambda a: a.astype(float) if isinstance(a, np.ndarray) else a.double())
        errors = np.linalg.norm((wide - np.asarray(parts.to_dense())).reshape(4, -1), axis=1)
        assert np.allclose(result.errors, errors / np.linalg.norm(wide.reshape(4, -1), axis=1), atol=1e-3)


@pytest.mark.parametrize("power", [-900, -30, 600])
def test_a_power_of_two_on_one_item_touches_no_other(name: str, power: int) -> None:
    x = batch_of(5, (4, 5, 3))
    scaled = x.copy()
    scaled[2] *= 2.0**power
    one, other = batched(name)(x, 2), batched(name)(scaled, 2)
    factor = np.ones(5)
    factor[2] = 2.0**power
    assert np.array_equal(np.asarray(other.tensor), np.asarray(one.tensor) * factor[:, None, None, None])
    assert np.array_equal(one.errors, other.errors)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e307])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_extreme_scales_stay_finite(name: str, scale: float, dtype: str) -> None:
    x = batch_of(3, (4, 5, 6), dtype=dtype)
    x = x / np.max(np.abs(x)) * scale
    result = batched(name)(x, 2)
    assert all(np.all(np.isfinite(array)) for array in result.tensor.arrays)
    shrunk = result.tensor.map_arrays(np.array)
    scaled = np.asarray(shrunk.with_arrays((shrunk.arrays[0] / scale, *shrunk.arrays[1:])))
    if np.max(np.abs(shrunk.arrays[1])) < 2:  # else the parts share the scale
        flat = np.linalg.norm((x / scale - scaled).reshape(3, -1), axis=1)
        assert np.allclose(flat / np.linalg.norm((x / scale).reshape(3, -1), axis=1), result.errors, atol=1e-9)


def test_zero_items_give_zero_models_beside_others(name: str) -> None:
    x = batch_of(5, (4, 5, 6))
    x[[0, 3]] = 0.0
    result = batched(name)(x, 2)
    assert not np.any(np.asarray(result.tensor)[[0, 3]])
    assert np.array_equal(result.errors == 0, [True, False, False, True, False])
    assert result.converged[0]
    zero = batched(name)(np.zeros((3, 4, 5, 6)), 2)
    assert not np.any(np.asarray(zero.tensor))
    assert not np.any(zero.errors)
    assert np.all(zero.converged)


def test_low_rank_items_are_recovered_to_roundoff(name: str) -> None:
    rng = np.random.default_rng(3)
    a, b, c = (rng.normal(size=(20, n, 2)) for n in (5, 6, 7))
    x = np.einsum("bir,bjr,bkr->bijk", a, b, c)
    x[4] = np.einsum("i,j,k->ijk", a[4, :, 0], b[4, :, 0], c[4, :, 0])  # of lower rank than asked
    options = {"stopping": Stopping(max_iter=4000, change=1e-13)} if name == "cp" else {}
    result = batched(name)(x, 2, **options)
    assert np.max(true_errors(x, result)) < (1e-7 if name == "cp" else 1e-13)
    assert np.allclose(result.errors, true_errors(x, result), rtol=1e-3, atol=1e-14)
    assert result.error_kind == "exact"


def test_modes_of_size_one_and_vectors(name: str) -> None:
    x = batch_of(3, (1, 4, 1))
    result = batched(name)(x, 1)
    assert np.allclose(true_errors(x, result), result.errors, atol=1e-9)
    vectors = np.arange(1.0, 13.0).reshape(3, 4)
    single: Any = () if name == "tt" else 1
    assert np.max(true_errors(vectors, batched(name)(vectors, single))) < 1e-14


def test_one_item_is_a_batch(name: str) -> None:
    x = batch_of(1, (4, 5, 6))
    assert batched(name)(x, 2).tensor.shape == (1, 4, 5, 6)


def test_inputs_stay_as_they_are(name: str) -> None:
    x = batch_of(4, (4, 5, 6))
    wanted = np.asarray(batched(name)(x, 2).tensor)
    strided = np.zeros((8, 8, 10, 12))[::-2, ::2, ::-2, ::2]
    strided[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for view in (strided, frozen, np.asfortranarray(x), x.tolist()):
        assert np.allclose(np.asarray(batched(name)(view, 2).tensor), wanted, atol=1e-8)
    assert np.array_equal(strided, x)


def test_gradients_are_detached(name: str) -> None:
    x = torch.from_numpy(batch_of(2, (4, 5, 6))).requires_grad_()
    assert not any(array.requires_grad for array in batched(name)(x, 2).tensor.arrays)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_items_are_named(name: str, bad: float) -> None:
    x = batch_of(30, (4, 5, 6))
    x[3, 0, 0, 1] = bad
    with pytest.raises(InputError, match="non-finite values in item 3:"):
        batched(name)(x, 2)
    x[3:20] = bad
    with pytest.raises(InputError, match=r"17 items \(3, 4, 5, 6, 7, 8 \.\.\.\)"):
        batched(name)(x, 2)


@pytest.mark.parametrize("rank", [0, -1, 2.5, True, "3", float("nan"), None, [1, 2, 3, 4, 5], [0, 0, 0]])
def test_bad_ranks_are_refused_by_name(name: str, rank: Any) -> None:
    with pytest.raises(RankError, match="rank"):
        batched(name)(batch_of(2, (4, 5, 6)), rank)


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (np.zeros((2, 3, 4), dtype=int), BackendError),
        (np.zeros((2, 3, 4), dtype=bool), BackendError),
        (np.ma.zeros((2, 3, 4)), BackendError),
        (np.zeros(3), ShapeError),
        (np.float64(1.0), ShapeError),
        (np.zeros((0, 3, 4)), InputError),
        (np.zeros((2, 0, 4)), InputError),
        (torch.zeros((2, 3, 4), device="meta"), InputError),
    ],
    ids=["int", "bool", "masked", "vector", "scalar", "no items", "empty mode", "meta"],
)
def test_other_input_is_refused(name: str, x: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="x"):
        batched(name)(x, 1)


@pytest.mark.parametrize("method", ["tucker", "tt"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (6, 5, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_no_item_exceeds_the_tolerance(method: str, shape: tuple[int, ...], dtype: str) -> None:
    x = batch_of(9, shape, dtype=dtype)
    for rtol in (0.5, 0.1, 0.02, 1e-4, 1e-9, 0.0):
        result = getattr(tnet.batch, method)(x, rtol=rtol)
        assert np.max(true_errors(x, result)) <= rtol + 1e-14
        assert np.all(result.converged)
        assert set(result.status) == {Status.DIRECT}


@pytest.mark.parametrize("method", ["tucker", "tt"])
def test_the_uniform_rank_is_the_largest_that_an_item_needs(method: str) -> None:
    rng = np.random.default_rng(0)
    x = np.zeros((5, 6, 6, 6))
    for i in range(5):
        a, b, c = (rng.normal(size=(6, i + 1)) for _ in range(3))
        x[i] = np.einsum("ir,jr,kr->ijk", a, b, c)
    result = getattr(tnet.batch, method)(x, rtol=1e-8)
    assert set(np.ravel(result.tensor.rank)) == {5}
    assert set(np.ravel(getattr(tnet.batch, method)(x[:2], rtol=1e-8).tensor.rank)) == {2}


@pytest.mark.parametrize("method", ["tucker", "tt"])
def test_rank_and_tolerance_exclude_each_other(method: str) -> None:
    x = batch_of(2, (4, 5, 6))
    with pytest.raises(RankError, match="both given"):
        getattr(tnet.batch, method)(x, 2, rtol=0.1)
    for rtol in (-0.1, 1.0, float("nan"), True, "small"):
        with pytest.raises(InputError, match="rtol"):
            getattr(tnet.batch, method)(x, rtol=rtol)


@pytest.mark.parametrize("method", ["tucker", "tt"])
def test_ranks_above_the_limits_are_clipped_with_a_warning(method: str) -> None:
    x = batch_of(3, (4, 5, 6))
    with pytest.warns(UserWarning, match=r"99 is clipped to \d+"):
        result = getattr(tnet.batch, method)(x, 99)
    assert np.max(true_errors(x, result)) < 1e-13
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(tnet.batch, method)(x, 4)


@pytest.mark.parametrize("method", ["tucker", "tt"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize("decay", [1.0, 1e-2, 1e-5, 1e-8])
def test_bases_are_orthonormal(method: str, dtype: str, decay: float) -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(6, n, 3)) for n in (9, 8, 3))
    x = np.einsum("bir,bjr,bkr,r->bijk", a, b, c, decay ** np.arange(3)).astype(dtype)
    x[2] = 0
    result = getattr(tnet.batch, method)(x, 3)
    parts = result.tensor.factors if method == "tucker" else result.tensor.cores[1:]
    for part in parts:
        U = part if method == "tucker" else np.swapaxes(np.reshape(part, (6, part.shape[1], -1)), 1, 2)
        departure = np.swapaxes(U, 1, 2).conj() @ U - np.eye(U.shape[-1])
        assert np.max(np.abs(departure)) < (2e-6 if dtype == "float32" else 1e-13)
    kept = np.flatnonzero(np.any(x, axis=(1, 2, 3)))
    assert np.max(true_errors(x[kept], _Dense(np.asarray(result.tensor)[kept]))) < 1e-6


def test_the_report_is_short(name: str) -> None:
    report = repr(batched(name)(batch_of(4, (4, 5, 6)), 2))
    assert len(report.splitlines()) <= 12
    assert "4 x " in report
    assert "errors" in report
