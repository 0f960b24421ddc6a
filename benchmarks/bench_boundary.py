"""Boundary contraction: the least error at a bond, in less time than any mode of quimb within ten times of it."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import record

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Seconds for a process, its imports and two runs included; slower contenders are shown without a time.
LIMIT = 120


class Task(NamedTuple):
    """A grid of tensors, ``layers`` at a place, its reference bond, and the bonds of the race."""

    side: int
    layers: int
    reference: int
    bonds: tuple[int, ...]
    tensors: Callable[[], tuple[list[np.ndarray], list[tuple[str, ...]]]]


def names(n: int) -> list[tuple[str, ...]]:
    """Return the indices of each place of an n x n grid, row by row."""
    found = []
    for i in range(n):
        for j in range(n):
            sides = ((i, f"v{i - 1}.{j}"), (i + 1 < n, f"v{i}.{j}"), (j, f"h{i}.{j - 1}"), (j + 1 < n, f"h{i}.{j}"))
            found.append(tuple(name for present, name in sides if present))
    return found


def ising(n: int, beta: float) -> tuple[list[np.ndarray], list[tuple[str, ...]]]:
    """Return symmetric tensors, each with the root of the Boltzmann matrix on every bond: the best gauge for all."""
    energies, vectors = np.linalg.eigh([[math.exp(beta), math.exp(-beta)], [math.exp(-beta), math.exp(beta)]])
    root = vectors * np.sqrt(energies)
    # Divided by about the free energy of a spin, so that the value needs no exponent.
    scale = math.exp(-0.92)
    indices = names(n)
    tensors = [
        scale * sum(functools.reduce(np.multiply.outer, [r] * len(labels)) for r in root) for labels in indices
    ]
    return tensors, indices


def peps_norm(n: int, D: int, positive: float) -> tuple[list[np.ndarray], list[tuple[str, ...]]]:
    """Return the norm of a PEPS of normal numbers of mean ``positive``: ket, then bra."""
    rng = np.random.default_rng(0)
    indices = names(n)
    ket = [rng.normal(size=(*(D,) * len(labels), 2)) + positive for labels in indices]
    ket = [t / np.linalg.norm(t) for t in ket]
    upper = [(*labels, f"p{k}") for k, labels in enumerate(indices)]
    lower = [(*(f"{name}'" for name in labels), f"p{k}") for k, labels in enumerate(indices)]
    return [*ket, *ket], [*upper, *lower]


TASKS = {
    "Ising 32 x 32, critical": Task(32, 1, 48, (8, 16), lambda: ising(32, math.log(1 + math.sqrt(2)) / 2)),
    "PEPS norm 8 x 8, D = 4": Task(8, 2, 96, (32,), lambda: peps_norm(8, 4, 0.6)),
}


def tnet(task: Task, bond: int) -> Callable[[], float]:
    from tnet.contraction import contract_boundary
    from tnet.formats import TensorNetwork

    tensors, indices = task.tensors()
    network = TensorNetwork(tuple(tensors), tuple(indices), output=())
    count = task.side**2
    rows = np.arange(count).reshape(task.side, task.side)
    places = [[(int(k), int(k) + count)[: task.layers] for k in row] for row in rows]
    return lambda: contract_boundary(network, sites=places, max_bond=bond, rng=0).log_abs


def quimb(task: Task, bond: int, **options: Any) -> Callable[[], float]:
    import quimb.tensor as qtn

    tensors, indices = task.tensors()
    made = []
    for k, (tensor, labels) in enumerate(zip(tensors, indices, strict=True)):
        layer, place = divmod(k, task.side**2)
        i, j = divmod(place, task.side)
        made.append(qtn.Tensor(tensor, labels, tags=[f"I{i},{j}", f"X{i}", f"Y{j}", ("KET", "BRA")[layer]]))
    network = qtn.TensorNetwork(made).view_as(
        qtn.TensorNetwork2D, site_tag_id="I{},{}", x_tag_id="X{}", y_tag_id="Y{}", Lx=task.side, Ly=task.side
    )

    def run() -> float:
        return math.log(abs(float(network.contract_boundary(max_bond=bond, cutoff=0.0, **options))))

    return run


CONTENDERS: dict[str, Callable[[Task, int], Callable[[], float]]] = {
    "tnet": tnet,
    "quimb: mps": lambda task, bond: quimb(task, bond, mode="mps"),
    "quimb: full-bond": lambda task, bond: quimb(task, bond, mode="full-bond"),
    "quimb: src": lambda task, bond: quimb(task, bond, mode="src"),
    "quimb: zipup": lambda task, bond: quimb(task, bond, mode="zipup"),
    "quimb: mps, layers": lambda task, bond: quimb(task, bond, mode="mps", layer_tags=("KET", "BRA")),
    "quimb: src, layers": lambda task, bond: quimb(task, bond, mode="src", layer_tags=("KET", "BRA")),
}


def timed(name: str, task: Task, bond: int) -> dict[str, float]:
    """Run once to warm up, then once for the time."""
    run = CONTENDERS[name](task, bond)
    run()
    start = time.process_time()
    value = run()
    return {"cpu s": time.process_time() - start, "log": value}


def process(name: str, task: str, bond: int) -> dict[str, float] | None:
    """Run one contender in a process of its own; None where it took too long."""
    command = [sys.executable, "-W", "ignore", sys.argv[0], "--run", name, task, str(bond)]
    environment = os.environ | dict.fromkeys(_THREADS, "1")
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout.splitlines()[-1])


def race() -> list[dict[str, Any]]:
    rows = []
    for name, task in TASKS.items():
        reference = process("tnet", name, task.reference)
        assert reference is not None
        contenders = [key for key in CONTENDERS if task.layers > 1 or "layers" not in key]
        for bond in task.bonds:
            for key in contenders:
                found = process(key, name, bond)
                error = None if found is None else abs(math.expm1(found["log"] - reference["log"]))
                seconds = None if found is None else found["cpu s"]
                rows.append({"task": name, "max_bond": bond, "contender": key, "cpu s": seconds, "error": error})
                print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs=3, help="be one contender; for the race itself")
    arguments = parser.parse_args()
    if arguments.run:
        key, task, bond = arguments.run
        print(json.dumps(timed(key, TASKS[task], int(bond))))
    else:
        table = race()
        print(record.table(table))
        settings = {"threads": 1, "clock": "process CPU", "limit s": LIMIT, "reference": "tnet at the reference bond"}
        bonds = {name: task.reference for name, task in TASKS.items()}
        print(record.write("boundary", __doc__.splitlines()[0], table, settings | {"reference bonds": bonds}))
