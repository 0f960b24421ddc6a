"""How many components a CP model should have, and the curve that shows why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    conj,
    from_numpy_like,
    real_part,
    resolve_rng,
    squared_norm,
    to_numpy,
    total_size,
    ttm_chain,
)
from tnet.decompositions.component_clusters import cluster_silhouettes, matched_components
from tnet.decompositions.cp_als import als_sweeps, alternating_least_squares
from tnet.decompositions.cp_fit import CPFit, CPRun
from tnet.decompositions.cp_start import starting_factors
from tnet.decompositions.nonnegative import nonnegative_cp, nonnegative_sweeps, refuse_complex
from tnet.decompositions.preparation import Prepared, prepare
from tnet.errors import InputError, RankError
from tnet.formats import CPTensor
from tnet.options import Stopping

__all__ = ["RankSelection", "select_cp_rank"]

Method: TypeAlias = Literal["core_consistency", "held_out", "stability"]

_CONSISTENT = 80.0  # percent; Bro and Kiers call 90 very trilinear and 50 problematic
_UNCONVERGED = 10.0  # changes that a fit may end before its limit
_STABLE = 0.7  # mean silhouette of a component that nine of ten fits agree on
_HIDDEN = 0.1  # fraction of the entries held out
_PERTURBATION = 0.02  # relative: copies differ by as much as data that is measured again
_SWEEPS_PER_FILL = 2
_MAX_RANK = 10
_SHOWN = 8  # ranks in a report


@dataclass(frozen=True)
class RankSelection:
    """The rank that was chosen, and the curve it was chosen by.

    Parameters
    ----------
    rank : int
        The choice.
    ranks : tuple of int
        All that were tried.
    scores : tuple of float
        Of each rank. "core_consistency": percent, at most 100; "held_out": relative error of entries that the
        fit did not see; "stability": the least mean silhouette of a component, between -1 and 1.
    errors : tuple of float
        Relative error of the fit at each rank: of the best start, for "held_out" of the entries seen, for
        "stability" of the median copy.
    method : {"core_consistency", "held_out", "stability"}
    rule : str
        Why this rank, in words.
    rng_seed : int
        Repeats the selection.
    """

    rank: int
    ranks: tuple[int, ...]
    scores: tuple[float, ...]
    errors: tuple[float, ...]
    method: Method
    rule: str
    rng_seed: int

    def __repr__(self) -> str:
        at = self.ranks.index(self.rank)
        first = max(0, min(at - _SHOWN // 2, len(self.ranks) - _SHOWN))
        lines = [f"rank {self.rank} of {self.ranks[0]} to {self.ranks[-1]}: {self.rule}"]
        lines.append(f"  rank  {self.method:>16}      error")
        for r, score, error in list(zip(self.ranks, self.scores, self.errors, strict=True))[first : first + _SHOWN]:
            mark = " <-" if r == self.rank else ""
            lines.append(f"  {r:>4}  {score:>16.4g}  {error:.3e}{mark}")
        return "\n".join(lines)


def select_cp_rank(
    x: Array,
    max_rank: int | None = None,
    *,
    method: Method = "core_consistency",
    nonnegative: bool = False,
    n_runs: int | None = None,
    stopping: Stopping = Stopping(),  # noqa: B008 - frozen
    rng: Any = None,
) -> RankSelection:
    r"""Choose the number of components of a CP model of ``x``.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
        Of order 3 or more ("held_out": 2 or more), real or complex.
    max_rank : int or None
        Ranks 1 to ``max_rank`` are tried; None: 10, or the longest mode if that is shorter.
    method : {"core_consistency", "held_out", "stability"}
        - "core_consistency": the largest rank at which the core that fits the factors best is nearly the
          identity, :math:`100 (1 - \|G - I\|^2 / R) \ge 80` [1]_, and the last component explains more than one
          term does of white noise. Asks whether the model is trilinear.
        - "held_out": a tenth of the entries is hidden and filled in from the model itself (expectation
          maximisation); the smallest rank whose error there is not above the least by more than one standard error
          over the repetitions. Asks what predicts, and so suits noise that is independent from entry to entry.
        - "stability": copies with entries perturbed by two percent are fitted from different starts, and their
          components matched; the largest rank at which every component comes back, with a mean silhouette of 0.7
          or more [3]_. Asks what can be interpreted; meant for nonnegative models, and the dearest.
    nonnegative : bool
        Fit nonnegative models.
    n_runs : int or None
        Starts of each fit, of which the best counts ("core_consistency", default 3); repetitions with other entries
        hidden ("held_out", default 3, at least 2); copies ("stability", default 10, at least 2).
    stopping : Stopping
        Of each fit.
    rng : int, numpy Generator, torch Generator or None
        Drawn on the host.

    Returns
    -------
    RankSelection
        Its ``repr`` is the curve as a table; :func:`tnet.plot.rank_selection` draws it.

    Raises
    ------
    RankError
        A ``max_rank`` that is no positive integer.
    InputError
        A matrix or a vector, an unknown method, ``n_runs`` out of range; all that :func:`tnet.cp` refuses.
    BackendError
        Integers; complex numbers with ``nonnegative``.

    Notes
    -----
    ``max_rank * n_runs`` fits by random starts. The core is found with one pseudo-inverse of each factor and a chain
    of mode products, :math:`G = X \times_1 A_1^+ \times_2 A_2^+ \cdots`, never with their Kronecker product [2]_.
    Fits that hide entries hold three more arrays of the size of ``x``. Components of different copies are compared by
    the product of their cosines over the modes, and matched one to one.

    References
    ----------
    .. [1] R. Bro, H. A. L. Kiers, "A new efficient method for determining the number of components in PARAFAC
       models", Journal of Chemometrics 17 (2003).
    .. [2] E. E. Papalexakis, C. Faloutsos, "Fast efficient and scalable core consistency diagnostic for the PARAFAC
       decomposition for big sparse tensors", IEEE ICASSP (2015).
    .. [3] D. P. Truong, E. Skau, V. I. Valtchinov, B. S. Alexandrov, "Determination of latent dimensionality in
       international trade flow", Machine Learning: Science and Technology 1 (2020).

    Examples
    --------
    >>> import numpy as np
    >>> from tnet.decompositions import select_cp_rank
    >>> A, B, C = (np.random.default_rng(k).normal(size=(n, 2)) for k, n in enumerate((8, 9, 10)))
    >>> select_cp_rank(np.einsum("ir,jr,kr->ijk", A, B, C), 4, rng=0).rank
    2
    """
    if method not in ("core_consistency", "held_out", "stability"):
        raise InputError(f"method={method!r}: choose 'core_consistency', 'held_out' or 'stability'.")
    runs = _checked_runs(n_runs, method)
    prepared = prepare(x)
    shape = tuple(int(n) for n in prepared.array.shape)
    if len(shape) < (2 if method == "held_out" else 3):
        raise InputError(
            f"x has order {len(shape)}, where a CP model of any rank is consistent and none is unique: give an array "
            "of order 3 or more, or method='held_out' for a matrix."
        )
    if nonnegative:
        refuse_complex(prepared.array)
    ranks = tuple(range(1, _checked_max_rank(max_rank, shape) + 1))
    generator, seed = resolve_rng(rng)
    fitter = _Fitter(prepared, nonnegative, stopping, generator)
    if prepared.squared_norm == 0.0:
        scores, errors, rank, rule = (0.0,) * len(ranks), (0.0,) * len(ranks), 1, "x is zero"
    else:
        curve = {"core_consistency": _core_consistency, "held_out": _held_out, "stability": _stability}[method]
        scores, errors, rank, rule = curve(fitter, ranks, runs)
    return RankSelection(rank, ranks, scores, errors, method, rule, seed)


class _Curve(NamedTuple):
    """Scores and errors of all ranks, the choice and its reason."""

    scores: tuple[float, ...]
    errors: tuple[float, ...]
    rank: int
    rule: str


class _Fitter(NamedTuple):
    """How models are fitted: all from random starts that ``generator`` draws."""

    prepared: Prepared
    nonnegative: bool
    stopping: Stopping
    generator: np.random.Generator

    def fit(self, R: int, x: Array | None = None) -> CPFit:
        """Fit a model of rank R to ``x``, by default the tensor itself."""
        prepared = self.prepared if x is None else _of(self.prepared, x)
        if self.nonnegative:
            return nonnegative_cp(prepared, R, "random", 0.0, self.stopping, self.generator, None, 0.0)[0]
        factors, _ = starting_factors(prepared, R, "random", self.generator)
        return alternating_least_squares(prepared, factors, 0.0, self.stopping, None, 0.0)

    def fit_around(self, R: int, hidden: Array) -> tuple[float, float]:
        """Fit the entries that are not ``hidden``; return the root mean squares of both residuals, relative to x.

        Expectation maximisation: the hidden entries are taken from the model, which is then improved.

        Returns
        -------
        seen, unseen : float
        """
        prepared = self.prepared
        x = prepared.array
        xp = array_namespace(x)
        zeros = xp.zeros_like(x)
        filled = xp.where(hidden, zeros, x)
        factors, _ = starting_factors(prepared, R, "random", self.generator)
        factors = [xp.abs(factor) for factor in factors] if self.nonnegative else factors
        weights, dense, seen = xp.ones_like(factors[0][0, :]), zeros, math.inf
        for _ in range(0, self.stopping.max_iter, _SWEEPS_PER_FILL):
            run = CPRun(_of(prepared, filled), Stopping(_SWEEPS_PER_FILL, 0.0), None, 0.0)
            if self.nonnegative:
                nonnegative_sweeps(run, weights, factors, 0.0)
            else:
                als_sweeps(run, factors, 0.0, _SWEEPS_PER_FILL)
            weights, factors = run.weights, list(run.factors)
            dense = CPTensor(weights, tuple(factors)).to_dense()
            filled = xp.where(hidden, dense, x)
            last, seen = seen, math.sqrt(squared_norm(filled - dense) / prepared.squared_norm)
            if last - seen < self.stopping.change:
                break
        unseen = math.sqrt(squared_norm(xp.where(hidden, x - dense, zeros)) / prepared.squared_norm)
        fraction = int(xp.sum(astype(hidden, xp.int64))) / total_size(x.shape)
        return seen / math.sqrt(1.0 - fraction), unseen / math.sqrt(fraction)


def _of(prepared: Prepared, x: Array) -> Prepared:
    """Return another tensor, of the same range."""
    return prepared._replace(array=x, squared_norm=squared_norm(x))


def _core_consistency(fitter: _Fitter, ranks: Sequence[int], n_starts: int) -> _Curve:
    x = fitter.prepared.array
    scores, errors = [], []
    for R in ranks:
        best = min((fitter.fit(R) for _ in range(n_starts)), key=lambda fit: fit.errors[-1])
        scores.append(_consistency(x, best))
        errors.append(best.errors[-1])
    counts = _explains(errors, tuple(x.shape), fitter.stopping.change)
    good = [R for R, score, more in zip(ranks, scores, counts, strict=True) if score >= _CONSISTENT and more]
    rule = f"the largest that explains more, with a core consistency of {_CONSISTENT:.0f} % or more"
    if not good:
        rule = "no component explains more than one term does of noise"
    return _Curve(tuple(scores), tuple(errors), max(good, default=1), rule)


def _explains(errors: Sequence[float], shape: Sequence[int], change: float) -> list[bool]:
    """Return for each rank whether its last component explains more than one term does of white noise.

    The best rank-one term of N independent normal numbers has a squared norm near ``sum(sqrt(n_k))**2``, of N; and
    fits end ``change`` before they converge.
    """
    share = sum(math.sqrt(n) for n in shape) ** 2 / total_size(shape)
    least, answers = 1.0, []
    for error in errors:
        answers.append(least - error > _UNCONVERGED * change and least**2 - error**2 > share * least**2)
        least = min(least, error)
    return answers


def _consistency(x: Array, fit: CPFit) -> float:
    """Return the core consistency in percent."""
    xp = array_namespace(x)
    factors = [fit.factors[0] * fit.weights, *fit.factors[1:]]
    core = to_numpy(ttm_chain(x, [xp.linalg.pinv(factor) for factor in factors], range(x.ndim)))
    R = core.shape[0]
    core = core.astype(np.result_type(core, np.float64))
    core[(np.arange(R),) * core.ndim] -= 1.0
    return float(100.0 * (1.0 - np.sum(np.abs(core) ** 2) / R))


def _held_out(fitter: _Fitter, ranks: Sequence[int], n_repeats: int) -> _Curve:
    x = fitter.prepared.array
    laps = np.empty((n_repeats, len(ranks), 2))
    for repeat in range(n_repeats):
        hidden = _mask(fitter.generator, x)
        for k, R in enumerate(ranks):
            laps[repeat, k] = fitter.fit_around(R, hidden)
    errors, scores = laps.mean(axis=0).T
    best = int(np.argmin(scores))
    # Differences within a repetition: that some entries are harder to predict than others cancels.
    excess = laps[:, :, 1] - laps[:, best : best + 1, 1]
    doubt = excess.std(axis=0, ddof=1) / n_repeats**0.5
    rank = ranks[int(np.argmax(excess.mean(axis=0) <= doubt))]
    rule = "the smallest within one standard error of the least error of held-out entries"
    return _Curve(tuple(scores.tolist()), tuple(errors.tolist()), rank, rule)


def _mask(generator: np.random.Generator, like: Array) -> Array:
    """Return which entries are hidden: True for about a tenth, never for none or all."""
    draw = generator.random(tuple(like.shape))
    draw.flat[np.argmin(draw)], draw.flat[np.argmax(draw)] = 0.0, 1.0
    return from_numpy_like(draw, real_part(like)) < _HIDDEN


def _stability(fitter: _Fitter, ranks: Sequence[int], n_copies: int) -> _Curve:
    x = fitter.prepared.array
    scores, errors = [], []
    for R in ranks:
        fits = []
        for _ in range(n_copies):
            noise = 1.0 + _PERTURBATION * fitter.generator.uniform(-1.0, 1.0, tuple(x.shape))
            fits.append(fitter.fit(R, x * from_numpy_like(noise, x)))
        scores.append(float(np.min(_silhouettes(fits))) if R > 1 else 1.0)
        errors.append(float(np.median([fit.errors[-1] for fit in fits])))
    good = [R for R, score in zip(ranks, scores, strict=True) if score >= _STABLE]
    rule = f"the largest at which every component comes back (silhouette {_STABLE} or more)"
    return _Curve(tuple(scores), tuple(errors), max(good), rule)


def _silhouettes(fits: Sequence[CPFit]) -> np.ndarray:
    """Match the components of several fits one to one; return the mean silhouette of each cluster, shape (R,)."""
    P, R = len(fits), int(fits[0].weights.shape[0])
    cosines = np.ones((P * R, P * R))
    for columns in zip(*(fit.factors for fit in fits), strict=True):
        xp = array_namespace(*columns)
        A = xp.concat(list(columns), axis=1)
        cosines *= np.abs(to_numpy(xp.matrix_transpose(conj(A)) @ A))
    cosines = cosines.reshape(P, R, P, R)
    labels = matched_components(cosines, start=min(range(P), key=lambda p: fits[p].errors[-1]))
    return cluster_silhouettes(cosines, labels)


def _checked_runs(n_runs: object, method: Method) -> int:
    """Return the number of runs: at least two where they are compared with each other."""
    default, least = {"core_consistency": (3, 1), "held_out": (3, 2), "stability": (10, 2)}[method]
    if n_runs is None:
        return default
    if isinstance(n_runs, (bool, np.bool_)) or not isinstance(n_runs, (int, np.integer)) or n_runs < least:
        raise InputError(f"n_runs={n_runs!r}: method={method!r} takes an integer of at least {least}.")
    return int(n_runs)


def _checked_max_rank(max_rank: object, shape: tuple[int, ...]) -> int:
    if max_rank is None:
        return min(_MAX_RANK, max(shape))
    if isinstance(max_rank, (bool, np.bool_)) or not isinstance(max_rank, (int, np.integer)) or max_rank < 1:
        raise RankError(f"max_rank={max_rank!r}: give an integer of at least 1, or None.")
    return int(max_rank)
