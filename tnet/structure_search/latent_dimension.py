"""How many features nonnegative data holds: those that come back when the data is perturbed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tnet.arrays import Array, array_namespace, dtype_name, from_numpy_like, is_complex, resolve_rng
from tnet.decompositions.component_clusters import cluster_silhouettes, matched_components
from tnet.decompositions.preparation import prepare
from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.parallel import ExecutorLike, run_tasks
from tnet.structure_search.nonnegative_stacks import Method, consensus_error, features_of_copies

__all__ = ["LatentDimension", "latent_dimension"]

_STABLE = 0.75  # silhouette of features that come back
_FALL = 0.99  # of the error, from a stable rank to the next
_ENTRIES = 1 << 23  # of the copies that a task holds
_SHOWN = 8  # ranks in a report


@dataclass(frozen=True, eq=False)
class LatentDimension:
    """The number of features that was chosen, and the curves it was chosen by.

    Parameters
    ----------
    rank : int
        The choice.
    ranks : tuple of int
        All that were tried, ascending.
    silhouettes : tuple of float
        Of each rank the least mean silhouette of a cluster of features, between -1 and 1; 1 for rank 1.
    mean_silhouettes : tuple of float
        The mean over all clusters.
    errors : tuple of float
        Relative error with the median features, the other factor fitted to them.
    features : tuple of array
        Of each rank the median features, columns of norm 1: shape (m, rank) for "nmfk", (n, rank) for "rescalk".
    method : {"nmfk", "rescalk"}
    rule : str
        Why this rank, in words.
    rng_seed : int
        Repeats the choice.
    """

    rank: int
    ranks: tuple[int, ...]
    silhouettes: tuple[float, ...]
    mean_silhouettes: tuple[float, ...]
    errors: tuple[float, ...]
    features: tuple[Array, ...]
    method: Method
    rule: str
    rng_seed: int

    def __repr__(self) -> str:
        at = self.ranks.index(self.rank)
        first = max(0, min(at - _SHOWN // 2, len(self.ranks) - _SHOWN))
        lines = [f"{self.rank} features of {self.ranks[0]} to {self.ranks[-1]} ({self.method}): {self.rule}"]
        lines.append("  rank  silhouette: least      mean       error")
        rows = zip(self.ranks, self.silhouettes, self.mean_silhouettes, self.errors, strict=True)
        for k, least, mean, error in list(rows)[first : first + _SHOWN]:
            lines.append(f"  {k:>4}  {least:>17.3f}  {mean:>8.3f}  {error:>10.3e}{' <-' if k == self.rank else ''}")
        return "\n".join(lines)

    def plot(self) -> Any:
        """Draw silhouettes and errors: :func:`tnet.plot.latent_dimension`, which takes Axes."""
        from tnet.plot import latent_dimension

        return latent_dimension(self)


def latent_dimension(
    x: Array,
    ranks: Iterable[int],
    *,
    method: Method = "nmfk",
    n_perturbations: int = 20,
    noise: float = 0.02,
    n_starts: int = 2,
    n_sweeps: int = 500,
    executor: ExecutorLike = None,
    rng: Any = None,
) -> LatentDimension:
    r"""Choose the number of nonnegative features of a matrix, or of a stack of square matrices.

    Parameters
    ----------
    x : array, shape (m, n), or (T, n, n) for "rescalk"
        Nonnegative. Of a tensor, give an unfolding: :func:`tnet.algebra.unfold`.
    ranks : iterable of int
        Numbers of features to try.
    method : {"nmfk", "rescalk"}
        :math:`X \approx W H` with features W, or :math:`X_t \approx A R_t A^T` with features A that all slices share;
        all factors nonnegative.
    n_perturbations : int
        Copies whose entries are multiplied by :math:`1 + \delta u`, u uniform in (-1, 1); at least 2.
    noise : float
        :math:`\delta` in (0, 1). Too large a value hides small features.
    n_starts : int
        Random starts of each factorisation, of which the best counts: a copy that ends in a poor local minimum looks
        as if its features were unstable.
    n_sweeps : int
        Multiplicative updates of each.
    executor : None, int, "processes", concurrent.futures.Executor or dask Client
        Where ranks and groups of copies are factorised. The result does not depend on it.
    rng : int, numpy Generator, torch Generator or None
        Drawn on the host.

    Returns
    -------
    LatentDimension
        Its ``repr`` is the curve as a table.

    Raises
    ------
    InputError
        A negative or non-finite entry, an all-zero ``x``, an unknown method, options out of range.
    ShapeError
        No matrix, or no stack of square matrices.
    RankError
        No ranks, or ranks that are no integers from 1 to the number of rows (and of columns).
    BackendError
        Integers and complex numbers.

    Notes
    -----
    For each rank all copies are factorised together. Their features are put into as many clusters as the rank, each
    with one feature of every copy (assignments by the cosine), and the silhouette of a feature compares the mean
    :math:`1 - \cos` to its own cluster with that to the nearest other one. If the rank is too large, features differ
    from copy to copy and silhouettes fall; if it is too small, the error is large. The choice is the largest rank
    whose least silhouette is 0.75 or more, and whose error is at least one percent below that of the next smaller
    such rank. Where no rank is that stable, it is the most stable one, and ``rule`` says so.

    A task holds one rank and up to :math:`2^{23}` entries of copies. The updates of RESCAL do not always lower the
    error; the best sweep counts.

    References
    ----------
    .. [1] D. P. Truong, E. Skau, V. I. Valtchinov, B. S. Alexandrov, "Determination of latent dimensionality in
       international trade flow", Machine Learning: Science and Technology 1 (2020).
    .. [2] M. Nickel, V. Tresp, H.-P. Kriegel, "A three-way model for collective learning on multi-relational data",
       International Conference on Machine Learning (2011).

    Examples
    --------
    >>> import numpy as np
    >>> from tnet.structure_search import latent_dimension
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((20, 3)) ** 3 @ rng.random((3, 30)) ** 3
    >>> latent_dimension(x, range(2, 5), n_perturbations=6, rng=0).rank
    3
    """
    if method not in ("nmfk", "rescalk"):
        raise InputError(f"method={method!r}: choose 'nmfk' or 'rescalk'.")
    _check_options(n_perturbations, noise, n_starts, n_sweeps)
    array = _checked_data(x, method)
    tried = _checked_ranks(ranks, min(array.shape[-2:]))
    _, seed = resolve_rng(rng)
    together = max(1, min(n_perturbations, _ENTRIES // int(np.prod(array.shape))))
    groups = [tuple(range(p, min(p + together, n_perturbations))) for p in range(0, n_perturbations, together)]
    tasks = {
        (k, g): (array, method, k, group, noise, n_starts, n_sweeps, seed)
        for k in tried
        for g, group in enumerate(groups)
    }
    found = run_tasks(features_of_copies, tasks, executor=executor)
    curves = [_consensus(np.concatenate([found[k, g] for g in range(len(groups))])) for k in tried]
    errors = [consensus_error(array, method, features) for features, _ in curves]
    least = [float(silhouettes.min()) for _, silhouettes in curves]
    rank, rule = _choice(tried, least, errors)
    return LatentDimension(
        rank,
        tried,
        tuple(least),
        tuple(float(silhouettes.mean()) for _, silhouettes in curves),
        tuple(errors),
        tuple(from_numpy_like(features, array) for features, _ in curves),
        method,
        rule,
        seed,
    )


def _consensus(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of each cluster of features, shape (n, k), and its mean silhouette, shape (k,)."""
    P, n, k = features.shape
    columns = features.transpose(0, 2, 1).reshape(P * k, n)
    cosines = (columns @ columns.T).reshape(P, k, P, k)
    # The copy that is most like all others begins.
    start = int(np.argmax(cosines.max(axis=3).sum(axis=(1, 2))))
    labels = matched_components(cosines, start)
    medians = np.stack(
        [np.median(features.transpose(0, 2, 1)[labels == cluster], axis=0) for cluster in range(k)], axis=1
    )
    norms = np.linalg.norm(medians, axis=0)
    medians = medians / np.where(norms > 0, norms, 1.0)
    return medians, cluster_silhouettes(cosines, labels) if k > 1 else np.ones(1)


def _choice(ranks: tuple[int, ...], silhouettes: list[float], errors: list[float]) -> tuple[int, str]:
    chosen = None
    for place in range(len(ranks)):
        if silhouettes[place] >= _STABLE and (chosen is None or errors[place] <= _FALL * errors[chosen]):
            chosen = place
    if chosen is None:
        return ranks[int(np.argmax(silhouettes))], f"the most stable, but no silhouette reaches {_STABLE}"
    return ranks[chosen], f"the largest that is stable (silhouette {_STABLE} or more) and lowers the error"


def _checked_data(x: Array, method: Method) -> Array:
    """Return the data, scaled by a power of two where its squares would leave the range."""
    prepared = prepare(x)
    array = prepared.array
    if is_complex(array):
        raise BackendError(f"x is {dtype_name(array)}: nonnegative features need real data, such as abs(x).")
    shape = tuple(array.shape)
    if method == "nmfk" and len(shape) != 2:
        raise ShapeError(f"x has shape {shape}: 'nmfk' takes a matrix, such as tnet.algebra.unfold(x, 0).")
    if method == "rescalk" and (len(shape) != 3 or shape[1] != shape[2]):
        raise ShapeError(f"x has shape {shape}: 'rescalk' takes a stack of square matrices, (T, n, n).")
    if float(array_namespace(array).min(array)) < 0:
        raise InputError("x has negative entries: nonnegative features cannot describe them.")
    if prepared.squared_norm == 0:
        raise InputError("x is all zero: it has no features.")
    return array


def _checked_ranks(ranks: Iterable[int], most: int) -> tuple[int, ...]:
    given = list(ranks) if isinstance(ranks, Iterable) else [ranks]  # pyright: ignore[reportUnnecessaryIsInstance]
    whole = [isinstance(k, (int, np.integer)) and not isinstance(k, (bool, np.bool_)) for k in given]
    if not given or not isinstance(ranks, Iterable) or not all(whole) or not all(1 <= k <= most for k in given):
        raise RankError(
            f"ranks={ranks!r}: give some integers from 1 to {most}, such as range(1, {min(most, 8) + 1})."
        )
    return tuple(sorted({int(k) for k in given}))


def _check_options(n_perturbations: object, noise: object, n_starts: object, n_sweeps: object) -> None:
    counts = (("n_perturbations", n_perturbations, 2), ("n_starts", n_starts, 1), ("n_sweeps", n_sweeps, 1))
    for name, given, least in counts:
        if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < least:
            raise InputError(f"{name}={given!r}: give an integer of at least {least}.")
    if not (isinstance(noise, (int, float)) and not isinstance(noise, bool) and 0 < noise < 1):
        raise InputError(f"noise={noise!r}: give a number in (0, 1).")
