"""How fast this host multiplies and copies: measured once, and kept on disk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tnet.errors import TnetError
from tnet.io import atomic_write

__all__ = ["COUNTING", "EDGES", "LARGE", "RUNS", "SMALL", "Rates", "host_rates", "kept_rates"]

_FORMAT_VERSION = 2
EDGES = (1, 4, 16, 64, 256)
"""Rows, columns and inner sizes of the matrix products that are timed."""
RUNS = (1, 4, 16, 64)
"""Neighbours that stay together in a copy or a broadcast."""
SMALL, LARGE = 1 << 13, 1 << 20
"""Elements within and beyond the caches."""
_ROUNDS = 40  # of what takes a microsecond: a slow moment of the host must not count
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Rates(NamedTuple):
    """Seconds of the operations that programs are made of, for one dtype.

    Parameters
    ----------
    call : float
        A call without steps.
    step : float
        A step on matrices of a few entries, the look at its operands included.
    stacked : float
        What a product of stacks takes more.
    view : float
        A reshape or a permutation without a copy.
    matrix : float
        Each matrix of a stack, beside its multiply-adds.
    mac : tuple of float
        A multiply-add, for all (rows, inner, columns) of a grid of sizes 1, 4, 16, 64, 256.
    byte : float
        Each byte of operands and result beyond the caches, in a matrix product.
    copy : tuple of float
        An element in a permuting copy: small arrays first, then large ones, for runs of 1, 4, 16, 64 neighbours.
    times : tuple of float
        The same of an elementwise product.
    """

    call: float
    step: float
    stacked: float
    view: float
    matrix: float
    mac: tuple[float, ...]
    byte: float
    copy: tuple[float, ...]
    times: tuple[float, ...]

    @property
    def macs(self) -> float:
        """Multiply-adds a second of the largest square product timed."""
        return 1.0 / self.mac[-1]

    def copy_seconds(self, run: int, size: int) -> float:
        """Return the seconds of a permuting copy of ``size`` elements, ``run`` neighbours at a time."""
        return size * _at(self.copy, run, size)

    def times_seconds(self, run: int, size: int) -> float:
        """Return the seconds of ``size`` elementwise products whose innermost axis has ``run`` entries."""
        return size * _at(self.times, run, size)

    def mac_seconds(self, rows: int, inner: int, columns: int) -> float:
        """Return the seconds of the multiply-adds of a matrix product, beside the cost of the call."""
        return rows * inner * columns * _mac_seconds(self, rows, inner, columns)


COUNTING = Rates(1e-18, 1e-18, 1e-18, 1e-18, 1e-18, (1.0,) * len(EDGES) ** 3, 1e-18, (1e-18,) * 8, (1e-18,) * 8)
"""Rates by which multiply-adds are counted, and nothing else."""


@functools.cache
def host_rates(dtype: str) -> Rates:
    """Return the rates of NumPy on this host, measured in about 0.3 s unless they are on disk.

    Notes
    -----
    Kept in the user's cache folder, one small file for each dtype, processor, number of threads, and versions of
    Python and NumPy. Where nothing can be written they live as long as the process. Half precision counts as float32,
    in which it is computed.
    """
    kind = "float32" if dtype in ("float16", "bfloat16") else dtype
    return kept_rates(kind, [np.__version__, kind], lambda: _measure(kind))


def kept_rates(name: str, key: Sequence[str | int], measure: Callable[[], Rates]) -> Rates:
    """Return the rates on disk, or measure them and keep them there.

    Parameters
    ----------
    name : str
        Of the file, beside a digest.
    key : sequence of str or int
        What the rates depend on beside this host, its threads and Python.
    measure : callable
    """
    path = _cache_file(name, key)
    rates = _read(path)
    if rates is None:
        rates = measure()
        _write(path, rates)
    return rates


def _at(table: Sequence[float], run: int, size: int) -> float:
    """Return the seconds of an element, between the runs and the sizes that were timed, on logarithmic scales."""
    place = min(max(math.log(max(run, 1), 4), 0.0), len(RUNS) - 1.0)
    low = min(int(place), len(RUNS) - 2)
    share = place - low
    small, large = (
        math.log(table[k + low]) * (1 - share) + math.log(table[k + low + 1]) * share for k in (0, len(RUNS))
    )
    beyond = min(max(math.log(max(size, 1) / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
    return math.exp(small * (1 - beyond) + large * beyond)


def _mac_seconds(rates: Rates, *sizes: int) -> float:
    """Return the seconds of a multiply-add, interpolated in the logarithms of the three sizes."""
    n = len(EDGES)
    corners = [(0, 0.0)]
    for size in sizes:
        place = min(max(math.log(max(size, 1), 4), 0.0), n - 1.0)
        low = min(int(place), n - 2)
        share = place - low
        corners = [
            (index * n + low + step, weight + math.log(max(part, 1e-300)))
            for index, weight in corners
            for step, part in ((0, 1 - share), (1, share))
        ]
    return math.exp(sum(math.exp(weight) * math.log(rates.mac[index]) for index, weight in corners))


def _measure(dtype: str) -> Rates:
    pool = np.ones(LARGE, dtype), np.ones(LARGE, dtype)

    def array(*shape: int, which: int = 0) -> np.ndarray:
        return pool[which][: math.prod(shape)].reshape(shape)

    one = array(1, 1)
    dot = _seconds(lambda: np.dot(one, one), _ROUNDS)
    view = _seconds(lambda: one.reshape((1,)), _ROUNDS)
    largest = 256 if np.dtype(dtype).kind in "fc" else 16  # integers have no BLAS
    mac: list[float] = []
    for rows in EDGES:
        for inner in EDGES:
            for columns in EDGES:
                m, k, n = (min(size, largest) for size in (rows, inner, columns))
                a, b = array(m, k), array(k, n, which=1)
                mac.append(max(_seconds(functools.partial(np.dot, a, b)) - dot, 1e-13) / (m * k * n))
    stack = array(512, 1, 1)
    matrix = max(_seconds(lambda: np.matmul(stack, stack)) - dot, 1e-10) / 512
    tall, narrow = array(LARGE // 16, 16), array(16, 16, which=1)
    skinny = _seconds(lambda: np.dot(tall, narrow)) - 16 * LARGE * mac[_place(256, 16, 16)]
    byte = max(skinny, 1e-9) / (2 * tall.nbytes)
    copy = [_copy_seconds(array, size, run, view) for size in (SMALL, LARGE) for run in RUNS]
    times = [_times_seconds(array, size, run, dot) for size in (SMALL, LARGE) for run in RUNS]
    short, long = (_seconds(_chain(n, dtype), 5 * _ROUNDS) for n in (4, 16))
    step = max((long - short) / 12, dot)
    first = stack[:1]
    stacked = max(_seconds(lambda: np.matmul(first, first), _ROUNDS) - dot, 1e-9)
    call = max(short - 3 * step, 1e-9)
    return Rates(call, step, stacked, view, matrix, tuple(mac), byte, tuple(copy), tuple(times))


def _chain(n: int, dtype: str) -> Callable[[], Any]:
    """Return the contraction of n tiny matrices, as a plan does it."""
    # Plans ask for rates, so that this module comes first.
    from tnet.contraction.dtypes import dtype_plan
    from tnet.contraction.plan import ContractionPlan
    from tnet.contraction.spec import ContractionSpec

    labels = tuple(f"bond{k}" for k in range(n + 1))
    spec = ContractionSpec(tuple((k, k + 1) for k in range(n)), (0, n), (2,) * (n + 1), labels)
    pairs = ((0, 1), *((k, n + k - 2) for k in range(2, n)))
    plan = ContractionPlan(spec, pairs, (), dtype_plan([dtype] * n))
    arrays = [np.ones((2, 2), dtype) for _ in range(n)]
    return lambda: plan(*arrays)


def _place(*sizes: int) -> int:
    index = 0
    for size in sizes:
        index = index * len(EDGES) + EDGES.index(size)
    return index


def _copy_seconds(array: Callable[..., np.ndarray], size: int, run: int, view: float) -> float:
    side = math.isqrt(size // run)
    x = array(side, size // run // side, run).transpose(1, 0, 2)
    return max(_seconds(lambda: x.reshape(-1)) - view, 1e-9) / x.size


def _times_seconds(array: Callable[..., np.ndarray], size: int, run: int, step: float) -> float:
    x, y = array(size // run, run), array(size // run, 1, which=1)
    return max(_seconds(lambda: x * y) - step, 1e-9) / x.size


def _seconds(job: Callable[[], Any], rounds: int = 6) -> float:
    """Return the least seconds of a call, over rounds of about 20 us or one call."""
    # One thread: its own seconds are those of an idle host, whatever else computes now.
    clock = time.process_time if _n_threads() == 1 else time.perf_counter
    job()
    best, calls = math.inf, 1
    for _ in range(rounds):
        started = clock()
        for _ in range(calls):
            job()
        spent = clock() - started
        best = min(best, spent / calls)
        calls = max(1, min(100, int(2e-5 / max(best, 1e-8))))
    return best


def _n_threads() -> int:
    """Return how many threads the matrix products of NumPy may take."""
    try:
        n = len(os.sched_getaffinity(0))
    except AttributeError:
        n = os.cpu_count() or 1
    asked = [int(value) for name in _THREADS if (value := os.environ.get(name, "")).isdigit()]
    return max(1, min([n, *asked]))


def _cache_file(name: str, key: Sequence[str | int]) -> Path:
    """Return where the rates are kept; another processor, thread count or library has a file of its own."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    host = [platform.node(), platform.machine(), platform.processor(), os.cpu_count(), _n_threads()]
    versions = [platform.python_version(), _FORMAT_VERSION]
    digest = hashlib.sha256(json.dumps([*host, *versions, *key]).encode()).hexdigest()[:16]
    return Path(root) / "tnet" / f"rates-{name}-{digest}.json"


def _read(path: Path) -> Rates | None:
    """Return the rates on disk; None where there are none, or they are damaged."""
    try:
        content = json.loads(path.read_bytes()[: 1 << 16])
        values = [tuple(map(float, value)) if isinstance(value, list) else float(value) for value in content]
        rates = Rates(*values)  # pyright: ignore[reportArgumentType]
        lengths = [len(field) for field in (rates.mac, rates.copy, rates.times)]
        numbers = [
            rates.call,
            rates.step,
            rates.stacked,
            rates.view,
            rates.matrix,
            rates.byte,
            *rates.mac,
            *rates.copy,
            *rates.times,
        ]
        sound = all(math.isfinite(x) and 0 < x < 1 for x in numbers)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return rates if sound and lengths == [len(EDGES) ** 3, 2 * len(RUNS), 2 * len(RUNS)] else None


def _write(path: Path, rates: Rates) -> None:
    with contextlib.suppress(OSError, TnetError):  # a folder that cannot be written: measured again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda file: file.write(json.dumps(rates).encode()))
