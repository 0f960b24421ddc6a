"""Linear layer of low rank: the product of two matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tnet.errors import InputError, ShapeError
from tnet.nn.factorised_linear import (
    FactorisedLinear,
    check_factors,
    check_product,
    check_rank,
    dense_parts,
    parameter_of,
)
from tnet.options import Truncation, check_rank_or_rtol

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
    def from_dense(
        cls,
        linear: nn.Module,
        rank: int | None = None,
        *,
        rtol: float | None = None,
        weight: torch.Tensor | None = None,
    ) -> LowRankLinear:
        r"""Truncate a dense layer: the nearest weight of a rank, in the plain or a weighted norm.

        .. math:: W' = \arg\min_{\operatorname{rank} V \le r} \|(W - V) C^{1/2}\|_F

        Parameters
        ----------
        linear : torch.nn.Linear
            The dense layer; left unchanged.
        rank : int
            From 1 to ``min(m, n)``.
        rtol : float
            The least rank with this relative error, in the same norm, instead of ``rank``.
        weight : tensor, shape (n, n), optional
            C, positive semidefinite, such as the second moment of the inputs; the identity by default.

        Returns
        -------
        LowRankLinear
            With balanced factors, and dtype, device and mode of the dense layer.

        Raises
        ------
        RankError, ShapeError, InputError
            If both or neither of rank and rtol are given, the rank is out of range, C does not fit, or the weight is
            not finite.

        Notes
        -----
        A singular value decomposition of ``W C^(1/2)`` in float64, ``O(m n min(m, n) + n^3)``.
        """
        dense, bias = dense_parts(linear)
        check_rank_or_rtol(rank, rtol)
        root, inverse = _roots(weight, dense)
        u, s, vh = torch.linalg.svd(dense.double() @ root, full_matrices=False)
        if rank is None:
            squares = s.square().tolist()
            rank = Truncation(tail=(rtol or 0.0) * sum(squares) ** 0.5).keep(squares)
        check_rank(rank, min(dense.shape), f"the smaller side of a weight of shape {tuple(dense.shape)}")
        scale = s[:rank].sqrt()
        left, right = u[:, :rank] * scale, scale[:, None] * (vh[:rank] @ inverse)
        return cls.from_factors(left.to(dense.dtype), right.to(dense.dtype), bias).train(linear.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., n)`` to ``(..., m)``."""
        return F.linear(F.linear(x, self.right), self.left, self.bias)

    def dense_weight(self) -> torch.Tensor:
        """Return ``left @ right`` of shape ``(m, n)``."""
        return self.left @ self.right

    def replace_factors(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Put copies of other factors, of any rank, in the place of the layer's.

        Their parameters are new: an optimiser that holds the old ones no longer trains the layer.
        """
        self.left, self.right = parameter_of(left, self.left), parameter_of(right, self.right)
        self.rank = int(left.shape[1])

    @property
    def macs(self) -> int:
        """Multiply-adds for one token: ``r (m + n)``."""
        return self.rank * (self.in_features + self.out_features)

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """``right`` maps n to r, ``left`` r to m."""
        return {"right": (self.in_features, self.rank), "left": (self.rank, self.out_features)}

    def _described(self) -> dict[str, object]:
        return {"rank": self.rank}


def _roots(weight: torch.Tensor | None, dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``C^(1/2)`` and its inverse, eigenvalues below 1e-12 of the largest raised to that."""
    n = dense.shape[1]
    if weight is None:
        identity = torch.eye(n, dtype=torch.float64, device=dense.device)
        return identity, identity
    check_factors(weight=weight)
    if tuple(weight.shape) != (n, n):
        raise ShapeError(f"weight of shape {tuple(weight.shape)}: give ({n}, {n}), a second moment of the inputs.")
    values, vectors = torch.linalg.eigh(weight.to(device=dense.device, dtype=torch.float64))
    top = float(values[-1])
    if top <= 0 or float(values[0]) < -1e-5 * top:
        raise InputError("weight is not positive semidefinite: give a second moment such as X^T X / len(X).")
    roots = values.clamp(min=1e-12 * top).sqrt()
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
