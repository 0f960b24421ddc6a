"""Random formats and shapes shared by the property tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tnet.arrays import to_numpy
from tnet.formats import (
    BlockTensorTrain,
    CPTensor,
    HierarchicalTucker,
    KroneckerSum,
    LowRank,
    MatrixProductOperator,
    TensorFormat,
    TensorRing,
    TensorTrain,
    TuckerTensor,
)
from tnet.formats.hierarchical_tucker import balanced_tree, tree_nodes

KINDS = (
    "cp",
    "tucker",
    "tensor_train",
    "tensor_ring",
    "hierarchical_tucker",
    "matrix_product_operator",
    "low_rank",
    "kronecker_sum",
    "block_tensor_train",
)
DTYPES = ("float32", "float64", "complex64", "complex128")

seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def random_array(rng: np.random.Generator, shape: Sequence[int], dtype: str = "float64") -> np.ndarray:
    draw = rng.standard_normal(tuple(shape))
    if dtype.startswith("complex"):
        draw = draw + 1j * rng.standard_normal(tuple(shape))
    return np.asarray(draw).astype(dtype)


def random_format(
    kind: str,
    rng: np.random.Generator,
    convert: Callable[[np.ndarray], Any] = np.asarray,
    shape: Sequence[int] = (3, 4, 2),
    rank: int = 2,
    dtype: str = "float64",
) -> Any:
    """Return a format of this kind; operators take ``shape`` as row digits and turn it for the columns.

    Kronecker sums and block tensor trains have two digits: the first and the last of ``shape``.
    """

    def draw(*size: int) -> Any:
        return convert(random_array(rng, size, dtype))

    bonds = [1, *[rank] * (len(shape) - 1), 1]
    match kind:
        case "cp":
            return CPTensor(draw(rank), tuple(draw(n, rank) for n in shape))
        case "tucker":
            return TuckerTensor(draw(*[rank] * len(shape)), tuple(draw(n, rank) for n in shape))
        case "tensor_train":
            return TensorTrain(tuple(draw(bonds[k], n, bonds[k + 1]) for k, n in enumerate(shape)))
        case "matrix_product_operator":
            columns = tuple(reversed(shape))
            cores = (draw(bonds[k], m, columns[k], bonds[k + 1]) for k, m in enumerate(shape))
            return MatrixProductOperator(tuple(cores))
        case "low_rank":
            return LowRank(draw(shape[0], rank), draw(rank, shape[-1]))
        case "kronecker_sum" | "block_tensor_train":
            m, n = shape[0], shape[-1]
            if kind == "kronecker_sum":
                return KroneckerSum(draw(rank, m, n), draw(rank, n, m))
            return BlockTensorTrain(draw(m, n, n, rank), draw(n, rank, m, m))
        case "tensor_ring":
            return TensorRing(tuple(draw(rank, n, rank) for n in shape))
        case "hierarchical_tucker":
            tree = balanced_tree(len(shape))
            inner = [node for node in tree_nodes(tree) if node.children]
            transfers = (draw(*[rank] * len(node.children), rank if k else 1) for k, node in enumerate(inner))
            return HierarchicalTucker(tuple(draw(n, rank) for n in shape), tuple(transfers), tree)
    raise AssertionError(kind)


def dense(t: TensorFormat) -> np.ndarray:
    """Multiply a format out with numpy.einsum, independently of tnet's own contraction."""
    network = t.to_network()
    labels = {label: k for k, label in enumerate(network.sizes)}
    operands: list[Any] = []
    for tensor, names in zip(network.tensors, network.indices, strict=True):
        operands += [to_numpy(tensor), [labels[name] for name in names]]
    result = np.einsum(*operands, [labels[name] for name in network.output])
    return result.reshape(t.shape)


def _host(x: Any) -> np.ndarray:
    return to_numpy(x) if hasattr(x, "dtype") and hasattr(x, "ndim") else np.asarray(x)


def close(actual: Any, expected: Any, dtype: str = "float64", factor: float = 1e3) -> None:
    """Assert agreement relative to the largest entry, within ``factor`` roundoffs of ``dtype``."""
    actual, expected = _host(actual), _host(expected)
    assert actual.shape == expected.shape
    scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=factor * np.finfo(dtype).eps * scale)
