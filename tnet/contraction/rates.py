"""How fast this host multiplies matrices and copies, measured once a process."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["HostRates", "host_rates"]

_SECONDS_A_STEP = 3e-6  # permute, reshape and dispatch of one pairwise step on small arrays


class HostRates(NamedTuple):
    """Multiply-adds and copied bytes a second, and the fixed cost of one step in seconds."""

    macs: float
    bytes: float
    step: float


@functools.cache
def host_rates(dtype: str) -> HostRates:
    """Measure the rates for a dtype: a square matrix product and the copy of 8 MiB, in about 20 ms.

    Notes
    -----
    NumPy on the host, all threads that BLAS takes. Half precision counts as float32, in which it is
    computed. Integers have no BLAS and are orders of magnitude slower.
    """
    kind = np.dtype("float32" if dtype in ("float16", "bfloat16") else dtype)
    n = 256 if kind.kind in "fc" else 64
    a = np.ones((n, n), dtype=kind)
    big = np.ones(1 << 20, dtype=np.float64)
    target = np.empty_like(big)
    gemm = _best_seconds(lambda: a @ a)
    copy = _best_seconds(lambda: np.copyto(target, big))
    return HostRates(n**3 / gemm, big.nbytes / copy, _SECONDS_A_STEP)


def _best_seconds(job: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        job()
        best = min(best, time.perf_counter() - started)
    return max(best, 1e-7)
