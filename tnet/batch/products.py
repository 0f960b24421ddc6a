"""Products of a stack of tensors with a stack of matrices: one batched matrix product each."""

from __future__ import annotations

from collections.abc import Sequence

from tnet.arrays import Array, array_namespace, total_size

__all__ = ["batched_khatri_rao", "batched_mode_product"]


def batched_mode_product(x: Array, matrix: Array, mode: int) -> Array:
    """Return ``x[b]`` multiplied by ``matrix[b]`` (B, m, n_k) in mode ``mode``, counted without the batch axis."""
    xp = array_namespace(x)
    B, *shape = (int(n) for n in x.shape)
    before, after = total_size(shape[:mode]), total_size(shape[mode + 1 :])
    m, n = int(matrix.shape[1]), shape[mode]
    if after == 1:
        y = xp.reshape(x, (B, before, n)) @ xp.matrix_transpose(matrix)
    elif before == 1:
        y = matrix @ xp.reshape(x, (B, n, after))
    else:
        y = matrix[:, None, :, :] @ xp.reshape(x, (B, before, n, after))
    return xp.reshape(y, (B, *shape[:mode], m, *shape[mode + 1 :]))


def batched_khatri_rao(rows: Sequence[Array]) -> Array:
    """Return the row-wise Kronecker products (B, R, n_1 * ... * n_d) of matrices (B, R, n_k)."""
    xp = array_namespace(*rows)
    product = rows[0]
    for row in rows[1:]:
        B, R, m = product.shape
        product = xp.reshape(product[:, :, :, None] * row[:, :, None, :], (B, R, m * row.shape[2]))
    return product
