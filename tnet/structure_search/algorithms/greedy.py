"""Greedy-TN: from rank one upward, the bond that lowers the loss most gains a rank; cores of low rank are split."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tnet.arrays import Array, array_namespace
from tnet.errors import InputError
from tnet.structure_search.algorithms.shapes import in_every_shape
from tnet.structure_search.proposals import Candidate, Problem, Proposals
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Trial

__all__ = ["GreedyTN", "splits"]

_EXACT = 1e-14  # squared relative error of roundoff


@dataclass(frozen=True)
class GreedyTN:
    r"""Greedy growth of the ranks, for any loss.

    Parameters
    ----------
    choice : {"loss", "loss_per_parameter"}
        Of all structures with one rank more: the least loss, as published; or the steepest fall of the loss per
        added parameter, so that a bond between large cores must pay for itself.
    steps : int or None
        Most ranks added.
    threshold : float or None
        Ends when the squared relative error is at most this; published: 1e-6. None takes it from the objective: the
        error below which a smaller one gains nothing.
    increment : int
        Ranks added at once.
    split_tolerance : float
        Singular values of a core below it, relative to the largest, count as zero when the core is split. Cores are
        split while the space has internal cores left, the structure gets smaller, and the loss stays.

    Notes
    -----
    Each step evaluates every pair of cores with a higher rank, from the cores of the present structure where the
    search has them, and keeps the chosen one. The paper optimises only the new slices of the two cores, for a few
    iterations, to choose; here all cores of all candidates are fitted, so that errors are those of the structures and
    serve other steps, at a higher cost a step. Nothing is undone, as published.

    A core is split over a bipartition of its axes where the rank of that matrix is so low that two cores of it, one
    of them new and internal, have fewer entries. Structures that cannot score better than the best so far, whatever
    their error, are not tried: so a budget of parameters, or an error reached, ends the growth.

    References
    ----------
    .. [1] M. Hashemizadeh, M. Liu, J. Miller, G. Rabusseau, "Adaptive learning of tensor network structures",
       arXiv:2008.05437.
    """

    choice: Literal["loss", "loss_per_parameter"] = "loss"
    steps: int | None = None
    threshold: float | None = None
    increment: int = 1
    split_tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.choice not in ("loss", "loss_per_parameter"):
            raise InputError(f"choice={self.choice!r}: choose 'loss' or 'loss_per_parameter'.")
        if self.increment < 1 or (self.steps is not None and self.steps < 1):
            raise InputError(f"increment={self.increment!r}, steps={self.steps!r}: both are at least 1.")
        if not ((self.threshold is None or self.threshold >= 0) and 0 < self.split_tolerance < 1):
            raise InputError(
                f"threshold={self.threshold!r}, split_tolerance={self.split_tolerance!r}: a squared relative error, "
                "and a share in (0, 1)."
            )

    def propose(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        """Return the dialogue; nothing in it is random."""
        return in_every_shape(self._dialogue, problem, rng)

    def _dialogue(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        fixed = tuple(bond for bond in sorted(problem.space.fixed) if bond[2] > 1)
        (present,) = yield [Structure(problem.shape, fixed)]
        best = present.score
        threshold = max(problem.objective.enough(), _EXACT) if self.threshold is None else self.threshold
        for _ in range(self.steps) if self.steps is not None else itertools.repeat(0):
            if present.rse <= threshold:
                return None
            larger = [s for s in self._larger(problem, present.structure) if can_score_below(problem, s, best)]
            if not larger:
                return None
            trials = yield larger
            present = self._chosen(present, trials)
            best = min(best, *(trial.score for trial in trials))
            while candidate := self._smaller(problem, present.structure):
                (trial,) = yield [candidate]
                best = min(best, trial.score)
                if trial.rse > max(1.01 * present.rse, present.rse + self.split_tolerance**2, threshold):
                    break
                present = trial
        return None

    def _larger(self, problem: Problem, structure: Structure) -> Iterator[Structure]:
        space = problem.space
        fixed = {bond[:2] for bond in space.fixed}
        for i, j in itertools.combinations(range(structure.n_cores), 2):
            rank = min(structure.rank(i, j) + self.increment, space.max_rank)
            if (i, j) not in fixed and rank > structure.rank(i, j):
                candidate = structure.with_rank(i, j, rank)
                if space.allows(candidate):
                    yield candidate

    def _chosen(self, present: Trial, trials: Sequence[Trial]) -> Trial:
        """Return the trial to go on with; with failures only, the first, so that growth ends at some time."""
        if self.choice == "loss" or not math.isfinite(present.rse):
            return min(trials, key=lambda trial: trial.rse)
        size = present.structure.n_params
        return max(trials, key=lambda trial: (present.rse - trial.rse) / (trial.structure.n_params - size))

    def _smaller(self, problem: Problem, structure: Structure) -> Candidate | None:
        """Return the smallest structure with one core split in two, and its cores; None where no split pays."""
        if structure.n_internal == problem.space.n_internal:
            return None
        cores = problem.cores(structure)
        if cores is None:
            return None
        found = [c for c in splits(structure, cores, self.split_tolerance) if problem.space.allows(c.structure)]
        return min(found, key=lambda candidate: candidate.structure.n_params, default=None)


def can_score_below(problem: Problem, structure: Structure, score: float) -> bool:
    """Return whether some error would let a structure score below ``score``."""
    return not math.isfinite(score) or problem.objective.error_to_beat(structure, score) >= 0


def splits(structure: Structure, cores: Sequence[Array], tolerance: float) -> Iterator[Candidate]:
    r"""Yield the structures, smaller than the given one, with a core split over a bipartition of its axes.

    Parameters
    ----------
    structure : Structure
    cores : sequence of array
    tolerance : float
        Singular values below this share of the largest are dropped.

    Yields
    ------
    Candidate
        The new internal core has the highest number.

    Notes
    -----
    For core A with axes S and T, :math:`A_{S \times T} = U \Sigma V^H` of numerical rank r becomes :math:`U` with a
    new axis and :math:`\Sigma V^H`; the mode stays with its core. One SVD for each bipartition.
    """
    for core in range(structure.n_cores):
        degree = structure.degree(core)
        first = 1 if core < structure.n_modes else 0  # axes of the core: its mode, then its bonds
        # The new core takes two bonds or more, and leaves something: with fewer it would be superfluous.
        for size in range(2, degree + first):
            for taken in itertools.combinations(range(first, first + degree), size):
                candidate = _split(structure, cores, core, taken, tolerance)
                if candidate is not None:
                    yield candidate


def _split(
    structure: Structure, cores: Sequence[Array], core: int, taken: tuple[int, ...], tolerance: float
) -> Candidate | None:
    """Move the bonds on some axes of a core to a new core; None where the structure does not get smaller."""
    array = cores[core]
    xp = array_namespace(array)
    kept = tuple(axis for axis in range(array.ndim) if axis not in taken)
    names = structure.core_indices[core]
    shape = structure.core_shapes[core]
    rows = math.prod(shape[axis] for axis in kept)
    matrix = xp.reshape(xp.permute_dims(array, (*kept, *taken)), (rows, -1))
    U, s, Vh = xp.linalg.svd(matrix, full_matrices=False)
    values = [float(value) for value in s]
    if not values[0] > 0 or not math.isfinite(values[0]):
        return None
    rank = sum(value >= tolerance * values[0] for value in values)
    new = structure.n_cores
    moved = {names[axis]: axis for axis in taken}
    bonds, renamed = [], {}
    for i, j, r in structure.bonds:
        if core in (i, j) and f"r{i}-{j}" in moved:
            other = i + j - core
            bonds.append((other, new, r))
            renamed[f"r{i}-{j}"] = f"r{other}-{new}"
        else:
            bonds.append((i, j, r))
    if rank > 1:
        bonds.append((core, new, rank))
    smaller = Structure(structure.shape, tuple(sorted(bonds)), structure.n_internal + 1)
    if smaller.n_params >= structure.n_params:
        return None
    link = f"r{core}-{new}"
    labels = [[renamed.get(name, name) for name in line] for line in structure.core_indices]
    arrays = list(cores)
    arrays[core] = xp.reshape(U[:, :rank], (*(shape[axis] for axis in kept), rank))
    labels[core] = [*(names[axis] for axis in kept), link]
    right = xp.reshape(xp.astype(s[:rank], Vh.dtype), (rank, 1)) * Vh[:rank, :]
    arrays.append(xp.reshape(right, (rank, *(shape[axis] for axis in taken))))
    labels.append([link, *(renamed[names[axis]] for axis in taken)])
    return Candidate(smaller, _arranged(smaller, arrays, labels))


def _arranged(structure: Structure, arrays: Sequence[Array], labels: Sequence[Sequence[str]]) -> tuple[Array, ...]:
    """Return the arrays with their axes as a structure names them; axes that it has no name for have size 1."""
    xp = array_namespace(*arrays)
    cores = []
    for array, names, wanted, shape in zip(
        arrays, labels, structure.core_indices, structure.core_shapes, strict=True
    ):
        order = [names.index(name) for name in wanted] + [k for k, name in enumerate(names) if name not in wanted]
        cores.append(xp.reshape(xp.permute_dims(array, tuple(order)), shape))
    return tuple(cores)
