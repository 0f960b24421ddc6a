"""Batches and compiled loops: 64 structures cost a tenth of one by one through arrays; on a GPU a 20th of a core."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - the threads are set before
import planted  # noqa: E402
import record  # noqa: E402

from tnet.structure_search.evaluate.als import ALS  # noqa: E402
from tnet.structure_search.losses import SquaredError  # noqa: E402
from tnet.structure_search.proposals import Start  # noqa: E402
from tnet.structure_search.space import SearchSpace, exchanged  # noqa: E402
from tnet.structure_search.structure import Structure  # noqa: E402

BATCH = 64
SWEEPS = 20
SMALL_RING = Structure((3,) * 6, ((0, 3, 3), (0, 5, 2), (1, 2, 2), (1, 4, 2), (2, 3, 4), (4, 5, 3)))
"""The ring of 3^6 entries that comes with the code of TnALE (its graph and ranks)."""
CASES = ("small ring6", "ring6", "train6", "ring8", "grid6", "grid8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--starts", type=int, nargs="+", default=[32, 256], help="of each structure, for the GPU")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only in case]
    if arguments.device == "cpu":
        rows = [on_one_core(case, arguments.rounds) for case in cases]
        name, clock = "batched_evaluation", "process CPU, least of the rounds"
    else:
        rows = [on_a_gpu(case, arguments.rounds, n) for case in cases for n in arguments.starts]
        name, clock = "batched_evaluation_cuda", "CPU: process CPU of one core; GPU: wall; least of the rounds"
    print(record.table(rows))
    settings = {
        "structures": BATCH,
        "sweeps of a start": SWEEPS,
        "starts": 1 if arguments.device == "cpu" else arguments.starts,
        "threads": 1,
        "rounds": arguments.rounds,
        "clock": clock,
    }
    if not arguments.only:
        print(record.write(name, (__doc__ or "").strip(), rows, settings))


def on_one_core(case: str, rounds: int) -> dict[str, Any]:
    """Compare one call with the whole neighbourhood to one call for each structure, by the same solver.

    Through arrays, as on every library and device; and by the compiled loops that NumPy arrays get by default.
    """
    x, starts = neighbourhood(case)
    seconds: dict[tuple[bool, bool], list[float]] = {}
    errors = []
    for compiled in (False, True):
        solver = fixed_sweeps(1, compiled=compiled)
        errors.append([evaluation.rse for evaluation in solver.solve(x, SquaredError(), starts)])
        errors.append([solver.solve(x, SquaredError(), [start])[0].rse for start in starts])
    assert all(np.allclose(found, errors[0], rtol=1e-2) for found in errors), "company or loops changed the errors"
    for _ in range(rounds):
        for compiled in (False, True):
            solver = fixed_sweeps(1, compiled=compiled)
            jobs: dict[bool, Callable[[], Any]] = {
                True: lambda solver=solver: solver.solve(x, SquaredError(), starts),
                False: lambda solver=solver: [solver.solve(x, SquaredError(), [start]) for start in starts],
            }
            for together, job in jobs.items():
                seconds.setdefault((compiled, together), []).append(cpu_seconds(job))
    least = {key: 1e6 * min(times) / (BATCH * SWEEPS) for key, times in seconds.items()}
    return {
        "case": case,
        "graphs": len({graph_of(start.structure) for start in starts}),
        "arrays, one by one us/sweep": least[False, False],
        "arrays, batched": least[False, True],
        "loops, one by one": least[True, False],
        "loops, batched": least[True, True],
        "by batches alone": least[False, False] / least[False, True],
        "by batches and loops": least[False, False] / least[True, True],
    }


def on_a_gpu(case: str, rounds: int, n_starts: int) -> dict[str, Any]:
    """Compare one call on a CUDA device to the same call on one CPU core, through arrays or loops, the faster."""
    import torch

    torch.set_num_threads(1)
    x, starts = neighbourhood(case)
    solver = fixed_sweeps(n_starts, compiled=True)
    on_device = torch.from_numpy(x).cuda()

    def on_gpu() -> list[float]:
        found = [evaluation.rse for evaluation in solver.solve(on_device, SquaredError(), starts)]
        torch.cuda.synchronize()
        return found

    gpu_errors = on_gpu()  # loads libraries
    cpu_errors = [evaluation.rse for evaluation in solver.solve(x, SquaredError(), starts)]
    difference = float(np.median(np.abs(np.asarray(gpu_errors) / np.asarray(cpu_errors) - 1)))
    core = {
        compiled: min(
            cpu_seconds(lambda: fixed_sweeps(n_starts, compiled=compiled).solve(x, SquaredError(), starts))  # noqa: B023
            for _ in range(max(1, rounds // 2))
        )
        for compiled in (False, True)
    }
    gpu = min(wall_seconds(on_gpu) for _ in range(rounds))
    return {
        "case": case,
        "networks": BATCH * n_starts,
        "core, arrays s": core[False],
        "core, loops s": core[True],
        "GPU s": gpu,
        "core / GPU": min(core.values()) / gpu,
        "median difference of errors": difference,
    }


def neighbourhood(case: str) -> tuple[np.ndarray, list[Start]]:
    """Return a planted tensor, and 64 structures: the planted one, moves of its ranks, exchanges of its modes.

    As in the main phase of TnALE: the graph is that of the planted network, up to a permutation.
    """
    if case == "small ring6":
        rng = np.random.default_rng(0)
        template = SMALL_RING
        x = template.to_network([rng.standard_normal(size) for size in template.core_shapes]).to_dense()
    else:
        problem = planted.planted(case, 0)
        template, x = problem.structure, problem.x
    pairs = {(i, j) for i, j, _ in template.bonds}
    space = SearchSpace("ranks", 4, tuple(sorted(pairs)))
    same_graph = [s for s in space.neighbours(template) if {bond[:2] for bond in s.bonds} == pairs]
    n = template.n_modes
    found: dict[Structure, None] = {template: None}
    for structure in [template, *same_graph]:
        if len(found) < BATCH // 2:
            found[structure] = None
    for structure in list(found):
        for i in range(n):
            for j in range(i + 1, n):
                if len(found) < BATCH:
                    found[exchanged(structure, i, j)] = None
    return x, [Start(structure, seed) for seed, structure in enumerate(found)]


def fixed_sweeps(n_starts: int, *, compiled: bool) -> ALS:
    """Return a solver that sweeps so often, whatever comes of it."""
    return ALS(
        n_starts=n_starts,
        n_kept=n_starts,
        race_sweeps=SWEEPS // 2,
        max_sweeps=SWEEPS,
        change=0.0,
        exact=0.0,
        compiled=compiled,
    )


def graph_of(structure: Structure) -> frozenset[tuple[int, int]]:
    return frozenset(bond[:2] for bond in structure.bonds)


def cpu_seconds(job: Callable[[], Any]) -> float:
    started = time.process_time()
    job()
    return time.process_time() - started


def wall_seconds(job: Callable[[], Any]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
