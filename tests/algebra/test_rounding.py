from __future__ import annotations

import linecache
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnet
from tests.strategies import DTYPES, close, dense, random_array, random_format, seeds
from tnet.algebra import add, bounded_ranks, canonicalise, fold, norm, round, scale, unfold
from tnet.arrays import to_numpy
from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.formats import LowRank, TensorTrain

TRAINS = ("tensor_train", "matrix_product_operator")
ROUNDABLE = (*TRAINS, "tucker", "hierarchical_tucker", "low_rank", "kronecker_sum", "block_tensor_train")
orders = st.lists(st.integers(2, 4), min_size=1, max_size=4).map(tuple)


@pytest.fixture(params=ROUNDABLE)
def kind(request):
    return request.param


def error(y, t):
    x = dense(t)
    return float(np.linalg.norm(dense(y) - x) / (np.linalg.norm(x) or 1.0))


def as_tuple(rank):
    return rank if isinstance(rank, tuple) else (rank,)


def decaying(kind, rng, convert=np.asarray, dtype="float64"):
    """A sum of random tensors of falling size, so that there is something to cut at each rtol."""
    t = random_format(kind, rng, convert, (4, 3, 4), 1, dtype)
    for k in range(1, 4):
        t = add(t, scale(random_format(kind, rng, convert, (4, 3, 4), 1, dtype), 10.0**-k))
    return t


@given(seed=seeds, rtol=st.floats(1e-6, 0.9), dtype=st.sampled_from(["float64", "complex128"]))
def test_error_is_within_rtol(kind, convert, seed, rtol, dtype):
    t = decaying(kind, np.random.default_rng(seed), convert, dtype)
    y = round(t, rtol=rtol)
    assert type(y) is type(t)
    assert y.shape == t.shape
    assert y.dtype == t.dtype
    assert error(y, t) <= rtol * (1 + 1e-9) + 1e-13
    assert all(a <= b for a, b in zip(as_tuple(y.rank), as_tuple(t.rank), strict=True))


@given(seed=seeds)
def test_error_falls_as_rank_grows(kind, seed):
    t = decaying(kind, np.random.default_rng(seed))
    errors = [error(round(t, rank), t) for rank in (1, 2, 3)]
    assert errors[0] >= errors[1] * (1 - 1e-9) >= errors[2] * (1 - 1e-9) - 1e-14


@given(seed=seeds, rank=st.integers(1, 3))
def test_rank_is_respected_and_quasi_optimal(kind, seed, rank):
    t = decaying(kind, np.random.default_rng(seed))
    y = round(t, rank)
    assert max(as_tuple(y.rank)) <= rank
    tails = []
    for matrix in _unfoldings(kind, t):
        if kind == "block_tensor_train":
            (m1, m2), (n1, n2) = t.row_shape, t.column_shape
            matrix = matrix.reshape(m1, m2, n1, n2).transpose(0, 2, 1, 3)
        values = np.linalg.svd(matrix, compute_uv=False)
        tails.append(float(np.sum(values[..., rank:] ** 2)))
    # Each tail bounds the best error from below, their sum bounds ours from above.
    squared = float(np.linalg.norm(dense(y) - dense(t)) ** 2)
    assert max(tails) * (1 - 1e-9) - 1e-20 <= squared <= sum(tails) * (1 + 1e-9) + 1e-20


def _unfoldings(kind, t):
    x = dense(t)
    if kind in ("low_rank", "block_tensor_train"):
        return [x]
    if kind == "kronecker_sum":
        (m1, m2), (n1, n2) = t.row_shape, t.column_shape
        return [x.reshape(m1, m2, n1, n2).transpose(0, 2, 1, 3).reshape(m1 * n1, m2 * n2)]
    if kind in ("tucker", "hierarchical_tucker"):  # of the tree ((0, 1), 2) the nodes are the modes
        return [unfold(x, k) for k in range(x.ndim)]
    if kind == "matrix_product_operator":
        d = len(t.cores)
        split = x.reshape(*t.row_shape, *t.column_shape)
        x = split.transpose([axis for k in range(d) for axis in (k, d + k)])
        sizes = [m * n for m, n in zip(t.row_shape, t.column_shape, strict=True)]
    else:
        sizes = list(x.shape)
    return [x.reshape(math.prod(sizes[:k]), -1) for k in range(1, len(sizes))]


@pytest.mark.parametrize(("kind", "shape", "rank"), [("tucker", (9, 9, 9), 9), ("tensor_train", (5,) * 4, 25)])
def test_the_budget_is_spent_and_not_exceeded(kind, shape, rank):
    """With a flat spectrum every step can spend what it is given."""
    t = random_format(kind, np.random.default_rng(0), shape=shape, rank=rank)
    spent = [error(round(t, rtol=rtol), t) / rtol for rtol in (0.3, 0.4, 0.5, 0.6, 0.7)]
    assert 0.9 < max(spent) <= 1.0
    assert min(spent) > 0.5


def test_redundant_ranks_vanish(kind, convert):
    t = random_format(kind, np.random.default_rng(0), convert, (4, 3, 4), 2)
    doubled = add(t, t)
    assert round(doubled, rtol=1e-10).rank == round(t, rtol=1e-10).rank
    close(dense(round(doubled, rtol=1e-10)), 2 * dense(t), factor=1e7)


@pytest.mark.parametrize("power", [-900, -3, 900])
@pytest.mark.parametrize("options", [{"rank": 2}, {"rtol": 0.05}])
def test_rounding_commutes_with_powers_of_two(kind, convert, power, options):
    t = decaying(kind, np.random.default_rng(0), convert)
    half = power // 2
    huge = scale(scale(t, 2.0**half), 2.0 ** (power - half))
    y, z = round(t, **options), round(huge, **options)
    assert y.rank == z.rank
    np.testing.assert_array_equal(dense(z), dense(y) * 2.0**power)


def test_zero_tensor(kind, convert):
    t = scale(random_format(kind, np.random.default_rng(0), convert), 0.0)
    for y in (round(t, rtol=1e-3), round(t, 2)):
        np.testing.assert_array_equal(dense(y), np.zeros(t.shape))
    assert set(as_tuple(round(t, rtol=0.1).rank)) == {1}


def test_rtol_zero_keeps_the_tensor(kind):
    t = random_format(kind, np.random.default_rng(0))
    close(dense(round(t, rtol=0)), dense(t))


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_dtype_is_kept(kind, dtype):
    t = decaying(kind, np.random.default_rng(0)).astype(dtype)
    y = round(t, rtol=0.05)
    assert y.dtype == np.dtype(dtype)
    assert error(y.astype("complex128"), t.astype("complex128")) <= 0.06


def test_bfloat16(kind):
    t = decaying(kind, np.random.default_rng(0), lambda a: torch.tensor(a).bfloat16())
    assert round(t, rtol=0.1).dtype == torch.bfloat16


def test_input_is_unchanged(kind):
    t = random_format(kind, np.random.default_rng(0))
    before = [np.array(array) for array in t.arrays]
    round(t, 1)
    for a, b in zip(before, t.arrays, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_mode(kind):
    t = random_format(kind, np.random.default_rng(0), shape=(4,))
    for y in (round(t, 1), round(t, rtol=0.5)):
        if kind in TRAINS:
            assert y.rank == ()
            close(dense(y), dense(t))


@pytest.mark.parametrize(
    ("options", "fault", "words"),
    [
        ({}, RankError, "neither given"),
        ({"rank": 2, "rtol": 0.1}, RankError, "both given"),
        ({"rtol": 1.0}, InputError, "rtol=1.0"),
        ({"rtol": -0.1}, InputError, "rtol=-0.1"),
        ({"rtol": float("nan")}, InputError, "rtol=nan"),
        ({"rank": 0}, RankError, "rank=0"),
        ({"rank": -1}, RankError, "rank=-1"),
        ({"rank": 2.5}, RankError, "rank=2.5"),
        ({"rank": True}, RankError, "rank=True"),
        ({"rank": "3"}, RankError, "rank='3'"),
        ({"rank": (1, 2, 3, 4, 5)}, RankError, "5 ranks for"),
        ({"rank": (0, 1, 1)}, RankError, "rank=0|3 ranks for"),
    ],
)
def test_bad_options(kind, options, fault, words):
    with pytest.raises(fault, match=words):
        round(random_format(kind, np.random.default_rng(0)), **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_is_refused(kind, bad):
    t = random_format(kind, np.random.default_rng(0))
    t.arrays[0][(0,) * t.arrays[0].ndim] = bad
    with pytest.raises(InputError, match="non-finite"):
        round(t, 1)


def test_integers_are_refused():
    with pytest.raises(BackendError, match="int64"):
        round(LowRank(np.ones((2, 2), np.int64), np.ones((2, 2), np.int64)), 1)


def test_other_kinds_are_refused_with_the_remedy():
    with pytest.raises(BackendError, match=r"CPTensor.*tnet\.cp"):
        round(random_format("cp", np.random.default_rng(0)), 1)
    with pytest.raises(BackendError, match="a dense array"):
        round(np.ones((2, 2)), 1)


def test_top_level_name():
    assert tnet.round is round


def test_excess_ranks_are_clipped_with_both_numbers(kind):
    t = random_format(kind, np.random.default_rng(0))
    with pytest.warns(UserWarning, match=r"rank 1000 is clipped to \d+") as caught:
        y = round(t, 1000)  # the warning points here
    assert "the warning points here" in linecache.getline(caught[0].filename, caught[0].lineno)
    close(dense(y), dense(t))


def test_bounded_ranks():
    assert bounded_ranks(4, (2, 6, 2), "bond") == (2, 4, 2)
    assert bounded_ranks(np.int64(3), (), "bond") == ()
    with pytest.warns(UserWarning, match="rank 5 of mode 1 is clipped to 3"):
        assert bounded_ranks([2, 5], (4, 3), "mode") == (2, 3)


class TestCanonical:
    @pytest.fixture(params=TRAINS)
    def kind(self, request):
        return request.param

    @given(seed=seeds, shape=orders, dtype=st.sampled_from(DTYPES), data=st.data())
    def test_all_cores_but_one_are_orthogonal(self, kind, convert, seed, shape, dtype, data):
        center = data.draw(st.integers(-len(shape), len(shape) - 1))
        t = random_format(kind, np.random.default_rng(seed), convert, shape, 3, dtype)
        y = canonicalise(t, center)
        assert y.dtype == t.dtype
        assert y.shape == t.shape
        close(dense(y), dense(t), dtype)
        center %= len(shape)
        for k, core in enumerate(map(to_numpy, y.cores)):
            left = core.reshape(-1, core.shape[-1])
            right = core.reshape(core.shape[0], -1)
            if k < center:
                close(left.conj().T @ left, np.eye(left.shape[1]), dtype)
            elif k > center:
                close(right @ right.conj().T, np.eye(right.shape[0]), dtype)
            else:
                close(np.linalg.norm(core), norm(t), dtype)

    def test_bonds_shrink_to_what_a_side_carries(self):
        t = random_format("tensor_train", np.random.default_rng(0), shape=(2, 2, 2), rank=6)
        assert canonicalise(t, 1).rank == (2, 2)

    def test_half_precision(self, kind):
        t = random_format(kind, np.random.default_rng(0)).astype("float16")
        assert canonicalise(t, 1).dtype == np.float16

    def test_refusals(self):
        t = random_format("tensor_train", np.random.default_rng(0))
        with pytest.raises(ShapeError, match="mode=3"):
            canonicalise(t, 3)
        with pytest.raises(BackendError, match="CPTensor"):
            canonicalise(random_format("cp", np.random.default_rng(0)), 0)
        with pytest.raises(BackendError, match="int64"):
            canonicalise(TensorTrain((np.ones((1, 2, 1), np.int64),)), 0)
        t.cores[1][0, 0, 0] = np.inf
        with pytest.raises(InputError, match=r"cores\[1\] has 1 non-finite"):
            canonicalise(t, 0)


def test_rounding_twice_changes_nothing():
    t = round(decaying("tensor_train", np.random.default_rng(3)), rtol=1e-2)
    again = round(t, rtol=1e-10)
    assert again.rank == t.rank
    close(dense(again), dense(t))


def test_many_modes_without_a_dense_tensor():
    rng = np.random.default_rng(0)
    t = TensorTrain(tuple(random_array(rng, (1 if k == 0 else 3, 4, 1 if k == 59 else 3)) for k in range(60)))
    y = round(add(t, t), rtol=1e-8)
    assert max(y.rank) == 3
    assert float(norm(add(y, scale(t, -2.0)))) <= 2e-8 * float(norm(t))
    assert fold(unfold(y.cores[1], 1), 1, y.cores[1].shape).shape == y.cores[1].shape
