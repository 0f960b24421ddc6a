"""The transformers, by scikit-learn's own checks and by what they promise beyond."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

import tnet
from tnet.errors import InputError, RankError, ShapeError
from tnet.sklearn import CPTransformer, TuckerTransformer

pytestmark = pytest.mark.filterwarnings("ignore::tnet.errors.ConvergenceWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    with threadpool_limits(1):
        yield


def low_rank(n: int = 30, shape: tuple[int, ...] = (5, 6), seed: int = 0, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = np.einsum("sr,ir,jr->sij", rng.random((n, 2)), rng.random((shape[0], 2)), rng.random((shape[1], 2)))
    return X + noise * rng.normal(size=X.shape)


@parametrize_with_checks(
    [CPTransformer(max_iter=30), CPTransformer(nonnegative=True, max_iter=30), TuckerTransformer()]
)
@pytest.mark.filterwarnings("ignore:rank 2 is clipped:UserWarning")
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(params=["cp", "nonnegative", "tucker"])
def model(request: pytest.FixtureRequest) -> Any:
    if request.param == "tucker":
        return TuckerTransformer(rank=2)
    return CPTransformer(rank=2, nonnegative=request.param == "nonnegative", max_iter=3000, tol=1e-13, random_state=0)


def test_low_rank_samples_are_explained_new_ones_too(model: Any) -> None:
    X = low_rank()
    model.fit(X[:20])
    assert model.error_ < 1e-4
    assert model.score(X[:20]) == pytest.approx(1 - model.error_**2, abs=1e-7)
    assert model.score(X[20:]) > 1 - 1e-7
    back = model.inverse_transform(model.transform(X[20:]))
    assert back.shape == (10, 5, 6)
    assert np.allclose(back, X[20:], atol=1e-3)


def test_rows_and_tensors_are_the_same_samples(model: Any) -> None:
    X = low_rank(noise=0.01)
    tensors = clone(model).fit(X)
    rows = clone(model).set_params(feature_shape=(5, 6)).fit(X.reshape(30, 30))
    assert np.allclose(tensors.components_, rows.components_)
    assert tensors.feature_shape_ == rows.feature_shape_ == (5, 6)
    assert tensors.n_features_in_ == rows.n_features_in_ == 30
    wanted = rows.transform(X.reshape(30, 30))
    assert np.allclose(tensors.transform(X), wanted)
    assert np.allclose(tensors.transform(X.tolist()), wanted)
    assert np.allclose(tensors.transform(X.reshape(30, 30)), wanted)
    assert np.allclose(rows.transform(X), wanted)
    assert rows.inverse_transform(wanted).shape == (30, 30)
    assert np.allclose(tensors.inverse_transform(wanted).reshape(30, 30), rows.inverse_transform(wanted))


def test_transform_is_least_squares(model: Any) -> None:
    X = low_rank(noise=0.1)
    model.fit(X)
    A = model.transform(X)
    rows = X.reshape(30, -1)
    best = np.linalg.norm(rows - A @ model.components_, axis=1)
    rng = np.random.default_rng(1)
    for _ in range(20):
        B = A + 1e-3 * rng.normal(size=A.shape)
        B = np.maximum(B, 0) if getattr(model, "nonnegative", False) else B
        assert np.all(np.linalg.norm(rows - B @ model.components_, axis=1) >= best - 1e-12)


def test_nonnegative_parts_are_nonnegative() -> None:
    X = low_rank(noise=0.3)
    model = CPTransformer(rank=3, nonnegative=True, random_state=0).fit(X)
    assert all(np.all(factor >= 0) for factor in model.factors_)
    assert np.all(model.transform(X) >= 0)
    assert np.all(model.components_ >= 0)


def test_factors_are_those_of_the_decomposition() -> None:
    X = low_rank(noise=0.05)
    cp = CPTransformer(rank=2, max_iter=2000, tol=1e-12, random_state=0).fit(X)
    alone = tnet.cp(X, 2, rng=0, stopping=tnet.Stopping(max_iter=2000, change=1e-12))
    assert cp.error_ == pytest.approx(alone.error, rel=1e-6)
    assert np.allclose(np.linalg.norm(cp.components_, axis=1), 1)
    assert cp.n_iter_ > 1
    tucker = TuckerTransformer(rank=(2, 3)).fit(X)
    assert tucker.rank_ == (2, 3)
    assert np.allclose(tucker.components_ @ tucker.components_.T, np.eye(6))
    rows = X.reshape(30, -1)
    projected = rows @ tucker.components_.T @ tucker.components_
    assert tucker.error_ == pytest.approx(np.linalg.norm(rows - projected) / np.linalg.norm(rows), rel=1e-6)


def test_tucker_by_tolerance() -> None:
    X = low_rank(noise=0.01)
    model = TuckerTransformer(rank=None, rtol=0.05).fit(X)
    assert model.score(X) >= 1 - 0.05**2
    assert model.rank_ <= (2, 2)


def test_in_a_pipeline_and_a_grid() -> None:
    X = low_rank(60, noise=0.01)
    y = (X[:, 0, 0] > np.median(X[:, 0, 0])).astype(int)
    steps = make_pipeline(CPTransformer(feature_shape=(5, 6), random_state=0), StandardScaler(), LogisticRegression())
    search = GridSearchCV(steps, {"cptransformer__rank": [1, 2]}, cv=2).fit(X.reshape(60, 30), y)
    assert search.best_score_ > 0.7
    names = search.best_estimator_[:-1].get_feature_names_out()
    assert names[0] == "cptransformer0"


def test_pickles_and_repeats(model: Any) -> None:
    X = low_rank(noise=0.01)
    model.fit(X)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).transform(X), model.transform(X))
    assert np.array_equal(clone(model).fit(X).components_, model.components_)


def test_single_precision_stays(model: Any) -> None:
    X = low_rank(noise=0.01).astype(np.float32)
    assert (
        model.set_params(**({"tol": 1e-6} if hasattr(model, "tol") else {})).fit(X).transform(X).dtype == np.float32
    )
    assert model.inverse_transform(model.transform(X)).dtype == np.float32


def test_zero_samples_are_explained_by_nothing(model: Any) -> None:
    X = np.zeros((4, 3, 2))
    assert not np.any(model.fit(X).transform(X))
    assert model.score(X) == 1.0


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"feature_shape": (5, 5)}, ShapeError, "holds 25 features, X has 30"),
        ({"feature_shape": (-5, -6)}, ShapeError, "positive integers"),
        ({"feature_shape": (5.0, 6.0)}, ShapeError, "positive integers"),
        ({"rank": 2.5}, RankError, "rank"),
        ({"rank": 0}, RankError, "rank"),
        ({"rank": "3"}, RankError, "rank"),
    ],
    ids=["size", "negative", "float", "2.5", "zero", "text"],
)
def test_bad_options_are_refused_by_fit(model: Any, options: dict[str, Any], error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        model.set_params(**options).fit(low_rank())


def test_bad_options_of_one_kind() -> None:
    X = low_rank()
    with pytest.raises(InputError, match="init"):
        CPTransformer(init="best").fit(X)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_iter"):
        CPTransformer(max_iter=0).fit(X)
    with pytest.raises(RankError, match="both"):
        TuckerTransformer(rank=2, rtol=0.1).fit(X)
    with pytest.raises(RankError, match="neither"):
        TuckerTransformer(rank=None).fit(X)
    with pytest.raises(RankError, match="3 ranks"):
        TuckerTransformer(rank=(1, 1, 1)).fit(X)
    with pytest.warns(UserWarning, match="99 is clipped"):
        assert TuckerTransformer(rank=99).fit(X).rank_ == (5, 6)


def test_samples_of_another_shape_are_refused(model: Any) -> None:
    with pytest.raises(NotFittedError):
        model.transform(low_rank())
    model.fit(low_rank())
    with pytest.raises(ShapeError, match=r"shape \(6, 5\): fit has seen samples of shape \(5, 6\)"):
        model.transform(low_rank(shape=(6, 5)))
    with pytest.raises(ValueError, match="features"):
        model.transform(np.ones((3, 7)))
    with pytest.raises(ShapeError, match="columns"):
        model.inverse_transform(np.ones((3, 7)))
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((3, 4, 5), np.nan))


def test_without_scikit_learn_the_message_says_what_to_install() -> None:
    code = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sklearn":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Gone())
from tnet.errors import MissingDependencyError
try:
    import tnet.sklearn
except MissingDependencyError as error:
    assert "pip install 'tnet-tensors[sklearn]'" in str(error)
else:
    raise SystemExit("imported")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
