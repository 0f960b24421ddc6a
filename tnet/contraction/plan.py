"""The plan of a contraction: order, slices, cost, and the call that runs it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tnet.arrays import Array, as_array, dtype_name
from tnet.contraction.dtypes import DtypePlan, dtype_plan
from tnet.contraction.execute import Runner, make_runner
from tnet.contraction.lowering import Program
from tnet.contraction.memory import format_bytes, free_bytes
from tnet.contraction.planning import Pair, linear_path, pairs_of_linear_path
from tnet.contraction.rates import host_rates
from tnet.contraction.slicing import Split, sliced_peak, sliced_program
from tnet.contraction.spec import ContractionSpec
from tnet.errors import FormatError, MemoryLimitError, ShapeError, TnetError
from tnet.io import atomic_write
from tnet.parallel import ExecutorLike

__all__ = ["ContractionPlan"]

_FORMAT_VERSION = 1
_LARGEST_FILE = 64 * 2**20
_STEPS_SHOWN = 4
_ALWAYS_FITS = 64 * 2**20  # below this, asking the system for its free memory costs more than it saves


@dataclass(frozen=True)
class ContractionPlan:
    """How to contract a network: made by :func:`tnet.plan`, run by calling it.

    Parameters
    ----------
    spec : ContractionSpec
        What is contracted.
    pairs : tuple of (int, int)
        Pairwise steps in single-assignment numbering: step k makes operand ``n_inputs + k``.
    splits : tuple of (int, int)
        Indices that are cut and the number of equal parts of each.
    dtypes : DtypePlan
        Dtypes that the bytes are counted for.
    memory_limit : int or None
        Bytes that the plan was made to respect.
    planner : str
        Who found the order.

    Notes
    -----
    Plans are values: immutable, hashable, equal when their contents are.
    """

    spec: ContractionSpec
    pairs: tuple[Pair, ...]
    splits: tuple[Split, ...]
    dtypes: DtypePlan
    memory_limit: int | None = None
    planner: str = "auto"
    _runners: dict[Any, Runner] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _program(self) -> Program:
        return sliced_program(self.spec, self.pairs, self.splits)

    @cached_property
    def _shapes(self) -> list[tuple[int, ...]]:
        return list(self.spec.input_shapes)

    @property
    def macs(self) -> int:
        """Multiply-adds of the pairwise steps, summed over slices."""
        return self.n_slices * sum(step.macs for step in self._program.steps)

    @property
    def flops(self) -> int:
        """Floating point operations: two a multiply-add."""
        return 2 * self.macs

    @cached_property
    def peak_bytes(self) -> int:
        """Bytes of inputs, live intermediates, copies and result at the worst moment.

        Inputs count as C-ordered; one in another memory layout may add one copy of itself. Scratch of
        BLAS is not counted.
        """
        return sliced_peak(self.spec, self.pairs, self.splits, self.dtypes).n_bytes

    @property
    def n_slices(self) -> int:
        """Number of slices, 1 when nothing is cut."""
        return math.prod(parts for _, parts in self.splits)

    @property
    def path(self) -> list[tuple[int, ...]]:
        """The order in opt_einsum's form: positions in a list from which operands are popped."""
        return linear_path(self.pairs, len(self.spec.inputs))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.spec.output_shape

    @property
    def predicted_seconds(self) -> float:
        """Seconds that a call takes on this host, by NumPy.

        Multiply-adds, copied bytes and steps, each at the rate of this host; the rates are measured once
        a process, at the first use, in about 20 ms. Narrow matrices run below the rate of the square ones
        measured, so a contraction made of them takes longer than predicted.
        """
        rates = host_rates(self.dtypes.compute)
        item = self.dtypes.compute_itemsize
        one = 0.0
        for step in self._program.steps:
            moved = (step.left.copied + step.right.copied + step.n_result) * item
            one += step.macs / rates.macs + moved / rates.bytes + rates.step
        return self.n_slices * one

    def __call__(self, *arrays: Array) -> Array:
        """Contract arrays of the planned shapes.

        Parameters
        ----------
        *arrays : array
            One for each operand, all of one library and device; dtypes other than the planned ones are
            accepted while their bytes stay within ``memory_limit``.

        Returns
        -------
        array
            In the library and on the device of the operands. Never a view of an operand, but possibly
            a transposed view of a fresh array.

        Raises
        ------
        ShapeError
            Shapes differ from the planned ones, or the number of arrays does.
        BackendError
            Arrays of several libraries or devices, or a dtype without numbers.
        MemoryLimitError
            The device has not enough free memory; raised before anything is allocated.

        Notes
        -----
        Every operation is one of the array library's, so torch records gradients through it.
        """
        try:
            key = tuple([(type(x), x.dtype, x.device) for x in arrays])
            shapes = [x.shape for x in arrays]
        except AttributeError:
            arrays = tuple(as_array(x, f"operand {k}") for k, x in enumerate(arrays))
            return self(*arrays)
        if shapes != self._shapes:
            self._refuse_shapes(shapes)
        runner = self._runners.get(key)
        if runner is None:
            runner = self._runners[key] = self._bind(arrays)
        if self._largest_fresh >= _ALWAYS_FITS:
            self._check_free_memory(arrays[0])
        return runner(arrays)

    def run(
        self,
        *arrays: Array,
        executor: ExecutorLike = None,
        checkpoint: str | os.PathLike[str] | None = None,
        callback: Callable[[int, int], object] | None = None,
    ) -> Array:
        """Contract as a call does, with the slices as tasks that workers share and a checkpoint keeps.

        Parameters
        ----------
        *arrays : array
            One for each operand, all of one library and device.
        executor : None, int, "processes", concurrent.futures.Executor or dask Client
            None runs in this process, an integer in that many worker processes, ``"processes"`` in one for each
            processor. Threads and processes of the caller's and a Dask cluster are used as they are.
        checkpoint : str, path or None
            A folder that the running sum is written to every few seconds, and when the run breaks off, also
            by Ctrl-C. The same line run again continues there; the folder is removed at the end.
        callback : callable or None
            ``callback(n_done, n_slices)`` as tasks end, in this process.

        Returns
        -------
        array
            As of a call. A sum of half precision is rounded once, at the end.

        Raises
        ------
        ShapeError, BackendError, MemoryLimitError
            As of a call; also for arrays that cannot go where the tasks run, such as those of a GPU to processes.
        InputError
            The checkpoint belongs to another plan or other operands, or ``executor`` is none of the above.
        FormatError
            The checkpoint is damaged.
        WorkerError
            A task failed, or killed its worker more often than it is tried again (twice).

        Notes
        -----
        The slices are grouped into tasks of about 0.2-2 s by the plan alone, and partial results are added in
        the order of the tasks: the bits of the result do not depend on executor, number of workers, lost
        workers or interruptions, as long as BLAS uses as many threads (processes run with one).

        Each worker holds up to :attr:`peak_bytes` and one partial result; this process the operands, the
        result, and the partial results that wait for an earlier task. Processes on this host share one copy of
        large operands.

        Examples
        --------
        >>> import numpy as np
        >>> import tnet
        >>> ring = [np.ones((64, 64))] * 4
        >>> plan = tnet.plan("ab,bc,cd,da->", *ring, memory_limit="160KiB")
        >>> plan.n_slices > 1, float(plan.run(*ring)) == 64**4
        (True, True)
        """
        from tnet.contraction.distribute import run_plan

        return run_plan(self, arrays, executor=executor, checkpoint=checkpoint, callback=callback)

    @cached_property
    def _largest_fresh(self) -> int:
        """Return the bytes that a call allocates beyond its inputs, in the widest dtype."""
        inputs = sum(
            math.prod(shape) * size for shape, size in zip(self._shapes, self.dtypes.operand_itemsizes, strict=True)
        )
        return self.peak_bytes - inputs

    def _bind(self, arrays: Sequence[Array]) -> Runner:
        names = [dtype_name(as_array(x, f"operand {k}")) for k, x in enumerate(arrays)]
        dtypes = dtype_plan(names)
        if dtypes != self.dtypes and self.memory_limit is not None:
            needed = sliced_peak(self.spec, self.pairs, self.splits, dtypes).n_bytes
            if needed > self.memory_limit:
                raise MemoryLimitError(
                    f"with operands of {', '.join(dict.fromkeys(names))} this plan takes "
                    f"{format_bytes(needed)}, above its memory_limit of {format_bytes(self.memory_limit)}; "
                    "plan again from these arrays, or with their dtype."
                )
        return make_runner(self.spec, self._program, self.splits, dtypes, arrays)

    def _check_free_memory(self, x: Array) -> None:
        free = free_bytes(as_array(x))
        if free is not None and self._largest_fresh > free:
            raise MemoryLimitError(
                f"the contraction needs {format_bytes(self._largest_fresh)} beside its operands, but "
                f"{format_bytes(free)} are free; plan with memory_limit= to cut it into slices."
            )

    def _refuse_shapes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        if len(shapes) != len(self._shapes):
            raise ShapeError(f"the plan has {len(self._shapes)} operands, but {len(shapes)} were given.")
        for k, (given, planned) in enumerate(zip(shapes, self._shapes, strict=True)):
            if tuple(given) != planned:
                raise ShapeError(
                    f"operand {k} has shape {tuple(given)}, but the plan was made for {planned}; plan again."
                )

    def __repr__(self) -> str:
        equation = self.spec.equation
        equation = equation if len(equation) <= 60 else f"{equation[:28]} ... {equation[-27:]}"
        largest = max((step.n_result for step in self._program.steps), default=0)
        lines = [
            f"ContractionPlan  {equation}",
            f"  operands  {len(self.spec.inputs)} ({', '.join(dict.fromkeys(self.dtypes.operands))})"
            f" -> {self.spec.output_shape}",
            f"  macs      {self.macs:.3e} ({self.planner})",
            f"  peak      {format_bytes(self.peak_bytes)}, largest intermediate {largest} elements",
            f"  slices    {self.n_slices}" + (f" ({self._show_splits()})" if self.splits else ""),
        ]
        for k, step in enumerate(self._program.steps[:_STEPS_SHOWN]):
            sides = " @ ".join(str(operand.shape) for operand in (step.left, step.right))
            lines.append(f"  step {k:<4} {sides if step.is_product else sides.replace('@', '*')}")
        hidden = len(self.pairs) - _STEPS_SHOWN
        return "\n".join(lines) + (f"\n  ... {hidden} more steps" if hidden > 0 else "")

    def _show_splits(self) -> str:
        shown = ", ".join(f"{self.spec.labels[i]} in {parts}" for i, parts in self.splits[:5])
        return shown + (", ..." if len(self.splits) > 5 else "")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON; the file appears whole or not at all."""
        spec = self.spec
        content = {
            "format": "tnet.contraction_plan",
            "format_version": _FORMAT_VERSION,
            "labels": spec.labels,
            "sizes": spec.sizes,
            "inputs": spec.inputs,
            "output": spec.output,
            "path": self.path,
            "splits": self.splits,
            "dtypes": self.dtypes.operands,
            "memory_limit": self.memory_limit,
            "planner": self.planner,
        }
        text = json.dumps(content, indent=1) + "\n"
        atomic_write(path, lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ContractionPlan:
        """Read a plan written by :meth:`save`.

        Raises
        ------
        FormatError
            The file is damaged, no plan, or of a version that this tnet does not read.
        """
        if os.path.getsize(path) > _LARGEST_FILE:
            raise FormatError(f"{path}: larger than {format_bytes(_LARGEST_FILE)}, so no contraction plan.")
        with open(path, "rb") as file:
            raw = file.read()
        try:
            content = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: not a JSON file: {error}") from error
        if not isinstance(content, dict) or content.get("format") != "tnet.contraction_plan":
            raise FormatError(f"{path}: not a contraction plan of tnet.")
        if content.get("format_version") != _FORMAT_VERSION:
            raise FormatError(
                f"{path}: format_version {content.get('format_version')!r}; this tnet reads {_FORMAT_VERSION}."
            )
        try:
            return _plan_from_content(content)
        except (KeyError, TypeError, ValueError, TnetError) as error:
            raise FormatError(f"{path}: damaged contraction plan: {error}") from error


def _plan_from_content(content: dict[str, Any]) -> ContractionPlan:
    labels = tuple(content["labels"])
    sizes = _integers(content["sizes"], 2**62)
    inputs = tuple(_integers(term, len(sizes) - 1) for term in content["inputs"])
    output = _integers(content["output"], len(sizes) - 1)
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels):
        raise ValueError("labels must be different strings")
    if len(labels) != len(sizes) or not inputs:
        raise ValueError("labels and sizes differ in number, or there are no inputs")
    if len(set(output)) != len(output) or not set(output) <= {i for term in inputs for i in term}:
        raise ValueError("the output names an index twice, or one of no input")
    spec = ContractionSpec(inputs, output, sizes, labels)
    pairs = pairs_of_linear_path([_integers(step, len(inputs)) for step in content["path"]], len(inputs))
    splits = tuple((i, parts) for i, parts in (_integers(split, 2**62) for split in content["splits"]))
    if len({i for i, _ in splits}) != len(splits) or any(p < 1 or sizes[i] % p for i, p in splits):
        raise ValueError("splits repeat an index or do not divide its size")
    dtypes = dtype_plan(content["dtypes"])
    if len(dtypes.operands) != len(inputs):
        raise ValueError("dtypes and inputs differ in number")
    limit, planner = content["memory_limit"], content["planner"]
    if not (limit is None or (type(limit) is int and limit > 0)) or not isinstance(planner, str):
        raise ValueError("memory_limit or planner is of the wrong kind")
    return ContractionPlan(spec, pairs, splits, dtypes, limit, planner)


def _integers(values: Any, largest: int) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v <= largest for v in values):
        raise ValueError(f"expected a list of integers from 0 to {largest}")
    return tuple(values)
