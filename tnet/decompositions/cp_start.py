"""Starting factors of the canonical polyadic decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    from_numpy_like,
    mode_product,
    resolve_rng,
    standard_normal,
    to_numpy,
    total_size,
    truncated_eigh,
)
from tnet.decompositions.cp_fit import normalised_columns
from tnet.decompositions.preparation import Prepared, given_parts
from tnet.decompositions.sthosvd import mode_gram
from tnet.decompositions.truncated_basis import leading_basis
from tnet.errors import InputError, ShapeError
from tnet.formats import CPTensor
from tnet.options import Truncation

__all__ = ["starting_factors"]


def starting_factors(prepared: Prepared, R: int, init: object, rng: Any) -> tuple[list[Array], int | None]:
    """Return starting factors with columns of norm 1, and the seed if anything was random."""
    x = prepared.array
    if isinstance(init, CPTensor):
        return _given_start(prepared, R, init), None
    if not isinstance(init, str) or init not in ("svd", "random", "gevd"):
        raise InputError(f"init={init!r}: choose 'svd', 'random', 'gevd', or give a CPTensor.")
    if init == "gevd":
        return _eigenvalue_start(x, R), None
    xp = array_namespace(x)
    generator, seed = resolve_rng(rng)
    factors: list[Array] = []
    drawn = False
    for mode, n in enumerate(x.shape):
        columns: list[Array] = []
        if init == "svd":
            columns.append(_leading_vectors(x, mode, min(R, n)))
        missing = R - sum(int(part.shape[1]) for part in columns)
        if missing:
            drawn = True
            columns.append(standard_normal(generator, (n, missing), x))
        factors.append(normalised_columns(xp.concat(columns, axis=1)))
    return factors, seed if drawn else None


def _leading_vectors(x: Array, mode: int, r: int) -> Array:
    """Return the r leading left singular vectors of an unfolding, or as many as it has."""
    n = int(x.shape[mode])
    others = total_size(x.shape) // n
    if n <= others:
        U, _, _ = truncated_eigh(mode_gram(x, mode), Truncation(rank=r))
        return astype(U, x.dtype)
    # A Gram matrix of a mode longer than all others together would be larger than the tensor.
    xp = array_namespace(x)
    before = total_size(x.shape[:mode])
    blocks = xp.permute_dims(xp.reshape(x, (before, n, others // before)), (1, 0, 2))
    return leading_basis(xp.reshape(blocks, (n, others)), Truncation(rank=min(r, others)), "auto").U


def _given_start(prepared: Prepared, R: int, init: CPTensor) -> list[Array]:
    x = prepared.array
    if init.shape != tuple(x.shape) or init.rank != R:
        raise ShapeError(
            f"init has shape {init.shape} and rank {init.rank}; give one of shape {tuple(x.shape)} and rank {R}."
        )
    _, *factors = given_parts(x, init.arrays, "init")
    # Weights do not matter: the first update solves for them, whatever the scale of the others.
    return [_unit_columns(factor, x.dtype) for factor in factors]


def _unit_columns(factor: Array, dtype: Any) -> Array:
    """Return the factor in ``dtype`` with columns of norm 1, whatever its own range; zero columns stay zero."""
    xp = array_namespace(factor)
    largest = xp.max(xp.abs(factor), axis=0)
    scale = xp.where(largest > 0, largest, xp.ones_like(largest))
    return normalised_columns(astype(factor / scale, dtype))


def _eigenvalue_start(x: Array, R: int) -> list[Array]:
    r"""Return factors from a generalised eigenvalue problem: those of x itself, if x has rank R and they are unique.

    Notes
    -----
    After compression to at most R in each mode, two slices over the longest modes are
    :math:`S_k = A D_k B^T` with the same square A and B and diagonal :math:`D_k`. From
    :math:`S_1 V = S_2 V \Lambda` come :math:`V = B^{-T}` and :math:`S_2 V = A D_2`, up to scale; the rows of
    :math:`A^{-1} X_{(1)}` are then rank-one tensors, whose vectors complete the other factors.

    References
    ----------
    .. [1] E. Sanchez, B. R. Kowalski, "Tensorial resolution: a direct trilinear decomposition", Journal of
       Chemometrics 4 (1990).
    .. [2] S. E. Leurgans, R. T. Ross, R. B. Abel, "A decomposition for three-way arrays", SIAM J. Matrix Anal.
       Appl. 14 (1993).
    """
    xp = array_namespace(x)
    shape = tuple(int(n) for n in x.shape)
    order = sorted(range(len(shape)), key=lambda k: -shape[k])
    if len(shape) < 3 or shape[order[1]] < R or total_size([shape[k] for k in order[2:]]) < 2:
        raise InputError(
            f"init='gevd' needs a tensor of order 3 or more with two modes of at least rank={R} and another of at "
            f"least 2; the shape is {shape}: use init='svd' or 'random', or a smaller rank."
        )
    bases: list[Array] = []
    core = x
    for mode, n in enumerate(shape):
        bases.append(_leading_vectors(core, mode, min(R, n)))
        core = mode_product(core, adjoint(bases[mode]), mode)
    core = xp.permute_dims(core, tuple(order))
    A = from_numpy_like(_common_factor(core), x)
    rank_one = xp.reshape(xp.linalg.pinv(A) @ xp.reshape(core, (R, -1)), (R, *core.shape[1:]))
    inner = [A, *(_vectors_of_each(rank_one, k) for k in range(1, len(shape)))]
    factors = {mode: bases[mode] @ part for mode, part in zip(order, inner, strict=True)}
    return [normalised_columns(factors[mode]) for mode in range(len(shape))]


def _common_factor(core: Array) -> np.ndarray:
    """Return the factor of the first mode from two slices of the core over its first two modes, on the host."""
    from scipy.linalg import eig

    R, d = int(core.shape[0]), core.ndim
    places = [(0,) * (d - 2)]
    places += [tuple(int(j == k) for j in range(d - 2)) for k in range(d - 2) if core.shape[k + 2] > 1]
    first, *others = [to_numpy(core[(slice(None), slice(None), *place)]) for place in places]
    second = max(others, key=lambda S: float(np.linalg.norm(S)), default=first)  # rank 1 leaves one slice
    solution: Any = eig(first, second)
    values, V = solution
    if not np.iscomplexobj(first):
        # The real and the imaginary part of a conjugate pair span the plane of its two vectors.
        V = np.where(np.imag(values) < 0, np.imag(V), np.real(V))
    A = (first if np.linalg.norm(first) > np.linalg.norm(second) else second) @ V
    norms = np.linalg.norm(A, axis=0)
    # Where the pencil is singular, vectors may be anything, or zero: any start of full rank will do.
    usable = np.isfinite(norms) & (norms > np.finfo(first.dtype).eps * np.linalg.norm(first))
    return np.where(usable, A / np.where(usable, norms, 1), np.eye(R)).astype(first.dtype)


def _vectors_of_each(tensors: Array, mode: int) -> Array:
    """Return the leading left singular vector along ``mode`` of each of the R stacked tensors, shape (n, R)."""
    xp = array_namespace(tensors)
    others = [k for k in range(1, tensors.ndim) if k != mode]
    R, n = int(tensors.shape[0]), int(tensors.shape[mode])
    unfolded = xp.reshape(xp.permute_dims(tensors, (0, mode, *others)), (R, n, -1))
    _, vectors = xp.linalg.eigh(unfolded @ adjoint(unfolded))
    return xp.matrix_transpose(vectors[:, :, -1])
