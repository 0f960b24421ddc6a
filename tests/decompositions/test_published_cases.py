"""Cases with known answers from papers and from the tests of other libraries, each with its source, in our words."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tnet
from tnet.algebra import add
from tnet.decompositions import tt_solve
from tnet.errors import ConvergenceWarning
from tnet.formats import CPTensor, MatrixProductOperator, TensorTrain
from tnet.options import Stopping

LONG = Stopping(max_iter=1000, change=1e-12)


def on_a_grid(f: Callable[..., Any], *axes: np.ndarray) -> np.ndarray:
    return f(*np.meshgrid(*axes, indexing="ij"))


def error_of(model: Any, x: np.ndarray) -> float:
    return float(np.linalg.norm(x - model.to_dense()) / np.linalg.norm(x))


# CP


def least_error(x: np.ndarray, rank: int, starts: int, stopping: Stopping = LONG, method: Any = "als") -> float:
    options: Any = {"init": "random", "stopping": stopping, "method": method}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return min(tnet.cp(x, rank, rng=seed, **options).error for seed in range(starts))


def test_the_rank_depends_on_the_field() -> None:
    # Kruskal (1989), in Kolda and Bader (2009), section 3.1: a tensor with the identity and a rotation for slices has
    # rank 3 over the real numbers, and 2 over the complex ones.
    x = np.stack([np.eye(2), np.array([[0.0, 1.0], [-1.0, 0.0]])], axis=2)
    assert least_error(x, 2, 3) > 0.4
    assert least_error(x, 3, 3) < 1e-5
    assert least_error(x.astype(complex), 2, 3) < 1e-5


def test_products_of_matrices_take_seven_products() -> None:
    # Strassen (1969): 2 x 2 matrices are multiplied by 7 products. Landsberg (2006): 6 do not even come close.
    x = np.zeros((4, 4, 4))
    for i, j, k in itertools.product(range(2), repeat=3):
        x[2 * i + j, 2 * j + k, 2 * k + i] = 1.0
    few = Stopping(max_iter=100, change=1e-9)
    assert least_error(x, 7, 6, method="nls", stopping=few) < 1e-6
    assert least_error(x, 6, 6, method="nls", stopping=few) > 0.1


def test_cp_of_a_matrix_and_of_zeros() -> None:
    # pyttb, tests/test_cp_als.py: a 2 x 2 matrix of rank 2 is fitted exactly, zeros by zero.
    assert least_error(np.array([[29.0, 39.0], [63.0, 85.0]]), 2, 1) < 1e-6
    for shape in ((2, 2), (3, 4, 5)):
        assert tnet.cp(np.zeros(shape), 2).error == 0.0


def test_nonnegative_factors_are_found() -> None:
    # tensorly, decomposition/tests/test_cp.py: a random nonnegative tensor of rank 3 is fitted.
    rng = np.random.default_rng(1234)
    truth = CPTensor(np.ones(3), tuple(rng.random((n, 3)) for n in (10, 10, 10)))
    result = tnet.cp(truth.to_dense(), 3, nonnegative=True, init="svd", stopping=Stopping(max_iter=2000, change=1e-9))
    assert result.error < 1e-2
    assert all(np.all(part >= 0) for part in result.tensor.arrays)


# Tucker


def test_hosvd_of_consecutive_numbers() -> None:
    # pyttb, tests/test_hosvd.py, and the MATLAB Tensor Toolbox: 1 ... 27 has multilinear rank (2, 2, 2), and
    # these leading singular vectors of its unfoldings.
    x = np.arange(1.0, 28.0).reshape((3, 3, 3), order="F")
    result = tnet.tucker(x, rtol=1e-4)
    assert result.tensor.rank == (2, 2, 2)
    assert error_of(result.tensor, x) < 1e-12
    leading = ((0.5452, 0.5768, 0.6083), (0.4756, 0.5720, 0.6683), (0.1922, 0.5141, 0.8359))
    for U, wanted in zip(result.tensor.factors, leading, strict=True):
        assert np.allclose(np.abs(U[:, 0]), wanted, atol=1e-4)


# Tensor trains of functions


@pytest.mark.parametrize(
    ("f", "rank"),
    [
        (lambda *x: sum(x), 2),  # Oseledets and Tyrtyshnikov (2009)
        (lambda *x: np.sin(sum(x)), 2),  # Oseledets (2011)
        (lambda *x: np.exp(sum(x)), 1),
        (lambda *x: sum(x) ** 3, 4),  # Khoromskij (2011): a polynomial of degree p in the sum has rank p + 1
        (lambda *x: sum(v**2 for v in x), 2),
        (lambda *x: np.cos(sum(x)) + 2.0, 3),
    ],
)
def test_ranks_of_functions_of_sums(f: Callable[..., np.ndarray], rank: int) -> None:
    axes = [np.linspace(0.1, 1.0, 7 + k) for k in range(5)]
    x = on_a_grid(f, *axes)
    train = tnet.tt(x, rtol=1e-12).tensor
    assert train.rank == (rank,) * 4
    assert error_of(train, x) < 1e-12
    # Grasedyck (2010): so has every node of a tree in which each is one side of a cut.
    assert max(tnet.ht(x, rtol=1e-12).tensor.rank) == rank


def test_the_hilbert_tensor_has_small_ranks() -> None:
    # Oseledets and Tyrtyshnikov (2010); tntorch and torchTT test their cross methods on it: the ranks of
    # 1 / (i_1 + ... + i_d) grow with the logarithm of the accuracy.
    axes = [np.arange(1.0, 21.0)] * 4
    x = on_a_grid(lambda *i: 1.0 / sum(i), *axes)
    largest = [max(tnet.tt(x, rtol=10.0**-p).tensor.rank) for p in (2, 4, 6, 8, 10)]
    assert all(1 <= b - a <= 3 for a, b in itertools.pairwise(largest))
    assert largest[-1] <= 10
    by_cross = tnet.tt_cross(lambda i: 1.0 / (4.0 + i.sum(axis=1)), x.shape, rtol=1e-8, rng=0)
    assert error_of(by_cross.tensor, x) < 1e-7


def test_ranks_are_kept_below_those_asked_for() -> None:
    # tensorly, decomposition/tests/test_tt_decomposition.py.
    x = np.random.default_rng(1234).random((3, 4, 5, 6, 2, 10))
    assert tnet.tt(x, (3, 3, 4, 2, 2)).tensor.rank == (3, 3, 4, 2, 2)
    with pytest.warns(UserWarning, match="rank"):
        assert tnet.tt(x, (5, 4, 3, 8, 10)).tensor.rank == (3, 4, 3, 8, 10)


def test_states_of_qubits() -> None:
    # quimb, MPS_ghz_state and MPS_w_state: the GHZ and the W state are trains of bond 2, a Dicke state with two
    # excitations one of bond 3.
    d = 8
    excitations = on_a_grid(lambda *i: sum(i), *([np.arange(2)] * d))
    ghz = np.isin(excitations, (0, d)).astype(float)
    for state, rank in ((ghz, 2), ((excitations == 1).astype(float), 2), ((excitations == 2).astype(float), 3)):
        assert max(tnet.tt(state, rtol=1e-12).tensor.rank) == rank


# Quantised trains


@pytest.mark.parametrize(
    ("f", "rank"),
    [
        (lambda t: np.exp(3 * t), 1),  # Khoromskij (2011)
        (lambda t: np.sin(40 * t), 2),
        (lambda t: np.exp(-t) * np.cos(25 * t), 2),
        (lambda t: t**3 - t + 0.5, 4),
        (lambda t: (t >= 0.5).astype(float), 1),
    ],
)
def test_quantised_ranks_of_functions(f: Callable[[np.ndarray], np.ndarray], rank: int) -> None:
    t = np.arange(2**12) / 2**12
    train = tnet.tt(f(t).reshape((2,) * 12), rtol=1e-11).tensor
    assert max(train.rank) == rank


# Operators


def laplace(n: int) -> np.ndarray:
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


def sum_of_local_terms(local: np.ndarray, d: int) -> np.ndarray:
    n = len(local)
    return np.asarray(sum(np.kron(np.kron(np.eye(n**k), local), np.eye(n ** (d - 1 - k))) for k in range(d)))


def chain(pairs: list[tuple[np.ndarray, np.ndarray]], d: int) -> np.ndarray:
    """Return the sum over neighbours of products of two operators on qubits."""
    terms = [
        np.kron(np.kron(np.eye(2**k), np.kron(a, b)), np.eye(2 ** (d - 2 - k)))
        for k in range(d - 1)
        for a, b in pairs
    ]
    return np.asarray(sum(terms))


def test_ranks_of_operators() -> None:
    # Kazeev and Khoromskij (2012): the Laplace operator has rank 2 in any dimension, 3 on digits of one.
    assert tnet.mpo(sum_of_local_terms(laplace(4), 4), (4,) * 4, (4,) * 4, rtol=1e-12).tensor.rank == (2, 2, 2)
    on_digits = tnet.mpo(laplace(2**6), (2,) * 6, (2,) * 6, rtol=1e-12).tensor
    assert on_digits.rank == (3,) * 5
    # quimb, MPO_ham_ising and MPO_ham_heis: bonds 3 and 5.
    X, Z, S = np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [0.0, 0.0]])
    ising = chain([(Z, Z)], 5) + 0.7 * sum_of_local_terms(X, 5)
    heisenberg = chain([(S, S.T), (S.T, S), (Z, Z)], 5) + 0.3 * sum_of_local_terms(Z, 5)
    for matrix, bond in ((ising, 3), (heisenberg, 5)):
        operator = tnet.mpo(matrix, (2,) * 5, (2,) * 5, rtol=1e-12).tensor
        assert max(operator.rank) == bond
        assert np.allclose(operator.to_dense(), matrix)


# Cross approximation


@pytest.mark.parametrize(
    ("f", "bound", "rank"),
    [
        # Test functions of global optimisation, from the survey of Jamil and Yang (2013); those made of sums and
        # products over one variable or two neighbours have known ranks.
        (lambda x: np.sum(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2, axis=1), 2.048, 3),
        (lambda x: 10 * x.shape[1] + np.sum(x**2 - 10 * np.cos(2 * math.pi * x), axis=1), 5.12, 2),
        (lambda x: np.sum(-x * np.sin(np.sqrt(np.abs(x))), axis=1), 500.0, 2),
        (
            lambda x: 1 + np.sum(x**2, axis=1) / 4000
            - np.prod(np.cos(x / np.sqrt(np.arange(1.0, x.shape[1] + 1))), axis=1),
            100.0,
            3,
        ),
        (
            lambda x: -20 * np.exp(-0.2 * np.sqrt(np.mean(x**2, axis=1)))
            - np.exp(np.mean(np.cos(2 * math.pi * x), axis=1)) + 20 + math.e,
            32.768,
            None,
        ),
    ],
    ids=["rosenbrock", "rastrigin", "schwefel", "griewank", "ackley"],
)  # fmt: skip
def test_cross_approximation_of_test_functions(
    f: Callable[[np.ndarray], np.ndarray], bound: float, rank: int | None
) -> None:
    d, n, rtol = 7, 15, 1e-6
    grid = np.linspace(-bound, bound, n)
    result = tnet.tt_cross(lambda i: f(grid[i]), (n,) * d, rtol=rtol, rng=0)
    indices = np.random.default_rng(1).integers(0, n, (2000, d))
    values = f(grid[indices])
    found = values_of(result.tensor, indices)
    assert np.linalg.norm(found - values) < 5 * rtol * np.linalg.norm(values)
    if rank is not None:
        assert max(tnet.round(result.tensor, rtol=1e-5).rank) <= rank


def values_of(train: TensorTrain, indices: np.ndarray) -> np.ndarray:
    carried = np.ones((len(indices), 1))
    for k, core in enumerate(train.cores):
        carried = np.einsum("jr,rjs->js", carried, core[:, indices[:, k], :])
    return carried[:, 0]


# Linear systems


def poisson(n: int, d: int) -> tuple[MatrixProductOperator, TensorTrain, np.ndarray]:
    """Return -Laplace on (0, 1)^d, an eigenfunction as a train, and the same dense."""
    h = 1.0 / (n + 1)
    A, identity = laplace(n) / h**2, np.eye(n)
    first = np.stack([A, identity], axis=-1)[None]
    middle = np.zeros((2, n, n, 2))
    middle[0, :, :, 0], middle[1, :, :, 0], middle[1, :, :, 1] = identity, A, identity
    last = np.stack([identity, A], axis=0)[..., None]
    sine = np.sin(math.pi * h * np.arange(1, n + 1))
    operator = MatrixProductOperator((first, *[middle] * (d - 2), last))
    return operator, TensorTrain(tuple(sine[None, :, None] for _ in range(d))), sine


def test_poisson_converges_by_the_square_of_the_width() -> None:
    # The model problem of Dolgov and Savostyanov (2014): the eigenfunction sin(pi x) ... is solved exactly, with the
    # discrete eigenvalue, which is d pi^2 up to the square of the mesh width.
    d, errors = 5, []
    for n in (7, 15, 31):
        operator, b, _ = poisson(n, d)
        solution = tt_solve(operator, b, rtol=1e-9, rng=0).tensor
        eigenvalue = d * (4 / (1 / (n + 1)) ** 2) * math.sin(math.pi / (2 * (n + 1))) ** 2
        scaled = TensorTrain((eigenvalue * solution.cores[0], *solution.cores[1:]))
        points = np.random.default_rng(0).integers(0, n, (200, d))
        assert np.allclose(values_of(scaled, points), values_of(b, points), atol=1e-7)
        assert max(tnet.round(solution, rtol=1e-7).rank) == 1
        errors.append(abs(1 / eigenvalue - 1 / (d * math.pi**2)) * d * math.pi**2)
    assert all(3.9 < a / b < 4.1 for a, b in itertools.pairwise(errors))


def test_a_random_system_of_three_modes() -> None:
    # torchTT, tests/test_solvers.py: a random operator of ranks (2, 3) and a random solution of ranks (2, 3); made
    # diagonally dominant here, so that no seed gives a singular one.
    rng = np.random.default_rng(0)
    n, ranks = (4, 5, 6), (1, 2, 3, 1)
    A = MatrixProductOperator(tuple(0.05 * rng.normal(size=(ranks[k], n[k], n[k], ranks[k + 1])) for k in range(3)))
    identity = MatrixProductOperator(tuple(np.eye(size)[None, :, :, None] for size in n))
    A = add(A, identity)
    assert isinstance(A, MatrixProductOperator)
    truth = TensorTrain(tuple(rng.normal(size=(ranks[k], n[k], ranks[k + 1])) for k in range(3)))
    dense = A.to_dense() @ truth.to_dense().reshape(-1)
    b = tnet.tt(dense.reshape(n), rtol=1e-14).tensor
    solution = tt_solve(A, b, rtol=1e-10, rng=0).tensor
    residual = A.to_dense() @ solution.to_dense().reshape(-1) - dense
    assert np.linalg.norm(residual) < 5e-10 * np.linalg.norm(dense)
