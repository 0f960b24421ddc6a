from __future__ import annotations

import subprocess
import sys

import array_api_strict
import numpy as np
import pytest
import scipy.sparse
import torch

from tnet.arrays import (
    adjoint,
    array_namespace,
    as_array,
    astype,
    common_dtype,
    compute_dtype,
    conj,
    device_kind,
    dtype_name,
    from_numpy_like,
    is_complex,
    is_torch,
    library_name,
    real_dtype,
    require_floating,
    resolve_dtype,
    to_compute,
    to_device,
    to_numpy,
)
from tnet.errors import BackendError, InputError


def test_namespace_is_that_of_the_library(xp, convert, library):
    x = convert(np.ones((2, 3)))
    assert array_namespace(x) is xp
    assert array_namespace(None, x, None, x) is xp
    names = {f"array_api_compat.{name}": name for name in ("numpy", "torch", "cupy")}
    assert library_name(x) == names.get(xp.__name__, "array_api_strict")
    assert device_kind(x) == ("cuda" if library in ("torch-cuda", "cupy") else "cpu")
    assert is_torch(x) == (library_name(x) == "torch")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ((), "no array"),
        ((None,), "no array"),
        (([1.0],), "list is not an array"),
        ((np.ones(2), torch.ones(2)), "numpy and torch"),
        ((array_api_strict.ones(2), np.ones(2)), "array_api_strict and numpy"),
        ((torch.ones(2), torch.ones(2, device="meta")), "cpu and meta"),
    ],
)
def test_namespace_refuses(arrays, words):
    with pytest.raises(BackendError, match=words):
        array_namespace(*arrays)


@pytest.mark.parametrize("value", [[[1, 2], [3, 4]], (1.0, 2.0), 3.5, np.float32(2), range(3)])
def test_lists_and_numbers_become_numpy(value):
    array = as_array(value)
    assert type(array) is np.ndarray
    np.testing.assert_array_equal(array, np.asarray(value))


def test_arrays_pass_uncopied(tmp_path):
    for x in (np.ones(3), torch.ones(3), array_api_strict.ones(3), torch.nn.Parameter(torch.ones(2))):
        assert as_array(x) is x
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=float, shape=(3,))
    seen = as_array(mapped)
    assert type(seen) is np.ndarray
    assert np.shares_memory(seen, mapped)


def test_foreign_byte_order_becomes_native():
    x = np.arange(3.0).astype(">f8")
    assert as_array(x).dtype.isnative
    np.testing.assert_array_equal(as_array(x), x)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda: np.array([1, None]), "object"),
        (lambda: ["a", "b"], "<U1"),
        (lambda: np.array(["2020-01-01"], dtype="datetime64[D]"), "datetime64"),
        (lambda: np.zeros(2, dtype=[("a", float)]), r"\('a'"),
        (lambda: np.ma.masked_array([1.0, 2.0], [0, 1]), r"field\.filled"),
        (lambda: scipy.sparse.eye_array(3).tocsr(), r"field\.todense"),
        (lambda: torch.eye(3).to_sparse(), r"field\.to_dense"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), r"field\.dequantize"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_as_array_refuses_by_name(value, words):
    with pytest.raises(BackendError, match=words) as caught:
        as_array(value(), "field")
    assert str(caught.value).startswith("field ")


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_numpy_matrix_is_refused():
    with pytest.raises(BackendError, match=r"numpy\.asarray"):
        as_array(np.matrix([[1.0]]))


def test_ragged_list_is_refused():
    with pytest.raises(InputError, match="field cannot be made an array"):
        as_array([[1.0, 2.0], [3.0]], "field")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.arange(3), r"int64.*x\.astype\(float\)"),
        (np.ones(3, bool), "bool"),
        (torch.arange(3), r"x\.double\(\)"),
        (np.ones(2, np.longdouble), "allowed are"),
        (torch.ones(2).to(torch.float8_e4m3fn), "float8"),
    ],
)
def test_floating_is_required(x, words):
    with pytest.raises(BackendError, match=words):
        require_floating(x)


def test_floating_passes():
    for x in (np.ones(2, np.float16), torch.ones(2, dtype=torch.bfloat16), np.ones(2, complex)):
        require_floating(x)


def test_half_precision_computes_in_float32():
    half = np.ones(2, np.float16)
    brain = torch.ones(2, dtype=torch.bfloat16)
    assert to_compute(half).dtype == np.float32
    assert to_compute(brain).dtype == torch.float32
    assert compute_dtype(half, np.ones(2)) == np.float64
    assert common_dtype(half, half) == np.float16
    full = np.ones(2)
    assert to_compute(full) is full
    assert astype(to_compute(brain), brain.dtype).dtype == torch.bfloat16


def test_dtypes_by_name(xp, convert):
    x = convert(np.ones(2, np.complex64))
    assert dtype_name(x) == "complex64"
    assert is_complex(x)
    assert real_dtype(x) == xp.float32
    assert resolve_dtype(xp, "float64") == xp.float64
    assert resolve_dtype(xp, xp.float32) == xp.float32
    assert resolve_dtype(xp, np.float32) == xp.float32
    with pytest.raises(BackendError, match="float31"):
        resolve_dtype(xp, "float31")
    with pytest.raises(BackendError, match="linalg"):
        resolve_dtype(xp, "linalg")


def test_conjugates(xp, convert):
    real = convert(np.ones((2, 3)))
    assert conj(real) is real
    z = np.arange(6).reshape(2, 3) * (1 + 2j)
    np.testing.assert_array_equal(to_numpy(adjoint(convert(z))), z.conj().T)


@pytest.mark.parametrize("dtype", ["float32", "complex128", "int64"])
def test_round_trip_through_the_host(xp, convert, dtype):
    a = np.arange(6).reshape(2, 3).astype(dtype)
    x = convert(a)
    back = to_numpy(x)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, a)
    again = from_numpy_like(a[::-1], x)
    assert again.dtype == x.dtype
    np.testing.assert_array_equal(to_numpy(again), a[::-1])
    assert from_numpy_like(a, x, xp.complex128).dtype == xp.complex128
    assert to_device(x, x.device) is x


def test_to_numpy_of_torch_views():
    x = torch.arange(4.0, requires_grad=True)
    np.testing.assert_array_equal(to_numpy(x), np.arange(4.0))
    z = torch.tensor([1 + 2j]).conj()
    np.testing.assert_array_equal(to_numpy(z), [1 - 2j])
    assert to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    with pytest.raises(InputError, match="meta"):
        to_numpy(torch.ones(2, device="meta"))


def test_device_kind_of_meta():
    assert device_kind(torch.ones(1, device="meta")) == "meta"


def test_work_on_numpy_arrays_loads_no_torch():
    code = """
import sys
import numpy as np
from tnet import algebra, arrays, formats
from tnet.options import Truncation
x = np.random.default_rng(0).standard_normal((4, 6))
arrays.balanced_scale(arrays.as_array(x))
arrays.svd_truncated(x, Truncation(rank=2))
arrays.resolve_rng(None)
t = formats.LowRank(x, x.T)
repr(t), np.asarray(t), algebra.round(t, rtol=0.1), algebra.norm(t)
loaded = {"torch", "cupy", "jax", "matplotlib", "numba"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
