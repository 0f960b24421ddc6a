"""Exchange of whole plans, order and slices, with cotengra."""

from __future__ import annotations

from typing import Any

from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.foreign import load_cotengra
from tnet.contraction.pairs import pairs_of_linear_path
from tnet.contraction.plan import ContractionPlan
from tnet.contraction.spec import spec_from_labels
from tnet.errors import InputError

__all__ = ["from_cotengra", "to_cotengra"]


def from_cotengra(tree: Any, *, dtype: str = "float64") -> ContractionPlan:
    """Return a contraction tree of cotengra, with its slices, as a plan.

    Parameters
    ----------
    tree : cotengra.ContractionTree
        Complete; its sliced indices are cut into single entries.
    dtype : str, default "float64"
        Of the operands; bytes are counted for it.

    Returns
    -------
    ContractionPlan
        In the order of the tree; the multiply-adds are those of its ``contraction_cost()``, but for what no slice
        changes, which is computed once.

    Raises
    ------
    InputError
        Another object, a tree that is not complete, or one with an index fixed to one entry (projected).
    """
    try:
        inputs, output, sizes, sliced = tree.inputs, tree.output, tree.size_dict, tree.sliced_inds
        n_operands = len(inputs)
        complete = n_operands == 1 or tree.is_complete()
    except AttributeError:
        raise InputError(f"from_cotengra: {type(tree).__name__} is no cotengra.ContractionTree.") from None
    if not complete:
        raise InputError("from_cotengra: the tree is not complete; contract what is left in it first.")
    for label, info in sliced.items():
        if info.project is not None:
            raise InputError(
                f"from_cotengra: index {label!r} is fixed to entry {info.project}; plans compute all entries: "
                "take that entry of the operands, and make the tree of what is left."
            )
    spec = spec_from_labels(inputs, output, [tuple(int(sizes[label]) for label in term) for term in inputs])
    number = {label: index for term, indices in zip(inputs, spec.inputs, strict=True)
              for label, index in zip(term, indices, strict=True)}  # fmt: skip
    splits = tuple(sorted((number[label], int(sizes[label])) for label in sliced if sizes[label] > 1))
    pairs = () if n_operands == 1 else pairs_of_linear_path([tuple(step) for step in tree.get_path()], n_operands)
    return ContractionPlan(spec, pairs, splits, dtype_plan([dtype] * n_operands), planner="cotengra")


def to_cotengra(plan: ContractionPlan) -> Any:
    """Return a plan, order and slices, as a contraction tree of cotengra.

    Parameters
    ----------
    plan : ContractionPlan
        Its cut indices must be cut into single entries, as cotengra cuts them.

    Returns
    -------
    cotengra.ContractionTree
        Index k of ``plan.spec`` is called ``cotengra.get_symbol(k)``: cotengra computes with letters only.

    Raises
    ------
    InputError
        Not a plan, or an index is cut into parts of several entries.
    MissingDependencyError
        cotengra is not installed.
    """
    if not isinstance(plan, ContractionPlan):
        raise InputError(f"to_cotengra: {type(plan).__name__} is no ContractionPlan: make one with tnet.plan.")
    spec = plan.spec
    for index, parts in plan.splits:
        if parts != spec.sizes[index]:
            raise InputError(
                f"to_cotengra: index {spec.labels[index]!r} of size {spec.sizes[index]} is cut into {parts} parts, "
                f"and cotengra knows only {spec.sizes[index]}: hand over plan.path alone, or cut other indices."
            )
    library = load_cotengra("to_cotengra", "hand over plan.path alone")
    letters = [library.get_symbol(index) for index in range(len(spec.sizes))]
    inputs = [tuple(letters[i] for i in indices) for indices in spec.inputs]
    output = tuple(letters[i] for i in spec.output)
    sizes = dict(zip(letters, spec.sizes, strict=True))
    tree = library.ContractionTree.from_path(inputs, output, sizes, ssa_path=list(plan.pairs))
    for index, _ in plan.splits:
        tree.remove_ind_(letters[index])
    return tree
