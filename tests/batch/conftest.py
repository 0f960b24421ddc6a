from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Tensors this small only wait for each other's threads."""
    with threadpool_limits(1):
        yield


def batch_of(
    n: int, shape: tuple[int, ...], seed: int = 0, dtype: str = "float64", noise: float = 0.05
) -> np.ndarray:
    """Draw ``n`` tensors with decaying spectra plus noise, items of different scale."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    x = np.zeros((n, *shape), dtype=complex)
    for k in range(3):
        term = np.ones((n, *[1] * len(shape)), dtype=complex)
        for axis, size in enumerate(shape):
            v = rng.normal(size=(n, size)) + 1j * rng.normal(size=(n, size)) * (kind == "c")
            term = term * v.reshape(n, *[size if a == axis else 1 for a in range(len(shape))])
        x += 4.0**-k * term
    x += noise * rng.normal(size=x.shape)
    x *= np.exp(rng.normal(size=n)).reshape(n, *[1] * len(shape))
    return (x if kind == "c" else x.real).astype(dtype)


def true_errors(x: np.ndarray, result: object) -> np.ndarray:
    dense = np.asarray(result.tensor)  # type: ignore[attr-defined]
    flat = (x - dense).reshape(len(x), -1)
    return np.linalg.norm(flat, axis=1) / np.linalg.norm(x.reshape(len(x), -1), axis=1)
