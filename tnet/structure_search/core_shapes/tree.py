"""The ranks of a given tree of cores that make the most of a number of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tnet.arrays import Array, as_array
from tnet.errors import InputError, ShapeError
from tnet.structure_search.core_shapes.packing import MOST_LABELS
from tnet.structure_search.core_shapes.tucker import (
    checked_budget,
    checked_spectra,
    error_bounds,
    kept_sums,
    spectra_of_sides,
    unscaled,
)
from tnet.structure_search.structure import Structure
from tnet.structure_search.trees.ranks import least_tails
from tnet.structure_search.trees.topology import CutPrices, tree_of

__all__ = ["TreeCoreShape", "tree_core_shape"]


@dataclass(frozen=True)
class TreeCoreShape:
    r"""The ranks that were chosen for a tree, and what is known of its error before anything is decomposed.

    Parameters
    ----------
    structure : Structure
        The tree with its ranks; bonds of rank 1 are gone.
    ranks : tuple of int
        One for each bond of the tree that was given, in its order.
    value : float
        :math:`\sum_e \sum_{i \le r_e} \sigma_{e,i}^2`, what was maximised.
    n_params : int
        Of all cores.
    max_params : int
    rse_bounds : tuple of float
        The squared relative error of the best network of these ranks lies between the two: the largest tail of a
        bond, and the sum of the tails of all bonds.
    is_proven : bool
        Whether no other ranks within ``max_params`` have a greater value.
    """

    structure: Structure
    ranks: tuple[int, ...]
    value: float
    n_params: int
    max_params: int
    rse_bounds: tuple[float, float]
    is_proven: bool

    def __repr__(self) -> str:
        low, high = (math.sqrt(bound) for bound in self.rse_bounds)
        shape = self.structure.shape
        proven = ", the best" if self.is_proven else ""
        return "\n".join(
            [
                f"tree of ranks {self.ranks} for a tensor {'x'.join(map(str, shape))}{proven}",
                f"  parameters  {self.n_params} of at most {self.max_params} "
                f"({math.prod(shape) / self.n_params:.3g}x smaller)",
                f"  error       {low:.3e} to {high:.3e} relative Frobenius, of the best network of these ranks",
                f"  value       {self.value:.6g} squared singular values kept over all bonds",
            ]
        )


def tree_core_shape(
    x: Array | None = None, *, tree: Structure, spectra: Sequence[Any] | None = None, max_params: int
) -> TreeCoreShape:
    r"""Choose the ranks of the bonds of a tree with at most ``max_params`` parameters.

    .. math:: \max_r \sum_e \sum_{i \le r_e} \sigma_{e,i}^2
       \quad\text{subject to}\quad \sum_v I_v \prod_{e \ni v} r_e \le c

    Parameters
    ----------
    x : array or None
        Of the shape of the tree; real or complex. Not changed.
    tree : Structure
        Cores and bonds, without loops; its ranks are not looked at. Internal cores have :math:`I_v = 1`.
    spectra : sequence of array, or None
        In place of ``x``: for each bond of ``tree``, in its order, the squared singular values of the matricisation
        of the modes on one side of the bond against those on the other.
    max_params : int
        c, at least the number of parameters with rank 1 everywhere.

    Returns
    -------
    TreeCoreShape

    Raises
    ------
    InputError
        Both or neither of ``x`` and ``spectra``, bonds that make a loop or do not join all cores, a ``max_params``
        that no ranks fit, non-finite or negative values.
    ShapeError
        ``x`` has another shape than the tree; not one spectrum for each bond.

    Notes
    -----
    A tensor train, a hierarchical Tucker and a Tucker model are special cases. With tails relative to
    :math:`\|x\|^2`, the squared relative error of the best network is at least the largest tail of a bond, and at
    most the sum of the tails of all bonds, each bond counted once; see [1]_ for the packing. It is solved exactly, by
    Lagrangian bounds along the tree and enumeration of what they leave; ``is_proven`` is False where that had to stop
    early. The squared singular values are eigenvalues of the Gram matrix of the smaller side of each cut.

    References
    ----------
    .. [1] M. Ghadiri, M. Fahrbach, G. Fu, V. Mirrokni, "Approximately optimal core shapes for tensor decompositions",
       International Conference on Machine Learning (2023).

    Examples
    --------
    >>> import numpy as np
    >>> train = Structure((2, 3, 2), ((0, 1, 2), (1, 2, 2)))
    >>> x = np.random.default_rng(0).standard_normal((2, 3, 2))
    >>> tree_core_shape(x, tree=train, max_params=14).n_params <= 14
    True
    """
    if not isinstance(tree, Structure):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"tree={tree!r}: give a Structure.")
    if not tree.is_tree or not 0 < len(tree.bonds) == tree.n_cores - 1:
        raise InputError(f"{tree!r}: give bonds that join all cores without loops; ranks may be 2 everywhere.")
    if (x is None) == (spectra is None):
        raise InputError(f"x= and spectra=: {'neither' if x is None else 'both'} given; give exactly one of them.")
    walked = tree_of(tree)
    pairs = [bond[:2] for bond in tree.bonds]
    order = [pairs.index((min(bond), max(bond))) for bond in walked.bonds]
    if x is None:
        given, exponent = checked_spectra(spectra), 0
        if len(given) != len(pairs):
            raise ShapeError(f"{len(given)} spectra for {len(pairs)} bonds: give one for each.")
        squared = [given[place] for place in order]
    else:
        tensor = as_array(x)
        if tuple(tensor.shape) != tree.shape:
            raise ShapeError(f"x of shape {tuple(tensor.shape)}: the tree is one of shape {tree.shape}.")
        sides = [tuple(k for k in range(tree.n_modes) if cut >> k & 1) for cut in walked.cuts]
        found = spectra_of_sides(tensor, sides)
        squared, exponent = found.squared, found.prepared.exponent
    budget = checked_budget(max_params, sum(tree.shape) + tree.n_internal)
    kept = [kept_sums(s) for s in squared]
    tails = [CutPrices(np.arange(1, len(f) + 1), f[-1] - f) for f in kept]
    best = least_tails(walked, tails, budget, most_labels=MOST_LABELS)
    assert best is not None  # rank 1 everywhere fits
    ranks = dict(zip(order, best.ranks, strict=True))
    value = math.fsum(float(f[r - 1]) for f, r in zip(kept, best.ranks, strict=True))
    return TreeCoreShape(
        walked.structure(best.ranks),
        tuple(ranks[place] for place in range(len(pairs))),
        unscaled(value, exponent),
        best.n_params,
        budget,
        error_bounds(squared, best.ranks),
        best.is_proven,
    )
