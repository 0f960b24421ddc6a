"""Digits of sizes: products, balance, offers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet.errors import ShapeError
from tnet.nn.digits import balanced_digits, checked_digits, nearest_digits


@given(n=st.integers(1, 5000), count=st.integers(1, 4))
def test_balanced_digits_multiply_to_the_size(n, count):
    digits = balanced_digits(n, count)
    assert len(digits) == count
    assert math.prod(digits) == n
    assert list(digits) == sorted(digits)


def test_balanced_digits_of_usual_sizes():
    assert balanced_digits(768, 2) == (24, 32)
    assert balanced_digits(4096, 3) == (16, 16, 16)
    assert balanced_digits(576, 3) == (8, 8, 9)
    assert balanced_digits(7, 3) == (1, 1, 7)


@given(n=st.integers(1, 2000), wanted=st.lists(st.integers(1, 60), min_size=1, max_size=3))
def test_nearest_digits_are_factorisations(n, wanted):
    found = nearest_digits(n, wanted)
    assert found
    assert all(math.prod(digits) == n and len(digits) == len(wanted) for digits in found)


def test_nearest_digits_keep_the_order():
    assert nearest_digits(768, (30, 25), most=1) == [(32, 24)]
    assert nearest_digits(768, (25, 30), most=1) == [(24, 32)]


@pytest.mark.parametrize(
    ("digits", "count", "message"),
    [
        ((5, 2), None, r"row_shape=\(5, 2\) multiplies to 10, not 12: give \(6, 2\) or \(4, 3\)"),
        ((3, 4), 3, r"has 2 digits: give 3, such as \(2, 2, 3\)"),
        ((), None, "positive integers"),
        ((0, 12), None, "positive integers"),
        ((True, 12), None, "positive integers"),
        ((3.0, 4), None, "positive integers"),
    ],
)
def test_bad_digits(digits, count, message):
    with pytest.raises(ShapeError, match=message):
        checked_digits("row_shape", digits, 12, count)


def test_missing_digits_are_balanced():
    assert checked_digits("row_shape", None, 12, 2) == (3, 4)
