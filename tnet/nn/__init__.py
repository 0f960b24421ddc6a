"""Factorised linear layers for PyTorch: the weight is stored, trained and applied in factors."""

from __future__ import annotations

from tnet.nn.factorised_linear import FactorisedLinear
from tnet.nn.interpolative_linear import InterpolativeLinear
from tnet.nn.low_rank_linear import LowRankLinear
from tnet.nn.mpo_linear import MPOLinear
from tnet.nn.shared_input import FollowerLinear, SharedInputLinear, shared_input_layers

__all__ = [
    "FactorisedLinear",
    "FollowerLinear",
    "InterpolativeLinear",
    "LowRankLinear",
    "MPOLinear",
    "SharedInputLinear",
    "shared_input_layers",
]
