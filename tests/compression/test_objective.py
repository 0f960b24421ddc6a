from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from tnet.compression.objective import CausalObjective, EncoderObjective, objective_of
from tnet.errors import InputError


def fake_batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(rows, length, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logits(size: int, seed: int = 0) -> torch.Tensor:
    return 1.5 * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def within_five_sigma(samples: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the mean of independent samples lies within the statistical error of the expected value."""
    error = samples.std(0) / len(samples) ** 0.5
    return bool(((samples.mean(0) - expected).abs() <= 5 * error + 1e-9).all())


def test_gradients_of_sampled_labels_have_the_fisher_information_as_second_moment():
    n = 20_000
    z = logits(6).expand(1, n, 6).clone().requires_grad_()
    log_p = torch.log_softmax(z, -1)
    (loss,) = CausalObjective().losses(log_p, log_p, fake_batch(1, n), torch.Generator().manual_seed(1))
    (g,) = torch.autograd.grad(loss, z)
    p = torch.softmax(logits(6), 0)
    fisher = torch.diag(p) - torch.outer(p, p)
    assert within_five_sigma(torch.einsum("ti,tj->tij", g[0], g[0]), fisher)
    assert within_five_sigma(g[0], torch.zeros(6, dtype=torch.float64))
    assert not within_five_sigma(torch.einsum("ti,tj->tij", g[0], g[0]), torch.diag(p))


def test_labels_come_from_the_original_and_padding_has_none():
    n = 4000
    original = torch.log_softmax(logits(5, 3), 0).expand(1, n, 5)
    z = logits(5, 4).expand(1, n, 5).clone().requires_grad_()
    batch = fake_batch(1, n)
    batch["attention_mask"][:, n // 2 :] = 0
    outputs = torch.log_softmax(z, -1)
    (loss,) = CausalObjective().losses(outputs, original, batch, torch.Generator().manual_seed(0))
    (g,) = torch.autograd.grad(loss, z)
    assert torch.equal(g[0, n // 2 :], torch.zeros(n // 2, 5, dtype=torch.float64))
    labels = (torch.softmax(z[0, : n // 2], -1) - g[0, : n // 2]).detach()  # g = p - one-hot label
    assert within_five_sigma(labels, original[0, 0].exp())


def test_labels_of_a_certain_model_are_certain():
    certain = torch.log(torch.tensor([0.0, 1.0, 0.0])).expand(1, 50, 3)
    outputs = torch.log_softmax(torch.zeros(1, 50, 3), -1)
    (loss,) = CausalObjective().losses(outputs, certain, fake_batch(1, 50), torch.Generator().manual_seed(0))
    uneven = outputs + torch.tensor([0.0, 7.0, 0.0])
    (other,) = CausalObjective().losses(uneven, certain, fake_batch(1, 50), torch.Generator().manual_seed(0))
    assert float(loss - other) == pytest.approx(350.0, rel=1e-5)


@pytest.mark.parametrize("size", [1e-2, 1e-3])
def test_quadratic_form_of_the_fisher_predicts_small_divergences(size):
    objective, batch = CausalObjective(), fake_batch(1, 1)
    z, delta = logits(8), size * logits(8, 5)
    p = torch.softmax(z, 0)
    predicted = 0.5 * float(delta @ (torch.diag(p) - torch.outer(p, p)) @ delta)
    before, after = torch.log_softmax(z, 0), torch.log_softmax(z + delta, 0)
    measured = float(objective.damage(after[None, None], before[None, None], batch))
    assert measured == pytest.approx(predicted, rel=5 * size)


def test_damage_of_a_causal_model_is_the_divergence_of_unpadded_tokens():
    objective, batch = CausalObjective(), fake_batch(2, 3)
    batch["attention_mask"][1, 1:] = 0
    before = torch.log_softmax(logits(2 * 3 * 4, 1).reshape(2, 3, 4), -1)
    after = torch.log_softmax(logits(2 * 3 * 4, 2).reshape(2, 3, 4), -1)
    expected = sum(
        float((before[i, t].exp() * (before[i, t] - after[i, t])).sum()) for i, t in ((0, 0), (0, 1), (0, 2), (1, 0))
    )
    assert float(objective.damage(after, before, batch)) == pytest.approx(expected, rel=1e-12)
    assert float(objective.damage(before, before, batch)) == 0.0
    assert objective.n_units(batch) == 4


def embedding_jacobian(z: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(lambda x: torch.nn.functional.normalize(x, dim=-1), z)


def test_random_signs_estimate_the_gauss_newton_matrix_of_the_embedding():
    n = 10_000
    z = logits(5, 6).expand(n, 5).clone().requires_grad_()
    e = torch.nn.functional.normalize(z, dim=-1)
    losses = list(EncoderObjective().losses(e, e, fake_batch(n, 1), torch.Generator().manual_seed(2)))
    assert len(losses) == 2
    samples = torch.zeros(n, 5, 5, dtype=torch.float64)
    for loss in losses:
        (g,) = torch.autograd.grad(loss, z, retain_graph=True)
        samples += torch.einsum("ti,tj->tij", g, g)
    jacobian = embedding_jacobian(logits(5, 6))
    assert within_five_sigma(samples, jacobian.T @ jacobian)


@pytest.mark.parametrize("size", [1e-2, 1e-3])
def test_gauss_newton_form_predicts_small_losses_of_cosine(size):
    z, delta = logits(8, 7), size * logits(8, 8)
    jacobian = embedding_jacobian(z)
    predicted = 0.5 * float((jacobian @ delta).square().sum())
    before, after = (torch.nn.functional.normalize(x, dim=-1)[None] for x in (z, z + delta))
    measured = float(EncoderObjective().damage(after, before, fake_batch(1, 3)))
    assert measured == pytest.approx(predicted, rel=20 * size)


def test_encoder_outputs_are_unit_means_of_unpadded_tokens(tiny_bert):
    objective = EncoderObjective()
    ids = torch.tensor([[5, 6, 7, 0, 0], [8, 9, 10, 11, 12]])
    mask = (ids > 0).long()
    with torch.no_grad():
        padded = objective.outputs(tiny_bert, {"input_ids": ids, "attention_mask": mask})
        alone = tiny_bert(input_ids=ids[:1, :3]).last_hidden_state.mean(1)[0]
    assert objective.n_units({"input_ids": ids, "attention_mask": mask}) == 2
    torch.testing.assert_close(padded.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(padded[0], alone / alone.norm(), rtol=1e-4, atol=1e-5)


def test_causal_outputs_are_log_probabilities(tiny_llama):
    with torch.no_grad():
        outputs = CausalObjective().outputs(tiny_llama, fake_batch(2, 3))
    assert outputs.shape == (2, 3, tiny_llama.config.vocab_size)
    torch.testing.assert_close(outputs.exp().sum(-1), torch.ones(2, 3))


def test_kind_of_model_decides(tiny_llama, tiny_gpt2, tiny_bert):
    assert objective_of(tiny_llama).causal
    assert objective_of(tiny_gpt2).unit == "token"
    assert objective_of(tiny_bert).unit == "sentence"
    assert isinstance(objective_of(tiny_llama.model), EncoderObjective), "a bare decoder embeds"


SMALL_BERT = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}
SMALL_T5 = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: nn.Linear(3, 3), "model is a Linear.*transformers model"),
        (lambda _: "gpt2", "model is a str.*transformers model"),
        (lambda _: T5ForConditionalGeneration(T5Config(**SMALL_T5)), "encoder-decoder.*Load its encoder alone"),
        (lambda _: BertForMaskedLM(BertConfig(**SMALL_BERT)), "task head.*AutoModel"),
        (lambda _: BertForSequenceClassification(BertConfig(**SMALL_BERT)), "task head.*AutoModel"),
        (lambda _: BertForQuestionAnswering(BertConfig(**SMALL_BERT)), "task head.*AutoModel"),
        (lambda llama: LlamaForSequenceClassification(llama.config), "task head.*AutoModel"),
    ],
)
def test_other_models_are_refused(tiny_llama, make, message):
    tiny_llama.config.pad_token_id = 0
    with pytest.raises(InputError, match=message):
        objective_of(make(tiny_llama))


def test_the_encoder_of_an_encoder_decoder_is_taken():
    assert isinstance(objective_of(T5EncoderModel(T5Config(**SMALL_T5))), EncoderObjective)
