"""Kernels for one pairwise contraction against numpy.einsum, over random index structures and memory layouts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnet.arrays.pairwise import PairKernel, choose_kernel, packed_kernel, sum_kernel

DTYPES = ("float32", "float64", "complex64", "complex128")
LAYOUTS = ("C", "F", "reversed", "strided", "broadcast", "read-only", "unaligned")


def entries(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, layout: str = "C") -> np.ndarray:
    """Return standard normal entries in a memory layout of that kind."""

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if "complex" in dtype else x).astype(dtype)

    if layout == "F":
        return draw(shape[::-1]).transpose()
    if layout == "reversed":
        return draw(shape)[tuple([slice(None, None, -1)] * len(shape))]
    if layout == "strided":
        return draw(tuple(2 * n + 1 for n in shape))[tuple([slice(1, None, 2)] * len(shape))]
    if layout == "broadcast":
        return np.broadcast_to(draw((1, *shape[1:])), shape)
    if layout == "unaligned":
        x = draw(shape)
        raw = np.zeros(x.nbytes + 1, np.uint8)
        raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
        return raw[1:].view(dtype).reshape(shape)
    x = draw(shape)
    x.flags.writeable = layout != "read-only"
    return x


def expected(kernel: PairKernel, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.einsum(x, list(kernel.left), y, list(kernel.right), list(kernel.order))


def check(kernel: PairKernel, x: np.ndarray, y: np.ndarray) -> None:
    """Compare with einsum in double precision; inputs stay as they are, the result is fresh and C-ordered."""
    before = x.copy(), y.copy()
    result = kernel(x, y)
    wide = [z.astype("complex128" if z.dtype.kind == "c" else "float64") for z in (x, y)]
    size = expected(kernel, *(np.abs(z) for z in wide))
    tolerance = 40 * np.finfo(x.dtype).eps * size
    assert result.dtype == x.dtype
    assert result.shape == kernel.shape
    assert np.all(np.abs(result - expected(kernel, *wide)) <= tolerance)
    assert result.flags.c_contiguous
    assert not np.may_share_memory(result, x)
    assert not np.may_share_memory(result, y)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


@st.composite
def structures(draw: st.DrawFn, *, free: bool = True, inner: bool = True):
    """Return (left, right, result, sizes): shared and free indices in any order, sizes 1 to 9."""
    n_batch, n_inner = draw(st.integers(0, 2)), draw(st.integers(1 if inner else 0, 2))
    n_left, n_right = (draw(st.integers(0, 2)), draw(st.integers(0, 2))) if free else (0, 0)
    total = n_batch + n_inner + n_left + n_right
    numbers = draw(st.permutations(range(total)))
    batch, summed = numbers[:n_batch], numbers[n_batch : n_batch + n_inner]
    mine, theirs = numbers[n_batch + n_inner : total - n_right], numbers[total - n_right :]
    left = tuple(draw(st.permutations([*batch, *summed, *mine])))
    right = tuple(draw(st.permutations([*batch, *summed, *theirs])))
    result = tuple(draw(st.permutations([*batch, *mine, *theirs])))
    sizes = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 8, 9, 17]), min_size=total, max_size=total)))
    return left, right, result, sizes


@settings(max_examples=100, deadline=None)
@given(structures(), st.sampled_from(DTYPES), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.integers(0, 99))
def test_packed_kernel_is_einsum(structure, dtype, layout_x, layout_y, seed):
    left, right, result, sizes = structure
    rng = np.random.default_rng(seed)
    kernel = packed_kernel(left, right, result, sizes, dtype)
    x = entries(rng, tuple(sizes[i] for i in left), dtype, layout_x if left else "C")
    y = entries(rng, tuple(sizes[i] for i in right), dtype, layout_y if right else "C")
    assert sorted(kernel.order) == sorted(result)
    check(kernel, x, y)


@settings(max_examples=40, deadline=None)
@given(structures(free=False), st.sampled_from(DTYPES), st.sampled_from(LAYOUTS), st.integers(0, 99))
def test_sum_kernel_is_einsum(structure, dtype, layout, seed):
    left, right, result, sizes = structure
    rng = np.random.default_rng(seed)
    kernel = sum_kernel(left, right, result, sizes)
    assert kernel.order == result
    x = entries(rng, tuple(sizes[i] for i in left), dtype, layout if left else "C")
    check(kernel, x, entries(rng, tuple(sizes[i] for i in right), dtype))


# Large enough for the chooser, for several blocks of each kind, and with edges that no block divides.
LARGE = {
    "batch inside both": ("abx,bcx->acx", {"a": 70, "b": 30, "c": 37, "x": 75}),
    "batch inside one": ("azb,bcz->cza", {"a": 37, "b": 65, "c": 41, "z": 70}),
    "batch inside, deep": ("abz,zbc->azc", {"a": 5, "b": 700, "c": 19, "z": 70}),
    "deep and permuted": ("bacd,dec->eab", {"a": 13, "b": 20, "c": 23, "d": 41, "e": 67}),
    "many rows": ("akb,ckd->acdb", {"a": 33, "b": 200, "c": 40, "d": 30, "k": 7}),
    "gate": ("abcdefghijklmnopqr,ejoru->abcdfghiklmnpqu", dict.fromkeys("abcdefghijklmnopqru", 2)),
    "long odd index": ("aik,ikb->iab", {"a": 6001, "i": 5, "k": 11, "b": 3}),
    "stack of small products": ("zab,zbc->zac", {"a": 17, "b": 33, "c": 18, "z": 600}),
}


def indices_of(equation: str, sizes: dict[str, int]):
    terms, output = equation.split("->")
    left, right = terms.split(",")
    left, right, output = (tuple(ord(letter) - 97 for letter in term) for term in (left, right, output))
    return left, right, output, {ord(letter) - 97: n for letter, n in sizes.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", LARGE)
def test_large_operands_are_packed_in_blocks(case, dtype):
    left, right, result, sizes = indices_of(*LARGE[case])
    kernel = packed_kernel(left, right, result, sizes, dtype)
    assert case == "many rows" or choose_kernel(left, right, result, sizes, dtype, "numpy") == kernel
    rng = np.random.default_rng(0)
    check(kernel, entries(rng, kernel.left_shape, dtype), entries(rng, kernel.right_shape, dtype))
    # A second layout binds other tables.
    check(kernel, entries(rng, kernel.left_shape, dtype, "F"), entries(rng, kernel.right_shape, dtype, "reversed"))


def test_threads_share_the_work(monkeypatch):
    import numba

    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 3)
    monkeypatch.setattr("tnet.arrays.pairwise_packed._MACS_A_THREAD", 1000)
    rng = np.random.default_rng(0)
    for case in LARGE.values():
        left, right, result, sizes = indices_of(*case)
        kernel = packed_kernel(left, right, result, sizes, "float64")
        check(kernel, entries(rng, kernel.left_shape, "float64"), entries(rng, kernel.right_shape, "float64"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_reach_what_depends_on_them_and_nothing_else(dtype, bad):
    left, right, result, sizes = (0, 1, 2), (2, 1, 3), (0, 3), {0: 30, 1: 5, 2: 7, 3: 21}
    kernel = packed_kernel(left, right, result, sizes, dtype)
    rng = np.random.default_rng(0)
    x, y = entries(rng, kernel.left_shape, dtype), entries(rng, kernel.right_shape, dtype)
    x[29, 4, 6] = bad
    y[0, 0, 20] = bad
    got = np.isfinite(kernel(x, y))
    where = np.ones((30, 21), bool)
    where[29] = False
    where[:, 20] = False
    where = where if kernel.order == result else where.T
    assert np.array_equal(got, where)


def test_stacks_of_inner_products_are_summed_in_one_pass():
    left, right, result, sizes = indices_of("abc,abc->b", {"a": 64, "b": 33, "c": 65})
    kernel = choose_kernel(left, right, result, sizes, "float64", "numpy")
    assert kernel is not None
    assert (kernel.name, kernel.extra_bytes) == ("multiply and sum", 0)
    rng = np.random.default_rng(0)
    check(kernel, entries(rng, kernel.left_shape, "float64"), entries(rng, kernel.right_shape, "float64"))


@pytest.mark.parametrize(
    ("equation", "sizes", "dtype", "library"),
    [
        ("ab,bc->ac", {"a": 1024, "b": 1024, "c": 1024}, "float64", "numpy"),  # one product of views
        ("acbd,dfce->abef", dict.fromkeys("abcdef", 32), "float64", "numpy"),  # copies do not matter
        ("ab,ab->ab", {"a": 2048, "b": 2048}, "float64", "numpy"),  # elementwise
        ("ab,bc->abc", {"a": 128, "b": 128, "c": 128}, "float64", "numpy"),  # no sum
        ("abz,zbc->azc", {"a": 8, "b": 8, "c": 8, "z": 8}, "float64", "numpy"),  # small
        ("abz,zbc->azc", {"a": 64, "b": 64, "c": 64, "z": 640}, "int64", "numpy"),
        ("abz,zbc->azc", {"a": 64, "b": 64, "c": 64, "z": 640}, "float64", "cupy"),
        ("ab,ab->", {"a": 2048, "b": 2048}, "float64", "numpy"),  # one inner product
        ("abz,zbc->azc", {"a": 640, "b": 64, "c": 64, "z": 0}, "float64", "numpy"),
    ],
)
def test_matrix_products_are_left_alone(equation, sizes, dtype, library):
    assert choose_kernel(*indices_of(equation, sizes), dtype, library) is None


def test_an_index_to_sum_before_is_refused():
    left, right, result, sizes = indices_of("abzq,zbc->azc", {"a": 64, "b": 64, "c": 64, "z": 64, "q": 2})
    with pytest.raises(ValueError, match="sum over it first"):
        choose_kernel(left, right, result, sizes, "float64", "numpy")


def test_a_wished_order_is_kept_where_it_is_as_good():
    left, right, _, sizes = indices_of("abz,zbc->azc", {"a": 64, "b": 64, "c": 64, "z": 640})
    for wish in ((25, 0, 2), (25, 2, 0)):
        kernel = choose_kernel(left, right, wish, sizes, "float64", "numpy")
        assert kernel is not None
        assert kernel.order == wish


@pytest.mark.parametrize("dtype", DTYPES)
def test_scratch_is_within_its_promise(dtype):
    import tracemalloc

    rng = np.random.default_rng(0)
    left, right, result, sizes = indices_of(*LARGE["batch inside both"])
    kernel = packed_kernel(left, right, result, sizes, dtype)
    x, y = entries(rng, kernel.left_shape, dtype), entries(rng, kernel.right_shape, dtype)
    kernel(x, y)
    tracemalloc.start()
    result = kernel(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - result.nbytes <= kernel.extra_bytes + 20_000


def test_choosing_loads_neither_numba_nor_torch():
    code = (
        "import sys; from tnet.arrays.pairwise import choose_kernel;"
        "k = choose_kernel((0, 1, 2), (2, 1, 3), (0, 2, 3), (64, 64, 64, 64), 'float64', 'numpy');"
        "assert k is not None; assert not {'numba', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestTorch:
    torch = pytest.importorskip("torch")
    case = (*indices_of("abz,zbc->azc", {"a": 64, "b": 8, "c": 16, "z": 640}), "float64", "torch")

    def operands(self):
        kernel = choose_kernel(*self.case)
        assert kernel is not None
        rng = np.random.default_rng(0)
        x, y = (self.torch.from_numpy(entries(rng, s, "float64")) for s in (kernel.left_shape, kernel.right_shape))
        return kernel, x, y

    def test_plain_tensors_use_their_memory(self):
        kernel, x, y = self.operands()
        assert kernel.applies(x, y)
        result = kernel(x, y)
        assert isinstance(result, self.torch.Tensor)
        assert np.allclose(result.numpy(), expected(kernel, x.numpy(), y.numpy()))

    def test_not_while_gradients_are_recorded(self):
        kernel, x, y = self.operands()
        leaf = y.clone().requires_grad_()
        assert not kernel.applies(x, leaf)
        with self.torch.no_grad():
            assert kernel.applies(x, leaf)
            assert not kernel(x, leaf).requires_grad

    @pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
    def test_not_under_transforms(self):
        kernel, x, y = self.operands()
        seen = []

        def probe(x):
            seen.append(kernel.applies(x, y))
            return x.sum()

        self.torch.func.jvp(probe, (x,), (x,))
        self.torch.func.vmap(probe)(x)
        with self.torch.autograd.forward_ad.dual_level():
            probe(self.torch.autograd.forward_ad.make_dual(x, x))
        probe(x.to("meta"))
        assert seen == [False] * 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_batch", [1, 7, 8, 9, 23, 70])
def test_neighbouring_batches_are_read_together(n_batch, dtype):
    rng = np.random.default_rng(n_batch)
    sizes = {0: 6, 1: 5, 2: 19, 3: n_batch, 4: 3}
    for left, right, result in (
        ((0, 1, 3), (3, 1, 2), (3, 0, 2)),
        ((0, 1, 3), (1, 2, 3), (3, 0, 2)),
        ((0, 1, 4, 3), (1, 2, 4, 3), (4, 3, 0, 2)),
        ((0, 4, 1, 3), (1, 4, 2, 3), (4, 3, 0, 2)),
    ):
        kernel = packed_kernel(left, right, result, sizes, dtype)
        shapes = ([sizes[i] for i in indices] for indices in (left, right))
        check(kernel, *(entries(rng, tuple(shape), dtype) for shape in shapes))
