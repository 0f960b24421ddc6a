"""TT-SVD of an array that need not fit in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tnet.algebra.error_budget import ErrorBudget
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    conj,
    gram,
    svd_truncated,
    total_size,
    tsqr,
)
from tnet.decompositions.slabs import WHOLE_COPIES, Allowance, SlabbedArray, gram_bytes, residual_error
from tnet.decompositions.truncated_basis import (
    Basis,
    basis_from_gram,
    leading_basis,
    with_true_error,
)
from tnet.formats import TensorTrain
from tnet.options import Truncation

__all__ = ["Train", "check_train_need", "train_by_slabs", "train_residual"]

_TRIANGLE_COPIES = 5  # of a slab that is unfolded, stacked on a triangle and factorised


class Train(NamedTuple):
    """The cores, the place of the one that has the norm, and the relative error."""

    cores: list[Array]
    carrier: int
    error: float


def train_by_slabs(
    source: SlabbedArray,
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    norm2: float,
    allowance: Allowance,
    method: str,
    *,
    rightwards: bool,
) -> Train:
    """Cut one bond after the other, reading slabs of what is left.

    Parameters
    ----------
    source : SlabbedArray
    ranks : tuple of int or None
    rtol : float or None
    norm2 : float
        Squared norm of the array.
    allowance : Allowance
    method : {"auto", "gram", "tsqr"}
    rightwards : bool
        Whether the sweep starts at the first mode, or at the last.

    Raises
    ------
    MemoryLimitError
        As soon as it is known; see :func:`check_train_need` for what is known from the start.

    Notes
    -----
    The steps of :func:`tnet.tt`. Passes over the array: one for the Gram matrix of the first bond, one for the
    projection, if what is left fits in half of the allowance; else one more for each further bond until it fits.
    """
    d = len(source.shape)

    def build(method: str) -> tuple[list[Array], float]:
        budget = ErrorBudget(ranks, rtol, norm2, d - 1)
        rest = _Rest(source, allowance, rightwards)
        cores: list[Array] = []
        for step in range(d - 1):
            bond = step if rightwards else d - 2 - step
            U, discarded = rest.leading_basis(budget.truncation(bond), method)
            budget.spend(discarded)
            cores.append(rest.core_of(U))
            rest.project(U)
        cores.append(rest.last_core())
        return cores if rightwards else cores[::-1], math.sqrt(budget.spent / norm2) if norm2 > 0 else 0.0

    def residual(cores: list[Array]) -> float:
        return train_residual(source, cores, norm2, allowance) if d > 1 and norm2 > 0 else 0.0

    cores, error = with_true_error(build, residual, method, rtol, source.like)
    return Train(cores, d - 1 if rightwards else 0, error)


def train_residual(source: SlabbedArray, cores: Sequence[Array], norm2: float, allowance: Allowance) -> float:
    """Return the exact relative error of a train, slab by slab."""

    def part(place: tuple[slice, ...]) -> Array:
        return TensorTrain(tuple(core[:, rows, :] for core, rows in zip(cores, place, strict=True))).to_dense()

    return residual_error(source, part, norm2, allowance)


class _Rest:
    """What the bonds cut so far leave of the array: slabs of it, and bases to project them on when they are read.

    The array in hand has an axis for the bond where the sweep stands, in front of its modes when the sweep goes
    right, else behind them.
    """

    def __init__(self, source: SlabbedArray, allowance: Allowance, rightwards: bool) -> None:
        xp = array_namespace(source.x)
        shape = (1, *source.shape) if rightwards else (*source.shape, 1)
        self._source = SlabbedArray(xp.reshape(source.x, shape), source.exponent)
        self._pending: list[Array] = []
        self._allowance = allowance  # without what is held here
        self._held = 0
        self._rightwards = rightwards
        self._rank = 1
        self._modes = list(source.shape)  # not cut yet

    def leading_basis(self, truncation: Truncation, method: str) -> Basis:
        """Return the leading singular vectors of the next unfolding, on the side that the sweep leaves behind."""
        n, others = self._unfolding()
        allowance = self._allowance.holding(self._held)
        if n > others:
            self._materialise()
            what = f"the QR decomposition of an unfolding of {n} by {others}"
            allowance = self._allowance.holding(self._held)
            allowance.require(WHOLE_COPIES * n * others * self._source.itemsize, what)
            return leading_basis(self._as_unfolding(self._source.x), truncation, method)
        if method in ("auto", "gram"):
            G = self._gram()
            found = basis_from_gram(G, truncation, self._source.like, accept_roundoff=method == "gram")
            if found is not None:
                return found
        small = svd_truncated(adjoint(self._triangle()), truncation)
        return Basis(small.U, small.discarded)

    def core_of(self, U: Array) -> Array:
        """Return the core that a basis of the next unfolding makes."""
        xp = array_namespace(U)
        r = int(U.shape[1])
        if self._rightwards:
            return xp.reshape(U, (self._rank, self._modes[0], r))
        return xp.reshape(xp.matrix_transpose(U), (r, self._modes[-1], self._rank))

    def project(self, U: Array) -> None:
        """Leave only the span of ``U``: at once if the result fits easily, else when the rest is read."""
        self._pending.append(U)
        self._rank = int(U.shape[1])
        self._modes = self._modes[1:] if self._rightwards else self._modes[:-1]
        self._allowance = self._allowance.holding(2 * total_size(U.shape) * self._source.itemsize)  # and its core
        if self._n_bytes() <= self._allowance.holding(self._held).left // 2:
            self._materialise()

    def last_core(self) -> Array:
        """Return what is left at the end of the sweep."""
        self._materialise()
        xp = array_namespace(self._source.x)
        (n,) = self._modes
        return xp.reshape(self._source.x, (self._rank, n, 1) if self._rightwards else (1, n, self._rank))

    def _unfolding(self) -> tuple[int, int]:
        """Return the sides of the next unfolding: bond and next mode, and the modes beyond."""
        if self._rightwards:
            return self._rank * self._modes[0], total_size(self._modes[1:])
        return self._rank * self._modes[-1], total_size(self._modes[:-1])

    def _materialise(self) -> None:
        if self._held and not self._pending:
            return
        xp = array_namespace(self._source.x)
        shape = (self._rank, *self._modes) if self._rightwards else (*self._modes, self._rank)
        allowance = self._allowance.holding(self._held)
        allowance.require(self._n_bytes(), f"the array that is left, of shape {shape},")
        out = xp.zeros(shape, dtype=self._source.dtype, device=self._source.x.device)
        gone = len(self._source.shape) - len(shape)
        allowance = allowance.holding(self._n_bytes())
        what = "the projection of a part of x"
        for slab in self._source.slabs(self._axes_of_modes(len(self._modes)), 3, allowance, what):
            # Of the axes projected on only the one of the bond is left, in front or behind.
            bond = slice(0, self._rank)
            place = (bond, *slab.place[gone + 1 :]) if self._rightwards else (*slab.place[: len(self._modes)], bond)
            sizes = tuple(part.stop - part.start for part in place)
            out[place] = xp.reshape(self._projected(slab.array), sizes)
        held = self._n_bytes()
        self._source, self._pending, self._held = SlabbedArray(out), [], held

    def _gram(self) -> Array:
        n, _ = self._unfolding()
        what = f"the Gram matrix of {n} rows and a part of x"
        total: Array = 0.0
        for Y in self._unfolded_slabs(n, 2 + 32 / self._source.itemsize, what):
            total = gram(Y) + total
        return total

    def _triangle(self) -> Array:
        """Return R with ``R^H R`` the Gram matrix, without squaring anything."""
        xp = array_namespace(self._source.x)
        n, _ = self._unfolding()
        R: Array = None
        for Y in self._unfolded_slabs(n, _TRIANGLE_COPIES, f"the QR decomposition of {n} rows of a part of x"):
            R = tsqr(adjoint(Y) if R is None else xp.concat([R, adjoint(Y)], axis=0))
        return R

    def _unfolded_slabs(self, n: int, copies: float, what: str) -> Iterator[Array]:
        """Yield columns of the next unfolding, as many as fit."""
        allowance = self._allowance.holding(self._held + gram_bytes(n, self._source))
        free = self._axes_of_modes(len(self._modes) - 1)
        for slab in self._source.slabs(free, copies + (2 if self._pending else 0), allowance, what):
            yield self._as_unfolding(self._projected(slab.array))

    def _as_unfolding(self, part: Array) -> Array:
        xp = array_namespace(part)
        n, _ = self._unfolding()
        if self._rightwards:
            return xp.reshape(part, (n, -1))
        return xp.matrix_transpose(xp.reshape(part, (-1, n)))

    def _projected(self, part: Array) -> Array:
        """Project a slab on everything pending; what comes back is in the order of memory, of any shape."""
        xp = array_namespace(part)
        for U in self._pending:
            if self._rightwards:
                part = adjoint(U) @ xp.reshape(part, (U.shape[0], -1))
            else:
                part = xp.reshape(part, (-1, U.shape[0])) @ conj(U)
        return part

    def _axes_of_modes(self, count: int) -> list[int]:
        """Return the axes of the array in hand that belong to the ``count`` modes that the sweep reaches last."""
        d = len(self._source.shape)
        return list(range(d - count, d)) if self._rightwards else list(range(count))

    def _n_bytes(self) -> int:
        return self._rank * total_size(self._modes) * self._source.itemsize


def check_train_need(
    source: SlabbedArray, ranks: tuple[int, ...] | None, allowance: Allowance, *, rightwards: bool
) -> None:
    """Raise MemoryLimitError, before anything is read, where the ranks alone show that the limit is too little."""
    if ranks is None:
        return
    modes = source.shape if rightwards else source.shape[::-1]
    bonds = ranks if rightwards else ranks[::-1]
    held, rank = 0, 1
    for step, r in enumerate(bonds):
        n, others = rank * modes[step], total_size(modes[step + 1 :])
        work = (1 + WHOLE_COPIES) * n * others * source.itemsize if n > others else gram_bytes(n, source)
        allowance.require(held + work, f"an unfolding of {n} by {others}, cut to rank {r},")
        held += 2 * n * r * source.itemsize
        rank = r
    allowance.require(held + rank * modes[-1] * source.itemsize, f"a train of ranks {ranks}")
