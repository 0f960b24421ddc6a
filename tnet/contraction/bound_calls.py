"""A program bound to arrays of one kind: what a call is recognised by, and the look at the free memory before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tnet.arrays import Array, library_name, total_size
from tnet.arrays.operations import operations
from tnet.contraction.execute import Runner
from tnet.contraction.layout import Layout, memory_layout
from tnet.contraction.memory import format_bytes, free_bytes
from tnet.errors import MemoryLimitError

__all__ = ["BoundCall", "bound_call", "layouts_of", "require_free", "when_free"]

_ALWAYS_FITS = 64 * 2**20  # below this, asking the system for its free memory costs more than it saves
_LAYOUT_MATTERS = 1024  # elements below which a copy costs less than asking for the strides


class BoundCall(NamedTuple):
    """What the arrays of a call must look like, and what to do with them."""

    types: tuple[type, ...]
    dtypes: tuple[Any, ...]
    devices: list[Any] | None
    strides: list[tuple[int, Any]]
    stride_of: Callable[[Array], Any] | None
    run: Runner

    def lies_as(self, arrays: Sequence[Array]) -> bool:
        """Return whether the large operands have the strides they had when the program was bound."""
        stride_of = self.stride_of
        return stride_of is None or all(stride_of(arrays[k]) == strides for k, strides in self.strides)


def bound_call(arrays: Sequence[Array], run: Runner, *, all_strides: bool) -> BoundCall:
    """Return the call that ``run`` was bound for; with ``all_strides``, those of small operands matter too."""
    stride_of = operations(arrays[0]).stride_of
    strides: list[tuple[int, Any]] = []
    if stride_of is not None:
        least = 0 if all_strides else _LAYOUT_MATTERS
        strides = [(k, stride_of(x)) for k, x in enumerate(arrays) if total_size(x.shape) >= least]
    devices = None if isinstance(arrays[0], np.ndarray) else [x.device for x in arrays]
    return BoundCall(tuple(map(type, arrays)), tuple([x.dtype for x in arrays]), devices, strides, stride_of, run)


def layouts_of(arrays: Sequence[Array]) -> tuple[Layout, ...] | None:
    """Return how each array lies in memory; None when all lie in C order."""
    stride_of = operations(arrays[0]).stride_of
    if stride_of is None:
        return None
    is_torch_like = library_name(arrays[0]) == "torch"
    layouts = tuple(memory_layout(x.shape, stride_of(x), 1 if is_torch_like else x.itemsize) for x in arrays)
    plain = all(layout == tuple(range(x.ndim)) for layout, x in zip(layouts, arrays, strict=True))
    return None if plain else layouts


def require_free(x: Array, fresh: int, result: int) -> None:
    """Raise MemoryLimitError where the device of ``x`` lacks ``fresh`` bytes, ``result`` of them for the result."""
    if fresh < _ALWAYS_FITS:
        return
    free = free_bytes(x)
    if free is None or fresh <= free:
        return
    advice = "plan with memory_limit= to cut it into slices"
    if result > free:
        advice = f"the result alone takes {format_bytes(result)}, which no slicing makes smaller"
    raise MemoryLimitError(
        f"the contraction needs {format_bytes(fresh)} beside its operands, but {format_bytes(free)} are free; "
        f"{advice}."
    )


def when_free(run: Runner, fresh: int, result: int) -> Runner:
    """Return ``run`` behind :func:`require_free`, which is left out where the bytes are few."""
    if fresh < _ALWAYS_FITS:
        return run

    def checked(arrays: Sequence[Array]) -> Array:
        require_free(arrays[0], fresh, result)
        return run(arrays)

    return checked
