"""How fast torch multiplies and copies on a device: measured once for a dtype, and kept on disk."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from tnet.contraction.rates import EDGES, LARGE, RUNS, SMALL, Rates, kept_rates

__all__ = ["torch_rates"]

_WORK = {"cpu": 1 << 21, "cuda": 1 << 30}  # multiply-adds of a timed stack of products
_ENTRIES = {"cpu": 1 << 20, "cuda": 1 << 26}  # at most, of one of its operands
_BEYOND = {"cpu": 1 << 24, "cuda": 1 << 27}
"""Elements of an array that no cache holds, and that is new memory each time."""
_ROUNDS = {"cpu": 6, "cuda": 3}
_CALLS = 20  # that are timed together: a GPU is kept busy while more are on their way


@functools.cache
def torch_rates(device: str, dtype: torch.dtype) -> Rates:
    """Return the rates of torch on a device, measured in about a second unless they are on disk.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` or ``"cuda:0"``; other kinds have no rates.
    dtype : torch.dtype

    Notes
    -----
    Products are timed as stacks that fill the device. Of a call what counts is how much later the next one can
    begin: on a GPU calls overlap. While a CUDA graph is captured nothing can be timed: measure before.
    """
    kind = device.split(":", maxsplit=1)[0]
    name = torch.cuda.get_device_name() if kind == "cuda" else f"{torch.get_num_threads()} threads"
    key = [torch.__version__, kind, name, str(dtype)]
    return kept_rates("torch", key, lambda: _measure(device, kind, dtype))


def _measure(device: str, kind: str, dtype: torch.dtype) -> Rates:
    with torch.no_grad():
        return _Bench(torch.device(device), kind, dtype).rates()


class _Bench:
    """Arrays to measure with."""

    def __init__(self, device: torch.device, kind: str, dtype: torch.dtype) -> None:
        self.kind = kind
        n = max(_ENTRIES[kind], _BEYOND[kind], LARGE)
        self.pools = [torch.ones(n, device=device, dtype=dtype) for _ in range(2)]

    def array(self, *shape: int, which: int = 0) -> torch.Tensor:
        return self.pools[which][: math.prod(shape)].reshape(shape)

    def rates(self) -> Rates:
        one, other = self.array(1, 1), self.array(1, 1, which=1)
        step = self.seconds(lambda: torch.mm(one, other), 5)
        view = self.seconds(lambda: one.permute(1, 0).reshape(1, 1), 5) / 2
        first = self.array(1, 1, 1)
        stacked = max(self.seconds(lambda: torch.matmul(one, first), 5) - step, 1e-9)
        many = self.array(512, 1, 1)
        matrix = max(self.seconds(lambda: torch.matmul(one, many)) - step - stacked, 1e-10) / 512
        mac = tuple(
            self.mac_seconds(rows, inner, columns, step + stacked, matrix)
            for rows in EDGES
            for inner in EDGES
            for columns in EDGES
        )
        large = self.array(_BEYOND[self.kind])
        byte = self.seconds(lambda: large.add(1)) / (2 * large.element_size() * large.numel())
        copy = tuple(self.copy_seconds(size, run, step) for size in (SMALL, LARGE) for run in RUNS)
        times = tuple(self.times_seconds(size, run, step) for size in (SMALL, LARGE) for run in RUNS)
        return Rates(step, step, stacked, view, matrix, mac, byte, copy, times)

    def mac_seconds(self, rows: int, inner: int, columns: int, call: float, matrix: float) -> float:
        """Return the seconds of a multiply-add of a matrix with each of a stack of matrices."""
        largest = max(inner * columns, rows * columns)
        n = max(1, min(_WORK[self.kind] // (rows * inner * columns), _ENTRIES[self.kind] // largest))
        left, right = self.array(rows, inner), self.array(n, inner, columns, which=1)
        spent = self.seconds(lambda: torch.matmul(left, right)) - call - n * matrix
        return max(spent, 1e-12) / (n * rows * inner * columns)

    def copy_seconds(self, size: int, run: int, step: float) -> float:
        side = math.isqrt(size // run)
        x = self.array(side, size // run // side, run).transpose(0, 1)
        return max(self.seconds(lambda: x.reshape(-1)) - step, 1e-9) / x.numel()

    def times_seconds(self, size: int, run: int, step: float) -> float:
        x, y = self.array(size // run, run), self.array(size // run, 1, which=1)
        return max(self.seconds(lambda: x * y) - step, 1e-9) / x.numel()

    def seconds(self, job: Callable[[], Any], factor: int = 1) -> float:
        """Return the least seconds of a call among others."""
        job()
        best, calls = math.inf, 1 if self.kind == "cpu" else _CALLS
        for _ in range(factor * _ROUNDS[self.kind]):
            self.wait()
            started = time.perf_counter()
            for _ in range(calls):
                job()
            self.wait()
            best = min(best, (time.perf_counter() - started) / calls)
            if self.kind == "cpu":
                calls = max(1, min(100, int(2e-5 / max(best, 1e-8))))
        return best

    def wait(self) -> None:
        if self.kind == "cuda":
            torch.cuda.synchronize()
