"""Attention over keys and values in factors: contracted in the order with the fewest multiply-adds."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

__all__ = ["AttentionOrder", "Factors", "attend", "expand", "fewest_macs"]


class Factors(NamedTuple):
    r"""Vectors of all heads as a sum of outer products, :math:`\frac1R \sum_r a_r \otimes b_r`.

    Parameters
    ----------
    heads : torch.Tensor, shape (batch, tokens, R, h)
        The :math:`a_r`.
    features : torch.Tensor, shape (batch, tokens, R, d)
        The :math:`b_r`.
    """

    heads: torch.Tensor
    features: torch.Tensor

    @property
    def rank(self) -> int:
        """R."""
        return self.heads.shape[2]


class AttentionOrder(NamedTuple):
    """An order of contraction and its multiply-adds, softmax not counted.

    Parameters
    ----------
    scores : str
        ``"expand"``: queries and keys are formed; ``"keys"``: queries are formed, keys stay in factors;
        ``"both"``: neither is formed.
    values : str
        ``"expand"``: values are formed; ``"factors"``: they are not.
    macs : int
    """

    scores: Literal["expand", "keys", "both"]
    values: Literal["expand", "factors"]
    macs: int


def fewest_macs(n_queries: int, n_keys: int, n_heads: int, width: int, ranks: tuple[int, int, int]) -> AttentionOrder:
    r"""Choose how to contract queries with keys and weights with values.

    Parameters
    ----------
    n_queries, n_keys : int
        n and t, the new tokens and all tokens.
    n_heads, width : int
        h and d.
    ranks : tuple of int
        :math:`(R_q, R_k, R_v)`.

    Returns
    -------
    AttentionOrder

    Notes
    -----
    Scores cost :math:`n R_q h d + t R_k h d + n t h d` (expand), :math:`n R_q h d + n t R_k h (d + 1)` (keys) or
    :math:`n t R_k (R_q d + R_q h + h)` (both); values :math:`t R_v h d + n t h d` (expand) or
    :math:`n t R_v h (d + 1)` (factors). The orders that expand nothing hold all scores at once, ``n t h`` numbers,
    where the fused kernel holds none; they are taken for ``n <= d`` only, where that is no more than the keys.
    """
    n, t, h, d = n_queries, n_keys, n_heads, width
    r_q, r_k, r_v = ranks
    scores: Literal["expand", "keys", "both"] = "expand"
    values: Literal["expand", "factors"] = "expand"
    score_macs = n * r_q * h * d + t * r_k * h * d + n * t * h * d
    value_macs = t * r_v * h * d + n * t * h * d
    if n <= d:
        # Plain comparisons: these counts are symbols while torch.compile traces a growing cache.
        if (keys := n * r_q * h * d + n * t * r_k * h * (d + 1)) < score_macs:
            scores, score_macs = "keys", keys
        if (both := n * t * r_k * (r_q * d + r_q * h + h)) < score_macs:
            scores, score_macs = "both", both
        if (factors := n * t * r_v * h * (d + 1)) < value_macs:
            values, value_macs = "factors", factors
    return AttentionOrder(scores, values, score_macs + value_macs)


def expand(factors: Factors) -> torch.Tensor:
    """Return the vectors of all heads, ``(batch, h, tokens, d)``."""
    return torch.einsum("btrh,btrd->bhtd", factors.heads / factors.rank, factors.features)


def attend(queries: Factors, keys: Factors, values: Factors, order: AttentionOrder | None = None) -> torch.Tensor:
    r"""Causal attention of the last n of t tokens, scores scaled by :math:`d^{-1/2}`.

    Parameters
    ----------
    queries : Factors
        Of n tokens.
    keys, values : Factors
        Of t tokens, the n tokens of the queries last.
    order : AttentionOrder, optional
        The one of :func:`fewest_macs` by default.

    Returns
    -------
    torch.Tensor, shape (batch, n, h, d)
    """
    n, t = queries.heads.shape[1], keys.heads.shape[1]
    n_heads, width = queries.heads.shape[3], queries.features.shape[3]
    if order is None:
        order = fewest_macs(n, t, n_heads, width, (queries.rank, keys.rank, values.rank))
    if order.scores == order.values == "expand":
        q, k, v = expand(queries), expand(keys), expand(values)
        if n == t:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mask = None if n == 1 else _visible(n, t, q.device)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return mixed.transpose(1, 2)
    scores = _scores(queries, keys, order.scores) * width**-0.5
    if n > 1:
        scores = scores.masked_fill(~_visible(n, t, scores.device), float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    if order.values == "expand":
        return torch.einsum("bhnt,bhtd->bnhd", weights, expand(values))
    parts = torch.einsum("bhnt,btrh->bhntr", weights, values.heads / values.rank)
    return torch.einsum("bhntr,btrd->bnhd", parts, values.features)


def _scores(queries: Factors, keys: Factors, order: Literal["expand", "keys", "both"]) -> torch.Tensor:
    """Return ``(batch, h, n, t)``, not yet scaled by the width."""
    if order == "expand":
        return torch.einsum("bhnd,bhtd->bhnt", expand(queries), expand(keys))
    if order == "keys":
        products = torch.einsum("bhnd,btrd->bhntr", expand(queries), keys.features)
    else:
        pairs = torch.einsum("bnsd,btrd->bntsr", queries.features / queries.rank, keys.features)
        products = torch.einsum("bnsh,bntsr->bhntr", queries.heads, pairs)
    return torch.einsum("bhntr,btrh->bhnt", products, keys.heads / keys.rank)


def _visible(n: int, t: int, device: torch.device) -> torch.Tensor:
    """Return ``(n, t)``, true where query i, the token ``t - n + i``, may look."""
    return torch.ones(n, t, dtype=torch.bool, device=device).tril(t - n)
