"""What the tests of all planners share: networks, checks of trees, and a slow exact search."""

from __future__ import annotations

import functools
import math
import random

import numpy as np
import pytest
from hypothesis import strategies as st

from tests.contraction.networks import Case
from tnet.contraction.pairs import pairwise_macs
from tnet.contraction.planners.network import PlanningNetwork, planning_network
from tnet.contraction.planners.trees import Tree
from tnet.contraction.spec import ContractionSpec, parse_equation


def network_of(case: Case) -> tuple[ContractionSpec, PlanningNetwork]:
    spec = parse_equation(case.equation, case.shapes)
    return spec, planning_network(spec.inputs, spec.output, spec.sizes)


def is_tree(pairs: np.ndarray, n: int) -> bool:
    """Every node but the root is used once, after it was made."""
    made = np.arange(len(pairs)) + n
    return (
        pairs.dtype == np.int32
        and pairs.shape == (n - 1, 2)
        and sorted(pairs.ravel().tolist()) == list(range(2 * n - 2))
        and bool((pairs < made[:, None]).all())
    )


def check_tree(tree: Tree, spec: ContractionSpec) -> None:
    """The tree is one, and its cost is that of the exact count."""
    n = len(spec.inputs)
    assert is_tree(tree.pairs, n)
    if n > 1:
        sizes = [max(size, 1) for size in spec.sizes]
        assert tree.log2_macs == pytest.approx(math.log2(pairwise_macs(spec, tree.pairs.tolist(), sizes)))


def grid(n_rows: int, n_columns: int, size: int = 2) -> Case:
    """Return a closed lattice; labels are letters by the order of the bonds."""
    legs: list[str] = [""] * (n_rows * n_columns)
    n_bonds = 0
    for k in range(n_rows * n_columns):
        for other in [k + 1] * (k % n_columns < n_columns - 1) + [k + n_columns] * (k // n_columns < n_rows - 1):
            label = chr(0x4E00 + n_bonds)
            legs[k] += label
            legs[other] += label
            n_bonds += 1
    return Case(",".join(legs) + "->", tuple((size,) * len(term) for term in legs))


def random_network(seed: int, n: int, n_indices: int, *, rank: int = 4, n_output: int = 0, sizes=(2, 3, 5)):
    """Hyper-indices, lonely indices, scalars and repeated operands all occur."""
    noise = random.Random(seed)
    inputs = [tuple(noise.sample(range(n_indices), noise.randint(0, min(rank, n_indices)))) for _ in range(n)]
    output = tuple(noise.sample(range(n_indices), min(n_output, n_indices)))
    return inputs, output, [noise.choice(sizes) for _ in range(n_indices)]


def random_regular(seed: int, n: int, degree: int = 3, size: int = 2):
    noise = random.Random(seed)
    inputs: list[list[int]] = [[] for _ in range(n)]
    ends = [k for k in range(n) for _ in range(degree)]
    noise.shuffle(ends)
    for i, (a, b) in enumerate(zip(ends[::2], ends[1::2], strict=False)):
        inputs[a].append(i)
        inputs[b].append(i)
    return [tuple(t) for t in inputs], (), [size] * (len(ends) // 2)


def chain(n: int, size: int = 4):
    return [tuple(i for i in (k - 1, k) if 0 <= i < n - 1) for k in range(n)], (), [size] * (n - 1)


def least_log2_macs(network: PlanningNetwork, *, outer: bool) -> float:
    """Try all bipartitions of all subsets, with indices as bits of Python's integers."""
    n = len(network.legs)
    operands = [int.from_bytes(row.tobytes(), "little") for row in network.legs]
    output = int.from_bytes(network.output.tobytes(), "little")

    def below(subset: int) -> int:
        return functools.reduce(int.__or__, (x for k, x in enumerate(operands) if subset >> k & 1), 0)

    def legs(subset: int) -> int:
        return below(subset) & (output | below(((1 << n) - 1) & ~subset))

    def size(indices: int) -> float:
        return 2.0 ** sum(
            float(s) * (indices >> 64 * w & (1 << 64) - 1).bit_count() for w, s in enumerate(network.log2_sizes)
        )

    @functools.cache
    def least(subset: int) -> float:
        if subset.bit_count() == 1:
            return 0.0
        best, part = math.inf, subset & (subset - 1)
        while part:
            other = subset ^ part
            if outer or legs(part) & legs(other):
                best = min(best, least(part) + least(other) + size(legs(part) | legs(other)))
            part = (part - 1) & (subset & (subset - 1))
        return best

    whole = least((1 << n) - 1)
    return math.log2(whole) if 0 < whole < math.inf else whole


def random_pairs(seed: int, n: int) -> np.ndarray:
    noise = random.Random(seed)
    alive, pairs = list(range(n)), []
    while len(alive) > 1:
        a, b = noise.sample(alive, 2)
        alive = [k for k in alive if k not in (a, b)] + [n + len(pairs)]
        pairs.append((a, b))
    return np.array(pairs, np.int32).reshape(-1, 2)


def random_networks(least: int, most: int, most_indices: int) -> st.SearchStrategy:
    """Networks of ``least`` to ``most`` operands, with up to three indices in the output."""
    return st.builds(
        random_network,
        st.integers(0, 2**32),
        st.integers(least, most),
        st.integers(1, most_indices),
        n_output=st.integers(0, 3),
    )
