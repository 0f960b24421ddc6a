"""Rounding of trains from Gram matrices: matrix products instead of an orthogonalising sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    balanced_scale,
    dtype_name,
    gram,
    gram_factor,
    qr,
    real_part,
    scale_by_power_of_two,
    squared_norm,
    truncated_eigh,
)
from tnet.options import Truncation

__all__ = ["in_range", "resolved_by_gram", "rounded_by_gram"]

_EPS = 2.0**-52
# Least relative error asked of Gram matrices in double precision; they square the condition.
_LEAST_RTOL = 1e-7
# What is cut below this part of the norm is lost in the roundoff of eigenvalues and measured instead.
_MEASURED_BELOW = 1e-6
# Part of the squared norm by which the Gram matrices of neighbouring bonds may contradict each other where no
# tolerance says it. Beyond that the terms of the train cancel, and orthogonalisation must sort them out.
_CONTRADICTION = 1e-12
# |log2| of the norm of a core that need not be scaled: squares of products of a few such stay in range.
_HARMLESS_EXPONENT = 20


class _Cut(NamedTuple):
    """A truncated bond: basis, carried coefficients, squared norms before and of what is cut, least kept value."""

    U: Array
    carried: Array
    total: float
    discarded: float
    least: float


def resolved_by_gram(cores: Sequence[Array], rtol: float | None) -> bool:
    """Return whether Gram matrices can resolve ``rtol`` for a train of this size and dtype."""
    if rtol is None or dtype_name(cores[0]) not in ("float64", "complex128"):
        return True
    # Each cut sees as many eigenvalues of roundoff as the bond is wide.
    width = max(int(core.shape[2]) for core in cores)
    return rtol >= max(_LEAST_RTOL, math.sqrt(_EPS * width * len(cores)))


def rounded_by_gram(
    cores: Sequence[Array], ranks: Sequence[int] | None, rtol: float | None, *, strict: bool
) -> list[Array] | None:
    r"""Return the cores of the rounded train.

    Parameters
    ----------
    cores : sequence of array, shapes (r_{k-1}, n_k, r_k)
        Finite; at least two.
    ranks : sequence of int or None
        Of the inner bonds; or ``rtol``.
    rtol : float or None
    strict : bool
        Whether to give up where the result is not certain.

    Returns
    -------
    list of array, or None
        Left-orthogonal, the weight in the last core, in the dtype of ``cores``. None for a train of norm zero and,
        if ``strict``, where Gram matrices do not resolve what is kept or the error is not surely within ``rtol``.

    Notes
    -----
    First, from the right, the Gram matrices :math:`G_{k-1} = \sum_i C_k(i) G_k C_k(i)^H` of the right parts, by way
    of :math:`G_k = L_k L_k^H`. Then, from the left, the leading left singular vectors U of :math:`M L_k`, where M is
    the carried core, from its smaller Gram matrix; they are orthonormalised, and :math:`U^H M` is carried on.

    For ranks r to q: ``1.5 n r^3 + 4 n q r^2`` multiply-adds and an eigenproblem of size r for each core, in double
    precision whatever the cores have. Singular values are resolved to ``sqrt(eps)``. How large the roundoff is
    shows in what two neighbouring Gram matrices say of the norm of the same tensor.

    References
    ----------
    .. [1] H. Al Daas, G. Ballard, L. Manning, "Parallel tensor train rounding using Gram SVD", IPDPS (2022).
    """
    xp = array_namespace(*cores)
    dtype = cores[0].dtype
    wide = xp.complex128 if xp.isdtype(dtype, "complex floating") else xp.float64
    work, exponents = zip(*(in_range(astype(core, wide)) for core in cores), strict=True)
    factors = _right_factors(work)
    n_bonds = len(work) - 1
    out: list[Array] = []
    spent, contradiction = 0.0, 0.0
    kept, last_power = 0.0, 0  # squared norm after the last cut, in units of 4**last_power
    carried, exponent = work[0], sum(exponents)
    for k in range(n_bonds):
        r, n, s = carried.shape
        carried, shift = in_range(carried)
        exponent += shift
        L, power = factors[k]
        allowed = None if rtol is None else max(rtol * rtol - spent - contradiction, 0.0) / (n_bonds - k)
        cut = _cut(xp.reshape(carried, (r * n, s)), L, ranks[k] if ranks else None, (allowed or 0.0) / (1 - spent))
        if cut.total <= 0.0 or (strict and ranks and cut.least < _LEAST_RTOL**2 * cut.total):
            return None
        if k > 0:
            contradiction += abs(math.ldexp(cut.total, 2 * (shift + power - last_power)) / kept - 1.0)
        spent += (1 - spent) * cut.discarded / cut.total
        kept, last_power = cut.total - cut.discarded, power
        if kept <= 0.0:
            return None
        rank = int(cut.U.shape[1])
        out.append(astype(xp.reshape(cut.U, (r, n, rank)), dtype))
        _, m, q = work[k + 1].shape
        carried = xp.reshape(cut.carried @ xp.reshape(work[k + 1], (s, m * q)), (rank, m, q))
    contradiction += abs(math.ldexp(squared_norm(carried), -2 * last_power) / kept - 1.0)
    if strict and contradiction > (_CONTRADICTION if rtol is None else rtol * rtol - spent):
        return None
    return [*out, astype(scale_by_power_of_two(carried, exponent), dtype)]


def _right_factors(cores: Sequence[Array]) -> list[tuple[Array, int]]:
    """Return (L, e) for each bond: the part to its right has the Gram matrix ``4**e L L^H``."""
    xp = array_namespace(*cores)
    L = xp.ones((1, 1), dtype=cores[0].dtype, device=cores[0].device)
    power = 0
    found: list[tuple[Array, int]] = []
    for core in reversed(cores[1:]):
        r, n, s = core.shape
        B, shift = in_range(xp.reshape(xp.reshape(core, (r * n, s)) @ L, (r, -1)))
        L, power = gram_factor(gram(B)), power + shift
        found.append((L, power))
    return found[::-1]


def _cut(M: Array, L: Array, rank: int | None, allowed: float) -> _Cut:
    """Truncate the left singular vectors of ``M L``; without a rank, ``allowed`` of its squared norm may go."""
    xp = array_namespace(M, L)
    B = M @ L
    m, s = B.shape
    G = gram(adjoint(B) if m > s else B)
    total = float(real_part(xp.linalg.trace(G)))
    noise = _EPS * min(m, s)
    tail = math.sqrt(max(allowed - noise, 0.0) * max(total, 0.0))
    U, values, discarded = truncated_eigh(G, Truncation(tail=tail) if rank is None else Truncation(rank=rank))
    if m > s:
        U = qr(B @ U)[0]
    image = adjoint(U)
    if rank is None and discarded < _MEASURED_BELOW**2 * total:
        discarded = squared_norm(B - U @ (image @ B))
    return _Cut(U, image @ M, total, discarded, float(values[-1]) ** 2)


def in_range(x: Array) -> tuple[Array, int]:
    """Return ``y`` and ``e`` with ``x = 2**e y`` and a norm of ``y`` from which products stay in range."""
    scaled = balanced_scale(x)
    exponent = math.frexp(math.sqrt(scaled.squared_norm))[1]
    if abs(exponent) <= _HARMLESS_EXPONENT:
        return scaled.array, scaled.exponent
    return scale_by_power_of_two(scaled.array, -exponent), scaled.exponent + exponent
