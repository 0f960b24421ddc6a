from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tnet.compression.targets import Target, dense_weight, find_targets, group_by_input, model_device
from tnet.errors import InputError


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Stack(nn.Module):
    """Blocks under a name of the caller's choice, between two outer layers."""

    def __init__(self, list_name: str = "layers", count: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.list_name = list_name
        self.add_module(list_name, nn.ModuleList(Block() for _ in range(count)))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in getattr(self, self.list_name):
            x = block(x)
        return self.head(x)


def test_llama_targets_are_the_seven_layers_of_each_block(tiny_llama):
    targets = find_targets(tiny_llama)
    assert len(targets) == 14
    assert targets[0] == Target("model.layers.0.self_attn.q_proj", 0, 32, 32, False, False)
    assert targets[1] == Target("model.layers.0.self_attn.k_proj", 0, 16, 32, False, False)
    assert {t.block for t in targets} == {0, 1}
    assert targets[1].n_params == 16 * 32
    assert not any("lm_head" in t.name or "embed" in t.name for t in targets)


def test_gpt2_targets_are_conv1d_in_the_order_out_in(tiny_gpt2):
    targets = find_targets(tiny_gpt2)
    assert [t.name.split("h.0.")[-1] for t in targets[:4]] == [
        "attn.c_attn",
        "attn.c_proj",
        "mlp.c_fc",
        "mlp.c_proj",
    ]
    assert targets[0] == Target("transformer.h.0.attn.c_attn", 0, 96, 32, True, True)
    assert len(targets) == 8


def test_bert_targets_leave_out_the_pooler(tiny_bert):
    targets = find_targets(tiny_bert)
    assert len(targets) == 12
    assert all(t.has_bias and not t.conv1d for t in targets)
    assert not any("pooler" in t.name for t in targets)


def test_pattern_selects_inside_and_outside_the_blocks(tiny_llama):
    assert {t.name.rpartition(".")[2] for t in find_targets(tiny_llama, r"(q|v)_proj$")} == {
        "q_proj",
        "v_proj",
    }
    (head,) = find_targets(tiny_llama, "lm_head")
    assert head.block == -1
    assert (head.out_features, head.in_features) == (259, 32)


def test_a_head_tied_to_the_embedding_is_never_a_target(tiny_gpt2):
    with pytest.raises(InputError, match=r"lm_head.*matches no linear layer"):
        find_targets(tiny_gpt2, "lm_head")


@pytest.mark.parametrize("list_name", ["layers", "h", "encoder_layer", "blocks", "stages"])
def test_blocks_are_found_under_any_list_name(list_name):
    targets = find_targets(Stack(list_name))
    assert [t.block for t in targets] == [0, 0, 1, 1, 2, 2]


def test_the_longest_list_is_taken_when_none_has_a_usual_name():
    model = Stack("stages", count=3)
    model.extra = nn.ModuleList(Block() for _ in range(2))
    assert all(t.name.startswith("stages.") for t in find_targets(model))


def test_nested_lists_belong_to_the_outer_block():
    model = Stack("layers", count=2)
    for block in model.layers:
        block.blocks = nn.ModuleList(Block() for _ in range(3))
    assert {t.block for t in find_targets(model)} == {0, 1}
    assert len(find_targets(model)) == 2 * (2 + 6)


def test_one_module_under_two_names_appears_once_with_its_alias():
    model = Stack()
    model.layers[2].up = model.layers[0].up
    targets = {t.name: t for t in find_targets(model)}
    assert targets["layers.0.up"].aliases == ("layers.2.up",)
    assert "layers.2.up" not in targets


def test_two_modules_with_one_weight_and_bias_are_one_target():
    model = Stack()
    model.layers[1].down.weight = model.layers[0].down.weight
    model.layers[1].down.bias = model.layers[0].down.bias
    targets = {t.name: t for t in find_targets(model)}
    assert targets["layers.0.down"].aliases == ("layers.1.down",)


def test_two_modules_with_one_weight_but_different_biases_are_left_out():
    model = Stack()
    model.layers[1].down.weight = model.layers[0].down.weight
    assert not {"layers.0.down", "layers.1.down"} & {t.name for t in find_targets(model)}


def test_a_layer_tied_to_an_embedding_is_left_out():
    model = Stack()
    model.embedding = nn.Embedding(16, 8)
    model.layers[0].up.weight = model.embedding.weight
    assert "layers.0.up" not in {t.name for t in find_targets(model)}


def test_subclasses_of_linear_are_left_out():
    model = Stack()
    model.layers[0].attention = nn.MultiheadAttention(8, 2)
    assert not any("attention" in t.name for t in find_targets(model))


@pytest.mark.parametrize(
    ("model", "pattern", "message"),
    [
        (nn.Sequential(nn.ReLU()), None, "no torch.nn.Linear"),
        (nn.Sequential(nn.Linear(2, 2)), None, "no list of repeated blocks"),
        (nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), None, "no list of repeated blocks"),
        (nn.Sequential(nn.Linear(2, 2)), "(", "not a regular expression"),
        (nn.Sequential(nn.Linear(2, 2)), "zzz", "there are 1, such as 0"),
    ],
)
def test_bad_models_and_patterns_are_refused(model, pattern, message):
    with pytest.raises(InputError, match=message):
        find_targets(model, pattern)


def test_dense_weight_is_out_by_in_for_both_kinds():
    linear, conv = nn.Linear(3, 5), Conv1D(5, 3)
    x = torch.randn(4, 3)
    assert dense_weight(linear).shape == dense_weight(conv).shape == (5, 3)
    torch.testing.assert_close(x @ dense_weight(conv).T + conv.bias, conv(x))
    assert dense_weight(linear).data_ptr() == linear.weight.data_ptr()
    assert not dense_weight(linear).requires_grad
    with pytest.raises(InputError, match="ReLU"):
        dense_weight(nn.ReLU())


def test_groups_of_llama(tiny_llama, token_batch):
    groups = group_by_input(tiny_llama, find_targets(tiny_llama), token_batch)
    leaves = [tuple(name.rpartition(".")[2] for name in group) for group in groups]
    assert leaves == 2 * [
        ("q_proj", "k_proj", "v_proj"),
        ("o_proj",),
        ("gate_proj", "up_proj"),
        ("down_proj",),
    ]


def test_groups_of_bert_and_gpt2(tiny_bert, tiny_gpt2, token_batch):
    groups = group_by_input(tiny_bert, find_targets(tiny_bert), token_batch)
    assert [len(group) for group in groups] == 2 * [3, 1, 1, 1]
    groups = group_by_input(tiny_gpt2, find_targets(tiny_gpt2), token_batch)
    assert [len(group) for group in groups] == 8 * [1]


def test_grouping_leaves_the_model_as_it_was(tiny_llama, token_batch):
    tiny_llama.train()
    tiny_llama.model.layers[0].eval()
    before = {name: module.training for name, module in tiny_llama.named_modules()}
    group_by_input(tiny_llama, find_targets(tiny_llama), token_batch)
    assert {name: module.training for name, module in tiny_llama.named_modules()} == before
    assert not any(module._forward_pre_hooks for module in tiny_llama.modules())


class Inplace(nn.Module):
    """Two layers read one buffer, overwritten in between; a third is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({k: nn.Linear(4, 4) for k in "abc"})])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layers[0]
        y = layer["a"](x)
        x.add_(1.0)
        return y + layer["b"](x)


def test_a_write_between_two_reads_and_an_unreached_layer_separate_groups():
    model = Inplace()
    groups = group_by_input(model, find_targets(model), {"x": torch.ones(2, 4)})
    assert groups == (("layers.0.a",), ("layers.0.b",), ("layers.0.c",))


def test_model_device_of_a_model_without_parameters():
    assert model_device(nn.ReLU()) == torch.device("cpu")
    assert model_device(nn.Linear(2, 2, device="meta")) == torch.device("meta")
