"""The structure of a tensor network: which cores there are, and the ranks of the bonds between them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tnet.arrays import Array, array_namespace
from tnet.errors import InputError, RankError, ShapeError
from tnet.formats import TensorNetwork

__all__ = ["Bond", "Structure", "structure_of_ranks"]

Bond = tuple[int, int, int]
"""Two cores, the lower number first, and the rank of the bond between them."""

_MOST_INTERNAL = 6  # 6! orders are compared for the canonical one


@dataclass(frozen=True)
class Structure:
    r"""A graph of cores: core k carries mode k of the tensor, cores beyond the modes are internal.

    Parameters
    ----------
    shape : tuple of int
        Sizes of the modes of the tensor.
    bonds : tuple of (int, int, int)
        Cores i < j and the rank of their bond, at least 2, in ascending order: a bond of rank 1 is none.
    n_internal : int
        Cores without a mode, numbered from ``len(shape)`` on.

    Notes
    -----
    Core i has shape :math:`(I_i, r_{i j_1}, r_{i j_2}, \dots)`, its bonds in the order of the other core; an internal
    core has no :math:`I_i`. The number of parameters is :math:`\sum_i I_i \prod_j r_{ij}` with :math:`I_i = 1` for
    internal cores.

    Examples
    --------
    >>> ring = Structure((3, 4, 5), ((0, 1, 2), (0, 2, 2), (1, 2, 3)))
    >>> ring.n_params, ring.core_shapes
    (66, ((3, 2, 2), (4, 2, 3), (5, 2, 3)))
    """

    shape: tuple[int, ...]
    bonds: tuple[Bond, ...] = ()
    n_internal: int = 0

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.shape):
            raise ShapeError(f"shape {self.shape}: every mode has at least one entry.")
        pairs = [(i, j) for i, j, _ in self.bonds]
        if any(not 0 <= i < j < self.n_cores for i, j in pairs) or pairs != sorted(set(pairs)):
            raise InputError(
                f"bonds {self.bonds}: name pairs of cores (i, j, rank) with 0 <= i < j < {self.n_cores}, each pair "
                "once, in ascending order."
            )
        if any(rank < 2 for _, _, rank in self.bonds):
            raise RankError(f"bonds {self.bonds}: ranks are at least 2; leave out a bond of rank 1.")

    @property
    def n_modes(self) -> int:
        """Number of modes of the tensor."""
        return len(self.shape)

    @property
    def n_cores(self) -> int:
        """Number of cores: one for each mode, and the internal ones."""
        return len(self.shape) + self.n_internal

    @property
    def n_entries(self) -> int:
        """Entries of the dense tensor."""
        return math.prod(self.shape)

    @property
    def n_params(self) -> int:
        """Entries of all cores."""
        counts = [*self.shape, *[1] * self.n_internal]
        for i, j, rank in self.bonds:
            counts[i] *= rank
            counts[j] *= rank
        return sum(counts)

    @property
    def core_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the cores: mode, then bonds in the order of the other core."""
        sizes = [[n] for n in self.shape] + [[] for _ in range(self.n_internal)]
        for _, rank, core in self._ends():
            sizes[core].append(rank)
        return tuple(tuple(size) for size in sizes)

    @property
    def core_indices(self) -> tuple[tuple[str, ...], ...]:
        """Names of the axes of the cores: ``"i3"`` for mode 3, ``"r1-4"`` for the bond of cores 1 and 4."""
        names = [[f"i{k}"] for k in range(self.n_modes)] + [[] for _ in range(self.n_internal)]
        for other, _, core in self._ends():
            names[core].append(f"r{min(core, other)}-{max(core, other)}")
        return tuple(tuple(name) for name in names)

    def _ends(self) -> list[tuple[int, int, int]]:
        """Return (other core, rank, core) for both ends of every bond, in ascending order of the other core."""
        return sorted(end for i, j, rank in self.bonds for end in ((i, rank, j), (j, rank, i)))

    @property
    def ranks(self) -> np.ndarray:
        """Symmetric integer matrix of ranks, 1 where there is no bond; the diagonal holds the sizes of the modes."""
        matrix = np.ones((self.n_cores, self.n_cores), dtype=np.int64)
        for i, j, rank in self.bonds:
            matrix[i, j] = matrix[j, i] = rank
        matrix[range(self.n_modes), range(self.n_modes)] = self.shape
        return matrix

    @property
    def is_tree(self) -> bool:
        """Whether no bonds form a loop; parts without a bond between them are allowed."""
        root = list(range(self.n_cores))

        def find(core: int) -> int:
            while root[core] != core:
                core = root[core]
            return core

        for i, j, _ in self.bonds:
            a, b = find(i), find(j)
            if a == b:
                return False
            root[a] = b
        return True

    @property
    def width(self) -> float:
        """Base-2 logarithm of the largest intermediate when the modes are fixed and the bonds are summed.

        Cores are merged greedily, each time the pair whose result is least; the largest core counts too.
        """
        parts = [{(i, j): rank for i, j, rank in self.bonds if core in (i, j)} for core in range(self.n_cores)]
        widest = max(math.prod(part.values()) for part in parts)
        parts = [part for part in parts if part]
        while len(parts) > 1:
            size, i, j = min(
                (math.prod((parts[i] | parts[j])[bond] for bond in parts[i].keys() ^ parts[j].keys()), i, j)
                for i, j in itertools.combinations(range(len(parts)), 2)
            )
            second, first = parts.pop(j), parts.pop(i)
            widest = max(widest, size)
            parts.append({bond: (first | second)[bond] for bond in first.keys() ^ second.keys()})
        return math.log2(widest)

    def degree(self, core: int) -> int:
        """Return the number of bonds of a core."""
        return sum(core in (i, j) for i, j, _ in self.bonds)

    def canonical(self) -> Structure:
        """Return the equal structure with superfluous internal cores left out and the others in canonical order.

        An internal core with fewer than two bonds is a factor that any other core can take. Internal cores carry no
        names, so of all their orders the one with the least ranks, read row by row, stands for all. Rotations and
        reflections of a ring are equal already: cores are named by the modes.
        """
        return _canonical(self)

    def canonical_numbers(self) -> list[int] | None:
        """Return the number that each core has in :meth:`canonical`; None where that leaves cores out."""
        canonical = self.canonical()
        n = self.n_modes
        for order in itertools.permutations(range(self.n_internal)):
            number = [*range(n), *(n + k for k in order)]
            if self.relabelled(number) == canonical:
                return number
        return None

    def without_core(self, core: int) -> Structure:
        """Return the structure without an internal core and its bonds."""
        bonds = tuple((i - (i > core), j - (j > core), rank) for i, j, rank in self.bonds if core not in (i, j))
        return Structure(self.shape, bonds, self.n_internal - 1)

    def relabelled(self, number: Sequence[int]) -> Structure:
        """Return the structure in which core k is called ``number[k]``; modes keep to modes of their size."""
        shape = list(self.shape)
        for k, n in enumerate(self.shape):
            shape[number[k]] = n
        return Structure(
            tuple(shape), _sorted((number[i], number[j], rank) for i, j, rank in self.bonds), self.n_internal
        )

    def with_rank(self, i: int, j: int, rank: int) -> Structure:
        """Return the structure with another rank of one bond; rank 1 takes it away."""
        i, j = min(i, j), max(i, j)
        others = [bond for bond in self.bonds if bond[:2] != (i, j)]
        return Structure(self.shape, _sorted([*others, (i, j, rank)]), self.n_internal)

    def rank(self, i: int, j: int) -> int:
        """Return the rank of the bond of two cores, 1 where there is none."""
        i, j = min(i, j), max(i, j)
        return next((rank for a, b, rank in self.bonds if (a, b) == (i, j)), 1)

    def relabelled_cores(self, cores: Sequence[Array], number: Sequence[int]) -> tuple[Array, ...]:
        """Return cores of this structure as those of :meth:`relabelled`, their bonds in the order of its cores."""
        moved: list[Array | None] = [None] * self.n_cores
        for core, array in enumerate(cores):
            others = sorted(other for other, _, k in self._ends() if k == core)
            first = 1 if core < self.n_modes else 0
            axes = [*range(first), *(first + k for k in sorted(range(len(others)), key=lambda k: number[others[k]]))]
            moved[number[core]] = array_namespace(array).permute_dims(array, tuple(axes))
        return tuple(array for array in moved if array is not None)

    def to_network(self, cores: Sequence[Array]) -> TensorNetwork:
        """Return the network of these cores."""
        return TensorNetwork(tuple(cores), self.core_indices, tuple(f"i{k}" for k in range(self.n_modes)))

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold; :meth:`from_json` reads it."""
        return {
            "shape": list(self.shape),
            "bonds": [list(bond) for bond in self.bonds],
            "n_internal": self.n_internal,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Structure:
        """Return the structure that :meth:`to_json` described."""
        bonds = tuple((int(i), int(j), int(rank)) for i, j, rank in content["bonds"])
        return cls(tuple(int(n) for n in content["shape"]), bonds, int(content["n_internal"]))

    def __repr__(self) -> str:
        bonds = ", ".join(f"{i}-{j}:{rank}" for i, j, rank in self.bonds)
        internal = f", {self.n_internal} internal" if self.n_internal else ""
        return f"Structure({'x'.join(map(str, self.shape))}, [{bonds}]{internal})"


def structure_of_ranks(shape: Sequence[int], ranks: np.ndarray) -> Structure:
    """Return the structure of a symmetric matrix of ranks (cores by cores, the diagonal is not looked at)."""
    n_cores = len(ranks)
    bonds = tuple((i, j, int(ranks[i, j])) for i in range(n_cores) for j in range(i + 1, n_cores) if ranks[i, j] > 1)
    return Structure(tuple(int(n) for n in shape), bonds, n_cores - len(shape))


@functools.lru_cache(maxsize=1 << 14)
def _canonical(structure: Structure) -> Structure:
    n = structure.n_modes
    while True:
        loose = [k for k in range(n, structure.n_cores) if structure.degree(k) < 2]
        if not loose:
            break
        structure = structure.without_core(loose[0])
    if not 1 < structure.n_internal <= _MOST_INTERNAL:
        return structure
    orders = itertools.permutations(range(structure.n_internal))
    return min(
        (structure.relabelled([*range(n), *(n + k for k in order)]) for order in orders),
        key=lambda candidate: candidate.bonds,
    )


def _sorted(bonds: Iterable[Bond]) -> tuple[Bond, ...]:
    return tuple(sorted((min(i, j), max(i, j), rank) for i, j, rank in bonds if rank > 1))
