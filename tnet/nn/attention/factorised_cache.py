"""Cache of keys and values in factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tnet.errors import InputError, ShapeError
from tnet.nn.attention.factorised_scores import Factors

__all__ = ["FactorisedCache"]


@dataclass(eq=False)
class FactorisedCache:
    """Factors of the keys and values of the tokens seen so far; a layer's forward appends to it.

    Parameters
    ----------
    key_heads : torch.Tensor, shape (batch, tokens, R_k, h)
    key_features : torch.Tensor, shape (batch, tokens, R_k, d)
        After the rotary embedding.
    value_heads : torch.Tensor, shape (batch, tokens, R_v, h)
    value_features : torch.Tensor, shape (batch, tokens, R_v, d)

    Notes
    -----
    ``(R_k + R_v)(h + d)`` numbers a token, where keys and values themselves are ``2 h d``.
    """

    key_heads: torch.Tensor
    key_features: torch.Tensor
    value_heads: torch.Tensor
    value_features: torch.Tensor

    @classmethod
    def empty(
        cls,
        batch_size: int,
        n_heads: int,
        width: int,
        key_rank: int,
        value_rank: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> FactorisedCache:
        """Return a cache of no tokens."""
        shapes = [(key_rank, n_heads), (key_rank, width), (value_rank, n_heads), (value_rank, width)]
        return cls(*(torch.empty(batch_size, 0, *shape, device=device, dtype=dtype) for shape in shapes))

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.key_heads.shape[1]

    @property
    def numbers_per_token(self) -> int:
        """``(R_k + R_v)(h + d)``."""
        return sum(part.shape[2] * part.shape[3] for part in self._parts())

    @property
    def nbytes(self) -> int:
        """Bytes held, all tokens and sequences of the batch together."""
        return sum(part.numel() * part.element_size() for part in self._parts())

    def append(self, keys: Factors, values: Factors) -> tuple[Factors, Factors]:
        """Append the factors of new tokens; return those of all tokens.

        Raises
        ------
        ShapeError, InputError
            If the factors are of another layout or device than the cache; it is left unchanged then.
        """
        new = (*keys, *values)
        held, given = ([(part.shape[0], *part.shape[2:]) for part in parts] for parts in (self._parts(), new))
        if held != given:
            told = "(batch, R_k, h), (batch, R_k, d), (batch, R_v, h), (batch, R_v, d)"
            raise ShapeError(
                f"the cache is of another layout: it holds {told} = {_told(held)}, this layer and batch give "
                f"{_told(given)}. Make the cache with new_cache(batch_size) of the same layer."
            )
        if self.key_heads.device != keys.heads.device:
            raise InputError(
                f"the cache lies on {self.key_heads.device}, the tokens on {keys.heads.device}: bring them together."
            )
        # An empty cache takes the dtype of its first tokens: under autocast it differs from the weights'.
        kept = [
            part.to(fresh.dtype) if self.length == 0 else part for part, fresh in zip(self._parts(), new, strict=True)
        ]
        parts = [torch.cat((part, fresh.to(part.dtype)), dim=1) for part, fresh in zip(kept, new, strict=True)]
        self.key_heads, self.key_features, self.value_heads, self.value_features = parts
        return Factors(*parts[:2]), Factors(*parts[2:])

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.key_heads, self.key_features, self.value_heads, self.value_features


def _told(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(str(shape) for shape in shapes)
