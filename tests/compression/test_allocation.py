from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnet.compression.allocation import Allocation, allocate
from tnet.compression.candidates import Menu, Site
from tnet.errors import InputError


def menu(members: tuple[str, ...], n_params, loss, kind: str = "interpolative") -> Menu:
    n_params = np.asarray(n_params, dtype=np.int64)
    return Menu(
        members=members,
        kinds=(kind,) * len(n_params),
        ranks=tuple((i + 1,) for i in range(len(n_params))),
        n_params=n_params,
        # Not proportional to the elements, as with the index of the interpolative gauge.
        n_bytes=2 * n_params + 7 * (np.arange(len(n_params)) % 3),
        macs=n_params + 1,
        loss=np.asarray(loss, dtype=float),
    )


def cost(choices, unit: str) -> int:
    return sum(c.n_params if unit == "params" else c.n_bytes for c in choices)


def entries(one: Menu, unit: str) -> list[tuple[int, float]]:
    costs = one.n_params if unit == "params" else one.n_bytes
    return list(zip(costs.tolist(), one.loss.tolist(), strict=True))


def brute_force(sites, budget: int, unit: str) -> float:
    """Least loss over all combinations, or infinity."""
    alternatives = []
    for site in sites:
        combined = [
            (sum(c for c, _ in pick), sum(l for _, l in pick))
            for pick in itertools.product(*(entries(m, unit) for m in site.separate))
        ]
        alternatives.append(combined + (entries(site.joint, unit) if site.joint is not None else []))
    best = math.inf
    for pick in itertools.product(*alternatives):
        if sum(c for c, _ in pick) <= budget:
            best = min(best, sum(l for _, l in pick))
    return best


losses = st.floats(0.0, 10.0, allow_nan=False).map(lambda x: round(x, 3))
entry_lists = st.lists(st.tuples(st.integers(1, 200), losses), min_size=1, max_size=5)
units = st.sampled_from(["params", "bytes"])


@st.composite
def instances(draw, joint: bool):
    sites = []
    for s in range(draw(st.integers(1, 3))):
        members = tuple(f"{s}.{k}" for k in range(draw(st.integers(1, 2))))
        separate = tuple(menu((name,), *zip(*draw(entry_lists), strict=True)) for name in members)
        together = None
        if joint and len(members) > 1 and draw(st.booleans()):
            together = menu(members, *zip(*draw(entry_lists), strict=True), kind="shared")
        sites.append(Site(separate, together))
    return tuple(sites)


def budget_between(sites, unit: str, share: float) -> int:
    least = most = 0
    for site in sites:
        separate = [[c for c, _ in entries(m, unit)] for m in site.separate]
        together = [c for c, _ in entries(site.joint, unit)] if site.joint is not None else []
        least += min([sum(map(min, separate)), *together])
        most += max([sum(map(max, separate)), *together])
    return least + int(share * (most - least))


@given(sites=instances(joint=False), unit=units, share=st.floats(0.0, 1.0))
def test_separate_menus_are_solved_exactly(sites, unit, share):
    budget = budget_between(sites, unit, share)
    allocation = allocate(sites, budget, unit=unit)
    expected = brute_force(sites, budget, unit)
    assert cost(allocation.choices, unit) <= budget
    # The integer programme stops at a relative gap of 1e-5 of its largest loss.
    assert allocation.loss == pytest.approx(expected, rel=2e-5, abs=1e-4)


@given(sites=instances(joint=True), unit=units, share=st.floats(0.0, 1.0))
def test_budget_and_bound_hold_with_joint_alternatives(sites, unit, share):
    budget = budget_between(sites, unit, share)
    allocation = allocate(sites, budget, unit=unit)
    expected = brute_force(sites, budget, unit)
    assert cost(allocation.choices, unit) <= budget
    assert allocation.lower_bound <= expected + 1e-9 * (1 + expected)
    assert allocation.loss >= expected - 1e-9 * (1 + expected)
    names = [name for choice in allocation.choices for name in choice.members]
    assert names == [name for site in sites for name in site.members], "each layer is decided once, in order"


def convex_menu(rng, name: str, size: int) -> Menu:
    n_params = np.cumsum(rng.integers(1, 30, size=size))
    slopes = np.sort(rng.uniform(0.1, 5.0, size=size))[::-1]
    loss = np.concatenate([np.cumsum((slopes * np.diff(n_params, prepend=0))[1:][::-1])[::-1], [0.0]])
    return menu((name,), n_params, loss)


@given(
    seed=st.integers(0, 10_000), size=st.integers(1, 12), count=st.integers(1, 30), unit=units, share=st.floats(0, 1)
)
def test_budget_is_kept_and_the_bound_is_near_on_convex_menus(seed, size, count, unit, share):
    rng = np.random.default_rng(seed)
    sites = tuple(Site((convex_menu(rng, str(i), size),)) for i in range(count))
    budget = budget_between(sites, unit, share)
    allocation = allocate(sites, budget, unit=unit)
    assert cost(allocation.choices, unit) <= budget
    assert allocation.lower_bound <= allocation.loss + 1e-9 * (1 + allocation.loss)
    if unit == "params":
        # On convex menus the gap is at most one step of one menu.
        step = max(float(-np.diff(site.separate[0].loss).min(initial=0.0)) for site in sites)
        assert allocation.loss <= allocation.lower_bound + step * (1 + 1e-6) + 1e-9


def test_joint_alternative_wins_where_it_is_better_and_not_where_it_is_worse():
    separate = (menu(("q",), [10, 100], [4.0, 0.0]), menu(("k",), [10, 100], [4.0, 0.0]))
    good = menu(("q", "k"), [20, 60], [3.0, 0.5], kind="shared")
    bad = menu(("q", "k"), [20, 60], [30.0, 20.0], kind="shared")
    allocation = allocate((Site(separate, good),), 60)
    assert [(c.kind, c.members, c.ranks) for c in allocation.choices] == [("shared", ("q", "k"), (2,))]
    assert allocation.loss == pytest.approx(0.5)
    allocation = allocate((Site(separate, bad),), 60)
    assert [c.kind for c in allocation.choices] == ["interpolative"] * 2


def test_empty_joint_menu_counts_as_none():
    separate = (menu(("q",), [10], [1.0]), menu(("k",), [10], [1.0]))
    assert len(allocate((Site(separate, menu(("q", "k"), [], [])),), 20).choices) == 2


def test_a_large_budget_takes_the_least_loss_everywhere():
    sites = (Site((menu(("a",), [5, 10, 20], [2.0, 1.0, 0.0]),)), Site((menu(("b",), [4, 8], [3.0, 0.5]),)))
    allocation = allocate(sites, 1000)
    assert allocation.loss == allocation.lower_bound == 0.5
    assert (allocation.n_params, allocation.macs) == (28, 30)
    assert allocation.n_bytes == sum(c.n_bytes for c in allocation.choices)


def test_a_convex_hull_gap_is_filled_by_the_integer_programme():
    # The middle entries lie above the hull, where no price finds them, but the budget needs one of them.
    sites = tuple(Site((menu((name,), [10, 19, 20], [9.0, 3.9, 0.0]),)) for name in "ab")
    allocation = allocate(sites, 39)
    assert allocation.n_params == 39
    assert allocation.loss == pytest.approx(3.9)


@pytest.mark.parametrize("unit", ["params", "bytes"])
def test_an_impossible_budget_names_the_least_possible(unit):
    sites = (Site((menu(("a",), [5, 10], [2.0, 0.0]),)), Site((menu(("b",), [6, 8], [3.0, 0.5]),)))
    least = 11 if unit == "params" else 22
    with pytest.raises(InputError, match=rf"budget of {least - 1} {unit}.*least possible {least}"):
        allocate(sites, least - 1, unit=unit)
    assert cost(allocate(sites, least, unit=unit).choices, unit) == least


def test_losses_of_very_different_scale():
    sites = (
        Site((menu(("a",), [1000, 2000], [1e-9, 0.0]),)),
        Site((menu(("b",), [1000, 2000], [1e6, 0.0]),)),
    )
    allocation = allocate(sites, 3000)
    assert [c.n_params for c in allocation.choices] == [1000, 2000]
    assert isinstance(allocation, Allocation)


def test_a_budget_of_millions_is_spent_to_the_last_steps():
    # The solver allows itself a millionth of the budget beyond it; its solution must still be used.
    rng = np.random.default_rng(3)
    sites = []
    for k in range(60):
        rank = np.arange(1, 200)
        n_params = rank * (1500 + int(rng.integers(0, 300)) - rank)
        loss = rng.uniform(0.5, 2.0) * np.exp(-rank / rng.uniform(20, 60))
        sites.append(Site((menu((str(k),), n_params, loss),)))
    budget = budget_between(sites, "params", 0.5)
    allocation = allocate(tuple(sites), budget)
    assert allocation.n_params <= budget
    assert budget - allocation.n_params < 400
    assert allocation.loss <= allocation.lower_bound * (1 + 3e-5)
