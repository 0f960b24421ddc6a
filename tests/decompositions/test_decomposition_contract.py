"""What every decomposition promises, run over the registry."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch

from tests.decompositions.registry import Entry
from tnet.errors import BackendError, ConvergenceWarning, InputError, RankError
from tnet.results import Decomposition

pytestmark = pytest.mark.filterwarnings("ignore::tnet.errors.ConvergenceWarning")

Sample = Callable[..., np.ndarray]


def true_error(x: Any, result: Decomposition[Any]) -> float:
    x, y = np.asarray(x), np.asarray(result.tensor)
    if x.dtype.kind != "c":  # exactly into range: squares of the extreme scales are not numbers
        exponent = int(np.frexp(np.max(np.abs(x.astype(float))))[1])
        x, y = np.ldexp(x.astype(float), -exponent), np.ldexp(y.astype(float), -exponent)
    return float(np.linalg.norm(x - y) / np.linalg.norm(x))


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "complex64"])
def test_the_stated_error_is_the_true_error(entry: Entry, sample: Sample, dtype: str) -> None:
    x = sample(entry.shape, dtype=dtype)
    if entry.real and np.iscomplexobj(x):
        with pytest.raises(BackendError, match="complex"):
            entry.call(x, entry.rank)
        return
    result = entry.call(x, entry.rank)
    tolerance = 1e-9 if np.dtype(dtype).itemsize // (1 + (np.dtype(dtype).kind == "c")) == 8 else 2e-5
    assert 0 < result.error < 1
    assert abs(result.error - true_error(x, result)) <= tolerance
    assert result.tensor.dtype == x.dtype
    assert result.tensor.shape == x.shape
    assert result.seconds > 0


def test_half_precision_returns_its_dtype(entry: Entry, sample: Sample) -> None:
    x = sample(entry.shape)
    for tensor in (x.astype(np.float16), torch.from_numpy(x).bfloat16()):
        result = entry.call(tensor, entry.rank)
        assert result.tensor.dtype == tensor.dtype
        dense = tensor.astype(float) if isinstance(tensor, np.ndarray) else tensor.double().numpy()
        wide = result.tensor.astype("float32")
        assert abs(result.error - true_error(dense, _as_result(result, wide))) < 0.02


def _as_result(result: Decomposition[Any], tensor: Any) -> Decomposition[Any]:
    import dataclasses

    return dataclasses.replace(result, tensor=tensor)


def test_libraries_agree(entry: Entry, sample: Sample) -> None:
    x = sample(entry.shape)
    wanted = entry.call(x, entry.rank)
    for convert in (torch.from_numpy, array_api_strict.asarray):
        found = entry.call(convert(x), entry.rank)
        assert type(found.tensor.arrays[0]) is type(convert(x))
        assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-5)
        assert found.error == pytest.approx(wanted.error, abs=1e-6)


def test_the_relative_tolerance_is_kept(entry: Entry, sample: Sample) -> None:
    if entry.at is None:
        pytest.skip("takes a rank only")
    x = sample(entry.shape)
    for rtol in (0.5, 0.1, 0.02, 1e-4, 1e-9, 0.0):
        result = entry.at(x, rtol)
        assert true_error(x, result) <= rtol + 1e-14
        assert result.converged


def test_full_rank_is_exact(entry: Entry, sample: Sample) -> None:
    if not entry.clips:
        pytest.skip("has no full rank")
    x = sample(entry.shape)
    with pytest.warns(UserWarning, match=r"1000000000 is clipped to \d+"):
        result = entry.call(x, 10**9)
    assert true_error(x, result) < 1e-12
    assert result.error < 1e-12


def test_more_rank_is_less_error(entry: Entry, sample: Sample) -> None:
    x = sample(entry.shape)
    errors = [entry.call(x, rank).error for rank in range(1, entry.rank + 2)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize("power", [-800, -30, 1, 600])
def test_a_power_of_two_passes_through_exactly(entry: Entry, sample: Sample, power: int) -> None:
    x = sample(entry.shape)
    one, scaled = entry.call(x, entry.rank), entry.call(x * 2.0**power, entry.rank)
    assert scaled.error == one.error
    assert np.array_equal(np.asarray(scaled.tensor), np.asarray(one.tensor) * 2.0**power)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e-310, 1e308])
def test_extreme_scales(entry: Entry, sample: Sample, scale: float) -> None:
    x = sample(entry.shape)
    x = x / np.max(np.abs(x)) * scale
    result = entry.call(x, entry.rank)
    error = true_error(x, result)
    assert np.isfinite(result.error)
    assert all(np.all(np.isfinite(np.asarray(part))) for part in result.tensor.arrays)
    assert abs(error - result.error) < (1e-2 if scale == 1e-310 else 1e-9)


def test_zeros_give_a_zero_model(entry: Entry) -> None:
    result = entry.call(np.zeros(entry.shape), entry.rank)
    assert result.error == 0.0
    assert not np.any(np.asarray(result.tensor))
    assert result.converged
    if entry.at is not None:
        assert not np.any(np.asarray(entry.at(np.zeros(entry.shape), 0.1).tensor))


def test_modes_of_size_one(entry: Entry, sample: Sample) -> None:
    if len(entry.shape) == 2:
        pytest.skip("digits of size one have their own test")
    shape = (1, *entry.shape[1:-1], 1)
    x = sample(shape)
    assert abs(true_error(x, result := entry.call(x, 1)) - result.error) < 1e-9


def test_vectors_are_trivial(entry: Entry) -> None:
    if len(entry.shape) == 2:
        pytest.skip("takes matrices")
    x = np.arange(1.0, 6.0)
    single: Any = () if entry.name.startswith("tt") else 1
    result = entry.call(x, single)
    assert true_error(x, result) < 1e-14


def test_inputs_stay_as_they_are(entry: Entry, sample: Sample, tmp_path: Path) -> None:
    x = sample(entry.shape)
    wanted = np.asarray(entry.call(x, entry.rank).tensor)
    big = np.zeros([2 * n for n in entry.shape])
    strided = big[tuple(slice(None, None, -2) for _ in entry.shape)]
    strided[...] = x
    np.save(tmp_path / "x.npy", x)
    views = [strided, np.asfortranarray(x), x.copy(), np.load(tmp_path / "x.npy", mmap_mode="r"), x.tolist()]
    views[2].flags.writeable = False
    for view in views:
        before = hashlib.sha256(np.asarray(view).tobytes()).hexdigest()
        found = np.asarray(entry.call(view, entry.rank).tensor)
        assert hashlib.sha256(np.asarray(view).tobytes()).hexdigest() == before
        assert np.allclose(found, wanted, atol=1e-6)


def test_gradients_are_detached(entry: Entry, sample: Sample) -> None:
    x = torch.from_numpy(sample(entry.shape)).requires_grad_()
    result = entry.call(x, entry.rank)
    assert not any(part.requires_grad for part in result.tensor.arrays)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_non_finite_input_is_refused(entry: Entry, sample: Sample, bad: float, everywhere: bool) -> None:
    x = sample(entry.shape)
    x[... if everywhere else tuple(n - 1 for n in x.shape)] = bad
    with pytest.raises(InputError, match="non-finite"):
        entry.call(x, entry.rank)


@pytest.mark.parametrize("rank", [0, -1, 2.5, True, "3", float("nan"), None, [1, 2, 3, 4, 5], [0, 0, 0], []])
def test_bad_ranks_are_refused_by_name(entry: Entry, sample: Sample, rank: Any) -> None:
    with pytest.raises(RankError, match="rank"):
        entry.call(sample(entry.shape), rank)


@pytest.mark.parametrize("rtol", [-0.1, 1.0, float("nan"), float("inf"), True, "small"])
def test_bad_tolerances_are_refused_by_name(entry: Entry, sample: Sample, rtol: Any) -> None:
    if entry.at is None:
        pytest.skip("takes a rank only")
    with pytest.raises(InputError, match="rtol"):
        entry.at(sample(entry.shape), rtol)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "bool", "O", "U1", "M8[s]", "longdouble"])
def test_other_dtypes_are_refused(entry: Entry, dtype: str) -> None:
    with pytest.raises(BackendError, match=r"x|w"):
        entry.call(np.zeros(entry.shape, dtype=dtype), entry.rank)


def test_things_that_are_no_plain_array_are_refused(entry: Entry) -> None:
    with pytest.raises(BackendError, match="masked"):
        entry.call(np.ma.zeros(entry.shape), entry.rank)
    with pytest.raises(InputError):
        entry.call(torch.zeros(entry.shape, device="meta"), entry.rank)
    with pytest.raises(InputError):
        entry.call([[1.0, 2.0], [3.0]], entry.rank)


def test_empty_and_scalar_input_is_refused(entry: Entry) -> None:
    with pytest.raises(InputError):
        entry.call(np.zeros((*entry.shape[:-1], 0)), entry.rank)
    with pytest.raises(InputError):
        entry.call(np.float64(3.0), entry.rank)


def test_clipping_warns_with_both_numbers(entry: Entry, sample: Sample) -> None:
    if not entry.clips or entry.n_ranks is None:
        pytest.skip("never clips")
    with pytest.warns(UserWarning, match=r"rank 99 .*clipped to \d+"):
        entry.call(sample(entry.shape), [1] * (entry.n_ranks - 1) + [99])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        entry.call(sample(entry.shape), [2] * entry.n_ranks)


def test_the_report_is_short(entry: Entry, sample: Sample) -> None:
    report = repr(entry.call(sample(entry.shape), entry.rank))
    assert len(report.splitlines()) <= 12
    assert "error" in report
