"""Samples as combinations of rank-one patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy.optimize import nnls
from sklearn.utils import check_random_state

import tnet
from tnet.arrays import cholesky_solve_gram, khatri_rao
from tnet.options import Stopping
from tnet.sklearn.tensor_transformer import TensorTransformer

__all__ = ["CPTransformer"]


class CPTransformer(TensorTransformer):
    r"""Canonical polyadic decomposition (PARAFAC) of samples that are tensors.

    .. math:: X_{s, i_1 \dots i_d} \approx \sum_{r=1}^R A_{s r} \prod_k B^{(k)}_{i_k r}

    ``fit`` learns the factors B of the feature modes, ``transform`` finds A by least squares.

    Parameters
    ----------
    rank : int, default 2
        R, the number of patterns.
    feature_shape : sequence of int, optional
        Shape into which the features of a row are folded, in C order. Default: that of the samples; rows of
        features stay vectors, and the model is that of a matrix, whose factors are not unique.
    nonnegative : bool, default False
        Keep patterns and coefficients nonnegative.
    init : {"svd", "random", "gevd"}, default "svd"
        As in :func:`tnet.cp`.
    ridge : float, default 0.0
        As in :func:`tnet.cp`.
    max_iter : int, default 200
        Largest number of sweeps.
    tol : float, default 1e-8
        Sweeps end when the relative error falls by less.
    random_state : int, RandomState instance or None, default None
        For random columns of the start.

    Attributes
    ----------
    factors_ : list of numpy.ndarray, shapes (n_k, R)
        Of the feature modes, columns of norm 1.
    components_ : numpy.ndarray, shape (R, n_features)
        The patterns multiplied out, rows of norm 1.
    feature_shape_ : tuple of int
        Shape in which samples were decomposed.
    error_ : float
        Relative Frobenius error on the training samples.
    n_iter_ : int
        Sweeps.
    n_features_in_ : int
        Features of a sample.
    feature_names_in_ : numpy.ndarray
        Names of the features, where ``X`` had names.

    See Also
    --------
    tnet.cp : the decomposition itself.

    Examples
    --------
    >>> import numpy as np
    >>> a, b, c = np.random.default_rng(0).random((3, 20, 2))
    >>> X = np.einsum("sr,ir,jr->sij", a, b, c).reshape(20, 400)  # 20 samples, 20 x 20 features
    >>> model = CPTransformer(rank=2, feature_shape=(20, 20), max_iter=1000).fit(X)
    >>> model.transform(X).shape, bool(model.score(X) > 0.999)
    ((20, 2), True)
    """

    init: Literal["svd", "random", "gevd"]
    factors_: list[np.ndarray]
    error_: float
    n_iter_: int

    def __init__(
        self,
        rank: int = 2,
        *,
        feature_shape: Sequence[int] | None = None,
        nonnegative: bool = False,
        init: Literal["svd", "random", "gevd"] = "svd",
        ridge: float = 0.0,
        max_iter: int = 200,
        tol: float = 1e-8,
        random_state: Any = None,
    ) -> None:
        self.rank = rank
        self.feature_shape = feature_shape
        self.nonnegative = nonnegative
        self.init = init
        self.ridge = ridge
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def _learn(self, tensor: np.ndarray) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        result = tnet.cp(
            tensor,
            self.rank,
            init=self.init,
            nonnegative=self.nonnegative,
            ridge=self.ridge,
            stopping=Stopping(max_iter=self.max_iter, change=self.tol),
            rng=seed,
        )
        self.factors_ = list(result.tensor.factors[1:])
        self.components_ = np.ascontiguousarray(khatri_rao(self.factors_).T)
        self.error_ = result.error
        self.n_iter_ = len(result.history.error)

    def _coefficients(self, rows: np.ndarray) -> np.ndarray:
        # The Gram matrix of the patterns is the Hadamard product of those of the factors.
        G = np.ones((self.components_.shape[0],) * 2, dtype=self.components_.dtype)
        for factor in self.factors_:
            G = G * (factor.T @ factor)
        if not self.nonnegative:
            products = rows.astype(self.components_.dtype, copy=False) @ self.components_.T
            return cholesky_solve_gram(G, products)
        # min ||C^T a - x|| over a >= 0 is min ||R a - Q^T x|| with C^T = Q R: as small as the rank.
        Q, R = np.linalg.qr(self.components_.T.astype(np.float64))
        return np.array([nnls(R, projected)[0] for projected in rows @ Q])
