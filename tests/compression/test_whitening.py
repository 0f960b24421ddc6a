from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnet.compression.whitening import (
    Metric,
    Shrinkage,
    cholesky,
    factorise,
    kronecker_loss,
    shrunk,
    spectrum,
    whitened,
)


def moment(size: int, samples: int, seed: int) -> torch.Tensor:
    """Second moment of a few samples with very different scales; singular for fewer samples than size."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, size, dtype=torch.float64, generator=generator)
    return (x * torch.logspace(0, -2, size, dtype=torch.float64)).T @ x / samples


def case(rows: tuple[int, ...], n: int, seed: int, fisher: bool, samples: int = 40):
    """Weights of stacked members and their metric."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(m, n, dtype=torch.float64, generator=generator) for m in rows]
    c = moment(n, samples, seed + 1)
    column = cholesky(shrunk(c @ c.T, 1e-3))
    factors = tuple(
        cholesky(shrunk(moment(m, samples, seed + 2 + i) @ moment(m, samples, seed + 2 + i).T, 1e-2))
        if fisher
        else None
        for i, m in enumerate(rows)
    )
    return weights, Metric(column, factors, torch.zeros(n, dtype=torch.float64))


def loss_of(weights, lefts, right, metric: Metric) -> float:
    return sum(
        kronecker_loss(weight - left @ right, row, metric.column)
        for weight, left, row in zip(weights, lefts, metric.rows, strict=True)
    )


def plain_svd(weights, rank: int):
    u, s, vh = torch.linalg.svd(torch.cat(weights), full_matrices=False)
    return (u[:, :rank] * s[:rank]).split([len(weight) for weight in weights]), vh[:rank]


@given(
    rows=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    n=st.integers(2, 9),
    seed=st.integers(0, 10_000),
    fisher=st.booleans(),
    data=st.data(),
)
def test_factors_attain_the_tail_of_the_spectrum(rows, n, seed, fisher, data):
    weights, metric = case(rows, n, seed, fisher)
    values = spectrum(whitened(weights, metric))
    assert len(values) == min(sum(rows), n)
    rank = data.draw(st.integers(1, len(values)))
    lefts, right = factorise(weights, metric, rank)
    assert [tuple(left.shape) for left in lefts] == [(m, rank) for m in rows]
    assert right.shape == (rank, n)
    whole = 0.5 * float(values.sum())
    optimum = 0.5 * float(values[rank:].sum())
    assert loss_of(weights, lefts, right, metric) == pytest.approx(optimum, rel=1e-8, abs=1e-9 * whole)


@pytest.mark.parametrize("rows", [(12,), (5,), (4, 6, 5)], ids=["tall", "wide", "stacked"])
@pytest.mark.parametrize("fisher", [True, False])
def test_no_other_factors_of_the_rank_do_better(rows, fisher):
    weights, metric = case(rows, 8, 5, fisher)
    rank = 3
    lefts, right = factorise(weights, metric, rank)
    best = loss_of(weights, lefts, right, metric)
    assert best < 0.9 * loss_of(weights, *plain_svd(weights, rank), metric)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(10):
            other_lefts = [left + size * torch.randn(left.shape, generator=generator) for left in lefts]
            other_right = right + size * torch.randn(right.shape, generator=generator)
            assert loss_of(weights, other_lefts, other_right, metric) > best


@pytest.mark.parametrize("rows", [(5,), (12,)])
def test_gradient_of_the_loss_vanishes_at_the_factors(rows):
    weights, metric = case(rows, 8, 9, True)
    (left,), right = factorise(weights, metric, 3)
    left.requires_grad_()
    right.requires_grad_()
    s = metric.rows[0].T @ (weights[0] - left @ right) @ metric.column
    (0.5 * (s * s).sum()).backward()
    for factor in (left, right):
        assert float(factor.grad.abs().max()) < 1e-7 * float(s.detach().norm())


def test_loss_is_the_kronecker_quadratic_form():
    (weight,), metric = case((4,), 5, 2, True)
    row = metric.rows[0]
    f, c = row @ row.T, metric.column @ metric.column.T
    vector = weight.flatten()
    expected = 0.5 * float(vector @ torch.kron(f, c) @ vector)
    assert kronecker_loss(weight, row, metric.column) == pytest.approx(expected, rel=1e-12)
    expected = 0.5 * float(vector @ torch.kron(torch.eye(4), c) @ vector)
    assert kronecker_loss(weight, None, metric.column) == pytest.approx(expected, rel=1e-12)


def test_identity_metric_is_the_plain_svd():
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(6, 9, dtype=torch.float64, generator=generator)
    eye = torch.eye(9, dtype=torch.float64)
    metric = Metric(eye, (None,), torch.zeros(9, dtype=torch.float64))
    singular = torch.linalg.svdvals(weight)
    torch.testing.assert_close(spectrum(whitened([weight], metric)), singular**2, rtol=1e-10, atol=1e-12)
    (left,), right = factorise([weight], metric, 2)
    (plain,), plain_right = plain_svd([weight], 2)
    torch.testing.assert_close(left @ right, plain @ plain_right, rtol=1e-9, atol=1e-9)


@given(size=st.integers(1, 8), samples=st.integers(0, 12), amount=st.sampled_from([1e-6, 1e-3, 1e-1]))
def test_shrunk_moments_are_positive_definite_with_the_same_trace(size, samples, amount):
    x = torch.randn(samples, size, dtype=torch.float32, generator=torch.Generator().manual_seed(samples))
    original = (x.T @ x).clone()
    matrix = shrunk(original, amount)
    assert matrix.dtype == torch.float64
    assert torch.equal(original, x.T @ x), "the argument must not change"
    assert float(torch.linalg.eigvalsh(matrix).min()) > 0
    if samples:
        trace = float(original.double().trace())
        assert float(matrix.trace()) == pytest.approx(trace, rel=1e-9)
        mean = trace / size
        torch.testing.assert_close(
            matrix, (1 - amount) * original.double() + amount * mean * torch.eye(size, dtype=torch.float64)
        )


@pytest.mark.parametrize("kind", ["rank one", "zero", "slightly indefinite"])
def test_cholesky_of_singular_matrices(kind):
    ones = torch.ones(6, 6, dtype=torch.float64)
    matrix = {
        "rank one": ones,
        "zero": torch.zeros(6, 6, dtype=torch.float64),
        "slightly indefinite": ones - 1e-9 * torch.eye(6, dtype=torch.float64),
    }[kind]
    if kind == "zero":  # a moment of inputs that are all zero always comes shrunk
        matrix = shrunk(matrix, 1e-3)
    factor = cholesky(matrix)
    assert torch.equal(factor, factor.tril())
    assert float(factor.diagonal().min()) > 0
    torch.testing.assert_close(factor @ factor.T, matrix, rtol=0, atol=1e-6)


def test_cholesky_is_exact_where_nothing_is_singular():
    matrix = shrunk(moment(6, 30, 1), 1e-2)
    torch.testing.assert_close(cholesky(matrix), torch.linalg.cholesky(matrix), rtol=0, atol=0)


@pytest.mark.parametrize("samples", [0, 2], ids=["zero C", "singular C"])
@pytest.mark.parametrize("m", [4, 10])
def test_factors_stay_finite_for_singular_inputs(samples, m):
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(m, 7, dtype=torch.float64, generator=generator)
    x = torch.randn(samples, 7, dtype=torch.float64, generator=generator)
    column = cholesky(shrunk(x.T @ x, Shrinkage().inputs))
    metric = Metric(column, (None,), torch.zeros(7, dtype=torch.float64))
    (left,), right = factorise([weight], metric, 2)
    assert torch.isfinite(left).all()
    assert torch.isfinite(right).all()
    error = float((x @ (weight - left @ right).T).norm())
    # Rank 2 suffices for inputs in a plane: what is lost comes from the shrinkage alone.
    assert error <= 0.1 * float((x @ weight.T).norm()) or samples == 0
    assert math.isfinite(kronecker_loss(weight - left @ right, None, column))
