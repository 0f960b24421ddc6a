"""The matrices that factors act as: their sizes, and norms of the weight by their norms."""

from __future__ import annotations

import math

import pytest
import torch

from tnet.formats import TensorNetwork
from tnet.nn import (
    BTTLinear,
    CPLinear,
    FactorisedLinear,
    FollowerLinear,
    InterpolativeLinear,
    KroneckerLinear,
    LowRankLinear,
    MPOLinear,
    SharedInputLinear,
    TNLinear,
    TuckerLinear,
)

F64 = torch.float64


def ring() -> TNLinear:
    cores = tuple(torch.randn(shape, dtype=F64) for shape in ((2, 3, 4), (5, 4), (4, 4, 4)))
    network = TensorNetwork(cores, (("i0", "j1", "a"), ("i1", "b"), ("b", "a", "j0")), ("i0", "i1", "j0", "j1"))
    return TNLinear(network, ("i0", "i1"), ("j1", "j0"))


LAYERS = {
    "btt": lambda: BTTLinear(12, 10, 2, row_shape=(2, 5), column_shape=(3, 4), dtype=F64),
    "kronecker": lambda: KroneckerLinear(12, 10, 3, row_shape=(2, 5), column_shape=(3, 4), dtype=F64),
    "low rank": lambda: LowRankLinear(12, 10, 4, dtype=F64),
    "mpo": lambda: MPOLinear((2, 5, 3), (3, 4, 2), (4, 3), dtype=F64),
    "tucker": lambda: TuckerLinear((2, 5), (3, 4), (2, 3, 2, 3), dtype=F64),
    "cp": lambda: CPLinear((2, 5), (3, 4), 6, dtype=F64),
    "network": ring,
    "interpolative": lambda: InterpolativeLinear(12, 10, 5, dtype=F64),
    "follower": lambda: FollowerLinear(SharedInputLinear(12, 6, 5, dtype=F64), 10, dtype=F64),
}


def stacked(layer: FactorisedLinear, name: str) -> torch.Tensor:
    """The factor as ``(batch, rows, columns)``."""
    factor, axes = layer.get_parameter(name), layer.factor_axes()[name]
    sizes = [math.prod(factor.shape[axis] for axis in part) for part in axes]
    return factor.detach().permute(*axes.batch, *axes.rows, *axes.columns).reshape(sizes)


@pytest.mark.parametrize("kind", LAYERS)
def test_sizes_are_those_of_factor_dims(kind):
    layer = LAYERS[kind]()
    for name, (d_in, d_out) in layer.factor_dims().items():
        assert stacked(layer, name).shape[1:] == (d_out, d_in)


@pytest.mark.parametrize("kind", ["btt", "kronecker", "low rank", "mpo", "tucker", "network"])
def test_norm_of_the_weight_is_bounded_by_the_norms_of_the_matrices(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    layer.reset_parameters()
    bound = math.prod(float(torch.linalg.matrix_norm(stacked(layer, name), 2).max()) for name in layer.factor_dims())
    norm = float(torch.linalg.matrix_norm(layer.dense_weight().detach(), 2))
    assert norm <= bound * (1 + 1e-12)
    assert norm > 0.05 * bound


@pytest.mark.parametrize("kind", LAYERS)
def test_the_last_factor_acts_last(kind):
    """The weight is linear in the last factor, and zero with it; all its rows come from that factor's."""
    layer = LAYERS[kind]()
    *_, last = layer.factor_dims()
    with torch.no_grad():
        layer.get_parameter(last).zero_()
    assert not layer.dense_weight().any()
