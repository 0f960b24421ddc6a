"""The matricised-tensor products of one ALS sweep, by two passes over the tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tnet.arrays import Array, array_namespace, conj, khatri_rao, total_size

__all__ = ["balanced_split", "sweep"]

_PANEL = 1 << 17  # elements of a Khatri-Rao panel: it stays in cache between its making and its use


def balanced_split(shape: Sequence[int]) -> int:
    """Return how many leading modes form the first half, so that the two halves are alike in size."""
    logs = [math.log(n) for n in shape]
    return min(range(1, len(shape)), key=lambda h: abs(sum(logs[:h]) - sum(logs[h:])), default=1)


def sweep(x: Array, factors: list[Array], update: Callable[[int, Array], Array]) -> None:
    r"""Update every factor once, in order, each from the newest values of the others.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
    factors : list of array, shapes (n_k, R)
        Changed in place of the list: ``factors[k] = update(k, M_k)``.
    update : callable
        Receives the mode and
        :math:`M_k = X_{(k)} \overline{(A_1 \odot \dots A_{k-1} \odot A_{k+1} \dots \odot A_d)}`, (n_k, R).

    Notes
    -----
    The modes are split into two halves. Two matrix products on views of ``x``, of ``N R`` multiply-adds
    each, contract it with one half at a time; all else works on arrays of about ``sqrt(N) R`` elements. A
    sweep mode by mode takes d such products. Khatri-Rao products are made in panels and never held whole.

    References
    ----------
    .. [1] A.-H. Phan, P. Tichavsky, A. Cichocki, "Fast alternating LS algorithms for high order
       CANDECOMP/PARAFAC tensor factorizations", IEEE Trans. Signal Process. 61 (2013).
    """
    xp = array_namespace(x)
    d, R = x.ndim, int(factors[0].shape[1])
    if d == 1:
        factors[0] = update(0, xp.reshape(x, (-1, 1)) * xp.ones_like(factors[0][:1, :]))
        return
    h = balanced_split(x.shape)
    left, right = list(range(h)), list(range(h, d))
    matrix = xp.reshape(x, (total_size(x.shape[:h]), total_size(x.shape[h:])))
    _descend(_times_khatri_rao(matrix, [factors[k] for k in right]), left, factors, update, R)
    flipped = xp.matrix_transpose(matrix)
    _descend(_times_khatri_rao(flipped, [factors[k] for k in left]), right, factors, update, R)


def _times_khatri_rao(matrix: Array, factors: list[Array]) -> Array:
    """Return ``matrix @ conj(khatri_rao(factors))``, panel by panel over the first factor's rows."""
    first, rest = conj(factors[0]), [conj(factor) for factor in factors[1:]]
    if not rest:
        return matrix @ first
    tail = khatri_rao(rest)
    n, (m, R) = int(first.shape[0]), tail.shape
    step = max(1, _PANEL // max(1, m * R))
    total = None
    for start in range(0, n, step):
        stop = min(start + step, n)
        panel = khatri_rao([first[start:stop, :], tail])
        part = matrix[:, start * m : stop * m] @ panel
        total = part if total is None else total + part
    return total


def _descend(T: Array, modes: list[int], factors: list[Array], update: Callable[[int, Array], Array], R: int) -> None:
    """Update ``modes`` from ``T``, the tensor contracted with the factors of all other modes.

    ``T`` has shape ``(product of the sizes of modes, R)``.
    """
    if len(modes) == 1:
        factors[modes[0]] = update(modes[0], T)
        return
    xp = array_namespace(T)
    h = balanced_split([int(factors[k].shape[0]) for k in modes])
    first, second = modes[:h], modes[h:]
    rows = total_size([factors[k].shape[0] for k in first])
    T = xp.reshape(T, (rows, -1, R))
    inner = conj(khatri_rao([factors[k] for k in second]))
    _descend(xp.sum(T * inner[None, :, :], axis=1), first, factors, update, R)
    outer = conj(khatri_rao([factors[k] for k in first]))
    _descend(xp.sum(T * outer[:, None, :], axis=0), second, factors, update, R)
