"""Structures: counts, canonical form, the networks that they make, and their way through JSON."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnet.errors import InputError, RankError, ShapeError
from tnet.structure_search.structure import Structure, structure_of_ranks


@st.composite
def structures(draw, max_internal=3):
    n_modes = draw(st.integers(2, 4))
    n_internal = draw(st.integers(0, max_internal))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=n_modes, max_size=n_modes)))
    pairs = itertools.combinations(range(n_modes + n_internal), 2)
    bonds = [(i, j, draw(st.integers(1, 3))) for i, j in pairs]
    return Structure(shape, tuple(bond for bond in bonds if bond[2] > 1), n_internal)


def cores_of(structure, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in structure.core_shapes]


@given(structures())
@settings(max_examples=60, deadline=None)
def test_cores_fit_the_counts_and_make_a_network(structure):
    cores = cores_of(structure)
    assert sum(core.size for core in cores) == structure.n_params
    network = structure.to_network(cores)
    assert network.shape == structure.shape
    assert Structure.from_json(json.loads(json.dumps(structure.to_json()))) == structure
    assert structure_of_ranks(structure.shape, structure.ranks) == structure


@given(structures(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_canonical_form_ignores_the_order_of_internal_cores(structure, random):
    order = list(range(structure.n_modes, structure.n_cores))
    random.shuffle(order)
    number = [*range(structure.n_modes), *order]
    other = structure.relabelled(number)
    assert other.canonical() == structure.canonical()
    assert structure.canonical().canonical() == structure.canonical()
    cores = cores_of(structure)
    moved = structure.relabelled_cores(cores, number)
    assert tuple(core.shape for core in moved) == other.core_shapes
    dense = structure.to_network(cores).to_dense()
    assert np.allclose(other.to_network(moved).to_dense(), dense)
    found = structure.canonical_numbers()
    assert (found is None) == (structure.canonical().n_internal < structure.n_internal)
    if found is not None:
        assert structure.relabelled(found) == structure.canonical()


def test_loose_internal_cores_are_left_out_one_after_another():
    chain = Structure((2, 3), ((0, 1, 2), (1, 2, 2), (2, 3, 3)), 2)
    assert chain.canonical() == Structure((2, 3), ((0, 1, 2),))


def test_rings_are_equal_however_they_are_written_down():
    ring = [(0, 3), (3, 2), (2, 1), (1, 0)]
    ranks = [2, 3, 4, 5]
    turned, ranks_turned = ring[2:] + ring[:2], ranks[2:] + ranks[:2]

    def make(pairs, ranks):
        bonds = sorted((min(p), max(p), r) for p, r in zip(pairs, ranks, strict=True))
        return Structure((3,) * 4, tuple(bonds))

    assert make(ring, ranks) == make(turned, ranks_turned) == make([p[::-1] for p in ring[::-1]], ranks[::-1])


def test_trees_degrees_and_widths():
    ring = Structure((3,) * 4, ((0, 1, 2), (0, 3, 5), (1, 2, 3), (2, 3, 4)))
    assert not ring.is_tree
    assert ring.with_rank(0, 3, 1).is_tree
    assert Structure((2, 2, 2)).is_tree
    assert ring.degree(0) == 2
    assert round(2**ring.width) == 20  # core 3; no merge along the ring makes more
    star = Structure((2,) * 3, ((0, 3, 2), (1, 3, 3), (2, 3, 4)), 1)
    assert star.n_params == 2 * 2 + 2 * 3 + 2 * 4 + 24
    assert round(2**star.width) == 24


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (((2, 0), ()), ShapeError),
        (((2, 2), ((0, 1, 1),)), RankError),
        (((2, 2), ((1, 0, 2),)), InputError),
        (((2, 2), ((0, 2, 2),)), InputError),
        (((2, 2, 2), ((1, 2, 2), (0, 1, 2))), InputError),
        (((2, 2), ((0, 1, 2), (0, 1, 3))), InputError),
    ],
)
def test_impossible_structures_are_refused(arguments, error):
    with pytest.raises(error):
        Structure(*arguments)
