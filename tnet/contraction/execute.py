"""Running a program: a static loop of pairwise steps, summed over slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tnet.arrays import Array, Namespace, array_namespace, contract_pair, device_of, library_name, resolve_dtype
from tnet.arrays.operations import Operations, operations
from tnet.arrays.pairwise import PairKernel
from tnet.arrays.permuted import LEAST_TILED
from tnet.contraction.dtypes import DtypePlan
from tnet.contraction.lowering import Operand, Program, Run, Step
from tnet.contraction.slicing import Split, slice_keys
from tnet.contraction.spec import ContractionSpec
from tnet.errors import BackendError

__all__ = ["Bound", "Runner", "bind", "common_namespace", "make_runner"]

Runner = Callable[[Sequence[Array]], Array]
Function = Callable[..., Any]


class Instruction(NamedTuple):
    """One step of the loop; an entry is None where there is nothing to do.

    Parameters
    ----------
    function : callable
        The product.
    left : int
    left_ready : callable or None
        Converts, sums or copies an input.
    left_axes, left_shape : tuple of int or None
        To permute to; to reshape to, which copies.
    right, right_ready, right_axes, right_shape
        The same.
    kept : tuple of int or None
        Shape of the result.
    node : int
    """

    function: Function
    left: int
    left_ready: Function | None
    left_axes: tuple[int, ...] | None
    left_shape: tuple[int, ...] | None
    right: int
    right_ready: Function | None
    right_axes: tuple[int, ...] | None
    right_shape: tuple[int, ...] | None
    kept: tuple[int, ...] | None
    node: int


class StackedSide(NamedTuple):
    """How an operand of a stack is put together; an entry is None where there is nothing to do.

    Parameters
    ----------
    sources : tuple of int
        Slots to gather from; empty where the operand is a slice of an earlier stack.
    slot : int
        Of that stack.
    taken : slice or None
    viewed, axes, shape : tuple of int or None
        To reshape to, which is a view; to permute to; to reshape to, which copies.
    """

    sources: tuple[int, ...]
    slot: int
    taken: slice | None
    viewed: tuple[int, ...] | None
    axes: tuple[int, ...] | None
    shape: tuple[int, ...] | None


class StackedInstruction(NamedTuple):
    """Steps that run as one.

    Parameters
    ----------
    function : callable
        The product.
    left, right : StackedSide
    emptied : tuple of int
        Slots of stacks that nothing needs after this.
    slot : int or None
        Where the result stays whole, for later stacks.
    single : tuple of (int, int, tuple of int or None)
        Member, slot and shape of each result that is taken alone.
    """

    function: Function
    left: StackedSide
    right: StackedSide
    emptied: tuple[int, ...]
    slot: int | None
    single: tuple[tuple[int, int, tuple[int, ...] | None], ...]


class Part(NamedTuple):
    """A stack, if there is one, and the steps that run one by one before it."""

    steps: tuple[Instruction, ...]
    stack: StackedInstruction | None


class Bound(NamedTuple):
    """A program in the words of one array library.

    Parameters
    ----------
    once, body : tuple of Instruction
        Before the first slice, and for each.
    single : callable or None
        The whole contraction of one input.
    n_inputs, n_nodes : int
    final : tuple of int or None
        Permutation of the last result.
    language : Operations
        Functions of the library.
    xp : namespace
    dtype, result_dtype : dtype
        Of the computation and of the result, as the library writes them.
    parts : tuple of Part
        The same as ``body``, some of its steps stacked; empty where none are.
    """

    once: tuple[Instruction, ...]
    body: tuple[Instruction, ...]
    single: Function | None
    n_inputs: int
    n_nodes: int
    final: tuple[int, ...] | None
    language: Operations
    xp: Namespace
    dtype: Any
    result_dtype: Any
    parts: tuple[Part, ...] = ()


def common_namespace(arrays: Sequence[Array]) -> Namespace:
    """Return the namespace of the operands of a contraction; BackendError names two operands that differ."""
    try:
        return array_namespace(*arrays)
    except BackendError as error:
        first, *others = [(library_name(x), str(device_of(x))) for x in arrays]
        other = next((k for k, home in enumerate(others, 1) if home != first), None)
        if other is None:
            raise
        kind = "on two devices" if others[other - 1][0] == first[0] else "of several libraries"
        raise BackendError(
            f"operands {kind}: 0 of {first[0]} on {first[1]}, {other} of {' on '.join(others[other - 1])}; "
            "convert them to one library and device."
        ) from error


def make_runner(
    spec: ContractionSpec,
    program: Program,
    splits: Sequence[Split],
    dtypes: DtypePlan,
    arrays: Sequence[Array],
) -> Runner:
    """Return the function that contracts arrays of the same types as ``arrays``.

    Parameters
    ----------
    spec : ContractionSpec
    program : Program
        Of one slice.
    splits : sequence of (int, int)
    dtypes : DtypePlan
        Of ``arrays``.
    arrays : sequence of array
        Only their library, dtypes and device are looked at.

    Raises
    ------
    BackendError
        Arrays of several libraries or devices, or a dtype that their library does not know.
    """
    bound = bind(program, dtypes, arrays)
    return _sliced(bound, spec, splits) if splits else _whole(bound)


def _whole(bound: Bound) -> Runner:
    if bound.parts:
        return _stacked(bound)
    body, final, single = bound.body, bound.final, bound.single
    permute, reshape, convert = bound.language.permute, bound.language.reshape, bound.language.convert
    dtype = None if bound.result_dtype == bound.dtype else bound.result_dtype
    room = [None] * (bound.n_nodes - bound.n_inputs)

    def run(operands: Sequence[Array]) -> Array:
        slots = [*operands, *room]
        x = single(slots[0]) if single is not None else run_steps(body, slots, permute, reshape)
        if final is not None:
            x = permute(x, final)
        return x if dtype is None else convert(x, dtype)

    return run


def _stacked(bound: Bound) -> Runner:
    """Return the function for a program with stacks; those that stay whole have slots behind the others."""
    parts, final, permute, reshape = bound.parts, bound.final, bound.language.permute, bound.language.reshape
    join, convert = bound.xp.concat, bound.language.convert
    # Iteration is quickest, and all have it that tell strides; the standard has not.
    apart: Function = bound.xp.unstack if bound.language.stride_of is None else tuple
    dtype = None if bound.result_dtype == bound.dtype else bound.result_dtype
    room = [None] * (bound.n_nodes - bound.n_inputs + len(parts))

    def run(operands: Sequence[Array]) -> Array:
        slots = [*operands, *room]
        x: Any = None
        for steps, stack in parts:
            if steps:
                x = run_steps(steps, slots, permute, reshape)
            if stack is not None:
                x = None
                run_stack(stack, slots, permute, reshape, join, apart)
        if final is not None:
            x = permute(x, final)
        return x if dtype is None else convert(x, dtype)

    return run


def _sliced(bound: Bound, spec: ContractionSpec, splits: Sequence[Split]) -> Runner:
    permute, reshape = bound.language.permute, bound.language.reshape
    n = bound.n_inputs

    def run(operands: Sequence[Array]) -> Array:
        base = [*operands, *[None] * (bound.n_nodes - n)]
        if bound.once:
            run_steps(bound.once, base, permute, reshape)
        # Slices are added into an array of our own: the first part may be a view of an input.
        result = bound.xp.zeros(spec.output_shape, dtype=bound.dtype, device=operands[0].device)
        for keys, place in slice_keys(spec, splits):
            slots = list(base)
            for k, key in enumerate(keys):
                if key is not None:
                    slots[k] = operands[k][key]
            part = bound.single(slots[0]) if bound.single else run_steps(bound.body, slots, permute, reshape)
            slots.clear()
            result[(*place, ...)] += part if bound.final is None else permute(part, bound.final)
            del part
        base.clear()
        return result if bound.result_dtype == bound.dtype else bound.language.convert(result, bound.result_dtype)

    return run


def run_steps(steps: Sequence[Instruction], slots: list[Any], permute: Function, reshape: Function) -> Any:
    """Run instructions on ``slots``, emptied as they are used, and return the last result."""
    node = -1
    for (
        function,
        left,
        left_ready,
        left_axes,
        left_shape,
        right,
        right_ready,
        right_axes,
        right_shape,
        kept,
        node,
    ) in steps:
        x = slots[left]
        slots[left] = None
        if left_ready is not None:
            x = left_ready(x)
        if left_axes is not None:
            x = permute(x, left_axes)
        if left_shape is not None:
            x = reshape(x, left_shape)
        y = slots[right]
        slots[right] = None
        if right_ready is not None:
            y = right_ready(y)
        if right_axes is not None:
            y = permute(y, right_axes)
        if right_shape is not None:
            y = reshape(y, right_shape)
        # Only the slot holds the result, and only until it is used: nothing is alive longer than that.
        slots[node] = function(x, y) if kept is None else reshape(function(x, y), kept)
        x = y = None
    return slots[node]


def run_stack(
    stack: StackedInstruction,
    slots: list[Any],
    permute: Function,
    reshape: Function,
    join: Function,
    apart: Function,
) -> None:
    """Run a stacked instruction on ``slots``, emptied as they are used."""
    sides = []
    for sources, slot, taken, viewed, axes, shape in (stack.left, stack.right):
        if sources:
            x = join([slots[source] for source in sources])
            for source in sources:
                slots[source] = None
        else:
            x = slots[slot][taken, ...]
        if viewed is not None:
            x = reshape(x, viewed)
        if axes is not None:
            x = permute(x, axes)
        sides.append(x if shape is None else reshape(x, shape))
        x = None
    for slot in stack.emptied:
        slots[slot] = None
    result = stack.function(*sides)
    if stack.slot is not None:
        slots[stack.slot] = result
    if stack.single:
        each = apart(result)
        for member, node, kept in stack.single:
            slots[node] = each[member] if kept is None else reshape(each[member], kept)


def bind(program: Program, dtypes: DtypePlan, arrays: Sequence[Array]) -> Bound:
    """Put a program into the words of the library of ``arrays``.

    Raises
    ------
    BackendError
        Arrays of several libraries or devices, or a dtype that their library does not know.
    """
    xp = common_namespace(arrays)
    language = operations(arrays[0])
    dtype = resolve_dtype(xp, dtypes.compute)
    binder = _Binder(program, dtypes, xp, language, dtype)
    single = None
    if program.single is not None:
        single = binder.single(program.single)
    body = tuple(binder.instruction(step) for step in program.steps)
    return Bound(
        tuple(binder.instruction(step) for step in program.once),
        body,
        single,
        len(program.leaves),
        len(program.orders),
        program.final_permutation,
        language,
        xp,
        dtype,
        resolve_dtype(xp, dtypes.result),
        _parts(program, body, language),
    )


def _parts(program: Program, body: tuple[Instruction, ...], language: Operations) -> tuple[Part, ...]:
    """Return the parts of a program with stacks; none where it has no stack."""
    if not program.stacks:
        return ()
    last_use = {
        run.stack: k for k, stack in enumerate(program.stacks) for run in (stack.left, stack.right) if run is not None
    }
    parts: list[Part] = []
    start = 0
    for k, stack in enumerate(program.stacks):
        parts.append(Part(body[start : stack.first], _stacked_instruction(program, k, last_use, language)))
        start = stack.first + stack.n
    return (*parts, Part(body[start:], None))


def _stacked_instruction(
    program: Program, k: int, last_use: dict[int, int], language: Operations
) -> StackedInstruction:
    stack, n_nodes = program.stacks[k], len(program.orders)
    steps = program.steps[stack.first : stack.first + stack.n]
    return StackedInstruction(
        language.stacked if steps[0].is_product else language.times,
        _stacked_side(program, [step.left for step in steps], stack.left),
        _stacked_side(program, [step.right for step in steps], stack.right),
        tuple([n_nodes + below for below, user in last_use.items() if user == k]),
        n_nodes + k if k in last_use else None,
        tuple([(j, steps[j].node, None if steps[j].kept == steps[j].raw else steps[j].kept) for j in stack.single]),
    )


def _stacked_side(program: Program, operands: Sequence[Operand], run: Run | None) -> StackedSide:
    n, (_, viewed, axes, shape, _) = len(operands), operands[0]
    permuted = viewed if axes is None else tuple([viewed[axis] for axis in axes])
    permutation = None if axes is None else (0, *(axis + 1 for axis in axes))
    last = None if permuted == shape else (n, *shape)
    if run is None:
        sources = tuple([operand.source for operand in operands])
        return StackedSide(sources, -1, None, (n, *viewed), permutation, last)
    raw = program.steps[program.stacks[run.stack].first].raw
    taken = slice(run.start, run.start + run.stride * (n - 1) + 1, run.stride)
    first = None if raw == viewed else (n, *viewed)
    return StackedSide((), len(program.orders) + run.stack, taken, first, permutation, last)


class _Binder:
    """Turns steps into instructions."""

    def __init__(self, program: Program, dtypes: DtypePlan, xp: Namespace, language: Operations, dtype: Any) -> None:
        self._program = program
        self._dtypes = dtypes
        self._xp = xp
        self._language = language
        self._dtype = dtype

    def instruction(self, step: Step) -> Instruction:
        left_ready, left_axes, left_shape = self._way(step.left)
        right_ready, right_axes, right_shape = self._way(step.right)
        function = self._function(step)
        kept = None if step.kept == step.raw else step.kept
        return Instruction(
            function,
            step.left.source,
            left_ready,
            left_axes,
            left_shape,
            step.right.source,
            right_ready,
            right_axes,
            right_shape,
            kept,
            step.node,
        )

    def _function(self, step: Step) -> Function:
        if step.kernel is not None:
            return _recorded(step.kernel, self._xp)
        if step.is_product:
            if len(step.raw) == 2:
                return self._language.product
            same = len(step.left.shape) == len(step.right.shape)
            return self._language.stacked if same else self._language.spread
        times, array = self._language.times, self._language.array
        if step.raw:
            return times
        return lambda x, y: array(times(x, y))  # NumPy's product of two numbers is a scalar, not an array

    def _way(self, operand: Operand) -> tuple[Function | None, tuple[int, ...] | None, tuple[int, ...] | None]:
        """Return what to do with an operand: a function of an input, a permutation, a shape."""
        axes, shape = operand.permutation, operand.viewed
        permuted = shape if axes is None else tuple(shape[axis] for axis in axes)
        last = None if permuted == operand.shape else operand.shape
        permute, reshape, ordered = self._language.permute, self._language.reshape, self._language.ordered
        is_input = operand.source < len(self._program.leaves)
        ready = self._ready(operand) if is_input else []
        if operand.copied is None:
            if axes is None and last is None and len(ready) == 1 and self._only_viewed(operand):
                return None, None, operand.shape
            return _chain(ready), axes, last
        if axes is not None and last is not None and (not is_input or self._is_plain(operand.source)):
            if operand.copied < LEAST_TILED:
                return _chain(ready), axes, last  # the reshape copies
            arranged = self._language.arranged
            return _chain([*ready, lambda x: arranged(x, axes)]), None, last
        if axes is not None:
            ready.append(lambda x: permute(x, axes))
        ready.append(self._settled(operand.source) if is_input else ordered)  # in the order of the axes
        if last is not None:
            ready.append(lambda x: reshape(x, last))
        return _chain(ready), None, None

    def _only_viewed(self, operand: Operand) -> bool:
        leaf = self._program.leaves[operand.source]
        return not leaf.diagonals and not leaf.summed and leaf.permutation is None

    def _is_plain(self, source: int) -> bool:
        """Return whether an input is dense and of the right dtype."""
        return self._program.leaves[source].is_dense and not self._is_converted(source)

    def _is_converted(self, source: int) -> bool:
        return self._dtypes.operands[source] != self._dtypes.compute

    def _settled(self, source: int) -> Function:
        """Return the function that puts an input in C order and the dtype of the computation."""
        convert, dtype = self._language.convert, self._dtype
        if self._is_converted(source) and not self._program.leaves[source].summed:
            return lambda x: convert(x, dtype)
        return self._language.ordered

    def _ready(self, operand: Operand) -> list[Function]:
        """Return the functions that make an input ready to be permuted."""
        source = operand.source
        leaf = self._program.leaves[source]
        steps: list[Function] = []
        xp, language, dtype = self._xp, self._language, self._dtype
        if leaf.diagonals:
            steps += [_diagonal(xp, permutation) for permutation in leaf.diagonals]
        if leaf.summed:
            if self._is_converted(source):
                steps.append(lambda x: language.convert(x, dtype))
            steps.append(lambda x: language.array(xp.sum(x, axis=leaf.summed, dtype=dtype)))
        if leaf.permutation is not None:
            axes = leaf.permutation
            steps.append(lambda x: language.permute(x, axes))
        shape = operand.viewed
        if shape != leaf.shape:
            steps.append(lambda x: language.reshape(x, shape))
        return steps

    def single(self, operand: Operand) -> Function:
        """Return the contraction of one input, which is summed, permuted and copied."""
        leaf = self._program.leaves[0]
        ready, permute, reshape = _chain(self._ready(operand)), self._language.permute, self._language.reshape
        settle = (lambda x: x) if leaf.summed else self._settled(0)
        if settle is self._language.ordered:
            settle = self._language.copy

        def run(x: Array) -> Array:
            x = ready(x) if ready is not None else x
            x = settle(x if operand.permutation is None else permute(x, operand.permutation))
            return reshape(x, operand.shape)

        return run


def _recorded(kernel: PairKernel, xp: Namespace) -> Function:
    """Return the kernel, or what the library can record where it records operations."""

    def contract(x: Array, y: Array) -> Array:
        if kernel.applies(x, y):
            return kernel(x, y)
        return contract_pair(xp, x, kernel.left, y, kernel.right, kernel.order)

    return contract


def _diagonal(xp: Namespace, permutation: tuple[int, ...]) -> Function:
    return lambda x: xp.linalg.diagonal(xp.permute_dims(x, permutation))


def _chain(functions: Sequence[Function]) -> Function | None:
    if len(functions) < 2:
        return functions[0] if functions else None

    def run(x: Array) -> Array:
        for function in functions:
            x = function(x)
        return x

    return run
