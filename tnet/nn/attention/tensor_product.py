"""Tensor product attention: queries, keys and values of all heads as short sums of outer products."""

from __future__ import annotations

import torch
from torch import nn

from tnet.errors import InputError, RankError, ShapeError
from tnet.nn.attention.factorised_cache import FactorisedCache
from tnet.nn.attention.factorised_scores import Factors, attend
from tnet.nn.attention.rotary import apply_rotary, rotary_angles
from tnet.nn.factorised_linear import check_factors, check_rank, check_size
from tnet.nn.state import FactorModule

__all__ = ["TensorProductAttention"]


class TensorProductAttention(FactorModule):
    r"""Causal self-attention whose queries, keys and values are factorised anew for every token.

    .. math::
        Q(x) = \frac{1}{R_q} \sum_{r=1}^{R_q} a^q_r(x) \otimes b^q_r(x), \qquad
        K(x) = \frac{1}{R_k} \sum_r a^k_r(x) \otimes \mathrm{RoPE}_t\, b^k_r(x), \qquad
        V(x) = \frac{1}{R_v} \sum_r a^v_r(x) \otimes b^v_r(x)

    with :math:`a(x) \in \mathbb{R}^h` over the heads and :math:`b(x) \in \mathbb{R}^{d}` over the features of a
    head, all linear in the token x. Rotary positions turn b alone, since they act alike on every head.

    Parameters
    ----------
    features : int
        n, the width of the tokens.
    n_heads : int
        h.
    head_width : int, optional
        d, even; ``features / n_heads`` by default.
    query_rank, key_rank, value_rank : int
        :math:`R_q, R_k, R_v`.
    rotary_base : float or None
        Base of the rotary angles; None for no positions.
    bias : bool
        Whether the linear maps have biases. A constant a (a bias without weight) gives multi-head, grouped-query
        and multi-query attention as special cases. False is the published module.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    factors : torch.nn.Linear
        From n to :math:`(R_q + R_k + R_v)(h + d)`: all a first (queries, keys, values; each ``(R, h)``), then all b.
    output : torch.nn.Linear
        From ``h d`` to n.

    Raises
    ------
    ShapeError, RankError, InputError
        If a size or rank is no positive integer, or d is odd while positions are rotary.

    Notes
    -----
    The cache holds :math:`(R_k + R_v)(h + d)` numbers a token instead of ``2 h d``; parameters are
    :math:`n (R_q + R_k + R_v)(h + d) + n h d`. For few new tokens keys and values are not formed, see
    :func:`fewest_macs`. The output projection begins at zero. With biases a begins near 1, where all heads share
    one query, key and value as wide as in plain attention, and learns to tell them apart; without, a could be no
    constant. Without biases a and b begin as published, by Xavier's rule on the weights seen as ``(n, h, R)`` and
    ``(n, R, d)``: small, and slow to grow.

    References
    ----------
    Zhang et al., Tensor product attention is all you need, arXiv:2501.06425, sections 3.1 to 3.3.
    """

    def __init__(
        self,
        features: int,
        n_heads: int,
        head_width: int | None = None,
        *,
        query_rank: int = 6,
        key_rank: int = 2,
        value_rank: int = 2,
        rotary_base: float | None = 10000.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features, self.n_heads = check_size("features", features), check_size("n_heads", n_heads)
        if head_width is None and features % n_heads:
            raise ShapeError(f"features={features} do not divide among n_heads={n_heads}: give head_width.")
        self.head_width = check_size("head_width", features // n_heads if head_width is None else head_width)
        for name, rank in (("query_rank", query_rank), ("key_rank", key_rank), ("value_rank", value_rank)):
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise RankError(f"{name}={rank!r}: give an integer of at least 1.")
        self.query_rank, self.key_rank, self.value_rank = query_rank, key_rank, value_rank
        self.rotary_base = rotary_base
        if rotary_base is not None and self.head_width % 2:
            raise InputError(
                f"head_width={self.head_width}: rotary positions turn pairs of features; give an even width or "
                "rotary_base=None."
            )
        if rotary_base is not None and not 0 < rotary_base < float("inf"):
            raise InputError(f"rotary_base={rotary_base!r}: give a positive number or None.")
        width = sum(self.ranks) * (self.n_heads + self.head_width)
        self.factors = nn.Linear(features, width, bias=bias, device=device, dtype=dtype)
        self.output = nn.Linear(self.n_heads * self.head_width, features, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    @property
    def ranks(self) -> tuple[int, int, int]:
        """Ranks of queries, keys and values."""
        return self.query_rank, self.key_rank, self.value_rank

    @classmethod
    def from_projections(
        cls,
        query: nn.Linear,
        key: nn.Linear,
        value: nn.Linear,
        output: nn.Linear,
        head_width: int,
        *,
        query_rank: int,
        key_rank: int,
        value_rank: int,
        rotary_base: float | None = 10000.0,
    ) -> TensorProductAttention:
        r"""Convert pretrained multi-head, grouped-query or multi-query attention.

        Each projection, as an array ``(heads, d (n + 1))`` with its bias as a further input, is cut to a sum of R
        terms (constant over the heads) x (linear in the token) by a truncated singular value decomposition, the
        least-squares optimum of that form. It is exact from R = the number of heads of the projection on; ``factors``
        then learns to vary a with the token.

        Parameters
        ----------
        query, key, value, output : torch.nn.Linear
            As in Llama: from n to ``h d``, from n to ``g d`` twice (g divides h, head i reads key ``i // (h / g)``),
            and from ``h d`` to n.
        head_width : int
            d.
        query_rank, key_rank, value_rank : int
            At most h, g and g: a higher rank adds nothing.
        rotary_base : float or None
            As in the class.

        Returns
        -------
        TensorProductAttention
            With biases, and dtype, device and mode of ``query``.

        Raises
        ------
        ShapeError, RankError, BackendError, InputError
            If sizes do not fit each other, a rank is out of range, or a weight is not finite.
        """
        given = {"query": query, "key": key, "value": value, "output": output}
        check_factors(**{name: linear.weight for name, linear in given.items()})
        d, n = check_size("head_width", head_width), query.in_features
        h, g = query.out_features // d, key.out_features // d
        fits = query.out_features == h * d == output.in_features and output.out_features == n and g > 0 and h % g == 0
        if not fits or any((m.out_features, m.in_features) != (g * d, n) for m in (key, value)):
            told = ", ".join(f"{name} ({m.out_features}, {m.in_features})" for name, m in given.items())
            raise ShapeError(
                f"{told}, head_width={d}: give (h d, n), (g d, n), (g d, n), (n, h d), g a divisor of h."
            )
        check_rank(query_rank, h, f"the number of heads in query {tuple(query.weight.shape)}")
        check_rank(key_rank, g, f"the number of heads in key {tuple(key.weight.shape)}")
        check_rank(value_rank, g, f"the number of heads in value {tuple(value.weight.shape)}")
        like = query.weight
        layer = cls(
            n, h, d, query_rank=query_rank, key_rank=key_rank, value_rank=value_rank, rotary_base=rotary_base,
            bias=True, device=like.device, dtype=like.dtype,
        )  # fmt: skip
        cuts = [_cut(linear, h, d, rank) for linear, rank in zip((query, key, value), layer.ranks, strict=True)]
        with torch.no_grad():
            linear_parts = torch.cat([by_token for _, by_token in cuts]).flatten(0, 1)
            constant = torch.cat([by_head.reshape(-1) for by_head, _ in cuts])
            layer.factors.weight.zero_()
            layer.factors.weight[constant.numel() :] = linear_parts[:, :n].to(like.dtype)
            layer.factors.bias.copy_(torch.cat((constant, linear_parts[:, n])))
            layer.output.weight.copy_(output.weight)
            if output.bias is not None:
                layer.output.bias.copy_(output.bias)
        return layer.train(query.training)

    def reset_parameters(self) -> None:
        """Draw new factor maps; zero for the output. With biases a = 1 + small and b of variance R, else Xavier's."""
        heads, features = self.factors.weight.split([sum(self.ranks) * size for size in self._sizes])
        for rank, a, b in zip(self.ranks, self._by_map(heads), self._by_map(features), strict=True):
            if self.factors.bias is not None:  # the mean of R terms a b then has the variance of the input
                nn.init.normal_(a, std=_SPREAD * self.features**-0.5)
                nn.init.normal_(b, std=(rank / self.features) ** 0.5)
                continue
            # As (n, h, R) and (n, R, d) an array has the fans (h R, n R) and (R d, n d).
            nn.init.uniform_(a, *_symmetric((6 / (rank * (self.n_heads + self.features))) ** 0.5))
            nn.init.uniform_(b, *_symmetric((6 / (self.head_width * (rank + self.features))) ** 0.5))
        nn.init.zeros_(self.output.weight)
        if self.output.bias is not None:
            nn.init.zeros_(self.output.bias)
        if self.factors.bias is not None:
            nn.init.zeros_(self.factors.bias)
            with torch.no_grad():
                self.factors.bias[: len(heads)] = 1

    def new_cache(self, batch_size: int, dtype: torch.dtype | None = None) -> FactorisedCache:
        """Return an empty cache for ``batch_size`` sequences, on the device of the weights and in their dtype."""
        weight = self.factors.weight
        return FactorisedCache.empty(
            check_size("batch_size", batch_size), self.n_heads, self.head_width, self.key_rank, self.value_rank,
            device=weight.device, dtype=weight.dtype if dtype is None else dtype,
        )  # fmt: skip

    def forward(
        self, x: torch.Tensor, *, cache: FactorisedCache | None = None, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend from every token to itself and the tokens before it.

        Parameters
        ----------
        x : torch.Tensor, shape (batch, tokens, n)
        cache : FactorisedCache, optional
            Holds the tokens before x, from :meth:`new_cache`; those of x are appended to it.
        positions : torch.Tensor, shape (tokens,) or (batch, tokens), optional
            For the rotary angles; counted on from the cache by default.

        Returns
        -------
        torch.Tensor, shape (batch, tokens, n)

        Raises
        ------
        ShapeError, InputError
            If x, the positions or the layout of the cache do not fit.
        """
        if x.ndim != 3 or x.shape[2] != self.features:
            raise ShapeError(f"x {tuple(x.shape)}: TensorProductAttention takes (batch, tokens, {self.features}).")
        if cache is not None and not isinstance(cache, FactorisedCache):
            raise InputError(
                f"cache of type {type(cache).__name__}: TensorProductAttention keeps factors of keys and values; "
                "make its cache with new_cache(batch_size)."
            )
        heads, features = self.factors(x).split([sum(self.ranks) * size for size in self._sizes], dim=-1)
        heads = heads.unflatten(-1, (-1, self.n_heads))
        features = features.unflatten(-1, (-1, self.head_width))
        turned, plain = features.split([self.query_rank + self.key_rank, self.value_rank], dim=2)
        if self.rotary_base is not None:
            angles = self._angles(x, 0 if cache is None else cache.length, positions)
            turned = apply_rotary(turned, angles)
        a_query, a_key, a_value = heads.split(self.ranks, dim=2)
        b_query, b_key = turned.split([self.query_rank, self.key_rank], dim=2)
        keys, values = Factors(a_key, b_key), Factors(a_value, plain)
        if cache is not None:
            keys, values = cache.append(keys, values)
        mixed = attend(Factors(a_query, b_query), keys, values)
        return self.output(mixed.flatten(2))

    @property
    def macs(self) -> int:
        """Multiply-adds a token of everything but the attention itself: both linear maps and forming all heads."""
        n, width = self.features, self.n_heads * self.head_width
        return n * sum(self.ranks) * sum(self._sizes) + sum(self.ranks) * width + width * n

    @property
    def n_params(self) -> int:
        """Elements stored."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def cache_numbers_per_token(self) -> int:
        """``(R_k + R_v)(h + d)``."""
        return (self.key_rank + self.value_rank) * sum(self._sizes)

    def extra_repr(self) -> str:
        """Sizes, ranks, parameters, multiply-adds and cached numbers a token, as ``print`` shows them."""
        return (
            f"features={self.features}, n_heads={self.n_heads}, head_width={self.head_width}, ranks={self.ranks}, "
            f"n_params={self.n_params}, macs={self.macs}, cache_numbers_per_token={self.cache_numbers_per_token}"
        )

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.n_heads, self.head_width

    def _by_map(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split rows, ``sum(ranks)`` equal blocks, into those of queries, keys and values."""
        block = rows.shape[0] // sum(self.ranks)
        return rows.split([rank * block for rank in self.ranks])

    def _angles(self, x: torch.Tensor, past: int, positions: torch.Tensor | None) -> torch.Tensor:
        """Return ``(1 or batch, tokens, 1, d / 2)``."""
        batch, n, _ = x.shape
        if positions is None:
            positions = torch.arange(past, past + n, device=x.device)
        elif tuple(positions.shape) not in ((n,), (batch, n)):
            raise ShapeError(
                f"positions {tuple(positions.shape)} for x {tuple(x.shape)}: give ({n},) or ({batch}, {n})."
            )
        positions = positions.double() if x.dtype == torch.float64 else positions
        assert self.rotary_base is not None
        angles = rotary_angles(positions, self.head_width, self.rotary_base)
        return angles.reshape(-1, n, 1, self.head_width // 2)


_SPREAD = 0.3  # of a around 1 at the start, for inputs of variance 1


def _symmetric(bound: float) -> tuple[float, float]:
    return -bound, bound


def _cut(linear: nn.Linear, n_heads: int, width: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a ``(R, h)`` and b ``(R, d, n + 1)`` with the least squared error, ``W = sum_r a_r x b_r / R``."""
    weight = linear.weight.detach().double()
    bias = torch.zeros_like(weight[:, 0]) if linear.bias is None else linear.bias.detach().double()
    if not bool(torch.isfinite(bias).all()):
        raise InputError("a bias has non-finite values; remove NaN and Inf before building a layer.")
    stacked = torch.cat((weight, bias[:, None]), dim=1).unflatten(0, (-1, width))
    u, s, vh = torch.linalg.svd(stacked.flatten(1), full_matrices=False)
    by_head = (rank * u[:, :rank] * s[:rank].sqrt()).T
    by_token = (s[:rank].sqrt()[:, None] * vh[:rank]).unflatten(1, stacked.shape[1:])
    return by_head.repeat_interleave(n_heads // stacked.shape[0], dim=1), by_token
