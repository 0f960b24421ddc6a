"""What a plan is called with: arrays of the planned shapes, whose bytes stay within its limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tnet.arrays import Array, as_array, device_kind, library_name
from tnet.contraction.memory import format_bytes
from tnet.contraction.spec import ContractionSpec, were_given
from tnet.errors import InputError, MemoryLimitError, ShapeError
from tnet.formats import TensorNetwork

__all__ = ["as_operands", "lie_on_host", "require_shapes", "require_within"]


def as_operands(given: Sequence[Any]) -> list[Array]:
    """Return every operand as an array; a network is refused, for a plan takes its tensors."""
    for x in given:
        if isinstance(x, TensorNetwork):
            raise InputError("a plan is called with arrays, not with a TensorNetwork: write plan(*network.tensors).")
    return [as_array(x, f"operand {k}") for k, x in enumerate(given)]


def lie_on_host(operands: Sequence[Array]) -> bool:
    """Return whether the kernels for host memory can read the operands: arrays of NumPy, or of torch on the CPU."""
    first = operands[0]
    return library_name(first) in ("numpy", "torch") and device_kind(first) == "cpu"


def require_shapes(spec: ContractionSpec, shapes: Sequence[Sequence[int]]) -> None:
    """Raise ShapeError, naming the operand, where the shapes are not the planned ones."""
    if len(shapes) != len(spec.inputs):
        raise ShapeError(f"the plan has {len(spec.inputs)} operands, but {were_given(len(shapes))}.")
    for k, (given, planned) in enumerate(zip(shapes, spec.input_shapes, strict=True)):
        if tuple(given) != planned:
            raise ShapeError(
                f"operand {k} has shape {tuple(given)}, but the plan was made for {planned}; plan again."
            )


def require_within(memory_limit: int | None, needed: int, dtypes: Sequence[str]) -> None:
    """Raise MemoryLimitError where operands of these dtypes need more bytes than the plan may take."""
    if memory_limit is not None and needed > memory_limit:
        raise MemoryLimitError(
            f"with operands of {', '.join(dict.fromkeys(dtypes))} in this memory layout, the plan takes "
            f"{format_bytes(needed)}, above its memory_limit of {format_bytes(memory_limit)}; "
            "plan again from these arrays."
        )
