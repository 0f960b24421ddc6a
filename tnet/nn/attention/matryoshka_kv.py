"""Keys and values of a pretrained language model in orthogonal bases, of which the cache keeps a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.nn.state import FactorModule

__all__ = ["HeadProjection", "KVProjection", "ProjectedAttention", "check_tokens", "project_kv"]

_SUPPORTED = ("LlamaAttention", "MistralAttention", "Qwen2Attention")


class HeadProjection(FactorModule):
    r"""First coordinates of the vectors of each head in an orthonormal basis, :math:`U_{:, :r}^T x`.

    Parameters
    ----------
    n_heads, width : int
        g and d.
    device : torch.device or str or None
        Where the bases live.
    dtype : torch.dtype or None
        Their dtype.

    Attributes
    ----------
    basis : torch.Tensor, shape (g, d, d)
        The columns of ``basis[i]`` are orthonormal, the most important first; the identity at the start.
    mask : torch.Tensor, shape (g, d)
        1 for the coordinates that are kept, 0 for the others.
    """

    basis: torch.Tensor
    mask: torch.Tensor
    packed: torch.Tensor
    places: torch.Tensor

    def __init__(
        self, n_heads: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        eye = torch.eye(width, device=device, dtype=dtype)
        self.register_buffer("basis", eye.repeat(n_heads, 1, 1))
        for name in ("mask", "packed", "places"):
            self.register_buffer(name, None, persistent=False)
        self.set_ranks([width] * n_heads)

    def set_ranks(self, ranks: Sequence[int]) -> None:
        """Keep the first ``ranks[i]`` coordinates of head i, from 1 to d."""
        n_heads, width, _ = self.basis.shape
        given = tuple(int(rank) for rank in ranks)
        if len(given) != n_heads or not all(1 <= rank <= width for rank in given):
            raise RankError(f"ranks {given}: give {n_heads} integers from 1 to {width}, one a head.")
        self.ranks = given
        kept = np.arange(width) < np.array(given)[:, None]
        # Where coordinate c of head i stands in a row of the cache; what is not kept points at a zero behind its end.
        places = np.where(kept, np.cumsum(kept).reshape(kept.shape) - 1, kept.sum())[:, : max(given)]
        device = self.basis.device
        self.mask = torch.as_tensor(kept, device=device).to(self.basis.dtype)
        self.packed = torch.as_tensor(np.flatnonzero(kept), device=device)
        self.places = torch.as_tensor(places, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, g, tokens, d)`` to coordinates of the same shape, those that are not kept zero."""
        return (x @ self.basis) * self.mask[:, None]

    def pack(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return the kept coordinates of all heads side by side, ``(batch, 1, tokens, sum(ranks))``."""
        return coordinates.transpose(1, 2).flatten(2)[..., self.packed][:, None]

    def unpack(self, rows: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, g, tokens, max(ranks))``, zeros where a head keeps fewer."""
        return F.pad(rows[:, 0], (0, 1))[..., self.places].transpose(1, 2)

    def get_extra_state(self) -> torch.Tensor:
        """Ranks, for the state_dict."""
        return torch.tensor(self.ranks)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take the ranks of a state_dict."""
        self.set_ranks(state.tolist())

    def extra_repr(self) -> str:
        """Heads, width and ranks, as ``print`` shows them."""
        return f"n_heads={self.basis.shape[0]}, width={self.basis.shape[1]}, ranks={self.ranks}"


class ProjectedAttention(nn.Module):
    r"""Attention of a Llama-type model on projected keys and values.

    With :math:`\tilde k = U_k^T \mathrm{RoPE}(k)` and :math:`\tilde v = U_v^T v` cut to r coordinates, scores are
    :math:`(U_k^T q)_{:r} \cdot \tilde k` and outputs :math:`U_{v, :, :r} \sum_t p_t \tilde v_t`: the same as
    attention with keys and values projected on the first r columns. The cache of transformers gets the kept
    coordinates alone.

    Parameters
    ----------
    attention : torch.nn.Module
        ``LlamaAttention``, ``MistralAttention`` or ``Qwen2Attention``; its projections are shared, nothing is copied.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        given: Any = attention
        if type(attention).__name__ not in _SUPPORTED:
            raise BackendError(
                f"{type(attention).__name__}: keys and values of {', '.join(_SUPPORTED)} can be projected; others "
                "turn, normalise or cap their scores in ways of their own."
            )
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = given.q_proj, given.k_proj, given.v_proj, given.o_proj
        self.head_dim, self.layer_idx, self.scaling = given.head_dim, given.layer_idx, given.scaling
        self.attention_dropout = given.attention_dropout
        weight = given.k_proj.weight
        n_heads = given.k_proj.out_features // self.head_dim
        self.key_projection = HeadProjection(n_heads, self.head_dim, weight.device, weight.dtype)
        self.value_projection = HeadProjection(n_heads, self.head_dim, weight.device, weight.dtype)
        self.train(attention.training)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **unused: Any,  # the calling convention of transformers: position_ids, use_cache and what later versions add
    ) -> tuple[torch.Tensor, None]:
        """Return ``(output, None)`` as the attention modules of transformers do."""
        if attention_mask is not None and attention_mask.ndim != 4:
            raise InputError(
                f"attention mask of shape {tuple(attention_mask.shape)}: projected attention runs on "
                "torch's own kernels; load the model with attn_implementation='sdpa' or 'eager'."
            )
        cache = past_key_values if cache is None else cache
        keys_of, values_of = self.key_projection, self.value_projection
        q, k, v = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        cos, sin = (part[:, None] for part in position_embeddings)
        q, k = _turned(q, cos, sin), _turned(k, cos, sin)
        n_groups = k.shape[1]
        q = (q.unflatten(1, (n_groups, -1)) @ keys_of.basis[:, None]).flatten(1, 2)
        k, v = keys_of(k), values_of(v)
        basis = values_of.basis
        if cache is not None:
            rows, columns = cache.update(keys_of.pack(k), values_of.pack(v), self.layer_idx)
            k, v = keys_of.unpack(rows), values_of.unpack(columns)
            q, basis = q[..., : k.shape[-1]], basis[..., : v.shape[-1]]
        mixed = self._attend(q, k, v, attention_mask)
        mixed = (mixed.unflatten(1, (n_groups, -1)) @ basis.mT[:, None]).flatten(1, 2)
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), None

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        n = q.shape[2]
        if mask is None and n > 1:  # a cache of fixed size is longer than the prompt that begins it
            k, v = k[:, :, :n], v[:, :, :n]
        per_group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(per_group, dim=1), v.repeat_interleave(per_group, dim=1)
        dropout = self.attention_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None and n > 1, scale=self.scaling
        )


@dataclass(frozen=True, eq=False)
class KVProjection:
    """A model whose attention layers were replaced by :func:`project_kv`.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    names : tuple of str
        The names of the L attention layers.
    originals : tuple of torch.nn.Module
        What stood there.
    """

    model: nn.Module
    names: tuple[str, ...]
    originals: tuple[nn.Module, ...]

    @property
    def bases(self) -> torch.Tensor:
        """Bases of keys and values, ``(L, 2, g, d, d)``."""
        return torch.stack([torch.stack([part.basis for part in pair]) for pair in self._parts()])

    def set_bases(self, bases: torch.Tensor) -> None:
        """Replace the bases, ``(L, 2, g, d, d)``."""
        _check_shape("bases", tuple(bases.shape), tuple(self.bases.shape))
        for pair, given in zip(self._parts(), bases.detach(), strict=True):
            for part, basis in zip(pair, given, strict=True):
                part.basis = basis.to(device=part.basis.device, dtype=part.basis.dtype).clone()

    @property
    def ranks(self) -> np.ndarray:
        """Ranks of keys and values, int64 of shape ``(L, 2, g)``."""
        return np.array([[part.ranks for part in pair] for pair in self._parts()])

    def set_ranks(self, ranks: np.ndarray | int) -> None:
        """Replace the ranks: ``(L, 2, g)`` integers from 1 to d, or one for all."""
        now = self.ranks
        given = np.full(now.shape, ranks) if isinstance(ranks, int) else np.asarray(ranks)
        _check_shape("ranks", given.shape, now.shape)
        if not np.issubdtype(given.dtype, np.integer) or given.min() < 1 or given.max() > self.width:
            raise RankError(
                f"ranks of {given.dtype} from {given.min()} to {given.max()}: give integers, 1 to {self.width}."
            )
        for pair, rows in zip(self._parts(), given.tolist(), strict=True):
            for part, row in zip(pair, rows, strict=True):
                part.set_ranks(row)

    @property
    def width(self) -> int:
        """d, the width of a head."""
        return self._parts()[0][0].basis.shape[-1]

    @property
    def numbers_per_token(self) -> int:
        """Numbers that the cache holds for one token: the sum of all ranks."""
        return int(self.ranks.sum())

    @property
    def bytes_per_token(self) -> int:
        """Bytes that the cache holds for one token, in the dtype of the bases."""
        return self.numbers_per_token * self._parts()[0][0].basis.element_size()

    @property
    def share(self) -> float:
        """``numbers_per_token`` over the one without projection."""
        return self.numbers_per_token / (self.ranks.size * self.width)

    def logits(
        self, tokens: torch.Tensor, bases: torch.Tensor | None = None, masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits ``(batch, length, vocabulary)`` with other bases or masks, differentiable in them.

        Parameters
        ----------
        tokens : torch.Tensor, shape (batch, length)
        bases : torch.Tensor, shape (L, 2, g, d, d), optional
        masks : torch.Tensor, shape (L, 2, g, d), optional
            1 for the coordinates to keep.
        """
        parts = [part for pair in self._names_of_parts() for part in pair]
        given: dict[str, torch.Tensor] = {}
        for suffix, stacked in (("basis", bases), ("mask", masks)):
            if stacked is not None:
                given |= {f"{name}.{suffix}": part for name, part in zip(parts, stacked.flatten(0, 1), strict=True)}
        kwargs = {"input_ids": tokens, "use_cache": False}
        return torch.func.functional_call(self.model, given, (), kwargs).logits

    def restore(self) -> nn.Module:
        """Put the original attention layers back and return the model."""
        for name, original in zip(self.names, self.originals, strict=True):
            _replace(self.model, name, original.train(self.model.training))
        return self.model

    def _names_of_parts(self) -> list[tuple[str, str]]:
        return [(f"{name}.key_projection", f"{name}.value_projection") for name in self.names]

    def _parts(self) -> list[tuple[HeadProjection, HeadProjection]]:
        layers = [self.model.get_submodule(name) for name in self.names]
        if not all(isinstance(layer, ProjectedAttention) for layer in layers):
            raise InputError("the original attention was restored: call project_kv again.")
        return [(layer.key_projection, layer.value_projection) for layer in layers]  # type: ignore[misc]


def project_kv(model: nn.Module, calibration: torch.Tensor, *, batch_size: int = 8) -> KVProjection:
    r"""Let a language model keep its keys and values in the principal axes of each head.

    For every layer and head, of keys (after rotary positions) and of values, U holds the eigenvectors of the second
    moment :math:`\mathrm{E}[x x^T]` over the calibration, largest eigenvalue first. All ranks are full at first, so
    that nothing changes but rounding; :meth:`KVProjection.set_ranks` cuts, :class:`MatryoshkaTraining` trains the
    bases, and :func:`measure_kv_loss` finds ranks.

    Parameters
    ----------
    model : torch.nn.Module
        A Llama, Mistral or Qwen2 model of transformers; changed in place. Generation, with the caches of
        transformers, goes on as before.
    calibration : torch.Tensor, shape (n, length)
        Token ids without padding.
    batch_size : int
        Sequences at a time.

    Returns
    -------
    KVProjection
        With ``restore`` to undo it.

    Raises
    ------
    BackendError
        If the model has no attention that can be projected.
    ShapeError, InputError
        If the calibration is no table of tokens, or makes keys or values that are not finite; the model is left
        unchanged then.

    Notes
    -----
    A cut to rank r everywhere shrinks the cache by ``r / d``. U does not merge into the weights of keys, since it
    stands after the rotary positions: 2 (h + g) d^2 multiply-adds more a token and layer.

    References
    ----------
    Lin et al., MatryoshkaKV: adaptive KV compression via trainable orthogonal projection, arXiv:2410.14731.
    """
    names = tuple(name for name, module in model.named_modules() if hasattr(module, "k_proj"))
    if not names:
        raise BackendError(f"{type(model).__name__} has no attention with a k_proj: give a Llama-type model.")
    tokens = check_tokens(calibration, model)
    originals = tuple(model.get_submodule(name) for name in names)
    replaced = [ProjectedAttention(original) for original in originals]
    for name, layer in zip(names, replaced, strict=True):
        _replace(model, name, layer)
    projection = KVProjection(model, names, originals)
    try:
        moments = _second_moments(projection, tokens, batch_size)
        if not bool(torch.isfinite(moments).all()):
            raise InputError("keys or values are not finite on the calibration: check the weights and the tokens.")
        projection.set_bases(torch.linalg.eigh(moments)[1].flip(-1))
    except BaseException:
        projection.restore()
        raise
    return projection


def check_tokens(tokens: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return a table of token ids on the device of the model, or raise."""
    if not isinstance(tokens, torch.Tensor) or tokens.ndim != 2 or tokens.is_floating_point() or tokens.numel() == 0:
        shown = tuple(tokens.shape) if isinstance(tokens, torch.Tensor) else type(tokens).__name__
        raise ShapeError(f"tokens {shown}: give integers of shape (n, length), without padding.")
    return tokens.to(next(model.parameters()).device)


def _second_moments(projection: KVProjection, tokens: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return ``(L, 2, g, d, d)`` in float64: sums of ``x x^T`` over what enters the projections."""
    parts = [part for pair in projection._parts() for part in pair]
    sums = [torch.zeros_like(part.basis, dtype=torch.float64) for part in parts]

    def add_to(total: torch.Tensor) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            x = inputs[0].float()
            total.add_(torch.einsum("bgtd,bgte->gde", x, x))

        return hook

    hooks = [part.register_forward_pre_hook(add_to(total)) for part, total in zip(parts, sums, strict=True)]
    try:
        with torch.no_grad():
            for batch in tokens.split(batch_size):
                projection.logits(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(sums).unflatten(0, (-1, 2))


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def _check_shape(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if given != wanted:
        raise ShapeError(f"{name} of shape {given}: give {wanted}, layers first, then keys and values, then heads.")
