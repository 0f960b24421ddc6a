"""Pictures of results, as functions of the results, and one static HTML report.

Every figure takes ``ax=`` and returns the Axes; a plan and a search have three. matplotlib (extra ``plot``) is
imported on the first call.
"""

from __future__ import annotations

from tnet.plot.compression import allocation, quality, sensitivity
from tnet.plot.contraction import plan
from tnet.plot.decomposition import history, rank_selection, spectrum
from tnet.plot.html_report import report
from tnet.plot.latent_dimension import latent_dimension
from tnet.plot.structure_search import network, search

__all__ = [
    "allocation",
    "history",
    "latent_dimension",
    "network",
    "plan",
    "quality",
    "rank_selection",
    "report",
    "search",
    "sensitivity",
    "spectrum",
]
