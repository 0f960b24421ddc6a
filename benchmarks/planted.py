"""Tensors made of a known network, to tell how far a search came: rings, trains, trees, grids, MERA."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from tnet.structure_search.structure import Structure, structure_of_ranks

NOISE = 1e-2  # relative Frobenius norm, where there is noise
EXACT = 1e-4  # relative tolerance, where there is none

CASES = ("ring4", "ring5", "ring6", "ring8", "train6", "train8", "tree6", "tree8", "grid6", "grid8", "mera6", "mera8")


class Planted(NamedTuple):
    """A tensor, the network that it was made of, and the relative error at which that network is found again."""

    name: str
    x: np.ndarray
    structure: Structure
    rtol: float


def planted(case: str, seed: int, *, noisy: bool = False) -> Planted:
    """Return the tensor of a planted network.

    Parameters
    ----------
    case : str
        One of ``CASES``: the graph, and the number of modes.
    seed : int
    noisy : bool
        Add normal noise of 1 % of the norm; the tolerance is then 1.02 of it.

    Notes
    -----
    Core entries are standard normal, ranks 2 or 3 (2 in grids, MERA and order 8), modes of size 4 up to order 6 and 3
    beyond, and rings, trains, trees and grids meet the modes in a random order. The tensor has mean square 1.
    """
    rng = np.random.default_rng([seed, zlib.crc32(case.encode())])
    graph, n_modes = case[:-1], int(case[-1])
    pairs, n_internal = _GRAPHS[graph](n_modes, rng)
    highest = 2 if graph in ("grid", "mera") else 3
    order = [*rng.permutation(n_modes).tolist(), *range(n_modes, n_modes + n_internal)]
    ranks = np.ones((n_modes + n_internal,) * 2, dtype=np.int64)
    for i, j in pairs:
        a, b = order[i], order[j]
        ranks[a, b] = ranks[b, a] = rng.integers(2, highest + 1)
    shape = (4,) * n_modes if n_modes <= 6 else (3,) * n_modes
    structure = structure_of_ranks(shape, ranks)
    cores = [rng.standard_normal(size) for size in structure.core_shapes]
    x = structure.to_network(cores).to_dense()
    x = x / np.sqrt(np.mean(x**2))
    if noisy:
        noise = rng.standard_normal(shape)
        x = x + NOISE * noise * np.linalg.norm(x) / np.linalg.norm(noise)
    return Planted(f"{case}{' noisy' if noisy else ''}", x, structure, 1.02 * NOISE if noisy else EXACT)


def _ring(n: int, rng: np.random.Generator) -> tuple[list[tuple[int, int]], int]:
    return [(k, (k + 1) % n) for k in range(n)], 0


def _train(n: int, rng: np.random.Generator) -> tuple[list[tuple[int, int]], int]:
    return [(k, k + 1) for k in range(n - 1)], 0


def _tree(n: int, rng: np.random.Generator) -> tuple[list[tuple[int, int]], int]:
    """Every core hangs on one of those before it; no core has more than three bonds."""
    pairs: list[tuple[int, int]] = []
    for k in range(1, n):
        free = [i for i in range(k) if sum(i in pair for pair in pairs) < 3]
        pairs.append((int(rng.choice(free)), k))
    return pairs, 0


def _grid(n: int, rng: np.random.Generator) -> tuple[list[tuple[int, int]], int]:
    """Two rows, as in PEPS."""
    width = n // 2
    rows = [(k, k + 1) for k in range(n - 1) if k != width - 1]
    return [*rows, *((k, k + width) for k in range(width))], 0


def _mera(n: int, rng: np.random.Generator) -> tuple[list[tuple[int, int]], int]:
    """Two internal cores take half the modes each, and a bond between neighbours of the halves disentangles."""
    half = n // 2
    return [*((k, n + k // half) for k in range(n)), (half - 1, half), (n, n + 1)], 2


_GRAPHS = {"ring": _ring, "train": _train, "tree": _tree, "grid": _grid, "mera": _mera}
