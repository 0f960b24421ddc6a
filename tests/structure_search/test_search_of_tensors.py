"""Searches from end to end: planted structures, every library, every loss, workers and logs."""

from __future__ import annotations

import numpy as np
import pytest

import tnet
from tnet.arrays import to_numpy
from tnet.structure_search import (
    Budget,
    DifferentiableLoss,
    Ending,
    LatencyAndError,
    LayerLatency,
    SearchSpace,
    SizeAndError,
    Structure,
    WeightedError,
)
from tnet.structure_search.algorithms import ALGORITHMS

SHAPE = (4, 5, 3, 4)
RING = Structure(SHAPE, ((0, 2, 2), (0, 3, 2), (1, 2, 3), (1, 3, 2)))


def planted(structure=RING, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    cores = [rng.standard_normal(shape) for shape in structure.core_shapes]
    if dtype == "complex128":
        cores = [core + 1j * rng.standard_normal(core.shape) for core in cores]
    return np.asarray(structure.to_network(cores).to_dense()).astype(dtype)


@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_a_planted_ring_is_found_in_every_library(library, dtype):
    xp = pytest.importorskip(library)
    x = xp.asarray(planted(dtype=dtype))
    found = tnet.search(x, rtol=1e-3, rng=0)
    assert found.best.structure == RING
    assert found.ending is Ending.PROVEN
    assert found.gap == 0
    assert found.best.error <= 1e-3
    network = found.best.network
    assert all(type(core) is type(x) and core.dtype == x.dtype for core in network.tensors)
    assert np.linalg.norm(to_numpy(network.to_dense()) - to_numpy(x)) <= 1.01e-3 * np.linalg.norm(to_numpy(x))


@pytest.mark.parametrize("name", ["auto", "svdinstn"])
def test_no_gradients_are_recorded(name):
    torch = pytest.importorskip("torch")
    x = torch.asarray(planted(Structure((4, 4, 4), ((0, 1, 2), (1, 2, 2))))).requires_grad_()
    found = tnet.search(x, rtol=0.1, space=SearchSpace(max_rank=2), algorithm=name, rng=0)
    assert not any(core.requires_grad for core in found.best.network.tensors)
    assert x.requires_grad


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_a_name(name):
    chain = Structure((4, 4, 4), ((0, 1, 2), (1, 2, 2)))
    found = tnet.search(
        planted(chain), objective=SizeAndError(5.0), space=SearchSpace(max_rank=3), algorithm=name,
        budget=Budget(evaluations=60), rng=0,
    )  # fmt: skip
    assert found.evaluations <= 60
    assert found.best.score <= 1.0  # one parameter for each entry is no feat


def test_completion_sees_only_what_was_observed():
    chain = Structure((5, 6, 5), ((0, 1, 2), (1, 2, 2)))
    x = planted(chain)
    observed = np.random.default_rng(1).random(x.shape) < 0.7
    given = np.where(observed, x, np.nan)
    found = tnet.search(given, rtol=1e-4, mask=observed, space=SearchSpace.train(3, max_rank=3), rng=0)
    assert found.best.n_params == chain.n_params
    assert np.linalg.norm(found.best.network.to_dense() - x) <= 1e-2 * np.linalg.norm(x)


def test_the_inputs_of_a_layer_weigh_the_error():
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((4, 5, 6))
    inputs = rng.standard_normal((3, 30)).T @ rng.standard_normal((3, 30))  # rank 3: few directions matter
    loss = WeightedError(inputs @ inputs.T, 2)
    found = tnet.search(weight, max_params=80, loss=loss, space=SearchSpace.train(3, max_rank=5), rng=0,
                        budget=Budget(evaluations=40))  # fmt: skip
    plain = tnet.search(weight, max_params=80, space=SearchSpace.train(3, max_rank=5), rng=0,
                        budget=Budget(evaluations=40))  # fmt: skip

    def outputs(network):
        error = (weight - network.to_dense()).reshape(4, 30)
        return np.trace(error @ loss.weight @ error.T)

    assert found.best.n_params <= 80
    assert outputs(found.best.network) < 0.9 * outputs(plain.best.network)
    scale = np.trace(weight.reshape(4, 30) @ loss.weight @ weight.reshape(4, 30).T)
    assert found.best.rse == pytest.approx(outputs(found.best.network) / scale, rel=1e-4, abs=1e-10)


def test_any_differentiable_loss():
    torch = pytest.importorskip("torch")
    x = torch.asarray(planted(Structure((4, 4, 4), ((0, 1, 2), (1, 2, 2)))))
    loss = DifferentiableLoss(lambda y: torch.mean(torch.log(torch.cosh(y - x))))
    found = tnet.search(
        x, objective=SizeAndError(1.0), loss=loss, space=SearchSpace.train(3, max_rank=2, permuted=False), rng=0,
        algorithm="greedy", budget=Budget(evaluations=2),
    )  # fmt: skip
    assert found.best.rse == pytest.approx(float(loss.function(found.best.network.to_dense())), rel=1e-5)


def test_latency_counts_as_a_score():
    x = planted()
    seconds = LayerLatency(2, batch=2, repeats=1)
    found = tnet.search(x, objective=LatencyAndError(1.0, seconds), rng=0, algorithm="tnls",
                        budget=Budget(evaluations=5))  # fmt: skip
    assert found.best.score == pytest.approx(seconds(found.best.structure) + found.best.rse)


def test_other_shapes_are_searched():
    x = planted(Structure((4, 4, 4, 4), ((0, 2, 2), (1, 3, 2))))
    found = tnet.search(
        x.reshape(16, 16), rtol=1e-6, rng=0, algorithm="trees",
        space=SearchSpace("trees", 4, n_internal=2, reshapes=((4, 4, 4, 4),)),
    )  # fmt: skip
    assert found.best.structure.shape == (4, 4, 4, 4)
    assert found.best.n_params == 32


def test_workers_and_logs_change_nothing(tmp_path):
    x = planted() + 0.05 * np.random.default_rng(3).standard_normal(SHAPE)
    options = {
        "objective": SizeAndError(5.0),
        "space": SearchSpace.ring(4, max_rank=3),
        "algorithm": "tnale",
        "rng": 4,
    }
    whole = tnet.search(x, budget=Budget(evaluations=24), **options)
    there = tnet.search(x, budget=Budget(evaluations=24), executor=2, **options)
    tnet.search(x, budget=Budget(evaluations=9), resume=tmp_path / "log", **options)
    again = tnet.search(x, budget=Budget(evaluations=24), resume=tmp_path / "log", **options)
    for other in (there, again):
        assert [trial.structure for trial in other.trials] == [trial.structure for trial in whole.trials]
        assert [trial.rse for trial in other.trials] == pytest.approx([trial.rse for trial in whole.trials], rel=1e-3)
        assert other.best.structure == whole.best.structure


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200])
def test_the_scale_of_the_tensor_does_not_matter(scale):
    found = tnet.search(planted() * scale, rtol=1e-3, rng=0)
    assert found.best.structure == RING
    assert np.all(np.isfinite(found.best.network.to_dense()))


def test_many_modes_have_no_bounds_but_an_answer():
    x = np.random.default_rng(0).standard_normal((2,) * 14)
    found = tnet.search(x, max_params=40, space=SearchSpace(max_rank=2), rng=0, budget=Budget(evaluations=3))
    assert found.feasible
    assert found.best.n_params <= 40
