from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
import types

import pytest
import torch
from torch import nn

from tnet.compression import (
    CausalQuality,
    Choice,
    CompressionResult,
    EncoderQuality,
    Settings,
    compress,
)
from tnet.compression.progress import Reporter
from tnet.compression.result import checkpoint_bytes, detach_gguf
from tnet.compression.surgery import factorised_layers
from tnet.errors import InputError

KINDS = ("dense", "interpolative", "shared")


@pytest.fixture(params=["tiny_llama", "tiny_gpt2", "tiny_bert"])
def result(request) -> CompressionResult:
    model = request.getfixturevalue(request.param)
    ids = torch.randint(3, 250, (30, 10), generator=torch.Generator().manual_seed(0))
    return compress(
        model, ratio=0.6, calibration=[{"input_ids": ids[:20]}], evaluation=[{"input_ids": ids[:5]}],
        candidates=KINDS, progress=False,
    )  # fmt: skip


def test_report_is_short_and_says_what_it_cost(result):
    lines = repr(result).splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 100
    text = repr(result)
    assert f"{result.n_params:,} of {result.n_params_before:,}" in text
    assert f"{result.bytes_after:,} of {result.bytes_before:,}" in text
    if isinstance(result.after, CausalQuality):
        assert f"{result.after.perplexity:.4g}" in text
        assert f"{result.after.kl:.4f}" in text
    else:
        assert f"{result.after.cosine:.4f}" in text


def test_account_is_strict_json_and_complete(result):
    account = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert account["format_version"] == 1
    fields = {field.name for field in dataclasses.fields(result)} - {"model", "choices", "targets"}
    assert fields <= account.keys()
    assert [tuple(layer["members"]) for layer in account["layers"]] == [c.members for c in result.choices]
    assert account["ratio"] == result.n_params / result.n_params_before <= 0.6
    assert account["settings"]["candidates"] == list(KINDS)


def test_sums_are_those_of_the_choices(result):
    assert result.n_params == sum(choice.n_params for choice in result.choices)
    assert result.macs == sum(choice.macs for choice in result.choices)
    assert sorted(name for c in result.choices for name in c.members) == sorted(t.name for t in result.targets)
    assert result.n_params_before == sum(t.out_features * t.in_features for t in result.targets)
    if isinstance(result.after, CausalQuality):
        assert result.increase == pytest.approx(result.after.perplexity / result.before.perplexity - 1)
    else:
        assert result.increase == 1 - result.after.cosine
    assert result.seconds["moments-first"] > 0


def test_untouched_model_reports_its_dense_size(tiny_llama):
    settings = Settings.checked(ratio=1.0, max_bytes=None)
    quality = CausalQuality(10.0, 0.0, 1.0, 5)
    targets = (types.SimpleNamespace(n_params=12), types.SimpleNamespace(n_params=8))
    result = CompressionResult(
        model=tiny_llama, settings=settings, choices=(), targets=targets, before=quality, after=quality,
        predicted_loss=0.0, calibration_loss=0.0, held_out_loss=0.0, validation_losses={}, shrinkage=None,
        bytes_before=40, bytes_after=40, seconds={},
    )  # fmt: skip
    assert (result.n_params, result.macs, result.ratio, result.increase) == (20, 20, 1.0, 0.0)
    assert "untouched" in repr(result)
    assert result.to_dict()["shrinkage"] is None


def test_infinite_perplexity_and_few_sentences_still_save(tiny_bert, tmp_path):
    settings = Settings.checked(ratio=0.5, max_bytes=None)
    choice = Choice(("a",), "dense", (), 1, 2, 1, 0.0)
    for quality in (CausalQuality(math.inf, 1.0, 0.0, 5), EncoderQuality(0.9, 0.9, math.nan, 2)):
        result = CompressionResult(
            model=tiny_bert, settings=settings, choices=(choice,), targets=(types.SimpleNamespace(n_params=1),),
            before=dataclasses.replace(quality), after=quality, predicted_loss=0.0, calibration_loss=0.0,
            held_out_loss=0.0, validation_losses={}, shrinkage=None, bytes_before=2, bytes_after=2, seconds={},
        )  # fmt: skip
        assert repr(result)
        json.dumps(result.to_dict(), allow_nan=False)
        result.save(tmp_path / type(quality).__name__)


def test_saved_folder_is_whole_and_never_overwritten(result, tiny_tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    before = {name: value.clone() for name, value in result.model.state_dict().items()}
    result.save(folder, tokenizer=tiny_tokenizer)
    assert {"config.json", "model.safetensors", "tnet.json", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    assert json.loads((folder / "tnet.json").read_text()) == result.to_dict()
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(InputError, match="exists"):
        result.save(folder)
    monkeypatch.setattr(
        type(result.model), "save_pretrained", lambda *_a, **_o: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        result.save(tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    after = result.model.state_dict()
    assert all(after[name].dtype == v.dtype and torch.equal(after[name], v) for name, v in before.items())


def test_dense_after_factorised_forgets_the_method(result, tmp_path):
    result.save(tmp_path / "factorised")
    assert (
        json.loads((tmp_path / "factorised/config.json").read_text())["quantization_config"]["quant_method"] == "tnet"
    )
    result.save(tmp_path / "dense", dense=True)
    assert "quantization_config" not in json.loads((tmp_path / "dense/config.json").read_text())
    assert not factorised_layers(result.model)


def test_bytes_of_a_checkpoint_count_shared_storage_once(tiny_gpt2):
    expected = {p.data_ptr(): p.numel() for p in tiny_gpt2.parameters()}
    assert checkpoint_bytes(tiny_gpt2, torch.bfloat16) == 2 * sum(expected.values())
    assert checkpoint_bytes(tiny_gpt2, torch.float32) == 4 * sum(expected.values())
    layer = nn.Linear(3, 2)
    layer.register_buffer("order", torch.zeros(3, dtype=torch.int32))
    layer.register_buffer("scratch", torch.zeros(100), persistent=False)
    layer.register_buffer("empty", torch.zeros(0))
    assert checkpoint_bytes(layer, torch.bfloat16) == 2 * 8 + 4 * 3


def test_models_read_from_gguf_forget_it(tiny_llama):
    removed = []

    class FakeQuantizer:
        def __init__(self, method: str | None) -> None:
            self.quantization_config = None if method is None else types.SimpleNamespace(quant_method=method)

        def remove_quantization_config(self, model) -> None:
            removed.append(model)

    for method in (None, "bitsandbytes"):
        tiny_llama.hf_quantizer = FakeQuantizer(method)
        detach_gguf(tiny_llama)
        assert removed == []
    tiny_llama.hf_quantizer = FakeQuantizer("GGUF")
    detach_gguf(tiny_llama)
    assert removed == [tiny_llama]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("enabled", "stream", "expected"),
    [(False, Terminal(), ""), (True, io.StringIO(), "measure ...\n"), (True, Terminal(), "3/3")],
    ids=["silent", "file", "terminal"],
)
def test_progress_is_shown_where_somebody_looks(monkeypatch, enabled, stream, expected):
    monkeypatch.setattr(sys, "stderr", stream)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "120"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    with Reporter(enabled).stage("measure", 3) as advance:
        for done in (1, 2, 3):
            advance(done)
    shown = stream.getvalue()
    assert expected in shown
    assert ("measure" in shown) == enabled
