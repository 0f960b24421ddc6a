"""Rounding of sums and entrywise products of trains that are never formed: randomise, then orthogonalise."""

from __future__ import annotations

import itertools
import math
import operator
import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from tnet.algebra.gram_rounding import in_range
from tnet.algebra.operands import check_same_shape, unsupported
from tnet.algebra.products import check_same_split, hadamard, norm
from tnet.algebra.ranks import bond_limits, bounded_ranks
from tnet.algebra.sums import add, scale
from tnet.algebra.train_rounding import rounded_cores
from tnet.algebra.trains import three_axis_cores, with_cores
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    common_dtype,
    compute_dtype,
    qr,
    require_floating,
    resolve_rng,
    scale_by_power_of_two,
    squared_norm,
    standard_normal,
    to_numpy,
)
from tnet.errors import InputError
from tnet.formats import MatrixProductOperator, TensorTrain
from tnet.options import check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = [
    "OVERSAMPLING",
    "TEST_COLUMNS",
    "SketchedTrain",
    "gaussian_sketches",
    "round_hadamard",
    "round_sum",
    "rounded_randomly",
]

T = TypeVar("T", TensorTrain, MatrixProductOperator)

_ErrorKind = Literal["exact", "bound", "estimate"]

OVERSAMPLING = 10
"""Columns of a sketch beyond the rank."""

TEST_COLUMNS = 10
"""Further columns, which only measure what is left out."""

# The estimate from the test columns is trusted up to this factor.
_SAFETY = 1.5
_FIRST_WIDTH = 16
# Relative to the squares that cancel in ``||x||^2 - 2 <x, y> + ||y||^2``: below that the difference is roundoff.
_ROUNDOFF = 1e-13


def round_sum(
    terms: Sequence[T],
    rank: int | Sequence[int] | None = None,
    *,
    coefficients: Sequence[complex] | None = None,
    rtol: float | None = None,
    rng: Any = None,
) -> Decomposition[T]:
    r"""Return a train close to :math:`\sum_j c_j T_j`, without forming the sum.

    Parameters
    ----------
    terms : sequence of TensorTrain or of MatrixProductOperator
        Of one kind and shape.
    rank : int or sequence of int
        Largest rank of each bond; one integer bounds them all.
    coefficients : sequence of number, optional
        One for each term. Default: ones.
    rtol : float
        Relative Frobenius error of the whole, instead of ``rank``.
    rng : int, numpy.random.Generator, torch.Generator or None
        For the sketch.

    Returns
    -------
    Decomposition
        ``error_kind`` is "exact", or "bound" where the difference is too small for inner products to tell.

    Raises
    ------
    RankError
        Neither or both of ``rank`` and ``rtol``, or a rank that is no positive integer.
    InputError
        No terms, a wrong number of coefficients, a non-finite entry.
    ShapeError, BackendError
        Terms of different shapes or kinds.

    Notes
    -----
    For J terms of rank r and a result of rank q: ``J n r q (2 r + 2 q)`` multiply-adds for each core, and
    ``2 J^2 n r^3`` for the error, against ``4 n (J r)^3`` by QR of the sum. With ``rtol``, the width of the sketch is
    doubled until the error is within it; where neither sketch nor inner products can tell, the sum is formed and
    rounded by :func:`tnet.round`. With ``rank`` the error is near the best, not below a proven multiple of it.

    References
    ----------
    .. [1] H. Al Daas, G. Ballard, P. Cazeaux, E. Hallman, A. Miedlar, M. Pasha, T. W. Reid, A. K. Saibaba,
       "Randomized algorithms for rounding in the tensor-train format", SIAM J. Sci. Comput. 45 (2023).

    Examples
    --------
    >>> import numpy as np
    >>> from tnet.algebra import round_sum
    >>> from tnet.formats import TensorTrain
    >>> t = TensorTrain((np.ones((1, 4, 1)), np.ones((1, 4, 1)), np.ones((1, 4, 1))))
    >>> round_sum([t, t, t], rtol=1e-6, coefficients=[1, 2, -1], rng=0).tensor.rank
    (1, 1)
    """
    check_rank_or_rtol(rank, rtol)
    terms = _checked(terms)
    factors = (1.0,) * len(terms) if coefficients is None else tuple(coefficients)
    if len(factors) != len(terms):
        raise InputError(f"coefficients: {len(factors)} given for {len(terms)} terms; give one for each.")
    scaled: list[Any] = [scale(term, c) for term, c in zip(terms, factors, strict=True)]
    dtype = common_dtype(*(part for term in scaled for part in term.arrays))
    cores, exponents = zip(*(_cores_in_range(term, dtype) for term in scaled), strict=True)
    common = max(exponents)
    for part, exponent in zip(cores, exponents, strict=True):
        part[0] = scale_by_power_of_two(part[0], exponent - common)

    task = _Task(
        terms[0], [_Plain(part) for part in cores], _modes(cores[0]), common, lambda: reduce(add, scaled), dtype
    )
    return _rounded(task, rank, rtol, rng)


def round_hadamard(
    a: T, b: T, rank: int | Sequence[int] | None = None, *, rtol: float | None = None, rng: Any = None
) -> Decomposition[T]:
    r"""Return a train close to the entrywise product of two, without forming it.

    Parameters
    ----------
    a, b : TensorTrain or MatrixProductOperator
        Of one kind and shape.
    rank : int or sequence of int
        Largest rank of each bond; one integer bounds them all.
    rtol : float
        Relative Frobenius error of the whole, instead of ``rank``; kept as far as the estimate is right.
    rng : int, numpy.random.Generator, torch.Generator or None
        For the sketch.

    Returns
    -------
    Decomposition
        ``error_kind`` is "estimate", from columns of the sketch that had no part in the result, or "exact" where the
        product had to be formed.

    Raises
    ------
    RankError, InputError, ShapeError, BackendError
        As :func:`round_sum`.

    Notes
    -----
    For ranks r and a result of rank q: ``4 n r^3 q`` multiply-adds for each core, against ``4 n r^6`` by QR of the
    product of rank ``r^2``.

    References
    ----------
    .. [1] H. Al Daas et al., "Randomized algorithms for rounding in the tensor-train format", SIAM J. Sci. Comput.
       45 (2023).

    Examples
    --------
    >>> import numpy as np
    >>> from tnet.algebra import round_hadamard
    >>> from tnet.formats import TensorTrain
    >>> t = TensorTrain((np.ones((1, 4, 2)), np.ones((2, 4, 2)), np.ones((2, 4, 1))))
    >>> round_hadamard(t, t, rtol=1e-6, rng=0).tensor.rank
    (1, 1)
    """
    check_rank_or_rtol(rank, rtol)
    first, second = _checked((a, b))
    dtype = common_dtype(*first.arrays, *second.arrays)
    (x, e), (y, f) = _cores_in_range(first, dtype), _cores_in_range(second, dtype)
    task = _Task(first, [_Product(x, y)], _modes(x), e + f, lambda: hadamard(first, second), dtype)
    return _rounded(task, rank, rtol, rng)


def rounded_randomly(t: T, rank: int | Sequence[int] | None, rtol: float | None, rng: Any) -> T:
    """Return one train rounded by a sketch of it; at given ranks nothing is spent on the error."""
    check_rank_or_rtol(rank, rtol)
    if rank is None:
        return round_sum([t], rtol=rtol, rng=rng).tensor
    _checked([t])
    cores, exponent = _cores_in_range(t, t.dtype)
    task = _Task(t, [_Plain(cores)], _modes(cores), exponent, lambda: t, t.dtype)
    limits, most = _bond_bounds(task)
    ranks = bounded_ranks(rank, limits, "bond")
    widths = [min(m, r + OVERSAMPLING) for m, r in zip(most, ranks, strict=True)]
    projected = _projected(task.parts, task.modes, widths, resolve_rng(rng)[0])
    return _finished(task, projected, rounded_cores(projected.cores, ranks, None))


class SketchedTrain(Protocol):
    """A train of which only products with its cores are needed; its bonds are flattened to one axis."""

    bonds: list[int]
    one: Array

    def sketched(self, k: int, W: Array, R: Array) -> Array:
        """Return core k times ``W`` (bond, l) times the random core ``R`` (l', n, l), of shape (bond, l')."""
        ...

    def stepped(self, k: int, S: Array) -> Array:
        """Return the state ``S`` (q, bond) times core k, of shape (q n, bond)."""
        ...


class _Plain:
    """A train by its cores."""

    def __init__(self, cores: Sequence[Array]) -> None:
        self.cores = list(cores)
        self.bonds = [int(core.shape[2]) for core in cores[:-1]]
        self.one = _one_like(cores[0])

    def sketched(self, k: int, W: Array, R: Array) -> Array:
        xp = array_namespace(W, R)
        r, n, s = self.cores[k].shape
        image = xp.reshape(xp.reshape(self.cores[k], (r * n, s)) @ W, (r, -1))
        return image @ xp.matrix_transpose(xp.reshape(R, (R.shape[0], -1)))

    def stepped(self, k: int, S: Array) -> Array:
        xp = array_namespace(S)
        r, n, s = self.cores[k].shape
        return xp.reshape(S @ xp.reshape(self.cores[k], (r, n * s)), (S.shape[0] * n, s))


class _Product:
    """The entrywise product of two trains by their cores; its bonds are pairs of theirs."""

    def __init__(self, a: Sequence[Array], b: Sequence[Array]) -> None:
        self.a, self.b = a, b
        self.bonds = [int(x.shape[2]) * int(y.shape[2]) for x, y in zip(a[:-1], b[:-1], strict=True)]
        self.one = _one_like(a[0])

    def sketched(self, k: int, W: Array, R: Array) -> Array:
        xp = array_namespace(W, R)
        A, B = self.a[k], self.b[k]
        r, n, s = A.shape
        q, _, t = B.shape
        image = xp.reshape(xp.reshape(A, (r * n, s)) @ xp.reshape(W, (s, -1)), (r, n, t, -1))
        image = xp.reshape(xp.permute_dims(image, (1, 0, 2, 3)), (n, r * t, -1)) @ xp.permute_dims(R, (1, 2, 0))
        image = xp.permute_dims(xp.reshape(image, (n, r, t, -1)), (1, 0, 2, 3))
        return xp.reshape(xp.reshape(B, (q, n * t)) @ xp.reshape(image, (r, n * t, -1)), (r * q, -1))

    def stepped(self, k: int, S: Array) -> Array:
        xp = array_namespace(S)
        A, B = self.a[k], self.b[k]
        r, n, s = A.shape
        q, _, t = B.shape
        rows = int(S.shape[0])
        state = xp.reshape(xp.permute_dims(xp.reshape(S, (rows, r, q)), (0, 2, 1)), (rows * q, r))
        state = xp.reshape(state @ xp.reshape(A, (r, n * s)), (rows, q, n, s))
        state = xp.reshape(xp.permute_dims(state, (2, 0, 3, 1)), (n, rows * s, q)) @ xp.permute_dims(B, (1, 0, 2))
        return xp.reshape(xp.permute_dims(xp.reshape(state, (n, rows, s, t)), (1, 0, 2, 3)), (rows * n, s * t))


class _Task(NamedTuple):
    """What is rounded: ``2**exponent`` times the sum of ``parts``, a tensor of the kind and shape of ``like``."""

    like: Any
    parts: Sequence[SketchedTrain]
    modes: list[int]
    exponent: int
    formed: Callable[[], Any]
    dtype: Any


class _Projected(NamedTuple):
    """Left-orthogonal cores, their power of two, and the estimated relative error of the projection."""

    cores: list[Array]
    exponent: int
    estimate: float


def _rounded(task: _Task, rank: int | Sequence[int] | None, rtol: float | None, rng: Any) -> Decomposition[Any]:
    """Project on sketches of growing width, round the projection, measure the error."""
    started = time.perf_counter()
    generator, seed = resolve_rng(rng)
    limits, most = _bond_bounds(task)
    ranks = None if rank is None else bounded_ranks(rank, limits, "bond")
    width = _FIRST_WIDTH
    while True:
        wanted = [width] * len(most) if ranks is None else [r + OVERSAMPLING for r in ranks]
        widths = [min(m, w) for m, w in zip(most, wanted, strict=True)]
        projected = _projected(task.parts, task.modes, widths, generator)
        left = None if rtol is None else rtol * rtol - (_SAFETY * projected.estimate) ** 2
        if left is None or rtol is None or left >= rtol * rtol / 2:
            cores = rounded_cores(projected.cores, ranks, None if left is None else math.sqrt(left))
            error, kind = _measured(task, projected, cores)
            if rtol is None or error <= rtol:
                break
        if widths == most:
            return _formed_and_rounded(task, rtol, seed, started)
        width *= 2
    tensor = _finished(task, projected, cores)
    return Decomposition(tensor, error, kind, Status.DIRECT, History(), time.perf_counter() - started, seed)


def _finished(task: _Task, projected: _Projected, cores: Sequence[Array]) -> Any:
    last = scale_by_power_of_two(cores[-1], projected.exponent + task.exponent)
    return with_cores(task.like, [astype(core, task.dtype) for core in (*cores[:-1], last)])


def _bond_bounds(task: _Task) -> tuple[list[int], list[int]]:
    """Return the largest possible rank of each bond, by its cut and by the parts as well."""
    limits = bond_limits(task.modes)
    return limits, [min(limit, sum(part.bonds[k] for part in task.parts)) for k, limit in enumerate(limits)]


def _projected(
    parts: Sequence[SketchedTrain], modes: Sequence[int], widths: Sequence[int], rng: np.random.Generator
) -> _Projected:
    """Project a sum of trains on the range of its Gaussian sketch, bond by bond from the left."""
    sketches = gaussian_sketches(parts, modes, widths, rng)
    states = [part.stepped(0, part.one) for part in parts]
    xp = array_namespace(*states)
    cores: list[Array] = []
    spent, exponent, rank = 0.0, 0, 1
    for k, width in enumerate(widths):
        image = reduce(operator.add, (state @ W for state, W in zip(states, sketches[k], strict=True)))
        Q, _ = qr(image[:, :width])
        test = image[:, width:]
        seen = squared_norm(test)
        if seen > 0:
            rest = squared_norm(test - Q @ (adjoint(Q) @ test))
            spent += (1 - spent) * min(rest / seen, 1.0)
        cores.append(xp.reshape(Q, (rank, modes[k], Q.shape[1])))
        rank = int(Q.shape[1])
        states, shift = _in_range_alike([adjoint(Q) @ state for state in states])
        exponent += shift
        states = [part.stepped(k + 1, state) for part, state in zip(parts, states, strict=True)]
    last = reduce(operator.add, states)
    return _Projected([*cores, xp.reshape(last, (rank, modes[-1], 1))], exponent, math.sqrt(spent))


def gaussian_sketches(
    parts: Sequence[SketchedTrain], modes: Sequence[int], widths: Sequence[int], rng: np.random.Generator
) -> list[list[Array]]:
    """Multiply what is to the right of each bond by a Gaussian train.

    Parameters
    ----------
    parts : sequence of SketchedTrain
        The terms of a sum.
    modes : sequence of int
    widths : sequence of int
        Columns at each bond, besides the test columns.
    rng : numpy.random.Generator

    Returns
    -------
    list of list of array, shapes (bond, width + TEST_COLUMNS)
        For each bond and part, up to a power of two for each bond.
    """
    states, columns = [part.one for part in parts], 1
    found: list[list[Array]] = []
    for k in range(len(widths), 0, -1):
        rows = widths[k - 1] + TEST_COLUMNS
        # Scaled so that the mean square of a column's image is the squared norm of what it is applied to.
        R = standard_normal(rng, (rows, modes[k], columns), states[0]) * (1.0 / math.sqrt(columns))
        sketched = [part.sketched(k, W, R) for part, W in zip(parts, states, strict=True)]
        states, _ = _in_range_alike(sketched)
        found.append(states)
        columns = rows
    return found[::-1]


def _measured(
    task: _Task, projected: _Projected, cores: Sequence[Array]
) -> tuple[float, Literal["exact", "bound", "estimate"]]:
    """Return the relative error of ``cores`` and how it is known."""
    scaled = [scale_by_power_of_two(core, projected.exponent) if k == 0 else core for k, core in enumerate(cores)]
    if all(isinstance(part, _Plain) for part in task.parts):
        K = _inner_products([*(part.cores for part in task.parts if isinstance(part, _Plain)), scaled])
        squared = float(np.real(np.sum(K[:-1, :-1])))
        difference = float(np.real(np.sum(K[:-1, :-1]) - 2 * np.sum(K[:-1, -1]) + K[-1, -1]))
        roundoff = _ROUNDOFF * float(np.sum(np.abs(np.diagonal(K)))) * len(K)
        if squared <= 0.0:
            return 0.0, "exact"
        if difference > 100 * roundoff:
            return math.sqrt(difference / squared), "exact"
        return math.sqrt((max(difference, 0.0) + roundoff) / squared), "bound"
    projection = TensorTrain(tuple(projected.cores))
    size = float(norm(projection))
    if size <= 0.0:
        return 0.0, "exact"
    compressed = float(norm(add(projection, scale(TensorTrain(tuple(cores)), -1.0)))) / size
    return math.hypot(projected.estimate, math.sqrt(1 - projected.estimate**2) * compressed), "estimate"


def _inner_products(trains: Sequence[Sequence[Array]]) -> np.ndarray:
    """Return the inner products of all pairs, to a common power of two, in double precision."""
    xp = array_namespace(trains[0][0])
    wide = xp.complex128 if xp.isdtype(trains[0][0].dtype, "complex floating") else xp.float64
    G = xp.ones((len(trains), len(trains)), dtype=wide, device=trains[0][0].device)
    for k in range(len(trains[0]) - 1, -1, -1):
        cores = [astype(train[k], wide) for train in trains]
        ends = np.cumsum([0, *(int(core.shape[2]) for core in cores)]).tolist()
        spans = list(itertools.pairwise(ends))
        columns = ends[-1]
        n = int(cores[0].shape[1])
        wides = [
            xp.reshape(xp.reshape(core, (-1, core.shape[2])) @ G[start:stop, :], (core.shape[0], n, columns))
            for core, (start, stop) in zip(cores, spans, strict=True)
        ]
        T = xp.concat(wides, axis=0)
        blocks = [
            xp.reshape(T[:, :, start:stop], (T.shape[0], -1)) @ adjoint(xp.reshape(core, (core.shape[0], -1)))
            for core, (start, stop) in zip(cores, spans, strict=True)
        ]
        G, _ = in_range(xp.concat(blocks, axis=1))
    return to_numpy(G)


def _formed_and_rounded(task: _Task, rtol: float | None, seed: int, started: float) -> Decomposition[Any]:
    """Form the tensor after all and round it by QR, where neither sketch nor inner products can tell the error."""
    t = task.formed()
    wide = t.map_arrays(lambda part: astype(part, compute_dtype(part)))
    rounded = with_cores(wide, rounded_cores(three_axis_cores(wide), None, rtol, "qr"))
    whole = float(norm(wide))
    error = float(norm(add(rounded, scale(wide, -1.0)))) / whole if whole > 0 else 0.0
    tensor = rounded.map_arrays(lambda part: astype(part, task.dtype))
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), time.perf_counter() - started, seed)


def _checked(terms: Sequence[T]) -> list[T]:
    """Return the terms, all of one kind and shape and finite."""
    terms = list(terms)
    if not terms:
        raise InputError("terms: none given; give at least one train.")
    for j, term in enumerate(terms):
        if not isinstance(term, (TensorTrain, MatrixProductOperator)) or type(term) is not type(terms[0]):
            raise unsupported("rounding by a sketch", [terms[0], term], "give trains, or operators, of one kind.")
        check_same_shape("rounding by a sketch", terms[0], term)
        check_same_split("rounding by a sketch", terms[0], term)
        for k, part in enumerate(term.arrays):
            require_floating(part, f"cores[{k}] of term {j}")
            squared_norm(part, f"cores[{k}] of term {j}")  # not finite where an entry is not
    array_namespace(*(part for term in terms for part in term.arrays))
    return terms


def _cores_in_range(t: TensorTrain | MatrixProductOperator, dtype: Any) -> tuple[list[Array], int]:
    """Return cores to compute with, in range, and the exponent of the power of two that they lack."""
    xp = array_namespace(*t.cores)
    wide = xp.float32 if str(dtype).endswith("float16") else dtype
    found = [in_range(astype(core, wide)) for core in three_axis_cores(t)]
    return [core for core, _ in found], sum(exponent for _, exponent in found)


def _in_range_alike(arrays: Sequence[Array]) -> tuple[list[Array], int]:
    """Return the arrays divided by one power of two, which brings the largest norm near one, and its exponent."""
    largest = math.sqrt(max(squared_norm(array) for array in arrays))
    exponent = math.frexp(largest)[1]
    return [scale_by_power_of_two(array, -exponent) for array in arrays], exponent


def _modes(cores: Sequence[Array]) -> list[int]:
    return [int(core.shape[1]) for core in cores]


def _one_like(core: Array) -> Array:
    return array_namespace(core).ones((1, 1), dtype=core.dtype, device=core.device)
