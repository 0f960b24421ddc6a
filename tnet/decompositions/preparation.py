"""The way in and out that all decompositions share: checks, precision, range."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tnet.arrays import (
    Array,
    array_namespace,
    as_array,
    astype,
    balanced_scale,
    check_finite,
    dtype_name,
    is_complex,
    is_torch,
    require_floating,
    scale_by_power_of_two,
    to_compute,
    total_size,
)
from tnet.errors import InputError

__all__ = ["Prepared", "checked_input", "given_parts", "in_c_order", "part_exponent_limit", "prepare", "rescaled"]

# |log2| of the entries that a part may hold: products of a few such parts stay in range.
_PART_EXPONENT = {"float16": 10, "bfloat16": 100, "float32": 100, "complex64": 100}
_WIDE_PART_EXPONENT = 900


class Prepared(NamedTuple):
    """An input ready to compute with: ``x = 2**exponent * array``, rounded to ``dtype``."""

    array: Array
    exponent: int
    squared_norm: float
    dtype: Any
    is_half: bool


def prepare(x: object, name: str = "x", first_pass: Callable[[Array], float] | None = None) -> Prepared:
    """Check an input and bring it into the precision and range to compute in.

    Parameters
    ----------
    x : array_like
        Real or complex floating point, of order at least 1, not empty.
    name : str
        What to call it in an error.
    first_pass : callable, optional
        Returns the squared norm, as in :func:`tnet.arrays.balanced_scale`.

    Returns
    -------
    Prepared
        ``array`` is ``x`` itself, uncopied, where neither precision nor range demands otherwise. A torch
        tensor that records gradients is detached: decompositions are not differentiable.

    Raises
    ------
    BackendError
        Integers, and all that holds no numbers.
    InputError
        Order 0, an empty mode, a non-finite entry.
    """
    array = checked_input(x, name)
    scaled = balanced_scale(to_compute(array), name, first_pass)
    return Prepared(
        scaled.array,
        scaled.exponent,
        scaled.squared_norm,
        array.dtype,
        dtype_name(array) in ("float16", "bfloat16"),
    )


def checked_input(x: object, name: str = "x") -> Array:
    """Return an input as an array, detached; nothing but its shape and dtype is read. Raises as :func:`prepare`."""
    array = as_array(x, name)
    require_floating(array, name)
    if array.ndim == 0:
        raise InputError(f"{name} has no modes (a single number): give an array of order 1 or more.")
    if total_size(array.shape) == 0:
        raise InputError(f"{name} of shape {tuple(array.shape)} is empty: every mode needs an entry.")
    return array.detach() if is_torch(array) else array


def in_c_order(prepared: Prepared) -> Prepared:
    """Return the input with its entries in C order, copied unless they are: for algorithms that flatten it often."""
    x = prepared.array
    xp = array_namespace(x)
    return prepared._replace(array=xp.reshape(xp.reshape(x, (-1,)), tuple(x.shape)))


def given_parts(x: Array, parts: Sequence[Array], name: str) -> list[Array]:
    """Check the parts of a start that was given; return them detached, and floating point where they were whole.

    Raises
    ------
    BackendError
        Another library or device than that of the input.
    InputError
        A non-finite entry; complex parts for a real input.
    """
    xp = array_namespace(x, *parts)
    for k, part in enumerate(parts):
        check_finite(part, f"array {k} of {name}")
        if is_complex(part) and not is_complex(x):
            raise InputError(f"array {k} of {name} is complex and x is real: give a real start, or a complex x.")
    detached = [part.detach() if is_torch(part) else part for part in parts]
    return [astype(part, x.dtype) if xp.isdtype(part.dtype, "integral") else part for part in detached]


def rescaled(parts: Sequence[Array], carrier: int, prepared: Prepared) -> list[Array]:
    """Undo the scaling of :func:`prepare` on the parts of a multilinear format.

    The part ``carrier``, which has the norm of the tensor, takes the whole factor, unless it would leave
    the range of the dtype: the norm of a tensor can overflow although its entries do not. Then all parts
    share it.

    Parameters
    ----------
    parts : sequence of array
        Scaling any one of them scales the tensor.
    carrier : int
    prepared : Prepared

    Returns
    -------
    list of array
        In the dtype of the input.
    """
    parts = list(parts)
    limit = part_exponent_limit(prepared.dtype)
    exponent = prepared.exponent + _exponent_of(parts[carrier])
    if abs(exponent) <= limit or len(parts) == 1:
        parts[carrier] = scale_by_power_of_two(parts[carrier], prepared.exponent)
    else:
        # First take the norm out of the carrier, then deal the whole out evenly.
        parts[carrier] = scale_by_power_of_two(parts[carrier], prepared.exponent - exponent)
        share, rest = divmod(exponent, len(parts))
        parts = [scale_by_power_of_two(part, share + (k < rest)) for k, part in enumerate(parts)]
    return [astype(part, prepared.dtype) for part in parts]


def part_exponent_limit(dtype: Any) -> int:
    """Return the largest ``|log2|`` of entries for which products of a few parts stay in range."""
    return _PART_EXPONENT.get(_bare(dtype), _WIDE_PART_EXPONENT)


def _exponent_of(part: Array) -> int:
    """Return e with ``max |part| < 2**e``, to a factor of two; 0 for zeros."""
    largest = float(array_namespace(part).max(array_namespace(part).abs(part)))
    return math.frexp(largest)[1] if largest > 0 else 0


def _bare(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]
