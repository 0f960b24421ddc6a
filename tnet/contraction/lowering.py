"""Pairwise steps lowered to permute, reshape and matrix product, with every shape precomputed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tnet.contraction.planning import Pair, result_indices
from tnet.contraction.spec import ContractionSpec

__all__ = ["Leaf", "Operand", "Program", "Step", "lower"]

Indices = tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
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
    ordered : bool
        Whether the result is known to lie in memory as its axes say.
    """

    n_taken: int
    diagonals: tuple[tuple[int, ...], ...]
    summed: tuple[int, ...]
    n_left: int
    ordered: bool


@dataclass(frozen=True)
class Operand:
    """How an operand becomes a matrix, or a stack of matrices.

    Parameters
    ----------
    source : int
        Inputs first, then the results of the steps.
    permutation : tuple of int or None
        None when the axes already stand in order.
    shape : tuple of int
        To reshape to.
    transposed : bool
        Whether to swap the last two axes after that, as a view.
    copied : int
        Elements that the reshape must copy; 0 when it is a view.
    """

    source: int
    permutation: tuple[int, ...] | None
    shape: tuple[int, ...]
    transposed: bool
    copied: int


@dataclass(frozen=True)
class Step:
    """One pairwise contraction: ``result = left @ right`` or, without inner index, ``left * right``."""

    left: Operand
    right: Operand
    is_product: bool
    shape: tuple[int, ...]
    n_result: int
    macs: int


@dataclass(frozen=True)
class Program:
    """A static list of steps for one slice of a contraction.

    Parameters
    ----------
    leaves : tuple of Leaf
    steps : tuple of Step
    final_permutation : tuple of int or None
        Puts the axes of the last result in the order of the output.
    output_shape : tuple of int
    """

    leaves: tuple[Leaf, ...]
    steps: tuple[Step, ...]
    final_permutation: tuple[int, ...] | None
    output_shape: tuple[int, ...]


def lower(
    spec: ContractionSpec, pairs: Sequence[Pair], sizes: Sequence[int], sliced: frozenset[int] = frozenset()
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
    """
    kept = result_indices(spec, pairs)
    leaves: list[Leaf] = []
    order: list[Indices] = []
    ordered: list[bool] = []
    for indices, keep in zip(spec.inputs, kept, strict=False):
        leaf, remaining = _lower_leaf(indices, frozenset(keep), sizes, sliced)
        leaves.append(leaf)
        order.append(remaining)
        ordered.append(leaf.ordered)
    steps: list[Step] = []
    for k, (a, b) in enumerate(pairs):
        needed = frozenset(kept[len(spec.inputs) + k])
        step, result, result_ordered = _lower_step((a, b), order, ordered, needed, sizes)
        steps.append(step)
        order.append(result)
        ordered.append(result_ordered)
    last = order[-1]
    permutation = tuple(last.index(i) for i in spec.output)
    identity = permutation == tuple(range(len(last)))
    return Program(
        tuple(leaves),
        tuple(steps),
        None if identity else permutation,
        tuple(sizes[i] for i in spec.output),
    )


def _lower_leaf(
    indices: Indices, keep: frozenset[int], sizes: Sequence[int], sliced: frozenset[int]
) -> tuple[Leaf, Indices]:
    diagonals: list[tuple[int, ...]] = []
    while len(set(indices)) < len(indices):
        first = next(k for k, i in enumerate(indices) if indices.count(i) > 1)
        second = indices.index(indices[first], first + 1)
        rest = [k for k in range(len(indices)) if k not in (first, second)]
        diagonals.append((*rest, first, second))
        indices = (*(indices[k] for k in rest), indices[first])
    summed = tuple(k for k, i in enumerate(indices) if i not in keep)
    remaining = tuple(i for i in indices if i in keep)
    whole = not diagonals and not sliced.intersection(indices)
    leaf = Leaf(_size(indices, sizes), tuple(diagonals), summed, _size(remaining, sizes), whole)
    return leaf, remaining


def _lower_step(
    pair: Pair,
    order: Sequence[Indices],
    ordered: Sequence[bool],
    needed: frozenset[int],
    sizes: Sequence[int],
) -> tuple[Step, Indices, bool]:
    a, b = pair
    in_a, in_b = frozenset(order[a]), frozenset(order[b])
    both = in_a & in_b
    free_a = tuple(i for i in order[a] if i not in in_b)
    free_b = tuple(i for i in order[b] if i not in in_a)
    best: tuple[int, Operand, Operand, Indices, Indices] | None = None
    # Shared indices may run in the order of either operand; take the one that copies least.
    for guide_batch in (a, b):
        for guide_inner in (a, b):
            batch = tuple(i for i in order[guide_batch] if i in both and i in needed)
            inner = tuple(i for i in order[guide_inner] if i in both and i not in needed)
            left = _as_matrix(a, order[a], ordered[a], batch, free_a, inner, sizes)
            right = _as_matrix(b, order[b], ordered[b], batch, inner, free_b, sizes)
            copied = left.copied + right.copied
            if best is None or copied < best[0]:
                best = (copied, left, right, batch, inner)
    assert best is not None
    _, left, right, batch, inner = best
    result = (*batch, *free_a, *free_b)
    is_product = bool(inner)
    # An elementwise product takes over the memory order of its operands; a matrix product does not.
    result_ordered = is_product or (_lies_in_order(left, ordered[a]) and _lies_in_order(right, ordered[b]))
    step = Step(
        left,
        right,
        is_product,
        tuple(sizes[i] for i in result),
        _size(result, sizes),
        _size((*result, *inner), sizes),
    )
    return step, result, result_ordered


def _lies_in_order(operand: Operand, source_ordered: bool) -> bool:
    return source_ordered and operand.permutation is None


def _as_matrix(
    source: int,
    have: Indices,
    ordered: bool,
    batch: Indices,
    rows: Indices,
    columns: Indices,
    sizes: Sequence[int],
) -> Operand:
    """Lay out one operand as (batch, rows, columns), or with the two swapped when that is a view."""
    wide = [i for i in have if sizes[i] != 1]  # axes of size 1 never force a copy

    def lies_so(wanted: Indices) -> bool:
        return wide == [i for i in wanted if sizes[i] != 1]

    straight, swapped = (*batch, *rows, *columns), (*batch, *columns, *rows)
    transposed = not lies_so(straight) and lies_so(swapped)
    wanted = swapped if transposed else straight
    copied = 0 if ordered and lies_so(wanted) else _size(have, sizes)
    n_rows, n_columns = _size(rows, sizes), _size(columns, sizes)
    transposed = transposed and min(n_rows, n_columns) > 1  # a row and a column are the same memory
    matrix = (n_columns, n_rows) if transposed else (n_rows, n_columns)
    return Operand(
        source,
        None if wanted == have else tuple(have.index(i) for i in wanted),
        (_size(batch, sizes), *matrix) if batch else matrix,
        transposed,
        copied,
    )


def _size(indices: Sequence[int], sizes: Sequence[int]) -> int:
    return math.prod(sizes[i] for i in indices)
