"""The small linear system of one core of a tensor train, and its solution, dense or by GMRES."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tnet.arrays import Array, adjoint, array_namespace, astype, conj, einsum, solve_triangular

__all__ = ["LocalSystem", "left_interface", "left_vector"]

# Unknowns up to which the matrix is formed and factorised.
_DENSE = 600
# Rows of a diagonal block up to which the blocks are inverted as a preconditioner.
_BLOCK = 600
_RESTART = 50
_SINGULAR = (np.linalg.LinAlgError, RuntimeError)  # NumPy's, and the base of torch's
_CYCLES = 8
_PROGRESS = 0.03  # residual that GMRES leaves of the one it is given


class LocalSystem(NamedTuple):
    r"""The operator of one core between its surroundings.

    .. math:: (B v)_{a m c} = \sum_{p q r n s} L_{a p r} A_{p m n q} R_{c q s} v_{r n s}
    """

    L: Array
    A: Array
    R: Array

    def apply(self, v: Array) -> Array:
        """Return ``B v``, of shape (a, m, c), for ``v`` (r, n, s)."""
        xp = array_namespace(v)
        state = einsum(xp, "apr,rns->apns", self.L, v)
        state = einsum(xp, "apns,pmnq->amqs", state, self.A)
        return einsum(xp, "amqs,cqs->amc", state, self.R)

    def solve(self, f: Array, guess: Array, rtol: float) -> Array:
        """Return ``v`` with ``B v = f``, to roundoff, or to ``rtol`` where the system is large."""
        size = f.shape[0] * f.shape[1] * f.shape[2]
        if size > _DENSE:
            return _gmres(self, f, guess, rtol)
        xp = array_namespace(f)
        state = einsum(xp, "apr,pmnq->armnq", self.L, self.A)
        matrix = xp.reshape(einsum(xp, "armnq,cqs->amcrns", state, self.R), (size, size))
        return xp.reshape(_solved(matrix, xp.reshape(f, (size, 1))), f.shape)

    def blocks(self) -> Array | None:
        """Return the inverses of the blocks for each right index (s, a m, r n), or None if they are large."""
        xp = array_namespace(self.L)
        rows = int(self.L.shape[0] * self.A.shape[1])
        if rows > _BLOCK:
            return None
        diagonal = einsum(xp, "cqs,cs->sq", self.R, xp.eye(self.R.shape[0], dtype=self.R.dtype, device=self.R.device))
        state = einsum(xp, "apr,pmnq->amrnq", self.L, self.A)
        blocks = xp.reshape(einsum(xp, "amrnq,sq->samrn", state, diagonal), (-1, rows, rows))
        try:
            inverses = xp.linalg.inv(blocks)
        except _SINGULAR:
            return None
        return inverses if bool(xp.all(xp.isfinite(inverses))) else None  # CuPy raises nothing


def left_interface(L: Array, y: Array, A: Array, x: Array) -> Array:
    """Return the next left part: L (a, p, r) between ``conj(y)`` (a, m, c), ``A`` and ``x`` (r, n, s): (c, q, s)."""
    xp = array_namespace(L)
    state = einsum(xp, "apr,rns->apns", L, x)
    state = einsum(xp, "apns,pmnq->amqs", state, A)
    return einsum(xp, "amc,amqs->cqs", conj(y), state)


def left_vector(L: Array, y: Array, b: Array) -> Array:
    """Return a right side's next left part: L (a, e) between ``conj(y)`` (a, m, c) and ``b`` (e, m, f), (c, f)."""
    xp = array_namespace(L)
    return einsum(xp, "amc,amf->cf", conj(y), einsum(xp, "ae,emf->amf", L, b))


def _solved(matrix: Array, right: Array) -> Array:
    """Solve; a matrix singular to working precision gives the least-squares solution of least norm."""
    xp = array_namespace(matrix)
    try:
        found = xp.linalg.solve(matrix, right)
        if bool(xp.all(xp.isfinite(found))):
            return found
    except _SINGULAR:
        pass
    return xp.linalg.pinv(matrix) @ right


def _gmres(system: LocalSystem, f: Array, guess: Array, rtol: float) -> Array:
    """Solve by restarted GMRES; after a first cycle, right-preconditioned by the inverted diagonal blocks."""
    xp = array_namespace(f)
    blocks: Array | None = None

    def preconditioned(v: Array) -> Array:
        if blocks is None:
            return v
        columns = xp.reshape(xp.permute_dims(v, (2, 0, 1)), (v.shape[2], -1, 1))
        return xp.permute_dims(xp.reshape(blocks @ columns, (v.shape[2], v.shape[0], v.shape[1])), (1, 2, 0))

    x = guess
    start = float(xp.linalg.vector_norm(f - system.apply(x)))
    # The other cores change yet: far from the solution a local one need not be better than they are.
    goal = max(rtol * float(xp.linalg.vector_norm(f)), _PROGRESS * start)
    for cycle in range(_CYCLES):
        residual = f - system.apply(x)
        beta = float(xp.linalg.vector_norm(residual))
        if beta <= goal:
            break
        if cycle == 1:  # inverting the blocks costs more than a few steps
            blocks = system.blocks()
        basis = [residual / beta]
        columns: list[Array] = []
        for j in range(_RESTART):
            w = xp.reshape(system.apply(preconditioned(basis[j])), (-1,))
            Q = xp.stack([xp.reshape(v, (-1,)) for v in basis], axis=1)
            h = adjoint(Q) @ w
            w = w - Q @ h
            again = adjoint(Q) @ w  # once more: twice is enough
            w = w - Q @ again
            size = xp.linalg.vector_norm(w)
            columns.append(xp.concat([h + again, xp.reshape(astype(size, h.dtype), (1,))]))
            y, left = _least_squares(columns, beta)
            if left <= goal or float(size) <= 1e-14 * beta or j == _RESTART - 1:
                break
            basis.append(xp.reshape(w / size, f.shape))
        step = sum((basis[i] * y[i] for i in range(1, len(columns))), basis[0] * y[0])
        x = x + preconditioned(step)
    return x


def _least_squares(columns: list[Array], beta: float) -> tuple[Array, float]:
    """Minimise ``|beta e_1 - H y|`` for the Hessenberg matrix of these columns; return y and the minimum."""
    xp = array_namespace(*columns)
    n = len(columns)
    padded = [xp.concat([c, xp.zeros((n + 1 - c.shape[0],), dtype=c.dtype, device=c.device)]) for c in columns]
    H = xp.stack(padded, axis=1)
    right = xp.zeros((n + 1, 1), dtype=H.dtype, device=H.device)
    right[0, 0] = beta
    Q, R = xp.linalg.qr(H, mode="reduced")
    projected = adjoint(Q) @ right
    y = solve_triangular(R, projected, lower=False)
    left = float(xp.linalg.vector_norm(right - Q @ projected))
    return y[:, 0], left if math.isfinite(left) else math.inf
