"""Rounding the cores of a train: the choice between Gram matrices and QR, and QR itself."""

from __future__ import annotations

from collections.abc import Sequence

from tnet.algebra.error_budget import ErrorBudget
from tnet.algebra.gram_rounding import resolved_by_gram, rounded_by_gram
from tnet.algebra.trains import right_orthogonal_step
from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    balanced_scale,
    scale_by_power_of_two,
    svd_truncated,
)

__all__ = ["rounded_cores"]


def rounded_cores(
    cores: Sequence[Array], ranks: tuple[int, ...] | None, rtol: float | None, method: str = "auto"
) -> list[Array]:
    """Return left-orthogonal cores of smaller ranks; ``method`` is "auto", "gram" or "qr"."""
    if len(cores) > 1 and method != "qr" and (method == "gram" or resolved_by_gram(cores, rtol)):
        found = rounded_by_gram(cores, ranks, rtol, strict=method == "auto")
        if found is not None:
            return found
    return _rounded_by_qr(list(cores), ranks, rtol)


def _rounded_by_qr(cores: list[Array], ranks: tuple[int, ...] | None, rtol: float | None) -> list[Array]:
    n_bonds = len(cores) - 1
    for k in range(n_bonds, 0, -1):
        right_orthogonal_step(cores, k)
    # All cores but the first are orthogonal now: its norm is that of the tensor, and a scale
    # taken out of it keeps the squares in range.
    cores[0], exponent, norm2 = balanced_scale(cores[0], "t")
    budget = ErrorBudget(ranks, rtol, norm2, n_bonds)
    xp = array_namespace(*cores)
    for k in range(n_bonds):
        r, n, s = cores[k].shape
        U, values, Vh, discarded = svd_truncated(xp.reshape(cores[k], (r * n, s)), budget.truncation(k))
        budget.spend(discarded)
        cores[k] = xp.reshape(U, (r, n, U.shape[1]))
        _, m, q = cores[k + 1].shape
        carried = (Vh * astype(values, Vh.dtype)[:, None]) @ xp.reshape(cores[k + 1], (s, m * q))
        cores[k + 1] = xp.reshape(carried, (U.shape[1], m, q))
    cores[-1] = scale_by_power_of_two(cores[-1], exponent)
    return cores
