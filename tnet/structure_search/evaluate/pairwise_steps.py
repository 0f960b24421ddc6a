"""One contraction of two labelled stacks of tensors as a batched matrix product, prepared once and run often."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np

from tnet.arrays import Array, Namespace, total_size

__all__ = ["Labels", "MatrixView", "PairStep", "matrix_view", "pair_step"]

Labels = tuple[Hashable, ...]


class MatrixView(NamedTuple):
    """How a stack is brought into the form of a stack of matrices.

    ``axes`` is None where the memory has that form already, ``turned`` where it has the transposed one.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    matrix: tuple[int, int]
    turned: bool

    def of(self, xp: Namespace, a: Array) -> Array:
        """Return the stack as a stack of matrices."""
        if self.axes is not None:
            a = xp.permute_dims(_reshaped(xp, a, self.shape), self.axes)
        a = _reshaped(xp, a, self.matrix)
        if not self.turned:
            return a
        return a.swapaxes(1, 2) if isinstance(a, np.ndarray) else xp.matrix_transpose(a)


class PairStep(NamedTuple):
    """A stack of matrix products; the result is a stack of matrices whose entries ``labels`` names in C order."""

    left: MatrixView
    right: MatrixView
    labels: Labels
    macs: int

    def __call__(self, xp: Namespace, a: Array, b: Array) -> Array:
        """Return the product of stacks with a leading batch axis; one of them may have length 1 there."""
        return self.left.of(xp, a) @ self.right.of(xp, b)


def pair_step(a: Labels, b: Labels, sizes: Mapping[Hashable, int]) -> PairStep:
    """Prepare the contraction over the labels that ``a`` and ``b`` share.

    Parameters
    ----------
    a, b : tuple of labels
        Of the axes after the batch axis.
    sizes : mapping
        Length of each label.

    Notes
    -----
    No copy is made of an operand whose shared labels stand together at one end, in the order of the other operand:
    BLAS reads a transposed matrix as well as a plain one.
    """
    inner_a = tuple(i for i in a if i in b)
    inner_b = tuple(i for i in b if i in a)
    inner = inner_a if _splits(a, inner_a) or not _splits(b, inner_b) else inner_b
    free_a, free_b = tuple(i for i in a if i not in inner), tuple(i for i in b if i not in inner)
    left = matrix_view(a, free_a, inner, sizes)
    right = matrix_view(b, inner, free_b, sizes)
    macs = total_size([sizes[i] for i in (*free_a, *inner, *free_b)])
    return PairStep(left, right, (*free_a, *free_b), macs)


def matrix_view(labels: Labels, rows: Labels, columns: Labels, sizes: Mapping[Hashable, int]) -> MatrixView:
    """Prepare a stack with these labels as a stack of matrices with ``rows`` and ``columns``."""
    shape = tuple(sizes[i] for i in labels)
    m, n = total_size([sizes[i] for i in rows]), total_size([sizes[i] for i in columns])
    if labels == (*rows, *columns):
        return MatrixView(shape, None, (m, n), turned=False)
    if labels == (*columns, *rows):
        return MatrixView(shape, None, (n, m), turned=True)
    axes = (0, *(1 + labels.index(i) for i in (*rows, *columns)))
    return MatrixView(shape, axes, (m, n), turned=False)


def _reshaped(xp: Namespace, a: Array, shape: tuple[int, ...]) -> Array:
    """Return the stack with items of another shape; NumPy's method answers in a tenth of the time of its function."""
    if isinstance(a, np.ndarray):
        return a.reshape((-1, *shape))
    return xp.reshape(a, (-1, *shape))


def _splits(labels: Labels, inner: Labels) -> bool:
    """Return whether the inner labels stand together at one end."""
    n = len(inner)
    return labels[:n] == inner or labels[len(labels) - n :] == inner
