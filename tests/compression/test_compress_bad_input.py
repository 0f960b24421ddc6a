"""Input that compression refuses before its heavy work, and the model is left alone."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tnet.compression import Settings, compress, moments, plan_compression
from tnet.compression.baselines import compress_uniform
from tnet.compression.result import checkpoint_bytes
from tnet.compression.targets import find_targets
from tnet.errors import InputError, MemoryLimitError

IDS = torch.randint(3, 250, (20, 8), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": IDS}]


@pytest.fixture(autouse=True)
def no_calibration(monkeypatch):
    """Everything here must be refused before the model runs on the calibration data."""

    def forbidden(*_arguments, **_options):
        raise AssertionError("the calibration pass has begun")

    monkeypatch.setattr(moments, "_differentiate", forbidden)


def refuses(function, model, message: str, **options) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    with pytest.raises(InputError, match=message):
        function(model, **({"calibration": DATA, "progress": False} | options))
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(v, before[name]) or v.isnan().any() for name, v in model.state_dict().items())


@pytest.fixture
def tiny_roberta() -> RobertaModel:
    """Positions begin behind the padding token's: two fewer than the table has rows."""
    config = RobertaConfig(
        vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, pad_token_id=1,
    )  # fmt: skip
    return RobertaModel(config).eval()


def padded(n_real: int) -> dict[str, torch.Tensor]:
    mask = torch.ones_like(IDS)
    mask[0, n_real:] = 0
    return {"input_ids": IDS, "attention_mask": mask}


@pytest.mark.parametrize("function", [compress, plan_compression])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "^ratio= and max_bytes=: neither given"),
        ({"ratio": 0.5, "max_bytes": 10**6}, "^ratio= and max_bytes=: both given"),
        *(({"ratio": r}, r"^ratio=.*\(0, 1\]") for r in (0, -0.5, 1.01, 80, float("nan"), float("inf"), "0.5", True)),
        *(({"max_bytes": b}, "^max_bytes=.*positive") for b in (0, -5, 1.5, "many", True)),
        *(({"ratio": 0.5, "candidates": c}, "^candidates=") for c in ("lowrank", ("dense", "svd"), (), [None])),
        *(
            ({"ratio": 0.5, "dtype": d}, "^dtype=.*bfloat16, float16, float32")
            for d in ("int8", torch.bfloat16, None)
        ),
        *(({"ratio": 0.5, "sensitivity": s}, '^sensitivity=.*"fisher" or "output"') for s in ("hessian", None)),
        *(({"ratio": 0.5, "sequence_length": n}, "^sequence_length=.*at least 2") for n in (1, 0, 8.0, True)),
        *(({"ratio": 0.5, "batch_size": n}, "^batch_size=.*at least 1") for n in (0, -1, 2.0, True)),
        *(({"ratio": 0.5, "rng": seed}, "^rng=.*integer") for seed in (1.5, "0", None, True)),
        ({"ratio": 0.5, "targets": "("}, r"^targets='\('.*regular expression"),
        ({"ratio": 0.5, "targets": "decoder"}, "^targets='decoder' matches no"),
        ({"ratio": 0.5, "calibration": [{"input_ids": IDS[:1]}]}, "1 calibration sequences.*at least 2"),
        ({"ratio": 0.5, "calibration": [{"input_ids": IDS + 300}]}, "^calibration=.*0 to 258.*tokenizer"),
        ({"ratio": 0.5, "evaluation": [{"input_ids": IDS - 300}]}, "^evaluation=.*0 to 258.*tokenizer"),
        ({"ratio": 0.5, "evaluation": [{"input_ids": IDS[:, :1]}]}, "^evaluation=.* 1 tokens.*at least 2"),
        ({"ratio": 0.5, "calibration": [padded(0)]}, "^calibration=.* 0 tokens.*at least 2"),
        (
            {"ratio": 0.5, "calibration": [{"input_ids": IDS, "attention_mask": torch.ones(20, 1, 8, 8)}]},
            r"^calibration=.*attention_mask has shape \(20, 1, 8, 8\).*\(20, 8\)",
        ),
    ],
)
def test_options_and_data(tiny_llama, function, options, message):
    refuses(function, tiny_llama, message, **options)


def test_an_encoder_takes_single_tokens_but_not_none(tiny_bert):
    refuses(compress, tiny_bert, "^calibration=.* 0 tokens.*at least 1", ratio=0.5, calibration=[padded(0)])
    with pytest.raises(AssertionError, match="has begun"):
        compress(tiny_bert, ratio=0.5, calibration=[padded(1)], progress=False)


def test_a_ceiling_below_what_is_not_compressed(tiny_llama):
    dense = 2 * sum(target.n_params for target in find_targets(tiny_llama))
    rest = checkpoint_bytes(tiny_llama, torch.bfloat16) - dense
    for function in (compress, plan_compression):
        refuses(function, tiny_llama, rf"^max_bytes={rest - 1} .* {rest} bytes .*targets=", max_bytes=rest - 1)


@pytest.mark.parametrize("function", [compress, plan_compression])
@pytest.mark.parametrize("kinds", ["auto", ("interpolative",), ("shared",), ("mpo",), ("dense",)])
def test_a_budget_below_the_smallest_candidates(tiny_llama, function, kinds):
    refuses(function, tiny_llama, r"^a budget of \d+ params .* least possible \d+", ratio=0.01, candidates=kinds)


def test_the_least_possible_ratio_is_possible(tiny_llama):
    with pytest.raises(InputError) as error:
        compress(tiny_llama, ratio=0.01, calibration=DATA)
    least = int(re.search(r"least possible (\d+)", str(error.value))[1])
    n_params = sum(target.n_params for target in find_targets(tiny_llama))
    for budget, begins in ((least, True), (least - 1, False)):
        with pytest.raises(AssertionError if begins else InputError):
            compress(tiny_llama, ratio=(budget + 0.5) / n_params, calibration=DATA, progress=False)


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_gpt2", "tiny_bert", "tiny_roberta"])
def test_more_tokens_than_positions(request, fixture):
    model = request.getfixturevalue(fixture)
    positions = 126 if fixture == "tiny_roberta" else model.config.max_position_embeddings
    for length, error in ((positions, AssertionError), (positions + 1, InputError)):
        ids = torch.randint(3, 250, (4, length), generator=torch.Generator().manual_seed(0))
        with pytest.raises(error, match=f"{positions + 1} tokens.*{positions} positions|has begun"):
            compress(model, ratio=0.5, calibration=[{"input_ids": ids}], progress=False)


@pytest.mark.parametrize("gate", ["5%", -0.1, float("nan"), True])
def test_a_gate_that_is_no_increase(tiny_llama, gate):
    refuses(compress, tiny_llama, "^max_increase=.*such as 0.05", ratio=0.5, max_increase=gate)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_gpt2"])
def test_weights_that_are_not_finite(request, fixture, value):
    model = request.getfixturevalue(fixture)
    name = find_targets(model)[2].name
    with torch.no_grad():
        model.get_submodule(name).weight[1, 2] = value
    with pytest.raises(InputError, match=rf"^{name}\.weight has non-finite values"):
        compress(model, ratio=0.5, calibration=DATA, progress=False)


SMALL = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(4, 4), "model is a Linear"),
        (
            lambda: T5ForConditionalGeneration(
                T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
            ),
            "encoder-decoder",
        ),
        (
            lambda: BertForSequenceClassification(
                BertConfig(
                    vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
                )
            ),
            "task head",
        ),
        (lambda: GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=0, n_head=2, **SMALL)), "no torch.nn.Linear or Conv1D"),
        (
            lambda: LlamaForCausalLM(
                LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=0, num_attention_heads=2, **SMALL)
            ),
            "no list of repeated blocks.*targets=",
        ),
    ],
    ids=["module", "encoder-decoder", "classifier", "no linear layer", "no blocks"],
)
@pytest.mark.parametrize("function", [compress, plan_compression])
def test_models(make, message, function):
    refuses(function, make(), message, ratio=0.5, calibration=[{"input_ids": IDS % 20}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cp"}, '^method=.*"svd", "mpo" or "whitened"'),
        ({"ratio": 0.0}, "^ratio="),
        ({"dtype": "int8"}, "^dtype="),
        ({"calibration": []}, "^calibration="),
    ],
)
def test_published_recipes(tiny_llama, options, message):
    refuses(compress_uniform, tiny_llama, message, **({"ratio": 0.5, "method": "svd"} | options))


def test_moments_beyond_the_memory(tiny_llama, monkeypatch):
    monkeypatch.setattr(moments, "free_bytes", lambda _x: 1000)
    before = copy.deepcopy(tiny_llama.state_dict())
    with pytest.raises(MemoryLimitError, match="targets="):
        compress(tiny_llama, ratio=0.5, calibration=DATA, progress=False)
    assert all(torch.equal(v, before[name]) for name, v in tiny_llama.state_dict().items())


def test_settings_are_plain_values():
    settings = Settings.checked(ratio=None, max_bytes="1.5 MiB", candidates=iter(("shared", "dense")))
    assert settings.max_bytes == 1_572_864
    assert settings.candidates == ("shared", "dense")
    assert (settings.storage, settings.itemsize) == (torch.bfloat16, 2)
    assert settings.to_dict()["max_bytes"] == 1_572_864
