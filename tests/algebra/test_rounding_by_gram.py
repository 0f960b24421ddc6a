"""Rounding of trains from Gram matrices: where it holds, and where QR must take over."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import dense, random_array, random_format, seeds
from tnet.algebra import add, norm, round, scale
from tnet.arrays import gram_factor, to_numpy
from tnet.errors import InputError
from tnet.formats import TensorTrain

rounding = importlib.import_module("tnet.algebra.train_rounding")
gram_rounding = importlib.import_module("tnet.algebra.gram_rounding")


def graded(seed: int = 0, shape: tuple[int, ...] = (5, 4, 6, 5), dtype: str = "float64", convert: Any = np.asarray):
    """A train whose unfoldings have singular values at all magnitudes down to 1e-13."""
    rng = np.random.default_rng(seed)
    total = None
    for k in range(13):
        factors = [random_array(rng, (1, n, 1), dtype) for n in shape]
        term = TensorTrain(tuple(convert(factor / np.linalg.norm(factor)) for factor in factors))
        total = term if total is None else add(total, scale(term, 10.0**-k))
    return total


def error(y: TensorTrain, t: TensorTrain) -> float:
    return float(norm(add(y, scale(t, -1.0)))) / float(norm(t))


@pytest.fixture
def fell_back(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each rounding by Gram matrices gave up."""
    seen: list[bool] = []
    honest = gram_rounding.rounded_by_gram

    def watched(*arguments: Any, **options: Any) -> Any:
        found = honest(*arguments, **options)
        seen.append(found is None)
        return found

    monkeypatch.setattr(rounding, "rounded_by_gram", watched)
    return seen


@settings(max_examples=10)
@given(seed=seeds, power=st.floats(-12, -0.5), dtype=st.sampled_from(["float64", "complex128"]))
def test_every_tolerance_is_kept(seed: int, power: float, dtype: str, convert: Any) -> None:
    t = graded(seed, dtype=dtype, convert=convert)
    rtol = 10.0**power
    by_auto, by_qr = round(t, rtol=rtol), round(t, rtol=rtol, method="qr")
    assert error(by_auto, t) <= rtol * (1 + 1e-9) + 3e-15
    assert all(abs(a - b) <= 1 for a, b in zip(by_auto.rank, by_qr.rank, strict=True))


@given(seed=seeds, rank=st.integers(1, 6))
def test_ranks_agree_with_qr(seed: int, rank: int) -> None:
    t = graded(seed)
    by_gram, by_qr = (round(t, rank, method=method) for method in ("gram", "qr"))
    assert by_gram.rank == by_qr.rank
    assert error(by_gram, t) == pytest.approx(error(by_qr, t), rel=1e-3)


def test_gram_is_used_where_it_resolves(fell_back: list[bool]) -> None:
    t = graded()
    round(t, rtol=1e-5)
    round(t, 4)
    assert fell_back == [False, False]


def test_a_tolerance_below_the_resolution_is_left_to_qr(fell_back: list[bool]) -> None:
    t = graded()
    assert error(round(t, rtol=1e-9), t) <= 1e-9
    assert fell_back == []


def test_kept_values_below_the_resolution_are_left_to_qr(fell_back: list[bool]) -> None:
    t = graded()
    assert error(round(t, 11), t) <= 1e-10
    assert fell_back == [True]


@pytest.mark.parametrize(("rtol", "gives_up"), [(1e-2, False), (1e-6, True)])
def test_cancelling_terms_show_in_the_contradiction(fell_back: list[bool], rtol: float, gives_up: bool) -> None:
    """The terms cancel to 1e-5 of themselves, so that 1e-6 of the sum is 1e-11 of the terms."""
    t = graded(1)
    sum_ = add(add(t, scale(graded(2), 1e-5)), scale(_in_another_gauge(t), -1.0))
    assert error(round(sum_, rtol=rtol), sum_) <= rtol
    assert fell_back == [gives_up]


def _in_another_gauge(t: TensorTrain) -> TensorTrain:
    rng = np.random.default_rng(0)
    cores = list(t.cores)
    for k in range(len(cores) - 1):
        gauge = rng.standard_normal((cores[k].shape[2],) * 2)
        cores[k] = np.einsum("rns,st->rnt", cores[k], gauge)
        cores[k + 1] = np.einsum("ts,snu->tnu", np.linalg.inv(gauge), cores[k + 1])
    return TensorTrain(tuple(cores))


def test_float32_is_resolved_to_its_own_precision(fell_back: list[bool]) -> None:
    t = graded().astype("float32")
    y = round(t, rtol=2e-6)
    assert y.dtype == np.float32
    assert error(y.astype("float64"), t.astype("float64")) <= 3e-6
    assert fell_back == [False]


@pytest.mark.parametrize("method", ["auto", "gram", "qr"])
def test_cores_are_left_orthogonal(method: Any, convert: Any) -> None:
    y = round(graded(convert=convert), 4, method=method)
    for core in map(to_numpy, y.cores[:-1]):
        matrix = core.reshape(-1, core.shape[2])
        assert np.allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-13)


@pytest.mark.parametrize("options", [{"rank": 2}, {"rtol": 0.01}])
@pytest.mark.parametrize("method", ["gram", "auto"])
def test_a_zero_train(method: Any, options: Any) -> None:
    y = round(scale(graded(), 0.0), method=method, **options)
    assert not np.any(dense(y))


def test_a_thousand_modes_stay_in_range(fell_back: list[bool]) -> None:
    rng = np.random.default_rng(0)
    cores = [random_array(rng, (1 if k == 0 else 3, 2, 1 if k == 999 else 3)) for k in range(1000)]
    t = TensorTrain(tuple(cores))
    y = round(add(scale(t, 1e-200), scale(t, 1e-200)), rtol=1e-5)
    assert max(y.rank) == 3
    assert fell_back == [False]


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(InputError, match="method='svd'"):
        round(graded(), 2, method="svd")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"method='gram' for TuckerTensor.*'auto'"):
        round(random_format("tucker", np.random.default_rng(0)), 1, method="gram")


@given(seed=seeds, rank=st.integers(0, 5), dtype=st.sampled_from(["float64", "complex128"]))
def test_the_factor_of_a_gram_matrix(seed: int, rank: int, dtype: str, convert: Any) -> None:
    A = random_array(np.random.default_rng(seed), (5, rank), dtype)
    L = to_numpy(gram_factor(convert(A @ A.conj().T)))
    assert np.allclose(L @ L.conj().T, A @ A.conj().T, atol=1e-12)
    assert L.shape[0] == 5
    assert 1 <= L.shape[1] <= 5
