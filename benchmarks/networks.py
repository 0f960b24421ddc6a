"""Networks that the benchmarks of contraction share: circuits, lattices, chains, graphs, formulas.

Each function returns a :class:`Network`; one seed gives one network. ``ALL`` names the instances of the races.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

__all__ = [
    "ALL",
    "Network",
    "cnf",
    "colouring",
    "lattice",
    "mera",
    "mps_mpo_mps",
    "peps_norm",
    "qft",
    "queen_graph",
    "random_network",
    "random_regular",
    "sycamore",
]


class Network(NamedTuple):
    """Index numbers of each operand and of the result, and the size of each index."""

    inputs: list[tuple[int, ...]]
    output: tuple[int, ...]
    sizes: list[int]


class _Wires:
    """Builds networks whose operands are written as lists of names of any kind."""

    def __init__(self) -> None:
        self.number: dict[object, int] = {}
        self.sizes: list[int] = []
        self.inputs: list[tuple[int, ...]] = []

    def index(self, name: object, size: int) -> int:
        if name not in self.number:
            self.number[name] = len(self.sizes)
            self.sizes.append(size)
        return self.number[name]

    def add(self, *names_and_sizes: tuple[object, int]) -> None:
        self.inputs.append(tuple(self.index(name, size) for name, size in names_and_sizes))

    def network(self, *output: object) -> Network:
        return Network(self.inputs, tuple(self.number[name] for name in output), self.sizes)


_SYCAMORE_ROWS = ((5, 7), (4, 8), (3, 9), (2, 10), (1, 10), (0, 9), (1, 8), (2, 7), (3, 6), (4, 5))
"""First and last + 1 column of each row of the chip; qubit (2, 3) is broken."""

_SYCAMORE_LAYERS = {"A": (True, 0), "B": (True, 1), "C": (False, 1), "D": (False, 0)}
"""Whether the couplers of a layer join rows, and the parity of the first of them."""


def sycamore(depth: int) -> Network:
    """Return an amplitude <0|U|0> of a circuit like those of Sycamore: 53 qubits, ``depth`` layers ABCDCDAB.

    Two-qubit gates are operands with four legs, into which the one-qubit gates are absorbed; two vectors a qubit.
    Source of the layout: F. Arute et al., Nature 574, 505 (2019), figures 1 and S25.
    """
    qubits = {(r, c) for r, (first, end) in enumerate(_SYCAMORE_ROWS) for c in range(first, end)} - {(2, 3)}
    wires, time = _Wires(), dict.fromkeys(sorted(qubits), 0)
    for qubit in time:
        wires.add(((qubit, 0), 2))
    for layer in range(depth):
        by_rows, offset = _SYCAMORE_LAYERS["ABCDCDAB"[layer % 8]]
        for r, c in sorted(qubits):
            other = (r + 1, c) if by_rows else (r, c + 1)
            line, along = (c, r) if by_rows else (r, c)
            if other in qubits and (along - offset) % 2 == line % 2:
                ends = ((r, c), other)
                legs = [(qubit, time[qubit]) for qubit in ends] + [(qubit, time[qubit] + 1) for qubit in ends]
                wires.add(*((leg, 2) for leg in legs))
                for qubit in ends:
                    time[qubit] += 1
    for qubit, t in time.items():
        wires.add(((qubit, t), 2))
    return wires.network()


def lattice(shape: tuple[int, ...], bond: int) -> Network:
    """Return a closed lattice with open boundaries: an operand a site, an index of size ``bond`` a bond."""
    wires = _Wires()
    for site in np.ndindex(*shape):
        bonds = []
        for axis, n in enumerate(shape):
            for step in (-1, 0):
                if 0 <= site[axis] + step < n - 1:
                    start = tuple(x + step * (a == axis) for a, x in enumerate(site))
                    bonds.append(((start, axis), bond))
        wires.add(*bonds)
    return wires.network()


def mps_mpo_mps(length: int, *, rank: int = 64, operator_rank: int = 5, size: int = 2) -> Network:
    """Return <x|A|x>; the ranks of x grow from the ends as those of a state in normal form do."""
    wires = _Wires()

    def bonds(name: str, k: int, most: int, base: int) -> list[tuple[object, int]]:
        return [((name, j), min(most, base ** min(j, length - j))) for j in (k, k + 1) if 0 < j < length]

    for k in range(length):
        wires.add(*bonds("ket", k, rank, size), (("lower", k), size))
        wires.add(*bonds("operator", k, operator_rank, operator_rank), (("lower", k), size), (("upper", k), size))
        wires.add(*bonds("bra", k, rank, size), (("upper", k), size))
    return wires.network()


def mera(n_sites: int, rank: int) -> Network:
    """Return the expectation of a two-site operator in a periodic binary MERA of ``n_sites = 2**k`` sites of size 2.

    All tensors stand in the network, those outside the light cone too.
    """
    wires = _Wires()
    for layer in ("ket", "bra"):
        legs: list[tuple[object, int]] = [((k,), 2) for k in range(n_sites)]
        if layer == "bra":
            for k in (0, 1):
                legs[k] = ((k, "bra"), 2)
        level = 0
        while len(legs) > 2:
            n = len(legs)
            rotated: list[tuple[object, int]] = [((layer, level, k, "disentangled"), legs[k][1]) for k in range(n)]
            for k in range(1, n, 2):
                other = (k + 1) % n
                wires.add(legs[k], legs[other], rotated[k], rotated[other])
            above: list[tuple[object, int]] = []
            for k in range(0, n, 2):
                size = min(rank, rotated[k][1] * rotated[k + 1][1])
                above.append(((layer, level, k, "coarse"), size))
                wires.add(rotated[k], rotated[k + 1], above[-1])
            legs, level = above, level + 1
        wires.add(*legs)
    wires.add(*(((k,), 2) for k in (0, 1)), *(((k, "bra"), 2) for k in (0, 1)))
    return wires.network()


def qft(n_qubits: int) -> Network:
    """Return the quantum Fourier transform of a product state, all amplitudes.

    Controlled phases are diagonal: matrices on the wires of their qubits, which thus are hyper-indices.
    """
    wires = _Wires()
    for k in range(n_qubits):
        wires.add((("before", k), 2))
    for k in range(n_qubits):
        wires.add((("before", k), 2), (("after", k), 2))  # Hadamard gate
        for j in range(k + 1, n_qubits):
            wires.add((("after", k), 2), (("before", j), 2))
    return wires.network(*(("after", k) for k in range(n_qubits)))


def queen_graph(n: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the edges between squares of an n x n board that one move of a queen joins."""
    squares = list(np.ndindex(n, n))
    return [
        ((a, b), (c, d))
        for (a, b), (c, d) in combinations(squares, 2)
        if a == c or b == d or abs(a - c) == abs(b - d)
    ]


def colouring(edges: list[tuple[tuple[int, int], tuple[int, int]]], n_colours: int) -> Network:
    """Return the number of colourings of a graph: an index a vertex, a matrix an edge."""
    wires = _Wires()
    for a, b in edges:
        wires.add((a, n_colours), (b, n_colours))
    return wires.network()


def cnf(n_variables: int, n_clauses: int, *, seed: int = 0) -> Network:
    """Return the number of solutions of a random 3-CNF formula: an index a variable, an operand a clause."""
    rng, wires = np.random.default_rng(seed), _Wires()
    for _ in range(n_clauses):
        wires.add(*((int(v), 2) for v in rng.choice(n_variables, 3, replace=False)))
    return wires.network()


def peps_norm(shape: tuple[int, int], bond: int, size: int = 2) -> Network:
    """Return <x|x> of a projected entangled pair state: two lattices joined at each site."""
    one = lattice(shape, bond)
    n_bonds, n_sites = len(one.sizes), len(one.inputs)
    inputs = [
        (*(i + layer * n_bonds for i in legs), 2 * n_bonds + k)
        for layer in (0, 1)
        for k, legs in enumerate(one.inputs)
    ]
    return Network(inputs, (), one.sizes * 2 + [size] * n_sites)


def random_regular(n: int, degree: int, bond: int = 2, *, seed: int = 0) -> Network:
    """Return a closed network on a random regular graph without loops and double edges."""
    rng = np.random.default_rng(seed)
    edges: set[tuple[int, ...]] = set()
    while 2 * len(edges) < n * degree:  # pair the free ends at random; where that gets stuck, start again
        edges = set()
        ends = np.repeat(np.arange(n), degree).tolist()
        for _ in range(100):
            rng.shuffle(ends)
            left = []
            for a, b in zip(ends[::2], ends[1::2], strict=True):
                pair = (min(a, b), max(a, b))
                if a == b or pair in edges:
                    left += [a, b]
                else:
                    edges.add(pair)
            ends = left
            if not ends:
                break
    wires = _Wires()
    neighbours: list[list[tuple[int, ...]]] = [[] for _ in range(n)]
    for edge in sorted(edges):
        for k in edge:
            neighbours[k].append(edge)
    for k in range(n):
        wires.add(*((edge, bond) for edge in neighbours[k]))
    return wires.network()


def random_network(n: int, degree: float, n_output: int, *, largest: int = 4, seed: int = 0) -> Network:
    """Return a connected random network with sizes 2 to ``largest``, ``degree`` legs an operand and open indices."""
    rng = np.random.default_rng(seed)
    legs: list[list[int]] = [[] for _ in range(n)]
    pairs = [(k, int(rng.integers(k))) for k in range(1, n)]
    while 2 * len(pairs) < n * degree:
        a, b = rng.choice(n, 2, replace=False)
        pairs.append((int(a), int(b)))
    for i, pair in enumerate(pairs):
        for k in pair:
            legs[k].append(i)
    output = tuple(range(len(pairs), len(pairs) + n_output))
    for i in output:
        legs[int(rng.integers(n))].append(i)
    sizes = [int(s) for s in rng.integers(2, largest + 1, len(pairs) + n_output)]
    return Network([tuple(row) for row in legs], output, sizes)


ALL: Mapping[str, Callable[[], Network]] = {
    "sycamore-53 m=12": lambda: sycamore(12),
    "sycamore-53 m=20": lambda: sycamore(20),
    "3-regular n=200": lambda: random_regular(200, 3),
    "lattice 32x32": lambda: lattice((32, 32), 2),
    "lattice 6x6x10": lambda: lattice((6, 6, 10), 2),
    "MPS-MPO-MPS L=100": lambda: mps_mpo_mps(100),
    "MERA 32": lambda: mera(32, 8),
    "QFT 27": lambda: qft(27),
    "queen 5x5, 3 colours": lambda: colouring(queen_graph(5), 3),
    "3-CNF 60/150": lambda: cnf(60, 150),
    "PEPS norm 6x6 D=4": lambda: peps_norm((6, 6), 4),
    "random n=50, degree 5": lambda: random_network(50, 5, 4),
}
"""The networks of the races, by name."""
