"""Plans made from a plan: some operands fixed for good, or many contractions in one."""

from __future__ import annotations

import dataclasses
import numbers
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tnet.arrays import Array, array_namespace, as_array, astype, dtype_name, resolve_dtype
from tnet.arrays.operations import operations
from tnet.contraction.dtypes import DtypePlan, dtype_plan
from tnet.contraction.lowering import Operand, Program, lower
from tnet.contraction.pairs import Pair, result_indices
from tnet.contraction.slicing import sliced_sizes
from tnet.contraction.spec import ContractionSpec, size_of
from tnet.errors import InputError, ShapeError

if TYPE_CHECKING:
    from tnet.contraction.plan import ContractionPlan

__all__ = ["FoldedPlan", "batch_spec", "fold"]

_BATCH = "batch"


@dataclass(frozen=True, eq=False)
class FoldedPlan:
    """A contraction of which some operands are fixed; calls take the others, in their order.

    Parameters
    ----------
    plan : ContractionPlan
        What is left to do in a call: constants stand for whole subtrees.
    constants : tuple of (int, array)
        Operands of ``plan`` that are known, and their positions.
    positions : tuple of int
        Which operands of the original contraction a call takes.
    result : str
        Dtype of the result, which constants in the dtype of the computation would widen.
    """

    plan: ContractionPlan
    constants: tuple[tuple[int, Array], ...]
    positions: tuple[int, ...]
    result: str

    def __call__(self, *arrays: Array) -> Array:
        """Contract; raises as :meth:`tnet.contraction.ContractionPlan.__call__`."""
        if len(arrays) != len(self.positions):
            raise ShapeError(
                f"{len(arrays)} operands given, but those at {list(self.positions)} of the original contraction are "
                f"free: give {len(self.positions)}."
            )
        known = dict(self.constants)
        free = iter(arrays)
        found = self.plan(*(known[k] if k in known else next(free) for k in range(len(self.plan.spec.inputs))))
        if self.result == self.plan.dtypes.result:
            return found
        return astype(found, resolve_dtype(array_namespace(found), self.result))

    def __repr__(self) -> str:
        """The table of what is left to do."""
        return f"FoldedPlan of operands {list(self.positions)}\n{self.plan!r}"


class Subtree(NamedTuple):
    """A part of a tree whose leaves are all constant: top, leaves, and the steps in a numbering of their own."""

    top: int
    leaves: tuple[int, ...]
    pairs: tuple[Pair, ...]


def _checked_constants(spec: ContractionSpec, constants: Mapping[int, Array]) -> dict[int, Array]:
    """Return the constants as arrays by position, once positions and shapes fit the contraction."""
    shapes = spec.input_shapes
    n = len(shapes)
    if not isinstance(constants, Mapping):
        raise InputError(f"constants is of type {type(constants).__name__}: give a mapping, {{position: array}}.")
    found: dict[int, Array] = {}
    for position, array in constants.items():
        if not _is_whole(position) or not 0 <= position < n:
            raise InputError(f"constants: position {position!r} is none of the operands 0 to {n - 1}.")
        position = int(position)
        found[position] = as_array(array, f"constant {position}")
        if tuple(found[position].shape) != shapes[position]:
            raise ShapeError(
                f"constant {position} has shape {tuple(found[position].shape)}, but the plan was made for "
                f"{shapes[position]}."
            )
    if not found:
        raise InputError("constants: name at least one operand, as {position: array}.")
    return dict(sorted(found.items()))


def _constant_subtrees(n_inputs: int, pairs: Sequence[Pair], constants: Iterable[int]) -> list[Subtree]:
    """Return the largest subtrees, of one step at least, all of whose leaves are constants."""
    known = frozenset(constants)
    fixed = [k in known for k in range(n_inputs)]
    fixed += [False] * len(pairs)
    for k, (a, b) in enumerate(pairs, n_inputs):
        fixed[k] = fixed[a] and fixed[b]
    parent = {node: n_inputs + k for k, pair in enumerate(pairs) for node in pair}
    last = len(fixed) - 1
    tops = [node for node in range(n_inputs, last + 1) if fixed[node] and (node == last or not fixed[parent[node]])]
    return [_subtree(top, pairs, n_inputs) for top in tops]


def _subtree(top: int, pairs: Sequence[Pair], n_inputs: int) -> Subtree:
    inside: list[int] = []
    stack = [top]
    while stack:
        node = stack.pop()
        inside.append(node)
        stack += pairs[node - n_inputs] if node >= n_inputs else ()
    inside.sort()
    leaves = tuple(node for node in inside if node < n_inputs)
    number = {node: k for k, node in enumerate(inside)}
    steps: list[Pair] = []
    for node in inside[len(leaves) :]:
        a, b = pairs[node - n_inputs]
        steps.append((min(number[a], number[b]), max(number[a], number[b])))
    return Subtree(top, leaves, tuple(steps))


def _fold_spec(
    spec: ContractionSpec, pairs: Sequence[Pair], subtrees: Sequence[Subtree], orders: Mapping[int, tuple[int, ...]]
) -> tuple[ContractionSpec, tuple[Pair, ...], list[int], list[ContractionSpec]]:
    """Return the contraction that is left when each subtree is one operand.

    Parameters
    ----------
    spec : ContractionSpec
    pairs : sequence of pair of int
    subtrees : sequence of Subtree
    orders : mapping of int to tuple of int
        For tops, their indices in the order that the consumer likes; any order for those that are left out.

    Returns
    -------
    spec : ContractionSpec
    pairs : tuple of pair of int
    nodes : list of int
        What each operand of it was in the original: an input, or the top of a subtree.
    parts : list of ContractionSpec
        Of each subtree.
    """
    n = len(spec.inputs)
    kept = result_indices(spec, pairs)
    covered = {leaf for subtree in subtrees for leaf in subtree.leaves}
    tops = {subtree.leaves[0]: subtree for subtree in subtrees}
    nodes: list[int] = []
    inputs: list[tuple[int, ...]] = []
    for k in range(n):
        if k in tops or k not in covered:
            top = tops[k].top if k in tops else k
            nodes.append(top)
            inputs.append(_ordered(kept[top], orders.get(top, ())) if k in tops else spec.inputs[k])
    number = {node: k for k, node in enumerate(nodes)}
    left: list[Pair] = []
    for k, (a, b) in enumerate(pairs):
        if a in number and b in number and n + k not in number:
            first, second = sorted((number[a], number[b]))
            number[n + k] = len(nodes) + len(left)
            left.append((first, second))
    parts = [
        ContractionSpec(
            tuple(spec.inputs[leaf] for leaf in subtree.leaves),
            _ordered(kept[subtree.top], orders.get(subtree.top, ())),
            spec.sizes,
            spec.labels,
        )
        for subtree in subtrees
    ]
    return ContractionSpec(tuple(inputs), spec.output, spec.sizes, spec.labels), tuple(left), nodes, parts


def _ordered(indices: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """Return the indices in the given order, those that it leaves out (of size 1) first."""
    return (*(i for i in indices if i not in order), *(i for i in order if i in indices))


def _is_whole(n: object) -> bool:
    return isinstance(n, numbers.Integral) and not isinstance(n, bool)


def batch_spec(spec: ContractionSpec, n: int, operands: Sequence[int] | None) -> ContractionSpec:
    """Return the contraction with one more index in front of the output and of all, or the named, operands."""
    if not _is_whole(n) or n < 1:
        raise InputError(f"n={n!r}: give the number of contractions, a positive integer.")
    count = len(spec.inputs)
    chosen = list(range(count)) if operands is None else list(operands)
    if not chosen or len(set(chosen)) != len(chosen) or not all(_is_whole(k) and 0 <= k < count for k in chosen):
        raise InputError(f"operands={operands!r}: name different operands from 0 to {count - 1}, at least one.")
    label = _new_label(spec.labels)
    index = len(spec.sizes)
    inputs = tuple((index, *indices) if k in chosen else indices for k, indices in enumerate(spec.inputs))
    return ContractionSpec(inputs, (index, *spec.output), (*spec.sizes, int(n)), (*spec.labels, label))


def _new_label(labels: Sequence[str]) -> str:
    """Return a label that is not taken: a letter where all are, so that the equation stays one of einsum."""
    if all(len(label) == 1 for label in labels):
        for letter in reversed(string.ascii_lowercase):
            if letter not in labels:
                return letter
    label = _BATCH
    while label in labels:
        label += "'"
    return label


def fold(plan: ContractionPlan, constants: Mapping[int, Array]) -> FoldedPlan:
    """Compute what depends on the constants alone, and return the plan of the rest.

    Parameters
    ----------
    plan : ContractionPlan
    constants : mapping of int to array

    Returns
    -------
    FoldedPlan

    Notes
    -----
    Each result is kept in the order of axes and the dtype in which the rest takes it without a copy. Subtrees below
    which an index is cut stay as they are: their slices fit into the memory limit, the whole may not. Where the
    limit is exceeded nevertheless, the largest subtrees are left unfolded.
    """
    known = _checked_constants(plan.spec, constants)
    names = tuple(dtype_name(known[k]) if k in known else name for k, name in enumerate(plan.dtypes.operands))
    dtypes = dtype_plan(names)
    cut = frozenset(index for index, parts in plan.splits if parts > 1)
    subtrees = [
        subtree
        for subtree in _constant_subtrees(len(plan.spec.inputs), plan.pairs, known)
        if all(cut.isdisjoint(plan.spec.inputs[leaf]) for leaf in subtree.leaves)
    ]
    kept = result_indices(plan.spec, plan.pairs)
    subtrees.sort(key=lambda subtree: size_of(kept[subtree.top], plan.spec.sizes))
    while True:
        rest, parts, nodes = _folded(plan, subtrees, names, dtypes)
        limit = plan.memory_limit
        if not subtrees or limit is None or max(p.peak_bytes for p in (rest, *parts)) <= limit:
            break
        subtrees.pop()
    computed = {}
    for subtree, part in zip(subtrees, parts, strict=True):
        leaves = [known[leaf] for leaf in subtree.leaves]
        dtype = resolve_dtype(array_namespace(*leaves), dtypes.compute)
        computed[subtree.top] = operations(leaves[0]).ordered(part(*(astype(x, dtype) for x in leaves)))
    computed |= known
    held = tuple((k, computed[node]) for k, node in enumerate(nodes) if node in computed)
    free = tuple(k for k in range(len(plan.spec.inputs)) if k not in known)
    return FoldedPlan(rest, held, free, dtypes.result)


def _folded(
    plan: ContractionPlan, subtrees: Sequence[Subtree], names: Sequence[str], dtypes: DtypePlan
) -> tuple[ContractionPlan, list[ContractionPlan], list[int]]:
    """Return the plan of what is left, one for each subtree, and the nodes that are operands now."""
    n = len(plan.spec.inputs)
    orders: dict[int, tuple[int, ...]] = {}
    for _ in range(2):  # first to see in which order the folded operands are wanted
        spec, pairs, nodes, part_specs = _fold_spec(plan.spec, plan.pairs, subtrees, orders)
        folded = frozenset(k for k, node in enumerate(nodes) if node >= n)
        layouts = None
        if plan.layouts is not None:
            layouts = tuple(
                tuple(range(len(spec.inputs[k]))) if k in folded else plan.layouts[node]
                for k, node in enumerate(nodes)
            )
        sizes = sliced_sizes(spec, plan.splits)
        program = lower(spec, pairs, sizes, frozenset(i for i, _ in plan.splits), layouts=layouts, converted=folded)
        orders = {nodes[operand.source]: _wanted(operand, program) for operand in _operands(program, folded)}
    left = tuple(names[node] if node < n else dtypes.compute for node in nodes)
    rest = dataclasses.replace(plan, spec=spec, pairs=pairs, dtypes=dtype_plan(left), layouts=layouts)
    parts = [
        dataclasses.replace(
            plan,
            spec=part,
            pairs=subtree.pairs,
            splits=(),
            dtypes=dtype_plan([dtypes.compute] * len(subtree.leaves)),
            memory_limit=None,
            layouts=None,
        )
        for subtree, part in zip(subtrees, part_specs, strict=True)
    ]
    return rest, parts, nodes


def _operands(program: Program, sources: frozenset[int]) -> list[Operand]:
    steps = (*program.once, *program.steps)
    return [side for step in steps for side in (step.left, step.right) if side.source in sources]


def _wanted(operand: Operand, program: Program) -> tuple[int, ...]:
    order = program.orders[operand.source]
    return order if operand.permutation is None else tuple(order[axis] for axis in operand.permutation)
