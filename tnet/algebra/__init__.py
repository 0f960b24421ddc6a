"""Functions on dense tensors and on formats: nothing here changes its operands."""

from __future__ import annotations

from tnet.algebra.canonical import canonicalise
from tnet.algebra.operators import matvec
from tnet.algebra.products import hadamard, inner, norm
from tnet.algebra.quantised import dequantise, quantise
from tnet.algebra.randomized_rounding import round_hadamard, round_sum
from tnet.algebra.ranks import bounded_ranks
from tnet.algebra.rounding import round
from tnet.algebra.sums import add, scale
from tnet.algebra.unfolding import fold, mode_product, unfold

__all__ = [
    "add",
    "bounded_ranks",
    "canonicalise",
    "dequantise",
    "fold",
    "hadamard",
    "inner",
    "matvec",
    "mode_product",
    "norm",
    "quantise",
    "round",
    "round_hadamard",
    "round_sum",
    "scale",
    "unfold",
]
