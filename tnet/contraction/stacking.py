"""Small steps of equal shapes, none of which needs another, run as one product of stacks.

A call on matrices of a few entries costs some hundred times what it computes, so k of them at once are cheaper, as
long as the operands need not be gathered at the price of the calls that are saved. Results stay together: what the
steps of one stack leave to the steps of another is a slice of its result, and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tnet.contraction.dtypes import DtypePlan
from tnet.contraction.lowering import Operand, Program, Run, Stack, Step
from tnet.contraction.memory import peak_memory
from tnet.contraction.spec import ContractionSpec, Shape

__all__ = ["with_stacks"]

_FEWEST = 4  # steps of a stack
_MOST_MACS = 1 << 13  # of one step, beyond which the call counts for little
_MOST_BYTES = 96 * 2**10  # of an operand of a stack: what is larger comes from the system as fresh pages
_MORE_BYTES = 2**18  # that a call may hold at its peak for the sake of stacks: they stay in the caches
_MORE_SHARE = 100  # one part in so many of the peak without stacks

# What the parts cost, in small matrix products called from the loop over steps: by NumPy 1 microsecond, by torch 2.
_VIEW, _COPY = 0.2, 0.6
_STACK, _MATRIX = 2.4, 0.1
_GATHER, _GATHERED = 1.2, 0.17
_SLICE = 0.4
_SINGLES, _SINGLE = 0.3, 0.25
_ENTRY = 4e-4  # each entry that is copied
_CLEARLY = 1.2  # as much more must the steps one by one cost, for the estimate is rough


class _Side(NamedTuple):
    """How an operand lies and what is done with it; equal for all members of a stack."""

    lies: Shape
    viewed: Shape
    permutation: tuple[int, ...] | None
    shape: Shape
    is_copied: bool


class _Kind(NamedTuple):
    """What the members of a stack have in common; steps of one level do not need each other."""

    level: int
    is_product: bool
    left: _Side
    right: _Side
    raw: Shape


def with_stacks(spec: ContractionSpec, program: Program, dtypes: DtypePlan) -> Program:
    """Return the program with small steps of equal shapes stacked, where that saves time and takes little memory.

    Parameters
    ----------
    spec : ContractionSpec
    program : Program
        Of a contraction that is not cut into slices.
    dtypes : DtypePlan

    Notes
    -----
    Steps are of one kind when their operands are reshaped and permuted alike and when the longest way down to a leaf
    is the same. The members of a stack are ordered as their consumers are, so that all left operands of a later stack
    lie in a row, and all right ones: over a regular tree only the leaves are gathered. A stack is made where the
    calls that it saves are worth more than what it gathers and hands out. One that does not pay is left out, and the
    others are looked at again without its help. All are given up if the peak rises by more than 1 % and more than
    256 KiB.
    O(n log n) for n steps, and two walks through the program where there is a stack.
    """
    sets = _sets_of_equal_steps(program, dtypes)
    stacks: list[Stack] = []
    while sets:
        stacks = _linked(program, sets)
        paying = [steps for steps, stack in zip(sets, stacks, strict=True) if _pays(steps[0], stack, program)]
        if len(paying) == len(sets):
            break
        sets = paying
    if not sets:
        return program
    stacked = _reordered(program, sets, stacks)
    plain = peak_memory(spec, program, dtypes, sliced=False).n_bytes
    most = plain + max(_MORE_BYTES, plain // _MORE_SHARE)
    return stacked if peak_memory(spec, stacked, dtypes, sliced=False).n_bytes <= most else program


def _sets_of_equal_steps(program: Program, dtypes: DtypePlan) -> list[list[Step]]:
    """Return the sets of steps that could be stacks, those next to the leaves first."""
    level: dict[int, int] = {}
    kinds: dict[_Kind, list[Step]] = {}
    converted = dtypes.converted
    for step in program.steps:
        level[step.node] = 1 + max(level.get(step.left.source, 0), level.get(step.right.source, 0))
        kind = _kind(step, level[step.node], program, converted)
        if kind is not None:
            kinds.setdefault(kind, []).append(step)
    large = [(kind, steps) for kind, steps in kinds.items() if len(steps) >= _FEWEST]
    if not large:
        return []
    consumers = {
        operand.source: (step.node, side)
        for step in program.steps
        for side, operand in enumerate((step.left, step.right))
    }
    places: dict[int, tuple[int, int]] = {}
    found: list[list[Step]] = []

    def place_above(step: Step) -> tuple[int, int, int, int]:
        node, side = consumers[step.node]
        above, position = places.get(node, (len(large), 0))
        return above, side, position, step.node

    for number, (kind, steps) in enumerate(sorted(large, key=lambda entry: -entry[0].level)):
        steps.sort(key=place_above)
        places |= {step.node: (number, k) for k, step in enumerate(steps)}
        widest = max(math.prod(shape) for shape in (kind.left.shape, kind.right.shape, kind.raw))
        most = max(1, _MOST_BYTES // (widest * dtypes.compute_itemsize))
        pieces = [steps[k : k + most] for k in range(0, len(steps), most)]
        found[:0] = [piece for piece in pieces if len(piece) >= _FEWEST]
    return found


def _kind(step: Step, level: int, program: Program, converted: frozenset[int]) -> _Kind | None:
    """Return what a step must share with others to be stacked with them; None where it runs alone."""
    is_matrix = len(step.left.shape) == len(step.right.shape) == 2
    if step.kernel is not None or not (is_matrix if step.is_product else step.raw):
        return None
    if not 0 < step.macs <= _MOST_MACS:
        return None
    left, right = (_side(operand, program, converted) for operand in (step.left, step.right))
    return None if left is None or right is None else _Kind(level, step.is_product, left, right, step.raw)


def _side(operand: Operand, program: Program, converted: frozenset[int]) -> _Side | None:
    lies = operand.viewed
    if operand.source < len(program.leaves):
        leaf = program.leaves[operand.source]
        is_plain = leaf.is_dense and not leaf.diagonals and not leaf.summed and leaf.permutation is None
        if not is_plain or operand.source in converted:
            return None
        lies = leaf.shape
    if not lies:  # numbers have no axis to be joined along
        return None
    return _Side(lies, operand.viewed, operand.permutation, operand.shape, operand.copied is not None)


def _linked(program: Program, sets: Sequence[Sequence[Step]]) -> list[Stack]:
    """Return the stacks of these sets, their place among the steps not known yet."""
    places = {step.node: (k, j) for k, steps in enumerate(sets) for j, step in enumerate(steps)}
    runs = [[_run([operand.source for operand in side], places) for side in _sides(steps)] for steps in sets]
    taken = {
        operand.source
        for steps, pair in zip(sets, runs, strict=True)
        for side, run in zip(_sides(steps), pair, strict=True)
        if run is not None
        for operand in side
    }
    return [
        Stack(0, len(steps), left, right, tuple([j for j, step in enumerate(steps) if step.node not in taken]))
        for steps, (left, right) in zip(sets, runs, strict=True)
    ]


def _sides(steps: Sequence[Step]) -> tuple[list[Operand], list[Operand]]:
    return [step.left for step in steps], [step.right for step in steps]


def _run(sources: Sequence[int], places: dict[int, tuple[int, int]]) -> Run | None:
    found = [places.get(source, (-1, 0)) for source in sources]
    stack, start = found[0]
    stride = found[1][1] - start
    if stack < 0 or stride <= 0 or found != [(stack, start + stride * j) for j in range(len(found))]:
        return None
    return Run(stack, start, stride)


def _pays(step: Step, stack: Stack, program: Program) -> bool:
    """Return whether a stack of steps like ``step`` is clearly cheaper than they are one by one."""
    n = stack.n
    saved, cost = float(n), _STACK + n * _MATRIX
    for operand, run in ((step.left, stack.left), (step.right, stack.right)):
        entries = math.prod(operand.shape)
        cost += _SLICE if run is not None else _GATHER + n * (_GATHERED + _ENTRY * entries)
        if operand.source < len(program.leaves) and program.leaves[operand.source].shape != operand.viewed:
            saved += n * _VIEW
        if operand.permutation is not None:
            saved += n * _VIEW
            cost += _VIEW
        if operand.copied is not None:
            saved += n * (_COPY + _ENTRY * entries)
            cost += _COPY + n * _ENTRY * entries
    if stack.single:
        cost += _SINGLES + len(stack.single) * _SINGLE
    return saved >= _CLEARLY * cost


def _reordered(program: Program, sets: Sequence[Sequence[Step]], stacks: Sequence[Stack]) -> Program:
    """Return the program with each stack where its first member stood, and before it what it needs."""
    steps = {step.node: step for step in program.steps}
    set_of = {step.node: k for k, members in enumerate(sets) for step in members}
    order: list[Step] = []
    done: set[int] = set()
    numbers: dict[int, int] = {}
    made: list[Stack] = []

    def renumbered(run: Run | None) -> Run | None:
        return None if run is None else run._replace(stack=numbers[run.stack])

    work = [step.node for step in reversed(program.steps)]
    while work:
        node = work.pop()
        if node in done:
            continue
        k = set_of.get(node)
        members = [steps[node]] if k is None else sets[k]
        sources = [operand.source for step in members for operand in (step.left, step.right)]
        missing = {source for source in sources if source in steps and source not in done}
        if missing:
            work += [node, *sorted(missing, reverse=True)]
            continue
        if k is not None:
            stack = stacks[k]
            numbers[k] = len(made)
            left, right = renumbered(stack.left), renumbered(stack.right)
            made.append(stack._replace(first=len(order), left=left, right=right))
        order += members
        done |= {step.node for step in members}
    return program._replace(steps=tuple(order), stacks=tuple(made))
