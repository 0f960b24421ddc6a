"""Third-order attention: every query weighs pairs of tokens."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tnet.errors import BackendError, InputError, ShapeError
from tnet.nn.factorised_linear import check_size

__all__ = ["ThirdOrderAttention", "n_monomials", "third_order_attention", "third_order_attention_low_rank"]


def third_order_attention(
    query: torch.Tensor,
    key1: torch.Tensor,
    key2: torch.Tensor,
    value1: torch.Tensor,
    value2: torch.Tensor,
    *,
    causal: bool = False,
    block: int = 32,
) -> torch.Tensor:
    r"""Attend from every token to all pairs of tokens.

    .. math::
        s_{ijk} = \frac1d \sum_c Q_{ic} K^1_{jc} K^2_{kc}, \qquad
        y_{ic} = \frac{\sum_{jk} e^{s_{ijk}} V^1_{jc} V^2_{kc}}{\sum_{jk} e^{s_{ijk}}}

    Parameters
    ----------
    query, key1, key2 : torch.Tensor, shape (..., n, d)
    value1, value2 : torch.Tensor, shape (..., n, e)
    causal : bool
        Whether the pairs of token i are those with ``j <= i`` and ``k <= i`` only.
    block : int
        Queries, and first keys, at a time.

    Returns
    -------
    torch.Tensor, shape (..., n, e)

    Raises
    ------
    ShapeError, BackendError, InputError
        If shapes, dtypes or devices do not fit, or ``block`` is no positive integer.

    Notes
    -----
    ``n^3 (d + e)`` multiply-adds. The softmax is taken online over blocks of j, so that ``block^2 n`` scores are
    held at a time; the backward pass computes each block anew.

    References
    ----------
    Alman, Song, How to capture higher-order correlations? Generalizing matrix softmax attention to Kronecker
    computation, ICLR 2024, arXiv:2310.04064.
    """
    _check(query, key1, key2, value1, value2)
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise InputError(f"block={block!r}: give an integer of at least 1.")
    n = query.shape[-2]
    outputs = []
    for start in range(0, n, block):
        stop = min(start + block, n)
        limit = stop if causal else n
        k1, k2, v1, v2 = (x[..., :limit, :] for x in (key1, key2, value1, value2))
        given = (query[..., start:stop, :], k1, k2, v1, v2, start if causal else None, block)
        outputs.append(checkpoint(_rows, *given, use_reentrant=False) if torch.is_grad_enabled() else _rows(*given))
    return torch.cat(outputs, dim=-2)


def third_order_attention_low_rank(
    query: torch.Tensor,
    key1: torch.Tensor,
    key2: torch.Tensor,
    value1: torch.Tensor,
    value2: torch.Tensor,
    *,
    degree: int = 2,
    causal: bool = False,
    chunk: int = 64,
) -> torch.Tensor:
    r"""Approximate :func:`third_order_attention` in time linear in n, by a polynomial of the scores.

    With :math:`e^s \approx \sum_{t \le g} s^t / t!` and the monomials :math:`x^\alpha` of all degrees up to g,

    .. math::
        \sum_{t \le g} \frac{s_{ijk}^t}{t!}
        = \sum_{|\alpha| \le g} \frac{Q_i^\alpha}{\alpha!\, d^{|\alpha|}} (K^1_j)^\alpha (K^2_k)^\alpha ,

    a sum of products over i, j and k, so that the sums over j and k fall apart.

    Parameters
    ----------
    query, key1, key2 : torch.Tensor, shape (..., n, d)
    value1, value2 : torch.Tensor, shape (..., n, e)
    degree : int
        g, even: an even Taylor polynomial of the exponential is positive everywhere, an odd one is not, and its
        weights could sum to zero.
    causal : bool
        As in the exact function; by sums carried along in chunks.
    chunk : int
        Tokens at a time in the causal case.

    Returns
    -------
    torch.Tensor, shape (..., n, e)

    Raises
    ------
    ShapeError, BackendError, InputError
        If shapes, dtypes or devices do not fit, or the degree is odd or negative.

    Notes
    -----
    :math:`r = \binom{d + g}{g}` monomials, ``3 n r (e + 1)`` multiply-adds, ``O(n r)`` memory; causal
    ``O(chunk r e)`` more. For :math:`|s| \le B` the error of :math:`e^s` is at most :math:`B^{g+1} e^B / (g+1)!`:
    use it where scores are small, such as after normalised queries and keys; else r explodes.

    References
    ----------
    Alman, Song, arXiv:2310.04064, which proves near-linear time for entries of order ``o(cbrt(log n))`` with a
    Chebyshev-type polynomial; Taylor's is the choice here.
    """
    _check(query, key1, key2, value1, value2)
    _check_degree(degree)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise InputError(f"chunk={chunk!r}: give an integer of at least 1.")
    d, dtype = query.shape[-1], query.dtype
    wide = torch.promote_types(dtype, torch.float32)  # powers and long sums lose too much in half precision
    query, key1, key2, value1, value2 = (x.to(wide) for x in (query, key1, key2, value1, value2))
    left = _monomials(query, degree) * _taylor_weights(d, degree, query)
    pairs = [(_monomials(key, degree), _with_one(value)) for key, value in ((key1, value1), (key2, value2))]
    if not causal:
        sums = [features.mT @ values for features, values in pairs]
        return _ratio(left @ (sums[0] * sums[1])).to(dtype)
    sums = [torch.zeros_like(features[..., :1, :, None] * values[..., :1, None, :]) for features, values in pairs]
    outputs = []
    for start in range(0, query.shape[-2], chunk):
        part = slice(start, start + chunk)
        for i, (features, values) in enumerate(pairs):
            steps = features[..., part, :, None] * values[..., part, None, :]
            sums[i] = sums[i][..., -1:, :, :] + steps.cumsum(dim=-3)
        outputs.append(torch.einsum("...ir,...ire,...ire->...ie", left[..., part, :], sums[0], sums[1]))
    return _ratio(torch.cat(outputs, dim=-2)).to(dtype)


class ThirdOrderAttention(nn.Module):
    """Self-attention with several heads, each token weighing pairs of tokens; no positions of its own.

    Parameters
    ----------
    features : int
        n, the width of the tokens.
    n_heads : int
        A divisor of n.
    degree : int or None
        Even degree of :func:`third_order_attention_low_rank`; None for the exact sum.
    causal : bool
        Whether a token sees only itself and the tokens before it.
    bias : bool
        Whether the linear maps have biases.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Raises
    ------
    ShapeError, InputError
        If a size is no positive integer, the heads do not divide the features, or the degree is odd or negative.
    """

    def __init__(
        self,
        features: int,
        n_heads: int,
        degree: int | None = None,
        *,
        causal: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features, self.n_heads = check_size("features", features), check_size("n_heads", n_heads)
        if features % n_heads:
            raise ShapeError(f"features={features} do not divide among n_heads={n_heads}: give a divisor.")
        self.degree, self.causal = None if degree is None else _check_degree(degree), causal
        self.inputs = nn.Linear(features, 5 * features, bias=bias, device=device, dtype=dtype)
        self.output = nn.Linear(features, features, bias=bias, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, tokens, n)`` to the same shape."""
        if x.ndim != 3 or x.shape[2] != self.features:
            raise ShapeError(f"x {tuple(x.shape)}: ThirdOrderAttention takes (batch, tokens, {self.features}).")
        heads = self.inputs(x).unflatten(-1, (5, self.n_heads, -1)).movedim((2, 3), (0, 2))
        query, key1, key2, value1, value2 = heads
        if self.degree is None:
            mixed = third_order_attention(query, key1, key2, value1, value2, causal=self.causal)
        else:
            mixed = third_order_attention_low_rank(
                query, key1, key2, value1, value2, degree=self.degree, causal=self.causal
            )
        return self.output(mixed.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        """Sizes, degree and parameters, as ``print`` shows them."""
        n_params = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"features={self.features}, n_heads={self.n_heads}, degree={self.degree}, causal={self.causal}, "
            f"n_params={n_params}"
        )


def n_monomials(d: int, degree: int) -> int:
    """Return the number of monomials in d variables of at most this degree, ``binomial(d + degree, degree)``."""
    return math.comb(d + degree, degree)


def _rows(
    query: torch.Tensor,
    key1: torch.Tensor,
    key2: torch.Tensor,
    value1: torch.Tensor,
    value2: torch.Tensor,
    first: int | None,
    block: int,
) -> torch.Tensor:
    """Return the outputs of some queries, of which the first is token ``first`` (None: every query sees all)."""
    m, n, d = query.shape[-2], key1.shape[-2], query.shape[-1]
    wide = torch.promote_types(query.dtype, torch.float32)
    top = torch.full_like(query[..., :1], float("-inf"), dtype=wide)
    total = torch.zeros_like(top)
    mixed = torch.zeros_like(query[..., :1] * value1[..., :1, :], dtype=wide)
    places = torch.arange(n, device=query.device)
    rows = None if first is None else first + torch.arange(m, device=query.device)
    for start in range(0, n, block):
        part = slice(start, start + block)
        products = query[..., :, None, :] * key1[..., None, part, :] / d
        scores = (products @ key2[..., None, :, :].mT).to(wide)
        if rows is not None:
            seen = (places[part, None] <= rows[:, None, None]) & (places <= rows[:, None, None])
            scores = scores.masked_fill(~seen, float("-inf"))
        new_top = torch.maximum(top, scores.amax(dim=(-2, -1))[..., None])
        weights = torch.exp(scores - new_top[..., None])
        shrink = torch.exp(top - new_top)
        total = total * shrink + weights.sum(dim=(-2, -1))[..., None]
        by_second = weights.to(query.dtype) @ value2[..., None, :, :]
        mixed = mixed * shrink + (by_second * value1[..., None, part, :]).sum(dim=-2).to(wide)
        top = new_top
    return (mixed / total).to(query.dtype)


def _monomials(x: torch.Tensor, degree: int) -> torch.Tensor:
    """Return ``(..., n, r)``: the products of at most ``degree`` entries, shorter ones first, then by the last entry.

    Those of length t whose last entry is c are c times those of length t - 1 with entries up to c: a prefix.
    """
    d = x.shape[-1]
    parts = [torch.ones_like(x[..., :1])]
    for length in range(1, degree + 1):
        counts = [n_monomials(c, length - 1) for c in range(d)]
        parts.append(
            torch.cat([parts[-1][..., :count] * x[..., c : c + 1] for c, count in enumerate(counts)], dim=-1)
        )
    return torch.cat(parts, dim=-1)


def _taylor_weights(d: int, degree: int, like: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`1 / (\alpha!\, d^{|\alpha|})` of every monomial, in the order of :func:`_monomials`."""
    unit = torch.eye(d, dtype=torch.float64, device=like.device)
    parts = [torch.zeros(1, d, dtype=torch.float64, device=like.device)]
    for length in range(1, degree + 1):
        counts = [n_monomials(c, length - 1) for c in range(d)]
        parts.append(torch.cat([parts[-1][:count] + unit[c] for c, count in enumerate(counts)]))
    exponents = torch.cat(parts)
    return torch.exp(-torch.lgamma(exponents + 1).sum(1) - math.log(d) * exponents.sum(1)).to(like.dtype)


def _check_degree(degree: int) -> int:
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 0 or degree % 2:
        raise InputError(f"degree={degree!r}: give an even integer, so that all weights are positive.")
    return degree


def _with_one(values: torch.Tensor) -> torch.Tensor:
    """Append a column of ones: its weighted sum is the denominator."""
    return torch.cat((values, torch.ones_like(values[..., :1])), dim=-1)


def _ratio(sums: torch.Tensor) -> torch.Tensor:
    return sums[..., :-1] / sums[..., -1:]


def _check(
    query: torch.Tensor, key1: torch.Tensor, key2: torch.Tensor, value1: torch.Tensor, value2: torch.Tensor
) -> None:
    given = {"query": query, "key1": key1, "key2": key2, "value1": value1, "value2": value2}
    for name, x in given.items():
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise BackendError(f"{name} of type {kind}: give a real floating torch tensor.")
    if len({(x.dtype, x.device) for x in given.values()}) > 1:
        told = ", ".join(f"{name} {x.dtype} on {x.device}" for name, x in given.items())
        raise BackendError(f"{told}: bring them to one dtype and device.")
    shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in given.items())
    alike = query.shape == key1.shape == key2.shape and value1.shape == value2.shape
    if query.ndim < 2 or not alike or query.shape[:-1] != value1.shape[:-1] or query.numel() == 0:
        raise ShapeError(f"{shapes}: give (..., n, d) three times and (..., n, e) twice, none of them empty.")
