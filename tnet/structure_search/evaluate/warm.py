"""Cores of one structure made into a start for another near it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from tnet.arrays import Array, astype, from_numpy_like, to_numpy
from tnet.errors import ShapeError
from tnet.structure_search.structure import Structure

__all__ = ["adapted"]

_NOISE = 1e-2  # of new slices, relative to the mean square of the core's entries


def adapted(cores: Sequence[Array], old: Structure, new: Structure, seed: int) -> tuple[Array, ...]:
    """Return cores of the structure ``new`` that are near those given for ``old``.

    Parameters
    ----------
    cores : sequence of array
        In the shapes that ``old`` names.
    old, new : Structure
        Of one tensor. Internal cores are matched by number; missing ones begin as ones, superfluous ones are
        contracted with a neighbour, the last first.
    seed : int
        Of the noise.

    Returns
    -------
    tuple of array
        In the library, dtype and device of the cores, in the shapes that ``new`` names.

    Raises
    ------
    ShapeError
        If the structures are not of one tensor, or the cores are not of the old one.

    Notes
    -----
    If the ranks of ``new`` are those of ``old`` with two modes of one size exchanged, the two cores change places.
    Otherwise a bond whose rank falls keeps the leading singular triplets of the product of the two cores that it
    joins: the best truncation of that pair, not of the whole network. A core whose ranks grow is padded by normal
    noise of 1 % of the root mean square of its entries: the start is near the old network, and no slice is stuck at
    zero. Ranks fall first. Everything happens on the host: cores are small.
    """
    if old.shape != new.shape:
        raise ShapeError(f"structures for tensors of shapes {old.shape} and {new.shape}: give two of one tensor.")
    shapes = tuple(tuple(core.shape) for core in cores)
    if shapes != old.core_shapes:
        raise ShapeError(f"cores of shapes {shapes}: the structure asks for {old.core_shapes}.")
    rng = np.random.default_rng(seed)
    full = [_with_all_axes(_computable(to_numpy(core)), old, k) for k, core in enumerate(cores)]
    exchange = _exchanged_modes(old, new)
    if exchange is not None:
        full = _with_modes_exchanged(full, *exchange)
    for _ in range(old.n_internal - new.n_internal):
        full = _without_last(full)
    for _ in range(new.n_internal - old.n_internal):
        full = [core[..., None] for core in full]
        full.append(np.ones((1,) * full[0].ndim, dtype=full[0].dtype))
    pairs = list(itertools.combinations(range(new.n_cores), 2))
    for i, j in pairs:
        if new.rank(i, j) < full[i].shape[1 + j]:
            _truncate(full, i, j, new.rank(i, j))
    for k, core in enumerate(full):
        full[k] = _padded(core, (core.shape[0], *(new.rank(k, j) if j != k else 1 for j in range(new.n_cores))), rng)
    return tuple(
        astype(from_numpy_like(core.reshape(shape), cores[0]), cores[0].dtype)
        for core, shape in zip(full, new.core_shapes, strict=True)
    )


def _computable(core: np.ndarray) -> np.ndarray:
    """Return a core in a precision that LAPACK has."""
    return core.astype(np.float32) if core.dtype == np.float16 else core


def _with_all_axes(core: np.ndarray, structure: Structure, k: int) -> np.ndarray:
    """Return a core with an axis for its mode and one for each core, of length 1 where there is no bond."""
    n = structure.shape[k] if k < structure.n_modes else 1
    return core.reshape(n, *(structure.rank(k, j) if j != k else 1 for j in range(structure.n_cores)))


def _exchanged_modes(old: Structure, new: Structure) -> tuple[int, int] | None:
    """Return the two modes of one size whose exchange turns the bonds of the old structure into those of the new."""
    if old == new or old.n_internal != new.n_internal:
        return None
    ranks = old.ranks
    np.fill_diagonal(ranks, 1)
    wanted = new.ranks
    np.fill_diagonal(wanted, 1)
    for i, j in itertools.combinations(range(old.n_modes), 2):
        order = np.arange(old.n_cores)
        order[i], order[j] = j, i
        if old.shape[i] == old.shape[j] and np.array_equal(ranks[np.ix_(order, order)], wanted):
            return i, j
    return None


def _with_modes_exchanged(full: list[np.ndarray], i: int, j: int) -> list[np.ndarray]:
    full = [np.swapaxes(core, 1 + i, 1 + j) for core in full]
    full[i], full[j] = full[j], full[i]
    return full


def _without_last(full: list[np.ndarray]) -> list[np.ndarray]:
    """Contract the last core with the one that it has the largest bond with."""
    *others, last = full
    c = len(others)
    into = max(range(c), key=lambda k: last.shape[1 + k])
    product = np.tensordot(others[into], last[0], axes=([1 + c], [into]))
    # Axes now: mode and bonds of the one, bonds of the other but the one between them.
    bonds = iter(range(1 + c, product.ndim))
    place = {k: next(bonds) for k in range(c) if k != into}
    axes = [0, *itertools.chain.from_iterable((1 + k, place[k]) if k != into else (1 + k,) for k in range(c))]
    sizes = [others[into].shape[1 + k] * (last.shape[1 + k] if k != into else 1) for k in range(c)]
    product = product.transpose([*axes, product.ndim - 1]).reshape(-1, *sizes)
    merged = []
    for k, core in enumerate(others):
        if k == into:
            merged.append(product)
            continue
        core = np.moveaxis(core, 1 + c, 2 + into)
        shape = [*core.shape[: 1 + into], core.shape[1 + into] * core.shape[2 + into], *core.shape[3 + into :]]
        merged.append(core.reshape(shape))
    return merged


def _truncate(full: list[np.ndarray], i: int, j: int, rank: int) -> None:
    """Replace two cores by those whose product is the nearest with a bond of this rank."""
    parts = []
    for core, axis in ((full[i], 1 + j), (full[j], 1 + i)):
        rest = np.moveaxis(core, axis, -1)
        Q, R = np.linalg.qr(rest.reshape(-1, rest.shape[-1]))
        parts.append((rest.shape[:-1], Q, R))
    U, s, Vh = np.linalg.svd(parts[0][2] @ parts[1][2].T)
    rank = min(rank, len(s))
    root = np.sqrt(s[:rank])
    factors = (parts[0][1] @ (U[:, :rank] * root), parts[1][1] @ (Vh[:rank].T * root))
    for k, axis, (shape, _, _), factor in zip((i, j), (1 + j, 1 + i), parts, factors, strict=True):
        full[k] = np.moveaxis(factor.reshape(*shape, rank), -1, axis)


def _padded(core: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if core.shape == shape:
        return np.ascontiguousarray(core)
    noise = rng.standard_normal(shape)
    if np.iscomplexobj(core):
        noise = (noise + 1j * rng.standard_normal(shape)) * np.sqrt(0.5)
    padded = (_NOISE * np.sqrt(np.mean(np.abs(core) ** 2)) * noise).astype(core.dtype)
    padded[tuple(slice(n) for n in core.shape)] = core
    return padded
