"""Pictures of results, as functions of the results, and one static HTML report.

Every figure takes ``ax=`` and returns the Axes. matplotlib (extra ``plot``) is imported on the first call.
"""

from __future__ import annotations

from tnet.plot.compression import allocation, quality, sensitivity
from tnet.plot.decomposition import history, rank_selection, spectrum
from tnet.plot.html_report import report

__all__ = ["allocation", "history", "quality", "rank_selection", "report", "sensitivity", "spectrum"]
