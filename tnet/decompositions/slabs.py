"""A large array read slab by slab, within a limit on what is allocated beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    compute_dtype,
    device_kind,
    is_complex,
    itemsize,
    safe_exponent,
    scale_by_power_of_two,
    squared_norm,
    total_size,
)
from tnet.contraction.memory import format_bytes
from tnet.decompositions.preparation import Prepared, checked_input
from tnet.errors import InputError, MemoryLimitError

__all__ = [
    "WHOLE_COPIES",
    "Allowance",
    "Slab",
    "SlabbedArray",
    "as_slabbed",
    "gram_bytes",
    "prepare_slabs",
    "residual_error",
    "widened",
]

# Of an array under QR, with all that becomes of it.
WHOLE_COPIES = 6
_GRAM_COPIES = 5

# Headers of arrays, tuples, generators: what Python holds beside the numbers.
_OWN_OBJECTS = 3 << 14


class Slab(NamedTuple):
    """A part of an array, and where it stands: one slice for each axis."""

    array: Array
    place: tuple[slice, ...]


@dataclass(frozen=True)
class Allowance:
    """Bytes that may be allocated, and those of them that are held already."""

    limit: int
    held: int = _OWN_OBJECTS

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
        self.itemsize = itemsize(self.like)

    @property
    def like(self) -> Array:
        """An array without entries, of the library, device and dtype of the slabs."""
        return astype(self.x[tuple(slice(0, 0) for _ in self.shape)], self.dtype)

    def slabs(self, axes: Sequence[int], copies: float, allowance: Allowance, what: str) -> Iterator[Slab]:
        """Yield parts that fit: views, or copies where precision or range demand it.

        Parameters
        ----------
        axes : sequence of int
            The axes that may be cut. The first of them is cut, down to single indices if need be, before the next
            is: in C order the parts are then as contiguous as they can be.
        copies : float
            How many numbers are allocated for each number of a part, reading it not counted.
        allowance : Allowance
        what : str
            What the parts are for, in an error.
        """
        steps = self._steps(axes, copies, allowance, what)
        ranges = [range(0, n, step) for n, step in zip(self.shape, steps, strict=True)]
        for starts in itertools.product(*ranges):
            place = tuple(
                slice(start, min(start + step, n)) for start, step, n in zip(starts, steps, self.shape, strict=True)
            )
            part = astype(self.x[place], self.dtype)
            yield Slab(scale_by_power_of_two(part, -self.exponent), place)

    def _steps(self, axes: Sequence[int], copies: float, allowance: Allowance, what: str) -> list[int]:
        """Return how many indices of each axis a part has."""
        # A part and its scaled copy, counted even where none is made: so that a power of two changes no step.
        each = (copies + 2) * self.itemsize
        steps = list(self.shape)
        allowance.require(math.ceil(total_size(self.shape) // total_size([self.shape[k] for k in axes]) * each), what)
        for axis in axes:
            if total_size(steps) * each <= allowance.left:
                break
            steps[axis] = 1
            steps[axis] = max(1, min(self.shape[axis], int(allowance.left // (total_size(steps) * each))))
        return steps


def as_slabbed(x: object) -> SlabbedArray:
    """Return a checked array, of which nothing but its shape and dtype is read.

    Raises
    ------
    BackendError
        Integers, and all that holds no numbers.
    InputError
        Order 0, an empty mode, a foreign byte order, the meta device.
    """
    if isinstance(x, np.ndarray) and not x.dtype.isnative:
        raise InputError("x is in the byte order of another machine, and would be copied whole: convert it first.")
    array = checked_input(x)
    if device_kind(array) == "meta":
        raise InputError("a tensor on the meta device has no values: materialise it first.")
    return SlabbedArray(array)


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
        The limit is less than a few numbers.
    """
    x = source.x
    norm2 = _squared_norm(source, allowance)
    is_half = source.dtype != x.dtype
    safe = safe_exponent(x)
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
    total = 0.0
    for slab in source.slabs(range(len(source.shape)), 4, allowance, "reading x"):
        try:
            total += squared_norm(slab.array)
        except InputError as error:
            raise InputError(
                f"x has non-finite values within x[{_spelt(slab.place)}]: replace NaN and infinity before the call."
            ) from error
    return total


def _largest(source: SlabbedArray, allowance: Allowance) -> float:
    xp = array_namespace(source.x)
    slabs = source.slabs(range(len(source.shape)), 2, allowance, "reading x")
    return max(float(xp.max(xp.abs(slab.array))) for slab in slabs)


def _spelt(place: Sequence[slice]) -> str:
    return ", ".join(f"{part.start}:{part.stop}" for part in place)


def residual_error(
    source: SlabbedArray, part: Callable[[tuple[slice, ...]], Array], norm2: float, allowance: Allowance
) -> float:
    """Return the relative error of a model from its residual.

    Parameters
    ----------
    source : SlabbedArray
    part : callable
        ``part(place)`` is the dense model there.
    norm2 : float
        Squared norm of the array.
    allowance : Allowance
    """
    slabs = source.slabs(range(len(source.shape)), 6, allowance, "the residual of x")
    total = sum(squared_norm(slab.array - part(slab.place)) for slab in slabs)
    return math.sqrt(total / norm2) if norm2 > 0 else 0.0


def gram_bytes(n: int, source: SlabbedArray) -> int:
    """Bytes of a Gram matrix of order n, the sum it is added to, its check, eigenvectors and LAPACK's workspace."""
    return _GRAM_COPIES * n * n * (16 if is_complex(source.like) else 8)
