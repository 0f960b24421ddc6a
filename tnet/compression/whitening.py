r"""Low-rank factors that are optimal in the Kronecker norm of a layer.

The loss of replacing :math:`W` by :math:`W'` is, to second order and with the Kronecker-factored Fisher
information [martens2015]_,

.. math:: \tfrac12 \| F^{1/2} (W - W') C^{1/2} \|_F^2,

with :math:`C = L_c L_c^T` the second moment of the layer's inputs and :math:`F = L_f L_f^T` that of its output
gradients. By Eckart and Young the best :math:`W'` of rank r is the truncated SVD of
:math:`S = L_f^T W L_c`, transformed back; the tail of its squared singular values is the loss at every rank.
For :math:`F = I` this is the truncation-aware whitening of SVD-LLM [wang2024]_.

References
----------
.. [martens2015] J. Martens, R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
   curvature", ICML 2015.
.. [wang2024] X. Wang, Y. Zheng, Z. Wan, M. Zhang, "SVD-LLM: Truncation-aware singular value decomposition for
   large language model compression", 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["Metric", "Shrinkage", "factorise", "kronecker_loss", "shrunk", "spectrum", "whitened"]


@dataclass(frozen=True)
class Shrinkage:
    r"""Weights of the identity in :math:`(1 - \lambda) C + \lambda \, \mathrm{mean}(\mathrm{diag}\, C) I`."""

    inputs: float = 1e-3
    outputs: float = 1e-2


@dataclass(frozen=True, eq=False)
class Metric:
    """Cholesky factors of one group's input moment and of its members' output moments.

    Parameters
    ----------
    column : tensor
        ``L_c``, lower triangular ``(n, n)``, float64.
    rows : tuple of tensor or None
        ``L_f`` of each member, ``(m_i, m_i)``; None stands for the identity.
    mean : tensor
        Mean input ``(n,)``; zero where no bias can absorb it.
    """

    column: torch.Tensor
    rows: tuple[torch.Tensor | None, ...]
    mean: torch.Tensor


def shrunk(moment: torch.Tensor, amount: float) -> torch.Tensor:
    """Return the moment in float64, shrunk towards a multiple of the identity, hence positive definite."""
    matrix = moment.to(torch.float64)
    scale = torch.diagonal(matrix).mean().clamp_min(torch.finfo(torch.float64).tiny ** 0.5)
    matrix = (1 - amount) * matrix
    matrix.diagonal().add_(amount * scale)
    return matrix


def cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Lower Cholesky factor; a diagonal shift grows until a numerically singular matrix has one."""
    shift = 0.0
    scale = float(torch.diagonal(matrix).mean())
    for exponent in range(-15, 1):
        factor, info = torch.linalg.cholesky_ex(
            matrix + shift * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        )
        if int(info) == 0:
            return factor
        shift = scale * 10.0**exponent
    raise AssertionError("a matrix shifted by its own trace is positive definite")  # pragma: no cover


def whitened(weights: Sequence[torch.Tensor], metric: Metric) -> tuple[torch.Tensor, ...]:
    """Return ``L_f^T W L_c`` of each member, ``(m_i, n)`` in float64.

    Cost: ``m_i n (m_i + n)`` multiply-adds.
    """
    blocks = (weight.to(torch.float64) @ metric.column for weight in weights)
    return tuple(block if row is None else row.T @ block for block, row in zip(blocks, metric.rows, strict=True))


def _eigh_descending(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0).clamp_min(0.0), vectors.flip(1)


def spectrum(blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Squared singular values of the stacked blocks, descending: the loss at rank r is half the sum from r on.

    Parameters
    ----------
    blocks : sequence of tensor
        As :func:`whitened` returns them; more than one share the right factor.

    Returns
    -------
    tensor
        float64, shape ``(min(sum m_i, n),)``.

    Notes
    -----
    From the Gram matrix of the short side: ``O(m n min(m, n))``; the relative accuracy of the small values is
    the square root of the unit roundoff, far below the statistical error of the moments.
    """
    s = torch.cat(tuple(blocks))
    gram = s.T @ s if s.shape[0] >= s.shape[1] else s @ s.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0.0)


def factorise(
    weights: Sequence[torch.Tensor], metric: Metric, rank: int
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Return the optimal ``left`` of each member, ``(m_i, r)``, and the shared ``right``, ``(r, n)``, in float64.

    Notes
    -----
    With ``V`` the leading right singular vectors of ``S``: ``left_i = W_i L_c V`` and ``right = V^T L_c^-1``.
    A single wide matrix goes through its left singular vectors ``U`` instead:
    ``left = L_f^-T U`` and ``right = U^T L_f^T W``, where ``L_c`` drops out.
    """
    s = torch.cat(whitened(weights, metric))
    row = metric.rows[0]
    if len(weights) == 1 and s.shape[0] < s.shape[1]:
        weight = weights[0].to(torch.float64)
        u = _eigh_descending(s @ s.T)[1][:, :rank]
        if row is None:
            return (u,), u.T @ weight
        return (torch.linalg.solve_triangular(row.T, u, upper=True),), (row @ u).T @ weight
    v = _eigh_descending(s.T @ s)[1][:, :rank]
    mapped = metric.column @ v
    left = tuple(weight.to(torch.float64) @ mapped for weight in weights)
    right = torch.linalg.solve_triangular(metric.column.T, v, upper=True).T
    return left, right


def kronecker_loss(difference: torch.Tensor, row: torch.Tensor | None, column: torch.Tensor) -> float:
    """Half the squared Kronecker norm of ``W - W'``, given the Cholesky factors."""
    s = difference.to(torch.float64) @ column
    if row is not None:
        s = row.T @ s
    return 0.5 * float((s * s).sum())
