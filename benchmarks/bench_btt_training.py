"""Claim: at equal multiply-adds, wider BTT models with muP learn more than dense ones, at the rates of width 128.

Models of the next byte, on the sources of Python's standard library, every tenth file held out: ``--part mlp`` on 16
bytes of context, ``--part gpt`` a transformer. The dense model has ``--width``; the BTT model the largest width at
which it takes no more multiply-adds a byte, forward, layers and attention counted. Same batches, steps and schedule.
The rate of each kind is the best of ``--rates`` at width 128, seed 0, by held-out loss, and is carried over by muP.
``loss`` is in nats a byte, held out; ``tera-MACs`` is of the whole training, forward and backward.

``--part transfer``: perceptrons of widths 128, 256, 512 at all rates, under muP and under the layers' own initial
values with one rate for all parameters. Claim: under muP the best rate at 128 costs less than 0.01 nats at 512.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator

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

from tnet.nn.init import mup_, mup_groups

BASE = 128
CONTEXT = 16


def new_model(kind: str, width: int, part: str, given: argparse.Namespace) -> nn.Module:
    make = dense if kind == "dense" else btt_of_rank(given.rank)
    return GPT(width, given.layers, make) if part == "gpt" else MLP(width, given.layers, make, CONTEXT)


def rates_of(model: nn.Module, rate: float, given: argparse.Namespace) -> list[dict]:
    """Return the parameter groups of muP; shares of the rate are those that were best at the base width."""
    inputs = [] if isinstance(model, GPT) else ["first"]
    return mup_groups(
        model,
        rate,
        BASE,
        readout="readout",
        inputs=inputs,
        lr_vectors=given.vectors * rate,
        lr_factors=given.factors * rate,
    )


def width_of_equal_cost(kind: str, part: str, given: argparse.Namespace) -> int:
    """Return the largest width with at most the multiply-adds of the dense model of ``given.width``."""
    with torch.device("meta"):
        most = macs_per_byte(new_model("dense", given.width, part, given), given.length)
        step, width = (64, 64) if part == "gpt" else (32, 32)
        while macs_per_byte(new_model(kind, width + step, part, given), given.length) <= most:
            width += step
    return width


def train(
    kind: str,
    width: int,
    rate: float,
    seed: int,
    data: tuple[torch.Tensor, torch.Tensor],
    given: argparse.Namespace,
    *,
    part: str,
    steps: int,
    mup: bool = True,
) -> dict:
    """Train one model; return its losses, costs and sizes."""
    torch.manual_seed(seed)
    model = new_model(kind, width, part, given)
    if mup:
        model = mup_(model, readout="readout").to(given.device)
        groups = rates_of(model, rate, given)
    else:
        model = model.to(given.device)
        groups = [{"params": list(model.parameters()), "lr": rate}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: falling_rate(step, steps))
    draw = np.random.default_rng(seed)
    start = time.perf_counter()
    for _ in range(steps):
        loss = loss_of(model, training_rows(data[0], draw, given.batch, given.length))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    last, seconds = loss.item(), time.perf_counter() - start
    macs, predicted = macs_per_byte(model, given.length), given.length if part == "gpt" else 1
    return {
        "part": part,
        "layers": kind,
        "muP": mup,
        "width": width,
        "rate": rate,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "MACs/byte": macs,
        "tera-MACs": 3e-12 * macs * steps * given.batch * predicted,
        "loss": held_out_loss(model, data[1], given.length, given.validation),
        "last training loss": last,
        "seconds": seconds,
    }


def told(rows: Iterator[dict]) -> list[dict]:
    kept = []
    for row in rows:
        kept.append(row)
        print(record.table([row]) if len(kept) == 1 else record.table([row]).split("\n")[1], flush=True)
    return kept


def equal_cost(part: str, data: tuple[torch.Tensor, torch.Tensor], given: argparse.Namespace) -> list[dict]:
    """Tune both kinds at the base width, then train both at equal cost; return all rows."""
    kinds = ("dense", "BTT")
    tuned = told(
        train(kind, BASE, rate, 0, data, given, part=part, steps=given.tuning_steps)
        for kind in kinds
        for rate in given.rates
    )
    best = {
        kind: min((row for row in tuned if row["layers"] == kind), key=lambda row: row["loss"])["rate"]
        for kind in kinds
    }
    widths = {kind: width_of_equal_cost(kind, part, given) for kind in kinds}
    print(f"\nbest rates at width {BASE}: {best}; widths of equal cost: {widths}\n", flush=True)
    rows = told(
        train(kind, widths[kind], best[kind], seed, data, given, part=part, steps=given.steps)
        for seed in range(given.seeds)
        for kind in kinds
    )
    summary = []
    for kind in kinds:
        own = [row for row in rows if row["layers"] == kind]
        losses = [row["loss"] for row in own]
        summary.append(
            {key: own[0][key] for key in ("part", "layers", "width", "rate", "parameters", "MACs/byte", "tera-MACs")}
            | {"loss": statistics.mean(losses), "least": min(losses), "most": max(losses)}
            | {"seconds": min(row["seconds"] for row in own)}
        )
    print(f"\n{record.table(summary)}\n", flush=True)
    return [row | {"run": "tuning"} for row in tuned] + [row | {"run": "equal cost"} for row in rows]


def transfer(data: tuple[torch.Tensor, torch.Tensor], given: argparse.Namespace) -> list[dict]:
    """Train BTT perceptrons of three widths at all rates, with and without muP."""
    widths = (BASE, 2 * BASE, 4 * BASE)
    rates = [given.rates[0] * 2**k for k in range(given.transfer_rates)]
    rows = told(
        train("BTT", width, rate, 0, data, given, part="mlp", steps=given.tuning_steps, mup=mup)
        for mup in (True, False)
        for width in widths
        for rate in rates
    )
    summary = []
    for mup in (True, False):
        losses = {
            width: {row["rate"]: row["loss"] for row in rows if row["muP"] == mup and row["width"] == width}
            for width in widths
        }
        carried = min(losses[BASE], key=lambda rate: _ordered(losses[BASE][rate]))
        for width in widths:
            best = min(losses[width], key=lambda rate: _ordered(losses[width][rate]))
            lost = losses[width][carried] - losses[width][best]
            curve = {f"{rate:.2g}": losses[width][rate] for rate in rates}
            summary.append({"muP": mup, "width": width, "best rate": best, "lost by that of 128": lost} | curve)
    print(f"\n{record.table(summary)}\n", flush=True)
    return [row | {"run": "transfer"} for row in rows]


def _ordered(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("mlp", "gpt", "transfer"), default="mlp")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, writes nothing")
    parser.add_argument("--width", type=int, help="of the dense model; 512 for mlp, 384 for gpt")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=4, help="of the blocks of BTT layers")
    parser.add_argument("--length", type=int, help=f"{CONTEXT} for mlp, 256 for gpt")
    parser.add_argument("--batch", type=int, help="windows; 4096 for mlp, 32 for gpt")
    parser.add_argument("--steps", type=int, help="2000 for mlp, 800 for gpt")
    parser.add_argument("--tuning-steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[4e-3, 8e-3, 16e-3, 32e-3, 64e-3])
    parser.add_argument("--vectors", type=float, default=1.0, help="rate of inputs and vectors, in rates")
    parser.add_argument("--factors", type=float, default=0.25, help="rate of factors, in rates")
    parser.add_argument("--transfer-rates", type=int, default=6, help="doublings of the first rate")
    parser.add_argument("--validation", type=int, help="held-out windows; 32768 for mlp, 256 for gpt")
    given = parser.parse_args()
    gpt = given.part == "gpt"
    defaults = {"width": 384 if gpt else 512, "length": 256 if gpt else CONTEXT, "batch": 32 if gpt else 4096}
    defaults |= {"steps": 800 if gpt else 2000, "validation": 256 if gpt else 32768}
    for name, value in defaults.items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    if given.part != "gpt":
        given.length = CONTEXT
    if given.quick:
        given.layers, given.batch, given.steps, given.tuning_steps, given.seeds = 2, 4 if gpt else 128, 6, 3, 1
        given.width, given.rates, given.transfer_rates, given.validation = 128, [4e-3, 8e-3], 2, 16
        given.length = min(given.length, 32)
    data = tuple(part.to(given.device) for part in source_bytes())
    print(f"{len(data[0]):,} bytes to train on, {len(data[1]):,} held out", flush=True)
    rows = transfer(data, given) if given.part == "transfer" else equal_cost(given.part, data, given)
    if not given.quick:
        name = f"btt_training_{given.part}_{given.device.split(':')[0]}"
        print(record.write(name, __doc__.split("\n")[0], rows, vars(given)))


if __name__ == "__main__":
    main()
