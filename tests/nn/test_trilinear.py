"""Trilinear interaction against the explicit sums, and its limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnet.errors import ShapeError
from tnet.nn import TrilinearInteraction

F64 = torch.float64


def explicit_map(layer: TrilinearInteraction, v, q, a) -> torch.Tensor:
    W1, W2, W3 = layer.map_projections
    scores = torch.einsum("rpqs,bid,rdp,bje,req,bkf,rfs->bijk", layer.cores, v, W1, q, W2, a, W3)
    return torch.softmax(scores.flatten(1), 1).reshape(scores.shape) if layer.softmax else scores


def explicit(layer: TrilinearInteraction, v, q, a) -> torch.Tensor:
    P1, P2, P3 = layer.projections
    return torch.einsum("bijk,bid,dc,bje,ec,bkf,fc->bc", explicit_map(layer, v, q, a), v, P1, q, P2, a, P3)


@given(
    n=st.tuples(*[st.integers(1, 6)] * 3),
    d=st.tuples(*[st.integers(1, 4)] * 3),
    out=st.integers(1, 5),
    rank=st.integers(1, 3),
    width=st.integers(1, 3),
    softmax=st.booleans(),
)
def test_the_explicit_sum(n, d, out, rank, width, softmax):
    torch.manual_seed(sum(n) + out)
    layer = TrilinearInteraction(*d, out, rank, width, softmax, dtype=F64)
    v, q, a = (torch.randn(2, k, e, dtype=F64) for k, e in zip(n, d, strict=True))
    torch.testing.assert_close(layer.attention(v, q, a), explicit_map(layer, v, q, a), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer(v, q, a), explicit(layer, v, q, a), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer(v[0], q[0], a[0]), layer(v, q, a)[0])
    assert layer.n_params == rank * (width**3 + width * sum(d)) + out * sum(d)


def test_both_orders_are_taken_and_agree():
    torch.manual_seed(0)
    layer = TrilinearInteraction(4, 4, 4, 3, 2, 2, dtype=F64)
    few, many = (tuple(torch.randn(1, n, 4, dtype=F64) for _ in range(3)) for n in (2, 12))
    assert layer._macs((2, 2, 2))[0] < layer._macs((2, 2, 2))[1]
    assert layer._macs((12, 12, 12))[0] > layer._macs((12, 12, 12))[1]
    for sets in (few, many):
        torch.testing.assert_close(layer(*sets), explicit(layer, *sets))
    assert layer.macs(12, 12, 12) - 36 * 4 * 7 == layer._macs((12, 12, 12))[1]


def test_a_constant_map_is_the_product_of_sums():
    """R = p = 1 with a map of ones: the Hadamard product of the summed projections."""
    torch.manual_seed(0)
    layer = TrilinearInteraction(3, 3, 3, 4, 1, 1, dtype=F64)
    with torch.no_grad():
        layer.cores.fill_(1.0)
        for weight in layer.map_projections:
            weight.zero_()[0, 0] = 1.0
    sets = [torch.randn(2, n, 3, dtype=F64) for n in (2, 3, 4)]
    for x in sets:
        x[..., 0] = 1.0
    expected = torch.ones(2, 4, dtype=F64)
    for x, weight in zip(sets, layer.projections, strict=True):
        expected = expected * (x @ weight).sum(1)
    torch.testing.assert_close(layer(*sets), expected)


def test_a_softmax_map_sums_to_one_and_zeros_fill_up_without():
    torch.manual_seed(0)
    sets = [torch.randn(2, n, 3, dtype=F64) for n in (2, 3, 4)]
    soft = TrilinearInteraction(3, 3, 3, 4, 2, 2, softmax=True, dtype=F64)
    torch.testing.assert_close(soft.attention(*sets).sum((1, 2, 3)), torch.ones(2, dtype=F64))
    plain = TrilinearInteraction(3, 3, 3, 4, 2, 2, dtype=F64)
    filled = [torch.cat([x, x.new_zeros(2, 2, 3)], 1) for x in sets]
    torch.testing.assert_close(plain(*filled), plain(*sets))


BAD = [
    (lambda: TrilinearInteraction(0, 3, 3, 4, 2, 2), "d1=0"),
    (lambda: TrilinearInteraction(3, 3, 3, 4, 0, 2), "rank=0"),
    (lambda: TrilinearInteraction(3, 3, 3, 4, 2, 1.5), "width=1.5"),
    (lambda: TrilinearInteraction(3, 3, 3, 4, 2, 2)(*[torch.randn(2, 4)] * 3), r"v of shape \(2, 4\)"),
    (lambda: TrilinearInteraction(3, 3, 3, 4, 2, 2)(*[torch.randn(3)] * 3), "tokens, 3"),
    (
        lambda: TrilinearInteraction(3, 3, 3, 4, 2, 2)(
            torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.randn(1, 4, 3)
        ),
        "must be equal",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ShapeError, match=message):
        call()
