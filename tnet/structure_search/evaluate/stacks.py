"""Starts of one neighbourhood sorted into stacks: networks of one graph, padded to common ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from tnet.arrays import Array, Namespace, is_complex
from tnet.structure_search.evaluate.graph_form import GraphForm
from tnet.structure_search.evaluate.pairwise_steps import Labels
from tnet.structure_search.evaluate.sweep_program import SweepProgram, sweep_program
from tnet.structure_search.evaluate.sweep_tree import Gram, best_tree, sweep_cost
from tnet.structure_search.structure import Structure

__all__ = ["Member", "Stack", "from_stack", "random_starts", "sorted_into_stacks", "to_stack"]

# What padding may cost: a product of a stack costs so many multiply-adds of overhead for the stack and for each item.
# On a GPU that is the time of its launches, so that all with one graph share a stack unless they are large.
_CALL_MACS = {"cpu": 4_000.0, "cuda": 1e8}
_ITEM_MACS = 300.0


Device = Literal["cpu", "cuda"]


class Member(NamedTuple):
    """One structure of a stack: its number among the starts, and how it fits the graph."""

    number: int
    structure: Structure
    form: GraphForm


class Stack(NamedTuple):
    """Structures that run together."""

    members: tuple[Member, ...]
    program: SweepProgram


def sorted_into_stacks(
    members: Sequence[Member], n_starts: int, gram: Gram | None, *, share_order: bool, device: Device = "cpu"
) -> list[Stack]:
    """Return stacks of structures with one graph, whose ranks are so near that padding costs less than it saves.

    Parameters
    ----------
    members : sequence of Member
    n_starts : int
        Networks of each structure.
    gram : {"layers", "environment"} or None
        How normal matrices must be made; None: the cheaper way.
    share_order : bool
        Whether the structures of a stack must have their modes in one order, so that they share x.
    device : {"cpu", "cuda"}
        Where they run.
    """
    by_graph: dict[tuple, list[Member]] = {}
    for member in members:
        key = (member.form.graph, member.form.order if share_order else ())
        by_graph.setdefault(key, []).append(member)
    return [stack for together in by_graph.values() for stack in _split_by_ranks(together, n_starts, gram, device)]


def _split_by_ranks(members: Sequence[Member], n_starts: int, gram: Gram | None, device: Device) -> list[Stack]:
    graph = members[0].form.graph
    tree, way = best_tree(graph, gram)

    def cost(ranks: tuple[int, ...], count: int) -> float:
        products = 7.0 * len(graph[0])
        per_item = sweep_cost(graph, ranks, tree, way) + products * _ITEM_MACS
        return products * _CALL_MACS[device] + count * n_starts * per_item

    parts: list[tuple[tuple[int, ...], list[Member], float]] = []
    for member in sorted(members, key=lambda m: (sweep_cost(graph, m.form.ranks, tree, way), m.number)):
        ranks, alone = member.form.ranks, cost(member.form.ranks, 1)
        options = []
        for k, (padded, others, before) in enumerate(parts):
            wider = tuple(map(max, padded, ranks))
            together = cost(wider, len(others) + 1)
            options.append((together - before - alone, k, wider, together))
        best = min(options, default=None)
        if best is None or best[0] >= 0:
            parts.append((ranks, [member], alone))
        else:
            _, k, wider, together = best
            parts[k] = (wider, [*parts[k][1], member], together)
    return [Stack(tuple(others), sweep_program(graph, ranks, gram)) for ranks, others, _ in parts]


def random_starts(structure: Structure, seed: int, round_: int, n_starts: int, like: Array) -> list[np.ndarray]:
    """Return cores of norm 1 in expectation, (n_starts, *core shape), independent standard normal up to scale."""
    rng = np.random.default_rng((seed, round_))
    cores = []
    for shape in structure.core_shapes:
        draw = rng.standard_normal((n_starts, *shape))
        if is_complex(like):
            draw = draw + 1j * rng.standard_normal((n_starts, *shape))
        cores.append(draw / math.sqrt(math.prod(shape)))
    return cores


def to_stack(program: SweepProgram, member: Member, cores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return cores (n, mode, *bonds) of a structure as cores (n, *bonds, mode) of the program, padded by zeros."""
    stacked = []
    for k, labels in enumerate(program.core_labels):
        core, own = np.asarray(cores[member.form.order[k]]), _own_labels(member, k)
        if k not in own:
            core, own = core[..., None], (*own, k)
        core = core.transpose(0, *(1 + own.index(i) for i in labels))
        padded = np.zeros((core.shape[0], *(program.sizes[i] for i in labels)), dtype=core.dtype)
        padded[tuple(slice(n) for n in core.shape)] = core
        stacked.append(padded)
    return stacked


def from_stack(xp: Namespace, program: SweepProgram, member: Member, cores: Sequence[Array]) -> tuple[Array, ...]:
    """Return the cores (R_k, n_k) of one item of a stack in the shapes that its structure names."""
    ranks: dict = dict(zip(member.form.graph[1], member.form.ranks, strict=True))
    found: list[Array | None] = [None] * len(cores)
    for k, labels in enumerate(program.core_labels):
        own = _own_labels(member, k)
        core = xp.reshape(cores[k], tuple(program.sizes[i] for i in labels))
        core = core[tuple(slice(0, ranks.get(i, program.sizes[i])) for i in labels)]
        if k not in own:
            core, labels = core[..., 0], labels[:-1]
        found[member.form.order[k]] = xp.permute_dims(core, tuple(labels.index(i) for i in own)) if own else core
    return tuple(found)


def _own_labels(member: Member, core: int) -> Labels:
    """Return the labels of the graph for the axes that the structure gives to this core, in their order."""
    order = member.form.order
    bonds = [pair for pair in member.form.graph[1] if core in pair]
    bonds.sort(key=lambda pair: order[sum(pair) - core])
    return (core, *bonds) if order[core] < member.structure.n_modes else tuple(bonds)
