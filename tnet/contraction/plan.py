"""The plan of a contraction: order, slices, cost, and the call that runs it."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tnet.arrays import Array, dtype_name
from tnet.contraction.bound_calls import BoundCall, bound_call, layouts_of, require_free, when_free
from tnet.contraction.cost_model import program_seconds
from tnet.contraction.dtypes import DtypePlan, dtype_plan
from tnet.contraction.execute import Runner, bind, common_namespace, make_runner
from tnet.contraction.folding import FoldedPlan, batch_spec, fold
from tnet.contraction.invariants import choose_invariants
from tnet.contraction.layout import Layout
from tnet.contraction.lowering import Program
from tnet.contraction.memory import format_bytes, peak_memory
from tnet.contraction.operands import as_operands, lie_on_host, require_shapes, require_within
from tnet.contraction.pairs import Pair, linear_path, result_indices
from tnet.contraction.plan_file import read_plan, write_plan
from tnet.contraction.rates import host_rates
from tnet.contraction.scaling import ScaledResult, run_scaled
from tnet.contraction.slicing import Split, choose_splits, sliced_program, sliced_sizes
from tnet.contraction.spec import ContractionSpec, size_of
from tnet.contraction.tracing import contract_traced, is_traced
from tnet.errors import BackendError

if TYPE_CHECKING:
    from tnet.parallel import ExecutorLike

__all__ = ["ContractionPlan"]

_STEPS_SHOWN = 4
_MOST_KEPT = 32


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
    layouts : tuple of (tuple of int or None), or None
        For each operand, its axes from the slowest in memory to the fastest; None for one with gaps, which is
        copied. None altogether: all in C order.
    on_host : bool
        Whether bytes are counted for arrays of NumPy or torch in host memory: kernels read these as they lie, where
        a matrix product on a GPU needs copies.

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
    layouts: tuple[Layout, ...] | None = None
    on_host: bool = True
    _kept: list[BoundCall] = field(default_factory=list, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # What is bound to array types is made again where the plan arrives.
        return ContractionPlan, (
            self.spec,
            self.pairs,
            self.splits,
            self.dtypes,
            self.memory_limit,
            self.planner,
            self.layouts,
            self.on_host,
        )

    @functools.cached_property
    def _program(self) -> Program:
        return self._program_for(self.dtypes, self.layouts, on_host=self.on_host)

    def _program_for(self, dtypes: DtypePlan, layouts: tuple[Layout, ...] | None, *, on_host: bool) -> Program:
        """Return the program of a slice: with stacks of small steps, and kernels on the host, where these fit."""
        for stacked in (False,) if self.splits else (True, False):
            program = self._lowered(dtypes, layouts, kernels=on_host, stacked=stacked)
            if self._fits(program, dtypes):
                return program
        return self._lowered(dtypes, layouts, kernels=False, stacked=False)

    def _fits(self, program: Program, dtypes: DtypePlan) -> bool:
        limit = self.memory_limit
        return limit is None or peak_memory(self.spec, program, dtypes, sliced=bool(self.splits)).n_bytes <= limit

    def _lowered(
        self, dtypes: DtypePlan, layouts: tuple[Layout, ...] | None, *, kernels: bool, stacked: bool
    ) -> Program:
        """Return the program of a slice, and what is done once before the first where that fits."""
        spec, pairs, splits = self.spec, self.pairs, self.splits
        lowered = functools.partial(
            sliced_program, spec, pairs, splits, dtypes, layouts=layouts, kernels=kernels, stacked=stacked
        )
        if not splits:
            return lowered()
        found: dict[frozenset[int], Program] = {}

        def fits(hoisted: frozenset[int]) -> bool:
            found[hoisted] = lowered(hoisted=hoisted)
            return self._fits(found[hoisted], dtypes)

        sizes = sliced_sizes(spec, splits)
        elements = [size_of(indices, sizes) for indices in result_indices(spec, pairs)]
        hoisted = choose_invariants(spec, pairs, splits, elements, fits)
        return found[hoisted] if hoisted in found else lowered()

    @functools.cached_property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.spec.input_shapes

    @property
    def macs(self) -> int:
        """Multiply-adds of the pairwise steps, summed over slices; what no slice changes counts once."""
        return sum(self.step_macs)

    @property
    def step_macs(self) -> tuple[int, ...]:
        """Multiply-adds of each step of ``pairs``; :attr:`macs` is their sum."""
        program, n = self._program, len(self.spec.inputs)
        counts = [0] * len(self.pairs)
        for steps, times in ((program.once, 1), (program.steps, self.n_slices)):
            for step in steps:
                counts[step.node - n] = times * step.macs
        return tuple(counts)

    @property
    def flops(self) -> int:
        """Floating point operations: two a multiply-add."""
        return 2 * self.macs

    @functools.cached_property
    def peak_bytes(self) -> int:
        """Bytes of inputs, live intermediates, copies and result at the worst moment.

        For the dtypes, memory layouts and kind of device that the plan was made from. Arrays are counted; scratch of
        BLAS and of torch's sums on a GPU, and Python's own objects, some KiB a call however many slices it has, are
        not.
        """
        return peak_memory(self.spec, self._program, self.dtypes, sliced=bool(self.splits)).n_bytes

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

        Steps, multiply-adds, copies and elementwise work, each at a rate of this host that was measured for such
        shapes: at the first use for a dtype, in about half a second, and kept in the user's cache folder.
        """
        return program_seconds(self._program, self.dtypes, self.n_slices, host_rates(self.dtypes.compute))

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
        InputError
            A network in place of its tensors.
        MemoryLimitError
            The device has not enough free memory; raised before anything is allocated.

        Notes
        -----
        Every operation is one of the array library's, so torch records gradients through it.
        """
        try:
            types, shapes, dtypes = (
                tuple(map(type, arrays)),
                tuple([x.shape for x in arrays]),
                tuple([x.dtype for x in arrays]),
            )
        except AttributeError:  # lists and numbers become arrays first
            return self._unknown(arrays)(arrays)
        return self.runner(arrays, types, shapes, dtypes)(arrays)

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
            by Ctrl-C. Run again with an equal plan and the same operands, it continues there; the folder is removed
            at the end. :func:`tnet.contract` keeps the plan there too.
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

    def scaled(self, *arrays: Array) -> ScaledResult:
        """Contract values whose result, or intermediates, would leave the range of floating point.

        Parameters
        ----------
        *arrays : array
            As of a call.

        Returns
        -------
        ScaledResult
            ``mantissa`` and ``log2_scale``: the result is ``mantissa * 2**log2_scale``. The largest modulus of the
            mantissa, which is in the dtype of the computation, is in [1, 2); zeros have scale 0.

        Raises
        ------
        ShapeError, BackendError, MemoryLimitError
            As of a call; also integers, which have no scale.

        Notes
        -----
        Every operand and every intermediate is divided by the power of two next to its largest modulus, which is
        exact, after its step: exponent stripping. One more pass over each of them, and up to one more copy of the
        operands and the result of a step than :attr:`peak_bytes`. On a GPU the host waits for each step.
        Gradients flow through the mantissa.

        Examples
        --------
        >>> import numpy as np
        >>> import tnet
        >>> plan = tnet.plan("i,i->", (2,), (2,))
        >>> mantissa, log2_scale = plan.scaled(np.full(2, 1e300), np.full(2, 1e300))
        >>> round((float(np.log2(mantissa)) + log2_scale) * np.log10(2), 3)
        600.301
        """
        plain = as_operands(arrays)
        program, dtypes, needed = self._described(plain)
        if "int" in dtypes.compute:
            raise BackendError(f"scaled: integers ({dtypes.compute}) have no scale; convert them to floating point.")
        # The scaled copies of the operands take what the operands do.
        require_free(plain[0], needed, self._result_bytes(dtypes))
        return run_scaled(bind(program, dtypes, plain), self.spec, self.splits, plain)

    def with_constants(self, constants: Mapping[int, Array]) -> FoldedPlan:
        """Fix some operands: what depends on them alone is computed now, once.

        Parameters
        ----------
        constants : mapping of int to array
            Operands by position.

        Returns
        -------
        FoldedPlan
            Called with the remaining operands, in their order.

        Raises
        ------
        InputError
            No position, or one of no operand.
        ShapeError
            An array of another shape than planned.

        Examples
        --------
        >>> import numpy as np
        >>> import tnet
        >>> plan = tnet.plan("i,ij,jk->k", (2,), (2, 3), (3, 4))
        >>> folded = plan.with_constants({1: np.ones((2, 3)), 2: np.ones((3, 4))})
        >>> folded(np.ones(2))
        array([6., 6., 6., 6.])
        """
        return fold(self, constants)

    def batch(self, n: int, operands: Sequence[int] | None = None) -> ContractionPlan:
        """Return the plan of ``n`` such contractions at once, in the same order.

        Parameters
        ----------
        n : int
        operands : sequence of int or None
            Which operands differ between the contractions: they, and the result, get a leading axis of size ``n``.
            None stands for all.

        Returns
        -------
        ContractionPlan
            Cut anew where this one has a ``memory_limit``.

        Raises
        ------
        InputError
            ``n`` is not positive, or an operand does not exist.
        MemoryLimitError
            The limit cannot be met for so many.

        Examples
        --------
        >>> import tnet
        >>> plan = tnet.plan("ij,jk->ik", (2, 3), (3, 4)).batch(10, [0])
        >>> plan.spec.input_shapes, plan.output_shape
        (((10, 2, 3), (3, 4)), (10, 2, 4))
        """
        spec = batch_spec(self.spec, n, operands)
        splits = self.splits
        if self.memory_limit is not None:
            splits = choose_splits(spec, self.pairs, self.dtypes, self.memory_limit)
        return ContractionPlan(
            spec, self.pairs, splits, self.dtypes, self.memory_limit, self.planner, on_host=self.on_host
        )

    def runner(
        self, arrays: Sequence[Array], types: tuple[type, ...], shapes: tuple[Any, ...], dtypes: tuple[Any, ...]
    ) -> Runner:
        """Return the function that contracts these arrays, of which types, shapes and dtypes are known already."""
        for ready in self._kept:
            if (
                types == ready.types
                and shapes == self._shapes
                and dtypes == ready.dtypes
                and (ready.devices is None or [x.device for x in arrays] == ready.devices)
                and (not ready.strides or ready.lies_as(arrays))
            ):
                return ready.run
        return self._unknown(arrays)

    def _unknown(self, arrays: Sequence[Array]) -> Runner:
        """Return the function for arrays of types not met before, or of none."""
        if is_traced(arrays):
            require_shapes(self.spec, [x.shape for x in arrays])
            return lambda operands: contract_traced(self.spec, self.pairs, self.splits, operands)
        plain = as_operands(arrays)
        if any(a is not x for a, x in zip(plain, arrays, strict=True)):
            return lambda _: self(*plain)
        return self._bind(plain)

    def _bind(self, arrays: Sequence[Array]) -> Runner:
        """Make the function for arrays like these, and keep it."""
        program, dtypes, needed = self._described(arrays)
        run = make_runner(self.spec, program, self.splits, dtypes, arrays)
        fresh = needed - sum(
            math.prod(shape) * size for shape, size in zip(self._shapes, dtypes.operand_itemsizes, strict=True)
        )
        run = when_free(run, fresh, self._result_bytes(dtypes))
        ready = bound_call(arrays, run, all_strides=self.memory_limit is not None)
        self._kept[:] = [ready, *self._kept[: _MOST_KEPT - 1]]
        return run

    def _described(self, arrays: Sequence[Array]) -> tuple[Program, DtypePlan, int]:
        """Return the program for arrays like these, their dtypes, and the bytes that it needs at its peak."""
        require_shapes(self.spec, [x.shape for x in arrays])
        common_namespace(arrays)
        names = [dtype_name(x) for x in arrays]
        dtypes, layouts = dtype_plan(names), layouts_of(arrays)
        on_host = lie_on_host(arrays)
        if on_host == self.on_host and dtypes == self.dtypes and layouts == self.layouts:
            program, needed = self._program, self.peak_bytes
        else:
            program = self._program_for(dtypes, layouts, on_host=on_host)
            needed = peak_memory(self.spec, program, dtypes, sliced=bool(self.splits)).n_bytes
        require_within(self.memory_limit, needed, names)
        return program, dtypes, needed

    def _result_bytes(self, dtypes: DtypePlan) -> int:
        return math.prod(self.output_shape) * dtypes.result_itemsize

    def __repr__(self) -> str:
        equation = self.spec.equation
        equation = equation if len(equation) <= 60 else f"{equation[:28]} ... {equation[-27:]}"
        steps = (*self._program.once, *self._program.steps)
        largest = max((step.n_result for step in steps), default=0)
        macs = self.macs if self.macs < 10**300 else Decimal(self.macs)  # larger ones are no floating point numbers
        lines = [
            f"ContractionPlan  {equation}",
            f"  operands  {len(self.spec.inputs)} ({', '.join(dict.fromkeys(self.dtypes.operands))})"
            f" -> {self.spec.output_shape}",
            f"  macs      {macs:.3e} ({self.planner})",
            f"  peak      {format_bytes(self.peak_bytes)}, largest intermediate {largest} elements",
            f"  time      {self.predicted_seconds:.3g} s predicted for this host",
            f"  slices    {self.n_slices}" + (f" ({self._show_splits()})" if self.splits else ""),
        ]
        for k, step in enumerate(steps[:_STEPS_SHOWN]):
            sides = " @ ".join(str(operand.shape) for operand in (step.left, step.right))
            lines.append(f"  step {k:<4} {sides if step.is_product else sides.replace('@', '*')}")
        hidden = len(self.pairs) - _STEPS_SHOWN
        return "\n".join(lines) + (f"\n  ... {hidden} more steps" if hidden > 0 else "")

    def _show_splits(self) -> str:
        shown = ", ".join(f"{self.spec.labels[i]} in {parts}" for i, parts in self.splits[:5])
        return shown + (", ..." if len(self.splits) > 5 else "")

    def plot(self) -> Any:
        """Draw tree, cost and memory of the steps: :func:`tnet.plot.plan`, which takes Axes."""
        from tnet.plot import plan

        return plan(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON; the file appears whole or not at all."""
        write_plan(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ContractionPlan:
        """Read a plan written by :meth:`save`, by this version or an older one.

        Raises
        ------
        FormatError
            The file is damaged, no plan, or of a version that this tnet does not read.
        """
        return cls(*read_plan(path))
