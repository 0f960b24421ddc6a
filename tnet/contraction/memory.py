"""Bytes: what a program holds at its peak, what the device has free, and how people write them."""

from __future__ import annotations

import math
import os
import re
import sys
from typing import Any, NamedTuple

from tnet.arrays import Array, device_kind, library_name, total_size
from tnet.contraction.dtypes import DtypePlan
from tnet.contraction.lowering import Leaf, Operand, Program
from tnet.contraction.spec import ContractionSpec
from tnet.errors import InputError

__all__ = ["Peak", "format_bytes", "free_bytes", "parse_bytes", "peak_memory"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class Peak(NamedTuple):
    """The largest number of bytes held at once, and the arrays that hold them."""

    n_bytes: int
    sources: tuple[int, ...]
    """Inputs and intermediates, in single-assignment numbering, alive at that moment."""


def peak_memory(spec: ContractionSpec, program: Program, dtypes: DtypePlan, *, sliced: bool) -> Peak:
    """Walk through a program and return its largest footprint.

    Parameters
    ----------
    spec : ContractionSpec
    program : Program
    dtypes : DtypePlan
    sliced : bool
        Whether slices are added into a result that is held beside them.

    Notes
    -----
    Counts the inputs (all of them, to the end: they are the caller's), live intermediates, copies made
    by permuting or converting, and the result. Inputs count as C-ordered; one in another memory layout
    may add one copy of itself. Scratch of the matrix product itself is not counted.
    """
    n_inputs = len(spec.inputs)
    item = dtypes.compute_itemsize
    n_output = math.prod(spec.output_shape)
    fixed = sum(
        total_size(shape) * size for shape, size in zip(spec.input_shapes, dtypes.operand_itemsizes, strict=True)
    )
    fixed += n_output * item if sliced else 0
    held: dict[int, int] = {}  # bytes of live intermediates
    best = Peak(fixed, tuple(range(n_inputs)))

    def note(extra: int, *sources: int) -> None:
        nonlocal best
        total = fixed + sum(held.values()) + extra
        if total > best.n_bytes:
            best = Peak(total, (*held, *sources))

    def prepare(leaf: Leaf, source: int, extra: int) -> int:
        converted = leaf.n_taken * item if dtypes.operands[source] != dtypes.compute else 0
        left = leaf.n_left * item if leaf.summed else converted
        note(extra + converted + (left if leaf.summed else 0), source)
        return left

    def take(operand: Operand, extra: int, partner: int) -> int:
        """Return the bytes that belong to the operand alone, once it is a matrix."""
        if operand.source < n_inputs:
            own = prepare(program.leaves[operand.source], operand.source, extra)
        else:
            own = held.pop(operand.source)
        if operand.copied:
            note(extra + own + operand.copied * item, operand.source, partner)
            own = operand.copied * item
        return own

    for k, step in enumerate(program.steps):
        result = step.n_result * item
        left = take(step.left, 0, step.right.source)
        right = take(step.right, left, step.left.source)
        note(left + right + result, step.left.source, step.right.source, n_inputs + k)
        held[n_inputs + k] = result
    if not program.steps:
        held[0] = max(prepare(program.leaves[0], 0, 0), 0)
        note(math.prod(program.output_shape) * item, 0)
    if dtypes.result != dtypes.compute:
        held = {} if sliced else held
        note(n_output * dtypes.result_itemsize, n_inputs + len(program.steps) - 1)
    return best


def parse_bytes(limit: int | str | None, name: str = "memory_limit") -> int | None:
    """Return a number of bytes given as an integer or as text such as ``"8GiB"`` or ``"500 MB"``."""
    if limit is None:
        return None
    if isinstance(limit, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?|)B?\s*", limit.upper())
        if match:
            factor = (_UNITS | _BINARY_UNITS)[match[2]]
            limit = int(float(match[1]) * factor)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit <= 0:
        raise InputError(f"{name}={limit!r}: give a positive number of bytes, a text such as '8GiB', or None.")
    return limit


def format_bytes(n: int) -> str:
    """Return bytes for people: three digits and a binary unit."""
    value, unit = float(n), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{n} B" if unit == "B" else f"{value:.3g} {unit}"


def free_bytes(x: Array) -> int | None:
    """Return the free memory of the device that holds ``x``; None where it cannot be told."""
    if device_kind(x) == "cpu":
        return _free_host_bytes()
    if device_kind(x) == "cuda":
        library: Any = sys.modules[library_name(x)]
        if library_name(x) == "torch":
            # The caching allocator's own unused blocks count as free: it hands them out again.
            reserve = library.cuda.memory_reserved(x.device) - library.cuda.memory_allocated(x.device)
            return int(library.cuda.mem_get_info(x.device)[0]) + int(reserve)
        return int(library.cuda.runtime.memGetInfo()[0])
    return None


def _free_host_bytes() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None
