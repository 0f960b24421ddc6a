"""Factorisations of layer sizes into digits."""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence

from tnet.errors import ShapeError

__all__ = ["balanced_digits", "checked_digits", "nearest_digits"]


def balanced_digits(n: int, count: int) -> tuple[int, ...]:
    """Return ``count`` factors with product n and the least sum, ascending."""
    return min(_factorisations(n, count), key=lambda digits: (sum(digits), digits))


def nearest_digits(n: int, wanted: Sequence[int], most: int = 3) -> list[tuple[int, ...]]:
    """Return the factorisations of n into as many digits that are nearest in ratio, in the order wanted."""
    logs = [math.log(max(digit, 1)) for digit in wanted]
    places = sorted(range(len(wanted)), key=lambda k: (logs[k], k))

    def distance(digits: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        return sum(abs(math.log(digit) - logs[k]) for digit, k in zip(digits, places, strict=True)), digits

    found = heapq.nsmallest(most, _factorisations(n, len(wanted)), key=distance)
    arranged = []
    for digits in found:
        by_place = dict(zip(places, digits, strict=True))
        arranged.append(tuple(by_place[k] for k in range(len(wanted))))
    return arranged


def checked_digits(name: str, digits: Sequence[int] | None, n: int, count: int | None = None) -> tuple[int, ...]:
    """Return digits that multiply to n, balanced ones for None.

    Parameters
    ----------
    name : str
        Of the argument.
    digits : sequence of int, or None
    n : int
        The size of the layer.
    count : int, optional
        How many digits there must be.

    Raises
    ------
    ShapeError
        If they do not multiply to n; the message offers the nearest that do.
    """
    if digits is None:
        return balanced_digits(n, 2 if count is None else count)
    digits = tuple(digits)
    if not digits or any(isinstance(d, bool) or not isinstance(d, int) or d < 1 for d in digits):
        raise ShapeError(f"{name}={digits!r}: give positive integers that multiply to {n}.")
    if count is not None and len(digits) != count:
        offer = balanced_digits(n, count)
        raise ShapeError(f"{name}={digits} has {len(digits)} digits: give {count}, such as {offer}.")
    if math.prod(digits) != n:
        offers = " or ".join(map(str, nearest_digits(n, digits)))
        raise ShapeError(f"{name}={digits} multiplies to {math.prod(digits)}, not {n}: give {offers}.")
    return digits


@functools.lru_cache(maxsize=1 << 12)
def _factorisations(n: int, count: int) -> tuple[tuple[int, ...], ...]:
    """Return all ascending factorisations of n into ``count`` digits, ones included."""

    def ascending(rest: int, left: int, least: int) -> list[tuple[int, ...]]:
        if left == 1:
            return [(rest,)] if rest >= least else []
        return [
            (digit, *others)
            for digit in divisors
            if digit >= least and rest % digit == 0 and digit**left <= rest
            for others in ascending(rest // digit, left - 1, digit)
        ]

    divisors = [d for d in range(1, n + 1) if n % d == 0]
    return tuple(ascending(n, count, 1))
