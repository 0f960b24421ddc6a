"""predicted_seconds is within 1.5 times of the CPU seconds at the median, on tiny, medium and large networks."""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import time
import warnings
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import record  # noqa: E402

import tnet  # noqa: E402
from tnet.contraction.rates import host_rates  # noqa: E402

BAR = 1.5
CLASSES = {"tiny": (0.0, 2e-4), "medium": (2e-4, 2e-2), "large": (2e-2, 2.0)}
SIZES = {"tiny": [2, 3, 4], "medium": [2, 4, 8, 16, 32], "large": [4, 8, 16, 32, 64, 128]}
DTYPES = ("float64", "float32", "complex128")


def random_case(noise: random.Random, kind: str) -> tuple[str, list[tuple[int, ...]], str]:
    """A connected network of 4-16 operands, with some hyper-indices and open indices, of a predicted size."""
    low, high = CLASSES[kind]
    while True:
        n = noise.randint(4, 16)
        terms: list[list[str]] = [[] for _ in range(n)]
        labels = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        for k in range(1, n):
            label = next(labels)
            terms[k].append(label)
            terms[noise.randrange(k)].append(label)
        for _ in range(noise.randint(0, n)):
            label = next(labels)
            for k in noise.sample(range(n), noise.choice([2, 2, 2, 3])):
                terms[k].append(label)
        used = sorted({label for term in terms for label in term})
        sizes = {label: noise.choice(SIZES[kind]) for label in used}
        output = noise.sample(used, noise.randint(0, 2))
        for term in terms:
            noise.shuffle(term)
        shapes = [tuple(sizes[label] for label in term) for term in terms]
        if max(map(len, terms)) > 8 or max(math.prod(shape) for shape in shapes) > 2**21:
            continue
        equation = f"{','.join(map(''.join, terms))}->{''.join(output)}"
        dtype = noise.choice(DTYPES)
        plan = tnet.plan(equation, *shapes, dtype=dtype, planner="greedy")
        if plan.macs < 2**34 and plan.peak_bytes < 2**30 and low <= plan.predicted_seconds < high:
            return equation, shapes, dtype


def measured(plan: Any, arrays: list[np.ndarray]) -> float:
    """Return the least CPU seconds of a call over five rounds."""
    plan(*arrays)
    best, calls = math.inf, 1
    for _ in range(5):
        started = time.process_time()
        for _ in range(calls):
            plan(*arrays)
        best = min(best, (time.process_time() - started) / calls)
        calls = max(1, min(200, int(2e-3 / max(best, 1e-7))))
    return best


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=60, help="of each size")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.process_time()
    for dtype in DTYPES:
        host_rates(dtype)
    spent = (time.process_time() - started) / len(DTYPES)
    noise, rng = random.Random(arguments.seed), np.random.default_rng(arguments.seed)
    rows = []
    for kind in CLASSES:
        ratios = []
        for _ in range(arguments.networks):
            equation, shapes, dtype = random_case(noise, kind)
            arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
            plan = tnet.plan(equation, *arrays, planner="greedy")
            ratios.append(plan.predicted_seconds / measured(plan, arrays))
        errors = [max(ratio, 1 / ratio) for ratio in ratios]
        rows.append(
            {
                "networks": kind,
                "count": len(ratios),
                "median error factor": statistics.median(errors),
                "90 % within": statistics.quantiles(errors, n=10)[-1],
                "median predicted / measured": statistics.median(ratios),
                "bar": BAR,
            }
        )
    print(record.table(rows))
    settings = {"seed": arguments.seed, "threads": 1, "CPU seconds to measure a dtype": spent}
    print(record.write("cost_model", __doc__.strip(), rows, settings))


if __name__ == "__main__":
    main()
