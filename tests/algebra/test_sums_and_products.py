from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, KINDS, close, dense, random_array, random_format, seeds, shapes
from tnet.algebra import add, hadamard, inner, matvec, norm, scale
from tnet.arrays import scale_by_power_of_two, to_numpy
from tnet.errors import BackendError, InputError, ShapeError
from tnet.formats import (
    CPTensor,
    HierarchicalTucker,
    KroneckerSum,
    MatrixProductOperator,
    TensorFormat,
    TensorNetwork,
    TensorTrain,
)


@pytest.fixture(params=[*KINDS, "dense"])
def kind(request):
    return request.param


def draw(kind, rng, convert=np.asarray, shape=(3, 4, 2), rank=2, dtype="float64"):
    if kind == "dense":
        return convert(random_array(rng, shape, dtype))
    return random_format(kind, rng, convert, shape, rank, dtype)


def full(t):
    return dense(t) if isinstance(t, TensorFormat) else to_numpy(t)


@given(seed=seeds, shape=shapes, dtype=st.sampled_from(DTYPES), rank=st.integers(1, 3))
def test_against_dense(kind, convert, seed, shape, dtype, rank):
    rng = np.random.default_rng(seed)
    a, b = draw(kind, rng, convert, shape, 2, dtype), draw(kind, rng, convert, shape, rank, dtype)
    x, y = full(a).astype("complex128"), full(b).astype("complex128")
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    for result, expected in ((add(a, b), x + y), (hadamard(a, b), x * y)):
        assert type(result) is type(a)
        assert result.dtype == a.dtype
        close(full(result), expected, dtype)
    value = inner(a, b)
    assert value.dtype == a.dtype
    assert value.shape == ()
    # Cancellation makes the sum small against its terms, not against the norms.
    assert abs(complex(value) - np.vdot(x, y)) <= 1e3 * np.finfo(dtype).eps * size * rank
    assert float(norm(a)) == pytest.approx(np.linalg.norm(x), rel=1e3 * float(np.finfo(dtype).eps))
    assert np.issubdtype(to_numpy(norm(a)).dtype, np.floating)


def test_inner_of_a_format_with_a_dense_array(kind, convert):
    rng = np.random.default_rng(0)
    a = draw(kind, rng, convert, dtype="complex128")
    b = convert(random_array(rng, a.shape, "complex128"))
    close(inner(a, b), np.vdot(full(a), to_numpy(b)))
    close(inner(b, a), np.vdot(to_numpy(b), full(a)))


def test_norm_of_a_small_difference():
    """Formats are orthogonalised first: the difference is right far below sqrt(eps)."""
    for kind in (kind for kind in KINDS if kind not in ("cp", "tensor_ring")):
        a = random_format(kind, np.random.default_rng(0))
        nearly = add(a, scale(a, -1 + 2.0**-40))
        expected = 2.0**-40 * float(norm(a))
        assert float(norm(nearly)) == pytest.approx(expected, rel=1e-3), kind


@pytest.mark.parametrize("power", [-900, 900])
def test_norm_commutes_with_powers_of_two(kind, convert, power):
    a = draw(kind, np.random.default_rng(0), convert)
    scaled = scale(scale(a, 2.0 ** (power // 2)), 2.0 ** (power // 2))
    expected = scale_by_power_of_two(norm(a), power)
    if kind in ("cp", "tensor_ring"):
        # The parts of these are brought to norm 1 by powers of two of their own.
        assert float(norm(scaled)) == pytest.approx(float(expected), rel=1e-14)
    else:
        assert float(norm(scaled)) == float(expected)


def test_norm_of_cp_whose_parts_multiply_beyond_the_range():
    """Each part is in range and so is the norm; the product of the squared factors is not."""
    t = CPTensor(np.array([2.0**-240]), (np.array([[2.0**200]]),) * 4)
    assert float(norm(t)) == 2.0**560


def test_norm_of_zero_and_of_empty(kind, convert):
    a = draw(kind, np.random.default_rng(0), convert)
    assert float(norm(scale(a, 0.0))) == 0.0
    assert float(norm(draw(kind, np.random.default_rng(0), convert, (2, 0)))) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_norm_refuses_non_finite(kind, bad):
    a = draw(kind, np.random.default_rng(0))
    parts = a.arrays if isinstance(a, TensorFormat) else (a,)
    parts[0][(0,) * parts[0].ndim] = bad
    with pytest.raises(InputError, match="non-finite"):
        norm(a)


def test_norm_refuses_integers():
    with pytest.raises(BackendError, match="int64"):
        norm(np.arange(3))


def test_inner_of_integers_is_exact():
    assert int(inner(np.arange(4), np.arange(4))) == 14


def test_half_precision_sums_in_float32():
    a = CPTensor(np.ones(1, np.float16), (np.full((4096, 1), 0.5, np.float16),))
    assert inner(a, a).dtype == np.float16
    assert float(inner(a, a)) == 1024.0
    assert norm(a).dtype == np.float16
    assert float(norm(a)) == 32.0
    brain = random_format("tensor_train", np.random.default_rng(0), lambda x: torch.tensor(x).bfloat16())
    assert norm(brain).dtype == torch.bfloat16
    assert add(brain, brain).dtype == hadamard(brain, brain).dtype == torch.bfloat16


def test_dtypes_promote(kind):
    rng = np.random.default_rng(0)
    a, b = draw(kind, rng, dtype="float32"), draw(kind, rng, dtype="complex128")
    for result in (add(a, b), hadamard(a, b), inner(a, b)):
        assert result.dtype == np.complex128


@pytest.mark.parametrize("factor", [2.0, -3, np.float32(0.5), 0])
def test_scale(kind, convert, factor):
    a = draw(kind, np.random.default_rng(0), convert)
    result = scale(a, factor)
    assert result.dtype == a.dtype
    close(full(result), float(factor) * full(a))


def test_scale_of_a_network_and_of_complex():
    a = random_format("tensor_train", np.random.default_rng(0), dtype="complex64")
    close(dense(scale(a, 1j)), 1j * dense(a), "complex64")
    network = a.to_network()
    scaled = scale(network, 2.0)
    assert isinstance(scaled, TensorNetwork)
    close(dense(scaled), 2 * dense(network), "complex64")


@pytest.mark.parametrize("factor", [np.nan, np.inf, True, "2", None, 1j, np.ones(2)])
def test_scale_refuses(kind, factor):
    with pytest.raises(InputError, match="factor="):
        scale(draw(kind, np.random.default_rng(0)), factor)


@pytest.mark.parametrize("operation", [add, hadamard, inner])
def test_operands_must_fit(operation, kind):
    rng = np.random.default_rng(0)
    a = draw(kind, rng)
    with pytest.raises(ShapeError, match=f"{operation.__name__}: shapes"):
        operation(a, draw(kind, rng, shape=(3, 4, 5)))
    with pytest.raises(BackendError, match="several libraries"):
        operation(a, draw(kind, rng, torch.tensor))


@pytest.mark.parametrize("operation", [add, hadamard, inner])
def test_kinds_must_agree(operation):
    rng = np.random.default_rng(0)
    a, b = draw("cp", rng), draw("tucker", rng)
    with pytest.raises(BackendError, match=f"{operation.__name__} is not defined for CPTensor and TuckerTensor"):
        operation(a, b)
    network = b.to_network()
    with pytest.raises(BackendError, match="TensorNetwork and TensorNetwork"):
        operation(network, network)
    if operation is not inner:
        with pytest.raises(BackendError, match="CPTensor and a dense array"):
            operation(a, b.to_dense())


@pytest.mark.parametrize("operation", [add, hadamard, inner])
def test_operators_must_be_split_alike(operation):
    a = MatrixProductOperator((np.ones((1, 2, 3, 1)), np.ones((1, 3, 2, 1))))
    b = MatrixProductOperator((np.ones((1, 3, 2, 1)), np.ones((1, 2, 3, 1))))
    with pytest.raises(ShapeError, match=r"split as \(\(2, 3\), \(3, 2\)\)"):
        operation(a, b)


@pytest.mark.parametrize("operation", [add, hadamard, inner])
def test_two_digits_and_trees_must_agree(operation):
    a, b = KroneckerSum(np.ones((1, 2, 3)), np.ones((1, 3, 2))), KroneckerSum(np.ones((1, 3, 2)), np.ones((1, 2, 3)))
    with pytest.raises(ShapeError, match="split as"):
        operation(a, b)
    factors, transfers = (np.ones((3, 1)),) * 3, (np.ones((1, 1, 1)),) * 2
    a, b = (HierarchicalTucker(factors, transfers, tree) for tree in (((0, 1), 2), (0, (1, 2))))
    with pytest.raises(ShapeError, match="dimension trees"):
        operation(a, b)


def test_operands_are_unchanged(kind):
    rng = np.random.default_rng(0)
    a, b = draw(kind, rng), draw(kind, rng)
    before = full(a).copy(), full(b).copy()
    add(a, b), hadamard(a, b), inner(a, b), norm(a), scale(a, 2.0)
    np.testing.assert_array_equal(full(a), before[0])
    np.testing.assert_array_equal(full(b), before[1])


@given(seed=seeds, shape=shapes, dtype=st.sampled_from(DTYPES))
def test_operator_times_train(convert, seed, shape, dtype):
    rng = np.random.default_rng(seed)
    W = random_format("matrix_product_operator", rng, convert, shape, 2, dtype)
    x = random_format("tensor_train", rng, convert, W.column_shape, 3, dtype)
    y = matvec(W, x)
    assert isinstance(y, TensorTrain)
    assert y.shape == W.row_shape
    assert y.dtype == x.dtype
    close(dense(y).reshape(-1), dense(W) @ dense(x).reshape(-1), dtype)


@pytest.mark.parametrize("kind", ["matrix_product_operator", "low_rank"])
def test_operator_times_array(kind):
    W = random_format(kind, np.random.default_rng(0))
    x = np.ones((W.shape[1], 2))
    close(matvec(W, x), dense(W) @ x)


def test_matvec_halves_and_refuses():
    rng = np.random.default_rng(0)
    W = random_format("matrix_product_operator", rng, shape=(3, 2))
    x = random_format("tensor_train", rng, shape=(2, 3))
    half = matvec(W.astype("float16"), x.astype("float16"))
    assert half.dtype == np.float16
    with pytest.raises(ShapeError, match=r"shape \(3, 2\) for columns split as \(2, 3\)"):
        matvec(W, random_format("tensor_train", rng, shape=(3, 2)))
    with pytest.raises(BackendError, match="matvec is not defined for TensorTrain"):
        matvec(x, x)
    with pytest.raises(BackendError, match="LowRank and TensorTrain"):
        matvec(random_format("low_rank", rng), x)


def test_gradients_flow_through_norm_and_inner():
    t = random_format("tensor_train", np.random.default_rng(0), torch.tensor)
    t = t.map_arrays(lambda array: array.requires_grad_())
    (norm(t) + inner(t, t)).backward()
    size = norm(t).detach()
    for core in t.cores:
        # d/dG (||t|| + ||t||^2), along G itself.
        along = torch.sum(core.grad * core.detach())
        torch.testing.assert_close(along, size + 2 * size**2)
