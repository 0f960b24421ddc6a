"""What is known of structures already, and which cores a new one can begin with."""

from __future__ import annotations

import numpy as np

from tnet.arrays import Array
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Evaluation

__all__ = ["Memo"]

_NEAR = 4  # changes of rank, summed over bonds, beyond which cores are no better start than noise


class Memo:
    """Evaluations by canonical structure; of several of one structure the best."""

    def __init__(self) -> None:
        self._known: dict[Structure, Evaluation] = {}
        self._alike: dict[tuple[tuple[int, ...], int], _Alike] = {}

    def get(self, structure: Structure) -> Evaluation | None:
        """Return what is known of a structure, however its internal cores are numbered."""
        return self._known.get(structure.canonical())

    def put(self, evaluation: Evaluation) -> None:
        """Keep an evaluation of a canonical structure."""
        structure = evaluation.structure
        known = self._known.get(structure)
        if known is not None and known.rse <= evaluation.rse:
            return
        self._known[structure] = evaluation
        if known is None:
            self._alike.setdefault((structure.shape, structure.n_internal), _Alike()).add(structure)

    def cores(self, structure: Structure) -> tuple[Array, ...] | None:
        """Return the best cores known of a structure, its internal cores numbered as it has them."""
        known, number = self.get(structure), structure.canonical_numbers()
        if known is None or known.cores is None or number is None:
            return None
        back = [number.index(k) for k in range(len(number))]
        return known.structure.relabelled_cores(known.cores, back)

    def nearest(self, structure: Structure) -> Evaluation | None:
        """Return the evaluation with cores whose ranks differ least; None where none is near.

        Among equals, the one with the least error.
        """
        alike = self._alike.get((structure.shape, structure.n_internal))
        if alike is None:
            return None
        distances = alike.distances(structure)
        for distance in range(int(distances.min()), _NEAR + 1):
            near = [self._known[alike.structures[k]] for k in np.flatnonzero(distances == distance)]
            with_cores = [evaluation for evaluation in near if evaluation.cores is not None]
            if with_cores:
                return min(with_cores, key=lambda evaluation: evaluation.rse)
        return None


class _Alike:
    """Structures of as many modes and internal cores: their ranks as one array that grows by doubling."""

    def __init__(self) -> None:
        self.structures: list[Structure] = []
        self._ranks = np.zeros((0, 0, 0), dtype=int)

    def add(self, structure: Structure) -> None:
        """Keep one more."""
        n = len(self.structures)
        if n == len(self._ranks):
            larger = np.zeros((max(16, 2 * n), *structure.ranks.shape), dtype=int)
            larger[:n] = self._ranks[:n] if n else 0
            self._ranks = larger
        self._ranks[n] = structure.ranks
        self.structures.append(structure)

    def distances(self, structure: Structure) -> np.ndarray:
        """Return the changes of rank, summed over bonds, to each of them."""
        return np.abs(self._ranks[: len(self.structures)] - structure.ranks).sum(axis=(1, 2)) // 2
