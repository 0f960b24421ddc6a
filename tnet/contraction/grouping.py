"""Slices grouped into tasks: a task is a plan of its own, for a part of every operand."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.planning import result_indices
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
    between the tasks (coarse) and the slices of one task (fine) by prime factors: first the summed indices go
    into the task, so that its partial result stays small. A task of half precision takes and returns its
    computing precision, so that sums of many partial results round once.
    """
    kept = frozenset(plan.spec.output)
    # Sorted by index as well: the order of the tasks is part of the result's bits.
    splits = sorted(plan.splits, key=lambda split: (split[0] not in kept, split[0]))
    room = _SECONDS_A_TASK / max(nominal_seconds(plan), 1e-9)
    outer: dict[int, int] = dict(splits)
    fine: dict[int, int] = {}
    for index, parts in reversed(splits):
        fine[index] = _divisor_within(parts, room)
        outer[index] = parts // fine[index]
        room /= fine[index]
    coarse = tuple((index, parts) for index, parts in outer.items() if parts > 1)
    spec = dataclasses.replace(plan.spec, sizes=sliced_sizes(plan.spec, coarse))
    inner = tuple(sorted((index, parts) for index, parts in fine.items() if parts > 1))
    compute = plan.dtypes.compute
    if plan.dtypes.result == compute:
        return SliceTasks(dataclasses.replace(plan, spec=spec, splits=inner), coarse)
    widened = dtype_plan([compute] * len(spec.inputs))
    task = dataclasses.replace(plan, spec=spec, splits=inner, dtypes=widened, memory_limit=None)
    return SliceTasks(task, coarse)


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


def nominal_seconds(plan: ContractionPlan) -> float:
    """Return the seconds that one slice would take on a nominal thread, the same on every host."""
    spec = plan.spec
    sizes = sliced_sizes(spec, plan.splits)
    n = len(spec.inputs)
    results = result_indices(spec, plan.pairs)[n:]
    # A result is written and read, and often copied between.
    moved = 3 * plan.dtypes.compute_itemsize * sum(size_of(indices, sizes) for indices in results)
    rate = _NOMINAL_MACS.get(plan.dtypes.compute, _NOMINAL_MACS_OF_INTEGERS)
    return plan.macs / plan.n_slices / rate + moved / _NOMINAL_BYTES + len(plan.pairs) * _NOMINAL_STEP


def _divisor_within(parts: int, room: float) -> int:
    """Return the largest divisor of ``parts`` that is at most ``room``; 1 if none is."""
    best = 1
    for low in range(1, math.isqrt(parts) + 1):
        if parts % low == 0:
            best = max([best, *(d for d in (low, parts // low) if d <= room)])
    return best
