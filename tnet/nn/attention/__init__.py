"""PyTorch: attention whose keys and values, or whose scores, are tensors in factors."""

from __future__ import annotations

from tnet.nn.attention.factorised_cache import FactorisedCache
from tnet.nn.attention.factorised_scores import AttentionOrder, Factors, attend, fewest_macs
from tnet.nn.attention.rotary import apply_rotary, rotary_angles
from tnet.nn.attention.tensor_product import TensorProductAttention

__all__ = [
    "AttentionOrder",
    "FactorisedCache",
    "Factors",
    "TensorProductAttention",
    "apply_rotary",
    "attend",
    "fewest_macs",
    "rotary_angles",
]
