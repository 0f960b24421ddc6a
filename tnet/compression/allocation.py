r"""One budget over all layers: a multiple-choice knapsack.

.. math:: \min \sum_i \ell_i(c_i) \quad \text{s.t.} \quad \sum_i \mathrm{cost}_i(c_i) \le B,

one choice :math:`c_i` a menu. Lagrangian bisection [everett1963]_ is exact on the lower convex hull of the menus;
an integer programme over the entries near that solution spends what is left of the budget.

References
----------
.. [everett1963] H. Everett, "Generalized Lagrange multiplier method for solving problems of optimum allocation
   of resources", Operations Research 11 (1963).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from tnet.compression.candidates import Menu, Site
from tnet.errors import InputError

__all__ = ["Allocation", "Choice", "allocate", "check_budget"]

#: Entries a menu that the integer programme looks at, around the Lagrangian choice.
_WINDOW = 9


@dataclass(frozen=True)
class Choice:
    """One entry of a menu.

    Parameters
    ----------
    members : tuple of str
        The layers that it decides.
    kind : {"dense", "interpolative", "shared", "mpo", "low_rank"}
    ranks : tuple of int
        Rank, or bonds of the MPO; empty for dense.
    n_params, n_bytes, macs : int
        Elements stored, bytes stored, multiply-adds a token.
    loss : float
        Predicted damage, in the unit of the objective.
    """

    members: tuple[str, ...]
    kind: str
    ranks: tuple[int, ...]
    n_params: int
    n_bytes: int
    macs: int
    loss: float


@dataclass(frozen=True)
class Allocation:
    """The chosen entries and their sums.

    Parameters
    ----------
    choices : tuple of Choice
        One a menu in use, in the order of the sites.
    budget : int
        In ``unit``.
    unit : {"params", "bytes"}
    lower_bound : float
        Lagrangian bound on the loss of any allocation within the budget.
    """

    choices: tuple[Choice, ...]
    budget: int
    unit: Literal["params", "bytes"]
    lower_bound: float

    @property
    def n_params(self) -> int:
        """Elements stored by all target layers."""
        return sum(choice.n_params for choice in self.choices)

    @property
    def n_bytes(self) -> int:
        """Bytes stored by all target layers."""
        return sum(choice.n_bytes for choice in self.choices)

    @property
    def macs(self) -> int:
        """Multiply-adds a token in all target layers."""
        return sum(choice.macs for choice in self.choices)

    @property
    def loss(self) -> float:
        """Sum of the predicted losses."""
        return sum(choice.loss for choice in self.choices)


_Pick = tuple[Menu, int]


def allocate(
    sites: Sequence[Site],
    budget: int,
    *,
    unit: Literal["params", "bytes"] = "params",
    max_seconds: float = 10.0,
) -> Allocation:
    """Choose one candidate a layer so that the summed loss is least within the budget.

    Parameters
    ----------
    sites : sequence of Site
        Menus by layer, with the joint alternatives.
    budget : int
        Ceiling on the summed elements or bytes; never exceeded.
    unit : {"params", "bytes"}
        What the budget counts.
    max_seconds : float
        Limit for the integer programme; its best solution so far is taken, or the Lagrangian one.

    Returns
    -------
    Allocation

    Raises
    ------
    InputError
        If even the smallest entries exceed the budget; the message names the least that works.
    """
    check_budget(sites, budget, unit=unit)
    picks, bound = _lagrangian(sites, budget, unit)
    picks = _polish(sites, picks, budget, unit, max_seconds)
    return Allocation(tuple(_choice(menu, i) for menu, i in picks), int(budget), unit, bound)


def check_budget(sites: Sequence[Site], budget: int, *, unit: Literal["params", "bytes"]) -> None:
    """Raise InputError, naming the least that works, if even the smallest entries exceed the budget."""
    least = sum(_cost(menu, unit)[i] for menu, i in _solve(sites, math.inf, unit))
    if least > budget:
        raise InputError(
            f"a budget of {budget} {unit} for the target layers is below the least possible {int(least)}; "
            "raise the ratio or max_bytes, or choose other targets."
        )


def _cost(menu: Menu, unit: str) -> np.ndarray:
    return menu.n_params if unit == "params" else menu.n_bytes


def _choice(menu: Menu, i: int) -> Choice:
    return Choice(
        members=menu.members,
        kind=menu.kinds[i],
        ranks=menu.ranks[i],
        n_params=int(menu.n_params[i]),
        n_bytes=int(menu.n_bytes[i]),
        macs=int(menu.macs[i]),
        loss=float(menu.loss[i]),
    )


def _best(menu: Menu, price: float, unit: str) -> tuple[int, float]:
    """Entry of least loss + price x cost, and that value; an infinite price looks at the cost alone."""
    cost = _cost(menu, unit)
    value = cost.astype(float) if math.isinf(price) else menu.loss + price * cost
    i = int(np.argmin(value))
    return i, float(value[i])


def _solve(sites: Sequence[Site], price: float, unit: str) -> list[_Pick]:
    picks: list[_Pick] = []
    for site in sites:
        separate = [(menu, *_best(menu, price, unit)) for menu in site.separate]
        if site.joint is not None and len(site.joint):
            i, value = _best(site.joint, price, unit)
            if value < sum(entry[2] for entry in separate):
                picks.append((site.joint, i))
                continue
        picks.extend((menu, i) for menu, i, _ in separate)
    return picks


def _lagrangian(sites: Sequence[Site], budget: int, unit: str) -> tuple[list[_Pick], float]:
    """Bisect the price of one unit; return the feasible picks and the best dual bound seen."""

    def dual(picks: list[_Pick], price: float) -> tuple[float, float]:
        used = float(sum(_cost(menu, unit)[i] for menu, i in picks))
        loss = float(sum(menu.loss[i] for menu, i in picks))
        return used, loss + price * (used - budget)

    picks = _solve(sites, 0.0, unit)
    used, bound = dual(picks, 0.0)
    if used <= budget:
        return picks, bound
    low, high = -80.0, 0.0  # natural logarithm of the price
    while dual(_solve(sites, math.exp(high), unit), math.exp(high))[0] > budget:
        high += 20.0
    best = _solve(sites, math.exp(high), unit)
    for _ in range(80):
        middle = 0.5 * (low + high)
        picks = _solve(sites, math.exp(middle), unit)
        used, value = dual(picks, math.exp(middle))
        bound = max(bound, value)
        if used > budget:
            low = middle
        else:
            high, best = middle, picks
    return best, bound


def _polish(sites: Sequence[Site], picks: list[_Pick], budget: int, unit: str, max_seconds: float) -> list[_Pick]:
    """Solve the knapsack exactly over the entries near the picks; joint or separate stays as it is."""
    windows = [(menu, _window(menu, i, unit)) for menu, i in picks]
    loss = np.concatenate([menu.loss[window] for menu, window in windows])
    cost = np.concatenate([_cost(menu, unit)[window] for menu, window in windows]).astype(float)
    row = np.repeat(np.arange(len(windows)), [len(window) for _, window in windows])
    one_each = sparse.csr_array((np.ones(len(row)), (row, np.arange(len(row)))))
    scale = max(float(loss.max()), np.finfo(float).tiny)
    solution = milp(
        loss / scale,
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(cost[None] / budget, ub=1.0)],
        integrality=np.ones(len(loss)),
        bounds=Bounds(0, 1),
        options={"time_limit": max_seconds, "mip_rel_gap": 1e-5},
    )
    if solution.x is None:
        return picks
    chosen = np.flatnonzero(solution.x > 0.5)
    polished: list[_Pick] = []
    flat = [(menu, int(i)) for menu, window in windows for i in window]
    for k in chosen:
        polished.append(flat[k])
    # The solver works to a tolerance; the budget does not.
    feasible = len(polished) == len(picks) and sum(_cost(menu, unit)[i] for menu, i in polished) <= budget
    better = feasible and sum(m.loss[i] for m, i in polished) <= sum(m.loss[i] for m, i in picks)
    return polished if better else picks


def _window(menu: Menu, i: int, unit: str) -> np.ndarray:
    order = np.argsort(_cost(menu, unit), kind="stable")
    place = int(np.flatnonzero(order == i)[0])
    start = max(0, min(place - _WINDOW // 2, len(order) - _WINDOW))
    return order[start : start + _WINDOW]
