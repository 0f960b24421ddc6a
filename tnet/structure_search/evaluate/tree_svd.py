"""Cores of a tree of bonds in closed form: one truncated singular value decomposition a bond."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    scale_by_power_of_two,
    squared_norm,
    to_compute,
    total_size,
)
from tnet.decompositions.preparation import Prepared, prepare, rescaled
from tnet.decompositions.truncated_basis import Method, error_floor, leading_basis, resolve_method
from tnet.errors import InputError, TnetError
from tnet.options import Truncation
from tnet.structure_search.losses import Loss, SquaredError
from tnet.structure_search.proposals import Start
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Evaluation

__all__ = ["TreeSVD"]


@dataclass(frozen=True)
class TreeSVD:
    r"""The solver for structures without loops: hierarchical SVD from the outer cores to the inmost.

    Parameters
    ----------
    method : {"auto", "gram", "tsqr", "svd"}
        How the leading singular vectors of a matricisation are found: see :func:`tnet.tt`.

    Notes
    -----
    Every bond cuts the tensor in two. From the leaves inwards each core takes the leading left singular vectors of
    the matricisation of what the cuts before it left, :math:`Y \leftarrow U^H Y`, and the last core takes the rest.
    The parts that are cut off are orthogonal to each other, so with :math:`\sigma_{e,i}` the singular values of the
    cut at bond e

    .. math:: \max_e \sum_{i > r_e} \sigma_{e,i}^2 \le \|X - Y\|_F^2 \le \sum_e \sum_{i > r_e} \sigma_{e,i}^2 .

    The left side holds for any cores: the error is at most the number of bonds times that of the best ones
    (Grasedyck, SIAM J. Matrix Anal. Appl. 31, 2010, theorem 3.11 for binary trees). Of the cores that may be cut
    next, the one with the fewest singular vectors kept in proportion goes first: it shrinks the tensor most. With m
    rows and n entries in all, a cut costs m n multiply-adds for its Gram matrix, and r n to project.

    All cores but the inmost are isometries towards it. Parts without a bond between them are joined by bonds of
    rank 1, so a structure without any bond gets one rank-1 tensor. A rank beyond what its cut has is filled with
    zeros.
    """

    method: Method = "auto"

    def __post_init__(self) -> None:
        resolve_method(self.method, None, np.ones(1))

    def solve(self, x: Array, loss: Loss, starts: Sequence[Start]) -> list[Evaluation]:
        """Return cores and exact error of each structure; one with a loop is an evaluation that failed.

        Parameters
        ----------
        x : array
            A structure of another shape gets the entries of ``x`` in C order.
        loss : SquaredError
        starts : sequence of Start
            Only their structures count.

        Raises
        ------
        InputError
            Another loss; a non-finite entry.
        """
        if not isinstance(loss, SquaredError):
            raise InputError(f"TreeSVD minimises the SquaredError of all entries; {type(loss).__name__} takes ALS.")
        prepared = prepare(x)
        return [self._evaluation(prepared, start.structure) for start in starts]

    def _evaluation(self, prepared: Prepared, structure: Structure) -> Evaluation:
        started = time.process_time()
        if not structure.is_tree:
            return _failed(structure, "it has a loop of bonds; TreeSVD takes trees only", started)
        if structure.n_entries != total_size(prepared.array.shape):
            return _failed(structure, f"x has {total_size(prepared.array.shape)} entries", started)
        try:
            cores, rse = _solved(prepared, structure, self.method)
        except (TnetError, np.linalg.LinAlgError, RuntimeError) as error:
            return _failed(structure, f"{type(error).__name__}: {error}", started)
        return Evaluation(structure, rse, cores, (rse,), 1, time.process_time() - started)


class _Rooted(NamedTuple):
    """A tree hung up at one core: for every other one the bond to its parent; all children in order."""

    root: int
    parent: dict[int, int]
    rank: dict[int, int]
    children: list[list[int]]


def _solved(prepared: Prepared, structure: Structure, method: Method) -> tuple[tuple[Array, ...], float]:
    x, norm = prepared.array, prepared.squared_norm
    xp = array_namespace(x)
    Y = xp.reshape(x, structure.shape)
    tree = _rooted(structure)
    cores, discarded = _cut(Y, structure, tree, method)
    cores = tuple(rescaled(cores, tree.root, prepared))
    if norm == 0.0:
        return cores, 0.0
    if prepared.is_half or math.sqrt(discarded / norm) < error_floor(resolve_method(method, None, x), x):
        discarded = _residual(prepared, Y, structure, cores)
    return cores, discarded / norm


def _rooted(structure: Structure) -> _Rooted:
    """Hang the tree up at its largest core; other parts hang at it by bonds of rank 1."""
    near: list[dict[int, int]] = [{} for _ in range(structure.n_cores)]
    for i, j, rank in structure.bonds:
        near[i][j] = near[j][i] = rank
    sizes = [total_size(shape) for shape in structure.core_shapes]
    root = max(range(structure.n_cores), key=lambda core: (sizes[core], -core))
    parent, ranks, children = {}, {}, [[] for _ in near]
    ahead, seen = [root], {root}
    for start in [root, *range(structure.n_cores)]:
        if start not in seen:
            parent[start], ranks[start] = root, 1
            children[root].append(start)
            ahead.append(start)
            seen.add(start)
        while ahead:
            core = ahead.pop()
            for other, rank in near[core].items():
                if other not in seen:
                    parent[other], ranks[other] = core, rank
                    children[core].append(other)
                    ahead.append(other)
                    seen.add(other)
    return _Rooted(root, parent, ranks, children)


def _cut(Y: Array, structure: Structure, tree: _Rooted, method: Method) -> tuple[list[Array], float]:
    """Return the cores, and the squared norm of all that was cut off."""
    xp = array_namespace(Y)
    cores: list[Any] = [None] * structure.n_cores
    axes = [f"i{k}" for k in range(structure.n_modes)]
    waiting = {core: len(children) for core, children in enumerate(tree.children)}
    discarded = 0.0
    while len(waiting) > 1:
        sizes = dict(zip(axes, (int(n) for n in Y.shape), strict=True))
        ready = [core for core, count in waiting.items() if count == 0 and core != tree.root]
        core = min(
            ready, key=lambda c: (tree.rank[c] / total_size([sizes[a] for a in _below(c, structure, tree)]), c)
        )
        below, rank = _below(core, structure, tree), tree.rank[core]
        rest = [axis for axis in axes if axis not in below]
        Y = xp.permute_dims(Y, [axes.index(axis) for axis in (*below, *rest)])
        Y = xp.reshape(Y, (total_size([sizes[a] for a in below]), total_size([sizes[a] for a in rest])))
        basis = leading_basis(Y, Truncation(rank=min(rank, *Y.shape)), method)
        discarded += basis.discarded
        U = _widened(basis.U, rank)
        Y = xp.reshape(adjoint(U) @ Y, (rank, *(sizes[a] for a in rest)))
        axes = [_bond(core, tree.parent[core]), *rest]
        cores[core] = _ordered(xp.reshape(U, (*(sizes[a] for a in below), rank)), [*below, axes[0]], core, structure)
        waiting[tree.parent[core]] -= 1
        del waiting[core]
    cores[tree.root] = _ordered(Y, axes, tree.root, structure)
    return cores, discarded


def _below(core: int, structure: Structure, tree: _Rooted) -> list[str]:
    """Return the names of the axes of a core away from the root."""
    mode = [f"i{core}"] if core < structure.n_modes else []
    return mode + [_bond(core, child) for child in tree.children[core]]


def _bond(a: int, b: int) -> str:
    return f"r{min(a, b)}-{max(a, b)}"


def _ordered(core: Array, axes: list[str], number: int, structure: Structure) -> Array:
    """Return a core with its axes in the order that the structure names; those of joined parts, of size 1, go."""
    xp = array_namespace(core)
    wanted = structure.core_indices[number]
    loose = [axis for axis in axes if axis not in wanted]
    core = xp.permute_dims(core, [axes.index(axis) for axis in (*wanted, *loose)])
    return xp.reshape(core, structure.core_shapes[number])


def _widened(U: Array, rank: int) -> Array:
    """Return ``U`` with columns of zeros up to ``rank``."""
    xp = array_namespace(U)
    missing = rank - int(U.shape[1])
    if missing == 0:
        return U
    return xp.concat([U, xp.zeros((U.shape[0], missing), dtype=U.dtype, device=U.device)], axis=1)


def _residual(prepared: Prepared, Y: Array, structure: Structure, cores: tuple[Array, ...]) -> float:
    """Return the squared norm of the residual itself, on the scale of ``prepared``."""
    wide = [to_compute(core) for core in cores]
    wide[0] = scale_by_power_of_two(wide[0], -prepared.exponent)
    return squared_norm(Y - structure.to_network(wide).to_dense(), "the residual")


def _failed(structure: Structure, message: str, started: float) -> Evaluation:
    return Evaluation(structure, math.inf, seconds=time.process_time() - started, message=f"{structure}: {message}.")
