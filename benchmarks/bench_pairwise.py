"""Thirteen large pairwise contractions take no longer than by the best peer, whatever the order of their axes."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - the threads are set before
import record  # noqa: E402

import tnet  # noqa: E402

CASES = {
    "plain product": ("ab,bc->ac", dict.fromkeys("abc", 1024)),
    "product of pairs of axes": ("abcd,cdef->abef", dict.fromkeys("abcdef", 32)),
    "axes interleaved": ("acbd,dfce->abef", dict.fromkeys("abcdef", 32)),
    "result permuted": ("abcd,cefd->eafb", dict.fromkeys("abcdef", 32)),
    "stack": ("zab,zbc->zac", {"z": 64, "a": 256, "b": 256, "c": 256}),
    "stack, batch inside": ("azb,bcz->cza", {"z": 64, "a": 256, "b": 256, "c": 256}),
    "many small, batch inside": ("abz,zbc->azc", {"z": 2048, "a": 64, "b": 64, "c": 64}),
    "ten axes of 4": ("abcdefghij,cgklbm->adefhijklm", dict.fromkeys("abcdefghijklm", 4)),
    "gate on 20 axes of 2": (
        "abcdefghijklmnopqrst,ejotuv->abcdfghiklmnpqrsuv",
        dict.fromkeys("abcdefghijklmnopqrstuv", 2),
    ),
    "batch last in all": ("abcx,cdx->abdx", {"a": 64, "b": 64, "c": 64, "d": 64, "x": 32}),
    "elementwise": ("ab,ab->ab", {"a": 2048, "b": 2048}),
    "elementwise and sum": ("abc,abc->b", {"a": 128, "b": 256, "c": 128}),
    "diagonal between": ("ab,b,bc->ac", dict.fromkeys("abc", 1024)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for dtype in ("float64", "float32"):
        for name in CASES:
            if arguments.only in name:
                rows.append(race(name, dtype, arguments.rounds))
                print(
                    record.table(rows[-1:]) if len(rows) == 1 else record.table(rows[-1:]).splitlines()[1], flush=True
                )
    print(record.table(rows))
    settings = {"threads": 1, "rounds": arguments.rounds, "clock": "process CPU, least of the rounds"}
    if not arguments.only:
        print(record.write("pairwise", (__doc__ or "").strip(), rows, settings))


def race(name: str, dtype: str, rounds: int) -> dict[str, Any]:
    """Time every contender once a round; the rates of the floor are measured in the same rounds."""
    equation, sizes = CASES[name]
    terms, output = equation.split("->")
    rng = np.random.default_rng(0)
    arrays = [rng.random([sizes[i] for i in term]).astype(dtype) for term in terms.split(",")]
    contenders = {"tnet": tnet.plan(equation, *arrays)} | peers(equation)
    jobs = {key: bind(function, arrays, key) for key, function in contenders.items()}
    square, long = rng.random((1024, 1024)).astype(dtype), rng.random(1 << 23).astype(dtype)
    target = np.empty_like(long)
    jobs["gemm"], jobs["copy"] = lambda: square @ square, lambda: np.copyto(target, long)
    expected = np.einsum(equation, *arrays, optimize=True)
    seconds: dict[str, list[float]] = {key: [] for key in jobs}
    for key, job in jobs.items():
        result = job()  # compiles, fills caches
        if key not in ("gemm", "copy"):
            assert np.allclose(np.asarray(result), expected, rtol=1e-3 if dtype == "float32" else 1e-9), key
        del result
    for _ in range(rounds):
        for key, job in jobs.items():
            seconds[key].append(timed(job))
    least = {key: min(times) for key, times in seconds.items()}
    macs = float(np.prod([float(n) for n in sizes.values()])) if len(arrays) == 2 else 1024.0**3 + 1024**2
    moved = sum(x.nbytes for x in arrays) + expected.nbytes
    inner = set(terms.replace(",", "")) - set(output)
    gemm = macs / (1024**3 / least["gemm"]) if inner else 0.0
    floor = max(gemm, moved / (2 * long.nbytes / least["copy"]))
    others = {key: t for key, t in least.items() if key not in ("tnet", "gemm", "copy")}
    best = min(others, key=others.__getitem__)
    return {
        "case": name,
        "dtype": dtype,
        "tnet ms": 1e3 * least["tnet"],
        "best peer": best,
        "its ms": 1e3 * others[best],
        "peer / tnet": others[best] / least["tnet"],
        "floor ms": 1e3 * floor,
        "tnet / floor": least["tnet"] / floor,
    }


def timed(job: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call; short ones are repeated up to 20 ms."""
    started = time.process_time()
    result = job()
    once = time.process_time() - started
    del result
    repeats = min(20, int(0.02 / max(once, 1e-6)))
    if repeats < 2:
        return once
    started = time.process_time()
    for _ in range(repeats):
        job()
    return (time.process_time() - started) / repeats


def bind(function: Callable[..., Any], arrays: list[np.ndarray], key: str) -> Callable[[], Any]:
    if key.startswith("torch"):
        import torch

        tensors = [torch.from_numpy(x) for x in arrays]
        return lambda: function(*tensors)
    return lambda: function(*arrays)


def peers(equation: str) -> dict[str, Callable[..., Any]]:
    """Return the peers, each at its best: paths and expressions are made before; views count as results."""
    import cotengra
    import opt_einsum
    import torch

    torch.set_num_threads(1)
    found: dict[str, Callable[..., Any]] = {
        "numpy.einsum(optimize)": lambda *x: np.einsum(equation, *x, optimize=True),
        "opt_einsum": lambda *x: opt_einsum.contract(equation, *x),
        "cotengra": lambda *x: cotengra.einsum(equation, *x),
        "torch.einsum": lambda *x: torch.einsum(equation, *x),
    }
    terms, output = equation.split("->")
    if terms.count(",") == 1:
        left, right = terms.split(",")
        if len(set(left + right)) < 15:
            found["numpy.einsum"] = lambda *x: np.einsum(equation, *x)
        if not set(left) & set(right) & set(output):
            inner = [i for i in left if i in right]
            axes = [left.index(i) for i in inner], [right.index(i) for i in inner]
            natural = [i for i in left + right if i not in inner]
            order = [natural.index(i) for i in output]
            found["numpy.tensordot"] = lambda x, y: np.tensordot(x, y, axes).transpose(order)
            found["torch.tensordot"] = lambda x, y: torch.tensordot(x, y, axes).permute(order)
    if equation in (
        "azb,bcz->cza",
        "zab,zbc->zac",
        "acbd,dfce->abef",
        "abcd,cefd->eafb",
        "ab,bc->ac",
        "abcd,cdef->abef",
    ):
        found.pop("numpy.einsum", None)  # up to seconds a call, and never near the others
    if equation in ("azb,bcz->cza",):
        found.pop("opt_einsum")  # hands it to numpy.einsum: seconds
    return found


if __name__ == "__main__":
    main()
