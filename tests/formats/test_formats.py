from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree

from tests.strategies import DTYPES, KINDS, close, dense, random_array, random_format, seeds, shapes
from tnet.arrays import dtype_name, to_numpy
from tnet.errors import BackendError, InputError, MemoryLimitError, ShapeError
from tnet.formats import (
    BlockTensorTrain,
    CPTensor,
    HierarchicalTucker,
    KroneckerSum,
    LowRank,
    MatrixProductOperator,
    TensorNetwork,
    TensorRing,
    TensorTrain,
    TuckerTensor,
)
from tnet.formats.hierarchical_tucker import balanced_tree, tree_nodes

OPERATORS = ("matrix_product_operator", "low_rank", "kronecker_sum", "block_tensor_train")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@given(seed=seeds, shape=shapes, rank=st.integers(1, 3), dtype=st.sampled_from(DTYPES))
def test_dense_equals_independent_einsum(kind, convert, seed, shape, rank, dtype):
    t = random_format(kind, np.random.default_rng(seed), convert, shape, rank, dtype)
    x = t.to_dense()
    assert tuple(x.shape) == t.shape
    assert t.ndim == len(t.shape)
    assert dtype_name(x) == dtype
    assert t.dtype == x.dtype
    close(x, dense(t), dtype)
    close(np.asarray(t), dense(t), dtype)


@given(seed=seeds, shape=shapes)
def test_network_is_the_same_tensor(kind, convert, seed, shape):
    t = random_format(kind, np.random.default_rng(seed), convert, shape)
    network = t.to_network()
    close(to_numpy(network.to_dense()).reshape(t.shape), to_numpy(t.to_dense()))
    assert network.to_network() is network
    assert network.n_params == t.n_params


def test_ranks(kind):
    t = random_format(kind, np.random.default_rng(0), shape=(3, 4, 5), rank=2)
    scalar = dict.fromkeys(("cp", "low_rank", "kronecker_sum", "block_tensor_train"), 2)
    expected = {"tucker": (2, 2, 2), "tensor_ring": (2, 2, 2), "hierarchical_tucker": (2,) * 4} | scalar
    expected = expected.get(kind, (2, 2))
    assert t.rank == expected
    if kind == "matrix_product_operator":
        assert (t.row_shape, t.column_shape, t.shape) == ((3, 4, 5), (5, 4, 3), (60, 60))


def test_sizes(kind, convert):
    t = random_format(kind, np.random.default_rng(0), convert, dtype="complex64")
    stored = [to_numpy(array) for array in t.arrays]
    assert t.n_params == sum(array.size for array in stored)
    assert t.nbytes == sum(array.nbytes for array in stored)
    assert t.to(t.device).device == t.device


def test_astype(kind, xp, convert):
    t = random_format(kind, np.random.default_rng(0), convert)
    single = t.astype("float32")
    assert type(single) is type(t)
    assert single.dtype == xp.float32
    assert t.astype(xp.float32).dtype == xp.float32
    assert all(a is b for a, b in zip(t.arrays, t.astype("float64").arrays, strict=True))
    close(single.to_dense(), to_numpy(t.to_dense()), "float32")
    with pytest.raises(BackendError, match="dtype='float99'"):
        t.astype("float99")


@pytest.mark.parametrize("convert_half", [lambda a: a.astype(np.float16), lambda a: torch.tensor(a).bfloat16()])
def test_half_precision_rounds_once(kind, convert_half):
    t = random_format(kind, np.random.default_rng(0), convert_half)
    x = t.to_dense()
    assert x.dtype == t.dtype
    wide = t.astype("float32").to_dense()
    once = wide.astype(np.float16) if isinstance(wide, np.ndarray) else wide.bfloat16()
    np.testing.assert_array_equal(to_numpy(x), to_numpy(once))


def test_mixed_dtypes_promote():
    t = CPTensor(np.ones(2, np.float32), (np.ones((3, 2)), np.ones((4, 2), np.complex64)))
    assert t.dtype == np.complex128
    assert t.to_dense().dtype == np.complex128
    mixed = LowRank(torch.ones(2, 1, dtype=torch.float32), torch.ones(1, 2, dtype=torch.float64))
    assert mixed.to_dense().dtype == torch.float64


def test_unpacks_into_fields():
    weights, factors = random_format("cp", np.random.default_rng(0))
    assert (weights.shape, len(factors)) == ((2,), 3)
    left, _right = random_format("low_rank", np.random.default_rng(0))
    assert left.shape == (3, 2)
    (cores,) = random_format("tensor_train", np.random.default_rng(0))
    assert len(cores) == 3


def test_array_protocol(kind):
    t = random_format(kind, np.random.default_rng(0))
    assert np.asarray(t, dtype=np.float32).dtype == np.float32
    assert np.array(t, copy=True).shape == t.shape
    with pytest.raises(InputError, match="made anew"):
        np.asarray(t, copy=False)


@pytest.mark.parametrize("shape", [(3, 4, 2), (2,) * 30])
def test_repr_is_short(kind, convert, shape):
    # The core of a Tucker tensor has as many modes as the tensor: rank 1 keeps it small.
    t = random_format(kind, np.random.default_rng(0), convert, shape, rank=1)
    for value in (t, t.to_network()):
        lines = repr(value).splitlines()
        assert lines[0].startswith(type(value).__name__ + ": shape (")
        assert len(lines) <= 12
        assert max(map(len, lines)) < 200
        assert f"{value.n_params} of" in lines[1]


def test_frozen_and_identity(kind):
    t = random_format(kind, np.random.default_rng(0))
    with pytest.raises(AttributeError):
        t.cores = ()
    assert t == t
    assert hash(t) == hash(t)


@pytest.mark.parametrize("operator", OPERATORS)
@given(seed=seeds, shape=shapes, k=st.integers(0, 3), dtype=st.sampled_from(DTYPES))
def test_operators_multiply(operator, convert, seed, shape, k, dtype):
    rng = np.random.default_rng(seed)
    t = random_format(operator, rng, convert, shape, 2, dtype)
    x = random_array(rng, (t.shape[1], *([k] if k else [])), dtype)
    y = t @ convert(x)
    assert y.dtype == t.dtype
    close(y, dense(t) @ x, dtype)


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_multiply_promotes_and_halves(operator):
    rng = np.random.default_rng(0)
    t = random_format(operator, rng)
    assert (t @ np.ones(t.shape[1], complex)).dtype == complex
    half = t.astype("float16")
    y = half @ np.ones(t.shape[1], np.float16)
    assert y.dtype == np.float16
    close(y, half.astype("float64").to_dense().sum(1), "float16", 4)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones(5), ShapeError, r"shape \(5,\).*give shape \(\d+,\)"),
        (np.ones((2, 2, 2)), ShapeError, r"\(2, 2, 2\)"),
        (np.array(1.0), ShapeError, r"\(\)"),
        ([1.0, 2.0], BackendError, "list"),
    ],
)
def test_operators_refuse(operator, x, error, words):
    t = random_format(operator, np.random.default_rng(0))
    with pytest.raises(error, match=words):
        t @ x
    with pytest.raises(BackendError, match="several libraries"):
        t @ torch.ones(t.shape[1])


def ones(*shape):
    return np.ones(shape)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: CPTensor(ones(2, 1), (ones(3, 2),)), ShapeError, r"weights has shape \(2, 1\); give 1 axes"),
        (lambda: CPTensor(ones(2), ()), InputError, "factors=tuple: give a non-empty"),
        (lambda: CPTensor(ones(2), ones(3, 2)), InputError, "factors=ndarray: give a non-empty"),
        (lambda: CPTensor(ones(2), (ones(3),)), ShapeError, r"factors\[0\].*give 2 axes"),
        (lambda: CPTensor(ones(2), (ones(3, 2), ones(3, 1))), ShapeError, r"factors\[1\] has 1 columns"),
        (lambda: CPTensor(ones(2), (torch.ones(3, 2),)), BackendError, "numpy and torch"),
        (lambda: CPTensor(np.array(["a"]), (ones(3, 1),)), BackendError, "weights has dtype <U1"),
        (lambda: TuckerTensor(ones(2, 2), (ones(3, 2),)), ShapeError, "1 factors for a core of 2 modes"),
        (lambda: TuckerTensor(ones(2), (ones(3),)), ShapeError, r"factors\[0\].*give 2 axes"),
        (lambda: TuckerTensor(ones(2), (ones(3, 1),)), ShapeError, "mode 0 of the core has size 2"),
        (lambda: TensorTrain((ones(1, 2),)), ShapeError, r"cores\[0\].*give 3 axes"),
        (lambda: TensorTrain((ones(2, 2, 1),)), ShapeError, "boundary bonds of size 2 and 1"),
        (lambda: TensorTrain((ones(1, 2, 2), ones(3, 2, 1))), ShapeError, "bond 0.*size 2.*with 3"),
        (lambda: TensorTrain("ab"), InputError, "cores=str"),
        (lambda: MatrixProductOperator((ones(1, 2, 1),)), ShapeError, "give 4 axes"),
        (lambda: MatrixProductOperator((ones(1, 2, 2, 2),)), ShapeError, "boundary bonds of size 1 and 2"),
        (lambda: TensorRing((ones(2, 2),)), ShapeError, r"cores\[0\].*give 3 axes"),
        (lambda: TensorRing((ones(2, 2, 3), ones(3, 2, 1))), ShapeError, "bond 0.*size 1.*with 2"),
        (lambda: TensorRing((ones(2, 2, 3), ones(2, 2, 2))), ShapeError, "bond 1.*size 3.*with 2"),
        (lambda: KroneckerSum(ones(2, 2), ones(1, 2, 2)), ShapeError, "left has shape"),
        (lambda: KroneckerSum(ones(1, 2, 2), ones(2, 2)), ShapeError, "right has shape"),
        (lambda: KroneckerSum(ones(1, 2, 2), ones(2, 2, 2)), ShapeError, "left has 1 terms, right has 2"),
        (lambda: BlockTensorTrain(ones(2, 2), ones(1, 2, 2, 2)), ShapeError, "left has shape"),
        (lambda: BlockTensorTrain(ones(1, 2, 2, 2), ones(2, 2)), ShapeError, "right has shape"),
        (lambda: BlockTensorTrain(ones(4, 5, 3, 2), ones(4, 2, 3, 6)), ShapeError, r"shape \(3, 2, 4, n_2\)"),
        (lambda: HierarchicalTucker((ones(3, 2),), (ones(2, 1),), 0), ShapeError, "tree=0"),
        (lambda: HierarchicalTucker((ones(3, 2),) * 2, (ones(2, 2, 1),), "01"), ShapeError, "tree='01'"),
        (lambda: HierarchicalTucker((ones(3, 2),) * 2, (ones(2, 2, 1),), (0, 0)), ShapeError, "modes 0 to 1 once"),
        (lambda: HierarchicalTucker((ones(3, 2),) * 2, (ones(2, 2, 1),), (0, 2)), ShapeError, "modes 0 to 1 once"),
        (lambda: HierarchicalTucker((ones(3, 2),) * 2, (ones(2, 2, 1),), (0, (1,))), ShapeError, "two children"),
        (lambda: HierarchicalTucker((ones(3, 2),) * 2, (ones(2, 2, 1),), (0, True)), ShapeError, "nested tuples"),
        (lambda: HierarchicalTucker((ones(3, 2),) * 2, (ones(2, 2, 1),) * 2, (0, 1)), ShapeError, "2 transfers"),
        (lambda: HierarchicalTucker((ones(3, 2),) * 2, (ones(2, 2),), (0, 1)), ShapeError, "give 3 axes"),
        (lambda: HierarchicalTucker((ones(3, 2),) * 2, (ones(2, 3, 1),), (0, 1)), ShapeError, "size 3 in axis 1"),
        (lambda: HierarchicalTucker((ones(3, 2),) * 2, (ones(2, 2, 2),), (0, 1)), ShapeError, "root's last axis"),
        (lambda: HierarchicalTucker((ones(3),) * 2, (ones(2, 2, 1),), (0, 1)), ShapeError, "factors.*2 axes"),
        (lambda: LowRank(ones(2), ones(1, 2)), ShapeError, "left has shape"),
        (lambda: LowRank(ones(2, 1), ones(2)), ShapeError, "right has shape"),
        (lambda: LowRank(ones(2, 3), ones(2, 3)), ShapeError, "left has 3 columns, right has 2 rows"),
    ],
)
def test_constructors_refuse(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_lists_are_taken():
    t = LowRank([[1.0], [2.0]], [[3.0, 4.0]])
    np.testing.assert_array_equal(t.to_dense(), [[3.0, 4.0], [6.0, 8.0]])


def test_many_modes():
    t = TensorTrain((np.ones((1, 2, 1)),) * 40 + (np.ones((1, 1, 1)),) * 30)
    assert t.ndim == 70
    with pytest.raises(InputError, match="70 modes"):
        t.to_dense()
    with pytest.raises(MemoryLimitError, match="bytes"):
        TensorTrain((np.ones((1, 2, 1)),) * 60).to_dense()
    assert TensorTrain((np.ones((1, 1, 1)),) * 60).to_dense().shape == (1,) * 60


@pytest.mark.parametrize("tree", [(0, 1, 2, 3), ((3, 1), (0, 2)), (((2, 0), 3), 1), ([3, (1, 0)], 2)])
def test_hierarchical_tucker_on_any_tree(tree, convert):
    rng = np.random.default_rng(0)
    shape = (2, 3, 4, 5)
    ranks = dict(enumerate((1, 2, 3, 2, 4, 3, 2)))
    as_tuples = in_tuples(tree)
    nodes = tree_nodes(as_tuples)
    factors, transfers = [None] * 4, []
    for j, node in enumerate(nodes):
        if node.children:
            size = (*(ranks[child] for child in node.children), ranks[j])
            transfers.append(convert(random_array(rng, size)))
        else:
            factors[node.modes[0]] = convert(random_array(rng, (shape[node.modes[0]], ranks[j])))
    t = HierarchicalTucker(factors, transfers, tree)
    assert t.tree == as_tuples
    assert t.shape == shape
    assert t.rank == tuple(ranks[j] for j in range(1, len(nodes)))
    close(t.to_dense(), dense(t))


def in_tuples(tree):
    return tuple(map(in_tuples, tree)) if isinstance(tree, (tuple, list)) else tree


def test_balanced_trees():
    assert balanced_tree(1) == (0,)
    assert balanced_tree(2) == (0, 1)
    assert balanced_tree(6) == (((0, 1), 2), ((3, 4), 5))


def test_a_ring_closes_with_the_trace():
    rng = np.random.default_rng(0)
    G, H = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5, 2))
    wanted = [[np.trace(G[:, i] @ H[:, j]) for j in range(5)] for i in range(3)]
    close(TensorRing((G, H)).to_dense(), np.array(wanted))


def test_kronecker_sums_and_blocks_by_their_definition():
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 6))
    close(KroneckerSum(A, B).to_dense(), np.kron(A[0], B[0]) + np.kron(A[1], B[1]))
    L, R = rng.normal(size=(2, 3, 4, 1)), rng.normal(size=(4, 1, 2, 5))
    W = np.asarray(BlockTensorTrain(L, R))
    assert W.shape == (6, 20)
    for i in range(2):
        for j in range(4):
            close(W[3 * i : 3 * i + 3, 5 * j : 5 * j + 5], np.outer(L[i, :, j, 0], R[j, 0, i]))


def test_empty_mode():
    for kind in KINDS:
        t = random_format(kind, np.random.default_rng(0), shape=(3, 0, 2))
        assert np.asarray(t).shape == t.shape


class TestTorch:
    def test_formats_are_pytrees(self, kind):
        t = random_format(kind, np.random.default_rng(0), torch.tensor)
        for value in (t, t.to_network()):
            leaves, spec = _pytree.tree_flatten(value)
            assert len(leaves) == len(value.arrays)
            again = _pytree.tree_unflatten(leaves, spec)
            assert type(again) is type(value)
            assert all(a is b for a, b in zip(again.arrays, value.arrays, strict=True))
            shaped = _pytree.tree_map(lambda leaf: leaf.shape, value)
            assert type(shaped) is type(value)

    def test_networks_of_other_indices_differ_as_trees(self):
        a = TensorNetwork((torch.ones(2),), (("i",),), ("i",))
        b = TensorNetwork((torch.ones(2),), (("j",),), ("j",))
        assert _pytree.tree_structure(a) != _pytree.tree_structure(b)

    def test_gradients_flow_to_the_parts(self, kind):
        t = random_format(kind, np.random.default_rng(0), torch.tensor)
        t = t.map_arrays(lambda array: array.requires_grad_())
        t.to_dense().square().sum().backward()
        assert all(array.grad is not None and array.grad.abs().max() > 0 for array in t.arrays)

    def test_compiles_without_graph_break(self, kind):
        t = random_format(kind, np.random.default_rng(0), torch.tensor)
        torch.compiler.reset()  # one function over all kinds: dynamo gives up after a few of them

        @torch.compile(fullgraph=True, backend="eager")
        def doubled(value):
            return type(value)(*value).to_dense() * 2

        torch.testing.assert_close(doubled(t), t.to_dense() * 2)
