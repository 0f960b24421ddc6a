from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GPT2LMHeadModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from tnet.compression import quantizer
from tnet.compression.quantizer import TnetConfig, TnetQuantizer, attach, detach
from tnet.compression.surgery import factorised_layers, install, replace, restore_dense
from tnet.compression.targets import dense_weight, find_targets, group_by_input
from tnet.errors import FormatError, InputError
from tnet.nn import InterpolativeLinear, LowRankLinear, MPOLinear, shared_input_layers


def factorise(model: nn.Module, batch: dict[str, torch.Tensor]) -> nn.Module:
    """Replace all targets: groups jointly, the rest by turns as low rank, interpolative and MPO."""
    targets = {target.name: target for target in find_targets(model)}
    for i, group in enumerate(group_by_input(model, targets.values(), batch)):
        old = [model.get_submodule(name) for name in group]
        biases = [None if module.bias is None else module.bias.detach() for module in old]
        weights = [dense_weight(module) for module in old]
        if len(group) > 1:
            u, s, vh = torch.linalg.svd(torch.cat(weights).float(), full_matrices=False)
            lefts = (u[:, :24] * s[:24]).to(weights[0].dtype).split([len(w) for w in weights])
            new = shared_input_layers(lefts, vh[:24].to(weights[0].dtype), biases)
        elif i % 3 == 0:
            linear = nn.Linear(*weights[0].shape[::-1], dtype=weights[0].dtype)
            linear.weight = nn.Parameter(weights[0])
            low_rank = LowRankLinear.from_dense(linear, 12)
            new = [LowRankLinear.from_factors(low_rank.left, low_rank.right, biases[0])]
        elif i % 3 == 1:
            m, n = weights[0].shape
            layer = MPOLinear((m // 4, 4), (n // 4, 4), (5,), bias=biases[0] is not None)
            with torch.no_grad():
                if biases[0] is not None:
                    layer.bias.copy_(biases[0])
            new = [layer]
        else:
            left = torch.randn(len(weights[0]), 6, dtype=weights[0].dtype)
            new = [InterpolativeLinear.from_factors(left, weights[0][:6], biases[0])]
        for name, layer in zip(group, new, strict=True):
            layer.conv1d = targets[name].conv1d
            install(model, name, layer)
    return model


@pytest.fixture(params=["tiny_llama", "tiny_gpt2", "tiny_bert"])
def compressed(request: pytest.FixtureRequest, token_batch: dict[str, torch.Tensor]) -> nn.Module:
    model = factorise(request.getfixturevalue(request.param), token_batch)
    attach(model)
    return model


def auto_class(model: nn.Module) -> type:
    return AutoModel if type(model).__name__ == "BertModel" else AutoModelForCausalLM


def output(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_shard_size", ["50GB", "8KB"])
def test_round_trip_is_identical(compressed, token_batch, tmp_path, dtype, max_shard_size):
    model = compressed
    for parameter in model.parameters():  # model.to(dtype) would round the rotary frequencies too
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "8KB")
    loaded, info = auto_class(model).from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(output(loaded, token_batch), output(model, token_batch))
    assert factorised_layers(loaded) == factorised_layers(model)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert {b.dtype for n, b in loaded.named_buffers() if n.endswith("order")} == {torch.int32}
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    reloaded = auto_class(model).from_pretrained(again, dtype="auto")
    assert torch.equal(output(reloaded, token_batch), output(model, token_batch))


def test_saved_config_is_plain_versioned_json(compressed, tmp_path):
    compressed.save_pretrained(tmp_path)
    entry = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert entry.keys() == {"quant_method", "format_version", "layers"}
    assert (entry["quant_method"], entry["format_version"]) == ("tnet", 1)
    assert entry["layers"] == factorised_layers(compressed)


def test_tied_embedding_stays_tied(tiny_gpt2, token_batch, tmp_path):
    attach(factorise(tiny_gpt2, token_batch))
    tiny_gpt2.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_body_and_head_load_each_other(tiny_llama, token_batch, tmp_path, caplog):
    attach(factorise(tiny_llama, token_batch))
    tiny_llama.save_pretrained(tmp_path / "head")
    body = AutoModel.from_pretrained(tmp_path / "head")
    assert torch.equal(output(body, token_batch), output(tiny_llama.model, token_batch))
    assert body.layers[0].self_attn.k_proj.owner is body.layers[0].self_attn.q_proj
    body.save_pretrained(tmp_path / "body")
    head, info = AutoModelForCausalLM.from_pretrained(tmp_path / "body", output_loading_info=True)
    assert torch.equal(output(head.model, token_batch), output(body, token_batch))
    assert info["missing_keys"] == {"lm_head.weight"}
    assert not info["unexpected_keys"]


def test_replaced_weights_are_marked_by_empty_tensors(tiny_llama, token_batch, tmp_path):
    attach(factorise(tiny_llama, token_batch))
    tiny_llama.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        for name in factorised_layers(tiny_llama):
            assert file.get_tensor(f"{name}.weight").numel() == 0
    assert not any(key.endswith("q_proj.weight") for key in tiny_llama.state_dict())


LOAD_WITHOUT_AND_WITH_TNET = """
import sys
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1])
except RuntimeError:
    print("refused")
import tnet.compression
AutoModelForCausalLM.from_pretrained(sys.argv[1])
print("loaded")
"""


def test_transformers_alone_refuses_and_one_import_suffices(tiny_llama, token_batch, tmp_path):
    attach(factorise(tiny_llama, token_batch))
    tiny_llama.save_pretrained(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_AND_WITH_TNET, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == ["refused", "loaded"], result.stderr
    assert "Unknown quantization type, got tnet" in result.stderr


def test_loaded_model_casts_and_trains(compressed, token_batch, tmp_path):
    compressed.save_pretrained(tmp_path)
    loaded = auto_class(compressed).from_pretrained(tmp_path)
    loaded.half().float()
    loaded.train()
    loaded(**token_batch)[0].sum().backward()
    touched = [p.grad is not None for n, p in loaded.named_parameters() if ".left" in n or ".cores" in n]
    assert touched
    assert all(touched)


def test_loaded_model_becomes_a_dense_one(compressed, token_batch, tmp_path):
    compressed.save_pretrained(tmp_path)
    loaded = auto_class(compressed).from_pretrained(tmp_path)
    expected = output(loaded, token_batch)
    loaded.dequantize()
    assert factorised_layers(loaded) == {}
    assert not hasattr(loaded.config, "quantization_config")
    torch.testing.assert_close(output(loaded, token_batch), expected, rtol=1e-4, atol=1e-4)
    loaded.save_pretrained(tmp_path / "dense")
    dense = auto_class(compressed).from_pretrained(tmp_path / "dense")
    assert torch.equal(output(dense, token_batch), output(loaded, token_batch))


def test_dequantise_to_another_dtype(tiny_llama, token_batch):
    attach(factorise(tiny_llama, token_batch))
    tiny_llama.dequantize(dtype=torch.bfloat16)
    assert {p.dtype for p in tiny_llama.parameters()} == {torch.bfloat16}


def test_detach_after_restoring(tiny_gpt2, token_batch, tmp_path):
    detach(tiny_gpt2)  # nothing to undo
    attach(factorise(tiny_gpt2, token_batch))
    restore_dense(tiny_gpt2)
    detach(tiny_gpt2)
    tiny_gpt2.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(output(loaded, token_batch), output(tiny_gpt2, token_batch))


def test_later_changes_are_saved_without_a_second_attach(tiny_llama, token_batch, tmp_path):
    plan = {"model.layers.0.mlp.up_proj": {**LOW_RANK, "rank": 4}}
    replace(tiny_llama, plan)
    attach(tiny_llama)
    replace(tiny_llama, {"model.layers.1.mlp.up_proj": {**LOW_RANK, "rank": 7}})
    tiny_llama.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(output(loaded, token_batch), output(tiny_llama, token_batch))


def test_full_rank_layers_without_coupling_round_trip(tiny_llama, token_batch, tmp_path):
    """Several empty tensors in one file: they share the null address but are not tied."""
    spec = {**LOW_RANK, "kind": "interpolative", "rank": 32}
    replace(tiny_llama, {f"model.layers.{i}.mlp.up_proj": spec for i in range(2)})
    attach(tiny_llama)
    tiny_llama.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(output(loaded, token_batch), output(tiny_llama, token_batch))


def test_deepcopy_of_a_compressed_model_saves(compressed, token_batch, tmp_path):
    twin = copy.deepcopy(compressed)
    twin.save_pretrained(tmp_path)
    loaded = auto_class(twin).from_pretrained(tmp_path)
    assert torch.equal(output(loaded, token_batch), output(compressed, token_batch))


def test_attach_refuses_dense_and_otherwise_quantised_models(tiny_llama, token_batch):
    with pytest.raises(InputError, match="no factorised layer"):
        attach(tiny_llama)
    factorise(tiny_llama, token_batch)
    tiny_llama.hf_quantizer = object()
    with pytest.raises(InputError, match="quantised by object"):
        attach(tiny_llama)


def test_loading_a_dense_model_with_the_config_is_refused(tiny_llama, tmp_path):
    tiny_llama.save_pretrained(tmp_path)
    config = TnetConfig({"model.layers.0.mlp.up_proj": LOW_RANK})
    with pytest.raises(InputError, match="describes a model that is compressed already"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)


LOW_RANK = {"kind": "low_rank", "in_features": 32, "out_features": 48, "rank": 4, "bias": False}
UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version 2; this tnet reads version 1"),
        ({"format_version": "1"}, "format_version '1'"),
        ({"format_version": True}, "format_version True"),
        ({"format_version": ...}, "lacks format_version"),
        ({"layers": ...}, "lacks layers"),
        ({"layers": [1]}, "layers of type list"),
        ({"layers": {UP: {**LOW_RANK, "rank": -1}}}, "rank=-1"),
        ({"layers": {UP: {**LOW_RANK, "rank": "x"}}}, "rank='x'"),
        (
            {"layers": {"model.layers.5.mlp.up_proj": LOW_RANK}},
            "'model.layers.5.mlp.up_proj', which LlamaForCausalLM",
        ),
        ({"layers": {UP: {**LOW_RANK, "in_features": 31}}}, r"weight is \(48, 32\), not \(48, 31\)"),
        ({"extra": 1}, "unknown entries: extra"),
    ],
)
def test_damaged_configs_are_refused(tiny_llama, tmp_path, change, message):
    replace(tiny_llama, {UP: LOW_RANK})
    attach(tiny_llama)
    tiny_llama.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    entry = config["quantization_config"] | change
    config["quantization_config"] = {key: value for key, value in entry.items() if value is not ...}
    path.write_text(json.dumps(config))
    with pytest.raises(FormatError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_config_of_another_method_is_refused():
    with pytest.raises(FormatError, match="quant_method='gptq'"):
        TnetConfig({}, quant_method="gptq")


def test_config_is_independent_of_what_it_was_made_of():
    layers = {UP: dict(LOW_RANK)}
    config = TnetConfig(layers)
    layers[UP]["rank"] = 9
    config.to_dict()["layers"][UP]["rank"] = 8
    assert config.layers[UP]["rank"] == 4
    same, unused = TnetConfig.from_dict(config.to_dict(), return_unused_kwargs=True, other=1)
    assert same.to_dict() == config.to_dict()
    assert unused == {"other": 1}


def test_registration_is_idempotent():
    module = importlib.reload(quantizer)
    try:
        assert AUTO_QUANTIZER_MAPPING["tnet"] is module.TnetQuantizer
        assert AUTO_QUANTIZATION_CONFIG_MAPPING["tnet"] is module.TnetConfig
    finally:
        AUTO_QUANTIZER_MAPPING["tnet"] = TnetQuantizer
        AUTO_QUANTIZATION_CONFIG_MAPPING["tnet"] = TnetConfig


def test_config_reads_without_the_model(tiny_llama, tmp_path: Path):
    replace(tiny_llama, {UP: LOW_RANK})
    attach(tiny_llama)
    tiny_llama.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.quantization_config["layers"] == {UP: LOW_RANK}


def test_quantizer_states_what_it_can_do(tiny_llama):
    able = TnetQuantizer(TnetConfig({UP: LOW_RANK}))
    assert able.is_serializable()
    assert able.is_trainable
    assert able.is_qat_trainable
    assert able.is_compileable
