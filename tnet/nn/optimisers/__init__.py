"""Optimisers that know the modes of tensors and the matrices that factors act as."""

from __future__ import annotations

from tnet.nn.optimisers.muon import Muon, muon_groups
from tnet.nn.optimisers.orthogonalisation import newton_schulz
from tnet.nn.optimisers.shampoo import Shampoo

__all__ = ["Muon", "Shampoo", "muon_groups", "newton_schulz"]
