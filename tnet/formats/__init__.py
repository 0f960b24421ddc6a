"""Formats: tensors held as parts. Data only; what is done with them stands in :mod:`tnet.algebra`."""

from __future__ import annotations

from tnet.formats.cp import CPTensor
from tnet.formats.low_rank import LowRank
from tnet.formats.matrix_product_operator import MatrixProductOperator
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat
from tnet.formats.tensor_train import TensorTrain
from tnet.formats.tucker import TuckerTensor

__all__ = [
    "CPTensor",
    "LowRank",
    "MatrixProductOperator",
    "TensorFormat",
    "TensorNetwork",
    "TensorTrain",
    "TuckerTensor",
]
