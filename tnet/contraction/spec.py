"""Einsum equations and networks as integers and tuples: what is contracted, never how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tnet.errors import IndexLabelError, InputError, ShapeError

__all__ = ["ContractionSpec", "parse_equation", "spec_from_labels"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ContractionSpec:
    """A contraction with indices numbered 0, 1, 2, ...

    Parameters
    ----------
    inputs : tuple of tuple of int
        Indices of each operand, axis by axis; an index that repeats takes the diagonal. An axis of
        size 1 that an ellipsis broadcasts has an index of its own.
    output : tuple of int
        Indices of the result, each once.
    sizes : tuple of int
        Size of each index.
    labels : tuple of str
        What the user calls each index; for messages, tables and files.
    """

    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    sizes: tuple[int, ...]
    labels: tuple[str, ...]

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shape of each operand."""
        return tuple(tuple(self.sizes[i] for i in indices) for indices in self.inputs)

    @property
    def output_shape(self) -> Shape:
        """Shape of the result."""
        return tuple(self.sizes[i] for i in self.output)

    @property
    def equation(self) -> str:
        """The contraction as text: an einsum equation when every label is one character."""
        joint = "" if all(len(label) == 1 for label in self.labels) else " "
        sides = [joint.join(self.labels[i] for i in indices) for indices in (*self.inputs, self.output)]
        return f"{','.join(sides[:-1])}->{sides[-1]}"


def spec_from_labels(
    inputs: Sequence[Sequence[str]],
    output: Sequence[str],
    shapes: Sequence[Shape],
    *,
    broadcast: frozenset[str] = frozenset(),
) -> ContractionSpec:
    """Give each index a number, and check that labels and shapes agree.

    Parameters
    ----------
    inputs : sequence of sequence of str
        Labels of each operand, one an axis.
    output : sequence of str
        Labels of the result.
    shapes : sequence of tuple of int
    broadcast : frozenset of str
        Labels for which an axis of size 1 fits any size.

    Returns
    -------
    ContractionSpec

    Raises
    ------
    IndexLabelError
        An output label is unknown or repeated, or a label carries two sizes.
    ShapeError
        The number of operands, or of axes of one operand, does not fit the labels.
    """
    if not inputs:
        raise InputError("nothing to contract: give at least one operand.")
    if len(inputs) != len(shapes):
        raise ShapeError(f"the equation has {len(inputs)} operands, but {len(shapes)} were given.")
    for position, (labels, shape) in enumerate(zip(inputs, shapes, strict=True)):
        if len(labels) != len(shape):
            raise ShapeError(
                f"operand {position} of shape {shape} has {len(shape)} axes, but its labels "
                f"{_show(labels)} name {len(labels)}."
            )
    sizes, owners = _sizes_of_labels(inputs, shapes, broadcast)
    known = list(sizes)
    _check_output(output, sizes)
    number = {label: k for k, label in enumerate(known)}
    numbered: list[tuple[int, ...]] = []
    all_sizes = [sizes[label] for label in known]
    for labels, shape in zip(inputs, shapes, strict=True):
        indices: list[int] = []
        for label, size in zip(labels, shape, strict=True):
            if size == sizes[label]:
                indices.append(number[label])
            else:  # a broadcast axis: summing its single entry leaves the operand as it is
                indices.append(len(all_sizes))
                all_sizes.append(1)
                known.append(f"{label}=1#{owners[label]}.{len(all_sizes)}")
        numbered.append(tuple(indices))
    return ContractionSpec(tuple(numbered), tuple(number[label] for label in output), tuple(all_sizes), tuple(known))


def _sizes_of_labels(
    inputs: Sequence[Sequence[str]], shapes: Sequence[Shape], broadcast: frozenset[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the size of each label and the operand that fixed it."""
    sizes: dict[str, int] = {}
    owners: dict[str, int] = {}
    for position, (labels, shape) in enumerate(zip(inputs, shapes, strict=True)):
        for label, size in zip(labels, shape, strict=True):
            known = sizes.setdefault(label, size)
            owner = owners.setdefault(label, position)
            if known == size or (label in broadcast and size == 1):
                continue
            if label in broadcast and known == 1:
                sizes[label], owners[label] = size, position
                continue
            raise IndexLabelError(
                f"index {label!r} has size {known} in operand {owner} and size {size} in operand {position}; "
                "one label has one size."
            )
    return sizes, owners


def _check_output(output: Sequence[str], sizes: dict[str, int]) -> None:
    for label in output:
        if label not in sizes:
            raise IndexLabelError(f"output index {label!r} appears in no operand; known are {_show(list(sizes))}.")
    repeated = sorted({label for label in output if list(output).count(label) > 1})
    if repeated:
        raise IndexLabelError(f"output index {repeated[0]!r} appears more than once; give it once.")


def parse_equation(equation: str, shapes: Sequence[Shape]) -> ContractionSpec:
    """Read an einsum equation such as ``"ij,jk->ik"``, ``"...ij,...jk"`` or ``"ii->i"``.

    Parameters
    ----------
    equation : str
        Operands separated by commas; one character names one index, blanks are ignored. Without
        ``->`` the output holds the indices that appear once, in alphabetical order, after the
        ellipsis. An ellipsis stands for any number of leading, middle or last axes, broadcast as
        NumPy broadcasts them.
    shapes : sequence of tuple of int
        One shape an operand.

    Returns
    -------
    ContractionSpec

    Raises
    ------
    IndexLabelError, ShapeError
        As :func:`spec_from_labels`; also for malformed equations.
    """
    text = "".join(equation.split())
    left, arrow, right = text.partition("->")
    if "->" in right or any(c in ">-" for c in left + right):
        raise IndexLabelError(f"equation {equation!r}: write one '->' between the operands and the output.")
    if "," in right:
        raise IndexLabelError(f"equation {equation!r}: the output after '->' is one operand, without commas.")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ShapeError(f"equation {equation!r} has {len(terms)} operands, but {len(shapes)} were given.")
    n_ellipsis = [_ellipsis_axes(term, shape, k) for k, (term, shape) in enumerate(zip(terms, shapes, strict=True))]
    widest = max((n for n in n_ellipsis if n is not None), default=0)
    # NumPy aligns broadcast axes at the right, so the label counts from there.
    ellipsis_labels = [f"...{k}" for k in range(widest, 0, -1)]
    inputs = [
        _split_term(term, ellipsis_labels[widest - (n or 0) :]) for term, n in zip(terms, n_ellipsis, strict=True)
    ]
    if arrow:
        if "..." in right and all(n is None for n in n_ellipsis):
            raise IndexLabelError(f"equation {equation!r}: '...' in the output, but in no operand.")
        output = _split_term(right, ellipsis_labels)
    else:
        counts: dict[str, int] = {}
        for term in terms:
            for label in term.replace("...", ""):
                counts[label] = counts.get(label, 0) + 1
        output = ellipsis_labels + sorted(label for label, n in counts.items() if n == 1)
    return spec_from_labels(inputs, output, shapes, broadcast=frozenset(ellipsis_labels))


def _ellipsis_axes(term: str, shape: Shape, position: int) -> int | None:
    """Return how many axes the ellipsis of ``term`` stands for; None without one."""
    if "." not in term:
        return None
    if term.count("...") != 1 or term.count(".") != 3:
        raise IndexLabelError(f"operand {position} is labelled {term!r}: write one '...' of three dots.")
    n = len(shape) - (len(term) - 3)
    if n < 0:
        raise ShapeError(
            f"operand {position} of shape {shape} has {len(shape)} axes, but {term!r} names {len(term) - 3}."
        )
    return n


def _split_term(term: str, ellipsis_labels: list[str]) -> list[str]:
    before, dots, after = term.partition("...")
    if "." in before or "." in after:
        raise IndexLabelError(f"output {term!r}: write one '...' of three dots.")
    return [*before, *(ellipsis_labels if dots else []), *after]


def _show(labels: Sequence[str]) -> str:
    if all(len(label) == 1 for label in labels):
        return repr("".join(labels))
    return "(" + ", ".join(labels[:12]) + (", ...)" if len(labels) > 12 else ")")


def size_of(indices: Sequence[int], sizes: Sequence[int]) -> int:
    """Return the number of elements of a tensor with these indices."""
    return math.prod(sizes[i] for i in indices)
