"""Algorithms that propose structures: our own, and the published ones."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnet.structure_search.algorithms.cut_bound import CutBound as CutBound
    from tnet.structure_search.algorithms.greedy import GreedyTN as GreedyTN
    from tnet.structure_search.algorithms.sampler import Sampler as Sampler
    from tnet.structure_search.algorithms.svdinstn import SVDinsTN as SVDinsTN
    from tnet.structure_search.algorithms.tnale import TnALE as TnALE
    from tnet.structure_search.algorithms.tnga import TNGA as TNGA
    from tnet.structure_search.algorithms.tnls import TNLS as TNLS
    from tnet.structure_search.algorithms.trees import TreeSearch as TreeSearch

__all__ = ["ALGORITHMS", "TNGA", "TNLS", "CutBound", "GreedyTN", "SVDinsTN", "Sampler", "TnALE", "TreeSearch"]

ALGORITHMS = {
    "auto": "CutBound",
    "tnale": "TnALE",
    "tnls": "TNLS",
    "tnga": "TNGA",
    "greedy": "GreedyTN",
    "svdinstn": "SVDinsTN",
    "trees": "TreeSearch",
}
"""Classes by the names that :func:`tnet.search` knows."""

_HOME = {
    "CutBound": "cut_bound",
    "GreedyTN": "greedy",
    "SVDinsTN": "svdinstn",
    "Sampler": "sampler",
    "TNGA": "tnga",
    "TNLS": "tnls",
    "TnALE": "tnale",
    "TreeSearch": "trees",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
