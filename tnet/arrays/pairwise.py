"""The choice of a kernel for one pairwise contraction, by its indices and sizes alone."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tnet.arrays.namespace import Array, is_torch
from tnet.arrays.pairwise_packed import Packing, scratch_bytes
from tnet.arrays.permuted import LEAST_LENGTH, LEAST_TILED
from tnet.arrays.recording import unrecorded

__all__ = ["LEAST_ENTRIES", "PairKernel", "choose_kernel", "packed_kernel", "sum_kernel"]

Indices = tuple[int, ...]
Sizes = Mapping[int, int] | Sequence[int]

_ITEMSIZE = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}

LEAST_ENTRIES = 1 << 18
"""Entries of operands and result below which no kernel is chosen: less than a millisecond must not wait for Numba."""

# Multiply-adds for each entry that would be copied, above which the copies no longer matter: copies by NumPy, and
# those of large arrays by tiles, which take a third of the time.
_COPIES_MATTER = 400
_TILED_COPIES_MATTER = 128

# Matrices up to this many multiply-adds are slow in BLAS: it packs and sets up for each of them.
_SMALL_PRODUCT = 1 << 20

_LINE = 64


@dataclass(frozen=True)
class PairKernel:
    """A way to contract two arrays that beats permuting, reshaping and multiplying matrices.

    Parameters
    ----------
    name : str
        "packed" or "multiply and sum".
    left, right : tuple of int
        Indices of the operands, one for each axis.
    order : tuple of int
        Indices of the result, which is C-ordered.
    left_shape, right_shape, shape : tuple of int
    extra_bytes : int
        Beside operands and result.
    packing : Packing or None
    """

    name: str
    left: Indices
    right: Indices
    order: Indices
    left_shape: tuple[int, ...]
    right_shape: tuple[int, ...]
    shape: tuple[int, ...]
    extra_bytes: int
    packing: Packing | None

    def __call__(self, x: Array, y: Array) -> Array:
        """Contract two arrays of one floating point dtype.

        Parameters
        ----------
        x, y : array
            Of NumPy, or of torch on the CPU where :meth:`applies`. Axes may be fused: a reshape to ``left_shape``
            and ``right_shape`` must be possible.

        Returns
        -------
        array, shape ``shape``
            Fresh and C-ordered, in the library of ``x``.
        """
        if is_torch(x):
            torch: Any = sys.modules["torch"]
            return torch.from_numpy(self._contract(x.detach().numpy(), y.detach().numpy()))
        return self._contract(x, y)

    def applies(self, x: Array, y: Array) -> bool:
        """Return whether the kernel may be called: always for NumPy, for torch unless something is recorded."""
        return not is_torch(x) or unrecorded(x, y)

    def _contract(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = x.reshape(self.left_shape), y.reshape(self.right_shape)
        if self.packing is not None:
            return self.packing(x, y)
        number = {i: k for k, i in enumerate(dict.fromkeys((*self.left, *self.right)))}
        left, right, order = ([number[i] for i in indices] for indices in (self.left, self.right, self.order))
        return np.asarray(np.einsum(x, left, y, right, order), order="C")


def choose_kernel(
    left: Indices, right: Indices, result: Indices, sizes: Sizes, dtype_name: str, library: str
) -> PairKernel | None:
    """Choose how to contract two dense operands.

    Parameters
    ----------
    left, right : tuple of int
        Indices of the operands in the order of their memory, each index once.
    result : tuple of int
        Indices of the result in the order that is wished for.
    sizes : mapping or sequence
        Size of each index.
    dtype_name : str
        Of the computation.
    library : str
        "numpy" or "torch" (on the CPU); other libraries have no kernels here.

    Returns
    -------
    PairKernel or None
        None where matrix products on views or on permuted copies are best, as they are for all small operands.
        The order of the kernel's result may differ from ``result``.

    Notes
    -----
    Three cases are taken from the matrix product. Operands that it would have to copy, when the multiply-adds are few
    enough for the copies to matter; stacks of small matrices; and stacks of inner products, which BLAS would see as
    matrices of one entry.
    """
    if dtype_name not in _ITEMSIZE or library not in ("numpy", "torch"):
        return None
    left, right, result = _wide(left, sizes), _wide(right, sizes), _wide(result, sizes)
    in_left, in_right, kept = frozenset(left), frozenset(right), frozenset(result)
    size_left, size_right, size_result = (_count(indices, sizes) for indices in (left, right, result))
    inner = _count((in_left & in_right) - kept, sizes)
    macs = size_result * inner
    if inner == 1 or macs == 0 or size_left + size_right + size_result < LEAST_ENTRIES:
        return None
    if not in_left <= in_right | kept or not in_right <= in_left | kept:
        raise ValueError("an index of one operand alone must be in the result: sum over it first")
    batch = _count(in_left & in_right & kept, sizes)
    free_left, free_right = _count(in_left - in_right, sizes), _count(in_right - in_left, sizes)
    if free_left == free_right == 1:
        return None if batch == 1 else sum_kernel(left, right, result, sizes)
    if max(free_left, free_right) * _ITEMSIZE[dtype_name] < _LINE:
        last = {left[-1], right[-1]}
        return sum_kernel(left, right, result, sizes) if last <= in_left & in_right & kept else None
    copied = _copied(left, right, kept, size_left, size_right)
    if copied:
        by_tiles = copied >= LEAST_TILED and min(sizes[left[-1]], sizes[right[-1]]) >= LEAST_LENGTH
        worth = macs <= (_TILED_COPIES_MATTER if by_tiles else _COPIES_MATTER) * copied
    else:
        worth = batch > 1 and 4 * _LINE <= macs // batch <= _SMALL_PRODUCT
    return packed_kernel(left, right, result, sizes, dtype_name) if worth else None


def sum_kernel(left: Indices, right: Indices, result: Indices, sizes: Sizes) -> PairKernel:
    """Return the kernel that multiplies and sums in one pass, without any copy."""
    shapes = _shape(left, sizes), _shape(right, sizes), _shape(result, sizes)
    return PairKernel("multiply and sum", left, right, result, *shapes, 0, None)


def packed_kernel(left: Indices, right: Indices, result: Indices, sizes: Sizes, dtype_name: str) -> PairKernel:
    """Return the kernel that packs pieces of the operands into cache; see :class:`~.Packing`."""
    in_left, in_right, kept = frozenset(left), frozenset(right), frozenset(result)
    shared = in_left & in_right
    free_left, free_right = in_left - shared, in_right - shared
    item = _ITEMSIZE[dtype_name]
    swapped = _rows_are_right(left, right, kept, free_left, free_right, sizes, item)
    free_rows, free_lanes = (free_right, free_left) if swapped else (free_left, free_right)
    order = _honoured(result, free_rows, free_lanes)
    n_rows, n_lanes = _count(free_rows, sizes), _count(free_lanes, sizes)
    if order is None and n_rows * item >= _LINE and n_lanes <= 4 * n_rows:
        # The other way round is nearly as good; take it if that is what is wished for.
        order = _honoured(result, free_lanes, free_rows)
        if order is not None:
            swapped, free_rows, free_lanes = not swapped, free_lanes, free_rows
    rows_of, lanes_of = (right, left) if swapped else (left, right)
    if order is None:
        groups = ((rows_of, shared & kept), (rows_of, free_rows), (lanes_of, free_lanes))
        order = tuple(i for of, group in groups for i in of if i in group)
    guide = left if _count(left, sizes) >= _count(right, sizes) else right
    batch = [i for i in guide if i in shared and i in kept]
    for last in (right[-1:], left[-1:]) if guide is left else (left[-1:], right[-1:]):
        if last and last[0] in batch:  # neighbours in memory are visited together
            batch.remove(last[0])
            batch.append(last[0])
    packing = Packing(
        rows_of,
        lanes_of,
        order,
        tuple(batch),
        tuple(i for i in order if i in free_rows),
        tuple(i for i in order if i in free_lanes),
        tuple(i for i in lanes_of if i in shared and i not in kept),
        tuple((i, int(sizes[i])) for i in dict.fromkeys((*left, *right))),
        swapped,
    )
    n_batch, n_inner = _count(packing.batch, sizes), _count(packing.inner, sizes)
    n_rows, n_lanes = _count(packing.rows, sizes), _count(packing.lanes, sizes)
    extra = scratch_bytes(n_batch, n_rows, n_lanes, n_inner, item)
    shapes = _shape(left, sizes), _shape(right, sizes), _shape(order, sizes)
    return PairKernel("packed", left, right, order, *shapes, extra, packing)


def _rows_are_right(
    left: Indices,
    right: Indices,
    kept: frozenset[int],
    free_left: frozenset[int],
    free_right: frozenset[int],
    sizes: Sizes,
    item: int,
) -> bool:
    """Return whether the right operand gives the rows: packed once, they should be few or hard to read."""
    n_left, n_right = _count(free_left, sizes), _count(free_right, sizes)
    batch = frozenset(left) & frozenset(right) & kept
    left_inside, right_inside = left[-1] in batch, right[-1] in batch
    if left_inside != right_inside and (n_left if right_inside else n_right) * item >= 2 * _LINE:
        return right_inside
    if n_left == n_right:
        return right[-1] not in free_right and left[-1] in free_left
    return n_left > n_right


def _honoured(result: Indices, rows: frozenset[int], lanes: frozenset[int]) -> Indices | None:
    """Return ``result`` if it ends in the rows and then the lanes, else None.

    Batches between the two would put the rows of a tile far apart, at distances that share the sets of a cache.
    """
    middle = len(result) - len(lanes)
    if frozenset(result[middle:]) == lanes and frozenset(result[middle - len(rows) : middle]) == rows:
        return result
    return None


def _copied(left: Indices, right: Indices, kept: frozenset[int], size_left: int, size_right: int) -> int:
    """Return how many entries must be copied to see both operands as stacks of matrices."""
    shared = frozenset(left) & frozenset(right)
    copied = 0
    plain = True
    for indices, size in ((left, size_left), (right, size_right)):
        groups = [0 if i not in shared else 1 if i in kept else 2 for i in indices]
        runs = [g for k, g in enumerate(groups) if k == 0 or groups[k - 1] != g]
        if len(set(runs)) < len(runs) or runs[-1] == 1:
            copied += size
            plain = False
    if not plain:
        return copied
    for group in (shared & kept, shared - kept):
        if [i for i in left if i in group] != [i for i in right if i in group]:
            return min(size_left, size_right)
    return 0


def _wide(indices: Indices, sizes: Sizes) -> Indices:
    """Return the indices of size other than 1."""
    return tuple([i for i in indices if sizes[i] != 1])


def _shape(indices: Indices, sizes: Sizes) -> tuple[int, ...]:
    return tuple([int(sizes[i]) for i in indices])


def _count(indices: Sequence[int] | frozenset[int], sizes: Sizes) -> int:
    return math.prod(sizes[i] for i in indices)
