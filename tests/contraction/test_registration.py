"""tnet's orders by name in opt_einsum and torch, and cotengra's in tnet."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import given, settings

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import register_with_opt_einsum
from tnet.errors import InputError, MissingDependencyError


@given(networks())
@settings(max_examples=40, deadline=None)
def test_opt_einsum_contracts_along_our_path(case: Case) -> None:
    register_with_opt_einsum()
    arrays = case.arrays()
    found = opt_einsum.contract(case.equation, *arrays, optimize="tnet")
    assert np.allclose(found, np.einsum(case.equation, *arrays), rtol=1e-9, atol=1e-9)


def test_the_path_is_that_of_auto() -> None:
    register_with_opt_einsum()
    shapes = [(8, 9, 2), (9, 7), (7, 8, 3), (2, 3)]
    path, _ = opt_einsum.contract_path("abx,bc,cay,xy->", *shapes, shapes=True, optimize="tnet")
    ours = tnet.plan("abx,bc,cay,xy->", *shapes)
    assert opt_einsum.contract_path("abx,bc,cay,xy->", *shapes, shapes=True, optimize=path)[1].opt_cost <= ours.flops


def test_another_name() -> None:
    register_with_opt_einsum("tnet-again")
    register_with_opt_einsum("tnet-again")
    assert opt_einsum.contract("ij,jk->ik", np.eye(2), np.eye(2), optimize="tnet-again")[0, 0] == 1


def test_torch_einsum_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    register_with_opt_einsum()
    if not torch.backends.opt_einsum.is_available():
        pytest.skip("this torch knows no opt_einsum")
    monkeypatch.setattr(torch.backends.opt_einsum, "strategy", "tnet")
    a, b, c = torch.ones(2, 3), torch.ones(3, 4), torch.ones(4, 5)
    assert torch.equal(torch.einsum("ij,jk,kl->il", a, b, c), torch.full((2, 5), 12.0))


def test_paths_do_not_change_with_the_hash_seed() -> None:
    program = (
        "import opt_einsum; from tnet.contraction import register_with_opt_einsum as r; r();"
        "equation, shapes = 'abc,cde,efa,bdf,fgh,gha->', [(2, 2, 2)] * 6;"
        "print(opt_einsum.contract_path(equation, *shapes, shapes=True, optimize='tnet')[0])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


@given(networks())
@settings(max_examples=15, deadline=None)
def test_orders_of_cotengra(case: Case) -> None:
    pytest.importorskip("cotengra")
    arrays = case.arrays()
    plan = tnet.plan(case.equation, *case.shapes, planner="cotengra:greedy")
    assert plan.planner == "cotengra:greedy"
    assert np.allclose(plan(*arrays), np.einsum(case.equation, *arrays), rtol=1e-9, atol=1e-9)


def test_cotengra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cotengra", None)
    with pytest.raises(MissingDependencyError, match="pip install cotengra"):
        tnet.plan("ij,jk,kl->il", (2, 7), (7, 4), (4, 5), planner="cotengra:auto")


@pytest.mark.parametrize(("name", "reason"), [("greedy", "taken"), ("Greedy", "taken"), (None, "give text")])
def test_names_that_opt_einsum_cannot_take_are_refused(name: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        register_with_opt_einsum(name)
