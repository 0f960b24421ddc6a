"""Pairwise steps: what they cost, which indices they leave, and the order that holds the least memory."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from tnet.contraction.spec import ContractionSpec, size_of
from tnet.errors import InputError

__all__ = ["Pair", "linear_path", "order_for_memory", "pairs_of_linear_path", "pairwise_macs", "result_indices"]

Pair = tuple[int, int]
"""Two operands, the smaller first, in single-assignment numbering: step k makes ``n_inputs + k``."""


def result_indices(spec: ContractionSpec, pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
    """Return the index sets of all operands, first inputs (as consumed), then the results of the steps.

    An index of an input that no other operand and not the output carries is summed before use and
    left out; a repeated one stands once.
    """
    carriers = [0] * len(spec.sizes)  # live operands, and the output, that carry the index
    for indices in (*spec.inputs, spec.output):
        for i in set(indices):
            carriers[i] += 1
    sets = [tuple(i for i in dict.fromkeys(indices) if carriers[i] > 1) for indices in spec.inputs]
    for a, b in pairs:
        for i in (*sets[a], *sets[b]):
            carriers[i] -= 1
        result = tuple(i for i in dict.fromkeys(sets[a] + sets[b]) if carriers[i] > 0)
        for i in result:
            carriers[i] += 1
        sets.append(result)
    return sets


def pairwise_macs(spec: ContractionSpec, pairs: Sequence[Pair], sizes: Sequence[int] | None = None) -> int:
    """Return the multiply-adds of all steps: for each, the product of the sizes of all its indices."""
    sizes = spec.sizes if sizes is None else sizes
    sets = result_indices(spec, pairs)
    return sum(size_of(tuple(set(sets[a]) | set(sets[b])), sizes) for a, b in pairs)


def linear_path(pairs: Sequence[Pair], n_inputs: int) -> list[tuple[int, ...]]:
    """Return the path in opt_einsum's form: positions in a list from which operands are popped."""
    if n_inputs == 1:
        return [(0,)]
    alive = list(range(n_inputs))  # ascending at all times
    path: list[tuple[int, ...]] = []
    for step, pair in enumerate(pairs):
        positions = sorted(bisect.bisect_left(alive, operand) for operand in pair)
        for position in reversed(positions):
            alive.pop(position)
        alive.append(n_inputs + step)
        path.append(tuple(positions))
    return path


def pairs_of_linear_path(path: Sequence[Sequence[int]], n_inputs: int) -> tuple[Pair, ...]:
    """Return the pairwise steps of a path in opt_einsum's form; n-ary steps go left to right.

    Raises
    ------
    InputError
        The path does not contract ``n_inputs`` operands to one.
    """
    try:
        return _pairs_of_path(path, n_inputs)
    except (IndexError, TypeError, ValueError) as error:
        shown = ", ".join(str(step) for step in list(path)[:6]) + (", ..." if len(path) > 6 else "")
        raise InputError(
            f"the path [{shown}] does not contract {n_inputs} operands to one ({error}); each step names positions "
            "in the list of operands that are left, and its result goes to the end of that list."
        ) from error


def _pairs_of_path(path: Sequence[Sequence[int]], n_inputs: int) -> tuple[Pair, ...]:
    alive = list(range(n_inputs))
    pairs: list[Pair] = []
    for positions in path:
        if len(set(positions)) != len(positions) or any(p < 0 for p in positions):
            raise ValueError(f"in step {tuple(positions)} positions repeat or are negative")
        taken = [alive[position] for position in positions]
        for position in sorted(positions, reverse=True):
            alive.pop(position)
        result = taken[0]
        for other in taken[1:]:
            pairs.append((min(result, other), max(result, other)))
            result = n_inputs + len(pairs) - 1
        alive.append(result)
    if len(alive) != 1:
        raise ValueError(f"{len(alive)} operands are left at its end")
    return tuple(pairs)


def order_for_memory(
    spec: ContractionSpec, pairs: Sequence[Pair], sizes: Sequence[int] | None = None
) -> tuple[Pair, ...]:
    """Evaluate first, at each node, the child whose evaluation needs more beyond its own result.

    This order minimises the peak of the live intermediates over all depth-first orders of the tree
    (Sethi and Ullman 1970, with sizes instead of registers).

    Parameters
    ----------
    spec : ContractionSpec
    pairs : sequence of pair of int
    sizes : sequence of int, optional
        Size of each index within one slice; the whole by default.
    """
    n = len(spec.inputs)
    if not pairs:
        return ()
    sizes = spec.sizes if sizes is None else sizes
    sets = result_indices(spec, pairs)
    held = [0] * n + [size_of(sets[n + k], sizes) for k in range(len(pairs))]  # inputs are the caller's
    peak = list(held)
    first: dict[int, Pair] = {}
    for k, (a, b) in enumerate(pairs):
        if peak[b] - held[b] > peak[a] - held[a]:
            a, b = b, a
        first[n + k] = (a, b)
        peak[n + k] = max(peak[a], held[a] + peak[b], held[a] + held[b] + held[n + k])
    order: list[int] = []
    stack: list[tuple[int, bool]] = [(n + len(pairs) - 1, False)]
    while stack:
        node, ready = stack.pop()
        if node < n:
            continue
        if ready:
            order.append(node)
            continue
        a, b = first[node]
        stack += [(node, True), (b, False), (a, False)]
    renamed = {k: k for k in range(n)} | {node: n + k for k, node in enumerate(order)}
    steps = [sorted(renamed[operand] for operand in pairs[node - n]) for node in order]
    return tuple((a, b) for a, b in steps)
