"""A race between tnet and its peers: each in a process of its own, one thread, interleaved rounds, medians.

A benchmark file names its contenders and calls :func:`main`; run as ``bench_x.py --contender NAME`` it is one of
them. CPU seconds decide: with one thread they are wall seconds of an idle core, and other work disturbs them least.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import record

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Job(NamedTuple):
    """What a contender does once its data is there.

    ``run()`` is timed; ``measure(result)`` says how good the result is, as columns of the table. ``input_bytes``
    is what the extra memory is compared with.
    """

    run: Callable[[], Any]
    measure: Callable[[Any], dict[str, float]]
    input_bytes: int


Contenders = Mapping[str, Callable[[], Job]]


def main(name: str, claim: str, contenders: Contenders, *, bar: float | None = None, rounds: int = 3) -> None:
    """Race the contenders, print the table, write ``results/<name>.json``.

    Parameters
    ----------
    name : str
        Of the result file.
    claim : str
        First line of the benchmark.
    contenders : mapping
        ``"tnet"`` and peers: functions that make the data (seeded, the same for all) and return a :class:`Job`. A
        name ``"peer: variant"`` belongs to the package ``peer``; ``"floor"`` is the least work, and no peer.
    bar : float or None
        Least ratio of the best peer's time to that of tnet that the claim asks for.
    rounds : int
        Processes a contender; each warms up once and is timed twice.
    """
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--contender", help="be one contender; for the race itself")
    parser.add_argument("--rounds", type=int, default=rounds)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(_run(contenders[arguments.contender])))
        return
    present = [key for key in contenders if _installed(key)]
    for key in sorted(set(contenders) - set(present)):
        print(f"{key}: not installed, left out")
    laps: dict[str, list[dict[str, Any]]] = {key: [] for key in present}
    for _ in range(arguments.rounds):
        for key in present:
            laps[key].append(_process(key))
    rows = [_row(key, laps[key]) for key in present]
    variants = [row for row in rows if row["contender"].startswith("tnet")]
    # The plain "tnet" does what the peers do; variants that do other work are shown, not compared.
    ours = [row for row in variants if row["contender"] == "tnet"] or variants
    best = min(row["cpu s"] for row in ours)
    for row in rows:
        row["time / tnet"] = row["cpu s"] / best
    peers = [row["time / tnet"] for row in rows if row not in variants and row["contender"] != "floor"]
    print(record.table(rows))
    verdict = {"best peer / tnet": min(peers) if peers else None, "bar": bar}
    print(verdict)
    settings = {"threads": 1, "rounds": arguments.rounds, "timed runs a round": 2, "clock": "process CPU"}
    print(record.write(name, claim, rows, settings | verdict))


def _installed(key: str) -> bool:
    package = key.split(":")[0]
    return package in ("tnet", "floor") or importlib.util.find_spec(package) is not None


def _process(key: str) -> dict[str, Any]:
    """Run one contender in a new process; its last line of output is the account."""
    environment = os.environ | dict.fromkeys(_THREADS, "1")
    command = [sys.executable, "-W", "ignore", sys.argv[0], "--contender", key]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{key} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _run(contender: Callable[[], Job]) -> dict[str, Any]:
    job = contender()
    result = job.run()  # compiles, fills caches
    measures = job.measure(result)
    del result
    cpu, wall = [], []
    held = _reset_peak()
    for _ in range(2):
        t, c = time.perf_counter(), time.process_time()
        result = job.run()
        cpu.append(time.process_time() - c)
        wall.append(time.perf_counter() - t)
        del result
    extra = _status("VmHWM") - held
    return {"cpu": cpu, "wall": wall, "extra": extra, "input": job.input_bytes, "measures": measures}


def _reset_peak() -> int:
    """Let the peak of the resident memory start from now, and return what is resident (bytes; 0 off Linux)."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the first run left in the heap counts as new again
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _status("VmRSS")


def _status(field: str) -> int:
    path = Path("/proc/self/status")
    if not path.exists():
        return 0
    line = next(line for line in path.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _row(key: str, laps: list[dict[str, Any]]) -> dict[str, Any]:
    extra = max(lap["extra"] for lap in laps)
    return {
        "contender": key,
        "cpu s": statistics.median(t for lap in laps for t in lap["cpu"]),
        "fastest": min(t for lap in laps for t in lap["cpu"]),
        "wall s": statistics.median(t for lap in laps for t in lap["wall"]),
        "extra MB": extra / 1e6,
        "extra / input": extra / laps[0]["input"],
        **laps[0]["measures"],
    }
