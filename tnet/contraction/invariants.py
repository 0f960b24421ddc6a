"""Subtrees that no slice changes: computed once, before the first slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tnet.contraction.pairs import Pair
from tnet.contraction.slicing import Split
from tnet.contraction.spec import ContractionSpec

__all__ = ["choose_invariants"]

_TRIES = 8


def choose_invariants(
    spec: ContractionSpec,
    pairs: Sequence[Pair],
    splits: Sequence[Split],
    size_of_node: Sequence[int],
    fits: Callable[[frozenset[int]], bool],
) -> frozenset[int]:
    """Return the nodes to compute once: all below which nothing is cut, as long as their results fit.

    Parameters
    ----------
    spec : ContractionSpec
    pairs : sequence of pair of int
    splits : sequence of (int, int)
    size_of_node : sequence of int
        Elements of each node.
    fits : callable
        Whether a choice keeps within memory.

    Returns
    -------
    frozenset of int

    Notes
    -----
    Where not all fit, the subtrees with the largest results go first, half of them at a time.
    """
    n = len(spec.inputs)
    cut = frozenset(index for index, parts in splits if parts > 1)
    touched = [not cut.isdisjoint(indices) for indices in spec.inputs]
    for a, b in pairs:
        touched.append(touched[a] or touched[b])
    if not cut or len(pairs) < 2 or not touched[-1]:
        return frozenset()
    roots = [
        node
        for a, b in pairs
        for node, other in ((a, b), (b, a))
        if node >= n and touched[other] and not touched[node]
    ]
    roots.sort(key=lambda node: size_of_node[node])
    for _ in range(_TRIES):
        chosen = _below(roots, pairs, n)
        if not roots or fits(chosen):
            return chosen
        roots = roots[: len(roots) // 2]
    return frozenset()


def _below(roots: Sequence[int], pairs: Sequence[Pair], n_inputs: int) -> frozenset[int]:
    found: set[int] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node >= n_inputs:
            found.add(node)
            stack += pairs[node - n_inputs]
    return frozenset(found)
