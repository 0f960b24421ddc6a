"""One tile of a matrix product held in the vector registers: the innermost loop of a packed contraction.

Importing this module imports Numba.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

from tnet.arrays.permuted_tiles import pointer, transposed

__all__ = [
    "ACROSS",
    "ROWS",
    "VECTOR_BYTES",
    "gather_complex_lines",
    "gather_complex_rows",
    "gather_lines",
    "gather_lines_across",
    "gather_rows",
    "gather_rows_across",
    "multiply_tile",
    "prefetch",
]

ROWS = 4
"""Rows of a tile: with two AVX2 registers a row, eight running sums hide the latency of their additions."""

VECTOR_BYTES = 64
"""Bytes of a row of a tile: one cache line."""

ACROSS = 8
"""Neighbours that are read together, a multiple of what a register holds."""

_REGISTER_BYTES = 32
_INDEX = ir.IntType(64)

intrinsic: Any = extending.intrinsic  # its declared type keeps the typing context among the arguments


@intrinsic
def prefetch(typing_context: Any, array: Any, place: Any) -> Any:
    """Ask for ``array[place]`` to be brought into cache; any place is harmless."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _prefetch(builder, pointer(context, builder, signature.args[0], *arguments), for_writing=False)
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


def _gather(name: str, width_of: Callable[[int], int], write: Callable[..., None]) -> Any:
    """Return an intrinsic that gathers lines of ``width_of(itemsize)`` real entries."""

    def gather(
        typing_context: Any,
        target: Any,
        start: Any,
        stride: Any,
        source: Any,
        base: Any,
        places: Any,
        offsets: Any,
        adjacent: Any,
    ) -> Any:
        """Set ``target[start + i stride + j] = source[base + offsets[i] + places[j]]`` for all i and one line of j.

        ``adjacent`` promises ``places[j] = places[0] + j``.
        """
        signature = types.void(target, start, stride, source, base, places, offsets, adjacent)
        width = width_of(target.dtype.bitwidth // 8)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _generate_gather(context, builder, signature, arguments, width, write)
            return context.get_dummy_value()

        return signature, generate

    gather.__name__ = gather.__qualname__ = name
    return intrinsic(gather)


def _generate_gather(
    context: Any, builder: Any, signature: Any, arguments: Any, width: int, write: Callable[..., None]
) -> None:
    target, start, stride, source, base, places, offsets, adjacent = arguments
    item = signature.args[0].dtype.bitwidth // 8
    vector = ir.VectorType(context.get_value_type(signature.args[0].dtype), width)
    parts = 2 if write is not _write_real else 1
    n_places = width // 2 if write is _write_pairs else width
    lane_table = pointer(context, builder, signature.args[5], places, _INDEX(0))
    offset_array = context.make_array(signature.args[6])(context, builder, offsets)
    count = builder.extract_value(offset_array.shape, 0)
    origin = pointer(context, builder, signature.args[3], source, builder.mul(base, _INDEX(parts)))
    goal = pointer(context, builder, signature.args[0], target, start)
    lanes = [builder.mul(builder.load(builder.gep(lane_table, [_INDEX(j)])), _INDEX(parts)) for j in range(n_places)]

    def each_line(together: bool) -> None:
        with cgutils.for_range(builder, count) as step:
            offset = builder.mul(builder.load(builder.gep(offset_array.data, [step.index])), _INDEX(parts))
            place = builder.bitcast(builder.gep(goal, [builder.mul(step.index, stride)]), vector.as_pointer())
            write(builder, place, vector, builder.gep(origin, [offset]), lanes, together, item)

    with builder.if_else(adjacent) as (together, apart):
        with together:
            each_line(True)
        with apart:
            each_line(False)


def _write_real(builder: Any, place: Any, vector: Any, at: Any, lanes: list[Any], together: bool, item: int) -> None:
    builder.store(_read(builder, vector, at, lanes, 1, together, item), place, align=item)


def _write_pairs(builder: Any, place: Any, vector: Any, at: Any, lanes: list[Any], together: bool, item: int) -> None:
    """Write a line of pairs (re, im), then one of pairs (-im, re)."""
    line = _read(builder, vector, at, lanes, 2, together, item)
    turned = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [j ^ 1 for j in range(vector.count)])
    signs = ir.Constant(vector, [-1.0, 1.0] * (vector.count // 2))
    builder.store(line, place, align=item)
    line = builder.fmul(builder.shuffle_vector(line, line, turned), signs)
    builder.store(line, builder.gep(place, [_INDEX(1)]), align=item)


def _write_parts(builder: Any, place: Any, vector: Any, at: Any, lanes: list[Any], together: bool, item: int) -> None:
    """Write a line of real parts, then one of imaginary parts."""
    for part in range(2):
        line = _read(builder, vector, builder.gep(at, [_INDEX(part)]), lanes, 1, False, item)
        builder.store(line, builder.gep(place, [_INDEX(part)]), align=item)


def _read(builder: Any, vector: Any, at: Any, lanes: list[Any], run: int, together: bool, item: int) -> Any:
    """Return a vector of ``run`` entries from each lane, or of neighbours from the first one on."""
    if together:
        first = builder.bitcast(builder.gep(at, [lanes[0]]), vector.as_pointer())
        return builder.load(first, align=item)
    line = ir.Constant(vector, ir.Undefined)
    for j in range(vector.count):
        value = builder.load(builder.gep(at, [builder.add(lanes[j // run], _INDEX(j % run))]))
        line = builder.insert_element(line, value, ir.IntType(32)(j))
    return line


def _line_width(item: int) -> int:
    return VECTOR_BYTES // item


def _gather_across(name: str, width_of: Callable[[int], int]) -> Any:
    """Return an intrinsic that gathers lines of ``width_of(itemsize)`` real entries, many neighbours at a time."""

    def gather(
        typing_context: Any,
        target: Any,
        start: Any,
        stride: Any,
        source: Any,
        base: Any,
        places: Any,
        count: Any,
    ) -> Any:
        """Set ``target[start + i stride + j] = source[base + i + places[j]]`` for one line of j and i < ``count``.

        ``count`` is a multiple of ``ACROSS``: so many neighbours are read and transposed in the registers.
        """
        signature = types.void(target, start, stride, source, base, places, count)
        width = width_of(target.dtype.bitwidth // 8)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _generate_across(context, builder, signature, arguments, width)
            return context.get_dummy_value()

        return signature, generate

    gather.__name__ = gather.__qualname__ = name
    return intrinsic(gather)


def _generate_across(context: Any, builder: Any, signature: Any, arguments: Any, width: int) -> None:
    target, start, stride, source, base, places, count = arguments
    item = signature.args[0].dtype.bitwidth // 8
    side = min(width, _REGISTER_BYTES // item)
    vector = ir.VectorType(context.get_value_type(signature.args[0].dtype), side)
    table = pointer(context, builder, signature.args[5], places, _INDEX(0))
    origin = pointer(context, builder, signature.args[3], source, base)
    goal = pointer(context, builder, signature.args[0], target, start)
    lanes = [builder.gep(origin, [builder.load(builder.gep(table, [_INDEX(j)]))]) for j in range(width)]
    with cgutils.for_range(builder, builder.sdiv(count, _INDEX(side))) as step:
        first = builder.mul(step.index, _INDEX(side))
        for j in range(0, width, side):
            read = [builder.bitcast(builder.gep(lane, [first]), vector.as_pointer()) for lane in lanes[j : j + side]]
            columns = transposed(builder, [builder.load(at, align=item) for at in read])
            for i, column in enumerate(columns):
                row = builder.mul(builder.add(first, _INDEX(i)), stride)
                at = builder.gep(goal, [builder.add(row, _INDEX(j))])
                builder.store(column, builder.bitcast(at, vector.as_pointer()), align=item)


gather_lines = _gather("gather_lines", _line_width, _write_real)
gather_rows = _gather("gather_rows", lambda item: ROWS, _write_real)
gather_lines_across = _gather_across("gather_lines_across", _line_width)
gather_rows_across = _gather_across("gather_rows_across", lambda item: ROWS)
gather_complex_lines = _gather("gather_complex_lines", _line_width, _write_pairs)
gather_complex_rows = _gather("gather_complex_rows", lambda item: ROWS, _write_parts)


@intrinsic
def multiply_tile(
    typing_context: Any,
    rows: Any,
    rows_start: Any,
    lanes: Any,
    lanes_start: Any,
    depth: Any,
    result: Any,
    result_start: Any,
    row_stride: Any,
    accumulate: Any,
) -> Any:
    """Store ``result[i, j] = sum_k rows[k, i] * lanes[k, j]`` for one tile, or add it with ``accumulate``.

    The arrays are one-dimensional, of one real type; ``rows`` holds ``ROWS`` and ``lanes`` ``line_length`` entries
    for each k, next to each other, ``depth >= 1`` times. Rows of the tile lie ``row_stride`` entries apart.
    """
    signature = types.void(rows, rows_start, lanes, lanes_start, depth, result, result_start, row_stride, accumulate)
    return signature, _generate_tile


def _generate_tile(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    rows, rows_start, lanes, lanes_start, depth, result, result_start, row_stride, accumulate = arguments
    entry_type = context.get_value_type(signature.args[0].dtype)
    item = signature.args[0].dtype.bitwidth // 8
    width = VECTOR_BYTES // item
    vector = ir.VectorType(entry_type, width)
    undefined = ir.Constant(vector, ir.Undefined)
    first = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)

    rows_pointer = pointer(context, builder, signature.args[0], rows, rows_start)
    lanes_pointer = pointer(context, builder, signature.args[2], lanes, lanes_start)
    result_pointer = pointer(context, builder, signature.args[5], result, result_start)

    places = [builder.gep(result_pointer, [builder.mul(row_stride, _INDEX(i))]) for i in range(ROWS)]
    places = [builder.bitcast(place, vector.as_pointer()) for place in places]
    for place in places:  # fetched while the sums are made
        _prefetch(builder, place, for_writing=True)

    before = builder.block
    loop, after = builder.append_basic_block("depth"), builder.append_basic_block("store")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, at_rows, at_lanes = builder.phi(_INDEX), builder.phi(rows_pointer.type), builder.phi(lanes_pointer.type)
    sums = [builder.phi(vector) for _ in range(ROWS)]
    lane_values = builder.load(builder.bitcast(at_lanes, vector.as_pointer()), align=item)
    added = []
    for i in range(ROWS):
        value = builder.load(builder.gep(at_rows, [_INDEX(i)]))
        spread = builder.insert_element(undefined, value, ir.IntType(32)(0))
        spread = builder.shuffle_vector(spread, undefined, first)
        # "contract" alone: a fused multiply-add where there is one. NaN and infinity keep their meaning.
        product = builder.fmul(spread, lane_values, flags=("contract",))
        added.append(builder.fadd(sums[i], product, flags=("contract",)))
    k_next = builder.add(k, _INDEX(1))
    rows_next = builder.gep(at_rows, [_INDEX(ROWS)])
    lanes_next = builder.gep(at_lanes, [_INDEX(width)])
    end = builder.block
    builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, after)
    for phi, start, step in (
        (k, _INDEX(0), k_next),
        (at_rows, rows_pointer, rows_next),
        (at_lanes, lanes_pointer, lanes_next),
        *((total, ir.Constant(vector, [0.0] * width), new) for total, new in zip(sums, added, strict=True)),
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(step, end)

    builder.position_at_end(after)
    # Two ways to store: reading the result only to forget it would wait for memory.
    with builder.if_else(accumulate) as (adding, replacing):
        with adding:
            for place, new in zip(places, added, strict=True):
                builder.store(builder.fadd(builder.load(place, align=item), new), place, align=item)
        with replacing:
            for place, new in zip(places, added, strict=True):
                builder.store(new, place, align=item)
    return context.get_dummy_value()


def _prefetch(builder: Any, place: Any, *, for_writing: bool) -> None:
    address = builder.bitcast(place, ir.IntType(8).as_pointer())
    flag = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [address, flag(int(for_writing)), flag(3), flag(1)])
