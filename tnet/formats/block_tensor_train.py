"""The block tensor train of two cores: a matrix of equal blocks, each of low rank."""

from __future__ import annotations

from dataclasses import dataclass

from tnet.arrays import Array, array_namespace, astype, to_compute
from tnet.errors import ShapeError
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat, check_ndim, check_operand

__all__ = ["BlockTensorTrain"]


@dataclass(frozen=True, eq=False, repr=False)
class BlockTensorTrain(TensorFormat):
    r"""A matrix whose ``m_1 x n_1`` blocks of shape ``(m_2, n_2)`` have rank r each (BTT).

    .. math:: W_{(i_1 i_2), (j_1 j_2)} = \sum_{\rho=1}^r L[i_1, i_2, j_1, \rho] \, R[j_1, \rho, i_1, j_2]

    A tensor train has one factor for all blocks of a row or column; here every block has its own. With r = 1
    it is a Monarch matrix, up to the order of rows.

    Parameters
    ----------
    left : array, shape (m_1, m_2, n_1, r)
    right : array, shape (n_1, r, m_1, n_2)
        In this order of axes a product is two batched matrix products without a copy between them.

    Raises
    ------
    ShapeError
        If the axes that the two share differ.

    References
    ----------
    .. [1] S. Qiu, A. Potapczynski, M. Finzi, M. Goldblum, A. G. Wilson, "Compute better spent: replacing
       dense layers with structured matrices", ICML 2024.
    .. [2] T. Dao et al., "Monarch: expressive structured matrices for efficient and accurate training",
       ICML 2022.

    Examples
    --------
    >>> import numpy as np
    >>> BlockTensorTrain(np.ones((4, 5, 3, 2)), np.ones((3, 2, 4, 6)))
    BlockTensorTrain: shape (20, 18), rank 2, float64 on cpu
      parameters  264 of 360 (1.36x smaller)
      left        (4, 5, 3, 2)
      right       (3, 2, 4, 6)
    """

    left: Array
    right: Array

    array_fields = ("left", "right")

    def __post_init__(self) -> None:
        left = self._set_array("left", self.left)
        right = self._set_array("right", self.right)
        check_ndim(left, 4, "left", "(row block, row in it, column block, rank)")
        check_ndim(right, 4, "right", "(column block, rank, row block, column in it)")
        m1, _, n1, r = left.shape
        if (n1, r, m1) != tuple(right.shape[:3]):
            raise ShapeError(
                f"left has shape {tuple(left.shape)}, right {tuple(right.shape)}; for this left give right the "
                f"shape ({n1}, {r}, {m1}, n_2)."
            )
        self._finish()

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the dense matrix: ``(m_1 m_2, n_1 n_2)``."""
        (m1, m2), (n1, n2) = self.row_shape, self.column_shape
        return m1 * m2, n1 * n2

    @property
    def row_shape(self) -> tuple[int, int]:
        """``(m_1, m_2)``: blocks in a column of blocks, rows of a block."""
        return int(self.left.shape[0]), int(self.left.shape[1])

    @property
    def column_shape(self) -> tuple[int, int]:
        """``(n_1, n_2)``: blocks in a row of blocks, columns of a block."""
        return int(self.left.shape[2]), int(self.right.shape[3])

    @property
    def rank(self) -> int:
        """Rank of each block."""
        return int(self.left.shape[3])

    def to_network(self) -> TensorNetwork:
        """Return the network with bond ``"r"``, row digits ``"m0"``, ``"m1"``, column digits ``"n0"``, ``"n1"``.

        Its dense tensor has shape ``(*row_shape, *column_shape)``; ``"m0"`` and ``"n0"`` are in both tensors.
        """
        indices = (("m0", "m1", "n0", "r"), ("n0", "r", "m0", "n1"))
        return TensorNetwork(self.arrays, indices, ("m0", "m1", "n0", "n1"))

    def __matmul__(self, x: Array) -> Array:
        """Multiply a vector ``(n,)`` or the columns of a matrix ``(n, k)``.

        Notes
        -----
        ``k`` times the number of parameters in multiply-adds, in two batched matrix products: n_1 of shape
        ``(r m_1, n_2) (n_2, k)`` and m_1 of shape ``(m_2, n_1 r) (n_1 r, k)``, the second on a strided view of
        what the first returned.
        """
        x, columns = check_operand(x, self.shape[1], "BlockTensorTrain")
        xp = array_namespace(x, *self.arrays)
        dtype = xp.result_type(x.dtype, self.dtype)
        y = to_compute(astype(x, dtype))
        L, R = astype(self.left, y.dtype), astype(self.right, y.dtype)
        (m1, m2, n1, r), n2 = L.shape, R.shape[3]
        k = columns[0] if columns else 1
        y = xp.reshape(R, (n1, r * m1, n2)) @ xp.reshape(y, (n1, n2, k))
        y = xp.permute_dims(xp.reshape(y, (n1 * r, m1, k)), (1, 0, 2))
        y = xp.reshape(L, (m1, m2, n1 * r)) @ y
        return astype(xp.reshape(y, (m1 * m2, *columns)), dtype)

    def _contract(self) -> Array:
        xp = array_namespace(*self.arrays)
        blocks = xp.permute_dims(self.left, (0, 2, 1, 3)) @ xp.permute_dims(self.right, (2, 0, 1, 3))
        return xp.reshape(xp.permute_dims(blocks, (0, 2, 1, 3)), self.shape)
