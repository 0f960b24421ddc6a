"""What compression cost: the compressed model against the original on text that it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import rankdata
from torch import nn

from tnet.compression.objective import CausalObjective, EncoderObjective
from tnet.compression.original import OriginalModel
from tnet.compression.sequences import TokenSequence, batches

__all__ = ["CausalQuality", "EncoderQuality", "Judge", "Quality", "mean_damage", "measure"]


@dataclass(frozen=True)
class CausalQuality:
    """Of a causal language model.

    Parameters
    ----------
    perplexity : float
        ``exp`` of the mean negative log-likelihood of the next token.
    kl : float
        Mean Kullback-Leibler divergence of the next-token distribution from the original's, nats a token.
    top1_agreement : float
        Share of tokens for which both models predict the same next token.
    n_tokens : int
        Predicted tokens.
    """

    perplexity: float
    kl: float
    top1_agreement: float
    n_tokens: int


@dataclass(frozen=True)
class EncoderQuality:
    """Of an encoder: fidelity of normalised mean-pooled embeddings.

    Parameters
    ----------
    cosine, cosine_min : float
        Mean and least cosine between the embeddings of a sentence by the two models.
    spearman : float
        Rank correlation of the pairwise similarities under the two models.
    n_sentences : int
    """

    cosine: float
    cosine_min: float
    spearman: float
    n_sentences: int


Quality = CausalQuality | EncoderQuality


def measure(
    model: Any,
    original: OriginalModel,
    objective: CausalObjective | EncoderObjective,
    sequences: Sequence[TokenSequence],
    *,
    batch_size: int = 4,
    on_sequences: Callable[[int], None] | None = None,
) -> tuple[Quality, Quality]:
    """Return the quality of the original and of the model as it is.

    ``on_sequences`` is told how many sequences are done.

    Notes
    -----
    Two forward passes over the sequences; outputs of one batch at a time are in memory.
    """
    if isinstance(objective, CausalObjective):
        return _measure_causal(model, original, objective, sequences, batch_size, on_sequences)
    return _measure_encoder(model, original, objective, sequences, batch_size, on_sequences)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, undone at the end."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _pairs(
    model: Any,
    original: OriginalModel,
    objective: CausalObjective | EncoderObjective,
    sequences: Sequence[TokenSequence],
    batch_size: int,
    on_sequences: Callable[[int], None] | None,
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]]:
    """Yield batch, original outputs and present outputs."""
    device = next(model.parameters()).device
    done = 0
    for batch in batches(sequences, batch_size, device):
        with _evaluating(model):
            with original.restored(model):
                reference = objective.outputs(model, batch)
            outputs = objective.outputs(model, batch)
        yield batch, reference, outputs
        done += len(batch["input_ids"])
        if on_sequences is not None:
            on_sequences(done)


def _measure_causal(
    model: Any,
    original: OriginalModel,
    objective: CausalObjective,
    sequences: Sequence[TokenSequence],
    batch_size: int,
    on_sequences: Callable[[int], None] | None,
) -> tuple[Quality, Quality]:
    nll = [0.0, 0.0]
    kl = agree = 0.0
    count = 0
    for batch, reference, outputs in _pairs(model, original, objective, sequences, batch_size, on_sequences):
        labels = batch["input_ids"][:, 1:, None]
        mask = batch["attention_mask"][:, 1:].to(torch.float32)
        reference, outputs = reference[:, :-1], outputs[:, :-1]
        for i, log_p in enumerate((reference, outputs)):
            nll[i] -= float((log_p.gather(-1, labels)[..., 0] * mask).sum())
        kl += float(((reference.exp() * (reference - outputs)).sum(-1) * mask).sum())
        agree += float(((reference.argmax(-1) == outputs.argmax(-1)) * mask).sum())
        count += int(mask.sum())
    return (
        CausalQuality(_perplexity(nll[0], count), 0.0, 1.0, count),
        CausalQuality(_perplexity(nll[1], count), kl / count, agree / count, count),
    )


def _perplexity(nll: float, count: int) -> float:
    mean = nll / count
    return math.exp(mean) if mean < 700 else math.inf


def _measure_encoder(
    model: Any,
    original: OriginalModel,
    objective: EncoderObjective,
    sequences: Sequence[TokenSequence],
    batch_size: int,
    on_sequences: Callable[[int], None] | None,
) -> tuple[Quality, Quality]:
    rows = [
        (reference.cpu(), outputs.cpu())
        for _, reference, outputs in _pairs(model, original, objective, sequences, batch_size, on_sequences)
    ]
    reference = torch.cat([row[0] for row in rows]).double()
    outputs = torch.cat([row[1] for row in rows]).double()
    cosine = (reference * outputs).sum(-1)
    n = len(cosine)
    above = torch.triu_indices(n, n, offset=1)
    ranks = torch.stack(
        [torch.from_numpy(rankdata((e @ e.T)[above[0], above[1]].numpy())) for e in (reference, outputs)]
    )
    # Spearman's coefficient is Pearson's of the ranks.
    spearman = float(torch.corrcoef(ranks)[0, 1]) if n > 2 else math.nan
    return (
        EncoderQuality(1.0, 1.0, 1.0, n),
        EncoderQuality(float(cosine.mean()), float(cosine.min()), spearman, n),
    )


def mean_damage(
    model: Any,
    original: OriginalModel,
    objective: CausalObjective | EncoderObjective,
    sequences: Sequence[TokenSequence],
    *,
    batch_size: int = 4,
) -> float:
    """Return the mean divergence a token, or the mean 1 - cosine a sentence."""
    total, units = 0.0, 0
    for batch, reference, outputs in _pairs(model, original, objective, sequences, batch_size, None):
        total += float(objective.damage(outputs, reference, batch))
        units += objective.n_units(batch)
    return total / units


class Judge:
    """Damage on a few held-out sequences, with the original's outputs kept: for many comparisons.

    Parameters
    ----------
    model, original, objective
        The compressed model, its dense layers and the task.
    sequences : sequence of TokenSequence
    batch_size : int

    Notes
    -----
    Memory of the kept outputs for T tokens and a vocabulary of V: 4 T V bytes.
    """

    def __init__(
        self,
        model: Any,
        original: OriginalModel,
        objective: CausalObjective | EncoderObjective,
        sequences: Sequence[TokenSequence],
        batch_size: int,
    ) -> None:
        self._objective = objective
        device = next(model.parameters()).device
        self._batches = list(batches(sequences, batch_size, device))
        with _evaluating(model), original.restored(model):
            self._references = [objective.outputs(model, batch) for batch in self._batches]
        self._units = sum(objective.n_units(batch) for batch in self._batches)

    def __call__(self, model: Any) -> float:
        """Return the mean damage of the model as it is."""
        total = 0.0
        with _evaluating(model):
            for batch, reference in zip(self._batches, self._references, strict=True):
                total += float(self._objective.damage(self._objective.outputs(model, batch), reference, batch))
        return total / self._units
