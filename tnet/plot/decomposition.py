"""Figures of a decomposition: how the error fell, and the curves that justify a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tnet.errors import InputError, ShapeError
from tnet.plot.canvas import ACCENT, MUTED, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from tnet.decompositions import RankSelection
    from tnet.results import Decomposition

__all__ = ["history", "rank_selection", "spectrum"]

_SCORE_NAMES = {
    "core_consistency": "core consistency, %",
    "held_out": "relative error of held-out entries",
    "stability": "least mean silhouette",
}
_LEAST_CONSISTENCY = -20.0  # how far below says nothing more


def history(decomposition: Decomposition[Any], ax: Axes | None = None) -> Axes:
    """Draw the relative error after each sweep.

    Parameters
    ----------
    decomposition : Decomposition
        Of an iterative method.
    ax : matplotlib Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InputError
        If the method was direct: it has no sweeps.
    """
    error = decomposition.history.error
    if not error:
        raise InputError("the decomposition comes from a direct method and has no sweeps to show; see its error.")
    ax = axes_or_new(ax, (6.0, 3.4))
    ax.plot(np.arange(1, len(error) + 1), error, color=ACCENT, marker="o" if len(error) <= 30 else "")
    if min(error) > 0:
        ax.set_yscale("log")
    ax.set_xlabel("sweep")
    ax.set_ylabel("relative error")
    ax.set_title(f"{type(decomposition.tensor).__name__}, {decomposition.status.name.lower().replace('_', ' ')}")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def rank_selection(selection: RankSelection, ax: Axes | None = None) -> Axes:
    """Draw the score of each rank, the choice, and the error of the fits.

    Parameters
    ----------
    selection : RankSelection
        Of :func:`tnet.decompositions.select_cp_rank`. Core consistencies below -20 % are drawn there.
    ax : matplotlib Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes
        Of the scores; the errors have a second axis on the right.
    """
    ax = axes_or_new(ax, (6.0, 3.4))
    scores = np.asarray(selection.scores)
    if selection.method == "core_consistency":
        scores = np.maximum(scores, _LEAST_CONSISTENCY)
    ax.plot(selection.ranks, scores, color=ACCENT, marker="o")
    ax.axvline(selection.rank, color=MUTED, linestyle="--", linewidth=1)
    place = (selection.rank, 1.0)
    ax.annotate(f" rank {selection.rank}", place, xycoords=("data", "axes fraction"), va="top", color=MUTED)
    ax.set_xticks(selection.ranks)
    ax.set_xlabel("rank")
    ax.set_ylabel(_SCORE_NAMES[selection.method], color=ACCENT)
    errors = ax.twinx()
    errors.plot(selection.ranks, selection.errors, color=MUTED, linewidth=1)
    errors.set_ylim(bottom=0.0)
    errors.set_ylabel("relative error of the fit", color=MUTED)
    for axes in (ax, errors):
        axes.spines["top"].set_visible(False)
    return ax


def spectrum(singular_values: ArrayLike, ax: Axes | None = None, *, rank: int | None = None) -> Axes:
    r"""Draw singular values and the relative error :math:`(\sum_{k>r} s_k^2 / \sum_k s_k^2)^{1/2}` of each rank r.

    Parameters
    ----------
    singular_values : array_like, shape (n,)
        Non-negative; sorted here.
    ax : matplotlib Axes or None
    rank : int or None
        A rank to mark.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ShapeError
        If they are no vector.
    InputError
        If they are not finite, or negative, or all zero.
    """
    s = np.sort(np.asarray(singular_values, dtype=np.float64))[..., ::-1]
    if s.ndim != 1 or s.size == 0:
        raise ShapeError(f"singular_values has shape {s.shape}; give a vector of at least one.")
    if not np.isfinite(s).all() or s[-1] < 0 or s[0] == 0:
        raise InputError("singular_values must be finite, not negative, and not all zero.")
    s = s / s[0]
    tail = np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1][1:], 0.0) / np.sum(s**2))
    ax = axes_or_new(ax, (6.0, 3.4))
    ranks = np.arange(1, s.size + 1)
    ax.plot(ranks, np.where(s > 0, s, np.nan), color=MUTED, label="singular value, of the largest")
    ax.plot(ranks, np.where(tail > 0, tail, np.nan), color=ACCENT, label="relative error at this rank")
    if rank is not None:
        ax.axvline(rank, color=MUTED, linestyle="--", linewidth=1)
        ax.annotate(f" rank {rank}", (rank, 1.0), va="top", color=MUTED)
    ax.set_yscale("log")
    ax.set_xlabel("rank")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
