"""Which structures a search may try, and which of them are near each other."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tnet.errors import InputError, RankError
from tnet.structure_search.structure import Bond, Structure

__all__ = ["SearchSpace", "default_max_rank"]

Kind = Literal["ranks", "permutations", "free", "trees"]
Pair = tuple[int, int]

_LARGEST_RANK = 64
_ATTEMPTS = 200  # to draw a structure at random that meets all constraints


@dataclass(frozen=True)
class SearchSpace:
    """A set of structures: by ranks of a fixed graph, by its permutations, or by the graph itself.

    Parameters
    ----------
    kind : {"free", "ranks", "permutations", "trees"}
        ``"free"``: any bonds between any cores (TN-TS in the papers); ``"ranks"``: the pairs of ``template``,
        modes in the order given (TN-RS); ``"permutations"``: the same with the modes in any order (TN-PS);
        ``"trees"``: free, but without loops.
    max_rank : int
        Of any bond.
    template : tuple of (int, int)
        Pairs of cores that may have a bond, for "ranks" and "permutations": see :meth:`ring` and :meth:`train`.
    n_internal : int
        Cores without a mode that may be used, for "free" and "trees".
    max_degree : int or None
        Bonds of a core.
    max_width : float or None
        Base-2 logarithm of the largest intermediate, in entries, when all modes are fixed and the bonds are summed in
        a good order: what an evaluation of one entry holds.
    fixed : tuple of (int, int, int)
        Bonds (i, j, rank) that every structure has.
    reshapes : tuple of tuple of int
        Other shapes, of as many entries, that the tensor may be given; each is searched.

    Examples
    --------
    >>> SearchSpace.ring(4, max_rank=3).pairs(4)
    [(0, 1), (0, 3), (1, 2), (2, 3)]
    """

    kind: Kind = "free"
    max_rank: int = 8
    template: tuple[Pair, ...] = ()
    n_internal: int = 0
    max_degree: int | None = None
    max_width: float | None = None
    fixed: tuple[Bond, ...] = ()
    reshapes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("free", "ranks", "permutations", "trees"):
            raise InputError(f"kind={self.kind!r}: choose 'free', 'ranks', 'permutations' or 'trees'.")
        for name, least in (("max_rank", 1), ("n_internal", 0), ("max_degree", 1)):
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least
            if not whole and not (name == "max_degree" and value is None):
                error = RankError if name == "max_rank" else InputError
                raise error(f"{name}={value!r}: give an integer of at least {least}.")
        if self.max_width is not None and not (isinstance(self.max_width, (int, float)) and self.max_width >= 0):
            raise InputError(f"max_width={self.max_width!r}: give a base-2 logarithm, at least 0, or None.")
        for name, length in (("template", 2), ("fixed", 3), ("reshapes", None)):
            object.__setattr__(self, name, _tuples(name, getattr(self, name), length))
        if (self.kind in ("ranks", "permutations")) != bool(self.template):
            raise InputError(
                f"kind={self.kind!r} with template={self.template}: 'ranks' and 'permutations' have one."
            )
        if self.n_internal and self.kind not in ("free", "trees"):
            raise InputError(f"n_internal={self.n_internal}: only 'free' and 'trees' have internal cores.")
        if any(rank > self.max_rank or rank < 1 for _, _, rank in self.fixed):
            raise InputError(f"fixed={self.fixed}: ranks lie between 1 and max_rank={self.max_rank}.")
        if self.kind == "permutations" and self.fixed:
            raise InputError("fixed bonds name modes, which 'permutations' moves: use 'free' or 'ranks'.")

    @classmethod
    def ring(cls, n_modes: int, *, max_rank: int = 8, permuted: bool = True) -> SearchSpace:
        """Return tensor rings of so many modes, with the modes in any order or in the order given."""
        pairs = sorted(tuple(sorted((k, (k + 1) % n_modes))) for k in range(n_modes))
        return cls("permutations" if permuted else "ranks", max_rank, tuple(dict.fromkeys((i, j) for i, j in pairs)))

    @classmethod
    def train(cls, n_modes: int, *, max_rank: int = 8, permuted: bool = True) -> SearchSpace:
        """Return tensor trains of so many modes, with the modes in any order or in the order given."""
        pairs = tuple((k, k + 1) for k in range(n_modes - 1))
        return cls("permutations" if permuted else "ranks", max_rank, pairs)

    def check(self, shape: Sequence[int]) -> None:
        """Raise InputError where no structure for this shape can meet the constraints."""
        n_modes = len(shape)
        if n_modes < 2:
            raise InputError(f"shape {tuple(shape)}: a structure has at least two modes; reshape the tensor.")
        n_cores = min(len(other) for other in (shape, *self.reshapes)) + self.n_internal
        for name, pairs in (("template", self.template), ("fixed", [bond[:2] for bond in self.fixed])):
            if any(not 0 <= i < j < n_cores for i, j in pairs):
                raise InputError(
                    f"{name}={pairs}: cores of pairs (i, j) have 0 <= i < j < {n_cores} in this tensor and reshapes."
                )
        outside = [bond for bond in self.fixed if self.template and bond[:2] not in self.template]
        if outside:
            raise InputError(f"fixed={self.fixed}: {outside} are no bonds of the template.")
        if any(math.prod(other) != math.prod(shape) for other in self.reshapes):
            raise InputError(f"reshapes={self.reshapes}: each has {math.prod(shape)} entries, as the tensor has.")
        if self.template and any(len(other) != n_modes for other in self.reshapes):
            raise InputError(f"reshapes={self.reshapes}: the template joins {n_modes} modes, so each has as many.")
        if not self._meets_constraints(self.smallest(shape)):
            raise InputError(
                f"no structure meets the constraints: the fixed bonds {self.fixed} alone break max_degree="
                f"{self.max_degree}, max_width={self.max_width} or the absence of loops."
            )

    def smallest(self, shape: Sequence[int]) -> Structure:
        """Return the structure that has the fixed bonds alone: if any meets the constraints, it does."""
        return Structure(tuple(shape), tuple(bond for bond in sorted(self.fixed) if bond[2] > 1), self.n_internal)

    def pairs(self, n_modes: int) -> list[Pair]:
        """Return the pairs of cores that may have a bond: the rank variables, in their order."""
        if self.template:
            return sorted(self.template)
        return list(itertools.combinations(range(n_modes + self.n_internal), 2))

    def place(self, shape: Sequence[int], ranks: Sequence[int], order: Sequence[int] | None = None) -> Structure:
        """Return the structure with these ranks of :meth:`pairs`.

        Parameters
        ----------
        shape : sequence of int
        ranks : sequence of int
            One for each pair; 1 is no bond.
        order : sequence of int, optional
            For "permutations": mode ``order[k]`` stands at place k of the template.
        """
        n_cores = len(shape) + self.n_internal
        number = list(range(n_cores)) if order is None else [*order, *range(len(order), n_cores)]
        found = (
            (min(number[i], number[j]), max(number[i], number[j]), int(rank))
            for (i, j), rank in zip(self.pairs(len(shape)), ranks, strict=True)
        )
        return Structure(tuple(shape), tuple(sorted(bond for bond in found if bond[2] > 1)), self.n_internal)

    def allows(self, structure: Structure) -> bool:
        """Return whether a structure belongs to the space; internal cores in any order."""
        if structure.n_internal > self.n_internal or any(rank > self.max_rank for _, _, rank in structure.bonds):
            return False
        if any(structure.rank(i, j) != rank for i, j, rank in self.fixed):
            return False
        if self.kind == "ranks" and not {bond[:2] for bond in structure.bonds} <= set(self.template):
            return False
        if self.kind == "permutations" and not self._fits_template(structure):
            return False
        return self._meets_constraints(structure)

    def _meets_constraints(self, structure: Structure) -> bool:
        if self.kind == "trees" and not structure.is_tree:
            return False
        if self.max_degree is not None and any(
            structure.degree(core) > self.max_degree for core in range(structure.n_cores)
        ):
            return False
        return self.max_width is None or structure.width <= self.max_width

    def _fits_template(self, structure: Structure) -> bool:
        """Return whether some order of the modes puts all bonds on pairs of the template."""
        allowed = set(self.template)
        wanted = [bond[:2] for bond in structure.bonds]
        place: dict[int, int] = {}

        def search(core: int) -> bool:
            if core == structure.n_modes:
                return True
            for spot in range(structure.n_modes):
                if spot in place.values():
                    continue
                place[core] = spot
                known = [(place[i], place[j]) for i, j in wanted if i in place and j in place and core in (i, j)]
                if all((min(pair), max(pair)) in allowed for pair in known) and search(core + 1):
                    return True
                del place[core]
            return False

        return search(0)

    def random(self, shape: Sequence[int], rng: np.random.Generator, *, density: float = 0.5) -> Structure:
        """Return a structure drawn at random: each bond is there with probability ``density``, ranks are uniform.

        Raises
        ------
        InputError
            No draw of many met the constraints.
        """
        pairs = self.pairs(len(shape))
        fixed = {bond[:2]: bond[2] for bond in self.fixed}
        for _ in range(_ATTEMPTS):
            present = rng.random(len(pairs)) < density
            ranks = np.where(present, rng.integers(1, self.max_rank + 1, len(pairs)), 1)
            ranks = [fixed.get(pair, int(rank)) for pair, rank in zip(pairs, ranks, strict=True)]
            order = rng.permutation(len(shape)).tolist() if self.kind == "permutations" else None
            structure = self.place(shape, ranks, order)
            if self.allows(structure):
                return structure
            density *= 0.97  # fewer bonds break fewer constraints
        raise InputError(f"{_ATTEMPTS} random structures broke the constraints of {self}; loosen them.")

    def neighbours(self, structure: Structure) -> Iterator[Structure]:
        """Yield the structures one move away.

        A rank one higher or lower; a rank moved from one bond to another of the same core; two modes exchanged.
        """
        seen = {structure}
        for candidate in self._moves(structure):
            if candidate not in seen and self.allows(candidate):
                seen.add(candidate)
                yield candidate

    def _moves(self, structure: Structure) -> Iterator[Structure]:
        n, fixed = structure.n_cores, {bond[:2] for bond in self.fixed}
        pairs = [pair for pair in itertools.combinations(range(n), 2) if pair not in fixed]
        for i, j in pairs:
            rank = structure.rank(i, j)
            if rank < self.max_rank:
                yield structure.with_rank(i, j, rank + 1)
            if rank > 1:
                yield structure.with_rank(i, j, rank - 1)
                lower = structure.with_rank(i, j, rank - 1)
                for pair in pairs:
                    if pair != (i, j) and set(pair) & {i, j} and lower.rank(*pair) < self.max_rank:
                        yield lower.with_rank(*pair, lower.rank(*pair) + 1)
        for i, j in itertools.combinations(range(structure.n_modes), 2):
            yield exchanged(structure, i, j)


def _tuples(name: str, given: object, length: int | None) -> tuple[tuple[int, ...], ...]:
    """Return sequences of so many integers as tuples; of pairs and bonds no two join the same cores."""
    try:
        found = tuple(tuple(operator.index(number) for number in item) for item in given)  # type: ignore[attr-defined]
    except TypeError:
        raise InputError(f"{name}={given!r}: give a tuple of tuples of integers.") from None
    wrong = [item for item in found if (len(item) != length if length else len(item) < 2 or min(item) < 1)]
    if wrong or (length and len({item[:2] for item in found}) < len(found)):
        what = f"tuples of {length} integers, each pair of cores once" if length else "shapes of at least two modes"
        raise InputError(f"{name}={given!r}: give {what}.")
    return found


def exchanged(structure: Structure, i: int, j: int) -> Structure:
    """Return the structure in which modes i and j have exchanged their bonds."""
    number = list(range(structure.n_cores))
    number[i], number[j] = j, i
    bonds = sorted((min(number[a], number[b]), max(number[a], number[b]), rank) for a, b, rank in structure.bonds)
    return Structure(structure.shape, tuple(bonds), structure.n_internal)


def default_max_rank(shape: Sequence[int]) -> int:
    """Return the largest rank that is tried where the user names none: 64, or the root of the number of entries."""
    return max(1, min(_LARGEST_RANK, math.isqrt(math.prod(int(n) for n in shape))))
