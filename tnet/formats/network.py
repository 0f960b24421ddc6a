"""A tensor network with named indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tnet.arrays import Array, array_namespace, contract_pair, reduce_single, total_size
from tnet.errors import IndexLabelError, ShapeError
from tnet.formats.tensor_format import TensorFormat

__all__ = ["TensorNetwork"]


@dataclass(frozen=True, eq=False, repr=False)
class TensorNetwork(TensorFormat):
    """Tensors whose axes carry names; equal names are multiplied together.

    Names outside ``output`` are summed over. A name may occur once, twice, or more often
    (a hyper-index), also twice in one tensor (its diagonal), and in ``output`` besides.

    Parameters
    ----------
    tensors : tuple of array
    indices : tuple of tuple of str
        One tuple for each tensor, one name for each axis.
    output : tuple of str
        Names of the axes of the dense tensor, in order.

    Raises
    ------
    ShapeError
        If the counts of tensors, axes and names do not fit.
    IndexLabelError
        If a name is no string, carries two sizes, or is in ``output`` twice or without a tensor.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> trace_of_square = TensorNetwork((a, a), (("i", "j"), ("j", "i")), ())
    >>> float(trace_of_square.to_dense())
    29.0
    """

    tensors: tuple[Array, ...]
    indices: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]

    array_fields = ("tensors",)

    def __post_init__(self) -> None:
        tensors = self._set_arrays("tensors", self.tensors)
        if isinstance(self.indices, str) or isinstance(self.output, str):
            raise IndexLabelError('indices and output are tuples of names: write ("a", "b"), not "ab".')
        object.__setattr__(self, "indices", tuple(_names(labels) for labels in self.indices))
        object.__setattr__(self, "output", _names(self.output))
        if len(self.indices) != len(tensors):
            raise ShapeError(f"{len(self.indices)} index tuples for {len(tensors)} tensors: give one for each.")
        for k, (tensor, labels) in enumerate(zip(tensors, self.indices, strict=True)):
            if tensor.ndim != len(labels):
                raise ShapeError(
                    f"tensors[{k}] of shape {tuple(tensor.shape)} has {len(labels)} index names {labels}: "
                    "give one for each axis."
                )
        sizes = self._checked_sizes()
        if len(set(self.output)) < len(self.output):
            raise IndexLabelError(f"output {self.output} repeats a name: each may occur once.")
        for label in self.output:
            if label not in sizes:
                raise IndexLabelError(f"output index {label!r} is in no tensor; known are {sorted(sizes)}.")
        self._finish()

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each index, in order of first appearance."""
        return {
            label: int(n)
            for tensor, labels in zip(self.tensors, self.indices, strict=True)
            for label, n in zip(labels, tensor.shape, strict=True)
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the output indices."""
        sizes = self.sizes
        return tuple(sizes[label] for label in self.output)

    @property
    def rank(self) -> tuple[int, ...]:
        """Sizes of the indices that are summed over, in order of first appearance."""
        kept = set(self.output)
        return tuple(n for label, n in self.sizes.items() if label not in kept)

    def to_network(self) -> TensorNetwork:
        """Return the network itself."""
        return self

    def _contract(self) -> Array:
        """Contract pair by pair, always the pair whose result grows least.

        Meant for small networks; :func:`tnet.contract` plans large ones.
        """
        xp = array_namespace(*self.tensors)
        sizes = self.sizes
        parts = list(zip(self.tensors, self.indices, strict=True))
        while len(parts) > 1:
            i, j, kept = _cheapest_pair([labels for _, labels in parts], self.output, sizes)
            (b, b_labels), (a, a_labels) = parts.pop(j), parts.pop(i)
            parts.append((contract_pair(xp, a, a_labels, b, b_labels, kept), kept))
        return reduce_single(xp, parts[0][0], parts[0][1], self.output)

    def _checked_sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        owner: dict[str, int] = {}
        for k, (tensor, labels) in enumerate(zip(self.tensors, self.indices, strict=True)):
            for label, n in zip(labels, tensor.shape, strict=True):
                if sizes.setdefault(label, int(n)) != n:
                    raise IndexLabelError(
                        f"index {label!r} has size {sizes[label]} in tensors[{owner[label]}] and {n} in "
                        f"tensors[{k}]: rename it or make the sizes equal."
                    )
                owner.setdefault(label, k)
        return sizes


def _names(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str):
        raise IndexLabelError(f'indices {labels!r}: write a tuple of names, such as ("a", "b").')
    names = tuple(labels)
    for label in names:
        if not isinstance(label, str):
            raise IndexLabelError(f"index {label!r} is of type {type(label).__name__}: names are strings.")
    return names


def _cheapest_pair(
    terms: list[tuple[str, ...]], output: tuple[str, ...], sizes: dict[str, int]
) -> tuple[int, int, tuple[str, ...]]:
    """Return the two terms to contract next and the names of their result."""
    uses: dict[str, int] = {}
    for labels in (*map(set, terms), set(output)):
        for label in labels:
            uses[label] = uses.get(label, 0) + 1
    weight = [total_size([sizes[label] for label in labels]) for labels in terms]
    best: tuple[bool, int, int, int] | None = None
    result: tuple[str, ...] = ()
    for j in range(1, len(terms)):
        for i in range(j):
            shared = set(terms[i]).intersection(terms[j])
            kept = tuple(
                label
                for label in dict.fromkeys((*terms[i], *terms[j]))
                if uses[label] > (2 if label in shared else 1)
            )
            growth = total_size([sizes[label] for label in kept]) - weight[i] - weight[j]
            # Pairs without a common index come last: they only multiply sizes.
            score = (not shared, growth, i, j)
            if best is None or score < best:
                best, result = score, kept
    assert best is not None  # there are at least two terms
    return best[2], best[3], result
