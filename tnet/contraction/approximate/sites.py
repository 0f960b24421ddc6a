"""One site of a grid: its tensors, and how a state is carried through them one by one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from tnet.arrays import Array, array_namespace, contract_pair, reduce_single, total_size

__all__ = ["Labelled", "Labels", "Site", "carried_through", "labelled", "merged", "with_sides"]

Labels = tuple[Hashable, ...]


class Labelled(NamedTuple):
    """An array and a label for each of its axes."""

    array: Array
    labels: Labels


class Site(NamedTuple):
    """The tensors at one place of a grid and the indices on its four sides, each in a fixed order.

    An index within the site joins two of its tensors. Above is where a sweep comes from.
    """

    tensors: tuple[Labelled, ...]
    above: Labels
    below: Labels
    left: Labels
    right: Labels
    sizes: dict[Hashable, int]

    def size(self, labels: Iterable[Hashable]) -> int:
        """Return the product of the sizes of indices."""
        return total_size([self.sizes[label] for label in labels])

    def turned(self) -> Site:
        """Return the site seen from below."""
        return self._replace(above=self.below, below=self.above)

    def transposed(self) -> Site:
        """Return the site with rows and columns exchanged."""
        return self._replace(above=self.left, below=self.right, left=self.above, right=self.below)


def labelled(array: Array, labels: Labels) -> Labelled:
    """Return an array and its labels, with the diagonal taken where a label repeats."""
    once = tuple(dict.fromkeys(labels))
    return Labelled(reduce_single(array_namespace(array), array, labels, once), once)


def with_sides(core: Array, site: Site, labels: Labels) -> Array:
    """Return a core (r, n, s) with its mode split into the indices on one side of a site."""
    shape = (core.shape[0], *(site.sizes[label] for label in labels), core.shape[2])
    return array_namespace(core).reshape(core, shape)


def carried_through(state: Labelled, tensors: Sequence[Labelled], output: Labels) -> Array:
    r"""Contract a state with tensors one after the other.

    Parameters
    ----------
    state : Labelled
    tensors : sequence of Labelled
        In the order in which they are multiplied.
    output : tuple of hashable
        Labels of the result in order; others are summed with the last tensor that has them.

    Notes
    -----
    A state with q rows, a boundary of bond :math:`\chi` and two layers of bonds D and physical size p: a layer takes
    :math:`p q \chi D^6` multiply-adds, where both layers as one tensor take :math:`q \chi D^8`.
    """
    xp = array_namespace(state.array)
    needed = [set(output)]
    for tensor in reversed(tensors[1:]):
        needed.append(needed[-1].union(tensor.labels))
    array, labels = state
    for tensor, kept in zip(tensors, reversed(needed), strict=True):
        both = set(labels).intersection(tensor.labels)
        # The order in which a matrix product leaves them, so that nothing is moved.
        out = (
            *(label for label in labels if label in both and label in kept),
            *(label for label in labels if label not in both and label in kept),
            *(label for label in tensor.labels if label not in both and label in kept),
        )
        array = contract_pair(xp, array, labels, tensor.array, tensor.labels, out)
        labels = out
    return reduce_single(xp, array, labels, output)


def merged(tensors: Sequence[Labelled], outside: Iterable[Hashable]) -> tuple[Labelled, ...]:
    """Contract tensors of one site where the product is no larger than the larger of the two.

    Parameters
    ----------
    tensors : sequence of Labelled
    outside : iterable of hashable
        Labels that lead out of the site.
    """
    parts = list(tensors)
    outer = set(outside)
    k = 0
    while k < len(parts):
        found = None
        for j in range(k + 1, len(parts)):
            elsewhere = outer.union(*(p.labels for i, p in enumerate(parts) if i not in (j, k)))
            found = _product_if_small(parts[k], parts[j], elsewhere)
            if found is not None:
                parts[k] = found
                del parts[j]
                k = -1  # the product may now take others in
                break
        k += 1
    return tuple(parts)


def _product_if_small(a: Labelled, b: Labelled, elsewhere: set[Hashable]) -> Labelled | None:
    out = tuple(label for label in dict.fromkeys((*a.labels, *b.labels)) if label in elsewhere)
    sizes = dict(zip((*a.labels, *b.labels), (*a.array.shape, *b.array.shape), strict=True))
    larger = max(total_size(a.array.shape), total_size(b.array.shape))
    if not set(a.labels).intersection(b.labels) and a.array.ndim and b.array.ndim:
        return None
    if total_size([sizes[label] for label in out]) > larger:
        return None
    return Labelled(contract_pair(array_namespace(a.array, b.array), *a, *b, out), out)
