"""Kronecker attention: the keys and values of a grid are the means of its rows and of its columns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tnet.errors import BackendError, InputError, ShapeError
from tnet.nn.factorised_linear import check_size

__all__ = ["KroneckerAttention", "kronecker_attention", "row_and_column_means"]


def row_and_column_means(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return the means of the h rows, then of the w columns, of a grid of vectors.

    Parameters
    ----------
    x : torch.Tensor, shape (..., h w, d)
        Row by row.
    grid : tuple of int
        ``(h, w)``.

    Returns
    -------
    torch.Tensor, shape (..., h + w, d)

    Raises
    ------
    ShapeError
        If the grid has not as many places as x has vectors.
    """
    h, w = (check_size(name, size) for name, size in zip(("rows", "columns"), grid, strict=True))
    if x.ndim < 2 or x.shape[-2] != h * w:
        raise ShapeError(f"x {tuple(x.shape)}: a grid of {h} rows and {w} columns has (..., {h * w}, d).")
    places = x.unflatten(-2, (h, w))
    return torch.cat((places.mean(dim=-2), places.mean(dim=-3)), dim=-2)


def kronecker_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    r"""Attend from every place of a grid to the means of its rows and columns.

    .. math:: Y = \operatorname{softmax}\left(Q\, [\bar K_{\text{rows}}; \bar K_{\text{columns}}]^T / \sqrt d\right)
              \; [\bar V_{\text{rows}}; \bar V_{\text{columns}}]

    Parameters
    ----------
    query : torch.Tensor, shape (..., m, d)
        Of any places, often all ``h w``.
    key : torch.Tensor, shape (..., h w, d)
        Row by row.
    value : torch.Tensor, shape (..., h w, e)
    grid : tuple of int
        ``(h, w)``.

    Returns
    -------
    torch.Tensor, shape (..., m, e)

    Raises
    ------
    ShapeError, BackendError
        If the grid, the widths, dtypes or devices do not fit.

    Notes
    -----
    ``m (h + w)(d + e)`` multiply-adds instead of ``m h w (d + e)``, and ``h + w`` cached keys and values instead of
    ``h w``. It models the grid as rows plus columns; it is no approximation of attention over all places.

    References
    ----------
    Gao, Wang, Ji, Kronecker attention networks, KDD 2020, arXiv:2007.08442: the operator for keys and values.
    """
    given = {"query": query, "key": key, "value": value}
    if len({(x.dtype, x.device) for x in given.values()}) > 1 or not query.is_floating_point():
        told = ", ".join(f"{name} {x.dtype} on {x.device}" for name, x in given.items())
        raise BackendError(f"{told}: give one floating dtype and one device.")
    if query.ndim != key.ndim or query.shape[-1] != key.shape[-1] or key.shape[:-1] != value.shape[:-1]:
        told = ", ".join(f"{name} {tuple(x.shape)}" for name, x in given.items())
        raise ShapeError(f"{told}: give (..., m, d), (..., h w, d) and (..., h w, e).")
    return F.scaled_dot_product_attention(query, row_and_column_means(key, grid), row_and_column_means(value, grid))


class KroneckerAttention(nn.Module):
    """Self-attention of a grid with several heads, keys and values being means of rows and columns.

    Parameters
    ----------
    features : int
        n, the width of the tokens.
    n_heads : int
        A divisor of n.
    bias : bool
        Whether the linear maps have biases.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Raises
    ------
    ShapeError
        If a size is no positive integer, or the heads do not divide the features.

    Notes
    -----
    The mean commutes with the linear maps of keys and values, which are applied to ``h + w`` means only: ``2 n^2``
    multiply-adds a token, and ``2 n^2 (h + w) / (h w)`` for keys and values.
    """

    def __init__(
        self,
        features: int,
        n_heads: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features, self.n_heads = check_size("features", features), check_size("n_heads", n_heads)
        if features % n_heads:
            raise ShapeError(f"features={features} do not divide among n_heads={n_heads}: give a divisor.")
        self.query = nn.Linear(features, features, bias=bias, device=device, dtype=dtype)
        self.key_value = nn.Linear(features, 2 * features, bias=bias, device=device, dtype=dtype)
        self.output = nn.Linear(features, features, bias=bias, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, h, w, n)`` to the same shape."""
        if x.ndim != 4 or x.shape[3] != self.features:
            raise ShapeError(f"x {tuple(x.shape)}: KroneckerAttention takes (batch, h, w, {self.features}).")
        if x.shape[1] * x.shape[2] == 0:
            raise InputError(f"x {tuple(x.shape)}: the grid is empty.")
        means = torch.cat((x.mean(dim=2), x.mean(dim=1)), dim=1)
        key, value = self._heads(self.key_value(means), 2).chunk(2, dim=1)
        query = self._heads(self.query(x.flatten(1, 2)), 1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).reshape(x.shape))

    def extra_repr(self) -> str:
        """Sizes and parameters, as ``print`` shows them."""
        n_params = sum(parameter.numel() for parameter in self.parameters())
        return f"features={self.features}, n_heads={self.n_heads}, n_params={n_params}"

    def _heads(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        return x.unflatten(-1, (parts * self.n_heads, -1)).transpose(1, 2)
