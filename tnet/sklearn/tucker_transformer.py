"""Samples in small bases of their modes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import tnet
from tnet.algebra import bounded_ranks
from tnet.algebra.ranks import mode_limits
from tnet.sklearn.tensor_transformer import TensorTransformer

__all__ = ["TuckerTransformer"]


class TuckerTransformer(TensorTransformer):
    r"""Tucker decomposition of samples that are tensors: one orthonormal basis for each feature mode.

    .. math:: X_s \approx C_s \times_1 U_1 \times_2 U_2 \cdots \times_d U_d

    ``fit`` learns the bases U from all samples, ``transform`` returns the cores C as rows: the projections, which
    are the least-squares solution. For rows of features this is the projection on leading singular vectors.

    Parameters
    ----------
    rank : int, sequence of int or None, default 2
        One rank for each feature mode, or one bound for all, clipped to the sizes of the modes.
    rtol : float, optional
        Relative Frobenius error on the training samples, in the place of ``rank`` (which is then None).
    feature_shape : sequence of int, optional
        Shape into which the features of a row are folded, in C order. Default: that of the samples.

    Attributes
    ----------
    factors_ : list of numpy.ndarray, shapes (n_k, r_k)
        Orthonormal columns.
    components_ : numpy.ndarray, shape (r_1 * ... * r_d, n_features)
        Orthonormal rows, the Kronecker product of the transposed factors.
    feature_shape_ : tuple of int
        Shape in which samples were decomposed.
    rank_ : tuple of int
        Ranks of the feature modes.
    error_ : float
        Relative Frobenius error on the training samples.
    n_features_in_ : int
        Features of a sample.
    feature_names_in_ : numpy.ndarray
        Names of the features, where ``X`` had names.

    See Also
    --------
    tnet.tucker : the decomposition itself.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(30, 8, 9))
    >>> model = TuckerTransformer(rank=(3, 4)).fit(X)
    >>> model.transform(X).shape, model.inverse_transform(model.transform(X)).shape
    ((30, 12), (30, 8, 9))
    """

    factors_: list[np.ndarray]
    rank_: tuple[int, ...]
    error_: float

    def __init__(
        self,
        rank: int | Sequence[int] | None = 2,
        *,
        rtol: float | None = None,
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        self.rank = rank
        self.rtol = rtol
        self.feature_shape = feature_shape

    def _learn(self, tensor: np.ndarray) -> None:
        n, *shape = tensor.shape
        if self.rank is None:
            result = tnet.tucker(tensor, rtol=self.rtol)
        else:
            ranks = bounded_ranks(self.rank, mode_limits(tensor.shape)[1:], "feature mode")
            # Samples are not compressed: their mode keeps all that it can have.
            result = tnet.tucker(tensor, (min(n, math.prod(shape)), *ranks), rtol=self.rtol)
        self.factors_ = list(result.tensor.factors[1:])
        self.rank_ = tuple(int(factor.shape[1]) for factor in self.factors_)
        components = self.factors_[0].T
        for factor in self.factors_[1:]:
            components = np.kron(components, factor.T)
        self.components_ = np.ascontiguousarray(components)
        self.error_ = result.error

    def _coefficients(self, rows: np.ndarray) -> np.ndarray:
        return rows.astype(self.components_.dtype, copy=False) @ self.components_.T
