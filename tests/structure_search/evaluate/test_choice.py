"""The solver of a search: trees by SVD, then by a few sweeps where these decide; the rest by least squares."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tnet.structure_search.evaluate.als import ALS
from tnet.structure_search.evaluate.choice import BySituation
from tnet.structure_search.evaluate.tree_svd import TreeSVD
from tnet.structure_search.losses import DifferentiableLoss, MaskedError, SquaredError
from tnet.structure_search.proposals import Start
from tnet.structure_search.structure import Structure

SHAPE = (4, 4, 4, 4)
CHAIN = Structure(SHAPE, ((0, 1, 2), (1, 2, 2), (2, 3, 2)))
RING = Structure(SHAPE, ((0, 1, 2), (0, 3, 2), (1, 2, 2), (2, 3, 2)))
X = np.random.default_rng(0).standard_normal(SHAPE)


def solve(*starts, x=X, loss=SquaredError()):  # noqa: B008
    return BySituation(als=ALS(n_starts=4)).solve(x, loss, starts)


def test_trees_and_rings_come_back_in_their_order():
    by_svd = TreeSVD().solve(X, SquaredError(), [Start(CHAIN, 0)])[0]
    ring, chain, nothing = solve(Start(RING, 0), Start(CHAIN, 0), Start(Structure(SHAPE), 0))
    assert [found.structure for found in (ring, chain, nothing)] == [RING, CHAIN, Structure(SHAPE)]
    assert chain.rse == pytest.approx(by_svd.rse)
    assert ring.rse < chain.rse < nothing.rse
    assert chain.n_sweeps == by_svd.n_sweeps
    assert ring.n_sweeps > chain.n_sweeps


@pytest.mark.parametrize("goal", ["target", "beat"])
def test_a_few_sweeps_bring_a_tree_to_what_counts(goal):
    by_svd = TreeSVD().solve(X, SquaredError(), [Start(CHAIN, 0)])[0]
    (near,) = solve(Start(CHAIN, 0, **{goal: by_svd.rse / 1.001}))
    assert near.n_sweeps > by_svd.n_sweeps
    assert near.rse < by_svd.rse
    for far in (by_svd.rse / 2, -1.0) if goal == "beat" else (by_svd.rse / 2, by_svd.rse):
        (found,) = solve(Start(CHAIN, 0, **{goal: far}))
        assert found.n_sweeps == by_svd.n_sweeps
        assert found.rse == pytest.approx(by_svd.rse)


def test_other_losses_go_to_their_solvers():
    mask = np.random.default_rng(1).random(SHAPE) < 0.7
    (masked,) = solve(Start(CHAIN, 0), loss=MaskedError(mask))
    dense = CHAIN.to_network(masked.cores).to_dense()
    assert masked.rse == pytest.approx(np.sum((mask * (X - dense)) ** 2) / np.sum((mask * X) ** 2))
    torch = pytest.importorskip("torch")
    x = torch.asarray(X)
    (found,) = solve(Start(CHAIN, 0), x=x, loss=DifferentiableLoss(lambda y: torch.mean((y - x) ** 4)))
    assert math.isfinite(found.rse)
