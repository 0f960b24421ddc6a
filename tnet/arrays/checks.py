"""The first pass over an input: its norm, and what the norm tells about its values.

A large input is never copied or scanned just to guard it. The squared norm, which most
algorithms need anyway, is NaN or infinite when an entry is; it also shows overflow and
underflow, and only then is the input rescaled, by a power of two, which is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tnet.arrays.namespace import (
    Array,
    array_namespace,
    astype,
    device_kind,
    dtype_name,
    is_complex,
    is_torch,
    total_size,
)
from tnet.errors import InputError

__all__ = ["Scaled", "balanced_scale", "check_finite", "safe_exponent", "scale_by_power_of_two", "squared_norm"]

# Elements of a panel, and of one that is widened to float64 and should stay in a core's cache.
_PANEL = 1 << 20
_CACHE_PANEL = 1 << 16

# |log2| of the squared norms for which squares, and squares of the smallest singular value that a
# dtype resolves, stay far from over- and underflow (float32 ends at 2^+-126, float64 at 2^+-1022).
_SAFE_EXPONENT = {"float32": 56, "complex64": 56, "float64": 500, "complex128": 500}
_SAFE_HALF_EXPONENT = 56  # computed in single precision


class Scaled(NamedTuple):
    """An input within the safe range: ``x = 2**exponent * array``."""

    array: Array
    exponent: int
    squared_norm: float


def squared_norm(x: Array, name: str = "x") -> float:
    r"""Return :math:`\|x\|^2 = \sum_i |x_i|^2`, accumulated in float64.

    Parameters
    ----------
    x : array
        Any shape and floating dtype.
    name : str
        What to call it in an error.

    Returns
    -------
    float
        Infinite where the squares of finite entries overflow float64; 0 where they all underflow.

    Raises
    ------
    InputError
        If an entry is NaN or infinite; the message tells how many and where the first is.

    Notes
    -----
    One pass in the order of memory, 2 N flops, no copy of ``x``. The search for the entry to
    blame runs only when the sum is not finite.
    """
    total = _sum_of_squares(x)
    if not math.isfinite(total):
        check_finite(x, name)
    return total


def check_finite(x: Array, name: str = "x") -> None:
    """Raise InputError, naming the first place, if an entry of ``x`` is NaN or infinite."""
    xp = array_namespace(x)
    if is_torch(x) and x.device.type == "meta":
        raise InputError(f"{name} is on the meta device and has no values: materialise it first.")
    bad = ~xp.isfinite(x)
    count = int(xp.sum(astype(bad, xp.int64)))
    if count == 0:
        return
    flat = int(xp.argmax(astype(xp.reshape(bad, (-1,)), xp.int8)))
    place = tuple(int(i) for i in np.unravel_index(flat, tuple(x.shape)))
    values = "value" if count == 1 else "values"
    raise InputError(
        f"{name} has {count} non-finite {values}, first at {place}: replace NaN and infinity before the call."
    )


def balanced_scale(x: Array, name: str = "x", first_pass: Callable[[Array], float] | None = None) -> Scaled:
    """Return ``x`` in the range where squares neither overflow nor underflow.

    Parameters
    ----------
    x : array
        Floating point; half precision belongs in float32 first.
    name : str
        What to call it in an error.
    first_pass : callable, optional
        Returns the squared norm of ``x``, NaN or infinite where an entry is: for an algorithm whose own first
        pass shows it. Default: :func:`squared_norm`.

    Returns
    -------
    Scaled
        ``array``, ``exponent`` and ``squared_norm`` of ``array``, with ``x = 2**exponent * array``.
        ``array is x`` and ``exponent == 0`` whenever ``x`` lies in the safe range, so that
        nothing is copied; also for ``x = 0``.

    Raises
    ------
    InputError
        If an entry is NaN or infinite.

    Notes
    -----
    A power of two only moves exponents, so that an algorithm without absolute thresholds obeys
    ``f(2**k * x) == 2**k * f(x)`` bit for bit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([3e200, 4e200])
    >>> y, exponent, squared_norm = balanced_scale(x)
    >>> bool(np.all(np.ldexp(y, exponent) == x)), bool(0.1 < squared_norm < 10)
    (True, True)
    """
    measure = first_pass or _sum_of_squares
    norm2 = measure(x)
    if not math.isfinite(norm2):
        check_finite(x, name)
    safe = safe_exponent(x)
    if 2.0**-safe < norm2 < 2.0**safe:
        return Scaled(x, 0, norm2)
    xp = array_namespace(x)
    largest = float(xp.max(xp.abs(x))) if total_size(x.shape) else 0.0
    if largest == 0.0:
        return Scaled(x, 0, 0.0)
    # abs of a complex entry can itself overflow although both its parts are finite.
    exponent = math.frexp(largest)[1] if math.isfinite(largest) else 1024
    scaled = scale_by_power_of_two(x, -exponent)
    return Scaled(scaled, exponent, measure(scaled))


def safe_exponent(x: Array) -> int:
    """Return the largest ``|log2|`` of a squared norm with which an array of this dtype need not be scaled."""
    return _SAFE_EXPONENT.get(dtype_name(x), _SAFE_HALF_EXPONENT)


def scale_by_power_of_two(x: Array, exponent: int) -> Array:
    """Return ``2**exponent * x``, exact unless the result itself leaves the range of the dtype."""
    if exponent == 0:
        return x
    # 2.0**exponent may not fit the dtype even where the product does: go in steps that fit.
    step = 100 if dtype_name(x) in ("float32", "complex64", "bfloat16") else 1000
    step = 12 if dtype_name(x) == "float16" else step
    y = x
    left = exponent
    while left:
        part = max(-step, min(step, left))
        y = y * 2.0**part
        left -= part
    return y


def _sum_of_squares(x: Array) -> float:
    if total_size(x.shape) == 0:
        return 0.0
    if is_torch(x):
        return _torch_sum_of_squares(x)
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for panel in _panels(_by_descending_stride(x), _panel_size(x)):
            total += _panel_sum(panel)
    return total


def _panel_sum(panel: Array) -> float:
    xp = array_namespace(panel)
    if is_complex(panel):
        return _panel_sum(xp.real(panel)) + _panel_sum(xp.imag(panel))
    flat = xp.reshape(astype(panel, xp.float64), (-1,))
    return float(xp.vecdot(flat, flat))


def _torch_sum_of_squares(x: Array) -> float:
    if x.device.type == "meta":
        raise InputError("a tensor on the meta device has no values: materialise it first.")
    x = x.detach()
    xp = array_namespace(x)
    sums = []
    for panel in _panels(_by_descending_stride(x), _panel_size(x)):
        wide = astype(panel, xp.complex128 if is_complex(panel) else xp.float64)
        flat = xp.reshape(wide, (-1,))
        sums.append(xp.real(xp.linalg.vecdot(flat, flat)))
    # Only here does the host wait for the device.
    return float(xp.sum(xp.stack(sums)))


def _panel_size(x: Array) -> int:
    on_host = device_kind(x) == "cpu"
    return _CACHE_PANEL if on_host and dtype_name(x) not in ("float64", "complex128") else _PANEL


def _by_descending_stride(x: Array) -> Array:
    """Return a view in the order of memory: flat where ``x`` is one block, whatever its axes' order."""
    if isinstance(x, np.ndarray):
        if not x.flags.c_contiguous:
            x = x.transpose(sorted(range(x.ndim), key=lambda k: -abs(x.strides[k])))
        return x.reshape(-1) if x.flags.c_contiguous else x
    if is_torch(x):
        if not x.is_contiguous():
            x = x.permute(sorted(range(x.ndim), key=lambda k: -x.stride(k)))
        return x.reshape(-1) if x.is_contiguous() else x
    return x


def _panels(x: Array, size: int) -> Iterator[Array]:
    """Cut ``x`` along its leading axes into views of at most about ``size`` elements."""
    total = total_size(x.shape)
    if total <= size:
        yield x
        return
    length = x.shape[0]
    step = size * length // total
    for start in range(0, length, max(step, 1)):
        if step == 0:
            yield from _panels(x[start, ...], size)
        else:
            yield x[start : min(start + step, length), ...]
