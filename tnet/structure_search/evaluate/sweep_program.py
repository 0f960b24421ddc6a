"""A sweep as a straight list of batched matrix products, made once for a graph and its ranks."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from tnet.arrays import total_size
from tnet.structure_search.evaluate.pairwise_steps import Labels, MatrixView, PairStep, matrix_view, pair_step
from tnet.structure_search.evaluate.sweep_tree import Gram, Graph, Pair, Tree, best_tree, cores_of

__all__ = ["Contraction", "Key", "Solve", "SweepProgram", "primed", "sweep_program"]

Key: TypeAlias = tuple[str, int]
"""A tensor of a sweep by what it is and by a set S of cores, as a bit mask.

``block``: the cores of S contracted; ``gram``: two layers of them, the modes summed; ``rest``: x contracted with
the conjugates of all other cores (of the whole set: x itself); ``outer``: two layers of all other cores; ``around``:
all other cores contracted.
"""


class Contraction(NamedTuple):
    """``out = step(a, b)``; which operands are conjugated before."""

    out: Key
    a: Key
    b: Key
    step: PairStep
    conj_a: bool
    conj_b: bool


class Solve(NamedTuple):
    """A core is replaced by the solution of its normal equations.

    With ``"layers"`` these are made of ``outer`` (bonds of the conjugated layer by bonds) and ``rest`` (bonds by
    mode), with ``"environment"`` of ``around`` (other modes, ascending, by bonds); ``views`` turn them into such
    matrices.
    """

    core: int
    keys: tuple[Key, ...]
    views: tuple[MatrixView, ...]


class SweepProgram(NamedTuple):
    """What a sweep does.

    Attributes
    ----------
    gram : {"layers", "environment"}
    sizes : dict
        Length of each label. A mode is labelled by the number of its core, a bond by its pair of cores; bonds of the
        conjugated layer by pair and "*".
    core_labels : tuple of tuple of labels
        Axes of the cores: bonds, then the mode.
    labels : dict
        Axes of each tensor, after the batch axis.
    up : tuple of Contraction
        Blocks and grams from the cores: before a first sweep.
    down : tuple of Contraction or Solve
        A sweep.
    join : Contraction
        The whole tensor, from the two halves of the root.
    """

    gram: Gram
    sizes: dict
    core_labels: tuple[Labels, ...]
    labels: dict[Key, Labels]
    up: tuple[Contraction, ...]
    down: tuple[Contraction | Solve, ...]
    join: Contraction
    macs: int

    @property
    def n_entries(self) -> int:
        """Entries of all tensors of a sweep over one network, and of its normal matrices."""
        return sum(total_size([self.sizes[i] for i in labels]) for labels in self.labels.values())

    @property
    def modes(self) -> tuple[int, ...]:
        """Order in which x is laid out: that of the tensor that ``join`` makes."""
        return self.join.step.labels  # pyright: ignore[reportReturnType] - no bonds are left


def primed(bond: Pair) -> tuple[int, int, str]:
    """Return the label of a bond in the conjugated layer."""
    return (*bond, "*")


@functools.lru_cache(maxsize=1024)
def sweep_program(graph: Graph, ranks: tuple[int, ...], gram: Gram | None = None) -> SweepProgram:
    """Return the program for a graph whose bonds have these ranks.

    Notes
    -----
    The cores hang on a binary tree (:func:`best_tree`). A sweep descends from the root: what remains of x, contracted
    with all cores outside of a set, is contracted with the block of one half to serve the other, and likewise for the
    two layers of the normal matrix. So each half of the cores is contracted with x once a sweep for all cores of the
    other half.
    """
    tree, way = best_tree(graph, gram)
    assert not isinstance(tree, int), "a structure has at least two modes"
    return _Writer(graph, ranks, way).program(tree)


class _Writer:
    """Writes the contractions of a sweep in their order, and keeps the labels of all tensors."""

    def __init__(self, graph: Graph, ranks: tuple[int, ...], gram: Gram) -> None:
        modes, self.pairs = graph
        self.gram: Gram = gram
        self.everything = (1 << len(modes)) - 1
        self.sizes: dict = dict(enumerate(modes))
        for pair, rank in zip(self.pairs, ranks, strict=True):
            self.sizes[pair] = self.sizes[primed(pair)] = rank
        self.aliases: dict[Key, Key] = {}
        self.core_labels = tuple((*(pair for pair in self.pairs if k in pair), k) for k in range(len(modes)))
        self.labels: dict[Key, Labels] = {("block", 1 << k): labels for k, labels in enumerate(self.core_labels)}

    def program(self, tree: tuple[Tree, Tree]) -> SweepProgram:
        up = [*self._up(tree[0]), *self._up(tree[1])]
        join = self._contraction(("block", self.everything), ("block", _mask(tree[0])), ("block", _mask(tree[1])))
        self.labels["rest", self.everything] = join.step.labels
        down = list(self._down(tree))
        macs = sum(item.step.macs for item in down if isinstance(item, Contraction))
        return SweepProgram(self.gram, self.sizes, self.core_labels, self.labels, tuple(up), tuple(down), join, macs)

    def _up(self, tree: Tree) -> Iterable[Contraction]:
        if not isinstance(tree, int):
            yield from self._up(tree[0])
            yield from self._up(tree[1])
        yield from self._closed(tree)

    def _closed(self, tree: Tree) -> Iterable[Contraction]:
        """Write the block and the gram of a tree whose parts are there."""
        mask = _mask(tree)
        block, gram = ("block", mask), ("gram", mask)
        if not isinstance(tree, int):
            yield self._contraction(block, ("block", _mask(tree[0])), ("block", _mask(tree[1])))
        if self.gram == "environment":
            return
        cut = [pair for pair in self.pairs if (mask >> pair[0] & 1) != (mask >> pair[1] & 1)]
        if not isinstance(tree, int):
            first, second = ("gram", _mask(tree[0])), ("gram", _mask(tree[1]))
            by_layers = pair_step(self.labels[first], self.labels[second], self.sizes).macs
            by_block = total_size([self.sizes[i] for i in (*cores_of(tree), *cut, *cut)])
            if by_layers <= by_block:
                yield self._contraction(gram, first, second)
                return
        renamed = tuple(primed(i) if isinstance(i, tuple) else i for i in self.labels[block])
        step = pair_step(renamed, self.labels[block], self.sizes)
        self.labels[gram] = step.labels
        yield Contraction(gram, block, block, step, conj_a=True, conj_b=False)

    def _down(self, tree: Tree) -> Iterable[Contraction | Solve]:
        if isinstance(tree, int):
            yield self._solve(tree)
            yield from self._closed(tree)
            return
        for child, sibling in ((tree[0], tree[1]), (tree[1], tree[0])):
            yield from self._handed_down(_mask(tree), _mask(child), _mask(sibling))
            yield from self._down(child)
            if not isinstance(child, int):
                yield from self._closed(child)

    def _handed_down(self, parent: int, child: int, sibling: int) -> Iterable[Contraction]:
        """Write what a child needs of all cores outside of it."""
        is_root = parent == self.everything
        way = "around" if self.gram == "environment" else "outer"
        source = "block" if self.gram == "environment" else "gram"
        if self.gram == "layers":
            yield self._contraction(("rest", child), ("rest", parent), ("block", sibling), conj_b=True)
        if is_root:
            self.aliases[way, child] = (source, sibling)
        else:
            yield self._contraction((way, child), (way, parent), (source, sibling))

    def _solve(self, core: int) -> Solve:
        *bonds, mode = self.core_labels[core]
        if self.gram == "layers":
            kinds = ("outer", "rest")
            forms = ((tuple(primed(bond) for bond in bonds), tuple(bonds)), (tuple(bonds), (mode,)))
        else:
            kinds = ("around",)
            others = tuple(k for k in range(len(self.core_labels)) if k != core)
            forms = ((others, tuple(bonds)),)
        keys = tuple(self.aliases.get((kind, 1 << core), (kind, 1 << core)) for kind in kinds)
        views = tuple(
            matrix_view(self.labels[key], rows, columns, self.sizes)
            for key, (rows, columns) in zip(keys, forms, strict=True)
        )
        return Solve(core, keys, views)

    def _contraction(self, out: Key, a: Key, b: Key, *, conj_b: bool = False) -> Contraction:
        a, b = self.aliases.get(a, a), self.aliases.get(b, b)
        step = pair_step(self.labels[a], self.labels[b], self.sizes)
        self.labels[out] = step.labels
        return Contraction(out, a, b, step, conj_a=False, conj_b=conj_b)


def _mask(tree: Tree) -> int:
    return sum(1 << k for k in cores_of(tree))
