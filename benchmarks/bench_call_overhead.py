"""A call on 12-20 tiny tensors: at most 1.3 times a hand-written NumPy loop, and a quarter of any peer's time."""

from __future__ import annotations

import argparse
import math
import os
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import record  # noqa: E402
from small_calls import CLOCK, least_microseconds  # noqa: E402

import tnet  # noqa: E402

FLOOR, PEERS = 1.3, 4.0


class Network(NamedTuple):
    name: str
    inputs: list[tuple[str, ...]]
    output: tuple[str, ...]
    sizes: dict[str, int]

    @property
    def equation(self) -> str:
        letter = {index: chr(97 + k) if k < 26 else chr(39 + k) for k, index in enumerate(self.sizes)}
        terms = ["".join(letter[i] for i in term) for term in (*self.inputs, self.output)]
        return f"{','.join(terms[:-1])}->{terms[-1]}"

    @property
    def arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [rng.standard_normal([self.sizes[i] for i in term]) for term in self.inputs]


def chain(n: int, size: int) -> Network:
    """A product of matrices."""
    inputs = [(f"b{k}", f"b{k + 1}") for k in range(n)]
    return Network(f"chain of {n}", inputs, ("b0", f"b{n}"), {f"b{k}": size for k in range(n + 1)})


def expectation(length: int, bond: int, operator_bond: int) -> Network:
    """Two matrix product states around an operator."""
    inputs, sizes = [], {}
    for k in range(length):
        for row, wide in (("t", bond), ("o", operator_bond), ("s", bond)):
            term = [f"{row}{j}" for j in (k - 1, k) if 0 <= j < length - 1]
            sizes |= dict.fromkeys(term, wide)
            inputs.append((*term, *{"t": [f"p{k}"], "o": [f"p{k}", f"q{k}"], "s": [f"q{k}"]}[row]))
        sizes |= {f"p{k}": 2, f"q{k}": 2}
    return Network(f"MPS-MPO-MPS of length {length}", inputs, (), sizes)


def lattice(side: int, size: int) -> Network:
    inputs, sizes = [], {}
    for r in range(side):
        for c in range(side):
            term = [f"h{r},{k}" for k in (c - 1, c) if 0 <= k < side - 1]
            term += [f"v{k},{c}" for k in (r - 1, r) if 0 <= k < side - 1]
            sizes |= dict.fromkeys(term, size)
            inputs.append(tuple(term))
    return Network(f"lattice {side} x {side}", inputs, (), sizes)


def regular(n: int, size: int, seed: int = 1) -> Network:
    """A random graph in which each tensor has three neighbours."""
    noise = random.Random(seed)
    while True:
        stubs = [k for k in range(n) for _ in range(3)]
        noise.shuffle(stubs)
        edges = {tuple(sorted(pair)) for pair in zip(stubs[::2], stubs[1::2], strict=True)}
        if len(edges) == 3 * n // 2 and all(a != b for a, b in edges):
            break
    inputs = [tuple(f"e{k}" for k, edge in enumerate(sorted(edges)) if node in edge) for node in range(n)]
    return Network(f"3-regular graph of {n}", inputs, (), {f"e{k}": size for k in range(len(edges))})


NETWORKS = (chain(12, 8), expectation(6, 8, 4), lattice(4, 2), regular(20, 2))


def floor(network: Network, pairs: Sequence[tuple[int, int]]) -> Callable[..., np.ndarray]:
    """What one would write by hand: permutations and shapes worked out once, then transpose, reshape, dot."""
    legs = list(network.inputs)
    program = []
    for k, (a, b) in enumerate(pairs):
        others = {i for j, term in enumerate(legs) if term and j not in (a, b) for i in term} | set(network.output)
        batch = [i for i in legs[a] if i in legs[b] and i in others]
        inner = [i for i in legs[a] if i in legs[b] and i not in others]
        rows, columns = ([i for i in legs[x] if i not in legs[y]] for x, y in ((a, b), (b, a)))
        sides = []
        for x, order in ((a, batch + rows + inner), (b, batch + inner + columns)):
            axes = tuple(legs[x].index(i) for i in order)
            sides.append(None if axes == tuple(range(len(axes))) else axes)

        def size(indices: list[str]) -> int:
            return math.prod(network.sizes[i] for i in indices)

        head = (size(batch),) if batch else ()
        left, right = (*head, size(rows), size(inner)), (*head, size(inner), size(columns))
        legs.append((*batch, *rows, *columns))
        legs[a] = legs[b] = ()
        final = None
        if k == len(pairs) - 1 and legs[-1] != network.output:
            final = tuple(legs[-1].index(i) for i in network.output)
        result = tuple(network.sizes[i] for i in legs[-1])
        program.append((a, b, sides[0], left, sides[1], right, np.matmul if batch else np.dot, result, final))
    room = [None] * len(program)

    def run(*arrays: np.ndarray) -> Any:
        slots: list[Any] = [*arrays, *room]
        place = len(arrays)
        z: Any = None
        for a, b, left_axes, left, right_axes, right, product, result, final in program:
            x, y = slots[a], slots[b]
            slots[a] = slots[b] = None
            if left_axes is not None:
                x = x.transpose(left_axes)
            if right_axes is not None:
                y = y.transpose(right_axes)
            z = product(x.reshape(left), y.reshape(right)).reshape(result)
            if final is not None:
                z = z.transpose(final)
            slots[place] = z
            place += 1
        return z

    return run


def contenders(network: Network) -> dict[str, Callable[[], Any]]:
    """All by the same order of contraction, each peer in every way it offers."""
    import cotengra
    import opt_einsum

    arrays, equation = network.arrays, network.equation
    shapes = [x.shape for x in arrays]
    plan = tnet.plan(equation, *arrays, planner="auto")
    tree = cotengra.einsum_tree(equation, *shapes, optimize=plan.path)
    by_hand = floor(network, plan.pairs)
    expression = opt_einsum.contract_expression(equation, *shapes, optimize=plan.path)
    contractor = tree.get_contractor()
    own_kernels = tree.get_contractor(implementation="cotengra")
    compiled = cotengra.einsum_expression(equation, *shapes, optimize=plan.path)
    return {
        "floor": lambda: by_hand(*arrays),
        "tnet.plan": lambda: plan(*arrays),
        "tnet.contract": lambda: tnet.contract(equation, *arrays),
        "opt_einsum: expression": lambda: expression(*arrays),
        "cotengra: contractor": lambda: contractor(*arrays),
        "cotengra: contractor, own kernels": lambda: own_kernels(*arrays),
        "cotengra: expression": lambda: compiled(*arrays),
    }


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    rows = []
    for network in NETWORKS:
        best = least_microseconds(contenders(network), "floor", arguments.rounds)
        peer = min(value for name, value in best.items() if name.startswith(("opt_einsum", "cotengra")))
        rows += [
            {
                "network": network.name,
                "contender": name,
                "us a call": value,
                "time / floor": value / best["floor"],
                "best peer / time": peer / value,
            }
            for name, value in best.items()
        ]
    print(record.table(rows))
    ours = [row for row in rows if row["contender"] == "tnet.plan"]
    verdict = {
        "worst time / floor": max(row["time / floor"] for row in ours),
        "bar of the floor": FLOOR,
        "least best peer / tnet": min(row["best peer / time"] for row in ours),
        "bar of the peers": PEERS,
    }
    print(verdict)
    settings = {"threads": 1, "rounds": arguments.rounds, "clock": CLOCK}
    print(record.write("call_overhead", __doc__.strip(), rows, settings | verdict))


if __name__ == "__main__":
    main()
