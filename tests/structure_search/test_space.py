"""Spaces: what belongs to them, what is drawn from them, and what lies next to a structure."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tnet.errors import InputError, RankError
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure

SHAPE = (3, 4, 3, 5)
SPACES = {
    "free": SearchSpace("free", 4),
    "internal": SearchSpace("free", 3, n_internal=2),
    "ring": SearchSpace.ring(4, max_rank=4),
    "ring in order": SearchSpace.ring(4, max_rank=4, permuted=False),
    "train": SearchSpace.train(4, max_rank=4),
    "trees": SearchSpace("trees", 3, n_internal=1),
    "degree": SearchSpace("free", 4, max_degree=2),
    "width": SearchSpace("free", 4, max_width=4.0),
    "fixed": SearchSpace("free", 4, fixed=((0, 1, 2),)),
}


@pytest.mark.parametrize("name", SPACES)
def test_draws_and_neighbours_belong_to_the_space(name):
    space = SPACES[name]
    space.check(SHAPE)
    rng = np.random.default_rng(0)
    for _ in range(20):
        structure = space.random(SHAPE, rng)
        assert space.allows(structure)
        near = list(space.neighbours(structure))
        assert len(set(near)) == len(near)
        assert structure not in near
        assert all(space.allows(other) for other in near)


@pytest.mark.parametrize("name", ["free", "ring", "train", "degree", "fixed"])
def test_neighbours_are_mutual(name):
    space = SPACES[name]
    structure = space.random(SHAPE, np.random.default_rng(1))
    for other in space.neighbours(structure):
        assert structure in set(space.neighbours(other))


def test_rings_of_any_order_are_just_those_that_some_order_gives():
    space = SearchSpace.ring(4, max_rank=2)
    given = {
        space.place(SHAPE, ranks, order)
        for order in itertools.permutations(range(4))
        for ranks in itertools.product((1, 2), repeat=4)
    }
    free = SearchSpace("free", 2)
    every = {free.place(SHAPE, ranks) for ranks in itertools.product((1, 2), repeat=6)}
    assert {structure for structure in every if space.allows(structure)} == given


def test_places_and_constraints_by_hand():
    ring = SearchSpace.ring(4, max_rank=5)
    assert ring.pairs(4) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    placed = ring.place(SHAPE, [2, 3, 4, 5], [2, 0, 1, 3])
    assert placed.bonds == ((0, 1, 4), (0, 2, 2), (1, 3, 5), (2, 3, 3))
    assert not SPACES["trees"].allows(placed)
    assert not SPACES["width"].allows(placed)
    assert not SPACES["fixed"].allows(placed)
    assert not SearchSpace("free", 4).allows(placed)  # a rank of 5
    assert not SearchSpace("free", 5, max_degree=1).allows(placed)
    assert SearchSpace.ring(2).template == ((0, 1),)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: SearchSpace("graph"), InputError),
        (lambda: SearchSpace(max_rank=0), RankError),
        (lambda: SearchSpace(max_rank=2.5), RankError),  # type: ignore[arg-type]
        (lambda: SearchSpace(max_rank="8"), RankError),  # type: ignore[arg-type]
        (lambda: SearchSpace(max_degree=0), InputError),
        (lambda: SearchSpace(n_internal=-1), InputError),
        (lambda: SearchSpace(n_internal=1.5), InputError),  # type: ignore[arg-type]
        (lambda: SearchSpace(max_width=math.nan), InputError),
        (lambda: SearchSpace(fixed=(0, 1, 2)), InputError),  # type: ignore[arg-type]
        (lambda: SearchSpace(fixed=((0, 1, 2), (0, 1, 3))), InputError),
        (lambda: SearchSpace("ranks", template=((0, 1), (0, 1))), InputError),
        (lambda: SearchSpace(reshapes=(6, 6)), InputError),  # type: ignore[arg-type]
        (lambda: SearchSpace(reshapes=((-4, -15),)), InputError),
        (lambda: SearchSpace(reshapes=((60,),)), InputError),
        (lambda: SearchSpace("ranks"), InputError),
        (lambda: SearchSpace("free", template=((0, 1),)), InputError),
        (lambda: SearchSpace("ranks", template=((0, 1),), n_internal=1), InputError),
        (lambda: SearchSpace(max_rank=2, fixed=((0, 1, 3),)), InputError),
        (lambda: SearchSpace("permutations", template=((0, 1),), fixed=((0, 1, 2),)), InputError),
        (lambda: SearchSpace().check((5,)), InputError),
        (lambda: SearchSpace("ranks", template=((0, 9),)).check(SHAPE), InputError),
        (lambda: SearchSpace(fixed=((0, 9, 2),)).check(SHAPE), InputError),
        (lambda: SearchSpace(fixed=((0, 3, 2),), reshapes=((12, 15),)).check(SHAPE), InputError),
        (lambda: SearchSpace("ranks", template=((0, 1),), fixed=((1, 2, 2),)).check(SHAPE), InputError),
        (lambda: SearchSpace(reshapes=((7, 7),)).check(SHAPE), InputError),
        (lambda: SearchSpace("ranks", template=((0, 1),), reshapes=((12, 15),)).check(SHAPE), InputError),
        (lambda: SearchSpace(fixed=((0, 1, 2), (0, 2, 2)), max_degree=1).check(SHAPE), InputError),
        (lambda: SearchSpace("trees", fixed=((0, 1, 2), (0, 2, 2), (1, 2, 2))).check(SHAPE), InputError),
        (lambda: SearchSpace(fixed=((0, 1, 8),), max_width=2.0).check(SHAPE), InputError),
    ],
)
def test_impossible_spaces_are_refused(make, error):
    with pytest.raises(error):
        make()


def test_lists_become_tuples_so_that_equal_spaces_are_equal():
    lists = SearchSpace("ranks", template=[[0, 1], [1, 2]], fixed=[(0, 1, np.int64(2))])  # type: ignore[arg-type]
    assert lists == SearchSpace("ranks", template=((0, 1), (1, 2)), fixed=((0, 1, 2),))
    assert hash(lists)


def test_structures_keep_their_shape_when_modes_change_places():
    structure = Structure(SHAPE, ((0, 1, 2), (1, 2, 3)))
    swapped = [other for other in SPACES["free"].neighbours(structure) if other.bonds == ((0, 1, 2), (0, 2, 3))]
    assert [other.shape for other in swapped] == [SHAPE]
