from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tnet.errors import BackendError, InputError, ShapeError
from tnet.nn.attention import (
    ThirdOrderAttention,
    n_monomials,
    third_order_attention,
    third_order_attention_low_rank,
)


def draw(
    n: int, d: int, e: int, seed: int = 0, scale: float = 0.5, batch: tuple[int, ...] = ()
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        scale * torch.randn(*batch, n, width, dtype=torch.float64, generator=generator) for width in (d, d, d, e, e)
    ]


def by_definition(query, key1, key2, value1, value2, causal, weight=torch.exp):
    n, d = query.shape[-2:]
    out = torch.empty(*query.shape[:-1], value1.shape[-1], dtype=query.dtype)
    for i in range(n):
        seen = i + 1 if causal else n
        total, mixed = 0.0, 0.0
        for j, k in itertools.product(range(seen), repeat=2):
            a = weight((query[..., i, :] * key1[..., j, :] * key2[..., k, :]).sum(-1, keepdim=True) / d)
            total, mixed = total + a, mixed + a * value1[..., j, :] * value2[..., k, :]
        out[..., i, :] = mixed / total
    return out


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 6), d=st.integers(1, 4), causal=st.booleans(), block=st.integers(1, 7), seed=st.integers(0, 99)
)
def test_exact_is_the_definition(n, d, causal, block, seed):
    given = draw(n, d, 3, seed, scale=2.0, batch=(2,))
    expected = by_definition(*given, causal)
    torch.testing.assert_close(third_order_attention(*given, causal=causal, block=block), expected)
    with torch.no_grad():
        torch.testing.assert_close(third_order_attention(*given, causal=causal, block=block), expected)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 6), d=st.integers(1, 4), causal=st.booleans(), chunk=st.integers(1, 7),
    degree=st.sampled_from([0, 2, 4]), seed=st.integers(0, 99),
)  # fmt: skip
def test_low_rank_is_attention_with_the_polynomial(n, d, causal, chunk, degree, seed):
    given = draw(n, d, 3, seed, scale=1.5, batch=(2,))

    def polynomial(s):
        return sum(s**t / math.factorial(t) for t in range(degree + 1))

    expected = by_definition(*given, causal, weight=polynomial)
    found = third_order_attention_low_rank(*given, degree=degree, causal=causal, chunk=chunk)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_the_error_falls_with_the_degree_within_its_bound(causal):
    for seed in range(5):
        given = draw(12, 4, 4, seed, scale=0.4)
        exact = third_order_attention(*given, causal=causal)
        bound = torch.einsum("ic,jc,kc->ijk", *given[:3]).abs().max().item() / 4
        errors = []
        for degree in (2, 4, 6):
            errors.append(
                (third_order_attention_low_rank(*given, degree=degree, causal=causal) - exact).abs().max().item()
            )
            # Each e^s is off by at most this, relatively at most e^(2 B) of it; twice, above and below the line.
            assert bound < 0.6
            off = bound ** (degree + 1) * math.exp(2 * bound) / math.factorial(degree + 1)
            assert errors[-1] <= 2 * off / (1 - off) * given[3].abs().max() * given[4].abs().max()
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-7


def test_one_constant_second_key_gives_plain_attention():
    query, key1, _, value1, _ = draw(7, 4, 3)
    ones = torch.ones(7, 4, dtype=torch.float64)
    expected = torch.softmax(query @ key1.T / 4, dim=-1) @ value1
    found = third_order_attention(query, key1, ones, value1, torch.ones(7, 3, dtype=torch.float64))
    torch.testing.assert_close(found, expected)


def test_the_order_of_pairs_and_of_both_keys_does_not_matter():
    query, key1, key2, value1, value2 = draw(6, 3, 2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for attend in (third_order_attention, third_order_attention_low_rank):
        expected = attend(query, key1, key2, value1, value2)
        torch.testing.assert_close(attend(query, key1[order], key2, value1[order], value2), expected)
        torch.testing.assert_close(attend(query, key2, key1, value2, value1), expected)


def test_large_scores_do_not_overflow():
    given = [x * 100 for x in draw(5, 3, 3, scale=1.0)[:3]] + draw(5, 3, 3)[3:]
    out = third_order_attention(*given, block=2)
    s = torch.einsum("ic,jc,kc->ijk", *given[:3]).flatten(1) / 3
    expected = torch.einsum("ip,pc->ic", s.softmax(-1), torch.einsum("jc,kc->jkc", *given[3:]).flatten(0, 1))
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients(causal):
    given = [x.requires_grad_() for x in draw(3, 2, 2)]
    torch.autograd.gradcheck(lambda *x: third_order_attention(*x, causal=causal, block=2), given)
    torch.autograd.gradcheck(lambda *x: third_order_attention_low_rank(*x, causal=causal, chunk=2), given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_and_is_near(dtype):
    given = draw(8, 4, 4)
    for attend in (third_order_attention, third_order_attention_low_rank):
        out = attend(*(x.to(dtype) for x in given), causal=True)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), attend(*given, causal=True), rtol=0.05, atol=0.02)


def test_number_of_monomials():
    assert [n_monomials(4, g) for g in (0, 2, 4)] == [1, 15, 70]


@pytest.mark.parametrize("degree", [None, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_layer_is_its_function_per_head_and_compiles(degree, causal):
    torch.manual_seed(0)
    layer = ThirdOrderAttention(6, 2, degree, causal=causal)
    x = torch.randn(2, 5, 6)
    q, k1, k2, v1, v2 = layer.inputs(x).split(6, dim=-1)
    heads = [
        by_definition(*(part[..., i : i + 3].double() for part in (q, k1, k2, v1, v2)), causal,
                      torch.exp if degree is None else lambda s: 1 + s + s * s / 2).float()
        for i in (0, 3)
    ]  # fmt: skip
    expected = layer.output(torch.cat(heads, dim=-1))
    torch.testing.assert_close(layer(x), expected)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    assert f"degree={degree}, causal={causal}, n_params={6 * 30 + 30 + 42}" in repr(layer)
    assert list(layer.state_dict()) == ["inputs.weight", "inputs.bias", "output.weight", "output.bias"]
    assert layer.to("meta")(x.to("meta")).shape == (2, 5, 6)


def test_autocast():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    for degree in (None, 2):
        layer = ThirdOrderAttention(6, 2, degree)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(x)
        torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)


def test_bad_input_is_refused():
    q, k1, k2, v1, v2 = draw(5, 3, 2)
    for attend in (third_order_attention, third_order_attention_low_rank):
        with pytest.raises(ShapeError, match=r"key1 \(4, 3\)"):
            attend(q, k1[:4], k2, v1, v2)
        with pytest.raises(ShapeError, match=r"value2 \(5, 1\)"):
            attend(q, k1, k2, v1, v2[:, :1])
        with pytest.raises(ShapeError, match="none of them empty"):
            attend(q[:0], k1[:0], k2[:0], v1[:0], v2[:0])
        with pytest.raises(BackendError, match="one dtype and device"):
            attend(q, k1.float(), k2, v1, v2)
        with pytest.raises(BackendError, match=r"query of type torch\.int64"):
            attend(q.long(), k1, k2, v1, v2)
    for block in (0, True, 1.5):
        with pytest.raises(InputError, match="block="):
            third_order_attention(q, k1, k2, v1, v2, block=block)
        with pytest.raises(InputError, match="chunk="):
            third_order_attention_low_rank(q, k1, k2, v1, v2, chunk=block)
    for degree in (1, -2, 2.0, True):
        with pytest.raises(InputError, match="give an even integer"):
            third_order_attention_low_rank(q, k1, k2, v1, v2, degree=degree)
        with pytest.raises(InputError, match="give an even integer"):
            ThirdOrderAttention(6, 2, degree)
    with pytest.raises(ShapeError, match="n_heads=4"):
        ThirdOrderAttention(6, 4)
    with pytest.raises(ShapeError, match=r"x \(5, 6\)"):
        ThirdOrderAttention(6, 2)(torch.ones(5, 6))
