"""A row of a grid times the boundary above it, as a train of bounded bonds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from tnet.algebra.gram_rounding import in_range
from tnet.algebra.randomized_rounding import OVERSAMPLING, gaussian_sketches
from tnet.algebra.ranks import bond_limits
from tnet.algebra.trains import left_orthogonal_step
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    check_finite,
    conj,
    qr,
    real_dtype,
    squared_norm,
    to_numpy,
)
from tnet.contraction.approximate.sites import Labelled, Site, carried_through, with_sides

__all__ = ["Accuracy", "Boundary", "Method", "RowTimesBoundary", "absorbed"]

Method = Literal["auto", "direct", "randomized"]

# Bonds of a boundary: numbers, for indices of a network are strings, of any name.
_LEFT, _RIGHT, _SKETCH = range(3)
# The estimate of what a sketch leaves out is trusted up to this factor.
_SAFETY = 1.5
_FIRST_WIDTH = 16
# Singular values whose norm is below this part of the unit roundoff times that of the whole carry nothing.
_NOTHING = 0.25


class Boundary(NamedTuple):
    """Part of a network on one side of a row: ``2**exponent`` times a train of cores (r, n, s)."""

    cores: list[Array]
    exponent: int
    discarded: float
    """Squared norm that the last compression cut, as a part of the whole."""


class Accuracy(NamedTuple):
    """How far a boundary is cut: at most ``max_bond``, or the fewest within a relative norm of ``tail``."""

    max_bond: int | None
    tail: float


class RowTimesBoundary:
    """The product of a row and a boundary, of which the cores are not formed; bonds are pairs of theirs.

    Parameters
    ----------
    cores : sequence of array, shapes (r, n, s)
    row : sequence of Site
    """

    def __init__(self, cores: Sequence[Array], row: Sequence[Site]) -> None:
        xp = array_namespace(*cores)
        self.row = row
        self.cores = [
            Labelled(with_sides(core, site, site.above), (_LEFT, *site.above, _RIGHT))
            for core, site in zip(cores, row, strict=True)
        ]
        self.modes = [site.size(site.below) for site in row]
        self.bonds = [int(core.shape[2]) * s.size(s.right) for core, s in zip(cores[:-1], row[:-1], strict=True)]
        self.one = xp.ones((1, 1), dtype=cores[0].dtype, device=cores[0].device)

    def stepped(self, k: int, S: Array) -> Array:
        """Return the state ``S`` (q, bond) times core k of the product, of shape (q n, bond)."""
        xp, site, core = array_namespace(S), self.row[k], self.cores[k]
        shape = (S.shape[0], core.array.shape[0], *(site.sizes[i] for i in site.left))
        state = Labelled(xp.reshape(S, shape), (_SKETCH, _LEFT, *site.left))
        image = carried_through(state, (core, *site.tensors), (_SKETCH, *site.below, _RIGHT, *site.right))
        return xp.reshape(image, (S.shape[0] * self.modes[k], -1))

    def sketched(self, k: int, W: Array, R: Array) -> Array:
        """Return core k times ``W`` (bond, l) times the random core ``R`` (l', n, l), of shape (bond, l')."""
        xp, site, core = array_namespace(W), self.row[k], self.cores[k]
        shape = (core.array.shape[-1], *(site.sizes[i] for i in site.right), W.shape[1])
        state = Labelled(xp.reshape(W, shape), (_RIGHT, *site.right, _SKETCH))
        image = carried_through(state, (core, *site.tensors), (_LEFT, *site.left, *site.below, _SKETCH))
        flat = xp.reshape(R, (R.shape[0], -1))
        return xp.reshape(image, (-1, flat.shape[1])) @ xp.matrix_transpose(flat)

    def formed(self, k: int) -> Array:
        """Return core k of the product, of shape (bond, n, bond)."""
        site, core = self.row[k], self.cores[k]
        image = carried_through(core, site.tensors, (_LEFT, *site.left, *site.below, _RIGHT, *site.right))
        rows = int(core.array.shape[0]) * site.size(site.left)
        return array_namespace(image).reshape(image, (rows, self.modes[k], -1))


def absorbed(
    boundary: Boundary, row: Sequence[Site], accuracy: Accuracy, method: Method, rng: np.random.Generator
) -> Boundary:
    """Multiply a row into a boundary and cut its bonds.

    Parameters
    ----------
    boundary : Boundary
    row : sequence of Site
    accuracy : Accuracy
    method : {"auto", "direct", "randomized"}
        ``"direct"`` forms the product; ``"randomized"`` only multiplies it with a sketch; ``"auto"`` takes what
        costs fewer multiply-adds.
    rng : numpy.random.Generator

    Returns
    -------
    Boundary
        All cores but the first are right-orthogonal, unless nothing had to be cut.
    """
    product = RowTimesBoundary(boundary.cores, row)
    limits = [min(limit, b) for limit, b in zip(bond_limits(product.modes), product.bonds, strict=True)]
    max_bond = accuracy.max_bond
    if max_bond is not None and max(product.bonds, default=1) <= max_bond:
        formed = [in_range(product.formed(k)) for k in range(len(row))]
        exponent = boundary.exponent + sum(e for _, e in formed)
        return Boundary([core for core, _ in formed], exponent, 0.0)
    widths = _widths(limits, boundary, accuracy)
    if method == "direct" or (method == "auto" and _direct_is_cheaper(product, widths)):
        cores, exponent = _orthogonalised(product)
        found = _cut_from_the_right(cores, accuracy)
    else:
        found = _cut_by_a_sketch(product, limits, widths, accuracy, rng)
        exponent = 0
    first, shift = in_range(found.cores[0])
    exponent += boundary.exponent + found.exponent + shift
    return Boundary([first, *found.cores[1:]], exponent, found.discarded)


class _LeftBases(NamedTuple):
    """What a sweep from the left leaves: the state at each site before it is projected, and what projections lost."""

    states: list[Array]
    lost: float


def _widths(limits: Sequence[int], boundary: Boundary, accuracy: Accuracy) -> list[int]:
    """Return the columns of a first sketch at each bond."""
    kept = accuracy.max_bond or max(_FIRST_WIDTH, *(int(core.shape[2]) for core in boundary.cores))
    return [min(limit, kept + OVERSAMPLING) for limit in limits]


def _orthogonalised(product: RowTimesBoundary) -> tuple[list[Array], int]:
    """Form the cores of the product and return them, all but the last left-orthogonal, and their exponent."""
    cores: list[Array] = []
    exponent = 0
    for k in range(len(product.row)):
        core, shift = in_range(product.formed(k))
        cores.append(core)
        exponent += shift
        if k:
            left_orthogonal_step(cores, k - 1)
            cores[k], shift = in_range(cores[k])
            exponent += shift
    return cores, exponent


def _cut_from_the_right(cores: list[Array], accuracy: Accuracy) -> Boundary:
    """Truncate singular values bond by bond from the right, where all cores but the last are left-orthogonal."""
    xp = array_namespace(*cores)
    cores = list(cores)
    budget = _Budget(accuracy)
    for k in range(len(cores) - 1, 0, -1):
        r, n, s = cores[k].shape
        carried, basis = budget.cut(xp.reshape(cores[k], (r, n * s)), k)
        cores[k] = xp.reshape(basis, (basis.shape[0], n, s))
        q, m, _ = cores[k - 1].shape
        cores[k - 1] = xp.reshape(xp.reshape(cores[k - 1], (q * m, r)) @ carried, (q, m, -1))
    return Boundary(cores, 0, budget.spent)


def _cut_by_a_sketch(
    product: RowTimesBoundary,
    limits: Sequence[int],
    widths: Sequence[int],
    accuracy: Accuracy,
    rng: np.random.Generator,
) -> Boundary:
    """Take bases of the parts to the left from a sketch, then of those to the right from the product and these.

    The second sweep multiplies the product itself, not its projection, so that the bases of the right parts are those
    of a subspace iteration: close to singular vectors also where singular values fall slowly.
    """
    widths = list(widths)
    while True:
        left = _left_bases(product, widths, rng)
        # A tolerance must leave the truncation at least half.
        if accuracy.max_bond is not None or 2 * _SAFETY**2 * left.lost <= accuracy.tail**2 or widths == limits:
            break
        widths = [min(limit, 2 * width) for limit, width in zip(limits, widths, strict=True)]
    if accuracy.max_bond is None:
        accuracy = Accuracy(None, math.sqrt(max(accuracy.tail**2 - _SAFETY**2 * left.lost, 0.0)))
    xp = array_namespace(product.one)
    budget = _Budget(accuracy)
    cores: list[Array] = []
    right, exponent = product.one, 0
    for k in range(len(product.row) - 1, 0, -1):
        state = left.states.pop()
        M = xp.reshape(state @ right, (state.shape[0] // product.modes[k], -1))
        _, basis = budget.cut(M, k)
        cores.append(xp.reshape(basis, (basis.shape[0], product.modes[k], -1)))
        right, shift = in_range(product.sketched(k, right, conj(cores[-1])))
        exponent += shift
    cores.append(xp.reshape(left.states.pop() @ right, (1, product.modes[0], -1)))
    return Boundary(cores[::-1], exponent, left.lost + (1 - left.lost) * budget.spent)


def _left_bases(product: RowTimesBoundary, widths: Sequence[int], rng: np.random.Generator) -> _LeftBases:
    """Project the product on the range of its Gaussian sketch, bond by bond from the left."""
    sketches = gaussian_sketches([product], product.modes, widths, rng)
    states = [product.stepped(0, product.one)]
    lost = 0.0
    for k, width in enumerate(widths):
        image = states[-1] @ sketches[k].pop()
        Q, _ = qr(image[:, :width])
        test = image[:, width:]
        seen = squared_norm(test)
        if seen > 0:
            lost += (1 - lost) * min(squared_norm(test - Q @ (adjoint(Q) @ test)) / seen, 1.0)
        state, _ = in_range(adjoint(Q) @ states[-1])
        states.append(product.stepped(k + 1, state))
    return _LeftBases(states, lost)


class _Budget:
    """Cuts bonds one after the other and counts the squared norm that is lost, as a part of the whole."""

    def __init__(self, accuracy: Accuracy) -> None:
        self._accuracy = accuracy
        self.spent = 0.0

    def cut(self, M: Array, n_left: int) -> tuple[Array, Array]:
        """Return ``carried`` and ``basis``, orthonormal rows, with ``M ~ carried @ basis``.

        ``n_left`` cuts, this one included, share what a tolerance still allows.
        """
        xp = array_namespace(M)
        Q = None
        if M.shape[0] < M.shape[1]:
            Q, R = qr(adjoint(M))
            M = adjoint(R)
        check_finite(M, "the boundary")
        U, values, Vh = xp.linalg.svd(M, full_matrices=False)
        squares = to_numpy(values).astype(np.float64) ** 2
        tails = np.append(np.cumsum(squares[::-1])[::-1], 0.0)  # what is cut where so many are kept
        max_bond, tail = self._accuracy
        noise = _NOTHING * float(xp.finfo(real_dtype(M)).eps)
        allowed = noise**2
        if max_bond is None:
            allowed = max(allowed, (tail**2 - self.spent) / n_left / (1 - self.spent))
        kept = max(1, int(np.count_nonzero(tails > allowed * tails[0])))
        kept = kept if max_bond is None else min(kept, max_bond)
        if tails[0] > 0:
            self.spent += (1 - self.spent) * float(tails[kept] / tails[0])
        basis = Vh[:kept, :] if Q is None else Vh[:kept, :] @ adjoint(Q)
        return U[:, :kept] * astype(values[:kept], U.dtype), basis


def _direct_is_cheaper(product: RowTimesBoundary, widths: Sequence[int]) -> bool:
    """Compare multiply-adds of orthogonalising the formed product and of a sketch of these widths."""
    bonds = [1, *product.bonds, 1]
    widths = [1, *widths, 1]
    direct, sketch = 0, 0
    for k, site in enumerate(product.row):
        n, r, s = product.modes[k], bonds[k], bonds[k + 1]
        q, p = widths[k], widths[k + 1]
        core = product.cores[k].array.shape
        direct += 2 * r * n * s * min(r * n, s)
        through = int(core[0]) * int(core[-1]) * site.size(site.above) * site.size(site.left)
        through += s * n * site.size(site.left) * site.size(site.above)
        sketch += 3 * q * through + 3 * q * n * s * p + 2 * q * n * p * min(p, q * n)
    return direct <= sketch
