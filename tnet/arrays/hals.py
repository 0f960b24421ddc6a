"""Nonnegative least squares from normal equations, by hierarchical alternating least squares (HALS)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from tnet.arrays.compiled import jit
from tnet.arrays.namespace import Array, array_namespace, from_numpy_like, to_numpy
from tnet.arrays.registry import lookup, register

__all__ = ["hals"]

# Columns of A^T that one row of updates visits: eight rows of such blocks and the sum fit into a core's L1 cache.
_BLOCK = 256

# Below, a pass on the host takes less than a millisecond, some hundred kernels on a GPU more than that.
_HOST_ENTRIES = 1 << 18


def hals(A: Array, M: Array, H: Array, max_passes: int, change: float = 0.1) -> Array:
    r"""Improve a nonnegative A, by passes of coordinate descent over its columns.

    .. math:: \min_{A \ge 0} \tfrac12 \langle A, A H \rangle - \langle A, M \rangle

    Parameters
    ----------
    A : array, shape (n, R)
        Nonnegative start; it is not changed.
    M : array, shape (n, R)
    H : array, shape (R, R)
        Symmetric, positive semidefinite. A column r with ``H[r, r] = 0`` stays as it is: nothing depends on it.
    max_passes : int
        Largest number of passes over the columns.
    change : float
        End when a pass moves A by at most this times as much as the first one did.

    Returns
    -------
    array, shape (n, R)
        The objective is not above that of the start. Stored with the n entries of a column together.

    Notes
    -----
    A pass solves for one column after the other [1]_,

    .. math:: A_{:r} \leftarrow \max\bigl(0, (M_{:r} - \sum_{s \ne r} A_{:s} H_{sr}) / H_{rr}\bigr),

    in ``n R^2`` multiply-adds. Several passes for one pair (M, H), which costs much more to make, and this rule to
    end them are the accelerated HALS [2]_. On the CPU a loop compiled by Numba holds blocks of rows in cache; small
    problems of a GPU (2^18 entries of A) visit it. Elsewhere each column is a product of a vector and a matrix, and
    the rule costs one wait for the device a pass.

    References
    ----------
    .. [1] A. Cichocki, A.-H. Phan, "Fast local algorithms for large scale nonnegative matrix and tensor
       factorizations", IEICE Trans. Fundamentals E92-A (2009).
    .. [2] N. Gillis, F. Glineur, "Accelerated multiplicative updates and hierarchical ALS algorithms for
       nonnegative matrix factorization", Neural Computation 24 (2012).

    Examples
    --------
    >>> import numpy as np
    >>> H, M = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0, 0.0]])
    >>> hals(np.zeros((1, 2)), M, H, 100, change=0.0)  # without the bound: 2 and -1
    array([[1.5, 0. ]])
    """
    return lookup("hals", A)(A, M, H, max_passes, change)


@register("hals")
def _hals_by_columns(A: Array, M: Array, H: Array, max_passes: int, change: float) -> Array:
    """Visit the columns one by one: the reference for every library."""
    xp = array_namespace(A, M, H)
    R = int(H.shape[0])
    rows = xp.asarray(xp.matrix_transpose(A), copy=True)
    diagonal = xp.linalg.diagonal(H)
    alive = diagonal > 0
    scale = xp.where(alive, diagonal, xp.ones_like(diagonal))[:, None]
    eye = xp.eye(R, dtype=H.dtype, device=H.device)
    couplings = xp.where(alive[:, None], H / scale, xp.zeros_like(H)) * (1 - eye)
    targets = xp.where(alive[:, None], xp.matrix_transpose(M) / scale, rows)
    first = 0.0
    for done in range(max_passes):
        before = xp.asarray(rows, copy=True)
        for r in range(R):
            rows[r, :] = xp.clip(targets[r, :] - couplings[r, :] @ rows, min=0.0)
        step = rows - before
        moved = float(xp.sum(step * step))
        if done == 0:
            first = moved
        if moved <= change**2 * first:
            break
    return xp.matrix_transpose(rows)


@register("hals", "numpy")
def _hals_numpy(A: Array, M: Array, H: Array, max_passes: int, change: float) -> Array:
    rows = np.array(A.T, order="C")
    _compiled()(rows, np.ascontiguousarray(M.T), np.ascontiguousarray(H), max_passes, change)
    return rows.T


@register("hals", "torch", "cpu")
def _hals_torch_cpu(A: Array, M: Array, H: Array, max_passes: int, change: float) -> Array:
    """Run the compiled loop on the memory of torch."""
    return array_namespace(A).asarray(_hals_numpy(A.numpy(), M.numpy(), H.numpy(), max_passes, change))


@register("hals", device="cuda")
def _hals_cuda(A: Array, M: Array, H: Array, max_passes: int, change: float) -> Array:
    """Run the compiled loop on the host where starting kernels column by column would take longer than that."""
    if A.shape[0] * A.shape[1] > _HOST_ENTRIES:
        return _hals_by_columns(A, M, H, max_passes, change)
    return from_numpy_like(_hals_numpy(to_numpy(A), to_numpy(M), to_numpy(H), max_passes, change), A)


@functools.cache
def _compiled() -> Callable[..., None]:
    """Return the compiled loop; Numba is imported here, at the first nonnegative fit."""
    # Without "contract" the compiler may not fuse multiplications and additions; "reassoc" lets it sum the squared
    # steps in vectors. NaN and infinity keep their meaning.
    return jit(_passes, fastmath=frozenset({"contract", "reassoc"}))


def _passes(rows: np.ndarray, targets: np.ndarray, H: np.ndarray, max_passes: int, change: float) -> None:
    """Update ``rows`` = A^T in place; ``targets`` = M^T.

    The innermost loops run over slices of C-contiguous rows: only these does Numba turn into vector instructions.
    """
    R, n = rows.shape
    total = np.empty(_BLOCK, rows.dtype)
    zero = rows.dtype.type(0)
    first = 0.0
    for done in range(max_passes):
        moved = 0.0
        for start in range(0, n, _BLOCK):
            stop = min(start + _BLOCK, n)
            width = stop - start
            for r in range(R):
                if not H[r, r] > 0:
                    continue
                target, own = targets[r, start:stop], rows[r, start:stop]
                for j in range(width):
                    total[j] = target[j]
                for s in range(R):
                    h = zero if s == r else H[r, s]
                    other = rows[s, start:stop]
                    for j in range(width):
                        total[j] -= h * other[j]
                inverse = 1 / H[r, r]
                for j in range(width):
                    new = max(total[j] * inverse, zero)
                    step = new - own[j]
                    moved += step * step
                    own[j] = new
        if done == 0:
            first = moved
        if moved <= change**2 * first:
            break
