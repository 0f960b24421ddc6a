"""Decompositions of dense arrays, one family a file, all with the same words and the same result.

Functions return a :class:`tnet.results.Decomposition`.
"""

from __future__ import annotations

from tnet.decompositions.btt import btt
from tnet.decompositions.cp import cp
from tnet.decompositions.cross import tt_cross
from tnet.decompositions.ht import ht
from tnet.decompositions.iteration import IterationInfo
from tnet.decompositions.kronecker_sum import kronecker_sum
from tnet.decompositions.mpo import mpo
from tnet.decompositions.rank_selection import RankSelection, select_cp_rank
from tnet.decompositions.tr import tr
from tnet.decompositions.tt import tt
from tnet.decompositions.tt_solve import tt_divide, tt_solve
from tnet.decompositions.tucker import tucker
from tnet.decompositions.tucker_stream import TuckerStream, tucker_stream

__all__ = [
    "IterationInfo",
    "RankSelection",
    "TuckerStream",
    "btt",
    "cp",
    "ht",
    "kronecker_sum",
    "mpo",
    "select_cp_rank",
    "tr",
    "tt",
    "tt_cross",
    "tt_divide",
    "tt_solve",
    "tucker",
    "tucker_stream",
]
