"""Pairwise steps lowered to reshape, permute and matrix product, with every shape precomputed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tnet.arrays.pairwise import PairKernel
from tnet.contraction.layout import Arrangement, Indices, Layout, Tree, arrange
from tnet.contraction.pairs import Pair, result_indices
from tnet.contraction.spec import ContractionSpec, Shape

__all__ = ["Leaf", "Operand", "Program", "Run", "Stack", "Step", "lower"]


class Leaf(NamedTuple):
    """How an input is made ready: diagonals of repeated indices, then sums of those not needed.

    Parameters
    ----------
    n_taken : int
        Elements after the diagonals.
    diagonals : tuple of tuple of int
        Permutations that bring two axes of one index to the end, one for each diagonal taken.
    summed : tuple of int
        Axes to sum over, after the diagonals.
    n_left : int
        Elements after the sums.
    permutation : tuple of int or None
        To the order of memory, after that.
    shape : tuple of int
        After all of it.
    is_dense : bool
        Whether it lies in C order then, so that reshaping it is free.
    """

    n_taken: int
    diagonals: tuple[tuple[int, ...], ...]
    summed: tuple[int, ...]
    n_left: int
    permutation: tuple[int, ...] | None
    shape: Shape
    is_dense: bool


class Operand(NamedTuple):
    """How an operand becomes a matrix, a stack of matrices, or a factor of an elementwise product.

    Parameters
    ----------
    source : int
        Inputs first, then the results of the steps.
    viewed : tuple of int
        To reshape to first, as a view: adjacent axes fused. Results of steps are kept in this shape.
    permutation : tuple of int or None
        Axes after that; None when they stand in order.
    shape : tuple of int
        To reshape to at last.
    copied : int or None
        Elements copied for that, of an empty operand 0; None when it is a view.
    """

    source: int
    viewed: Shape
    permutation: tuple[int, ...] | None
    shape: Shape
    copied: int | None


class Step(NamedTuple):
    """One pairwise contraction: ``result = left @ right`` or, elementwise, ``left * right``.

    Parameters
    ----------
    node : int
        Number of the result.
    left, right : Operand
    is_product : bool
    raw : tuple of int
        Shape of the product.
    kept : tuple of int
        Shape that its consumer wants to see.
    n_result, macs : int
    kernel : PairKernel or None
        Takes both operands as they lie, instead of a matrix product.
    """

    node: int
    left: Operand
    right: Operand
    is_product: bool
    raw: Shape
    kept: Shape
    n_result: int
    macs: int
    kernel: PairKernel | None = None


class Run(NamedTuple):
    """Results of a stack at equal distances, which are one operand of a later stack as they lie.

    Parameters
    ----------
    stack : int
        Its place among the stacks of the program.
    start, stride : int
        The first result, and the distance to the next.
    """

    stack: int
    start: int
    stride: int


class Stack(NamedTuple):
    """Neighbouring steps of equal shapes, none of which needs another, that run as one product of stacks.

    Parameters
    ----------
    first, n : int
        Place of the first of them in ``steps``, and their number.
    left, right : Run or None
        Where the operands lie already; None where they are gathered into a stack, which copies them.
    single : tuple of int
        Members whose results other steps take one by one, counted from 0; as views of the stack.
    """

    first: int
    n: int
    left: Run | None
    right: Run | None
    single: tuple[int, ...]


class Program(NamedTuple):
    """A static list of steps for one slice of a contraction.

    Parameters
    ----------
    leaves : tuple of Leaf
    once : tuple of Step
        Steps that are the same for every slice; done before the first.
    steps : tuple of Step
    single : Operand or None
        The way of the only input to the result, where there is no step.
    final_permutation : tuple of int or None
        Puts the axes of the last result in the order of the output, as a view.
    output_shape : tuple of int
    orders : tuple of tuple of int
        Indices of each node in the order of its memory, without those of size 1.
    stacks : tuple of Stack
        In the order of ``steps``; steps of no stack run one by one.
    """

    leaves: tuple[Leaf, ...]
    once: tuple[Step, ...]
    steps: tuple[Step, ...]
    single: Operand | None
    final_permutation: tuple[int, ...] | None
    output_shape: Shape
    orders: tuple[Indices, ...]
    stacks: tuple[Stack, ...] = ()

    @property
    def carried(self) -> frozenset[int]:
        """Results of ``once`` that every slice reads."""
        made = {step.node for step in self.once}
        used = {operand.source for step in self.steps for operand in (step.left, step.right)}
        return frozenset(made & used)


def lower(
    spec: ContractionSpec,
    pairs: Sequence[Pair],
    sizes: Sequence[int],
    sliced: frozenset[int] = frozenset(),
    *,
    layouts: Sequence[Layout] | None = None,
    converted: frozenset[int] = frozenset(),
    hoisted: frozenset[int] = frozenset(),
    kernels: str | None = None,
) -> Program:
    """Turn pairwise steps into a program.

    Parameters
    ----------
    spec : ContractionSpec
    pairs : sequence of pair of int
        Single-assignment numbering.
    sizes : sequence of int
        Size of each index within one slice.
    sliced : frozenset of int
        Indices that are cut; an input that carries one is a strided view.
    layouts : sequence of (tuple of int or None), optional
        Of each input; C order by default.
    converted : frozenset of int
        Inputs in another dtype than that of the computation.
    hoisted : frozenset of int
        Nodes, no sliced index below them, whose steps are done once, before the first slice.
    kernels : str or None
        Dtype of the computation where the arrays lie in host memory, so that kernels may take the place of matrix
        products.

    Notes
    -----
    Axes of size 1 are dropped on the way in and put back on the way out. O(sum of ranks) dictionary look-ups.
    """
    n = len(spec.inputs)
    sets = [tuple(i for i in indices if sizes[i] != 1) for indices in result_indices(spec, pairs)]
    leaves: list[Leaf] = []
    fixed: list[bool] = []
    for k, indices in enumerate(spec.inputs):
        layout = tuple(range(len(indices))) if layouts is None else layouts[k]
        cut_inside = _cut_inside(indices, layout, spec.sizes, sliced)
        leaf, sets[k] = _lower_leaf(indices, sets[k], layout, sizes, cut_inside)
        leaves.append(leaf)
        fixed.append(leaf.is_dense)
    output = tuple(i for i in spec.output if sizes[i] != 1)
    # A leaf that is summed after its conversion is in the dtype and in order already.
    fresh = [k in converted and not leaf.summed for k, leaf in enumerate(leaves)]
    arrangements = arrange(Tree(n, pairs, sets, sizes, output, fixed, fresh, kernels))
    orders = (*sets[:n], *(arrangement.result for arrangement in arrangements))
    shape = _Shapes(sizes, orders, fixed, n)
    lowered = [_lower_step(n + k, arrangement, shape) for k, arrangement in enumerate(arrangements)]
    kept = {operand.source: operand.viewed for step in lowered for operand in (step.left, step.right)}
    single = None
    output_shape = tuple(sizes[i] for i in spec.output)
    final = None
    if pairs:
        kept[n + len(pairs) - 1], final = _finish(orders[-1], output, spec.output, sizes)
    else:
        order = orders[0]
        permutation = _permutation(order, output)
        # Never hand out a view of an input: who writes to the result would write to it.
        copied = None if leaves[0].summed else shape.size(order)
        single = Operand(0, shape.of(order), permutation, output_shape, copied)
    steps = [step._replace(kept=kept[step.node]) for step in lowered]
    once = tuple(step for step in steps if step.node in hoisted)
    body = tuple(step for step in steps if step.node not in hoisted)
    return Program(tuple(leaves), once, body, single, final, output_shape, orders)


def _lower_leaf(
    indices: Indices, kept: Indices, layout: Layout, sizes: Sequence[int], cut_inside: bool
) -> tuple[Leaf, Indices]:
    """Return the leaf and the order of its axes."""
    diagonals: list[tuple[int, ...]] = []
    given = indices
    while len(set(indices)) < len(indices):
        first = next(k for k, i in enumerate(indices) if indices.count(i) > 1)
        second = indices.index(indices[first], first + 1)
        rest = [k for k in range(len(indices)) if k not in (first, second)]
        diagonals.append((*rest, first, second))
        indices = (*(indices[k] for k in rest), indices[first])
    keep = frozenset(kept)
    summed = tuple(k for k, i in enumerate(indices) if i not in keep and sizes[i] != 1)
    remaining = tuple(i for i in indices if sizes[i] != 1 and i in keep)
    order, is_dense = remaining, False
    if not diagonals and layout is not None:
        memory = tuple(given[axis] for axis in layout if sizes[given[axis]] != 1)
        if not cut_inside and (not summed or memory == tuple(i for i in given if sizes[i] != 1)):
            order, is_dense = tuple(i for i in memory if i in keep), True
    n_taken = math.prod(sizes[i] for i in indices)
    # All axes, those of size 1 first: the permutation to the order of memory must leave them room.
    present = [i for k, i in enumerate(indices) if k not in summed]
    target = [*(i for i in present if sizes[i] == 1), *order]
    permutation = None if order == remaining else _permutation(present, target)
    shape = tuple([sizes[i] for i in (present if permutation is None else target)])
    leaf = Leaf(n_taken, tuple(diagonals), summed, math.prod(shape), permutation, shape, is_dense)
    return leaf, order


def _cut_inside(indices: Indices, layout: Layout, sizes: Sequence[int], sliced: frozenset[int]) -> bool:
    """Return whether slices of an input are strided: a cut along the slowest axis leaves one dense piece."""
    if layout is None or not sliced:
        return False
    memory = [indices[axis] for axis in layout if sizes[indices[axis]] != 1]
    return not sliced.isdisjoint(memory[1:])


class _Shapes:
    """Shapes and numbers of elements of index sequences within one program."""

    def __init__(self, sizes: Sequence[int], orders: Sequence[Indices], fixed: Sequence[bool], n_inputs: int) -> None:
        self.sizes = sizes
        self.orders = orders
        self._fixed = fixed
        self._n_inputs = n_inputs

    def of(self, indices: Sequence[int]) -> Shape:
        return tuple([self.sizes[i] for i in indices])

    def size(self, indices: Sequence[int]) -> int:
        return math.prod([self.sizes[i] for i in indices])

    def is_input(self, node: int) -> bool:
        return node < self._n_inputs

    def is_dense(self, node: int) -> bool:
        return node >= self._n_inputs or self._fixed[node]


def _lower_step(node: int, arrangement: Arrangement, shape: _Shapes) -> Step:
    if arrangement.elementwise:
        left, right = _broadcast(arrangement, shape)
        n_result = shape.size(arrangement.result)
        return Step(node, left, right, False, left.shape, left.shape, n_result, n_result)
    batch, first, second = arrangement.batch, arrangement.left_free, arrangement.right_free
    inner = arrangement.inner
    kernel = arrangement.kernel
    if kernel is not None:
        left = Operand(arrangement.left, kernel.left_shape, None, kernel.left_shape, None)
        right = Operand(arrangement.right, kernel.right_shape, None, kernel.right_shape, None)
        n_result = math.prod(kernel.shape)
        return Step(
            node, left, right, True, kernel.shape, kernel.shape, n_result, n_result * shape.size(inner), kernel
        )
    outer_of = arrangement.outer_of
    head_left = batch if outer_of in (-1, arrangement.left) else ()
    head_right = batch if outer_of in (-1, arrangement.right) else ()
    left = _matrix(arrangement.left, arrangement.copy_left, head_left, first, inner, shape)
    right = _matrix(arrangement.right, arrangement.copy_right, head_right, inner, second, shape)
    raw = (shape.size(first), shape.size(second))
    raw = (shape.size(batch), *raw) if batch else raw
    n_result = math.prod(raw)
    return Step(node, left, right, True, raw, raw, n_result, n_result * shape.size(inner))


def _matrix(node: int, copied: bool, batch: Indices, rows: Indices, columns: Indices, shape: _Shapes) -> Operand:
    """Lay out an operand as (batch, rows, columns)."""
    order = shape.orders[node]
    wanted = (batch, rows, columns) if batch else (rows, columns)
    final = tuple([shape.size(group) for group in wanted])
    if not copied:
        place = {i: k for k, group in enumerate(wanted) for i in group}
        runs = list(dict.fromkeys(place[i] for i in order))
        # Empty groups are axes of size 1; where they stand is free, so they keep their place.
        missing = [k for k in range(len(wanted)) if k not in runs]
        present = iter(runs)
        where = [k if k in missing else next(present) for k in range(len(wanted))]
        viewed = tuple([final[k] for k in where])
        permutation = _permutation(where, range(len(wanted)))
        return Operand(node, viewed, permutation, final, None)
    target = tuple(i for group in wanted for i in group)
    viewed, permutation = _fused(order, target, shape, fuse=not shape.is_input(node))
    return Operand(node, viewed, permutation, final, shape.size(order))


def _broadcast(arrangement: Arrangement, shape: _Shapes) -> tuple[Operand, Operand]:
    large, small = arrangement.left, arrangement.right
    order, theirs = arrangement.result, shape.orders[small]
    fuse = shape.is_dense(small) and not arrangement.copy_right
    after = {i: theirs[k + 1] for k, i in enumerate(theirs[:-1])} if fuse else {}
    carried = frozenset(theirs)

    def joined(first: int, second: int) -> bool:
        if first in carried and second in carried:
            return after.get(first) == second
        return first not in carried and second not in carried

    groups: list[list[int]] = []
    for i in order:
        if groups and joined(groups[-1][-1], i):
            groups[-1].append(i)
        else:
            groups.append([i])
    together = tuple([shape.size(group) for group in groups])
    mine = shape.orders[large]
    if arrangement.copy_left:
        viewed, permutation = _fused(mine, order, shape, fuse=not shape.is_input(large))
        left = Operand(large, viewed, permutation, together, shape.size(mine))
    else:
        left = Operand(large, together, None, together, None)
    own = [tuple(group) for group in groups if group[0] in carried]
    by_memory = sorted(own, key=lambda group: theirs.index(group[0]))
    viewed = tuple([shape.size(group) for group in by_memory])
    permutation = _permutation(by_memory, own)
    spread = tuple([shape.size(group) if group[0] in carried else 1 for group in groups])
    if permutation is None and shape.is_dense(small) and not arrangement.copy_right:
        viewed = spread  # one reshape does both
    right = Operand(small, viewed, permutation, spread, shape.size(theirs) if arrangement.copy_right else None)
    return left, right


def _fused(order: Indices, target: Indices, shape: _Shapes, *, fuse: bool) -> tuple[Shape, tuple[int, ...] | None]:
    """Return a shape with axes fused that stay together, and the permutation from there to ``target``.

    An input keeps its axes: fusing them would be one more reshape in each call.
    """
    after = {i: target[k + 1] for k, i in enumerate(target[:-1])} if fuse else {}
    groups: list[list[int]] = []
    for i in order:
        if groups and after.get(groups[-1][-1]) == i:
            groups[-1].append(i)
        else:
            groups.append([i])
    heads = [group[0] for group in groups]
    sought = [i for i in target if i in frozenset(heads)]
    return tuple([shape.size(group) for group in groups]), _permutation(heads, sought)


def _finish(
    order: Indices, wide: Indices, output: Indices, sizes: Sequence[int]
) -> tuple[Shape, tuple[int, ...] | None]:
    """Return the shape to keep the last result in, and the permutation to the output."""
    if order == wide:
        return tuple(sizes[i] for i in output), None
    full = (*order, *(i for i in output if sizes[i] == 1))
    return tuple(sizes[i] for i in full), _permutation(full, output)


def _permutation(have: Sequence[object], want: Sequence[object]) -> tuple[int, ...] | None:
    have, want = list(have), list(want)
    return None if have == want else tuple([have.index(i) for i in want])
