"""Tucker of slabs that arrive one after the other."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.arrays import to_numpy
from tnet.decompositions.tucker_stream import TuckerStream, tucker_stream
from tnet.errors import BackendError, InputError, ShapeError


def streamed(x: Any, sizes: list[int], rtol: float, mode: int = 0) -> TuckerStream:
    state, start = None, 0
    for size in sizes:
        place = (slice(None),) * mode + (slice(start, start + size),)
        slab = x[(*place, ...)]
        state = tucker_stream(slab, rtol=rtol, mode=mode) if state is None else state.update(slab)
        start += size
    assert state is not None
    assert start == x.shape[mode]
    return state


def true_error(x: np.ndarray, result: Any) -> float:
    return float(np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x))


def low_rank(shape: tuple[int, ...], ranks: tuple[int, ...], noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=ranks)
    for mode, n in enumerate(shape):
        x = np.moveaxis(np.tensordot(rng.normal(size=(n, ranks[mode])), x, (1, mode)), 0, mode)
    E = rng.normal(size=shape)
    return x + noise * np.linalg.norm(x) / np.linalg.norm(E) * E


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_planted_ranks_are_found(mode: int, noise: float) -> None:
    shape = tuple(60 if k == mode else n for k, n in enumerate((14, 16, 18)))
    x = low_rank(shape, (3, 4, 2), noise)
    state = streamed(x, [10, 1, 9, 20, 20], 2 * noise + 1e-6, mode)
    result = state.finish()
    assert state.shape == result.tensor.shape == shape
    assert state.rank == result.tensor.rank == (3, 4, 2)
    assert true_error(x, result) <= 2 * noise + 1e-6
    assert result.error_kind == "exact"
    assert result.error == pytest.approx(true_error(x, result), rel=1e-6, abs=1e-9)
    for U in result.tensor.factors:
        assert np.allclose(U.T @ U, np.eye(U.shape[1]), atol=1e-10)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.lists(st.integers(1, 5), min_size=0, max_size=3),
    st.floats(0.0, 0.9),
    st.booleans(),
    st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_the_tolerance_is_kept_and_the_error_known(
    sizes: list[int], others: list[int], rtol: float, complex_: bool, seed: int
) -> None:
    # Noise with slabs of very different norms: directions discarded early come back.
    rng = np.random.default_rng(seed)
    shape = (sum(sizes), *others)
    x = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)
    x = x * np.repeat(4.0 ** rng.integers(-3, 3, len(sizes)), sizes).reshape(-1, *(1,) * len(others))
    result = streamed(x, sizes, rtol).finish()
    error = true_error(x, result)
    assert error <= rtol + 1e-12
    assert error <= result.error + 1e-9
    assert result.error <= rtol * (1 + 1e-9) + 1e-12
    if result.error_kind == "exact":
        assert error == pytest.approx(result.error, abs=1e-7)
    for U in result.tensor.factors:
        assert np.allclose(U.conj().T @ U, np.eye(U.shape[1]), atol=1e-9)


def test_a_direction_found_again_makes_the_error_a_bound() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(10, 3)) @ rng.normal(size=(3, 20)) + 0.01 * rng.normal(size=(10, 20))
    second = 10 * rng.normal(size=(10, 3)) @ rng.normal(size=(3, 20))
    result = tucker_stream(first, rtol=0.05).update(second).finish()
    x = np.concatenate([first, second])
    assert result.error_kind == "bound"
    assert true_error(x, result) <= result.error <= 0.05


def test_the_ranks_are_near_those_of_all_at_once() -> None:
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, 200)[:, None, None]
    a, b = np.linspace(0, 1, 30)[:, None], np.linspace(0, 1, 25)
    x = np.sin(3 * t + 5 * a * b) + np.exp(-((a - t) ** 2) * 8) * b + 1e-4 * rng.normal(size=(200, 30, 25))
    for rtol in (1e-1, 1e-2, 1e-3):
        result = streamed(x, [20] * 10, rtol).finish()
        direct = tnet.tucker(x, rtol=rtol)
        assert true_error(x, result) <= rtol
        assert result.tensor.n_params <= 2 * direct.tensor.n_params


def test_no_slab_is_kept() -> None:
    x = low_rank((30, 8, 9), (3, 3, 3), 0.1)
    slab = x[:10].copy()
    state = tucker_stream(slab, rtol=0.15).update(x[10:])
    watched = weakref.ref(slab)
    del slab
    gc.collect()
    assert watched() is None
    assert state.shape == (30, 8, 9)


def test_states_do_not_change() -> None:
    x = low_rank((30, 8, 9), (3, 3, 3), 0.1)
    one = tucker_stream(x[:10], rtol=0.15)
    before = np.asarray(one.finish().tensor)
    two = one.update(x[10:])
    one.update(5 * x[20:])
    assert np.array_equal(np.asarray(one.finish().tensor), before)
    assert one.shape == (10, 8, 9)
    assert two.shape == (30, 8, 9)
    assert true_error(x, two.finish()) <= 0.15
    with pytest.raises(dataclasses.FrozenInstanceError):
        two.rtol = 0.1  # type: ignore[misc]


def test_every_library_and_device_gives_the_same(convert: Any) -> None:
    x = low_rank((30, 8, 9), (3, 3, 3), 0.05)
    wanted = streamed(x, [10, 20], 0.1).finish()
    found = streamed(convert(x), [10, 20], 0.1).finish()
    assert type(found.tensor.core) is type(convert(x))
    assert np.allclose(to_numpy(found.tensor.to_dense()), np.asarray(wanted.tensor), atol=1e-8)
    assert found.error == pytest.approx(wanted.error, rel=1e-6)


def test_single_precision_stays() -> None:
    x = low_rank((30, 8, 9), (3, 3, 3), 0.05)
    single = streamed(x.astype(np.float32), [10, 20], 0.1).finish()
    assert single.tensor.dtype == np.float32
    assert true_error(x, single) <= 0.1


@pytest.mark.parametrize("power", [-600, 600])
def test_scale_passes_through(power: int) -> None:
    x = low_rank((30, 8, 9), (3, 3, 3), 0.05)
    one, scaled = (streamed(y, [10, 20], 0.1).finish() for y in (x, np.ldexp(x, power)))
    assert np.allclose(np.ldexp(np.asarray(scaled.tensor), -power), np.asarray(one.tensor))
    assert scaled.error == pytest.approx(one.error)


def test_zeros() -> None:
    x = np.zeros((12, 5, 6))
    state = streamed(x, [4, 4, 4], 0.1)
    assert state.error == 0.0
    assert not np.any(np.asarray(state.finish().tensor))
    y = np.random.default_rng(0).normal(size=(4, 5, 6))
    late = state.update(y).finish()
    assert true_error(np.concatenate([x, y]), late) <= 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_slabs_are_refused(bad: float) -> None:
    x = np.ones((4, 5))
    state = tucker_stream(x, rtol=0.1)
    x = x.copy()
    x[1, 1] = bad
    with pytest.raises(InputError, match="non-finite"):
        state.update(x)
    with pytest.raises(InputError, match="non-finite"):
        tucker_stream(x, rtol=0.1)


@pytest.mark.parametrize(
    ("slab", "error", "words"),
    [
        (np.ones((4, 6)), ShapeError, r"\(4, 6\)"),
        (np.ones((4, 5, 1)), ShapeError, "only mode 0"),
        (np.ones((0, 5)), InputError, "empty"),
        (np.ones((4, 5), dtype=np.float32), BackendError, "float32"),
        (np.ones((4, 5), dtype=complex), BackendError, "complex128"),
        (torch.ones((4, 5), dtype=torch.float64), BackendError, "dtype|librar"),
        (np.full((4, 5), 1e300), InputError, "scale"),
    ],
)
def test_slabs_that_do_not_fit_are_refused(slab: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        tucker_stream(np.ones((4, 5)), rtol=0.1).update(slab)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"rtol": 1.0}, InputError, "rtol=1.0"),
        ({"rtol": -0.1}, InputError, "rtol=-0.1"),
        ({"rtol": 0.1, "mode": 2}, ShapeError, "mode=2"),
        ({"rtol": 0.1, "mode": True}, ShapeError, "mode=True"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        tucker_stream(np.ones((4, 5)), **arguments)


def test_half_precision_is_refused() -> None:
    with pytest.raises(BackendError, match="float16"):
        tucker_stream(np.ones((4, 5), dtype=np.float16), rtol=0.1)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_slabs_of_zeros_have_no_scale(scale: float) -> None:
    x = scale * np.random.default_rng(0).normal(size=(6, 5, 4))
    for slabs in ((x, 0 * x), (0 * x, x), (0 * x, 0 * x, x, 0 * x)):
        state = tucker_stream(slabs[0], rtol=0.1)
        for slab in slabs[1:]:
            state = state.update(slab)
        result = state.finish()
        whole = np.concatenate(slabs)
        assert np.linalg.norm((whole - np.asarray(result.tensor)) / scale) <= 0.1 * np.linalg.norm(whole / scale)
