"""Tucker: the randomised method, orthogonal iteration, and the pieces they share."""

from __future__ import annotations

import math
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.arrays import to_numpy, truncated_eigh
from tnet.decompositions import IterationInfo
from tnet.decompositions.first_pass import FirstPass
from tnet.decompositions.hooi import contracted_cycle
from tnet.decompositions.range_finder import multilinear_ranges
from tnet.decompositions.slabs import Allowance, SlabbedArray
from tnet.decompositions.sthosvd import first_gram, sthosvd
from tnet.decompositions.truncated_basis import Basis
from tnet.decompositions.tucker_sketch import sketched_tucker
from tnet.errors import ConvergenceWarning, InputError, MemoryLimitError, RankError
from tnet.options import Stopping, Truncation
from tnet.results import Status

shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


def true_error(x: np.ndarray, result: Any) -> float:
    return float(np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x))


def low_rank(shape: tuple[int, ...], ranks: tuple[int, ...], noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=ranks)
    for mode, n in enumerate(shape):
        factor = np.linalg.qr(rng.normal(size=(n, ranks[mode])))[0]
        x = np.moveaxis(np.tensordot(factor, x, (1, mode)), 0, mode)
    E = rng.normal(size=shape)
    return x + noise * np.linalg.norm(x) / np.linalg.norm(E) * E


def test_leading_eigenpairs_are_those_of_all() -> None:
    rng = np.random.default_rng(0)
    for dtype in (float, complex):
        Y = rng.normal(size=(200, 150)) + (1j * rng.normal(size=(200, 150)) if dtype is complex else 0)
        G = Y @ Y.conj().T  # rank 150 of 200
        U, s, discarded = truncated_eigh(G, Truncation(rank=10))
        values = np.linalg.eigvalsh(G)[::-1]
        assert np.allclose(s**2, values[:10], rtol=1e-12)
        assert discarded == pytest.approx(values[10:].sum(), rel=1e-10)
        assert np.allclose(U.conj().T @ U, np.eye(10), atol=1e-12)
        assert np.allclose(G @ U, U * s**2, atol=1e-9)


def test_the_first_pass_finds_norm_and_gram() -> None:
    x = low_rank((5, 4, 6), (2, 2, 2), 0.1)
    first = FirstPass(lambda array: first_gram(array, (2, 2, 2), None))
    assert first(x) == pytest.approx(np.linalg.norm(x) ** 2)
    assert first.gram_of(x) is not None
    assert first.gram_of(x.copy()) is None
    without = FirstPass(lambda array: first_gram(array, None, 1e-9))  # Gram matrices do not resolve that
    assert without(x) == pytest.approx(np.linalg.norm(x) ** 2)
    assert without.gram_of(x) is None


def test_ranks_are_refused_before_the_first_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr("tnet.decompositions.sthosvd.mode_gram", never)
    for rank in (0, 2.5, True, "3", (1, 2)):
        with pytest.raises(RankError, match="rank"):
            tnet.tucker(np.ones((4, 5, 6)), rank)


def test_what_the_gram_matrices_miss_is_found_by_qr(monkeypatch: pytest.MonkeyPatch) -> None:
    x = low_rank((9, 8, 7), (3, 3, 3), 0.0)

    def blind(G: np.ndarray, truncation: Truncation, like: np.ndarray) -> Basis:
        return Basis(np.linalg.eigh(G)[1][:, -1:], 0.0)  # sees one direction and says that there is no other

    monkeypatch.setattr("tnet.decompositions.sthosvd.basis_from_gram", blind)
    result = tnet.tucker(x, rtol=0.01)
    assert result.tensor.rank == (3, 3, 3)
    assert true_error(x, result) <= 0.01


# Randomised


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("shape", [(40, 30, 50), (60, 70), (12, 15, 10, 14)])
def test_random_sketches_are_near_sthosvd(shape: tuple[int, ...], noise: float) -> None:
    ranks = (4,) * len(shape)
    x = low_rank(shape, ranks, noise)
    best = tnet.tucker(x, ranks).error
    found = [tnet.tucker(x, ranks, method="randomized", rng=seed) for seed in range(10)]
    for result in found:
        assert true_error(x, result) == pytest.approx(result.error, abs=1e-12)
        for factor in result.tensor.factors:
            assert np.allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-12)
    assert max(r.error for r in found) <= 1.05 * best + 1e-13


def test_power_steps_lower_the_error() -> None:
    x = low_rank((60, 70), (4, 4), 0.5)
    best = tnet.tucker(x, 4).error
    excess = []
    for power in (0, 1, 2, 3):
        errors = [tnet.tucker(x, 4, method="randomized", power=power, oversampling=2, rng=s).error for s in range(10)]
        excess.append(np.mean(errors) / best - 1)
    assert excess[0] > 1.5 * excess[1] > 1.5 * excess[2] > 0
    assert excess[3] < excess[2]


def test_ranges_hold_a_tensor_of_their_rank() -> None:
    x = low_rank((30, 8, 20), (3, 2, 4), 0.0)
    ranges = multilinear_ranges(x, (3, 2, 4), 0, np.random.default_rng(0))
    assert np.linalg.norm(ranges.core) == pytest.approx(np.linalg.norm(x))
    assert [U.shape for U in ranges.factors] == [(30, 3), (8, 2), (20, 4)]


def test_one_seed_one_result() -> None:
    x = low_rank((30, 20, 25), (3, 3, 3), 0.1)
    one, same, other = (tnet.tucker(x, 3, method="randomized", rng=s, oversampling=2) for s in (7, 7, 8))
    assert np.array_equal(np.asarray(one.tensor), np.asarray(same.tensor))
    assert not np.array_equal(np.asarray(one.tensor), np.asarray(other.tensor))
    assert one.rng_seed == 7
    fresh = tnet.tucker(x, 3, method="randomized")
    again = tnet.tucker(x, 3, method="randomized", rng=fresh.rng_seed)
    assert np.array_equal(np.asarray(fresh.tensor), np.asarray(again.tensor))
    assert tnet.tucker(x, 3).rng_seed is None
    for convert in (torch.from_numpy, array_api_strict.asarray):
        found = tnet.tucker(convert(x), 3, method="randomized", rng=7, oversampling=2)
        assert np.allclose(np.asarray(found.tensor), np.asarray(one.tensor), atol=1e-10)


@pytest.mark.parametrize("rtol", [0.5, 0.12, 1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sketches_grow_until_the_tolerance_is_met(rtol: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = low_rank((150, 60, 80), (30, 30, 30), 0.0)
    x = (x * 0.9 ** np.arange(80) + 1e-5 * rng.normal(size=x.shape) * np.abs(x).max()).astype(dtype)
    result = tnet.tucker(x, rtol=rtol, method="randomized", oversampling=2, rng=0)
    assert true_error(x, result) <= rtol + (1e-5 if dtype == "float32" else 1e-14)
    if rtol >= 0.12:
        exact = tnet.tucker(x, rtol=rtol)
        assert result.tensor.n_params <= 1.5 * exact.tensor.n_params


def test_a_tolerance_just_above_the_noise_finds_the_planted_ranks() -> None:
    x = low_rank((150, 140, 130), (5, 4, 3), 0.01)
    result = tnet.tucker(x, rtol=0.0101, method="randomized", rng=0)
    assert true_error(x, result) <= 0.0101
    assert result.tensor.rank == (5, 4, 3)


# Orthogonal iteration


@given(shapes, st.integers(1, 4), st.integers(0, 3), st.booleans(), st.booleans(), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_hooi_is_never_worse(
    shape: tuple[int, ...], rank: int, oversampling: int, refine: bool, complex_: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)
    ranks = [min(rank, n, x.size // n) for n in shape]
    start = tnet.tucker(x, ranks)
    stopping = Stopping(max_iter=5, change=0)
    result = tnet.tucker(x, ranks, method="hooi", oversampling=oversampling, refine=refine, stopping=stopping)
    assert result.error <= start.error + 1e-12
    assert true_error(x, result) == pytest.approx(result.error, abs=1e-10)
    assert result.tensor.rank == start.tensor.rank
    assert np.all(np.diff(result.history.error) <= 1e-7)
    assert result.error_kind == "exact"
    for U in result.tensor.factors:
        assert np.allclose(U.conj().T @ U, np.eye(U.shape[1]), atol=1e-10)


def test_sweeps_over_the_tensor_reach_a_stationary_point() -> None:
    x = np.random.default_rng(1).normal(size=(8, 9, 7))
    result = tnet.tucker(x, 3, method="hooi", refine=True, stopping=Stopping(500, 1e-13))
    assert result.status is Status.CONVERGED
    U = result.tensor.factors
    for mode in range(3):
        others = [k for k in range(3) if k != mode]
        Y = x
        for k in others:
            Y = np.moveaxis(np.tensordot(U[k].T, Y, (1, k)), 0, k)
        Y = np.moveaxis(Y, mode, 0).reshape(x.shape[mode], -1)
        leading = np.linalg.svd(Y)[0][:, :3]
        # The subspace of each mode is the best for those of the others.
        assert np.linalg.norm(leading - U[mode] @ (U[mode].T @ leading)) < 1e-4
    assert result.error < tnet.tucker(x, 3).error - 1e-4


def test_the_compressed_iteration_gains_most_of_it() -> None:
    x = low_rank((40, 50, 45), (6, 6, 6), 2.0, seed=3)
    direct = tnet.tucker(x, 6).error
    core = tnet.tucker(x, 6, method="hooi", oversampling=20)
    full = tnet.tucker(x, 6, method="hooi", refine=True, oversampling=20)
    assert full.error <= core.error < direct
    assert direct - core.error > 0.25 * (direct - full.error)


def test_the_cycle_contracts_with_present_factors() -> None:
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(3, 4, 5, 2))
    factors = [np.linalg.qr(rng.normal(size=(n, 2)))[0] for n in Z.shape]
    seen = []
    for mode, T in contracted_cycle(Z, factors):
        wanted = Z
        for k in range(4):
            if k != mode:
                wanted = np.moveaxis(np.tensordot(factors[k].T, wanted, (1, k)), 0, k)
        assert np.allclose(T, wanted)
        seen.append(mode)
        factors[mode] = np.linalg.qr(rng.normal(size=factors[mode].shape))[0]
        if len(seen) == 16:
            break
    assert all(sorted(seen[i : i + 4]) == [0, 1, 2, 3] for i in range(0, 16, 4))
    assert seen[:4] * 4 == seen


def test_hooi_with_a_tolerance_keeps_it_and_the_ranks_of_sthosvd() -> None:
    x = low_rank((20, 25, 15), (4, 5, 3), 0.05)
    for rtol in (0.5, 0.06, 1e-9):
        direct, better = tnet.tucker(x, rtol=rtol), tnet.tucker(x, rtol=rtol, method="hooi")
        assert better.tensor.rank == direct.tensor.rank
        assert true_error(x, better) <= min(rtol, direct.error + 1e-12)


def test_stopping_and_its_account() -> None:
    x = np.random.default_rng(0).normal(size=(9, 8, 7))
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        cut = tnet.tucker(x, 2, method="hooi", stopping=Stopping(2, 1e-15))
    assert cut.status is Status.MAX_ITER
    assert len(cut.history.error) == len(cut.history.seconds) == 2
    assert cut.history.error[-1] == cut.error
    fixed = tnet.tucker(x, 2, method="hooi", stopping=Stopping(3, 0))  # asked for: no warning
    assert len(fixed.history.error) == 3
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        assert tnet.tucker(x, 2, method="hooi", stopping=Stopping(50, 0, 1e-9)).status is Status.MAX_SECONDS
    exact = tnet.tucker(low_rank((9, 8, 7), (2, 2, 2), 0.0), 2, method="hooi")
    assert exact.status is Status.CONVERGED
    assert len(exact.history.error) == 1  # below what norms resolve there is nothing to gain


def test_callback_sees_what_would_be_returned() -> None:
    x = 2.0**400 * np.random.default_rng(0).normal(size=(9, 8, 7))
    seen: list[IterationInfo[Any]] = []

    def callback(info: IterationInfo[Any]) -> bool:
        seen.append(info)
        return info.iteration == 3

    result = tnet.tucker(x, 2, method="hooi", refine=True, callback=callback)
    assert result.status is Status.CALLBACK
    assert [info.iteration for info in seen] == [1, 2, 3]
    assert result.history.error == tuple(info.error for info in seen)
    assert np.allclose(np.asarray(seen[-1].tensor) / 2.0**400, np.asarray(result.tensor) / 2.0**400)


def test_interrupted_in_the_first_sweep_returns_sthosvd(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(9, 8, 7))
    direct = tnet.tucker(x, 2)

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("tnet.decompositions.hooi.ttm_chain", interrupt)
    result = tnet.tucker(x, 2, method="hooi", refine=True)
    assert result.status is Status.INTERRUPTED
    assert result.error == pytest.approx(direct.error, abs=1e-12)
    assert true_error(x, result) == pytest.approx(result.error, abs=1e-12)
    assert result.history.error == ()


# Libraries and devices


@pytest.mark.parametrize("rtol", [None, 0.2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "hooi", "oversampling": 2},
        {"method": "hooi", "oversampling": 0, "refine": True, "stopping": Stopping(3, 0)},
        {"method": "randomized", "oversampling": 2, "rng": 0},
        {"method": "sketch", "oversampling": 2, "rng": 0},
        {"memory_limit": 300_000},
    ],
)
def test_every_library_and_device_gives_the_same(convert: Any, options: dict[str, Any], rtol: float | None) -> None:
    if rtol is not None and options.get("method") == "sketch":
        pytest.skip("takes a rank only")
    x = low_rank((30, 20, 25), (3, 4, 2), 0.1)
    rank = (3, 4, 2) if rtol is None else None
    wanted = tnet.tucker(x, rank, rtol=rtol, **options)
    found = tnet.tucker(convert(x), rank, rtol=rtol, **options)
    assert type(found.tensor.core) is type(convert(x))
    assert getattr(found.tensor.core, "device", None) == getattr(convert(x), "device", None)
    assert found.tensor.rank == wanted.tensor.rank
    assert found.error == pytest.approx(wanted.error, rel=1e-6)
    assert np.allclose(to_numpy(found.tensor.to_dense()), np.asarray(wanted.tensor), atol=1e-8)


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "fast"}, "method='fast'"),
        ({"method": None}, "method=None"),
        ({"oversampling": -1}, "oversampling=-1"),
        ({"oversampling": 2.0}, "oversampling=2.0"),
        ({"power": True}, "power=True"),
        ({"power": "1"}, "power='1'"),
        ({"method": "randomized", "rng": -1}, "rng=-1"),
        ({"method": "randomized", "rng": "seed"}, "rng='seed'"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tnet.tucker(np.ones((3, 4, 5)), 2, **options)


def test_sthosvd_of_a_zero_array() -> None:
    found = sthosvd(np.zeros((3, 4)), None, 0.1, 0.0)
    assert found.error == 0.0
    assert math.prod(found.core.shape) == 1


# Sketch


@pytest.mark.parametrize("shape", [(40, 30, 50), (60, 70), (12, 15, 10, 14), (30,)])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_sketch_finds_a_tensor_of_its_rank(shape: tuple[int, ...], dtype: str) -> None:
    x = low_rank(shape, tuple(min(3, n) if len(shape) > 1 else 1 for n in shape), 0.0).astype(dtype)
    x = x * (1 + 2j) if dtype == "complex128" else x
    result = tnet.tucker(x, 3 if len(shape) > 1 else 1, method="sketch", oversampling=3, rng=0)
    assert true_error(x, result) < 1e-10
    for U in result.tensor.factors:
        assert np.allclose(U.conj().T @ U, np.eye(U.shape[1]), atol=1e-12)


def test_a_sketch_is_a_few_times_the_best_and_better_when_it_is_larger() -> None:
    x = low_rank((60, 50, 40), (4, 4, 4), 0.1)
    best = tnet.tucker(x, 4).error
    medians = []
    for oversampling in (2, 6, 15):
        results = [tnet.tucker(x, 4, method="sketch", oversampling=oversampling, rng=seed) for seed in range(12)]
        for result in results:
            assert result.error == pytest.approx(true_error(x, result), abs=1e-12)
        medians.append(np.median([r.error for r in results]) / best)
    assert 10 > medians[0] > medians[1] > medians[2] > 1
    assert medians[2] < 2.5


def test_a_sketch_does_not_depend_on_its_parts() -> None:
    x = low_rank((13, 11, 12, 9), (3, 3, 3, 3), 0.2)
    whole = tnet.tucker(x, 3, method="sketch", oversampling=1, rng=5)
    for limit in (230_000, 270_000, 400_000):
        parts = tnet.tucker(x, 3, method="sketch", oversampling=1, rng=5, memory_limit=limit)
        assert np.allclose(np.asarray(parts.tensor), np.asarray(whole.tensor), atol=1e-10)
        assert parts.error == pytest.approx(whole.error, abs=1e-12)
        assert parts.rng_seed == whole.rng_seed == 5
    for convert in (torch.from_numpy, array_api_strict.asarray):
        found = tnet.tucker(convert(x), 3, method="sketch", oversampling=1, rng=5)
        assert np.allclose(np.asarray(found.tensor), np.asarray(whole.tensor), atol=1e-10)


def test_each_part_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = low_rank((13, 11, 12), (3, 3, 3), 0.2)
    source = SlabbedArray(x)
    read = np.zeros(x.shape, dtype=int)
    slabs = SlabbedArray.slabs

    def counted(self: SlabbedArray, *arguments: Any) -> Any:
        for slab in slabs(self, *arguments):
            read[slab.place] += 1
            yield slab

    monkeypatch.setattr(SlabbedArray, "slabs", counted)
    sketched_tucker(source, (3, 3, 3), 2, np.random.default_rng(0), Allowance(10_000, held=0))
    assert np.all(read == 1)


def test_a_sketch_promises_no_error() -> None:
    with pytest.raises(InputError, match="method='sketch'"):
        tnet.tucker(np.ones((3, 4, 5)), rtol=0.1, method="sketch")
    with pytest.raises(MemoryLimitError, match="sketch"):
        tnet.tucker(np.ones((30, 40, 50)), 20, method="sketch", memory_limit=10_000)
    zero = tnet.tucker(np.zeros((3, 4, 5)), 2, method="sketch")
    assert zero.error == 0.0
    assert not np.any(np.asarray(zero.tensor))
