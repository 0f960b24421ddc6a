"""An amplitude of a Sycamore-like circuit, cut in slices, has the same bits on any workers, killed ones or not."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import networks  # noqa: E402
import numpy as np  # noqa: E402
import record  # noqa: E402

import tnet  # noqa: E402
from tnet.contraction import ContractionPlan  # noqa: E402
from tnet.contraction.grouping import group_slices  # noqa: E402


def amplitude(depth: int, memory: str, planning_seconds: float) -> tuple[ContractionPlan, list[np.ndarray]]:
    """Return a plan that needs many slices, and random gates of the size of unitary ones."""
    network = networks.sycamore(depth)
    rng = np.random.default_rng(0)
    lists: list[Any] = []
    for term in network.inputs:
        shape = tuple(network.sizes[i] for i in term)
        gate = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / 2
        lists += [gate.astype(np.complex64), list(term)]
    lists.append(list(network.output))
    plan = tnet.plan(*lists, memory_limit=memory, max_planning_seconds=planning_seconds, rng=0)
    return plan, lists[:-1:2]


def kill_one(killed: list[int]) -> Callable[[int, int], None]:
    """Return a callback that kills a worker process once, when a third of the slices are done."""

    def callback(n_done: int, n_slices: int) -> None:
        if not killed and n_done >= n_slices // 3:
            victim = multiprocessing.active_children()[0].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    return callback


def over_dask(plan: ContractionPlan, arrays: list[np.ndarray], n_workers: int) -> Any:
    """Run on a cluster of processes on this host."""
    import distributed

    with (
        distributed.LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        return plan.run(*arrays, executor=client)


def cpu_seconds() -> float:
    """Return what this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--memory", default="44MiB")
    parser.add_argument("--planning-seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    plan, arrays = amplitude(arguments.depth, arguments.memory, arguments.planning_seconds)
    n_tasks = group_slices(plan).n_tasks
    print(f"{len(arrays)} operands, {plan.macs:.3g} multiply-adds, {plan.n_slices} slices in {n_tasks} tasks")
    killed: list[int] = []
    runs: dict[str, Callable[[], Any]] = {
        "this process": lambda: plan.run(*arrays),
        "1 worker": lambda: plan.run(*arrays, executor=1),
        "2 workers": lambda: plan.run(*arrays, executor=2),
        "4 workers": lambda: plan.run(*arrays, executor=4),
        "2 workers, one killed": lambda: plan.run(*arrays, executor=2, callback=kill_one(killed)),
        "Dask, 2 workers": lambda: over_dask(plan, arrays, 2),
    }
    rows, wanted, alone = [], b"", 0.0
    for who, run in runs.items():
        started, used = time.perf_counter(), cpu_seconds()
        found = run()
        seconds = time.perf_counter() - started
        wanted, alone = wanted or found.tobytes(), alone or seconds
        rows.append(
            {
                "who": who,
                "wall s": seconds,
                "cpu s": cpu_seconds() - used,
                "speedup": alone / seconds,
                "same bits": found.tobytes() == wanted,
            }
        )
        print(record.table(rows[-1:]), flush=True)
    print(record.table(rows))
    record.write(
        "sliced_workers",
        __doc__.strip(),
        rows,
        {
            "depth": arguments.depth,
            "memory_limit": arguments.memory,
            "slices": plan.n_slices,
            "tasks": n_tasks,
            "macs": plan.macs,
            "load average": os.getloadavg()[0],
        },
    )
    holds = all(row["same bits"] for row in rows) and bool(killed)
    print("the claim holds" if holds else "the claim does not hold")
    raise SystemExit(not holds)


if __name__ == "__main__":
    main()
