"""The search behind ``planner="auto"``: budgets are ceilings, seeds repeat, cheap networks wait for no compiler."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

import tnet
from tests.contraction.test_slicing import regular
from tnet.contraction.pairs import pairwise_macs
from tnet.contraction.planners import portfolio as module
from tnet.contraction.planners.network import PlanningNetwork, planning_network
from tnet.contraction.planners.optimal import optimal
from tnet.contraction.planners.portfolio import portfolio
from tnet.contraction.planners.trees import Tree, log2_macs
from tnet.contraction.planning import PLANNING_SHARE, Timing, find_pairs


class Clock:
    """A clock that goes on by one tick at every look."""

    def __init__(self, tick: float) -> None:
        self.now = 0.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def network_of(n: int, size: int = 2, seed: int = 0) -> PlanningNetwork:
    spec = regular(n, size, seed)
    return planning_network(spec.inputs, spec.output, spec.sizes)


def until(ceiling: float) -> Callable[[float], float]:
    return lambda log2_macs: ceiling


def test_planning_takes_a_share_of_the_prediction_between_floor_and_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tnet.contraction.planning.host_rates", lambda dtype: SimpleNamespace(macs=2.0**30))
    timing = Timing(100.0, None, "float64")
    assert timing.deadline(34.0, since=101.0) == 109.0  # 16 s to run
    assert timing.deadline(20.0, since=101.0) == 101.1
    assert timing.deadline(5000.0, since=101.0) == 130.0
    assert timing.deadline(20.0, since=140.0) == 140.1
    assert timing._replace(max_seconds=7.0).deadline(0.0, since=101.0) == 107.0


@pytest.mark.parametrize("ceiling", [0.0, 1.0, 50.0])
def test_the_search_looks_at_the_clock_and_stops(monkeypatch: pytest.MonkeyPatch, ceiling: float) -> None:
    clock = Clock(0.05)
    monkeypatch.setattr(time, "perf_counter", clock)
    tree = portfolio(network_of(60), seed=0, deadline_of=until(ceiling))
    assert len(tree.pairs) == 59
    assert clock.now <= ceiling + 5.0  # what was begun ends soon


def test_a_longer_search_continues_a_shorter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(60, seed=1)
    found = []
    for ceiling in (1.0, 20.0, 80.0, 80.0):
        monkeypatch.setattr(time, "perf_counter", Clock(0.05))
        found.append(portfolio(network, seed=5, deadline_of=until(ceiling)))
    assert found[0].log2_macs >= found[1].log2_macs >= found[2].log2_macs
    assert np.array_equal(found[2].pairs, found[3].pairs)


def test_small_networks_end_at_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1e-3)
    monkeypatch.setattr(time, "perf_counter", clock)
    network = network_of(14, 3)
    tree = portfolio(network, seed=0, deadline_of=until(1e6))
    best = optimal(network)
    assert best is not None
    assert math.isclose(tree.log2_macs, best.log2_macs)
    assert clock.now < 100.0


def test_a_known_tree_is_never_made_worse() -> None:
    network = network_of(30, 2, seed=4)
    start = portfolio(network, seed=0, deadline_of=until(time.perf_counter() + 0.3))
    again = portfolio(network, seed=1, deadline_of=until(0.0), start=start)
    assert again.log2_macs <= start.log2_macs
    assert math.isclose(log2_macs(network, again.pairs), again.log2_macs)


def test_every_stage_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()

    def watched(name: str):
        plain = getattr(module, name)

        def call(*args: object, **options: object) -> Tree:
            called.add(name)
            return plain(*args, **options)

        return call

    names = ("random_greedy", "along_a_line", "by_elimination", "by_partition", "anneal", "reconfigure")
    for name in names:
        monkeypatch.setattr(module, name, watched(name))
    monkeypatch.setattr(time, "perf_counter", Clock(0.01))
    portfolio(network_of(40), seed=0, deadline_of=until(20.0))
    assert called == set(names)


@pytest.mark.parametrize(("seconds", "loads"), [(0.9, False), (3.0, True)])
def test_compiled_planners_are_loaded_when_they_pay(
    monkeypatch: pytest.MonkeyPatch, seconds: float, loads: bool
) -> None:
    spec = regular(60, 4)
    macs = pairwise_macs(spec, find_pairs(spec, "greedy", Timing(0.0, None, "float64")))
    rates = SimpleNamespace(macs=macs / seconds)
    monkeypatch.setattr("tnet.contraction.planning.host_rates", lambda dtype: rates)
    assert PLANNING_SHARE == 0.5
    assert macs > 10**8
    assert Timing(0.0, None, "float64").pays_to_compile(macs) == loads
    assert Timing(0.0, None, "float64").pays_to_compile(2**5000)


def test_small_and_cheap_networks_load_no_compiler() -> None:
    program = (
        "import sys, numpy as np, tnet;"
        "n = 60; arrays = [np.ones((3, 3)) for _ in range(n)];"
        "ring = [x for k in range(n) for x in (arrays[k], [k, (k + 1) % n])];"
        "tnet.contract(*ring, []);"
        "tnet.contract('ab,bcd,de,efa,cf->', *[np.ones((4,) * k) for k in (2, 3, 2, 3, 2)]);"
        "tnet.plan('ab,bcd,de,efa,cf->', *[(9,) * k for k in (2, 3, 2, 3, 2)], memory_limit='100KiB');"
        "print([name for name in ('numba', 'torch', 'cotengra') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_seed_gives_one_plan() -> None:
    spec = regular(24, 3, seed=2)
    operands = [x for labels in spec.inputs for x in ((3, 3, 3), list(labels))]
    for planner, seed in itertools.product(("random-greedy", "annealing", "partition", "elimination"), (0, 7)):
        first, second = (
            find_pairs(spec, planner, Timing(time.perf_counter(), None, "float64"), seed=seed) for _ in range(2)
        )
        assert first == second
    assert tnet.plan(*operands, [], rng=3) == tnet.plan(*operands, [], rng=3)


def test_ten_thousand_operands_in_a_row() -> None:
    n = 10_000
    operands: list[object] = [x for k in range(n) for x in ((4, 4), [k, k + 1])]
    plan = tnet.plan(*operands, [0, n])
    assert plan.macs <= n * 4**3


def test_components_share_the_time() -> None:
    first = regular(30, 2)
    n_indices = len(first.sizes)
    shifted = [tuple(i + n_indices for i in labels) for labels in first.inputs]
    operands = [x for labels in (*first.inputs, *shifted) for x in ((2, 2, 2), list(labels))]
    one = [x for labels in first.inputs for x in ((2, 2, 2), list(labels))]
    both = tnet.plan(*operands, [], planner="annealing")
    alone = tnet.plan(*one, [], planner="annealing")
    assert both.macs <= 2 * alone.macs + 1
