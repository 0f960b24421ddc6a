"""Ranks of the least error: truncations of all ranks compared on one small core, the best improved by HOOI."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tnet.algebra import unfold
from tnet.arrays import Array, adjoint, astype, gram, mode_product, qr, to_numpy, total_size, truncated_eigh
from tnet.decompositions.hooi import contracted_cycle
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.sthosvd import mode_gram, order_of_modes
from tnet.options import Truncation

__all__ = ["LeastError", "least_error", "useful_limits"]

_MOST_TRIED = 64  # core shapes that HOOI compares
_SWEEPS = 20
_CHANGE = 1e-5  # of the error, relative, below which sweeps end
_RISING = 0.005  # of the error that gains which rise again, in a swamp, may still bring
_OVERSAMPLING = 8  # columns beyond the rank in which HOOI looks


class LeastError(NamedTuple):
    """The ranks, and what is known of their error."""

    ranks: tuple[int, ...]

    kept: float
    """Squared norm of a Tucker model of these ranks."""

    cut: float
    """No model of these ranks leaves out less."""


class _Compressed(NamedTuple):
    """A tensor in orthonormal bases of its modes, leading columns first, on the host."""

    core: np.ndarray

    tails: list[np.ndarray]
    """For each mode the squared norm that r leading columns leave out, from r = 0 on."""


def least_error(prepared: Prepared, max_params: int) -> LeastError:
    r"""Return the ranks for which HOOI finds the least error among those that promise most.

    Parameters
    ----------
    prepared : Prepared
        The tensor, of shape (I_1, ..., I_N).
    max_params : int
        At least :math:`1 + \sum_n I_n`.

    Notes
    -----
    ST-HOSVD truncates the tensor, once, to ranks that the budget does not exclude (``useful_limits``). Its bases are
    nested: with the core S, ranks r keep :math:`\sum_{i \le r} |S_i|^2`, so cumulative sums tell the error of every
    truncation. From the least error on, HOOI improves the truncations within a slightly larger block of S: 2 N of
    them, and then as long as the next could still be the best if it gained as much as any before it.
    """
    compressed = _compressed(prepared, useful_limits(tuple(prepared.array.shape), max_params))
    norm2 = prepared.squared_norm
    candidates, errors = _truncations(compressed.core, tuple(prepared.array.shape), max_params, norm2)
    best, least, share = candidates[0], math.inf, 1.0
    for tried, (ranks, truncated) in enumerate(zip(candidates, errors, strict=True)):
        if tried >= 2 * len(ranks) and share * truncated >= least:
            break
        error = _error_of_hooi(compressed.core, ranks, norm2, least)
        if error < least:
            best, least = ranks, error
        share = min(share, error / truncated if truncated > 0 else 1.0)
    cut = max(float(tail[r]) for tail, r in zip(compressed.tails, best, strict=True))
    return LeastError(best, norm2 - least, cut)


def useful_limits(shape: Sequence[int], max_params: int) -> tuple[int, ...]:
    r"""Return for each mode a bound of its rank in models within the budget.

    Notes
    -----
    A rank :math:`r_n` above the product of the others is of no use. With a product of at least :math:`r_n` the core
    has at least :math:`r_n^2` entries, and the other factors, by the inequality of the means, at least
    :math:`(N - 1) (r_n \prod_{m \ne n} I_m)^{1 / (N - 1)}`.
    """
    limits = []
    for n, size in enumerate(shape):
        others = [*shape[:n], *shape[n + 1 :]]
        product = math.prod(others)
        r = np.arange(1, min(size, product) + 1, dtype=np.float64)
        factors = len(others) * (r * product) ** (1 / len(others))
        # Roundoff of the root must not exclude what just fits.
        least = r**2 + size * r + np.maximum(factors * (1 - 1e-9), sum(others))
        limits.append(max(1, int(np.count_nonzero(least <= max_params))))
    return tuple(limits)


def _compressed(prepared: Prepared, limits: tuple[int, ...]) -> _Compressed:
    """Truncate one mode after the other to its limit, and to what is not roundoff."""
    Y, norm2 = prepared.array, prepared.squared_norm
    entries = total_size(Y.shape)
    tails: dict[int, np.ndarray] = {}
    for mode in order_of_modes(tuple(int(n) for n in Y.shape), limits):
        n = int(Y.shape[mode])
        Q = None
        if n**2 <= total_size(Y.shape):
            G = mode_gram(Y, mode)
        else:
            Q, R = qr(unfold(Y, mode))
            G = gram(R)
        U, s, discarded = truncated_eigh(G, Truncation(rank=limits[mode]))
        squared = to_numpy(s).astype(np.float64) ** 2
        roundoff = 2 * np.finfo(np.float64).eps * (n + math.sqrt(entries)) * norm2
        r = max(1, int(np.count_nonzero(squared > roundoff)))
        basis = astype(U[:, :r], Y.dtype)
        Y = mode_product(Y, adjoint(basis if Q is None else Q @ basis), mode)
        tails[mode] = np.append(np.cumsum(squared[:r][::-1])[::-1], 0.0) + (
            discarded if discarded > roundoff else 0.0
        )
    core = to_numpy(Y)
    wide = np.complex128 if np.iscomplexobj(core) else np.float64
    return _Compressed(core.astype(wide), [tails[mode] for mode in range(core.ndim)])


def _truncations(
    core: np.ndarray, shape: tuple[int, ...], max_params: int, norm2: float
) -> tuple[list[tuple[int, ...]], list[float]]:
    """Return the ranks that fit and leave no room to raise one of them, and the squared errors of their truncations.

    Those of the least error come first; of the last mode each combination of the others needs its largest rank alone.
    """
    kept = np.abs(core) ** 2
    for axis in range(kept.ndim):
        np.cumsum(kept, axis=axis, out=kept)
    others = 1.0 + np.indices(kept.shape[:-1]).reshape(kept.ndim - 1, -1)
    product = others.prod(axis=0)
    room = (max_params - np.asarray(shape[:-1]) @ others) // (product + shape[-1])
    ranks = np.vstack([others, np.minimum(np.minimum(room, product), kept.shape[-1])])
    ranks = ranks[:, room >= 1]
    product = ranks.prod(axis=0)
    useful = (ranks**2 <= product).all(axis=0)
    extent, bounds = (np.asarray(sizes)[:, None] for sizes in (shape, core.shape))
    raised = shape @ ranks + product + product / ranks + extent
    can_be_raised = (raised <= max_params) & (ranks < bounds) & ((ranks + 1) * ranks <= product)
    ranks = ranks[:, useful & ~can_be_raised.any(axis=0)].astype(np.intp)
    errors = np.maximum(norm2 - kept[tuple(ranks - 1)], 0.0)
    order = np.argsort(errors, kind="stable")[:_MOST_TRIED]
    return [tuple(r) for r in ranks[:, order].T.tolist()], errors[order].tolist()


def _error_of_hooi(core: np.ndarray, ranks: tuple[int, ...], norm2: float, least: float) -> float:
    """Return the squared error that orthogonal iteration reaches from a truncation.

    It is given up where the gain of the last sweep, as often as sweeps are left, would not come near ``least``: as a
    rule gains fall from sweep to sweep.
    """
    widths = [min(n, 2 * r, r + _OVERSAMPLING) for n, r in zip(core.shape, ranks, strict=True)]
    block = np.ascontiguousarray(core[tuple(slice(width) for width in widths)])
    factors: list[Array] = [np.eye(width, r, dtype=core.dtype) for width, r in zip(widths, ranks, strict=True)]
    updates = contracted_cycle(block, factors)
    error = math.inf
    for left in reversed(range(_SWEEPS)):
        previous = error
        for mode, T in itertools.islice(updates, core.ndim):
            values, vectors = np.linalg.eigh(mode_gram(T, mode))
            factors[mode] = vectors[:, -ranks[mode] :]
            error = norm2 - float(values[-ranks[mode] :].sum())
        gain = previous - error
        if gain <= _CHANGE * error or (1 - _RISING) * error - left * gain >= least:
            break
    return error
