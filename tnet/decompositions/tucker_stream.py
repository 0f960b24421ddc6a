"""A Tucker tensor that grows: slabs arrive one after the other along one mode, and are not kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    dtype_name,
    mode_product,
    qr,
    scale_by_power_of_two,
    squared_norm,
)
from tnet.decompositions.preparation import Prepared, prepare, rescaled
from tnet.decompositions.sthosvd import leading_factor, sthosvd
from tnet.decompositions.truncated_basis import resolve_method
from tnet.errors import BackendError, InputError, ShapeError
from tnet.formats import TuckerTensor
from tnet.options import Truncation, check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["TuckerStream", "tucker_stream"]


def tucker_stream(x: Array, *, rtol: float, mode: int = 0) -> TuckerStream:
    r"""Start a Tucker decomposition of data that arrives in slabs.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
        The first slab, real or complex floating point.
    rtol : float
        Relative Frobenius error of all that will have arrived, whenever :meth:`TuckerStream.finish` is called.
    mode : int
        The mode along which further slabs are appended.

    Returns
    -------
    TuckerStream
        Its ``update(slab)`` returns the next state, its ``finish()`` the decomposition so far.

    Raises
    ------
    InputError
        A non-finite entry, an empty mode, order 0, a tolerance outside [0, 1).
    ShapeError
        A mode that the slab does not have.
    BackendError
        Integers, half precision, and other arrays that hold no floating point numbers of 32 bits or more.

    Notes
    -----
    Streaming ST-HOSVD. A slab is projected on the factors of the modes that do not grow; where what is left over
    exceeds its share of the tolerance, its leading directions are added to the factor. The core, with the projected
    slab behind it, is then cut in the growing mode. A slab of size N costs about ``2 sum(r_k) N`` multiply-adds, and
    memory for two copies of itself; the state holds the model alone.

    All that is discarded is orthogonal to the model and adds up exactly, until a direction is added of which earlier
    slabs may have lost a part. From then on what the cuts change in such directions is added by the triangle
    inequality, and ``error`` is an upper bound. Ranks are somewhat larger than those of all slabs at once.

    Examples
    --------
    >>> import numpy as np
    >>> from tnet.decompositions import tucker_stream
    >>> x = np.add.outer(np.arange(30.0), np.add.outer(np.arange(4.0), np.arange(5.0)))
    >>> state = tucker_stream(x[:10], rtol=1e-8)
    >>> for start in (10, 20):
    ...     state = state.update(x[start : start + 10])
    >>> state.shape, state.rank
    ((30, 4, 5), (2, 2, 2))
    """
    started = time.perf_counter()
    check_rank_or_rtol(None, rtol)
    prepared = _prepared(x)
    d = prepared.array.ndim
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode < d:
        raise ShapeError(f"mode={mode!r} of a slab of {d} modes: give 0 to {d - 1}.")
    slab = array_namespace(prepared.array).moveaxis(prepared.array, mode, 0)
    found = sthosvd(slab, None, rtol, prepared.squared_norm)
    lost2 = found.error**2 * prepared.squared_norm
    seconds = time.perf_counter() - started
    clean = tuple(int(n) for n in found.core.shape[1:])
    norm2 = prepared.squared_norm
    origin = prepared._replace(array=None)  # no slab is kept
    return TuckerStream(found.core, found.factors, mode, rtol, origin, norm2, lost2, clean, True, seconds)


class _Expanded(NamedTuple):
    """A factor with the directions added that a slab asked for, the slab projected on it, and what is left out."""

    factor: Array
    slab: Array
    discarded: float


class _Cut(NamedTuple):
    """A basis of the growing mode, the core on it, and by how much the squared error may have risen."""

    V: Array
    core: Array
    lost: float
    is_exact: bool


@dataclass(frozen=True, eq=False)
class TuckerStream:
    """The state of a streaming Tucker decomposition: the model so far and the account of its error.

    Made by :func:`tucker_stream`. Read ``shape``, ``rank`` and ``error``; call ``update`` and ``finish``.

    Parameters
    ----------
    core : array, shape (r_mode, ...)
        The growing mode comes first, here and in ``factors``.
    factors : tuple of array
        With orthonormal columns.
    mode : int
        Where the growing mode stands in the slabs.
    rtol : float
    origin : Prepared
        The scale and dtype of the first slab, without its array.
    squared_norm : float
        Of all slabs so far, in that scale.
    lost : float
        Squared norm of what the model lacks, or an upper bound of it.
    clean : tuple of int
        The leading columns of each other factor in whose span nothing was lost.
    is_exact : bool
        Whether ``lost`` is no mere bound.
    seconds : float
        Spent so far.
    """

    core: Array
    factors: tuple[Array, ...]
    mode: int
    rtol: float
    origin: Prepared
    squared_norm: float
    lost: float
    clean: tuple[int, ...]
    is_exact: bool
    seconds: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all that has arrived."""
        return self._in_order([int(U.shape[0]) for U in self.factors])

    @property
    def rank(self) -> tuple[int, ...]:
        """Shape of the core."""
        return self._in_order([int(r) for r in self.core.shape])

    @property
    def error(self) -> float:
        """Relative Frobenius error so far, or an upper bound of it."""
        return math.sqrt(self.lost / self.squared_norm) if self.squared_norm > 0 else 0.0

    def update(self, slab: Array) -> TuckerStream:
        """Return the state after another slab; this one stays as it is.

        Parameters
        ----------
        slab : array
            Of the shape of the first one, but for the growing mode; of its library, device and dtype.

        Raises
        ------
        ShapeError
            Another shape.
        BackendError
            Another library, device or dtype.
        InputError
            A non-finite entry, or entries too large or too small to stand beside the first slab's.
        """
        started = time.perf_counter()
        S, slab_norm2, origin = self._as_slab(slab)
        norm2 = self.squared_norm + slab_norm2
        method = resolve_method("auto", self.rtol, S)
        allowed = self.rtol**2 * norm2
        lost2 = self.lost
        factors = [self.factors[0]]
        for k in range(1, S.ndim):
            share = max(allowed - lost2, 0.0) / (S.ndim - k + 1)
            U, S, discarded = _expanded(S, self.factors[k], k, share, method)
            lost2 += discarded
            factors.append(U)
        Z = _stacked(self.core, S)
        # As long as nothing is lost, new directions are as good as old ones.
        clean = tuple(int(n) for n in Z.shape[1:]) if self.lost == 0.0 else self.clean
        cut = self._cut(Z, max(allowed - lost2, 0.0), clean, method)
        xp = array_namespace(Z)
        r = int(self.core.shape[0])
        factors[0] = xp.concat([self.factors[0] @ cut.V[:r, :], cut.V[r:, :]], axis=0)
        return replace(
            self,
            core=cut.core,
            factors=tuple(factors),
            origin=origin,
            squared_norm=norm2,
            lost=lost2 + cut.lost,
            clean=clean,
            is_exact=self.is_exact and cut.is_exact,
            seconds=self.seconds + time.perf_counter() - started,
        )

    def finish(self) -> Decomposition[TuckerTensor]:
        """Return the decomposition of all that has arrived; more slabs may follow.

        Returns
        -------
        Decomposition of TuckerTensor
            ``error_kind`` is "exact", or "bound" once a direction was added of which earlier slabs may have lost
            a part.
        """
        xp = array_namespace(self.core)
        core, *factors = rescaled([self.core, *self.factors], 0, self.origin)
        tensor = TuckerTensor(xp.moveaxis(core, 0, self.mode), tuple(self._in_order(factors)))
        kind = "exact" if self.is_exact else "bound"
        return Decomposition(tensor, self.error, kind, Status.DIRECT, History(), self.seconds)

    def _as_slab(self, slab: Array) -> tuple[Array, float, Prepared]:
        """Return a slab with the growing mode first, its squared norm, and the scale of both, that of the state."""
        prepared = _prepared(slab)
        array = prepared.array
        if prepared.dtype != self.origin.dtype:
            raise BackendError(f"a slab of dtype {prepared.dtype} after slabs of {self.origin.dtype}: convert it.")
        xp = array_namespace(self.core, array)
        expected = self.shape
        shape = tuple(int(n) for n in array.shape)
        if len(shape) != len(expected) or any(
            n != m for k, (n, m) in enumerate(zip(shape, expected, strict=True)) if k != self.mode
        ):
            raise ShapeError(f"a slab of shape {shape} for a stream of {expected}: only mode {self.mode} may differ.")
        # Zeros have no scale.
        origin = self.origin if self.squared_norm > 0 else self.origin._replace(exponent=prepared.exponent)
        shift = prepared.exponent - origin.exponent if prepared.squared_norm > 0 else 0
        norm2 = math.ldexp(prepared.squared_norm, 2 * shift) if abs(shift) < 400 else math.inf
        if shift and not (0.0 < norm2 < float(xp.finfo(array.dtype).max)):
            raise InputError("a slab whose scale is out of range beside that of the first: scale all slabs alike.")
        return xp.moveaxis(scale_by_power_of_two(array, shift), self.mode, 0), norm2, origin

    def _cut(self, Z: Array, allowed: float, clean: tuple[int, ...], method: str) -> _Cut:
        """Cut the core with the new rows behind it in the growing mode, by no more than ``allowed`` in square.

        What the old rows lost before is orthogonal to the model in directions that are clean. In the others it may
        add up with what they lose now: that is measured, and the cut repeated within a safe bound if it is too much.
        """
        before = math.sqrt(self.lost)
        dirty = tuple(Z.shape[1:]) != clean
        for tail in (math.sqrt(allowed), math.sqrt(before * before + allowed) - before):
            V = leading_factor(Z, 0, Truncation(tail=tail), method).U
            core = mode_product(Z, adjoint(V), 0)
            change = Z - mode_product(core, V, 0)
            lost = squared_norm(change)
            overlap = self._beside(clean, change) if dirty else 0.0
            cut = _Cut(V, core, lost + 2.0 * before * overlap, overlap == 0.0)
            if cut.lost <= allowed:
                break
        return cut

    def _beside(self, clean: tuple[int, ...], change: Array) -> float:
        """Return the norm of the change of the old rows outside the clean directions."""
        old = change[: int(self.core.shape[0]), ...]
        inside = old[(slice(None), *(slice(0, n) for n in clean))]
        return math.sqrt(max(squared_norm(old) - squared_norm(inside), 0.0))

    def _in_order(self, values: Any) -> tuple[Any, ...]:
        first, *others = values
        others.insert(self.mode, first)
        return tuple(others)


def _prepared(x: Array) -> Prepared:
    prepared = prepare(x)
    if prepared.is_half:
        raise BackendError(f"dtype {dtype_name(x)}: a stream needs 32 bits or more, convert the slabs to float32.")
    return prepared


def _expanded(S: Array, U: Array, mode: int, share: float, method: str) -> _Expanded:
    """Project a slab on a factor, with its leading new directions where the rest has more than ``share``."""
    inside = mode_product(S, adjoint(U), mode)
    R = S - mode_product(inside, U, mode)
    lost = squared_norm(R)
    n, r = (int(size) for size in U.shape)
    if lost <= share or r == n:
        return _Expanded(U, inside, lost)
    xp = array_namespace(S)
    W = leading_factor(R, mode, Truncation(tail=math.sqrt(share)), method).U[:, : n - r]
    W = qr(xp.concat([U, W], axis=1))[0][:, r:]  # orthogonal to U also where it is mostly roundoff
    beside = mode_product(S, adjoint(W), mode)
    lost = squared_norm(R - mode_product(beside, W, mode))
    return _Expanded(xp.concat([U, W], axis=1), xp.concat([inside, beside], axis=mode), lost)


def _stacked(core: Array, S: Array) -> Array:
    """Return the core, padded by zeros to the new directions, with the rows of a projected slab behind it."""
    xp = array_namespace(core)
    padded = xp.zeros((core.shape[0], *S.shape[1:]), dtype=core.dtype, device=core.device)
    padded[tuple(slice(0, int(n)) for n in core.shape)] = core
    return xp.concat([padded, S], axis=0)
