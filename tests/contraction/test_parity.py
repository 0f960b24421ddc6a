"""The value of a contraction, against numpy.einsum."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import ContractionPlan
from tnet.contraction.planning import PLANNERS
from tnet.errors import MemoryLimitError
from tnet.formats import TensorNetwork


def close(found: object, wanted: np.ndarray, tolerance: float = 1e-11) -> None:
    found = np.asarray(found)
    assert found.shape == wanted.shape
    scale = max(1.0, float(np.max(np.abs(wanted), initial=0.0)))
    assert float(np.max(np.abs(found - wanted), initial=0.0)) <= tolerance * scale


@given(networks())
@settings(max_examples=150, deadline=None)
def test_random_networks_agree_with_numpy(case: Case) -> None:
    arrays = case.arrays()
    close(tnet.contract(case.equation, *arrays), np.einsum(case.equation, *arrays))


@given(networks(max_operands=8), st.sampled_from(PLANNERS))
@settings(max_examples=120, deadline=None)
def test_every_planner_gives_the_same_value(case: Case, planner: str) -> None:
    arrays = case.arrays("complex128")
    seconds = 1.0 if planner == "auto" else None  # so that the compiled planners take part
    found = tnet.contract(case.equation, *arrays, planner=planner, max_planning_seconds=seconds, rng=0)
    close(found, np.einsum(case.equation, *arrays))


@given(networks(max_operands=8), st.sampled_from(PLANNERS))
@settings(max_examples=80, deadline=None)
def test_no_planner_costs_more_than_greedy(case: Case, planner: str) -> None:
    seconds = 1.0 if planner == "auto" else None
    found = tnet.plan(case.equation, *case.shapes, planner=planner, max_planning_seconds=seconds, rng=0)
    assert found.macs <= tnet.plan(case.equation, *case.shapes, planner="greedy").macs


@given(networks(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_path_is_taken_as_given(case: Case, random: object) -> None:
    n = len(case.shapes)
    path = [tuple(random.sample(range(k), 2)) for k in range(n, 1, -1)]  # type: ignore[attr-defined]
    plan = tnet.plan(case.equation, *case.shapes, planner=path)
    assert plan.path == ([tuple(sorted(step)) for step in path] or [(0,)])
    arrays = case.arrays()
    close(plan(*arrays), np.einsum(case.equation, *arrays))


@given(networks(max_operands=4), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_sliced_equals_unsliced(case: Case, random: object) -> None:
    whole = tnet.plan(case.equation, *case.shapes)
    splits = []
    for index, size in enumerate(whole.spec.sizes):
        divisors = [p for p in range(1, size + 1) if size % p == 0] or [1]
        parts = random.choice(divisors)  # type: ignore[attr-defined]
        if parts > 1:
            splits.append((index, parts))
    cut = ContractionPlan(whole.spec, whole.pairs, tuple(splits), whole.dtypes)
    arrays = case.arrays()
    close(cut(*arrays), whole(*arrays))
    assert cut.n_slices == np.prod([parts for _, parts in splits], dtype=int)


@given(networks(max_operands=4))
@settings(max_examples=40, deadline=None)
def test_torch_agrees(case: Case) -> None:
    arrays = case.arrays()
    found = tnet.contract(case.equation, *map(torch.from_numpy, arrays))
    assert isinstance(found, torch.Tensor)
    close(found.numpy(), np.einsum(case.equation, *arrays))


@given(networks(max_operands=4))
@settings(max_examples=30, deadline=None)
def test_array_api_strict_agrees(case: Case) -> None:
    arrays = case.arrays()
    found = tnet.contract(case.equation, *map(array_api_strict.asarray, arrays))
    close(np.asarray(found), np.einsum(case.equation, *arrays))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ij,...jk", [(2, 3, 4), (2, 4, 5)]),
        ("...ij,...jk->...ik", [(5, 1, 3, 4), (2, 4, 5)]),
        ("i...,i...->...", [(3, 2, 1), (3, 4)]),
        ("a...b,b->a...", [(2, 3, 4, 5), (5,)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("ba", [(2, 3)]),
        ("ii", [(3, 3)]),
        ("iij->ij", [(3, 3, 2)]),
        ("iii->i", [(3, 3, 3)]),
        ("...->...", [(2, 3)]),
        (" i j , j k -> k i ", [(2, 3), (3, 4)]),
        (",ij->ji", [(), (2, 3)]),
        ("i,j->ij", [(0,), (3,)]),
        ("ij,jk->ik", [(2, 0), (0, 3)]),
    ],
)
def test_forms_of_the_equation(equation: str, shapes: list[tuple[int, ...]]) -> None:
    arrays = Case(equation, tuple(shapes)).arrays()
    close(tnet.contract(equation, *arrays), np.einsum(equation, *arrays))


def test_a_network_contracts_by_its_names() -> None:
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)
    network = TensorNetwork((a, b, c), (("left", "bond"), ("bond", "far"), ("far",)), ("left",))
    close(tnet.contract(network), a @ b @ c)
    plan = tnet.plan(network)
    close(plan(*network.tensors), a @ b @ c)
    assert plan.spec.equation == "left bond,bond far,far->left"


def test_more_indices_than_letters() -> None:
    n = 70
    rng = np.random.default_rng(0)
    tensors = tuple(rng.normal(size=(2, 2)) for _ in range(n))
    names = tuple((f"bond{k}", f"bond{k + 1}") for k in range(n))
    found = tnet.contract(TensorNetwork(tensors, names, ("bond0", f"bond{n}")))
    close(found, np.linalg.multi_dot(tensors), 1e-9)


@pytest.mark.parametrize(
    ("dtypes", "result"),
    [
        (("float32", "float64"), "float64"),
        (("float32", "complex64"), "complex64"),
        (("float64", "complex64"), "complex128"),
        (("int8", "int8"), "int64"),
        (("bool", "uint8"), "int64"),
        (("uint64", "uint8"), "uint64"),
        (("int64", "float32"), "float32"),
        (("float16", "float16"), "float16"),
        (("float16", "float32"), "float32"),
    ],
)
def test_result_dtype(dtypes: tuple[str, str], result: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 3, size=(4, 4)).astype(d) for d in dtypes)
    found = tnet.contract("ij,jk->ik", a, b)
    assert found.dtype == np.dtype(result)
    close(found.astype(complex), a.astype(complex) @ b.astype(complex))


def test_bfloat16_computes_in_float32() -> None:
    a = torch.ones(1, 4096, dtype=torch.bfloat16)
    found = tnet.contract("ij,kj->ik", a, a)
    assert found.dtype == torch.bfloat16
    assert float(found) == 4096.0
    b = torch.ones(3, dtype=torch.bfloat16)
    assert tnet.contract("i,i->", b, b.half()).dtype == torch.float32


def test_small_integers_do_not_overflow() -> None:
    a = np.full((1, 1000), 100, dtype=np.int8)
    assert int(tnet.contract("ij,kj->ik", a, a)[0, 0]) == 10_000_000
    assert int(tnet.contract("ij->", a)) == 100_000


def test_gradients_flow() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(3, 3, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3))
    plan = tnet.plan("ij,jk,kk->i", a, b, c)
    assert torch.autograd.gradcheck(plan, (a, b, c))
    cut = ContractionPlan(plan.spec, plan.pairs, ((1, 3),), plan.dtypes)
    assert torch.autograd.gradcheck(cut, (a, b, c))


@pytest.mark.parametrize("equation", ["ij->ij", "ij->ji", "ii->i", "ij,ij->ij", "i...->i..."])
def test_the_result_shares_no_memory_and_inputs_stay(equation: str) -> None:
    n = equation.partition("->")[0].count(",") + 1
    arrays = [np.arange(9.0).reshape(3, 3) + k for k in range(n)]
    for a in arrays:
        a.flags.writeable = False
    before = [a.copy() for a in arrays]
    found = tnet.contract(equation, *arrays)
    assert not any(np.shares_memory(found, a) for a in arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


def test_strided_inputs_equal_their_copies() -> None:
    big = np.random.default_rng(0).normal(size=(6, 8, 10))
    views = [
        big[::-2, ::2, 1::3],
        big.transpose(2, 0, 1)[:3, :4, ::-3],
        np.broadcast_to(big[0, 0, :3], (4, 3)),
    ]
    equation = "abc,cbd,bc->ad"
    arrays = [views[0], views[1].transpose(0, 1, 2), views[2]]
    wanted = np.einsum(equation, *arrays)
    close(tnet.contract(equation, *arrays), wanted)
    close(tnet.contract(equation, *[a.copy() for a in arrays]), wanted)


def test_lists_and_memmaps(tmp_path: object) -> None:
    path = f"{tmp_path}/a.npy"
    np.save(path, np.eye(3))
    mapped = np.load(path, mmap_mode="r")
    plan = tnet.plan("ij,j->i", (3, 3), (3,))
    close(plan(mapped, [1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    close(plan(mapped, np.ones(3)), np.ones(3))
    close(tnet.contract("ij,j->i", [[1, 2], [3, 4]], [1, 1]), np.array([3, 7]))


def test_memory_limit_through_the_front_door() -> None:
    case = Case("ab,bc,cd,da->", ((64, 32), (32, 64), (64, 32), (32, 64)))
    arrays = case.arrays()
    whole = tnet.plan(case.equation, *case.shapes)
    limit = whole.peak_bytes - 8000
    cut = tnet.plan(case.equation, *case.shapes, memory_limit=limit)
    assert cut.n_slices > 1
    assert cut.peak_bytes <= limit
    close(tnet.contract(case.equation, *arrays, memory_limit=limit), np.einsum(case.equation, *arrays))
    with pytest.raises(MemoryLimitError, match="inputs and result alone"):
        tnet.contract(case.equation, *arrays, memory_limit="1KiB")
