"""Claim: on BTT cores and on dense weights, Shampoo and Muon reach AdamW's final loss in fewer steps than AdamW.

Models of the next byte on the sources of Python's standard library (``--part mlp``: perceptrons on 16 bytes,
``--part gpt``: transformers), dense and of BTT layers of the same width, initialised by muP. Every optimiser runs at
each of its ``rates``; AdamW and Shampoo with the groups of muP, Shampoo grafted to Adam, Muon on the matrices that
cores act as. The target is the held-out loss after all steps of AdamW at its best rate, for each kind of layer.

``steps`` and ``seconds`` to the target are those of the best rate, looked up every ``--look`` steps; looking takes no
part in the seconds. ``step GMACs`` are multiply-adds of a step of the model, forward and backward; ``own GMACs``
those that the optimiser adds, eigenvalue decompositions (taken as 10 n^3) spread over the steps between them.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import record
import torch
from language_model import (
    GPT,
    MLP,
    btt_of_rank,
    dense,
    falling_rate,
    held_out_loss,
    loss_of,
    macs_per_byte,
    source_bytes,
    training_rows,
)
from torch import nn

from tnet.nn import Muon, Shampoo, muon_groups
from tnet.nn.init import mup_, mup_groups

BASE = 128
CONTEXT = 16
EVERY = 20
NEWTON_SCHULZ = 5


def new_model(kind: str, given: argparse.Namespace) -> nn.Module:
    make = dense if kind == "dense" else btt_of_rank(given.rank)
    model = GPT if given.part == "gpt" else MLP
    return mup_(model(given.width, given.layers, make), readout="readout")


def new_optimizer(name: str, model: nn.Module, rate: float, given: argparse.Namespace) -> torch.optim.Optimizer:
    if name == "Muon":
        return Muon(muon_groups(model, readout="readout"), lr=rate, steps=NEWTON_SCHULZ, adam_share=0.2)
    inputs = [] if given.part == "gpt" else ["first"]
    groups = mup_groups(
        model,
        rate,
        BASE,
        readout="readout",
        inputs=inputs,
        lr_vectors=given.vectors * rate,
        lr_factors=given.factors * rate,
    )
    if name == "Shampoo":
        # Only hidden weights are preconditioned, as by Muon: the others are stepped by Adam.
        hidden = {id(p) for group in muon_groups(model, readout="readout") if group["axes"] for p in group["params"]}
        for group in list(groups):
            others = [p for p in group["params"] if id(p) not in hidden or p.ndim < 2]
            group["params"] = [p for p in group["params"] if id(p) in hidden and p.ndim > 1]
            groups.append(group | {"params": others, "start": given.steps})
        groups = [group for group in groups if group["params"]]
        return Shampoo(groups, decay=0.95, every=EVERY, start=EVERY, eps=1e-10)
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, foreach=True)


def own_macs(name: str, model: nn.Module) -> float:
    """Multiply-adds of a step of the optimiser beyond a few for each parameter."""
    total = 0.0
    if name == "Shampoo":
        groups = muon_groups(model, readout="readout")
        for parameter in [p for group in groups if group["axes"] for p in group["params"] if p.ndim > 1]:
            modes = [n for n in parameter.shape if n > 1]
            total += 2 * sum(modes) * parameter.numel() + sum(10 * n**3 for n in modes) / EVERY
    elif name == "Muon":
        for group in muon_groups(model, readout="readout"):
            for parameter in group["params"]:
                axes = group["axes"]
                if axes is None or parameter.ndim < 2:
                    continue
                axes = ((), (0,), tuple(range(1, parameter.ndim))) if axes == "first" else axes
                count, rows, columns = (math.prod(parameter.shape[axis] for axis in part) for part in axes)
                short, long = sorted((rows, columns))
                total += count * NEWTON_SCHULZ * (2 * short**2 * long + short**3)
    return total


def train(
    kind: str, name: str, rate: float, data: tuple[torch.Tensor, torch.Tensor], given: argparse.Namespace
) -> dict:
    """Train one model; return held-out losses with steps and seconds."""
    torch.manual_seed(given.seed)
    model = new_model(kind, given).to(given.device)
    optimizer = new_optimizer(name, model, rate, given)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: falling_rate(step, given.steps))
    draw, seconds, curve = np.random.default_rng(given.seed), 0.0, []
    started = time.perf_counter()
    for step in range(1, given.steps + 1):
        loss = loss_of(model, training_rows(data[0], draw, given.batch, given.length))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % given.look == 0 or step == given.steps:
            if given.device != "cpu":
                torch.cuda.synchronize()
            seconds += time.perf_counter() - started
            curve.append((step, seconds, held_out_loss(model, data[1], given.length, given.validation)))
            started = time.perf_counter()
    predicted = given.batch * (given.length if given.part == "gpt" else 1)
    return {
        "layers": kind,
        "optimizer": name,
        "rate": rate,
        "parameters": sum(p.numel() for p in model.parameters()),
        "step GMACs": 3e-9 * macs_per_byte(model, given.length) * predicted,
        "own GMACs": 1e-9 * own_macs(name, model),
        "final loss": curve[-1][2],
        "total seconds": curve[-1][1],
        "curve": curve,
    }


def summary_of(rows: list[dict]) -> list[dict]:
    """Return for each optimiser the run that is first at AdamW's loss."""
    result = []
    for kind in dict.fromkeys(row["layers"] for row in rows):
        own = [row for row in rows if row["layers"] == kind]
        target = min(row["final loss"] for row in own if row["optimizer"] == "AdamW")
        for name in dict.fromkeys(row["optimizer"] for row in own):
            best = min(
                (row for row in own if row["optimizer"] == name),
                key=lambda row: (reached(row["curve"], target)[0], row["final loss"]),
            )
            steps, seconds = reached(best["curve"], target)
            result.append(
                {"layers": kind, "optimizer": name, "rate": best["rate"], "target": target}
                | {"steps": steps, "seconds": seconds}
                | {key: best[key] for key in ("final loss", "total seconds", "step GMACs", "own GMACs")}
            )
    return result


def reached(curve: list[tuple[int, float, float]], target: float) -> tuple[float, float]:
    """Return the first steps and seconds at which the loss is at most the target, else infinities."""
    return next(((step, seconds) for step, seconds, loss in curve if loss <= target), (math.inf, math.inf))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("mlp", "gpt"), default="mlp")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, writes nothing")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=4, help="of the blocks of BTT layers")
    parser.add_argument("--length", type=int, help=f"{CONTEXT} for mlp, 256 for gpt")
    parser.add_argument("--batch", type=int, help="windows; 4096 for mlp, 32 for gpt")
    parser.add_argument("--steps", type=int, help="600 for mlp, 300 for gpt")
    parser.add_argument("--look", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[8e-3, 16e-3, 32e-3, 64e-3], help="of AdamW and Shampoo"
    )
    parser.add_argument("--muon-rates", type=float, nargs="+", default=[0.025, 0.05, 0.1])
    parser.add_argument("--vectors", type=float, default=1.0, help="rate of inputs and vectors, in rates")
    parser.add_argument("--factors", type=float, default=0.25, help="rate of factors, in rates")
    parser.add_argument("--validation", type=int, help="held-out windows; 8192 for mlp, 64 for gpt")
    given = parser.parse_args()
    gpt = given.part == "gpt"
    defaults = {"batch": 32 if gpt else 4096, "length": 256 if gpt else CONTEXT, "steps": 300 if gpt else 600}
    for key, value in (defaults | {"validation": 64 if gpt else 8192}).items():
        if getattr(given, key) is None:
            setattr(given, key, value)
    if not gpt:
        given.length = CONTEXT
    if given.quick:
        given.width, given.layers, given.batch, given.steps, given.look = 64, 2, 4 if gpt else 128, 6, 2
        given.length, given.validation, given.rates, given.muon_rates = min(given.length, 32), 16, [8e-3], [0.02]
    data = tuple(part.to(given.device) for part in source_bytes())
    print(f"{len(data[0]):,} bytes to train on, {len(data[1]):,} held out", flush=True)
    # Of two runs the first pays for what is loaded and measured once, such as rates of the device.
    warm = argparse.Namespace(**vars(given) | {"steps": 3, "look": 3, "validation": 16})
    rows = []
    for kind in ("dense", "BTT"):
        for name in ("AdamW", "Shampoo", "Muon"):
            rates = given.muon_rates if name == "Muon" else given.rates
            train(kind, name, rates[0], data, warm)
            for rate in rates:
                rows.append(train(kind, name, rate, data, given))
                print(record.table([{key: value for key, value in rows[-1].items() if key != "curve"}]), flush=True)
    summary = summary_of(rows)
    print(f"\n{record.table(summary)}")
    if not given.quick:
        settings = vars(given) | {"summary": summary}
        name = f"optimizers_{given.part}_{given.device.split(':')[0]}"
        print(record.write(name, __doc__.split("\n")[0], rows, settings))


if __name__ == "__main__":
    main()
