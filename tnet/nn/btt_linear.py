"""Linear layer whose weight is a block tensor train of two cores; with rank 1, a Monarch matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from tnet.decompositions import btt
from tnet.nn.digits import checked_digits
from tnet.nn.factorised_linear import check_factors, check_rank, dense_parts, parameter_of
from tnet.nn.network_linear import NetworkLinear

if TYPE_CHECKING:
    from tnet.formats import BlockTensorTrain

__all__ = ["BTTLinear"]


class BTTLinear(NetworkLinear):
    r"""Linear layer whose ``m_1 x n_1`` blocks of shape ``(m_2, n_2)`` have rank r each.

    .. math:: W_{(i_1 i_2), (j_1 j_2)} = \sum_{\rho=1}^r L[i_1, i_2, j_1, \rho] \, R[j_1, \rho, i_1, j_2]

    Parameters
    ----------
    in_features, out_features : int
        ``n = n_1 n_2`` and ``m = m_1 m_2``.
    rank : int
        r, from 1 to ``min(m_2, n_2)``.
    row_shape, column_shape : (int, int), optional
        ``(m_1, m_2)`` and ``(n_1, n_2)``; balanced by default.
    bias : bool
        Whether to add a bias.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    left : torch.nn.Parameter
        ``(m_1, m_2, n_1, r)``.
    right : torch.nn.Parameter
        ``(n_1, r, m_1, n_2)``.

    Raises
    ------
    ShapeError, RankError
        If digits do not multiply to the sizes, or the rank is out of range.

    Notes
    -----
    :math:`r\, m_1 n_1 (m_2 + n_2)` parameters, and as many multiply-adds a token: :math:`2 r d^{3/2}` for a square
    layer of width d. Two stacks of matrix products; see :class:`NetworkLinear` for when the weight is formed instead.

    References
    ----------
    .. [1] S. Qiu, A. Potapczynski, M. Finzi, M. Goldblum, A. G. Wilson, "Compute better spent: replacing
       dense layers with structured matrices", ICML 2024.
    .. [2] T. Dao et al., "Monarch: expressive structured matrices for efficient and accurate training",
       ICML 2022.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        row_shape: Sequence[int] | None = None,
        column_shape: Sequence[int] | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features)
        m1, m2 = self.row_shape = checked_digits("row_shape", row_shape, out_features, 2)
        n1, n2 = self.column_shape = checked_digits("column_shape", column_shape, in_features, 2)
        self.rank = check_rank(rank, min(m2, n2), f"the smaller side of a block of shape ({m2}, {n2})")
        self.left = nn.Parameter(torch.empty(m1, m2, n1, rank, device=device, dtype=dtype))
        self.right = nn.Parameter(torch.empty(n1, rank, m1, n2, device=device, dtype=dtype))
        self._new_bias(bias, device, dtype)
        self._set_network((("i0", "i1", "j0", "r"), ("j0", "r", "i0", "j1")), ("i0", "i1"), ("j0", "j1"))
        self.reset_parameters()

    @classmethod
    def from_tensor(cls, tensor: BlockTensorTrain, bias: torch.Tensor | None = None) -> BTTLinear:
        """Build the layer from copies of the cores of a block tensor train of torch tensors."""
        left, right = tensor.left, tensor.right
        check_factors(left=left, right=right, bias=bias)
        (m, n), rows, columns = tensor.shape, tensor.row_shape, tensor.column_shape
        layer = cls(
            n, m, tensor.rank, row_shape=rows, column_shape=columns, bias=bias is not None, device="meta",
            dtype=left.dtype,
        )  # fmt: skip
        layer.left, layer.right = parameter_of(left, left), parameter_of(right, left)
        if bias is not None:
            layer.bias = parameter_of(bias, left)
        return layer

    @classmethod
    def from_dense(
        cls,
        linear: nn.Module,
        rank: int | None = None,
        *,
        rtol: float | None = None,
        weight: torch.Tensor | None = None,
        row_shape: Sequence[int] | None = None,
        column_shape: Sequence[int] | None = None,
    ) -> BTTLinear:
        """Approximate a dense layer by :func:`tnet.btt`: each block by its truncated singular value decomposition.

        Parameters
        ----------
        linear : torch.nn.Linear
            The dense layer; left unchanged.
        rank : int
            Of each block.
        rtol : float
            Relative Frobenius error, instead of ``rank``; not together with ``weight``.
        weight : tensor, shape (n, n), optional
            C, the second moment of the inputs; the fit is then in the norm ``||(W - W') C^(1/2)||``.
        row_shape, column_shape : (int, int), optional
            ``(m_1, m_2)`` and ``(n_1, n_2)``; balanced by default.

        Returns
        -------
        BTTLinear
            With dtype, device and mode of the dense layer.

        Raises
        ------
        ShapeError, RankError, InputError
            If the digits, the rank or C do not fit the weight, or the weight is not finite.
        """
        dense, bias = dense_parts(linear)
        rows = checked_digits("row_shape", row_shape, dense.shape[0], 2)
        columns = checked_digits("column_shape", column_shape, dense.shape[1], 2)
        tensor = btt(dense, rows, columns, rank, rtol=rtol, weight=weight).tensor
        return cls.from_tensor(tensor, bias).train(linear.training)

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """``right`` maps ``n_2`` to ``r m_1``, ``left`` maps ``n_1 r`` to ``m_2``."""
        m1, m2, n1, r = self.left.shape
        return {"right": (self.right.shape[-1], r * m1), "left": (n1 * r, m2)}

    def _cores(self) -> list[torch.Tensor]:
        return [self.left, self.right]

    def _described(self) -> dict[str, object]:
        return {"row_shape": self.row_shape, "column_shape": self.column_shape, "rank": self.rank}
