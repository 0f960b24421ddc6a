from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tnet.errors import InputError, RankError, ShapeError
from tnet.nn import InterpolativeLinear, LowRankLinear
from tnet.nn.interpolation import _swap_until_modest, interpolate


def factors(m: int, n: int, rank: int, seed: int = 0, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(m, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, n, generator=generator, dtype=torch.float64)
    return left.to(dtype), right.to(dtype)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 15), n=st.integers(1, 15), seed=st.integers(0, 999), data=st.data())
def test_from_factors_is_exact(m, n, seed, data):
    rank = data.draw(st.integers(1, n))
    left, right = factors(m, n, rank, seed)
    layer = InterpolativeLinear.from_factors(left, right)
    torch.testing.assert_close(layer.dense_weight(), left @ right, rtol=1e-10, atol=1e-10)
    assert sorted(layer.order.tolist()) == list(range(n))
    assert layer.order.dtype == torch.int32
    torch.testing.assert_close(layer.left.detach(), (left @ right)[:, layer.order[:rank].long()])


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 40), seed=st.integers(0, 999), data=st.data())
def test_coupling_is_modest(n, seed, data):
    rank = data.draw(st.integers(1, n - 1))
    _, right = factors(1, n, rank, seed)
    assert interpolate(right).coupling.abs().max() <= 2.0 + 1e-9


def test_swaps_tame_any_first_choice_of_pivots():
    """Start from the worst pivots instead of those of column-pivoted QR."""
    rng = np.random.default_rng(0)
    coupling = 50.0 * rng.standard_normal((8, 20))
    right = np.concatenate([np.eye(8), coupling], axis=1)
    order = _swap_until_modest(np.arange(28), coupling)
    assert sorted(order) == list(range(28))
    tamed = np.linalg.solve(right[:, order[:8]], right[:, order[8:]])
    assert np.abs(tamed).max() <= 2.0 + 1e-9
    assert np.abs(coupling).max() > 50.0  # the argument is not overwritten


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30, 1e150])
def test_scale_of_the_factor_does_not_matter(scale):
    _, right = factors(5, 9, 4)
    reference, scaled = interpolate(right), interpolate(right * scale)
    assert torch.equal(reference.order, scaled.order)
    torch.testing.assert_close(reference.coupling, scaled.coupling)


@pytest.mark.parametrize("kind", ["zero", "repeated rows", "one column", "huge spread"])
def test_singular_right_factors_stay_exact(kind):
    left, right = factors(6, 10, 4)
    if kind == "zero":
        right = torch.zeros_like(right)
    elif kind == "repeated rows":
        right[3], right[2] = right[0], right[1]
    elif kind == "one column":
        right[:, 1:] = 0.0
    else:
        right *= torch.logspace(-14, 6, 4, dtype=torch.float64)[:, None]
    layer = InterpolativeLinear.from_factors(left, right)
    product = left @ right
    assert (layer.dense_weight() - product).norm() <= 1e-12 * product.norm()
    assert layer.coupling.abs().max() <= 2.0 + 1e-9


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_low_precision_factors(dtype, tolerance):
    left, right = factors(20, 30, 10, dtype=dtype)
    layer = InterpolativeLinear.from_factors(left, right, torch.ones(20, dtype=dtype))
    product = left.double() @ right.double()
    assert layer.left.dtype == layer.coupling.dtype == layer.bias.dtype == dtype
    error = (layer.to(torch.float64).dense_weight() - product).norm() / product.norm()
    assert error < tolerance


def test_it_stores_less_than_the_dense_matrix_at_every_rank():
    m, n = 8, 12
    for rank in range(1, m):
        left, right = factors(m, n, rank)
        weights = InterpolativeLinear.from_factors(left, right).n_params - n
        assert weights < m * n
        assert weights == LowRankLinear.from_factors(left, right).n_params - rank**2


def test_inputs_are_unchanged_and_not_shared():
    left, right = factors(5, 7, 3)
    copies = left.clone(), right.clone()
    layer = InterpolativeLinear.from_factors(left, right)
    with torch.no_grad():
        layer.left.zero_()
        layer.coupling.zero_()
    assert torch.equal(left, copies[0])
    assert torch.equal(right, copies[1])


def test_order_survives_a_change_of_dtype():
    layer = InterpolativeLinear.from_factors(*factors(5, 7, 3)).to(torch.bfloat16)
    assert layer.order.dtype == torch.int32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((5, 4, 6), RankError, "rank=6.*from 1 to 5"),
        ((5, 4, 0), RankError, "rank=0"),
        ((5, 4, False), RankError, "rank=False"),
        ((0, 4, 1), ShapeError, "in_features=0"),
    ],
)
def test_bad_sizes_and_ranks_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        InterpolativeLinear(*arguments)


def test_bad_factors_are_refused():
    left, right = factors(5, 7, 3)
    with pytest.raises(RankError, match=r"rank=8.*from 1 to 7"):
        InterpolativeLinear.from_factors(torch.ones(5, 8), torch.ones(8, 7))
    right[0, 0] = float("nan")
    with pytest.raises(InputError, match="right has non-finite"):
        InterpolativeLinear.from_factors(left, right)
