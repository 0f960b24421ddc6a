"""The order of the axes of every intermediate, chosen so that its consumer needs no copy.

A matrix product takes operands laid out as (batch, rows, columns): the batch group may stand anywhere but last,
rows and columns may be swapped, and the order within each group is free as long as both operands agree on it. Its
result lies as (batch, free of the left, free of the right). An operand that lies as (outer, inner, rest), with free
indices on both sides of the summed ones, needs no copy either: the other operand is multiplied with each of its outer
matrices. Which operand is the left one, which group stands first and which operand is copied where a copy is
unavoidable: those are the choices here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tnet.arrays.pairwise import LEAST_ENTRIES, PairKernel, choose_kernel
from tnet.contraction.pairs import Pair

__all__ = ["Arrangement", "Indices", "Layout", "Tree", "arrange", "memory_layout"]

Indices = tuple[int, ...]

Layout = tuple[int, ...] | None
"""The axes of an array from the slowest in memory to the fastest; None where it is not dense."""

BATCH, FREE, INNER = 0, 1, 2
_CALL = 256  # elements that are copied in the time of one small matrix product
_LARGE_PRODUCT = 1 << 14  # multiply-adds of one of many matrix products that take operands as they lie
_LEVELS_AHEAD = 3  # consumers that a choice looks at; deeper ones hardly ever change it
_HOPELESS = 2**500  # elements, beyond which all is equally dear: larger numbers are no floating point numbers


class Tree(NamedTuple):
    """What is arranged: a tree over index sets without axes of size 1.

    Parameters
    ----------
    n_inputs : int
    pairs : sequence of (int, int)
        Single-assignment numbering.
    sets : sequence of tuple of int
        Indices of each node; of an input, in the order of its memory.
    sizes : sequence of int
    output : tuple of int
    fixed : sequence of bool
        For each input, whether its memory lies in the order of ``sets``; otherwise a matrix product copies it.
    fresh : sequence of bool
        For each input, whether it is copied anyway (to another dtype), so that any order is free.
    dtype : str or None
        Of the computation, where kernels may take the place of matrix products; None for none.
    """

    n_inputs: int
    pairs: Sequence[Pair]
    sets: Sequence[Indices]
    sizes: Sequence[int]
    output: Indices
    fixed: Sequence[bool]
    fresh: Sequence[bool]
    dtype: str | None = None


class Arrangement(NamedTuple):
    """One step: which node stands left, the order of the groups, which operands are copied.

    Parameters
    ----------
    left, right : int
    outer_of : int
        The operand whose outer matrices are multiplied one by one with the other one; -1 where there is none.
    batch : tuple of int
        Or the outer indices.
    left_free, right_free, inner : tuple of int
    copy_left, copy_right : bool
    result : tuple of int
        Order of the axes of the result.
    elementwise : bool
        The right operand is broadcast over the left one, whose order the result keeps.
    kernel : PairKernel or None
        Takes both operands as they lie, in place of all of this but ``result``.
    """

    left: int
    right: int
    outer_of: int
    batch: Indices
    left_free: Indices
    right_free: Indices
    inner: Indices
    copy_left: bool
    copy_right: bool
    result: Indices
    elementwise: bool
    kernel: PairKernel | None = None


def arrange(tree: Tree) -> list[Arrangement]:
    """Choose the layout of every step.

    Parameters
    ----------
    tree : Tree

    Returns
    -------
    list of Arrangement

    Notes
    -----
    Three passes. Upwards: the natural order of each node, as if nothing were ever copied. Downwards: the order that
    its consumer would like, groups first, within the group of summed indices the natural order of the larger
    operand. Upwards again: of the ways to take each operand, as it lies or copied, and to put left and right, the one
    that copies the fewest elements now and in the next three consumers. O(sum of ranks) a pass.
    """
    arranger = _Arranger(tree)
    return [arranger.step(k) for k in range(len(tree.pairs))]


def memory_layout(shape: Sequence[int], strides: Sequence[int], unit: int) -> Layout:
    """Return the order of the axes in memory, or None where there are gaps, reversed axes or broadcast ones.

    Parameters
    ----------
    shape, strides : sequence of int
    unit : int
        Stride of neighbours: the bytes of an element, or 1.
    """
    axes = range(len(shape))
    if 0 in shape:
        return tuple(axes)
    wide = sorted((axis for axis in axes if shape[axis] != 1), key=lambda axis: -strides[axis])
    expected = unit
    for axis in reversed(wide):
        if strides[axis] != expected:
            return None
        expected *= shape[axis]
    if wide == sorted(wide):
        return tuple(axes)  # axes of size 1 stand anywhere: the plain order is the common one
    return (*(axis for axis in axes if shape[axis] == 1), *wide)


class _Way(NamedTuple):
    """How one operand becomes a matrix, and the elements that this costs."""

    copied: bool
    outer: Indices
    free: Indices
    cost: float


class _Arranger:
    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.size = [math.prod(tree.sizes[i] for i in indices) for indices in tree.sets]
        n_nodes = len(tree.sets)
        self.order: list[Indices | None] = [*tree.sets[: tree.n_inputs], *[None] * len(tree.pairs)]
        self.role: list[dict[int, int]] = [{}] * n_nodes  # of each index of a node in the step that consumes it
        self.consumer = [-1] * n_nodes
        self.sibling = [-1] * n_nodes
        self.broadcast = [False] * n_nodes  # consumed elementwise: any order will do
        self._assign_roles()
        self.wish = self._wishes(self._natural_orders())

    def _assign_roles(self) -> None:
        n, sets = self.tree.n_inputs, self.tree.sets
        for k, (a, b) in enumerate(self.tree.pairs):
            in_a, in_b, kept = frozenset(sets[a]), frozenset(sets[b]), frozenset(sets[n + k])
            shared = {i: BATCH if i in kept else INNER for i in sets[a] if i in in_b}
            self.role[a] = {i: shared.get(i, FREE) for i in sets[a]}
            self.role[b] = {i: shared.get(i, FREE) for i in sets[b]}
            self.consumer[a] = self.consumer[b] = n + k
            self.sibling[a], self.sibling[b] = b, a
            if INNER not in shared.values() and (in_a <= in_b or in_b <= in_a):
                self.broadcast[a] = self.broadcast[b] = True

    def _natural_orders(self) -> list[Indices]:
        orders = list(self.tree.sets[: self.tree.n_inputs])
        for a, b in self.tree.pairs:
            role_a, role_b = self.role[a], self.role[b]
            batch = tuple(i for i in orders[a] if role_a[i] == BATCH)
            free_a = tuple(i for i in orders[a] if role_a[i] == FREE)
            free_b = tuple(i for i in orders[b] if role_b[i] == FREE)
            orders.append((*batch, *free_a, *free_b))
        return orders

    def _wishes(self, natural: list[Indices]) -> list[Indices]:
        tree = self.tree
        wish = list(natural)
        wish[-1] = tree.output
        for k in reversed(range(len(tree.pairs))):
            a, b = tree.pairs[k]
            guide = a if self.size[a] >= self.size[b] else b
            inner = tuple(i for i in natural[guide] if self.role[guide][i] == INNER)
            result = wish[tree.n_inputs + k]
            for node in (a, b):
                if node >= tree.n_inputs:
                    role = self.role[node]
                    batch = tuple(i for i in result if role.get(i) == BATCH)
                    free = tuple(i for i in result if role.get(i) == FREE)
                    wish[node] = (*batch, *free, *inner)
        return wish

    def step(self, k: int) -> Arrangement:
        """Choose the arrangement of step ``k``; the steps before it are arranged already."""
        node = self.tree.n_inputs + k
        a, b = self.tree.pairs[k]
        if self.broadcast[a]:
            options = self._broadcast_options(a, b)
        else:
            options = self._product_options(a, b, node)
        best: tuple[float, Arrangement] | None = None
        for cost, option in sorted(options, key=lambda entry: entry[0]):
            if best is not None and cost >= best[0]:
                break
            total = cost + self._later_cost(node, option.result)
            if best is None or total < best[0]:
                best = (total, option)
        assert best is not None
        arrangement = self._by_kernel(node, best[1])
        self.order[node] = arrangement.result
        return arrangement

    def _by_kernel(self, node: int, arrangement: Arrangement) -> Arrangement:
        """Return the arrangement with a kernel in it where that is better than matrix products."""
        left, right, tree = arrangement.left, arrangement.right, self.tree
        if tree.dtype is None or arrangement.elementwise:
            return arrangement
        if self.size[left] + self.size[right] + self.size[node] < LEAST_ENTRIES:
            return arrangement
        if any(side < tree.n_inputs and tree.fresh[side] for side in (left, right)):
            return arrangement
        if arrangement.outer_of >= 0 and not arrangement.copy_left and not arrangement.copy_right:
            macs = self._elements((*arrangement.left_free, *arrangement.right_free, *arrangement.inner))
            if macs >= _LARGE_PRODUCT:
                return arrangement
        orders = self._known_order(left), self._known_order(right)
        kernel = choose_kernel(*orders, arrangement.result, tree.sizes, tree.dtype, "numpy")
        if kernel is None:
            return arrangement
        return arrangement._replace(
            outer_of=-1, copy_left=False, copy_right=False, result=kernel.order, kernel=kernel
        )

    def _copy_cost(self, node: int) -> int:
        return 0 if node < self.tree.n_inputs and self.tree.fresh[node] else min(self.size[node], _HOPELESS)

    def _must_copy(self, node: int) -> bool:
        return node < self.tree.n_inputs and (self.tree.fresh[node] or not self.tree.fixed[node])

    def _broadcast_options(self, a: int, b: int) -> list[tuple[float, Arrangement]]:
        """Scale the operand with all the indices by the other one; the result keeps its order."""
        options = []
        sets = self.tree.sets
        for large, small in ((a, b), (b, a)):
            if len(sets[large]) < len(sets[small]):
                continue
            copied = self._must_copy(large)
            order = self._known_order(large)
            if copied:
                node = self.consumer[large]
                order = tuple(i for i in self.wish[node] if i in self.role[large])
            cost = self._copy_cost(large) if copied else 0
            fresh = small < self.tree.n_inputs and self.tree.fresh[small]
            options.append((cost, Arrangement(large, small, -1, (), (), (), (), copied, fresh, order, True)))
        return options

    def _product_options(self, a: int, b: int, node: int) -> list[tuple[float, Arrangement]]:
        options = []
        for way_a in self._ways(a, node):
            for way_b in self._ways(b, node):
                if way_a.outer and way_b.outer:
                    continue
                shared = self._shared(a, b, way_a, way_b, node)
                if shared is None:
                    continue
                batch, inner = shared
                outer_of = a if way_a.outer else b if way_b.outer else -1
                batch = way_a.outer or way_b.outer or batch
                for (left, first), (right, second) in (((a, way_a), (b, way_b)), ((b, way_b), (a, way_a))):
                    arrangement = Arrangement(
                        left,
                        right,
                        outer_of,
                        batch,
                        first.free,
                        second.free,
                        inner,
                        first.copied,
                        second.copied,
                        (*batch, *first.free, *second.free),
                        False,
                    )
                    options.append((way_a.cost + way_b.cost, arrangement))
        return options

    def _ways(self, node: int, result: int) -> list[_Way]:
        """Return the ways to make a matrix of a node: as it lies, or copied in two orders of its free indices."""
        role, order = self.role[node], self._known_order(node)
        ways: list[_Way] = []
        if not self._must_copy(node):
            if self._is_matrix(node, order):
                free = tuple([i for i in order if role[i] == FREE])
                ways.append(_Way(False, (), free, 0))
            elif _runs([role[i] for i in order]) == [FREE, INNER, FREE]:
                start = next(k for k, i in enumerate(order) if role[i] == INNER)
                rest = tuple([i for i in order[start:] if role[i] == FREE])
                ways.append(_Way(False, order[:start], rest, min(_CALL * self._elements(order[:start]), _HOPELESS)))
        later = self.role[result]
        wished = [i for i in self.wish[result] if role.get(i) == FREE]
        orders = dict.fromkeys(
            (tuple(wished), *(tuple(sorted(wished, key=lambda i: sign * later.get(i, 0))) for sign in (1, -1)))
        )
        return ways + [_Way(True, (), free, self._copy_cost(node)) for free in orders]

    def _shared(self, a: int, b: int, way_a: _Way, way_b: _Way, node: int) -> tuple[Indices, Indices] | None:
        """Return the order within the batch and the inner group; None where the operands disagree."""
        found = []
        for operand in (a, b):
            role, order = self.role[operand], self._known_order(operand)
            found.append([tuple([i for i in order if role[i] == group]) for group in (BATCH, INNER)])
        if way_a.copied and way_b.copied:
            batch = tuple([i for i in self.wish[node] if self.role[a].get(i) == BATCH])
            return batch, found[0][1] if self.size[a] >= self.size[b] else found[1][1]
        if not way_a.copied and not way_b.copied and found[0] != found[1]:
            return None
        batch, inner = found[1] if way_a.copied else found[0]
        return batch, inner

    def _elements(self, indices: Indices) -> int:
        return math.prod([self.tree.sizes[i] for i in indices])

    def _known_order(self, node: int) -> Indices:
        order = self.order[node]
        assert order is not None
        return order

    def _is_matrix(self, node: int, order: Indices) -> bool:
        """Return whether each group is one run of axes, the batch not the last."""
        runs = _runs([self.role[node][i] for i in order])
        return len(set(runs)) == len(runs) and (len(runs) < 2 or runs[-1] != BATCH)

    def _later_cost(self, node: int, order: Indices) -> float:
        """Return elements that consumers will have to copy if ``node`` lies in this order."""
        total = 0.0
        for level in range(_LEVELS_AHEAD):
            consumer = self.consumer[node]
            if consumer < 0:
                # A permuted view of the result costs nothing, but is less handy than the plain order.
                return total + (0.0 if level or order == self.tree.output else 0.5)
            role = self.role[node]
            if self.broadcast[node]:
                if self.size[node] < self.size[consumer]:
                    return total
            else:
                runs = _runs([role[i] for i in order])
                if runs == [FREE, INNER, FREE]:
                    start = next(k for k, i in enumerate(order) if role[i] == INNER)
                    total += min(self.size[node], _CALL * self._elements(order[:start]), _HOPELESS)
                elif len(set(runs)) < len(runs) or (level == 0 and len(runs) > 1 and runs[-1] == BATCH):
                    return total + min(self.size[node], _HOPELESS)
                if level == 0:
                    total += self._disagreement(node, order)
                order = tuple(i for i in order if role[i] != INNER)
            node = consumer
        return total

    def _disagreement(self, node: int, order: Indices) -> int:
        """Return elements to copy because two operands have their shared indices in two orders."""
        role, sibling = self.role[node], self.sibling[node]
        theirs = self.order[sibling]
        theirs = self.wish[sibling] if theirs is None else theirs
        for group in (BATCH, INNER):
            if tuple(i for i in order if role[i] == group) != tuple(i for i in theirs if role.get(i) == group):
                return min(self.size[node], self._copy_cost(sibling))
        return 0


def _runs(values: Sequence[int]) -> list[int]:
    return [value for k, value in enumerate(values) if k == 0 or values[k - 1] != value]
