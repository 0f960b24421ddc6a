"""What every inner solver does with the starts it is asked for, before and after it solves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    device_kind,
    from_numpy_like,
    is_complex,
    scale_by_power_of_two,
    to_numpy,
    total_size,
)
from tnet.errors import BackendError
from tnet.structure_search.evaluate.graph_form import graph_form
from tnet.structure_search.evaluate.stacks import Member, Stack, to_stack
from tnet.structure_search.evaluate.sweep_program import sweep_program
from tnet.structure_search.evaluate.sweeps import dense
from tnet.structure_search.evaluate.targets import Data, prepared_data, target_of
from tnet.structure_search.losses import Loss, WeightedError
from tnet.structure_search.proposals import Start
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Evaluation

__all__ = [
    "failed",
    "fitting_members",
    "in_precision_of",
    "kind_of_device",
    "must_share_order",
    "prepared_for_gradients",
]

_SHARED_FROM = {"cpu": 1 << 13, "cuda": 1 << 20}
"""Entries of x from which structures share a stack only if they share x too, rather than each its permuted copy."""


def kind_of_device(x: Array) -> Literal["cpu", "cuda"]:
    """Return the kind of device whose limits hold for x."""
    return "cuda" if device_kind(x) == "cuda" else "cpu"


def must_share_order(x: Array) -> bool:
    """Return whether x is too large for a permuted copy for each structure of a stack."""
    return total_size(x.shape) >= _SHARED_FROM[kind_of_device(x)]


def fitting_members(x: Array, loss: Loss, starts: Sequence[Start]) -> tuple[dict[int, Evaluation], list[Member]]:
    """Return evaluations, by number, of the starts that do not fit x, and the others with their forms."""
    refused, members = {}, []
    for number, start in enumerate(starts):
        structure = start.structure
        warm_shapes = None if start.warm is None else tuple(tuple(core.shape) for core in start.warm)
        if structure.shape != tuple(x.shape):
            message = f"a structure for shape {structure.shape}, but x has shape {tuple(x.shape)}"
            refused[number] = Evaluation(structure, math.inf, message=message)
        elif warm_shapes is not None and warm_shapes != structure.core_shapes:
            message = f"warm cores of shapes {warm_shapes}, but the structure has {structure.core_shapes}"
            refused[number] = Evaluation(structure, math.inf, message=message)
        else:
            form = graph_form(structure, keep_order=isinstance(loss, WeightedError))
            members.append(Member(number, structure, form))
    return refused, members


def prepared_for_gradients(
    x: Array, loss: Loss, starts: Sequence[Start], solver: str
) -> tuple[Data, dict[int, Evaluation], list[Member]]:
    """Return the data, and as :func:`fitting_members` the starts, for a solver of real numbers.

    Raises
    ------
    BackendError
        If x is complex.
    """
    if is_complex(x):
        raise BackendError(f"{solver} is for real tensors; for complex ones choose the solver ALS.")
    return prepared_data(x, loss), *fitting_members(x, loss, starts)


def failed(stack: Stack, message: str) -> list[tuple[int, Evaluation]]:
    """Return failures for all structures of a stack."""
    return [(m.number, Evaluation(m.structure, math.inf, message=message)) for m in stack.members]


def in_precision_of(x: Array, data: Data, evaluation: Evaluation) -> Evaluation:
    """Return an evaluation with its cores in the scale and the dtype of the tensor that was given.

    Where the dtype is narrower than that of the computation, the error is that of the rounded cores.
    """
    if evaluation.cores is None:
        return evaluation
    cores = tuple(astype(core, x.dtype) for core in evaluation.cores)
    rse = evaluation.rse if x.dtype == data.x.dtype else _error_of(data, evaluation.structure, cores)
    first = scale_by_power_of_two(cores[0], data.exponent)
    return replace(evaluation, rse=rse, cores=(first, *cores[1:]))


def _error_of(data: Data, structure: Structure, cores: Sequence[Array]) -> float:
    xp = array_namespace(data.x)
    member = Member(0, structure, graph_form(structure, keep_order=True))
    program = sweep_program(member.form.graph, member.form.ranks, "layers")
    stack = to_stack(program, member, [to_numpy(core)[None, ...] for core in cores])
    y = dense(xp, program, [from_numpy_like(core, data.x) for core in stack])
    return float(target_of(data, program, [member.form.order]).errors(xp.reshape(y, (1, -1)), slice(0, 1))[0])
