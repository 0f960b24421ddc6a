"""Low-rank matrices, Kronecker sums and block tensor trains as one thing: stacks of tall times wide.

A Kronecker sum is a low-rank matrix after rearrangement, a block tensor train has one in every block. What holds
for the product of a tall and a wide matrix therefore holds for all three.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from tnet.arrays import Array, array_namespace
from tnet.formats import BlockTensorTrain, KroneckerSum, LowRank

__all__ = ["Thin", "ThinFactors", "thin_factors", "with_thin_factors"]

Thin = LowRank | KroneckerSum | BlockTensorTrain

T = TypeVar("T", bound=Thin)


class ThinFactors(NamedTuple):
    """``tall``, of shape ``(..., m, r)``, times ``wide``, ``(..., r, n)``, has the entries of the tensor."""

    tall: Array
    wide: Array


def thin_factors(t: Thin) -> ThinFactors:
    """Return the factors, matrix by matrix; axes before the last two number the blocks of a block tensor train."""
    xp = array_namespace(*t.arrays)
    if isinstance(t, LowRank):
        return ThinFactors(t.left, t.right)
    if isinstance(t, KroneckerSum):
        (R, m1, n1), (_, m2, n2) = t.left.shape, t.right.shape
        tall = xp.matrix_transpose(xp.reshape(t.left, (R, m1 * n1)))
        return ThinFactors(tall, xp.reshape(t.right, (R, m2 * n2)))
    return ThinFactors(xp.permute_dims(t.left, (0, 2, 1, 3)), xp.permute_dims(t.right, (2, 0, 1, 3)))


def with_thin_factors(t: T, tall: Array, wide: Array) -> T:
    """Return a tensor of the kind and shape of ``t`` from factors of any rank."""
    xp = array_namespace(tall, wide)
    if isinstance(t, LowRank):
        return type(t)(tall, wide)
    if isinstance(t, KroneckerSum):
        rank = int(tall.shape[-1])
        left = xp.reshape(xp.matrix_transpose(tall), (rank, *t.left.shape[1:]))
        return type(t)(left, xp.reshape(wide, (rank, *t.right.shape[1:])))
    return type(t)(xp.permute_dims(tall, (0, 2, 1, 3)), xp.permute_dims(wide, (1, 2, 0, 3)))
