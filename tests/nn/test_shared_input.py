from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.nn import FollowerLinear, InterpolativeLinear, SharedInputLinear, shared_input_layers


class Attention(nn.Module):
    def __init__(self, layers: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.q, self.k, self.v = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


@pytest.fixture
def problem() -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor | None]]:
    torch.manual_seed(0)
    lefts = [torch.randn(m, 6, dtype=torch.float64) for m in (8, 4, 4)]
    biases = [torch.randn(8, dtype=torch.float64), None, torch.randn(4, dtype=torch.float64)]
    return lefts, torch.randn(6, 10, dtype=torch.float64), biases


def test_joint_factorisation_is_exact_and_stored_once(problem):
    lefts, right, biases = problem
    layers = shared_input_layers(lefts, right, biases)
    assert [type(layer) for layer in layers] == [SharedInputLinear, FollowerLinear, FollowerLinear]
    for layer, left, bias in zip(layers, lefts, biases, strict=True):
        torch.testing.assert_close(layer.dense_weight(), left @ right)
        assert (layer.bias is None) == (bias is None)
    assert sum(layer.n_params for layer in layers) == 6 * (8 + 4 + 4 + 10 - 6) + 10 + 8 + 4
    # Followers of fewer rows than the rank are the rule with grouped-query attention.
    assert layers[1].out_features < layers[1].rank


def test_state_dict_holds_the_shared_factor_once(problem):
    model = Attention(shared_input_layers(*problem))
    assert sorted(model.state_dict()) == [
        "k.left",
        "q.bias",
        "q.coupling",
        "q.left",
        "q.order",
        "v.bias",
        "v.left",
    ]


def test_deepcopy_links_followers_to_the_copied_owner(problem):
    model = Attention(shared_input_layers(*problem))
    twin = copy.deepcopy(model)
    assert twin.k.owner is twin.q
    assert twin.v.owner is twin.q
    assert model.k.owner is model.q
    x = torch.randn(3, 10, dtype=torch.float64)
    with torch.no_grad():
        twin.q.coupling.add_(1.0)
    assert not torch.allclose(twin.v(x), model.v(x))


def test_conversion_and_loading_reach_the_shared_factor(problem):
    model = Attention(shared_input_layers(*problem))
    x = torch.randn(3, 10, dtype=torch.float64)
    expected = model(x)
    single = copy.deepcopy(model).to(torch.float32)
    torch.testing.assert_close(single(x.float()).double(), expected, rtol=1e-4, atol=1e-4)
    owner = SharedInputLinear(10, 8, 6, dtype=torch.float64)
    fresh = Attention(
        (
            owner,
            FollowerLinear(owner, 4, bias=False, dtype=torch.float64),
            FollowerLinear(owner, 4, dtype=torch.float64),
        )
    )
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), expected)


def test_gradients_of_all_layers_meet_in_the_shared_factor(problem):
    model = Attention(shared_input_layers(*problem))
    x = torch.randn(3, 10, dtype=torch.float64)
    model.v(x).sum().backward()
    alone = model.q.coupling.grad.clone()
    model.zero_grad()
    model(x).sum().backward()
    assert alone.abs().max() > 0
    assert not torch.allclose(alone, model.q.coupling.grad)


def test_from_owner_takes_the_pivot_columns(problem):
    lefts, right, _ = problem
    owner = SharedInputLinear.from_factors(lefts[0], right)
    weight = lefts[2] @ right
    follower = FollowerLinear.from_owner(owner, weight[:, owner.order[:6].long()], torch.ones(4).double())
    torch.testing.assert_close(follower.dense_weight(), weight)
    assert torch.equal(follower.bias, torch.ones(4).double())


def test_a_single_layer_has_no_followers(problem):
    (layer,) = shared_input_layers(problem[0][:1], problem[1])
    assert isinstance(layer, SharedInputLinear)


@pytest.mark.parametrize(
    ("lefts", "right", "biases", "error", "message"),
    [
        ([], torch.ones(2, 5), None, ShapeError, "at least one left factor"),
        ([torch.ones(3, 2)], torch.ones(2, 5), [None, None], ShapeError, "1 left factors and 2 biases"),
        ([torch.ones(3, 2), torch.ones(3, 3)], torch.ones(2, 5), None, ShapeError, r"left \(3, 3\)"),
        ([torch.ones(3, 2)], torch.ones(2, 5), [torch.ones(4)], ShapeError, r"bias \(4,\)"),
        ([torch.ones(3, 6)], torch.ones(6, 5), None, RankError, "rank=6"),
        ([torch.ones(3, 2), torch.ones(3, 2).half()], torch.ones(2, 5), None, BackendError, "mixed dtype"),
        ([torch.full((3, 2), float("nan"))], torch.ones(2, 5), None, InputError, "non-finite"),
    ],
)
def test_bad_factors_are_refused(lefts, right, biases, error, message):
    with pytest.raises(error, match=message):
        shared_input_layers(lefts, right, biases)


def test_owner_of_another_class_is_refused():
    with pytest.raises(InputError, match="owner of type InterpolativeLinear"):
        FollowerLinear(InterpolativeLinear(4, 4, 2), 3)  # type: ignore[arg-type]


def test_left_factor_of_another_rank_is_refused():
    owner = SharedInputLinear(4, 4, 2)
    with pytest.raises(ShapeError, match=r"left \(3, 3\)"):
        FollowerLinear.from_owner(owner, torch.ones(3, 3))
