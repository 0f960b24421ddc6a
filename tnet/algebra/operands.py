"""Checks of operands and ranks shared by the operations on formats."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from tnet.arrays import Array, as_array
from tnet.errors import BackendError, RankError, ShapeError
from tnet.formats import TensorFormat

__all__ = ["Operand", "as_operand", "bounded_ranks", "check_mode", "check_same_shape", "unsupported"]

Operand: TypeAlias = TensorFormat | Array
"""A format of :mod:`tnet.formats` or a dense array."""


def as_operand(t: object, name: str) -> Operand:
    """Return a format as it is, and anything else as an array."""
    return t if isinstance(t, TensorFormat) else as_array(t, name)


def unsupported(operation: str, operands: Sequence[object], remedy: str) -> BackendError:
    """Return the error for an operation that is not defined for these kinds of operands."""
    kinds = " and ".join(type(t).__name__ if isinstance(t, TensorFormat) else "a dense array" for t in operands)
    return BackendError(f"{operation} is not defined for {kinds}: {remedy}")


def check_same_shape(operation: str, a: Operand, b: Operand) -> None:
    """Raise ShapeError unless the two operands have the same shape, and the same split if operators."""
    shapes = tuple(a.shape), tuple(b.shape)
    if shapes[0] != shapes[1]:
        raise ShapeError(f"{operation}: shapes {shapes[0]} and {shapes[1]} differ; give equal shapes.")


def check_mode(mode: object, ndim: int) -> int:
    """Return ``mode`` as an index counted from 0; negative values count from the end."""
    if isinstance(mode, (bool, np.bool_)) or not isinstance(mode, (int, np.integer)):
        raise ShapeError(f"mode={mode!r}: give an integer.")
    if not -ndim <= mode < ndim:
        raise ShapeError(f"mode={mode} of a tensor with {ndim} modes: give 0 to {ndim - 1}.")
    return int(mode) % ndim


def bounded_ranks(rank: object, limits: Sequence[int], where: str) -> tuple[int, ...]:
    """Return one rank for each limit, clipped to it.

    Parameters
    ----------
    rank : int or sequence of int
        One integer bounds all ranks alike.
    limits : sequence of int
        The largest rank that makes sense at each place.
    where : str
        What a place is called: "mode", "bond".

    Returns
    -------
    tuple of int

    Raises
    ------
    RankError
        If a rank is no positive integer, or their number is wrong.

    Warns
    -----
    UserWarning
        If one of several ranks exceeds its limit, or a single one exceeds all limits.
    """
    if isinstance(rank, (list, tuple, np.ndarray)):
        ranks = tuple(_positive(r) for r in rank)
        if len(ranks) != len(limits):
            raise RankError(f"rank={rank!r}: {len(ranks)} ranks for {len(limits)} {where}s; give one for each.")
        for k, (r, limit) in enumerate(zip(ranks, limits, strict=True)):
            if r > limit:
                _warn_clipped(f"rank {r} of {where} {k} is clipped to {limit}, the largest possible there.")
    else:
        ranks = (_positive(rank),) * len(limits)
        if limits and ranks[0] > max(limits):
            _warn_clipped(f"rank {ranks[0]} is clipped to {max(limits)}, the largest possible in any {where}.")
    return tuple(min(r, limit) for r, limit in zip(ranks, limits, strict=True))


def _positive(rank: object) -> int:
    if isinstance(rank, (bool, np.bool_)) or not isinstance(rank, (int, np.integer)) or rank < 1:
        raise RankError(f"rank={rank!r}: give an integer of at least 1.")
    return int(rank)


def _warn_clipped(message: str) -> None:
    """Warn at the line that called into tnet, from however deep."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("tnet."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
