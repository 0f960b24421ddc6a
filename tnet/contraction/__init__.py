"""Contracting tensors: einsum equation or network, order, slices, execution.

:func:`plan` finds the order and states its cost before anything is allocated; :func:`contract` plans and
runs at once.
"""

from __future__ import annotations

from tnet.contraction.api import contract, plan
from tnet.contraction.plan import ContractionPlan
from tnet.contraction.spec import ContractionSpec

__all__ = ["ContractionPlan", "ContractionSpec", "contract", "plan"]
