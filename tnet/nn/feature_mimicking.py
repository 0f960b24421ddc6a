"""Low-rank layers that mimic the features of a dense one on data, bias included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from tnet.errors import InputError, ShapeError
from tnet.nn.factorised_linear import check_rank, dense_parts
from tnet.nn.low_rank_linear import LowRankLinear
from tnet.options import Truncation, check_rank_or_rtol

__all__ = ["FeatureMoments", "mimic_features"]


class FeatureMoments(NamedTuple):
    """Number, mean and scatter of feature vectors that arrive in parts.

    Parameters
    ----------
    count : int
    mean : tensor, shape (m,)
        In double precision.
    scatter : tensor, shape (m, m)
        Sum of the outer products of what differs from the mean.

    Notes
    -----
    Parts are joined by their own means and scatters, so that a large mean costs no digits of the covariance.
    """

    count: int
    mean: torch.Tensor
    scatter: torch.Tensor

    @classmethod
    def none(cls, m: int, device: torch.device | str = "cpu") -> FeatureMoments:
        """Return the moments of no vector at all."""
        zeros = torch.zeros(m, dtype=torch.float64, device=device)
        return cls(0, zeros, zeros.new_zeros(m, m))

    def joined(self, features: torch.Tensor) -> FeatureMoments:
        """Return the moments with the vectors of ``features (..., m)`` as well."""
        part = features.detach().to(self.mean).reshape(-1, self.mean.shape[0])
        n = int(part.shape[0])
        if n == 0:
            return self
        mean = part.mean(0)
        centred, step, total = part - mean, mean - self.mean, self.count + n
        scatter = self.scatter + centred.T @ centred + torch.outer(step, step) * (self.count * n / total)
        return FeatureMoments(total, self.mean + step * (n / total), scatter)


def mimic_features(
    linear: nn.Module, inputs: Iterable[torch.Tensor], rank: int | None = None, *, rtol: float | None = None
) -> LowRankLinear:
    r"""Return the low-rank layer whose outputs are nearest to those of a dense layer on data.

    .. math:: \min \; E\, \|y - B A x - b'\|^2 \quad\text{over } A\,(r \times n),\; B\,(m \times r),\; b'\,(m)

    Parameters
    ----------
    linear : torch.nn.Linear
        The dense layer ``y = W x + b``; left unchanged.
    inputs : iterable of tensor, shapes (..., n)
        What the layer sees, in parts; read once.
    rank : int
        r, from 1 to ``min(m, n)``.
    rtol : float
        The least rank with :math:`E\|y - y'\|^2 \le \mathrm{rtol}^2\, E\|y - Ey\|^2`, instead of ``rank``.

    Returns
    -------
    LowRankLinear
        Always with a bias; dtype, device and mode of the dense layer.

    Raises
    ------
    RankError, ShapeError, InputError
        If not exactly one of rank and rtol is given, the rank is out of range, an input does not fit the layer, is
        not finite, or there is none.

    Notes
    -----
    With the r leading eigenvectors U of the covariance of y: ``A = U^T W``, ``B = U``, and
    ``b' = Ey - U U^T (Ey - b)``. :meth:`LowRankLinear.from_dense` with the second moment of the inputs as ``weight``
    has no bias to change, and its error is larger where the mean of the inputs is not zero. ``m n + m^2``
    multiply-adds for each input vector and ``m^2`` numbers of memory, in double precision.

    References
    ----------
    H. Yu, J. Wu, "Compressing transformers: features are low-rank, but weights are not!", AAAI 2023.

    Examples
    --------
    >>> import torch
    >>> from tnet.nn import mimic_features
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1000, 3, generator=generator) @ torch.randn(3, 20, generator=generator) + 5
    >>> dense = torch.nn.Linear(20, 30)
    >>> layer = mimic_features(dense, x.split(100), rank=3)  # the inputs fill three dimensions about their mean
    >>> bool(torch.allclose(layer(x), dense(x), atol=1e-4)), layer.n_params
    (True, 180)
    """
    W, b = dense_parts(linear)
    check_rank_or_rtol(rank, rtol)
    weight = W.double()
    bias = torch.zeros_like(weight[:, 0]) if b is None else b.double()
    moments = FeatureMoments.none(weight.shape[0], weight.device)
    for k, x in enumerate(inputs):
        if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
            raise ShapeError(f"input {k} of shape {tuple(x.shape)}: the last axis must be {weight.shape[1]}.")
        moments = moments.joined(x.detach().to(weight) @ weight.T + bias)
    if moments.count == 0:
        raise InputError("inputs hold no vector: give what the layer sees, such as a list of batches.")
    if not bool(torch.isfinite(moments.scatter).all()):
        raise InputError("inputs have non-finite values, or values whose squares overflow; remove or scale them.")
    values, vectors = torch.linalg.eigh(moments.scatter)
    if rank is None:
        squares = values.flip(0).clamp(min=0).tolist()
        tail = (rtol or 0.0) * sum(squares) ** 0.5
        rank = min(Truncation(tail=tail).keep(squares), *W.shape)
    check_rank(rank, min(W.shape), f"the smaller side of a weight of shape {tuple(W.shape)}")
    U = vectors[:, -rank:].flip(1)
    shift = moments.mean - U @ (U.T @ (moments.mean - bias))
    factors = (U, U.T @ weight, shift)
    return LowRankLinear.from_factors(*(factor.to(W.dtype) for factor in factors)).train(linear.training)
