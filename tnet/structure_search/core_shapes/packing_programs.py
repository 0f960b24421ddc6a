"""Tucker packing by integer programs (HiGHS): exact with cuts, and the published approximation scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tnet.errors import TnetError
from tnet.structure_search.core_shapes.packing import TuckerPacking, packed_exactly

__all__ = ["packed_by_cuts", "packed_by_scheme"]

_SCALE = 1e6  # of the objective: the solver's absolute gap is 1e-6
_FIRST_CUTS = 8


class _RankChoice:
    """Binary variables, one for each rank of each mode, of which every mode takes one."""

    def __init__(self, packing: TuckerPacking) -> None:
        self.limits = packing.largest
        self.ranks = np.concatenate([np.arange(1, limit + 1) for limit in self.limits])
        self.logs = np.log(self.ranks)
        self.sizes = self.ranks * np.repeat(packing.shape, self.limits)
        kept = np.concatenate([f[:limit] for f, limit in zip(packing.kept, self.limits, strict=True)])
        total = math.fsum(float(f[-1]) for f in packing.kept)
        self.gains = kept / total * _SCALE if total > 0 else kept
        owner = np.repeat(np.arange(len(self.limits)), self.limits)
        self.one_each = (owner == np.arange(len(self.limits))[:, None]).astype(float)

    def best(self, rows: Sequence[np.ndarray], limits: Sequence[float], gap: float) -> tuple[int, ...] | None:
        """Return the ranks of the greatest gain with ``row @ x <= limit`` for all rows; None where there are none."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        constraints = [LinearConstraint(self.one_each, 1, 1)]
        if rows:
            constraints += [
                LinearConstraint(row[None, :], -np.inf, limit) for row, limit in zip(rows, limits, strict=True)
            ]
        found = milp(
            -self.gains,
            integrality=np.ones(len(self.gains)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": gap},
        )
        if found.status == 2:  # infeasible
            return None
        if found.x is None:
            raise TnetError(f"the integer program of the core shape was not solved ({found.message}): use 'exact'.")
        starts = np.cumsum([0, *self.limits])[:-1]
        return tuple(
            1 + int(np.argmax(found.x[start : start + limit]))
            for start, limit in zip(starts, self.limits, strict=True)
        )


def packed_by_cuts(packing: TuckerPacking) -> tuple[int, ...]:
    r"""Return the best ranks by integer programs with tangents of the product.

    Notes
    -----
    With one binary variable a rank, :math:`y = \sum_n \log r_n` and :math:`s = \sum_n I_n r_n` are linear, and the
    constraint :math:`e^y + s \le c` is convex: every tangent :math:`e^{y_0} (1 + y - y_0) + s \le c` holds for all
    feasible ranks. A solution that is too large gets the tangent at its own y, which excludes it, and the program is
    solved again. So the first solution that fits is optimal, to the tolerances of the solver.
    """
    choice = _RankChoice(packing)
    rows: list[np.ndarray] = []
    limits: list[float] = []
    seen: set[tuple[int, ...]] = set()

    def add_tangent(y: float) -> None:
        # Divided by e^y + 1, so that coefficients of small and large products are of like size.
        scale = math.exp(y) + 1
        rows.append((math.exp(y) * choice.logs + choice.sizes) / scale)
        limits.append((packing.max_params - math.exp(y) * (1 - y)) / scale)

    for y in np.linspace(0, math.log(packing.max_params), _FIRST_CUTS):
        add_tangent(float(y))
    while True:
        ranks = choice.best(rows, limits, 0.0)
        if ranks is None:  # rank 1 everywhere fits: only tolerances can say otherwise
            raise TnetError("the integer program of the core shape was not solved: use method='exact'.")
        if packing.size(ranks) <= packing.max_params:
            return ranks
        if ranks in seen:  # too large by less than the tolerance of the solver: forbid just these ranks
            chosen = np.zeros(len(choice.ranks))
            chosen[np.cumsum([0, *choice.limits])[:-1] + np.asarray(ranks) - 1] = 1.0
            rows.append(chosen)
            limits.append(len(ranks) - 1.0)
        else:
            add_tangent(math.fsum(math.log(r) for r in ranks))
        seen.add(ranks)


def packed_by_scheme(packing: TuckerPacking, eps: float) -> tuple[int, ...]:
    r"""Return ranks whose value is at least :math:`1 - 2 \epsilon` of the best.

    Notes
    -----
    The best ranks up to :math:`\lceil 1 / \epsilon \rceil` in every mode, and for each guess
    :math:`b = (1 + \epsilon)^k < c` of the product the best with :math:`\prod_n r_n \le b`,
    :math:`\sum_n I_n r_n \le c - b`: an integer program whose logarithm is linear. Where the optimum has a rank
    :math:`r_m > 1 / \epsilon`, lowering that one to :math:`\lfloor r_m / (1 + \epsilon) \rfloor` gives ranks that
    some guess allows; as singular values descend, mode m keeps at least
    :math:`1 / (1 + \epsilon) - 1 / r_m \ge 1 - 2 \epsilon` of its part.
    """
    small = math.ceil(1 / eps)
    best, _ = packed_exactly(packing, [small] * len(packing.shape))
    if all(limit <= small for limit in packing.largest):
        return best
    choice = _RankChoice(packing)
    guess = 1.0
    while guess < packing.max_params:
        limits = [math.log(guess) + 1e-9, packing.max_params - guess]
        ranks = choice.best([choice.logs, choice.sizes], limits, 1e-9)
        if (
            ranks is not None
            and packing.size(ranks) <= packing.max_params
            and packing.value(ranks) > packing.value(best)
        ):
            best = ranks
        guess *= 1 + eps
    return best
