"""The loops of the dynamic programme over sets of modes, compiled."""

# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import numpy as np

from tnet.arrays.compiled import jit
from tnet.structure_search.trees.lower_hull_loops import chain

__all__ = ["fill"]


@jit
def _room(values, picks, needed):  # type: ignore[no-untyped-def]
    """Return the arrays, or longer copies where they hold fewer than ``needed`` rows."""
    if needed <= len(values):
        return values, picks
    size = max(needed, 2 * len(values))
    more_values, more_picks = np.empty((size, 2)), np.empty((size, 4), np.int64)
    more_values[: len(values)], more_picks[: len(picks)] = values, picks
    return more_values, more_picks


@jit
def _keep_hull(pool, pool_picks, used, values, picks, n):  # type: ignore[no-untyped-def]
    """Append the lower hull of the first n points to a pool; return the pool and how much of it is used."""
    weights, costs = values[:n, 0].copy(), values[:n, 1].copy()
    kept = chain(weights, costs, np.argsort(weights, kind="mergesort"))
    pool, pool_picks = _room(pool, pool_picks, used + len(kept))
    for k in kept:
        pool[used], pool_picks[used] = values[k], picks[k]
        used += 1
    return pool, pool_picks, used


@jit
def _place(sets, modes, is_dense):  # type: ignore[no-untyped-def]
    """Return the place of a set among the sorted ones, -1 where it is not there."""
    if is_dense:
        return modes // 2 - 1
    place = np.searchsorted(sets, modes)
    return place if place < len(sets) and sets[place] == modes else -1


@jit
def _firsts(sets, t, starts, stops, is_dense):  # type: ignore[no-untyped-def]
    """Return the places of the proper subsets of set t that hold its lowest mode and may stand behind a bond."""
    modes = sets[t]
    lowest = modes & -modes
    others = modes ^ lowest
    found = np.empty(t + 1, np.int64)
    n = 0
    if is_dense:
        subset = others
        while subset:
            subset = (subset - 1) & others
            place = (subset | lowest) // 2 - 1
            if stops[place, 1] > starts[place, 1]:
                found[n] = place
                n += 1
    else:
        for place in range(t):
            if sets[place] & lowest and not sets[place] & ~modes and stops[place, 1] > starts[place, 1]:
                found[n] = place
                n += 1
    return found[:n]


@jit
def fill(sets, cut_starts, cut_stops, ranks, prices, sizes, limit, is_strict, internal_price, at_most, is_dense):  # type: ignore[no-untyped-def]
    """Return all tables: columns 1 and on by number of bonds, the last for more too unless strict; 0 for the ends.

    ``values[starts[t, k]:stops[t, k]]`` are the (weight, cost) of set t. Picks are, for one bond (rank, point of the
    end, 0, 0), for more (place of the first set, its point, bonds of the rest, point), for ends (mode or -1, bonds,
    point, 0).
    """
    starts, stops = np.zeros((len(sets), limit + 1), np.int64), np.zeros((len(sets), limit + 1), np.int64)
    values, picks, used = np.empty((4096, 2)), np.empty((4096, 4), np.int64), 0
    some, origin = np.empty((4096, 2)), np.empty((4096, 4), np.int64)
    most = limit - 1 if is_strict else limit
    for t in range(len(sets)):
        modes = sets[t]
        firsts = _firsts(sets, t, starts, stops, is_dense)
        for total in range(2, limit + 1):
            n = 0
            for first in firsts:
                rest = _place(sets, modes ^ sets[first], is_dense)
                if rest < 0:
                    continue
                for count in range(total - 1, total if is_strict else limit + 1):
                    i0, i1, j0, j1 = starts[first, 1], stops[first, 1], starts[rest, count], stops[rest, count]
                    some, origin = _room(some, origin, n + (i1 - i0) * (j1 - j0))
                    for i in range(i0, i1):
                        for j in range(j0, j1):
                            weight, cost = values[i, 0] * values[j, 0], values[i, 1] + values[j, 1]
                            if weight + cost <= at_most:
                                some[n, 0], some[n, 1] = weight, cost
                                origin[n, 0], origin[n, 1], origin[n, 2], origin[n, 3] = first, i - i0, count, j - j0
                                n += 1
            starts[t, total] = used
            values, picks, used = _keep_hull(values, picks, used, some, origin, n)
            stops[t, total] = used
        if cut_stops[t] == cut_starts[t]:
            continue
        n = 0
        for mode in range(len(sizes)):
            if not modes >> mode & 1:
                continue
            if modes == 1 << mode:
                some[0, 0], some[0, 1] = sizes[mode], 0.0
                origin[0, 0], origin[0, 1], origin[0, 2], origin[0, 3] = mode, 0, 0, 0
                n = 1
                continue
            rest = _place(sets, modes ^ (1 << mode), is_dense)
            if rest < 0:
                continue
            for count in range(1, most + 1):
                some, origin = _room(some, origin, n + stops[rest, count] - starts[rest, count])
                for j in range(starts[rest, count], stops[rest, count]):
                    some[n, 0], some[n, 1] = sizes[mode] * values[j, 0], values[j, 1]
                    origin[n, 0], origin[n, 1], origin[n, 2], origin[n, 3] = mode, count, j - starts[rest, count], 0
                    n += 1
        if np.isfinite(internal_price):
            for count in range(2, most + 1):
                some, origin = _room(some, origin, n + stops[t, count] - starts[t, count])
                for j in range(starts[t, count], stops[t, count]):
                    some[n, 0], some[n, 1] = values[j, 0], values[j, 1] + internal_price
                    origin[n, 0], origin[n, 1], origin[n, 2], origin[n, 3] = -1, count, j - starts[t, count], 0
                    n += 1
        starts[t, 0] = used
        values, picks, used = _keep_hull(values, picks, used, some, origin, n)
        stops[t, 0] = used
        if stops[t, 0] == starts[t, 0]:
            continue
        some, origin = _room(some, origin, cut_stops[t] - cut_starts[t])
        n = 0
        for k in range(cut_starts[t], cut_stops[t]):
            least, point = np.inf, 0
            for j in range(starts[t, 0], stops[t, 0]):
                cost = ranks[k] * values[j, 0] + values[j, 1]
                if cost < least:
                    least, point = cost, j - starts[t, 0]
            if least + prices[k] <= at_most:
                some[n, 0], some[n, 1] = ranks[k], least + prices[k]
                origin[n, 0], origin[n, 1], origin[n, 2], origin[n, 3] = ranks[k], point, 0, 0
                n += 1
        starts[t, 1] = used
        values, picks, used = _keep_hull(values, picks, used, some, origin, n)
        stops[t, 1] = used
    return values, picks, starts, stops
