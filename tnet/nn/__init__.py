"""PyTorch: linear layers whose weight is stored, trained and applied in factors, and fits with gradients."""

from __future__ import annotations

from tnet.nn.factorised_linear import FactorisedLinear
from tnet.nn.implicit import DifferentiableFit, differentiable_cp, differentiable_tt, differentiable_tucker
from tnet.nn.interpolative_linear import InterpolativeLinear
from tnet.nn.low_rank_linear import LowRankLinear
from tnet.nn.mpo_linear import MPOLinear
from tnet.nn.shared_input import FollowerLinear, SharedInputLinear, shared_input_layers

__all__ = [
    "DifferentiableFit",
    "FactorisedLinear",
    "FollowerLinear",
    "InterpolativeLinear",
    "LowRankLinear",
    "MPOLinear",
    "SharedInputLinear",
    "differentiable_cp",
    "differentiable_tt",
    "differentiable_tucker",
    "shared_input_layers",
]
