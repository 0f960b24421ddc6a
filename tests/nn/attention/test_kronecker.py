from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tnet.errors import BackendError, InputError, ShapeError
from tnet.nn.attention import KroneckerAttention, kronecker_attention, row_and_column_means


def by_definition(query, key, value, grid):
    """Softmax over rows, then columns, of a grid, each mean and each weight by a loop."""
    h, w = grid
    places = [[i * w + j for j in range(w)] for i in range(h)] + [[i * w + j for i in range(h)] for j in range(w)]
    out = torch.zeros(query.shape[0], value.shape[1], dtype=query.dtype)
    for m in range(len(query)):
        weights = [
            torch.exp(query[m] @ (sum(key[p] for p in line) / len(line)) / query.shape[1] ** 0.5) for line in places
        ]
        for weight, line in zip(weights, places, strict=True):
            out[m] += weight / sum(weights) * sum(value[p] for p in line) / len(line)
    return out


@settings(max_examples=20, deadline=None)
@given(h=st.integers(1, 4), w=st.integers(1, 4), m=st.integers(1, 3), seed=st.integers(0, 99))
def test_attention_is_the_definition(h, w, m, seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(n, d, dtype=torch.float64, generator=generator) for n, d in ((m, 3), (h * w, 3), (h * w, 2))
    )
    torch.testing.assert_close(
        kronecker_attention(query, key, value, (h, w)), by_definition(query, key, value, (h, w))
    )
    stacked = kronecker_attention(*(x.expand(2, 3, *x.shape) for x in (query, key, value)), (h, w))
    torch.testing.assert_close(stacked[1, 2], by_definition(query, key, value, (h, w)))


def test_means_are_those_of_rows_then_columns():
    x = torch.arange(6.0)[:, None]
    assert row_and_column_means(x, (2, 3)).flatten().tolist() == [1, 4, 1.5, 2.5, 3.5]


def test_layer_is_attention_on_the_projected_grid():
    torch.manual_seed(0)
    layer = KroneckerAttention(6, 2, dtype=torch.float64)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    q = layer.query(x.flatten(1, 2))
    k, v = layer.key_value(x.flatten(1, 2)).chunk(2, dim=-1)
    heads = [kronecker_attention(*(part[..., i : i + 3] for part in (q, k, v)), (3, 4)) for i in (0, 3)]
    torch.testing.assert_close(layer(x), layer.output(torch.cat(heads, dim=-1)).unflatten(1, (3, 4)))


def test_layer_gradients_compilation_precision_and_names():
    torch.manual_seed(0)
    layer = KroneckerAttention(4, 2, dtype=torch.float64)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(layer, (x,))
    layer, x = layer.float(), x.detach().float()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    torch.testing.assert_close(half.float(), layer(x), rtol=0.05, atol=0.05)
    assert "features=4, n_heads=2, n_params=80" in repr(layer)
    assert "query.weight" in layer.state_dict()
    assert layer.half()(x.half()).dtype == torch.float16
    assert layer.to("meta")(x.half().to("meta")).shape == (1, 2, 3, 4)


def test_bad_input_is_refused():
    x = torch.ones(6, 2)
    with pytest.raises(ShapeError, match=r"2 rows and 2 columns has \(\.\.\., 4, d\)"):
        kronecker_attention(x, x, x, (2, 2))
    with pytest.raises(ShapeError, match="rows=0"):
        row_and_column_means(x, (0, 3))
    with pytest.raises(ShapeError, match=r"key \(6, 1\)"):
        kronecker_attention(x, x[:, :1], x, (2, 3))
    with pytest.raises(ShapeError, match=r"value \(5, 2\)"):
        kronecker_attention(x, x, x[:5], (2, 3))
    with pytest.raises(BackendError, match="one floating dtype"):
        kronecker_attention(x, x.double(), x, (2, 3))
    with pytest.raises(BackendError, match="one floating dtype"):
        kronecker_attention(*(x.long() for _ in range(3)), (2, 3))
    with pytest.raises(ShapeError, match="n_heads=3"):
        KroneckerAttention(4, 3)
    layer = KroneckerAttention(4, 2)
    with pytest.raises(ShapeError, match=r"takes \(batch, h, w, 4\)"):
        layer(torch.ones(2, 6, 4))
    with pytest.raises(InputError, match="the grid is empty"):
        layer(torch.ones(2, 0, 3, 4))
