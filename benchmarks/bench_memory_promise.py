"""Over random networks the measured peak is never above plan.peak_bytes, which is within 1.3 times of it."""

from __future__ import annotations

import argparse
import gc
import math
import os
import random
import statistics
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import record  # noqa: E402

import tnet  # noqa: E402
from tnet.errors import MemoryLimitError  # noqa: E402

DTYPES = ("float64", "float32", "complex128", "complex64", "float16", "int64", "int32", "int8")
BAR = 1.3

# The promise is about arrays. Python's own objects of one call, however many slices it has: slots, views, shapes, the
# keys of one slice.
PYTHON = 8 * 1024

# The CUDA allocator hands out blocks of 512 bytes; cuBLAS takes its workspace at the first product.
BLOCK = 512


class Case(NamedTuple):
    equation: str
    shapes: list[tuple[int, ...]]
    dtype: str
    strided: list[int]
    """Operands that are views: 1 reversed, 2 with gaps, 3 with permuted axes; 0 plain."""

    share: float
    """Of the way from what must be held to the peak, where the memory limit lies; 1 sets none."""


def random_case(noise: random.Random) -> Case:
    """A network of 2-9 operands with traces, hyper-indices, batch outputs and lonely indices."""
    while True:
        n = noise.randint(2, 9)
        labels = "abcdefghijklmnop"[: noise.randint(2, 14)]
        sizes = {label: noise.choice([2, 3, 4, 6, 8, 12, 16, 24, 32, 64]) for label in labels}
        terms = ["".join(noise.choices(labels, k=noise.randint(1, 4))) for _ in range(n)]
        used = sorted(set("".join(terms)))
        output = noise.sample(used, noise.randint(0, min(3, len(used))))
        shapes = [tuple(sizes[i] for i in term) for term in terms]
        largest = max(math.prod(shape) for shape in shapes)
        if not 2**17 <= largest <= 2**21 or math.prod(sizes[i] for i in output) > 2**20:
            continue
        equation = f"{','.join(terms)}->{''.join(output)}"
        plan = tnet.plan(equation, *shapes, planner="greedy")
        if plan.peak_bytes <= 2**28 and plan.macs <= 2**29:
            strided = [noise.choice([0, 0, 0, 0, 1, 2, 3]) for _ in shapes]
            dtype = noise.choice(DTYPES)
            if plan.macs <= 2**25 or "int" not in dtype:  # integers have no BLAS
                return Case(equation, shapes, dtype, strided, noise.choice([1, 1, 1, 0.75, 0.5]))


def operands(case: Case, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = []
    for shape, kind in zip(case.shapes, case.strided, strict=True):
        wide = tuple(2 * n for n in shape) if kind == 2 else shape[::-1] if kind == 3 else shape
        x = rng.integers(-2, 3, wide).astype(case.dtype)
        if kind == 1:
            x = x[::-1]
        elif kind == 2:
            x = x[tuple(slice(0, None, 2) for _ in shape)]
        elif kind == 3:
            x = x.transpose()
        arrays.append(x)
    return arrays


def measured_by_tracemalloc(plan: tnet.contraction.ContractionPlan, arrays: Sequence[np.ndarray]) -> int:
    """Return the bytes that a call adds at its worst moment, above what was there."""
    gc.collect()
    tracemalloc.start()
    try:
        plan(*arrays)  # binds, and fills Python's lists of freed objects, which a collection would empty
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        plan(*arrays)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def measured_by_cuda(plan: tnet.contraction.ContractionPlan, arrays: Sequence[Any]) -> int:
    import torch

    plan(*arrays)  # cuBLAS takes its workspace
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    plan(*arrays)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def to_cuda(arrays: Sequence[np.ndarray], strided: Sequence[int]) -> list[Any]:
    """Move the operands; what is strided here is strided there, but torch knows no reversed axes."""
    import torch

    moved = []
    for x, kind in zip(arrays, strided, strict=True):
        if kind == 2:
            wide = torch.zeros([2 * n for n in x.shape], dtype=torch.from_numpy(x.copy()).dtype, device="cuda")
            view = wide[tuple(slice(0, None, 2) for _ in x.shape)]
            view.copy_(torch.from_numpy(x.copy()))
            moved.append(view)
        elif kind == 3:
            moved.append(torch.from_numpy(np.ascontiguousarray(x.transpose())).cuda().permute(*range(x.ndim)[::-1]))
        else:
            moved.append(torch.from_numpy(np.ascontiguousarray(x)).cuda())
    return moved


def planned(case: Case, arrays: Sequence[Any]) -> tnet.contraction.ContractionPlan:
    plan = tnet.plan(case.equation, *arrays)
    if case.share == 1:
        return plan
    held = sum(
        math.prod(shape) * size for shape, size in zip(case.shapes, plan.dtypes.operand_itemsizes, strict=True)
    )
    held += math.prod(plan.output_shape) * plan.dtypes.compute_itemsize
    try:
        return tnet.plan(case.equation, *arrays, memory_limit=int(held + case.share * (plan.peak_bytes - held)))
    except MemoryLimitError:
        return plan


def check(case: Case, seed: int, cuda: bool) -> dict[str, Any]:
    arrays: Sequence[Any] = operands(case, seed)
    measure: Callable[..., int] = measured_by_tracemalloc
    if cuda:
        arrays, measure = to_cuda(arrays, case.strided), measured_by_cuda
    plan = planned(case, arrays)
    slack = 32 * BLOCK if cuda else PYTHON
    inputs = sum(math.prod(s) * size for s, size in zip(case.shapes, plan.dtypes.operand_itemsizes, strict=True))
    found = inputs + measure(plan, arrays)
    return {
        "equation": case.equation,
        "dtype": case.dtype,
        "slices": plan.n_slices,
        "strided": any(case.strided),
        "promised": plan.peak_bytes,
        "measured": found,
        "beyond": found - plan.peak_bytes,
        "kept": found <= plan.peak_bytes + slack,
        "ratio": plan.peak_bytes / found,
    }


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    noise = random.Random(arguments.seed)
    found = []
    for k in range(arguments.networks):
        case = random_case(noise)
        if arguments.device == "cuda" and "int" in case.dtype:
            case = case._replace(dtype="float32")  # CUDA has no product of integer matrices
        found.append(check(case, k, arguments.device == "cuda"))
    groups: dict[str, list[dict[str, Any]]] = {"all": found}
    for row in found:
        groups.setdefault(row["dtype"], []).append(row)
        groups.setdefault("sliced" if row["slices"] > 1 else "whole", []).append(row)
        groups.setdefault("strided" if row["strided"] else "plain", []).append(row)
    rows = [
        {
            "networks": name,
            "count": len(group),
            "broken": sum(not row["kept"] for row in group),
            "median promised / measured": statistics.median(row["ratio"] for row in group),
            "largest": max(row["ratio"] for row in group),
            "most bytes beyond": max(row["beyond"] for row in group),
        }
        for name, group in groups.items()
    ]
    print(record.table(rows))
    for row in found:
        if not row["kept"]:
            print(row)
    name = "memory_promise" if arguments.device == "cpu" else "memory_promise_cuda"
    settings = {"not array data, left out": "at most 8 KiB of Python's own objects"}
    settings |= {"seed": arguments.seed, "device": arguments.device, "bar": BAR}
    settings |= {"measured by": "tracemalloc" if arguments.device == "cpu" else "the allocator of torch"}
    print(record.write(name, __doc__.strip(), rows, settings))


if __name__ == "__main__":
    main()
