"""Trees drawn at random for the tests of structure search."""

from __future__ import annotations

import numpy as np

from tnet.structure_search.structure import Structure


def random_tree(rng: np.random.Generator, n_modes: int, n_internal: int, max_rank: int = 3) -> Structure:
    """Return a tree whose internal cores have at least two bonds, all bonds of rank 2 to ``max_rank``."""
    n_cores = n_modes + n_internal
    while True:
        names = rng.permutation(n_cores).tolist()
        parents = [int(rng.integers(0, core)) for core in range(1, n_cores)]
        pairs = [sorted((names[core + 1], names[parent])) for core, parent in enumerate(parents)]
        bonds = tuple(sorted((i, j, int(rng.integers(2, max_rank + 1))) for i, j in pairs))
        structure = Structure(tuple(int(n) for n in rng.integers(2, 6, n_modes)), bonds, n_internal)
        if all(structure.degree(core) > 1 for core in range(n_modes, n_cores)):
            return structure


def planted(rng: np.random.Generator, structure: Structure) -> np.ndarray:
    """Return the tensor of a structure whose cores are standard normal."""
    cores = [rng.standard_normal(shape) for shape in structure.core_shapes]
    return np.asarray(structure.to_network(cores).to_dense())
