"""PyTorch: attention whose keys and values, or whose scores, are tensors in factors."""

from __future__ import annotations

from tnet.nn.attention.factorised_cache import FactorisedCache
from tnet.nn.attention.factorised_scores import AttentionOrder, Factors, attend, fewest_macs
from tnet.nn.attention.kv_distillation import MatryoshkaTraining
from tnet.nn.attention.kv_ranks import KVLoss, measure_kv_loss
from tnet.nn.attention.matryoshka_kv import HeadProjection, KVProjection, ProjectedAttention, project_kv
from tnet.nn.attention.rotary import apply_rotary, rotary_angles
from tnet.nn.attention.tensor_product import TensorProductAttention

__all__ = [
    "AttentionOrder",
    "FactorisedCache",
    "Factors",
    "HeadProjection",
    "KVLoss",
    "KVProjection",
    "MatryoshkaTraining",
    "ProjectedAttention",
    "TensorProductAttention",
    "apply_rotary",
    "attend",
    "fewest_macs",
    "measure_kv_loss",
    "project_kv",
    "rotary_angles",
]
