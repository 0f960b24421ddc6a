from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from tnet.compression.objective import objective_of
from tnet.compression.original import OriginalModel
from tnet.compression.quality import CausalQuality, EncoderQuality, Judge, mean_damage, measure
from tnet.compression.targets import find_targets


def sequences_of(model, lengths=(7, 4, 6, 2)):
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, model.config.vocab_size, (n,), generator=generator) for n in lengths]
    return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]


@pytest.fixture(params=["tiny_llama", "tiny_gpt2", "tiny_bert"])
def pair(request):
    """A model before and after damage, and what was taken out of the latter."""
    model = request.getfixturevalue(request.param)
    if model.can_generate():  # a random head predicts nothing that could be lost
        model.get_output_embeddings().weight.data.mul_(10)
    before = copy.deepcopy(model)
    original = OriginalModel(model, tuple(target.name for target in find_targets(model)))
    for name, module in original.modules.items():
        damaged = copy.deepcopy(module)
        damaged.weight.data += 0.02 * torch.randn(damaged.weight.shape, generator=torch.Generator().manual_seed(4))
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, damaged)
    return before, model, original


def causal_by_hand(before, after, sequences) -> tuple[float, float, float, float, int]:
    nll_before, nll_after, kl, same = [], [], [], []
    with torch.no_grad():
        for sequence in sequences:
            ids = sequence["input_ids"]
            p, q = (torch.log_softmax(m(input_ids=ids[None]).logits[0].double(), -1) for m in (before, after))
            for t in range(len(ids) - 1):
                nll_before.append(-p[t, ids[t + 1]])
                nll_after.append(-q[t, ids[t + 1]])
                kl.append((p[t].exp() * (p[t] - q[t])).sum())
                same.append(p[t].argmax() == q[t].argmax())
    mean = [float(torch.stack(x).double().mean()) for x in (nll_before, nll_after, kl, same)]
    return math.exp(mean[0]), math.exp(mean[1]), mean[2], mean[3], len(kl)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_measures_are_those_of_a_loop_over_sequences(pair, batch_size):
    before, model, original = pair
    sequences, objective = sequences_of(model), objective_of(model)
    done = []
    first, second = measure(model, original, objective, sequences, batch_size=batch_size, on_sequences=done.append)
    assert done[-1] == len(sequences)
    if isinstance(second, CausalQuality):
        ppl_before, ppl_after, kl, agreement, count = causal_by_hand(before, model, sequences)
        assert first == CausalQuality(pytest.approx(ppl_before, rel=1e-4), 0.0, 1.0, count)
        assert second.perplexity == pytest.approx(ppl_after, rel=1e-4)
        assert second.kl == pytest.approx(kl, rel=1e-3)
        assert kl > 1e-4
        assert second.top1_agreement == pytest.approx(agreement)
        assert second.n_tokens == count == 15, "the first token of a sequence is not predicted"
    else:
        assert isinstance(second, EncoderQuality)
        with torch.no_grad():
            embeddings = [
                torch.stack([m(input_ids=s["input_ids"][None]).last_hidden_state[0].mean(0) for s in sequences])
                for m in (before, model)
            ]
        e, f = (nn.functional.normalize(x.double(), dim=-1) for x in embeddings)
        cosine = (e * f).sum(-1)
        above = torch.triu_indices(4, 4, 1)
        expected = spearmanr((e @ e.T)[above[0], above[1]], (f @ f.T)[above[0], above[1]]).statistic
        assert first == EncoderQuality(1.0, 1.0, 1.0, 4)
        assert 1 - second.cosine == pytest.approx(1 - float(cosine.mean()), rel=1e-2)
        assert 1 - second.cosine_min == pytest.approx(1 - float(cosine.min()), rel=1e-2)
        assert second.cosine < 1 - 1e-5
        assert second.spearman == pytest.approx(expected, abs=1e-9)


def test_damage_and_judge_agree_and_leave_the_model_alone(pair):
    _, model, original = pair
    sequences, objective = sequences_of(model), objective_of(model)
    model.train()
    present = {name: model.get_submodule(name) for name in original.modules}
    damage = mean_damage(model, original, objective, sequences, batch_size=2)
    judge = Judge(model, original, objective, sequences, 2)
    assert damage == pytest.approx(judge(model), rel=1e-6)
    assert damage > 1e-5
    assert all(module.training for module in model.modules() if module not in original.modules.values())
    assert {name: model.get_submodule(name) for name in original.modules} == present
    original.put_back(model)
    assert judge(model) == pytest.approx(0.0, abs=1e-6)


def test_original_layers_come_back_even_if_the_block_fails(pair):
    _, model, original = pair
    present = {name: model.get_submodule(name) for name in original.modules}

    def fail_inside() -> None:
        with original.restored(model):
            assert {name: model.get_submodule(name) for name in present} == original.modules
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_inside()
    assert {name: model.get_submodule(name) for name in present} == present


def test_perplexity_beyond_floating_point_is_infinite(tiny_llama):
    original = OriginalModel(tiny_llama, tuple(target.name for target in find_targets(tiny_llama)))
    tiny_llama.lm_head.weight.data.mul_(1e5)
    quality, _ = measure(tiny_llama, original, objective_of(tiny_llama), sequences_of(tiny_llama))
    assert quality.perplexity == math.inf


def test_rank_correlation_of_two_sentences_is_undefined(tiny_bert):
    original = OriginalModel(tiny_bert, tuple(target.name for target in find_targets(tiny_bert)))
    _, quality = measure(tiny_bert, original, objective_of(tiny_bert), sequences_of(tiny_bert, (3, 4)))
    assert math.isnan(quality.spearman)
