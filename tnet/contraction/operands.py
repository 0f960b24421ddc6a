"""What a plan is called with, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tnet.arrays import Array, as_array
from tnet.errors import InputError
from tnet.formats import TensorNetwork

__all__ = ["as_operands"]


def as_operands(given: Sequence[Any]) -> list[Array]:
    """Return every operand as an array; a network is refused, for a plan takes its tensors."""
    for x in given:
        if isinstance(x, TensorNetwork):
            raise InputError("a plan is called with arrays, not with a TensorNetwork: write plan(*network.tensors).")
    return [as_array(x, f"operand {k}") for k, x in enumerate(given)]
