from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.nn.attention import (
    AttentionOrder,
    Factors,
    TensorProductAttention,
    apply_rotary,
    attend,
    fewest_macs,
    rotary_angles,
)


def make(seed: int = 0, dtype: torch.dtype = torch.float64, **options) -> TensorProductAttention:
    torch.manual_seed(seed)
    given: dict[str, Any] = {
        "features": 12,
        "n_heads": 3,
        "head_width": 4,
        "query_rank": 3,
        "key_rank": 2,
        "value_rank": 1,
    }
    layer = TensorProductAttention(**(given | options), dtype=dtype)
    nn.init.normal_(layer.output.weight)  # zero at the start, which would hide everything
    return layer


def by_definition(layer: TensorProductAttention, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values of every token formed and turned as a whole, then softmax in loops over heads."""
    h, d, ranks = layer.n_heads, layer.head_width, layer.ranks
    rows = layer.factors(x)
    sizes = [rank * h for rank in ranks] + [rank * d for rank in ranks]
    *a, b_q, b_k, b_v = rows.split(sizes, dim=-1)
    q, k, v = (
        torch.einsum("btrh,btrd->bthd", first.unflatten(-1, (r, h)), second.unflatten(-1, (r, d))) / r
        for first, second, r in zip(a, (b_q, b_k, b_v), ranks, strict=True)
    )
    if layer.rotary_base is not None:
        angles = rotary_angles(positions.double(), d, layer.rotary_base)[:, None]
        q, k = apply_rotary(q, angles), apply_rotary(k, angles)
    mixed = torch.empty_like(v.expand(*x.shape[:2], h, d))
    for head in range(h):
        scores = q[:, :, head] @ k[:, :, head].mT / d**0.5
        scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, float("-inf"))
        mixed[:, :, head] = scores.softmax(-1) @ v[:, :, head]
    return layer.output(mixed.flatten(2))


@pytest.mark.parametrize("rotary_base", [None, 10000.0, 100.0])
@pytest.mark.parametrize("bias", [False, True])
def test_forward_is_the_definition(rotary_base, bias):
    layer = make(rotary_base=rotary_base, bias=bias)
    if bias:
        nn.init.normal_(layer.factors.bias)
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_definition(layer, x, torch.arange(7)))
    positions = torch.tensor([0, 1, 5, 6, 9, 20, 21])
    torch.testing.assert_close(layer(x, positions=positions), by_definition(layer, x, positions))
    torch.testing.assert_close(layer(x, positions=positions.expand(2, 7)), layer(x, positions=positions))


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_pieces_through_the_cache_are_the_whole(sizes, seed):
    layer = make(seed)
    x = torch.randn(2, sum(sizes), 12, dtype=torch.float64)
    cache = layer.new_cache(2)
    pieces = [layer(piece, cache=cache) for piece in x.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), layer(x))
    assert cache.length == sum(sizes)
    assert cache.numbers_per_token == layer.cache_numbers_per_token == (2 + 1) * (3 + 4)
    assert cache.nbytes == 2 * sum(sizes) * 21 * 8


def test_rotary_commutes_with_the_sum_over_ranks_and_knows_only_differences():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 2, n, dtype=torch.float64, generator=generator) for n in (3, 6))
    angles = rotary_angles(torch.arange(5).double(), 6)[:, None]
    whole = apply_rotary(torch.einsum("trh,trd->thd", a, b), angles)
    torch.testing.assert_close(torch.einsum("trh,trd->thd", a, apply_rotary(b, angles)), whole)
    q, k = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    products = [
        apply_rotary(q, rotary_angles(torch.tensor(t + 3.0).double(), 6))
        @ apply_rotary(k, rotary_angles(torch.tensor(float(t)).double(), 6))
        for t in (0, 1, 17)
    ]
    torch.testing.assert_close(products[0], products[1])
    torch.testing.assert_close(products[0], products[2])


@pytest.mark.parametrize("n", [1, 3, 6])
def test_every_order_of_contraction_agrees(n):
    generator = torch.Generator().manual_seed(n)
    queries, keys, values = (
        Factors(*(torch.randn(2, length, rank, width, dtype=torch.float64, generator=generator) for width in (3, 8)))
        for length, rank in ((n, 4), (6, 2), (6, 3))
    )
    first = attend(queries, keys, values, AttentionOrder("expand", "expand", 0))
    for scores in ("expand", "keys", "both"):
        for kept in ("expand", "factors"):
            torch.testing.assert_close(attend(queries, keys, values, AttentionOrder(scores, kept, 0)), first)
    torch.testing.assert_close(attend(queries, keys, values), first)


def test_the_cheapest_order_depends_on_the_number_of_new_tokens():
    # One new token among 1000: neither keys nor values are worth forming; a prompt is.
    decode = fewest_macs(1, 1000, 12, 64, (6, 2, 2))
    assert decode[:2] == ("both", "factors")
    assert decode.macs == 1000 * 2 * (6 * 64 + 6 * 12 + 12) + 1000 * 2 * 12 * 65
    assert decode.macs < 0.55 * (1000 * 4 * 12 * 64 + 2 * 1000 * 12 * 64)  # against forming both
    assert fewest_macs(512, 512, 12, 64, (6, 2, 2))[:2] == ("expand", "expand")
    assert fewest_macs(1, 1000, 4, 8, (8, 8, 8))[:2] == ("expand", "expand")
    assert fewest_macs(1, 1000, 2, 64, (12, 1, 1))[:2] == ("keys", "factors")


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_multi_query_grouped_and_multi_head_attention_are_special_cases(kv_heads):
    torch.manual_seed(kv_heads)
    query, output = nn.Linear(10, 16).double(), nn.Linear(16, 10).double()
    key, value = (nn.Linear(10, kv_heads * 4).double() for _ in range(2))
    layer = TensorProductAttention.from_projections(
        query, key, value, output, 4, query_rank=4, key_rank=kv_heads, value_rank=kv_heads
    )
    x = torch.randn(2, 5, 10, dtype=torch.float64)
    q, k, v = (linear(x).unflatten(-1, (-1, 4)).transpose(1, 2) for linear in (query, key, value))
    angles = rotary_angles(torch.arange(5).double(), 4)
    mixed = F.scaled_dot_product_attention(
        apply_rotary(q, angles), apply_rotary(k, angles), v, is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(layer(x), output(mixed.transpose(1, 2).flatten(2)))


def test_conversion_cuts_the_heads_with_least_squared_error():
    torch.manual_seed(0)
    query, output = nn.Linear(6, 16, bias=False).double(), nn.Linear(16, 6, bias=False).double()
    key, value = (nn.Linear(6, 16, bias=False).double() for _ in range(2))
    layer = TensorProductAttention.from_projections(
        query, key, value, output, 4, query_rank=4, key_rank=2, value_rank=3, rotary_base=None
    ).eval()
    x = torch.eye(6, dtype=torch.float64)[None]
    rows = layer.factors(x)[0]
    a = rows[:, 16 : 16 + 8].unflatten(-1, (2, 4))
    b = rows[:, 9 * 4 + 16 : 9 * 4 + 16 + 8].unflatten(-1, (2, 4))
    kept = torch.einsum("trh,trd->hdt", a, b) / 2
    s = torch.linalg.svdvals(key.weight.detach().reshape(4, 24))
    torch.testing.assert_close((kept.reshape(16, 6) - key.weight).norm(), s[2:].norm())


def test_gradients():
    layer = make(features=4, n_heads=2, head_width=2, query_rank=2, key_rank=2, value_rank=1)
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    given = tuple(parameter.detach().clone().requires_grad_() for parameter in layer.parameters())

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    torch.autograd.gradcheck(run, (x, *given))


def test_start_is_zero_output_and_xavier_factors():
    torch.manual_seed(0)
    layer = TensorProductAttention(256, 8, 16, bias=False)
    assert layer.ranks == (6, 2, 2)
    assert torch.equal(layer(torch.randn(1, 3, 256)), torch.zeros(1, 3, 256))
    a_query, b_value = layer.factors.weight[:48], layer.factors.weight[-32:]
    assert a_query.abs().max().item() == pytest.approx((6 / (6 * (8 + 256))) ** 0.5, rel=1e-2)
    assert b_value.abs().max().item() == pytest.approx((6 / (16 * (2 + 256))) ** 0.5, rel=1e-2)


def test_with_biases_heads_begin_alike_and_as_wide_as_the_input():
    torch.manual_seed(0)
    layer = TensorProductAttention(256, 8, 64)
    maps = layer.factors(torch.randn(500, 256))
    heads, features = maps.split([10 * 8, 10 * 64], dim=-1)
    assert heads.mean().item() == pytest.approx(1.0, abs=0.01)
    assert heads.std().item() == pytest.approx(0.3, rel=0.1)
    b_query = features[:, : 6 * 64].unflatten(-1, (6, 64))
    assert b_query.mean(dim=1).var().item() == pytest.approx(1.0, rel=0.1)
    assert torch.equal(layer(torch.randn(1, 3, 256)), torch.zeros(1, 3, 256))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    exact = make(dtype=torch.float32)
    x = torch.randn(2, 6, 12)
    expected = exact(x)
    half = make(dtype=torch.float32).to(dtype)
    assert half(x.to(dtype)).dtype == dtype
    torch.testing.assert_close(half(x.to(dtype)).float(), expected, rtol=0.1, atol=0.1)
    cache = exact.new_cache(2)
    with torch.autocast("cpu", dtype=dtype):
        pieces = [exact(piece, cache=cache) for piece in x.split([4, 1, 1], dim=1)]
    assert cache.key_features.dtype == dtype
    torch.testing.assert_close(torch.cat(pieces, dim=1).float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("n", [1, 3])
def test_compiles_in_one_graph(n):
    layer = make(dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = torch.randn(2, 3, 12)
    torch.testing.assert_close(compiled(x), layer(x))
    ours, theirs = layer.new_cache(2), layer.new_cache(2)
    for piece in x.split(n, dim=1):
        with torch.no_grad():
            torch.testing.assert_close(compiled(piece, cache=ours), layer(piece, cache=theirs))


def test_keys_of_the_state_description_and_meta():
    layer = TensorProductAttention(12, 3, bias=False, device="meta")
    assert list(layer.state_dict()) == ["factors.weight", "output.weight"]
    assert layer(torch.empty(2, 5, 12, device="meta")).shape == (2, 5, 12)
    layer = TensorProductAttention(12, 3, query_rank=3, bias=True)
    assert list(layer.state_dict()) == ["factors.weight", "factors.bias", "output.weight", "output.bias"]
    assert layer.n_params == 12 * 7 * 7 + 49 + 144 + 12
    assert layer.macs == 12 * 7 * 7 + 7 * 12 + 144
    assert "ranks=(3, 2, 2), n_params=793, macs=816, cache_numbers_per_token=28" in repr(layer)
    clone = TensorProductAttention(12, 3, query_rank=3, bias=True)
    clone.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 12)
    assert torch.equal(clone(x), layer(x))
    with pytest.raises(ShapeError, match=r"TensorProductAttention .*factors\.weight \(49, 12\), not \(56, 12\)"):
        TensorProductAttention(12, 3, query_rank=4, bias=True).load_state_dict(layer.state_dict())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": 0}, ShapeError, "features=0"),
        ({"n_heads": 2.0}, ShapeError, r"n_heads=2\.0"),
        ({"n_heads": 5, "head_width": None}, ShapeError, "features=12 do not divide among n_heads=5"),
        ({"head_width": 3}, InputError, "head_width=3.*even width"),
        ({"key_rank": 0}, RankError, "key_rank=0"),
        ({"value_rank": True}, RankError, "value_rank=True"),
        ({"query_rank": "6"}, RankError, "query_rank='6'"),
        ({"rotary_base": -1.0}, InputError, r"rotary_base=-1\.0"),
        ({"rotary_base": float("inf")}, InputError, "rotary_base=inf"),
    ],
)
def test_bad_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_bad_tokens_positions_and_caches_are_refused():
    layer, x = make(), torch.randn(2, 5, 12, dtype=torch.float64)
    with pytest.raises(ShapeError, match=r"x \(5, 12\)"):
        layer(x[0])
    with pytest.raises(ShapeError, match=r"\(batch, tokens, 12\)"):
        layer(x[..., :6])
    with pytest.raises(ShapeError, match=r"positions \(4,\).*give \(5,\) or \(2, 5\)"):
        layer(x, positions=torch.arange(4))
    with pytest.raises(InputError, match=r"cache of type dict.*new_cache"):
        layer(x, cache={})
    for other in (make(key_rank=3), make(n_heads=2), make(head_width=6)):
        cache = other.new_cache(2)
        with pytest.raises(ShapeError, match=r"cache is of another layout.*new_cache"):
            layer(x, cache=cache)
        assert cache.length == 0
    with pytest.raises(ShapeError, match="another layout"):
        layer(x, cache=layer.new_cache(3))
    with pytest.raises(InputError, match="cache lies on meta"):
        layer(x, cache=make().to("meta").new_cache(2))
    with pytest.raises(ShapeError, match="batch_size=0"):
        layer.new_cache(0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"query_rank": 5}, RankError, "rank=5.*from 1 to 4"),
        ({"key_rank": 3}, RankError, "rank=3.*from 1 to 2"),
        ({"value_rank": 0}, RankError, "rank=0"),
        ({"head_width": 3}, ShapeError, "head_width=3: give"),
        ({"key": nn.Linear(9, 8)}, ShapeError, r"key \(8, 9\)"),
        ({"output": nn.Linear(16, 9)}, ShapeError, r"output \(9, 16\)"),
        ({"key": nn.Linear(10, 12), "value": nn.Linear(10, 12)}, ShapeError, "g a divisor of h"),
        ({"value": nn.Linear(10, 8).double()}, BackendError, "mixed dtype"),
    ],
)
def test_bad_projections_are_refused(options, error, message):
    good = {
        "query": nn.Linear(10, 16),
        "key": nn.Linear(10, 8),
        "value": nn.Linear(10, 8),
        "output": nn.Linear(16, 10),
    }
    given = good | {"head_width": 4, "query_rank": 4, "key_rank": 2, "value_rank": 2} | options
    with pytest.raises(error, match=message):
        TensorProductAttention.from_projections(**given)
