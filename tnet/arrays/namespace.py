"""Which array library an array belongs to, and the way in and out of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

from tnet.errors import BackendError, InputError

__all__ = [
    "Array",
    "Namespace",
    "adjoint",
    "array_namespace",
    "as_array",
    "astype",
    "common_dtype",
    "compute_dtype",
    "conj",
    "device_kind",
    "device_of",
    "dtype_name",
    "from_numpy_like",
    "is_complex",
    "is_torch",
    "itemsize",
    "library_name",
    "name_of_dtype",
    "real_dtype",
    "real_part",
    "require_floating",
    "resolve_dtype",
    "to_compute",
    "to_device",
    "to_numpy",
    "total_size",
]

Array: TypeAlias = Any
"""An array of any supported library; the array API standard has no common base class."""

Namespace: TypeAlias = Any
"""The module that holds the functions of one array library, in the grammar of the standard."""

_HALF = ("float16", "bfloat16")
_FLOATING = (*_HALF, "float32", "float64", "complex64", "complex128")
_WHOLE = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

# What array_api_compat answered for each type of array; torch.compile traces a look-up here
# without a word, but warns of the cache inside array_api_compat.
_NAMESPACE_OF: dict[type, Namespace] = {}

# The name of each dtype met: NumPy takes 5 us to spell one.
_NAME_OF: dict[tuple[type, Any], str] = {}


def is_torch(x: object) -> bool:
    """Return whether ``x`` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def library_name(x: Array) -> str:
    """Return the name of the array's library: "numpy", "torch", "cupy", "array_api_strict" ..."""
    return type(x).__module__.partition(".")[0] if not is_torch(x) else "torch"


def device_of(x: Array) -> Any:
    """Return the device that holds ``x``, in the words of its library."""
    return x.device if is_torch(x) else array_api_compat.device(x)


def device_kind(x: Array) -> str:
    """Return "cpu", "cuda" ...: the kind of device that holds ``x``, without its number."""
    if isinstance(x, np.ndarray):
        return "cpu"
    if library_name(x) == "cupy":
        return "cuda"
    device = device_of(x)
    return str(getattr(device, "type", "cpu"))


def dtype_name(x: Array) -> str:
    """Return the bare name of the dtype of ``x``, such as "float32", in every library."""
    return name_of_dtype(x.dtype)


def array_namespace(*arrays: Array) -> Namespace:
    """Return the namespace shared by the arrays.

    Parameters
    ----------
    *arrays : array
        At least one; entries that are None are skipped.

    Returns
    -------
    xp : module
        Functions in the grammar of the Python array API standard.

    Raises
    ------
    BackendError
        If an argument is no array, or the arrays are of several libraries or devices.

    Notes
    -----
    Less than 1 us for a few arrays of one type, but not nothing: call it once in each public
    function and pass ``xp`` down.
    """
    given = [x for x in arrays if x is not None]
    if not given:
        raise BackendError("array_namespace: no array given; pass at least one.")
    kind = type(given[0])
    xp = _NAMESPACE_OF.get(kind) if all(type(x) is kind for x in given) else None
    if xp is None and all(is_torch(x) for x in given):
        import array_api_compat.torch as xp  # what the look-up below finds, but torch.compile can read this line

        _NAMESPACE_OF[kind] = xp
    if xp is None:
        try:
            xp = array_api_compat.array_namespace(*given)
        except TypeError as error:
            raise BackendError(_mixed_libraries_message(given)) from error
        _NAMESPACE_OF[kind] = xp
    if len(given) > 1 and not isinstance(given[0], np.ndarray):
        first = device_of(given[0])
        for x in given[1:]:
            if device_of(x) != first:
                raise BackendError(
                    f"arrays on two devices, {first} and {device_of(x)}: move them to one device first."
                )
    return xp


def as_array(x: object, name: str = "x") -> Array:
    """Return ``x`` as an array of its own library; lists and scalars become NumPy arrays.

    Parameters
    ----------
    x : array, nested list, number, or object with ``__array__``
        Never copied when it is an array already.
    name : str
        What to call it in an error.

    Returns
    -------
    array
        A plain array: subclasses such as memmaps are seen as their base class.

    Raises
    ------
    BackendError
        For object, string, date and structured arrays, masked arrays, ``numpy.matrix``, sparse
        and quantised arrays.
    InputError
        For a nested list whose rows differ in length.
    """
    if type(x) is np.ndarray:
        array = x
    elif is_torch(x):
        return _checked_torch(x, name)
    elif isinstance(x, np.ma.MaskedArray):
        raise BackendError(f"{name} is a masked array, which is not supported: pass {name}.filled(0).")
    elif isinstance(x, np.matrix):
        raise BackendError(f"{name} is a numpy.matrix, which is not supported: pass numpy.asarray of it.")
    elif type(x).__module__.startswith(("scipy.sparse", "sparse", "cupyx.scipy.sparse")):
        raise BackendError(f"{name} is a sparse array ({type(x).__name__}): pass {name}.todense().")
    elif array_api_compat.is_array_api_obj(x) and not isinstance(x, (np.ndarray, np.generic)):
        return x
    else:
        array = _converted(x, name)
    if array.dtype.kind not in "biufc":
        raise BackendError(
            f"{name} has dtype {array.dtype}, which holds no numbers to compute with: "
            "pass an array of real or complex numbers."
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def require_floating(x: Array, name: str = "x") -> None:
    """Raise BackendError unless ``x`` is real or complex floating point, up to double precision."""
    kind = dtype_name(x)
    if kind in _FLOATING:
        return
    remedy = f"{name}.double()" if is_torch(x) else f"{name}.astype(float)"
    if kind in _WHOLE:
        raise BackendError(f"{name} has dtype {kind}; floating point is needed: pass {remedy}.")
    raise BackendError(f"{name} has dtype {kind}; allowed are {', '.join(_FLOATING)}: pass {remedy}.")


def common_dtype(*arrays: Array) -> Any:
    """Return the dtype to which the arrays promote by the rules of the standard."""
    first = arrays[0].dtype
    if all(x.dtype == first for x in arrays):
        return first
    return array_namespace(*arrays).result_type(*(x.dtype for x in arrays))


def compute_dtype(*arrays: Array) -> Any:
    """Return the dtype to compute in: the common one, or float32 where that is half precision."""
    common = common_dtype(*arrays)
    return array_namespace(*arrays).float32 if name_of_dtype(common) in _HALF else common


def to_compute(x: Array) -> Array:
    """Return ``x`` in :func:`compute_dtype`: itself, uncopied, unless it is half precision."""
    return astype(x, compute_dtype(x))


def astype(x: Array, dtype: Any) -> Array:
    """Return ``x`` in ``dtype`` (of its own library); itself when it already is."""
    if x.dtype == dtype:
        return x
    return array_namespace(x).astype(x, dtype, copy=False)


def resolve_dtype(xp: Namespace, dtype: Any) -> Any:
    """Return the dtype of ``xp`` that ``dtype``, a name or a dtype of any library, stands for."""
    name = dtype if isinstance(dtype, str) else name_of_dtype(dtype)
    found = getattr(xp, name, None)
    if name not in (*_FLOATING, *_WHOLE) or found is None:
        raise BackendError(f"dtype={dtype!r} is not known here; allowed are {', '.join(_FLOATING)}.")
    return found


def real_dtype(x: Array) -> Any:
    """Return the dtype of ``abs(x)``: complex64 -> float32, complex128 -> float64, else its own."""
    xp = array_namespace(x)
    return {"complex64": xp.float32, "complex128": xp.float64}.get(dtype_name(x), x.dtype)


def is_complex(x: Array) -> bool:
    """Return whether the dtype of ``x`` is complex."""
    return dtype_name(x).startswith("complex")


def real_part(x: Array) -> Array:
    """Return the real part; ``x`` itself, uncopied, when it is real."""
    return array_namespace(x).real(x) if is_complex(x) else x


def itemsize(x: Array) -> int:
    """Return the bytes of one entry."""
    if hasattr(x, "itemsize"):
        return int(x.itemsize)
    bits = "".join(letter for letter in dtype_name(x) if letter.isdigit())
    return max(1, int(bits or 8) // 8)


def conj(x: Array) -> Array:
    """Return the complex conjugate; ``x`` itself, uncopied, when it is real."""
    return array_namespace(x).conj(x) if is_complex(x) else x


def adjoint(x: Array) -> Array:
    """Return the conjugate transpose of a matrix, or of each matrix of a stack ``(..., m, n)``."""
    return conj(array_namespace(x).matrix_transpose(x))


def to_device(x: Array, device: Any) -> Array:
    """Return ``x`` on ``device``; itself when it is there already."""
    return array_api_compat.to_device(x, device)


def to_numpy(x: Array) -> np.ndarray:
    """Return ``x`` as a NumPy array on the host; bfloat16, which NumPy lacks, becomes float32."""
    if isinstance(x, np.ndarray):
        return x
    if is_torch(x):
        if x.device.type == "meta":
            raise InputError("a tensor on the meta device has no values: materialise it first.")
        x = x.detach().cpu().resolve_conj().resolve_neg()
        return (x.float() if dtype_name(x) == "bfloat16" else x).numpy()
    if hasattr(x, "get"):
        return x.get()
    return np.asarray(x)


def from_numpy_like(a: np.ndarray, like: Array, dtype: Any = None) -> Array:
    """Return the host array ``a`` in the library and on the device of ``like``.

    Parameters
    ----------
    a : numpy.ndarray
    like : array
    dtype : dtype of the library of ``like``, optional
        Default: the dtype of ``like``.
    """
    target = like.dtype if dtype is None else dtype
    if isinstance(like, np.ndarray):
        return np.asarray(a, dtype=target)
    xp = array_namespace(like)
    # torch tells of negative strides and of read-only memory: hand over a plain copy.
    moved = xp.asarray(np.array(a, order="C"), device=device_of(like))
    return astype(moved, target)


def total_size(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape, as an exact Python integer."""
    size = 1
    for n in shape:
        # int() frees NumPy integers of their 64 bits; the loop, unlike a generator, can be traced.
        size *= int(n)
    return size


def name_of_dtype(dtype: Any) -> str:
    """Return the bare name of a dtype of any library, such as "float32"."""
    key = (type(dtype), dtype)  # dtypes of two libraries may share a hash, and refuse to be compared
    name = _NAME_OF.get(key)
    if name is None:
        name = str(dtype).rpartition(".")[2] if not isinstance(dtype, type) else np.dtype(dtype).name
        _NAME_OF[key] = name
    return name


def _converted(x: object, name: str) -> np.ndarray:
    try:
        return np.asarray(x)
    except ValueError as error:
        raise InputError(f"{name} cannot be made an array: {error}") from error


def _checked_torch(x: Any, name: str) -> Array:
    if x.is_quantized:
        raise BackendError(f"{name} is a quantised tensor: pass {name}.dequantize().")
    if str(x.layout) != "torch.strided":
        raise BackendError(f"{name} is a sparse tensor ({x.layout}): pass {name}.to_dense().")
    return x


def _mixed_libraries_message(given: list[Array]) -> str:
    kinds: dict[str, None] = {}
    for x in given:
        if not array_api_compat.is_array_api_obj(x):
            return f"{type(x).__name__} is not an array of a supported library: pass a NumPy or torch array."
        kinds[library_name(x)] = None
    return f"arrays of several libraries: {' and '.join(kinds)}; convert them to one library first."
