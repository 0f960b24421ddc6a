"""In which order the cores of a layer meet each other and the input: the fastest at the rates of a device."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tnet.contraction.rates import Rates

__all__ = ["TOKENS", "Operand", "Order", "Step", "best_order"]

TOKENS = "tokens"
"""Name of the axis that the input has beside its digits."""

_KEPT = 4  # layouts of one intermediate that are followed further
_MOST_TENSORS = 8  # with the input; beyond, orders are found pair by pair
_IN_CACHE = 1 << 20  # bytes of operands and result that a product finds in the caches

Axes = tuple[str, ...]


class Operand(NamedTuple):
    """How a step sees a tensor: axes in storage order, their permutation, and groups of them as matrix axes.

    Parameters
    ----------
    source : int
        Cores, then the input, then the results of steps in turn.
    axes : tuple of str
        As they are stored.
    groups : tuple of tuple of str
        The axes in the order of the product, those of one group as one.
    """

    source: int
    axes: Axes
    groups: tuple[Axes, ...]

    @property
    def permutation(self) -> tuple[int, ...] | None:
        """Axes of the stored tensor in the order of the groups; None where that is the same."""
        wanted = tuple(self.axes.index(name) for group in self.groups for name in group)
        return None if wanted == tuple(range(len(wanted))) else wanted


class Step(NamedTuple):
    """A product of two operands as matrices or stacks of matrices; the result's axes follow those of the groups."""

    left: Operand
    right: Operand
    axes: Axes
    macs: int


class Order(NamedTuple):
    """All steps, the permutation of the last result into the output, and the predicted seconds."""

    steps: tuple[Step, ...]
    output: Operand
    seconds: float

    @property
    def macs(self) -> int:
        """Multiply-adds of all steps."""
        return sum(step.macs for step in self.steps)


class _State(NamedTuple):
    """A way to an intermediate."""

    seconds: float
    axes: Axes
    tree: tuple[_State, _State] | int
    left: tuple[Axes, ...] = ()
    right: tuple[Axes, ...] = ()
    macs: int = 0


def best_order(
    indices: Sequence[Axes],
    output: Axes,
    sizes: Mapping[str, int],
    rates: Rates,
    itemsize: int,
    *,
    backward: bool = False,
) -> Order:
    """Return the order of products with the least predicted seconds.

    Parameters
    ----------
    indices : sequence of tuple of str
        Axes of the cores, and of the input as the last. A name in more than two tensors, or in two and the output,
        is carried along as the batch of products.
    output : tuple of str
    sizes : mapping of str to int
        Of all axes, the tokens included.
    rates : Rates
    itemsize : int
        Bytes of an element.
    backward : bool
        Whether the gradients by all operands are computed as well: two more products for each.

    Notes
    -----
    Dynamic programming over all subsets of the tensors; of each subset the best layouts are kept. Applying core
    after core, first merging some of the cores, and forming the whole weight are special cases. Beyond 8 tensors
    the pair that is cheapest is taken next.
    """
    planner = _Planner(tuple(indices), output, dict(sizes), rates, itemsize, backward)
    best = planner.exhaustive() if len(indices) <= _MOST_TENSORS else planner.greedy()
    return _as_order(best, output, planner.finish_seconds(best))


class _Planner:
    """The network, and the cost of its products."""

    def __init__(
        self,
        indices: tuple[Axes, ...],
        output: Axes,
        sizes: dict[str, int],
        rates: Rates,
        itemsize: int,
        backward: bool,
    ) -> None:
        self.indices, self.output, self.sizes = indices, output, sizes
        self.rates, self.itemsize, self.backward = rates, itemsize, backward
        self.everything = (1 << len(indices)) - 1

    def size(self, axes: Axes) -> int:
        return math.prod(self.sizes[name] for name in axes)

    @functools.cached_property
    def holders(self) -> dict[str, int]:
        """Bits of the tensors with each axis."""
        held: dict[str, int] = {}
        for k, axes in enumerate(self.indices):
            for name in axes:
                held[name] = held.get(name, 0) | 1 << k
        return held

    def needed(self, mask: int) -> set[str]:
        """Return the axes that something outside the subset needs."""
        outside = self.everything & ~mask
        return {name for name, bits in self.holders.items() if bits & outside or name in self.output}

    def exhaustive(self) -> _State:
        table: dict[int, list[_State]] = {1 << k: [_State(0.0, axes, k)] for k, axes in enumerate(self.indices)}
        for mask in range(3, self.everything + 1):
            if mask & (mask - 1) == 0:
                continue
            needed, found = self.needed(mask), []
            low = mask & -mask
            part = (mask - 1) & mask
            while part:
                if part & low:  # each split once
                    for a in table[part]:
                        for b in table[mask ^ part]:
                            found += self.products(a, b, needed)
                part = (part - 1) & mask
            table[mask] = self.thinned(found)
        return min(table[self.everything], key=lambda state: state.seconds + self.finish_seconds(state))

    def greedy(self) -> _State:
        states = {1 << k: _State(0.0, axes, k) for k, axes in enumerate(self.indices)}
        while len(states) > 1:
            candidates: list[tuple[float, int, int, _State]] = []
            for i in states:
                for j in states:
                    shared = set(states[i].axes) & set(states[j].axes)
                    if i < j and (shared or len(states) == 2):
                        made = min(self.products(states[i], states[j], self.needed(i | j)), key=lambda s: s.seconds)
                        grown = self.size(made.axes) - self.size(states[i].axes) - self.size(states[j].axes)
                        own = made.seconds - states[i].seconds - states[j].seconds
                        candidates.append((own + self.rates.byte * self.itemsize * grown, i, j, made))
            if not candidates:  # parts without a common axis
                i, j, *_ = sorted(states)
                candidates = [(0.0, i, j, self.products(states[i], states[j], self.needed(i | j))[0])]
            _, i, j, made = min(candidates)
            del states[i], states[j]
            states[i | j] = made
        return states[self.everything]

    def thinned(self, found: list[_State]) -> list[_State]:
        """Return the fastest way to each layout, of the best few layouts."""
        best: dict[Axes, _State] = {}
        for state in found:
            if state.axes not in best or state.seconds < best[state.axes].seconds:
                best[state.axes] = state
        return sorted(best.values(), key=lambda state: state.seconds)[:_KEPT]

    def products(self, a: _State, b: _State, needed: set[str]) -> list[_State]:
        """Return the ways to multiply two tensors."""
        shared = [name for name in a.axes if name in b.axes]
        if any(name in needed for name in shared):
            return [self.stacked(a, b, needed), self.stacked(b, a, needed)]
        return [*self.broadcast(a, b), *self.broadcast(b, a)]

    def broadcast(self, matrix: _State, state: _State) -> Iterator[_State]:
        """Multiply each matrix within a state by one matrix, from the left; or all at once where nothing follows."""
        inner = tuple(name for name in state.axes if name in matrix.axes)
        rows = tuple(name for name in matrix.axes if name not in inner)
        where = [state.axes.index(name) for name in inner]
        if where and where == list(range(where[0], where[0] + len(where))):
            before, after = state.axes[: where[0]], state.axes[where[-1] + 1 :]
        else:
            before, after = tuple(name for name in state.axes if name not in inner), ()
        moved = self.copy_seconds(state.axes, before + inner + after)
        if after:
            seconds = moved + self.copy_seconds(matrix.axes, rows + inner, inner + rows)
            seconds += self.product_seconds(self.size(before), rows, inner, after)
            yield self.made(matrix, state, seconds, (rows, inner), (before, inner, after), (*before, *rows, *after))
            return
        seconds = moved + self.copy_seconds(matrix.axes, inner + rows, rows + inner)
        seconds += self.product_seconds(1, before, inner, rows)
        yield self.made(state, matrix, seconds, (before, inner), (inner, rows), (*before, *rows))

    def stacked(self, a: _State, b: _State, needed: set[str]) -> _State:
        """Multiply matrix by matrix along the axes that both have and the result keeps."""
        order = a.axes if self.size(a.axes) >= self.size(b.axes) else b.axes
        batch = tuple(name for name in order if name in a.axes and name in b.axes and name in needed)
        inner = tuple(name for name in order if name in a.axes and name in b.axes and name not in needed)
        rows = tuple(name for name in a.axes if name not in b.axes)
        columns = tuple(name for name in b.axes if name not in a.axes)
        seconds = self.copy_seconds(a.axes, batch + rows + inner, batch + inner + rows, strided=(batch, rows, inner))
        seconds += self.copy_seconds(
            b.axes, batch + inner + columns, batch + columns + inner, strided=(batch, inner, columns)
        )
        seconds += self.product_seconds(self.size(batch), rows, inner, columns)
        axes = batch + rows + columns
        return self.made(a, b, seconds, (batch, rows, inner), (batch, inner, columns), axes)

    def made(
        self, a: _State, b: _State, seconds: float, left: tuple[Axes, ...], right: tuple[Axes, ...], axes: Axes
    ) -> _State:
        names = {name for group in (*left, *right) for name in group}
        macs = self.size(tuple(names))
        return _State(a.seconds + b.seconds + seconds, axes, (a, b), left, right, macs)

    def product_seconds(self, n: int, rows: Axes, inner: Axes, columns: Axes) -> float:
        m, k, c = self.size(rows), self.size(inner), self.size(columns)
        seconds = self.one_product(n, m, k, c)
        if self.backward:
            seconds += self.one_product(n, m, c, k) + self.one_product(n, k, m, c)
        return seconds

    def one_product(self, n: int, m: int, k: int, c: int) -> float:
        rates = self.rates
        seconds = rates.step + 2 * rates.view + n * rates.mac_seconds(m, k, c)
        if n > 1:
            seconds += rates.stacked + n * rates.matrix
        return seconds + self.far_seconds(n * (k * c + m * c) + m * k)

    def far_seconds(self, elements: int) -> float:
        """Return the seconds of elements that are read or written beyond the caches."""
        return self.rates.byte * max(0, self.itemsize * elements - _IN_CACHE)

    def copy_seconds(self, axes: Axes, *allowed: Axes, strided: tuple[Axes, ...] = ()) -> float:
        """Return the seconds of bringing a tensor into an order, nothing where a product reads it as it is."""
        ordered = tuple(name for name in axes if self.sizes[name] > 1)
        plain = [tuple(name for name in order if self.sizes[name] > 1) for order in allowed]
        if ordered in plain:
            return 0.0
        if strided and _is_matrix_stack(ordered, [tuple(n for n in g if self.sizes[n] > 1) for g in strided]):
            return self.rates.view
        run = 1
        for have, want in zip(reversed(ordered), reversed(plain[0]), strict=False):
            if have != want:
                break
            run *= self.sizes[have]
        size = self.size(ordered)
        once = self.rates.step + self.rates.view + self.rates.copy_seconds(run, size) + self.far_seconds(2 * size)
        return once * (1 + self.backward)

    def finish_seconds(self, state: _State) -> float:
        return self.copy_seconds(state.axes, self.output)


def _is_matrix_stack(axes: Axes, groups: Sequence[Axes]) -> bool:
    """Return whether a product of stacks can read a tensor without a copy: groups whole, the batch not innermost."""
    batch, *others = groups
    starts = {}
    for group in groups:
        if group:
            start = axes.index(group[0])
            if axes[start : start + len(group)] != group:
                return False
            starts[group] = start
    return not batch or not any(others) or starts[batch] < max(starts[group] for group in others if group)


def _as_order(state: _State, output: Axes, finish: float) -> Order:
    steps: list[Step] = []
    n_leaves = _n_leaves(state)

    def place(node: _State) -> int:
        if isinstance(node.tree, int):
            return node.tree
        a, b = node.tree
        left, right = place(a), place(b)
        steps.append(Step(Operand(left, a.axes, node.left), Operand(right, b.axes, node.right), node.axes, node.macs))
        return n_leaves + len(steps) - 1

    last = place(state)
    return Order(tuple(steps), Operand(last, state.axes, (output,)), state.seconds + finish)


def _n_leaves(state: _State) -> int:
    return 1 if isinstance(state.tree, int) else sum(map(_n_leaves, state.tree))
