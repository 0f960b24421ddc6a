"""Figures of a search show its course, its front and the network."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tnet
from tnet.errors import InputError
from tnet.structure_search import (
    Budget,
    Ending,
    SearchResult,
    Solution,
    Structure,
    Trial,
)
from tnet.structure_search.result import pareto_front

SHAPE = (3, 4, 5)
FIRST, SECOND = Structure(SHAPE, ((0, 1, 2),)), Structure(SHAPE, ((0, 1, 2), (1, 2, 3)))


def result(bound: float | None = 0.1) -> SearchResult:
    trials = (
        Trial(0, FIRST, 0.25, 0.5),
        Trial(1, SECOND, 0.01, 0.3),
        Trial(2, Structure(SHAPE, ((0, 2, 4),)), 0.5, 0.9, status="pruned"),
        Trial(3, Structure(SHAPE, ((0, 2, 2),)), math.inf, math.inf, status="failed"),
        Trial(4, Structure(SHAPE, ((0, 2, 3),)), 0.36, 0.7),
    )
    cores = [np.ones(shape) for shape in SECOND.core_shapes]
    best = Solution(SECOND, SECOND.to_network(cores), 0.01, 0.3)
    return SearchResult(best, trials, pareto_front(trials), bound, Ending.FINISHED, 1.0, 1.0, 0)


def test_the_course_falls_to_the_best_score_above_the_bound():
    course, front, picture = tnet.plot.search(result())
    steps = [line for line in course.lines if line.get_label() == "best so far"]
    assert np.asarray(steps[0].get_ydata()).tolist() == [0.5, 0.3, 0.3]
    assert any(np.allclose(np.asarray(line.get_ydata(), float), 0.1) for line in course.lines)
    on_front = next(line for line in front.lines if line.get_marker() == "o")
    assert np.allclose(np.asarray(on_front.get_xdata()), [FIRST.n_params, SECOND.n_params])
    assert np.allclose(np.asarray(on_front.get_ydata()), [0.5, 0.1])
    assert not picture.axison
    course, _, _ = result(None).plot()
    assert len(course.lines) == 2


def test_networks_show_cores_modes_and_ranks():
    star = Structure(SHAPE, ((0, 3, 2), (1, 3, 3), (2, 3, 4)), 1)
    cores = [np.ones(shape) for shape in star.core_shapes]
    for drawn in (star, star.to_network(cores)):
        ax = tnet.plot.network(drawn)
        texts = sorted(text.get_text() for text in ax.texts)
        assert texts == sorted(["0", "1", "2", "3", "3", "4", "5", "2", "3", "4"])
    ring = tnet.plot.network(Structure((2,) * 4, ((0, 1, 2), (0, 3, 2), (1, 2, 2), (2, 3, 2))))
    assert sum(len(np.asarray(line.get_xdata())) == 2 for line in ring.lines) == 8  # four bonds, four modes


def test_axes_are_three():
    with pytest.raises(InputError):
        tnet.plot.search(result(), ax=[])


def test_budget_and_result_stand_in_their_room():
    assert tnet.structure_search.Budget is Budget
    assert tnet.search is tnet.structure_search.search
