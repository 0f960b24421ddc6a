"""Kernels for dense tensors: what callers use, and the reference in the grammar of the standard.

A public function looks up the fastest kernel registered for its array; the reference beneath it
serves every library.
"""

from __future__ import annotations

from collections.abc import Sequence

from tnet.arrays.linalg import khatri_rao
from tnet.arrays.namespace import Array, array_namespace, total_size
from tnet.arrays.registry import lookup, register

__all__ = ["mode_product", "mttkrp", "ttm_chain"]


def mode_product(x: Array, matrix: Array, mode: int) -> Array:
    r"""Return :math:`Y = X \times_k A`: multiply ``matrix`` into one mode.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
    matrix : array, shape (m, n_k)
    mode : int
        k, counted from 0.

    Returns
    -------
    array, shape (n_1, ..., m, ..., n_d)

    Notes
    -----
    ``m * size(x)`` multiply-adds, as one (batched) matrix product on a view: no transposed copy.
    """
    xp = array_namespace(x, matrix)
    shape = tuple(x.shape)
    before, after = total_size(shape[:mode]), total_size(shape[mode + 1 :])
    m, n = matrix.shape
    if after == 1:
        y = xp.reshape(x, (before, n)) @ xp.matrix_transpose(matrix)
    elif before == 1:
        y = matrix @ xp.reshape(x, (n, after))
    else:
        y = matrix @ xp.reshape(x, (before, n, after))
    return xp.reshape(y, (*shape[:mode], m, *shape[mode + 1 :]))


def ttm_chain(x: Array, matrices: Sequence[Array], modes: Sequence[int]) -> Array:
    r"""Return :math:`X \times_{k_1} A_1 \times_{k_2} A_2 \dots`, the modes that shrink most first.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
    matrices : sequence of array, shapes (m_k, n_k)
    modes : sequence of int
        The mode of each matrix, counted from 0, all different.

    Returns
    -------
    array
        Mode ``modes[j]`` has size ``matrices[j].shape[0]``.
    """
    return lookup("ttm_chain", x)(x, matrices, modes)


def mttkrp(x: Array, factors: Sequence[Array], mode: int) -> Array:
    r"""Return :math:`X_{(k)} (A_1 \odot \dots A_{k-1} \odot A_{k+1} \dots \odot A_d)`.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d), d >= 2
    factors : sequence of array, shapes (n_j, R)
        That of ``mode`` is not read. Nothing is conjugated: pass conjugates where they are needed.
    mode : int
        k, counted from 0.

    Returns
    -------
    array, shape (n_k, R)

    Notes
    -----
    The matricised tensor times Khatri-Rao product, on views of ``x``: the longer of the two groups
    of modes beside ``mode`` is contracted first, by one matrix product of ``R size(x)``
    multiply-adds; the other then works on an array that is shorter by that group.

    References
    ----------
    .. [1] A.-H. Phan, P. Tichavsky, A. Cichocki, "Fast alternating LS algorithms for high order
       CANDECOMP/PARAFAC tensor factorizations", IEEE Trans. Signal Process. 61 (2013).
    """
    return lookup("mttkrp", x)(x, factors, mode)


@register("ttm_chain")
def _ttm_chain_by_matmul(x: Array, matrices: Sequence[Array], modes: Sequence[int]) -> Array:
    order = sorted(range(len(modes)), key=lambda j: matrices[j].shape[0] / max(matrices[j].shape[1], 1))
    for j in order:
        x = mode_product(x, matrices[j], modes[j])
    return x


@register("mttkrp")
def _mttkrp_by_matmul(x: Array, factors: Sequence[Array], mode: int) -> Array:
    xp = array_namespace(x, *factors)
    shape = tuple(x.shape)
    before, n, after = total_size(shape[:mode]), shape[mode], total_size(shape[mode + 1 :])
    left = khatri_rao(factors[:mode]) if mode > 0 else None
    right = khatri_rao(factors[mode + 1 :]) if mode < len(shape) - 1 else None
    if left is None:
        return xp.reshape(x, (n, after)) @ right
    if right is None:
        return xp.matrix_transpose(xp.reshape(x, (before, n))) @ left
    rank = left.shape[1]
    if after >= before:
        half = xp.reshape(xp.reshape(x, (before * n, after)) @ right, (before, n, rank))
        return xp.sum(half * left[:, None, :], axis=0)
    half = xp.matrix_transpose(xp.reshape(x, (before, n * after))) @ left
    return xp.sum(xp.reshape(half, (n, after, rank)) * right[None, :, :], axis=1)
