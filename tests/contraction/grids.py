"""Two-dimensional networks with known values, for the tests of boundary contraction."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import opt_einsum

from tnet.formats import TensorNetwork


class Lattice(NamedTuple):
    network: TensorNetwork
    sites: list[list[Any]]


def value(network: TensorNetwork) -> complex:
    """Contract exactly, by another library."""
    numbers: dict[str, int] = {}
    operands: list[Any] = []
    for tensor, labels in zip(network.tensors, network.indices, strict=True):
        operands += [tensor, [numbers.setdefault(label, len(numbers)) for label in labels]]
    return complex(opt_einsum.contract(*operands, [], optimize="greedy"))


def names(rows: int, columns: int, wraps: tuple[bool, bool]) -> list[tuple[str, ...]]:
    """Indices of each site, row by row: from above, below, the left and the right."""
    found = []
    for i in range(rows):
        for j in range(columns):
            sides = (
                (i > 0 or (wraps[0] and rows > 2), f"v{(i - 1) % rows}.{j}"),
                (i < rows - 1 or (wraps[0] and rows > 2), f"v{i}.{j}"),
                (j > 0 or (wraps[1] and columns > 2), f"h{i}.{(j - 1) % columns}"),
                (j < columns - 1 or (wraps[1] and columns > 2), f"h{i}.{j}"),
            )
            found.append(tuple(name for present, name in sides if present))
    return found


def lattice(
    rows: int,
    columns: int,
    D: int,
    *,
    wraps: tuple[bool, bool] = (False, False),
    positive: float = 0.0,
    ising: float | None = None,
    seed: int = 0,
    dtype: str = "float64",
) -> Lattice:
    """Random tensors with ``positive`` added, or those of the Ising model at this coupling."""
    rng = np.random.default_rng(seed)
    indices = names(rows, columns, wraps)
    if ising is not None:
        W = np.array([[math.exp(ising), math.exp(-ising)], [math.exp(-ising), math.exp(ising)]])
        energies, vectors = np.linalg.eigh(W)
        root = vectors * np.sqrt(energies)
        tensors = [sum(_outer([root[s]] * len(labels)) for s in range(2)) for labels in indices]
    else:
        tensors = [_random(rng, (D,) * len(labels), dtype) + positive for labels in indices]
    network = TensorNetwork(tuple(np.asarray(t, dtype=dtype) for t in tensors), tuple(indices), output=())
    return Lattice(network, np.arange(rows * columns).reshape(rows, columns).tolist())


def peps_norm(
    rows: int, columns: int, D: int, *, positive: float = 0.0, cplx: bool = False, seed: int = 0
) -> Lattice:
    rng = np.random.default_rng(seed)
    indices = names(rows, columns, (False, False))
    dtype = "complex128" if cplx else "float64"
    ket = [_random(rng, (*(D,) * len(labels), 2), dtype) + positive for labels in indices]
    physical = [f"p{k}" for k in range(len(ket))]
    layers = [[(*labels, p) for labels, p in zip(indices, physical, strict=True)]]
    layers.append([(*(f"{name}'" for name in labels), p) for labels, p in zip(indices, physical, strict=True)])
    network = TensorNetwork((*ket, *(t.conj() for t in ket)), (*layers[0], *layers[1]), ())
    sites = [[(i * columns + j, rows * columns + i * columns + j) for j in range(columns)] for i in range(rows)]
    return Lattice(network, sites)


def native_ising(rows: int, columns: int, beta: float, *, wraps: bool = False) -> Lattice:
    """Spins are indices; each has a Boltzmann matrix with every neighbour, at the place of the upper or left one."""
    W = np.array([[math.exp(beta), math.exp(-beta)], [math.exp(-beta), math.exp(beta)]])
    indices: list[tuple[str, str]] = []
    sites: list[list[Any]] = []
    for i in range(rows):
        sites.append([])
        for j in range(columns):
            here: list[int] = []
            for a, b in ((i + 1, j), (i, j + 1)):
                if wraps or (a < rows and b < columns):
                    here.append(len(indices))
                    indices.append((f"s{i}.{j}", f"s{a % rows}.{b % columns}"))
            sites[-1].append(tuple(here))
    return Lattice(TensorNetwork((W,) * len(indices), tuple(indices), ()), sites)


def kaufman_log_z(rows: int, columns: int, beta: float) -> float:
    """Logarithm of the partition function of the Ising model on a torus: Kaufman, Phys. Rev. 76 (1949) 1232."""
    m, n = rows, columns
    k = np.arange(2 * n)
    c = math.cosh(2 * beta) ** 2 / math.sinh(2 * beta) - np.cos(math.pi * k / n)
    gamma = np.arccosh(np.maximum(c, 1.0))
    gamma[0] = 2 * beta + math.log(math.tanh(beta))
    odd, even = m * gamma[1::2] / 2, m * gamma[0::2] / 2

    def log_cosh(x: np.ndarray) -> float:
        return float(np.sum(np.logaddexp(x, -x)))

    def log_sinh(x: np.ndarray) -> float:
        return float(np.sum(np.log(np.abs(np.exp(x) - np.exp(-x)))))

    signs = np.sign(np.prod(np.sign(even)))
    terms = [log_cosh(odd), log_sinh(odd), log_cosh(even), log_sinh(even)]
    weights = np.array([1.0, 1.0, 1.0, signs])
    largest = max(terms)
    total = float(np.sum(weights * np.exp(np.array(terms) - largest)))
    return -math.log(2) + m * n / 2 * math.log(2 * math.sinh(2 * beta)) + largest + math.log(total)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    draw = rng.normal(size=shape)
    if dtype.startswith("complex"):
        draw = draw + 1j * rng.normal(size=shape)
    return np.asarray(draw / max(1.0, float(np.linalg.norm(draw)))).astype(dtype)


def _outer(vectors: list[np.ndarray]) -> np.ndarray:
    return functools.reduce(np.multiply.outer, vectors, np.ones(()))
