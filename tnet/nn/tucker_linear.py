"""Linear layer whose weight is a Tucker model over the digits of rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from tnet.decompositions import tucker
from tnet.errors import RankError
from tnet.nn.digits import checked_digits
from tnet.nn.factorised_linear import check_factors, dense_parts, parameter_of
from tnet.nn.network_linear import NetworkLinear
from tnet.nn.weighted_fit import fit_factors

if TYPE_CHECKING:
    from tnet.formats import TuckerTensor

__all__ = ["TuckerLinear"]


class TuckerLinear(NetworkLinear):
    r"""Linear layer whose weight has a small core and one factor for each digit of rows and columns.

    .. math:: W_{(i_1 \dots i_p), (j_1 \dots j_q)} = \sum G[a_1 \dots a_p, b_1 \dots b_q]
        \prod_k U_k[i_k, a_k] \prod_k V_k[j_k, b_k]

    Parameters
    ----------
    row_shape : sequence of int
        ``(m_1, ..., m_p)`` with product m, the number of outputs.
    column_shape : sequence of int
        ``(n_1, ..., n_q)`` with product n, the number of inputs.
    ranks : sequence of int
        The ``p + q`` sizes of the core, each at most that of its digit.
    bias : bool
        Whether to add a bias.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    core : torch.nn.Parameter
        Of shape ``ranks``.
    factors : torch.nn.ParameterList
        ``(m_k, a_k)`` for the rows, then ``(n_k, b_k)`` for the columns.

    Raises
    ------
    ShapeError, RankError
        If a digit or a rank is no integer in its range, or their counts differ.

    Notes
    -----
    :math:`\prod a_k \prod b_k + \sum m_k a_k + \sum n_k b_k` parameters. See :class:`NetworkLinear` for the order
    of products.

    References
    ----------
    A. Novikov, M. Rodomanov, A. Osokin, D. Vetrov, "Tensorizing neural networks", NeurIPS 2015, for weights as
    tensors over digits.
    """

    def __init__(
        self,
        row_shape: Sequence[int],
        column_shape: Sequence[int],
        ranks: Sequence[int],
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        row_shape, column_shape, ranks = tuple(row_shape), tuple(column_shape), tuple(ranks)
        rows = checked_digits("row_shape", row_shape, math.prod(row_shape))
        columns = checked_digits("column_shape", column_shape, math.prod(column_shape))
        digits = rows + columns
        if len(ranks) != len(digits):
            raise RankError(f"ranks={ranks}: got {len(ranks)} for {len(digits)} digits, give one for each.")
        for r, size in zip(ranks, digits, strict=True):
            if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r <= size:
                raise RankError(f"ranks={ranks}: {r!r} for a digit of size {size}; give an integer from 1 to {size}.")
        super().__init__(math.prod(columns), math.prod(rows))
        self.row_shape, self.column_shape, self.ranks = rows, columns, ranks
        self.core = nn.Parameter(torch.empty(ranks, device=device, dtype=dtype))
        self.factors = nn.ParameterList(
            nn.Parameter(torch.empty(size, r, device=device, dtype=dtype))
            for size, r in zip(digits, ranks, strict=True)
        )
        self._new_bias(bias, device, dtype)
        names = [f"i{k}" for k in range(len(rows))] + [f"j{k}" for k in range(len(columns))]
        bonds = tuple(f"{name}'" for name in names)
        self._set_network(
            [bonds, *zip(names, bonds, strict=True)], tuple(names[: len(rows)]), tuple(names[len(rows) :])
        )
        self.reset_parameters()

    @classmethod
    def from_tensor(cls, tensor: TuckerTensor, n_rows: int, bias: torch.Tensor | None = None) -> TuckerLinear:
        """Build the layer from a Tucker model of torch tensors whose first ``n_rows`` modes are those of the rows."""
        core, factors = tensor.core, tensor.factors
        check_factors(core=core, **{f"factors[{k}]": factor for k, factor in enumerate(factors)}, bias=bias)
        shape = tuple(int(n) for n in tensor.shape)
        layer = cls(shape[:n_rows], shape[n_rows:], tuple(core.shape), bias is not None, "meta", core.dtype)
        layer.core = parameter_of(core, core)
        layer.factors = nn.ParameterList(parameter_of(factor, core) for factor in factors)
        if bias is not None:
            layer.bias = parameter_of(bias, core)
        return layer

    @classmethod
    def from_dense(
        cls,
        linear: nn.Module,
        rank: int | Sequence[int] | None = None,
        *,
        rtol: float | None = None,
        weight: torch.Tensor | None = None,
        row_shape: Sequence[int] | None = None,
        column_shape: Sequence[int] | None = None,
    ) -> TuckerLinear:
        """Approximate a dense layer by :func:`tnet.tucker` over its digits, in the plain or a weighted norm.

        Parameters
        ----------
        linear : torch.nn.Linear
            The dense layer; left unchanged.
        rank : int or sequence of int
            One bound for all modes of the core, or one rank for each.
        rtol : float
            Relative Frobenius error, instead of ``rank``.
        weight : tensor, shape (n, n), optional
            C, the second moment of the inputs: all factors are then fitted to ``||(W - W') C^(1/2)||``, with the
            ranks found without it.
        row_shape, column_shape : sequence of int, optional
            Digits of rows and columns; two balanced ones by default.

        Returns
        -------
        TuckerLinear
            With dtype, device and mode of the dense layer.

        Raises
        ------
        ShapeError, RankError, InputError
            If the digits, ranks or C do not fit the weight, or the weight is not finite.
        """
        dense, bias = dense_parts(linear)
        rows = checked_digits("row_shape", row_shape, dense.shape[0])
        columns = checked_digits("column_shape", column_shape, dense.shape[1])
        tensor = tucker(dense.reshape(*rows, *columns), rank, rtol=rtol).tensor
        layer = cls.from_tensor(tensor, len(rows), bias).train(linear.training)
        if weight is not None:
            fit_factors(layer, dense, weight)
        return layer

    def replace_factors(self, core: torch.Tensor, factors: Sequence[torch.Tensor]) -> None:
        """Put copies of other factors, of any ranks, in the place of the layer's.

        Their parameters are new: an optimiser that holds the old ones no longer trains the layer.
        """
        self.core = parameter_of(core, self.core)
        self.factors = nn.ParameterList(parameter_of(factor, self.core) for factor in factors)
        self.ranks = tuple(int(r) for r in core.shape)
        self._set_network(self._network.indices, self._network.rows, self._network.columns)

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """Column factors map ``n_k`` to ``b_k``, the core its columns to its rows, row factors ``a_k`` to ``m_k``."""
        p = len(self.row_shape)
        digits = self.row_shape + self.column_shape
        dims = {f"factors.{k}": (digits[k], self.ranks[k]) for k in range(p, len(digits))}
        dims["core"] = (math.prod(self.ranks[p:]), math.prod(self.ranks[:p]))
        return dims | {f"factors.{k}": (self.ranks[k], digits[k]) for k in range(p)}

    def _cores(self) -> list[torch.Tensor]:
        return [self.core, *(cast("torch.Tensor", factor) for factor in self.factors)]

    def _described(self) -> dict[str, object]:
        return {"row_shape": self.row_shape, "column_shape": self.column_shape, "ranks": self.ranks}
