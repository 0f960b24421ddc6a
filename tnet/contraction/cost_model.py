"""How long a program takes: its steps, multiply-adds and copies, each at the rate of this host for such shapes."""

from __future__ import annotations

import math

from tnet.contraction.dtypes import DtypePlan
from tnet.contraction.lowering import Operand, Program, Stack, Step
from tnet.contraction.rates import Rates

__all__ = ["program_seconds"]

_IN_CACHE = 1 << 18  # elements of operands and result that a matrix product finds in the caches


def program_seconds(program: Program, dtypes: DtypePlan, n_slices: int, rates: Rates) -> float:
    """Return the predicted seconds of a call; infinite beyond the range of floating point.

    Parameters
    ----------
    program : Program
    dtypes : DtypePlan
    n_slices : int
    rates : Rates
    """
    try:
        once = sum(_step_seconds(step, program, rates, dtypes.compute_itemsize) for step in program.once)
        return rates.call + once + n_slices * _slice_seconds(program, dtypes, n_slices, rates)
    except OverflowError:
        return math.inf


def _slice_seconds(program: Program, dtypes: DtypePlan, n_slices: int, rates: Rates) -> float:
    item = dtypes.compute_itemsize
    seconds, start = 0.0, 0
    for stack in program.stacks:
        seconds += sum(_step_seconds(step, program, rates, item) for step in program.steps[start : stack.first])
        seconds += _stack_seconds(stack, program, rates, item)
        start = stack.first + stack.n
    seconds += sum(_step_seconds(step, program, rates, item) for step in program.steps[start:])
    if program.single is not None:
        seconds += rates.step + _operand_seconds(program.single, program, rates)
    if n_slices > 1:
        size = math.prod(program.output_shape)
        seconds += 2 * rates.step + len(program.leaves) * rates.view + rates.times_seconds(64, size)
    return seconds


def _step_seconds(step: Step, program: Program, rates: Rates, item: int) -> float:
    seconds = rates.step + sum(_operand_seconds(side, program, rates) for side in (step.left, step.right))
    if step.kept != step.raw:
        seconds += rates.view
    if not step.is_product:
        run = step.raw[-1] if step.raw else 1
        return seconds + rates.times_seconds(run, step.n_result)
    if step.kernel is not None:
        return seconds + _kernel_seconds(step, rates)
    rows, columns = step.raw[-2:]
    inner = step.left.shape[-1]
    n_matrices = step.raw[0] if len(step.raw) == 3 else 1
    seconds += n_matrices * rates.mac_seconds(rows, inner, columns)
    if len(step.raw) == 3:
        seconds += rates.stacked + n_matrices * rates.matrix
    moved = item * (step.n_result + math.prod(step.left.shape) + math.prod(step.right.shape))
    return seconds + rates.byte * max(0, moved - item * _IN_CACHE)


def _stack_seconds(stack: Stack, program: Program, rates: Rates, item: int) -> float:
    """Return the seconds of a stack: what its members do beside their calls, and the calls of one step."""
    step = program.steps[stack.first]
    overhead = rates.step + sum(rates.view * (operand.permutation is not None) for operand in (step.left, step.right))
    members = max(0.0, _step_seconds(step, program, rates, item) - overhead) + rates.matrix
    seconds = overhead + rates.stacked + stack.n * members + rates.view * len(stack.single)
    for operand, run in ((step.left, stack.left), (step.right, stack.right)):
        size = math.prod(operand.shape)
        if run is None:
            seconds += rates.step + stack.n * (rates.view + rates.copy_seconds(size, size))
        else:
            seconds += 2 * rates.view
    return seconds


def _kernel_seconds(step: Step, rates: Rates) -> float:
    """Return the seconds of a kernel: multiply-adds of small products, and one pass over all three arrays."""
    assert step.kernel is not None
    entries = step.n_result + math.prod(step.left.shape) + math.prod(step.right.shape)
    passes = rates.times_seconds(64, entries)
    if step.kernel.packing is None:
        return passes + rates.times_seconds(64, step.macs)
    return passes + step.macs * rates.mac_seconds(64, 64, 64) / 64**3


def _operand_seconds(operand: Operand, program: Program, rates: Rates) -> float:
    seconds = rates.view if operand.permutation is not None else 0.0
    if operand.source < len(program.leaves):
        leaf = program.leaves[operand.source]
        seconds += rates.view * (leaf.shape != operand.viewed)
        if leaf.diagonals or leaf.summed:
            seconds += 2 * rates.step + rates.copy_seconds(1 if leaf.diagonals else 64, leaf.n_taken)
    if operand.copied:
        axes = operand.permutation
        run, k = 1, len(operand.viewed) - 1
        while k >= 0 and (axes is None or axes[k] == k):
            run, k = run * operand.viewed[k], k - 1
        seconds += rates.view + rates.copy_seconds(run, operand.copied)
    return seconds
