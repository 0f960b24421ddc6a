"""What the batched decompositions return."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np

from tnet.arrays import to_numpy
from tnet.batch.preparation import PreparedBatch, exact_errors
from tnet.batch.tensors import TensorBatch
from tnet.decompositions.truncated_basis import error_floor
from tnet.results import Status

__all__ = ["BatchDecomposition", "BatchHistory", "direct_result"]

T = TypeVar("T", bound=TensorBatch)


@dataclass(frozen=True)
class BatchHistory:
    """What each sweep left; all empty for a direct method.

    Parameters
    ----------
    mean_error, max_error : tuple of float
        Mean and largest relative Frobenius error over all items, those that had converged before included.
    active : tuple of int
        Items that the sweep worked on.
    seconds : tuple of float
        Wall seconds since the start.
    """

    mean_error: tuple[float, ...] = ()
    max_error: tuple[float, ...] = ()
    active: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class BatchDecomposition(Generic[T]):
    """A stack of factorised tensors and the account of how they were found.

    Parameters
    ----------
    tensor : CPBatch, TuckerBatch or TensorTrainBatch
        ``tensor[i]`` is the format of item i.
    errors : numpy.ndarray, shape (B,), float64
        Relative Frobenius error of each item as it is returned (0 for a zero item).
    error_kind : {"exact", "gram"}
        ``"gram"`` if an error comes from the normal equations, which do not resolve the smallest errors; those
        are then computed from the residual.
    status : tuple of Status
        One for each item.
    history : BatchHistory
    seconds : float
        Wall seconds of the whole call.
    rng_seed : int or None
        The seed in force; None where nothing was random.
    """

    tensor: T
    errors: np.ndarray
    error_kind: Literal["exact", "gram"]
    status: tuple[Status, ...]
    history: BatchHistory
    seconds: float
    rng_seed: int | None = None

    @property
    def converged(self) -> np.ndarray:
        """Mask (B,) of the items whose method reached its own end; a direct method always does."""
        return np.asarray([status in (Status.DIRECT, Status.CONVERGED) for status in self.status])

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        lines = [
            repr(self.tensor),
            f"  errors      mean {self.errors.mean():.3e}, largest {self.errors.max():.3e} "
            f"(item {int(self.errors.argmax())}), relative Frobenius ({self.error_kind})",
        ]
        lines += [f"  {n:<10d}  {status.value}" for status, n in Counter(self.status).most_common()]
        if self.history.seconds:
            lines.append(f"  sweeps      {len(self.history.seconds)}")
        lines.append(f"  seconds     {self.seconds:.3g}")
        if self.rng_seed is not None:
            lines.append(f"  seed        {self.rng_seed}")
        return "\n".join(lines)


def direct_result(
    prepared: PreparedBatch, model: T, tensor: T, spent: np.ndarray, accurate: bool, started: float
) -> BatchDecomposition[T]:
    """Return the result of a direct method with the exact errors of its items.

    Parameters
    ----------
    prepared : PreparedBatch
    model, tensor : TensorBatch
        In the scale of ``prepared``, and as it is returned.
    spent : numpy.ndarray, shape (B,)
        Squared norms that the truncations discarded, which resolve all but the smallest errors.
    accurate : bool
        Whether they come from QR rather than from Gram matrices.
    started : float
        Of ``time.perf_counter()``.
    """
    norms = prepared.squared_norms
    errors = np.sqrt(spent / np.where(norms > 0, norms, np.inf))
    floor = error_floor("tsqr" if accurate else "auto", prepared.array)
    if prepared.is_half:
        errors = to_numpy(exact_errors(prepared.array, tensor, norms, prepared.exponents))
    elif np.any((errors < floor) & (norms > 0)):
        below = errors < floor
        errors = np.where(below, to_numpy(exact_errors(prepared.array, model, norms)), errors)
    status = (Status.DIRECT,) * len(errors)
    return BatchDecomposition(tensor, errors, "exact", status, BatchHistory(), time.perf_counter() - started)
