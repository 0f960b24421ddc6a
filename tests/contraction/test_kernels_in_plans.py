"""Large steps of a plan that packed kernels take over from matrix products."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest

import tnet

# A gate on four of 18 qubits, then one on two others, and a stack of matrices with the batch inside.
CASES = {
    "gates": ("abcdefghijklmnopqr,cghrCGHR,koKO->abCdefGHijKlmnOpqR", {**dict.fromkeys("abcdefghijklmnopqr", 2)}),
    "batch inside": ("azb,bcz,cd->dza", {"a": 48, "b": 40, "c": 56, "z": 130, "d": 9}),
}


def operands(case: str, dtype: str = "float64") -> tuple[str, list[np.ndarray]]:
    equation, sizes = CASES[case]
    rng = np.random.default_rng(0)
    terms = equation.split("->")[0].split(",")
    return equation, [rng.standard_normal([sizes.get(i, 2) for i in term]).astype(dtype) for term in terms]


def kernels_of(plan: tnet.contraction.ContractionPlan) -> list[str]:
    return [step.kernel.name for step in plan._program.steps if step.kernel is not None]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_take_part_and_the_result_is_einsum(case, dtype):
    equation, arrays = operands(case, dtype)
    plan = tnet.plan(equation, *arrays)
    assert "packed" in kernels_of(plan)
    expected = np.einsum(equation, *arrays, optimize=True)
    scale = np.abs(expected).max()
    for given in (arrays, [np.asfortranarray(x) for x in arrays]):
        assert np.allclose(plan(*given), expected, rtol=0, atol=1e3 * np.finfo(dtype).eps * scale)


@pytest.mark.parametrize("case", CASES)
def test_peak_counts_their_scratch(case):
    equation, arrays = operands(case)
    plan = tnet.plan(equation, *arrays)
    plan(*arrays)
    tracemalloc.start()
    plan(*arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= plan.peak_bytes - sum(x.nbytes for x in arrays) + 50_000


@pytest.mark.parametrize("case", CASES)
def test_arrays_that_no_kernel_reads_are_planned_without(case, tmp_path):
    strict = pytest.importorskip("array_api_strict")
    equation, arrays = operands(case)
    given = [strict.asarray(x) for x in arrays]
    here, elsewhere = tnet.plan(equation, *arrays), tnet.plan(equation, *given)
    assert (here.on_host, elsewhere.on_host) == (True, False)
    assert kernels_of(elsewhere) == []
    elsewhere(*given)
    tracemalloc.start()
    elsewhere(*given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= elsewhere.peak_bytes - sum(x.nbytes for x in arrays) + 50_000
    assert elsewhere.batch(2).on_host is False
    elsewhere.save(tmp_path / "plan.json")
    assert type(elsewhere).load(tmp_path / "plan.json") == elsewhere != here
    assert np.allclose(np.asarray(elsewhere(*given)), here(*arrays))
    assert np.allclose(elsewhere(*arrays), here(*arrays))


def test_a_limit_without_room_for_scratch_does_without_kernels():
    equation = "zab,zbc->zac"
    x, y = np.ones((600, 17, 33)), np.ones((600, 33, 18))
    free = tnet.plan(equation, x, y)
    assert kernels_of(free) == ["packed"]
    limit = x.nbytes + y.nbytes + 600 * 17 * 18 * 8
    assert free.peak_bytes > limit
    tight = tnet.plan(equation, x, y, memory_limit=limit)
    assert kernels_of(tight) == []
    assert (tight.n_slices, tight.peak_bytes) == (1, limit)
    assert np.array_equal(tight(x, y), free(x, y))


def test_torch_records_gradients_through_their_steps():
    torch = pytest.importorskip("torch")
    equation, arrays = operands("batch inside")
    plan = tnet.plan(equation, *arrays)
    x, y, z = (torch.from_numpy(a) for a in arrays)
    plain = plan(x, y, z)
    x.requires_grad_()
    recorded = plan(x, y, z)
    assert recorded.requires_grad
    assert torch.allclose(recorded.detach(), plain)
    (gradient,) = torch.autograd.grad(recorded.sum(), x)
    ones = np.ones(plain.shape)
    assert np.allclose(gradient.numpy(), np.einsum("dza,bcz,cd->azb", ones, *arrays[1:], optimize=True))


def test_kernels_hide_nothing_from_what_watches_torch():
    torch = pytest.importorskip("torch")
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils.flop_counter import FlopCounterMode

    equation = "zab,zbc->zac"
    x, y = (torch.from_numpy(np.random.default_rng(0).standard_normal(s)) for s in ((600, 17, 33), (600, 33, 18)))
    plan = tnet.plan(equation, x, y)
    assert kernels_of(plan) == ["packed"]
    expected = plan(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes become constants; jit.trace is deprecated, and still in use
        recorded = torch.jit.trace(lambda u, v: plan(u, v), (x, y), check_trace=False)
    for traced in (make_fx(plan)(x, y), recorded):
        assert torch.allclose(traced(2 * x, y), 2 * expected)
    compiled = torch.compile(lambda *operands: plan(*operands), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, y), expected)
    with FlopCounterMode(display=False) as counter:
        plan(x, y)
    assert counter.get_total_flops() == plan.flops
    # Operands from outside the transform: within it, even they have no memory to read.
    gradient = torch.func.grad(lambda factor: (factor * plan(x, y)).sum())(torch.ones_like(expected))
    assert torch.allclose(gradient, expected)
