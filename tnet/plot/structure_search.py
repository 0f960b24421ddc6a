"""Figures of a structure search: its course, the best structures of every size, and the network that it found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tnet.errors import InputError
from tnet.formats import TensorNetwork
from tnet.plot.canvas import ACCENT, MUTED, axes_or_new, matplotlib_or_raise
from tnet.structure_search.structure import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tnet.structure_search import SearchResult

__all__ = ["network", "search"]

_LEAST_ERROR = 1e-16  # errors below are drawn there: a logarithmic axis has no 0
_MOST_RANKS_WRITTEN = 30


def search(result: SearchResult, ax: Sequence[Axes] | None = None) -> tuple[Axes, Axes, Axes]:
    """Draw the course of a search, the error against the parameters, and the best network.

    Parameters
    ----------
    result : SearchResult
    ax : sequence of three matplotlib Axes, or None
        For course, front and network; None makes a figure.

    Returns
    -------
    tuple of three matplotlib Axes

    Raises
    ------
    InputError
        ``ax`` are not three.
    """
    if ax is not None and len(ax) != 3:
        raise InputError(f"ax holds {len(ax)} Axes: give three, for course, front and network, or None.")
    matplotlib_or_raise()
    course, front, picture = _new_axes() if ax is None else ax
    _draw_course(result, course)
    _draw_front(result, front)
    network(result.best.structure, picture)
    return course, front, picture


def network(structure: Structure | TensorNetwork, ax: Axes | None = None) -> Axes:
    """Draw the cores on a circle and the bonds between them, as wide as the logarithm of their ranks.

    Parameters
    ----------
    structure : Structure or TensorNetwork
        Of a network, indices in more than two tensors are drawn between each pair of them.
    ax : matplotlib Axes or None

    Returns
    -------
    matplotlib Axes
    """
    ax = axes_or_new(ax, (4.0, 4.0))
    names, modes, bonds = _graph(structure)
    inner = [k for k, n in enumerate(modes) if n is None]
    outer = [k for k, n in enumerate(modes) if n is not None] or inner
    inner = [k for k in inner if k not in outer]
    places = np.zeros((len(names), 2))
    for ring, radius in ((outer, 1.0), (inner, 0.45 if len(inner) > 1 else 0.0)):
        for k, core in enumerate(ring):
            angle = math.pi / 2 - 2 * math.pi * k / len(ring)
            places[core] = radius * np.array([math.cos(angle), math.sin(angle)])
    for i, j, rank in bonds:
        (x0, y0), (x1, y1) = places[i], places[j]
        ax.plot([x0, x1], [y0, y1], color=ACCENT, linewidth=1.0 + math.log2(rank), zorder=1, solid_capstyle="round")
        if len(bonds) <= _MOST_RANKS_WRITTEN:
            ax.text((x0 + x1) / 2, (y0 + y1) / 2, str(rank), ha="center", va="center", fontsize=8, zorder=3,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    for core, (x, y) in enumerate(places):
        if modes[core] is not None:
            ax.plot([x, 1.25 * x], [y, 1.25 * y], color=MUTED, linewidth=1.5, zorder=0)
            ax.text(1.38 * x, 1.38 * y, str(modes[core]), ha="center", va="center", fontsize=8, color=MUTED)
        ax.plot(x, y, "o", markersize=17, color="white", markeredgecolor=ACCENT, markeredgewidth=1.5, zorder=2)
        ax.text(x, y, names[core], ha="center", va="center", fontsize=8, zorder=4)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_xlim(-1.6, 1.6)
    ax.set_ylim(-1.6, 1.6)
    return ax


def _graph(structure: Structure | TensorNetwork) -> tuple[list[str], list[int | None], list[tuple[int, int, int]]]:
    """Return the names of the cores, the entries of their modes (None without one), and their bonds."""
    if isinstance(structure, Structure):
        modes: list[int | None] = [*structure.shape, *[None] * structure.n_internal]
        return [str(k) for k in range(structure.n_cores)], modes, list(structure.bonds)
    sizes, output = structure.sizes, set(structure.output)
    own = [[sizes[name] for name in names if name in output] for names in structure.indices]
    bonds = []
    for j, names in enumerate(structure.indices):
        for i in range(j):
            shared = [sizes[name] for name in set(names) & set(structure.indices[i]) if name not in output]
            if math.prod(shared) > 1:
                bonds.append((i, j, math.prod(shared)))
    return [str(k) for k in range(len(own))], [math.prod(n) if n else None for n in own], bonds


def _new_axes() -> Sequence[Axes]:
    from matplotlib import pyplot

    _, axes = pyplot.subplots(1, 3, figsize=(12.0, 3.8), layout="constrained")
    return list(axes)


def _draw_course(result: SearchResult, ax: Axes) -> None:
    told = [trial for trial in result.trials if trial.status != "pruned" and math.isfinite(trial.score)]
    scores = np.array([trial.score for trial in told])
    numbers = np.arange(1, len(told) + 1)
    # Scores of what misses the goal are no measure; they would hide all others.
    shown = scores <= max(10 * float(result.best.score), float(np.median(scores))) if len(told) else scores > 0
    ax.plot(numbers[shown], scores[shown], ".", color=MUTED, markersize=4, label="evaluated")
    best = np.minimum.accumulate(scores) if len(told) else scores
    first = int(np.argmax(best <= scores[shown].max())) if shown.any() else 0
    ax.step(numbers[first:], best[first:], where="post", color=ACCENT, label="best so far")
    if result.bound is not None:
        ax.axhline(result.bound, color=MUTED, linestyle="--", linewidth=1, label="no structure scores less")
    ax.set_xlabel("evaluations")
    ax.set_ylabel("score")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_front(result: SearchResult, ax: Axes) -> None:
    told = [trial for trial in result.trials if trial.status in ("evaluated", "cached") and math.isfinite(trial.rse)]
    errors = [math.sqrt(max(trial.rse, _LEAST_ERROR)) for trial in told]
    ax.plot([trial.structure.n_params for trial in told], errors, ".", color=MUTED, markersize=4)
    front = result.pareto
    ax.step(
        [trial.structure.n_params for trial in front],
        [math.sqrt(max(trial.rse, _LEAST_ERROR)) for trial in front],
        where="post", color=ACCENT, marker="o", markersize=4,
    )  # fmt: skip
    ax.plot(result.best.n_params, math.sqrt(max(result.best.rse, _LEAST_ERROR)), "*", color=ACCENT, markersize=13)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("parameters")
    ax.set_ylabel("relative error")
    ax.spines[["top", "right"]].set_visible(False)
