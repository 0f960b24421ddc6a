"""Scores: they never fall when the error grows, and what is needed to beat a score does beat it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet.errors import InputError
from tnet.structure_search.objective import (
    INFEASIBLE,
    FewestParams,
    LatencyAndError,
    LeastError,
    SizeAndError,
)
from tnet.structure_search.structure import Structure

STRUCTURE = Structure((4, 5, 6), ((0, 1, 2), (1, 2, 3)))
OBJECTIVES = [
    SizeAndError(5.0),
    SizeAndError(200.0, "log", 1e-7),
    FewestParams(0.1),
    LeastError(100),
    LeastError(10),
    LatencyAndError(2.0, lambda structure: 1e-3 * structure.n_params),
]


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(rse=st.floats(0, 2), more=st.floats(0, 2))
def test_scores_never_fall_with_the_error(objective, rse, more):
    assert objective.score(STRUCTURE, rse) <= objective.score(STRUCTURE, rse + more)
    assert objective.score(STRUCTURE, math.inf) >= objective.score(STRUCTURE, rse)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(score=st.floats(-3, 3))
def test_an_error_below_what_is_needed_beats_the_score(objective, score):
    needed = objective.error_to_beat(STRUCTURE, score)
    if needed < 0:
        assert objective.score(STRUCTURE, 0.0) >= score - 1e-12
    elif needed > 0:
        assert objective.score(STRUCTURE, 0.999 * needed) < score + 1e-12
        assert objective.score(STRUCTURE, 1.001 * needed + 1e-12) >= score - 1e-12


def test_feasible_scores_lie_below_all_others():
    fewest = FewestParams(0.1)
    assert fewest.score(STRUCTURE, 0.01) == STRUCTURE.n_params / 120
    assert INFEASIBLE < fewest.score(STRUCTURE, 0.0101) < fewest.score(STRUCTURE, 0.5)
    assert LeastError(100).score(STRUCTURE, 0.25) == 0.25
    assert INFEASIBLE < LeastError(50).score(STRUCTURE, 0.0) < LeastError(10).score(STRUCTURE, 0.0)


def test_published_score():
    assert SizeAndError(200.0).score(STRUCTURE, 1e-3) == pytest.approx(STRUCTURE.n_params / 120 + 0.2)
    assert SizeAndError(2.0, "log").score(STRUCTURE, 0.5) == pytest.approx(math.log(STRUCTURE.n_params / 120) + 1)
    assert SizeAndError(200.0, negligible=1e-6).score(STRUCTURE, 1e-7) == STRUCTURE.n_params / 120


@pytest.mark.parametrize(
    "make",
    [
        lambda: SizeAndError(0.0),
        lambda: SizeAndError(-1.0),
        lambda: SizeAndError(math.nan),
        lambda: SizeAndError(1.0, "squared"),  # type: ignore[arg-type]
        lambda: SizeAndError(1.0, negligible=1.0),
        lambda: FewestParams(0.0),
        lambda: FewestParams(1.0),
        lambda: FewestParams(1e-170),  # its square is 0
        lambda: SizeAndError(1.0, negligible="none"),  # type: ignore[arg-type]
        lambda: LatencyAndError("1", lambda structure: 1.0),  # type: ignore[arg-type]
        lambda: LatencyAndError(1.0, 5),  # type: ignore[arg-type]
        lambda: LeastError(0),
        lambda: LeastError(True),
        lambda: LeastError(1.5),  # type: ignore[arg-type]
        lambda: LatencyAndError(0.0, lambda structure: 1.0),
    ],
)
def test_impossible_goals_are_refused(make):
    with pytest.raises(InputError):
        make()
