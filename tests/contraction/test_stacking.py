"""Small equal steps in stacks: the same results, in the bytes that the plan promises, and only where it pays."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import ContractionPlan
from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.execute import make_runner
from tnet.contraction.lowering import Operand, Program, Run
from tnet.contraction.memory import peak_memory
from tnet.contraction.spec import spec_from_terms

PYTHON, A_STEP = 8 * 1024, 512  # bytes of Python's objects: of a call, and of each step whose result waits
Terms = list[tuple[Any, ...]]


def planned(terms: Terms, sizes: Any, tree: Any, dtype: str = "float64", limit: int | None = None) -> ContractionPlan:
    """Return the plan to a number along a tree of nested pairs of operands."""
    pairs: list[tuple[int, int]] = []

    def node(part: Any) -> int:
        if isinstance(part, int):
            return part
        a, b = sorted((node(part[0]), node(part[1])))
        pairs.append((a, b))
        return len(terms) + len(pairs) - 1

    node(tree)
    spec = spec_from_terms(terms, (), [tuple(sizes[i] for i in term) for term in terms])
    return ContractionPlan(spec, tuple(pairs), (), dtype_plan([dtype] * len(terms)), limit)


def halves(parts: list[Any]) -> Any:
    """Join neighbours until one is left."""
    while len(parts) > 1:
        parts = [*zip(parts[::2], parts[1::2], strict=False), *parts[len(parts) // 2 * 2 :]]
    return parts[0]


def tree_norm(depth: int, bond: int, **options: Any) -> ContractionPlan:
    """The norm of a binary tree tensor network, from its leaves up."""
    terms: Terms = []

    def part(level: int, k: int) -> Any:
        own = []
        for layer in "kb":
            below = [(layer if level < depth - 1 else "", level + 1, 2 * k + side) for side in (0, 1)]
            terms.append((*below, (layer, level, k)) if level else tuple(below))
            own.append(len(terms) - 1)
        joined: Any = own[0]
        for side in (0, 1):
            joined = (joined, part(level + 1, 2 * k + side)) if level < depth - 1 else joined
        return joined, own[1]

    tree = part(0, 0)
    sizes = {i: 2 if i[0] == "" else bond for term in terms for i in term}
    return planned(terms, sizes, tree, **options)


def ring(n: int, size: int, **options: Any) -> ContractionPlan:
    """The trace of a product of matrices, halves first."""
    terms: Terms = [(k, (k + 1) % n) for k in range(n)]
    return planned(terms, [size] * n, halves(list(range(n))), **options)


def copies(case: Case, n: int, **options: Any) -> ContractionPlan:
    """The product of ``n`` numbers, each the sum over all of a network's indices."""
    words = case.equation.partition("->")[0].split(",")
    terms: Terms = [tuple((letter, k) for letter in word) for k in range(n) for word in words]
    found = {letter: n for word, shape in zip(words, case.shapes, strict=True) for letter, n in zip(word, shape)}  # noqa: B905
    sizes = {i: found[i[0]] for term in terms for i in term}

    def one(k: int) -> Any:
        tree: Any = k * len(words)
        for j in range(1, len(words)):
            tree = (tree, k * len(words) + j)
        return tree

    return planned(terms, sizes, halves([one(k) for k in range(n)]), **options)


def arrays_of(plan: ContractionPlan, dtype: str = "float64", seed: int = 0) -> list[np.ndarray]:
    return Case("", plan.spec.input_shapes).arrays(dtype, seed)


def one_by_one(plan: ContractionPlan, arrays: list[Any]) -> Any:
    program = plan._program._replace(stacks=())
    return make_runner(plan.spec, program, plan.splits, plan.dtypes, arrays)(arrays)


def close(found: Any, wanted: Any, tolerance: float = 1e-9) -> None:
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert np.allclose(found, wanted, rtol=tolerance, atol=tolerance * float(np.max(np.abs(wanted), initial=0.0)))


def gathered(program: Program) -> int:
    return sum(run is None for stack in program.stacks for run in (stack.left, stack.right))


def check(program: Program) -> None:
    """Every step has its operands before it, and every stack is what it says."""
    made: set[int] = set(range(len(program.leaves)))
    ends = [0, *(stack.first + stack.n for stack in program.stacks)]
    members = [program.steps[stack.first : stack.first + stack.n] for stack in program.stacks]
    taken: set[int] = set()
    for k, (stack, steps) in enumerate(zip(program.stacks, members, strict=True)):
        assert stack.first >= ends[k]
        assert len({(s.left[1:], s.right[1:], s.raw, s.is_product) for s in steps}) == 1
        for run, operands in (
            (stack.left, [step.left for step in steps]),
            (stack.right, [step.right for step in steps]),
        ):
            if run is not None:
                taken |= _sources(run, k, members, operands)
    for stack, steps in zip(program.stacks, members, strict=True):
        assert [steps[j].node for j in stack.single] == [step.node for step in steps if step.node not in taken]
    k = 0
    for stack, steps in zip(program.stacks, members, strict=True):
        for group in (*([step] for step in program.steps[k : stack.first]), steps):
            needed = {side.source for step in group for side in (step.left, step.right)}
            assert needed <= made
            made |= {step.node for step in group}
        k = stack.first + stack.n


def _sources(run: Run, k: int, members: Any, operands: list[Operand]) -> set[int]:
    assert run.stack < k
    there = members[run.stack][run.start :: run.stride][: len(operands)]
    assert [step.node for step in there] == [operand.source for operand in operands]
    return {step.node for step in there}


def test_over_a_regular_tree_only_the_leaves_are_gathered() -> None:
    plan = tree_norm(6, 4)
    program = plan._program
    check(program)
    assert sum(stack.n for stack in program.stacks) > len(program.steps) / 2
    stacks = program.stacks
    inputs = range(len(program.leaves))
    for stack in stacks:
        step = program.steps[stack.first]
        for side, run in ((step.left, stack.left), (step.right, stack.right)):
            assert (run is None) == (side.source in inputs)
    program = ring(64, 4)._program
    check(program)
    assert len(program.stacks) >= 2
    assert gathered(program) == 2


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "int64", "float16"])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_stacks_give_what_the_steps_give(dtype: str, convert: Any) -> None:
    for plan in (tree_norm(5, 3, dtype=dtype), ring(64, 3, dtype=dtype)):
        arrays = [x / 2 for x in arrays_of(plan, "complex128" if dtype.startswith("c") else "float64")]
        arrays = [(4 * x if dtype == "int64" else x).astype(dtype) for x in arrays]
        operands = [convert(x) for x in arrays]
        assert plan._program.stacks
        found = plan(*operands)
        wanted = one_by_one(plan, [x.astype(plan.dtypes.compute) for x in arrays])
        close(found, wanted, 1e-9 if dtype in ("float64", "complex128", "int64") else 2e-3)
        assert found.dtype == operands[0].dtype
        assert np.asarray(plan(*operands)).tobytes() == np.asarray(found).tobytes()


@given(
    networks(max_operands=4, max_size=3), st.sampled_from([np.asarray, torch.from_numpy]), st.integers(0, 2**32 - 1)
)
@settings(max_examples=60, deadline=None)
def test_many_copies_of_any_network(case: Case, convert: Any, seed: int) -> None:
    n = 24
    plan = copies(case, n)
    check(plan._program)
    word, m = case.equation.partition("->")[0], len(case.shapes)
    arrays = arrays_of(plan, seed=seed)
    wanted = np.prod([np.einsum(f"{word}->", *arrays[k * m : (k + 1) * m]) for k in range(n)])
    found = plan(*[convert(x) for x in arrays])
    scale = np.prod([np.einsum(f"{word}->", *map(np.abs, arrays[k * m : (k + 1) * m])) for k in range(n)])
    assert abs(float(found) - wanted) <= 1e-12 * scale


def test_elementwise_steps_are_stacked() -> None:
    plan = copies(Case("ij,j,ij->", ((3, 4), (4,), (3, 4))), 32)
    stacks = plan._program.stacks
    assert any(not plan._program.steps[stack.first].is_product for stack in stacks)
    for convert in (np.asarray, torch.from_numpy):
        arrays = [convert(x) for x in arrays_of(plan)]
        close(plan(*arrays), one_by_one(plan, arrays))


def test_stacks_read_inputs_in_any_layout() -> None:
    plan = tree_norm(5, 3)
    arrays = arrays_of(plan)
    wanted = plan(*arrays)
    close(plan(*[np.asfortranarray(x) for x in arrays]), wanted)
    close(plan(*[np.repeat(x, 2, axis=0)[::2] for x in arrays]), wanted)
    close(plan(*[torch.from_numpy(np.asfortranarray(x)) for x in arrays]), wanted)


def test_few_large_or_unequal_steps_run_one_by_one() -> None:
    assert not ring(12, 4)._program.stacks  # too few
    assert not ring(64, 32)._program.stacks  # too large
    terms: Terms = [(k, k + 1) for k in range(64)]
    tree: Any = 0
    for k in range(1, 64):
        tree = (tree, k)
    assert not planned([*terms, (64, 0)], [4] * 65, (tree, 64))._program.stacks  # each needs the one before
    assert not planned([*terms, (64, 0)], [*range(2, 67)], (halves(list(range(64))), 64))._program.stacks
    whole = ring(64, 4)
    assert not dataclasses.replace(whole, splits=((0, 2),))._program.stacks


def test_stacks_are_cut_where_they_grow_large() -> None:
    program = ring(512, 8)._program
    check(program)
    for stack in program.stacks:
        assert stack.n * 64 * 8 <= 96 * 1024
    arrays = [x / 4 for x in arrays_of(ring(512, 8))]
    close(ring(512, 8)(*arrays), np.trace(np.linalg.multi_dot(arrays)))


@pytest.mark.parametrize("make", [lambda: tree_norm(6, 5), lambda: ring(128, 6), lambda: ring(256, 8)])
def test_the_peak_counts_the_stacks(make: Any) -> None:
    plan = make()
    assert plan._program.stacks
    arrays = arrays_of(plan)
    plan(*arrays)
    gc.collect()
    tracemalloc.start()
    try:
        plan(*arrays)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        plan(*arrays)
        found = tracemalloc.get_traced_memory()[1] - before + sum(x.nbytes for x in arrays)
    finally:
        tracemalloc.stop()
    assert found <= plan.peak_bytes + PYTHON + A_STEP * len(plan.pairs)
    assert plan.peak_bytes <= 1.5 * found


def test_a_memory_limit_goes_before_stacks() -> None:
    stacked = ring(64, 4)
    program = stacked._program._replace(stacks=())
    plain = peak_memory(stacked.spec, program, stacked.dtypes, sliced=False).n_bytes
    assert stacked.peak_bytes > plain
    tight, loose = (ring(64, 4, limit=limit) for limit in (stacked.peak_bytes - 1, stacked.peak_bytes))
    assert not tight._program.stacks
    assert tight.peak_bytes < stacked.peak_bytes
    assert loose._program.stacks
    arrays = arrays_of(tight)
    close(tight(*arrays), loose(*arrays))


def test_stacks_are_given_up_where_the_peak_would_rise() -> None:
    assert ring(512, 8)._program.stacks
    assert not ring(2048, 8)._program.stacks  # all first products at once are far more than one way down the tree


def test_plans_with_stacks_do_all_that_plans_do() -> None:
    plan = tree_norm(5, 3)
    arrays = arrays_of(plan)
    wanted = one_by_one(plan, arrays)
    mantissa, log2_scale = plan.scaled(*arrays)
    close(float(mantissa) * 2.0**log2_scale, wanted)
    close(plan.with_constants({k: x for k, x in enumerate(arrays) if k % 2})(*arrays[::2]), wanted)
    close(pickle.loads(pickle.dumps(plan))(*arrays), wanted)
    close(plan.run(*arrays), wanted)
    close(plan.batch(2)(*[np.stack([x, x]) for x in arrays]), [wanted, wanted])
    assert plan.macs == plan._program._replace(stacks=()) and False or plan.macs == sum(plan.step_macs)
    assert 0 < plan.predicted_seconds < 1


def test_gradients_and_transforms_pass_through_stacks() -> None:
    plan = ring(32, 3)
    assert plan._program.stacks
    arrays = [torch.from_numpy(x / 2) for x in arrays_of(plan)]

    def plainly(*xs: Any) -> Any:
        return torch.trace(torch.linalg.multi_dot(list(xs)))

    leaves = [x.clone().requires_grad_() for x in arrays]
    found = torch.autograd.grad(plan(*leaves), leaves)
    wanted = torch.autograd.grad(plainly(*leaves), leaves)
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(mine, theirs)
    many = torch.stack([arrays[3], 2 * arrays[3]])
    several = torch.func.vmap(lambda x: plan(*arrays[:3], x, *arrays[4:]))(many)
    assert torch.allclose(several, plainly(*arrays) * torch.tensor([1.0, 2.0]))
    jacobian = torch.func.jacrev(lambda x: plan(x, *arrays[1:]))(arrays[0])
    assert torch.allclose(jacobian, wanted[0])


def test_torch_compiles_a_plan_with_stacks_whole() -> None:
    torch._dynamo.reset()
    plan = ring(32, 2)
    arrays = [torch.from_numpy(x) for x in arrays_of(plan)]
    wanted = plan(*arrays)
    compiled = torch.compile(lambda *xs: plan(*xs), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(*arrays), wanted)


def test_the_prediction_knows_of_stacks() -> None:
    from tnet.contraction.cost_model import program_seconds
    from tnet.contraction.rates import host_rates

    plan = tree_norm(6, 4)
    rates = host_rates("float64")
    plain = plan._program._replace(stacks=())
    assert program_seconds(plan._program, plan.dtypes, 1, rates) < program_seconds(plain, plan.dtypes, 1, rates)


def test_planning_finds_the_same_stacks_again() -> None:
    assert tree_norm(6, 4)._program == tree_norm(6, 4)._program
    assert isinstance(tnet.plan("ij,jk->ik", (2, 3), (3, 4))._program.stacks, tuple)
