from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnet.compression.allocation import Choice
from tnet.compression.catalogue import (
    CANDIDATES,
    Problem,
    build_sites,
    check_kinds,
    choose_shrinkage,
    interpolative_rank,
    metric_of,
    probe_groups,
)
from tnet.compression.fitting import fit
from tnet.compression.moments import Moments
from tnet.compression.targets import Target
from tnet.compression.whitening import Shrinkage, kronecker_loss
from tnet.errors import InputError

N = 12
ROWS = {"q": 12, "k": 6, "v": 6, "o": 12, "down": 30}
GROUPS = (("q", "k", "v"), ("o",), ("down",))


def data(samples: int, seed: int) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    moments = Moments(n_units=samples)
    scale = torch.logspace(0, -2, N)
    for group in GROUPS:
        x = torch.randn(samples, N, generator=generator) * scale
        moments.inputs[group[0]], moments.means[group[0]] = x.T @ x, x.sum(0)
        moments.n_rows[group[0]] = torch.tensor(float(samples))
    for name, m in ROWS.items():
        g = torch.randn(samples, m, generator=generator) * torch.logspace(0, -1, m)
        moments.outputs[name] = g.T @ g
    return moments


@pytest.fixture
def problem() -> Problem:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(m, N, generator=generator) for name, m in ROWS.items()}
    return Problem({name: Target(name, 0, m, N, False, False) for name, m in ROWS.items()}, GROUPS, weights, 2)


def sites_of(problem: Problem, kinds, **options):
    return build_sites(problem, data(300, 1), Shrinkage(), kinds, **options)


def test_every_entry_states_the_loss_of_what_is_built(problem):
    moments = data(300, 1)
    seen = set()
    for site, group in zip(build_sites(problem, moments, Shrinkage(), CANDIDATES), GROUPS, strict=True):
        metric = metric_of(problem, moments, group, group, Shrinkage())
        rows = dict(zip(group, metric.rows, strict=True))
        for menu in (*site.separate, *((site.joint,) if site.joint is not None else ())):
            for i, kind in enumerate(menu.kinds):
                seen.add(kind)
                if kind == "dense":
                    assert menu.loss[i] == 0.0
                    continue
                from_menu = pick(menu, i)
                weights = {name: problem.weights[name] for name in menu.members}
                biases = dict.fromkeys(menu.members)
                built = fit(problem, moments, Shrinkage(), group, from_menu, biases, weights)
                loss = sum(
                    kronecker_loss(problem.weights[name] - layer.weight.detach(), rows[name], metric.column)
                    for name, layer in zip(menu.members, built.stand_ins(), strict=True)
                )
                assert menu.loss[i] == pytest.approx(loss, rel=1e-4, abs=1e-7), (menu.members, kind, menu.ranks[i])
    assert seen == set(CANDIDATES)


def pick(menu, i: int):
    return Choice(menu.members, menu.kinds[i], menu.ranks[i], 0, 0, 0, 0.0)


def test_only_groups_have_a_joint_menu_and_groups_are_told(problem):
    told = []
    sites = sites_of(problem, ("dense", "interpolative", "shared"), on_group=told.append)
    assert told == list(GROUPS)
    assert [site.members for site in sites] == list(GROUPS)
    assert [site.joint is not None for site in sites] == [True, False, False]
    assert all(site.joint is None for site in sites_of(problem, ("dense", "interpolative")))


def test_kinds_limit_the_menus(problem):
    for kinds in (("dense",), ("dense", "interpolative"), ("mpo",)):
        for site in sites_of(problem, kinds):
            assert {kind for menu in site.separate for kind in menu.kinds} == set(kinds)
    shared = sites_of(problem, ("shared",))
    assert {kind for site in shared for menu in site.separate for kind in menu.kinds} == {"dense"}
    assert set(shared[0].joint.kinds) == {"shared"}


def test_probes_decide_once_for_each_shape(problem):
    verdicts: dict[tuple[int, ...], bool] = {}
    sites = sites_of(problem, "auto", verdicts=verdicts)
    assert verdicts.keys() == {(12, 12), (6, 12), (30, 12)}
    for site in sites:
        for menu in site.separate:
            shape = (ROWS[menu.members[0]], N)
            assert ("mpo" in menu.kinds) == verdicts[shape]
    for answer in (True, False):
        told = dict.fromkeys(verdicts, answer)
        again = sites_of(problem, "auto", verdicts=told)
        assert all(("mpo" in menu.kinds) == answer for site in again for menu in site.separate)
        assert told == dict.fromkeys(verdicts, answer)


def test_a_layer_that_no_kind_fits_is_named():
    targets = {"thin": Target("thin", 0, 1, 3, False, False)}
    moments = Moments(
        inputs={"thin": torch.eye(3)}, means={"thin": torch.zeros(3)}, n_rows={"thin": torch.tensor(1.0)}, n_units=1
    )
    thin = Problem(targets, (("thin",),), {"thin": torch.ones(1, 3)}, 2)
    with pytest.raises(InputError, match=r"leaves nothing for thin of shape \(1, 3\).*'dense'"):
        build_sites(thin, moments, Shrinkage(), ("interpolative",))


def test_kinds_are_checked():
    assert check_kinds("auto") == CANDIDATES
    assert check_kinds("mpo") == ("mpo",)
    assert check_kinds(kind for kind in ("shared", "dense")) == ("shared", "dense")
    for wrong in ("tucker", ("dense", "tucker"), ()):
        with pytest.raises(InputError, match=r"candidates=.*dense, interpolative, shared, mpo"):
            check_kinds(wrong)


@given(m=st.integers(2, 300), n=st.integers(2, 300), ratio=st.floats(0.01, 1.0))
def test_rank_of_a_ratio_is_the_largest_that_fits(m, n, ratio):
    rank = interpolative_rank(m, n, ratio)
    assert 1 <= rank <= min(m, n) - 1
    slack = 1e-9 * m * n
    assert rank * (m + n - rank) <= ratio * m * n + slack or rank == 1
    if rank < min(m, n) - 1:
        assert (rank + 1) * (m + n - rank - 1) > ratio * m * n - slack


@given(count=st.integers(1, 60))
def test_probes_are_spread_over_the_depth(count):
    groups = tuple((f"{i}.q", f"{i}.k") for i in range(count))
    probes = probe_groups(groups)
    assert len(probes) == min(count, 6)
    assert all(len(group) == 1 for group in probes)
    assert probes[0] == ("0.q",)
    assert probes[-1] == (f"{count - 1}.q",)


def test_few_samples_ask_for_more_shrinkage_and_many_for_less(problem):
    validation = data(2000, 9)
    few = choose_shrinkage(problem, data(14, 2), validation, 0.5)
    many = choose_shrinkage(problem, data(2000, 3), validation, 0.5)
    assert few.inputs >= many.inputs
    assert few.outputs > many.outputs
    assert many.inputs <= 1e-3


def test_forward_only_moments_choose_for_the_inputs_alone(problem):
    moments, validation = data(100, 2), data(100, 9)
    moments.outputs.clear()
    validation.outputs.clear()
    assert choose_shrinkage(problem, moments, validation, 0.5).outputs == Shrinkage().outputs


def test_losses_fall_with_the_elements(problem):
    for site in sites_of(problem, ("interpolative", "shared")):
        for menu in (*site.separate, *((site.joint,) if site.joint is not None else ())):
            assert (np.diff(menu.n_params) > 0).all()
            assert (np.diff(menu.loss) <= 0).all()
