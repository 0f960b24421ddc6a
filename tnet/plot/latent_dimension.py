"""Figure of a latent dimension: how stable the features of each rank are, and how well they describe the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tnet.plot.canvas import ACCENT, MUTED, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tnet.structure_search import LatentDimension

__all__ = ["latent_dimension"]


def latent_dimension(found: LatentDimension, ax: Axes | None = None) -> Axes:
    """Draw least and mean silhouette of each number of features, the choice, and the error.

    Parameters
    ----------
    found : LatentDimension
        Of :func:`tnet.structure_search.latent_dimension`.
    ax : matplotlib Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes
        Of the silhouettes; the errors have a second axis on the right.
    """
    ax = axes_or_new(ax, (6.0, 3.4))
    ax.plot(found.ranks, found.silhouettes, color=ACCENT, marker="o", label="least")
    ax.plot(found.ranks, found.mean_silhouettes, color=ACCENT, linewidth=1, linestyle=":", label="mean")
    ax.axvline(found.rank, color=MUTED, linestyle="--", linewidth=1)
    place = (found.rank, 1.0)
    ax.annotate(f" {found.rank} features", place, xycoords=("data", "axes fraction"), va="top", color=MUTED)
    ax.set_xticks(found.ranks)
    ax.set_xlabel("features")
    ax.set_ylabel("silhouette", color=ACCENT)
    ax.legend(frameon=False, loc="lower left")
    errors = ax.twinx()
    errors.plot(found.ranks, found.errors, color=MUTED, linewidth=1)
    errors.set_ylim(bottom=0.0)
    errors.set_ylabel("relative error", color=MUTED)
    for axes in (ax, errors):
        axes.spines["top"].set_visible(False)
    return ax
