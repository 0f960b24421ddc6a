"""Bytes: what a program holds at its peak, what the device has free, and how people write them."""

from __future__ import annotations

import math
import numbers
import os
import re
import sys
from decimal import Decimal
from typing import Any, NamedTuple

from tnet.arrays import Array, device_kind, library_name, total_size
from tnet.contraction.dtypes import DtypePlan
from tnet.contraction.lowering import Operand, Program, Run, Stack, Step
from tnet.contraction.spec import ContractionSpec
from tnet.errors import InputError

__all__ = ["Peak", "format_bytes", "free_bytes", "parse_bytes", "peak_memory"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


# NumPy's loops over strided or broadcast operands buffer so many elements of each.
_LOOP_BUFFER = 8192


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
    by permuting or converting, the buffers of NumPy's elementwise loops, and the result. Scratch of the matrix
    product itself is not counted.
    """
    walk = _Walk(spec, program, dtypes)
    n_output = math.prod(spec.output_shape)
    for step in program.once:
        walk.step(step)
    walk.carried = program.carried
    walk.fixed += n_output * dtypes.compute_itemsize if sliced else 0
    k = 0
    for stack in program.stacks:
        for step in program.steps[k : stack.first]:
            walk.step(step)
        k = stack.first + stack.n
        walk.stack(stack)
    for step in program.steps[k:]:
        walk.step(step)
    if program.single is not None:
        walk.held[0] = walk.take(program.single, 0)
        walk.note(0, 0)
    if sliced:
        buffers = 0 if _adds_in_order(spec, program) else 3
        walk.note(walk.buffered(buffers, math.prod(program.output_shape)), len(program.orders) - 1)
    if dtypes.result != dtypes.compute:
        held = sum(walk.held.values()) if sliced else 0
        walk.note(n_output * dtypes.result_itemsize - held, len(program.orders) - 1)
    return walk.peak


def _adds_in_order(spec: ContractionSpec, program: Program) -> bool:
    """Return whether the result of a slice and its place in the whole lie in memory alike."""
    pairs = list(zip(program.output_shape, spec.output_shape, strict=True))
    wide = [part != whole for part, whole in pairs if whole != 1]
    return program.final_permutation is None and not any(wide[1:])


class _Walk:
    """The bytes alive while a program runs."""

    def __init__(self, spec: ContractionSpec, program: Program, dtypes: DtypePlan) -> None:
        self._program = program
        self._dtypes = dtypes
        self._item = dtypes.compute_itemsize
        self._n_inputs = len(spec.inputs)
        self.fixed = sum(
            total_size(shape) * size for shape, size in zip(spec.input_shapes, dtypes.operand_itemsizes, strict=True)
        )
        self.held: dict[int, int] = {}  # bytes of live intermediates
        self.carried: frozenset[int] = frozenset()
        self.peak = Peak(self.fixed, tuple(range(self._n_inputs)))
        # A stack is held under its first result, until the last of its results is taken.
        self._first: dict[int, int] = {}
        self._waiting: dict[int, int] = {}

    def note(self, extra: int, *sources: int) -> None:
        """Compare what is alive now, and ``extra``, with the peak so far."""
        total = self.fixed + sum(self.held.values()) + extra
        if total > self.peak.n_bytes:
            self.peak = Peak(total, (*self.held, *sources))

    def step(self, step: Step) -> None:
        """Take both operands, make the result, free what is not needed any more."""
        left = self.take(step.left, 0)
        right = self.take(step.right, left)
        result = step.n_result * self._item
        scratch = 0 if step.is_product else self.buffered(2, step.n_result)
        scratch += step.kernel.extra_bytes if step.kernel is not None else 0
        self.note(left + right + result + scratch, step.left.source, step.right.source, step.node)
        self.held[step.node] = result

    def stack(self, stack: Stack) -> None:
        """Gather both operands or take them as they lie, make the results, keep them together."""
        steps = self._program.steps[stack.first : stack.first + stack.n]
        left = self._stacked([step.left for step in steps], stack.left, 0)
        right = self._stacked([step.right for step in steps], stack.right, left)
        n_result = stack.n * steps[0].n_result
        scratch = 0 if steps[0].is_product else self.buffered(2, n_result)
        sources = [node for step in steps for node in (step.left.source, step.right.source, step.node)]
        self.note(left + right + n_result * self._item + scratch, *sources)
        first = steps[0].node
        self._first |= {step.node: first for step in steps}
        self._waiting[first] = stack.n
        self.held[first] = n_result * self._item

    def _stacked(self, operands: list[Operand], run: Run | None, extra: int) -> int:
        """Return the bytes that belong to the operands of a stack alone, once they are one."""
        size = len(operands) * math.prod(operands[0].shape) * self._item
        sources = [operand.source for operand in operands]
        copies = (run is None) + (operands[0].copied is not None)
        self.note(extra + copies * size, *sources)
        released = sum(self._released(source) for source in sources)
        if run is None:
            return size  # the results that were gathered are gone
        return size * copies + released  # the stack they lie in is there until both operands are ready

    def _released(self, source: int) -> int:
        """Return the bytes that are free once ``source`` is gone, and cease to count them."""
        if source < self._n_inputs or source in self.carried:
            return 0
        first = self._first.get(source)
        if first is None:
            return self.held.pop(source)
        self._waiting[first] -= 1
        return 0 if self._waiting[first] else self.held.pop(first)

    def buffered(self, n_operands: int, n_elements: int) -> int:
        """Return the bytes that an elementwise loop of NumPy may buffer."""
        return n_operands * min(_LOOP_BUFFER, n_elements) * self._item

    def take(self, operand: Operand, extra: int) -> int:
        """Return the bytes that belong to the operand alone, once it is a matrix."""
        source = operand.source
        own = self._prepare(source, extra) if source < self._n_inputs else self._released(source)
        if operand.copied is not None:
            self.note(extra + own + operand.copied * self._item, source)
            own = operand.copied * self._item
        return own

    def _prepare(self, source: int, extra: int) -> int:
        leaf = self._program.leaves[source]
        if not leaf.summed:
            return 0  # a conversion is a copy of the operand
        converted = leaf.n_taken * self._item if self._dtypes.operands[source] != self._dtypes.compute else 0
        left = leaf.n_left * self._item
        plain = leaf.is_dense and not converted and len(leaf.summed) == 1
        scratch = 0 if plain else self.buffered(2, leaf.n_taken)
        self.note(extra + converted + left + scratch, source)
        return left


def parse_bytes(limit: int | str | None, name: str = "memory_limit") -> int | None:
    """Return a number of bytes given as an integer or as text such as ``"8GiB"`` or ``"500 MB"``."""
    if limit is None:
        return None
    given = limit
    if isinstance(limit, str):
        match = re.fullmatch(r"\s*(\d{1,30})(?:\.(\d{1,30}))?\s*([KMGT]I?|)B?\s*", limit.upper())
        if match:
            whole, part, unit = match[1], match[2] or "", match[3]
            limit = int(whole + part) * (_UNITS | _BINARY_UNITS)[unit] // 10 ** len(part)
    if isinstance(limit, (bool, str)) or not isinstance(limit, numbers.Integral) or int(limit) <= 0:
        raise InputError(f"{name}={given!r}: give bytes as a positive integer, a text such as '8GiB', or None.")
    return int(limit)


def format_bytes(n: int) -> str:
    """Return bytes for people: three digits and a binary unit."""
    value, unit = Decimal(int(n)), "B"  # beyond floating point too
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{n} B" if unit == "B" else f"{float(value) if value < 1e300 else value:.3g} {unit}"


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
