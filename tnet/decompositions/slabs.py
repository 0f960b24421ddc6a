"""A large array read slab by slab, within a limit on what is allocated beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    as_array,
    astype,
    compute_dtype,
    dtype_name,
    is_torch,
    require_floating,
    scale_by_power_of_two,
    squared_norm,
    total_size,
)
from tnet.contraction.memory import format_bytes
from tnet.decompositions.preparation import Prepared
from tnet.errors import InputError, MemoryLimitError

__all__ = ["Allowance", "Slab", "SlabbedArray", "as_slabbed", "prepare_slabs", "residual_error", "widened"]

# |log2| of squared norms for which nothing over- or underflows; the range of tnet.arrays.balanced_scale.
_SAFE_EXPONENT = {"float32": 56, "complex64": 56, "float64": 500, "complex128": 500}
_ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "complex64": 8, "float64": 8, "complex128": 16}


class Slab(NamedTuple):
    """The part ``start:stop`` of an array along one axis."""

    array: Array
    start: int
    stop: int


@dataclass(frozen=True)
class Allowance:
    """Bytes that may be allocated, and those of them that are held already."""

    limit: int
    held: int = 0

    @property
    def left(self) -> int:
        """Bytes that may still be allocated."""
        return self.limit - self.held

    def holding(self, n_bytes: int) -> Allowance:
        """Return the allowance while so many bytes more are held."""
        return replace(self, held=self.held + n_bytes)

    def require(self, n_bytes: int, what: str) -> None:
        """Raise MemoryLimitError unless so many bytes are left for ``what``."""
        if n_bytes > self.left:
            raise MemoryLimitError(
                f"memory_limit={format_bytes(self.limit)}: {what} needs {format_bytes(self.held + n_bytes)}; give at "
                "least that much, or smaller ranks."
            )


class SlabbedArray:
    """An array that is only ever read in slabs, in the precision and range to compute in.

    Parameters
    ----------
    x : array
        For example a memory-mapped file. Never copied whole.
    exponent : int
        Slabs are divided by ``2**exponent``.
    """

    def __init__(self, x: Array, exponent: int = 0) -> None:
        self.x = x
        self.exponent = exponent
        self.shape = tuple(int(n) for n in x.shape)
        self.dtype = compute_dtype(x)
        self._copies = self.dtype != x.dtype or exponent != 0
        self.itemsize = _ITEMSIZE[dtype_name(x)] if self.dtype == x.dtype else _ITEMSIZE["float32"]

    @property
    def like(self) -> Array:
        """An array without entries, of the library, device and dtype of the slabs."""
        return astype(self.x[tuple(slice(0, 0) for _ in self.shape)], self.dtype)

    def slabs(self, axis: int, step: int) -> Iterator[Slab]:
        """Yield views (copies where precision or range demand it) of ``step`` indices of ``axis``."""
        before = (slice(None),) * axis
        for start in range(0, self.shape[axis], step):
            stop = min(start + step, self.shape[axis])
            part = astype(self.x[(*before, slice(start, stop), ...)], self.dtype)
            yield Slab(scale_by_power_of_two(part, -self.exponent), start, stop)

    def cut(self, axes: Sequence[int], copies: float, allowance: Allowance, what: str) -> tuple[int, int]:
        """Return the axis to cut along, and how many of its indices a slab may have.

        Parameters
        ----------
        axes : sequence of int
            The axes that may be cut; the first whose slabs of one index fit is taken, for those of earlier axes lie
            closer together in memory.
        copies : float
            How many numbers are allocated for each number of a slab, reading it not counted.
        allowance : Allowance
        what : str
            What the slabs are for, in an error.
        """
        each = (copies + 2 * self._copies) * self.itemsize  # a slab and its scaled copy
        size = total_size(self.shape)
        smallest = min(axes, key=lambda axis: size // self.shape[axis])
        allowance.require(math.ceil(size // self.shape[smallest] * each), what)
        axis = next(axis for axis in axes if size // self.shape[axis] * each <= allowance.left)
        return axis, max(1, min(self.shape[axis], int(allowance.left // (size // self.shape[axis] * max(each, 1)))))


def as_slabbed(x: object) -> SlabbedArray:
    """Return a checked array, of which nothing but its shape and dtype is read.

    Raises
    ------
    BackendError
        Integers, and all that holds no numbers.
    InputError
        Order 0, an empty mode, a foreign byte order.
    """
    if isinstance(x, np.ndarray) and not x.dtype.isnative:
        raise InputError("x is in the byte order of another machine, and would be copied whole: convert it first.")
    array: Any = as_array(x, "x")
    require_floating(array, "x")
    if array.ndim == 0:
        raise InputError("x has no modes (a single number): give an array of order 1 or more.")
    if total_size(array.shape) == 0:
        raise InputError(f"x of shape {tuple(array.shape)} is empty: every mode needs an entry.")
    return SlabbedArray(array.detach() if is_torch(array) else array)


def prepare_slabs(source: SlabbedArray, allowance: Allowance) -> tuple[SlabbedArray, Prepared]:
    """Find the scale of an array in one pass, or three where squares over- or underflow.

    Returns
    -------
    SlabbedArray
        In the range to compute in.
    Prepared
        ``array`` is the array as it came, not scaled.

    Raises
    ------
    InputError
        A non-finite entry.
    MemoryLimitError
        The limit is less than one slice.
    """
    x = source.x
    norm2 = _squared_norm(source, allowance)
    is_half = source.dtype != x.dtype
    safe = _SAFE_EXPONENT["float32" if is_half else dtype_name(x)]
    if not 2.0**-safe < norm2 < 2.0**safe:
        largest = _largest(source, allowance)
        if largest > 0.0:
            # abs of a complex entry can itself overflow although both its parts are finite.
            source = SlabbedArray(x, math.frexp(largest)[1] if math.isfinite(largest) else 1024)
            norm2 = _squared_norm(source, allowance)
        else:
            norm2 = 0.0
    return source, Prepared(x, source.exponent, norm2, x.dtype, is_half)


def widened(parts: Sequence[Array], source: SlabbedArray) -> list[Array]:
    """Return the parts of a multilinear format in the precision and range of the slabs of the array it models."""
    first, *rest = (astype(part, source.dtype) for part in parts)
    return [scale_by_power_of_two(first, -source.exponent), *rest]


def _squared_norm(source: SlabbedArray, allowance: Allowance) -> float:
    axis, step = source.cut(range(len(source.shape)), 4, allowance, "reading one slice of x")
    total = 0.0
    for slab in source.slabs(axis, step):
        try:
            total += squared_norm(slab.array)
        except InputError as error:
            raise InputError(
                f"x has non-finite values at indices {slab.start} to {slab.stop - 1} of mode {axis}: "
                "replace NaN and infinity before the call."
            ) from error
    return total


def _largest(source: SlabbedArray, allowance: Allowance) -> float:
    xp = array_namespace(source.x)
    axis, step = source.cut(range(len(source.shape)), 2, allowance, "reading one slice of x")
    return max(float(xp.max(xp.abs(slab.array))) for slab in source.slabs(axis, step))


def residual_error(
    source: SlabbedArray, part: Callable[[int, int, int], Array], norm2: float, allowance: Allowance
) -> float:
    """Return the relative error of a model from its residual.

    Parameters
    ----------
    source : SlabbedArray
    part : callable
        ``part(axis, start, stop)`` is the dense model at those indices.
    norm2 : float
        Squared norm of the array.
    allowance : Allowance
    """
    axis, step = source.cut(range(len(source.shape)), 6, allowance, "the residual of one slice of x")
    total = sum(squared_norm(slab.array - part(axis, slab.start, slab.stop)) for slab in source.slabs(axis, step))
    return math.sqrt(total / norm2) if norm2 > 0 else 0.0
