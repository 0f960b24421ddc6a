"""Bytes of the standard library's sources, and two small models of the next byte, dense or of factorised layers."""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tnet.nn import BTTLinear, FactorisedLinear
from tnet.nn.attention import apply_rotary, rotary_angles

WIDTH_OF_HEAD = 64

MakeLinear = Callable[[int, int], nn.Module]


def library_files() -> list[Path]:
    """Return the Python files of the standard library, tests and installed packages left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    return sorted(file for file in root.rglob("*.py") if not left_out & set(file.relative_to(root).parts))


def source_bytes() -> tuple[torch.Tensor, torch.Tensor]:
    """Return training and validation bytes: every tenth file is held out."""
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for i, file in enumerate(library_files()):
        parts[i % 10 == 9].append(file.read_bytes())
    train, held_out = (torch.frombuffer(bytearray(b"\n".join(part)), dtype=torch.uint8) for part in parts)
    return train, held_out


def windows(data: torch.Tensor, starts: np.ndarray, length: int) -> torch.Tensor:
    """Return ``(len(starts), length + 1)`` token ids."""
    places = torch.as_tensor(starts, device=data.device)[:, None] + torch.arange(length + 1, device=data.device)
    return data[places].long()


def loss_of(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Return nats a byte; a model may give logits for the last bytes of the rows alone."""
    with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=rows.is_cuda):
        logits = model(rows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, -logits.shape[1] :].flatten())


def dense(n_in: int, n_out: int) -> nn.Module:
    return nn.Linear(n_in, n_out)


def btt_of_rank(rank: int) -> MakeLinear:
    return lambda n_in, n_out: BTTLinear(n_in, n_out, rank)


class MLP(nn.Module):
    """Residual perceptron on the embeddings of ``context`` bytes; predicts the byte after them."""

    def __init__(self, width: int, layers: int, make: MakeLinear, context: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 32)
        self.first = nn.Linear(32 * context, width)
        self.hidden = nn.ModuleList([make(width, width) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.RMSNorm(width) for _ in range(layers + 1)])
        self.readout = nn.Linear(width, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.first(self.embedding(tokens).flatten(-2))
        for layer, norm in zip(self.hidden, self.norms, strict=False):
            h = h + layer(F.relu(norm(h)))
        return self.readout(F.relu(self.norms[-1](h)))[:, None]


class Block(nn.Module):
    def __init__(self, width: int, make: MakeLinear) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.query, self.key, self.value = make(width, width), make(width, width), make(width, width)
        self.output = make(width, width)
        self.up, self.down = make(width, 4 * width), make(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norms[0](x)
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(h).unflatten(-1, (-1, WIDTH_OF_HEAD)).transpose(1, 2) for layer in layers)
        angles = rotary_angles(torch.arange(x.shape[1], device=x.device), WIDTH_OF_HEAD)
        mixed = F.scaled_dot_product_attention(
            apply_rotary(q, angles), apply_rotary(k, angles), v.to(q.dtype), is_causal=True
        )
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    """Transformer on bytes; predicts the next byte at every place."""

    def __init__(self, width: int, layers: int, make: MakeLinear) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.blocks = nn.Sequential(*[Block(width, make) for _ in range(layers)])
        self.norm, self.readout = nn.RMSNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.readout(self.norm(self.blocks(self.embedding(tokens))))


def macs_per_byte(model: nn.Module, length: int) -> int:
    """Multiply-adds of the forward pass for one predicted byte: layers, and scores and mixing of causal attention."""
    linear = sum(m.macs for m in model.modules() if isinstance(m, FactorisedLinear))
    linear += sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    attention = sum(m.output.in_features * (length + 1) for m in model.modules() if isinstance(m, Block))
    return linear + attention


def falling_rate(step: int, steps: int) -> float:
    """Return the share of the learning rate: a rise over a twentieth of the steps, then a cosine to 0."""
    return min(1.0, (step + 1) / max(1.0, 0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def held_out_loss(model: nn.Module, data: torch.Tensor, length: int, count: int) -> float:
    """Return the mean loss of evenly spaced windows."""
    starts = np.linspace(0, len(data) - length - 2, count).astype(np.int64)
    parts = np.array_split(starts, max(1, count * length // 16384))
    losses = [loss_of(model, windows(data, part, length)) * len(part) for part in parts]
    return float(torch.stack(losses).sum()) / count


def training_rows(data: torch.Tensor, draw: np.random.Generator, batch: int, length: int) -> torch.Tensor:
    """Return windows at random places."""
    return windows(data, draw.integers(0, len(data) - length - 1, batch), length)
