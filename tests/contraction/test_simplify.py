"""Steps taken before planning: any network stays the same network, and nothing grows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

from tests.contraction.networks import Case, networks
from tnet.contraction.pairs import pairwise_macs, result_indices
from tnet.contraction.simplify import Simplified, join_components, simplify
from tnet.contraction.spec import ContractionSpec, parse_equation


def spec_of(equation: str, **sizes: int) -> ContractionSpec:
    terms = equation.partition("->")[0].split(",")
    return parse_equation(equation, tuple(tuple(sizes.get(label, 2) for label in term) for term in terms))


def finish(spec: ContractionSpec, simplified: Simplified) -> tuple[tuple[int, int], ...]:
    """Contract what is left from left to right."""
    pairs = list(simplified.pairs)
    results = []
    for part in simplified.components:
        node, *others = part.nodes
        for other in others:
            pairs.append((min(node, other), max(node, other)))
            node = len(spec.inputs) + len(pairs) - 1
        results.append(node)
    n_nodes = len(spec.inputs) + len(pairs)
    return (*pairs, *join_components(simplified.components, results, spec.sizes, n_nodes))


@given(networks(max_operands=8))
@settings(max_examples=150, deadline=None)
def test_the_steps_contract_every_operand_once(case: Case) -> None:
    spec = parse_equation(case.equation, case.shapes)
    pairs = finish(spec, simplify(spec))
    n = len(spec.inputs)
    assert len(pairs) == n - 1
    assert sorted(node for pair in pairs for node in pair) == list(range(2 * n - 2))
    assert all(a < b < n + k for k, (a, b) in enumerate(pairs))
    assert set(result_indices(spec, pairs)[-1]) == set(spec.output) or n == 1


@given(networks(max_operands=8))
@settings(max_examples=150, deadline=None)
def test_no_step_makes_anything_larger(case: Case) -> None:
    spec = parse_equation(case.equation, case.shapes)
    simplified = simplify(spec)
    sizes = [max(size, 1) for size in spec.sizes]
    sets = result_indices(spec, (*simplified.pairs,))
    size = [math.prod(sizes[i] for i in indices) for indices in sets]
    for k, (a, b) in enumerate(simplified.pairs):
        assert size[len(spec.inputs) + k] <= max(size[a], size[b])


@given(networks(max_operands=8))
@settings(max_examples=100, deadline=None)
def test_components_share_no_index_but_common_ones(case: Case) -> None:
    spec = parse_equation(case.equation, case.shapes)
    simplified = simplify(spec)
    seen: set[int] = set()
    for part in simplified.components:
        indices = frozenset().union(*part.legs)
        assert not indices & seen
        assert len(part.nodes) == 1 or not frozenset.intersection(*part.legs)
        assert part.output <= indices
        assert all(spec.sizes[i] > 1 for i in indices)
        seen |= indices
    nodes = [node for part in simplified.components for node in part.nodes]
    assert len(nodes) + len(simplified.pairs) == len(spec.inputs)


@pytest.mark.parametrize(
    ("equation", "sizes", "n_steps", "n_components"),
    [
        ("ab,b,bc,c->a", {}, 3, 1),  # vectors vanish
        ("abc,abc,abc->", {}, 2, 1),  # equal index sets
        ("abcxy,bc,axefg,yghi->efhi", {}, 1, 1),  # a part of an operand's indices
        (",ab,,bcdx,dae,xyz->ceyz", {}, 3, 1),  # numbers, then a matrix
        ("abc,cde,eaf->bdf", {}, 0, 1),  # nothing to do
        ("abc,def->abcdef", {}, 0, 2),  # two components
        ("abxy,cdxy->abcdxy", {}, 0, 2),  # apart from what both carry
        ("xab,xbc,xca->x", {}, 2, 1),  # matrices of a batch
        ("abk,bck,cak->", {"k": 1}, 2, 1),  # size 1 does not count
        ("ab,bcde,cdf->aef", {"a": 8}, 0, 1),  # the result would be larger
        ("ab,bcde,cdf->aef", {"b": 8}, 1, 2),  # then two operands share c and d
    ],
)
def test_what_is_taken_and_what_is_left(
    equation: str, sizes: dict[str, int], n_steps: int, n_components: int
) -> None:
    simplified = simplify(spec_of(equation, **sizes))
    assert len(simplified.pairs) == n_steps
    assert len(simplified.components) == n_components


def test_vectors_come_before_matrices() -> None:
    n = 20
    inputs = tuple((k, k + 1) for k in range(n))
    spec = ContractionSpec((*inputs, (n,)), (0,), (16,) * (n + 1), tuple(map(str, range(n + 1))))
    assert pairwise_macs(spec, simplify(spec).pairs) == n * 16**2


def test_components_join_smallest_first() -> None:
    spec = spec_of("abc,d,ef->abcdef", a=9, b=9, c=9, d=3, e=2, f=2)
    pairs = finish(spec, simplify(spec))
    assert pairs[0] == (1, 2)


@pytest.mark.parametrize("n_indices", [1, 2])
def test_thousands_of_equal_operands_are_merged_in_order(n_indices: int) -> None:
    indices = tuple(range(n_indices))
    spec = ContractionSpec((indices,) * 3000, indices, (4,) * n_indices, tuple("ab"[:n_indices]))
    assert len(simplify(spec).pairs) == 2999


def test_a_long_chain_is_taken_whole() -> None:
    n = 5000
    inputs = tuple((k, k + 1) for k in range(n))
    sizes = tuple(int(size) for size in np.random.default_rng(0).integers(2, 9, n + 1))
    spec = ContractionSpec(inputs, (0, n), sizes, tuple(map(str, range(n + 1))))
    assert len(simplify(spec).pairs) == n - 2  # two are left, which share one index
