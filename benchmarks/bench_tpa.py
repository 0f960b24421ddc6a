"""Claim: tensor product attention learns more than MHA, GQA and MQA of its parameters, at 0.4 of MHA's KV bytes.

``--part training``: byte-level language models on the sources of Python's standard library, every tenth file held
out; the same steps, batches and seeds for all; ``loss`` in nats a byte, ``KV bytes`` a token in 16 bits, all layers.

``--part matryoshka``: SmolLM2-135M with projected keys and values, perplexity on held-out help topics of Python at
0.75, 0.6 and 0.4 of the KV bytes: bases by PCA and trained, each at uniform and at searched ranks, and PCA at the
ranks that were searched for the trained bases. Claim: trained bases are below PCA at every budget.
"""

from __future__ import annotations

import argparse
import ast
import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
import record
import torch
import torch.nn.functional as F
from language_model import library_files, loss_of, source_bytes, windows
from torch import nn

from tnet.cli.demo import find_model, python_documentation
from tnet.cli.models import load_model
from tnet.nn.attention import (
    KVProjection,
    MatryoshkaTraining,
    TensorProductAttention,
    apply_rotary,
    measure_kv_loss,
    project_kv,
    rotary_angles,
)

SHARES = (0.75, 0.6, 0.4)
WIDTH_OF_HEAD = 64


class GroupedAttention(nn.Module):
    """Causal attention with g key and value heads for h query heads: MHA for g = h, MQA for g = 1."""

    def __init__(self, features: int, n_heads: int, n_kv_heads: int) -> None:
        super().__init__()
        self.sizes = [n_heads, n_kv_heads, n_kv_heads]
        self.projections = nn.Linear(features, sum(self.sizes) * WIDTH_OF_HEAD, bias=False)
        self.output = nn.Linear(n_heads * WIDTH_OF_HEAD, features, bias=False)
        nn.init.zeros_(self.output.weight)

    @property
    def cache_numbers_per_token(self) -> int:
        return 2 * self.sizes[1] * WIDTH_OF_HEAD

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.projections(x).unflatten(-1, (-1, WIDTH_OF_HEAD)).transpose(1, 2)
        q, k, v = heads.split(self.sizes, dim=1)
        angles = rotary_angles(torch.arange(x.shape[1], device=x.device), WIDTH_OF_HEAD)
        q, k = apply_rotary(q, angles), apply_rotary(k, angles)
        k, v = (part.repeat_interleave(self.sizes[0] // self.sizes[1], dim=1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, features: int, attention: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.RMSNorm(features), nn.RMSNorm(features)])
        self.attention = attention
        self.up, self.down = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class LanguageModel(nn.Module):
    def __init__(self, features: int, attentions: list[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, features)
        self.blocks = nn.Sequential(*[Block(features, attention) for attention in attentions])
        self.norm, self.head = nn.RMSNorm(features), nn.Linear(features, 256, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embedding(tokens))))


@dataclass(frozen=True)
class Kind:
    """An attention; the number of heads is chosen so that its parameters are those of plain MHA."""

    name: str
    kv: int  # key and value heads, or key and value rank
    tensor_product: bool = False

    def make(self, features: int) -> TensorProductAttention | GroupedAttention:
        target = 4 * features**2  # MHA with features / 64 heads
        best, n_heads = None, self.kv
        while best is None or n_heads * WIDTH_OF_HEAD <= 4 * features:
            with torch.device("meta"):
                layer = self._with(features, n_heads)
            distance = abs(sum(p.numel() for p in layer.parameters()) - target)
            if best is None or distance < best[0]:
                best = distance, n_heads
            n_heads += 1 if self.tensor_product else self.kv
        return self._with(features, best[1])

    def _with(self, features: int, n_heads: int) -> TensorProductAttention | GroupedAttention:
        if self.tensor_product:
            return TensorProductAttention(features, n_heads, WIDTH_OF_HEAD, key_rank=self.kv, value_rank=self.kv)
        return GroupedAttention(features, n_heads, self.kv)


def kinds(features: int) -> list[Kind]:
    return [
        Kind("MHA", features // WIDTH_OF_HEAD),
        Kind("GQA", 2),
        Kind("MQA", 1),
        Kind("TPA, ranks 6 2 2", 2, True),
        Kind("TPA, ranks 6 1 1", 1, True),
    ]


def train(kind: Kind, seed: int, data: tuple[torch.Tensor, torch.Tensor], given: argparse.Namespace) -> dict:
    """Train one model; return its losses and sizes."""
    torch.manual_seed(seed)
    model = LanguageModel(given.width, [kind.make(given.width) for _ in range(given.layers)]).to(given.device)
    attention = model.blocks[0].attention
    run = torch.compile(model) if given.compile else model
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=given.rate, betas=(0.9, 0.95), fused=given.device != "cpu")
    draw = np.random.default_rng(seed)
    start = time.perf_counter()
    for step in range(given.steps):
        rate = (
            given.rate
            * min(1.0, (step + 1) / (0.05 * given.steps))
            * (0.55 + 0.45 * math.cos(math.pi * step / given.steps))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = windows(data[0], draw.integers(0, len(data[0]) - given.length - 1, given.batch), given.length)
        loss = loss_of(run, rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    trained, seconds = loss.item(), time.perf_counter() - start
    starts = np.linspace(0, len(data[1]) - given.length - 2, given.validation).astype(np.int64)
    with torch.no_grad():
        held_out = [
            loss_of(run, windows(data[1], part, given.length))
            for part in np.array_split(starts, max(1, len(starts) // 32))
        ]
    return {
        "attention": kind.name,
        "heads": attention.output.in_features // WIDTH_OF_HEAD,
        "parameters": sum(p.numel() for p in model.parameters()),
        "KV bytes": 2 * given.layers * attention.cache_numbers_per_token,
        "seed": seed,
        "loss": float(torch.stack(held_out).mean()),
        "last training loss": trained,
        "seconds": seconds,
    }


def training(given: argparse.Namespace) -> None:
    data = tuple(part.to(given.device) for part in source_bytes())
    print(f"{len(data[0]):,} bytes to train on, {len(data[1]):,} held out", flush=True)
    rows = []
    for kind in kinds(given.width):
        for seed in range(given.seeds):
            rows.append(train(kind, seed, data, given))  # type: ignore[arg-type]
            print(record.table([rows[-1]]), flush=True)
    summary = []
    for kind in kinds(given.width):
        own = [row for row in rows if row["attention"] == kind.name]
        losses = [row["loss"] for row in own]
        summary.append(
            {key: own[0][key] for key in ("attention", "heads", "parameters", "KV bytes")}
            | {"loss": statistics.mean(losses), "least": min(losses), "most": max(losses)}
            | {"seconds": min(row["seconds"] for row in own)}
        )
    print(f"\n{record.table(summary)}")
    if not given.quick:
        settings = vars(given) | {"summary": summary}
        print(record.write(f"tpa_{given.device.split(':')[0]}", __doc__.split("\n")[0], rows, settings))


def docstrings() -> str:
    """Return the documentation strings of the standard library's modules, classes and functions."""
    found = []
    for file in library_files():
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError:
            continue
        kinds_with_text = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found += [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds_with_text)]
    return "\n\n".join(text for text in found if len(text) > 80)


def texts(tokenizer: object, given: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Return calibration rows, from help topics and documentation strings, and evaluation rows, from other topics."""
    topics, evaluation = (
        part[0]["input_ids"]
        for part in python_documentation(tokenizer, given.tokens, given.sequences, given.evaluation)
    )
    text = docstrings()[: 6 * given.tokens * given.sequences]
    ids = tokenizer(text, verbose=False)["input_ids"]  # type: ignore[operator]
    n = min(len(ids) // given.tokens, max(1, given.sequences - len(topics)))
    more = torch.tensor(ids[: n * given.tokens]).reshape(n, given.tokens)
    return torch.cat((topics, more))[: given.sequences], evaluation


@torch.no_grad()
def perplexity(projection: KVProjection, rows: torch.Tensor) -> float:
    losses = []
    for batch in rows.split(8):
        logits = projection.logits(batch)[:, :-1]
        losses += F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none").tolist()
    return math.exp(statistics.fmean(losses))


def matryoshka(given: argparse.Namespace) -> None:
    model, tokenizer = load_model(find_model())
    model.requires_grad_(False)
    if given.quick:
        model.model.layers = model.model.layers[:2]
    model.to(given.device)
    calibration, evaluation = (rows.to(given.device) for rows in texts(tokenizer, given))
    clock = time.perf_counter()

    def told(what: str) -> None:
        nonlocal clock
        print(f"{time.perf_counter() - clock:6.1f} s  {what}", flush=True)
        clock = time.perf_counter()

    projection = project_kv(model, calibration[:256])
    whole = perplexity(projection, evaluation)
    told(f"principal axes; perplexity without a cut {whole:.4f}")
    bases, probe = {"PCA": projection.bases}, calibration[:: max(1, len(calibration) // 8)][:8]
    losses = {"PCA": measure_kv_loss(projection, probe, levels=given.levels)}
    told("losses of single cuts, PCA")
    settings = MatryoshkaTraining(steps=given.kv_steps, learning_rate=given.kv_rate)
    history = settings.fit(projection, calibration)
    tenth = max(1, len(history) // 10)
    told(f"training: KL {statistics.fmean(history[:tenth]):.4f}, then {statistics.fmean(history[-tenth:]):.4f}")
    bases["trained"] = projection.bases
    losses["trained"] = measure_kv_loss(projection, probe, levels=given.levels)
    told("losses of single cuts, trained")
    rows = []
    for share in SHARES:
        uniform = np.full_like(projection.ranks, int(share * projection.width))
        cases = [(name, "uniform", uniform) for name in bases]
        cases += [(name, "searched", losses[name].ranks(share)) for name in bases]
        cases.append(("PCA", "those of trained", losses["trained"].ranks(share)))
        for name, how, ranks in cases:
            projection.set_bases(bases[name])
            projection.set_ranks(ranks)
            found = perplexity(projection, evaluation)
            rows.append(
                {"KV share": share, "bases": name, "ranks": how, "numbers": projection.numbers_per_token}
                | {"KV bytes": 2 * projection.numbers_per_token, "perplexity": found, "whole": whole}
            )
    told("perplexities")
    print(f"\n{record.table(rows)}")
    if not given.quick:
        claim = "Claim: at equal KV bytes trained bases cost SmolLM2-135M less perplexity than PCA."
        print(
            record.write(
                f"matryoshka_kv_{given.device.split(':')[0]}", claim, rows, vars(given) | {"history": history}
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("training", "matryoshka", "both"), default="both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, writes nothing")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--validation", type=int, default=256, help="windows of the held-out bytes")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tokens", type=int, default=256, help="length of the sequences for SmolLM2")
    parser.add_argument("--sequences", type=int, default=1536)
    parser.add_argument("--evaluation", type=int, default=64)
    parser.add_argument("--kv-steps", type=int, default=400)
    parser.add_argument("--kv-rate", type=float, default=1e-3)
    parser.add_argument("--levels", type=int, nargs="+", default=[8, 16, 24, 32, 40, 48, 56])
    given = parser.parse_args()
    if given.quick:
        given.width, given.layers, given.length, given.batch, given.steps, given.seeds = 128, 2, 64, 4, 20, 1
        given.validation, given.sequences, given.evaluation, given.tokens = 8, 8, 4, 48
        given.kv_steps, given.levels = 6, [24]
    if given.part != "matryoshka":
        training(given)
    if given.part != "training":
        matryoshka(given)


if __name__ == "__main__":
    main()
