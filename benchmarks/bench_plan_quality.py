"""Planning for 2, 10, 60 CPU seconds: never above 1.05x the macs of cotengra's best, half of them on a quarter."""

# A cell is one network, planner, budget and seed, in a process of its own with one thread. The account is written
# after every cell; the same line run again measures what is missing. `--shard 0/2` takes every other cell and writes
# a file of its own, `--merge` joins such files. Budgets are CPU seconds: the clocks of all planners are replaced.

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import networks
import numpy as np
import record

BUDGETS = (2.0, 10.0, 60.0)
SEEDS = (0, 1, 2)
_WARM_UP = 1.5  # seconds
_NEVER_ABOVE, _FEWER, _SHARE_FEWER = 1.05, 2.0, 0.25
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "COTENGRA_NUM_WORKERS")

Pairs = Sequence[tuple[int, ...]]


class CpuClock:
    """Stands in for the module ``time`` in planners, so that their budgets are CPU seconds."""

    sleep = staticmethod(time.sleep)
    perf_counter = staticmethod(time.process_time)
    time = staticmethod(time.process_time)


def _tnet(network: networks.Network, budget: float, seed: int) -> Callable[[], Pairs]:
    import tnet

    def plan(net: networks.Network, seconds: float, rng: int) -> Pairs:
        operands: list[Any] = []
        for labels in net.inputs:
            operands += [tuple(net.sizes[i] for i in labels), list(labels)]
        return tnet.plan(*operands, list(net.output), max_planning_seconds=seconds, rng=rng).path

    # Loads what is compiled, as imports are loaded for the others. A plan that kept its budget has compiled nothing.
    kept = False
    while not kept:
        started = time.perf_counter()
        plan(networks.random_regular(40, 3), _WARM_UP, 0)
        kept = time.perf_counter() - started < _WARM_UP + 1.0
    time.perf_counter = time.process_time
    return lambda: plan(network, budget, seed)


def _cotengra(**options: Any) -> Callable[[networks.Network, float, int], Callable[[], Pairs]]:
    def make(network: networks.Network, budget: float, seed: int) -> Callable[[], Pairs]:
        import cotengra

        importlib.import_module("cotengra.hyperoptimizers.hyper").time = CpuClock  # type: ignore[attr-defined]
        letters = [chr(0x100 + i) for i in range(len(network.sizes))]
        inputs = [tuple(letters[i] for i in labels) for labels in network.inputs]
        output = tuple(letters[i] for i in network.output)
        sizes = dict(zip(letters, network.sizes, strict=True))
        optimizer = cotengra.HyperOptimizer(
            max_repeats=10**6, max_time=budget, parallel=False, progbar=False, minimize="flops", **options
        )
        return lambda: optimizer.search(inputs, output, sizes).get_path()

    return make


def _opt_einsum(network: networks.Network, budget: float, seed: int) -> Callable[[], Pairs]:
    import opt_einsum

    importlib.import_module("opt_einsum.path_random").time = CpuClock  # type: ignore[attr-defined]
    inputs = [frozenset(labels) for labels in network.inputs]
    search = opt_einsum.RandomGreedy(max_repeats=10**6, max_time=budget, parallel=False)
    return lambda: search(inputs, frozenset(network.output), dict(enumerate(network.sizes)))  # type: ignore[arg-type]


PLANNERS: dict[str, Callable[[networks.Network, float, int], Callable[[], Pairs]]] = {
    "tnet": _tnet,
    "cotengra: random-greedy + reconfiguration": _cotengra(methods=["random-greedy"], reconf_opts={}),
    "cotengra: labels + reconfiguration": _cotengra(methods=["labels"], reconf_opts={}),
    "cotengra: random-greedy + annealing + reconfiguration": _cotengra(
        methods=["random-greedy"], simulated_annealing_opts={}, reconf_opts={"subtree_size": 6}
    ),
    "cotengra: random-greedy": _cotengra(methods=["random-greedy"]),
    "opt_einsum: random-greedy": _opt_einsum,
    "kahypar: with cotengra + reconfiguration": _cotengra(methods=["kahypar"], reconf_opts={}),
}
"""A name's first word is the package that must be installed. cotengrust, if installed, serves all of cotengra's."""


def measure(name: str, planner: str, budget: float, seed: int) -> dict[str, Any]:
    """Run one cell in this process."""
    from tnet.contraction.pairs import pairs_of_linear_path, pairwise_macs, result_indices
    from tnet.contraction.spec import ContractionSpec

    network = networks.ALL[name]()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    search = PLANNERS[planner](network, budget, seed)
    started = time.process_time()
    path = search()
    spent = time.process_time() - started
    inputs = tuple(tuple(labels) for labels in network.inputs)
    spec = ContractionSpec(inputs, tuple(network.output), tuple(network.sizes), tuple(map(str, network.sizes)))
    pairs = pairs_of_linear_path([tuple(map(int, step)) for step in path], len(inputs))
    largest = max(math.prod(spec.sizes[i] for i in indices) for indices in result_indices(spec, pairs))
    return {
        "log10 macs": math.log10(pairwise_macs(spec, pairs)),
        "log2 largest": math.log2(largest),
        "cpu s": spent,
    }


def verdict(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare tnet with the best of cotengra, seed by seed, for each network and budget."""
    found = {(row["network"], row["budget"], row["seed"], row["planner"]): row["log10 macs"] for row in rows}
    lines = []
    for name, budget in sorted({(row["network"], row["budget"]) for row in rows}):
        ratios = []
        for seed in sorted({row["seed"] for row in rows}):
            ours = found.get((name, budget, seed, "tnet"))
            theirs = [
                value
                for (n, b, s, planner), value in found.items()
                if (n, b, s) == (name, budget, seed) and planner.startswith("cotengra") and value is not None
            ]
            if ours is not None and theirs:
                ratios.append(10.0 ** (min(theirs) - ours))
        if ratios:
            median = statistics.median(ratios)
            lines.append(
                {
                    "network": name,
                    "budget": budget,
                    "cotengra / tnet": median,
                    "at the worst seed": min(ratios),
                    "agree": abs(median - 1.0) < 0.01,
                }
            )
    return lines


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return whether the claim holds for what has been measured."""
    account: dict[str, Any] = {}
    for budget in sorted({line["budget"] for line in lines}):
        ratios = [line["cotengra / tnet"] for line in lines if line["budget"] == budget]
        account[f"{budget:g} s"] = {
            "networks": len(ratios),
            "above 1.05x": sum(ratio * _NEVER_ABOVE < 1.0 for ratio in ratios),
            "half or fewer": sum(ratio >= _FEWER for ratio in ratios),
            "holds": min(ratios) * _NEVER_ABOVE >= 1.0
            and sum(ratio >= _FEWER for ratio in ratios) >= _SHARE_FEWER * len(ratios),
        }
    return account


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Keep what has been measured."""
    lines = verdict(rows)
    settings = {
        "threads": 1,
        "clock": "process CPU",
        "cotengrust": importlib.util.find_spec("cotengrust") is not None,
        "comparison": lines,
        "claim holds": summary(lines),
    }
    record.write(name, __doc__ or "", rows, settings)


def _in_a_process(name: str, planner: str, budget: float, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", sys.argv[0], "--cell", name, planner, str(budget), str(seed)]
    environment = os.environ | dict.fromkeys(_THREADS, "1")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        error = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"log10 macs": None, "log2 largest": None, "cpu s": None, "error": error[:200]}
    return json.loads(done.stdout.splitlines()[-1])


def _row(name: str, planner: str, budget: float, seed: int) -> dict[str, Any]:
    cell = {"network": name, "planner": planner, "budget": budget, "seed": seed}
    return cell | _in_a_process(name, planner, budget, seed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", nargs=4, metavar=("NETWORK", "PLANNER", "BUDGET", "SEED"), help="one cell, here")
    parser.add_argument(
        "--networks", nargs="+", default=list(networks.ALL), choices=list(networks.ALL), metavar="NAME"
    )
    parser.add_argument("--planners", nargs="+", default=list(PLANNERS), help="beginnings of names")
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--shard", default="0/1", help="K/N: every N-th cell from the K-th, in a file of its own")
    parser.add_argument("--jobs", type=int, default=1, help="cells at once; fewer than the cores of the machine")
    parser.add_argument("--name", default="plan_quality", help="of the result file")
    parser.add_argument("--merge", nargs="+", type=Path, help="result files to join")
    return parser.parse_args()


def _known(paths: Sequence[Path]) -> list[dict[str, Any]]:
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in paths:
        if path.exists():
            for row in json.loads(path.read_text())["rows"]:
                rows[row["network"], row["planner"], row["budget"], row["seed"]] = row
    return list(rows.values())


def main() -> None:
    arguments = _arguments()
    if arguments.cell:
        name, planner, budget, seed = arguments.cell
        print(json.dumps(measure(name, planner, float(budget), int(seed))))
        return
    k, n_shards = map(int, arguments.shard.split("/"))
    name = arguments.name if n_shards == 1 else f"{arguments.name}_{k}"
    own = record.RESULTS / f"{name}.json"
    rows = _known([own, *(arguments.merge or [])])
    done = {(row["network"], row["planner"], row["budget"], row["seed"]) for row in rows}
    chosen = [
        planner
        for planner in PLANNERS
        if planner.startswith(tuple(arguments.planners))
        and (planner == "tnet" or importlib.util.find_spec(planner.split(":")[0]) is not None)
    ]
    cells = list(product(arguments.networks, chosen, arguments.budgets, arguments.seeds))[k::n_shards]
    missing = [cell for cell in cells if cell not in done] if not arguments.merge else []
    missing.sort(key=lambda cell: -cell[2])  # the long ones first: all workers end at about the same time
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done_cell in as_completed([pool.submit(_row, *cell) for cell in missing]):
            rows.append(done_cell.result())
            write(name, rows)
            print(json.dumps(rows[-1]), flush=True)
    write(name, rows)
    lines = verdict(rows)
    if lines:
        print(record.table(lines))
        print(summary(lines))


if __name__ == "__main__":
    main()
