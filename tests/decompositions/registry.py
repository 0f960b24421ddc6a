"""Every decomposition, one line each: the contract suite runs over this table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tnet
from tnet.options import Stopping
from tnet.results import Decomposition

_FEW = Stopping(max_iter=60, change=1e-9)


class Entry(NamedTuple):
    """How the suite calls a decomposition.

    ``call(x, rank)`` and, where there is one, ``at(x, rtol)``; ``shape`` is of the test tensors, ``rank`` a
    rank below all limits; ``real`` if complex arrays are refused.
    """

    name: str
    call: Callable[[Any, Any], Decomposition[Any]]
    at: Callable[[Any, float], Decomposition[Any]] | None
    shape: tuple[int, ...]
    rank: int
    clips: bool
    n_ranks: int | None
    real: bool = False


def _nonnegative(x: Any, rank: Any) -> Decomposition[Any]:
    return tnet.cp(x, rank, nonnegative=True, rng=0, stopping=_FEW)


def _sampled(x: Any, rank: Any) -> Decomposition[Any]:
    return tnet.cp(x, rank, method="randomized", rng=0, stopping=_FEW)


def _nonnegative_tucker(x: Any, rank: Any) -> Decomposition[Any]:
    # From this start more rank leads to less error, as in general only the global minima do.
    return tnet.tucker(x, rank, nonnegative=True, rng=3, stopping=_FEW)


def _mpo(x: Any, rank: Any = None, rtol: float | None = None, **weights: Any) -> Decomposition[Any]:
    return tnet.mpo(x, (2, 3), (4, 3), rank, rtol=rtol, **weights)


def _weighted(x: Any, rank: Any) -> Decomposition[Any]:
    return tnet.mpo(x, (2, 3), (4, 3), rank, weight=_eye(x, 1), row_weight=_eye(x, 0))


def _sum(x: Any, rank: Any = None, rtol: float | None = None, **weights: Any) -> Decomposition[Any]:
    return tnet.kronecker_sum(x, (2, 3), (4, 3), rank, rtol=rtol, **weights)


def _btt(x: Any, rank: Any = None, rtol: float | None = None, **weights: Any) -> Decomposition[Any]:
    return tnet.btt(x, (2, 3), (3, 4), rank, rtol=rtol, **weights)


def _ring(x: Any, rank: Any) -> Decomposition[Any]:
    return tnet.tr(x, rank, method="als", rng=0, stopping=_FEW)


def _eye(x: Any, axis: int) -> Any:
    """Return an identity in the library and dtype of ``x``: the weighted norm is then the plain one."""
    from tnet.arrays import as_array, from_numpy_like

    array = as_array(x)
    return from_numpy_like(np.eye(array.shape[axis] if array.ndim == 2 else 1), array)


def _hooi(x: Any, rank: Any = None, rtol: float | None = None) -> Decomposition[Any]:
    return tnet.tucker(x, rank, rtol=rtol, method="hooi", oversampling=1)


def _refined(x: Any, rank: Any = None, rtol: float | None = None) -> Decomposition[Any]:
    return tnet.tucker(x, rank, rtol=rtol, method="hooi", oversampling=0, refine=True)


def _randomized(x: Any, rank: Any = None, rtol: float | None = None) -> Decomposition[Any]:
    return tnet.tucker(x, rank, rtol=rtol, method="randomized", oversampling=1, rng=0)


def _tucker_slabs(x: Any, rank: Any = None, rtol: float | None = None) -> Decomposition[Any]:
    return tnet.tucker(x, rank, rtol=rtol, memory_limit=80_000)


def _tt_slabs(x: Any, rank: Any = None, rtol: float | None = None) -> Decomposition[Any]:
    return tnet.tt(x, rank, rtol=rtol, memory_limit=110_000)


REGISTRY = [
    Entry("cp", lambda x, r: tnet.cp(x, r, rng=0, stopping=_FEW), None, (4, 5, 6), 2, False, None),
    Entry("cp4", lambda x, r: tnet.cp(x, r, rng=0, stopping=_FEW), None, (3, 4, 2, 3), 2, False, None),
    Entry("cp nls", lambda x, r: tnet.cp(x, r, method="nls", rng=0, stopping=_FEW), None, (4, 5, 6), 2, False, None),
    Entry("cp randomized", _sampled, None, (4, 5, 6), 2, False, None),
    Entry("cp nonnegative", _nonnegative, None, (4, 5, 6), 2, False, None, real=True),
    Entry("tucker", tnet.tucker, lambda x, e: tnet.tucker(x, rtol=e), (4, 5, 6), 2, True, 3),
    Entry("tucker hooi", _hooi, lambda x, e: _hooi(x, rtol=e), (4, 5, 6), 2, True, 3),
    Entry("tucker hooi on x", _refined, lambda x, e: _refined(x, rtol=e), (5, 4, 6), 2, True, 3),
    Entry("tucker randomized", _randomized, lambda x, e: _randomized(x, rtol=e), (4, 5, 6), 2, True, 3),
    Entry("tucker sketch", lambda x, r: tnet.tucker(x, r, method="sketch", rng=0), None, (4, 5, 6), 2, True, 3),
    Entry("tucker by slabs", _tucker_slabs, lambda x, e: _tucker_slabs(x, rtol=e), (4, 5, 6), 2, True, 3),
    Entry("tt by slabs", _tt_slabs, lambda x, e: _tt_slabs(x, rtol=e), (6, 5, 3, 4), 2, True, 3),
    Entry("tucker nonnegative", _nonnegative_tucker, None, (4, 5, 6), 2, False, 3, real=True),
    Entry("tt", tnet.tt, lambda x, e: tnet.tt(x, rtol=e), (4, 5, 3, 6), 2, True, 3),
    Entry("tt left", tnet.tt, lambda x, e: tnet.tt(x, rtol=e), (6, 5, 3, 4), 2, True, 3),
    Entry("tt gram", lambda x, r: tnet.tt(x, r, method="gram"), None, (4, 5, 6), 2, True, 2),
    Entry("tt tsqr", lambda x, r: tnet.tt(x, r, method="tsqr"), None, (4, 5, 6), 2, True, 2),
    Entry("tt svd", lambda x, r: tnet.tt(x, r, method="svd"), None, (6, 5, 4), 2, True, 2),
    Entry("ht", tnet.ht, lambda x, e: tnet.ht(x, rtol=e), (4, 5, 3, 6), 2, True, 6),
    Entry("ht of order 3", tnet.ht, lambda x, e: tnet.ht(x, rtol=e), (6, 4, 5), 2, True, 4),
    Entry("tr", tnet.tr, lambda x, e: tnet.tr(x, rtol=e), (4, 5, 3, 6), 2, True, 4),
    Entry("tr of order 3", tnet.tr, lambda x, e: tnet.tr(x, rtol=e), (6, 4, 5), 2, True, 3),
    Entry("tr als", _ring, None, (4, 5, 6), 2, True, 3),
    Entry("mpo", _mpo, lambda x, e: _mpo(x, rtol=e), (6, 12), 3, True, 1),
    Entry("mpo weighted", _weighted, None, (6, 12), 3, True, 1),
    Entry("kronecker sum", _sum, lambda x, e: _sum(x, rtol=e), (6, 12), 3, True, 1),
    Entry("kronecker sum weighted", lambda x, r: _sum(x, r, weight=_eye(x, 1)), None, (6, 12), 3, True, 1),
    Entry("btt", _btt, lambda x, e: _btt(x, rtol=e), (6, 12), 2, True, 1),
    Entry(
        "btt weighted", lambda x, r: _btt(x, r, weight=_eye(x, 1), row_weight=_eye(x, 0)), None, (6, 12), 2, True, 1
    ),
    Entry("btt by columns", lambda x, r: _btt(x, r, weight=_eye(x, 1)), None, (6, 12), 2, True, 1),
    Entry("btt by rows", lambda x, r: _btt(x, r, row_weight=_eye(x, 0)), None, (6, 12), 2, True, 1),
    Entry("kronecker sum by rows", lambda x, r: _sum(x, r, row_weight=_eye(x, 0)), None, (6, 12), 3, True, 1),
]
