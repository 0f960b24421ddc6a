"""Small networks and slow exact searches that the planners are compared with."""

from __future__ import annotations

import functools
import math
import random

import numpy as np

from tnet.contraction.planners.network import PlanningNetwork


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


def is_tree(pairs: np.ndarray, n: int) -> bool:
    """Every node but the root is used once, after it was made."""
    made = np.arange(len(pairs)) + n
    return (
        pairs.dtype == np.int32
        and pairs.shape == (n - 1, 2)
        and sorted(pairs.ravel().tolist()) == list(range(2 * n - 2))
        and bool((pairs < made[:, None]).all())
    )
