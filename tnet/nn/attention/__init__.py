"""PyTorch: attention whose keys and values, or whose scores, are tensors in factors."""

from __future__ import annotations

from tnet.nn.attention.factorised_cache import FactorisedCache
from tnet.nn.attention.factorised_scores import AttentionOrder, Factors, attend, fewest_macs
from tnet.nn.attention.kronecker import KroneckerAttention, kronecker_attention, row_and_column_means
from tnet.nn.attention.kv_distillation import MatryoshkaTraining
from tnet.nn.attention.kv_ranks import KVLoss, measure_kv_loss
from tnet.nn.attention.matryoshka_kv import HeadProjection, KVProjection, ProjectedAttention, project_kv
from tnet.nn.attention.rotary import apply_rotary, rotary_angles
from tnet.nn.attention.tensor_product import TensorProductAttention
from tnet.nn.attention.third_order import (
    ThirdOrderAttention,
    n_monomials,
    third_order_attention,
    third_order_attention_low_rank,
)

__all__ = [
    "AttentionOrder",
    "FactorisedCache",
    "Factors",
    "HeadProjection",
    "KVLoss",
    "KVProjection",
    "KroneckerAttention",
    "MatryoshkaTraining",
    "ProjectedAttention",
    "TensorProductAttention",
    "ThirdOrderAttention",
    "apply_rotary",
    "attend",
    "fewest_macs",
    "kronecker_attention",
    "measure_kv_loss",
    "n_monomials",
    "project_kv",
    "rotary_angles",
    "row_and_column_means",
    "third_order_attention",
    "third_order_attention_low_rank",
]
