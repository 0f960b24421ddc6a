"""Checks of contraction trees that the tests of all planners share."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.contraction.networks import Case
from tnet.contraction.pairs import pairwise_macs
from tnet.contraction.planners.network import PlanningNetwork, planning_network
from tnet.contraction.planners.trees import Tree
from tnet.contraction.spec import ContractionSpec, parse_equation

__all__ = ["check_tree", "grid", "network_of"]


def network_of(case: Case) -> tuple[ContractionSpec, PlanningNetwork]:
    spec = parse_equation(case.equation, case.shapes)
    return spec, planning_network(spec.inputs, spec.output, spec.sizes)


def check_tree(tree: Tree, spec: ContractionSpec) -> None:
    """Each node is used once, after it is made, and the cost is that of the exact count."""
    n = len(spec.inputs)
    assert tree.pairs.dtype == np.int32
    assert tree.pairs.shape == (n - 1, 2)
    assert sorted(tree.pairs.ravel().tolist()) == list(range(2 * n - 2))
    assert (tree.pairs.max(axis=1, initial=-1) < n + np.arange(n - 1)).all()
    if n > 1:
        sizes = [max(size, 1) for size in spec.sizes]
        assert tree.log2_macs == pytest.approx(math.log2(pairwise_macs(spec, tree.pairs.tolist(), sizes)))


def grid(n_rows: int, n_columns: int, size: int = 2) -> Case:
    """Return a closed lattice; labels are letters by the order of the bonds."""
    legs: list[str] = [""] * (n_rows * n_columns)
    n_bonds = 0
    for k in range(n_rows * n_columns):
        for other in [k + 1] * (k % n_columns < n_columns - 1) + [k + n_columns] * (k // n_columns < n_rows - 1):
            label = chr(0x4E00 + n_bonds)
            legs[k] += label
            legs[other] += label
            n_bonds += 1
    return Case(",".join(legs) + "->", tuple((size,) * len(term) for term in legs))
