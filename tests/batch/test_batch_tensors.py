"""The containers: items, views, checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.strategies import close, dense, random_array
from tnet.batch import CPBatch, TensorBatch, TensorTrainBatch, TuckerBatch
from tnet.errors import BackendError, InputError, ShapeError
from tnet.formats import CPTensor, TensorTrain, TuckerTensor

RNG = np.random.default_rng(0)
FORMATS = {"cp": CPTensor, "tucker": TuckerTensor, "tt": TensorTrain}


def draw(*shape: int, dtype: str = "float64") -> np.ndarray:
    return random_array(RNG, shape, dtype)


def make(kind: str, dtype: str = "float64") -> TensorBatch[Any]:
    if kind == "cp":
        return CPBatch(draw(5, 2, dtype=dtype), tuple(draw(5, n, 2, dtype=dtype) for n in (3, 4, 2)))
    if kind == "tucker":
        factors = tuple(draw(5, n, r, dtype=dtype) for n, r in zip((3, 4, 2), (2, 3, 2), strict=True))
        return TuckerBatch(draw(5, 2, 3, 2, dtype=dtype), factors)
    return TensorTrainBatch(tuple(draw(5, r, n, s, dtype=dtype) for r, n, s in ((1, 3, 2), (2, 4, 3), (3, 2, 1))))


@pytest.fixture(params=["cp", "tucker", "tt"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_items_are_formats_that_share_memory(kind: str, dtype: str) -> None:
    batch = make(kind, dtype)
    whole = np.asarray(batch)
    assert whole.shape == batch.shape == (5, 3, 4, 2)
    assert len(batch) == 5
    assert batch.ndim == 4
    for i, item in enumerate(batch):
        assert type(item) is FORMATS[kind]
        assert np.shares_memory(item.arrays[0], batch.arrays[0])
        close(whole[i], dense(item))
    close(np.asarray(batch[-1]), whole[4])
    assert batch.n_params == 5 * batch[0].n_params
    assert batch.rank == batch[0].rank


def test_slices_are_batches(kind: str) -> None:
    batch = make(kind)
    part = batch[1:4:2]
    assert type(part) is type(batch)
    assert np.array_equal(np.asarray(part), np.asarray(batch)[1:4:2])


def test_iteration_and_bad_items(kind: str) -> None:
    batch = make(kind)
    for place in (5, -6):
        with pytest.raises(IndexError, match="batch of 5"):
            batch[place]
    for place in (1.0, True, "1", None):
        with pytest.raises(InputError, match="integer or a slice"):
            batch[place]
    with pytest.raises(InputError, match="copy=False"):
        np.array(batch, copy=False)
    assert np.asarray(batch, dtype="float32").dtype == np.float32


def test_vectors_and_half_precision() -> None:
    weights, factor = draw(3, 2), draw(3, 4, 2)
    assert np.allclose(np.asarray(CPBatch(weights, (factor,))), np.einsum("br,bir->bi", weights, factor))
    half = make("tucker").map_arrays(lambda array: array.astype(np.float16))
    assert half.to_dense().dtype == np.float16


def test_the_report(kind: str) -> None:
    assert "5 x " in repr(make(kind))
    assert make(kind).device is not None


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: CPBatch(np.ones((3, 2)), ()), InputError),
        (lambda: CPBatch(np.ones((3, 2)), (np.ones((4, 5, 2)),)), ShapeError),
        (lambda: CPBatch(np.ones((3, 2)), (np.ones((3, 5, 3)),)), ShapeError),
        (lambda: CPBatch(np.ones((0, 2)), (np.ones((0, 5, 2)),)), ShapeError),
        (lambda: CPBatch(np.float64(1), (np.ones((3, 5, 2)),)), ShapeError),
        (lambda: TensorTrainBatch((np.ones((3, 2, 4, 1)),)), ShapeError),
        (lambda: TuckerBatch(np.ones((3, 2, 2)), (torch.ones((3, 4, 2)), torch.ones((3, 4, 2)))), BackendError),
    ],
    ids=["none", "lengths", "columns", "empty", "scalar", "bonds", "libraries"],
)
def test_parts_that_do_not_fit_are_refused(build: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        build()
