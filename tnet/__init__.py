"""tnet: tensor networks and decompositions under a budget.

Importing tnet loads neither torch, cupy, matplotlib nor numba: names are resolved on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Stopping": "tnet.options",
    "Truncation": "tnet.options",
    "btt": "tnet.decompositions",
    "compress": "tnet.compression",
    "contract": "tnet.contraction",
    "cp": "tnet.decompositions",
    "ht": "tnet.decompositions",
    "kronecker_sum": "tnet.decompositions",
    "load": "tnet.io",
    "mpo": "tnet.decompositions",
    "plan": "tnet.contraction",
    "round": "tnet.algebra",
    "save": "tnet.io",
    "search": "tnet.structure_search",
    "show_versions": "tnet.versions",
    "tr": "tnet.decompositions",
    "tt": "tnet.decompositions",
    "tt_cross": "tnet.decompositions",
    "tucker": "tnet.decompositions",
}
_ROOMS = (
    "algebra", "arrays", "batch", "compression", "contraction", "decompositions",
    "errors", "formats", "io", "nn", "options", "parallel", "plot", "results", "sklearn",
    "structure_search",
)  # fmt: skip

if TYPE_CHECKING:
    from tnet.algebra import round as round
    from tnet.compression import compress as compress
    from tnet.contraction import contract as contract
    from tnet.contraction import plan as plan
    from tnet.decompositions import btt as btt
    from tnet.decompositions import cp as cp
    from tnet.decompositions import ht as ht
    from tnet.decompositions import kronecker_sum as kronecker_sum
    from tnet.decompositions import mpo as mpo
    from tnet.decompositions import tr as tr
    from tnet.decompositions import tt as tt
    from tnet.decompositions import tt_cross as tt_cross
    from tnet.decompositions import tucker as tucker
    from tnet.io import load as load
    from tnet.io import save as save
    from tnet.options import Stopping as Stopping
    from tnet.options import Truncation as Truncation
    from tnet.structure_search import search as search
    from tnet.versions import show_versions as show_versions

__all__ = [
    "Stopping",
    "Truncation",
    "__version__",
    "btt",
    "compress",
    "contract",
    "cp",
    "ht",
    "kronecker_sum",
    "load",
    "mpo",
    "plan",
    "round",
    "save",
    "search",
    "show_versions",
    "tr",
    "tt",
    "tt_cross",
    "tucker",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"tnet.{name}")
    raise AttributeError(f"module 'tnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})
