"""Permuted copies against NumPy's, entry for entry, over shapes, dtypes and memory layouts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnet.arrays import permuted
from tnet.arrays.permuted import permuted_copy

DTYPES = ("float32", "float64", "complex128", "int64", "complex64", "float16", "longdouble", "object")


@pytest.fixture(autouse=True)
def small_arrays_count(monkeypatch):
    monkeypatch.setattr(permuted, "LEAST_TILED", 1)


def entries(shape, dtype):
    return np.random.default_rng(0).integers(-99, 99, shape).astype(dtype)


def check(x, axes):
    before = x.copy()
    result = permuted_copy(x, axes)
    assert result.dtype == x.dtype
    assert result.shape == tuple(x.shape[axis] for axis in axes)
    assert result.flags.c_contiguous
    assert np.array_equal(result, x.transpose(axes))
    assert np.array_equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_order_of_the_axes(dtype):
    x = entries((16, 3, 17, 40), dtype)
    for axes in itertools.permutations(range(4)):
        check(x, axes)


@given(
    shape=st.lists(st.integers(0, 70), min_size=1, max_size=3).map(tuple),
    axes=st.randoms(use_true_random=False),
    dtype=st.sampled_from(["float32", "float64", "complex128"]),
    layout=st.sampled_from(["C", "F", "reversed", "gaps", "broadcast"]),
)
@settings(max_examples=150, deadline=None)
def test_any_layout(shape, axes, dtype, layout):
    order = list(range(len(shape)))
    axes.shuffle(order)
    x = entries(shape, dtype)
    if layout == "F":
        x = np.asfortranarray(x)
    elif layout == "reversed":
        x = x[::-1]
    elif layout == "gaps":
        x = entries(tuple(2 * n + 1 for n in shape), dtype)[tuple(slice(1, None, 2) for _ in shape)]
    elif layout == "broadcast":
        x = np.broadcast_to(entries(shape[1:], dtype), shape)
    check(x, tuple(order))


def test_bits_are_kept():
    bits = np.random.default_rng(1).integers(0, 2**32, (64, 48), dtype=np.uint32)  # signalling NaN among them
    assert np.array_equal(permuted_copy(bits.view(np.float32), (1, 0)).view(np.uint32), bits.T)


def test_unaligned_entries():
    raw = np.zeros(32 * 32 * 8 + 1, np.uint8)
    raw[:-1] = np.random.default_rng(2).integers(0, 255, 32 * 32 * 8)
    check(raw[1:].view(np.int64).reshape(32, 32), (1, 0))


def test_records_whose_fields_lie_between():
    pairs = np.zeros((40, 40), [("a", "f8"), ("b", "f4")])
    pairs["a"] = entries((40, 40), "float64")
    check(pairs["a"], (1, 0))  # 12 bytes from one entry to the next


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "complex64"])
def test_tensors_are_copied_the_same_way_and_record_gradients(dtype):
    torch = pytest.importorskip("torch")
    from tnet.arrays.operations import operations

    x = torch.arange(32.0 * 20 * 48).reshape(32, 20, 48).to(getattr(torch, dtype))
    arranged = operations(x).arranged
    for tensor in (x, x.conj(), x.clone().requires_grad_()):
        result = arranged(tensor, (2, 0, 1))
        assert result.is_contiguous()
        assert result.dtype == x.dtype
        assert torch.equal(result.detach().resolve_conj(), tensor.detach().permute(2, 0, 1).resolve_conj())
        assert result.requires_grad == tensor.requires_grad
