r"""The Kronecker product nearest in spirit to a metric, and the change of variables that it gives.

A weight C on a column index with digits :math:`j_1 \dots j_d` has the marginals
:math:`C_k = \operatorname{tr}_{\neq k} C`. With :math:`K = C_1 \otimes \cdots \otimes C_d`, replacing W by
:math:`W K^{1/2}` and C by :math:`K^{-1/2} C K^{-1/2}` leaves the weighted norm as it is, improves its
condition, and maps operators of one rank onto each other, because K acts on each digit alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    eigh_descending,
    mode_product,
    total_size,
)

__all__ = ["DigitRoots", "digit_roots", "roots_applied"]

_LEAST_EIGENVALUE = 1e-4  # of the mean: a singular marginal must stay invertible


@dataclass(frozen=True, eq=False)
class DigitRoots:
    """Square roots of the marginals of a weight and their inverses, one for each digit."""

    roots: tuple[Array, ...]
    inverses: tuple[Array, ...]


def digit_roots(C: Array, digits: Sequence[int]) -> DigitRoots:
    """Return the square roots of the marginals of ``C``, each marginal with mean eigenvalue 1.

    Parameters
    ----------
    C : array, shape (n, n)
        Hermitian, positive semidefinite up to roundoff.
    digits : sequence of int
        Their product is n.
    """
    xp = array_namespace(C)
    roots: list[Array] = []
    inverses: list[Array] = []
    for k, n in enumerate(digits):
        before, after = total_size(digits[:k]), total_size(digits[k + 1 :])
        split = xp.permute_dims(xp.reshape(C, (before, n, after, before, n, after)), (1, 4, 0, 2, 3, 5))
        others = before * after
        marginal = xp.sum(xp.linalg.diagonal(xp.reshape(split, (n, n, others, others))), axis=2)
        values, vectors = eigh_descending(marginal)
        mean = xp.sum(values) / n
        if not float(mean) > 0:
            values, mean = xp.ones_like(values), xp.ones_like(mean)
        values = xp.clip(values / mean, _LEAST_EIGENVALUE, None)
        for found, power in ((roots, 0.5), (inverses, -0.5)):
            scaled = vectors * astype(values**power, vectors.dtype)
            found.append(scaled @ adjoint(vectors))
    return DigitRoots(tuple(roots), tuple(inverses))


def roots_applied(A: Array, digits: Sequence[int], roots: Sequence[Array], *, axis: int) -> Array:
    """Return ``A`` with the Kronecker product of ``roots`` applied to its rows or columns.

    Parameters
    ----------
    A : array, shape (m, n)
    digits : sequence of int
        Of the axis.
    roots : sequence of array, shapes (n_k, n_k)
        Hermitian. Along axis 0 the result is ``K A``, along axis 1 it is ``A K``.
    axis : int
        0 or 1.
    """
    xp = array_namespace(A)
    m, n = A.shape
    split = xp.reshape(A, (*digits, n) if axis == 0 else (m, *digits))
    for k, root in enumerate(roots):
        # mode_product multiplies from the left, and A K = (K^T A^T)^T.
        split = mode_product(split, root if axis == 0 else xp.matrix_transpose(root), k + axis)
    return xp.reshape(split, (m, n))
