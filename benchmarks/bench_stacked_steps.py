"""Small equal steps in stacks: a tree tensor network takes at most 0.6 of the steps one by one, nothing more."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import networks  # noqa: E402
import numpy as np  # noqa: E402
import opt_einsum  # noqa: E402
import record  # noqa: E402
from small_calls import CLOCK, least_microseconds  # noqa: E402

import tnet  # noqa: E402
from tnet.contraction import ContractionPlan  # noqa: E402
from tnet.contraction.execute import make_runner  # noqa: E402
from tnet.contraction.slicing import sliced_program  # noqa: E402

BAR = 1 / 0.6
NO_WORSE = 1 / 1.05

Terms = Sequence[Sequence[Hashable]]


def tree_norm(depth: int, bond: int) -> tuple[Terms, dict[Hashable, int]]:
    """The norm of a binary tree tensor network over 2**depth sites of size 2."""
    terms: list[tuple[Hashable, ...]] = []
    sizes: dict[Hashable, int] = {k: 2 for k in range(2**depth)}
    for layer in ("ket", "bra"):
        below: list[Hashable] = list(range(2**depth))
        for level in range(depth):
            above = [(layer, level, k) for k in range(len(below) // 2)]
            for k, up in enumerate(above):
                pair = below[2 * k : 2 * k + 2]
                sizes[up] = min(bond, math.prod(sizes[i] for i in pair))
                terms.append((*pair, up) if len(above) > 1 else tuple(pair))
            below = list(above)
    return terms, {i: n for i, n in sizes.items() if any(i in term for term in terms)}


def closed_chain(n: int, size: int) -> tuple[Terms, dict[Hashable, int]]:
    return [(k, (k + 1) % n) for k in range(n)], dict.fromkeys(range(n), size)


def circuit(n: int, depth: int) -> tuple[Terms, dict[Hashable, int]]:
    """An amplitude of a brickwork of two-qubit gates."""
    moment = [0] * n
    terms: list[tuple[Hashable, ...]] = [((q, 0),) for q in range(n)]
    for layer in range(depth):
        for q in range(layer % 2, n - 1, 2):
            a, b = moment[q], moment[q + 1]
            terms.append(((q, a), (q + 1, b), (q, a + 1), (q + 1, b + 1)))
            moment[q], moment[q + 1] = a + 1, b + 1
    terms += [((q, moment[q]),) for q in range(n)]
    return terms, dict.fromkeys({i for term in terms for i in term}, 2)


def of_planning(network: networks.Network) -> tuple[Terms, dict[Hashable, int]]:
    return network.inputs, dict(enumerate(network.sizes))


CASES = {
    "tree norm of 32 sites, bond 4": (tree_norm(5, 4), NO_WORSE),
    "tree norm of 128 sites, bond 8": (tree_norm(7, 8), BAR),
    "trace of 64 matrices of 4 x 4": (closed_chain(64, 4), NO_WORSE),
    "circuit of 40 qubits, 6 layers": (circuit(40, 6), NO_WORSE),
    "PEPS norm 4 x 4, bond 2": (of_planning(networks.peps_norm((4, 4), 2)), NO_WORSE),
    "lattice 8 x 8": (of_planning(networks.lattice((8, 8), 2)), NO_WORSE),
    "3-regular graph of 60": (of_planning(networks.random_regular(60, 3)), NO_WORSE),
}


def runner(plan: ContractionPlan, arrays: Sequence[np.ndarray], *, stacked: bool) -> Callable[[], Any]:
    """The call of a plan, without the look at its operands: the same for both."""
    program = sliced_program(plan.spec, plan.pairs, (), plan.dtypes, kernels=True, stacked=stacked)
    run = make_runner(plan.spec, program, (), plan.dtypes, arrays)
    return lambda: run(arrays)


def contenders(terms: Terms, sizes: dict[Hashable, int]) -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=[sizes[i] for i in term]) / len(term) for term in terms]
    operands = [part for x, term in zip(arrays, terms, strict=True) for part in (x, list(term))]
    plan = tnet.plan(*operands, [])
    number = {label: k for k, label in enumerate(sizes)}
    symbols = ["".join(opt_einsum.get_symbol(number[i]) for i in term) for term in terms]
    expression = opt_einsum.contract_expression(
        f"{','.join(symbols)}->", *[x.shape for x in arrays], optimize=plan.path
    )
    return {
        "tnet": runner(plan, arrays, stacked=True),
        "tnet, one by one": runner(plan, arrays, stacked=False),
        "opt_einsum": lambda: expression(*arrays),
    }


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    rows = []
    for name, ((terms, sizes), bar) in CASES.items():
        best = least_microseconds(contenders(terms, sizes), "opt_einsum", arguments.rounds)
        rows.append(
            {
                "network": name,
                "us a call": best["tnet"],
                "one by one / tnet": best["tnet, one by one"] / best["tnet"],
                "opt_einsum / tnet": best["opt_einsum"] / best["tnet"],
                "bar": bar,
            }
        )
    print(record.table(rows))
    settings = {"threads": 1, "rounds": arguments.rounds, "clock": CLOCK}
    print(record.write("stacked_steps", __doc__.strip(), rows, settings))


if __name__ == "__main__":
    main()
