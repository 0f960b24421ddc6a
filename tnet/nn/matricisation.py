"""Matricisations of factors: which axes of a core are rows, and which are columns, of the matrix that it acts as."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

__all__ = ["FactorAxes", "acting_axes"]


class FactorAxes(NamedTuple):
    """The axes of a factor as those of a stack of matrices.

    Attributes
    ----------
    batch : tuple of int
        One matrix for each of their entries; the factor acts as a block-diagonal matrix.
    rows, columns : tuple of int
        Outputs and inputs of each matrix. Empty ones stand for size 1.
    """

    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def acting_axes(
    indices: Mapping[str, tuple[str, ...]], rows: Collection[str], columns: Collection[str]
) -> dict[str, FactorAxes]:
    """Return the axes of all factors of a network that maps ``columns`` to ``rows``.

    Parameters
    ----------
    indices : mapping of str to tuple of str
        Axes of each factor; the factors in the order in which they act.
    rows, columns : collection of str
        Open axes: outputs and inputs of the network.

    Notes
    -----
    A row axis is an output of the first factor that has it, a column axis an input of the last one. A bond is an
    output of the first and an input of the second factor that it joins. Elsewhere an axis only numbers blocks, as
    does a bond of more than two factors before the last of them.
    """
    holders: dict[str, list[str]] = {}
    for factor, axes in indices.items():
        for name in axes:
            holders.setdefault(name, []).append(factor)
    result = {}
    for factor, axes in indices.items():
        kinds: tuple[list[int], list[int], list[int]] = ([], [], [])
        for axis, name in enumerate(axes):
            first, last = holders[name][0] == factor, holders[name][-1] == factor
            if name in rows:
                kind = 1 if first else 0
            elif last:
                kind = 2
            else:
                kind = 1 if first and name not in columns and len(holders[name]) == 2 else 0
            kinds[kind].append(axis)
        result[factor] = FactorAxes(*(tuple(axes) for axes in kinds))
    return result
