"""The figure of a plan shows its tree, its steps and its peak."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.collections import LineCollection
from matplotlib.patches import StepPatch

import tnet
from tnet.contraction import ContractionPlan
from tnet.errors import InputError

CHAIN = ("ij,jk,kl,lm->im", (4, 8), (8, 16), (16, 8), (8, 4))


def edges_of(ax: object) -> LineCollection:
    (found,) = [child for child in ax.get_children() if isinstance(child, LineCollection)]  # type: ignore[attr-defined]
    return found


def values_of(ax: object) -> np.ndarray:
    (found,) = [patch for patch in ax.patches if isinstance(patch, StepPatch)]  # type: ignore[attr-defined]
    return np.asarray(found.get_data().values)


def test_cost_and_memory_of_each_step_are_drawn() -> None:
    plan = tnet.plan(*CHAIN)
    tree, cost, memory = tnet.plot.plan(plan)
    assert len(edges_of(tree).get_segments()) == 2 * len(plan.pairs)
    assert np.sum(10 ** values_of(cost)) == pytest.approx(plan.macs)
    assert values_of(memory).max() == pytest.approx(plan.peak_bytes / 1024)  # no step copies here
    (mark,) = [line for line in memory.lines if line.get_marker() == "v"]
    assert np.asarray(mark.get_ydata())[0] == values_of(memory).max()
    assert sorted(text.get_text().strip() for text in tree.texts) == ["ij", "jk", "kl", "lm"]


def test_the_widest_edge_is_the_largest_tensor() -> None:
    plan = tnet.plan("ab,bc,c->a", (64, 64), (64, 2), (2,))
    lines = edges_of(tnet.plot.plan(plan)[0])
    widths = np.asarray(lines.get_linewidth())
    assert np.argmax(widths) == [node for pair in plan.pairs for node in pair].index(0)
    colours = np.ma.asarray(lines.get_array())
    assert np.ma.count_masked(colours) == 3  # operands have no cost


def test_slices_count_in_the_cost_and_the_title() -> None:
    whole = tnet.plan(*CHAIN)
    cut = ContractionPlan(whole.spec, whole.pairs, ((0, 2), (2, 4)), whole.dtypes)
    tree, cost, _ = tnet.plot.plan(cut)
    assert "8 slices" in tree.get_title()
    assert np.sum(10 ** values_of(cost)) == pytest.approx(cut.macs)


def test_what_no_slice_changes_counts_once() -> None:
    whole = tnet.plan("ab,bc,cd,de->ae", *[(64, 64)] * 4, planner=[(0, 1), (0, 1), (0, 1)])
    cut = ContractionPlan(whole.spec, whole.pairs, ((4, 8),), whole.dtypes)  # e, of the last operand alone
    assert cut.macs == whole.macs
    assert cut.step_macs == whole.step_macs == (64**3,) * 3
    tree, cost, _ = tnet.plot.plan(cut)
    assert tree.get_title() == "auto: 7.86e+5 multiply-adds in 3 steps, 8 slices"
    assert np.sum(10 ** values_of(cost)) == pytest.approx(cut.macs)


@pytest.mark.parametrize("n", [2, 30, 31, 1000])
def test_small_and_large_networks_fit(n: int) -> None:
    lists = [x for k in range(n) for x in ((2, 2), [k, k + 1])]
    plan = tnet.plan(*lists, [0, n], planner="greedy")
    tree, _, memory = tnet.plot.plan(plan)
    tree.figure.canvas.draw()  # type: ignore[union-attr]
    assert len(tree.texts) == (n if n <= 30 else 0)
    bottom, top = memory.get_ylim()
    assert bottom <= values_of(memory).max() <= top


def test_labels_are_taken_literally() -> None:
    tree, *_ = tnet.plot.plan(tnet.plan((2, 2), ["$x", "y$"], (2, 2), ["y$", "a very long label"]))
    tree.figure.canvas.draw()  # type: ignore[union-attr]
    assert tree.texts[0].get_text().strip() == "$x y$"
    assert not tree.texts[0].get_parse_math()


def test_hopeless_costs_can_be_drawn() -> None:
    n = 40
    plan = tnet.plan(*(x for k in range(n) for x in ((10**9,), [k])), list(range(n)), planner="greedy")
    _, cost, _ = tnet.plot.plan(plan)
    assert values_of(cost).max() == pytest.approx(9 * n)


def test_axes_are_taken_and_counted() -> None:
    _, axes = pyplot.subplots(3, 1)
    assert tnet.plot.plan(tnet.plan(*CHAIN), list(axes)) == tuple(axes)
    assert len(tnet.plan(*CHAIN).plot()) == 3
    with pytest.raises(InputError, match="give three"):
        tnet.plot.plan(tnet.plan(*CHAIN), list(axes[:2]))
    with pytest.raises(InputError, match="no step"):
        tnet.plot.plan(tnet.plan("ij->i", (2, 3)))
