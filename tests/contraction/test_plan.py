"""What a plan promises before it runs: cost, bytes, order, refusals, files."""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import assume, given, settings

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import ContractionPlan, memory
from tnet.contraction.pairs import pairwise_macs
from tnet.contraction.spec import spec_from_labels
from tnet.errors import BackendError, FormatError, IndexLabelError, InputError, MemoryLimitError, ShapeError


def slack(dtype: str) -> int:
    """Python's own objects of one call, and the fixed buffers of NumPy's elementwise loops."""
    return 48 * 1024 + 3 * 8192 * max(np.dtype(dtype).itemsize, 8)


BIG = [
    Case("ab,bc->ac", ((300, 200), (200, 400))),
    Case("ab,bc,cd->ad", ((300, 20), (20, 400), (400, 100))),
    Case("abc,cbd->da", ((40, 50, 60), (60, 50, 40))),
    Case("bac,dcb->da", ((40, 50, 60), (40, 60, 40))),
    Case("zab,bzc->acz", ((20, 60, 70), (70, 20, 30))),
    Case("abc->b", ((40, 50, 60),)),
    Case("abc->cab", ((40, 50, 60),)),
    Case("aab->b", ((100, 100, 30),)),
    Case("aab,bc->ac", ((100, 100, 30), (30, 100))),
    Case("ab,ab->ab", ((300, 300), (300, 300))),
    Case("ab,ab->", ((300, 300), (300, 300))),
    Case("ab,cd->abcd", ((20, 20), (20, 20))),
    Case("ab,ac,ad->bcd", ((30, 30), (30, 40), (30, 50))),
    Case("abx,bcx,cdx,dax->x", ((30, 30, 10),) * 4),
    Case("ij,jk,kl,lm,mi->", ((100, 100),) * 5),
    Case("ab,acd,bce,def->f", ((50, 50), (50, 20, 20), (50, 20, 20), (20, 20, 30))),
]


def measured_peak(plan: ContractionPlan, arrays: list[np.ndarray]) -> int:
    plan(*arrays)  # binds, so that only array data remains to be measured
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        plan(*arrays)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", BIG, ids=lambda case: case.equation)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "float16", "int8"])
def test_peak_bytes_cover_what_is_allocated(case: Case, dtype: str) -> None:
    arrays = [(a / 10).astype(dtype) for a in case.arrays("float64")]
    plan = tnet.plan(case.equation, *arrays)
    fresh = plan.peak_bytes - sum(a.nbytes for a in arrays)
    measured = measured_peak(plan, arrays)
    assert measured <= fresh + slack(dtype)
    assert measured >= 0.5 * fresh - slack(dtype)  # a bound, but not an idle one


@pytest.mark.parametrize("case", BIG, ids=lambda case: case.equation)
def test_a_sliced_plan_keeps_its_limit(case: Case) -> None:
    arrays = case.arrays()
    whole = tnet.plan(case.equation, *arrays)
    fixed = sum(a.nbytes for a in arrays) + 8 * math.prod(whole.output_shape)
    limit = (whole.peak_bytes + fixed) // 2 + 1
    try:
        plan = tnet.plan(case.equation, *arrays, memory_limit=limit)
    except MemoryLimitError:
        pytest.skip("nothing but inputs and result is held: there is nothing to cut")
    assert plan.peak_bytes <= limit
    assert measured_peak(plan, arrays) <= limit - sum(a.nbytes for a in arrays) + slack("float64")
    wanted = whole(*arrays)
    assert np.allclose(plan(*arrays), wanted, rtol=1e-9, atol=1e-9 * np.max(np.abs(wanted)))


def test_the_least_limit_named_is_feasible() -> None:
    shapes = ((64, 64, 8),) * 4
    equation = "abx,bcx,cdx,dax->x"
    with pytest.raises(MemoryLimitError, match="least limit found feasible") as caught:
        tnet.plan(equation, *shapes, memory_limit=1000)
    named = int(str(caught.value).partition("feasible is ")[2].split()[0])
    assert tnet.plan(equation, *shapes, memory_limit=named).peak_bytes <= named


def test_no_limit_is_named_that_is_above_what_the_plan_takes_without_one() -> None:
    equation = ",".join(chr(0x4E00 + k) for k in range(70)) + "->" + "".join(chr(0x4E00 + k) for k in range(70))
    shapes = ((2,),) * 70
    with pytest.raises(MemoryLimitError, match="least limit found feasible") as caught:
        tnet.plan(equation, *shapes, memory_limit="1GiB")
    named = int(str(caught.value).partition("feasible is ")[2].split()[0])
    assert named <= tnet.plan(equation, *shapes).peak_bytes


def named_limit(*network: object, limit: int) -> tuple[int, int, str]:
    """Return the bytes and slices that the refusal of a limit advises, and the whole message."""
    with pytest.raises(MemoryLimitError, match="cannot be met") as caught:
        tnet.plan(*network, memory_limit=limit)  # type: ignore[arg-type]
    found = re.search(r"feasible is (\d+) bytes \(.*?\) with (\d+) slices?;", str(caught.value))
    assert found is not None
    return int(found[1]), int(found[2]), str(caught.value)


def test_no_limit_is_advised_that_takes_too_many_slices() -> None:
    n = 10  # a complete graph: each operand has one index with each other
    terms = [[f"{min(a, b)}.{max(a, b)}" for b in range(n) if b != a] for a in range(n)]
    network = [x for term in terms for x in ((2,) * (n - 1), term)]
    advised, n_slices, said = named_limit(*network, [], limit=1000)
    assert n_slices <= 2**20
    plan = tnet.plan(*network, [], memory_limit=advised)
    assert plan.peak_bytes <= advised
    assert plan.n_slices <= 2**20
    if "would take" in said:
        assert int(said.rpartition("would take ")[2].split()[0]) > 2**20


def test_one_slice_is_not_slices() -> None:
    assert "with 1 slice; " in named_limit(",->", (), (), limit=8)[2]


@pytest.mark.parametrize("n", [8, 30])
def test_the_advice_stays_within_a_number_of_slices(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tnet.contraction.slicing.MOST_SLICES_ADVISED", 8)
    monkeypatch.setattr("tnet.contraction.fitting.MOST_SLICES_ADVISED", 8)
    rng = np.random.default_rng(n)
    ends = rng.permutation(np.repeat(np.arange(n), 3)).reshape(-1, 2)
    terms = [[k for k, pair in enumerate(ends) if node in pair] for node in range(n)]
    network = [x for term in terms for x in ((4,) * len(term), term)]
    fixed = sum(8 * 4 ** len(term) for term in terms) + 8
    advised, n_slices, said = named_limit(*network, [], limit=fixed)
    assert n_slices <= 8
    assert fixed < advised <= tnet.plan(*network, []).peak_bytes
    assert " would take " in said
    assert int(said.rpartition("would take ")[2].split()[0]) > 8


@given(networks())
@settings(max_examples=60, deadline=None)
def test_path_and_macs_agree_with_opt_einsum(case: Case) -> None:
    plan = tnet.plan(case.equation, *case.shapes)
    _, info = opt_einsum.contract_path(case.equation, *case.shapes, shapes=True, optimize=plan.path)
    assert np.prod(info.size_list[-1], dtype=int) == np.prod(plan.output_shape, dtype=int)
    assert plan.flops == 2 * plan.macs == 2 * pairwise_macs(plan.spec, plan.pairs)
    arrays = case.arrays()
    theirs = opt_einsum.contract(case.equation, *arrays, optimize=plan.path)
    assert np.allclose(plan(*arrays), theirs, rtol=1e-9, atol=1e-9)


def test_macs_of_a_chain_by_hand() -> None:
    plan = tnet.plan("ij,jk,kl->il", (10, 100), (100, 5), (5, 50), planner="optimal")
    assert plan.macs == 10 * 100 * 5 + 10 * 5 * 50  # (AB)C, the textbook's matrix chain
    assert plan.flops == 2 * plan.macs
    assert plan.path == [(0, 1), (0, 1)]


@given(networks(max_operands=6))
@settings(max_examples=30, deadline=None)
def test_optimal_is_never_worse(case: Case) -> None:
    assume(all(0 not in shape for shape in case.shapes))
    best = tnet.plan(case.equation, *case.shapes, planner="optimal").macs
    for planner in ("greedy", "auto", "random-greedy", "annealing"):
        assert best <= tnet.plan(case.equation, *case.shapes, planner=planner, rng=1).macs


def test_random_greedy_repeats_with_a_seed_and_stops_in_time() -> None:
    rng = np.random.default_rng(0)
    labels = [opt_einsum.get_symbol(k) for k in range(30)]
    ends = rng.permutation(np.repeat(labels, 2)).reshape(20, 3)  # a random 3-regular network
    equation = ",".join("".join(term) for term in ends) + "->"
    shapes = [(3, 3, 3)] * 20
    plans = [tnet.plan(equation, *shapes, planner="random-greedy", rng=7) for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0].macs <= tnet.plan(equation, *shapes, planner="greedy").macs
    hurried = tnet.plan(equation, *shapes, planner="random-greedy", rng=7, max_planning_seconds=1e-9)
    assert hurried.macs == tnet.plan(equation, *shapes, planner="greedy").macs


def test_order_of_evaluation_holds_the_least() -> None:
    # Two branches: the one with the larger temporary must run first, when nothing else is held.
    plan = tnet.plan("ab,bc,cd,de->ae", (100, 2), (2, 100), (100, 3), (3, 100))
    reverse = ContractionPlan(plan.spec, tuple((b, a) for a, b in plan.pairs), (), plan.dtypes)
    assert plan.peak_bytes <= reverse.peak_bytes


@pytest.mark.parametrize(
    ("equation", "shapes", "error", "words"),
    [
        ("ij,jk->iz", [(2, 3), (3, 4)], IndexLabelError, ["'z'", "no operand"]),
        ("ij,jk->ii", [(2, 3), (3, 4)], IndexLabelError, ["'i'", "more than once"]),
        ("ij,jk->ik", [(2, 3), (4, 4)], IndexLabelError, ["'j'", "operand 0", "operand 1", "3", "4"]),
        ("ii->", [(2, 3)], IndexLabelError, ["'i'", "2", "3"]),
        ("ij,jk->ik", [(2, 3)], ShapeError, ["2 operands", "1"]),
        ("ij,jk->ik", [(2, 3), (3,)], ShapeError, ["operand 1", "1 axes"]),
        ("ij->k->l", [(2, 3)], IndexLabelError, ["'->'"]),
        ("ij-jk", [(2, 3)], IndexLabelError, ["'->'"]),
        ("ij->i,j", [(2, 3)], IndexLabelError, ["commas"]),
        ("i..j->ij", [(2, 3)], IndexLabelError, ["three dots"]),
        ("i->...i", [(2,)], IndexLabelError, ["'...'"]),
        ("...i->..i", [(2, 3)], IndexLabelError, ["three dots"]),
        ("...ijk->i", [(2, 3)], ShapeError, ["operand 0"]),
        ("...i,...i->...", [(2, 3), (4, 3)], IndexLabelError, ["2", "4"]),
        ("i->i", [(-2,)], ShapeError, ["operand 0", "'i'", "-2"]),
        ("ij,jk->ik", [(2, -3), (-3, 4)], ShapeError, ["operand 0", "'j'", "-3"]),
        ("i->i", [(True,)], ShapeError, ["integer"]),
        ("i->i", [(2**63,)], ShapeError, ["2^63"]),
        ("i->i", [3.5], BackendError, ["operand 0", "float"]),
        (3, [(2,)], InputError, ["equation", "int"]),
    ],
)
def test_bad_equations_are_refused_by_name(
    equation: Any, shapes: list[Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        tnet.plan(equation, *shapes)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"planner": "best"}, "planner"),
        ({"planner": [(0, 1), (0, 1)]}, r"\[\(0, 1\), \(0, 1\)\].*2 operands"),
        ({"planner": [(0, 2)]}, "2 operands"),
        ({"planner": [(0, 0)]}, "repeat"),
        ({"planner": []}, "2 operands are left"),
        ({"planner": [("a", 1)]}, "planner is of type list"),
        ({"planner": 3}, "planner is of type int"),
        ({"memory_limit": 0}, "memory_limit"),
        ({"memory_limit": "many"}, "memory_limit"),
        ({"memory_limit": True}, "memory_limit"),
        ({"memory_limit": 1.5}, "memory_limit"),
        ({"memory_limit": "1 giga"}, "memory_limit"),
        ({"memory_limit": "9" * 400 + "GiB"}, "memory_limit"),
        ({"max_planning_seconds": 0}, "max_planning_seconds"),
        ({"max_planning_seconds": float("nan")}, "max_planning_seconds"),
        ({"max_planning_seconds": True}, "max_planning_seconds"),
        ({"max_planning_seconds": "a"}, "max_planning_seconds='a'"),
        ({"rng": "x"}, "rng"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        tnet.plan("ij,jk->ik", (2, 3), (3, 4), **options)


def test_unknown_presets_of_cotengra_are_refused() -> None:
    pytest.importorskip("cotengra")
    with pytest.raises(InputError, match=r"cotengra:nothing.*preset"):
        tnet.plan("ij,jk->ik", (2, 3), (3, 4), planner="cotengra:nothing")


def test_bad_dtypes_are_refused() -> None:
    with pytest.raises(BackendError, match="longdouble"):
        tnet.plan("i->", (2,), dtype="longdouble")
    with pytest.raises(BackendError, match="uint64 and int8"):
        tnet.contract("i,i->", np.ones(2, np.uint64), np.ones(2, np.int8))
    with pytest.raises(BackendError, match="operand 0"):
        tnet.contract("i->", np.array(["a", "b"]))
    with pytest.raises(BackendError, match="masked"):
        tnet.plan("i->", (2,))(np.ma.masked_array([1.0, 2.0]))


def test_optimal_refuses_what_it_cannot_finish() -> None:
    n = 70
    ring = [[k, (k + 1) % n, n + k % 35, n + 35 + k % 7] for k in range(n)]
    operands = [x for labels in ring for x in ((2, 2, 2, 2), labels)]
    with pytest.raises(InputError, match=r"70 operands.*planner='auto'"):
        tnet.plan(*operands, [], planner="optimal")
    labels = [opt_einsum.get_symbol(k) for k in range(120)]
    edges = {pair: labels.pop() for pair in itertools.combinations(range(16), 2)}
    terms = ["".join(label for pair, label in edges.items() if k in pair) for k in range(16)]
    with pytest.raises(InputError, match="max_planning_seconds"):
        tnet.plan(",".join(terms) + "->", *((2,) * 15,) * 16, planner="optimal", max_planning_seconds=1e-9)


def test_wrong_arrays_are_refused_by_a_plan() -> None:
    plan = tnet.plan("ij,jk->ik", (2, 3), (3, 4))
    with pytest.raises(ShapeError, match="operand 1 has shape"):
        plan(np.ones((2, 3)), np.ones((4, 4)))
    with pytest.raises(ShapeError, match="2 operands, but 1"):
        plan(np.ones((2, 3)))
    with pytest.raises(BackendError, match="several libraries"):
        plan(np.ones((2, 3)), torch.ones(3, 4))
    with pytest.raises(BackendError, match="several libraries"):
        tnet.contract("ij,jk->ik", np.ones((2, 3)), torch.ones(3, 4))
    with pytest.raises(BackendError, match="two devices"):
        tnet.contract("ij,jk->ik", torch.ones(2, 3), torch.ones(3, 4, device="meta"))


def test_a_network_takes_no_operands() -> None:
    network = tnet.formats.TensorNetwork((np.ones(2),), (("a",),), ())
    with pytest.raises(InputError, match="beside a TensorNetwork"):
        tnet.plan(network, (2,))
    with pytest.raises(InputError, match="beside a TensorNetwork"):
        tnet.contract(network, np.ones(2))
    with pytest.raises(InputError, match="nothing to contract"):
        spec_from_labels((), (), ())


def test_planning_works_on_meta_tensors() -> None:
    x = torch.empty(1000, 1000, device="meta")
    assert tnet.plan("ij,jk->ik", x, x).macs == 10**9


def test_wider_dtypes_than_planned_meet_the_limit() -> None:
    plan = tnet.plan("ij,jk->ik", (64, 64), (64, 64), dtype="float32", memory_limit=3 * 64 * 64 * 4)
    a = np.ones((64, 64), np.float32)
    assert plan(a, a)[0, 0] == 64
    with pytest.raises(MemoryLimitError, match="float64"):
        plan(a.astype(float), a.astype(float))


def test_too_little_free_memory_is_refused_before_allocating(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = tnet.plan("i,j->ij", (4096,), (4096,))
    inner = tnet.plan("i,j,ij->", (4096,), (4096,), (4096, 4096), planner=[(0, 1), (0, 1)])
    x = np.ones(4096)
    module = importlib.import_module("tnet.contraction.bound_calls")
    monkeypatch.setattr(module, "free_bytes", lambda x: 2**20)
    with pytest.raises(MemoryLimitError, match="the result alone takes 128 MiB") as caught:
        outer(x, x)
    assert "memory_limit" not in str(caught.value)
    with pytest.raises(MemoryLimitError, match="plan with memory_limit="):
        inner(x, x, np.broadcast_to(x, (4096, 4096)))
    with pytest.raises(MemoryLimitError, match="the result alone takes 128 MiB"):
        outer.scaled(x, x)
    monkeypatch.setattr(module, "free_bytes", lambda x: None)
    assert outer(x, x).shape == (4096, 4096)


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float32"), np.dtype(">f4"), torch.float32, "float32"])
def test_dtypes_of_every_library_are_read(dtype: object) -> None:
    assert tnet.plan("i,i->", (2,), (2,), dtype=dtype).dtypes.operands == ("float32", "float32")


@pytest.mark.parametrize("dtype", [None, [], object, "numbers"])
def test_what_is_no_dtype_of_numbers_is_refused(dtype: object) -> None:
    with pytest.raises(BackendError, match="dtype"):
        tnet.plan("i,i->", (2,), (2,), dtype=dtype)


def test_limits_are_integers_of_any_kind() -> None:
    thousand: Any = np.int64(1000)
    assert tnet.plan("i,i->", (2,), (2,), memory_limit=thousand).memory_limit == 1000
    for limit in (1e6, np.float64(1e6), np.array(1e6), True, 0):
        with pytest.raises(InputError, match="positive integer"):
            tnet.plan("i,i->", (2,), (2,), memory_limit=limit)  # type: ignore[arg-type]


def test_a_network_is_not_its_tensors() -> None:
    network = tnet.formats.TensorNetwork((np.ones((2, 3)), np.ones(3)), (("a", "b"), ("b",)), output=("a",))
    plan = tnet.plan(network)
    for call in (plan, plan.run, plan.scaled):
        with pytest.raises(InputError, match=r"plan\(\*network.tensors\)"):
            call(network)  # type: ignore[arg-type]


def test_one_operand_was_given() -> None:
    plan = tnet.plan("i,i->", (2,), (2,))
    for call in (plan, plan.run):
        with pytest.raises(ShapeError, match="2 operands, but 1 was given"):
            call(np.ones(2))
    with pytest.raises(ShapeError, match="3 operands, but 2 were given"):
        tnet.plan("i,i,i->", (2,), (2,))
    with pytest.raises(ShapeError, match=f"'i' has size {-(2**63)} in operand 0"):
        tnet.plan("i,i->", (-(2**63),), (2,))


def test_plans_are_kept_by_themselves(tmp_path: Path) -> None:
    plan = tnet.plan("i,i->", (2,), (2,))
    with pytest.raises(InputError, match=r"plan\.save"):
        tnet.save(plan, tmp_path / "plan")
    plan.save(tmp_path / "plan.json")
    with pytest.raises(FormatError, match=r"ContractionPlan\.load"):
        tnet.load(tmp_path / "plan.json")


def test_a_contraction_beyond_this_host_is_refused() -> None:
    plan = tnet.plan("i,j->ij", (2**22,), (2**22,))  # 128 TiB
    with pytest.raises(MemoryLimitError):
        plan(np.ones(2**22), np.ones(2**22))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8GiB", 2**33),
        ("500 MB", 5 * 10**8),
        ("1.5kib", 1536),
        ("100", 100),
        ("7 B", 7),
        (12, 12),
        (np.int64(12), 12),
        ("9007199254740993", 2**53 + 1),
        (None, None),
    ],
)
def test_bytes_for_people(text: Any, value: int | None) -> None:
    assert memory.parse_bytes(text) == value


def test_bytes_are_written_with_three_digits() -> None:
    assert memory.format_bytes(100) == "100 B"
    assert memory.format_bytes(3 * 2**30) == "3 GiB"
    assert memory.format_bytes(2**62).endswith("PiB")


def test_free_memory_of_the_host() -> None:
    free = memory.free_bytes(np.ones(1))
    assert free is not None
    assert free > 2**20
    assert memory.free_bytes(torch.ones(1, device="meta")) is None


def test_predicted_seconds_grow_with_the_work() -> None:
    small = tnet.plan("ij,jk->ik", (8, 8), (8, 8)).predicted_seconds
    large = tnet.plan("ij,jk->ik", (2000, 2000), (2000, 2000)).predicted_seconds
    assert 0 < small < large < 60
    assert tnet.plan("ij,jk->ik", (8, 8), (8, 8), dtype="int64").predicted_seconds > 0


def test_repr_is_a_report_of_at_most_twelve_lines() -> None:
    equation = ",".join(f"{a}{b}" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)) + "->am"
    plan = tnet.plan(equation, *((2, 2),) * 12)
    assert len(repr(plan).splitlines()) <= 12
    assert "more steps" in repr(plan)
    cut = tnet.plan("ab,bc,cd,da->", *((32, 32),) * 4, memory_limit=4 * 8192 + 12000)
    assert f"slices    {cut.n_slices} (" in repr(cut)


def test_plans_are_values() -> None:
    a, b = (tnet.plan("ij,jk->ik", (2, 3), (3, 4)) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != tnet.plan("ij,jk->ik", (2, 3), (3, 5))


@given(networks(max_operands=5))
@settings(max_examples=25, deadline=None)
def test_save_and_load_give_an_equal_plan(case: Case) -> None:
    import tempfile

    plan = tnet.plan(case.equation, *case.shapes)
    with tempfile.TemporaryDirectory() as folder:
        plan.save(f"{folder}/plan.json")
        again = ContractionPlan.load(f"{folder}/plan.json")
    assert again == plan
    arrays = case.arrays()
    assert np.array_equal(again(*arrays), plan(*arrays))


def _edit(**changes: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        content.update(changes)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _edit(format_version=99),
        _edit(format_version=True),
        _edit(format_version=2.0),
        _edit(labels="abc"),
        _edit(format="other"),
        _edit(labels=["a"]),
        _edit(labels=["i", "i", "k"]),
        _edit(sizes=[2, 3, -4]),
        _edit(sizes=[2, 3, True]),
        _edit(inputs=[[0, 1], [1, 9]]),
        _edit(inputs=[]),
        _edit(output=[0, 0]),
        _edit(output="ik"),
        _edit(path=[[0, 0]]),
        _edit(path=[[0, 1], [0, 1]]),
        _edit(path=[]),
        _edit(splits=[[1, 2]]),
        _edit(splits=[[1, 3], [1, 3]]),
        _edit(dtypes=["float64"]),
        _edit(dtypes=["float64", "evil"]),
        _edit(memory_limit="8GiB"),
        _edit(planner=3),
        _edit(on_host=1),
        lambda content: content.pop("sizes"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "plan.json"
    tnet.plan("ij,jk->ik", (2, 3), (3, 4)).save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"plan\.json"):
        ContractionPlan.load(path)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_no_json_are_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(raw)
    with pytest.raises(FormatError):
        ContractionPlan.load(path)


def test_oversized_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with path.open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(FormatError, match="larger than"):
        ContractionPlan.load(path)


def test_a_truncated_file_never_loads(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    tnet.plan("ij,jk->ik", (2, 3), (3, 4)).save(path)
    raw = path.read_bytes().rstrip()
    for length in range(0, len(raw), 7):
        path.write_bytes(raw[:length])
        with pytest.raises(FormatError):
            ContractionPlan.load(path)
