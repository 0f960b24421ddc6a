"""Linear layer whose weight is a sum of rank-one tensors over the digits of rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from tnet.errors import RankError
from tnet.nn.cp_model import cp_model
from tnet.nn.digits import checked_digits
from tnet.nn.factorised_linear import check_factors, dense_parts, parameter_of
from tnet.nn.network_linear import NetworkLinear
from tnet.nn.weighted_fit import fit_factors

if TYPE_CHECKING:
    from tnet.formats import CPTensor

__all__ = ["CPLinear"]


class CPLinear(NetworkLinear):
    r"""Linear layer whose weight has R terms, each a product of one vector for each digit.

    .. math:: W_{(i_1 \dots i_p), (j_1 \dots j_q)} = \sum_{r=1}^R \prod_k U_k[i_k, r] \prod_k V_k[j_k, r]

    Parameters
    ----------
    row_shape : sequence of int
        ``(m_1, ..., m_p)`` with product m, the number of outputs.
    column_shape : sequence of int
        ``(n_1, ..., n_q)`` with product n, the number of inputs.
    rank : int
        R.
    bias : bool
        Whether to add a bias.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    factors : torch.nn.ParameterList
        ``(m_k, R)`` for the rows, then ``(n_k, R)`` for the columns.

    Raises
    ------
    ShapeError, RankError
        If a digit or the rank is no positive integer.

    Notes
    -----
    :math:`R (\sum m_k + \sum n_k)` parameters. See :class:`NetworkLinear` for the order of products.
    """

    def __init__(
        self,
        row_shape: Sequence[int],
        column_shape: Sequence[int],
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        row_shape, column_shape = tuple(row_shape), tuple(column_shape)
        rows = checked_digits("row_shape", row_shape, math.prod(row_shape))
        columns = checked_digits("column_shape", column_shape, math.prod(column_shape))
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise RankError(f"rank={rank!r}: give an integer of at least 1.")
        super().__init__(math.prod(columns), math.prod(rows))
        self.row_shape, self.column_shape, self.rank = rows, columns, rank
        self.factors = nn.ParameterList(
            nn.Parameter(torch.empty(size, rank, device=device, dtype=dtype)) for size in rows + columns
        )
        self._new_bias(bias, device, dtype)
        names = [f"i{k}" for k in range(len(rows))] + [f"j{k}" for k in range(len(columns))]
        self._set_network([(name, "r") for name in names], tuple(names[: len(rows)]), tuple(names[len(rows) :]))
        self.reset_parameters()

    @classmethod
    def from_tensor(cls, tensor: CPTensor, n_rows: int, bias: torch.Tensor | None = None) -> CPLinear:
        """Build the layer from a CP model of torch tensors whose first ``n_rows`` modes are those of the rows.

        The weights of the terms are shared out over the factors.
        """
        weights, factors = tensor.weights, tensor.factors
        check_factors(weights=weights, **{f"factors[{k}]": factor for k, factor in enumerate(factors)}, bias=bias)
        shape = tuple(int(n) for n in tensor.shape)
        layer = cls(shape[:n_rows], shape[n_rows:], int(weights.shape[0]), bias is not None, "meta", weights.dtype)
        share = weights.abs() ** (1 / len(factors))
        scaled = [factors[0] * (share * weights.sign()), *(factor * share for factor in factors[1:])]
        layer.factors = nn.ParameterList(parameter_of(factor, weights) for factor in scaled)
        if bias is not None:
            layer.bias = parameter_of(bias, weights)
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
    ) -> CPLinear:
        """Approximate a dense layer by :func:`tnet.cp` over its digits, in the plain or a weighted norm.

        Parameters
        ----------
        linear : torch.nn.Linear
            The dense layer; left unchanged.
        rank : int
            Number of terms.
        rtol : float
            Relative Frobenius error, instead of ``rank``: ranks are doubled until it is met, then bisected.
        weight : tensor, shape (n, n), optional
            C, the second moment of the inputs: all factors are then fitted to ``||(W - W') C^(1/2)||``.
        row_shape, column_shape : sequence of int, optional
            Digits of rows and columns; two balanced ones by default.

        Returns
        -------
        CPLinear
            With dtype, device and mode of the dense layer.

        Raises
        ------
        ShapeError, RankError, InputError
            If the digits, rank or C do not fit the weight, the weight is not finite, or no rank with fewer parameters
            than the dense weight meets ``rtol``.
        """
        dense, bias = dense_parts(linear)
        rows = checked_digits("row_shape", row_shape, dense.shape[0])
        columns = checked_digits("column_shape", column_shape, dense.shape[1])
        tensor = dense.reshape(*rows, *columns)
        model = cp_model(tensor, rank, rtol)
        layer = cls.from_tensor(model, len(rows), bias).train(linear.training)
        if weight is not None:
            fit_factors(layer, dense, weight)
        return layer

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """Each factor scales its digit in every term; the first one sums over the R terms, too."""
        p = len(self.row_shape)
        columns = {f"factors.{p + k}": (n, 1) for k, n in enumerate(self.column_shape)}
        rows = {f"factors.{k}": (1, self.row_shape[k]) for k in range(p - 1, 0, -1)}
        return columns | rows | {"factors.0": (self.rank, self.row_shape[0])}

    def _cores(self) -> list[torch.Tensor]:
        return [cast("torch.Tensor", factor) for factor in self.factors]

    def _described(self) -> dict[str, object]:
        return {"row_shape": self.row_shape, "column_shape": self.column_shape, "rank": self.rank}
