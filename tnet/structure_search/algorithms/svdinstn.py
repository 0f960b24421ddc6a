"""SVDinsTN: a complete graph with a diagonal factor on every bond, made sparse; what stays is the structure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    cholesky_solve_gram,
    conj,
    contract_pair,
    from_numpy_like,
    gram,
    is_complex,
    squared_norm,
    standard_normal,
    to_numpy,
)
from tnet.contraction import contract
from tnet.errors import InputError
from tnet.structure_search.algorithms.shapes import in_every_shape
from tnet.structure_search.losses import MaskedError
from tnet.structure_search.proposals import Candidate, Problem, Proposals
from tnet.structure_search.structure import Structure, structure_of_ranks

__all__ = ["SVDinsTN"]

_MOST_MODES = 8
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

Pair = tuple[int, int]


@dataclass(frozen=True)
class SVDinsTN:
    r"""Ranks from a sparse regularised fit of the complete graph: few structures, found together.

    Parameters
    ----------
    weights : tuple of float
        :math:`\lambda` of the diagonal factors, ascending, for a tensor of norm 1. The fit goes along them, each from
        the last; every structure on the path is proposed, with its cores. The path ends where no bond is left.
    ridge : float
        :math:`\mu` of the cores: without it they grow as the diagonal factors shrink.
    proximal : float
        :math:`\rho`, weight of the squared change in each update.
    penalty : float
        :math:`\beta` of ADMM, relative to the mean of the squared singular values of its least squares problem.
    max_iter : int
        Sweeps for each weight.
    change : float
        A weight is done when cores and factors change by less in a sweep, relatively, and no rank falls.
    most_bond_entries : int
        The start has as many rank combinations a core at most: ranks of the largest bonds are lowered to it.

    Notes
    -----
    .. math::
        \min_{G, S} \tfrac12 \|X - \mathrm{TN}(G, S)\|_F^2 + \tfrac{\mu}{2} \sum_k \|G_k\|_F^2
        + \lambda \sum_{k<l} \|s_{kl}\|_1

    by proximal alternating minimisation: a ridge regression for each core, and for each diagonal factor ADMM with
    soft thresholds; entries that become zero leave the bond. A bond starts with the smaller of the ranks of the two
    unfoldings of its modes. One entry always stays, unpenalised: a bond of rank 1 is none.

    What differs from the paper: the path of weights with one common :math:`\lambda` takes the place of its tuning,
    and cores begin at random. Bonds that the space does not have start with rank 1, fixed ones are not penalised, and
    where constraints are broken at the end the weakest bonds are cut. Modes stay in their order; internal cores are
    not used. Computes in double precision. A sweep contracts all other cores for every core, with intermediates of
    about :math:`R^{N^2/4} \prod_k I_k^{1/2}` numbers for ranks R.

    References
    ----------
    .. [1] Y. Zheng et al., "SVDinsTN: a tensor network paradigm for efficient structure search from regularized
       modeling perspective", CVPR 2024, arXiv:2305.14912.
    """

    weights: tuple[float, ...] = tuple(float(w) for w in np.geomspace(1e-3, 0.3, 8))
    ridge: float = 1e-2
    proximal: float = 1e-3
    penalty: float = 1.0
    max_iter: int = 30
    change: float = 1e-3
    most_bond_entries: int = 243

    def __post_init__(self) -> None:
        if not self.weights or list(self.weights) != sorted(self.weights) or self.weights[0] <= 0:
            raise InputError(f"weights={self.weights!r}: give positive numbers, ascending.")
        if min(self.ridge, self.proximal, self.penalty) <= 0 or self.change < 0:
            raise InputError(
                f"ridge={self.ridge!r}, proximal={self.proximal!r}, penalty={self.penalty!r}, "
                f"change={self.change!r}: the first three are positive, the change is not negative."
            )
        if self.max_iter < 1 or self.most_bond_entries < 1:
            raise InputError(
                f"max_iter={self.max_iter!r}, most_bond_entries={self.most_bond_entries!r}: both are at least 1."
            )

    def propose(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        """Return the dialogue: all structures of the path at once.

        Raises
        ------
        InputError
            More than 8 modes, or a tensor that was observed in part.
        """
        return in_every_shape(self._dialogue, problem, rng)

    def _dialogue(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        if len(problem.shape) > _MOST_MODES:
            raise InputError(
                f"x has {len(problem.shape)} modes: SVDinsTN holds the complete graph and takes at most "
                f"{_MOST_MODES}; reshape x, or choose another algorithm."
            )
        if isinstance(problem.loss, MaskedError):
            raise InputError("SVDinsTN fits all entries of x: for completion choose another algorithm.")
        found: dict[Structure, Candidate] = {}
        for candidate in self._path(problem, rng):
            found[candidate.structure] = candidate
        yield list(found.values())
        return None

    def _path(self, problem: Problem, rng: np.random.Generator) -> Iterator[Candidate]:
        xp = array_namespace(problem.x)
        x = astype(problem.x, xp.complex128 if is_complex(problem.x) else xp.float64)
        norm = math.sqrt(float(squared_norm(x)))
        fit = _start(x / norm, self._first_ranks(problem, x / norm), problem, rng)
        for weight in self.weights:
            for _ in range(self.max_iter):
                before, entries = fit.snapshot(), fit.n_entries
                for core in range(fit.n_modes):
                    self._update(fit, core, weight)
                fit.compress()
                if fit.n_entries == entries and fit.change_since(before) < self.change:
                    break
            if not fit.is_finite():
                return
            yield fit.candidate(problem, norm)
            if all(len(s) == 1 for s in fit.diagonals.values()):
                return

    def _first_ranks(self, problem: Problem, x: Array) -> dict[Pair, int]:
        """Return a rank for every pair of modes."""
        space, n = problem.space, len(problem.shape)
        fixed = {bond[:2]: bond[2] for bond in space.fixed}
        free = {pair for pair in space.pairs(n) if max(pair) < n} - set(fixed)
        own = [_unfolding_rank(x, k) for k in range(n)]
        ranks = {
            (i, j): fixed.get((i, j), min(own[i], own[j], space.max_rank) if (i, j) in free else 1)
            for i, j in itertools.combinations(range(n), 2)
        }
        while True:
            entries = [math.prod(r for pair, r in ranks.items() if k in pair) for k in range(n)]
            large = int(np.argmax(entries))
            shrinkable = [pair for pair in sorted(free) if large in pair and ranks[pair] > 1]
            if entries[large] <= self.most_bond_entries or not shrinkable:
                return ranks
            ranks[max(shrinkable, key=ranks.__getitem__)] -= 1

    def _update(self, fit: _Fit, core: int, weight: float) -> None:
        """Fit a core by ridge regression, then the diagonal factors of its bonds to later cores by ADMM."""
        xp = array_namespace(fit.x)
        environment = fit.environment(core)
        scaled = fit.scaled(environment, core)
        width = math.prod(fit.cores[core].shape[1:])
        M = xp.reshape(scaled, (width, -1))
        X = fit.unfolded(core)
        G = xp.reshape(fit.cores[core], (X.shape[0], width))
        normal = gram(M) + (self.ridge + self.proximal) * xp.eye(width, dtype=M.dtype, device=M.device)
        G = cholesky_solve_gram(normal, X @ adjoint(M) + self.proximal * G)
        fit.cores[core] = xp.reshape(G, fit.cores[core].shape)
        for other in range(core + 1, fit.n_modes):
            pair = (core, other)
            if len(fit.diagonals[pair]) > 1 and pair in fit.penalised:
                H = fit.sensitivity(core, other, environment)
                normal_matrix = to_numpy(gram(H))
                right = to_numpy(xp.reshape(conj(H) @ xp.reshape(fit.unfolded(core), (-1, 1)), (-1,)))
                fit.diagonals[pair] = self._sparse(np.conj(normal_matrix), right, fit.diagonals[pair], weight)

    def _sparse(self, normal: np.ndarray, right: np.ndarray, s: np.ndarray, weight: float) -> np.ndarray:
        r"""Minimise :math:`\frac12\|x - H s\|^2 + \lambda\|s\|_1 + \frac\rho2\|s - s_0\|^2` by ADMM."""
        n = len(s)
        scale = self.penalty * max(float(np.trace(normal).real) / n, np.finfo(float).tiny)
        solve = np.linalg.inv(normal + (self.proximal + scale) * np.eye(n))
        target = right + self.proximal * s
        sparse, dual = s.copy(), np.zeros_like(s)
        for _ in range(_ADMM_STEPS):
            plain = solve @ (target + scale * (sparse - dual))
            shifted = plain + dual
            size = np.abs(shifted)
            sparse = shifted * np.maximum(1 - weight / scale / np.maximum(size, np.finfo(float).tiny), 0.0)
            dual += plain - sparse
        if not sparse.any():  # rank 1 is the least
            sparse[np.argmax(np.abs(s))] = s[np.argmax(np.abs(s))]
        return sparse


_ADMM_STEPS = 20


@dataclass
class _Fit:
    """Cores of the complete graph (mode, then the bonds to all others in order) and diagonal factors, on the host."""

    x: Array
    cores: list[Array]
    diagonals: dict[Pair, np.ndarray]
    penalised: frozenset[Pair]
    unfoldings: dict[int, Array] = field(default_factory=dict)

    @property
    def n_modes(self) -> int:
        return len(self.cores)

    @property
    def n_entries(self) -> int:
        return sum(len(s) for s in self.diagonals.values())

    def unfolded(self, core: int) -> Array:
        """Return x with one mode as rows, kept: it is used in every sweep."""
        if core not in self.unfoldings:
            xp = array_namespace(self.x)
            rest = [k for k in range(self.n_modes) if k != core]
            self.unfoldings[core] = xp.reshape(xp.permute_dims(self.x, (core, *rest)), (int(self.x.shape[core]), -1))
        return self.unfoldings[core]

    def bond_axis(self, core: int, other: int) -> int:
        return other + (other < core)  # axis 0 is the mode

    def times_diagonal(self, array: Array, axis: int, s: np.ndarray) -> Array:
        xp = array_namespace(array)
        shape = [1] * array.ndim
        shape[axis] = len(s)
        return array * xp.reshape(from_numpy_like(s, array), tuple(shape))

    def environment(self, core: int) -> Array:
        """Contract all other cores; axes: bonds of the core, then the other modes. Its own diagonals are left out."""
        others = [k for k in range(self.n_modes) if k != core]
        number = {pair: self.n_modes + k for k, pair in enumerate(itertools.combinations(range(self.n_modes), 2))}
        letter = {pair: _LETTERS[k] for pair, k in number.items()}

        def bond(i: int, j: int) -> str:
            return letter[min(i, j), max(i, j)]

        arrays, terms = [], []
        for k in others:
            array = self.cores[k]
            for j in others:
                if j > k:
                    array = self.times_diagonal(array, self.bond_axis(k, j), self.diagonals[k, j])
            arrays.append(array)
            terms.append(_LETTERS[k] + "".join(bond(k, j) for j in range(self.n_modes) if j != k))
        output = "".join(bond(core, j) for j in others) + "".join(_LETTERS[k] for k in others)
        return contract(f"{','.join(terms)}->{output}", *arrays, planner="greedy", rng=0)

    def scaled(self, environment: Array, core: int, but: int = -1) -> Array:
        """Multiply the bonds of a core by their diagonals, but for that to one other core."""
        for axis, other in enumerate(k for k in range(self.n_modes) if k != core):
            if other != but:
                s = self.diagonals[min(core, other), max(core, other)]
                environment = self.times_diagonal(environment, axis, s)
        return environment

    def sensitivity(self, core: int, other: int, environment: Array) -> Array:
        """Return the matrix whose product with the diagonal of one bond is the tensor (rank, entries)."""
        xp = array_namespace(environment)
        rest = self.scaled(environment, core, but=other)
        others = [k for k in range(self.n_modes) if k != core]
        bonds = tuple(f"r{k}" for k in others)
        modes = tuple(f"i{k}" for k in others)
        link = f"r{other}"
        H = contract_pair(
            xp, self.cores[core], (f"i{core}", *bonds), rest, (*bonds, *modes), (link, f"i{core}", *modes)
        )
        return xp.reshape(H, (H.shape[0], -1))

    def compress(self) -> None:
        """Drop the entries of the diagonals that are zero."""
        for (i, j), s in list(self.diagonals.items()):
            if not s.all():
                self.keep((i, j), np.flatnonzero(s))

    def keep(self, pair: Pair, entries: np.ndarray) -> None:
        i, j = pair
        xp = array_namespace(self.x)
        self.diagonals[pair] = self.diagonals[pair][entries]
        index = from_numpy_like(entries, self.x, dtype=xp.int64)
        self.cores[i] = xp.take(self.cores[i], index, axis=self.bond_axis(i, j))
        self.cores[j] = xp.take(self.cores[j], index, axis=self.bond_axis(j, i))

    def snapshot(self) -> tuple[list[Array], dict[Pair, np.ndarray]]:
        return list(self.cores), dict(self.diagonals)

    def change_since(self, before: tuple[list[Array], dict[Pair, np.ndarray]]) -> float:
        """Return the largest relative change of a core or a diagonal; inf where a shape has changed."""
        cores, diagonals = before
        changes = []
        for old, new in zip(cores, self.cores, strict=True):
            if old.shape != new.shape:
                return math.inf
            changes.append(math.sqrt(float(squared_norm(new - old)) / max(float(squared_norm(old)), 1e-300)))
        for pair, old in diagonals.items():
            if len(old) != len(self.diagonals[pair]):
                return math.inf
            changes.append(
                float(np.linalg.norm(self.diagonals[pair] - old)) / max(float(np.linalg.norm(old)), 1e-300)
            )
        return max(changes)

    def is_finite(self) -> bool:
        return all(math.isfinite(float(squared_norm(core))) for core in self.cores) and all(
            np.isfinite(s).all() for s in self.diagonals.values()
        )

    def structure(self) -> Structure:
        ranks = np.ones((self.n_modes, self.n_modes), dtype=int)
        for (i, j), s in self.diagonals.items():
            ranks[i, j] = ranks[j, i] = len(s)
        return structure_of_ranks(self.x.shape, ranks)

    def candidate(self, problem: Problem, norm: float) -> Candidate:
        """Return the structure, with the diagonals in the cores; weak bonds are cut until the space allows it."""
        cut = _Fit(self.x, list(self.cores), dict(self.diagonals), self.penalised)
        while not problem.space.allows(cut.structure()):
            bonds = [pair for pair in sorted(cut.penalised) if len(cut.diagonals[pair]) > 1]
            if not bonds:
                break
            weakest = min(bonds, key=lambda pair: float(np.abs(cut.diagonals[pair]).sum()))
            cut.keep(weakest, np.array([np.argmax(np.abs(cut.diagonals[weakest]))]))
        structure = cut.structure()
        xp = array_namespace(self.x)
        cores = []
        for k, (array, shape) in enumerate(zip(cut.cores, structure.core_shapes, strict=True)):
            for j in range(k + 1, cut.n_modes):
                array = cut.times_diagonal(array, cut.bond_axis(k, j), cut.diagonals[k, j])
            array = array * norm if k == 0 else array
            cores.append(astype(xp.reshape(array, shape), problem.x.dtype))
        return Candidate(structure, tuple(cores))


def _start(x: Array, ranks: dict[Pair, int], problem: Problem, rng: np.random.Generator) -> _Fit:
    """Return random cores that make a tensor of about norm 1, and diagonals of ones."""
    n = x.ndim
    cores = []
    scale = math.prod(float(r) for r in ranks.values()) ** (-0.5 / n)
    for k in range(n):
        bonds = tuple(ranks[min(k, j), max(k, j)] for j in range(n) if j != k)
        size = int(x.shape[k])
        cores.append(standard_normal(rng, (size, *bonds), x) * (scale / math.sqrt(size)))
    dtype = np.complex128 if is_complex(x) else np.float64
    diagonals = {pair: np.ones(r, dtype=dtype) for pair, r in ranks.items()}
    fixed = {bond[:2] for bond in problem.space.fixed}
    return _Fit(x, cores, diagonals, frozenset(pair for pair, r in ranks.items() if r > 1 and pair not in fixed))


def _unfolding_rank(x: Array, mode: int) -> int:
    """Return the numerical rank of the unfolding with one mode as rows."""
    xp = array_namespace(x)
    rest: Sequence[int] = [k for k in range(x.ndim) if k != mode]
    matrix = xp.reshape(xp.permute_dims(x, (mode, *rest)), (int(x.shape[mode]), -1))
    values = np.linalg.eigvalsh(np.asarray(to_numpy(gram(matrix)), dtype=np.complex128))
    return max(1, int((values > 1e-12 * values[-1]).sum()))
