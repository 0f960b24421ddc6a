"""Factorised layers take the fastest of their ways: at most 1.05 times the best of core by core and weight first.

Forward and backward pass of a layer as it is, of the same cores multiplied in the order of fewest multiply-adds for
one token, and of the weight formed first and then one product; beside them a dense layer of the size. Memory is that
of what autograd keeps between the passes, and of the gradients.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import record  # noqa: E402 - the threads are set before
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from tnet.contraction.rates import COUNTING  # noqa: E402
from tnet.nn import (  # noqa: E402
    BTTLinear,
    CPLinear,
    KroneckerLinear,
    LowRankLinear,
    MPOLinear,
    NetworkLinear,
    TuckerLinear,
)
from tnet.nn.contraction_order import TOKENS, best_order  # noqa: E402
from tnet.nn.digits import balanced_digits  # noqa: E402
from tnet.nn.network_map import program_of  # noqa: E402

WIDTHS = (768, 2048, 4096)
TOKENS_AT_ONCE = (1, 16, 128, 1024, 8192)
MOST_MACS = {"cpu": 1 << 33, "cuda": 1 << 40}  # of a dense layer
BAR = 1.05


def layers(d: int) -> dict[str, Callable[[], nn.Module]]:
    """Return builders of layers with a quarter of the weight's elements or less."""
    two, three = balanced_digits(d, 2), balanced_digits(d, 3)
    return {
        "low rank": lambda: LowRankLinear(d, d, d // 8, bias=False),
        "BTT 4": lambda: BTTLinear(d, d, 4, bias=False),
        "Monarch": lambda: BTTLinear(d, d, 1, bias=False),
        "MPO 2, rank 16": lambda: MPOLinear(two, two, (16,), bias=False),
        "MPO 3, rank 8": lambda: MPOLinear(three, three, (8, 8), bias=False),
        "Kronecker 4": lambda: KroneckerLinear(d, d, 4, bias=False),
        "Tucker": lambda: TuckerLinear(two, two, tuple(n // 2 for n in two + two), bias=False),
        "CP 64": lambda: CPLinear(two, two, 64, bias=False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS_AT_ONCE))
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    rows: list[dict[str, Any]] = []
    for d in arguments.widths:
        for name, make in layers(d).items():
            if arguments.only in name:
                torch.manual_seed(0)
                layer = make().to(device=device, dtype=dtype)
                for tokens in arguments.tokens:
                    if tokens * d * d <= MOST_MACS[device]:
                        rows.append(measured(name, layer, tokens, arguments.rounds))
                        print(record.table(rows[-1:]), flush=True)
    print(record.table(rows))
    worst = max(row["ratio to the best"] for row in rows)
    within = sum(row["ratio to the best"] <= BAR for row in rows)
    print(f"worst {worst:.3f}, {within} of {len(rows)} within {BAR}")
    settings = {"dtype": arguments.dtype, "threads": torch.get_num_threads(), "rounds": arguments.rounds, "bar": BAR}
    settings |= {"worst": worst, "within": within}
    if not arguments.only:
        print(record.write(f"layers_{device}_{arguments.dtype}", (__doc__ or "").splitlines()[0], rows, settings))


def measured(name: str, layer: nn.Module, tokens: int, rounds: int) -> dict[str, Any]:
    parameter = next(layer.parameters())
    d = layer.in_features
    assert isinstance(d, int)
    x = torch.randn(tokens, d, device=parameter.device, dtype=parameter.dtype, requires_grad=True)
    dense = nn.Linear(d, d, bias=False, device=parameter.device, dtype=parameter.dtype)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "layer": lambda: layer(x),
        "weight first": lambda: F.linear(x, layer.dense_weight()),
        "dense": lambda: dense(x),
    }
    if isinstance(layer, NetworkLinear):
        ways["core by core"] = core_by_core(layer, x)
    seconds = alternated(ways, x, rounds)
    rivals = [seconds[way] for way in ("core by core", "weight first") if way in seconds]
    if not isinstance(layer, NetworkLinear):
        rivals.append(seconds["layer"])
    return {
        "layer": name,
        "width": d,
        "tokens": tokens,
        **{
            f"{way} ms": 1e3 * seconds.get(way, float("nan"))
            for way in ("layer", "core by core", "weight first", "dense")
        },
        "ratio to the best": seconds["layer"] / min(rivals),
        "dense / layer": seconds["dense"] / seconds["layer"],
        "bytes kept / dense": kept_bytes(lambda: layer(x)) / kept_bytes(lambda: dense(x)),
    }


def core_by_core(layer: NetworkLinear, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return the forward pass in the order of fewest multiply-adds for one token."""
    network = layer._network
    indices, output = (*network.indices, (TOKENS, *network.columns)), (TOKENS, *network.rows)
    order = best_order(indices, output, {**dict(network.sizes), TOKENS: 1}, COUNTING, 1)
    program = program_of(order, network, len(x))
    return lambda: program.run([*layer._cores(), x])


def alternated(ways: dict[str, Callable[[], torch.Tensor]], x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Return the median seconds of forward and backward, the ways in turn."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(rounds + 1):
        for way, forward in ways.items():
            count = 1 if repeat == 0 else max(1, min(50, int(2e-3 / max(taken[way][0], 1e-6))))
            wait(x)
            began = time.perf_counter()
            for _ in range(count):
                x.grad = None
                y = forward()
                y.backward(torch.ones_like(y))
            wait(x)
            taken[way].append((time.perf_counter() - began) / count)
    return {way: statistics.median(values[1:]) for way, values in taken.items()}


def kept_bytes(forward: Callable[[], torch.Tensor]) -> int:
    """Return the bytes that autograd keeps between the passes, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def wait(x: torch.Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
