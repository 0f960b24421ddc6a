"""Solvers that find cores for structures: in closed form, by least squares, by gradients."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnet.structure_search.evaluate.adam import Adam as Adam
    from tnet.structure_search.evaluate.als import ALS as ALS
    from tnet.structure_search.evaluate.choice import BySituation as BySituation
    from tnet.structure_search.evaluate.lbfgs import LBFGS as LBFGS
    from tnet.structure_search.evaluate.tree_svd import TreeSVD as TreeSVD

__all__ = ["ALS", "LBFGS", "Adam", "BySituation", "TreeSVD"]

_HOME = {"ALS": "als", "Adam": "adam", "BySituation": "choice", "LBFGS": "lbfgs", "TreeSVD": "tree_svd"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
