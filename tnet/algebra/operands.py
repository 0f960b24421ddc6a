"""Checks of operands shared by the operations on formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from tnet.arrays import Array, as_array
from tnet.errors import BackendError, ShapeError
from tnet.formats import TensorFormat

__all__ = ["Operand", "as_operand", "check_mode", "check_same_shape", "unsupported"]

Operand: TypeAlias = TensorFormat | Array
"""A format of :mod:`tnet.formats` or a dense array."""


def as_operand(t: object, name: str) -> Operand:
    """Return a format as it is, and anything else as an array."""
    return t if isinstance(t, TensorFormat) else as_array(t, name)


def unsupported(operation: str, operands: Sequence[object], remedy: str) -> BackendError:
    """Return the error for an operation that is not defined for these kinds of operands."""
    kinds = " and ".join(type(t).__name__ if isinstance(t, TensorFormat) else "a dense array" for t in operands)
    return BackendError(f"{operation} is not defined for {kinds}: {remedy}")


def check_same_shape(operation: str, a: Operand, b: Operand) -> None:
    """Raise ShapeError unless the two operands have the same shape, and the same split if operators."""
    shapes = tuple(a.shape), tuple(b.shape)
    if shapes[0] != shapes[1]:
        raise ShapeError(f"{operation}: shapes {shapes[0]} and {shapes[1]} differ; give equal shapes.")


def check_mode(mode: object, ndim: int) -> int:
    """Return ``mode`` as an index counted from 0; negative values count from the end."""
    if isinstance(mode, (bool, np.bool_)) or not isinstance(mode, (int, np.integer)):
        raise ShapeError(f"mode={mode!r}: give an integer.")
    if not -ndim <= mode < ndim:
        raise ShapeError(f"mode={mode} of a tensor with {ndim} modes: give 0 to {ndim - 1}.")
    return int(mode) % ndim
