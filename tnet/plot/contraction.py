"""Figure of a contraction plan: its tree, what each step costs, and what is held meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tnet.contraction.memory import format_bytes
from tnet.errors import InputError
from tnet.plot.canvas import ACCENT, MUTED, literal, matplotlib_or_raise

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tnet.contraction import ContractionPlan

__all__ = ["plan"]

_MOST_LABELLED = 30  # operands whose indices are written beside their leaves
_LONGEST_LABEL = 12
_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
_ENDLESS = 10**300  # bytes of hopeless plans, which floats no longer hold
_THINNEST, _THICKEST = 0.5, 4.0  # points


class _Steps(NamedTuple):
    """A plan in numbers, one entry a node or a step."""

    elements: list[int]
    """Of the operands and the results, within one slice."""

    macs: tuple[int, ...]
    """Of each step, over all slices; of one that no slice changes, once."""

    held: list[int]
    """Bytes of operands, live intermediates and result during each step."""


def plan(plan: ContractionPlan, ax: Sequence[Axes] | None = None) -> tuple[Axes, Axes, Axes]:
    """Draw the tree of a contraction over its steps, and below it cost and memory of each step.

    Parameters
    ----------
    plan : ContractionPlan
        Of at least two operands.
    ax : sequence of three matplotlib Axes, or None
        Where to draw tree, cost and memory; None makes a figure.

    Returns
    -------
    tuple of three matplotlib Axes

    Raises
    ------
    InputError
        If the plan has one operand, so no step, or ``ax`` are not three.

    Notes
    -----
    Time runs to the right: a node of the tree stands at the step that makes it. An edge is as wide as the logarithm
    of its tensor's elements and has the colour of the multiply-adds of the step that makes the tensor; operands
    are grey. Memory is that of one slice, without the copies that some steps make; the dashed line,
    ``plan.peak_bytes``, has them.
    """
    if not plan.pairs:
        raise InputError("the plan has one operand, and no step to draw.")
    if ax is not None and len(ax) != 3:
        raise InputError(f"ax holds {len(ax)} Axes: give three, for tree, cost and memory, or None.")
    matplotlib_or_raise()
    tree, cost, memory = _new_axes() if ax is None else ax
    steps = _numbers(plan)
    _draw_tree(plan, steps, tree)
    _draw_cost(steps, cost)
    _draw_memory(plan, steps, memory)
    for axes in (tree, cost, memory):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, len(plan.pairs) + 0.5)
    return tree, cost, memory


def _new_axes() -> Sequence[Axes]:
    from matplotlib import pyplot

    _, axes = pyplot.subplots(3, 1, figsize=(8.0, 8.0), sharex=True, height_ratios=(3, 1, 1), layout="constrained")
    return list(axes)


def _numbers(plan: ContractionPlan) -> _Steps:
    from tnet.contraction.pairs import result_indices
    from tnet.contraction.slicing import sliced_sizes
    from tnet.contraction.spec import size_of

    spec, n = plan.spec, len(plan.spec.inputs)
    sizes = sliced_sizes(spec, plan.splits)
    sets = result_indices(spec, plan.pairs)
    elements = [size_of(indices, sizes) for indices in sets]
    item = plan.dtypes.compute_itemsize
    fixed = sum(
        math.prod(shape) * size for shape, size in zip(spec.input_shapes, plan.dtypes.operand_itemsizes, strict=True)
    )
    fixed += math.prod(spec.output_shape) * item if plan.splits else 0
    live, held = 0, []
    for k, (a, b) in enumerate(plan.pairs):
        live += elements[n + k] * item
        held.append(fixed + live)
        live -= sum(elements[node] * item for node in (a, b) if node >= n)
    return _Steps(elements, plan.step_macs, held)


def _heights(pairs: Sequence[tuple[int, int]], n: int) -> list[float]:
    """Return the height of each node: operands in the order of a walk through the tree, results between theirs."""
    heights = [0.0] * (n + len(pairs))
    stack, row = [n + len(pairs) - 1], 0
    while stack:
        node = stack.pop()
        if node >= n:
            stack += pairs[node - n]
        else:
            heights[node] = row
            row += 1
    for k, (a, b) in enumerate(pairs):
        heights[n + k] = (heights[a] + heights[b]) / 2
    return heights


def _draw_tree(plan: ContractionPlan, steps: _Steps, ax: Axes) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    pairs, n = plan.pairs, len(plan.spec.inputs)
    heights = _heights(pairs, n)
    widest = max(math.log2(max(size, 2)) for size in steps.elements)
    lines, widths, colours = [], [], []
    leaves: list[tuple[int, float]] = []
    for k, pair in enumerate(pairs):
        for node in pair:
            start = node - n + 1 if node >= n else k + 0.4
            # Level until the step, then to the parent: an edge shows how long its tensor is alive.
            lines.append([(start, heights[node]), (k + 0.6, heights[node]), (k + 1, heights[n + k])])
            share = math.log2(max(steps.elements[node], 1)) / widest
            widths.append(_THINNEST + (_THICKEST - _THINNEST) * share)
            colours.append(math.log10(max(steps.macs[node - n], 1)) if node >= n else math.nan)
            if node < n:
                leaves.append((node, start))
    edges = LineCollection(lines, linewidths=widths, capstyle="round")
    edges.set_cmap(colormaps["viridis_r"].with_extremes(bad=MUTED))
    edges.set_array(np.ma.masked_invalid(colours))
    logarithms = [math.log10(max(macs, 1)) for macs in steps.macs]
    edges.set_clim(min(logarithms), max(max(logarithms), min(logarithms) + 1e-3))
    ax.add_collection(edges)
    ax.set_ylim(-1, n)
    ax.set_yticks([])
    ax.set_ylabel(f"{n} operands")
    if n <= _MOST_LABELLED:
        style = {"ha": "right", "va": "center", "fontsize": 7}
        literal(ax.annotate(f"{_label(plan, node)} ", (x, heights[node]), **style) for node, x in leaves)
    ax.figure.colorbar(edges, ax=ax, label="log10 multiply-adds", pad=0.01)
    title = f"{plan.planner}: {Decimal(plan.macs):.3g} multiply-adds in {len(pairs)} steps"
    ax.set_title(title + (f", {plan.n_slices} slices" if plan.splits else ""))
    literal([ax.title])


def _label(plan: ContractionPlan, node: int) -> str:
    labels = [plan.spec.labels[i] for i in plan.spec.inputs[node]]
    text = ("" if all(len(label) == 1 for label in labels) else " ").join(labels)
    return text if len(text) <= _LONGEST_LABEL else f"{text[:_LONGEST_LABEL]}\N{HORIZONTAL ELLIPSIS}"


def _draw_cost(steps: _Steps, ax: Axes) -> None:
    logarithms = [math.log10(max(macs, 1)) for macs in steps.macs]
    baseline = max(0.0, math.floor(min(logarithms) - 0.5))
    ax.stairs(logarithms, np.arange(len(logarithms) + 1) + 0.5, baseline=baseline, fill=True, color=ACCENT)
    ax.set_ylabel("log10 multiply-adds")


def _draw_memory(plan: ContractionPlan, steps: _Steps, ax: Axes) -> None:
    unit, name = next((u, name) for u, name in _UNITS if max(*steps.held, 1) >= u)
    held = np.asarray([min(n, _ENDLESS) / unit for n in steps.held])
    total = min(plan.peak_bytes, _ENDLESS) / unit
    ax.stairs(held, np.arange(held.size + 1) + 0.5, fill=True, color=ACCENT, alpha=0.6)
    ax.axhline(total, color=MUTED, linestyle="--", linewidth=1)
    peak = int(np.argmax(held))
    ax.plot([peak + 1], [held[peak]], marker="v", color=ACCENT)
    shown, with_copies = (format_bytes(min(n, _ENDLESS)) for n in (steps.held[peak], plan.peak_bytes))
    ax.annotate(
        f" {shown}, {with_copies} with copies",
        (peak + 1, held[peak]),
        ha="left" if peak < held.size / 2 else "right",
        va="bottom",
        fontsize=8,
    )
    ax.set_ylim(0, 1.25 * max(float(held[peak]), total))
    ax.set_ylabel(f"held, {name}")
    ax.set_xlabel("step")
