"""The Tucker tensor that the races share, and how its models are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["RANKS", "N", "measured", "noisy_tucker"]

N = 300
RANKS = (20, 20, 20)


def noisy_tucker(noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """Return a normal core multiplied by orthonormal factors, plus so much relative noise: 300^3, 216 MB."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(RANKS)
    for mode in range(3):
        factor = np.linalg.qr(rng.standard_normal((N, RANKS[mode])))[0]
        x = np.moveaxis(np.tensordot(factor, x, (1, mode)), 0, mode)
    x = np.ascontiguousarray(x)
    E = rng.standard_normal(x.shape)
    E *= noise * np.linalg.norm(x) / np.linalg.norm(E)
    x += E
    return x


def measured(x: np.ndarray, core: Any, factors: Sequence[Any]) -> dict[str, float]:
    """Return the true relative error of a Tucker model, whoever made it."""
    y = np.asarray(core)
    for mode, factor in enumerate(factors):
        y = np.moveaxis(np.tensordot(np.asarray(factor), y, (1, mode)), 0, mode)
    return {"error": float(np.linalg.norm(x - y) / np.linalg.norm(x))}
