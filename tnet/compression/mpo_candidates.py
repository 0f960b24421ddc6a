"""MPO candidates: a few bond dimensions a layer, fitted in the metric of the layer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch

from tnet.compression.whitening import Metric, kronecker_loss
from tnet.decompositions import mpo
from tnet.errors import ConvergenceWarning
from tnet.formats import MatrixProductOperator
from tnet.nn import MPOLinear
from tnet.nn.digits import balanced_digits
from tnet.options import Stopping

__all__ = ["bonds_for", "fit_mpo", "mpo_entries", "mpo_rivals", "mpo_shapes"]

#: Shares of the dense elements at which MPOs are fitted, the probe's first.
_SHARES = (0.5, 0.75)
#: Sweeps of the fit in the layer's norm. The gap to low rank that decides is a factor, not a few percent.
_FIT = Stopping(max_iter=4, change=1e-2)
_N_CORES = 3
#: The ratio of losses that decides varies little among layers of one shape; beyond this margin none would win.
_WORTHWHILE = 1.25


def bonds_for(rows: Sequence[int], columns: Sequence[int], n_params: int) -> tuple[int, ...]:
    """Largest uniform bond dimension, clipped to what each cut can carry, with at most ``n_params`` elements."""
    sizes = [m * n for m, n in zip(rows, columns, strict=True)]
    limits = [min(math.prod(sizes[: k + 1]), math.prod(sizes[k + 1 :])) for k in range(len(sizes) - 1)]

    def elements(bond: int) -> int:
        bonds = [1, *(min(bond, limit) for limit in limits), 1]
        return sum(bonds[k] * size * bonds[k + 1] for k, size in enumerate(sizes))

    low, high = 1, max(limits)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if elements(middle) <= n_params else (low, middle - 1)
    return tuple(min(low, limit) for limit in limits)


def fit_mpo(weight: torch.Tensor, metric: Metric, bonds: tuple[int, ...]) -> MatrixProductOperator:
    """Fit the MPO of these bonds to ``weight`` in the metric's norm."""
    m, n = weight.shape
    row = metric.rows[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few sweeps are what is asked for
        result = mpo(
            weight,
            balanced_digits(m, _N_CORES),
            balanced_digits(n, _N_CORES),
            bonds,
            weight=(metric.column @ metric.column.T).to(weight.dtype),
            row_weight=None if row is None else (row @ row.T).to(weight.dtype),
            stopping=_FIT,
        )
    return result.tensor


def mpo_shapes(m: int, n: int, shares: Sequence[float] = _SHARES) -> list[tuple[tuple[int, ...], int, int]]:
    """Return bonds, elements and multiply-adds a token of the MPOs on the menu of an (m, n) layer."""
    rows, columns = balanced_digits(m, _N_CORES), balanced_digits(n, _N_CORES)
    shapes = []
    for share in shares:
        bonds = bonds_for(rows, columns, int(share * m * n))
        layer = MPOLinear(rows, columns, bonds, bias=False, device="meta")
        shapes.append((bonds, sum(core.numel() for core in layer.parameters()), layer.macs))
    return shapes


def mpo_entries(
    weight: torch.Tensor, metric: Metric, shares: Sequence[float] = _SHARES
) -> list[tuple[tuple[int, ...], int, int, float]]:
    """Return bonds, elements, multiply-adds a token and loss of the MPOs on a layer's menu."""
    m, n = weight.shape
    entries = []
    for bonds, elements, macs in mpo_shapes(m, n, shares):
        left_out = weight - fit_mpo(weight, metric, bonds).to_dense()
        entries.append((bonds, elements, macs, kronecker_loss(left_out, metric.rows[0], metric.column)))
    return entries


def mpo_rivals(weight: torch.Tensor, metric: Metric, n_params: np.ndarray, loss: np.ndarray) -> bool:
    """Whether an MPO of half the elements comes within 1.25 times the loss of low rank at no more elements.

    Parameters
    ----------
    weight : tensor
        ``(m, n)``.
    metric : Metric
    n_params, loss : ndarray
        Of the low-rank entries.
    """
    (_, size, _, mpo_loss), *_ = mpo_entries(weight, metric, _SHARES[:1])
    within = loss[n_params <= size]
    return len(within) == 0 or mpo_loss <= _WORTHWHILE * float(within.min())
