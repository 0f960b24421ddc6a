"""The compiled loop of :mod:`tnet.arrays.permuted`. Importing this module imports Numba."""

from __future__ import annotations

from tnet.arrays.compiled import jit
from tnet.arrays.permuted_tiles import line_length, transpose_block

__all__ = ["copy_tiles"]

_TILE = 64  # entries each way: the lines that a tile reads and writes stay in the first cache


def _copy_tile(target, goal, step, source, start, stride, n_wide, n_deep):  # type: ignore[no-untyped-def]
    """Set ``target[goal + j step + i] = source[start + i stride + j]`` for i below n_wide and j below n_deep."""
    line = line_length(target)
    whole_wide, whole_deep = n_wide - n_wide % line, n_deep - n_deep % line
    for j in range(0, whole_deep, line):
        for i in range(0, whole_wide, line):
            transpose_block(target, goal + j * step + i, step, source, start + i * stride + j, stride)
    for j in range(n_deep):
        for i in range(whole_wide if j < whole_deep else 0, n_wide):
            target[goal + j * step + i] = source[start + i * stride + j]


_copy_tile = jit(_copy_tile)


def _copy_tiles(target, source, outer, wide, deep):  # type: ignore[no-untyped-def]
    """Copy ``source`` to ``target`` tile by tile.

    ``outer`` has size, distance in the source and distance in the target of every axis that is in no tile; ``wide``
    size and distance in the source of the last axis of the target, ``deep`` size and distance in the target of the
    axis along which the source has neighbours.
    """
    n_wide, stride = wide
    n_deep, step = deep
    place = [0] * (len(outer) + 1)
    start = goal = 0
    while True:
        # The shorter axis runs inside: pages that a tile has used are used again soon.
        if n_deep <= n_wide:
            for i in range(0, n_wide, _TILE):
                for j in range(0, n_deep, _TILE):
                    _copy_tile(target, goal + j * step + i, step, source, start + i * stride + j, stride,
                               min(_TILE, n_wide - i), min(_TILE, n_deep - j))  # fmt: skip
        else:
            for j in range(0, n_deep, _TILE):
                for i in range(0, n_wide, _TILE):
                    _copy_tile(target, goal + j * step + i, step, source, start + i * stride + j, stride,
                               min(_TILE, n_wide - i), min(_TILE, n_deep - j))  # fmt: skip
        axis = len(outer) - 1
        while axis >= 0:
            n, stride_outer, step_outer = outer[axis]
            place[axis] += 1
            start += stride_outer
            goal += step_outer
            if place[axis] < n:
                break
            start -= n * stride_outer
            goal -= n * step_outer
            place[axis] = 0
            axis -= 1
        if axis < 0:
            return


copy_tiles = jit(_copy_tiles)
