"""The shape of the core of a Tucker model that makes the most of a number of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tnet.arrays import Array, array_namespace, as_array, gram, to_numpy
from tnet.decompositions.preparation import Prepared, prepare
from tnet.decompositions.sthosvd import mode_gram
from tnet.errors import InputError, ShapeError
from tnet.structure_search.core_shapes.least_error import least_error
from tnet.structure_search.core_shapes.packing import TuckerPacking, packed_exactly, packed_greedily
from tnet.structure_search.core_shapes.packing_programs import packed_by_cuts, packed_by_scheme

__all__ = [
    "CoreShape",
    "SideSpectra",
    "checked_budget",
    "checked_spectra",
    "core_shape",
    "error_bounds",
    "kept_sums",
    "spectra_of_sides",
    "unscaled",
]

Method: TypeAlias = Literal["exact", "milp", "greedy", "bang-for-buck", "ptas", "hooi"]
_ROUNDOFF = 1e-14  # of squared relative errors that are differences of squared norms
_METHODS = ("exact", "milp", "greedy", "bang-for-buck", "ptas", "hooi")


@dataclass(frozen=True)
class CoreShape:
    r"""The shape that was chosen, and what is known of its error before anything is decomposed.

    Parameters
    ----------
    shape : tuple of int
        Of the tensor.
    ranks : tuple of int
        Shape of the core.
    value : float
        What was maximised: :math:`\sum_n \sum_{i \le r_n} \sigma_{n,i}^2`; for "hooi" the squared norm that a Tucker
        model of these ranks keeps.
    n_params : int
        Of the core and the factors.
    max_params : int
    rse_bounds : tuple of float
        The squared relative error of the best Tucker model of these ranks lies between the two: the largest tail of
        a mode, and the sum of the tails of all modes; for "hooi" the error of the model that was found.
    method : {"exact", "milp", "greedy", "bang-for-buck", "ptas", "hooi"}
    is_proven : bool
        Whether no other ranks within ``max_params`` have a greater value; never of "hooi".
    """

    shape: tuple[int, ...]
    ranks: tuple[int, ...]
    value: float
    n_params: int
    max_params: int
    rse_bounds: tuple[float, float]
    method: Method
    is_proven: bool

    def __repr__(self) -> str:
        low, high = (math.sqrt(bound) for bound in self.rse_bounds)
        smaller = math.prod(self.shape) / self.n_params
        what = "squared norm kept" if self.method == "hooi" else "squared singular values kept over all modes"
        proven = ", the best" if self.is_proven else ""
        return "\n".join(
            [
                f"core {'x'.join(map(str, self.ranks))} of a tensor {'x'.join(map(str, self.shape))} "
                f"({self.method}{proven})",
                f"  parameters  {self.n_params} of at most {self.max_params} ({smaller:.3g}x smaller)",
                f"  error       {low:.3e} to {high:.3e} relative Frobenius, of the best model of these ranks",
                f"  value       {self.value:.6g} {what}",
            ]
        )


def core_shape(
    x: Array | None = None,
    *,
    spectra: Sequence[Any] | None = None,
    max_params: int,
    method: Method = "exact",
    eps: float = 0.25,
) -> CoreShape:
    r"""Choose the ranks of a Tucker model with at most ``max_params`` parameters.

    .. math:: \max_r \sum_n \sum_{i \le r_n} \sigma_{n,i}^2
       \quad\text{subject to}\quad \prod_n r_n + \sum_n I_n r_n \le c

    Parameters
    ----------
    x : array, shape (I_1, ..., I_N), or None
        Real or complex, of order 2 or more. Not changed.
    spectra : sequence of array, shapes (I_1,), ..., (I_N,), or None
        In place of ``x``: the squared singular values :math:`\sigma_{n,i}^2` of its unfoldings, in any order, zeros
        included.
    max_params : int
        c, at least :math:`1 + \sum_n I_n`: a core and factors of rank 1.
    method : {"exact", "milp", "greedy", "bang-for-buck", "ptas", "hooi"}
        - "exact": Lagrangian bounds and enumeration of what they leave; milliseconds as a rule.
        - "milp": integer programs with tangents of the product (HiGHS), also exact, slower.
        - "greedy": the rank whose next singular value is largest is raised, while it fits [1]_.
        - "bang-for-buck": the same per added parameter [1]_.
        - "ptas": at least :math:`1 - 2 \epsilon` of the greatest value, by integer programs over guesses of the
          product [1]_.
        - "hooi": another goal, which needs ``x``: the least error itself, as orthogonal iteration finds it. Often the
          best ranks; not proven.
    eps : float
        :math:`\epsilon` of "ptas", in (0, 1/2).

    Returns
    -------
    CoreShape
        ``ranks`` go to :func:`tnet.tucker` as they are.

    Raises
    ------
    InputError
        Both or neither of ``x`` and ``spectra``, order below 2, a ``max_params`` that no core fits, non-finite or
        negative values, an unknown method, ``eps`` out of range.
    BackendError
        Integers, and all that holds no numbers.

    Notes
    -----
    With tails :math:`t_n(r) = \sum_{i > r} \sigma_{n,i}^2 / \|x\|^2`, the squared relative error e of the best model
    of ranks r obeys :math:`\max_n t_n(r_n) \le e \le \sum_n t_n(r_n)`: the greatest value is the least upper bound,
    at most N times the least error that any ranks within the budget have [1]_. The packing is NP-hard; the exact
    methods have no polynomial bound, and "exact" says by ``is_proven=False`` where it had to stop early.

    The squared singular values are eigenvalues of Gram matrices, :math:`\sum_n I_n \prod_m I_m / 2` multiply-adds.
    Those below about :math:`10^{-15}` of :math:`\|x\|^2` are roundoff and count as 0.

    The sum of tails counts twice what several modes discard, and a truncation is not the best model. "hooi" looks at
    errors instead. ST-HOSVD truncates ``x`` once, to the largest ranks that the budget leaves to each mode. In nested
    bases the core S shows the error of every truncation, :math:`1 - \sum_{i \le r} |S_i|^2 / \|x\|^2`; orthogonal
    iteration then improves those of the least error, on a block of S little larger than the ranks. The cost is that
    of one ST-HOSVD, and about a millisecond for each of some 2 N ranks. On noise without structure the iteration has
    many local optima, and other ranks may be a few percent better.

    A model whose rank :math:`r_n` exceeds the product of the others is no better than one where it does not; where
    singular values fall slowly the packing may have such ranks all the same, "hooi" has not.

    References
    ----------
    .. [1] M. Ghadiri, M. Fahrbach, G. Fu, V. Mirrokni, "Approximately optimal core shapes for tensor decompositions",
       International Conference on Machine Learning (2023).

    Examples
    --------
    >>> import numpy as np
    >>> core_shape(np.diag([4.0, 2.0, 1.0, 0.5, 0.25]), max_params=30).ranks
    (2, 2)
    """
    if method not in _METHODS:
        raise InputError(f"method={method!r}: choose one of {', '.join(map(repr, _METHODS))}.")
    if not (isinstance(eps, (int, float)) and 0 < eps < 0.5):
        raise InputError(f"eps={eps!r}: give a number in (0, 1/2).")
    if (x is None) == (spectra is None):
        raise InputError(f"x= and spectra=: {'neither' if x is None else 'both'} given; give exactly one of them.")
    if method == "hooi":
        if x is None:
            raise InputError("method='hooi' needs x=: singular values alone do not tell the error of a model.")
        return _of_least_error(x, max_params)
    found = None if x is None else spectra_of_sides(x, [(n,) for n in range(as_array(x).ndim)])
    if found is None:
        squared, exponent = checked_spectra(spectra), 0
    else:
        squared, exponent = found.squared, found.prepared.exponent
    shape = tuple(len(s) for s in squared) if found is None else tuple(int(n) for n in found.prepared.array.shape)
    packing = TuckerPacking(shape, tuple(kept_sums(s) for s in squared), _checked_core_budget(shape, max_params))
    is_proven = method in ("exact", "milp")
    if method == "exact":
        ranks, is_proven = packed_exactly(packing)
    elif method == "milp":
        ranks = packed_by_cuts(packing)
    elif method == "ptas":
        ranks = packed_by_scheme(packing, float(eps))
    else:
        ranks = packed_greedily(packing, by_size=method == "bang-for-buck")
    value, bounds = unscaled(packing.value(ranks), exponent), error_bounds(squared, ranks)
    return CoreShape(shape, ranks, value, packing.size(ranks), packing.max_params, bounds, method, is_proven)


def _of_least_error(x: Array, max_params: int) -> CoreShape:
    prepared = prepare(x)
    shape = tuple(int(n) for n in prepared.array.shape)
    budget = _checked_core_budget(shape, max_params)
    found = least_error(prepared, budget)
    norm2, bounds = prepared.squared_norm, (0.0, 0.0)
    if norm2 > 0:
        low, high = found.cut / norm2 - _ROUNDOFF, 1 - found.kept / norm2 + _ROUNDOFF
        bounds = max(low, 0.0), min(high, 1.0)
    n_params = math.prod(found.ranks) + sum(n * r for n, r in zip(shape, found.ranks, strict=True))
    value = unscaled(found.kept, prepared.exponent)
    return CoreShape(shape, found.ranks, value, n_params, budget, bounds, "hooi", False)


def _checked_core_budget(shape: tuple[int, ...], max_params: object) -> int:
    if len(shape) < 2:
        raise ShapeError(f"shape {shape}: a Tucker model needs at least two modes.")
    return checked_budget(max_params, 1 + sum(shape))


class SideSpectra(NamedTuple):
    """Matricisations of a tensor, by the modes that number their rows."""

    prepared: Prepared
    """The tensor: values below are those of its ``array``, in units of ``4**exponent``."""

    squared: list[np.ndarray]
    """Squared singular values, descending, as many as the smaller side is long; roundoff is 0."""


def spectra_of_sides(x: Array, sides: Sequence[tuple[int, ...]]) -> SideSpectra:
    """Return the squared singular values of matricisations of ``x``.

    Parameters
    ----------
    x : array
    sides : sequence of tuple of int
        For each matricisation the modes that number its rows.
    """
    prepared = prepare(x)
    array = prepared.array
    xp = array_namespace(array)
    shape = tuple(int(n) for n in array.shape)
    entries = math.prod(shape)
    squared = []
    for side in sides:
        rows = math.prod(shape[k] for k in side)
        rest = tuple(k for k in range(len(shape)) if k not in side)
        if len(side) == 1 and rows**2 <= entries:
            G = mode_gram(array, side[0])
        else:
            order, rows = ((*side, *rest), rows) if rows**2 <= entries else ((*rest, *side), entries // rows)
            G = gram(xp.reshape(xp.permute_dims(array, order), (rows, -1)))
        values = to_numpy(xp.linalg.eigvalsh(G))[::-1]
        roundoff = 2 * np.finfo(np.float64).eps * (rows + math.sqrt(entries)) * prepared.squared_norm
        squared.append(np.where(values > roundoff, values, 0.0))
    return SideSpectra(prepared, squared)


def checked_spectra(spectra: object) -> list[np.ndarray]:
    """Return spectra in descending order, as float64."""
    if not isinstance(spectra, Sequence) or isinstance(spectra, str):
        raise InputError(f"spectra is a {type(spectra).__name__}: give a list of vectors of squared singular values.")
    found = []
    for n, given in enumerate(spectra):
        raw = np.asarray(given) if isinstance(given, (list, tuple)) else to_numpy(as_array(given, f"spectra[{n}]"))
        if raw.dtype.kind not in "iuf":
            raise InputError(f"spectra[{n}] of type {raw.dtype}: squared singular values are real numbers.")
        values = raw.astype(np.float64)
        if values.ndim != 1 or values.size == 0:
            raise ShapeError(f"spectra[{n}] has shape {values.shape}: give a vector of squared singular values.")
        with np.errstate(over="ignore"):
            total = float(np.sum(values))
        if values.min() < 0 or not math.isfinite(total):
            raise InputError(f"spectra[{n}]: squared singular values are finite and not negative, their sum too.")
        found.append(np.sort(values)[::-1])
    return found


def kept_sums(squared: np.ndarray) -> np.ndarray:
    """Return the sums of the r largest values, for r from 1 to the number that are not 0 (at least 1)."""
    return np.cumsum(squared[: max(1, int(np.count_nonzero(squared)))])


def checked_budget(max_params: object, least: int) -> int:
    """Return a number of parameters that suffices for rank 1."""
    if isinstance(max_params, (bool, np.bool_)) or not isinstance(max_params, (int, np.integer)):
        raise InputError(f"max_params={max_params!r}: give an integer.")
    if max_params < least:
        raise InputError(f"max_params={max_params}: rank 1 everywhere takes {least} parameters; give at least that.")
    return int(max_params)


def error_bounds(squared: Sequence[np.ndarray], ranks: Sequence[int]) -> tuple[float, float]:
    """Return the largest tail and the sum of all tails, relative to the sum of each spectrum."""
    tails = [
        math.fsum(s[r:].tolist()) / total if (total := math.fsum(s.tolist())) > 0 else 0.0
        for s, r in zip(squared, ranks, strict=True)
    ]
    return max(tails, default=0.0), min(1.0, math.fsum(tails))


def unscaled(value: float, exponent: int) -> float:
    """Return ``4**exponent * value``."""
    try:
        return math.ldexp(value, 2 * exponent)
    except OverflowError:
        raise InputError(
            "x: its squared norm exceeds the range of floating point; divide x by its largest entry."
        ) from None
