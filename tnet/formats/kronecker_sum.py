"""A matrix as a sum of Kronecker products."""

from __future__ import annotations

from dataclasses import dataclass

from tnet.arrays import Array, array_namespace, astype, to_compute
from tnet.errors import ShapeError
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat, check_ndim, check_operand

__all__ = ["KroneckerSum"]


@dataclass(frozen=True, eq=False, repr=False)
class KroneckerSum(TensorFormat):
    r"""The matrix :math:`W = \sum_{r=1}^R A_r \otimes B_r`.

    .. math:: W_{(i_1 i_2), (j_1 j_2)} = \sum_r A_r[i_1, j_1] \, B_r[i_2, j_2]

    Parameters
    ----------
    left : array, shape (R, m_1, n_1)
        The matrices :math:`A_r`.
    right : array, shape (R, m_2, n_2)
        The matrices :math:`B_r`.

    Raises
    ------
    ShapeError
        If the numbers of terms differ.

    Examples
    --------
    >>> import numpy as np
    >>> KroneckerSum(np.ones((2, 3, 4)), np.ones((2, 5, 6)))
    KroneckerSum: shape (15, 24), rank 2, float64 on cpu
      parameters  84 of 360 (4.29x smaller)
      left        (2, 3, 4)
      right       (2, 5, 6)
    """

    left: Array
    right: Array

    array_fields = ("left", "right")

    def __post_init__(self) -> None:
        left = self._set_array("left", self.left)
        right = self._set_array("right", self.right)
        check_ndim(left, 3, "left", "(term, row digit, column digit)")
        check_ndim(right, 3, "right", "(term, row digit, column digit)")
        if left.shape[0] != right.shape[0]:
            raise ShapeError(f"left has {left.shape[0]} terms, right has {right.shape[0]}: make them equal.")
        self._finish()

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the dense matrix: ``(m_1 m_2, n_1 n_2)``."""
        (m1, m2), (n1, n2) = self.row_shape, self.column_shape
        return m1 * m2, n1 * n2

    @property
    def row_shape(self) -> tuple[int, int]:
        """Sizes ``(m_1, m_2)`` of the digits of the row index."""
        return int(self.left.shape[1]), int(self.right.shape[1])

    @property
    def column_shape(self) -> tuple[int, int]:
        """Sizes ``(n_1, n_2)`` of the digits of the column index."""
        return int(self.left.shape[2]), int(self.right.shape[2])

    @property
    def rank(self) -> int:
        """Number of terms."""
        return int(self.left.shape[0])

    def to_network(self) -> TensorNetwork:
        """Return the network with bond ``"r"``, row digits ``"m0"``, ``"m1"``, column digits ``"n0"``, ``"n1"``.

        Its dense tensor has shape ``(*row_shape, *column_shape)``.
        """
        return TensorNetwork(self.arrays, (("r", "m0", "n0"), ("r", "m1", "n1")), ("m0", "m1", "n0", "n1"))

    def __matmul__(self, x: Array) -> Array:
        """Multiply a vector ``(n,)`` or the columns of a matrix ``(n, k)``.

        Notes
        -----
        Two matrix products on views of what is multiplied: only the small arrays of the operator are put into
        another order. ``R k min(n_1 m_2 (n_2 + m_1), m_1 n_2 (n_1 + m_2))`` multiply-adds.
        """
        x, columns = check_operand(x, self.shape[1], "KroneckerSum")
        xp = array_namespace(x, *self.arrays)
        dtype = xp.result_type(x.dtype, self.dtype)
        y = to_compute(astype(x, dtype))
        A, B = astype(self.left, y.dtype), astype(self.right, y.dtype)
        (R, m1, n1), (_, m2, n2) = A.shape, B.shape
        k = columns[0] if columns else 1
        if n1 * m2 * (n2 + m1) <= m1 * n2 * (n1 + m2):
            y = xp.reshape(B, (R * m2, n2)) @ xp.reshape(y, (n1, n2, k))  # (n1, R m2, k)
            y = xp.reshape(xp.permute_dims(A, (1, 2, 0)), (m1, n1 * R)) @ xp.reshape(y, (n1 * R, m2 * k))
        else:
            y = xp.reshape(xp.permute_dims(A, (1, 0, 2)), (m1 * R, n1)) @ xp.reshape(y, (n1, n2 * k))
            y = xp.reshape(xp.permute_dims(B, (1, 0, 2)), (m2, R * n2)) @ xp.reshape(y, (m1, R * n2, k))
        return astype(xp.reshape(y, (m1 * m2, *columns)), dtype)

    def _contract(self) -> Array:
        xp = array_namespace(*self.arrays)
        (R, m1, n1), (_, m2, n2) = self.left.shape, self.right.shape
        rearranged = xp.matrix_transpose(xp.reshape(self.left, (R, m1 * n1))) @ xp.reshape(self.right, (R, m2 * n2))
        digits = xp.permute_dims(xp.reshape(rearranged, (m1, n1, m2, n2)), (0, 2, 1, 3))
        return xp.reshape(digits, self.shape)
