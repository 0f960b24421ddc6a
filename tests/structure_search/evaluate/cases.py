"""Structures and tensors for the tests of the inner solvers."""

from __future__ import annotations

import numpy as np

from tnet.structure_search.structure import Structure

RING = Structure((3, 4, 2, 3), ((0, 1, 2), (0, 3, 3), (1, 2, 2), (2, 3, 2)))
TRAIN = Structure((3, 4, 2, 3), ((0, 1, 3), (1, 2, 3), (2, 3, 2)))
COMPLETE = Structure((3, 3, 3, 3), tuple((i, j, 2) for i in range(4) for j in range(i + 1, 4)))
RANK_ONE = Structure((3, 2, 4))
ISOLATED = Structure((3, 4, 2, 3), ((0, 2, 2),))
INTERNAL = Structure((3, 4, 3, 2), ((0, 4, 2), (1, 4, 2), (2, 5, 2), (3, 5, 2), (4, 5, 2)), 2)
LOOSE = Structure((3, 4), ((0, 1, 2), (1, 3, 2)), 2)  # core 2 has no bond, core 3 one
GRID = Structure((3,) * 6, ((0, 1, 2), (0, 3, 2), (1, 2, 2), (1, 4, 2), (2, 5, 2), (3, 4, 2), (4, 5, 2)))
PAIR = Structure((4, 5), ((0, 1, 2),))

ALL = {
    "ring": RING,
    "train": TRAIN,
    "complete": COMPLETE,
    "rank one": RANK_ONE,
    "isolated core": ISOLATED,
    "internal cores": INTERNAL,
    "loose internal cores": LOOSE,
    "grid": GRID,
    "pair": PAIR,
}

# Large enough that a network of these ranks is well determined.
PLANTED = {
    **ALL,
    "ring": Structure((4, 5, 4, 4), RING.bonds),
    "complete": Structure((5, 5, 5, 5), COMPLETE.bonds),
    "internal cores": Structure((4, 4, 4, 4), INTERNAL.bonds, 2),
}


def random_cores(structure: Structure, seed: int, *, complex_: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    cores = [rng.standard_normal(shape) for shape in structure.core_shapes]
    if complex_:
        cores = [core + 1j * rng.standard_normal(core.shape) for core in cores]
    return cores


def dense(structure: Structure, cores) -> np.ndarray:
    """Contract by one plain einsum, independent of all that is tested."""
    names = sorted({name for core in structure.core_indices for name in core})
    number = {name: k for k, name in enumerate(names)}
    operands = []
    for core, indices in zip(cores, structure.core_indices, strict=True):
        operands += [np.asarray(core), [number[name] for name in indices]]
    return np.einsum(*operands, [number[f"i{k}"] for k in range(structure.n_modes)], optimize=True)


def planted(structure: Structure, seed: int = 0, *, noise: float = 0.0, complex_: bool = False) -> np.ndarray:
    x = dense(structure, random_cores(structure, seed, complex_=complex_))
    x = x / np.sqrt(np.mean(np.abs(x) ** 2))
    return x + noise * np.random.default_rng(seed + 1).standard_normal(x.shape)


def rse(structure: Structure, cores, x: np.ndarray) -> float:
    return float(np.linalg.norm(x - dense(structure, cores)) ** 2 / np.linalg.norm(x) ** 2)
