"""Compression from end to end on small random models of three architectures."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

import tnet
from tnet.compression import CompressionResult, compress, pipeline, plan_compression
from tnet.compression.baselines import compress_uniform
from tnet.compression.surgery import factorised_layers
from tnet.compression.targets import find_targets
from tnet.errors import InputError, QualityGateError

KINDS = ("dense", "interpolative", "shared")


@pytest.fixture(params=["tiny_llama", "tiny_gpt2", "tiny_bert"])
def model(request):
    return request.getfixturevalue(request.param)


def tokens(model, n=20, length=16):
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(3, model.config.vocab_size, (n, length), generator=generator)}]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stored(model, targets):
    """Elements that the target layers hold, original biases left out."""
    total = 0
    for target in targets:
        module = model.get_submodule(target.name)
        total += sum(p.numel() for name, p in module.named_parameters() if name != "bias")
        total += sum(b.numel() for b in module.buffers())
    return total


def run(model, **options):
    options = {"ratio": 0.6, "calibration": tokens(model), "candidates": KINDS, "progress": False} | options
    return compress(model, **options)


@pytest.mark.filterwarnings("ignore::tnet.compression.CalibrationWarning")
class TestCompress:
    @pytest.mark.parametrize("ratio", [0.9, 0.55, 0.3])
    def test_ratio_counts_what_is_stored_and_is_kept(self, model, ratio):
        targets = find_targets(model)
        dense = sum(target.n_params for target in targets)
        result = run(model, ratio=ratio)
        assert stored(model, targets) == result.n_params <= ratio * dense
        assert result.n_params > 0.9 * ratio * dense
        assert factorised_layers(model)

    def test_bytes_count_what_is_saved(self, model, tmp_path):
        limit = tnet.compression.result.checkpoint_bytes(model, torch.bfloat16) * 9 // 10
        result = run(model, ratio=None, max_bytes=limit)
        result.save(tmp_path / "small")
        saved = sum(t.numel() * t.element_size() for t in load_file(tmp_path / "small/model.safetensors").values())
        assert saved <= result.bytes_after <= limit

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_the_reloaded_model_gives_identical_outputs(self, model, tmp_path, dtype):
        result = run(model, dtype=dtype)
        result.save(tmp_path / "small")
        kind = AutoModelForCausalLM if model.can_generate() else AutoModel
        again = kind.from_pretrained(tmp_path / "small", dtype=torch.float32).eval()
        batch = tokens(model)[0]
        with torch.no_grad():
            assert torch.equal(model.eval()(**batch)[0], again(**batch)[0])
        assert json.loads((tmp_path / "small/tnet.json").read_text())["n_params"] == result.n_params

    def test_a_dense_checkpoint_loads_as_any_other(self, model, tmp_path):
        batch = tokens(model)[0]
        result = run(model, dtype="float32")
        with torch.no_grad():
            expected = model.eval()(**batch)[0]
        result.save(tmp_path / "dense", dense=True)
        assert "quantization_config" not in json.loads((tmp_path / "dense/config.json").read_text())
        kind = AutoModelForCausalLM if model.can_generate() else AutoModel
        again = kind.from_pretrained(tmp_path / "dense").eval()
        with torch.no_grad():
            torch.testing.assert_close(again(**batch)[0], expected, rtol=1e-4, atol=1e-4)

    def test_ratio_one_leaves_the_model_untouched(self, model):
        before = state(model)
        result = run(model, ratio=1.0)
        assert same(before, state(model))
        assert result.ratio == 1.0
        assert result.increase == pytest.approx(0.0, abs=1e-6)

    def test_before_is_the_model_as_it_came_not_rounded(self, model):
        precise = run(copy.deepcopy(model), dtype="float32").before
        assert run(copy.deepcopy(model), dtype="bfloat16").before == precise

    def test_an_interruption_gives_the_original_back(self, model, monkeypatch):
        before = state(model)

        def interrupted(*_arguments, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr(pipeline, "mean_damage", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(model)
        assert same(before, state(model))

    def test_a_missed_gate_gives_the_original_back_and_keeps_the_work(self, model, tmp_path, monkeypatch):
        before = state(model)
        with monkeypatch.context() as patch:
            patch.setattr(CompressionResult, "increase", property(lambda _: 0.5))
            with pytest.raises(QualityGateError, match=r"rose by 50.00%, allowed were 49.00%") as miss:
                run(model, checkpoint=tmp_path / "work", max_increase=0.49)
        assert same(before, state(model))
        assert (tmp_path / "work").is_dir()
        # What is left to do is to assemble and to measure: neither a pass over the data nor an allocation.
        monkeypatch.setattr("tnet.compression.job.collect", None)
        monkeypatch.setattr(pipeline, "build_sites", None)
        result = run(model, checkpoint=tmp_path / "work", max_increase=1e9)
        assert result.after == miss.value.result.after
        assert not (tmp_path / "work").exists()

    @pytest.mark.parametrize("stage", ["_shrinkage", "_choose", "_refine", "finish"])
    def test_the_same_call_goes_on_and_ends_in_the_same_model(self, tiny_llama, tmp_path, monkeypatch, stage):
        uninterrupted = copy.deepcopy(tiny_llama)
        run(uninterrupted)
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, stage, lambda *_a, **_o: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run(tiny_llama, checkpoint=tmp_path / "work")
        assert (tmp_path / "work").is_dir()
        with pytest.raises(InputError, match="ratio"):
            run(tiny_llama, ratio=0.5, checkpoint=tmp_path / "work")
        run(tiny_llama, checkpoint=tmp_path / "work")
        assert same(state(uninterrupted), state(tiny_llama))
        assert not (tmp_path / "work").exists()

    def test_every_kind_of_candidate_can_be_asked_for_alone(self, tiny_llama):
        for kinds, expected in ((("mpo", "dense"), "mpo"), ("auto", "interpolative"), (("shared",), "shared_owner")):
            copied = copy.deepcopy(tiny_llama)
            run(copied, candidates=kinds, ratio=0.8, refine=False)
            assert expected in {spec["kind"] for spec in factorised_layers(copied).values()}

    def test_forward_only_sensitivity(self, model):
        result = run(model, sensitivity="output")
        assert result.ratio <= 0.6
        assert result.validation_losses["refitted blocks"] <= result.validation_losses["first allocation"]

    def test_the_plan_is_the_first_allocation_and_changes_nothing(self, tiny_llama):
        before = state(tiny_llama)
        options = {"ratio": 0.6, "calibration": tokens(tiny_llama), "candidates": KINDS, "progress": False}
        allocation = plan_compression(tiny_llama, **options)
        assert same(before, state(tiny_llama))
        assert allocation.choices == run(tiny_llama, refine=False).choices
        assert allocation.loss >= allocation.lower_bound - 1e-12

    @pytest.mark.parametrize("method", ["svd", "mpo", "whitened"])
    def test_uniform_recipes_keep_the_ratio_in_every_layer(self, model, method):
        targets = find_targets(model)
        data = {"calibration": tokens(model), "progress": False}
        result = compress_uniform(model, ratio=0.5, method=method, **data)
        for target in targets:
            assert stored(model, (target,)) <= 0.5 * target.n_params
        assert 0.3 < result.ratio <= 0.5
        assert len(repr(result).splitlines()) <= 12

    def test_tnet_costs_less_than_whitened_svd_at_the_same_size(self, tiny_llama):
        sharpen(tiny_llama)
        data = {"calibration": tokens(tiny_llama, 60), "progress": False}
        uniform = compress_uniform(copy.deepcopy(tiny_llama), ratio=0.6, method="whitened", **data)
        ours = compress(tiny_llama, ratio=0.6, candidates=KINDS, **data)
        assert ours.after.kl < 0.5 * uniform.after.kl

    def test_the_predicted_loss_is_of_the_size_of_the_measured_one(self, tiny_llama):
        sharpen(tiny_llama)
        result = run(tiny_llama, ratio=0.9, refine=False, calibration=tokens(tiny_llama, 80))
        assert 0.2 < result.after.kl / result.predicted_loss < 5


def sharpen(model):
    """Scale the head up, so that a random model predicts something and can lose it."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"ratio": None}, "neither"),
        ({"max_bytes": "1MiB"}, "both"),
        ({"ratio": None, "max_bytes": 10}, "max_bytes=10"),
        ({"ratio": 1e-4}, "least possible"),
        ({"calibration": []}, "calibration"),
        ({"calibration": "one text"}, "calibration"),
        ({"calibration": ["a text"]}, "tokenizer"),
        ({"calibration": [3]}, "calibration"),
        ({"calibration": [{"input_ids": torch.ones(1, 8, dtype=torch.long)}]}, "at least 2 sequences"),
        ({"evaluation": []}, "evaluation"),
        ({"candidates": ("tucker",)}, "candidates"),
        ({"candidates": ()}, "candidates"),
        ({"dtype": "int4"}, "dtype"),
        ({"sensitivity": "hessian"}, "sensitivity"),
        ({"sequence_length": 1}, "sequence_length"),
        ({"batch_size": 0}, "batch_size"),
        ({"targets": "nowhere"}, "targets"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(tiny_llama, options, message):
    before = state(tiny_llama)
    with pytest.raises(InputError, match=message):
        run(tiny_llama, **options)
    assert same(before, state(tiny_llama))


def test_weights_that_are_not_finite_are_refused_by_name(tiny_llama):
    target = find_targets(tiny_llama)[3]
    with torch.no_grad():
        tiny_llama.get_submodule(target.name).weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=target.name):
        run(tiny_llama)


def test_a_text_shorter_than_a_sequence_is_refused(tiny_llama, tiny_tokenizer):
    with pytest.raises(InputError, match="shorter than one sequence"):
        run(tiny_llama, calibration=["a b c"], tokenizer=tiny_tokenizer)


@pytest.mark.parametrize("module", [torch.nn.Linear(3, 3), torch.nn.Sequential()])
def test_other_modules_are_refused(module):
    with pytest.raises(InputError, match="transformers model"):
        compress(module, ratio=0.5, calibration=[{"input_ids": torch.ones(2, 8, dtype=torch.long)}])
