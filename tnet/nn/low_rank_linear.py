"""Linear layer of low rank: the product of two matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tnet.nn.factorised_linear import (
    FactorisedLinear,
    check_factors,
    check_product,
    check_rank,
    parameter_of,
)

__all__ = ["LowRankLinear"]


class LowRankLinear(FactorisedLinear):
    r"""Linear layer with a weight of rank ``r``: ``y = left (right x) + b``.

    Parameters
    ----------
    in_features, out_features : int
        ``n`` and ``m``.
    rank : int
        ``r``, from 1 to ``min(m, n)``.
    bias : bool
        Whether to add a bias.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    left : torch.nn.Parameter
        ``(m, r)``.
    right : torch.nn.Parameter
        ``(r, n)``.

    Raises
    ------
    ShapeError, RankError
        If a size or the rank is no integer in its range.

    Notes
    -----
    ``r (m + n)`` stored elements (and ``m`` for the bias) and as many multiply-adds a token: fewer than the
    dense layer's ``m n`` for ``r < m n / (m + n)``. :class:`InterpolativeLinear` stores the same map in
    ``r^2`` elements less.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features)
        limit = min(in_features, out_features)
        self.rank = check_rank(rank, limit, f"the smaller side of a weight of shape ({out_features}, {in_features})")
        self.left = nn.Parameter(torch.empty(out_features, rank, device=device, dtype=dtype))
        self.right = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=dtype))
        self._new_bias(bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new values: entries of ``W'`` have the variance ``1 / (3 n)`` of a new ``nn.Linear``.

        ``right ~ N(0, 1/n)`` keeps the variance of the input, ``left ~ N(0, 1/(3 r))`` gives that of
        ``nn.Linear``; the bias is uniform in ``±1/sqrt(n)``.
        """
        nn.init.normal_(self.right, std=self.in_features**-0.5)
        nn.init.normal_(self.left, std=(3 * self.rank) ** -0.5)
        self._reset_bias()

    @classmethod
    def from_factors(cls, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> LowRankLinear:
        """Build the layer from copies of its factors.

        Parameters
        ----------
        left : torch.Tensor
            ``(m, r)``, floating.
        right : torch.Tensor
            ``(r, n)``, of the same dtype and device.
        bias : torch.Tensor or None
            ``(m,)``.

        Returns
        -------
        LowRankLinear
            With the dtype and device of the factors.

        Raises
        ------
        ShapeError, RankError, BackendError, InputError
            If shapes, rank, dtypes or devices do not fit, or a value is not finite.
        """
        out_features, in_features, rank = check_product(left, right, bias)
        layer = cls(in_features, out_features, rank, bias is not None, device="meta", dtype=left.dtype)
        layer.left = parameter_of(left, left)
        layer.right = parameter_of(right, left)
        if bias is not None:
            layer.bias = parameter_of(bias, left)
        return layer

    @classmethod
    def from_dense(cls, linear: nn.Linear, rank: int) -> LowRankLinear:
        r"""Truncate a dense layer: ``W' = U_r S_r V_r^T``, nearest to ``W`` in the Frobenius norm.

        Parameters
        ----------
        linear : torch.nn.Linear
            The dense layer; left unchanged.
        rank : int
            From 1 to ``min(m, n)``.

        Returns
        -------
        LowRankLinear
            With balanced factors ``U_r S_r^(1/2)`` and ``S_r^(1/2) V_r^T``.

        Raises
        ------
        RankError, InputError
            If the rank is out of range or the weight is not finite.

        Notes
        -----
        One singular value decomposition in float64, ``O(m n min(m, n))``.
        """
        weight = linear.weight.detach()
        check_factors(weight=weight)
        check_rank(rank, min(weight.shape), f"the smaller side of a weight of shape {tuple(weight.shape)}")
        u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
        root = s[:rank].sqrt()
        left, right = u[:, :rank] * root, root[:, None] * vh[:rank]
        bias = None if linear.bias is None else linear.bias.detach()
        return cls.from_factors(left.to(weight.dtype), right.to(weight.dtype), bias).train(linear.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., n)`` to ``(..., m)``."""
        return F.linear(F.linear(x, self.right), self.left, self.bias)

    def dense_weight(self) -> torch.Tensor:
        """Return ``left @ right`` of shape ``(m, n)``."""
        return self.left @ self.right

    @property
    def macs(self) -> int:
        """Multiply-adds for one token: ``r (m + n)``."""
        return self.rank * (self.in_features + self.out_features)

    def extra_repr(self) -> str:
        """Sizes and rank, as ``print`` shows them."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"rank={self.rank}, bias={self.bias is not None}"
        )
