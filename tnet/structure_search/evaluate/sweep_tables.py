"""A program of a sweep as tables of integers, for loops that run it one network after the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tnet.arrays import total_size
from tnet.structure_search.evaluate.pairwise_steps import MatrixView
from tnet.structure_search.evaluate.sweep_program import Contraction, Key, Solve, SweepProgram

__all__ = ["SweepTables", "sweep_tables"]

PRODUCT, SOLUTION = 0, 1
RESULT = -2  # the place of the whole tensor, which has memory of its own
PLAIN, TURNED, GATHERED = 0, 1, 2


class SweepTables(NamedTuple):
    """What the compiled loops read.

    Attributes
    ----------
    up, down, join : array of int64, shape (n, 14)
        Instructions. A product: kind, place of the result, rows, inner length, columns, then for each operand its
        place (-1: x), its form, the start of its order in ``orders``, and whether it is conjugated. A solution: kind,
        place of the core, bonds, mode, unused, then form and order of the normal matrix and of the right-hand side.
    orders : array of int64
        For each gathered operand the places of its entries, row by row.
    n_work : int
        Entries of the memory for all tensors but x; the cores lie at its beginning, one after the other.
    n_scratch : int
        Entries of the largest gathered operand or normal matrix.
    """

    up: np.ndarray
    down: np.ndarray
    join: np.ndarray
    orders: np.ndarray
    n_work: int
    n_scratch: int


def sweep_tables(program: SweepProgram, *, is_complex: bool) -> SweepTables:
    """Return the tables of a program whose normal matrices are made by layers."""
    return _Writer(program, is_complex).tables()


class _Writer:
    def __init__(self, program: SweepProgram, is_complex: bool) -> None:
        self.program = program
        self.is_complex = is_complex
        self.root: Key = ("rest", (1 << len(program.core_labels)) - 1)
        self.places: dict[Key, int] = {}
        self.n_work = 0
        self.orders: list[np.ndarray] = []
        self.n_orders = 0
        self.n_scratch = 1
        for k in range(len(program.core_labels)):
            self._place(("block", 1 << k))

    def tables(self) -> SweepTables:
        up = [self._product(item) for item in self.program.up]
        down = [
            self._product(item) if isinstance(item, Contraction) else self._solution(item)
            for item in self.program.down
        ]
        join = [self._product(self.program.join)]
        orders = np.concatenate(self.orders) if self.orders else np.zeros(0, dtype=np.int64)
        return SweepTables(_table(up), _table(down), _table(join), orders, self.n_work, self.n_scratch)

    def _place(self, key: Key) -> int:
        if key == self.root:
            return -1
        if key not in self.places:
            self.places[key] = self.n_work
            self.n_work += total_size([self.program.sizes[i] for i in self.program.labels[key]])
        return self.places[key]

    def _product(self, item: Contraction) -> list[int]:
        for key, view in ((item.a, item.step.left), (item.b, item.step.right)):
            if key != self.root:
                self.n_scratch = max(self.n_scratch, total_size(view.matrix))
        (m, k), n = _matrix(item.step.left), _matrix(item.step.right)[1]
        return [
            PRODUCT,
            RESULT if item is self.program.join else self._place(item.out),
            m,
            k,
            n,
            self._place(item.a),
            *self._form(item.step.left),
            int(item.conj_a and self.is_complex),
            self._place(item.b),
            *self._form(item.step.right),
            int(item.conj_b and self.is_complex),
            0,
        ]

    def _solution(self, item: Solve) -> list[int]:
        normal, right = item.views
        self.n_scratch = max(self.n_scratch, total_size(_matrix(normal)))
        bonds, mode = _matrix(right)
        places = [self._place(key) for key in item.keys]
        core = self._place(("block", 1 << item.core))
        return [
            SOLUTION, core, bonds, mode, 0, places[0], *self._form(normal), 0, places[1], *self._form(right), 0, 0
        ]  # fmt: skip

    def _form(self, view: MatrixView) -> tuple[int, int]:
        """Return the form of an operand, and where its order begins."""
        if view.axes is None:
            return (TURNED, 0) if view.turned else (PLAIN, 0)
        start, size = self.n_orders, total_size(view.shape)
        order = np.arange(size).reshape(view.shape).transpose([axis - 1 for axis in view.axes[1:]]).reshape(-1)
        self.orders.append(order)
        self.n_orders += size
        self.n_scratch = max(self.n_scratch, size)
        return GATHERED, start


def _matrix(view: MatrixView) -> tuple[int, int]:
    """Return rows and columns of an operand, as it enters the product."""
    m, n = view.matrix
    return (n, m) if view.turned else (m, n)


def _table(rows: list[list[int]]) -> np.ndarray:
    return np.asarray(rows, dtype=np.int64).reshape(-1, 14)
