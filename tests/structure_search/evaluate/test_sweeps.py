"""Sweeps against dense least squares, one core after the other; trees and forms of graphs."""

from __future__ import annotations

import itertools

import array_api_compat.numpy as xp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.structure_search.evaluate.cases import ALL, RING, dense, planted, random_cores
from tnet.structure_search.evaluate.graph_form import graph_form
from tnet.structure_search.evaluate.stacks import Member, from_stack, to_stack
from tnet.structure_search.evaluate.sweep_program import Solve, sweep_program
from tnet.structure_search.evaluate.sweep_tree import best_tree, cores_of, sweep_cost
from tnet.structure_search.evaluate.sweeps import dense as dense_of_stack
from tnet.structure_search.evaluate.sweeps import swept
from tnet.structure_search.evaluate.targets import prepared_data, target_of
from tnet.structure_search.losses import MaskedError, SquaredError, WeightedError
from tnet.structure_search.structure import Structure, structure_of_ranks


def loss_and_rows(kind: str, x: np.ndarray):
    """Return a loss, and the linear map whose squared norm of the difference it is."""
    rng = np.random.default_rng(5)
    if kind == "squared":
        return SquaredError(), lambda y: y.reshape(-1)
    if kind == "masked":
        mask = rng.random(x.shape) < 0.8
        return MaskedError(mask), lambda y: y[mask]
    n_columns = x.ndim // 2
    n = int(np.prod(x.shape[x.ndim - n_columns :]))
    root = rng.standard_normal((n, n + 2))
    if np.iscomplexobj(x):
        root = root + 1j * rng.standard_normal(root.shape)
    return WeightedError(root @ root.conj().T, n_columns), lambda y: (y.reshape(-1, n) @ root).reshape(-1)


def swept_by_brute_force(structure, cores, x, rows, order):
    """Solve for each core in turn, with the design matrix made column by column."""
    cores = [core.copy() for core in cores]
    for k in order:
        columns = []
        for entry in range(cores[k].size):
            unit = np.zeros(cores[k].size)
            unit[entry] = 1
            columns.append(rows(dense(structure, [*cores[:k], unit.reshape(cores[k].shape), *cores[k + 1 :]])))
        solution = np.linalg.lstsq(np.stack(columns, axis=1), rows(x), rcond=1e-12)[0]
        cores[k] = solution.reshape(cores[k].shape)
    return cores


@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("kind", ["squared", "squared by environments", "masked", "weighted"])
@pytest.mark.parametrize("name", ALL)
def test_a_sweep_solves_the_least_squares_of_each_core_in_turn(name: str, kind: str, complex_: bool) -> None:
    structure = ALL[name]
    x = planted(structure, 3, noise=0.3, complex_=complex_)
    loss, rows = loss_and_rows(kind.split()[0], x)
    form = graph_form(structure, keep_order=kind == "weighted")
    member = Member(0, structure, form)
    program = sweep_program(form.graph, form.ranks, None if kind == "squared" else "environment")
    starts = [random_cores(structure, seed, complex_=complex_) for seed in (0, 1)]
    stack = to_stack(program, member, [np.stack(pair) for pair in zip(*starts, strict=True)])
    data = prepared_data(x, loss)
    target = target_of(data, program, [form.order])
    cores = swept(xp, program, target, stack, 1)
    errors = target.errors(xp.reshape(dense_of_stack(xp, program, cores), (2, -1)), slice(0, 2))
    order = [form.order[item.core] for item in program.down if isinstance(item, Solve)]
    assert sorted(order) == list(range(structure.n_cores))
    for item, start in enumerate(starts):
        expected = swept_by_brute_force(structure, start, x, rows, order)
        found = from_stack(xp, program, member, [core[item, ...] for core in cores])
        y = dense(structure, found)
        np.testing.assert_allclose(rows(y), rows(dense(structure, expected)), atol=1e-6)
        error = np.linalg.norm(rows(x - dense(structure, expected))) ** 2 / np.linalg.norm(rows(x)) ** 2
        assert errors[item] == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("kind", ["squared", "masked", "weighted"])
def test_errors_never_grow_from_sweep_to_sweep(kind: str) -> None:
    x = planted(RING, 0, noise=0.5)
    loss, _ = loss_and_rows(kind, x)
    form = graph_form(RING, keep_order=True)
    program = sweep_program(form.graph, form.ranks, None if kind == "squared" else "environment")
    target = target_of(prepared_data(x, loss), program, [form.order])
    cores = to_stack(program, Member(0, RING, form), [core[None] for core in random_cores(RING, 7)])
    errors = []
    for _ in range(15):
        cores = swept(xp, program, target, cores, 1)
        errors.append(float(target.errors(dense_of_stack(xp, program, cores).reshape(1, -1), slice(0, 1))[0]))
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


@st.composite
def structures(draw: st.DrawFn, size: int = 3) -> Structure:
    n_modes, n_internal = draw(st.integers(2, 6)), draw(st.integers(0, 2))
    n = n_modes + n_internal
    ranks = np.ones((n, n), dtype=np.int64)
    for i, j in itertools.combinations(range(n), 2):
        ranks[i, j] = ranks[j, i] = draw(st.integers(1, 3))
    return structure_of_ranks((size,) * n_modes, ranks)


@given(structures(), st.randoms(use_true_random=False))
def test_structures_that_differ_by_a_permutation_share_their_graph(structure: Structure, random) -> None:
    n, n_modes = structure.n_cores, structure.n_modes
    modes, internal = list(range(n_modes)), list(range(n_modes, n))
    random.shuffle(modes)
    random.shuffle(internal)
    form, other = graph_form(structure), graph_form(structure.relabelled([*modes, *internal]))
    assert form.graph == other.graph
    assert sorted(form.ranks) == sorted(other.ranks)


@given(structures())
def test_a_form_names_every_bond_of_its_structure(structure: Structure) -> None:
    form = graph_form(structure)
    bonds = {
        (*sorted((form.order[i], form.order[j])), rank)
        for (i, j), rank in zip(form.graph[1], form.ranks, strict=True)
    }
    assert bonds == set(structure.bonds)
    assert sorted(form.order) == list(range(structure.n_cores))


@given(structures())
def test_trees_hold_every_core_once_and_the_chosen_one_is_the_cheaper_way(structure: Structure) -> None:
    graph = graph_form(structure).graph
    tree, gram = best_tree(graph)
    assert sorted(cores_of(tree)) == list(range(structure.n_cores))
    nominal = (3,) * len(graph[1])
    least = min(sweep_cost(graph, nominal, best_tree(graph, way)[0], way) for way in ("layers", "environment"))
    assert sweep_cost(graph, nominal, tree, gram) == least


def test_the_tree_of_a_ring_costs_less_than_visiting_its_cores_one_by_one() -> None:
    ring = (3,) * 8, tuple(sorted((min(k, (k + 1) % 8), max(k, (k + 1) % 8)) for k in range(8)))
    caterpillar = 0
    for k in range(1, 8):
        caterpillar = (caterpillar, k)
    tree, gram = best_tree(ring)
    assert sweep_cost(ring, (3,) * 8, tree, gram) < 0.5 * sweep_cost(ring, (3,) * 8, caterpillar, gram)


def test_many_cores_get_a_tree_without_enumeration() -> None:
    train = (2,) * 14, tuple((k, k + 1) for k in range(13))
    tree, _ = best_tree(train)
    assert sorted(cores_of(tree)) == list(range(14))
