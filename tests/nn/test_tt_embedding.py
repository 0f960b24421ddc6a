"""Embeddings as tensor trains: rows of the table, every way to look up, from dense, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tnet.errors import InputError, RankError, ShapeError
from tnet.nn import TTEmbedding
from tnet.nn.tt_embedding import _cheapest, _covering, _splits

F64 = torch.float64


def embedding(v: int = 22, n: int = 12, **arguments) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(v, n, dtype=F64, **arguments).eval()


@pytest.mark.parametrize("padding_idx", [None, 3, -1])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (700,)])
def test_lookup_is_the_row_of_the_table(padding_idx, shape):
    torch.manual_seed(0)
    layer = TTEmbedding(22, 12, (3, 4), padding_idx=padding_idx, dtype=F64)
    tokens = torch.randint(0, 22, shape)
    dense = layer.to_dense()
    assert dense.weight.shape == (22, 12)
    torch.testing.assert_close(layer(tokens), dense(tokens), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(tokens.int()), dense(tokens), rtol=1e-12, atol=1e-12)
    if padding_idx is not None:
        assert dense.padding_idx == padding_idx % 22
        assert torch.equal(layer(torch.tensor(padding_idx % 22)), torch.zeros(12, dtype=F64))


@given(d=st.integers(1, 4), seed=st.integers(0, 1000))
def test_every_split_gives_the_same_rows(d, seed):
    torch.manual_seed(seed)
    rows, columns, ranks = (tuple(torch.randint(1, 4, (k,)).tolist()) for k in (d, d, d - 1))
    layer = TTEmbedding(math.prod(rows), math.prod(columns), ranks, rows, columns, dtype=F64)
    tokens = torch.randint(0, math.prod(rows), (9,))
    for split in _splits(d):
        torch.testing.assert_close(layer._rows(tokens, split), layer.weight[tokens], rtol=1e-12, atol=1e-12)


def test_large_batches_join_digits_and_never_form_the_table():
    sizes = TTEmbedding(10_000, 64, 8, dtype=F64)._sizes()
    few, many = _cheapest(sizes, 1), _cheapest(sizes, 1 << 20)
    assert few == (1, 0)  # no two digits joined
    assert many in [(2, 0), (1, 2)]  # one product for each token


def test_padding_has_no_gradient():
    torch.manual_seed(0)
    layer = TTEmbedding(8, 8, 2, (2, 4), (4, 2), padding_idx=0, dtype=F64)
    layer(torch.zeros(4, dtype=torch.int64)).sum().backward()
    assert all(float(core.grad.abs().max()) == 0 for core in layer.cores)


@pytest.mark.parametrize("v", [16, 22, 23])
def test_exact_from_dense(v):
    dense = embedding(v, padding_idx=2)
    layer = TTEmbedding.from_dense(dense, rtol=0.0)
    torch.testing.assert_close(layer.dense_weight(), dense.weight)
    assert layer.padding_idx == 2
    assert not layer.training


@pytest.mark.parametrize("rtol", [0.6, 0.3])
def test_rtol_is_met(rtol):
    dense = embedding(50, 16)
    layer = TTEmbedding.from_dense(dense, rtol=rtol)
    error = torch.linalg.norm(layer.dense_weight() - dense.weight) / torch.linalg.norm(dense.weight)
    assert 0.5 * rtol < error.detach() <= rtol


def test_a_table_of_low_rank_is_compressed_in_its_dtype():
    torch.manual_seed(0)
    planted = TTEmbedding(60, 24, 2, (4, 4, 4), (2, 3, 4))
    layer = TTEmbedding.from_dense(planted.to_dense().bfloat16(), 2, row_shape=(4, 4, 4), column_shape=(2, 3, 4))
    assert layer.ranks == (2, 2)
    assert {core.dtype for core in layer.cores} == {torch.bfloat16}
    # Rows of zeros replace those beyond the table: its best approximation is not the planted one, but near.
    error = torch.linalg.norm(layer.dense_weight().float() - planted.dense_weight())
    assert error.detach() < 0.3 * torch.linalg.norm(planted.dense_weight().detach())


@given(n=st.integers(1, 5000), count=st.integers(1, 4))
def test_covering_digits(n, count):
    digits = _covering(n, count)
    assert math.prod(digits) >= n
    assert max(digits) - min(digits) <= 1
    assert math.prod(digits) // max(digits) * (max(digits) - 1) < n or max(digits) == 1


BAD = [
    (lambda: TTEmbedding(22, 12, 2)(torch.tensor([0, 22])), InputError, "tokens from 0 to 22: give 0 to 21"),
    (lambda: TTEmbedding(22, 12, 2)(torch.tensor([-1])), InputError, "tokens from -1"),
    (lambda: TTEmbedding(22, 12, 2)(torch.tensor([0.0])), InputError, "float32"),
    (lambda: TTEmbedding(22, 12, (2,)), RankError, "one less"),
    (lambda: TTEmbedding(22, 12, 0), RankError, "at least 1"),
    (lambda: TTEmbedding(0, 12, 2), ShapeError, "num_embeddings=0"),
    (lambda: TTEmbedding(22, 12, 2, (2, 2, 5)), ShapeError, "20, less than 22"),
    (lambda: TTEmbedding(22, 12, 2, (2, 0, 50)), ShapeError, "row_shape"),
    (lambda: TTEmbedding(22, 12, 2, None, (5, 2)), ShapeError, "not 12: give"),
    (lambda: TTEmbedding(22, 12, 2, (5, 5), (2, 3, 2)), ShapeError, "digits"),
    (lambda: TTEmbedding(22, 12, 2, padding_idx=22), InputError, "padding_idx=22"),
    (lambda: TTEmbedding.from_dense(nn.Linear(3, 3), 2), InputError, "torch.nn.Embedding"),
    (lambda: TTEmbedding.from_dense(nn.Embedding(8, 8, max_norm=1.0), 2), InputError, "max_norm"),
    (lambda: TTEmbedding.from_dense(embedding()), RankError, "exactly one"),
    (lambda: TTEmbedding.from_dense(embedding(), 2, rtol=0.1), RankError, "exactly one"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_token_out_of_range_is_no_other_token_when_compiled():
    torch._dynamo.reset()
    layer = TTEmbedding(22, 12, 2)  # 3 * 3 * 3 rows
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with pytest.raises((IndexError, RuntimeError)):
        compiled(torch.tensor([0, 22]))
