"""Sums of products over labelled axes, lowered to matrix products."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from tnet.arrays.namespace import Array, Namespace, library_name, total_size
from tnet.errors import IndexLabelError

__all__ = ["contract_pair", "einsum", "reduce_single"]

Labels = tuple[Hashable, ...]

_NATIVE = ("numpy", "torch", "cupy", "jax", "jaxlib")


def einsum(xp: Namespace, spec: str, *operands: Array) -> Array:
    """Evaluate an explicit Einstein sum such as ``"ijk,jr,kr->ir"``.

    Parameters
    ----------
    xp : namespace
        Of the operands.
    spec : str
        Letters, commas and ``->``; the output is always written out.
    *operands : array
        One for each term.

    Returns
    -------
    array
        One axis for each output letter.

    Notes
    -----
    Two operands become one (batched) matrix product. More are contracted by the library's own
    einsum where it has one, else from left to right.
    """
    left, arrow, right = spec.replace(" ", "").partition("->")
    terms: list[Labels] = [tuple(term) for term in left.split(",")]
    output: Labels = tuple(right)
    if not arrow or len(terms) != len(operands):
        raise IndexLabelError(
            f"{spec!r} has {len(terms)} terms for {len(operands)} operands; write 'ij,jk->ik' in full."
        )
    if len(operands) == 2:
        return contract_pair(xp, operands[0], terms[0], operands[1], terms[1], output)
    if len(operands) > 2 and library_name(operands[0]) in _NATIVE:
        options = {"optimize": True} if library_name(operands[0]) in ("numpy", "cupy") else {}
        return xp.einsum(spec, *operands, **options)
    arrays = list(operands)
    current, labels = arrays[0], terms[0]
    for k in range(1, len(arrays)):
        wanted = {*output}.union(*terms[k + 1 :])
        kept = tuple(dict.fromkeys(i for i in (*labels, *terms[k]) if i in wanted))
        current = contract_pair(xp, current, labels, arrays[k], terms[k], kept)
        labels = kept
    return reduce_single(xp, current, labels, output)


def contract_pair(xp: Namespace, a: Array, a_labels: Labels, b: Array, b_labels: Labels, output: Labels) -> Array:
    """Contract two labelled arrays into one by a (batched) matrix product.

    Parameters
    ----------
    xp : namespace
    a, b : array
    a_labels, b_labels : tuple of hashable
        One label for each axis; any number of different labels. A label twice in one array
        takes its diagonal.
    output : tuple of hashable
        Labels of the result in order; all others are summed over.

    Returns
    -------
    array
        One axis for each label of ``output``.

    Notes
    -----
    Labels in both arrays and in the output are batch axes; labels in both and not in the output
    are the inner axes of the product; the rest are free.
    """
    kept = set(output)
    a, a_labels = _kept_axes(xp, a, a_labels, kept.union(b_labels))
    b, b_labels = _kept_axes(xp, b, b_labels, kept.union(a_labels))
    in_b = set(b_labels)
    in_a = set(a_labels)
    batch = tuple(i for i in a_labels if i in in_b and i in kept)
    inner = tuple(i for i in a_labels if i in in_b and i not in kept)
    free_a = tuple(i for i in a_labels if i not in in_b)
    free_b = tuple(i for i in b_labels if i not in in_a)
    size = dict(zip((*a_labels, *b_labels), (*a.shape, *b.shape), strict=True))
    for label, n in zip(a_labels, a.shape, strict=True):
        if size[label] != n:
            raise IndexLabelError(f"index {label!r} has size {n} in one tensor and {size[label]} in the other.")

    def count(labels: Labels) -> int:
        return total_size([size[i] for i in labels])

    left = _transposed(xp, a, a_labels, (*batch, *free_a, *inner))
    right = _transposed(xp, b, b_labels, (*batch, *inner, *free_b))
    if batch:
        left = xp.reshape(left, (count(batch), count(free_a), count(inner)))
        right = xp.reshape(right, (count(batch), count(inner), count(free_b)))
    else:
        left = xp.reshape(left, (count(free_a), count(inner)))
        right = xp.reshape(right, (count(inner), count(free_b)))
    product = left * right if not inner and not free_a and not free_b else left @ right
    labels = (*batch, *free_a, *free_b)
    product = xp.reshape(product, tuple(size[i] for i in labels))
    return _transposed(xp, product, labels, output)


def reduce_single(xp: Namespace, a: Array, labels: Labels, output: Labels) -> Array:
    """Take diagonals of repeated labels, sum over labels not in ``output``, put axes in its order.

    Parameters
    ----------
    xp : namespace
    a : array
    labels : tuple of hashable
        One for each axis of ``a``.
    output : tuple of hashable
        Labels of the result, each once.

    Returns
    -------
    array
        One axis for each label of ``output``; possibly a view of ``a``.
    """
    a, labels = _kept_axes(xp, a, labels, set(output))
    return _transposed(xp, a, labels, output)


def _kept_axes(xp: Namespace, a: Array, labels: Labels, kept: set[Hashable]) -> tuple[Array, Labels]:
    a, labels = _diagonals(xp, a, labels)
    summed = tuple(k for k, i in enumerate(labels) if i not in kept)
    if summed:
        a = xp.sum(a, axis=summed, dtype=a.dtype)
        labels = tuple(i for i in labels if i in kept)
    return a, labels


def _diagonals(xp: Namespace, a: Array, labels: Labels) -> tuple[Array, Labels]:
    while len(set(labels)) < len(labels):
        label = next(i for i in labels if labels.count(i) > 1)
        first = labels.index(label)
        second = labels.index(label, first + 1)
        if a.shape[first] != a.shape[second]:
            raise IndexLabelError(f"index {label!r} has sizes {a.shape[first]} and {a.shape[second]} in one tensor.")
        rest = [k for k in range(len(labels)) if k not in (first, second)]
        a = xp.linalg.diagonal(xp.permute_dims(a, (*rest, first, second)))
        labels = (*(labels[k] for k in rest), label)
    return a, labels


def _transposed(xp: Namespace, a: Array, labels: Labels, output: Sequence[Hashable]) -> Array:
    order = tuple(labels.index(i) for i in output)
    return a if order == tuple(range(len(order))) else xp.permute_dims(a, order)
