import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contraction.networks import networks
from tests.contraction.planners.trees import network_of, random_pairs
from tnet.contraction.pairs import pairwise_macs, result_indices
from tnet.contraction.planners.trees import legs_of_nodes, log2_macs


@given(networks(), st.integers(0, 2**32))
def test_legs_and_cost_are_those_of_the_exact_count(case, seed):
    spec, network = network_of(case)
    array = random_pairs(seed, len(spec.inputs))
    pairs = array.tolist()
    legs = legs_of_nodes(network.legs, network.output, array)
    for row, expected in zip(legs, result_indices(spec, pairs), strict=True):
        found = {int(network.indices[w, b]) for w in range(row.size) for b in range(64) if int(row[w]) >> b & 1}
        assert found == {i for i in expected if spec.sizes[i] > 1}
    sizes = [max(n, 1) for n in spec.sizes]
    if pairs:
        assert log2_macs(network, array) == pytest.approx(math.log2(pairwise_macs(spec, pairs, sizes)))
