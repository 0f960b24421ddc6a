"""Arrays read in slabs: the same results, within the memory allowed."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.arrays import to_numpy
from tnet.errors import BackendError, InputError, MemoryLimitError, RankError


def low_rank(shape: tuple[int, ...], rank: int, noise: float, dtype: str = "float64", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)

    def normal(*size: int) -> np.ndarray:
        return rng.normal(size=size) + (1j * rng.normal(size=size) if "complex" in dtype else 0)

    x = normal(*(min(rank, n) for n in shape))
    for mode, n in enumerate(shape):
        x = np.moveaxis(np.tensordot(normal(n, x.shape[mode]), x, (1, mode)), 0, mode)
    x = x / np.linalg.norm(x)
    E = normal(*shape)
    return np.ascontiguousarray((x + noise * E / np.linalg.norm(E)).astype(dtype))


def on_disk(folder: Path, x: np.ndarray, order: Any = "C") -> np.memmap:
    path = folder / "x.npy"
    np.save(path, np.asarray(x, order=order))
    return np.load(path, mmap_mode="r")


def true_error(x: np.ndarray, result: Any) -> float:
    return float(np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x))


def peak_of(call: Callable[[], Any]) -> tuple[Any, int]:
    """Return a result and the largest number of bytes that were allocated at once on the way."""
    call()  # imports, caches
    gc.collect()
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)
DTYPES = ["float64", "float32", "complex128", "complex64", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "limit"),
    [
        ((60, 50, 70), 700_000),
        ((70, 50, 60), 700_000),
        ((6, 120, 100), 1_000_000),
        ((400, 20, 30), 1_700_000),
        ((20, 16, 22, 18), 700_000),
    ],
)
def test_tucker_allocates_no_more_than_it_may(tmp_path: Path, shape: tuple[int, ...], limit: int, dtype: str) -> None:
    x = low_rank(shape, 4, 0.1, "float32" if dtype == "float16" else dtype).astype(dtype)
    stored = on_disk(tmp_path, x)
    rank = [min(6, n) for n in shape]
    result, peak = peak_of(lambda: tnet.tucker(stored, rank, memory_limit=limit))
    assert peak <= limit
    wanted = tnet.tucker(x, rank)
    assert result.tensor.rank == wanted.tensor.rank
    assert np.allclose(
        np.asarray(result.tensor), np.asarray(wanted.tensor), atol=1e-2 if dtype == "float16" else 1e-5
    )
    assert result.error == pytest.approx(wanted.error, rel=1e-3)
    assert result.tensor.dtype == x.dtype


@pytest.mark.parametrize("rtol", [0.5, 0.11, 0.03, 1e-9, 0.0])
@pytest.mark.parametrize("order", ["C", "F"])
def test_tucker_keeps_the_tolerance(tmp_path: Path, rtol: float, order: str) -> None:
    x = low_rank((30, 26, 34), 4, 0.1)
    stored = on_disk(tmp_path, x, order)
    result, peak = peak_of(lambda: tnet.tucker(stored, rtol=rtol, memory_limit=1_700_000))
    assert peak <= 1_500_000
    assert true_error(x, result) <= rtol + 1e-14
    assert result.error == pytest.approx(true_error(x, result), abs=1e-10)
    assert result.tensor.rank == tnet.tucker(x, rtol=rtol).tensor.rank


@given(shapes, st.integers(1, 4), st.booleans(), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_tucker_by_slabs_is_tucker(shape: tuple[int, ...], rank: int, complex_: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)
    ranks = [min(rank, n, x.size // n) for n in shape]
    wanted = tnet.tucker(x, ranks)
    limit = 1
    while True:  # the least power of two that is enough
        try:
            found = tnet.tucker(x, ranks, memory_limit=limit)
            break
        except MemoryLimitError:
            limit *= 2
            assert limit < 100_000
    assert found.error == pytest.approx(wanted.error, abs=1e-10)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-8)


def test_tucker_at_every_limit_that_is_enough() -> None:
    # From what is barely enough, where projections are repeated in every pass, to one part.
    x = low_rank((17, 16, 18), 14, 0.1)
    wanted = tnet.tucker(x, 14)
    passed = 0
    for limit in range(60_000, 300_000, 10_000):
        try:
            found, peak = peak_of(lambda limit=limit: tnet.tucker(x, 14, memory_limit=limit))
        except MemoryLimitError:
            assert passed == 0
            continue
        passed += 1
        assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-10)
        assert peak <= limit
    assert passed > 10


@pytest.mark.parametrize("power", [-1000, -30, 0, 900])
def test_scale_passes_through(power: int) -> None:
    x = low_rank((12, 11, 10), 3, 0.1)
    one = tnet.tucker(x, 3, memory_limit=120_000)
    scaled = tnet.tucker(np.ldexp(x, power), 3, memory_limit=120_000)
    assert scaled.error == pytest.approx(one.error, abs=1e-12)
    assert np.allclose(np.ldexp(np.asarray(scaled.tensor), -power), np.asarray(one.tensor))


def test_zeros_give_a_zero_model() -> None:
    by_rank = tnet.tucker(np.zeros((5, 6, 7)), 2, memory_limit="1MB")
    for result in (by_rank, tnet.tucker(np.zeros((5, 6)), rtol=0.1, memory_limit="1MB")):
        assert result.error == 0.0
        assert not np.any(np.asarray(result.tensor))


def test_other_libraries_are_read_in_slabs_too() -> None:
    x = low_rank((12, 11, 10), 3, 0.1)
    wanted = tnet.tucker(x, 3)
    for convert in (torch.from_numpy, array_api_strict.asarray):
        found = tnet.tucker(convert(x), 3, memory_limit=120_000)
        assert type(found.tensor.core) is type(convert(x))
        assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor))
    half = tnet.tucker(torch.from_numpy(x).bfloat16(), 3, memory_limit=120_000)
    assert half.tensor.dtype == torch.bfloat16
    assert half.error == pytest.approx(wanted.error, abs=0.02)


def test_what_the_gram_matrices_miss_is_found_by_qr(monkeypatch: pytest.MonkeyPatch) -> None:
    from tnet.decompositions.truncated_basis import Basis

    x = low_rank((9, 8, 7), 3, 0.0)
    monkeypatch.setattr(
        "tnet.decompositions.sthosvd_by_slabs.basis_from_gram", lambda G, *_: Basis(np.linalg.eigh(G)[1][:, -1:], 0.0)
    )
    result = tnet.tucker(x, rtol=0.01, memory_limit="1MB")
    assert result.tensor.rank == (3, 3, 3)
    assert true_error(x, result) <= 0.01


@pytest.mark.parametrize("limit", [1, 1000, 20_000, "90 kB"])
@pytest.mark.parametrize("arguments", [{"rank": 20}, {"rank": (4, 5, 30)}])
def test_too_little_is_refused_before_anything_is_read(
    limit: Any, arguments: dict[str, Any], monkeypatch: Any
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr("tnet.decompositions.slabs.squared_norm", never)
    with pytest.raises(MemoryLimitError, match=r"memory_limit=.*needs"):
        tnet.tucker(np.ones((40, 40, 40)), memory_limit=limit, **arguments)


def test_too_little_for_a_slice_or_for_the_rest() -> None:
    x = np.random.default_rng(0).normal(size=(40, 40, 40))
    with pytest.raises(MemoryLimitError, match="Gram matrix"):
        tnet.tucker(x, rtol=0.1, memory_limit=90_000)
    with pytest.raises(MemoryLimitError, match="needs"):
        tnet.tucker(x, rtol=0.1, memory_limit=210_000)  # noise: the core is nearly x itself


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_entries_are_refused(bad: float) -> None:
    x = np.ones((12, 11, 10))
    x[7, 3, 2] = bad
    with pytest.raises(InputError, match="non-finite"):
        tnet.tucker(x, 2, memory_limit=120_000)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"memory_limit": "lots"}, InputError, "memory_limit='lots'"),
        ({"memory_limit": 0}, InputError, "memory_limit=0"),
        ({"memory_limit": "1MB", "method": "hooi"}, InputError, "method='hooi'"),
        ({"memory_limit": "1MB", "rank": 2.5}, RankError, "rank=2.5"),
        ({"memory_limit": "1MB", "rank": None}, RankError, "neither"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        tnet.tucker(np.ones((4, 5, 6)), **({"rank": 2} | arguments))


def test_arrays_that_cannot_be_read_in_slabs_are_refused() -> None:
    with pytest.raises(InputError, match="byte order"):
        tnet.tucker(np.ones((4, 5), dtype=">f8"), 2, memory_limit="1MB")
    with pytest.raises(BackendError, match="int64"):
        tnet.tucker(np.ones((4, 5), dtype=int), 2, memory_limit="1MB")
    with pytest.raises(InputError, match="no modes"):
        tnet.tucker(np.float64(1.0), 2, memory_limit="1MB")
    with pytest.raises(InputError, match="empty"):
        tnet.tucker(np.ones((4, 0)), 2, memory_limit="1MB")


# Tensor trains


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "limit"),
    [
        ((60, 50, 70), 1_250_000),
        ((70, 50, 60), 1_250_000),
        ((6, 100, 120), 4_400_000),
        ((20, 16, 22, 18), 650_000),
        ((9, 8, 7, 8, 6, 9), 300_000),
        ((400, 200), 3_700_000),
    ],
)
def test_trains_allocate_no_more_than_they_may(
    tmp_path: Path, shape: tuple[int, ...], limit: int, dtype: str
) -> None:
    x = low_rank(shape, 3, 0.1, "float32" if dtype == "float16" else dtype).astype(dtype)
    stored = on_disk(tmp_path, x)
    rank = [3] * (len(shape) - 1)
    result, peak = peak_of(lambda: tnet.tt(stored, rank, memory_limit=limit))
    assert peak <= limit
    wanted = tnet.tt(x, rank)
    assert result.tensor.rank == wanted.tensor.rank
    tolerance = 1e-2 if dtype == "float16" else 1e-5
    assert np.allclose(np.asarray(result.tensor), np.asarray(wanted.tensor), atol=tolerance)
    assert result.error == pytest.approx(wanted.error, rel=1e-3)
    assert result.tensor.dtype == x.dtype


@pytest.mark.parametrize("rtol", [0.5, 0.11, 0.03, 1e-9, 0.0])
@pytest.mark.parametrize(("shape", "order"), [((30, 26, 34), "C"), ((34, 26, 30), "C"), ((12, 9, 14, 13), "F")])
def test_trains_keep_the_tolerance(tmp_path: Path, rtol: float, shape: tuple[int, ...], order: str) -> None:
    x = low_rank(shape, 3, 0.1)
    stored = on_disk(tmp_path, x, order)
    result, peak = peak_of(lambda: tnet.tt(stored, rtol=rtol, memory_limit=3_500_000))
    assert peak <= 3_500_000
    assert true_error(x, result) <= rtol + 1e-14
    assert result.error == pytest.approx(true_error(x, result), abs=1e-10)
    assert result.tensor.rank == tnet.tt(x, rtol=rtol).tensor.rank


@given(shapes, st.integers(1, 4), st.booleans(), st.sampled_from(["auto", "gram", "tsqr"]), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_trains_by_slabs_are_trains(
    shape: tuple[int, ...], rank: int, complex_: bool, method: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)
    limits = [min(np.prod(shape[:k]), np.prod(shape[k:])) for k in range(1, len(shape))]
    ranks = [int(min(rank, limit)) for limit in limits]
    wanted = tnet.tt(x, ranks, method=method)
    limit = 1
    while True:  # the least power of two that is enough
        try:
            found = tnet.tt(x, ranks, method=method, memory_limit=limit)
            break
        except MemoryLimitError:
            limit *= 2
            assert limit < 200_000
    assert found.error == pytest.approx(wanted.error, abs=1e-7)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-7)
    assert true_error(x, found) == pytest.approx(found.error, abs=1e-10)


def test_trains_of_every_library_and_device(convert: Any) -> None:
    x = low_rank((12, 11, 10), 3, 0.1)
    found = tnet.tt(convert(x), 3, memory_limit=120_000)
    assert type(found.tensor.cores[0]) is type(convert(x))
    assert np.allclose(to_numpy(found.tensor.to_dense()), np.asarray(tnet.tt(x, 3).tensor))


def test_trains_scale_and_vanish() -> None:
    x = low_rank((12, 11, 10), 3, 0.1)
    wanted = tnet.tt(x, 3)
    for power in (-1000, 900):
        scaled = tnet.tt(np.ldexp(x, power), 3, memory_limit=120_000)
        assert np.allclose(np.ldexp(np.asarray(scaled.tensor), -power), np.asarray(wanted.tensor))
    assert tnet.tt(np.zeros((4, 5, 6)), 2, memory_limit="1MB").error == 0.0
    half = tnet.tt(torch.from_numpy(x).bfloat16(), 3, memory_limit=120_000)
    assert half.error == pytest.approx(wanted.error, abs=0.02)


def test_trains_what_the_gram_matrices_miss_is_found_by_qr(monkeypatch: pytest.MonkeyPatch) -> None:
    from tnet.decompositions.truncated_basis import Basis

    def blind(G: np.ndarray, *_: Any, **__: Any) -> Basis:
        return Basis(np.linalg.eigh(G)[1][:, -1:], 0.0)

    x = low_rank((9, 8, 7), 3, 0.0)
    monkeypatch.setattr("tnet.decompositions.tt_by_slabs.basis_from_gram", blind)
    assert true_error(x, tnet.tt(x, rtol=0.01, memory_limit="1MB")) <= 0.01


def test_trains_too_little_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr("tnet.decompositions.slabs.squared_norm", never)
    for limit in (1, 1000, 60_000):
        with pytest.raises(MemoryLimitError, match=r"memory_limit=.*needs"):
            tnet.tt(np.ones((40, 40, 40)), 20, memory_limit=limit)
    with pytest.raises(InputError, match="method='svd'"):
        tnet.tt(np.ones((4, 4)), 2, method="svd", memory_limit="1MB")
