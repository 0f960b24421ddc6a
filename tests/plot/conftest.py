"""Made-up results: pictures need no model."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from typing import Any

import matplotlib
import pytest

matplotlib.use("svg")

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def _close_figures() -> Any:
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture
def make_result() -> Make:
    """A function that makes a CompressionResult of two blocks with three layers each."""
    from tnet.compression import CausalQuality, Choice, CompressionResult, EncoderQuality, Settings
    from tnet.compression.targets import Target

    def make(
        perplexity: float = 12.0,
        *,
        prefix: str = "model.layers",
        rank: int = 4,
        blocks: tuple[int, ...] = (0, 1),
        encoder: bool = False,
    ) -> CompressionResult:
        targets, choices = [], []
        for block in blocks:
            names = [f"{prefix}.{block}.{kind}" for kind in ("attn.q_proj", "attn.k_proj", "mlp.up_proj")]
            targets += [Target(name, block, 16, 16, False, False) for name in names]
            choices.append(
                Choice(tuple(names[:2]), "shared", (rank,), rank * 48, rank * 96, rank * 48, 0.01 * (block + 2))
            )
            choices.append(Choice((names[2],), "dense", (), 256, 512, 256, 0.0))
        return CompressionResult(
            model=None,
            settings=Settings.checked(ratio=0.8, max_bytes=None),
            choices=tuple(choices),
            targets=tuple(targets),
            before=EncoderQuality(1.0, 1.0, 1.0, 5) if encoder else CausalQuality(10.0, 0.0, 1.0, 100),
            after=EncoderQuality(0.9, 0.8, 0.85, 5) if encoder else CausalQuality(perplexity, 0.1, 0.8, 100),
            predicted_loss=0.05,
            calibration_loss=0.04,
            held_out_loss=0.06,
            validation_losses={"first": 0.07, "second": 0.06},
            shrinkage=None,
            bytes_before=6000,
            bytes_after=5000,
            seconds={"moments-first": 1.5},
        )

    return make
