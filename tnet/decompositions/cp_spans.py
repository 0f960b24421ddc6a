"""CP within the spans of its factors: a tensor as small as the rank, on which sweeps are nearly free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tnet.arrays import Array, adjoint, array_namespace, device_kind, qr, squared_norm, ttm_chain
from tnet.decompositions.cp_fit import normalised_columns
from tnet.decompositions.dimension_tree import price_of_sweep
from tnet.decompositions.momentum import Momentum
from tnet.decompositions.preparation import Prepared, in_c_order

__all__ = ["Spans", "Within"]

# What the calls of a sweep take beside its products, in multiply-adds of a large matrix product.
_CALLS = {"cpu": 4e6}
_CALLS_ELSEWHERE = 4e9
# What a sweep over the core may cost, of one over the tensor: within the spans of the last factors, and with those of
# the factors before them, which let rounds gain more, on cores of 2^d times the size.
_CHEAP = 0.25
_CHEAP_WITH_BOTH = 0.1
_WORK = 3  # sweeps over the tensor are worth what a round costs at first
# A round that gains less than _LEAST times what the sweep over the tensor after it does is not worth its price; one
# that gains more than _MUCH times as much was too short.
_LEAST, _MUCH = 4.0, 10.0
_LONGEST = 4  # times the first
_FIRST_PAUSE = 4  # sweeps


class Within(NamedTuple):
    """The tensor projected on a span in each mode, with orthonormal bases (None where the span is the whole mode)."""

    core: Prepared
    bases: tuple[Array | None, ...]

    def coordinates(self, factors: Sequence[Array]) -> list[Array]:
        """Return factors that lie in the spans by their coordinates, columns of norm 1."""
        pairs = zip(factors, self.bases, strict=True)
        return [A if U is None else normalised_columns(adjoint(U) @ A) for A, U in pairs]

    def factors(self, coordinates: Sequence[Array]) -> list[Array]:
        """Return the factors that have these coordinates, columns of norm 1."""
        pairs = zip(coordinates, self.bases, strict=True)
        return [A if U is None else normalised_columns(U @ A) for A, U in pairs]


class Spans:
    """Decides when sweeps within the spans of the factors are worth a round, and how many make one.

    Parameters
    ----------
    prepared : Prepared
    R : int
    momentum : Momentum
        Of the sweeps within, kept from round to round.

    Notes
    -----
    A model whose factors lie in given spans is as far from the projection of the tensor on them as from the tensor
    itself, but for what the projection leaves out, which is the same for all such models. Least squares on the
    projection, a core of R or 2 R entries a mode, is thus exact [1]_, and includes every step along the last change
    of the factors. A sweep over the tensor leads out of the spans by as much as there is of the tensor that the
    model misses: where the model fits well, two or three rounds do. Where it does not, a round gains little more
    than the sweep after it; then the next ones wait, longer each time.

    References
    ----------
    .. [1] J. D. Carroll, S. Pruzansky, J. B. Kruskal, "CANDELINC: a general approach to multidimensional analysis of
       many-way arrays with linear constraints on parameters", Psychometrika 45 (1980).
    """

    def __init__(self, prepared: Prepared, R: int, momentum: Momentum) -> None:
        shape = [int(n) for n in prepared.array.shape]
        calls = _CALLS.get(device_kind(prepared.array), _CALLS_ELSEWHERE)
        whole = price_of_sweep(shape, R) + calls
        one, both = ((price_of_sweep([min(n, k * R) for n in shape], R) + calls) / whole for k in (1, 2))
        self._both = both <= _CHEAP_WITH_BOTH
        share = both if self._both else one
        self._pays = share <= _CHEAP
        self._wait, self._pause = 0, _FIRST_PAUSE
        self._longest = int(_LONGEST * _WORK / share)
        self.sweeps = int(_WORK / share)
        self.momentum = momentum

    def due(self) -> bool:
        """Return whether it is time for a round; to be asked once a sweep."""
        self._wait = max(0, self._wait - 1)
        return self._pays and not self._wait

    def judge(self, within: float, beyond: float) -> None:
        """Learn from what a round gained, and what the sweep over the tensor after it did."""
        if not within > _LEAST * beyond:
            self._wait, self._pause = self._pause, 2 * self._pause
        elif within > _MUCH * beyond:
            self.sweeps = min(2 * self.sweeps, self._longest)

    def project(self, prepared: Prepared, new: Sequence[Array], before: Sequence[Array]) -> Within:
        """Return the tensor within the spans of the new factors, with those before where that is cheap."""
        x = prepared.array
        xp = array_namespace(x)
        bases: list[Array | None] = []
        for A, B in zip(new, before, strict=True):
            columns = xp.concat([A, B], axis=1) if self._both else A
            bases.append(qr(columns)[0] if columns.shape[1] < columns.shape[0] else None)
        cuts = [(adjoint(U), mode) for mode, U in enumerate(bases) if U is not None]
        core = ttm_chain(x, [matrix for matrix, _ in cuts], [mode for _, mode in cuts])
        return Within(in_c_order(Prepared(core, 0, squared_norm(core), core.dtype, False)), tuple(bases))
