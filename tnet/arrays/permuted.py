"""A permuted array copied to C order at nearly the speed of a plain copy.

NumPy copies along one axis, and where that is fast in the source but not in the target, or the other way round, it
fetches or writes a whole cache line for each entry. Here both axes are cut into blocks of one line each way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["LEAST_LENGTH", "LEAST_TILED", "permuted_copy"]

LEAST_TILED = 1 << 20
"""Entries from which on the gain, some milliseconds, is worth loading the compiled loop."""

LEAST_LENGTH = 16
"""Of the two axes that blocks are cut from; shorter ones hold no block of a line."""

_WORDS: dict[int, Any] = {4: np.uint32, 8: np.uint64, 16: np.complex128}


def permuted_copy(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return ``x.transpose(axes)`` in C order; a view where it lies so already.

    Parameters
    ----------
    x : numpy.ndarray
    axes : tuple of int

    Returns
    -------
    numpy.ndarray
        The same entries, bit for bit.

    Notes
    -----
    Every entry is read and written once, nothing is held beside the result. Arrays of at least 2^20 entries of 4, 8
    or 16 bytes go through the compiled loop, when an axis other than the last of the result has neighbours in memory
    and both are at least 16 long; all others are NumPy's.
    """
    view = x.transpose(axes)
    if x.size >= LEAST_TILED and x.itemsize in _WORDS and not x.dtype.hasobject and x.flags.aligned:
        shape, strides = _fused(view)
        if 1 in strides[:-1] and all(stride > 0 for stride in strides):
            deep = strides.index(1)
            if shape[deep] >= LEAST_LENGTH and shape[-1] >= LEAST_LENGTH:
                return _copied_by_tiles(view, shape, strides, deep)
    return np.asarray(view, order="C")


def _copied_by_tiles(view: np.ndarray, shape: list[int], strides: list[int], deep: int) -> np.ndarray:
    from tnet.arrays.permuted_loops import copy_tiles

    word = _WORDS[view.itemsize]
    result = np.empty(view.shape, view.dtype)
    steps = [1] * len(shape)
    for axis in reversed(range(len(shape) - 1)):
        steps[axis] = steps[axis + 1] * shape[axis + 1]
    outer = [(shape[k], strides[k], steps[k]) for k in range(len(shape) - 1) if k != deep]
    length = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    source = np.lib.stride_tricks.as_strided(view, (length,), (view.itemsize,), writeable=False).view(word)
    table = np.array(outer, np.int64).reshape(-1, 3)
    copy_tiles(result.reshape(-1).view(word), source, table, (shape[-1], strides[-1]), (shape[deep], steps[deep]))
    return result


def _fused(view: np.ndarray) -> tuple[list[int], list[int]]:
    """Return sizes and strides of the axes, those fused that lie behind each other; 0 for a part of an entry."""
    shape: list[int] = []
    strides: list[int] = []
    for n, n_bytes in zip(view.shape, view.strides, strict=True):
        if n == 1:
            continue
        stride = 0 if n_bytes % view.itemsize else n_bytes // view.itemsize
        if shape and strides[-1] == n * stride:
            shape[-1] *= n
            strides[-1] = stride
        else:
            shape.append(n)
            strides.append(stride)
    return shape, strides
