from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, close, random_array, seeds
from tnet.arrays import (
    adjoint,
    cholesky_solve_gram,
    eigh_descending,
    gram,
    gram_truncated,
    khatri_rao,
    qr,
    solve_triangular,
    svd_truncated,
    to_numpy,
    truncated_eigh,
    tsqr,
    tsqr_truncated,
)
from tnet.errors import InputError, ShapeError
from tnet.options import Truncation

PATHS = [gram_truncated, tsqr_truncated, svd_truncated]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_khatri_rao_runs_in_c_order(convert, rng):
    a, b, c = (random_array(rng, (n, 3)) for n in (2, 4, 5))
    expected = np.einsum("ir,jr,kr->ijkr", a, b, c).reshape(40, 3)
    close(khatri_rao([convert(a), convert(b), convert(c)]), expected)
    one = convert(a)
    assert khatri_rao([one]) is one


@pytest.mark.parametrize("shapes", [[], [(2, 3), (2, 4)], [(2,), (2,)], [(2, 3), (3,)]])
def test_khatri_rao_refuses(shapes):
    with pytest.raises(ShapeError, match="khatri_rao"):
        khatri_rao([np.ones(shape) for shape in shapes])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gram_is_in_double_precision(xp, convert, rng, dtype):
    a = random_array(rng, (4, 300), dtype)
    G = gram(convert(a))
    wide = "complex128" if dtype.startswith("complex") else "float64"
    assert G.dtype == getattr(xp, wide)
    close(G, a.astype(wide) @ a.astype(wide).conj().T)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (6, 6), (1, 7), (7, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_truncated_svd_is_the_best_approximation(convert, rng, path, shape, dtype):
    a = random_array(rng, shape, dtype)
    values = np.linalg.svd(a.astype("complex128"), compute_uv=False)
    r = min(3, len(values))
    roundoff = 1e3 * float(np.finfo(dtype).eps)
    U, s, Vh, discarded = path(convert(a), Truncation(rank=r))
    assert U.shape == (shape[0], r)
    assert s.shape == (r,)
    assert Vh.shape == (r, shape[1])
    assert U.dtype == Vh.dtype == convert(a).dtype
    close(s, values[:r], dtype)
    error = np.linalg.norm(a - (to_numpy(U) * to_numpy(s)) @ to_numpy(Vh))
    expected = math.sqrt(np.sum(values[r:] ** 2))
    assert error == pytest.approx(expected, rel=1e-3, abs=roundoff)
    assert discarded == pytest.approx(np.sum(values[r:] ** 2), rel=1e-3, abs=roundoff)
    for factor in (to_numpy(U), to_numpy(Vh).conj().T):
        close(factor.conj().T @ factor, np.eye(r), dtype)


@pytest.mark.parametrize("path", PATHS)
@given(seed=seeds, tail=st.floats(0, 6), m=st.integers(1, 5), n=st.integers(1, 30))
def test_tail_is_respected_and_tight(path, seed, tail, m, n):
    a = random_array(np.random.default_rng(seed), (m, n))
    U, s, Vh, discarded = path(a, Truncation(tail=tail))
    error = np.linalg.norm(a - U * s @ Vh)
    assert math.sqrt(discarded) == pytest.approx(error, rel=1e-6, abs=1e-6)
    assert error <= tail + 1e-6 or len(s) == 1
    # One value fewer would have cut too much.
    assert len(s) == 1 or math.hypot(error, s[-1]) > tail


def test_tight_tails_need_tsqr_or_svd(convert, rng):
    Q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    P, _ = np.linalg.qr(rng.standard_normal((500, 4)))
    values = np.array([1.0, 1e-4, 1e-9, 1e-13])
    a = convert((Q * values) @ P.T)
    for path in (tsqr_truncated, svd_truncated):
        np.testing.assert_allclose(to_numpy(path(a, Truncation(rank=4)).s), values, rtol=1e-2)
    assert not np.allclose(to_numpy(gram_truncated(a, Truncation(rank=4)).s)[2:], values[2:], rtol=0.5, atol=0)


@pytest.mark.parametrize("path", PATHS)
def test_zero_matrix_keeps_one_value(convert, path):
    U, s, Vh, discarded = path(convert(np.zeros((3, 9))), Truncation(tail=0.0))
    assert s.shape == (1,)
    assert discarded == 0.0
    close((to_numpy(U) * to_numpy(s)) @ to_numpy(Vh), np.zeros((3, 9)))


@pytest.mark.parametrize("path", [*PATHS, lambda Y, _: tsqr(Y)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_paths_refuse_non_finite(convert, path, bad):
    a = np.ones((3, 50))
    a[1, 20] = bad
    with pytest.raises(InputError, match=r"Y has 1 non-finite value"):
        path(convert(a), Truncation(rank=1))


def test_gram_of_huge_entries_is_refused():
    with pytest.raises(InputError, match="balanced_scale"):
        gram_truncated(np.full((2, 3), 1e200), Truncation(rank=1))


@pytest.mark.parametrize("shape", [(30, 4), (4, 4), (3, 5), (600_000, 2)])
def test_tsqr_gives_the_triangular_factor(convert, rng, shape):
    a = random_array(rng, shape)
    R = to_numpy(tsqr(convert(a)))
    assert R.shape == (min(shape), shape[1])
    close(np.tril(R, -1), np.zeros(R.shape))
    close(R.T @ R, a.T @ a)


def test_tsqr_of_complex_rows_in_panels(monkeypatch, convert, rng):
    monkeypatch.setattr("tnet.arrays.linalg._PANEL", 40)
    a = random_array(rng, (101, 4), "complex128")
    R = to_numpy(tsqr(convert(a)))
    close(R.conj().T @ R, a.conj().T @ a)
    wide = random_array(rng, (4, 101), "complex64")
    close(gram(convert(wide)), wide.astype(complex) @ wide.astype(complex).conj().T)


def test_eigenvalues_descend(convert, rng):
    a = random_array(rng, (5, 5), "complex128")
    G = a @ a.conj().T
    values, vectors = (to_numpy(part) for part in eigh_descending(convert(G)))
    assert np.all(np.diff(values) <= 0)
    close((vectors * values) @ vectors.conj().T, G)
    with pytest.raises(InputError, match="G has"):
        eigh_descending(convert(np.full((2, 2), np.nan)))


def test_truncated_eigh_clips_negative_roundoff(convert):
    G = convert(np.diag([4.0, 1.0, -1e-17]))
    U, s, discarded = truncated_eigh(G, Truncation(tail=1.0))
    assert to_numpy(s).tolist() == [2.0]
    assert discarded == 1.0
    assert U.shape == (3, 1)
    assert to_numpy(truncated_eigh(G, Truncation(rank=3))[1]).tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_solve_triangular_reads_one_triangle(convert, rng, lower, dtype):
    a = random_array(rng, (4, 4), dtype) + 5 * np.eye(4, dtype=dtype)
    b = random_array(rng, (4, 2), dtype)
    triangle = np.tril(a) if lower else np.triu(a)
    close(triangle @ to_numpy(solve_triangular(convert(a), convert(b), lower=lower)), b, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gram_solve(convert, rng, dtype):
    a, m = random_array(rng, (9, 4), dtype), random_array(rng, (6, 4), dtype)
    G = a.conj().T @ a
    X = to_numpy(cholesky_solve_gram(convert(G), convert(m)))
    assert X.dtype == np.dtype(dtype)
    close(X @ G, m, dtype, 1e4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_singular_gram_gives_the_least_norm_solution(convert, rng, dtype, rank):
    a = random_array(rng, (9, rank), dtype) @ random_array(rng, (rank, 4), dtype)
    G = a.conj().T @ a
    m = random_array(rng, (3, 9), dtype) @ a
    X = to_numpy(cholesky_solve_gram(convert(G), convert(m)))
    expected = m.astype(complex) @ np.linalg.pinv(G.astype(complex), rcond=1e-5, hermitian=True)
    close(X, expected, dtype, 1e5)


def test_nearly_singular_gram_falls_back():
    # Cholesky succeeds here, on a pivot that is pure roundoff.
    G = np.array([[1.0, 1.0], [1.0, 1.0 + 2.0**-52]])
    X = cholesky_solve_gram(G, np.array([[1.0, 1.0]]))
    np.testing.assert_allclose(X, [[0.5, 0.5]], atol=1e-12)


def test_gram_solve_refuses_non_finite(convert):
    with pytest.raises(InputError, match="G has"):
        cholesky_solve_gram(convert(np.full((2, 2), np.inf)), convert(np.ones((1, 2))))


def test_qr_is_reduced(convert, rng):
    a = random_array(rng, (3, 5), "complex64")
    Q, R = qr(convert(a))
    assert (Q.shape, R.shape) == ((3, 3), (3, 5))
    close(to_numpy(Q) @ to_numpy(R), a, "complex64")


def test_truncation_of_a_graph_keeps_gradients():
    Y = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    U, s, Vh, _ = svd_truncated(Y, Truncation(rank=2))
    ((U * s) @ Vh).square().sum().backward()
    assert torch.isfinite(Y.grad).all()
    assert adjoint(Y).requires_grad


def test_singular_values_without_an_inverse_count_as_zero() -> None:
    Y = np.diag(np.array([1.0, 1e-40], dtype=np.float32))  # 1e40 is beyond single precision
    found = tsqr_truncated(Y, Truncation(rank=2))
    assert np.all(np.isfinite(found.Vh))
    assert np.allclose((found.U * found.s) @ found.Vh, Y)
