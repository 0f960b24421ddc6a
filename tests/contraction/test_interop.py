"""Plans go to cotengra and come back, order and slices."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import ContractionPlan, from_cotengra, to_cotengra
from tnet.errors import InputError, MissingDependencyError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    cotengra: Any = pytest.importorskip("cotengra")

SIZES = {"a": 4, "b": 6, "c": 5, "d": 3}
INPUTS, OUTPUT = [("a", "b"), ("b", "c"), ("c", "d")], ("a", "d")


def arrays_of(inputs: list[tuple[Any, ...]]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=tuple(SIZES[label] for label in term)) for term in inputs]


@pytest.mark.parametrize("sliced", [[], ["b"], ["a", "c"], ["d"]])
def test_a_tree_becomes_a_plan(sliced: list[Any]) -> None:
    tree = cotengra.ContractionTree.from_path(INPUTS, OUTPUT, SIZES, path=[(1, 2), (0, 1)])
    for label in sliced:
        tree.remove_ind_(label)
    plan = from_cotengra(tree, dtype="complex64")
    arrays = arrays_of(INPUTS)
    assert np.allclose(plan(*arrays), tree.contract(arrays))
    assert plan.n_slices == np.prod([SIZES[label] for label in sliced], dtype=int)
    assert plan.path == [(1, 2), (0, 1)]
    assert plan.dtypes.result == "complex64"
    assert plan.macs <= tree.contraction_cost()


def test_labels_may_be_anything() -> None:
    x, sizes = ("x", 1), {0: 2, ("x", 1): 3, None: 4}
    tree = cotengra.ContractionTree.from_path([(0, x), (x, None)], (0, None), sizes, path=[(0, 1)])
    a, b = np.ones((2, 3)), np.ones((3, 4))
    assert np.array_equal(from_cotengra(tree.remove_ind(x))(a, b), a @ b)


@given(networks(max_operands=5), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_plan_goes_and_comes_back(case: Case, chance: Any) -> None:
    assume(all(0 not in shape for shape in case.shapes))
    whole = tnet.plan(case.equation, *case.shapes)
    splits = tuple((i, n) for i, n in enumerate(whole.spec.sizes) if n > 1 and chance.random() < 0.4)
    plan = ContractionPlan(whole.spec, whole.pairs, splits, whole.dtypes)
    tree = to_cotengra(plan)
    assert tree.multiplicity == plan.n_slices
    back = from_cotengra(tree)
    assert (back.spec.inputs, back.spec.output, back.spec.sizes) == (
        plan.spec.inputs,
        plan.spec.output,
        plan.spec.sizes,
    )
    assert (back.path, back.splits) == (plan.path, plan.splits)
    arrays = case.arrays()
    assert np.allclose(tree.contract(arrays), whole(*arrays), rtol=1e-9, atol=1e-9)
    assert np.allclose(back(*arrays), whole(*arrays), rtol=1e-9, atol=1e-9)


def test_what_has_no_counterpart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tnet.plan("ab,bc->ac", (4, 6), (6, 5))
    with pytest.raises(InputError, match="'b' of size 6 is cut into 3 parts"):
        to_cotengra(ContractionPlan(whole.spec, whole.pairs, ((1, 3),), whole.dtypes))
    with pytest.raises(InputError, match="NoneType is no ContractionPlan"):
        to_cotengra(None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="dict is no cotengra"):
        from_cotengra({})
    tree = cotengra.ContractionTree.from_path(INPUTS, OUTPUT, SIZES, path=[(1, 2), (0, 1)])
    with pytest.raises(InputError, match="'b' is fixed to entry 2"):
        from_cotengra(tree.remove_ind("b", project=2))
    with pytest.raises(InputError, match="not complete"):
        from_cotengra(cotengra.ContractionTree(INPUTS, OUTPUT, SIZES))
    monkeypatch.setitem(__import__("sys").modules, "cotengra", None)
    with pytest.raises(MissingDependencyError, match="pip install cotengra"):
        to_cotengra(whole)
