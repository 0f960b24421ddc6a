"""PyTorch: layers whose weights are stored, trained and applied in factors, and fits with gradients."""

from __future__ import annotations

from tnet.nn import init as init
from tnet.nn.bilinear import BilinearEigen, BilinearLayer, OutputModes
from tnet.nn.btt_linear import BTTLinear
from tnet.nn.cp_conv import CPConv2d
from tnet.nn.cp_linear import CPLinear
from tnet.nn.dlrt import DLRT
from tnet.nn.factorised_conv import FactorisedConv2d
from tnet.nn.factorised_linear import FactorisedLinear
from tnet.nn.feature_mimicking import mimic_features
from tnet.nn.implicit import DifferentiableFit, differentiable_cp, differentiable_tt, differentiable_tucker
from tnet.nn.interpolative_linear import InterpolativeLinear
from tnet.nn.kronecker_linear import KroneckerLinear
from tnet.nn.low_rank_linear import LowRankLinear
from tnet.nn.mpo_linear import MPOLinear
from tnet.nn.network_linear import NetworkLinear
from tnet.nn.optimisers import Muon, Shampoo, muon_groups, newton_schulz
from tnet.nn.shared_input import FollowerLinear, SharedInputLinear, shared_input_layers
from tnet.nn.tensor_regression import TensorRegression
from tnet.nn.tn_linear import TNLinear
from tnet.nn.trilinear import TrilinearInteraction
from tnet.nn.tt_embedding import TTEmbedding
from tnet.nn.tucker_conv import TuckerConv2d
from tnet.nn.tucker_linear import TuckerLinear

__all__ = [
    "DLRT",
    "BTTLinear",
    "BilinearEigen",
    "BilinearLayer",
    "CPConv2d",
    "CPLinear",
    "DifferentiableFit",
    "FactorisedConv2d",
    "FactorisedLinear",
    "FollowerLinear",
    "InterpolativeLinear",
    "KroneckerLinear",
    "LowRankLinear",
    "MPOLinear",
    "Muon",
    "NetworkLinear",
    "OutputModes",
    "Shampoo",
    "SharedInputLinear",
    "TNLinear",
    "TTEmbedding",
    "TensorRegression",
    "TrilinearInteraction",
    "TuckerConv2d",
    "TuckerLinear",
    "differentiable_cp",
    "differentiable_tt",
    "differentiable_tucker",
    "mimic_features",
    "muon_groups",
    "newton_schulz",
    "shared_input_layers",
]
