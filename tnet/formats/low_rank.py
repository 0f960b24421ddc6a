"""A matrix of low rank as a product of two thin ones."""

from __future__ import annotations

from dataclasses import dataclass

from tnet.arrays import Array, array_namespace, astype, to_compute
from tnet.errors import ShapeError
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat, check_ndim, check_operand

__all__ = ["LowRank"]


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(TensorFormat):
    r"""The matrix :math:`W = L R`.

    Parameters
    ----------
    left : array, shape (m, r)
    right : array, shape (r, n)

    Raises
    ------
    ShapeError
        If the inner sizes differ.
    """

    left: Array
    right: Array

    array_fields = ("left", "right")

    def __post_init__(self) -> None:
        left = self._set_array("left", self.left)
        right = self._set_array("right", self.right)
        check_ndim(left, 2, "left", "(m, rank)")
        check_ndim(right, 2, "right", "(rank, n)")
        if left.shape[1] != right.shape[0]:
            raise ShapeError(f"left has {left.shape[1]} columns, right has {right.shape[0]} rows: make them equal.")
        self._finish()

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the dense matrix."""
        return int(self.left.shape[0]), int(self.right.shape[1])

    @property
    def rank(self) -> int:
        """Size of the inner axis."""
        return int(self.left.shape[1])

    def to_network(self) -> TensorNetwork:
        """Return the network with modes ``"n0"``, ``"n1"`` and bond ``"r"``."""
        return TensorNetwork(self.arrays, (("n0", "r"), ("r", "n1")), ("n0", "n1"))

    def __matmul__(self, x: Array) -> Array:
        """Multiply a vector ``(n,)`` or the columns of a matrix ``(n, k)``, right factor first."""
        x, _ = check_operand(x, self.shape[1], "LowRank")
        xp = array_namespace(x, self.left, self.right)
        dtype = xp.result_type(x.dtype, self.dtype)
        y = to_compute(astype(x, dtype))
        return astype(astype(self.left, y.dtype) @ (astype(self.right, y.dtype) @ y), dtype)

    def _contract(self) -> Array:
        return self.left @ self.right
