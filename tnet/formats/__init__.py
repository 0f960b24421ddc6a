"""Formats: tensors held as parts. Data only; what is done with them stands in :mod:`tnet.algebra`."""

from __future__ import annotations

from tnet.formats.block_tensor_train import BlockTensorTrain
from tnet.formats.cp import CPTensor
from tnet.formats.hierarchical_tucker import HierarchicalTucker
from tnet.formats.kronecker_sum import KroneckerSum
from tnet.formats.low_rank import LowRank
from tnet.formats.matrix_product_operator import MatrixProductOperator
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat
from tnet.formats.tensor_ring import TensorRing
from tnet.formats.tensor_train import TensorTrain
from tnet.formats.tucker import TuckerTensor

__all__ = [
    "BlockTensorTrain",
    "CPTensor",
    "HierarchicalTucker",
    "KroneckerSum",
    "LowRank",
    "MatrixProductOperator",
    "TensorFormat",
    "TensorNetwork",
    "TensorRing",
    "TensorTrain",
    "TuckerTensor",
]
