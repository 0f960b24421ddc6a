"""The way in and out that the batched decompositions share: checks, precision and range, item by item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    as_array,
    astype,
    device_kind,
    dtype_name,
    from_numpy_like,
    is_complex,
    is_torch,
    real_part,
    require_floating,
    safe_exponent,
    to_compute,
    to_numpy,
    total_size,
)
from tnet.batch.tensors import TensorBatch
from tnet.decompositions.preparation import part_exponent_limit
from tnet.errors import InputError, ShapeError

__all__ = ["PreparedBatch", "exact_errors", "item_panels", "prepare_batch", "rescaled_batch", "scaled_items"]

# Elements worked on at a time where something as large as the input would be made: 4 MiB of float64 are still
# near the core, and the calls on smaller panels cost more than their arithmetic; a device is kept busy by larger
# pieces.
_HOST_PANEL = 1 << 19
_DEVICE_PANEL = 1 << 26

_SHOWN_ITEMS = 6


class PreparedBatch(NamedTuple):
    """A batch ready to compute with: ``x[b] = 2**exponents[b] * array[b]``, rounded to ``dtype``.

    ``squared_norms`` (B,) are those of the items of ``array``, in float64 on the host.
    """

    array: Array
    exponents: np.ndarray
    squared_norms: np.ndarray
    dtype: Any
    is_half: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an item."""
        return tuple(int(n) for n in self.array.shape[1:])


def prepare_batch(x: object) -> PreparedBatch:
    """Check a batch and bring every item into the precision and range to compute in.

    Parameters
    ----------
    x : array_like, shape (B, n_1, ..., n_d)
        Real or complex floating point.

    Returns
    -------
    PreparedBatch
        ``array`` is ``x`` itself, uncopied, where neither precision nor range demands otherwise. A torch tensor
        that records gradients is detached.

    Raises
    ------
    BackendError
        Integers, and all that holds no numbers.
    InputError
        No items, an empty mode, a non-finite entry (the message names the items).
    ShapeError
        Fewer than two axes.
    """
    array = as_array(x, "x")
    require_floating(array, "x")
    if array.ndim < 2:
        raise ShapeError(
            f"x of shape {tuple(array.shape)}: give a batch of shape (number of items, n_1, ..., n_d), d >= 1."
        )
    if total_size(array.shape) == 0:
        raise InputError(f"x of shape {tuple(array.shape)} is empty: give at least one item, every mode an entry.")
    if is_torch(array):
        if array.device.type == "meta":
            raise InputError("x is on the meta device and has no values: materialise it first.")
        array = array.detach()
    dtype, is_half = array.dtype, dtype_name(array) in ("float16", "bfloat16")
    array = to_compute(array)
    norms = to_numpy(squared_norms(array))
    exponents = np.zeros(len(norms), dtype=np.int64)
    safe = 2.0 ** safe_exponent(array)
    outside = ~((norms > 1 / safe) & (norms < safe))
    if np.any(outside):
        if not np.all(np.isfinite(norms)):
            _refuse_non_finite(array)
        exponents = np.where(outside, _exponents_of(array), 0)
        array = scaled_items(array, -exponents)
        norms = to_numpy(squared_norms(array))
    return PreparedBatch(array, exponents, norms, dtype, is_half)


def rescaled_batch(parts: Sequence[Array], carrier: int, prepared: PreparedBatch) -> list[Array]:
    """Undo the scaling of :func:`prepare_batch` on the parts of a multilinear format.

    The part ``carrier`` takes the factor of its item; where that would leave the range of the dtype, all parts
    share the norm.

    Parameters
    ----------
    parts : sequence of array, shapes (B, ...)
    carrier : int
        The part that has the norm of the item; the others are of norm about 1.
    prepared : PreparedBatch

    Returns
    -------
    list of array
        In the dtype of the input.
    """
    parts = list(parts)
    exponents = prepared.exponents
    if np.any(exponents) or prepared.is_half:
        own = _exponents_of(parts[carrier])
        total = exponents + own
        shared = (np.abs(total) > part_exponent_limit(prepared.dtype)) & (len(parts) > 1)
        parts[carrier] = scaled_items(parts[carrier], np.where(shared, -own, exponents))
        share, rest = np.divmod(np.where(shared, total, 0), len(parts))
        parts = [scaled_items(part, share + (k < rest)) for k, part in enumerate(parts)]
    return [astype(part, prepared.dtype) for part in parts]


def exact_errors(x: Array, model: TensorBatch, norms: np.ndarray, exponents: np.ndarray | None = None) -> Array:
    """Return the relative errors (B,) from the residuals, in float64 where ``x`` lies.

    Parameters
    ----------
    x : array, shape (B, n_1, ..., n_d)
    model : TensorBatch
        Of the same shape; half precision is widened.
    norms : numpy.ndarray, shape (B,)
        Squared norms of the items of ``x``. Zero items are right by definition.
    exponents : numpy.ndarray, shape (B,), optional
        ``model`` stands for ``2**exponents`` times the scale of ``x``.

    Notes
    -----
    Multiplies ``model`` out once, in panels of items.
    """
    xp = array_namespace(x)
    residuals = []
    for panel in item_panels(x):
        part = model[panel].map_arrays(lambda array: astype(array, x.dtype))
        if exponents is not None:
            first, *others = part.arrays
            part = part.with_arrays((scaled_items(first, -exponents[panel]), *others))
        residuals.append(squared_norms(x[panel, ...] - part.to_dense()))
    inverse = from_numpy_like(1 / np.where(norms > 0, norms, np.inf), x, xp.float64)
    return xp.sqrt(xp.concat(residuals) * inverse)


def squared_norms(x: Array) -> Array:
    """Return the squared norm of each item (B,), accumulated in float64, on the device of ``x``."""
    xp = array_namespace(x)
    wide = xp.complex128 if is_complex(x) else xp.float64
    sums = []
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for panel in item_panels(x):
            part = x[panel, ...]
            flat = astype(xp.reshape(part, (part.shape[0], -1)), wide)
            total = xp.linalg.vecdot(flat, flat)
            sums.append(real_part(total))
    return xp.concat(sums)


def item_panels(x: Array, per_item: int | None = None) -> Iterator[slice]:
    """Cut the items of ``x`` into runs of so many that a panel stays in cache.

    Parameters
    ----------
    x : array, shape (B, ...)
    per_item : int, optional
        Elements that the work on one item makes; default: those of the item.
    """
    B = int(x.shape[0])
    size = total_size(x.shape) // B if per_item is None else per_item
    step = max(1, (_HOST_PANEL if device_kind(x) == "cpu" else _DEVICE_PANEL) // max(1, size))
    for start in range(0, B, step):
        yield slice(start, min(start + step, B))


def scaled_items(x: Array, exponents: np.ndarray) -> Array:
    """Return ``2**exponents[b] * x[b]``, exact unless the result leaves the range of the dtype."""
    step = 1000 if dtype_name(x) in ("float64", "complex128") else 100
    left = np.asarray(exponents)
    while np.any(left):
        part = np.clip(left, -step, step)
        factor = from_numpy_like(2.0**part, x)
        x = x * array_namespace(x).reshape(factor, (-1, *(1,) * (x.ndim - 1)))
        left = left - part
    return x


def _exponents_of(x: Array) -> np.ndarray:
    """Return e (B,) with ``max |x[b]| < 2**e``, to a factor of two; 0 for zero items."""
    xp = array_namespace(x)
    with np.errstate(over="ignore"):
        largest = xp.max(xp.reshape(xp.abs(x), (x.shape[0], -1)), axis=1)
    host = to_numpy(largest).astype(np.float64)
    # abs of a complex entry can itself overflow although both its parts are finite.
    exponents = np.where(np.isfinite(host), np.frexp(np.where(np.isfinite(host), host, 1.0))[1], 1024)
    return np.where(host > 0, exponents, 0).astype(np.int64)


def _refuse_non_finite(x: Array) -> None:
    """Raise InputError naming the items that hold NaN or infinity, if any."""
    xp = array_namespace(x)
    finite = [
        xp.all(xp.isfinite(xp.reshape(x[panel, ...], (-1, total_size(x.shape[1:])))), axis=1)
        for panel in item_panels(x)
    ]
    bad = np.flatnonzero(~to_numpy(xp.concat(finite)))
    if len(bad):
        shown = ", ".join(map(str, bad[:_SHOWN_ITEMS].tolist())) + (" ..." if len(bad) > _SHOWN_ITEMS else "")
        items = f"item {shown}" if len(bad) == 1 else f"{len(bad)} items ({shown})"
        raise InputError(f"x has non-finite values in {items}: replace NaN and infinity before the call.")
