"""Many tensors of one format, shape and rank: each array with the number of the tensor as its first axis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    as_array,
    astype,
    common_dtype,
    compute_dtype,
    device_of,
    dtype_name,
    to_numpy,
    total_size,
)
from tnet.batch.products import batched_khatri_rao, batched_mode_product
from tnet.errors import InputError, ShapeError
from tnet.formats import CPTensor, TensorFormat, TensorTrain, TuckerTensor

__all__ = ["CPBatch", "TensorBatch", "TensorTrainBatch", "TuckerBatch"]

T = TypeVar("T", bound=TensorFormat)


class TensorBatch(ABC, Generic[T]):
    """Data that stands for B tensors of one format, shape and rank.

    ``len(batch)`` is B, ``batch[i]`` one tensor of the format, whose arrays are views, ``batch[i:j]`` a batch.
    """

    @property
    @abstractmethod
    def arrays(self) -> tuple[Array, ...]:
        """All arrays, in the order of those of one item."""

    @abstractmethod
    def _item(self, arrays: tuple[Array, ...]) -> T:
        """Return one tensor of the format that holds ``arrays``."""

    @abstractmethod
    def with_arrays(self, arrays: tuple[Array, ...]) -> TensorBatch[T]:
        """Return a batch of this kind that holds ``arrays``."""

    @abstractmethod
    def _contract(self) -> Array:
        """Multiply the parts out; they all have one dtype that can be computed in."""

    def __len__(self) -> int:
        return int(self.arrays[0].shape[0])

    def __getitem__(self, place: Any) -> Any:
        """Return one tensor for an integer, a batch for a slice; arrays are views."""
        if isinstance(place, slice):
            return self.with_arrays(tuple(array[place, ...] for array in self.arrays))
        if isinstance(place, (bool, np.bool_)) or not isinstance(place, (int, np.integer)):
            raise InputError(f"item {place!r} of a batch: give an integer or a slice.")
        if not -len(self) <= place < len(self):
            raise IndexError(f"item {place} of a batch of {len(self)}")
        return self._item(tuple(array[int(place) % len(self), ...] for array in self.arrays))

    def __iter__(self) -> Iterator[T]:
        return (self[i] for i in range(len(self)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense batch: B, then the shape of an item."""
        return (len(self), *self[0].shape)

    @property
    def ndim(self) -> int:
        """Number of axes of the dense batch: the order of an item and one."""
        return len(self.shape)

    @property
    def rank(self) -> int | tuple[int, ...]:
        """Rank or ranks of every item, in the sense of the format."""
        return self[0].rank

    @property
    def dtype(self) -> Any:
        """Dtype of the dense batch."""
        return common_dtype(*self.arrays)

    @property
    def device(self) -> Any:
        """Device of the arrays, in the words of their library."""
        return device_of(self.arrays[0])

    @property
    def n_params(self) -> int:
        """Number of stored elements, of all items together."""
        return sum(total_size(array.shape) for array in self.arrays)

    def map_arrays(self, function: Any) -> TensorBatch[T]:
        """Return the same kind of batch with ``function`` applied to each array."""
        return self.with_arrays(tuple(function(array) for array in self.arrays))

    def to_dense(self) -> Array:
        """Return the dense tensors, of shape ``self.shape``; half precision is multiplied out in float32."""
        dtype, wide = self.dtype, compute_dtype(*self.arrays)
        return astype(self.map_arrays(lambda array: astype(array, wide))._contract(), dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the dense tensors as a NumPy array on the host."""
        if copy is False:
            raise InputError("copy=False: the dense tensors of a batch are always made anew.")
        dense = to_numpy(self.to_dense())
        return dense if dtype is None else dense.astype(dtype, copy=False)

    def __repr__(self) -> str:
        item = self[0]
        return (
            f"{type(self).__name__}: {len(self)} x {type(item).__name__} of shape {item.shape}, rank {item.rank}, "
            f"{dtype_name(self.arrays[0])} on {self.device}\n"
            f"  parameters  {item.n_params} of {total_size(item.shape)} each"
        )

    def _keep(self, **values: Any) -> None:
        """Put arrays, or tuples of them, into the fields; check one length, library and device."""
        for name, value in values.items():
            if isinstance(value, (tuple, list)):
                if not value:
                    raise InputError(f"{name} is empty: give one array for each mode.")
                kept: Any = tuple(as_array(part, f"{name}[{k}]") for k, part in enumerate(value))
            else:
                kept = as_array(value, name)
            object.__setattr__(self, name, kept)
        array_namespace(*self.arrays)
        lengths = {int(array.shape[0]) if array.ndim else -1 for array in self.arrays}
        if len(lengths) > 1 or min(lengths) < 1:
            shapes = ", ".join(str(tuple(array.shape)) for array in self.arrays)
            raise ShapeError(f"arrays of shapes {shapes}: the first axis, the number of items, must be one and >= 1.")
        _ = self[0]  # the constructor of the format checks the rest


@dataclass(frozen=True, eq=False, repr=False)
class CPBatch(TensorBatch[CPTensor]):
    r"""B sums of R rank-one tensors.

    .. math:: X_{b, i_1 \dots i_d} = \sum_{r=1}^R \lambda_{b r} \prod_k A^{(k)}_{b, i_k r}

    Parameters
    ----------
    weights : array, shape (B, R)
    factors : tuple of array, shapes (B, n_k, R)

    Examples
    --------
    >>> import numpy as np
    >>> batch = CPBatch(np.ones((7, 2)), (np.ones((7, 3, 2)), np.ones((7, 4, 2))))
    >>> len(batch), batch.shape, batch[0].shape
    (7, (7, 3, 4), (3, 4))
    """

    weights: Array
    factors: tuple[Array, ...]

    def __post_init__(self) -> None:
        self._keep(weights=self.weights, factors=self.factors)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Weights, then factors."""
        return (self.weights, *self.factors)

    def _item(self, arrays: tuple[Array, ...]) -> CPTensor:
        return CPTensor(arrays[0], arrays[1:])

    def with_arrays(self, arrays: tuple[Array, ...]) -> CPBatch:
        """Return the batch that holds weights and factors in place of the own ones."""
        return CPBatch(arrays[0], arrays[1:])

    def _contract(self) -> Array:
        xp = array_namespace(*self.arrays)
        scaled = self.factors[0] * self.weights[:, None, :]
        if len(self.factors) == 1:
            return xp.sum(scaled, axis=2)
        rows = batched_khatri_rao([xp.matrix_transpose(factor) for factor in self.factors[1:]])
        return xp.reshape(scaled @ rows, self.shape)


@dataclass(frozen=True, eq=False, repr=False)
class TuckerBatch(TensorBatch[TuckerTensor]):
    r"""B cores, each multiplied by a matrix in each mode.

    Parameters
    ----------
    core : array, shape (B, r_1, ..., r_d)
    factors : tuple of array, shapes (B, n_k, r_k)
    """

    core: Array
    factors: tuple[Array, ...]

    def __post_init__(self) -> None:
        self._keep(core=self.core, factors=self.factors)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Core, then factors."""
        return (self.core, *self.factors)

    def _item(self, arrays: tuple[Array, ...]) -> TuckerTensor:
        return TuckerTensor(arrays[0], arrays[1:])

    def with_arrays(self, arrays: tuple[Array, ...]) -> TuckerBatch:
        """Return the batch that holds core and factors in place of the own ones."""
        return TuckerBatch(arrays[0], arrays[1:])

    def _contract(self) -> Array:
        dense = self.core
        for mode, factor in enumerate(self.factors):
            dense = batched_mode_product(dense, factor, mode)
        return dense


@dataclass(frozen=True, eq=False, repr=False)
class TensorTrainBatch(TensorBatch[TensorTrain]):
    r"""B tensor trains of the same ranks.

    Parameters
    ----------
    cores : tuple of array, shapes (B, r_{k-1}, n_k, r_k)
        With ``r_0 = r_d = 1``.
    """

    cores: tuple[Array, ...]

    def __post_init__(self) -> None:
        self._keep(cores=self.cores)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The cores."""
        return self.cores

    def _item(self, arrays: tuple[Array, ...]) -> TensorTrain:
        return TensorTrain(arrays)

    def with_arrays(self, arrays: tuple[Array, ...]) -> TensorTrainBatch:
        """Return the batch that holds other cores."""
        return TensorTrainBatch(arrays)

    def _contract(self) -> Array:
        xp = array_namespace(*self.cores)
        B = len(self)
        done = self.cores[0]
        for core in self.cores[1:]:
            _, r, n, s = core.shape
            done = xp.reshape(done, (B, -1, r)) @ xp.reshape(core, (B, r, n * s))
            done = xp.reshape(done, (B, -1, s))
        return xp.reshape(done, self.shape)
