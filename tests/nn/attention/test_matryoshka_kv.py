from __future__ import annotations

import copy
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.nn.attention import HeadProjection, KVLoss, MatryoshkaTraining, measure_kv_loss, project_kv
from tnet.nn.attention.kv_distillation import cayley, mean_divergence

SIZES = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip


def llama(seed: int = 0) -> LlamaForCausalLM:
    """Two layers, of which the keys and values matter: weights large enough for peaked attention."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.mul_(12)
    return model


def tokens(n: int = 4, length: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 23, (n, length), generator=torch.Generator().manual_seed(seed))


def test_full_ranks_change_nothing_and_restore_brings_everything_back():
    model = llama()
    names = list(model.state_dict())
    layers = [layer.self_attn for layer in model.model.layers]
    before = model(tokens()).logits
    projection = project_kv(model, tokens(), batch_size=3)
    torch.testing.assert_close(model(tokens()).logits, before, rtol=1e-4, atol=1e-4)
    assert projection.share == 1
    assert projection.numbers_per_token == 2 * 2 * 2 * 8
    assert projection.bytes_per_token == 4 * 64
    assert set(names) < set(model.state_dict())
    assert projection.restore() is model
    assert [layer.self_attn for layer in model.model.layers] == layers
    assert list(model.state_dict()) == names
    assert torch.equal(model(tokens()).logits, before)
    with pytest.raises(InputError, match="restored"):
        _ = projection.ranks


def test_bases_are_the_principal_axes_of_turned_keys_and_of_values():
    model = llama()
    cache = DynamicCache()
    model(tokens(), cache=cache)
    projection = project_kv(model, tokens(), batch_size=2)
    bases = projection.bases
    for i, layer in enumerate(cache.layers):
        for kind, x in enumerate((layer.keys, layer.values)):
            for head in range(2):
                rows = x[:, head].flatten(0, 1).double()
                _, s, vh = torch.linalg.svd(rows)
                basis = bases[i, kind, head].double()
                torch.testing.assert_close(basis.T @ basis, torch.eye(8).double(), rtol=0, atol=1e-5)
                torch.testing.assert_close((rows @ basis).norm(dim=0), s, rtol=1e-3, atol=1e-3)
                torch.testing.assert_close((basis * vh.T).sum(0).abs()[:2], torch.ones(2).double(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", [LlamaForCausalLM, Qwen2ForCausalLM])
def test_cut_attention_is_attention_on_projected_keys_and_values(kind, monkeypatch):
    torch.manual_seed(0)
    config = LlamaConfig if kind is LlamaForCausalLM else Qwen2Config
    model = kind(config(**SIZES)).eval()
    plain = copy.deepcopy(model)
    projection = project_kv(model, tokens())
    ranks = np.array([[[3, 8], [1, 4]], [[5, 2], [7, 7]]])
    projection.set_ranks(ranks)
    np.testing.assert_array_equal(projection.ranks, ranks)
    assert projection.numbers_per_token == ranks.sum()
    assert projection.share == pytest.approx(ranks.sum() / 64)
    bases = projection.bases
    projectors = [
        [[b[:, :r] @ b[:, :r].T for b, r in zip(*heads, strict=True)] for heads in zip(*layer, strict=True)]
        for layer in zip(bases, ranks, strict=True)
    ]

    def update(self, keys, values, layer_idx, *unused, **also_unused):
        parts = zip((keys, values), projectors[layer_idx], strict=True)
        return tuple(torch.stack([x[:, i] @ p for i, p in enumerate(ps)], dim=1) for x, ps in parts)

    monkeypatch.setattr(DynamicCache, "update", update)
    expected = plain(tokens(), cache=DynamicCache()).logits
    torch.testing.assert_close(model(tokens(), use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
    assert (plain(tokens(), use_cache=False).logits - expected).abs().max() > 1e-3


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_cache_holds_the_kept_coordinates_alone_and_gives_the_same(implementation):
    model = llama()
    model.set_attn_implementation(implementation)
    projection = project_kv(model, tokens())
    projection.set_ranks(np.array([[[3, 8], [1, 4]], [[5, 2], [7, 7]]]))
    whole = model(tokens(), use_cache=False).logits
    cache = DynamicCache()
    pieces = [model(piece, cache=cache).logits for piece in tokens().split([4, 3, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)
    held = sum(part.numel() for layer in cache.layers for part in (layer.keys, layer.values))
    assert held == 4 * 9 * projection.numbers_per_token


def test_generation_and_padding():
    model = llama()
    plain = copy.deepcopy(model)
    project_kv(model, tokens())
    prompt = tokens(2, 5)
    mask = torch.ones_like(prompt)
    mask[1, :2] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(prompt, **options), plain.generate(prompt, **options))
    options |= {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(prompt, **options), plain.generate(prompt, **options))


def test_ranks_and_bases_travel_in_the_state_description():
    model = llama()
    projection = project_kv(model, tokens())
    projection.set_ranks(5)
    state = model.state_dict()
    assert "model.layers.0.self_attn.key_projection.basis" in state
    other = llama(1)
    again = project_kv(other, tokens())
    other.load_state_dict(state)
    np.testing.assert_array_equal(again.ranks, np.full((2, 2, 2), 5))
    torch.testing.assert_close(other(tokens()).logits, model(tokens()).logits)
    assert "ranks=(5, 5)" in repr(model)


def test_cayley_is_orthogonal_and_begins_at_the_identity():
    raw = torch.randn(3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    q = cayley(raw)
    torch.testing.assert_close(q @ q.mT, torch.eye(6).double().expand(3, 6, 6))
    torch.testing.assert_close(torch.linalg.det(q), torch.ones(3).double())
    assert torch.equal(cayley(torch.zeros(2, 4, 4)), torch.eye(4).expand(2, 4, 4))
    torch.autograd.gradcheck(cayley, (raw[:1, :4, :4].detach().requires_grad_(),))


def test_divergence_is_the_definition():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 3, 5, generator=generator)
    p, q = a.softmax(-1), b.softmax(-1)
    torch.testing.assert_close(mean_divergence(a, b), (p * (p / q).log()).sum(-1).mean())


def test_training_lowers_the_loss_of_cuts_below_that_of_principal_axes():
    model = llama()
    projection = project_kv(model, tokens(8))
    start = projection.bases
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    before = model(tokens()).logits
    cut = {}
    for name in ("before", "after"):
        projection.set_ranks(4)
        cut[name] = mean_divergence(before, model(tokens()).logits).item()
        projection.set_ranks(8)
        if name == "before":
            training = MatryoshkaTraining(steps=40, batch_size=8, learning_rate=2e-2)
            history = training.fit(projection, tokens(8), rng=3)
    assert cut["after"] < 0.8 * cut["before"]
    assert len(history) == 40
    torch.testing.assert_close(
        projection.bases.mT @ projection.bases, torch.eye(8).expand(2, 2, 2, 8, 8), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(model(tokens()).logits, before, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())
    trained = projection.bases
    projection.set_bases(start)
    assert training.fit(projection, tokens(8), rng=3) == history
    assert torch.equal(projection.bases, trained)


def test_measured_losses_are_those_of_one_cut():
    model = llama()
    projection = project_kv(model, tokens())
    before = model(tokens()).logits
    loss = measure_kv_loss(projection, tokens(), levels=[2, 5], batch_size=3)
    assert loss.levels == (2, 5, 8)
    assert loss.divergence.shape == (2, 2, 2, 3)
    assert (loss.divergence[..., -1] == 0).all()
    assert (np.diff(loss.divergence, axis=-1) <= 0).all()
    ranks = np.full((2, 2, 2), 8)
    ranks[1, 0, 1] = 2
    projection.set_ranks(ranks)
    cut = mean_divergence(before, model(tokens()).logits).item()
    assert loss.divergence[1, 0, 1, 0] == pytest.approx(cut, rel=1e-3)
    assert measure_kv_loss(projection, tokens(1, 2)).levels == (1, 2, 3, 4, 5, 6, 7, 8)


@pytest.mark.parametrize("share", [0.25, 0.4, 0.6, 0.75, 1.0])
def test_searched_ranks_meet_the_budget_and_beat_uniform_ones(share):
    draw = np.random.default_rng(0)
    levels = (2, 4, 6, 8)
    curves = np.cumsum(draw.exponential(size=(3, 2, 2, 4)) ** 3, axis=-1)[..., ::-1]
    curves = curves - curves[..., -1:]
    ranks = KVLoss(levels, curves).ranks(share)
    assert set(ranks.ravel()) <= set(levels)
    assert share * 8 * 12 - 2 < ranks.sum() <= share * 8 * 12 + 1e-9
    if share in (0.25, 0.75, 1.0):

        def total(of):
            return np.take_along_axis(curves, np.searchsorted(levels, of)[..., None], -1).sum()

        assert total(ranks) <= total(np.full((3, 2, 2), int(share * 8)))


def test_greedy_cuts_are_optimal_for_convex_losses():
    from itertools import product

    levels = np.array([1, 2, 3, 4])
    slopes = np.sort(np.random.default_rng(1).uniform(size=(1, 2, 2, 3)), axis=-1)[..., ::-1]
    curves = np.concatenate((np.cumsum(slopes[..., ::-1], -1)[..., ::-1], np.zeros((1, 2, 2, 1))), axis=-1)
    ranks = KVLoss(tuple(levels.tolist()), curves).ranks(0.625)
    flat = curves.reshape(4, 4)
    best = min(
        sum(flat[i, r - 1] for i, r in enumerate(given)) for given in product(levels, repeat=4) if sum(given) <= 10
    )
    assert ranks.sum() == 10
    assert sum(flat[i, r - 1] for i, r in enumerate(ranks.ravel())) == pytest.approx(best)


def test_bad_models_and_tokens_are_refused_and_leave_the_model_as_it_was():
    torch.manual_seed(0)
    with pytest.raises(BackendError, match="no attention with a k_proj"):
        project_kv(nn.Sequential(nn.Linear(2, 2)), tokens())
    bert = BertModel(
        BertConfig(vocab_size=23, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    )
    with pytest.raises(BackendError, match="k_proj"):
        project_kv(bert, tokens())

    class Capped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k_proj = nn.Linear(2, 2)

    with pytest.raises(BackendError, match=r"Capped: keys and values of LlamaAttention"):
        project_kv(nn.ModuleList([Capped()]), tokens())
    model = llama()
    layers = [layer.self_attn for layer in model.model.layers]
    for given in (tokens()[0], tokens().float(), [[1, 2]], tokens()[:0]):
        with pytest.raises(ShapeError, match="integers of shape"):
            project_kv(model, given)
    with torch.no_grad():
        layers[1].k_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite on the calibration"):
        project_kv(model, tokens())
    assert [layer.self_attn for layer in model.model.layers] == layers


def test_bad_ranks_bases_levels_and_shares_are_refused():
    projection = project_kv(llama(), tokens())
    for ranks in (0, 9, np.full((2, 2, 2), 1.5), np.zeros((2, 2, 2), int)):
        with pytest.raises(RankError, match="give integers, 1 to 8"):
            projection.set_ranks(ranks)
    with pytest.raises(ShapeError, match=r"ranks of shape \(2, 2\): give \(2, 2, 2\)"):
        projection.set_ranks(np.full((2, 2), 3))
    with pytest.raises(ShapeError, match=r"bases of shape \(2, 2, 2, 8, 7\)"):
        projection.set_bases(projection.bases[..., :7])
    with pytest.raises(RankError, match=r"ranks \(1,\): give 2 integers"):
        HeadProjection(2, 4).set_ranks([1])
    with pytest.raises(ShapeError, match=r"HeadProjection .*basis \(2, 4, 4\), not \(2, 6, 6\)"):
        HeadProjection(2, 6).load_state_dict(HeadProjection(2, 4).state_dict())
    for levels in ([0], [9], []):
        with pytest.raises(RankError, match="levels"):
            measure_kv_loss(projection, tokens(), levels=levels)
    for share in (0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="share"):
            KVLoss((2, 8), np.zeros((1, 2, 2, 2))).ranks(share)
    layer = projection.model.get_submodule(projection.names[0])
    x = torch.zeros(1, 2, 16)
    with pytest.raises(InputError, match="attention mask of shape"):
        layer(x, (torch.ones(1, 2, 8), torch.zeros(1, 2, 8)), attention_mask=torch.ones(1, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0}, {"steps": 1.5}, {"batch_size": True}, {"learning_rate": 0}, {"learning_rate": float("nan")},
        {"shares": (0.5, 0.2)}, {"shares": (0.5, 1.2)}, {"spread": -1},
    ],
)  # fmt: skip
def test_bad_settings_of_training_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        MatryoshkaTraining(**options)
