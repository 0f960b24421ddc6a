"""What compression keeps of a model that has learned something."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors import safe_open
from transformers import AlbertConfig, AlbertModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tnet.compression import CalibrationWarning, CompressionResult, compress, pipeline
from tnet.compression.baselines import compress_uniform
from tnet.compression.surgery import factorised_layers
from tnet.compression.targets import find_targets

KINDS = ("dense", "interpolative", "shared")
VOCABULARY = 16


def text(n: int, length: int, seed: int) -> torch.Tensor:
    """Sequences in which a token follows from the third one before, with some noise: attention must learn it."""
    generator = torch.Generator().manual_seed(seed)
    rows = list(torch.randint(0, VOCABULARY, (3, n), generator=generator))
    for _ in range(length - 3):
        following = (rows[-3] * 5 + 7) % VOCABULARY
        noise = torch.rand(n, generator=generator) < 0.05
        rows.append(torch.where(noise, torch.randint(0, VOCABULARY, (n,), generator=generator), following))
    return torch.stack(rows, dim=1)


@pytest.fixture(scope="module")
def trained() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1,
            tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=None,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for step in range(120):
            ids = text(16, 24, 1000 + step)
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert float(loss.detach()) < 1.0, "the model has not learned the rule"
    return model.eval()


@pytest.fixture
def learned(trained) -> LlamaForCausalLM:
    return copy.deepcopy(trained)


DATA = {
    "calibration": [{"input_ids": text(40, 24, 1)}],
    "evaluation": [{"input_ids": text(20, 24, 2)}],
    "progress": False,
}


def state(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=text(4, 24, 3)).logits


@pytest.mark.parametrize("ratio", [0.7, 0.5])
def test_far_less_is_lost_than_by_plain_svd_at_the_same_size(learned, ratio):
    uniform = compress_uniform(copy.deepcopy(learned), ratio=ratio, method="svd", **DATA)
    ours = compress(learned, ratio=ratio, candidates=KINDS, **DATA)
    assert ours.before.perplexity == pytest.approx(uniform.before.perplexity, rel=1e-2)
    assert ours.n_params <= ratio * ours.n_params_before
    assert ours.after.kl < 0.05 * uniform.after.kl
    assert ours.after.perplexity < uniform.after.perplexity
    assert ours.after.top1_agreement > uniform.after.top1_agreement


def test_more_parameters_cost_less(learned):
    kl = [
        compress(copy.deepcopy(learned), ratio=ratio, candidates=KINDS, **DATA).after.kl for ratio in (0.9, 0.7, 0.4)
    ]
    assert kl == sorted(kl)


def test_mild_compression_costs_what_was_predicted(learned):
    result = compress(learned, ratio=0.8, candidates=KINDS, refine=False, dtype="float32", **DATA)
    assert 1 / 3 < result.after.kl / result.predicted_loss < 3


def test_refinement_never_raises_the_loss_on_the_validation_part(learned):
    losses = compress(learned, ratio=0.5, candidates=KINDS, **DATA).validation_losses
    assert list(losses) == ["first allocation", "second allocation", "refitted blocks"]
    assert losses["refitted blocks"] <= min(losses["first allocation"], losses["second allocation"])


def test_one_seed_gives_one_model_and_leaves_the_global_generator_alone(learned):
    models = [copy.deepcopy(learned) for _ in range(3)]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    results = [
        compress(model, ratio=0.6, candidates=KINDS, rng=seed, **DATA)
        for model, seed in zip(models, (0, 0, 1), strict=True)
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert results[0].choices == results[1].choices
    assert torch.equal(logits(models[0]), logits(models[1]))
    assert not torch.equal(logits(models[0]), logits(models[2]))


def test_ready_weights_and_flags_of_the_rest_are_kept(learned):
    learned.train()
    learned.model.norm.weight.requires_grad_(False)
    rest = {name: p for name, p in learned.named_parameters() if ".layers." not in name}
    before = {name: p.detach().clone() for name, p in rest.items()}
    compress(learned, ratio=0.6, candidates=KINDS, dtype="float32", **DATA)
    after = dict(learned.named_parameters())
    assert all(after[name] is p and torch.equal(p, before[name]) for name, p in rest.items())
    assert not learned.model.norm.weight.requires_grad
    assert all(module.training for module in learned.modules())
    assert not any(module._forward_hooks for module in learned.modules())


def test_storage_dtype_is_what_is_measured(learned):
    compress(learned, ratio=0.6, candidates=KINDS, dtype="bfloat16", **DATA)
    for name, parameter in learned.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert torch.equal(parameter.detach(), parameter.detach().bfloat16().float()), name


def mean_outputs(model, name: str, batch) -> torch.Tensor:
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _a, out: seen.append(out.detach()))
    with torch.no_grad():
        model(**batch)
    handle.remove()
    return torch.cat([out.flatten(0, -2) for out in seen]).double().mean(0)


@pytest.mark.parametrize("fixture", ["tiny_gpt2", "tiny_bert"])
def test_bias_correction_keeps_the_mean_output(fixture, request):
    """The first replaced layer reads what it read before; its mean output must not move."""
    model = request.getfixturevalue(fixture)
    first = find_targets(model)[0].name
    ids = torch.randint(3, 250, (20, 16), generator=torch.Generator().manual_seed(0))
    statistics = {"input_ids": ids[:18]}  # the last 2 are held out
    before = mean_outputs(model, first, statistics)
    compress(
        model, ratio=0.3, candidates=("interpolative",), targets=rf"^{first}$", calibration=[{"input_ids": ids}],
        evaluation=[{"input_ids": ids}], dtype="float32", refine=False, progress=False,
    )  # fmt: skip
    assert list(factorised_layers(model)) == [first]
    torch.testing.assert_close(mean_outputs(model, first, statistics), before, rtol=0, atol=1e-5)


def test_layers_that_a_model_calls_again_keep_their_mean_output():
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=60, embedding_size=8, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_hidden_groups=1, num_attention_heads=2, max_position_embeddings=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2,
    )  # fmt: skip
    model = AlbertModel(config).eval()
    ids = torch.randint(3, 60, (20, 16), generator=torch.Generator().manual_seed(0))
    result = compress(
        model, ratio=0.7, candidates=("dense", "interpolative", "shared"), calibration=[{"input_ids": ids}],
        evaluation=[{"input_ids": ids}], dtype="float32", progress=False,
    )  # fmt: skip
    assert result.ratio <= 0.7
    assert result.after.cosine > 0.9


WITHOUT_TNET = """
import sys
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert not any(name.partition(".")[0] == "tnet" for name in sys.modules)
with torch.no_grad():
    torch.save(model(input_ids=torch.load(sys.argv[2])).logits, sys.argv[3])
"""


def test_a_dense_checkpoint_needs_no_tnet(learned, tmp_path):
    result = compress(learned, ratio=0.6, candidates=KINDS, dtype="float32", **DATA)
    expected = logits(learned)
    result.save(tmp_path / "dense", dense=True)
    torch.save(text(4, 24, 3), tmp_path / "ids.pt")
    arguments = [str(tmp_path / name) for name in ("dense", "ids.pt", "logits.pt")]
    subprocess.run([sys.executable, "-c", WITHOUT_TNET, *arguments], check=True, capture_output=True, timeout=100)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.9, 0.7])
def test_bytes_on_disk_stay_below_the_ceiling(learned, tmp_path, share):
    dense = 2 * sum(p.numel() for p in learned.parameters())
    limit = int(share * dense)
    result = compress(learned, max_bytes=limit, candidates=KINDS, **DATA)
    result.save(tmp_path / "model")
    stored = 0
    with safe_open(tmp_path / "model/model.safetensors", "pt") as file:
        for key in file.keys():
            tensor = file.get_tensor(key)
            stored += tensor.numel() * tensor.element_size()
    assert 0.95 * limit < stored <= limit
    assert stored == result.bytes_after
    assert result.bytes_before == dense


def test_a_ceiling_above_the_model_leaves_it_untouched(learned):
    before = state(learned)
    result = compress(learned, max_bytes="1GiB", candidates=KINDS, refine=False, **DATA)
    assert {choice.kind for choice in result.choices} == {"dense"}
    assert state(learned).keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in state(learned).items())


def test_operators_are_an_option_and_reload(learned, tmp_path):
    result = compress(
        learned, ratio=0.7, candidates=("dense", "mpo"), targets="down_proj", dtype="float32", refine=False, **DATA
    )
    kinds = {spec["kind"] for spec in factorised_layers(learned).values()}
    assert kinds == {"mpo"}
    assert result.n_params == sum(
        p.numel() for name in factorised_layers(learned) for p in learned.get_submodule(name).parameters()
    ) + sum(c.n_params for c in result.choices if c.kind == "dense")
    result.save(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(again), logits(learned))


STAGES = (
    "moments_of", "choose_shrinkage", "build_sites", "allocate", "fit", "Judge", "ridge_target", "install",
    "contiguous", "measure", "mean_damage", "checkpoint_bytes", "CompressionResult",
)  # fmt: skip


@pytest.mark.parametrize("late", [False, True], ids=["first call", "last call"])
@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_anywhere_the_model_is_the_original(learned, monkeypatch, stage, late):
    before = state(learned)
    modules = dict(learned.named_modules())
    calls = 0
    original = getattr(pipeline, stage)

    def counting(*arguments, **options):
        nonlocal calls
        calls += 1
        return original(*arguments, **options)

    few = {name: [{"input_ids": text(12, 12, 1)}] for name in ("calibration", "evaluation")}
    options = {"ratio": 0.5, "candidates": KINDS, "targets": r"layers\.0", "progress": False} | few
    if late:
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, stage, counting)
            compress(copy.deepcopy(learned), **options)
        assert calls > 0
    left = max(calls, 1)

    def interrupted(*arguments, **options):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(pipeline, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress(learned, **options)
    assert dict(learned.named_modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in state(learned).items())


def test_other_text_than_the_calibration_is_worth_a_warning(learned):
    other = DATA | {"calibration": [{"input_ids": text(40, 24, 1) % 2}]}
    before = state(learned)
    options = {"ratio": 0.6, "candidates": KINDS}
    with pytest.warns(CalibrationWarning, match=r"held-out text is .* times that on the calibration") as caught:
        result = compress(copy.deepcopy(learned), **options, **other)
    assert [warning.filename for warning in caught] == [__file__]
    assert result.held_out_loss > 2 * result.calibration_loss
    with pytest.raises(CalibrationWarning):  # made an error, it undoes the work as any other exception
        compress(learned, **options, **other)
    assert all(torch.equal(value, before[name]) for name, value in state(learned).items())


def test_held_out_text_of_the_same_kind_brings_no_warning(learned):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        result = compress(learned, ratio=0.6, candidates=KINDS, **DATA)
    assert isinstance(result, CompressionResult)
    assert result.held_out_loss == result.after.kl


def test_without_evaluation_the_last_tenth_is_held_out(learned):
    options = {"ratio": 0.9, "candidates": KINDS, "refine": False, "progress": False}
    ids = DATA["calibration"][0]["input_ids"]
    implied = compress(copy.deepcopy(learned), calibration=[{"input_ids": ids}], **options)
    assert implied.after.n_tokens == 4 * 23
    given = compress(
        copy.deepcopy(learned), calibration=[{"input_ids": ids[:36]}], evaluation=[{"input_ids": ids[36:]}], **options
    )
    assert implied.after == given.after


def test_texts_are_calibration_too(tiny_llama, tiny_tokenizer):
    passage = "Of all structures within the budget, the one with the least sum is chosen. " * 12
    result = compress(
        tiny_llama, ratio=0.8, calibration=[passage], tokenizer=tiny_tokenizer, candidates=KINDS,
        sequence_length=32, refine=False, device="cpu", progress=False,
    )  # fmt: skip
    assert result.ratio <= 0.8
    assert json.dumps(result.settings.to_dict())
