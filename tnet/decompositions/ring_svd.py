"""Tensor ring by successive truncated decompositions, with a search for where to cut the ring and how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tnet.algebra.ranks import bond_limits
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    conj,
    mode_product,
    squared_norm,
    to_numpy,
    total_size,
    truncated_eigh,
)
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.residual import exact_error
from tnet.decompositions.sthosvd import Projected, leading_factor, mode_gram, sthosvd
from tnet.decompositions.truncated_basis import Basis, resolve_method, with_true_error
from tnet.decompositions.tt import train_of
from tnet.formats import TensorRing
from tnet.options import Truncation

__all__ = ["Ring", "ring_limits", "ring_svd"]

_COMPRESSION = 0.1  # of rtol may the small tensor of the search be off
_SEARCH_WORK = 4  # how many decompositions of a tensor as large as the input the search may cost
_EQUAL = 1e-6  # errors that differ by less than this part decide nothing: the parameters do


class Ring(NamedTuple):
    """Cores, the place of the one that has the norm, and the relative error."""

    cores: tuple[Array, ...]
    carrier: int
    error: float


class _Cut(NamedTuple):
    """The core to begin with, and the sizes of its two bonds; with ``left = 1`` the ring is a train from there."""

    shift: int
    left: int
    right: int


def ring_limits(shape: Sequence[int]) -> list[int]:
    """Return for each bond the largest rank that it has in a train that opens the ring elsewhere."""
    d = len(shape)
    limits = [1] * d
    for start in range(d):
        turned = [*shape[start:], *shape[:start]]
        for k, limit in enumerate(bond_limits(turned), start=1):
            bond = (start + k) % d
            limits[bond] = max(limits[bond], limit)
    return limits


def ring_svd(x: Array, squared_norm_x: float, ranks: tuple[int, ...] | None, rtol: float | None) -> Ring:
    """Decompose a tensor into a ring.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
    squared_norm_x : float
    ranks : tuple of int or None
        Bounds of the d bonds.
    rtol : float or None
        Exactly one of the two.

    Notes
    -----
    Cuts, a core to begin with and a split of the rank of its unfolding over its two bonds, are tried on the core of
    a Tucker decomposition. With ``rtol`` this takes a hundredth of the squared error, and the best ring of the small
    core is the result, once the factors are multiplied into it; with ``ranks`` the best cut is made in ``x``.
    """
    xp = array_namespace(x)
    if x.ndim == 1:
        return Ring((xp.reshape(x, (1, -1, 1)),), 0, 0.0)
    method = resolve_method("auto", rtol, x)

    def build(method: str) -> tuple[Ring, float]:
        ring = _found(x, squared_norm_x, ranks, rtol, method)
        return ring, ring.error

    ring, error = with_true_error(
        build, lambda ring: exact_error(x, TensorRing(ring.cores), squared_norm_x), method, rtol, x
    )
    return ring._replace(error=error)


def _found(x: Array, squared_norm_x: float, ranks: tuple[int, ...] | None, rtol: float | None, method: str) -> Ring:
    shape = tuple(int(n) for n in x.shape)
    bounds = None
    if ranks is not None:
        pairs = zip(ranks, (*ranks[1:], ranks[0]), strict=True)
        bounds = tuple(min(n, total_size(shape) // n, p * q) for n, (p, q) in zip(shape, pairs, strict=True))
    tucker = sthosvd(x, bounds, None if rtol is None else _COMPRESSION * rtol, squared_norm_x, method=method)
    norm_z, rtol_z = squared_norm(tucker.core), None
    if rtol is not None:
        rtol_z = math.sqrt(max(rtol**2 - tucker.error**2, 0.0) * squared_norm_x / norm_z) if norm_z > 0 else 0.0
    tried = _tried(tucker, norm_z, shape, ranks, rtol_z, method)
    if rtol is None:
        least = min(ring.error for _, ring in tried) * (1 + _EQUAL) + _EQUAL * 1e-6
        within = [entry for entry in tried if entry[1].error <= least]
        cut, _ = min(within, key=lambda entry: _parameters(entry[1], shape))
        return _opened(x, squared_norm_x, cut, ranks, rtol, method)
    _, ring = min(tried, key=lambda entry: _parameters(entry[1], shape))
    cores = tuple(mode_product(core, factor, 1) for core, factor in zip(ring.cores, tucker.factors, strict=True))
    # What the Tucker decomposition leaves out is orthogonal to what the ring of its core does.
    left_out = ring.error**2 * norm_z / squared_norm_x if squared_norm_x > 0 else 0.0
    return Ring(cores, ring.carrier, math.sqrt(tucker.error**2 + left_out))


def _opened(
    x: Array,
    squared_norm_x: float,
    cut: _Cut,
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    method: str,
    basis: Basis | None = None,
) -> Ring:
    """Return the ring with a given cut: a first core from one unfolding, and a train of what is left.

    ``basis`` is that of the first core, where it is known already.
    """
    if cut.left == 1:
        return _train_from(x, squared_norm_x, cut.shift, ranks, rtol, method)
    xp, d = array_namespace(x), x.ndim
    s, p, q = cut
    if basis is None:
        U, lost = leading_factor(x, s, Truncation(rank=p * q), method)
        U = U * _phases(U)
    else:
        U, lost = basis
    n = [int(size) for size in x.shape]
    rest = [(s + k) % d for k in range(1, d)]
    Y = xp.permute_dims(mode_product(x, adjoint(U), s), (s, *rest))
    sizes = [n[k] for k in rest]
    Y = xp.permute_dims(xp.reshape(Y, (p, q, *sizes)), (*range(1, d + 1), 0))
    # One bond of the first core joins the first mode that is left, the other the last: the ends of a train.
    joined = list(sizes)
    joined[0] *= q
    joined[-1] *= p
    Y = xp.reshape(Y, tuple(joined))
    kept = squared_norm(Y)
    inner_rtol: float | None = None
    inner_ranks: tuple[int, ...] | None = None
    if rtol is not None:
        inner_rtol = math.sqrt(max(rtol * rtol * squared_norm_x - lost, 0.0) / kept) if kept > 0 else 0.0
    if ranks is not None:
        limits = bond_limits(joined)
        inner_ranks = tuple(min(ranks[k], limit) for k, limit in zip(rest[1:], limits, strict=True))
    cores, carrier, error = train_of(
        Prepared(Y, 0, kept, Y.dtype, False), tuple(joined), inner_ranks, inner_rtol, method
    )
    cores[0] = xp.reshape(cores[0], (q, sizes[0], -1))
    cores[-1] = xp.reshape(cores[-1], (-1, sizes[-1], p))
    first = xp.permute_dims(xp.reshape(U, (n[s], p, q)), (1, 0, 2))
    ordered: list[Array] = [None] * d
    for k, core in zip([s, *rest], [first, *cores], strict=True):
        ordered[k] = core
    total = math.sqrt((lost + error * error * kept) / squared_norm_x) if squared_norm_x > 0 else 0.0
    return Ring(tuple(ordered), rest[carrier], total)


def _train_from(
    x: Array, squared_norm_x: float, start: int, ranks: tuple[int, ...] | None, rtol: float | None, method: str
) -> Ring:
    """Return the tensor train that begins with core ``start``, as a ring."""
    xp, d = array_namespace(x), x.ndim
    order = [(start + k) % d for k in range(d)]
    Y = xp.permute_dims(x, tuple(order)) if start else x
    shape = tuple(int(n) for n in Y.shape)
    inner = None
    if ranks is not None:
        inner = tuple(min(ranks[k], limit) for k, limit in zip(order[1:], bond_limits(shape), strict=True))
    cores, carrier, error = train_of(Prepared(Y, 0, squared_norm_x, Y.dtype, False), shape, inner, rtol, method)
    return Ring(tuple(cores[order.index(k)] for k in range(d)), order[carrier], error)


def _tried(
    tucker: Projected,
    norm_z: float,
    shape: tuple[int, ...],
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    method: str,
) -> list[tuple[_Cut, Ring]]:
    """Return promising cuts and the rings of the core that they give."""
    z, d = tucker.core, len(shape)
    bases: list[tuple[Array, list[float]]] = []
    cuts: list[_Cut] = []
    for s in range(d):
        U, values, _ = truncated_eigh(mode_gram(z, s), Truncation(tail=0.0))
        squares = to_numpy(values * values).tolist()
        U = astype(U, z.dtype)
        bases.append((U * _phases(tucker.factors[s] @ U), squares))
        if ranks is not None:
            cuts += _splits_within(s, ranks[s], ranks[(s + 1) % d], int(U.shape[1]))
        else:
            share = Truncation(tail=(rtol or 0.0) * math.sqrt(norm_z / (d - 1)))
            cuts += _splits_of(s, share.keep(squares), int(U.shape[1]))
    count = max(d + 1, _SEARCH_WORK * total_size(shape) // total_size(z.shape))
    tried: list[tuple[_Cut, Ring]] = []
    for cut in _most_promising(cuts, count):
        (U, squares), r = bases[cut.shift], cut.left * cut.right
        basis = Basis(U[:, :r], math.fsum(squares[r:])) if method == "auto" else None
        tried.append((cut, _opened(z, norm_z, cut, ranks, rtol, method, basis)))
    return tried


def _phases(U: Array) -> Array:
    """Return factors of modulus 1 that make the largest entry of each column positive.

    A split deals the columns out over two bonds, so that what follows depends on their phases, and libraries differ
    in those.
    """
    xp = array_namespace(U)
    size = xp.abs(U)
    leading = xp.sum(xp.where(size == xp.max(size, axis=0), U, xp.zeros_like(U)), axis=0)
    length = xp.abs(leading)
    one = xp.ones_like(leading)
    return xp.where(
        length > 0, conj(leading) / astype(xp.where(length > 0, length, xp.ones_like(length)), U.dtype), one
    )


def _splits_of(shift: int, rank: int, limit: int) -> list[_Cut]:
    """Return the minimal pairs of bonds whose product is at least ``rank`` and at most ``limit``, and a train."""
    found: dict[int, _Cut] = {}
    for left in range(2, rank):
        right = -(-rank // left)
        if right > 1 and left * right <= limit:
            found.setdefault(right, _Cut(shift, left, right))
    return [_Cut(shift, 1, 1), *found.values()]


def _splits_within(shift: int, left_bound: int, right_bound: int, limit: int) -> list[_Cut]:
    """Return the maximal pairs of bonds within their bounds whose product is at most ``limit``, and a train."""
    found = [_Cut(shift, 1, 1)]
    for left in range(2, min(left_bound, limit) + 1):
        right = min(right_bound, limit // left)
        if right > 1 and (left == left_bound or min(right_bound, limit // (left + 1)) < right):
            found.append(_Cut(shift, left, right))
    return found


def _most_promising(cuts: list[_Cut], count: int) -> list[_Cut]:
    """Return at most so many cuts: the train in the given order, the most balanced splits, then the other trains."""
    splits = [cut for cut in cuts if cut.left > 1]
    splits.sort(key=lambda cut: (abs(math.log(cut.left / cut.right)), -cut.left * cut.right, cut.shift))
    trains = [cut for cut in cuts if cut.left == 1]
    return [trains[0], *splits, *trains[1:]][:count]


def _parameters(ring: Ring, shape: Sequence[int]) -> int:
    """Return the parameters that a ring of these bonds has with modes of the full size."""
    return sum(int(core.shape[0]) * n * int(core.shape[2]) for core, n in zip(ring.cores, shape, strict=True))
