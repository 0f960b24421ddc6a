"""A race of calls that take microseconds, in one process: what starting processes would drown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

CLOCK = "process CPU, least of the rounds"


def least_microseconds(jobs: dict[str, Callable[[], Any]], reference: str, rounds: int) -> dict[str, float]:
    """Return the least CPU microseconds of a call over interleaved rounds of about 10 ms; all must agree."""
    best = dict.fromkeys(jobs, math.inf)
    wanted = np.asarray(jobs[reference]())
    for name, job in jobs.items():
        if not np.allclose(job(), wanted, rtol=1e-9, atol=1e-9 * np.max(np.abs(wanted))):
            raise SystemExit(f"{name} disagrees with {reference}")
    for _ in range(rounds):
        for name, job in jobs.items():
            calls = max(1, int(1e-2 / (best[name] * 1e-6))) if best[name] < math.inf else 20
            started = time.process_time()
            for _ in range(calls):
                job()
            best[name] = min(best[name], (time.process_time() - started) / calls * 1e6)
    return best
