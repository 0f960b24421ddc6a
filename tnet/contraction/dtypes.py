"""Which dtype a contraction computes in, and which it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tnet.errors import BackendError

__all__ = ["DtypePlan", "dtype_plan"]

_ITEMSIZE = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
_WHOLE = frozenset(name for name in _ITEMSIZE if "int" in name or name == "bool")


@dataclass(frozen=True)
class DtypePlan:
    """Dtype names and bytes an element of operands, computation and result.

    Parameters
    ----------
    operands : tuple of str
    compute, result : str
    """

    operands: tuple[str, ...]
    compute: str
    result: str

    @property
    def operand_itemsizes(self) -> tuple[int, ...]:
        """Bytes an element of each operand."""
        return tuple(_ITEMSIZE[name] for name in self.operands)

    @property
    def converted(self) -> frozenset[int]:
        """Operands in another dtype than that of the computation."""
        return frozenset(k for k, name in enumerate(self.operands) if name != self.compute)

    @property
    def compute_itemsize(self) -> int:
        """Bytes an element of the intermediates."""
        return _ITEMSIZE[self.compute]

    @property
    def result_itemsize(self) -> int:
        """Bytes an element of the result."""
        return _ITEMSIZE[self.result]


def dtype_plan(names: Sequence[str]) -> DtypePlan:
    """Choose the dtypes of a contraction.

    Floating point follows the promotion rules of the array API standard; half precision is computed
    in float32 and comes back. Integers and booleans accumulate in 64 bits and return so: 8 bits
    overflow at the first sum. Integers beside floating point take the floating type.

    Raises
    ------
    BackendError
        A dtype that holds no numbers, or uint64 beside signed integers.
    """
    for position, name in enumerate(names):
        if name not in _ITEMSIZE:
            raise BackendError(
                f"operand {position} has dtype {name}; allowed are {', '.join(_ITEMSIZE)}: convert it first."
            )
    present = set(names)
    floating = present - _WHOLE
    if not floating:
        compute = result = _whole_type(present)
    elif any(name.startswith("complex") for name in floating):
        double = floating & {"complex128", "float64"}
        compute = result = "complex128" if double else "complex64"
    elif "float64" in floating:
        compute = result = "float64"
    else:
        compute = "float32"
        result = next(iter(floating)) if len(floating) == 1 else "float32"
    return DtypePlan(tuple(names), compute, result)


def _whole_type(present: set[str]) -> str:
    if "uint64" not in present:
        return "int64"
    signed = sorted(name for name in present if name.startswith("int"))
    if signed:
        raise BackendError(
            f"operands of dtypes uint64 and {signed[0]} have no common integer type: convert one of them."
        )
    return "uint64"
