"""Starting factors of CP: what the generalised eigenvalue start finds, and where it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tnet
from tnet.decompositions.cp_start import starting_factors
from tnet.decompositions.preparation import prepare
from tnet.errors import InputError
from tnet.formats import CPTensor
from tnet.options import Stopping

TWO = Stopping(max_iter=2, change=0)


def planted(shape: tuple[int, ...], R: int, complex_: bool = False, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.normal(size=(n, R)) + (1j * rng.normal(size=(n, R)) if complex_ else 0)  # noqa: E731
    return CPTensor(np.ones(R), tuple(draw(n) for n in shape)).to_dense()


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize(
    ("shape", "R"),
    [
        ((6, 7, 8), 5),
        ((10, 3, 9), 9),
        ((2, 6, 6), 6),
        ((5, 4, 6, 3), 5),
        ((4, 4, 4, 4, 4), 3),
        ((4, 1, 5, 3), 4),
        ((5, 6, 2), 1),
    ],
)
def test_exact_data_is_solved_at_once(shape: tuple[int, ...], R: int, complex_: bool) -> None:
    result = tnet.cp(planted(shape, R, complex_), R, init="gevd", stopping=TWO)
    assert result.error < 1e-12
    assert result.rng_seed is None


def test_noise_leaves_a_start_near_the_best() -> None:
    x = planted((12, 10, 11), 6)
    x += 0.01 * np.linalg.norm(x) / np.sqrt(x.size) * np.random.default_rng(1).normal(size=x.shape)
    result = tnet.cp(x, 6, init="gevd", stopping=Stopping(max_iter=200, change=1e-9))
    assert result.history.error[0] < 1.2 * result.error
    assert result.error < 0.01


def test_conjugate_pairs_leave_a_real_start_of_full_rank() -> None:
    # Rank 2 over the complex numbers, 3 over the real ones: the pencil is a rotation.
    x = np.stack([np.eye(2), np.array([[0.0, -1.0], [1.0, 0.0]])], axis=2)
    factors, _ = starting_factors(prepare(x), 2, "gevd", None)
    assert all(factor.dtype == np.float64 and np.all(np.isfinite(factor)) for factor in factors)
    assert abs(np.linalg.det(factors[0])) > 0.1


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_too_many_terms_leave_a_finite_start(scale: float) -> None:
    x = scale * planted((4, 5, 6), 1)  # asked for three
    factors, _ = starting_factors(prepare(x), 3, "gevd", None)
    assert all(np.all(np.isfinite(factor)) for factor in factors)
    assert tnet.cp(x, 3, init="gevd", stopping=TWO).error < 1e-7


@pytest.mark.parametrize("complex_", [False, True])
def test_other_libraries(convert: Any, complex_: bool) -> None:
    x = planted((5, 4, 6), 4, complex_)
    result = tnet.cp(convert(x), 4, init="gevd", stopping=TWO)
    assert type(result.tensor.weights) is type(convert(x))
    assert result.error < 1e-12


def test_single_precision() -> None:
    result = tnet.cp(planted((6, 7, 8), 4).astype(np.float32), 4, init="gevd", stopping=TWO)
    assert result.tensor.dtype == np.float32
    assert result.error < 1e-5


@pytest.mark.parametrize(("shape", "R"), [((6, 6), 2), ((7,), 1), ((9, 4, 5), 6), ((6, 6, 1), 3)])
def test_where_it_cannot_work_it_is_refused(shape: tuple[int, ...], R: int) -> None:
    with pytest.raises(InputError, match=r"gevd.*two modes"):
        tnet.cp(np.ones(shape), R, init="gevd")
