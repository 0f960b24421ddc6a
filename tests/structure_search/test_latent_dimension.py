"""Planted numbers of features are found, whoever computes; curves are what their definitions say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from scipy.optimize import nnls

from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.structure_search import latent_dimension as module_or_function
from tnet.structure_search.latent_dimension import latent_dimension
from tnet.structure_search.nonnegative_stacks import consensus_error, features_of_copies


def planted_matrix(k: int, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.random((30, k)) ** 3 @ rng.random((k, 40)) ** 3
    return x * (1 + noise * rng.uniform(-1, 1, x.shape))


def planted_stack(k: int, seed: int = 0, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    A = rng.random((24, k)) * (rng.random((24, k)) < 0.5)
    x = A @ rng.random((6, k, k)) @ A.T
    return x * (1 + noise * rng.uniform(-1, 1, x.shape)), A


def test_the_room_exports_the_function():
    assert module_or_function is latent_dimension


@pytest.mark.parametrize("k", [2, 4])
def test_nmfk_finds_the_planted_number(k: int):
    found = latent_dimension(planted_matrix(k), range(1, k + 3), n_perturbations=8, n_sweeps=300, rng=1)
    assert found.rank == k
    at = found.ranks.index(k)
    assert found.silhouettes[at] > 0.9
    assert max(found.silhouettes[at + 1 :]) < 0.5
    assert found.errors[at] < 0.03 < found.errors[at - 1]
    assert found.silhouettes[0] == found.mean_silhouettes[0] == 1.0


def test_rescalk_finds_the_planted_number_and_its_features():
    x, A = planted_stack(3)
    found = latent_dimension(x, [2, 3, 4], method="rescalk", n_perturbations=8, n_sweeps=300, rng=0)
    assert found.rank == 3
    least, errors = found.silhouettes, found.errors
    assert least[1] > 0.9 > 0.5 > least[2]
    assert errors[0] > 3 * errors[1]
    cosines = (A / np.linalg.norm(A, axis=0)).T @ found.features[1]
    assert sorted(np.argmax(cosines, axis=1)) == [0, 1, 2]
    assert cosines.max(axis=1).min() > 0.95


def test_workers_and_their_grouping_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x = planted_matrix(3)
    alone = latent_dimension(x, [2, 3], n_perturbations=5, n_sweeps=50, rng=3)
    with ThreadPoolExecutor(2) as pool:
        spread = latent_dimension(x, [3, 2], n_perturbations=5, n_sweeps=50, rng=3, executor=pool)
    assert spread.ranks == alone.ranks == (2, 3)
    assert spread.silhouettes == alone.silhouettes
    assert spread.errors == alone.errors
    together = features_of_copies(x, "nmfk", 3, (0, 1, 2), 0.02, 2, 50, 3)
    for p in range(3):
        assert np.allclose(features_of_copies(x, "nmfk", 3, (p,), 0.02, 2, 50, 3), together[p : p + 1], rtol=1e-9)


def test_a_rank_has_the_same_curve_in_any_company():
    x = planted_matrix(3)
    few = latent_dimension(x, [3], n_perturbations=4, n_sweeps=50, rng=0)
    many = latent_dimension(x, [2, 3, 5], n_perturbations=4, n_sweeps=50, rng=0)
    assert many.silhouettes[1] == few.silhouettes[0]
    assert many.errors[1] == few.errors[0]


@pytest.mark.parametrize("method", ["nmfk", "rescalk"])
def test_libraries_agree(convert: Callable[..., Any], method: Any):
    x = planted_matrix(2) if method == "nmfk" else planted_stack(2)[0]
    options: dict[str, Any] = {"method": method, "n_perturbations": 3, "n_sweeps": 30, "rng": 5}
    ours, plain = latent_dimension(convert(x), [2, 3], **options), latent_dimension(x, [2, 3], **options)
    assert ours.rank == plain.rank
    assert ours.silhouettes == pytest.approx(plain.silhouettes, abs=1e-6)
    assert ours.errors == pytest.approx(plain.errors, rel=1e-6)
    assert type(ours.features[0]) is type(convert(x))


def test_single_precision_finds_the_same():
    x = planted_matrix(3).astype(np.float32)
    found = latent_dimension(x, range(2, 5), n_perturbations=8, n_sweeps=300, rng=0)
    assert found.rank == 3
    assert found.features[0].dtype == np.float32


def test_errors_are_those_of_the_best_other_factor():
    x = planted_matrix(3)
    W = np.abs(np.random.default_rng(0).standard_normal((30, 3)))
    rest = np.linalg.norm([nnls(W, x[:, j])[1] for j in range(x.shape[1])])
    assert consensus_error(x, "nmfk", W) == pytest.approx(rest / np.linalg.norm(x), rel=1e-5)
    stack, A = planted_stack(2, noise=0.3)
    pairs = np.kron(A, A)  # row-major vectors: vec(A R A^T) = (A kron A) vec(R)
    rest = np.linalg.norm([nnls(pairs, slice_.reshape(-1))[1] for slice_ in stack])
    assert consensus_error(stack, "rescalk", A) == pytest.approx(rest / np.linalg.norm(stack), rel=1e-4)


def test_updates_never_end_worse_than_earlier():
    x = planted_stack(3)[0]
    errors = [
        consensus_error(x, "rescalk", features_of_copies(x, "rescalk", 3, (0,), 0.01, 1, sweeps, 0)[0])
        for sweeps in (5, 50, 500)
    ]
    assert errors[2] < errors[1] < errors[0]


def test_the_better_start_counts():
    x = planted_matrix(4)
    errors = []
    for n_starts in (1, 2, 4):
        copies = features_of_copies(x, "nmfk", 4, (0, 1, 2), 0.01, n_starts, 30, 7)
        errors.append([consensus_error(x, "nmfk", features) for features in copies])
    assert (np.diff(errors, axis=0) <= 1e-3).all()
    assert np.min(errors[2]) < np.min(errors[0])


def test_where_nothing_is_stable_the_rule_says_so():
    x = np.random.default_rng(0).random((15, 15))
    found = latent_dimension(x, [5, 6], n_perturbations=5, n_sweeps=50, rng=0)
    assert "no silhouette reaches" in found.rule
    assert found.rank == found.ranks[int(np.argmax(found.silhouettes))]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_does_not_matter(scale: float):
    x = planted_matrix(2)
    plain = latent_dimension(x, [1, 2], n_perturbations=3, n_sweeps=50, rng=0)
    scaled = latent_dimension(scale * x, [1, 2], n_perturbations=3, n_sweeps=50, rng=0)
    assert scaled.rank == plain.rank
    assert scaled.errors == pytest.approx(plain.errors, rel=1e-6)


def test_zero_rows_and_zero_slices_are_no_trouble():
    x = planted_matrix(2)
    x[3], x[:, 5] = 0.0, 0.0
    stack = planted_stack(2)[0]
    stack[1] = 0.0
    for data, method in ((x, "nmfk"), (stack, "rescalk")):
        found = latent_dimension(data, [1, 2], method=method, n_perturbations=3, n_sweeps=50, rng=0)  # type: ignore[arg-type]
        assert np.isfinite([*found.silhouettes, *found.errors]).all()


def test_the_report_and_the_figure_show_the_curves():
    found = latent_dimension(planted_matrix(2), range(1, 4), n_perturbations=3, n_sweeps=100, rng=0)
    lines = repr(found).splitlines()
    assert lines[0].startswith("2 features of 1 to 3 (nmfk)")
    assert lines[3].endswith("<-")
    ax = found.plot()
    assert np.allclose(ax.lines[0].get_ydata(), found.silhouettes)
    assert np.allclose(ax.figure.axes[1].lines[0].get_ydata(), found.errors)
    pyplot.close("all")


X = np.ones((4, 5))


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (X, {"ranks": []}, RankError, "from 1 to 4"),
        (X, {"ranks": [0]}, RankError, "from 1 to 4"),
        (X, {"ranks": [5]}, RankError, "from 1 to 4"),
        (X, {"ranks": [2.0]}, RankError, "from 1 to 4"),
        (X, {"ranks": 3}, RankError, "from 1 to 4"),
        (X, {"method": "nmf"}, InputError, "'rescalk'"),
        (X, {"n_perturbations": 1}, InputError, "n_perturbations"),
        (X, {"n_starts": True}, InputError, "n_starts"),
        (X, {"n_sweeps": 0}, InputError, "n_sweeps"),
        (X, {"noise": 0.0}, InputError, "noise"),
        (X, {"noise": 1.5}, InputError, "noise"),
        (-X, {}, InputError, "negative"),
        (0 * X, {}, InputError, "all zero"),
        (np.full((3, 3), np.inf), {}, InputError, "non-finite"),
        (np.ones((2, 3, 3)), {}, ShapeError, "unfold"),
        (np.ones((2, 3, 4)), {"method": "rescalk"}, ShapeError, "square"),
        (X, {"method": "rescalk"}, ShapeError, "square"),
        (X.astype(int), {}, BackendError, "int"),
        (X.astype(complex), {}, BackendError, "complex"),
        (X, {"executor": 0}, InputError, "executor"),
    ],
)
def test_bad_input_is_told_apart(x: np.ndarray, options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        latent_dimension(x, **{"ranks": [2]} | options)
