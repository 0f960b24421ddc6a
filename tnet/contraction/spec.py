"""Einsum equations, lists of labels and networks as integers and tuples: what is contracted, never how."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, TypeAlias

from tnet.errors import IndexLabelError, InputError, ShapeError

__all__ = [
    "ContractionSpec",
    "parse_equation",
    "read_equation",
    "read_interleaved",
    "spec_from_labels",
    "spec_from_terms",
]

Shape = tuple[int, ...]

Term: TypeAlias = Sequence[Hashable | EllipsisType]
"""Labels of one operand, axis by axis; ``...`` stands for any number of axes."""

# Every other character is a label: also blanks outside ASCII, accents that combine, halves of surrogate pairs.
_ASCII_BLANKS = dict.fromkeys(map(ord, " \t\n\r\v\f"))
_LABELS_SHOWN = 12
_LONGEST_TEXT = 60


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
        What the user calls each index, as text and each different; for messages, tables and files.
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
        """The contraction as text: an einsum equation when every label can stand in one."""
        joint = "" if all(len(label) == 1 and label not in ",->. " for label in self.labels) else " "
        sides = [joint.join(self.labels[i] for i in indices) for indices in (*self.inputs, self.output)]
        return f"{','.join(sides[:-1])}->{sides[-1]}"


@dataclass(frozen=True)
class _EllipsisAxis:
    """Label of an axis that an ellipsis stands for; equal to no label of the user's."""

    place: int
    """Counted from the right, where NumPy aligns broadcast axes."""

    def __str__(self) -> str:
        return f"...{self.place}"


def parse_equation(equation: str, shapes: Sequence[Shape]) -> ContractionSpec:
    """Read an einsum equation.

    Parameters
    ----------
    equation : str
        Operands separated by commas, then ``->`` and the output. Every character but ``,``, ``-``, ``>``,
        ``.`` and ASCII blanks, which are ignored, names one index, and is taken as it is: Unicode is not
        normalised. Without ``->`` the output holds the indices that appear once, in alphabetical order,
        after the ellipsis. An ellipsis stands for any number of leading, middle or last axes, broadcast as
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
    terms, output = read_equation(equation)
    if len(terms) != len(shapes):
        raise ShapeError(f"equation {_cut(equation)} has {len(terms)} operands, but {were_given(len(shapes))}.")
    return spec_from_terms(terms, output, shapes)


def read_equation(equation: str) -> tuple[list[list[Any]], list[Any] | None]:
    """Return the labels of each operand and of the output, None without one; ``...`` for an ellipsis."""
    text = equation.translate(_ASCII_BLANKS)
    left, arrow, right = text.partition("->")
    if any(c in left or c in right for c in ">-"):
        raise IndexLabelError(f"equation {_cut(equation)}: write one '->' between the operands and the output.")
    if "," in right:
        raise IndexLabelError(f"equation {_cut(equation)}: the output after '->' is one operand, without commas.")
    terms = [_read_term(term, f"operand {k}") for k, term in enumerate(left.split(","))]
    return terms, _read_term(right, "the output") if arrow else None


def read_interleaved(arguments: Sequence[Any]) -> tuple[list[Any], list[tuple[Any, ...]], tuple[Any, ...] | None]:
    """Split ``a, ["i", "j"], b, ["j", "k"], ["i", "k"]`` into operands, their labels, and the output.

    Parameters
    ----------
    arguments : sequence
        Operands, each followed by the list (or tuple) of its labels; at the end, optionally, the labels of
        the output. A label is anything hashable, or ``...``.

    Returns
    -------
    operands : list
        As given: arrays or shapes.
    terms : list of tuple
    output : tuple or None
        None when it was left out.

    Raises
    ------
    InputError
        There is no operand, or labels stand where none belong.
    IndexLabelError
        A label is not hashable.
    """
    if len(arguments) < 2:
        raise InputError(
            "nothing to contract: give an equation such as 'ij,jk->ik' and its operands, a TensorNetwork, or "
            'operands with their labels: a, ["i", "j"], b, ["j", "k"], ["i", "k"].'
        )
    paired = len(arguments) - len(arguments) % 2
    operands = list(arguments[:paired:2])
    terms = [_read_labels(labels, f"operand {k}") for k, labels in enumerate(arguments[1:paired:2])]
    output = None if paired == len(arguments) else _read_labels(arguments[-1], "the output")
    return operands, terms, output


def spec_from_terms(terms: Sequence[Term], output: Term | None, shapes: Sequence[Shape]) -> ContractionSpec:
    """Replace each ellipsis by labels of its own, find the output if it was left out, and number the labels.

    Parameters
    ----------
    terms : sequence of sequence of label
        Labels of each operand; ``...`` stands for any number of axes, at most once in each.
    output : sequence of label or None
        None: the axes of the ellipsis, then the labels that appear once; sorted when they all equal integers or
        are all text, as NumPy does, otherwise in order of first appearance.
    shapes : sequence of tuple of int

    Returns
    -------
    ContractionSpec

    Raises
    ------
    IndexLabelError, ShapeError
        As :func:`spec_from_labels`; also for an ellipsis that stands twice, or only in the output.
    """
    if len(terms) != len(shapes):
        raise ShapeError(f"labels of {len(terms)} operands, but {were_given(len(shapes))}.")
    n_ellipsis = [
        _axes_of_ellipsis(term, shape, k) for k, (term, shape) in enumerate(zip(terms, shapes, strict=True))
    ]
    widest = max(n_ellipsis, default=0)
    axes = [_EllipsisAxis(place) for place in range(widest, 0, -1)]
    inputs = [_without_ellipsis(term, axes[widest - n :]) for term, n in zip(terms, n_ellipsis, strict=True)]
    if output is None:
        counts = Counter(label for term in terms for label in term if label is not ...)
        kept = [*axes, *_in_default_order([label for label, n in counts.items() if n == 1])]
    else:
        if ... in output and not any(... in term for term in terms):
            raise IndexLabelError("the output has an ellipsis '...', but no operand has one.")
        if output.count(...) > 1:
            raise IndexLabelError(f"output {_show(output)}: write one ellipsis '...' at most.")
        kept = _without_ellipsis(output, axes)
    return spec_from_labels(inputs, kept, shapes, broadcast=frozenset(axes))


def spec_from_labels(
    inputs: Sequence[Sequence[Hashable]],
    output: Sequence[Hashable],
    shapes: Sequence[Shape],
    *,
    broadcast: frozenset[Hashable] = frozenset(),
) -> ContractionSpec:
    """Give each index a number, and check that labels and shapes agree.

    Parameters
    ----------
    inputs : sequence of sequence of label
        Labels of each operand, one an axis: anything hashable. Equal labels are one index.
    output : sequence of label
        Labels of the result.
    shapes : sequence of tuple of int
    broadcast : frozenset of label
        Labels for which an axis of size 1 fits any size.

    Returns
    -------
    ContractionSpec

    Raises
    ------
    IndexLabelError
        An output label is unknown or repeated, or a label carries two sizes.
    ShapeError
        The number of operands, or of axes of one operand, does not fit the labels, or a size is negative.
    """
    if not inputs:
        raise InputError("nothing to contract: give at least one operand.")
    if len(inputs) != len(shapes):
        raise ShapeError(f"labels of {len(inputs)} operands, but {were_given(len(shapes))}.")
    for position, (labels, shape) in enumerate(zip(inputs, shapes, strict=True)):
        if len(labels) != len(shape):
            raise ShapeError(
                f"operand {position} of shape {shape} has {len(shape)} axes, but its labels "
                f"{_show(labels)} name {len(labels)}."
            )
    sizes, owners = _sizes_of_labels(inputs, shapes, broadcast)
    _check_output(output, inputs, sizes)
    number = {label: k for k, label in enumerate(sizes)}
    narrow: list[str] = []
    numbered: list[tuple[int, ...]] = []
    all_sizes = list(sizes.values())
    for labels, shape in zip(inputs, shapes, strict=True):
        indices: list[int] = []
        for label, size in zip(labels, shape, strict=True):
            if size == sizes[label]:
                indices.append(number[label])
            else:  # a broadcast axis: summing its single entry leaves the operand as it is
                indices.append(len(all_sizes))
                all_sizes.append(1)
                narrow.append(f"{label}=1#{owners[label]}.{len(all_sizes)}")
        numbered.append(tuple(indices))
    kept = tuple(number[label] for label in output)
    return ContractionSpec(tuple(numbered), kept, tuple(all_sizes), _different_texts([*sizes, *narrow]))


def _sizes_of_labels(
    inputs: Sequence[Sequence[Hashable]], shapes: Sequence[Shape], broadcast: frozenset[Hashable]
) -> tuple[dict[Hashable, int], dict[Hashable, int]]:
    """Return the size of each label and the operand that fixed it."""
    sizes: dict[Hashable, int] = {}
    owners: dict[Hashable, int] = {}
    for position, (labels, shape) in enumerate(zip(inputs, shapes, strict=True)):
        for label, size in zip(labels, shape, strict=True):
            known = sizes.setdefault(label, size)
            owner = owners.setdefault(label, position)
            if size < 0:
                raise ShapeError(f"index {_text(label)!r} has size {size} in operand {position}; give 0 or more.")
            if known == size or (label in broadcast and size == 1):
                continue
            if label in broadcast and known == 1:
                sizes[label], owners[label] = size, position
                continue
            raise IndexLabelError(
                f"index {_text(label)!r} has size {known} in operand {owner} and size {size} in operand {position}; "
                "one label has one size."
            )
    return sizes, owners


def _check_output(
    output: Sequence[Hashable], inputs: Sequence[Sequence[Hashable]], sizes: dict[Hashable, int]
) -> None:
    for label in output:
        if label not in sizes:
            known = "".join(f"; operand {k} has {_show(labels)}" for k, labels in enumerate(inputs[:4]))
            raise IndexLabelError(
                f"output index {_text(label)!r} appears in no operand (0 to {len(inputs) - 1}){known}"
                + (" ..." if len(inputs) > 4 else "")
            )
    label, times = Counter(output).most_common(1)[0] if output else (None, 0)
    if times > 1:
        places = " and ".join(str(k) for k, other in enumerate(output) if other == label)
        carriers = ", ".join(str(k) for k, labels in enumerate(inputs) if label in labels)
        raise IndexLabelError(
            f"output index {_text(label)!r} (of operands {carriers}) stands more than once in the output, at places "
            f"{places}; write it once."
        )


def _read_term(term: str, whose: str) -> list[Any]:
    """Return the labels of a term, with ``...`` for its dots."""
    if "." not in term:
        return list(term)
    before, dots, after = term.partition("...")
    if not dots or "." in before or "." in after:
        raise IndexLabelError(f"{whose} is labelled {_cut(term)}: write one '...' of three dots.")
    return [*before, ..., *after]


def _read_labels(labels: Any, whose: str) -> tuple[Any, ...]:
    if not isinstance(labels, (list, tuple)):
        raise InputError(
            f"the labels of {whose} are of type {type(labels).__name__}: give a list such as ['i', 'j']; operands "
            "and lists of labels take turns."
        )
    for label in labels:
        try:
            hash(label)
        except TypeError:
            raise IndexLabelError(
                f"label {_text(label)!r} of {whose} is of type {type(label).__name__}: labels are hashable, such as "
                "text, integers and tuples of them."
            ) from None
    return tuple(labels)


def _axes_of_ellipsis(term: Term, shape: Shape, position: int) -> int:
    """Return how many axes the ellipsis of ``term`` stands for; 0 without one."""
    n_dots = sum(label is ... for label in term)
    if n_dots == 0:
        return 0
    if n_dots > 1:
        raise IndexLabelError(f"operand {position} is labelled {_show(term)}: write one ellipsis '...' at most.")
    n = len(shape) - (len(term) - 1)
    if n < 0:
        raise ShapeError(
            f"operand {position} of shape {shape} has {len(shape)} axes, but its labels {_show(term)} name "
            f"{len(term) - 1}."
        )
    return n


def _without_ellipsis(term: Term, axes: Sequence[_EllipsisAxis]) -> list[Hashable]:
    if ... not in term:
        return list(term)
    place = term.index(...)
    return [*term[:place], *axes, *term[place + 1 :]]


def _in_default_order(labels: list[Any]) -> list[Any]:
    if all(isinstance(label, str) for label in labels) or all(map(_is_integer, labels)):
        return sorted(labels, key=lambda label: label if isinstance(label, str) else int(label.real))
    return labels


def _is_integer(label: Any) -> bool:
    """Return whether a label equals an integer: 1.0 and 1 are one label, so they are sorted alike."""
    try:
        return bool(label == int(label.real))
    except (AttributeError, TypeError, ValueError, OverflowError):
        return False


def _different_texts(labels: Iterable[Hashable]) -> tuple[str, ...]:
    """Return a text for each label; a number is added where two labels read alike, as 1 and "1" do."""
    taken: set[str] = set()
    texts: list[str] = []
    for label in labels:
        text = plain = _text(label)
        n = 1
        while text in taken:
            n += 1
            text = f"{plain}#{n}"
        taken.add(text)
        texts.append(text)
    return tuple(texts)


def _text(label: object) -> str:
    if isinstance(label, str):
        return label
    if isinstance(label, (numbers.Integral, _EllipsisAxis)):
        return str(label)
    text = repr(label)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def _show(labels: Sequence[Any]) -> str:
    texts = ["..." if label is ... else _text(label) for label in labels]
    if all(len(text) == 1 or text == "..." for text in texts):
        return _cut("".join(texts))
    return "(" + ", ".join(texts[:_LABELS_SHOWN]) + (", ...)" if len(texts) > _LABELS_SHOWN else ")")


def _cut(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:40]} ... {text[-35:]}")


def were_given(n: int) -> str:
    """Return "1 was given" or "2 were given"."""
    return f"{n} {'was' if n == 1 else 'were'} given"


def size_of(indices: Sequence[int], sizes: Sequence[int]) -> int:
    """Return the number of elements of a tensor with these indices."""
    return math.prod(sizes[i] for i in indices)
