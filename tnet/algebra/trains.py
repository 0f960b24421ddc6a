"""Tensor trains and matrix product operators as one thing: a list of cores with three axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tnet.arrays import Array, adjoint, array_namespace, qr, total_size
from tnet.formats import MatrixProductOperator, TensorTrain

__all__ = ["Train", "left_orthogonal_step", "right_orthogonal_step", "three_axis_cores", "with_cores"]

Train = TensorTrain | MatrixProductOperator

T = TypeVar("T", bound=Train)


def three_axis_cores(t: Train) -> list[Array]:
    """Return the cores as ``(r, n, s)``; an operator's row and column digit become one mode."""
    xp = array_namespace(*t.cores)
    return [xp.reshape(core, (core.shape[0], total_size(core.shape[1:-1]), core.shape[-1])) for core in t.cores]


def with_cores(t: T, cores: Sequence[Array]) -> T:
    """Return a train of the same kind and mode sizes as ``t`` from cores with three axes."""
    xp = array_namespace(*cores)
    shaped = (
        xp.reshape(core, (core.shape[0], *old.shape[1:-1], core.shape[-1]))
        for core, old in zip(cores, t.cores, strict=True)
    )
    return type(t)(tuple(shaped))


def left_orthogonal_step(cores: list[Array], k: int) -> None:
    """Make ``cores[k]`` left-orthogonal in the list and multiply the rest into ``cores[k + 1]``."""
    xp = array_namespace(*cores)
    r, n, s = cores[k].shape
    Q, R = qr(xp.reshape(cores[k], (r * n, s)))
    cores[k] = xp.reshape(Q, (r, n, Q.shape[1]))
    _, m, t = cores[k + 1].shape
    cores[k + 1] = xp.reshape(R @ xp.reshape(cores[k + 1], (s, m * t)), (R.shape[0], m, t))


def right_orthogonal_step(cores: list[Array], k: int) -> None:
    """Make ``cores[k]`` right-orthogonal in the list and multiply the rest into ``cores[k - 1]``."""
    xp = array_namespace(*cores)
    r, n, s = cores[k].shape
    Q, R = qr(adjoint(xp.reshape(cores[k], (r, n * s))))
    cores[k] = xp.reshape(adjoint(Q), (Q.shape[1], n, s))
    q, m, _ = cores[k - 1].shape
    cores[k - 1] = xp.reshape(xp.reshape(cores[k - 1], (q * m, r)) @ adjoint(R), (q, m, R.shape[0]))
