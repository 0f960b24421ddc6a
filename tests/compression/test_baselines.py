from __future__ import annotations

import copy

import pytest
import torch

from tnet.compression import baselines
from tnet.compression.baselines import compress_uniform
from tnet.compression.surgery import factorised_layers
from tnet.compression.targets import dense_weight, find_targets

IDS = torch.randint(3, 250, (20, 10), generator=torch.Generator().manual_seed(0))
DATA = {"calibration": [{"input_ids": IDS}], "evaluation": [{"input_ids": IDS[:4]}], "progress": False}


@pytest.fixture(params=["tiny_llama", "tiny_gpt2", "tiny_bert"])
def model(request):
    return request.getfixturevalue(request.param)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {t.name: dense_weight(model.get_submodule(t.name)).double().clone() for t in find_targets(model)}


def compressed(model, method: str, ratio: float = 0.5):
    return compress_uniform(model, ratio=ratio, method=method, dtype="float32", **DATA)


def test_plain_svd_is_the_best_of_its_rank(model):
    before = weights_of(model)
    result = compressed(model, "svd")
    for choice in result.choices:
        (name,), (rank,) = choice.members, choice.ranks
        m, n = before[name].shape
        assert rank == int(0.5 * m * n / (m + n))
        s = torch.linalg.svdvals(before[name])
        error = (before[name] - model.get_submodule(name).dense_weight().detach().double()).norm()
        assert float(error) == pytest.approx(float(s[rank:].norm()), rel=1e-4)


@pytest.mark.parametrize("method", ["svd", "whitened", "mpo"])
def test_account_is_what_the_layers_store(model, method):
    names = list(weights_of(model))
    biases = {name: model.get_submodule(name).bias for name in names}
    result = compressed(model, method)
    layers = factorised_layers(model)
    assert list(layers) == names
    assert {spec["kind"] for spec in layers.values()} == {"mpo" if method == "mpo" else "low_rank"}
    for choice in result.choices:
        layer = model.get_submodule(choice.members[0])
        elements = sum(p.numel() for name, p in layer.named_parameters() if name != "bias")
        assert choice.n_params == elements <= 0.5 * layer.in_features * layer.out_features
        assert choice.macs == layer.macs
        bias = biases[choice.members[0]]
        assert (layer.bias is None) == (bias is None)
        assert bias is None or torch.equal(layer.bias, bias), "no published recipe corrects the bias"


def output_error(model, name: str, weight: torch.Tensor, x: torch.Tensor) -> float:
    return float((x @ (weight - model.get_submodule(name).dense_weight().detach().double()).T).norm())


def test_whitening_lowers_the_error_of_the_outputs(tiny_llama):
    name = "model.layers.0.self_attn.q_proj"
    weight = weights_of(tiny_llama)[name]
    seen = []
    handle = tiny_llama.get_submodule(name).register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    with torch.no_grad():
        tiny_llama(input_ids=IDS[:18])
    handle.remove()
    x = seen[0].flatten(0, 1).double()
    plain, whitened = copy.deepcopy(tiny_llama), tiny_llama
    compressed(plain, "svd")
    compressed(whitened, "whitened")
    assert output_error(whitened, name, weight, x) < 0.98 * output_error(plain, name, weight, x)


@pytest.mark.parametrize("method", ["svd", "whitened", "mpo"])
def test_interruption_gives_the_original_back(model, method, monkeypatch):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = 0
    install = baselines.install

    def limited(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        install(*arguments)

    monkeypatch.setattr(baselines, "install", limited)
    with pytest.raises(KeyboardInterrupt):
        compressed(model, method)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
