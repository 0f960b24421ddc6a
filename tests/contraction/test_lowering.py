"""Layouts: what is copied, and that unavoidable copies are of the smaller operand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import ContractionPlan
from tnet.contraction.layout import memory_layout
from tnet.contraction.lowering import lower
from tnet.contraction.pairs import result_indices


def copied(plan: ContractionPlan) -> int:
    return sum((side.copied or 0) for step in plan._program.steps for side in (step.left, step.right))


@pytest.mark.parametrize(
    ("equation", "sizes"),
    [
        ("ab,bc->ac", {}),
        ("ba,bc->ac", {}),
        ("ab,cb->ca", {}),
        ("abcd,cdef->efab", {}),
        ("zab,zbc->zac", {}),
        ("azb,zbc->acz", {}),  # the batch stands anywhere but last
        ("azb,bzc->zca", {}),
        ("abc,bd->adc", {"c": 100, "a": 2}),  # free indices on both sides of the summed one
        ("ab,bc,cd,de->ae", {}),
        ("ab,b->ab", {}),
        ("ab,a->ba", {}),
    ],
)
def test_nothing_is_copied_where_views_will_do(equation: str, sizes: dict[str, int]) -> None:
    terms = equation.partition("->")[0].split(",")
    shapes = [tuple(sizes.get(i, 8) for i in term) for term in terms]
    plan = tnet.plan(equation, *shapes)
    assert copied(plan) == 0
    arrays = Case(equation, tuple(shapes)).arrays()
    assert np.allclose(plan(*arrays), np.einsum(equation, *arrays))


def test_the_smaller_operand_is_copied() -> None:
    plan = tnet.plan("abcd,dbe->ace", (16, 4, 16, 4), (4, 4, 3))
    assert 0 < copied(plan) <= 16 * 4 * 16 * 4
    same = tnet.plan("abc,cbe->ae", (64, 8, 8), (8, 8, 3))
    assert copied(same) == 8 * 8 * 3


def test_transposed_operands_are_taken_as_they_lie() -> None:
    a, b = np.ones((30, 20)).T, np.ones((10, 30)).T
    plan = tnet.plan("ij,jk->ik", a, b)
    assert plan.layouts == ((1, 0), (1, 0))
    assert copied(plan) == 0


def boundary(side: int, bond: int) -> tuple[str, list[tuple[int, ...]]]:
    """A square lattice, contracted site by site along its rows."""
    names: dict[Any, str] = {}
    terms = []
    for r in range(side):
        for c in range(side):
            edges = [("h", r, k) for k in (c - 1, c) if 0 <= k < side - 1]
            edges += [("v", k, c) for k in (r - 1, r) if 0 <= k < side - 1]
            terms.append("".join(names.setdefault(edge, chr(97 + len(names))) for edge in edges))
    return ",".join(terms) + "->", [(bond,) * len(term) for term in terms]


def test_a_boundary_contraction_hardly_copies() -> None:
    equation, shapes = boundary(4, 6)
    spec = tnet.plan(equation, *shapes).spec
    n = len(shapes)
    pairs = ((0, 1), *((k, n + k - 2) for k in range(2, n)))
    program = lower(spec, pairs, spec.sizes)
    written = sum(step.n_result for step in program.steps)
    taken = [side for step in program.steps for side in (step.left, step.right)]
    assert sum(side.copied or 0 for side in taken) <= 0.5 * written
    equation, shapes = boundary(4, 2)
    small = tnet.plan(equation, *shapes)
    arrays = Case(equation, tuple(shapes)).arrays()
    plan = ContractionPlan(small.spec, pairs, (), small.dtypes)
    assert np.allclose(plan(*arrays), np.einsum(equation, *arrays, optimize=True))


@given(networks(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_orders_are_those_of_the_index_sets(case: Case, strided: bool) -> None:
    plan = tnet.plan(case.equation, *case.shapes)
    spec = plan.spec
    layouts = [None if strided else tuple(range(len(shape))) for shape in case.shapes]
    program = lower(spec, plan.pairs, spec.sizes, layouts=layouts)
    for order, indices in zip(program.orders, result_indices(spec, plan.pairs), strict=True):
        assert sorted(order) == sorted(i for i in indices if spec.sizes[i] != 1)
    for step in program.steps:
        assert int(np.prod(step.raw)) == step.n_result == int(np.prod(step.kept))


@given(st.lists(st.integers(1, 4), max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_memory_layouts_are_recognised(shape: list[int], noise: Any) -> None:
    axes = list(range(len(shape)))
    noise.shuffle(axes)
    x = np.empty([shape[axis] for axis in axes]).transpose(np.argsort(axes).astype(int))
    layout = memory_layout(x.shape, x.strides, x.itemsize)
    assert layout is not None
    assert x.transpose(layout).flags.c_contiguous
    if x.size > 1:
        gaps = np.repeat(x, 2, axis=int(np.argmax(x.shape)))
        view = gaps[
            tuple(slice(None, None, 2 if k == int(np.argmax(x.shape)) else 1) for k in axes[:0] or range(x.ndim))
        ]
        assert memory_layout(view.shape, view.strides, view.itemsize) is None
