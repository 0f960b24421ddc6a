"""How well a structure can approximate a tensor at best, told from the singular values over its cuts alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet.errors import InputError, ShapeError
from tnet.structure_search.spectra import CutSpectra
from tnet.structure_search.structure import Structure

__all__ = ["CutBounds", "cut_bounds", "lower_bounds", "tree_upper_bound"]

_MOST_INTERNAL = 8  # 256 placements of each cut
_BLOCK = 1 << 19  # logarithms of capacities at a time: 4 MiB


@dataclass(frozen=True, eq=False)
class CutBounds:
    r"""Lower bounds of the squared relative error for arrays of ranks; made by :func:`cut_bounds`.

    Parameters
    ----------
    spectra : CutSpectra
    n_internal : int
    pairs : array of int, shape (2, n_pairs)
        Pairs of cores i < j in the order of ``np.triu_indices``.
    crossing : array of float64, shape (n_pairs, n_cuts * n_placements)
        1 where a pair lies on both sides; the placements of the internal cores vary fastest.
    """

    spectra: CutSpectra
    n_internal: int
    pairs: np.ndarray
    crossing: np.ndarray

    def of_pair_ranks(self, ranks: np.ndarray) -> np.ndarray:
        """Return the bounds of structures given by the ranks of their pairs of cores, 1 for no bond.

        Parameters
        ----------
        ranks : array of int, shape (B, n_pairs)
            Pairs in the order of ``np.triu_indices(n_cores, 1)``.

        Returns
        -------
        array of float64, shape (B,)
        """
        bounds = np.zeros(len(ranks))
        for part in self._blocks(len(ranks)):
            if self.spectra.n_cuts:
                bounds[part] = self.cut_tails(ranks[part]).max(axis=1)
        return bounds

    def of_ranks(self, ranks: np.ndarray) -> np.ndarray:
        """Return the bounds of structures given by symmetric matrices of ranks, shape (B, n_cores, n_cores)."""
        return self.of_pair_ranks(ranks[:, self.pairs[0], self.pairs[1]])

    def cut_tails(self, ranks: np.ndarray) -> np.ndarray:
        """Return the tail of every cut at its capacity, shape (B, n_cuts), of ranks of pairs as above."""
        tails = self.spectra.tails
        n_cuts, width = tails.shape
        if n_cuts == 0:
            return np.zeros((len(ranks), 0))
        logs = np.log(ranks) @ self.crossing
        if self.n_internal:
            logs = logs.reshape(len(ranks), n_cuts, 1 << self.n_internal).min(axis=2)
        capacity = np.rint(np.exp(np.minimum(logs, math.log(width - 1)))).astype(np.intp)
        capacity += np.arange(n_cuts) * width
        return tails.reshape(-1)[capacity]

    def _blocks(self, count: int) -> list[slice]:
        step = max(1, _BLOCK // max(1, self.crossing.shape[1]))
        return [slice(start, start + step) for start in range(0, count, step)]


def cut_bounds(spectra: CutSpectra, n_internal: int = 0) -> CutBounds:
    r"""Return what bounds many structures with so many internal cores at once.

    Parameters
    ----------
    spectra : CutSpectra
    n_internal : int
        At most 8: each cut of the modes is tried with all :math:`2^k` placements of k internal cores.

    Notes
    -----
    A network whose bonds across a cut have ranks r_e is a matrix of rank at most :math:`\prod r_e` over that cut, so
    by Eckart and Young its squared relative error is at least the tail of the cut at that rank. Internal cores may
    stand on either side; the placement with the least product (the minimal cut) bounds best. n_cuts * 2^k * n_pairs
    multiply-adds a structure: eight modes without internal cores, about 3 us.
    """
    if not 0 <= n_internal <= _MOST_INTERNAL:
        raise InputError(f"n_internal={n_internal}: bounds try all placements of at most {_MOST_INTERNAL} cores.")
    n_modes = len(spectra.shape)
    pairs = np.array(np.triu_indices(n_modes + n_internal, 1))
    masks = spectra.masks[:, None] + (np.arange(1 << n_internal) << n_modes)[None, :]
    sides = masks.reshape(-1)[None, :] >> np.arange(n_modes + n_internal)[:, None] & 1
    return CutBounds(spectra, n_internal, pairs, (sides[pairs[0]] != sides[pairs[1]]).astype(np.float64))


def lower_bounds(spectra: CutSpectra, structures: Sequence[Structure]) -> np.ndarray:
    r"""Return for each structure a squared relative error that no cores can fall below.

    Parameters
    ----------
    spectra : CutSpectra
        Of the tensor.
    structures : sequence of Structure
        Of the tensor's shape; with any numbers of internal cores. More than 8 internal cores: no bound, 0.

    Returns
    -------
    array of float64, shape (len(structures),)
        :math:`\max_S \mathrm{tail}_S(c_S)` with :math:`c_S` the least product of the ranks of bonds across a cut that
        parts the modes into S and the rest: see :func:`cut_bounds`.

    Examples
    --------
    >>> from tnet.structure_search.spectra import cut_spectra
    >>> x = np.einsum("i,jk->ijk", np.ones(2), np.eye(3))
    >>> lower_bounds(cut_spectra(x), [Structure(x.shape, ((1, 2, 2),)), Structure(x.shape, ((1, 2, 3),))])
    array([0.333..., 0.        ])
    """
    bounds = np.zeros(len(structures))
    groups: dict[int, list[int]] = {}
    for place, structure in enumerate(structures):
        _check_shape(spectra, structure)
        groups.setdefault(structure.n_internal, []).append(place)
    for n_internal, places in groups.items():
        if n_internal <= _MOST_INTERNAL:
            ranks = np.stack([structures[place].ranks for place in places])
            bounds[places] = cut_bounds(spectra, n_internal).of_ranks(ranks)
    return bounds


def tree_upper_bound(spectra: CutSpectra, structure: Structure) -> float:
    r"""Return a squared relative error that the best cores of a tree do not exceed.

    Parameters
    ----------
    spectra : CutSpectra
    structure : Structure
        Without loops; parts without a bond between them are allowed.

    Returns
    -------
    float
        At most 1.

    Notes
    -----
    Cutting any bond of a tree parts the modes in two. Truncating the singular values over one bond after another
    projects x orthogonally each time, so :math:`\|x - y\|^2 \le \sum_e \mathrm{tail}_e(r_e) \|x\|^2` over the
    bonds e, and :func:`lower_bounds` is at least the largest of these tails. Parts are joined by bonds of rank 1
    first: L. Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal. Appl. 31 (2010),
    theorem 3.11.
    """
    _check_shape(spectra, structure)
    if not structure.is_tree:
        raise InputError(f"{structure}: only structures without loops have this bound.")
    bonds = _joined(structure)
    total = 0.0
    for i, j, rank in bonds:
        inside = _reached(bonds, j, without=i)
        mask = sum(1 << core for core in inside if core < structure.n_modes)
        if 0 < mask < (1 << structure.n_modes) - 1:
            total += spectra.tail_at_most(mask, rank)
    return min(total, 1.0)


def _joined(structure: Structure) -> list[tuple[int, int, int]]:
    """Return the bonds, and bonds of rank 1 that join the parts to one tree."""
    bonds = list(structure.bonds)
    left = set(range(structure.n_cores))
    heads = []
    while left:
        heads.append(min(left))
        left -= _reached(bonds, heads[-1])
    return [*bonds, *((first, second, 1) for first, second in itertools.pairwise(heads))]


def _reached(bonds: Sequence[tuple[int, int, int]], start: int, without: int | None = None) -> set[int]:
    """Return the cores that bonds reach from one core, not by way of ``without``."""
    reached, new = {start}, [start]
    while new:
        core = new.pop()
        for i, j, _ in bonds:
            other = j if i == core else i if j == core else None
            if other is not None and other != without and other not in reached:
                reached.add(other)
                new.append(other)
    return reached


def _check_shape(spectra: CutSpectra, structure: Structure) -> None:
    if structure.shape != spectra.shape:
        raise ShapeError(f"structure of shape {structure.shape}, singular values of shape {spectra.shape}: give one.")
