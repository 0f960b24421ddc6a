"""Approximate contraction of networks on two-dimensional grids."""

from __future__ import annotations

from tnet.contraction.approximate.boundary import BoundaryContraction, contract_boundary

__all__ = ["BoundaryContraction", "contract_boundary"]
