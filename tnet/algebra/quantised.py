"""Trains of digits: modes split into small factors (quantised tensor trains, QTT), and put together again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from tnet.algebra.canonical import canonicalise
from tnet.algebra.error_budget import ErrorBudget
from tnet.algebra.operands import unsupported
from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    balanced_scale,
    compute_dtype,
    qr,
    real_dtype,
    scale_by_power_of_two,
    svd_truncated,
    total_size,
)
from tnet.errors import ShapeError
from tnet.formats import MatrixProductOperator, TensorTrain
from tnet.options import check_rank_or_rtol

__all__ = ["dequantise", "quantise"]

T = TypeVar("T", TensorTrain, MatrixProductOperator)

# Roundoffs of a truncation that is to lose nothing.
_LOSSLESS = 100


def quantise(t: T, digits: Sequence[Sequence[Any]] | None = None, *, rtol: float | None = None) -> T:
    r"""Split every mode of a train into digits, one core each.

    An index :math:`i < n_1 n_2 \cdots n_L` becomes :math:`(i_1, \dots, i_L)` with
    :math:`i = i_1 n_2 \cdots n_L + \dots + i_L`: the first digit is the most significant one.

    Parameters
    ----------
    t : TensorTrain or MatrixProductOperator
    digits : sequence of sequences of int, optional
        For each core the sizes of its digits; for an operator pairs (row digit, column digit). Default: the prime
        factors, so that a mode of ``2^L`` has L digits of size 2.
    rtol : float, optional
        Relative Frobenius error that the splits may make in all. Default: 100 roundoffs.

    Returns
    -------
    Same kind as ``t``
        Left-orthogonal. :func:`dequantise` with the numbers of digits is the way back.

    Raises
    ------
    ShapeError
        Digits that do not multiply to the mode sizes, or, by default, a row and a column with different numbers of
        prime factors.
    InputError
        A tolerance out of [0, 1); a non-finite entry.
    BackendError
        For other kinds of operands.

    Notes
    -----
    A truncated SVD for each digit, of a core with everything else orthogonal: about ``n r^3`` flops for each, with
    r the larger of the ranks of ``t`` and of the result.

    References
    ----------
    .. [1] B. N. Khoromskij, "O(d log N)-quantics approximation of N-d tensors in high-dimensional numerical
       modeling", Constr. Approx. 34 (2011).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> from tnet.algebra import quantise
    >>> t = tnet.tt(np.exp(np.linspace(0, 1, 1024)), ()).tensor
    >>> quantise(t).rank  # an exponential is a product over the digits
    (1, 1, 1, 1, 1, 1, 1, 1, 1)
    """
    if not isinstance(t, (TensorTrain, MatrixProductOperator)):
        raise unsupported("quantise", [t], "give a TensorTrain or a MatrixProductOperator.")
    if rtol is not None:
        check_rank_or_rtol(None, rtol)
    sizes = [tuple(int(n) for n in core.shape[1:-1]) for core in t.cores]
    split = _checked_digits(sizes, digits)
    dtype, wide = t.dtype, compute_dtype(*t.arrays)
    work = canonicalise(t.map_arrays(lambda core: astype(core, wide)), 0)
    xp = array_namespace(*work.cores)
    if rtol is None:
        rtol = _LOSSLESS * float(xp.finfo(real_dtype(work.cores[0])).eps)
    pieces = [_digits_apart(core, parts) for core, parts in zip(work.cores, split, strict=True)]
    return type(t)(tuple(astype(core, dtype) for core in _split_all(pieces, split, rtol)))


def dequantise(t: T, groups: Sequence[int]) -> T:
    """Put digits together: the inverse of :func:`quantise`, exact up to roundoff.

    Parameters
    ----------
    t : TensorTrain or MatrixProductOperator
    groups : sequence of int
        How many neighbouring cores become one, for each core of the result.

    Returns
    -------
    Same kind as ``t``

    Raises
    ------
    ShapeError
        If the groups do not add up to the number of cores.
    BackendError
        For other kinds of operands.

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> from tnet.algebra import dequantise, quantise
    >>> t = tnet.tt(np.arange(32.0).reshape(8, 4), rtol=1e-12).tensor
    >>> quantise(t).shape, dequantise(quantise(t), (3, 2)).shape
    ((2, 2, 2, 2, 2), (8, 4))
    """
    if not isinstance(t, (TensorTrain, MatrixProductOperator)):
        raise unsupported("dequantise", [t], "give a TensorTrain or a MatrixProductOperator.")
    for count in groups:
        if isinstance(count, (bool, np.bool_)) or not isinstance(count, (int, np.integer)) or count < 1:
            raise ShapeError(f"groups={groups!r}: every group must be an integer of at least 1.")
    if sum(groups) != len(t.cores):
        raise ShapeError(f"groups={groups!r} add up to {sum(groups)}; the train has {len(t.cores)} cores.")
    dtype, wide = t.dtype, compute_dtype(*t.arrays)
    cores = iter(t.cores)
    merged: list[Array] = []
    for count in groups:
        group = [astype(next(cores), wide) for _ in range(count)]
        merged.append(astype(_digits_together(group), dtype))
    return type(t)(tuple(merged))


def _split_all(pieces: list[Array], split: list[list[tuple[int, ...]]], rtol: float) -> list[Array]:
    """Split cores (r, size, s) into their digits from left to right, all to the right of them being orthogonal."""
    xp = array_namespace(*pieces)
    pieces[0], exponent, norm2 = balanced_scale(pieces[0], "t")
    budget = ErrorBudget(None, rtol, norm2, sum(len(parts) - 1 for parts in split))
    out: list[Array] = []
    carried = None
    for piece, parts in zip(pieces, split, strict=True):
        r, n, s = piece.shape
        rest = piece if carried is None else xp.reshape(carried @ xp.reshape(piece, (r, n * s)), (-1, n, s))
        for digit in parts[:-1]:
            rank, size = int(rest.shape[0]), total_size(digit)
            found = svd_truncated(xp.reshape(rest, (rank * size, -1)), budget.truncation(0))
            budget.spend(found.discarded)
            out.append(xp.reshape(found.U, (rank, *digit, found.U.shape[1])))
            weighted = found.Vh * astype(found.s, found.Vh.dtype)[:, None]
            rest = xp.reshape(weighted, (found.U.shape[1], -1, s))
        rank, size = int(rest.shape[0]), total_size(parts[-1])
        Q, carried = qr(xp.reshape(rest, (rank * size, s)))
        out.append(xp.reshape(Q, (rank, *parts[-1], Q.shape[1])))
    assert carried is not None  # there is a core; the last bond is 1, and so is this
    last = xp.reshape(xp.reshape(out[-1], (-1, 1)) @ carried, out[-1].shape)
    return [*out[:-1], scale_by_power_of_two(last, exponent)]


def _digits_apart(core: Array, parts: list[tuple[int, ...]]) -> Array:
    """Return a core as (r, size, s) with its digits in order; row and column digits go in pairs."""
    xp = array_namespace(core)
    r, s = core.shape[0], core.shape[-1]
    if core.ndim == 4:
        count = len(parts)
        core = xp.reshape(core, (r, *(m for m, _ in parts), *(n for _, n in parts), s))
        pairs = [axis for k in range(count) for axis in (1 + k, 1 + count + k)]
        core = xp.permute_dims(core, (0, *pairs, 1 + 2 * count))
    return xp.reshape(core, (r, -1, s))


def _digits_together(group: Sequence[Array]) -> Array:
    """Multiply the cores of a group out into one."""
    xp = array_namespace(*group)
    done = group[0]
    for core in group[1:]:
        r, s = core.shape[0], core.shape[-1]
        before, sizes = done.shape[:-1], core.shape[1:-1]
        done = xp.reshape(xp.reshape(done, (-1, r)) @ xp.reshape(core, (r, -1)), (*before, *sizes, s))
        if len(sizes) == 2:
            q, m, n, a, b, _ = done.shape
            done = xp.reshape(xp.permute_dims(done, (0, 1, 3, 2, 4, 5)), (q, m * a, n * b, s))
        else:
            done = xp.reshape(done, (before[0], -1, s))
    return done


def _checked_digits(
    sizes: list[tuple[int, ...]], digits: Sequence[Sequence[Any]] | None
) -> list[list[tuple[int, ...]]]:
    """Return, for each core, its digits as tuples of one size, or two for an operator."""
    if digits is None:
        return [_default_digits(size) for size in sizes]
    if len(digits) != len(sizes):
        raise ShapeError(f"digits for {len(digits)} cores; the train has {len(sizes)}.")
    split: list[list[tuple[int, ...]]] = []
    for k, (size, given) in enumerate(zip(sizes, digits, strict=True)):
        parts = [tuple(part) if isinstance(part, (tuple, list)) else (part,) for part in given]
        whole = all(
            len(part) == len(size)
            and all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in part)
            for part in parts
        )
        if not whole or tuple(math.prod(column) for column in zip(*parts, strict=True)) != size:
            raise ShapeError(f"digits[{k}]={given!r}: give positive integers that multiply to {size}.")
        split.append([tuple(int(n) for n in part) for part in parts])
    return split


def _default_digits(size: tuple[int, ...]) -> list[tuple[int, ...]]:
    factors = [_prime_factors(n) for n in size]
    if len({len(each) for each in factors}) > 1:
        raise ShapeError(
            f"row and column sizes {size} have {len(factors[0])} and {len(factors[1])} prime factors: give digits=."
        )
    return list(zip(*factors, strict=True))


def _prime_factors(n: int) -> list[int]:
    found: list[int] = []
    p = 2
    while p * p <= n:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return [*found, n] if n > 1 or not found else found
