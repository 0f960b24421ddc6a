"""Orders of contraction: every one is the same map, the planner's is the best by its own count, gradients."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tnet.contraction.rates import COUNTING, Rates
from tnet.nn.contraction_order import TOKENS, best_order
from tnet.nn.network_map import NetworkMap
from tnet.nn.products import matrix_product


@st.composite
def networks(draw: st.DrawFn) -> tuple[NetworkMap, int]:
    """Two to five cores, joined by bonds of two or of many, each with rows, columns or none."""
    n = draw(st.integers(2, 5))
    axes: list[list[str]] = [[] for _ in range(n)]
    sizes: dict[str, int] = {}
    for k in range(n - 1):  # a tree, so that all are joined
        name = f"b{k}"
        sizes[name] = draw(st.integers(1, 3))
        axes[draw(st.integers(0, k))].append(name)
        axes[k + 1].append(name)
    if draw(st.booleans()):  # one that several have
        sizes["h"] = 2
        for k in draw(st.sets(st.integers(0, n - 1), min_size=2)):
            axes[k].append("h")
    rows, columns = [], []
    for k in range(n):
        for kind, names in (("i", rows), ("j", columns)):
            if draw(st.booleans()) or (k == n - 1 and not names):
                name = f"{kind}{k}"
                sizes[name] = draw(st.integers(1, 3))
                names.append(name)
                axes[k].append(name)
    if draw(st.booleans()):  # a row that two cores share, as in a block tensor train
        axes[0] = [*axes[0], rows[-1]] if rows[-1] not in axes[0] else axes[0]
    order = draw(st.randoms(use_true_random=False))
    for names in axes:
        order.shuffle(names)
    network = NetworkMap(tuple(map(tuple, axes)), tuple(rows), tuple(columns), tuple(sorted(sizes.items())))
    return network, draw(st.sampled_from([0, 1, 2, 7, 64]))


def reference(network: NetworkMap, cores: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    sizes = dict(network.sizes)
    letters = {name: chr(ord("a") + k) for k, name in enumerate(sizes)}
    terms = ["".join(letters[name] for name in names) for names in (*network.indices, network.columns)]
    terms[-1] = "Z" + terms[-1]
    equation = ",".join(terms) + "->Z" + "".join(letters[name] for name in network.rows)
    digits = x.reshape(len(x), *(sizes[name] for name in network.columns))
    y = torch.einsum(equation, *cores, digits)
    return y.reshape(len(x), math.prod(y.shape[1:]))


@settings(max_examples=150, deadline=None)
@given(case=networks())
def test_the_map_is_the_contraction(case):
    network, tokens = case
    sizes = dict(network.sizes)
    torch.manual_seed(0)
    cores = [torch.randn([sizes[name] for name in names], dtype=torch.float64) for names in network.indices]
    x = torch.randn(tokens, math.prod(sizes[name] for name in network.columns), dtype=torch.float64)
    expected = reference(network, cores, x)
    torch.testing.assert_close(network.apply(cores, x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(x @ network.weight(cores).T, expected, rtol=1e-10, atol=1e-12)


def least_macs(indices: list[tuple[str, ...]], output: tuple[str, ...], sizes: dict[str, int]) -> int:
    """Try all orders of pairs."""

    @functools.cache
    def least(parts: frozenset[tuple[int, frozenset[str]]]) -> int:
        if len(parts) == 1:
            return 0
        best = 10**18
        for a, b in itertools.combinations(sorted(parts, key=lambda part: part[0]), 2):
            rest = parts - {a, b}
            needed = set(output).union(*(names for _, names in rest))
            joined = a[0] | b[0], frozenset((a[1] | b[1]) & needed)
            macs = math.prod(sizes[name] for name in a[1] | b[1])
            best = min(best, macs + least(rest | {joined}))
        return best

    return least(frozenset((1 << k, frozenset(names)) for k, names in enumerate(indices)))


@settings(max_examples=60, deadline=None)
@given(case=networks())
def test_counted_by_multiply_adds_the_order_is_the_best_of_all(case):
    network, tokens = case
    sizes = {**dict(network.sizes), TOKENS: max(tokens, 1)}
    indices, output = [*network.indices, (TOKENS, *network.columns)], (TOKENS, *network.rows)
    found = best_order(indices, output, sizes, COUNTING, 1)
    assert found.macs == least_macs(indices, output, sizes)


def test_what_is_dear_decides_the_order():
    network = NetworkMap(
        (("i0", "j0", "r"), ("r", "i1", "j1")),
        ("i0", "i1"),
        ("j0", "j1"),
        (("i0", 8), ("i1", 8), ("j0", 8), ("j1", 8), ("r", 2)),
    )
    sizes = {**dict(network.sizes), TOKENS: 1 << 14}
    indices, output = (*network.indices, (TOKENS, "j0", "j1")), (TOKENS, "i0", "i1")

    def meets_input_first(mac: float, byte: float) -> bool:
        rates = Rates(1e-9, 1e-9, 1e-9, 1e-9, 1e-9, (mac,) * 125, byte, (byte,) * 8, (byte,) * 8)
        first = best_order(indices, output, sizes, rates, 4).steps[0]
        return 2 in (first.left.source, first.right.source)

    assert meets_input_first(mac=1e-9, byte=1e-12)  # by multiply-adds the cores go one by one
    assert not meets_input_first(mac=1e-14, byte=1e-9)  # where copies are dear the small weight is formed first


def test_many_cores_are_joined_pair_by_pair():
    n = 12
    names = [(f"b{k}", f"b{k + 1}") for k in range(n)]
    names[0], names[-1] = ("j", "b1"), (f"b{n - 1}", "i")
    sizes = {f"b{k}": 2 for k in range(1, n)} | {"i": 3, "j": 4}
    network = NetworkMap(tuple(names), ("i",), ("j",), tuple(sorted(sizes.items())))
    cores = [torch.randn([sizes[name] for name in axes], dtype=torch.float64) for axes in names]
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(network.apply(cores, x), x @ functools.reduce(torch.matmul, cores))


def test_gradients_of_one_matrix_times_a_stack():
    left = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    right = torch.randn(5, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(matrix_product, (left, right))
    assert torch.autograd.gradgradcheck(matrix_product, (left, right))


@pytest.mark.parametrize("shape", [(0, 4, 2), (5, 4, 0)])
def test_empty_stacks_have_zero_gradients(shape):
    left = torch.randn(3, 4, requires_grad=True)
    matrix_product(left, torch.randn(shape)).sum().backward()
    assert torch.equal(left.grad, torch.zeros(3, 4))


def test_devices_without_rates_get_an_order():
    network = NetworkMap((("i", "r"), ("r", "j")), ("i",), ("j",), (("i", 4), ("j", 3), ("r", 2)))
    for device in ("meta", "mps", "xpu:0"):
        assert network.order(8, device, torch.float32).macs == network.order(8, "cpu", torch.float32).macs
