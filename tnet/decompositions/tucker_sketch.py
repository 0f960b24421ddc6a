"""Tucker from one pass over the data: linear sketches with structured test matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    mode_product,
    mttkrp,
    qr,
    solve_triangular,
    squared_norm,
    standard_normal,
    total_size,
    ttm_chain,
)
from tnet.decompositions.slabs import Allowance, Slab, SlabbedArray
from tnet.decompositions.sthosvd import sthosvd

__all__ = ["SketchedTucker", "sketch_bytes", "sketched_tucker"]


class SketchedTucker(NamedTuple):
    """A core and orthonormal factors; their error is not known from the sketch."""

    core: Array
    factors: tuple[Array, ...]


class _TestMatrices(NamedTuple):
    """What the tensor is multiplied by.

    ``outer`` (s_k, n_k) have orthonormal rows: the core sketch. ``columns`` (n_k, k) make the Khatri-Rao products of
    the factor sketches; in place of the first stands (s_1, k), to be multiplied by ``outer[0]``.
    """

    outer: list[Array]
    columns: list[Array]


def sketched_tucker(
    source: SlabbedArray,
    ranks: tuple[int, ...],
    oversampling: int,
    generator: np.random.Generator,
    allowance: Allowance,
) -> SketchedTucker:
    r"""Decompose an array of which each part is read once.

    Parameters
    ----------
    source : SlabbedArray
    ranks : tuple of int
    oversampling : int
    generator : numpy.random.Generator
    allowance : Allowance
        For the parts in work; the sketches themselves come on top, :func:`sketch_bytes`.

    Notes
    -----
    With ``k = r + oversampling`` and ``s = 2 k + 1``, the factor sketches :math:`V_k = X_{(k)} \Omega_k` have
    :math:`\Omega_k` a Khatri-Rao product of Gaussian matrices, never formed, and the core sketch is
    :math:`H = X \times_1 \Phi_1 \dots \times_d \Phi_d`. With :math:`Q_k` an orthonormal basis of :math:`V_k`, the
    core :math:`H \times_1 (\Phi_1 Q_1)^+ \dots \times_d (\Phi_d Q_d)^+` is cut to the ranks by ST-HOSVD. The two
    products as large as the array take ``(s_1 + k_1) N`` multiply-adds: those of the modes after the first
    start from :math:`X \times_1 \Phi_1`.

    References
    ----------
    .. [1] Y. Sun, Y. Guo, C. Luo, J. Tropp, M. Udell, "Low-rank Tucker approximation of a tensor from streaming
       data", SIAM J. Math. Data Sci. 2 (2020).
    """
    like, shape = source.like, source.shape
    xp = array_namespace(like)
    widths, heights = _sizes(shape, ranks, oversampling)
    tests = _draw(shape, widths, heights, generator, like)
    V = [xp.zeros((n, k), dtype=source.dtype, device=like.device) for n, k in zip(shape, widths, strict=True)]
    H = xp.zeros(tuple(heights), dtype=source.dtype, device=like.device)
    copies = 2.0 + (heights[0] + sum(widths)) / max(shape[0], 1) + 3 * widths[0] / shape[-1]
    # Cut along the first mode last: the product with the first test matrix is as large for one index as for all.
    axes = [*range(1, len(shape)), 0]
    for slab in source.slabs(axes, copies, allowance, "a sketch of a part of x"):
        H = H + _add(V, slab, tests, widths)
    return _recovered(V, H, tests, ranks)


def sketch_bytes(source: SlabbedArray, ranks: tuple[int, ...], oversampling: int) -> int:
    """Return the bytes of the sketches and of their test matrices."""
    widths, heights = _sizes(source.shape, ranks, oversampling)
    matrices = sum(n * (2 * k + s) for n, k, s in zip(source.shape, widths, heights, strict=True))
    return (matrices + 3 * total_size(heights)) * source.itemsize


def _sizes(shape: Sequence[int], ranks: Sequence[int], oversampling: int) -> tuple[list[int], list[int]]:
    widths = [min(n, r + oversampling) for n, r in zip(shape, ranks, strict=True)]
    return widths, [min(n, 2 * k + 1) for n, k in zip(shape, widths, strict=True)]


def _draw(
    shape: Sequence[int], widths: list[int], heights: list[int], generator: np.random.Generator, like: Array
) -> _TestMatrices:
    # Orthonormal rows: where s = n the core sketch is as good as the tensor itself.
    outer = [adjoint(qr(standard_normal(generator, (n, s), like))[0]) for n, s in zip(shape, heights, strict=True)]
    rows = [heights[0], *shape[1:]]
    return _TestMatrices(outer, [standard_normal(generator, (n, max(widths)), like) for n in rows])


def _add(V: list[Array], slab: Slab, tests: _TestMatrices, widths: list[int]) -> Array:
    """Add what a part of the tensor gives to each factor sketch, and return what it gives to the core sketch."""
    d = len(V)
    outer = [test[:, rows] for test, rows in zip(tests.outer, slab.place, strict=True)]
    columns = [tests.columns[0], *(A[rows, :] for A, rows in zip(tests.columns[1:], slab.place[1:], strict=True))]
    first = slab.place[0]
    V[0][first, :] = V[0][first, :] + _first_factor(slab.array, columns, widths[0])
    Z = mode_product(slab.array, outer[0], 0)
    for mode in range(1, d):
        rows = slab.place[mode]
        V[mode][rows, :] = V[mode][rows, :] + mttkrp(Z, [A[:, : widths[mode]] for A in columns], mode)
    return ttm_chain(Z, outer[1:], range(1, d))


def _first_factor(x: Array, columns: Sequence[Array], width: int) -> Array:
    """Return the first unfolding times the Khatri-Rao product of the columns of the other modes, mode by mode."""
    xp = array_namespace(x)
    if x.ndim == 1:
        return xp.reshape(x, (-1, 1))
    *shape, n = x.shape
    T = xp.reshape(xp.reshape(x, (-1, n)) @ columns[-1][:, :width], (*shape, width))
    for A in columns[-2:0:-1]:
        T = xp.sum(T * A[:, :width], axis=-2)
    return T


def _recovered(V: Sequence[Array], H: Array, tests: _TestMatrices, ranks: tuple[int, ...]) -> SketchedTucker:
    core, bases = H, [qr(sketch)[0] for sketch in V]
    for mode, (outer, Q) in enumerate(zip(tests.outer, bases, strict=True)):
        left, R = qr(outer @ Q)
        core = mode_product(core, solve_triangular(R, adjoint(left), lower=False), mode)
    inner = sthosvd(core, ranks, None, squared_norm(core))
    return SketchedTucker(inner.core, tuple(Q @ U for Q, U in zip(bases, inner.factors, strict=True)))
