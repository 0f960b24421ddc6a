"""Sums over calibration tokens, against a loop over tokens with autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertModel, LlamaConfig, LlamaForCausalLM

from tnet.compression import moments as moments_module
from tnet.compression.fitting import merge
from tnet.compression.moments import Moments, check_memory, collect
from tnet.compression.objective import CausalObjective, EncoderObjective, objective_of
from tnet.compression.original import OriginalModel
from tnet.compression.sequences import batches
from tnet.compression.surgery import install
from tnet.compression.targets import find_targets, group_by_input
from tnet.errors import InputError, MemoryLimitError


@pytest.fixture(params=["tiny_llama", "tiny_gpt2", "tiny_bert"])
def model(request):
    return request.getfixturevalue(request.param)


def sequences_of(model, lengths=(7, 4, 6, 7, 5)):
    generator = torch.Generator().manual_seed(11)
    rows = [torch.randint(3, model.config.vocab_size, (n,), generator=generator) for n in lengths]
    return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]


def layers_of(model):
    targets = find_targets(model)
    return targets, group_by_input(model, targets, {"input_ids": torch.tensor([[3, 4, 5, 6]])})


def gather(model, sequences, **options):
    targets, groups = layers_of(model)
    options = {"sensitivity": "fisher", "seed": 5, "batch_size": 2} | options
    return collect(model, objective_of(model), targets, groups, sequences, **options)


def by_hand(model, sequences, seed: int, batch_size: int):
    """The sums of :func:`collect`, one token at a time, with gradients by ``torch.autograd.grad``."""
    objective = objective_of(model)
    targets, groups = layers_of(model)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = [
        model.get_submodule(t.name).register_forward_hook(
            lambda _m, args, out, name=t.name: seen.__setitem__(name, (args[0], out))
        )
        for t in targets
    ]
    inputs = {g[0]: 0.0 for g in groups}
    means = dict(inputs)
    outputs = {t.name: 0.0 for t in targets}
    done = 0
    for batch in batches(sequences, batch_size, "cpu"):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + done)
        out = objective.outputs(model, batch)
        names = [t.name for t in targets]
        for loss in objective.losses(out, out, batch, rng):
            grads = torch.autograd.grad(loss, [seen[name][1] for name in names], retain_graph=True)
            for name, gradient in zip(names, grads, strict=True):
                for g in gradient.flatten(0, -2).double():
                    outputs[name] = outputs[name] + torch.outer(g, g)
        for leader in inputs:
            x = seen[leader][0].detach()
            for i in range(len(x)):
                for t in range(int(batch["attention_mask"][i].sum())):
                    v = x[i, t].double()
                    inputs[leader] = inputs[leader] + torch.outer(v, v)
                    means[leader] = means[leader] + v
        done += len(batch["input_ids"])
    for handle in handles:
        handle.remove()
    return inputs, means, outputs


def assert_near(actual, expected):
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-5 * scale + 1e-12)


def test_sums_equal_a_loop_over_tokens(model):
    sequences = sequences_of(model)
    moments = gather(model, sequences)
    inputs, means, outputs = by_hand(model, sequences, seed=5, batch_size=2)
    _, groups = layers_of(model)
    assert any(len(group) > 1 for group in groups) or model.config.model_type == "gpt2"
    assert moments.inputs.keys() == moments.means.keys() == inputs.keys(), "one moment a group, by its leader"
    assert moments.outputs.keys() == outputs.keys(), "one moment a layer"
    assert not moments.cross
    for name, expected in inputs.items():
        assert_near(moments.inputs[name], expected)
        assert_near(moments.means[name], means[name])
    for name, expected in outputs.items():
        assert float(expected.abs().max()) > 0
        assert_near(moments.outputs[name], expected)
    assert {float(n) for n in moments.n_rows.values()} == {29.0}
    assert moments.n_done == 5
    assert moments.n_units == (29 if objective_of(model).causal else 5)


def test_padding_changes_nothing(model):
    """Sequences one by one and padded together give the same sums of inputs."""
    sequences = sequences_of(model)
    alone = gather(model, sequences, batch_size=1, sensitivity="output")
    together = gather(model, sequences, batch_size=5, sensitivity="output")
    assert alone.n_rows == together.n_rows
    assert not alone.outputs
    for name in alone.inputs:
        assert_near(together.inputs[name], alone.inputs[name].double())
        assert_near(together.means[name], alone.means[name].double())


def exact_fisher(model, sequence, name: str) -> torch.Tensor:
    """Sum over labels: the second moment of the layer's output gradients with no sampling."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _a, out: seen.append(out))
    batch = next(batches([sequence], 1, "cpu"))
    log_p = CausalObjective().outputs(model, batch)[0]
    handle.remove()
    total = torch.zeros(seen[0].shape[-1], seen[0].shape[-1], dtype=torch.float64)
    for t in range(len(log_p)):
        for y in range(log_p.shape[1]):
            (g,) = torch.autograd.grad(log_p[t, y], seen[0], retain_graph=True)
            total += float(log_p[t, y].detach().exp()) * (g[0].T @ g[0]).double()
    return total


def test_sampled_gradients_average_to_the_exact_fisher_of_a_layer():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.5, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    sequence = {"input_ids": torch.tensor([3, 7, 5]), "attention_mask": torch.ones(3, dtype=torch.long)}
    names = ["model.layers.0.self_attn.v_proj", "model.layers.0.mlp.up_proj"]
    samples = [gather(model, [sequence], seed=seed, batch_size=1).outputs for seed in range(400)]
    for name in names:
        drawn = torch.stack([sample[name].double() for sample in samples])
        expected = exact_fisher(model, sequence, name)
        error = drawn.std(0) / len(drawn) ** 0.5
        assert bool(((drawn.mean(0) - expected).abs() <= 5 * error + 1e-9).all())
        assert float((drawn.mean(0) - expected).norm()) < 0.3 * float(expected.norm())


def test_an_interrupted_pass_goes_on_bit_by_bit(model):
    sequences = sequences_of(model)
    whole = gather(model, sequences)

    kept = {}

    def stop_after_two(moments: Moments) -> None:
        tensors, metadata = moments.state()
        kept["state"] = ({name: value.clone() for name, value in tensors.items()}, metadata)
        if moments.n_done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(model, sequences, on_batch=stop_after_two)
    resumed = gather(model, sequences, resume=Moments.from_state(*kept["state"]))
    tensors, metadata = resumed.state()
    expected, expected_metadata = whole.state()
    assert metadata == expected_metadata
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)


def test_seed_draws_the_labels(tiny_llama):
    sequences = sequences_of(tiny_llama)
    first, again, other = (gather(tiny_llama, sequences, seed=seed) for seed in (1, 1, 2))
    name = next(iter(first.outputs))
    assert torch.equal(first.outputs[name], again.outputs[name])
    assert not torch.equal(first.outputs[name], other.outputs[name])
    assert torch.equal(first.inputs[name], other.inputs[name])


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("sensitivity", ["fisher", "output"])
def test_model_is_left_as_it_was(model, fails, sensitivity):
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    model.train()
    next(model.children()).eval()
    flags = [parameter.requires_grad for parameter in parameters]
    modes = [module.training for module in model.modules()]
    values = {name: value.clone() for name, value in model.state_dict().items()}

    def on_batch(_moments: Moments) -> None:
        if fails:
            raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            gather(model, sequences_of(model), sensitivity=sensitivity, on_batch=on_batch)
    else:
        gather(model, sequences_of(model), sensitivity=sensitivity, on_batch=on_batch)
    assert [parameter.requires_grad for parameter in parameters] == flags
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in parameters)
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("sensitivity", ["fisher", "output"])
def test_non_finite_outputs_are_refused(model, sensitivity):
    with torch.no_grad():
        next(module for module in model.modules() if isinstance(module, nn.LayerNorm | nn.Embedding)).weight[:] = (
            torch.nan
        )
    with pytest.raises(InputError, match=r"non-finite values on calibration sequences 0 to 1.*NaN"):
        gather(model, sequences_of(model), sensitivity=sensitivity)


def perturbed(model, name: str) -> OriginalModel:
    """Replace one layer by a noisy copy; return the original ones."""
    original = OriginalModel(model, tuple(t.name for t in find_targets(model)))
    layer = model.get_submodule(name)
    noisy = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    with torch.no_grad():
        noisy.weight.copy_(layer.weight + 0.3 * torch.randn(layer.weight.shape))
    install(model, name, noisy)
    return original


def inputs_of(model, name: str, batch) -> torch.Tensor:
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    with torch.no_grad():
        model(**batch)
    handle.remove()
    return seen[0][batch["attention_mask"].bool()].double()


def test_cross_moments_pair_inputs_of_the_original_and_the_compressed_model(tiny_llama):
    sequences = sequences_of(tiny_llama)
    batch = next(batches(sequences, 5, "cpu"))
    reader = "model.layers.1.mlp.gate_proj"
    before = inputs_of(tiny_llama, reader, batch)
    plain = gather(tiny_llama, sequences, batch_size=5)
    original = perturbed(tiny_llama, "model.layers.0.self_attn.v_proj")
    after = inputs_of(tiny_llama, reader, batch)
    assert not torch.allclose(before, after)
    _, groups = layers_of(tiny_llama)
    moments = gather(tiny_llama, sequences, batch_size=5, original=original)
    assert moments.cross.keys() == {group[0] for group in groups}
    assert_near(moments.cross[reader], before.T @ after)
    assert_near(moments.inputs[reader], after.T @ after)
    first = {name: value.clone() for name, value in moments.cross.items()}
    merge(plain, moments)
    assert_near(moments.cross[reader], before.T @ before + before.T @ after)
    assert_near(moments.inputs[reader], before.T @ before + after.T @ after)
    assert_near(moments.means[reader], before.sum(0) + after.sum(0))
    assert not torch.equal(first[reader], moments.cross[reader])
    assert (float(moments.n_rows[reader]), moments.n_units) == (58.0, 58)


def test_labels_of_a_compressed_model_come_from_the_original(tiny_llama):
    """With the labels of the original the mean gradient is p - q, not 0 up to sampling."""
    sequences = sequences_of(tiny_llama)
    original = perturbed(tiny_llama, "model.layers.0.self_attn.v_proj")
    calls = []

    class Spy(CausalObjective):
        def losses(self, outputs, original, batch, rng):
            calls.append((outputs.detach(), original.detach()))
            return super().losses(outputs, original, batch, rng)

    targets, groups = layers_of(tiny_llama)
    collect(tiny_llama, Spy(), targets, groups, sequences, sensitivity="fisher", seed=0, original=original)
    with original.restored(tiny_llama), torch.no_grad():
        expected = CausalObjective().outputs(tiny_llama, next(batches(sequences, 4, "cpu")))
    outputs, reference = calls[0]
    assert torch.equal(reference, expected)
    assert not torch.allclose(outputs, reference)


def test_a_layer_that_is_called_several_times_counts_every_call():
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=40, embedding_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=3,
        num_hidden_groups=1, num_attention_heads=2, max_position_embeddings=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = AlbertModel(config).eval()
    sequences = sequences_of(model)
    targets, groups = layers_of(model)
    name = next(t.name for t in targets if t.name.endswith("ffn"))
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    with torch.no_grad():
        model(**next(batches(sequences, 5, "cpu")))
    handle.remove()
    mask = next(batches(sequences, 5, "cpu"))["attention_mask"].bool()
    expected = torch.cat([x[mask] for x in seen]).double()
    assert len(seen) == 3
    moments = gather(model, sequences, batch_size=5, original=OriginalModel(model, tuple(t.name for t in targets)))
    leader = next(group[0] for group in groups if name in group)
    assert_near(moments.mean(leader), expected.mean(0))
    assert_near(moments.second(leader), expected.T @ expected / len(expected))
    assert_near(moments.cross[leader], moments.inputs[leader].double())


def test_layers_that_the_answer_does_not_use_are_refused_by_name(tiny_bert):
    sequences = sequences_of(tiny_bert)
    arguments = {"objective": EncoderObjective(), "sequences": sequences, "seed": 0}
    targets = find_targets(tiny_bert, r"pooler|layer\.1\.output")
    groups = tuple((t.name,) for t in targets)
    with pytest.raises(InputError, match=r"pooler\.dense reads an input of shape \(4, 32\).*targets="):
        collect(tiny_bert, targets=targets, groups=groups, sensitivity="output", **arguments)
    tiny_bert.pooler.dense.forward = lambda x: 2 * x  # is called, and nothing comes of it
    tiny_bert.pooler.forward = lambda hidden: tiny_bert.pooler.dense(hidden)[:, 0]
    with pytest.raises(InputError, match=r"^pooler\.dense: not used.*targets="):
        collect(tiny_bert, targets=targets, groups=groups, sensitivity="fisher", **arguments)
    tiny_bert.pooler.forward = lambda hidden: hidden[:, 0]
    for sensitivity in ("fisher", "output"):
        with pytest.raises(InputError, match=r"^pooler\.dense: not used.*targets="):
            collect(tiny_bert, targets=targets, groups=groups, sensitivity=sensitivity, **arguments)


def test_too_little_memory_is_told_beforehand(tiny_llama, monkeypatch):
    targets, groups = layers_of(tiny_llama)
    needed = 4 * (3 * sum({t.name: t for t in targets}[g[0]].in_features ** 2 for g in groups))
    forward_only = needed + 0
    needed += 4 * 2 * sum(t.out_features**2 for t in targets)
    device = torch.device("cpu")
    monkeypatch.setattr(moments_module, "free_bytes", lambda _x: needed - 1)
    with pytest.raises(MemoryLimitError, match=r"14 layers.*targets=.*sensitivity=\"output\""):
        check_memory(targets, groups, "fisher", device)
    check_memory(targets, groups, "output", device)
    monkeypatch.setattr(moments_module, "free_bytes", lambda _x: forward_only - 1)
    with pytest.raises(MemoryLimitError):
        check_memory(targets, groups, "output", device)
    monkeypatch.setattr(moments_module, "free_bytes", lambda _x: None)
    check_memory(targets, groups, "fisher", device)
