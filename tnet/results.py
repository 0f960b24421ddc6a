"""What the decompositions return."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Literal, TypeVar

__all__ = ["Decomposition", "History", "Status"]

T = TypeVar("T")


class Status(Enum):
    """Why a computation ended; the value is the sentence shown to the user."""

    DIRECT = "direct method, no iteration"
    CONVERGED = "converged"
    MAX_ITER = "max_iter reached before convergence: raise Stopping(max_iter=...) or loosen change="
    MAX_SECONDS = "max_seconds reached: raise Stopping(max_seconds=...)"
    MAX_RANK = "max_rank reached before rtol: raise max_rank= or loosen rtol="
    MAX_EVALUATIONS = "max_evaluations reached before rtol: raise max_evaluations= or loosen rtol="
    STALLED = "no step improves the approximation any more: loosen rtol=, or start elsewhere"
    CALLBACK = "stopped by the callback"
    INTERRUPTED = "interrupted: this is the best so far"
    DEGENERATE = "degenerate: components cancel each other; lower the rank or set ridge="


@dataclass(frozen=True)
class History:
    """Relative error and wall seconds after each sweep.

    Parameters
    ----------
    error : tuple of float
        Relative Frobenius error after each sweep; empty for a direct method.
    seconds : tuple of float
        Wall seconds since the start, as long as ``error``.
    """

    error: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Decomposition(Generic[T]):
    """A factorised tensor and the account of how it was found.

    Parameters
    ----------
    tensor : format
        The factorised tensor, one of the classes of :mod:`tnet.formats`.
    error : float
        Relative Frobenius error ``||x - y|| / ||x||`` of what is returned (0 for ``x = 0``).
    error_kind : {"exact", "gram", "bound", "estimate"}
        ``"exact"``: from the residual or from orthogonality; ``"gram"``: from the normal
        equations, with a floor near the square root of the unit roundoff; ``"bound"``: from above;
        ``"estimate"``: from a random sample that had no part in the result.
    status : Status
    history : History
    seconds : float
        Wall seconds of the whole call.
    rng_seed : int or None
        The seed in force, also when none was given; None where nothing was random.
    """

    tensor: T
    error: float
    error_kind: Literal["exact", "gram", "bound", "estimate"]
    status: Status
    history: History
    seconds: float
    rng_seed: int | None = None

    @property
    def converged(self) -> bool:
        """Whether the method reached its own end: a direct method always does."""
        return self.status in (Status.DIRECT, Status.CONVERGED)

    def __repr__(self) -> str:
        tensor: Any = self.tensor
        size = 1
        for n in tensor.shape:
            size *= n
        lines = [
            f"{type(tensor).__name__} of shape {tuple(tensor.shape)}, rank {tensor.rank}, {tensor.dtype}",
            f"  parameters  {tensor.n_params} of {size} ({size / max(tensor.n_params, 1):.3g}x smaller)",
            f"  error       {self.error:.3e} relative Frobenius ({self.error_kind})",
            f"  status      {self.status.value}",
        ]
        if self.history.error:
            lines.append(f"  sweeps      {len(self.history.error)}")
        lines.append(f"  seconds     {self.seconds:.3g}")
        if self.rng_seed is not None:
            lines.append(f"  seed        {self.rng_seed}")
        return "\n".join(lines)
