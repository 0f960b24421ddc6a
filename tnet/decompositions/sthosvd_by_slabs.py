"""ST-HOSVD of an array that need not fit in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tnet.algebra import unfold
from tnet.algebra.error_budget import ErrorBudget
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    svd_truncated,
    total_size,
    tsqr,
    ttm_chain,
)
from tnet.decompositions.slabs import WHOLE_COPIES, Allowance, Slab, SlabbedArray, gram_bytes, residual_error
from tnet.decompositions.sthosvd import Projected, leading_factor, mode_gram, order_of_modes
from tnet.decompositions.truncated_basis import Basis, basis_from_gram, resolve_method, with_true_error
from tnet.formats import TuckerTensor
from tnet.options import Truncation

__all__ = ["check_need", "sthosvd_by_slabs", "tucker_residual"]

_TRIANGLE_COPIES = 4  # of a slab that is unfolded, stacked on a triangle and factorised


def sthosvd_by_slabs(
    source: SlabbedArray,
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    norm2: float,
    allowance: Allowance,
    method: str | None = None,
) -> Projected:
    """Truncate one mode after the other, reading slabs of what is left.

    The same steps and the same result as :func:`tnet.decompositions.sthosvd.sthosvd`.

    Parameters
    ----------
    source : SlabbedArray
    ranks : tuple of int or None
    rtol : float or None
    norm2 : float
        Squared norm of the array.
    allowance : Allowance
    method : {"auto", "tsqr"}, optional

    Raises
    ------
    MemoryLimitError
        As soon as it is known; see :func:`check_need` for what is known from the start.

    Notes
    -----
    Passes over the array: one for the Gram matrix of the first mode, one for the projection on its basis, if what
    is left fits in half of the allowance. Otherwise each further mode takes one more pass, in which the slabs are
    projected as they are read, until it fits.
    """

    def build(method: str) -> tuple[TuckerTensor, float]:
        order = order_of_modes(source.shape, ranks)
        budget = ErrorBudget(ranks, rtol, norm2, len(source.shape))
        factors: dict[int, Array] = {}
        rest = _Rest(source, allowance)
        for mode in order:
            U, discarded = rest.leading_factor(mode, budget.truncation(mode), method)
            budget.spend(discarded)
            factors[mode] = U
            rest.project(mode, U)
        tensor = TuckerTensor(rest.in_memory(), tuple(factors[mode] for mode in range(len(order))))
        return tensor, math.sqrt(budget.spent / norm2) if norm2 > 0 else 0.0

    def residual(tensor: TuckerTensor) -> float:
        return tucker_residual(source, tensor.core, tensor.factors, norm2, allowance) if norm2 > 0 else 0.0

    method = method or resolve_method("auto", rtol, source.like)
    found, error = with_true_error(build, residual, method, rtol, source.like)
    return Projected(found.core, found.factors, error)


def tucker_residual(
    source: SlabbedArray, core: Array, factors: Sequence[Array], norm2: float, allowance: Allowance
) -> float:
    """Return the exact relative error of a Tucker model, slab by slab."""

    def part(place: tuple[slice, ...]) -> Array:
        return TuckerTensor(core, tuple(U[rows, :] for U, rows in zip(factors, place, strict=True))).to_dense()

    return residual_error(source, part, norm2, allowance)


class _Rest:
    """What the modes done so far leave of the array: slabs of it, and bases to project them on when they are read."""

    def __init__(self, source: SlabbedArray, allowance: Allowance) -> None:
        self._source = source
        self._pending: dict[int, Array] = {}
        self._allowance = allowance  # without what is held here
        self._held = 0

    @property
    def _shape(self) -> list[int]:
        """The shape once everything pending is projected on."""
        return [int(self._pending[k].shape[1]) if k in self._pending else n for k, n in enumerate(self._source.shape)]

    def leading_factor(self, mode: int, truncation: Truncation, method: str) -> Basis:
        """Return the leading left singular vectors of the unfolding along ``mode``."""
        n = self._shape[mode]
        allowance = self._allowance.holding(self._held)
        if n > total_size(self._shape) // n or len(self._shape) == 1:
            Y = self.in_memory()
            what = f"the QR decomposition along mode {mode}, longer than all others together,"
            allowance.require(WHOLE_COPIES * total_size(Y.shape) * self._source.itemsize, what)
            return leading_factor(Y, mode, truncation, method)
        if not self._free_axes(mode):
            self.in_memory()
        if method == "auto":
            found = basis_from_gram(self._gram(mode), truncation, self._source.like)
            if found is not None:
                return found
        small = svd_truncated(adjoint(self._triangle(mode)), truncation)
        return Basis(small.U, small.discarded)

    def project(self, mode: int, U: Array) -> None:
        """Leave of ``mode`` only the span of ``U``: at once if the result fits easily, else when it is read."""
        self._pending[mode] = U
        self._allowance = self._allowance.holding(total_size(U.shape) * self._source.itemsize)
        if self._n_bytes() <= self._allowance.holding(self._held).left // 2:
            self.in_memory()

    def in_memory(self) -> Array:
        """Return what is left as one array; nothing is pending from then on."""
        if self._pending or not self._held:
            self._materialise()
        return self._source.x

    def _materialise(self) -> None:
        xp = array_namespace(self._source.x)
        shape, n_bytes = self._shape, self._n_bytes()
        allowance = self._allowance.holding(self._held)
        allowance.require(n_bytes, f"the array that is left, of shape {tuple(shape)},")
        allowance = allowance.holding(n_bytes)
        out = xp.zeros(tuple(shape), dtype=self._source.dtype, device=self._source.x.device)
        axes = [*self._free_axes(None), *self._pending]
        for slab in self._source.slabs(axes, 2, allowance, "the projection of a part of x"):
            # Along axes that are projected on, the parts add up; along the others each has its own place.
            place = tuple(slice(None) if k in self._pending else rows for k, rows in enumerate(slab.place))
            out[place] = out[place] + self._projected(slab)
        self._source, self._pending, self._held = SlabbedArray(out), {}, n_bytes

    def _gram(self, mode: int) -> Array:
        n = self._shape[mode]
        allowance = self._allowance.holding(self._held + gram_bytes(n, self._source))
        # Put in order, projected, widened to double precision and conjugated.
        copies = 1 + (2 if self._pending else 0) + 32 / self._source.itemsize
        what = f"the Gram matrix of mode {mode} and a part of x"
        total: Array = 0.0
        for slab in self._source.slabs(self._free_axes(mode), copies, allowance, what):
            total = mode_gram(self._projected(slab), mode) + total
        return total

    def _triangle(self, mode: int) -> Array:
        """Return R with ``R^H R`` the Gram matrix, without squaring anything."""
        xp = array_namespace(self._source.x)
        n = self._shape[mode]
        allowance = self._allowance.holding(self._held + gram_bytes(n, self._source))
        copies = _TRIANGLE_COPIES + (2 if self._pending else 0)
        what = f"the QR decomposition along mode {mode} of a part of x"
        R: Array = None
        for slab in self._source.slabs(self._free_axes(mode), copies, allowance, what):
            Y = self._projected(slab)
            rows = adjoint(unfold(Y, mode))
            R = tsqr(rows if R is None else xp.concat([R, rows], axis=0))
        return R

    def _projected(self, slab: Slab) -> Array:
        """Project a part on everything pending."""
        bases = [adjoint(U[slab.place[k], :]) for k, U in self._pending.items()]
        return ttm_chain(slab.array, bases, list(self._pending))

    def _free_axes(self, mode: int | None) -> list[int]:
        return [k for k in range(len(self._source.shape)) if k != mode and k not in self._pending]

    def _n_bytes(self) -> int:
        return total_size(self._shape) * self._source.itemsize


def check_need(source: SlabbedArray, ranks: tuple[int, ...] | None, allowance: Allowance) -> None:
    """Raise MemoryLimitError, before anything is read, where the ranks alone show that the limit is too little."""
    if ranks is None:
        return
    order = order_of_modes(source.shape, ranks)
    factors = 0
    left = list(source.shape)
    for mode in order:
        n = left[mode]
        others = total_size(left) // n
        whole = n * others * source.itemsize
        work = WHOLE_COPIES * whole if n > others else gram_bytes(n, source)
        # A longest mode, and the last unfolding whatever the way there, are in memory.
        work += whole if n > others or mode == order[-1] else 0
        allowance.require(factors + work, f"mode {mode} of size {n}, cut to rank {ranks[mode]},")
        factors += n * ranks[mode] * source.itemsize
        left[mode] = ranks[mode]
