"""Singular values of the matricisations of a tensor: what every cut through a network must let pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    balanced_scale,
    gram,
    require_floating,
    to_compute,
    to_numpy,
    total_size,
)
from tnet.errors import InputError, RankError, ShapeError

__all__ = ["CutSpectra", "cut_spectra"]

_ALL_CUTS_UP_TO = 12  # modes; 2047 cuts
_MAX_SIDE = 1024
_STACK_BYTES = 1 << 26  # Gram matrices of equal size that wait for one call of the eigensolver
_FEWEST_WAITING = 16


@dataclass(frozen=True, eq=False)
class CutSpectra:
    r"""Tails of the squared singular values of a tensor over cuts of its modes into two sides.

    Parameters
    ----------
    shape : tuple of int
        Of the tensor.
    masks : array of int64, shape (n_cuts,)
        The modes of one side of each cut as bits, ascending; the last mode always lies on the other side.
    tails : array of float64, shape (n_cuts, width)
        ``tails[c, r]`` is :math:`\sum_{k > r} \sigma_k^2 / \|x\|^2` of the matricisation at cut c, or a little less:
        rounding errors are subtracted, so that it bounds the squared relative error of every approximation of rank r
        over this cut from below. Ranks beyond the last column have tail 0.
    rounding : array of float64, shape (n_cuts,)
        The true tail is at most ``tails[c, r] + rounding[c]``.
    """

    shape: tuple[int, ...]
    masks: np.ndarray
    tails: np.ndarray
    rounding: np.ndarray

    @property
    def n_cuts(self) -> int:
        """Number of cuts whose singular values are known."""
        return len(self.masks)

    def canonical_mask(self, mask: int) -> int:
        """Return the mask of the same cut that leaves out the last mode."""
        everything = (1 << len(self.shape)) - 1
        if not 0 < mask < everything:
            raise InputError(f"mask={mask}: a cut has modes on both sides; give 1 to {everything - 1}.")
        return everything ^ mask if mask >> (len(self.shape) - 1) else mask

    def row(self, mask: int) -> int | None:
        """Return the row of a cut in ``tails``; None where its singular values are not known."""
        wanted = self.canonical_mask(mask)
        place = int(np.searchsorted(self.masks, wanted))
        return place if place < self.n_cuts and self.masks[place] == wanted else None

    def side(self, mask: int) -> int:
        """Return the largest rank that a cut can have: entries of its smaller side."""
        inside = math.prod(n for k, n in enumerate(self.shape) if mask >> k & 1)
        return min(inside, math.prod(self.shape) // inside)

    def tail(self, mask: int, rank: int) -> float:
        """Return the least squared relative error of rank ``rank`` over a cut; 0 where nothing is known.

        Parameters
        ----------
        mask : int
            Modes of either side as bits: mode k is ``1 << k``.
        rank : int
        """
        if rank < 1:
            raise RankError(f"rank={rank}: give at least 1.")
        row = self.row(mask)
        return 0.0 if row is None or rank >= self.tails.shape[1] else float(self.tails[row, rank])

    def tail_at_most(self, mask: int, rank: int) -> float:
        """Return an upper bound of the same tail; 1 where nothing is known."""
        if rank >= self.side(mask):
            return 0.0
        row = self.row(mask)
        return 1.0 if row is None else min(1.0, self.tail(mask, rank) + float(self.rounding[row]))

    def needed_ranks(self, rse: float) -> np.ndarray:
        """Return for each cut the least rank whose tail is at most ``rse``."""
        return np.maximum(np.argmax(self.tails <= rse, axis=1), 1)


def cut_spectra(x: Array, *, max_side: int = _MAX_SIDE) -> CutSpectra:
    r"""Return the tails of the squared singular values of ``x`` over cuts of its modes.

    Parameters
    ----------
    x : array
        Of at least two modes; real or complex floating point, finite, not all zero. Any library and device.
    max_side : int
        Cuts whose smaller side has more entries are left out; they bound nothing.

    Returns
    -------
    CutSpectra
        Up to 12 modes of all :math:`2^{N-1} - 1` cuts; beyond of those with one or two modes on a side, and of those
        into the modes i to j and the rest. On the host.

    Raises
    ------
    ShapeError
        Fewer than two modes.
    InputError
        Non-finite or all-zero input.

    Notes
    -----
    The squared singular values over a cut with sides of m <= n entries are the eigenvalues of the m x m Gram matrix.
    Only for sides that lie in no other is it computed from ``x``, with m^2 n multiply-adds and a permuted copy; from
    those all others follow by partial traces, :math:`G_S = \sum_k G_{S \cup t}[\cdot k, \cdot k]`. The eigenvalues
    of each take about 4/3 m^3 flops. Eight modes of 4: 127 cuts, 35 products of 256^3 multiply-adds.

    With :math:`\epsilon` of double precision, tails are known to about :math:`2 \epsilon (m + \sqrt{mn})`, the
    allowance that is subtracted. No approximation of rank r over the cut does better than the tail: C. Eckart,
    G. Young, "The approximation of one matrix by another of lower rank", Psychometrika 1 (1936).

    Examples
    --------
    >>> x = np.einsum("i,jk->ijk", np.ones(2), np.eye(3))
    >>> cut_spectra(x).tail(0b010, 2)  # mode 1 against the others: three equal singular values
    0.333...
    """
    require_floating(x, "x")
    shape = tuple(int(n) for n in x.shape)
    if len(shape) < 2:
        raise ShapeError(f"x of shape {shape}: cuts need at least two modes; reshape the tensor.")
    if total_size(shape) == 0:
        raise ShapeError(f"x of shape {shape} has no entries.")
    if max_side < 1:
        raise InputError(f"max_side={max_side}: give at least 1.")
    scaled = balanced_scale(to_compute(x), "x")
    if scaled.squared_norm == 0:
        raise InputError("x is all zero: relative errors of approximations have no meaning.")
    sides = {mask: _smaller_side(shape, mask) for mask in _cuts(len(shape))}
    sides = {mask: side for mask, side in sides.items() if math.prod(shape[k] for k in side) <= max_side}
    masks = np.asarray(sorted(sides), dtype=np.int64)
    values = _eigenvalues(scaled.array, {side: mask for mask, side in sides.items()})
    width = max((len(v) for v in values.values()), default=1) + 1
    tails = np.zeros((len(masks), width))
    rounding = np.zeros(len(masks))
    entries = math.prod(shape)
    for row, mask in enumerate(masks.tolist()):
        squared = np.maximum(values[mask], 0.0)  # ascending
        m = len(squared)
        rounding[row] = 2 * np.finfo(np.float64).eps * (m + math.sqrt(entries))
        tails[row, : m + 1] = np.cumsum([0.0, *squared])[::-1] / scaled.squared_norm - rounding[row]
    return CutSpectra(shape, masks, np.clip(tails, 0.0, 1.0), 2 * rounding)


def _cuts(n_modes: int) -> list[int]:
    """Return the masks of the cuts that are looked at."""
    if n_modes <= _ALL_CUTS_UP_TO:
        return list(range(1, 1 << (n_modes - 1)))
    everything = (1 << n_modes) - 1
    few = [sum(1 << k for k in modes) for size in (1, 2) for modes in itertools.combinations(range(n_modes), size)]
    runs = [sum(1 << k for k in range(i, j)) for i in range(n_modes) for j in range(i + 1, n_modes + 1)]
    masks = (everything ^ mask if mask >> (n_modes - 1) else mask for mask in [*few, *runs])
    return sorted(set(masks) - {0})


def _smaller_side(shape: Sequence[int], mask: int) -> tuple[int, ...]:
    inside = tuple(k for k in range(len(shape)) if mask >> k & 1)
    outside = tuple(k for k in range(len(shape)) if not mask >> k & 1)
    return min((math.prod(shape[k] for k in side), side) for side in (inside, outside))[1]


def _eigenvalues(x: Array, mask_of: dict[tuple[int, ...], int]) -> dict[int, np.ndarray]:
    """Return the ascending eigenvalues of the Gram matrix of each side; equal sizes share a call."""
    xp = array_namespace(x)
    waiting: dict[int, list[tuple[int, Array]]] = {}
    found: dict[int, np.ndarray] = {}

    def flush(size: int) -> None:
        members = waiting.pop(size)
        stacked = to_numpy(xp.linalg.eigvalsh(xp.stack([matrix for _, matrix in members])))
        found.update({mask: row for (mask, _), row in zip(members, stacked, strict=True)})

    for side, matrix in _gram_matrices(x, mask_of):
        size = int(matrix.shape[0])
        waiting.setdefault(size, []).append((mask_of[side], matrix))
        if len(waiting[size]) >= max(1, min(_FEWEST_WAITING, _STACK_BYTES // (16 * size**2))):
            flush(size)
    for size in list(waiting):
        flush(size)
    return found


def _gram_matrices(x: Array, wanted: dict[tuple[int, ...], int]) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Yield every wanted side with its Gram matrix, parts of a side right after it as partial traces."""
    xp = array_namespace(x)
    shape = tuple(int(n) for n in x.shape)
    done: set[tuple[int, ...]] = set()

    def parts(side: tuple[int, ...], matrix: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        done.add(side)
        if side in wanted:
            yield side, matrix
        for place in range(len(side) if len(side) > 1 else 0):
            part = side[:place] + side[place + 1 :]
            if part in wanted and part not in done:
                sizes = [shape[k] for k in side]
                yield from parts(part, _partial_trace(matrix, sizes, place))

    for side in sorted(wanted, key=lambda side: (-math.prod(shape[k] for k in side), -len(side), side)):
        if side not in done:
            rest = tuple(k for k in range(len(shape)) if k not in side)
            rows = math.prod(shape[k] for k in side)
            yield from parts(side, gram(xp.reshape(xp.permute_dims(x, side + rest), (rows, -1))))


def _partial_trace(matrix: Array, sizes: Sequence[int], place: int) -> Array:
    """Return the Gram matrix of a side without one of its modes."""
    xp = array_namespace(matrix)
    before, n, after = math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])
    split = xp.reshape(matrix, (before, n, after, before, n, after))
    total = split[:, 0, :, :, 0, :]
    for k in range(1, n):
        total = total + split[:, k, :, :, k, :]
    return xp.reshape(total, (before * after, before * after))
