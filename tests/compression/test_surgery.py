from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tnet.compression.surgery import (
    build,
    check_specs,
    describe,
    factorised_layers,
    install,
    replace,
    restore_dense,
)
from tnet.compression.targets import dense_weight, find_targets
from tnet.errors import FormatError, InputError, RankError, ShapeError
from tnet.nn import (
    FactorisedLinear,
    FollowerLinear,
    InterpolativeLinear,
    LowRankLinear,
    SharedInputLinear,
    shared_input_layers,
)

Q, K, V = (f"model.layers.0.self_attn.{x}_proj" for x in "qkv")
LLAMA_PLAN = {
    Q: {"kind": "shared_owner", "in_features": 32, "out_features": 32, "rank": 20, "bias": False},
    K: {
        "kind": "shared_follower",
        "in_features": 32,
        "out_features": 16,
        "rank": 20,
        "bias": False,
        "owner": Q,
    },
    V: {
        "kind": "shared_follower",
        "in_features": 32,
        "out_features": 16,
        "rank": 20,
        "bias": False,
        "owner": Q,
    },
    "model.layers.0.mlp.up_proj": {
        "kind": "low_rank",
        "in_features": 32,
        "out_features": 48,
        "rank": 4,
        "bias": False,
    },
    "model.layers.1.mlp.down_proj": {
        "kind": "interpolative",
        "in_features": 48,
        "out_features": 32,
        "rank": 8,
        "bias": True,
    },
    "model.layers.1.mlp.up_proj": {
        "kind": "mpo",
        "in_features": 32,
        "out_features": 48,
        "row_shape": [6, 8],
        "column_shape": [4, 8],
        "ranks": [3],
        "bias": False,
    },
}


def gpt2_plan(model: nn.Module) -> dict:
    return {
        target.name: {
            "kind": "interpolative",
            "in_features": target.in_features,
            "out_features": target.out_features,
            "rank": 8,
            "bias": True,
            "conv1d": True,
        }
        for target in find_targets(model)
    }


def test_plan_is_carried_out_and_read_back(tiny_llama, token_batch):
    replace(tiny_llama, json.loads(json.dumps(LLAMA_PLAN)))
    assert factorised_layers(tiny_llama) == LLAMA_PLAN
    assert tiny_llama.get_submodule(K).owner is tiny_llama.get_submodule(Q)
    assert torch.isfinite(tiny_llama(**token_batch).logits).all()


def test_the_plan_may_name_followers_first(tiny_llama):
    replace(tiny_llama, {name: LLAMA_PLAN[name] for name in (V, K, Q)})
    assert tiny_llama.get_submodule(V).owner is tiny_llama.get_submodule(Q)


def test_replacement_on_the_meta_device_takes_a_state_dict(tiny_llama, token_batch):
    twin = copy.deepcopy(tiny_llama).to("meta")
    replace(tiny_llama, LLAMA_PLAN)
    replace(twin, LLAMA_PLAN)
    assert all(parameter.is_meta for parameter in twin.parameters())
    assert list(twin.state_dict()) == list(tiny_llama.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_restored_model_has_the_original_architecture(tiny_llama, token_batch, dtype, training):
    original = copy.deepcopy(tiny_llama)
    model = tiny_llama.to(dtype).train(training)
    model.config._attn_implementation = "eager"
    replace(model, {name: spec for name, spec in LLAMA_PLAN.items() if not spec["bias"]})
    expected = model.eval()(**token_batch).logits
    model.train(training)
    names = restore_dense(model)
    assert set(names) == {name for name, spec in LLAMA_PLAN.items() if not spec["bias"]}
    assert model.get_submodule(Q).training == training
    assert factorised_layers(model) == {}
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(model.eval()(**token_batch).logits, expected, rtol=tolerance, atol=tolerance)
    original.load_state_dict(model.state_dict(), strict=True)


def test_gpt2_goes_back_to_conv1d(tiny_gpt2, token_batch):
    original = copy.deepcopy(tiny_gpt2)
    plan = gpt2_plan(tiny_gpt2)
    replace(tiny_gpt2, plan)
    assert factorised_layers(tiny_gpt2) == plan
    expected = tiny_gpt2(**token_batch).logits
    restore_dense(tiny_gpt2)
    layer = tiny_gpt2.transformer.h[0].attn.c_attn
    assert type(layer) is Conv1D
    assert layer.weight.shape == (32, 96)
    torch.testing.assert_close(tiny_gpt2(**token_batch).logits, expected, rtol=1e-4, atol=1e-5)
    original.load_state_dict(tiny_gpt2.state_dict(), strict=True)


def test_conv1d_without_a_bias_gets_a_zero_one():
    model = nn.ModuleDict({"a": Conv1D(3, 2)})
    layer = LowRankLinear(2, 3, 1, bias=False)
    layer.conv1d = True
    install(model, "a", layer)
    restore_dense(model)
    assert torch.equal(model["a"].bias, torch.zeros(3))


def test_fitted_layers_reproduce_the_model_at_full_rank(tiny_bert, token_batch):
    expected = tiny_bert(**token_batch).last_hidden_state
    for target in find_targets(tiny_bert):
        old = tiny_bert.get_submodule(target.name)
        weight = dense_weight(old)
        layer = (
            InterpolativeLinear.from_factors(torch.eye(target.out_features), weight, old.bias.detach())
            if (target.out_features <= target.in_features)
            else InterpolativeLinear.from_factors(weight, torch.eye(target.in_features), old.bias.detach())
        )
        install(tiny_bert, target.name, layer)
    torch.testing.assert_close(tiny_bert(**token_batch).last_hidden_state, expected, rtol=1e-4, atol=1e-4)


def test_joint_factorisation_in_a_model(tiny_llama, token_batch):
    expected = tiny_llama(**token_batch).logits
    weights = [dense_weight(tiny_llama.get_submodule(name)) for name in (Q, K, V)]
    for name, layer in zip((Q, K, V), shared_input_layers(weights, torch.eye(32)), strict=True):
        install(tiny_llama, name, layer)
    torch.testing.assert_close(tiny_llama(**token_batch).logits, expected, rtol=1e-4, atol=1e-5)
    twin = copy.deepcopy(tiny_llama)
    assert twin.get_submodule(K).owner is twin.get_submodule(Q)


def test_install_keeps_mode_dtype_and_device(tiny_llama):
    model = tiny_llama.to(torch.bfloat16).eval()
    install(model, Q, LowRankLinear(32, 32, 4, dtype=torch.float64))
    assert model.get_submodule(Q).left.dtype == torch.bfloat16
    assert not model.get_submodule(Q).training


def test_install_reaches_every_name_of_a_tied_layer():
    shared = nn.Linear(4, 4)
    twin = nn.Linear(4, 4)
    twin.weight, twin.bias = shared.weight, shared.bias
    other = nn.Linear(4, 4)
    other.weight = shared.weight  # a bias of its own: another map
    model = nn.ModuleDict({"a": shared, "b": nn.ModuleList([shared, twin]), "c": other})
    install(model, "a", LowRankLinear(4, 4, 2))
    assert model["a"] is model["b"][0] is model["b"][1]
    assert model["c"] is other
    assert list(factorised_layers(model)) == ["a"]
    restore_dense(model)
    assert model["a"] is model["b"][0] is model["b"][1]


def test_install_refuses_unknown_names_and_modules_without_values(tiny_llama):
    for name in ("model.layers.7", "", "nope"):
        with pytest.raises(InputError, match="has no module"):
            install(tiny_llama, name, nn.Linear(2, 2))
    with pytest.raises(InputError, match="no values"):
        install(tiny_llama, Q, LowRankLinear(32, 32, 4, device="meta"))


def test_a_module_without_parameters_can_be_replaced():
    model = nn.Sequential(nn.ReLU())
    install(model, "0", nn.GELU())
    assert isinstance(model[0], nn.GELU)


@pytest.mark.parametrize("name", LLAMA_PLAN)
def test_build_and_describe_are_inverse(name):
    spec = LLAMA_PLAN[name]
    owner = build(LLAMA_PLAN[Q])
    layer = build(spec, owner, device="meta", dtype=torch.bfloat16)
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in layer.parameters())
    assert describe(layer, {owner: Q}) == spec


def test_build_refuses_what_does_not_fit():
    low_rank = {"kind": "low_rank", "in_features": 4, "out_features": 3, "rank": 2, "bias": True}
    with pytest.raises(RankError, match="rank=9"):
        build({**low_rank, "rank": 9})
    with pytest.raises(InputError, match="owner of type NoneType"):
        build({**low_rank, "kind": "shared_follower", "owner": "q"})
    mpo = {"kind": "mpo", "in_features": 4, "out_features": 3, "bias": True}
    with pytest.raises(ShapeError, match=r"\(4, 4\), not \(3, 4\)"):
        build({**mpo, "row_shape": [2, 2], "column_shape": [2, 2], "ranks": [1]})


def test_describe_refuses_what_it_cannot_name():
    follower = FollowerLinear(SharedInputLinear(4, 4, 2), 3)
    with pytest.raises(InputError, match="install its owner"):
        factorised_layers(nn.ModuleList([follower]))

    class Odd(FactorisedLinear):
        forward = dense_weight = macs = factor_dims = _described = None  # type: ignore[assignment]

    odd = Odd(2, 2)
    odd.bias = None
    with pytest.raises(InputError, match="Odd"):
        describe(odd, {})


GOOD = {"kind": "low_rank", "in_features": 32, "out_features": 48, "rank": 4, "bias": False}
FOLLOWER = {**GOOD, "kind": "shared_follower", "owner": "q"}
MPO = {"kind": "mpo", "in_features": 4, "out_features": 4, "bias": False, "row_shape": [2, 2], "ranks": [1]}


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (None, "NoneType"),
        ([], "list"),
        ({"": GOOD}, "non-empty name"),
        ({1: GOOD}, "non-empty name"),
        ({"a": "low_rank"}, "a mapping"),
        ({"a": {**GOOD, "kind": "magic"}}, "'magic' is unknown"),
        ({"a": {**GOOD, "kind": ["low_rank"]}}, "is unknown"),
        ({"a": {k: v for k, v in GOOD.items() if k != "rank"}}, "rank missing"),
        ({"a": {**GOOD, "extra": 1}}, "unknown extra"),
        ({"a": {**GOOD, "owner": "b"}}, "unknown owner"),
        ({"a": {**GOOD, "rank": "4"}}, "rank='4' is no integer"),
        ({"a": {**GOOD, "rank": True}}, "rank=True is no integer"),
        ({"a": {**GOOD, "rank": 4.0}}, "is no integer"),
        ({"a": {**GOOD, "bias": 0}}, "bias=0 is no true or false"),
        ({"a": {**GOOD, "conv1d": 1}}, "conv1d=1"),
        ({"a": {**MPO, "column_shape": 4}}, "column_shape=4 is no list"),
        ({"a": {**MPO, "column_shape": [2, 2.0]}}, "is no list of integers"),
        ({"a": FOLLOWER}, "owner 'q' is no shared_owner"),
        ({"a": FOLLOWER, "q": GOOD}, "owner 'q' is no shared_owner"),
        ({"a": FOLLOWER, "q": {**GOOD, "kind": "shared_owner", "rank": 5}}, "differ from those of 'q'"),
    ],
)
def test_malformed_specs_are_refused(specs, message):
    with pytest.raises(FormatError, match=message):
        check_specs(specs)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"model.layers.9.mlp.up_proj": GOOD}, "has no module 'model.layers.9.mlp.up_proj'"),
        (
            {"model.layers.0.mlp.up_proj": {**GOOD, "out_features": 47}},
            r"weight is \(48, 32\), not \(47, 32\)",
        ),
        ({"model.layers.0.mlp.up_proj": {**GOOD, "rank": 40}}, "mlp.up_proj.*rank=40"),
        ({"model.layers.0.mlp.up_proj": {**GOOD, "conv1d": True}}, "a Linear there, not a Conv1D"),
        ({"model.layers.0.mlp": GOOD}, "a LlamaMLP there, not a Linear"),
    ],
)
def test_plans_that_do_not_fit_the_model_change_nothing(tiny_llama, plan, message):
    first = {"model.layers.0.mlp.gate_proj": GOOD}
    with pytest.raises(FormatError, match=message):
        replace(tiny_llama, first | plan)
    assert factorised_layers(tiny_llama) == {}
