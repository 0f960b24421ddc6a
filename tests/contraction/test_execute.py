"""Ways to run a plan: compilers, transforms, any memory layout, tiny calls, fixed operands, batches, any scale."""

from __future__ import annotations

import gc
import math
import pickle
import weakref
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import ContractionPlan
from tnet.errors import BackendError, InputError, MemoryLimitError, ShapeError

CHAIN = Case("ij,jk,kl,lm->im", ((3, 4), (4, 5), (5, 6), (6, 2)))


def close(found: Any, wanted: Any, tolerance: float = 1e-11) -> None:
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    scale = max(1.0, float(np.max(np.abs(wanted), initial=0.0)))
    assert float(np.max(np.abs(found - wanted), initial=0.0)) <= tolerance * scale


def cut_at_random(plan: ContractionPlan, noise: Any) -> ContractionPlan:
    splits = []
    for index, size in enumerate(plan.spec.sizes):
        parts = noise.choice([p for p in range(1, size + 1) if size % p == 0] or [1])
        splits += [(index, parts)] if parts > 1 else []
    return ContractionPlan(plan.spec, plan.pairs, tuple(splits), plan.dtypes)


def laid_out(x: np.ndarray, kind: int) -> np.ndarray:
    """The same values in another memory layout."""
    if kind == 1:
        return np.array(x, order="F")
    if kind == 2:
        return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x
    if kind == 3:
        return x[::-1].copy()[::-1] if x.ndim else x
    if kind == 4 and x.ndim:
        axes = (*range(1, x.ndim), 0)
        return x.transpose(axes).copy(order="C").transpose([x.ndim - 1, *range(x.ndim - 1)])
    return x


@given(networks(), st.data(), st.sampled_from(["float64", "complex64", "float16", "int32"]))
@settings(max_examples=60, deadline=None)
def test_any_memory_layout_gives_the_same_value(case: Case, data: st.DataObject, dtype: str) -> None:
    rng = np.random.default_rng(0)
    plain = [rng.integers(-2, 3, shape).astype(dtype) for shape in case.shapes]
    arrays = [laid_out(x, data.draw(st.integers(0, 4))) for x in plain]
    wanted = np.einsum(case.equation, *[x.astype("complex128") for x in plain])
    tolerance = 2e-3 if dtype == "float16" else 1e-6
    plan = tnet.plan(case.equation, *arrays)
    close(plan(*arrays), wanted, tolerance)
    close(plan(*plain), wanted, tolerance)  # the same plan meets arrays in C order
    close(cut_at_random(plan, data.draw(st.randoms(use_true_random=False)))(*arrays), wanted, tolerance)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "ij,ji->i", "zij,zjk->ik", "ij,i->ij", "ij->ji", "jj->j", "ij->i"])
@pytest.mark.parametrize(("dtype", "wanted"), [("int8", "int64"), ("float16", "float16"), ("bool", "int64")])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_empty_operands_are_converted_like_others(equation: str, dtype: str, wanted: str, convert: Any) -> None:
    sizes = {"i": 2, "j": 0, "k": 3, "z": 2}
    terms = equation.split("->")[0].split(",")
    arrays = [convert(np.zeros([sizes[label] for label in term], dtype)) for term in terms]
    mixed = [*arrays[:-1], convert(np.asarray(arrays[-1]).astype("float64"))]
    plan = tnet.plan(equation, *arrays)
    splits = tuple((k, 2) for k, label in enumerate(plan.spec.labels) if sizes[label] == 2)
    cut = ContractionPlan(plan.spec, plan.pairs, splits, plan.dtypes)
    for call in (plan, cut):
        assert str(call(*arrays).dtype).endswith(wanted)
        assert str(call(*mixed).dtype).endswith("float64")


def test_plans_are_made_from_arrays_of_either_byte_order() -> None:
    plain = CHAIN.arrays()
    arrays = [x.astype(">f8") for x in plain]
    plan = tnet.plan(CHAIN.equation, *arrays)
    assert plan == tnet.plan(CHAIN.equation, *plain)
    close(plan(*arrays), np.linalg.multi_dot(plain))
    assert plan(*arrays).dtype == np.float64


@given(networks(max_operands=5), st.randoms(use_true_random=False), st.sampled_from(["numpy", "torch", "strict"]))
@settings(max_examples=80, deadline=None)
def test_constants_are_folded(case: Case, noise: Any, library: str) -> None:
    convert = {"numpy": np.asarray, "torch": torch.from_numpy, "strict": array_api_strict.asarray}[library]
    arrays = [convert(x) for x in case.arrays()]
    chosen = noise.sample(range(len(arrays)), noise.randint(1, len(arrays)))
    plan = cut_at_random(tnet.plan(case.equation, *case.shapes), noise)
    folded = plan.with_constants({k: arrays[k] for k in chosen})
    free = [x for k, x in enumerate(arrays) if k not in chosen]
    close(folded(*free), np.einsum(case.equation, *case.arrays()))
    assert folded.positions == tuple(k for k in range(len(arrays)) if k not in chosen)


def test_a_subtree_of_constants_is_computed_once() -> None:
    plan = tnet.plan("ab,bc,cd,d->a", (9, 8), (8, 7), (7, 6), (6,))
    arrays = Case("", plan.spec.input_shapes).arrays()
    pair = plan.pairs[0]
    folded = plan.with_constants({k: arrays[k] for k in pair})
    assert len(folded.plan.spec.inputs) == 3
    assert folded.plan.macs == sum(step.macs for step in plan._program.steps[1:])
    assert "FoldedPlan" in repr(folded)
    with pytest.raises(ShapeError, match="give 2"):
        folded(*arrays)


def test_constants_keep_the_dtype_of_the_result_and_the_limit() -> None:
    x = np.ones((4, 4), np.float16)
    plan = tnet.plan("ij,jk,kl->il", x, x, x)
    a, b = plan.pairs[0]
    found = plan.with_constants({a: x, b: x})(x)
    assert found.dtype == np.float16
    assert found[0, 0] == 16
    # The product of the constants is far larger than they are: within the limit it is not kept.
    shapes = ((64, 2), (2, 64), (64, 64), (64,))
    plan = tnet.plan("ab,bc,ca,c->", *shapes)
    arrays = Case("", shapes).arrays()
    for limit, n_left in ((10**6, 3), (40_000, 4)):
        limited = ContractionPlan(plan.spec, ((0, 1), (2, 4), (3, 5)), (), plan.dtypes, limit)
        assert len(limited.with_constants({0: arrays[0], 1: arrays[1]}).plan.spec.inputs) == n_left


@pytest.mark.parametrize(
    ("constants", "error"),
    [
        ({}, InputError),
        ({7: np.ones(2)}, InputError),
        ({True: np.ones(2)}, InputError),
        ([np.ones((2, 3))], InputError),
        ({0: np.ones(9)}, ShapeError),
    ],
)
def test_bad_constants_are_refused(constants: dict[Any, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="constant"):
        tnet.plan("ij,jk->ik", (2, 3), (3, 4)).with_constants(constants)


@given(networks(max_operands=4), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_a_batch_is_many_contractions(case: Case, noise: Any) -> None:
    plan = tnet.plan(case.equation, *case.shapes)
    n = len(case.shapes)
    chosen = noise.choice([None, noise.sample(range(n), noise.randint(1, n))])
    batch = plan.batch(3, chosen)
    single = case.arrays()
    several = [np.stack([(j + 1) * x for j in range(3)]) for x in single]
    positions = range(n) if chosen is None else chosen
    given_arrays = [several[k] if k in positions else single[k] for k in range(n)]
    wanted = [
        np.einsum(case.equation, *((j + 1) * x if k in positions else x for k, x in enumerate(single)))
        for j in range(3)
    ]
    close(batch(*given_arrays), np.stack(wanted))
    assert batch.pairs == plan.pairs


def test_the_label_of_a_batch_is_new_and_a_letter_where_all_are() -> None:
    assert tnet.plan("iz,zj->ij", (2, 3), (3, 4)).batch(5, [0]).spec.equation == "yiz,zj->yij"
    letters = "".join(map(chr, range(ord("a"), ord("z") + 1)))
    full = tnet.plan(f"{letters}->{letters}", (1,) * 26).batch(2).spec
    assert full.labels[-1] == "batch"
    named = tnet.plan((2, 3), ["batch", "i"], ["batch"]).batch(2).spec
    assert named.labels[-1] == "batch'"


def test_a_batch_keeps_the_memory_limit_or_says_so() -> None:
    plan = tnet.plan("ab,bc,cd,da->", *((32, 32),) * 4, memory_limit="100KiB")
    batch = plan.batch(2)
    assert batch.peak_bytes <= 100 * 1024
    with pytest.raises(MemoryLimitError):
        plan.batch(100)


@pytest.mark.parametrize(
    ("n", "operands"), [(0, None), (2.5, None), (True, None), (2, []), (2, [0, 0]), (2, [5]), (2, [True])]
)
def test_bad_batches_are_refused(n: Any, operands: Any) -> None:
    with pytest.raises(InputError, match=r"n=|operands="):
        tnet.plan("ij,jk->ik", (2, 3), (3, 4)).batch(n, operands)


@given(networks(max_operands=5), st.randoms(use_true_random=False), st.sampled_from(["numpy", "torch", "strict"]))
@settings(max_examples=80, deadline=None)
def test_scaled_results_are_the_result(case: Case, noise: Any, library: str) -> None:
    convert = {"numpy": np.asarray, "torch": torch.from_numpy, "strict": array_api_strict.asarray}[library]
    plan = cut_at_random(tnet.plan(case.equation, *case.shapes), noise)
    arrays = case.arrays("complex128" if library == "numpy" else "float64")
    mantissa, log2_scale = plan.scaled(*map(convert, arrays))
    wanted = np.einsum(case.equation, *arrays)
    close(np.asarray(mantissa) * 2.0**log2_scale, wanted)
    largest = float(np.max(np.abs(np.asarray(mantissa)), initial=0.0))
    assert largest == 0.0 or 1.0 <= largest < 3.0


@pytest.mark.parametrize("splits", [(), ((1, 4), (3, 2))])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_values_beyond_the_range_of_floating_point(convert: Any, splits: Any) -> None:
    n, size = 8, 4
    equation = ",".join(f"{a}{b}" for a, b in zip("abcdefgh", "bcdefghi", strict=True)) + "->ai"
    whole = tnet.plan(equation, *((size, size),) * n)
    plan = ContractionPlan(whole.spec, whole.pairs, splits, whole.dtypes)
    factors = [np.random.default_rng(k).normal(size=(size, size)) for k in range(n)]
    wanted = np.linalg.multi_dot(factors)
    for scale, sign in ((1e250, 1), (1e-250, -1)):
        mantissa, log2_scale = plan.scaled(*[convert(scale * x) for x in factors])
        log10 = log2_scale * math.log10(2.0) - sign * 250 * n
        close(np.asarray(mantissa) * 10.0**log10, wanted, 1e-9)
    zero = plan.scaled(*[convert(0.0 * x) for x in factors])
    assert zero.log2_scale == 0
    assert not np.any(np.asarray(zero.mantissa))


def test_slices_of_very_different_scale_are_added() -> None:
    plan = tnet.plan("i,i->", (3,), (3,))
    cut = ContractionPlan(plan.spec, plan.pairs, ((0, 3),), plan.dtypes)
    mantissa, log2_scale = cut.scaled(np.array([1e-300, 1e300, 1.0]), np.array([1e-300, 1e300, 1e300]))
    assert math.isclose(math.log10(float(mantissa)) + log2_scale * math.log10(2.0), 600.0, rel_tol=1e-12)


def test_gradients_flow_through_the_mantissa() -> None:
    x = torch.tensor([1e200, 2e200], dtype=torch.float64, requires_grad=True)
    fixed = x.detach()
    mantissa, log2_scale = tnet.plan("i,i,i->", x, x, x).scaled(x, fixed, fixed)
    (gradient,) = torch.autograd.grad(mantissa, x)
    found = np.log10(gradient.numpy()) + log2_scale * np.log10(2.0)
    close(found, 400 + np.log10([1.0, 4.0]), 1e-12)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("splits", [(), ((0, 3),)])
def test_scaled_results_show_what_is_not_finite(splits: Any, value: float) -> None:
    plan = tnet.plan("i,ij->j", (3,), (3, 2))
    cut = ContractionPlan(plan.spec, plan.pairs, splits, plan.dtypes)
    matrix = np.array([[1.0, 2.0], [value, 2.0], [1e300, 2.0]])
    mantissa, log2_scale = cut.scaled(np.ones(3), matrix)
    np.testing.assert_equal(mantissa * 2.0**log2_scale, [1e300 + value, 6.0])
    mantissa, _ = cut.scaled(np.ones(3), np.full((3, 2), complex(0.0, math.nan)))
    assert np.all(np.isnan(mantissa.imag))


def test_gradients_flow_through_slices_of_zeros() -> None:
    plan = tnet.plan("i,i->", (3,), (3,))
    cut = ContractionPlan(plan.spec, plan.pairs, ((0, 3),), plan.dtypes)
    x = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    mantissa, log2_scale = cut.scaled(x, torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(mantissa, x)
    close(gradient.numpy() * 2.0**log2_scale, np.array([2.0, 3.0, 5.0]))


def test_scales_of_tensors_without_values_are_refused() -> None:
    with pytest.raises(InputError, match="operand 0 is on the meta device"):
        tnet.plan("i,i->", (3,), (3,)).scaled(*[torch.empty(3, device="meta")] * 2)


def test_integers_have_no_scale() -> None:
    with pytest.raises(BackendError, match="integers"):
        tnet.plan("i,i->", (2,), (2,), dtype="int64").scaled(np.ones(2, int), np.ones(2, int))


@pytest.mark.parametrize("splits", [(), ((1, 2),)])
@pytest.mark.parametrize("bound", [False, True])
def test_torch_compiles_a_call_whole(splits: Any, bound: bool) -> None:
    torch._dynamo.reset()
    whole = tnet.plan("ij,zjk,kl,zz->zil", (3, 4), (2, 4, 5), (5, 6), (2, 2))
    plan = ContractionPlan(whole.spec, whole.pairs, splits, whole.dtypes)
    generator = torch.Generator().manual_seed(0)
    arrays = [
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in plan.spec.input_shapes
    ]
    wanted = torch.einsum("ij,zjk,kl,zz->zil", *arrays)
    if bound:
        plan(*arrays)
    compiled = torch.compile(lambda *xs: plan(*xs), fullgraph=True, backend="aot_eager")
    found = compiled(*arrays)
    assert torch.allclose(found, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), arrays), torch.autograd.grad(wanted.sum(), arrays), strict=True
    ):
        assert torch.allclose(mine, theirs)


def test_torch_compile_refuses_wrong_shapes() -> None:
    torch._dynamo.reset()
    plan = tnet.plan("ij,jk->ik", (2, 3), (3, 4))
    compiled = torch.compile(lambda *xs: plan(*xs), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="operand 1 has shape"):
        compiled(torch.ones(2, 3), torch.ones(4, 4))


def test_vmap_and_function_transforms() -> None:
    arrays = [torch.from_numpy(x) for x in CHAIN.arrays()]
    plan = tnet.plan(CHAIN.equation, *arrays)
    many = torch.randn(7, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = torch.func.vmap(lambda x: plan(x, *arrays[1:]))(many)
    assert torch.allclose(found, torch.einsum("zij,jk,kl,lm->zim", many, *arrays[1:]))
    jacobian = torch.func.jacrev(lambda x: plan(x, *arrays[1:]))(arrays[0])
    assert torch.allclose(jacobian[:, :, 0, :].sum(0), torch.linalg.multi_dot(arrays[1:]).T)


def test_sums_to_numbers_are_recorded() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    found = tnet.contract("i,j,->", x, x, x.sum())
    (gradient,) = torch.autograd.grad(found, x)
    assert torch.allclose(gradient, torch.full((2,), 27.0, dtype=torch.float64))


def test_a_known_call_does_not_plan_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    arrays = CHAIN.arrays()
    first = tnet.contract(CHAIN.equation, *arrays)
    api = importlib.import_module("tnet.contraction.api")
    monkeypatch.setattr(api, "_plan", lambda *_: pytest.fail("planned again"))
    close(tnet.contract(CHAIN.equation, *arrays), first)
    with pytest.raises(BackendError):
        tnet.contract("ij,jk,kl,lm->im", *arrays[:3], torch.from_numpy(arrays[3]))


def test_one_plan_serves_libraries_dtypes_and_layouts_in_turn() -> None:
    arrays = CHAIN.arrays()
    plan = tnet.plan(CHAIN.equation, *CHAIN.shapes)
    wanted = np.linalg.multi_dot(arrays)
    for _ in range(2):
        close(plan(*arrays), wanted)
        close(plan(*map(torch.from_numpy, arrays)), wanted)
        close(plan(*[x.astype(np.float32) for x in arrays]), wanted, 1e-5)
        close(plan(*[np.asfortranarray(x) for x in arrays]), wanted)
        close(plan(*[x.tolist() for x in arrays]), wanted)


def test_plans_travel_after_a_call() -> None:
    plan = tnet.plan(CHAIN.equation, *CHAIN.shapes)
    arrays = CHAIN.arrays()
    plan(*arrays)
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    close(again(*arrays), plan(*arrays))


def test_operands_are_not_kept_alive() -> None:
    x = torch.ones(3, 3)
    plan = tnet.plan("ij,jk->ik", x, x)
    plan(x, x)
    watch = weakref.ref(x)
    del x
    gc.collect()
    assert watch() is None


def test_what_no_slice_changes_is_computed_once() -> None:
    shapes = ((16, 32), (32, 16), (16, 8), (8, 16))
    whole = tnet.plan("ab,bc,cd,da->", *shapes)
    spec, pairs = whole.spec, ((0, 1), (2, 3), (4, 5))
    cut = ContractionPlan(spec, pairs, ((3, 8),), whole.dtypes)
    assert len(cut._program.once) == 1
    assert cut.macs == 16 * 32 * 16 + 8 * (16 * 16 + 16 * 16)
    arrays = Case("", shapes).arrays()
    close(cut(*arrays), np.einsum("ab,bc,cd,da->", *arrays))
    mantissa, log2_scale = cut.scaled(*arrays)
    close(np.asarray(mantissa) * 2.0**log2_scale, cut(*arrays))


def test_invariants_are_left_out_where_they_do_not_fit() -> None:
    # (ab, bc) is the same for all slices of d, and larger than all else.
    shapes = ((64, 2), (2, 64), (64, 64, 8), (8, 2))
    whole = tnet.plan("ab,bc,cad,de->e", *shapes)
    pairs = ((2, 3), (0, 1), (4, 5))
    cut = ContractionPlan(whole.spec, pairs, ((3, 8),), whole.dtypes)
    tight = ContractionPlan(whole.spec, pairs, ((3, 8),), whole.dtypes, cut.peak_bytes - 1)
    assert cut._program.once
    assert not tight._program.once
    assert tight.macs > cut.macs


def test_files_of_version_1_load() -> None:
    plan = ContractionPlan.load(Path(__file__).parent / "golden" / "plan_v1.json")
    assert plan.layouts is None
    assert plan.path == [(1, 2), (0, 1)]
    arrays = Case("", plan.spec.input_shapes).arrays()
    close(plan(*arrays), np.linalg.multi_dot(arrays))


def test_layouts_are_saved(tmp_path: Path) -> None:
    a, b = np.asfortranarray(np.ones((3, 4))), np.ones((4, 10))[:, ::2]
    plan = tnet.plan("ij,jk->ik", a, b)
    assert plan.layouts == ((1, 0), None)
    plan.save(tmp_path / "plan.json")
    assert ContractionPlan.load(tmp_path / "plan.json") == plan
