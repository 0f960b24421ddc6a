"""Write the golden files of the current format version: ``python tests/io/make_golden.py``.

Files of older versions stay as they are: they show that they still load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tnet.formats import (
    BlockTensorTrain,
    CPTensor,
    HierarchicalTucker,
    KroneckerSum,
    LowRank,
    MatrixProductOperator,
    TensorNetwork,
    TensorRing,
    TensorTrain,
    TuckerTensor,
)
from tnet.io import save
from tnet.io.serial import FORMAT_VERSION
from tnet.results import Decomposition, History, Status

GOLDEN = Path(__file__).parent / "golden"


def numbers(*shape: int, dtype: str = "float64") -> Any:
    """Small numbers that every dtype holds exactly."""
    x = (np.arange(np.prod(shape)) % 7 - 3).reshape(shape)
    return (x + 0.5j * x[::-1] if dtype.startswith("complex") else x).astype(dtype)


def golden_objects() -> dict[str, Any]:
    """Return one object of each kind."""
    cp = CPTensor(numbers(2), (numbers(3, 2), numbers(4, 2), numbers(2, 2)))
    return {
        "cp": cp,
        "tucker": TuckerTensor(numbers(2, 2, dtype="float32"), (numbers(3, 2, dtype="float32"),) * 2),
        "tensor_train": TensorTrain((numbers(1, 3, 2, dtype="complex128"), numbers(2, 4, 1, dtype="complex128"))),
        "matrix_product_operator": MatrixProductOperator((numbers(1, 2, 3, 2), numbers(2, 3, 2, 1))),
        "low_rank": LowRank(numbers(4, 2, dtype="float16"), numbers(2, 3, dtype="float16")),
        "tensor_ring": TensorRing((numbers(2, 3, 1), numbers(1, 4, 3), numbers(3, 2, 2))),
        "hierarchical_tucker": HierarchicalTucker(
            (numbers(3, 2), numbers(4, 2), numbers(2, 1)), (numbers(3, 1, 1), numbers(2, 2, 3)), ((0, 1), 2)
        ),
        "kronecker_sum": KroneckerSum(numbers(2, 3, 2), numbers(2, 2, 4)),
        "block_tensor_train": BlockTensorTrain(numbers(2, 3, 4, 1), numbers(4, 1, 2, 3)),
        "network": TensorNetwork((numbers(2, 3), numbers(3, 4)), (("a", "é"), ("é", "c")), ("c", "a")),
        "decomposition": Decomposition(
            cp, 0.1, "gram", Status.MAX_ITER, History((0.5, 0.1), (0.25, 0.75)), 1.5, 2**100 + 1
        ),
    }


if __name__ == "__main__":
    for name, obj in golden_objects().items():
        save(obj, GOLDEN / f"{name}_v{FORMAT_VERSION}.safetensors")
