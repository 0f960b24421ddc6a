"""Which characters and objects are labels, which index each becomes, and what is refused by name."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import ContractionPlan
from tnet.contraction.spec import parse_equation, read_interleaved, spec_from_labels, spec_from_terms
from tnet.errors import BackendError, IndexLabelError, InputError, ShapeError

ODD_LABELS = [
    "\u00a0",  # no-break space
    "\u2003",  # em space
    "\u2028",  # line separator
    "\x1c",  # a separator that str.split would eat
    "\x00",
    "\u0301",  # combining acute accent
    "\ud83d",  # half of a surrogate pair
    "\U0001f600",
    "\u212b",  # the angstrom sign, which normalisation turns into a letter
    "\u00c5",
    "\uff0c",  # a comma of full width
    "1",
    "'",
    "\\",
    "$",
]


@pytest.mark.parametrize("label", ODD_LABELS, ids=ascii)
def test_every_other_character_is_a_label(label: str, tmp_path: Path) -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    equation = f"i{label},{label}k->ik"
    assert np.array_equal(tnet.contract(equation, a, b), a @ b)
    plan = tnet.plan(equation, a, b)
    assert plan.spec.labels == ("i", label, "k")
    assert plan.spec.equation == equation
    plan.save(tmp_path / "plan.json")
    assert ContractionPlan.load(tmp_path / "plan.json") == plan


def test_labels_that_look_alike_are_different() -> None:
    spec = parse_equation("\u212b,\u00c5,A\u030a->\u212b\u00c5A\u030a", [(2,), (3,), (4, 5)])
    assert spec.output_shape == (2, 3, 4, 5)


@pytest.mark.parametrize("blank", list(" \t\n\r\v\f"), ids=ascii)
def test_ascii_blanks_are_ignored(blank: str) -> None:
    spaced = blank.join(["", "i", "j", ",", "j", "->", "i", ""])
    assert parse_equation(spaced, [(2, 3), (3,)]) == parse_equation("ij,j->i", [(2, 3), (3,)])


@given(st.text(min_size=1, max_size=6).filter(lambda s: not set(s) & set(",->. \t\n\r\v\f")))
def test_any_text_without_the_signs_is_read_back(text: str) -> None:
    spec = parse_equation(f"{text}->", [(2,) * len(text)])
    assert len(spec.sizes) == len(set(text))
    assert "".join(spec.labels[i] for i in spec.inputs[0]) == text


@given(networks())
@settings(max_examples=60, deadline=None)
def test_lists_of_labels_mean_what_the_equation_means(case: Case) -> None:
    arrays = case.arrays()
    left, _, right = case.equation.partition("->")
    names: dict[str, Any] = dict(
        zip("abcdefgh", [0, "0", ("x", 1), frozenset([2]), 1.5, None, b"a", -7], strict=True)
    )
    given_lists = [x for a, term in zip(arrays, left.split(","), strict=True) for x in (a, [names[c] for c in term])]
    found = tnet.contract(*given_lists, [names[c] for c in right])
    assert np.array_equal(found, tnet.contract(case.equation, *arrays))


@given(networks(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_integers_without_an_output_follow_numpy(case: Case, is_text: bool) -> None:
    arrays = case.arrays()
    terms = case.equation.partition("->")[0].split(",")
    numbers = {c: 20 - 2 * k for k, c in enumerate("abcdefgh")}
    lists = [list(term) if is_text else [numbers[c] for c in term] for term in terms]
    found = tnet.contract(*(x for pair in zip(arrays, lists, strict=True) for x in pair))
    theirs = [x for pair in zip(arrays, [[numbers[c] for c in term] for term in terms], strict=True) for x in pair]
    wanted = np.einsum(",".join(terms), *arrays) if is_text else np.einsum(*theirs)  # pyright: ignore
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, atol=1e-9)


def test_mixed_labels_without_an_output_keep_the_order_of_appearance() -> None:
    a = np.ones((2, 3, 4))
    assert tnet.contract(a, ["z", 1, "a"], np.ones(3), [1]).shape == (4, 2)  # what stays is text
    assert tnet.contract(a, ["z", 1, "b"], np.ones(4), ["b"]).shape == (2, 3)
    assert tnet.contract(a, [("q",), "z", "a"]).shape == (2, 3, 4)
    assert tnet.contract(a, ["z", "q", "a"]).shape == (4, 3, 2)


def test_ellipsis_in_lists() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 1, 3, 4)), rng.normal(size=(2, 4, 5))
    wanted = np.einsum("...ij,...jk->...ik", a, b)
    assert np.allclose(tnet.contract(a, [..., "i", 0], b, [..., 0, ("k",)], [..., "i", ("k",)]), wanted)
    assert np.allclose(tnet.contract(a, [..., 1, 2], b, [..., 2, 3]), np.einsum(a, [..., 1, 2], b, [..., 2, 3]))
    # The axes of the ellipsis share no label with text that looks like theirs.
    assert tnet.contract(np.ones((2, 3)), [..., "...1"], np.ones(3), ["...1"], [...]).shape == (2,)


def test_a_plan_from_shapes_and_lists(tmp_path: Path) -> None:
    plan = tnet.plan((2, 3), ["i", 0], [3, 4], [0, ("x", 1)], ["i", ("x", 1)])
    assert plan.output_shape == (2, 4)
    assert plan.spec.labels == ("i", "0", "('x', 1)")
    plan.save(tmp_path / "plan.json")
    assert ContractionPlan.load(tmp_path / "plan.json") == plan


def test_labels_that_read_alike_stay_apart_in_a_file(tmp_path: Path) -> None:
    plan = tnet.plan((2, 3, 4), [1, "1", "1#2"], [1, "1", "1#2"])
    assert len(set(plan.spec.labels)) == 3
    plan.save(tmp_path / "plan.json")
    loaded = ContractionPlan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert json.loads((tmp_path / "plan.json").read_text())["labels"] == list(plan.spec.labels)


def test_long_equations_are_cut_in_messages() -> None:
    with pytest.raises(ShapeError) as caught:
        parse_equation(",".join("ab" for _ in range(3000)) + "->", [(1, 1)])
    assert len(str(caught.value)) < 300


def test_scalars_and_empty_terms() -> None:
    assert parse_equation("", [()]) == spec_from_labels([()], (), [()])
    assert tnet.contract(np.float64(3) * np.ones(()), [], np.ones(2), [0], [0]).tolist() == [3, 3]
    assert tnet.contract(",,->", np.full((), 2.0), np.full((), 3.0), np.full((), 4.0)) == 24


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((), InputError, ["nothing to contract"]),
        (((2, 3),), InputError, ["nothing to contract"]),
        (((2, 3), "ij"), InputError, ["operand 0", "str", "list"]),
        (((2, 3), ["i", "j"], (3,), 4), InputError, ["operand 1", "int"]),
        (((2, 3), ["i", "j"], "i"), InputError, ["output", "str"]),
        (((2, 3), ["i", []]), IndexLabelError, ["operand 0", "[]", "hashable"]),
        (((2, 3), ["i"]), ShapeError, ["operand 0", "(2, 3)", "'i'"]),
        (
            ((2, 3), ["i", 0], (4, 5), [0, "k"], ["i", "k"]),
            IndexLabelError,
            ["'0'", "3 in operand 0", "4 in operand 1"],
        ),
        (((2, 3), ["i", 0], ["i", ("x", 1)]), IndexLabelError, ["('x', 1)", "no operand (0 to 0)"]),
        (((2, 3), ["i", 0], (2,), ["i"], ["i", 0, "i"]), IndexLabelError, ["'i'", "operands 0, 1", "0 and 2"]),
        (((2, 3), "ij", (3, 4), "jk"), InputError, ["operand 0"]),
        (((2, 3), [..., ...]), IndexLabelError, ["operand 0", "one ellipsis"]),
        (((2, 3), [..., "i", "j", "k"]), ShapeError, ["operand 0", "name 3"]),
        (((2, 3), ["i", "j"], [...]), IndexLabelError, ["no operand has one"]),
        (((2, 3), [..., "j"], [..., ...]), IndexLabelError, ["one ellipsis"]),
        (((2, -3), ["i", "j"]), ShapeError, ["operand 0", "size -3"]),
    ],
)
def test_bad_lists_are_refused_by_name(arguments: tuple[Any, ...], error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        _spec(arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def _spec(arguments: tuple[Any, ...]) -> Any:
    operands, terms, output = read_interleaved(arguments)
    return spec_from_terms(terms, output, operands)


@pytest.mark.parametrize("label", [0, ("x", 1), "bond"])
def test_a_negative_size_names_label_and_operand(label: Any) -> None:
    with pytest.raises(ShapeError, match="operand 1") as caught:
        spec_from_labels([("i",), (label,)], (), [(2,), (-4,)])
    assert str(label) in str(caught.value)


def test_mixed_libraries_name_two_operands() -> None:
    a = np.ones((2, 2))
    with pytest.raises(BackendError, match=r"0 of numpy on cpu, 2 of torch on cpu"):
        tnet.contract("ij,jk,kl->il", a, a, torch.ones(2, 2))
    with pytest.raises(BackendError, match=r"0 of torch on cpu, 1 of torch on meta"):
        tnet.contract("ij,jk->ik", torch.ones(2, 2), torch.ones(2, 2, device="meta"))


@given(networks(max_operands=3))
@settings(max_examples=30, deadline=None)
def test_the_equation_of_a_spec_reads_back(case: Case) -> None:
    spec = parse_equation(case.equation, case.shapes)
    assert parse_equation(spec.equation, case.shapes) == spec


@pytest.mark.parametrize("one", [1.0, True, np.True_, Fraction(1), Decimal(1), 1 + 0j, np.int8(1)])
def test_equal_labels_give_one_default_order(one: Any) -> None:
    first, second = ((one, 0),), ((1, 0),)
    assert spec_from_terms(first, None, [(2, 3)]).output_shape == (3, 2)
    assert spec_from_terms(second, None, [(2, 3)]).output_shape == (3, 2)
    assert tnet.plan((2, 3), first[0]).output_shape == tnet.plan((2, 3), second[0]).output_shape


@pytest.mark.parametrize("odd", [0.5, math.nan, math.inf, None, ("a",)])
def test_other_labels_stay_in_order_of_appearance(odd: Any) -> None:
    assert spec_from_terms([(odd, 0)], None, [(2, 3)]).output_shape == (2, 3)
