"""Contracting tensors: einsum equation or network, order, slices, execution.

:func:`plan` finds the order and states its cost before anything is allocated; :func:`contract` plans and
runs at once. :func:`contract_boundary` contracts two-dimensional networks approximately.
"""

from __future__ import annotations

from tnet.contraction.api import contract, plan
from tnet.contraction.approximate import BoundaryContraction, contract_boundary
from tnet.contraction.folding import FoldedPlan
from tnet.contraction.interop import from_cotengra, to_cotengra
from tnet.contraction.plan import ContractionPlan
from tnet.contraction.registration import register_with_opt_einsum
from tnet.contraction.scaling import ScaledResult
from tnet.contraction.spec import ContractionSpec

__all__ = [
    "BoundaryContraction",
    "ContractionPlan",
    "ContractionSpec",
    "FoldedPlan",
    "ScaledResult",
    "contract",
    "contract_boundary",
    "from_cotengra",
    "plan",
    "register_with_opt_einsum",
    "to_cotengra",
]
