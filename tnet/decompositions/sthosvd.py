"""The sequentially truncated higher-order SVD, and the pieces of it that the other Tucker methods share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from tnet.algebra import unfold
from tnet.algebra.error_budget import ErrorBudget
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    dtype_name,
    gram,
    mode_product,
    squared_norm,
    total_size,
)
from tnet.decompositions.residual import DIFFERENCE_FLOOR, exact_error
from tnet.decompositions.truncated_basis import (
    Basis,
    basis_from_gram,
    leading_basis,
    resolve_method,
    with_true_error,
)
from tnet.formats import TuckerTensor
from tnet.options import Truncation

__all__ = [
    "Projected",
    "first_gram",
    "leading_factor",
    "mode_gram",
    "order_of_modes",
    "projection_error",
    "sthosvd",
]

_PANEL = 1 << 20  # elements copied into the order of an unfolding at a time
_ALL_ORDERS_UP_TO = 6  # 720 orders of modes are compared in a millisecond


class Projected(NamedTuple):
    """A core, orthonormal factors, and the relative error of their product."""

    core: Array
    factors: tuple[Array, ...]
    error: float


def first_gram(x: Array, ranks: tuple[int, ...] | None, rtol: float | None) -> Array | None:
    """Return the Gram matrix of the mode that is cut first, where it is the way to its basis."""
    shape = tuple(int(n) for n in x.shape)
    mode = order_of_modes(shape, ranks)[0]
    if resolve_method("auto", rtol, x) != "auto" or shape[mode] ** 2 > total_size(shape):
        return None
    return mode_gram(x, mode)


def sthosvd(
    x: Array,
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    squared_norm_x: float,
    *,
    first_gram: Array | None = None,
    method: str | None = None,
) -> Projected:
    """Truncate one mode after the other, each by what the modes before it left.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
    ranks : tuple of int or None
    rtol : float or None
        Exactly one of the two; with ``rtol`` each mode may spend an equal share of the squared error that is left.
    squared_norm_x : float
    first_gram : array, optional
        The Gram matrix of the first mode in :func:`order_of_modes`, where it is known already.
    method : {"auto", "tsqr"}, optional
        Default: "auto", unless ``rtol`` is below what a Gram matrix resolves.

    Notes
    -----
    The parts discarded at each mode are orthogonal to each other: their squared norms add up to that of the error.
    """

    def build(method: str) -> tuple[TuckerTensor, float]:
        budget = ErrorBudget(ranks, rtol, squared_norm_x, x.ndim)
        factors: dict[int, Array] = {}
        Y, G = x, first_gram
        for mode in order_of_modes(tuple(x.shape), ranks):
            U, discarded = leading_factor(Y, mode, budget.truncation(mode), method, G)
            budget.spend(discarded)
            Y = mode_product(Y, adjoint(U), mode)
            factors[mode], G = U, None
        tensor = TuckerTensor(Y, tuple(factors[mode] for mode in range(x.ndim)))
        return tensor, math.sqrt(budget.spent / squared_norm_x) if squared_norm_x > 0 else 0.0

    method = method or resolve_method("auto", rtol, x)
    found, error = with_true_error(build, lambda tensor: exact_error(x, tensor, squared_norm_x), method, rtol, x)
    return Projected(found.core, found.factors, error)


def projection_error(x: Array, core: Array, factors: Sequence[Array], squared_norm_x: float) -> float:
    """Return the relative error of an orthogonal projection ``core`` of ``x``: from norms, where they resolve it."""
    if squared_norm_x == 0.0:
        return 0.0
    error = math.sqrt(max(squared_norm_x - squared_norm(core), 0.0) / squared_norm_x)
    if error >= DIFFERENCE_FLOOR[dtype_name(x)]:
        return error
    return exact_error(x, TuckerTensor(core, tuple(factors)), squared_norm_x)


def leading_factor(
    Y: Array, mode: int, truncation: Truncation, method: str = "auto", G: Array | None = None
) -> Basis:
    """Return the leading left singular vectors of the unfolding of ``Y`` along ``mode``, and what they leave out.

    Parameters
    ----------
    Y : array
    mode : int
    truncation : Truncation
    method : {"auto", "tsqr"}
        Whether a Gram matrix may be used where it resolves what is kept.
    G : array, optional
        The Gram matrix of the unfolding, where it is known already.
    """
    n = int(Y.shape[mode])
    if method == "auto" and n <= total_size(Y.shape) // n:
        # The unfolding itself is made only if its Gram matrix turns out not to resolve enough.
        found = basis_from_gram(mode_gram(Y, mode) if G is None else G, truncation, Y)
        if found is not None:
            return found
        method = "tsqr"
    return leading_basis(unfold(Y, mode), truncation, method)


def mode_gram(Y: Array, mode: int) -> Array:
    """Return the Gram matrix of the unfolding of ``Y`` along ``mode``, in double precision.

    Notes
    -----
    Only panels of about 2^20 elements are put into the order of the unfolding.
    """
    xp = array_namespace(Y)
    shape = tuple(Y.shape)
    before, n, after = total_size(shape[:mode]), shape[mode], total_size(shape[mode + 1 :])
    if before == 1:
        return gram(xp.reshape(Y, (n, after)))
    if after == 1:
        return gram(xp.matrix_transpose(xp.reshape(Y, (before, n))))
    blocks = xp.reshape(Y, (before, n, after))
    step = max(1, _PANEL // (n * after))
    total = gram(_panel(blocks, 0, step))
    for start in range(step, before, step):
        total = total + gram(_panel(blocks, start, start + step))
    return total


def _panel(blocks: Array, start: int, stop: int) -> Array:
    xp = array_namespace(blocks)
    part = blocks[start : min(stop, blocks.shape[0]), :, :]
    return xp.reshape(xp.permute_dims(part, (1, 0, 2)), (blocks.shape[1], -1))


def order_of_modes(shape: tuple[int, ...], ranks: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the order that takes the fewest multiply-adds; unknown ranks count as half their modes."""
    d = len(shape)
    kept = ranks if ranks is not None else tuple(max(1, n // 2) for n in shape)
    if d > _ALL_ORDERS_UP_TO:
        return tuple(sorted(range(d), key=lambda k: (kept[k] / shape[k], shape[k])))

    def cost(order: tuple[int, ...]) -> float:
        size, total = float(total_size(shape)), 0.0
        for k in order:
            total += (shape[k] + kept[k]) * size  # Gram matrix, then product with the factor
            size *= kept[k] / shape[k]
        return total

    return min(itertools.permutations(range(d)), key=cost)
