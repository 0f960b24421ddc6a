"""Points of a space: from ranks and orders to structures, drawn and repaired."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet.structure_search.algorithms.coordinates import Coordinates, Point
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure


def test_an_order_moves_the_modes_along_the_template() -> None:
    coordinates = Coordinates(SearchSpace.train(4, max_rank=5), (2, 3, 4, 5))
    found = coordinates.structure(Point((2, 3, 4), (2, 0, 3, 1)))
    assert found == Structure((2, 3, 4, 5), ((0, 2, 2), (0, 3, 3), (1, 3, 4)))


def test_transposed_and_with_rank_change_one_thing() -> None:
    point = Point((2, 3), (0, 1, 2))
    assert point.transposed(0, 2) == Point((2, 3), (2, 1, 0))
    assert point.with_rank(1, 7) == Point((2, 7), (0, 1, 2))


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_random_points_are_allowed(seed: int, absent: float) -> None:
    space = SearchSpace("trees", max_rank=4, n_internal=1, max_degree=3, fixed=((0, 2, 2),))
    coordinates = Coordinates(space, (2, 3, 4, 2))
    point = coordinates.random(np.random.default_rng(seed), absent=absent)
    assert coordinates.allows(point)
    assert point.ranks[space.pairs(4).index((0, 2))] == 2


def test_all_ranks_are_drawn() -> None:
    coordinates = Coordinates(SearchSpace.ring(4, max_rank=3), (2, 2, 2, 2))
    points = [coordinates.random(np.random.default_rng(seed)) for seed in range(60)]
    assert {rank for point in points for rank in point.ranks} == {1, 2, 3}
    assert len({point.order for point in points}) > 10


@pytest.mark.parametrize(
    ("ranks", "repaired"),
    [([9, -4, 2], (4, 1, 2)), ([1, 1, 1], (1, 1, 1))],
)
def test_repaired_clips(ranks: list[int], repaired: tuple[int, ...]) -> None:
    coordinates = Coordinates(SearchSpace(max_rank=4), (2, 2, 2))
    assert coordinates.repaired(ranks, None, np.random.default_rng(0)) == Point(repaired)


def test_repaired_takes_away_only_what_it_must() -> None:
    coordinates = Coordinates(SearchSpace("trees", max_rank=4), (2, 2, 2))
    point = coordinates.repaired([2, 3, 4], None, np.random.default_rng(0))
    assert sorted(point.ranks)[0] == 1
    assert sum(rank > 1 for rank in point.ranks) == 2
