"""A convolution in factors takes about as long as the fastest of its ways, and beats the dense one if small."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import record  # noqa: E402 - the threads are set before
import torch  # noqa: E402

from tnet.nn import CPConv2d, FactorisedConv2d, TuckerConv2d  # noqa: E402

SHAPES = {  # images, inputs, outputs, kernel, height and width
    "one small image": (1, 64, 64, 3, 16),
    "small images": (32, 64, 64, 3, 16),
    "many channels": (8, 256, 256, 3, 8),
    "first layer": (8, 3, 64, 7, 32),
    "one image": (1, 128, 128, 3, 28),
    "few channels": (8, 16, 32, 3, 16),
    "last layers": (16, 128, 128, 3, 4),
    "large kernel": (4, 64, 64, 7, 16),
}
SHARES = (0.5, 0.2, 0.05)  # parameters of the dense kernel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, shape in SHAPES.items():
        for share in SHARES:
            for layer in layers(shape, share, arguments.device):
                for backward in (False, True):
                    rows.append(race(name, shape, share, layer, backward, arguments.rounds))
                    lines = record.table(rows[-1:]).splitlines()
                    print("\n".join(lines if len(rows) == 1 else lines[1:]), flush=True)
    print(record.table(rows))
    ratios = [row["layer / best way"] for row in rows]
    summary: dict[str, Any] = {
        "median layer / best way": statistics.median(ratios),
        "largest layer / best way": max(ratios),
        "rows within 1.1": sum(ratio <= 1.1 for ratio in ratios),
        "rows": len(ratios),
    }
    for share in SHARES:
        gains = [row["dense / layer"] for row in rows if row["share"] == share]
        summary[f"dense / layer at {share}: least, median"] = (min(gains), statistics.median(gains))
    print(summary)
    clock = "process CPU, least of the rounds" if arguments.device == "cpu" else "wall, least of the rounds"
    settings = {"threads": 1, "rounds": arguments.rounds, "device": arguments.device, "clock": clock} | summary
    suffix = "" if arguments.device == "cpu" else "_gpu"
    print(record.write(f"convolutions{suffix}", (__doc__ or "").strip(), rows, settings))


def layers(shape: tuple[int, ...], share: float, device: str) -> list[FactorisedConv2d]:
    """Return both kinds of layers with a share of the dense kernel's parameters; only what fits."""
    _, inputs, outputs, kernel, _ = shape
    budget = int(share * inputs * outputs * kernel**2)
    arguments: dict[str, Any] = {"padding": kernel // 2, "device": device}
    torch.manual_seed(0)
    ranks = TuckerConv2d.ranks_within(inputs, outputs, kernel, budget)
    rank = CPConv2d.rank_within(inputs, outputs, kernel, budget)
    return [
        TuckerConv2d(inputs, outputs, kernel, ranks, **arguments),
        CPConv2d(inputs, outputs, kernel, rank, **arguments),
    ]


def race(
    name: str, shape: tuple[int, ...], share: float, layer: FactorisedConv2d, backward: bool, rounds: int
) -> dict[str, Any]:
    """Time the layer, each of its ways, and the dense convolution, once a round."""
    images, inputs, _, _, side = shape
    device = next(layer.parameters()).device
    x = torch.randn(images, inputs, side, side, device=device, requires_grad=backward)
    dense = layer.to_dense()
    jobs: dict[str, Callable[[], Any]] = {
        "layer": job(layer, x, list(layer.parameters()), backward),
        "dense": job(dense, x, list(dense.parameters()), backward),
    }
    for way in range(layer.n_paths):
        jobs[f"way {way}"] = job(lambda x, way=way: layer.along(way, x), x, list(layer.parameters()), backward)
    best = dict.fromkeys(jobs, math.inf)
    for k in range(rounds):
        for key in (*list(jobs)[k % len(jobs) :], *list(jobs)[: k % len(jobs)]):  # none is always the first
            best[key] = min(best[key], seconds(jobs[key], device.type))
    way = min(value for key, value in best.items() if key.startswith("way"))
    return {
        "shapes": name,
        "layer": type(layer).__name__,
        "share": share,
        "pass": "both" if backward else "forward",
        "layer ms": 1e3 * best["layer"],
        "best way ms": 1e3 * way,
        "dense ms": 1e3 * best["dense"],
        "layer / best way": best["layer"] / way,
        "dense / layer": best["dense"] / best["layer"],
    }


def job(
    layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, parameters: list[torch.Tensor], backward: bool
) -> Callable[[], Any]:
    def both() -> Any:
        return torch.autograd.grad(layer(x).sum(), [x, *parameters])

    def forward() -> Any:
        with torch.no_grad():
            return layer(x)

    return both if backward else forward


def seconds(run: Callable[[], Any], device: str) -> float:
    """Return the seconds of a call, over calls of about 5 ms."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def timed(calls: int) -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        started = clock()
        for _ in range(calls):
            run()
        if device != "cpu":
            torch.cuda.synchronize()
        return (clock() - started) / calls

    timed(1)
    return timed(max(1, int(5e-3 / max(timed(1), 1e-6))))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
