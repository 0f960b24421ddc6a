"""Interaction of three sets of tokens through a low-rank attention map and low-rank weights."""

from __future__ import annotations

import torch
from torch import nn

from tnet.errors import ShapeError
from tnet.nn.factorised_linear import check_size
from tnet.nn.state import FactorModule

__all__ = ["TrilinearInteraction"]

_SETS = "vqa"


class TrilinearInteraction(FactorModule):
    r"""Joint features of three sets of tokens ``V (n_1, d_1)``, ``Q (n_2, d_2)``, ``A (n_3, d_3)``.

    .. math:: z_c = \sum_{ijk} M_{ijk} (V W_v)_{ic} (Q W_q)_{jc} (A W_a)_{kc}, \qquad
        M = \sum_{r=1}^R [\![ G_r; V W_{vr}, Q W_{qr}, A W_{ar} ]\!]

    The attention map M of each triple of tokens is a PARALIND model: R Tucker terms with ``p x p x p`` cores.

    Parameters
    ----------
    d1, d2, d3 : int
        Features of the tokens of each set.
    out_features : int
        ``d_z``, the length of z.
    rank : int
        R.
    width : int
        p.
    softmax : bool
        Whether the map is normalised by a softmax over all triples of tokens.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    projections : torch.nn.ParameterList
        ``W_v (d_1, d_z)``, ``W_q``, ``W_a``.
    map_projections : torch.nn.ParameterList
        ``W_vr`` of all r as ``(R, d_1, p)``, and so on.
    cores : torch.nn.Parameter
        G as ``(R, p, p, p)``.

    Raises
    ------
    ShapeError
        If a size is no positive integer, or an input does not fit.

    Notes
    -----
    :math:`R (p^3 + p (d_1 + d_2 + d_3)) + d_z (d_1 + d_2 + d_3)` parameters; no tensor over the features of three
    tokens is formed. Without ``softmax`` M is formed only where that takes fewer multiply-adds than contracting the
    tokens first; rows of zeros then fill up sets of unequal size and change nothing.

    References
    ----------
    T. Do, T.-T. Do, H. Tran, E. Tjiputra, Q. D. Tran, "Compact trilinear interaction for visual question answering",
    ICCV 2019, arXiv:1909.11874.
    """

    def __init__(
        self,
        d1: int,
        d2: int,
        d3: int,
        out_features: int,
        rank: int,
        width: int,
        softmax: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features = (check_size("d1", d1), check_size("d2", d2), check_size("d3", d3))
        self.out_features = check_size("out_features", out_features)
        self.rank, self.width, self.softmax = check_size("rank", rank), check_size("width", width), softmax

        def new(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.projections = nn.ParameterList(new(d, out_features) for d in self.features)
        self.map_projections = nn.ParameterList(new(rank, d, width) for d in self.features)
        self.cores = new(rank, width, width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new values: projections keep the variance of what they map, entries of M have that of one product."""
        for own, shared, d in zip(self.map_projections, self.projections, self.features, strict=True):
            nn.init.normal_(own, std=d**-0.5)
            nn.init.normal_(shared, std=d**-0.5)
        nn.init.normal_(self.cores, std=(self.rank * self.width**3) ** -0.5)

    def forward(self, v: torch.Tensor, q: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Map three batches of sets, ``(..., n_m, d_m)``, to ``(..., d_z)``."""
        n = self._checked(v, q, a)
        shared = [x @ weight for x, weight in zip((v, q, a), self.projections, strict=True)]
        map_macs, token_macs = self._macs(n)
        if self.softmax or map_macs <= token_macs:
            y = torch.einsum("...ijk,...kc->...ijc", self.attention(v, q, a), shared[2])
            y = torch.einsum("...ijc,...jc->...ic", y, shared[1])
            return (y * shared[0]).sum(-2)
        blocks = [
            torch.einsum("...rnp,...nc->...rcp", part, x)
            for part, x in zip(self._map_parts(v, q, a), shared, strict=True)
        ]
        y = torch.einsum("rpqs,...rcs->...rcpq", self.cores, blocks[2])
        y = torch.einsum("...rcpq,...rcq->...rcp", y, blocks[1])
        return (y * blocks[0]).sum((-3, -1))

    def attention(self, v: torch.Tensor, q: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Return M of shape ``(..., n_1, n_2, n_3)``."""
        n = self._checked(v, q, a)
        first, second, third = self._map_parts(v, q, a)
        y = torch.einsum("rpqs,...rip->...riqs", self.cores, first)
        y = torch.einsum("...riqs,...rjq->...rijs", y, second)
        scores = torch.einsum("...rijs,...rks->...ijk", y, third)
        return torch.softmax(scores.flatten(-3), -1).reshape(*scores.shape[:-3], *n) if self.softmax else scores

    def _map_parts(self, *sets: torch.Tensor) -> list[torch.Tensor]:
        return [x.unsqueeze(-3) @ weight for x, weight in zip(sets, self.map_projections, strict=True)]

    def _macs(self, n: tuple[int, int, int]) -> tuple[int, int]:
        """Return the multiply-adds by the map, and by tokens first, beside what both need."""
        (n1, n2, n3), p, c = n, self.width, self.out_features
        by_map = self.rank * (p**3 * n1 + p**2 * n1 * n2 + p * n1 * n2 * n3) + c * (n1 * n2 * n3 + n1 * n2 + n1)
        by_tokens = self.rank * c * (p * (n1 + n2 + n3) + p**3 + p**2 + p)
        return by_map, by_tokens

    def macs(self, n1: int, n2: int, n3: int) -> int:
        """Return the multiply-adds for one triple of sets with so many tokens."""
        n = (check_size("n1", n1), check_size("n2", n2), check_size("n3", n3))
        by_map, by_tokens = self._macs(n)
        projected = sum(k * d for k, d in zip(n, self.features, strict=True))
        return projected * (self.rank * self.width + self.out_features) + (
            by_map if self.softmax else min(by_map, by_tokens)
        )

    @property
    def n_params(self) -> int:
        """Elements stored."""
        return sum(parameter.numel() for parameter in self.parameters())

    def extra_repr(self) -> str:
        """Sizes and parameters, and the multiply-adds for one token of each set."""
        return (
            f"features={self.features}, out_features={self.out_features}, rank={self.rank}, width={self.width}, "
            f"softmax={self.softmax}, n_params={self.n_params}, macs={self.macs(1, 1, 1)}"
        )

    def _checked(self, *sets: torch.Tensor) -> tuple[int, int, int]:
        for name, x, d in zip(_SETS, sets, self.features, strict=True):
            if x.ndim < 2 or x.shape[-1] != d:
                raise ShapeError(f"{name} of shape {tuple(x.shape)}: give (..., tokens, {d}).")
        if len({tuple(x.shape[:-2]) for x in sets}) > 1:
            shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zip(_SETS, sets, strict=True))
            raise ShapeError(f"{shapes}: all axes but the last two must be equal.")
        v, q, a = sets
        return int(v.shape[-2]), int(q.shape[-2]), int(a.shape[-2])
