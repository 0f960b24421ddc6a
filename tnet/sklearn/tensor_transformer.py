"""What the transformers share: samples in two or more dimensions, and the way through fit, transform and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from tnet.errors import ShapeError

__all__ = ["TensorTransformer"]

_FLOATING: Any = [np.float64, np.float32]
# scikit-learn has no annotations, and the defaults (strings that stand for "not given") mislead.
_validated: Any = validate_data


class TensorTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """A transformer whose samples are tensors, given as such or as rows of features.

    Subclasses learn ``components_`` (n_components, n_features) from the tensor of all samples.

    Attributes
    ----------
    components_ : numpy.ndarray, shape (n_components, n_features)
        Patterns, as rows of features.
    feature_shape_ : tuple of int
        Shape in which samples were decomposed.
    n_features_in_ : int
        Features of a sample.
    """

    feature_shape: Sequence[int] | None
    components_: np.ndarray
    feature_shape_: tuple[int, ...]
    n_features_in_: int

    @abstractmethod
    def _learn(self, tensor: np.ndarray) -> None:
        """Set the learned attributes from all samples (n_samples, *feature_shape)."""

    @abstractmethod
    def _coefficients(self, rows: np.ndarray) -> np.ndarray:
        """Return the coefficients (n_samples, n_components) that fit ``rows`` best."""

    def fit(self, X: Any, y: Any = None) -> TensorTransformer:
        """Learn the factors of the feature modes.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features) or (n_samples, n_1, ..., n_d)
            Rows are folded to ``feature_shape`` in C order, where it is given.
        y : ignored

        Returns
        -------
        self
        """
        rows, shape = self._rows(X, reset=True)
        self._shape_of_samples = None if shape is None else tuple(shape)
        self.feature_shape_ = self._folded_shape(rows.shape[1], shape)
        self._learn(rows.reshape(rows.shape[0], *self.feature_shape_))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the least-squares coefficients of samples in the learned factors.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features) or (n_samples, n_1, ..., n_d)

        Returns
        -------
        numpy.ndarray, shape (n_samples, n_components)
        """
        check_is_fitted(self)
        rows, _ = self._rows(X, reset=False)
        return self._coefficients(rows).astype(rows.dtype, copy=False)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return the samples that coefficients stand for.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_components)

        Returns
        -------
        numpy.ndarray, shape (n_samples, n_features) or (n_samples, n_1, ..., n_d)
            As many dimensions as in ``fit``.
        """
        check_is_fitted(self)
        coefficients = check_array(X, dtype=_FLOATING)
        if coefficients.shape[1] != self._n_features_out:
            raise ShapeError(f"X has {coefficients.shape[1]} columns: give one for each of {self._n_features_out}.")
        rows = coefficients @ self.components_
        return rows if self._shape_of_samples is None else rows.reshape(-1, *self._shape_of_samples)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the share of the squared norm of ``X`` that the model explains.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features) or (n_samples, n_1, ..., n_d)
        y : ignored

        Returns
        -------
        float
            1 - ||X - model||^2 / ||X||^2, at most 1.
        """
        check_is_fitted(self)
        rows, _ = self._rows(X, reset=False)
        residual = rows - self._coefficients(rows) @ self.components_
        total = float(np.sum(rows**2))
        return 1.0 - float(np.sum(residual**2)) / total if total > 0 else 1.0

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def _rows(self, X: Any, *, reset: bool) -> tuple[np.ndarray, tuple[int, ...] | None]:
        """Return the samples as rows, and their shape if they came with more than one dimension."""
        shape = None
        if (np.ndim(X) if isinstance(X, (list, tuple)) else getattr(X, "ndim", 2)) > 2:
            X = check_array(X, dtype=_FLOATING, allow_nd=True)
            shape = X.shape[1:]
            if not reset and self.feature_shape_ not in (shape, (math.prod(shape),)):
                raise ShapeError(f"samples of shape {shape}: fit has seen samples of shape {self.feature_shape_}.")
            X = X.reshape(X.shape[0], -1)
        return _validated(self, X, dtype=_FLOATING, reset=reset), shape

    def _folded_shape(self, n_features: int, shape: tuple[int, ...] | None) -> tuple[int, ...]:
        """Return the shape in which samples are decomposed."""
        given = self.feature_shape
        if given is None:
            return (n_features,) if shape is None else shape
        if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in given):
            raise ShapeError(f"feature_shape={given!r}: give positive integers.")
        if math.prod(given) != n_features:
            raise ShapeError(f"feature_shape={given!r} holds {math.prod(given)} features, X has {n_features}.")
        return tuple(int(n) for n in given)

    def __sklearn_tags__(self) -> Any:
        """Return the tags by which scikit-learn knows what this estimator takes."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        return tags
