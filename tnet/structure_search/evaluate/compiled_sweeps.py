"""Sweeps over small networks, in compiled loops: a call of a library costs more than such a product.

Importing this module imports Numba.
"""

from __future__ import annotations

import numpy as np

from tnet.arrays.compiled import jit

__all__ = ["sweep_each"]

_PLAIN, _TURNED, _GATHERED = 0, 1, 2
_FEW = 32  # columns


def _loaded(source, place, form, start, rows, columns, conjugated, orders, scratch):
    """Bring an operand into scratch, row by row, unless it lies so in memory already."""
    size = rows * columns
    if form == _PLAIN:
        for i in range(size):
            scratch[i] = source[place + i]
    elif form == _TURNED:
        for i in range(rows):
            for j in range(columns):
                scratch[i * columns + j] = source[place + j * rows + i]
    else:
        for i in range(size):
            scratch[i] = source[place + orders[start + i]]
    if conjugated:
        for i in range(size):
            scratch[i] = np.conj(scratch[i])


def _multiplied(a, a_place, a_turned, b, b_place, out, out_place, m, k, n, spare):
    """Write the product of a (m, k), or of the transpose of a (k, m), and b (k, n).

    The innermost loop runs along the longest of the sides: few columns leave most of a vector register empty.
    """
    if n < _FEW and not a_turned and k >= _FEW:
        for l in range(k):
            for j in range(n):
                spare[j * k + l] = b[b_place + l * n + j]
        for i in range(m):
            line = a[a_place + i * k : a_place + i * k + k]
            for j in range(n):
                column = spare[j * k : j * k + k]
                total = line[0] * column[0]
                for l in range(1, k):
                    total += line[l] * column[l]
                out[out_place + i * n + j] = total
        return
    if n < _FEW and a_turned and m >= _FEW:
        for i in range(m * n):
            spare[i] = 0
        for l in range(k):
            line = a[a_place + l * m : a_place + l * m + m]
            for j in range(n):
                factor = b[b_place + l * n + j]
                row = spare[j * m : j * m + m]
                for i in range(m):
                    row[i] += factor * line[i]
        for i in range(m):
            for j in range(n):
                out[out_place + i * n + j] = spare[j * m + i]
        return
    for i in range(m * n):
        out[out_place + i] = 0
    for l in range(k):
        b_row = b[b_place + l * n : b_place + l * n + n]
        for i in range(m):
            factor = a[a_place + l * m + i] if a_turned else a[a_place + i * k + l]
            row = out[out_place + i * n : out_place + i * n + n]
            for j in range(n):
                row[j] += factor * b_row[j]


def _solved(G, n, M, m, out, out_place, shift_factor, smallest):
    """Write the solution Z of (G + shift) Z = M, by Cholesky in place; dependent columns get zeros."""
    trace = 0.0
    for i in range(n):
        trace += G[i * n + i].real
    shift = shift_factor * trace + smallest
    for i in range(n):
        G[i * n + i] += shift
    for j in range(n):
        pivot = G[j * n + j].real
        for l in range(j):
            value = G[j * n + l]
            pivot -= value.real * value.real + value.imag * value.imag
        held = pivot > 0.25 * shift
        root = np.sqrt(pivot) if held else 0.0
        G[j * n + j] = root
        inverse = 1.0 / root if held else 0.0
        for i in range(j + 1, n):
            value = G[i * n + j]
            for l in range(j):
                value -= G[i * n + l] * np.conj(G[j * n + l])
            G[i * n + j] = value * inverse
    for i in range(n):
        row = out_place + i * m
        for j in range(m):
            out[row + j] = M[i * m + j]
        for l in range(i):
            factor, above = G[i * n + l], out_place + l * m
            for j in range(m):
                out[row + j] -= factor * out[above + j]
        root = G[i * n + i].real
        inverse = 1.0 / root if root > 0 else 0.0
        for j in range(m):
            out[row + j] *= inverse
    for back in range(n):
        i = n - 1 - back
        row = out_place + i * m
        for l in range(i + 1, n):
            factor, below = np.conj(G[l * n + i]), out_place + l * m
            for j in range(m):
                out[row + j] -= factor * out[below + j]
        root = G[i * n + i].real
        inverse = 1.0 / root if root > 0 else 0.0
        for j in range(m):
            out[row + j] *= inverse


def _run(table, orders, x, work, result, first, second, spare, shift_factor, smallest):
    """Run the instructions of a table; a product at place -2 is written to ``result``."""
    for row in range(table.shape[0]):
        kind, place, m, k, n = table[row, 0], table[row, 1], table[row, 2], table[row, 3], table[row, 4]
        a_place, a_form, a_start, a_conj = table[row, 5], table[row, 6], table[row, 7], table[row, 8]
        b_place, b_form, b_start, b_conj = table[row, 9], table[row, 10], table[row, 11], table[row, 12]
        if kind == 1:
            _load(work, a_place, a_form, a_start, m, m, False, orders, first)
            _load(work, b_place, b_form, b_start, m, k, False, orders, second)
            _solve(first, m, second, k, work, place, shift_factor, smallest)
            continue
        target, target_place = (result, 0) if place == -2 else (work, place)
        a = x if a_place == -1 else work
        a_place = 0 if a_place == -1 else a_place
        a_turned = a_form == _TURNED
        if a_form == _GATHERED or a_conj:
            _load(a, a_place, a_form, a_start, m, k, a_conj, orders, first)
            a, a_place, a_turned = first, 0, False
        b = work
        if b_form != _PLAIN or b_conj:
            _load(work, b_place, b_form, b_start, k, n, b_conj, orders, second)
            b, b_place = second, 0
        _multiply(a, a_place, a_turned, b, b_place, target, target_place, m, k, n, spare)


def _sweep_each(
    up, down, join, orders, n_work, n_scratch, x, places, cores, errors, n_sweeps, shift_factor, smallest
):
    """Sweep over each network; its cores are replaced, and the squared norm of its residual is written."""
    n_entries, n_cores = x.shape[1], cores.shape[1]
    work = np.empty(n_work, dtype=x.dtype)
    result = np.empty(n_entries, dtype=x.dtype)
    first, second = np.empty(n_scratch, dtype=x.dtype), np.empty(n_scratch, dtype=x.dtype)
    longest = max(up[:, 2:4].max(), down[:, 2:4].max(), join[:, 2:4].max())
    spare = np.empty(_FEW * longest, dtype=x.dtype)
    for item in range(cores.shape[0]):
        given = x[places[item]]
        work[:n_cores] = cores[item]
        _execute(up, orders, given, work, result, first, second, spare, shift_factor, smallest)
        for _ in range(n_sweeps):
            _execute(down, orders, given, work, result, first, second, spare, shift_factor, smallest)
        _execute(join, orders, given, work, result, first, second, spare, shift_factor, smallest)
        cores[item] = work[:n_cores]
        total = 0.0
        for i in range(n_entries):
            difference = given[i] - result[i]
            total += difference.real * difference.real + difference.imag * difference.imag
        errors[item] = total


_REASSOCIATED = frozenset({"reassoc", "contract", "nsz"})

_load = jit(_loaded)
_multiply = jit(_multiplied, fastmath=_REASSOCIATED)
_solve = jit(_solved, fastmath=_REASSOCIATED)
_execute = jit(_run)
sweep_each = jit(_sweep_each)
