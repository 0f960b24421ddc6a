"""The few operations that a loop of matrix products is made of, each in the quickest spelling of its library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tnet.arrays.namespace import Array, array_namespace, library_name
from tnet.arrays.permuted import permuted_copy
from tnet.arrays.recording import unrecorded

__all__ = ["Operations", "operations"]

Function = Callable[..., Any]


class Operations(NamedTuple):
    """Functions of one array library; a NumPy function costs half of its counterpart in the standard's grammar.

    Parameters
    ----------
    product : callable
        Of two matrices.
    stacked : callable
        Of two stacks ``(b, m, k)`` and ``(b, k, n)``, each possibly a strided view.
    spread : callable
        Of a stack and a matrix, or a matrix and a stack.
    times : callable
        Elementwise, with broadcasting.
    permute : callable
        ``(x, axes)``: a view.
    reshape : callable
        ``(x, shape)``: a view where there is one.
    arranged : callable
        ``(x, axes)``: permuted, in C order; for large arrays.
    ordered : callable
        ``(x)`` in C order; ``x`` itself when it lies so.
    convert : callable
        ``(x, dtype)`` in C order.
    copy : callable
        ``(x)`` in C order, never ``x`` itself.
    array : callable
        ``(x)``: the array that a reduction to a number should have given; NumPy gives a scalar.
    stride_of : callable or None
        ``(x)``: strides in any unit; None where the library does not tell.
    """

    product: Function
    stacked: Function
    spread: Function
    times: Function
    permute: Function
    reshape: Function
    arranged: Function
    ordered: Function
    convert: Function
    copy: Function
    array: Function
    stride_of: Function | None


def operations(x: Array) -> Operations:
    """Return the operations for arrays of the library of ``x``."""
    library = library_name(x)
    if library == "numpy":
        return Operations(
            product=np.dot,
            stacked=np.matmul,
            spread=np.matmul,
            times=np.multiply,
            permute=np.ndarray.transpose,
            reshape=np.ndarray.reshape,
            arranged=permuted_copy,
            ordered=_numpy_ordered,
            convert=_numpy_convert,
            copy=_numpy_copy,
            array=np.asarray,
            stride_of=_strides,
        )
    if library == "torch":
        torch: Any = sys.modules["torch"]
        return Operations(
            product=torch.mm,
            stacked=torch.bmm,
            spread=_torch_spread,
            times=torch.mul,
            permute=torch.permute,
            reshape=torch.reshape,
            arranged=_torch_arranged,
            ordered=torch.Tensor.contiguous,
            convert=_torch_convert,
            copy=_torch_copy,
            array=_itself,
            stride_of=torch.Tensor.stride,
        )
    xp = array_namespace(x)
    ordered = xp.ascontiguousarray if library == "cupy" else xp.asarray
    return Operations(
        product=xp.matmul,
        stacked=xp.matmul,
        spread=xp.matmul,
        times=xp.multiply,
        permute=xp.permute_dims,
        reshape=xp.reshape,
        arranged=lambda x, axes: ordered(xp.permute_dims(x, axes)),
        ordered=ordered,
        convert=_convert,
        copy=_copy,
        array=_itself,
        stride_of=_strides if library == "cupy" else None,
    )


def _itself(x: Array) -> Array:
    return x


def _strides(x: Array) -> tuple[int, ...]:
    return x.strides


def _numpy_ordered(x: Array) -> Array:
    return np.asarray(x, order="C")  # ascontiguousarray makes a vector of a number


def _numpy_convert(x: Array, dtype: Any) -> Array:
    return x.astype(dtype, order="C")


def _numpy_copy(x: Array) -> Array:
    return np.array(x, order="C")


def _torch_spread(x: Array, y: Array) -> Array:
    # torch.matmul would fold the stack into one matrix, by a copy where the stack is a view.
    torch: Any = sys.modules["torch"]
    if x.ndim == 2:
        return torch.bmm(x.expand(y.shape[0], *x.shape), y)
    return torch.bmm(x, y.expand(x.shape[0], *y.shape))


def _torch_arranged(x: Array, axes: tuple[int, ...]) -> Array:
    if x.element_size() < 4 or not unrecorded(x):  # NumPy has no bfloat16, and shorter entries no tiles
        return x.permute(axes).contiguous()
    torch: Any = sys.modules["torch"]
    return torch.from_numpy(permuted_copy(x.detach().numpy(), axes))


def _torch_convert(x: Array, dtype: Any) -> Array:
    torch: Any = sys.modules["torch"]
    return x.to(dtype, memory_format=torch.contiguous_format)


def _torch_copy(x: Array) -> Array:
    torch: Any = sys.modules["torch"]
    return x.clone(memory_format=torch.contiguous_format)


def _convert(x: Array, dtype: Any) -> Array:
    # CuPy keeps the order of the axes in memory unless told; others have no say in it.
    return x.astype(dtype, order="C") if library_name(x) == "cupy" else array_namespace(x).astype(x, dtype)


def _copy(x: Array) -> Array:
    return x.copy(order="C") if library_name(x) == "cupy" else array_namespace(x).asarray(x, copy=True)
