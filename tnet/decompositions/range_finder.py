"""Randomised Tucker: bases of all modes from a sketch of one, improved by passes over the tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tnet.arrays import Array, adjoint, mode_product, squared_norm, standard_normal
from tnet.decompositions.sthosvd import Projected, leading_factor, projection_error, sthosvd
from tnet.options import Truncation

__all__ = ["Ranges", "multilinear_ranges", "randomized_tucker"]

_FIRST_GUESS = 8  # of all ranks, when an error is asked for


class Ranges(NamedTuple):
    """Orthonormal bases of the leading ranges of all unfoldings, and ``x`` projected on them."""

    core: Array
    factors: tuple[Array, ...]


def multilinear_ranges(x: Array, widths: Sequence[int], power: int, generator: np.random.Generator) -> Ranges:
    r"""Find a subspace of each mode that holds most of ``x``.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
    widths : sequence of int
        Dimension of each subspace, at most n_k.
    power : int
        Passes over ``x`` after the first two, each of which finds bases again from better ones.
    generator : numpy.random.Generator

    Notes
    -----
    One mode, the anchor a, is sketched by a Gaussian matrix, :math:`W = X \times_a \Omega^H`. Every other mode keeps
    its full length in W, so that its basis, the leading left singular vectors of :math:`W_{(k)}`, is fitted to
    ``w_a prod(n_j)`` random combinations of fibres instead of ``w_k``. The basis of the anchor then comes from
    :math:`X \times_{k \ne a} U_k^H`, those of the others from :math:`X \times_a U_a^H`, and so on. For a matrix these
    are the steps of subspace iteration, each pass half of one; in general those of higher-order orthogonal
    iteration. A pass takes ``w N`` multiply-adds.
    """
    d = x.ndim
    anchor = min(range(d), key=lambda k: widths[k] / x.shape[k])
    others = [k for k in range(d) if k != anchor]
    test_matrix = standard_normal(generator, (widths[anchor], int(x.shape[anchor])), x)
    factors: dict[int, Array] = {}
    core = _cut_modes(mode_product(x, test_matrix, anchor), others, widths, factors)
    for step in range(power + 1):
        if step % 2 == 0:
            Y = _project(x, others, factors)
            core = _cut_modes(Y, [anchor], widths, factors)
        else:
            core = _cut_modes(_project(x, [anchor], factors), others, widths, factors)
    return Ranges(core, tuple(factors[k] for k in range(d)))


def _cut_modes(Y: Array, modes: Sequence[int], widths: Sequence[int], factors: dict[int, Array]) -> Array:
    """Find the leading bases of ``modes`` one after the other, and return ``Y`` projected on them."""
    for mode in modes:
        factors[mode] = leading_factor(Y, mode, Truncation(rank=widths[mode])).U
        Y = mode_product(Y, adjoint(factors[mode]), mode)
    return Y


def _project(x: Array, modes: Sequence[int], factors: dict[int, Array]) -> Array:
    for mode in sorted(modes, key=lambda k: factors[k].shape[1] / factors[k].shape[0]):
        x = mode_product(x, adjoint(factors[mode]), mode)
    return x


def randomized_tucker(
    x: Array,
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    squared_norm_x: float,
    oversampling: int,
    power: int,
    generator: np.random.Generator,
) -> Projected:
    """Truncate the projection on randomised ranges by ST-HOSVD.

    Parameters
    ----------
    x : array
    ranks : tuple of int or None
    rtol : float or None
        Exactly one of the two. The ranges double until they hold enough of ``x``; where they would be no longer
        small against the modes, ST-HOSVD of ``x`` itself takes over, so that the tolerance is kept in any case.
    squared_norm_x : float
    oversampling : int
    power : int
    generator : numpy.random.Generator
    """
    shape = tuple(int(n) for n in x.shape)
    if ranks is not None:
        widths = [min(n, r + oversampling) for n, r in zip(shape, ranks, strict=True)]
        ranges = multilinear_ranges(x, widths, power, generator)
        inner = sthosvd(ranges.core, ranks, None, squared_norm(ranges.core))
        return _lifted(x, inner, ranges, squared_norm_x)
    guess = _FIRST_GUESS + oversampling
    # Beyond that the passes over the tensor take longer than the Gram matrix of its longest mode.
    while rtol is not None and 2 * (power + 2) * guess <= max(shape):
        ranges = multilinear_ranges(x, [min(n, guess) for n in shape], power, generator)
        lost = projection_error(x, ranges.core, ranges.factors, squared_norm_x)
        if lost <= rtol:
            found = _truncated(x, ranges, lost, rtol, squared_norm_x)
            if found.error <= rtol:
                return found
        guess *= 2
    return sthosvd(x, ranks, rtol, squared_norm_x)


def _truncated(x: Array, ranges: Ranges, lost: float, rtol: float, squared_norm_x: float) -> Projected:
    """Spend on the projection what its own loss leaves of the tolerance."""
    inside = squared_norm(ranges.core)
    left = math.sqrt(max(rtol * rtol - lost * lost, 0.0) * squared_norm_x / inside) if inside > 0 else 0.0
    inner = sthosvd(ranges.core, None, min(left, math.nextafter(1.0, 0.0)), inside)
    return _lifted(x, inner, ranges, squared_norm_x)


def _lifted(x: Array, inner: Projected, ranges: Ranges, squared_norm_x: float) -> Projected:
    factors = tuple(outer @ U for outer, U in zip(ranges.factors, inner.factors, strict=True))
    return Projected(inner.core, factors, projection_error(x, inner.core, factors, squared_norm_x))
