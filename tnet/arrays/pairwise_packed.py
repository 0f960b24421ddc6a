"""Pairwise contraction without permuted copies: pieces of both operands are packed into cache as they are needed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Packing", "scratch_bytes"]

Indices = tuple[int, ...]

_LINE = 64  # bytes of a cache line, and of a row of the tiles
_ROWS = 4  # of a tile
_DEPTH = 256  # entries of the summed indices at a time: a panel of them stays in L1 cache
_PIECE_BYTES = 1 << 19  # of packed rows that are visited panel after panel, from L2 cache
_PANEL_BYTES = 1 << 17  # of packed lanes
_SHARED_BYTES = 1 << 21  # of a packed operand whose batches lie inside: several batches share each cache line
_RUN_BYTES = 512  # of neighbouring batches read together
_LONGEST_TABLE = 4096
_TABLES_KEPT = 8
_MACS_A_THREAD = 1 << 25


class _Counts(NamedTuple):
    batch: int
    rows: int
    lanes: int
    inner: int


@dataclass(frozen=True)
class Packing:
    r"""Who is who in :math:`R_{z s v} = \sum_k A_{z s k} B_{z k v}`, each letter a group of indices.

    Parameters
    ----------
    rows_of, lanes_of : tuple of int
        Indices of the operand that gives the rows s, and of the one that gives the lanes v, by axes.
    result : tuple of int
        Indices of the result in the order of its memory: batches, then ``rows``, then ``lanes``.
    batch, rows, lanes, inner : tuple of int
        The groups, each in the order in which it is visited; ``rows`` and ``lanes`` as in ``result``.
    sizes : tuple of (int, int)
        Index and size.
    swapped : bool
        Whether the right operand gives the rows.

    Notes
    -----
    Every entry of an operand lies at a sum of two offsets, of its free and of its summed index, looked up in tables
    (block-scatter layout [1]_). Pieces are gathered into contiguous panels in cache and multiplied there by tiles of
    4 rows and one cache line of lanes, kept in registers [2]_; complex numbers are multiplied as real ones (method
    1m [3]_). Strides may be any, also negative; where batches are neighbours in memory, many are packed at a time.

    References
    ----------
    .. [1] D. A. Matthews, "High-performance tensor contraction without transposition", SIAM J. Sci. Comput. 40
       (2018).
    .. [2] K. Goto, R. A. van de Geijn, "Anatomy of high-performance matrix multiplication", ACM Trans. Math. Softw.
       34 (2008).
    .. [3] F. G. Van Zee, "Implementing high-performance complex matrix multiplication via the 1m method", SIAM J.
       Sci. Comput. 42 (2020).
    """

    rows_of: Indices
    lanes_of: Indices
    result: Indices
    batch: Indices
    rows: Indices
    lanes: Indices
    inner: Indices
    sizes: tuple[tuple[int, int], ...]
    swapped: bool
    _bound: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Contract two arrays of one floating point dtype, one axis for each index of ``left`` and ``right``.

        Returns
        -------
        numpy.ndarray
            Fresh and C-ordered, one axis for each index of ``result``.
        """
        from tnet.arrays.pairwise_loops import contract_packed

        a, b = (y, x) if self.swapped else (x, y)
        a, b = _whole_strides(a), _whole_strides(b)
        sizes = dict(self.sizes)
        result = np.empty([sizes[i] for i in self.result], dtype=x.dtype)
        key = (a.strides, b.strides, a.itemsize)
        tables = self._bound.get(key)
        if tables is None:
            if len(self._bound) >= _TABLES_KEPT:
                self._bound.clear()
            tables = self._bound[key] = self._tables(a, b, sizes)
        rows, lanes, goal, blocks = tables
        parts = 2 if x.dtype.kind == "c" else 1
        real = np.finfo(x.dtype).dtype
        rows = rows._replace(entries=_memory(a, real))
        lanes = lanes._replace(entries=_memory(b, real))
        goal = goal._replace(entries=result.reshape(-1).view(real))
        n_batch, n_panels = len(rows.batch), len(lanes.starts)
        tasks = _shares(n_batch, n_panels, blocks, _counts(self, sizes))
        if len(tasks) == 1:
            contract_packed(rows, lanes, goal, parts, blocks, 0, n_batch, 0, n_panels)
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(len(tasks)) as pool:
                for done in [pool.submit(contract_packed, rows, lanes, goal, parts, blocks, *t) for t in tasks]:
                    done.result()
        return result

    def _tables(self, a: np.ndarray, b: np.ndarray, sizes: Mapping[int, int]) -> tuple[Any, Any, Any, Any]:
        """Return offsets in entries for operands of these strides."""
        from tnet.arrays.pairwise_loops import Blocks, Goal, Lanes, Rows

        item = a.itemsize
        of_a = dict(zip(self.rows_of, [s // item for s in a.strides], strict=True))
        of_b = dict(zip(self.lanes_of, [s // item for s in b.strides], strict=True))
        strides = np.cumprod([1, *(sizes[i] for i in reversed(self.result[1:]))]) if self.result else []
        of_result = dict(zip(reversed(self.result), [int(s) for s in strides], strict=True))

        def places(indices: Indices, strides: Mapping[int, int]) -> np.ndarray:
            found = np.zeros(1, np.int64)
            for i in indices:
                found = (found[:, None] + np.arange(sizes[i], dtype=np.int64) * strides[i]).reshape(-1)
            return found

        # The memory is seen from its lowest address.
        low_a, low_b = (-sum(min(0, stride * (sizes[i] - 1)) for i, stride in of.items()) for of in (of_a, of_b))
        step = _LINE // item
        outer, inside, split = _split(self.lanes, sizes)
        blocks_of_lanes = places(outer, of_b)
        pattern = places(inside, of_b)
        if split is not None:  # a long index: its parts of equal length are blocks
            index, parts = split
            length = sizes[index] // parts
            blocks_of_lanes = (blocks_of_lanes[:, None] + np.arange(parts) * length * of_b[index]).reshape(-1)
            pattern = np.arange(length, dtype=np.int64) * of_b[index]
        count = len(pattern)
        pattern = np.concatenate([pattern, np.full(-count % step, pattern[-1])]).reshape(-1, step)
        starts = (blocks_of_lanes[:, None] + pattern[:, 0]).reshape(-1) + low_b
        pattern = pattern - pattern[:, :1]
        rows = places(self.rows, of_a)
        padded = np.concatenate([rows, np.full(-len(rows) % _ROWS, rows[-1])]) + low_a
        inner_first = self.batch[-1:]
        rows_inside = any(of_a[i] == 1 for i in inner_first)
        lanes_inside = any(of_b[i] == 1 for i in inner_first)
        counts = _counts(self, sizes)
        nothing = np.empty(0)
        return (
            Rows(nothing, padded, places(self.inner, of_a), places(self.batch, of_a), len(rows), rows_inside),
            Lanes(
                nothing,
                starts,
                pattern.reshape(-1),
                (pattern == np.arange(step)).all(axis=1),
                bool((pattern == pattern[0]).all()),
                places(self.inner, of_b),
                places(self.batch, of_b),
                count,
                lanes_inside,
            ),
            Goal(nothing, places(self.batch, of_result), of_result[self.rows[-1]] if self.rows else 0),
            Blocks(*_blocks(counts, item, rows_inside, lanes_inside)),
        )


def scratch_bytes(batch: int, rows: int, lanes: int, inner: int, itemsize: int) -> int:
    """Return the most bytes that a packed contraction holds beside operands and result, one thread."""
    counts = _Counts(batch, rows, lanes, inner)
    most = 0
    for rows_inside in (False, True):
        for lanes_inside in (False, True):
            block = _blocks(counts, itemsize, rows_inside, lanes_inside)
            depth = min(block[4], inner)
            n_rows = (block[0] if rows_inside else 1) * (min(block[1], rows) + _ROWS)
            panels = (block[0] if lanes_inside else 1) * min(block[3], lanes * itemsize // _LINE + 1)
            most = max(most, n_rows * (depth * itemsize + _LINE) + panels * 2 * (depth * _LINE + 2 * _LINE))
    tables = 2 * batch + batch + rows + 2 * inner + 2 * min(lanes, _LONGEST_TABLE) + lanes // 2
    return most + 8 * tables


def _counts(packing: Packing, sizes: Mapping[int, int]) -> _Counts:
    groups = (packing.batch, packing.rows, packing.lanes, packing.inner)
    return _Counts(*(math.prod(sizes[i] for i in group) for group in groups))


def _blocks(counts: _Counts, item: int, rows_inside: bool, lanes_inside: bool) -> tuple[int, int, int, int, int]:
    """Return batches, rows, rows of a piece, panels and depth that are packed at a time."""
    depth = min(_DEPTH, counts.inner)
    line = _LINE // item
    batch = 1
    if rows_inside or lanes_inside:
        batch = min(_RUN_BYTES // item, counts.batch)
        rows = min(counts.rows, 256) if rows_inside else 0
        lanes = min(counts.lanes, 64) if lanes_inside else 0
        while batch > line and batch * max(rows, lanes) * depth * item > 2 * _SHARED_BYTES:
            batch //= 2
    piece = max(_ROWS, _PIECE_BYTES // (depth * item) // _ROWS * _ROWS)
    rows = max(_ROWS, _SHARED_BYTES // (batch * depth * item) // _ROWS * _ROWS) if rows_inside else piece
    panels = max(1, (_SHARED_BYTES // batch if lanes_inside else _PANEL_BYTES) // (depth * _LINE))
    return batch, rows, piece, panels, depth


def _split(lanes: Indices, sizes: Mapping[int, int]) -> tuple[Indices, Indices, tuple[int, int] | None]:
    """Split lanes into outer and inside indices, so that tables stay short; or one long index into parts."""
    inside: list[int] = []
    count = 1
    outer = list(lanes)
    while outer and count * sizes[outer[-1]] <= _LONGEST_TABLE:
        inside.insert(0, outer.pop())
        count *= sizes[inside[0]]
    if inside or not outer:
        return tuple(outer), tuple(inside), None
    last = outer.pop()
    parts = next(p for p in range(1, sizes[last] + 1) if sizes[last] % p == 0 and sizes[last] // p <= _LONGEST_TABLE)
    if sizes[last] // parts < _LINE:
        parts = 1
    return tuple(outer), (), (last, parts)


def _whole_strides(x: np.ndarray) -> np.ndarray:
    """Return ``x``, copied only when its entries do not lie at whole distances of each other."""
    if x.flags.aligned and all(stride % x.itemsize == 0 for stride in x.strides):
        return x
    return x.copy()


def _memory(x: np.ndarray, real: Any) -> np.ndarray:
    """Return the memory of ``x`` from its lowest to its highest entry, read-only: one signature to compile."""
    ascending = x[tuple([slice(None, None, -1 if stride < 0 else 1) for stride in x.strides])]
    length = 1 + sum((n - 1) * abs(stride) for n, stride in zip(x.shape, x.strides, strict=True)) // x.itemsize
    flat = np.lib.stride_tricks.as_strided(ascending, (length,), (x.itemsize,), writeable=False)
    return flat.view(real)


def _shares(n_batch: int, n_panels: int, blocks: Any, counts: _Counts) -> list[tuple[int, int, int, int]]:
    """Return ranges of batches and of panels, one for each thread."""
    import numba

    config: Any = numba.config

    n = min(int(config.NUMBA_NUM_THREADS), math.prod(counts) // _MACS_A_THREAD)
    n_blocks = -(-n_batch // blocks.batch)
    n = max(1, min(n, max(n_blocks, n_panels)))
    if n_blocks >= n or n_blocks >= n_panels:
        cuts = [min(n_batch, k * n_blocks // n * blocks.batch) for k in range(n + 1)]
        return [(start, stop, 0, n_panels) for start, stop in itertools.pairwise(cuts)]
    cuts = [k * n_panels // n for k in range(n + 1)]
    return [(0, n_batch, start, stop) for start, stop in itertools.pairwise(cuts)]
