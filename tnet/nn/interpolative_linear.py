"""Linear layer of low rank in the gauge that stores least: interpolative decomposition."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from tnet.nn.factorised_linear import FactorisedLinear, check_product, check_rank, parameter_of
from tnet.nn.interpolation import Interpolation, interpolate

__all__ = ["InterpolativeLinear"]


class InterpolativeLinear(FactorisedLinear):
    r"""Linear layer of rank ``r`` whose right factor contains the identity.

    ``W'[:, order] = left @ [I, coupling]``, hence with ``P`` the first ``r`` entries of ``order`` and ``R``
    the others

    ``y = left (x_P + coupling x_R) + b``.

    Parameters
    ----------
    in_features, out_features : int
        ``n`` and ``m``.
    rank : int
        ``r``, from 1 to ``n``. It may exceed ``m``: a right factor shared by several layers can.
    bias : bool
        Whether to add a bias.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    left : torch.nn.Parameter
        ``(m, r)``, the columns ``P`` of ``W'``.
    coupling : torch.nn.Parameter
        ``(r, n - r)``.
    order : torch.Tensor
        Buffer ``(n,)`` of int32: pivots first.

    Raises
    ------
    ShapeError, RankError
        If a size or the rank is no integer in its range.

    Notes
    -----
    ``r (m + n - r)`` stored elements and ``n`` integers: every ``r < min(m, n)`` saves weight elements,
    whereas two plain factors save only below ``m n / (m + n)``. As many multiply-adds a token. The rank-``r``
    matrices form a manifold of exactly this dimension, so no other gauge stores fewer elements.

    References
    ----------
    Cheng, Gimbutas, Martinsson, Rokhlin, On the compression of low rank matrices, SIAM J. Sci. Comput. 26
    (2005).
    """

    order: torch.Tensor

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
        self.rank = check_rank(rank, in_features, f"the input size of ({out_features}, {in_features})")
        self.left = nn.Parameter(torch.empty(out_features, rank, device=device, dtype=dtype))
        self.coupling = nn.Parameter(torch.empty(rank, in_features - rank, device=device, dtype=dtype))
        self.register_buffer("order", torch.arange(in_features, dtype=torch.int32, device=device))
        self._new_bias(bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new factors such that ``y`` has the variance that ``nn.Linear`` gives; ``order`` stays.

        For inputs of variance ``s``, ``coupling ~ N(0, 1/(n - r))`` gives ``x_P + coupling x_R`` the variance
        ``2 s`` (``s`` if ``r = n``), and ``left`` brings ``y`` to ``s / 3``; the bias is uniform in
        ``±1/sqrt(n)``.
        """
        rest = self.in_features - self.rank
        if rest:
            nn.init.normal_(self.coupling, std=rest**-0.5)
        nn.init.normal_(self.left, std=(3 * self.rank * (2 if rest else 1)) ** -0.5)
        self._reset_bias()

    @classmethod
    def from_factors(cls, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> Self:
        """Build the layer with ``W' = left @ right``; exact up to rounding.

        Parameters
        ----------
        left : torch.Tensor
            ``(m, r)``, floating.
        right : torch.Tensor
            ``(r, n)``, of the same dtype and device, ``r <= n``; it may be singular.
        bias : torch.Tensor or None
            ``(m,)``.

        Returns
        -------
        InterpolativeLinear
            With the dtype and device of the factors; entries of ``coupling`` are of modest size (rarely above
            2).

        Raises
        ------
        ShapeError, RankError, BackendError, InputError
            If shapes, rank, dtypes or devices do not fit, or a value is not finite.

        Notes
        -----
        Pivots by column-pivoted QR in float64 on the CPU, ``O(r^2 (m + n))``.
        """
        _, in_features, rank = check_product(left, right, bias)
        check_rank(rank, in_features, f"the input size of right {tuple(right.shape)}")
        return cls.from_interpolation(left, interpolate(right), bias)

    @classmethod
    def from_interpolation(
        cls, left: torch.Tensor, interpolation: Interpolation, bias: torch.Tensor | None = None
    ) -> Self:
        """Build the layer from a plain left factor ``(m, r)`` and the interpolation of the right one."""
        (out_features, rank), in_features = left.shape, interpolation.order.shape[0]
        layer = cls(in_features, out_features, rank, bias is not None, device="meta", dtype=left.dtype)
        layer.left = parameter_of(left.detach().double().cpu() @ interpolation.mixing, left)
        layer.coupling = parameter_of(interpolation.coupling, left)
        layer.order = interpolation.order.to(device=left.device, dtype=torch.int32)
        if bias is not None:
            layer.bias = parameter_of(bias, left)
        return layer

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x_P + coupling x_R``: ``(..., n)`` to ``(..., r)``."""
        ordered = x.index_select(-1, self.order)
        return ordered[..., : self.rank] + F.linear(ordered[..., self.rank :], self.coupling)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., n)`` to ``(..., m)``."""
        return F.linear(self.project(x), self.left, self.bias)

    def right(self) -> torch.Tensor:
        """Return the right factor ``(r, n)``, the identity in the columns ``P``."""
        identity = torch.eye(self.rank, dtype=self.coupling.dtype, device=self.coupling.device)
        return torch.cat([identity, self.coupling], dim=1).index_select(1, torch.argsort(self.order))

    def dense_weight(self) -> torch.Tensor:
        """Return ``W'`` of shape ``(m, n)``."""
        return self.left @ self.right()

    @property
    def macs(self) -> int:
        """Multiply-adds for one token: ``r (m + n - r)``."""
        return self.rank * (self.out_features + self.in_features - self.rank)

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """``coupling`` maps n - r to r, ``left`` r to m; the identity beside ``coupling`` is not counted."""
        rest = self.in_features - self.rank
        coupling = {"coupling": (rest, self.rank)} if rest else {}
        return coupling | {"left": (self.rank, self.out_features)}

    def _described(self) -> dict[str, object]:
        return {"rank": self.rank}
