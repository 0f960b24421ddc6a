"""What a model is asked to keep: its next-token distribution, or its sentence embedding.

Both are described to second order by one matrix a layer, the second moment ``F`` of the gradient that reaches
the layer's output; this module says what is back-propagated to obtain it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch

from tnet.errors import InputError

__all__ = ["CausalObjective", "EncoderObjective", "Objective", "objective_of"]


class Objective(Protocol):
    """What calibration and evaluation need to know of a task."""

    causal: bool
    unit: str

    def outputs(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return what is to be kept: log-probabilities, or embeddings."""
        ...

    def losses(
        self,
        outputs: torch.Tensor,
        original: torch.Tensor,
        batch: dict[str, torch.Tensor],
        rng: torch.Generator,
    ) -> Iterator[torch.Tensor]:
        """Yield scalars whose output gradients have, on average, the second moment ``F`` summed over units."""
        ...

    def damage(self, outputs: torch.Tensor, original: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of ``outputs`` against the original's, summed over units."""
        ...

    def n_units(self, batch: dict[str, torch.Tensor]) -> int:
        """Count the units (tokens or sentences) over which the loss is a mean."""
        ...


class CausalObjective:
    r"""Next-token distribution: the Fisher information of the model's own predictions.

    With labels :math:`y_t \sim p(\cdot | x_{<t})` drawn from the model itself,
    :math:`E[g g^T]` with :math:`g = -\partial \log p(y) / \partial z` is the Fisher information of the outputs
    :math:`z`, hence :math:`KL \approx \tfrac12 \delta z^T F \delta z` in nats a token. No labels are needed.
    """

    causal = True
    unit = "token"

    def outputs(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities of the next token, shape ``(batch, length, vocabulary)``."""
        logits = model(**batch, use_cache=False).logits.float()
        return torch.log_softmax(logits, dim=-1)

    def losses(
        self,
        outputs: torch.Tensor,
        original: torch.Tensor,
        batch: dict[str, torch.Tensor],
        rng: torch.Generator,
    ) -> Iterator[torch.Tensor]:
        """Yield one summed negative log-likelihood of labels drawn from the original's predictions."""
        with torch.no_grad():
            # By inversion, with uniform numbers drawn on the host: one seed gives the same on every device.
            cumulative = original.detach().flatten(0, 1).exp().cumsum(-1)
            uniform = torch.rand(len(cumulative), 1, generator=rng).to(cumulative)
            labels = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
            labels = labels.clamp_(max=cumulative.shape[-1] - 1)
        mask = batch["attention_mask"].flatten()
        yield -(outputs.flatten(0, 1).gather(1, labels)[:, 0] * mask).sum()

    def damage(self, outputs: torch.Tensor, original: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the Kullback-Leibler divergence from the original, summed over tokens."""
        divergence = (original.exp() * (original - outputs)).sum(-1)
        return (divergence * batch["attention_mask"]).sum()

    def n_units(self, batch: dict[str, torch.Tensor]) -> int:
        """Count the tokens that are no padding."""
        return int(batch["attention_mask"].sum())


class EncoderObjective:
    r"""Normalised mean-pooled sentence embedding ``e``: its Gauss-Newton matrix.

    With random signs ``v``, :math:`E[(J^T v)(J^T v)^T] = J^T J`, so that
    :math:`1 - \cos = \tfrac12 \|\delta e\|^2 \approx \tfrac12 \delta z^T F \delta z` a sentence
    (Hutchinson's estimator; two sign vectors a sentence).
    """

    causal = False
    unit = "sentence"
    n_probes = 2

    def outputs(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return embeddings of unit norm, shape ``(batch, width)``."""
        hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None].to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def losses(
        self,
        outputs: torch.Tensor,
        original: torch.Tensor,
        batch: dict[str, torch.Tensor],
        rng: torch.Generator,
    ) -> Iterator[torch.Tensor]:
        """Yield one random projection of the embeddings for each probe, scaled so that the sum is ``J^T J``."""
        for _ in range(self.n_probes):
            signs = torch.randint(0, 2, outputs.shape, generator=rng).to(outputs) * 2 - 1
            yield (outputs * signs).sum() / self.n_probes**0.5

    def damage(self, outputs: torch.Tensor, original: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return 1 - cosine to the original, summed over sentences."""
        return (1 - (outputs * original).sum(-1)).sum()

    def n_units(self, batch: dict[str, torch.Tensor]) -> int:
        """Count the sentences."""
        return int(batch["input_ids"].shape[0])


def objective_of(model: Any) -> CausalObjective | EncoderObjective:
    """Return the objective of a transformers model: causal if it generates, else the embedding.

    Raises
    ------
    InputError
        For encoder-decoder models, and for models that neither generate nor are plain encoders.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "get_input_embeddings"):
        raise InputError(
            f"model is a {type(model).__name__}; compress takes a transformers model "
            "(AutoModelForCausalLM or AutoModel)."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{type(model).__name__} is an encoder-decoder; compress takes causal language models "
            "and encoders. Load its encoder alone."
        )
    if model.can_generate():
        return CausalObjective()
    if model.base_model is not model:
        raise InputError(
            f"{type(model).__name__} has a task head; compress takes causal language models "
            "and plain encoders. Load the encoder with AutoModel."
        )
    return EncoderObjective()
