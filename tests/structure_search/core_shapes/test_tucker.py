"""Core shapes against brute force, against singular values, and against what Tucker models reach."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.errors import BackendError, ConvergenceWarning, InputError, ShapeError
from tnet.structure_search.core_shapes.least_error import useful_limits
from tnet.structure_search.core_shapes.tucker import core_shape

METHODS = ("exact", "milp", "greedy", "bang-for-buck", "ptas", "hooi")


def size(shape: Sequence[int], ranks: Sequence[int]) -> int:
    return math.prod(ranks) + sum(n * r for n, r in zip(shape, ranks, strict=True))


def value(spectra: Sequence[np.ndarray], ranks: Sequence[int]) -> float:
    return sum(float(np.sort(s)[::-1][:r].sum()) for s, r in zip(spectra, ranks, strict=True))


def best_value(spectra: Sequence[np.ndarray], budget: int) -> float:
    shape = [len(s) for s in spectra]
    every = itertools.product(*(range(1, n + 1) for n in shape))
    return max(value(spectra, ranks) for ranks in every if size(shape, ranks) <= budget)


def random_packing(seed: int) -> tuple[list[np.ndarray], int]:
    """Spectra that fall fast or slowly, with ties, zeros or none, and a budget between nothing and everything."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 8, rng.integers(2, 5)).tolist()
    power = rng.integers(1, 6)
    spectra = [rng.integers(0, 4, n).astype(float) if seed % 3 == 0 else rng.random(n) ** power for n in shape]
    return spectra, int(rng.integers(1 + sum(shape), size(shape, shape) + 2))


def test_exact_methods_equal_brute_force_on_200_packings():
    for seed in range(200):
        spectra, budget = random_packing(seed)
        best = best_value(spectra, budget)
        for method in ("exact", "milp"):
            found = core_shape(spectra=spectra, max_params=budget, method=method)
            assert found.is_proven
            assert found.n_params == size(found.shape, found.ranks) <= budget
            assert found.value == pytest.approx(value(spectra, found.ranks), rel=1e-12)
            assert found.value == pytest.approx(best, rel=1e-9), (seed, method)


@pytest.mark.parametrize("method", ["greedy", "bang-for-buck"])
def test_greedy_shapes_leave_no_room(method: Any):
    for seed in range(60):
        spectra, budget = random_packing(seed)
        found = core_shape(spectra=spectra, max_params=budget, method=method)
        assert found.n_params == size(found.shape, found.ranks) <= budget
        assert not found.is_proven
        for n, (r, s) in enumerate(zip(found.ranks, spectra, strict=True)):
            raised = [*found.ranks[:n], r + 1, *found.ranks[n + 1 :]]
            assert size(found.shape, raised) > budget or np.sort(s)[::-1][r : r + 1].sum() == 0


def test_greedy_takes_the_largest_gain_and_bang_for_buck_the_best_paid():
    spectra = [np.array([5.0, 3.0, 0.0, 0.0, 0.0, 0.0]), np.array([5.0, 2.0])]
    # From (1, 1) with 9 parameters: +1 on mode 0 gains 3 for 7 parameters, on mode 1 gains 2 for 3.
    assert core_shape(spectra=spectra, max_params=16, method="greedy").ranks == (2, 1)
    assert core_shape(spectra=spectra, max_params=16, method="bang-for-buck").ranks == (1, 2)


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_the_scheme_keeps_its_promise(eps: float):
    for seed in range(12):
        spectra, budget = random_packing(seed)
        found = core_shape(spectra=spectra, max_params=budget, method="ptas", eps=eps)
        assert found.n_params <= budget
        assert found.value >= (1 - 2 * eps) * best_value(spectra, budget)


def test_the_scheme_guesses_products_beyond_small_ranks():
    spectra = [np.linspace(1, 0.9, 12), np.linspace(1, 0.9, 9)]  # many ranks are needed
    found = core_shape(spectra=spectra, max_params=120, method="ptas", eps=0.4)
    assert max(found.ranks) > math.ceil(1 / 0.4)
    assert found.value >= 0.2 * best_value(spectra, 120)


@pytest.mark.parametrize("kind", ["power", "flat"])
@pytest.mark.parametrize(("shape", "budget"), [((256, 256, 14, 20), 20_000), ((50,) * 6, 20_000)])
def test_large_packings_are_proven_and_both_exact_methods_agree(shape: tuple[int, ...], budget: int, kind: str):
    rng = np.random.default_rng(len(shape))
    decay = rng.uniform(1, 3, len(shape)) if kind == "power" else [0.02] * len(shape)
    spectra = [np.arange(1.0, n + 1) ** -p for n, p in zip(shape, decay, strict=True)]
    exact = core_shape(spectra=spectra, max_params=budget)
    assert exact.is_proven
    if kind == "power":
        assert core_shape(spectra=spectra, max_params=budget, method="milp").value == pytest.approx(exact.value)
    for method in ("greedy", "bang-for-buck"):
        assert core_shape(spectra=spectra, max_params=budget, method=method).value <= exact.value * (1 + 1e-12)


def model_error(x: np.ndarray, ranks: Sequence[int], sweeps: int = 200) -> float:
    """Squared relative error of the model that HOOI finds."""
    stopping = tnet.Stopping(max_iter=sweeps, change=0 if sweeps < 200 else 1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return tnet.tucker(x, ranks, method="hooi", oversampling=0, refine=True, stopping=stopping).error ** 2


def is_useful(ranks: Sequence[int]) -> bool:
    return all(r * r <= math.prod(ranks) for r in ranks)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 5), (5, 6), (2, 13, 3), (3, 2, 3, 2)])
def test_hooi_finds_the_least_error_of_all_models(
    convert: Callable[..., Any], shape: tuple[int, ...], is_complex: bool
):
    rng = np.random.default_rng(4)
    x = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if is_complex else 0)
    x = x * np.geomspace(1, 0.1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    every = [ranks for ranks in itertools.product(*(range(1, n + 1) for n in shape)) if is_useful(ranks)]
    errors = {ranks: model_error(x, ranks) for ranks in every}
    for budget in (1 + sum(shape), 30, 45):
        found = core_shape(convert(x), max_params=budget, method="hooi")
        best = min(errors[ranks] for ranks in every if size(shape, ranks) <= budget)
        assert found.n_params == size(shape, found.ranks) <= budget
        assert errors[found.ranks] == pytest.approx(best, rel=1e-6, abs=1e-12)
        assert found.value == pytest.approx((1 - found.rse_bounds[1]) * np.linalg.norm(x) ** 2)
        assert found.rse_bounds[0] <= best * (1 + 1e-9) + 1e-12
        assert found.rse_bounds[1] >= best * (1 - 1e-9)
        assert found.rse_bounds[1] == pytest.approx(best, rel=0.2, abs=1e-12)
        assert not found.is_proven


def greedy_by_models(x: np.ndarray, budget: int) -> tuple[int, ...]:
    """Raise from 1 on the rank whose model has the least error: the baseline of the literature."""
    ranks = (1,) * x.ndim
    while True:
        raised = [(*ranks[:n], ranks[n] + 1, *ranks[n + 1 :]) for n in range(x.ndim) if ranks[n] < x.shape[n]]
        raised = [r for r in raised if size(x.shape, r) <= budget]
        if not raised:
            return ranks
        ranks = min(raised, key=lambda r: model_error(x, bounded(r), 10))


def bounded(ranks: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(r, math.prod(ranks) // r) for r in ranks)


@pytest.mark.parametrize("seed", range(6))
def test_hooi_is_no_worse_than_greedy_hooi(seed: int):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(5, 9, 3 + seed % 2).tolist())
    x = rng.standard_normal(shape)
    for mode in range(x.ndim - 1):
        x = x.cumsum(axis=mode)
    budget = int(0.2 * x.size) + sum(shape)
    mine, greedy = core_shape(x, max_params=budget, method="hooi").ranks, greedy_by_models(x, budget)
    assert model_error(x, mine, 20) <= model_error(x, bounded(greedy), 20) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 200))
def test_no_useful_rank_lies_beyond_the_limits(shape: list[int], spare: int):
    budget = 1 + sum(shape) + spare
    fitting = [
        ranks
        for ranks in itertools.product(*(range(1, n + 1) for n in shape))
        if is_useful(ranks) and size(shape, ranks) <= budget
    ]
    limits = useful_limits(shape, budget)
    assert all(r <= limit <= n for ranks in fitting for r, limit, n in zip(ranks, limits, shape, strict=True))


@pytest.mark.parametrize("method", ["exact", "hooi"])
def test_single_precision_is_enough(method: Any):
    x = np.random.default_rng(5).standard_normal((6, 7, 8)).cumsum(axis=0).cumsum(axis=1).cumsum(axis=2)
    single, double = (core_shape(x.astype(t), max_params=100, method=method) for t in (np.float32, np.float64))
    assert single.ranks == double.ranks
    assert single.value == pytest.approx(double.value, rel=1e-5)


@pytest.mark.parametrize("is_complex", [False, True])
def test_spectra_of_an_array_are_its_singular_values(convert: Callable[..., Any], is_complex: bool):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 14, 4)) + (1j * rng.standard_normal((3, 14, 4)) if is_complex else 0)
    x = x * np.geomspace(1, 1e-2, 14)[:, None]
    squared = []
    for n in range(3):
        s = np.linalg.svd(np.moveaxis(x, n, 0).reshape(x.shape[n], -1), compute_uv=False) ** 2
        squared.append(np.append(s, np.zeros(x.shape[n] - len(s))))  # 14 > 3 * 4: two are 0
    given, expected = core_shape(convert(x), max_params=80), core_shape(spectra=squared, max_params=80)
    assert given.ranks == expected.ranks
    assert given.value == pytest.approx(expected.value)
    assert given.rse_bounds == pytest.approx(expected.rse_bounds)


@pytest.mark.parametrize("method", ["exact", "hooi"])
@pytest.mark.parametrize("budget", [30, 60, 120])
def test_the_error_of_a_tucker_model_lies_within_the_bounds(budget: int, method: Any):
    x = np.random.default_rng(1).standard_normal((5, 6, 4)).cumsum(axis=0).cumsum(axis=1).cumsum(axis=2)
    found = core_shape(x, max_params=budget, method=method)
    model = tnet.tucker(x, found.ranks, method="hooi", refine=True, stopping=tnet.Stopping(max_iter=500))
    low, high = found.rse_bounds
    assert low * (1 - 1e-9) <= model.error**2 <= high * (1 + 1e-9)
    assert model.tensor.n_params == found.n_params


def test_what_a_tensor_does_not_need_is_not_spent():
    rng = np.random.default_rng(2)
    x = np.einsum("abc,ia,jb,kc->ijk", *(rng.standard_normal(s) for s in ((2, 3, 2), (6, 2), (7, 3), (5, 2))))
    for method in METHODS:
        found = core_shape(x, max_params=10_000, method=method)
        assert found.ranks == (2, 3, 2)
        assert found.rse_bounds[1] == pytest.approx(0.0, abs=1e-13)


@pytest.mark.parametrize("method", ["exact", "hooi"])
def test_scale_changes_the_value_alone(method: Any):
    x = np.random.default_rng(3).standard_normal((4, 5, 6))
    plain, large = (core_shape(scale * x, max_params=70, method=method) for scale in (1.0, 2.0**400))
    assert large.ranks == plain.ranks
    assert large.value == math.ldexp(plain.value, 800)
    assert large.rse_bounds == plain.rse_bounds


@pytest.mark.parametrize("method", METHODS)
def test_zero_tensors_get_rank_one(method: Any):
    found = core_shape(np.zeros((3, 4)), max_params=100, method=method)
    assert found.ranks == (1, 1)
    assert found.rse_bounds == (0.0, 0.0)


def test_the_report_names_what_was_found():
    text = repr(core_shape(np.random.default_rng(0).standard_normal((4, 5, 6)), max_params=70))
    assert "4x5x6" in text
    assert "at most 70" in text
    assert len(text.splitlines()) <= 12


X = np.ones((3, 4, 5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_params": 20}, InputError, "neither given"),
        ({"x": X, "spectra": [np.ones(3)] * 3, "max_params": 20}, InputError, "both given"),
        ({"x": X, "max_params": 12}, InputError, "takes 13 parameters"),
        ({"x": X, "max_params": 20.0}, InputError, "integer"),
        ({"x": X, "max_params": True}, InputError, "integer"),
        ({"x": X, "max_params": 20, "method": "best"}, InputError, "'milp'"),
        ({"x": X, "max_params": 20, "method": "ptas", "eps": 0.5}, InputError, "eps"),
        ({"x": np.ones(5), "max_params": 20}, ShapeError, "at least two modes"),
        ({"x": np.ones(5), "max_params": 20, "method": "hooi"}, ShapeError, "at least two modes"),
        ({"x": X, "max_params": 12, "method": "hooi"}, InputError, "takes 13 parameters"),
        ({"x": np.full((3, 3), np.inf), "max_params": 20, "method": "hooi"}, InputError, "non-finite"),
        ({"x": np.ones((0, 3)), "max_params": 20}, InputError, "empty|no entries|entr"),
        ({"x": np.full((3, 3), np.nan), "max_params": 20}, InputError, "non-finite"),
        ({"x": np.ones((3, 3), int), "max_params": 20}, BackendError, "int"),
        ({"x": np.full((3, 3), 1e300), "max_params": 20}, InputError, "divide x"),
        ({"spectra": [np.ones(3)] * 2, "max_params": 20, "method": "hooi"}, InputError, "needs x"),
        ({"spectra": [], "max_params": 20}, ShapeError, "two modes"),
        ({"spectra": [np.ones((2, 2)), np.ones(2)], "max_params": 20}, ShapeError, r"spectra\[0\]"),
        ({"spectra": [np.ones(2), np.array([1.0, -1.0])], "max_params": 20}, InputError, r"spectra\[1\]"),
        ({"spectra": [np.ones(2), np.array([1.0, np.inf])], "max_params": 20}, InputError, r"spectra\[1\]"),
    ],
)
def test_bad_input_is_told_apart(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        core_shape(**arguments)
