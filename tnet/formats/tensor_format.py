"""What the formats share: everything that follows from the arrays they hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

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
    is_torch,
    itemsize,
    register_torch_pytree,
    resolve_dtype,
    to_device,
    to_numpy,
    total_size,
)
from tnet.errors import BackendError, InputError, MemoryLimitError, ShapeError

if TYPE_CHECKING:
    from tnet.formats.network import TensorNetwork

__all__ = ["TensorFormat"]

Self = TypeVar("Self", bound="TensorFormat")

# numpy.ndarray holds at most 64 axes; 2^47 bytes is what a process can address.
_MAX_DENSE_NDIM = 64
_MAX_DENSE_BYTES = 1 << 47


class TensorFormat(ABC):
    """Data that stands for a tensor: shared properties, no algorithm.

    A format is a frozen dataclass. Its ``array_fields`` hold an array or a tuple of arrays each.
    """

    array_fields: tuple[str, ...] = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense tensor."""

    @property
    @abstractmethod
    def rank(self) -> int | tuple[int, ...]:
        """Rank or ranks, in the sense of the format."""

    @abstractmethod
    def to_network(self) -> TensorNetwork:
        """Return the same tensor as a network with named indices; arrays are shared, not copied."""

    @abstractmethod
    def _contract(self) -> Array:
        """Multiply the parts out; they all have one dtype that can be computed in."""

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All arrays in the order of the fields."""
        found: list[Array] = []
        for name in self.array_fields:
            value = getattr(self, name)
            found.extend(value) if isinstance(value, tuple) else found.append(value)
        return tuple(found)

    def map_arrays(self: Self, function: Callable[[Array], Array]) -> Self:
        """Return the same format with ``function`` applied to each array."""
        changed: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name in self.array_fields:
                value = tuple(map(function, value)) if isinstance(value, tuple) else function(value)
            changed[field.name] = value
        return type(self)(**changed)

    @property
    def ndim(self) -> int:
        """Order of the dense tensor: its number of modes."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """Dtype of the dense tensor: that to which all arrays promote."""
        return common_dtype(*self.arrays)

    @property
    def device(self) -> Any:
        """Device of the arrays, in the words of their library."""
        return device_of(self.arrays[0])

    @property
    def n_params(self) -> int:
        """Number of stored elements."""
        return sum(total_size(array.shape) for array in self.arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored elements."""
        return sum(total_size(array.shape) * itemsize(array) for array in self.arrays)

    def to_dense(self) -> Array:
        """Return the dense tensor, of shape ``self.shape``, in the library of the arrays.

        Raises
        ------
        InputError
            If it has more modes than an array can have.
        MemoryLimitError
            If it is larger than memory can be addressed.

        Notes
        -----
        Half precision is multiplied out in float32 and rounded once at the end.
        """
        self._check_dense_size()
        dtype = self.dtype
        wide = compute_dtype(*self.arrays)
        return astype(self.map_arrays(lambda array: astype(array, wide))._contract(), dtype)

    def to(self: Self, device: Any) -> Self:
        """Return the same tensor on another device."""
        return self.map_arrays(lambda array: to_device(array, device))

    def astype(self: Self, dtype: Any) -> Self:
        """Return the same tensor in another dtype: a name such as "float32", or a dtype."""
        target = resolve_dtype(array_namespace(*self.arrays), dtype)
        return self.map_arrays(lambda array: astype(array, target))

    def __iter__(self) -> Iterator[Any]:
        """Unpack into the fields: ``weights, factors = cp``."""
        return (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the dense tensor as a NumPy array on the host."""
        if copy is False:
            raise InputError("copy=False: the dense tensor of a format is always made anew.")
        dense = to_numpy(self.to_dense())
        return dense if dtype is None else dense.astype(dtype, copy=False)

    def __repr__(self) -> str:
        dense = total_size(self.shape)
        lines = [
            f"{type(self).__name__}: shape {_short(self.shape)}, rank {_short(self.rank)}, "
            f"{dtype_name(self.arrays[0])} on {self.device}",
            f"  parameters  {self.n_params} of {dense} ({dense / max(self.n_params, 1):.3g}x smaller)",
        ]
        for name in self.array_fields:
            value = getattr(self, name)
            if isinstance(value, tuple):
                lines.append(f"  {name:12s}{_short_join([tuple(array.shape) for array in value])}")
            else:
                lines.append(f"  {name:12s}{tuple(value.shape)}")
        return "\n".join(lines)

    def _set_array(self, name: str, value: object) -> Array:
        """Put one array into a field from the constructor; return it."""
        array = as_array(value, name)
        object.__setattr__(self, name, array)
        return array

    def _set_arrays(self, name: str, values: object) -> tuple[Array, ...]:
        """Put a tuple of arrays into a field from the constructor; return it."""
        if not isinstance(values, Sequence) or isinstance(values, str) or not len(values):
            raise InputError(f"{name}={type(values).__name__}: give a non-empty tuple or list of arrays.")
        arrays = tuple(as_array(value, f"{name}[{k}]") for k, value in enumerate(values))
        object.__setattr__(self, name, arrays)
        return arrays

    def _finish(self) -> None:
        """Check that all arrays are of one library and device; make the class known to torch."""
        array_namespace(*self.arrays)
        if is_torch(self.arrays[0]):
            register_torch_pytree(type(self), self.array_fields)

    def _check_dense_size(self) -> None:
        if self.ndim > _MAX_DENSE_NDIM:
            raise InputError(
                f"the dense tensor would have {self.ndim} modes; an array has at most {_MAX_DENSE_NDIM}: "
                "work with the format itself."
            )
        size = total_size(self.shape) * itemsize(self.arrays[0])
        if size > _MAX_DENSE_BYTES:
            raise MemoryLimitError(
                f"the dense tensor of shape {_short(self.shape)} would take {size:.3g} bytes: "
                "work with the format itself."
            )


def check_ndim(array: Array, ndim: int, name: str, axes: str) -> None:
    """Raise ShapeError unless ``array`` has ``ndim`` axes, described by ``axes``."""
    if array.ndim != ndim:
        raise ShapeError(f"{name} has shape {tuple(array.shape)}; give {ndim} axes {axes}.")


def check_operand(x: object, n: int, what: str) -> tuple[Array, tuple[int, ...]]:
    """Return the right side of ``@`` and the shape of its columns: ``()`` for a vector."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise BackendError(f"{what} @ {type(x).__name__}: give an array of shape ({n},) or ({n}, k).")
    array = as_array(x, "the right operand of @")
    if array.ndim not in (1, 2) or array.shape[0] != n:
        raise ShapeError(f"{what} @ array of shape {tuple(array.shape)}: give shape ({n},) or ({n}, k).")
    return array, tuple(array.shape[1:])


def _short(values: object) -> str:
    if isinstance(values, tuple) and len(values) > 8:
        return f"({', '.join(map(str, values[:4]))}, ... {len(values)} in all)"
    return str(values)


def _short_join(shapes: list[tuple[int, ...]]) -> str:
    shown = [str(shape) for shape in shapes[:4]]
    if len(shapes) > 4:
        shown.append(f"... {len(shapes)} in all")
    return ", ".join(shown)
