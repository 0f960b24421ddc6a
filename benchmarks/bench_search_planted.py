"""Planted networks of order 4 to 8 are found with no more parameters than they have, in seconds of one core."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - the threads are set before
import record  # noqa: E402
from planted import CASES, EXACT, NOISE, planted  # noqa: E402

from tnet.structure_search.result import SearchResult  # noqa: E402
from tnet.structure_search.search import search  # noqa: E402
from tnet.structure_search.space import SearchSpace  # noqa: E402

MAX_RANK = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    warm_up()
    rows: list[dict[str, Any]] = []
    for case in CASES:
        for noisy in (False, True):
            if arguments.only in case:
                rows.append(row(case, noisy, arguments.seeds))
                table = record.table(rows[-1:]).splitlines()
                print("\n".join(table if len(rows) == 1 else table[1:]), flush=True)
    print(record.table(rows))
    for name, orders in (("order 4 to 6", "456"), ("order 8", "8")):
        chosen = [r for r in rows if r["case"].split()[0][-1] in orders]
        if chosen:
            median = statistics.median(s for r in chosen for s in r["all CPU s"])
            print(f"{name}: least efficiency {min(r['efficiency'] for r in chosen):.3f}, median {median:.2f} CPU s")
    settings = {
        "seeds": arguments.seeds,
        "threads": 1,
        "clock": "process CPU of the whole search, spectra included",
        "space": f"any bonds of rank <= {MAX_RANK} between all cores; as many internal cores as planted",
        "tolerance": f"relative error {EXACT} without noise, 1.02 x {NOISE} with",
        "efficiency": "planted / found parameters, least over the seeds; 0 where the tolerance was missed",
    }
    if not arguments.only:
        print(record.write("search_planted", (__doc__ or "").strip(), rows, settings))


def warm_up() -> None:
    """Compile and import what the first search would otherwise pay for."""
    search(planted("ring4", 99).x, rtol=EXACT, rng=0)


def row(case: str, noisy: bool, n_seeds: int) -> dict[str, Any]:
    """Search the tensors of one case."""
    efficiencies, seconds, evaluations, proven = [], [], [], 0
    for seed in range(n_seeds):
        target = planted(case, seed, noisy=noisy)
        space = SearchSpace(max_rank=MAX_RANK, n_internal=target.structure.n_internal)
        started = time.process_time()
        result = search(target.x, rtol=target.rtol, space=space, rng=0)
        seconds.append(time.process_time() - started)
        efficiencies.append(efficiency(target.structure.n_params, result, target.x, target.rtol))
        evaluations.append(result.evaluations)
        proven += result.gap is not None and result.gap < 1e-9
    return {
        "case": f"{case} noisy" if noisy else case,
        "efficiency": min(efficiencies),
        "median CPU s": statistics.median(seconds),
        "most CPU s": max(seconds),
        "median evaluations": statistics.median(evaluations),
        "proven": f"{proven}/{n_seeds}",
        "all CPU s": [round(s, 3) for s in seconds],
    }


def efficiency(n_params: int, result: SearchResult, x: np.ndarray, rtol: float) -> float:
    """Return planted / found parameters, with the error measured anew from the dense network."""
    error = np.linalg.norm(result.best.network.to_dense() - x) / np.linalg.norm(x)
    return n_params / result.best.n_params if error <= rtol * (1 + 1e-9) else 0.0


if __name__ == "__main__":
    main()
