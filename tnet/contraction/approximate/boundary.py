"""Contraction of a grid by its boundaries, which meet in the middle: :func:`contract_boundary`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from tnet.algebra.gram_rounding import in_range
from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    common_dtype,
    dtype_name,
    resolve_rng,
    scale_by_power_of_two,
    to_numpy,
    total_size,
)
from tnet.contraction.approximate.arrangement import found_arrangement, read_sites
from tnet.contraction.approximate.compression import Accuracy, Boundary, Method, absorbed
from tnet.contraction.approximate.gauges import balanced
from tnet.contraction.approximate.grid import Grid, grid_of, transposed
from tnet.contraction.approximate.sites import Labelled, Site, carried_through, with_sides
from tnet.errors import IndexLabelError, InputError, RankError, ShapeError
from tnet.formats import TensorNetwork

__all__ = ["BoundaryContraction", "contract_boundary"]

# Bonds of two boundaries: numbers, for indices of a network are strings, of any name.
_UPPER_LEFT, _UPPER_RIGHT, _LOWER_LEFT, _LOWER_RIGHT = range(4)
# Bonds are taken to grow to this where only a tolerance bounds them, to choose the direction of the sweeps.
_LIKELY_BOND = 256


@dataclass(frozen=True, eq=False)
class BoundaryContraction:
    r"""The value of a network, ``mantissa * 2**exponent``, and the account of how it was found.

    Parameters
    ----------
    mantissa : array
        Without axes, in the library, dtype and device of the tensors; its modulus is in [1/2, 1), or 0.
    exponent : int
        Values far beyond the range of floating point have one.
    error : float
        Root of the sum of the squared norms that the compressions cut, each as a part of the squared norm of its
        boundary; 0 where nothing was cut.
    error_kind : {"exact", "estimate"}
        ``"exact"``: nothing was cut, the value is that of the network up to roundoff. ``"estimate"``: ``error``
        stands for the relative error of the value without bounding it. Where the two sides resemble each other, as in
        partition functions and in norms, what is cut is nearly orthogonal to the other side, and the true error is
        nearer to the square of ``error``.
    max_bond : int
        Largest bond of the boundaries.
    seconds : float
        Wall seconds of the whole call.
    rng_seed : int
        The seed in force, also when none was given.
    """

    mantissa: Array
    exponent: int
    error: float
    error_kind: Literal["exact", "estimate"]
    max_bond: int
    seconds: float
    rng_seed: int

    @property
    def value(self) -> Array:
        """The value as one array without axes; infinite or 0 where it is out of the range of its dtype."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return scale_by_power_of_two(self.mantissa, self.exponent)

    @property
    def log_abs(self) -> float:
        """Natural logarithm of the modulus of the value; minus infinity for 0."""
        size = abs(complex(to_numpy(self.mantissa)))
        return math.log(size) + self.exponent * math.log(2.0) if size > 0 else -math.inf

    def __repr__(self) -> str:
        mantissa = complex(to_numpy(self.mantissa))
        shown = f"{mantissa:.12g}" if mantissa.imag else f"{mantissa.real:.12g}"
        return "\n".join(
            [
                f"BoundaryContraction: {shown} * 2**{self.exponent}, {dtype_name(self.mantissa)}",
                f"  log |value|  {self.log_abs:.12g}",
                f"  error        {self.error:.3e} relative ({self.error_kind})",
                f"  largest bond {self.max_bond}",
                f"  seconds      {self.seconds:.3g}",
                f"  seed         {self.rng_seed}",
            ]
        )


def contract_boundary(
    network: TensorNetwork,
    *,
    sites: Any = None,
    max_bond: int | None = None,
    rtol: float | None = None,
    method: Method = "auto",
    rng: Any = None,
) -> BoundaryContraction:
    r"""Contract a two-dimensional network to a number, approximately, by boundaries of bounded bonds.

    Parameters
    ----------
    network : TensorNetwork
        Without output indices. An index joins tensors at one place or at neighbouring places; one that more than two
        places hold, such as the spin of a lattice model, needs one among them, or beside them, that neighbours all.
    sites : sequence of rows, optional
        Where the tensors stand: a row is a sequence of places, a place the position of a tensor in
        ``network.tensors``, or a sequence of positions, in the order in which they are multiplied, or an empty one.
        Indices may also join the first and the last place of rows, of columns, or of both. Default: one tensor at
        each place, found from the indices: for chains, rings, rectangles, and cylinders of at least 3 rows.
    max_bond : int
        Largest bond of the boundaries; exactly one of this and ``rtol``.
    rtol : float
        What compressions may cut: ``error`` of the result is within it, as far as sketches estimate it.
        Bonds grow as they need to.
    method : {"auto", "direct", "randomized"}
        How a row is absorbed. ``"direct"``: its product with the boundary is formed, orthogonalised from the left by
        QR, and cut from the right by SVD: the most accurate cut. ``"randomized"``: the product is never formed; a
        sketch finds bases of what is to the left of each bond, products with these the singular vectors to the right.
        ``"auto"``: for each row, what takes fewer multiply-adds.
    rng : int, numpy Generator, torch Generator or None
        For the sketches.

    Returns
    -------
    BoundaryContraction

    Raises
    ------
    RankError
        Neither or both of ``max_bond`` and ``rtol``, or a ``max_bond`` that is no positive integer.
    ShapeError
        The network is no grid, ``sites`` does not name each tensor once, or an index joins places too far apart.
    IndexLabelError
        The network has output indices.
    InputError
        An unknown ``method``, an ``rtol`` outside [0, 1), no tensors, an index of size 0, a non-finite entry.
    BackendError
        Tensors of several libraries or devices, or of a dtype that is not floating point.

    Notes
    -----
    The rows above the middle are absorbed one by one into a tensor train, the rows below it into another, and the two
    are joined through the row between them [1]_. The trains run along rows or columns, whichever is cheaper. Each
    compression leaves the best train of its bonds, or nearly so; the direct one is that of [2]_.

    For boundary bonds :math:`\chi`, k layers of bonds D and physical size p, a site takes about
    :math:`6 \chi^3 D^{2k} + 3 k p \chi^2 D^{2k+2}` multiply-adds by sketches, and :math:`2 \chi^3 D^{4k}` directly.
    Tensors that stand at one place are multiplied one after the other, so that the norm of a PEPS never has tensors
    of bond :math:`D^2`. Memory: the boundaries, :math:`\chi^2 D^k` a column, and during a compression :math:`D^k`
    times that. The sweep that randomises and then orthogonalises is that of [3]_; a second one multiplies the product
    itself by what the first found, which is a step of subspace iteration, for singular values that fall slowly.

    Before, every index between rows is balanced between its tensors, so that what a compression takes for small is
    small for the value, too. Along rows the trains are in canonical form, which no choice of basis changes.

    Where indices join opposite edges, the grid is folded, so that both lie in one place: a cylinder becomes a
    rectangle of half the width with two layers. Its boundaries have the square of the bonds that an open edge needs.

    Powers of two are taken out all along, so that values may be as large as those of partition functions. Half
    precision is computed in float32. Differentiable where the library's QR and SVD are; where nothing is cut, only
    products are differentiated.

    References
    ----------
    .. [1] F. Verstraete, J. I. Cirac, "Renormalization algorithms for quantum-many body systems in two and higher
       dimensions", arXiv:cond-mat/0407066 (2004).
    .. [2] I. V. Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33 (2011), Alg. 2.
    .. [3] H. Al Daas et al., "Randomized algorithms for rounding in the tensor-train format", SIAM J. Sci. Comput.
       45 (2023).

    Examples
    --------
    The number of ways to tile a chessboard with dominoes: each site has one bond that is taken.

    >>> import numpy as np
    >>> from tnet.contraction import contract_boundary
    >>> from tnet.formats import TensorNetwork
    >>> names = [[[f"v{i}.{j}", f"v{i+1}.{j}", f"h{i}.{j}", f"h{i}.{j+1}"] for j in range(8)] for i in range(8)]
    >>> inside = {name for k in range(1, 8) for j in range(8) for name in (f"v{k}.{j}", f"h{j}.{k}")}
    >>> indices = [tuple(name for name in place if name in inside) for row in names for place in row]
    >>> one_taken = [sum(np.indices((2,) * len(place))) == 1 for place in indices]
    >>> network = TensorNetwork(tuple(t.astype(float) for t in one_taken), tuple(indices), output=())
    >>> round(float(contract_boundary(network, max_bond=16).value))
    12988816
    """
    started = time.perf_counter()
    _check_arguments(network, max_bond, rtol, method)
    arrangement = found_arrangement(network.indices) if sites is None else read_sites(sites, len(network.tensors))
    generator, seed = resolve_rng(rng)
    grid, exponent = grid_of(network, arrangement)
    grid = balanced(_cheaper_way_up(grid, max_bond))
    middle = len(grid) // 2
    accuracy = Accuracy(max_bond, 0.0 if rtol is None else rtol / math.sqrt(max(len(grid) - 1, 1)))
    top, lost_above = _swept(grid[:middle], grid[middle], accuracy, method, generator)
    from_below = [[site.turned() for site in row] for row in grid[:middle:-1]]
    bottom, lost_below = _swept(from_below, grid[middle], accuracy, method, generator)
    joined, shift = _joined(top, grid[middle], bottom)
    mantissa, last = _normalised(joined)
    discarded = lost_above + lost_below
    return BoundaryContraction(
        mantissa=astype(mantissa, common_dtype(*network.tensors)),
        exponent=exponent + top.exponent + bottom.exponent + shift + last if _is_not_zero(mantissa) else 0,
        error=math.sqrt(discarded),
        error_kind="estimate" if discarded else "exact",
        max_bond=max(int(core.shape[2]) for core in (*top.cores, *bottom.cores)),
        seconds=time.perf_counter() - started,
        rng_seed=seed,
    )


def _check_arguments(network: Any, max_bond: Any, rtol: Any, method: Any) -> None:
    if not isinstance(network, TensorNetwork):
        raise InputError(f"network is of type {type(network).__name__}: give a TensorNetwork.")
    if (max_bond is None) == (rtol is None):
        given = "neither" if rtol is None else "both"
        raise RankError(f"max_bond= and rtol=: {given} given; give exactly one of them.")
    if max_bond is not None and (
        isinstance(max_bond, (bool, np.bool_)) or not isinstance(max_bond, (int, np.integer)) or max_bond < 1
    ):
        raise RankError(f"max_bond={max_bond!r}: give an integer of at least 1.")
    if rtol is not None and (isinstance(rtol, bool) or not isinstance(rtol, (int, float)) or not 0 <= rtol < 1):
        raise InputError(f"rtol={rtol!r}: give a relative error in [0, 1), for example rtol=1e-6.")
    if method not in get_args(Method):
        raise InputError(f"method={method!r}: choose one of {', '.join(map(repr, get_args(Method)))}.")
    if not network.tensors:
        raise InputError("the network has no tensors: give at least one.")
    if network.output:
        raise IndexLabelError(
            f"the network has output indices {network.output}; a boundary contraction gives one number: fix or sum "
            "them first, or use tnet.contract."
        )
    for k, tensor in enumerate(network.tensors):
        if total_size(tensor.shape) == 0:
            raise ShapeError(f"tensors[{k}] of shape {tuple(tensor.shape)} has an index of size 0.")


def _swept(
    rows: Sequence[Sequence[Site]],
    middle: Sequence[Site],
    accuracy: Accuracy,
    method: Method,
    rng: np.random.Generator,
) -> tuple[Boundary, float]:
    """Absorb rows one by one, and return the boundary and the sum of what was cut."""
    like = middle[0].tensors[0].array
    one = array_namespace(like).ones((1, 1, 1), dtype=like.dtype, device=like.device)
    boundary = Boundary([one] * len(middle), 0, 0.0)
    discarded = 0.0
    for row in rows:
        boundary = absorbed(boundary, row, accuracy, method, rng)
        discarded += boundary.discarded
    return boundary, discarded


def _joined(top: Boundary, row: Sequence[Site], bottom: Boundary) -> tuple[Array, int]:
    """Contract two boundaries through the row between them, from the left; the result has an exponent."""
    xp = array_namespace(top.cores[0])
    state = xp.ones((1, 1), dtype=top.cores[0].dtype, device=top.cores[0].device)
    exponent = 0
    for upper, site, lower in zip(top.cores, row, bottom.cores, strict=True):
        above = Labelled(with_sides(upper, site, site.above), (_UPPER_LEFT, *site.above, _UPPER_RIGHT))
        below = Labelled(with_sides(lower, site, site.below), (_LOWER_LEFT, *site.below, _LOWER_RIGHT))
        shape = (upper.shape[0], *(site.sizes[i] for i in site.left), lower.shape[0])
        left = Labelled(xp.reshape(state, shape), (_UPPER_LEFT, *site.left, _LOWER_LEFT))
        state = carried_through(left, (above, *site.tensors, below), (_UPPER_RIGHT, *site.right, _LOWER_RIGHT))
        state, shift = in_range(state)
        exponent += shift
    return xp.reshape(state, ()), exponent


def _normalised(x: Array) -> tuple[Array, int]:
    """Return a number as one of a modulus in [1/2, 1), or 0, and an exponent."""
    exponent = math.frexp(abs(complex(to_numpy(x))))[1]
    return array_namespace(x).reshape(scale_by_power_of_two(x, -exponent), ()), exponent


def _is_not_zero(x: Array) -> bool:
    return complex(to_numpy(x)) != 0


def _cheaper_way_up(grid: Grid, max_bond: int | None) -> Grid:
    other = transposed(grid)
    cap = _LIKELY_BOND if max_bond is None else max_bond
    return grid if _predicted_macs(grid, cap) <= _predicted_macs(other, cap) else other


def _predicted_macs(grid: Grid, cap: int) -> int:
    """Return about how many multiply-adds the sweeps take; only good to compare the two directions."""
    n = len(grid)
    bonds = [1] * (len(grid[0]) + 1)
    total = 0
    for i in range((n + 1) // 2):
        for row in {i, n - 1 - i}:
            for site, (r, s) in zip(grid[row], itertools.pairwise(bonds), strict=True):
                total += min(r, s) * r * s * site.size((*site.above, *site.left, *site.right))
        bonds = [1, *(min(cap, b * site.size(site.right)) for b, site in zip(bonds[1:], grid[i], strict=True))]
    return total
