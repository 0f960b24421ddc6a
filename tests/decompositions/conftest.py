from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tests.decompositions.registry import REGISTRY, Entry


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Tensors this small only wait for each other's threads: twenty times slower on a busy machine."""
    with threadpool_limits(1):
        yield


@pytest.fixture(params=REGISTRY, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param


@pytest.fixture
def sample() -> Callable[..., np.ndarray]:
    """Return a function that draws a tensor with decaying spectra plus noise."""

    def draw(shape: tuple[int, ...], seed: int = 0, dtype: str = "float64") -> np.ndarray:
        rng = np.random.default_rng(seed)
        total = np.zeros(shape, dtype=complex)
        for k in range(3):
            term = np.ones((), dtype=complex)
            for n in shape:
                vector = rng.normal(size=n) + 1j * rng.normal(size=n) * (np.dtype(dtype).kind == "c")
                term = np.multiply.outer(term, vector)
            total += 4.0**-k * term
        total += 0.05 * rng.normal(size=shape)
        return (total if np.dtype(dtype).kind == "c" else total.real).astype(dtype)

    return draw
