"""A block of one cache line each way, transposed in the vector registers.

Importing this module imports Numba.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types

__all__ = ["line_length", "pointer", "transpose_block", "transposed"]

_LINE_BYTES = 64
_VECTOR_BYTES = 32
_INDEX = ir.IntType(64)

intrinsic: Any = extending.intrinsic  # its declared type keeps the typing context among the arguments


@intrinsic
def line_length(typing_context: Any, array: Any) -> Any:
    """Return the entries of a cache line, as a constant of the compiler."""
    length = _LINE_BYTES * 8 // array.dtype.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.int64, length)

    return types.int64(array), generate


@intrinsic
def transpose_block(
    typing_context: Any, target: Any, goal: Any, step: Any, source: Any, start: Any, stride: Any
) -> Any:
    """Set ``target[goal + j step + i] = source[start + i stride + j]`` for i and j below :func:`line_length`.

    The arrays are one-dimensional, of one type of 4, 8 or 16 bytes.
    """
    signature = types.void(target, goal, step, source, start, stride)
    item = target.dtype.bitwidth // 8
    length, width = _LINE_BYTES // item, _VECTOR_BYTES // item

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, goal, step, source, start, stride = arguments
        vector = ir.VectorType(ir.IntType(8 * item), width)
        origin = pointer(context, builder, signature.args[3], source, start)
        place = pointer(context, builder, signature.args[0], target, goal)
        for i0 in range(0, length, width):
            for j0 in range(0, length, width):
                rows = []
                for i in range(width):
                    at = builder.gep(origin, [builder.add(builder.mul(stride, _INDEX(i0 + i)), _INDEX(j0))])
                    rows.append(builder.load(builder.bitcast(at, vector.as_pointer()), align=item))
                for j, row in enumerate(transposed(builder, rows)):
                    at = builder.gep(place, [builder.add(builder.mul(step, _INDEX(j0 + j)), _INDEX(i0))])
                    builder.store(row, builder.bitcast(at, vector.as_pointer()), align=item)
        return context.get_dummy_value()

    return signature, generate


def transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Return the columns of as many vectors as each has entries: halves are exchanged, then quarters, and so on."""
    width = len(rows)
    half = width // 2
    while half:
        for i in range(width):
            if not i & half:
                first, second = rows[i], rows[i + half]
                low = [lane if not lane & half else lane - half + width for lane in range(width)]
                high = [lane + half if not lane & half else lane + width for lane in range(width)]
                rows[i] = _shuffled(builder, first, second, low)
                rows[i + half] = _shuffled(builder, first, second, high)
        half //= 2
    return rows


def _shuffled(builder: Any, first: Any, second: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def pointer(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Return the address of an entry of an array argument of this type."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [place])
