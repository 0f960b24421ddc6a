"""Small equal steps in stacks: the same results, in the bytes that the plan promises, and only where it pays."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import tracemalloc
from typing import Any

import array_api_strict
import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tnet
from tests.contraction.networks import Case, networks
from tnet.arrays import to_numpy
from tnet.contraction import ContractionPlan, stacking
from tnet.contraction.cost_model import program_seconds
from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.lowering import Program, Run
from tnet.contraction.memory import peak_memory
from tnet.contraction.rates import host_rates
from tnet.contraction.slicing import sliced_program
from tnet.contraction.spec import spec_from_terms

VIEW = 512  # bytes of Python's own objects for each result of a step


def explicit(
    terms: list[Any], sizes: dict[Any, int], pairs: list[tuple[int, int]], **options: Any
) -> ContractionPlan:
    """A plan with these steps as they are, to a number."""
    spec = spec_from_terms(tuple(map(tuple, terms)), (), [tuple(sizes[i] for i in term) for term in terms])
    ordered = tuple((min(pair), max(pair)) for pair in pairs)
    return ContractionPlan(spec, ordered, (), dtype_plan(["float64"] * len(terms)), **options)


def tree_norm(depth: int, bond: int, **options: Any) -> ContractionPlan:
    """The norm of a binary tree tensor network, contracted from its leaves up."""
    terms: list[Any] = []
    for level in reversed(range(depth)):
        for k in range(2**level):
            for layer in ("ket", "bra"):
                below = [("leaf" if level == depth - 1 else layer, level + 1, 2 * k + side) for side in (0, 1)]
                terms.append((*below, (layer, level, k)) if level else tuple(below))
    sizes = {i: 2 if i[0] == "leaf" else bond for term in terms for i in term}
    node, first, results = len(terms), 0, []
    pairs: list[tuple[int, int]] = []
    for level in reversed(range(depth)):
        above: list[int] = []
        for k in range(2**level):
            found = first + 2 * k
            for result in results[2 * k : 2 * k + 2]:
                pairs.append((found, result))
                found, node = node, node + 1
            pairs.append((found, first + 2 * k + 1))
            above.append(node)
            node += 1
        first, results = first + 2 * 2**level, above
    return explicit(terms, sizes, pairs, **options)


def chain(n: int, size: int) -> ContractionPlan:
    """The trace of a product of n = 2**k matrices, in halves."""
    pairs: list[tuple[int, int]] = []
    level, node = list(range(n)), n
    while len(level) > 1:
        pairs += list(zip(level[::2], level[1::2], strict=True))
        level = [node + k for k in range(len(level) // 2)]
        node += len(level)
    return explicit([(k, (k + 1) % n) for k in range(n)], dict.fromkeys(range(n), size), pairs)


def stacked(plan: ContractionPlan) -> Program:
    return sliced_program(plan.spec, plan.pairs, plan.splits, plan.dtypes, stacked=True)


def one_by_one(plan: ContractionPlan) -> Program:
    return sliced_program(plan.spec, plan.pairs, plan.splits, plan.dtypes)


def arrays_for(plan: ContractionPlan, library: str = "numpy", dtype: str = "float64") -> list[Any]:
    rng = np.random.default_rng(0)
    arrays = [(rng.normal(size=shape) / shape[0]).astype(dtype) for shape in plan.spec.input_shapes]
    return [torch.from_numpy(x) for x in arrays] if library == "torch" else arrays


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stack all that can be, whether it pays or not."""
    monkeypatch.setattr(stacking, "_FEWEST", 2)
    monkeypatch.setattr(stacking, "_CLEARLY", 0.0)


def value(plan: ContractionPlan, arrays: list[Any]) -> Any:
    """The contraction step by step, by opt_einsum."""
    pairs = [part for x, term in zip(arrays, plan.spec.inputs, strict=True) for part in (x, list(term))]
    return opt_einsum.contract(*pairs, list(plan.spec.output), optimize=plan.path)


def measured(plan: ContractionPlan, arrays: list[Any]) -> int:
    """The bytes of a call at its worst moment, operands included."""
    plan(*arrays)
    gc.collect()
    tracemalloc.start()
    try:
        plan(*arrays)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        plan(*arrays)
        return sum(x.nbytes for x in arrays) + tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


REGULAR = {"tree of 4": tree_norm(5, 4), "tree of 8": tree_norm(6, 8), "64": chain(64, 4), "256": chain(256, 3)}


@pytest.mark.parametrize("name", REGULAR)
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-9), ("complex64", 1e-3)])
def test_regular_networks_are_stacked_and_keep_their_value(name: str, library: str, dtype: str, rtol: float) -> None:
    plan = dataclasses.replace(REGULAR[name], dtypes=dtype_plan([dtype] * len(REGULAR[name].spec.inputs)))
    stacks = stacked(plan).stacks
    assert sum(stack.n for stack in stacks) > len(plan.pairs) / 2
    assert any(isinstance(stack.left, Run) and isinstance(stack.right, Run) for stack in stacks)
    arrays = arrays_for(plan, library, dtype)
    copies = [to_numpy(x).copy() for x in arrays]
    found = to_numpy(plan(*arrays))
    assert np.allclose(found, value(plan, copies), rtol=rtol)
    assert all(np.array_equal(to_numpy(x), y) for x, y in zip(arrays, copies, strict=True))
    assert np.array_equal(to_numpy(plan(*arrays)), found)


@pytest.mark.usefixtures("eager")
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(networks(max_operands=12, max_size=3), st.sampled_from(["float64", "complex128", "float32", "int8"]))
def test_whatever_is_stacked_has_the_same_value(case: Case, dtype: str) -> None:
    arrays = [np.asarray(np.round(x * 4), dtype) for x in case.arrays()]
    plan = dataclasses.replace(tnet.plan(case.equation, *arrays))
    wanted = opt_einsum.contract(case.equation, *[x.astype(plan.dtypes.compute) for x in arrays])
    assert np.allclose(plan(*arrays), wanted, rtol=1e-4)


@pytest.mark.usefixtures("eager")
def test_steps_of_all_forms_are_stacked() -> None:
    """Permuted and copied operands, elementwise products, results that are taken one by one."""
    n = 6
    terms = [
        part for k in range(n) for part in ((("a", k), ("b", k)), (("c", k), ("a", k), "x"), (("b", k), ("c", k)))
    ]
    sizes = {i: 3 for term in terms for i in term}
    pairs = [(3 * k, 3 * k + 1) for k in range(n)] + [(3 * n + k, 3 * k + 2) for k in range(n)]
    pairs += [(4 * n, 4 * n + 1), *((5 * n + k, 4 * n + 2 + k) for k in range(n - 2))]
    plan = explicit(terms, sizes, pairs)
    arrays = arrays_for(plan)
    assert sum(stack.n for stack in stacked(plan).stacks) >= 2 * n
    assert np.allclose(plan(*arrays), value(plan, arrays))


@pytest.mark.parametrize("name", REGULAR)
def test_the_peak_counts_what_stacks_hold(name: str) -> None:
    plan = dataclasses.replace(REGULAR[name])
    assert measured(plan, arrays_for(plan)) <= plan.peak_bytes + VIEW * len(plan.pairs)


@pytest.mark.parametrize("name", REGULAR)
def test_a_limit_between_both_peaks_runs_one_by_one(name: str) -> None:
    plan = REGULAR[name]
    least = peak_memory(plan.spec, one_by_one(plan), plan.dtypes, sliced=False).n_bytes
    assert least < plan.peak_bytes
    limited = dataclasses.replace(plan, memory_limit=least)
    assert limited.peak_bytes == least
    arrays = arrays_for(plan)
    assert np.allclose(limited(*arrays), plan(*arrays))


@pytest.mark.parametrize("name", ["tree of 4", "64"])
def test_a_library_of_the_standard_alone_runs_stacks(name: str) -> None:
    plan = REGULAR[name]
    arrays = arrays_for(plan)
    program = stacked(plan)
    assert any(stack.single for stack in program.stacks)
    found = plan(*[array_api_strict.asarray(x) for x in arrays])
    assert np.allclose(np.asarray(found), value(plan, arrays))


def test_large_steps_are_left_alone() -> None:
    assert not stacked(chain(64, 64)).stacks
    assert not stacked(chain(2, 4)).stacks


def test_gradients_compiled_calls_and_copies_of_the_plan() -> None:
    plan = chain(32, 3)
    assert stacked(plan).stacks
    arrays = [x.requires_grad_() for x in arrays_for(plan, "torch")]
    plan(*arrays).backward()
    gradients = [x.grad for x in arrays]
    plain = [x.detach().clone().requires_grad_() for x in arrays]
    value(plan, plain).backward()
    assert all(torch.allclose(x, y.grad) for x, y in zip(gradients, plain, strict=True))
    numbers = arrays_for(plan)
    assert np.array_equal(pickle.loads(pickle.dumps(plan))(*numbers), plan(*numbers))
    mantissa, log2_scale = plan.scaled(*numbers)
    assert np.allclose(mantissa * 2.0**log2_scale, plan(*numbers))


def test_prediction_is_lower_with_stacks() -> None:
    plan = tree_norm(6, 4)
    rates = host_rates("float64")
    apart, together = (program_seconds(p, plan.dtypes, 1, rates) for p in (one_by_one(plan), stacked(plan)))
    assert together < apart
