"""Decompositions of dense arrays, one family a file, all with the same words and the same result.

:func:`cp`, :func:`tucker`, :func:`tt` and :func:`mpo` return a :class:`tnet.results.Decomposition`.
"""

from __future__ import annotations

from tnet.decompositions.cp import cp
from tnet.decompositions.iteration import IterationInfo
from tnet.decompositions.mpo import mpo
from tnet.decompositions.tt import tt
from tnet.decompositions.tucker import tucker

__all__ = ["IterationInfo", "cp", "mpo", "tt", "tucker"]
