"""Slices grouped into tasks: a task is a plan of its own, for a part of every operand."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.pairs import result_indices
from tnet.contraction.slicing import Split, sliced_sizes
from tnet.contraction.spec import ContractionSpec, size_of

if TYPE_CHECKING:
    from tnet.contraction.plan import ContractionPlan

__all__ = ["SliceTasks", "group_slices", "keys_of_task", "nominal_seconds"]

# What one thread of a server of these years does. Constants, not the rates of this host: the grouping fixes the
# order of the sums, and so the last bits of the result, which must be the same on every host and in every run.
_NOMINAL_MACS = {"float32": 2e10, "float64": 1e10, "complex64": 5e9, "complex128": 2.5e9}
_NOMINAL_MACS_OF_INTEGERS = 5e8
_NOMINAL_BYTES = 2e9
_NOMINAL_STEP = 5e-6

# At most this for several slices together, so that hosts half or twice as fast still see 0.2-2 s.
_SECONDS_A_TASK = 1.0
_LEAST_SHARE_OF_SLICES = 4.0


class SliceTasks(NamedTuple):
    """A sliced contraction as tasks whose results are placed and added."""

    plan: ContractionPlan
    """Of one task: the slices that are run together are still cut there."""

    outer: tuple[Split, ...]
    """Indices that are cut between tasks, and their numbers of parts; those of the output first."""

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return math.prod(parts for _, parts in self.outer)


def group_slices(plan: ContractionPlan) -> SliceTasks:
    """Group the slices of a plan into tasks of 0.2-2 s.

    Parameters
    ----------
    plan : ContractionPlan

    Returns
    -------
    SliceTasks

    Notes
    -----
    Depends on the plan alone, never on the host or the number of workers. The parts of an index are divided
    between the tasks (coarse) and the slices of one task (fine): first the summed indices go into the task, so
    that its partial result stays small. What no slice changes is computed once a task, so a task holds at least
    the slices that take four times as long, even where that is more than 2 s.

    Tasks take operands in C order. A task of half precision takes and returns its computing precision, so that
    sums of many partial results round once.
    """
    kept = frozenset(plan.spec.output)
    # Sorted by index as well: the order of the tasks is part of the result's bits.
    splits = sorted(plan.splits, key=lambda split: (split[0] not in kept, split[0]))
    once, each = nominal_seconds(plan)
    room = max(_SECONDS_A_TASK - once, _LEAST_SHARE_OF_SLICES * once) / max(each, 1e-9)
    outer: dict[int, int] = dict(splits)
    fine: dict[int, int] = {}
    for index, parts in reversed(splits):
        fine[index] = _divisor_within(parts, room)
        outer[index] = parts // fine[index]
        room /= fine[index]
    coarse = tuple((index, parts) for index, parts in outer.items() if parts > 1)
    inner = tuple(sorted((index, parts) for index, parts in fine.items() if parts > 1))
    dtypes = plan.dtypes
    if dtypes.result != dtypes.compute:
        dtypes = dtype_plan([dtypes.compute] * len(plan.spec.inputs))
    task = dataclasses.replace(
        plan,
        spec=dataclasses.replace(plan.spec, sizes=sliced_sizes(plan.spec, coarse)),
        splits=inner,
        dtypes=dtypes,
        layouts=None,
    )
    return SliceTasks(_within_memory(plan, task), coarse)


def _within_memory(plan: ContractionPlan, task: ContractionPlan) -> ContractionPlan:
    """Return the task with what is left of the limit beside whole operands and result."""
    if plan.memory_limit is None:
        return task
    beside = sum(map(math.prod, plan.spec.input_shapes)) - sum(map(math.prod, task.spec.input_shapes))
    beside = (beside + math.prod(plan.output_shape)) * plan.dtypes.compute_itemsize
    # With no room at all nothing is kept from slice to slice, which takes the least.
    least = dataclasses.replace(task, memory_limit=1).peak_bytes
    return dataclasses.replace(task, memory_limit=max(plan.memory_limit - beside, least))


def keys_of_task(
    spec: ContractionSpec, outer: tuple[Split, ...], number: int
) -> tuple[tuple[tuple[slice, ...] | None, ...], tuple[slice, ...]]:
    """Return what task ``number`` takes of each operand, None for all of it, and where its result belongs."""
    pieces: dict[int, slice] = {}
    for index, parts in reversed(outer):  # the last index runs fastest
        number, part = divmod(number, parts)
        width = spec.sizes[index] // parts
        pieces[index] = slice(part * width, (part + 1) * width)
    whole = slice(None)
    inputs = tuple(
        tuple(pieces.get(i, whole) for i in labels) if any(i in pieces for i in labels) else None
        for labels in spec.inputs
    )
    return inputs, tuple(pieces.get(i, whole) for i in spec.output)


def nominal_seconds(plan: ContractionPlan) -> tuple[float, float]:
    """Return what a nominal thread takes for what no slice changes, and for the rest of one slice."""
    spec = plan.spec
    sizes = sliced_sizes(spec, plan.splits)
    sets = result_indices(spec, plan.pairs)
    rate = _NOMINAL_MACS.get(plan.dtypes.compute, _NOMINAL_MACS_OF_INTEGERS)
    # A result is written and read, and often copied between.
    seconds_an_element = 3 * plan.dtypes.compute_itemsize / _NOMINAL_BYTES
    cut = frozenset(index for index, _ in plan.splits)
    changes = [not cut.isdisjoint(indices) for indices in spec.inputs]
    seconds = [0.0, 0.0]
    for k, (a, b) in enumerate(plan.pairs):
        changes.append(changes[a] or changes[b])
        macs = size_of(tuple({*sets[a], *sets[b]}), sizes)
        result = size_of(sets[len(spec.inputs) + k], sizes)
        seconds[changes[-1]] += macs / rate + result * seconds_an_element + _NOMINAL_STEP
    return seconds[0], seconds[1]


def _divisor_within(parts: int, room: float) -> int:
    """Return the largest divisor of ``parts`` that is at most ``room``; 1 if none is."""
    best = 1
    for low in range(1, math.isqrt(parts) + 1):
        if parts % low == 0:
            best = max([best, *(d for d in (low, parts // low) if d <= room)])
    return best
