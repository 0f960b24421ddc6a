"""Compiled loops of a packed contraction: pack blocks of both operands into cache, multiply tile by tile.

Importing this module imports Numba.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tnet.arrays.compiled import jit
from tnet.arrays.pairwise_tiles import (
    ACROSS,
    ROWS,
    gather_complex_lines,
    gather_complex_rows,
    gather_lines,
    gather_lines_across,
    gather_rows,
    gather_rows_across,
    multiply_tile,
    prefetch,
)
from tnet.arrays.permuted_tiles import line_length

__all__ = ["PADDING", "Blocks", "Goal", "Lanes", "Rows", "contract_packed"]

PADDING = 16
"""Entries between two packed pieces: at a distance of a power of two they would share one set of a cache."""


class Rows(NamedTuple):
    """The operand whose free indices are the rows of the product, all offsets counted in its own entries."""

    entries: np.ndarray
    """Its memory, one-dimensional; complex numbers as pairs of real ones."""
    places: np.ndarray
    """Offset of each row, the last one repeated up to a multiple of ``ROWS``."""
    depth: np.ndarray
    """Offset of each k."""
    batch: np.ndarray
    """Offset of each batch."""
    count: int
    """Number of rows."""
    batch_inside: bool
    """Whether neighbouring batches are neighbours in memory, so that they are packed together."""


class Lanes(NamedTuple):
    """The operand whose free indices are the columns of the product, which vectors run along."""

    entries: np.ndarray
    starts: np.ndarray
    """Offset of the first lane of each panel; panels come in blocks that all have the same patterns."""
    patterns: np.ndarray
    """Offsets of the lanes of each panel of a block from its first one, the last one repeated."""
    adjacent: np.ndarray
    """Whether the lanes of each panel of a block are neighbours in memory."""
    uniform: bool
    """Whether all panels have the same pattern."""
    depth: np.ndarray
    batch: np.ndarray
    count: int
    """Number of lanes of one block of panels."""
    batch_inside: bool


class Goal(NamedTuple):
    """The result: all lanes are neighbours in memory, rows at one distance."""

    entries: np.ndarray
    batch: np.ndarray
    """Offset of each batch."""
    row_stride: int


class Blocks(NamedTuple):
    """How much is packed at a time: batches, rows, rows that stay in L2 cache, panels of lanes, depth."""

    batch: int
    rows: int
    piece: int
    panels: int
    depth: int


def _neighbours(bases):  # type: ignore[no-untyped-def]
    """Return how many of the first batches lie side by side, rounded down to what is read together."""
    n = 1
    while n < len(bases) and bases[n] == bases[0] + n:
        n += 1
    return n - n % ACROSS


_neighbours = jit(_neighbours)


def _pack_lanes(target, start, stride, source, bases, first, pattern, adjacent, depth, parts):  # type: ignore[no-untyped-def]
    """Copy one panel: a line of lanes for each k and each batch, ``target[z, k, j]``."""
    width = line_length(target)
    if len(bases) == 1:
        if parts == 2:
            gather_complex_lines(target, start, 2 * width, source, bases[0] + first, pattern, depth, adjacent)
        else:
            gather_lines(target, start, width, source, bases[0] + first, pattern, depth, adjacent)
        return
    across = _neighbours(bases) if parts == 1 else 0
    for k in range(len(depth)):
        if k + 1 < len(depth):
            ahead = bases[0] + first + depth[k + 1]
            for j in range(width // parts):
                for z in range(0, len(bases), width // parts):
                    prefetch(source, (ahead + pattern[j] + z) * parts)
        if parts == 2:
            gather_complex_lines(
                target, start + 2 * k * width, stride, source, first + depth[k], pattern, bases, False
            )
        else:
            at = start + k * width
            gather_lines_across(target, at, stride, source, bases[0] + first + depth[k], pattern, across)
            gather_lines(
                target, at + across * stride, stride, source, first + depth[k], pattern, bases[across:], False
            )


def _pack_rows(target, start, stride, source, bases, places, depth, parts):  # type: ignore[no-untyped-def]
    """Copy ``ROWS`` rows for each k and each batch, ``target[z, k, i]``."""
    width = line_length(target)
    if len(bases) == 1:
        if parts == 2:
            gather_complex_rows(target, start, 2 * ROWS, source, bases[0], places, depth, False)
        else:
            gather_rows(target, start, ROWS, source, bases[0], places, depth, False)
        return
    across = _neighbours(bases) if parts == 1 else 0
    for k in range(len(depth)):
        if k + 1 < len(depth):
            ahead = bases[0] + depth[k + 1]
            for i in range(ROWS):
                for z in range(0, len(bases), width // parts):
                    prefetch(source, (ahead + places[i] + z) * parts)
        if parts == 2:
            gather_complex_rows(target, start + 2 * k * ROWS, stride, source, depth[k], places, bases, False)
        else:
            at = start + k * ROWS
            gather_rows_across(target, at, stride, source, bases[0] + depth[k], places, across)
            gather_rows(target, at + across * stride, stride, source, depth[k], places, bases[across:], False)


_pack_lanes = jit(_pack_lanes)
_pack_rows = jit(_pack_rows)


def _pack_row_block(target, rows, z0, z1, s0, s1, k0, k1, parts):  # type: ignore[no-untyped-def]
    """Copy rows s0 to s1: ``target[s // ROWS, z, k, i]``."""
    stride = (k1 - k0) * parts * ROWS + PADDING
    for s in range(s0, s1, ROWS):
        start = (s - s0) // ROWS * (z1 - z0) * stride
        _pack_rows(target, start, stride, rows.entries, rows.batch[z0:z1], rows.places[s : s + ROWS],
                   rows.depth[k0:k1], parts)  # fmt: skip


def _pack_lane_block(target, lanes, z0, z1, p0, p1, k0, k1, parts):  # type: ignore[no-untyped-def]
    """Copy panels p0 to p1: ``target[p, z, k, j]``."""
    width = line_length(target)
    step = width // parts
    stride = (k1 - k0) * parts * width + PADDING
    panels = len(lanes.adjacent)
    if z1 - z0 == 1 and lanes.uniform:
        # Line after line, rather than panel after panel: fewer calls, and often as the operand lies in memory.
        pattern, starts, adjacent = lanes.patterns[:step], lanes.starts[p0:p1], lanes.adjacent[0]
        for k in range(k0, k1):
            start = (k - k0) * width * parts
            base = lanes.batch[z0] + lanes.depth[k]
            if parts == 2:
                gather_complex_lines(target, start, stride, lanes.entries, base, pattern, starts, adjacent)
            else:
                gather_lines(target, start, stride, lanes.entries, base, pattern, starts, adjacent)
        return
    for p in range(p0, p1):
        inside = p % panels
        pattern = lanes.patterns[inside * step : (inside + 1) * step]
        _pack_lanes(target, (p - p0) * (z1 - z0) * stride, stride, lanes.entries, lanes.batch[z0:z1],
                    lanes.starts[p], pattern, lanes.adjacent[inside], lanes.depth[k0:k1], parts)  # fmt: skip


_pack_row_block = jit(_pack_row_block)
_pack_lane_block = jit(_pack_lane_block)


def _multiply_panel(packed_rows, row, row_step, s0, s1, n_rows, packed_lanes, lane, n_valid, deep, result, place,
                    row_stride, accumulate, edge):  # type: ignore[no-untyped-def]  # fmt: skip
    """Multiply rows s0 to s1 with one panel of lanes; ``place`` is where the first of them goes."""
    width = line_length(edge)
    for s in range(s0, s1, ROWS):
        if s + ROWS <= n_rows and n_valid == width:
            multiply_tile(packed_rows, row, packed_lanes, lane, deep, result, place, row_stride, accumulate)
        else:
            multiply_tile(packed_rows, row, packed_lanes, lane, deep, edge, 0, width, False)
            for i in range(min(ROWS, n_rows - s)):
                at = place + i * row_stride
                for j in range(n_valid):
                    value = edge[i * width + j]
                    result[at + j] = result[at + j] + value if accumulate else value
        row += row_step
        place += ROWS * row_stride


_multiply_panel = jit(_multiply_panel)


def _contract(rows, lanes, goal, parts, blocks, first_batch, last_batch, first_panel, last_panel):  # type: ignore[no-untyped-def]
    """Set ``result[z, s, v] = sum_k rows[z, s, k] lanes[z, k, v]`` for a range of batches and of panels.

    Operands and result are seen as real numbers, ``parts`` an entry.
    """
    result = goal.entries
    width = line_length(result)
    step = width // parts
    panels = len(lanes.adjacent)
    n_rows, n_depth = rows.count, len(rows.depth)
    depth_step, panel_step = min(blocks.depth, n_depth), min(blocks.panels, last_panel - first_panel)
    row_panels = (min(blocks.rows, n_rows) + ROWS - 1) // ROWS
    shared_rows = rows.batch_inside or blocks.batch == 1
    shared_lanes = lanes.batch_inside or blocks.batch == 1
    size = row_panels * (depth_step * parts * ROWS + PADDING)
    packed_rows = np.empty(size * blocks.batch if shared_rows else size, result.dtype)
    size = panel_step * (depth_step * parts * width + PADDING)
    packed_lanes = np.empty(size * blocks.batch if shared_lanes else size, result.dtype)
    edge = np.empty(ROWS * width, result.dtype)
    for z0 in range(first_batch, last_batch, blocks.batch):
        z1 = min(z0 + blocks.batch, last_batch)
        row_batches, lane_batches = z1 - z0 if shared_rows else 1, z1 - z0 if shared_lanes else 1
        for k0 in range(0, n_depth, depth_step):
            k1 = min(k0 + depth_step, n_depth)
            deep = (k1 - k0) * parts
            row_size, lane_size = deep * ROWS + PADDING, deep * width + PADDING
            for s0 in range(0, n_rows, blocks.rows):
                s1 = min(s0 + blocks.rows, n_rows)
                if shared_rows:
                    _pack_row_block(packed_rows, rows, z0, z1, s0, s1, k0, k1, parts)
                for p0 in range(first_panel, last_panel, panel_step):
                    p1 = min(p0 + panel_step, last_panel)
                    if shared_lanes:
                        _pack_lane_block(packed_lanes, lanes, z0, z1, p0, p1, k0, k1, parts)
                    for z in range(z0, z1):
                        if not shared_rows:
                            _pack_row_block(packed_rows, rows, z, z + 1, s0, s1, k0, k1, parts)
                        if not shared_lanes:
                            _pack_lane_block(packed_lanes, lanes, z, z + 1, p0, p1, k0, k1, parts)
                        row_z, lane_z = z - z0 if shared_rows else 0, z - z0 if shared_lanes else 0
                        for s2 in range(s0, s1, blocks.piece):
                            row = ((s2 - s0) // ROWS * row_batches + row_z) * row_size
                            s3 = min(s2 + blocks.piece, s1)
                            for p in range(p0, p1):
                                inside = p % panels * step
                                lane = ((p - p0) * lane_batches + lane_z) * lane_size
                                place = goal.batch[z] + s2 * goal.row_stride + p // panels * lanes.count + inside
                                _multiply_panel(
                                    packed_rows, row, row_batches * row_size, s2, s3, n_rows,
                                    packed_lanes, lane, min(step, lanes.count - inside) * parts, deep,
                                    result, place * parts, goal.row_stride * parts, k0 > 0, edge,
                                )  # fmt: skip


contract_packed = jit(_contract)
