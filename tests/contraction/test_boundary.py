"""Boundary contraction against exact values, Onsager's and Kaufman's among them."""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contraction.grids import Lattice, kaufman_log_z, lattice, native_ising, peps_norm, value
from tnet.contraction import BoundaryContraction, contract_boundary
from tnet.errors import BackendError, IndexLabelError, InputError, RankError, ShapeError
from tnet.formats import TensorNetwork

METHODS = ("auto", "direct", "randomized")


def relative_error(found: BoundaryContraction, exact: complex) -> float:
    return abs(complex(np.asarray(found.value)) / exact - 1)


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(2, 3),
    st.sampled_from(METHODS),
    st.booleans(),
    st.integers(0, 9),
)
@settings(max_examples=60)
def test_enough_bond_is_exact(rows: int, columns: int, D: int, method: str, cplx: bool, seed: int) -> None:
    x = lattice(rows, columns, D, seed=seed, dtype="complex128" if cplx else "float64")
    found = contract_boundary(x.network, max_bond=D**3, method=method, rng=0)
    assert relative_error(found, value(x.network)) < 1e-10


@pytest.mark.parametrize(("D", "rows", "columns"), [(2, 10, 10), (3, 6, 6), (4, 5, 5)])
def test_larger_grids_are_exact(D: int, rows: int, columns: int) -> None:
    x = lattice(rows, columns, D, positive=0.5)
    found = contract_boundary(x.network, max_bond=D ** (rows // 2), rng=0)
    assert relative_error(found, value(x.network)) < 1e-11


@pytest.mark.parametrize("wraps", [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize(("rows", "columns"), [(4, 5), (3, 4), (3, 3), (1, 5), (2, 4)])
def test_cylinders_and_tori(wraps: tuple[bool, bool], rows: int, columns: int) -> None:
    x = lattice(rows, columns, 2, wraps=wraps)
    found = contract_boundary(x.network, sites=x.sites, max_bond=64, rng=0)
    assert relative_error(found, value(x.network)) < 1e-10


@pytest.mark.parametrize(
    ("rows", "columns", "wraps"),
    [
        (1, 1, False), (1, 6, False), (6, 1, False), (2, 2, False), (2, 5, False), (5, 2, False), (4, 6, False),
        (1, 5, True), (3, 3, True), (4, 5, True), (5, 4, True), (4, 3, True),
    ],
)  # fmt: skip
def test_the_arrangement_is_found_whatever_the_order(rows: int, columns: int, wraps: bool) -> None:
    x = lattice(rows, columns, 2, wraps=(False, wraps))
    order = np.random.default_rng(rows * columns).permutation(len(x.network.tensors))
    shuffled = TensorNetwork(
        tuple(x.network.tensors[k] for k in order), tuple(x.network.indices[k] for k in order), output=()
    )
    found = contract_boundary(shuffled, max_bond=64, rng=0)
    assert relative_error(found, value(x.network)) < 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_the_error_falls_with_the_bond(method: str) -> None:
    """Near the critical point, where bonds are needed most."""
    x = lattice(12, 12, 2, ising=0.44)
    exact = kaufman_free(12, 12, 0.44)
    errors, told = [], []
    for max_bond in (2, 4, 8, 16):
        found = contract_boundary(x.network, max_bond=max_bond, method=method, rng=0)
        errors.append(abs(math.expm1(found.log_abs - exact)))
        told.append(found.error)
        assert found.max_bond <= max_bond
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 50
    assert errors[3] < 1e-12
    assert all(e <= t + 1e-12 for e, t in zip(errors, told, strict=True))
    assert told == sorted(told, reverse=True)


@functools.cache
def kaufman_free(rows: int, columns: int, beta: float) -> float:
    """Open edges, by the transfer matrix of single sites."""
    W = np.array([[math.exp(beta), math.exp(-beta)], [math.exp(-beta), math.exp(beta)]])
    spins = np.array(list(itertools.product((1, -1), repeat=columns)))
    within = np.exp(beta * np.sum(spins[:, 1:] * spins[:, :-1], axis=1))
    state, log = within, 0.0
    for _ in range(rows - 1):
        for _ in range(columns):
            state = (state.reshape(2, -1).T @ W).reshape(-1)
        state = state * within
        log += math.log(state.sum())
        state = state / state.sum()
    return log


def test_kaufmans_formula_counts_states() -> None:
    """The reference of the next test, by brute force on a small torus."""
    n, beta = 4, 0.3
    spins = np.array(list(itertools.product((1, -1), repeat=n * n))).reshape(-1, n, n)
    energy = np.sum(spins * np.roll(spins, 1, axis=1) + spins * np.roll(spins, 1, axis=2), axis=(1, 2))
    brute = math.log(np.sum(np.exp(beta * energy)))
    assert kaufman_log_z(n, n, beta) == pytest.approx(brute, rel=1e-13)


def test_a_torus_of_spins_agrees_with_kaufman() -> None:
    """Spins as indices that four Boltzmann matrices share, both edges closed."""
    n, beta = 6, 0.3
    x = native_ising(n, n, beta, wraps=True)
    found = contract_boundary(x.network, sites=x.sites, max_bond=24, rng=0)
    assert found.log_abs == pytest.approx(kaufman_log_z(n, n, beta), rel=1e-6)


def test_spins_as_shared_indices() -> None:
    x = native_ising(5, 6, 0.4)
    found = contract_boundary(x.network, sites=x.sites, max_bond=32, rng=0)
    assert found.log_abs == pytest.approx(kaufman_free(5, 6, 0.4), abs=1e-12)


def test_a_bad_gauge_costs_little() -> None:
    """Spins as shared indices put all of a Boltzmann matrix on one side; the error is that of symmetric tensors."""
    n, beta = 12, 0.44
    exact = kaufman_free(n, n, beta)
    native = native_ising(n, n, beta)
    found = contract_boundary(native.network, sites=native.sites, max_bond=6, rng=0)
    symmetric = contract_boundary(lattice(n, n, 2, ising=beta).network, max_bond=6, rng=0)
    assert abs(found.log_abs - exact) < 4 * abs(symmetric.log_abs - exact) < found.error / 10


def test_values_beyond_the_range_of_floats() -> None:
    x = lattice(40, 40, 2, ising=0.3)
    found = contract_boundary(x.network, max_bond=6, rng=0)
    assert found.exponent > 1100
    assert np.isinf(np.asarray(found.value))
    bulk = onsager(0.3)
    # Corrections of the open edges fall like the length of the edge.
    assert abs(found.log_abs / 40**2 - bulk) < 0.04
    tiny = TensorNetwork(tuple(t * 1e-300 for t in x.network.tensors), x.network.indices, ())
    shifted = contract_boundary(tiny, max_bond=6, rng=0)
    assert shifted.log_abs == pytest.approx(found.log_abs - 300 * math.log(10) * 40**2, rel=1e-12)


def onsager(beta: float) -> float:
    k = 2 * math.sinh(2 * beta) / math.cosh(2 * beta) ** 2
    theta = (np.arange(2000) + 0.5) * math.pi / 2000
    return math.log(2 * math.cosh(2 * beta)) + float(
        np.mean(np.log((1 + np.sqrt(1 - (k * np.sin(theta)) ** 2)) / 2)) / 2
    )


@pytest.mark.parametrize("cplx", [False, True])
def test_norm_of_a_peps_converges(cplx: bool) -> None:
    x = peps_norm(4, 4, 3, cplx=cplx)
    exact = value(x.network)
    found = [
        contract_boundary(x.network, sites=x.sites, max_bond=chi, method="randomized", rng=0)
        for chi in (3, 9, 27, 81)
    ]
    errors = [relative_error(f, exact) for f in found]
    assert max(errors[1:]) < errors[0]
    assert max(errors[:3]) > 1e-4 > 1e-11 > errors[3]
    assert [f.error for f in found] == sorted((f.error for f in found), reverse=True)


def test_sketches_cut_nearly_as_well_as_svds() -> None:
    """Singular values fall slowly here; a single sketch would lose several times as much."""
    x = peps_norm(6, 6, 2, positive=0.3)
    exact = contract_boundary(x.network, sites=x.sites, max_bond=64, rng=0)
    errors = {
        method: abs(
            math.expm1(contract_boundary(x.network, sites=x.sites, max_bond=6, method=method, rng=0).log_abs
                       - exact.log_abs)
        )
        for method in ("direct", "randomized")
    }  # fmt: skip
    assert errors["randomized"] < 2 * errors["direct"] + 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-8, 0])
def test_a_tolerance_is_kept(method: str, rtol: float) -> None:
    x = lattice(8, 8, 2, positive=0.3)
    found = contract_boundary(x.network, rtol=rtol, method=method, rng=0)
    assert found.error <= max(rtol, 1e-12)
    assert relative_error(found, value(x.network)) <= max(rtol, 1e-11)


def test_a_tolerance_takes_small_bonds_where_they_do() -> None:
    x = lattice(10, 10, 2, ising=0.2)
    coarse, fine = (contract_boundary(x.network, rtol=r, rng=0).max_bond for r in (1e-3, 1e-9))
    assert coarse < fine <= 12


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("method", ["direct", "randomized"])
def test_every_library(xp: Any, convert: Callable[[np.ndarray], Any], dtype: str, method: str) -> None:
    x = lattice(5, 5, 2, positive=0.5, dtype=dtype)
    tensors = tuple(convert(t) for t in x.network.tensors)
    before = [np.array(t) for t in x.network.tensors]
    found = contract_boundary(TensorNetwork(tensors, x.network.indices, ()), max_bond=3, method=method, rng=0)
    reference = contract_boundary(x.network, max_bond=3, method=method, rng=0)
    assert found.mantissa.dtype == tensors[0].dtype
    assert found.mantissa.shape == ()
    tolerance = 1e-4 if dtype in ("float32", "complex64") else 1e-10
    assert found.log_abs == pytest.approx(reference.log_abs, abs=tolerance)
    assert found.exponent == reference.exponent
    assert all(np.array_equal(a, b) for a, b in zip(before, x.network.tensors, strict=True))


def test_half_precision_comes_back() -> None:
    x = lattice(4, 4, 2, positive=0.5)
    half = TensorNetwork(tuple(t.astype("float16") for t in x.network.tensors), x.network.indices, ())
    found = contract_boundary(half, max_bond=4, rng=0)
    assert found.mantissa.dtype == np.float16
    assert found.log_abs == pytest.approx(math.log(abs(value(x.network))), abs=0.05)


@pytest.mark.parametrize("method", ["direct", "randomized"])
@pytest.mark.parametrize("max_bond", [3, 16])
def test_gradients(method: str, max_bond: int) -> None:
    """Autograd through the compressions against differences of the same function."""
    torch = pytest.importorskip("torch")
    x = lattice(4, 5, 2, positive=0.5, seed=3)
    place, step = 7, 1e-5

    def log_z(t: Any) -> BoundaryContraction:
        tensors = [torch.as_tensor(a) for a in x.network.tensors]
        tensors[place] = t
        return contract_boundary(
            TensorNetwork(tuple(tensors), x.network.indices, ()), max_bond=max_bond, method=method, rng=0
        )

    leaf = torch.tensor(x.network.tensors[place], requires_grad=True)
    log_z(leaf).value.backward()
    direction = np.random.default_rng(0).normal(size=x.network.tensors[place].shape)
    ahead, behind = (
        float(log_z(torch.as_tensor(x.network.tensors[place] + s * step * direction)).value) for s in (1, -1)
    )
    slope = float(np.sum(leaf.grad.numpy() * direction))
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-4)


def test_zero_and_one_tensor() -> None:
    x = lattice(4, 4, 2)
    zero = TensorNetwork((*x.network.tensors[:-1], x.network.tensors[-1] * 0), x.network.indices, ())
    for max_bond in (2, 64):
        found = contract_boundary(zero, max_bond=max_bond, rng=0)
        assert float(found.value) == 0
        assert found.log_abs == -math.inf
    trace = contract_boundary(TensorNetwork((np.eye(3),), (("i", "i"),), ()), max_bond=1)
    assert float(trace.value) == 3
    assert (trace.error, trace.error_kind) == (0, "exact")


def test_lonely_indices_are_summed_and_places_may_be_empty() -> None:
    a = np.arange(6.0).reshape(2, 3)
    b = np.arange(8.0).reshape(2, 4)
    network = TensorNetwork((a, b), (("i", "u"), ("i", "v")), ())
    exact = float(np.einsum("iu,iv->", a, b))
    for sites in (None, [[0], [1]], [[(0, 1), ()]], [[0, 1], [(), ()]]):
        assert float(contract_boundary(network, sites=sites, max_bond=4).value) == pytest.approx(exact)


def test_one_seed_one_result() -> None:
    x = peps_norm(4, 4, 2)
    run = lambda rng: contract_boundary(x.network, sites=x.sites, max_bond=3, method="randomized", rng=rng)  # noqa: E731
    first = run(None)
    again = run(first.rng_seed)
    assert float(first.mantissa) == float(again.mantissa)
    assert "relative (estimate)" in repr(first)


def three_by_three(**changes: Any) -> Lattice:
    return lattice(3, 3, 2, **changes)


def _with(k: int, tensor: Any) -> TensorNetwork:
    network = three_by_three().network
    return TensorNetwork(tuple(tensor if i == k else t for i, t in enumerate(network.tensors)), network.indices, ())


GRID = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize(
    ("network", "options", "fault", "words"),
    [
        (three_by_three().network, {}, RankError, "neither given"),
        (three_by_three().network, {"max_bond": 4, "rtol": 0.1}, RankError, "both given"),
        (three_by_three().network, {"max_bond": 0}, RankError, "max_bond=0"),
        (three_by_three().network, {"max_bond": True}, RankError, "max_bond=True"),
        (three_by_three().network, {"max_bond": 2.5}, RankError, "max_bond=2.5"),
        (three_by_three().network, {"rtol": 1.0}, InputError, "rtol=1.0"),
        (three_by_three().network, {"rtol": "small"}, InputError, "rtol='small'"),
        (three_by_three().network, {"max_bond": 4, "method": "zip"}, InputError, "choose one of 'auto'"),
        (three_by_three().network, {"max_bond": 4, "rng": -1}, InputError, "rng=-1"),
        (three_by_three().network, {"max_bond": 4, "sites": 3}, ShapeError, "rows of positions"),
        (three_by_three().network, {"max_bond": 4, "sites": []}, ShapeError, "no place"),
        (three_by_three().network, {"max_bond": 4, "sites": ["012"]}, ShapeError, "rows of positions"),
        (three_by_three().network, {"max_bond": 4, "sites": [[0, 1.5]]}, ShapeError, "rows of positions"),
        (three_by_three().network, {"max_bond": 4, "sites": [[0, 1], [2]]}, ShapeError, "lengths"),
        (three_by_three().network, {"max_bond": 4, "sites": GRID[:2]}, ShapeError, "do not name tensor 6"),
        (three_by_three().network, {"max_bond": 4, "sites": [*GRID[:2], [6, 7, 9]]}, ShapeError, "name tensor 9"),
        (three_by_three().network, {"max_bond": 4, "sites": [*GRID[:2], [6, 7, 7]]}, ShapeError, "more than once"),
        (
            lattice(4, 4, 2).network,
            {"max_bond": 4, "sites": [[10, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 11], [12, 13, 14, 15]]},
            ShapeError,
            "neither neighbours",
        ),
        (
            TensorNetwork((np.ones(2),) * 3 + (np.ones(()),), (("i",),) * 3 + ((),), ()),
            {"max_bond": 2, "sites": [[0, 1, 3, 2, ()]]},
            ShapeError,
            "nor all beside",
        ),
        (TensorNetwork((np.ones(2),) * 3, (("i",),) * 3, ()), {"max_bond": 2}, ShapeError, "in 3 tensors"),
        (lattice(3, 3, 2, wraps=(True, True)).network, {"max_bond": 2}, ShapeError, "no edge|4 neighbours"),
        (lattice(2, 4, 2, wraps=(False, True)).network, {"max_bond": 2}, ShapeError, "more than one arrangement"),
        (TensorNetwork((np.ones(2),) * 2, (("i",), ("j",)), ()), {"max_bond": 2}, ShapeError, "no neighbour"),
        (TensorNetwork((np.ones((2, 2)),), (("i", "j"),), ("i",)), {"max_bond": 2}, IndexLabelError, "output"),
        (np.ones(3), {"max_bond": 2}, InputError, "give a TensorNetwork"),
        (_with(4, np.full((2,) * 4, np.nan)), {"max_bond": 2}, InputError, r"tensors\[4\] has 16 non-finite"),
        (_with(0, np.array([[1.0, np.inf], [0, 0]])), {"max_bond": 2}, InputError, r"tensors\[0\] has 1 non-finite"),
        (_with(0, np.ones((2, 2), dtype=int)), {"max_bond": 2}, BackendError, r"tensors\[0\] has dtype int64"),
        (TensorNetwork((np.ones((0,)),) * 2, (("i",),) * 2, ()), {"max_bond": 2}, ShapeError, "size 0"),
    ],
)  # fmt: skip
def test_bad_input(network: Any, options: dict[str, Any], fault: type[Exception], words: str) -> None:
    with pytest.raises(fault, match=words):
        contract_boundary(network, **options)


def test_mixed_libraries_are_refused() -> None:
    torch = pytest.importorskip("torch")
    x = three_by_three().network
    with pytest.raises(BackendError, match="several libraries"):
        contract_boundary(TensorNetwork((torch.as_tensor(x.tensors[0]), *x.tensors[1:]), x.indices, ()), max_bond=2)


def test_neither_numba_nor_torch_is_loaded() -> None:
    code = (
        "import sys, numpy as np, tnet.contraction as c; from tnet.formats import TensorNetwork as T\n"
        "c.contract_boundary(T((np.eye(2),) * 2, (('i', 'j'),) * 2, ()), max_bond=2)\n"
        "assert not {'numba', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("method", ["direct", "randomized"])
@pytest.mark.parametrize("names", ["abcd", "bacq", "qlbd", "dcba"])
def test_indices_may_have_any_name(names, method):
    draws = np.random.default_rng(0)
    tensors = tuple(draws.standard_normal((2, 2)) for _ in range(4))
    indices = tuple((names[k], names[(k + 1) % 4]) for k in range(4))
    found = contract_boundary(TensorNetwork(tensors, indices, ()), max_bond=4, method=method, rng=0)
    assert found.value == pytest.approx(np.trace(np.linalg.multi_dot(tensors)))
