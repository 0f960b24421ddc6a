"""Linear layer whose weight is a sum of Kronecker products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from tnet.decompositions import kronecker_sum
from tnet.nn.digits import checked_digits
from tnet.nn.factorised_linear import check_factors, check_rank, dense_parts, parameter_of
from tnet.nn.network_linear import NetworkLinear

if TYPE_CHECKING:
    from tnet.formats import KroneckerSum

__all__ = ["KroneckerLinear"]


class KroneckerLinear(NetworkLinear):
    r"""Linear layer whose weight is a sum of R Kronecker products.

    .. math:: W = \sum_{r=1}^R A_r \otimes B_r

    Parameters
    ----------
    in_features, out_features : int
        ``n = n_1 n_2`` and ``m = m_1 m_2``.
    rank : int
        R, from 1 to ``min(m_1 n_1, m_2 n_2)``.
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
        ``(R, m_1, n_1)``, the :math:`A_r`.
    right : torch.nn.Parameter
        ``(R, m_2, n_2)``, the :math:`B_r`.

    Raises
    ------
    ShapeError, RankError
        If digits do not multiply to the sizes, or the rank is out of range.

    Notes
    -----
    :math:`R (m_1 n_1 + m_2 n_2)` parameters, far fewer than multiply-adds: the fastest order is that of
    :class:`NetworkLinear`.
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
        self.rank = check_rank(rank, min(m1 * n1, m2 * n2), "where the sum is exact")
        self.left = nn.Parameter(torch.empty(rank, m1, n1, device=device, dtype=dtype))
        self.right = nn.Parameter(torch.empty(rank, m2, n2, device=device, dtype=dtype))
        self._new_bias(bias, device, dtype)
        self._set_network((("r", "i0", "j0"), ("r", "i1", "j1")), ("i0", "i1"), ("j0", "j1"))
        self.reset_parameters()

    @classmethod
    def from_tensor(cls, tensor: KroneckerSum, bias: torch.Tensor | None = None) -> KroneckerLinear:
        """Build the layer from copies of the cores of a Kronecker sum of torch tensors."""
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
    ) -> KroneckerLinear:
        """Approximate a dense layer by :func:`tnet.kronecker_sum`, in the plain or a weighted norm.

        Parameters
        ----------
        linear : torch.nn.Linear
            The dense layer; left unchanged.
        rank : int
            Number of terms.
        rtol : float
            Relative Frobenius error, instead of ``rank``; not together with ``weight``.
        weight : tensor, shape (n, n), optional
            C, the second moment of the inputs; the fit is then in the norm ``||(W - W') C^(1/2)||``.
        row_shape, column_shape : (int, int), optional
            ``(m_1, m_2)`` and ``(n_1, n_2)``; balanced by default.

        Returns
        -------
        KroneckerLinear
            With dtype, device and mode of the dense layer.

        Raises
        ------
        ShapeError, RankError, InputError
            If the digits, the rank or C do not fit the weight, or the weight is not finite.
        """
        dense, bias = dense_parts(linear)
        rows = checked_digits("row_shape", row_shape, dense.shape[0], 2)
        columns = checked_digits("column_shape", column_shape, dense.shape[1], 2)
        tensor = kronecker_sum(dense, rows, columns, rank, rtol=rtol, weight=weight).tensor
        return cls.from_tensor(tensor, bias).train(linear.training)

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """``right`` maps ``n_2`` to ``R m_2``, ``left`` maps ``R n_1`` to ``m_1``."""
        R, m1, n1 = self.left.shape
        _, m2, n2 = self.right.shape
        return {"right": (n2, R * m2), "left": (R * n1, m1)}

    def _cores(self) -> list[torch.Tensor]:
        return [self.left, self.right]

    def _described(self) -> dict[str, object]:
        return {"row_shape": self.row_shape, "column_shape": self.column_shape, "rank": self.rank}
